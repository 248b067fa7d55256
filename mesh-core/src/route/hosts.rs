//! Which virtual host takes an authority: an exact domain, else the longest suffix, else the longest prefix, else `*`.

use std::{cmp::Reverse, collections::BTreeSet, mem, sync::Arc};

use super::hash::folded;
use crate::config::{Domain, VirtualHost};

/// The domains of all virtual hosts in one hash table with open addressing, never more than half full.
///
/// A clone shares everything. The texts lie side by side, so that making and dropping many is no matter of as many allocations.
#[derive(Clone, Debug)]
pub(super) struct HostIndex {
    slots: Arc<[Slot]>,
    claims: Arc<[Claim]>,
    texts: Arc<[u8]>,
    /// The lengths that suffixes have, longest first.
    suffixes: Arc<[usize]>,
    /// The lengths that prefixes have, longest first.
    prefixes: Arc<[usize]>,
    /// Which of `claims` is `*`.
    any: Option<usize>,
    ignore_port: bool,
}

/// A [`HostIndex`] on its way, one virtual host after the other.
#[derive(Debug)]
pub(super) struct Indexing {
    slots: Box<[Slot]>,
    claims: Vec<Claim>,
    texts: Vec<u8>,
    suffixes: BTreeSet<Reverse<usize>>,
    prefixes: BTreeSet<Reverse<usize>>,
    any: Option<usize>,
    /// How many virtual hosts are in it.
    hosts: u32,
}

/// A domain, and the virtual host that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// Where its text stands.
    start: u32,
    end: u32,
    kind: Kind,
    host: u32,
    /// Which of that virtual host's domains it is.
    domain: u32,
}

/// Eight bytes, so that a probe seldom leaves its cache line; the tag spares nearly every look at a domain that is another.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    /// Index of a claim, or [`FREE`].
    claim: u32,
}

const FREE: u32 = u32::MAX;

/// What of a domain is looked up; it is hashed along, so that `a.*` and `a.` share no slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exact,
    Suffix,
    Prefix,
    /// Every host, and never looked up.
    Any,
}

// === impl HostIndex ===

impl HostIndex {
    /// The domain that takes `authority`; an empty one is taken by `*` alone.
    pub(super) fn find(&self, authority: &str) -> Option<&Claim> {
        let host = if self.ignore_port { without_port(authority) } else { authority }.as_bytes();
        if host.is_empty() {
            return self.any();
        }
        self.look_up(Kind::Exact, host)
            .or_else(|| self.longest(Kind::Suffix, &self.suffixes, host, |length| &host[host.len() - length..]))
            .or_else(|| self.longest(Kind::Prefix, &self.prefixes, host, |length| &host[..length]))
            .or_else(|| self.any())
    }

    /// The longest wildcard that leaves at least one character of `host` to its star.
    fn longest<'a>(
        &self,
        kind: Kind,
        lengths: &[usize],
        host: &'a [u8],
        part: impl Fn(usize) -> &'a [u8],
    ) -> Option<&Claim> {
        let shorter = lengths.iter().skip_while(|length| **length >= host.len());
        shorter.into_iter().find_map(|length| self.look_up(kind, part(*length)))
    }

    fn look_up(&self, kind: Kind, text: &[u8]) -> Option<&Claim> {
        let hash = folded(kind as u64, text);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        // Ends, since half of the slots are free.
        loop {
            let slot = self.slots[at];
            if slot.claim == FREE {
                return None;
            }
            if slot.tag == tag(hash) {
                let claim = &self.claims[slot.claim as usize];
                if claim.kind == kind && self.text(claim).eq_ignore_ascii_case(text) {
                    return Some(claim);
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn any(&self) -> Option<&Claim> {
        self.any.map(|claim| &self.claims[claim])
    }

    fn text(&self, claim: &Claim) -> &[u8] {
        &self.texts[claim.start as usize..claim.end as usize]
    }

    pub(super) fn ignores_port(&self) -> bool {
        self.ignore_port
    }
}

// === impl Indexing ===

impl Indexing {
    /// Begins an index of this many domains.
    pub(super) fn new(domains: usize) -> Self {
        Self {
            slots: vec![Slot { tag: 0, claim: FREE }; (domains * 2).next_power_of_two()].into(),
            claims: Vec::with_capacity(domains),
            texts: Vec::new(),
            suffixes: BTreeSet::new(),
            prefixes: BTreeSet::new(),
            any: None,
            hosts: 0,
        }
    }

    /// Adds the next virtual host.
    pub(super) fn add(&mut self, host: &VirtualHost) {
        for (place, domain) in host.domains().iter().enumerate() {
            let (kind, text) = key(domain);
            let start = self.texts.len();
            self.texts.extend_from_slice(text);
            match kind {
                Kind::Exact => {}
                Kind::Suffix => _ = self.suffixes.insert(Reverse(text.len())),
                Kind::Prefix => _ = self.prefixes.insert(Reverse(text.len())),
                Kind::Any => self.any = Some(self.claims.len()),
            }
            if kind != Kind::Any {
                self.occupy(folded(kind as u64, text));
            }
            let (start, end) = (narrow(start), narrow(self.texts.len()));
            self.claims.push(Claim { start, end, kind, host: self.hosts, domain: narrow(place) });
        }
        self.hosts += 1;
    }

    /// Has the next claim be found by this hash.
    fn occupy(&mut self, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].claim != FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { tag: tag(hash), claim: narrow(self.claims.len()) };
    }

    pub(super) fn finish(&mut self, ignore_port: bool) -> HostIndex {
        let lengths = |lengths: &BTreeSet<Reverse<usize>>| lengths.iter().map(|Reverse(length)| *length).collect();
        HostIndex {
            slots: mem::take(&mut self.slots).into(),
            claims: mem::take(&mut self.claims).into(),
            texts: mem::take(&mut self.texts).into(),
            suffixes: lengths(&self.suffixes),
            prefixes: lengths(&self.prefixes),
            any: self.any,
            ignore_port,
        }
    }
}

fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("the domains of a configuration take less than 4 GiB")
}

/// The half of a hash that does not pick the slot.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn key(domain: &Domain) -> (Kind, &[u8]) {
    match domain {
        Domain::Exact(text) => (Kind::Exact, text.as_bytes()),
        Domain::Suffix(text) => (Kind::Suffix, text.as_bytes()),
        Domain::Prefix(text) => (Kind::Prefix, text.as_bytes()),
        Domain::Any => (Kind::Any, &[]),
    }
}

/// `authority` without what follows its last colon, unless that colon is inside the brackets of an IPv6 address.
fn without_port(authority: &str) -> &str {
    // Byte by byte, as in `RequestHead`: it is near the end.
    match authority.bytes().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if authority.as_bytes()[at] == b':' => &authority[..at],
        _ => authority,
    }
}

// === impl Claim ===

impl Claim {
    /// Index of the virtual host.
    pub(super) fn host(&self) -> usize {
        self.host as usize
    }

    /// Index of the domain among those of the virtual host.
    pub(super) fn domain(&self) -> usize {
        self.domain as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One virtual host for each domain, and the domains.
    struct Indexed(HostIndex, Vec<Domain>);

    fn index(domains: &[&str], ignore_port: bool) -> Indexed {
        let domains: Vec<_> = domains.iter().map(|domain| Domain::parse(domain).expect("a legal domain")).collect();
        let mut indexing = Indexing::new(domains.len());
        for domain in &domains {
            indexing.add(&VirtualHost::new(domain.to_string(), vec![domain.clone()], vec![]).expect("one domain"));
        }
        Indexed(indexing.finish(ignore_port), domains)
    }

    fn found(Indexed(index, domains): &Indexed, authority: &str) -> Option<String> {
        index.find(authority).map(|claim| domains[claim.host()].to_string())
    }

    #[test]
    fn exact_wins_over_suffix_over_prefix_over_any() {
        let index = index(&["*", "www.*", "*.foo.com", "www.foo.com"], false);
        for (authority, domain) in [
            ("www.foo.com", "www.foo.com"),
            ("api.foo.com", "*.foo.com"),
            ("www.foo.org", "www.*"),
            ("www.bar.foo.com", "*.foo.com"),
            ("bar.org", "*"),
        ] {
            assert_eq!(found(&index, authority).as_deref(), Some(domain), "{authority}");
        }
    }

    #[test]
    fn longest_wildcard_of_a_kind_wins() {
        let index = index(&["*.com", "*.bar.com", "*-bar.com", "a.*", "a.b.*"], false);
        for (authority, domain) in
            [("x.bar.com", "*.bar.com"), ("x-bar.com", "*-bar.com"), ("x.y.com", "*.com"), ("a.b.c", "a.b.*")]
        {
            assert_eq!(found(&index, authority).as_deref(), Some(domain), "{authority}");
        }
    }

    #[test]
    fn wildcard_consumes_at_least_one_character() {
        let index = index(&["*.foo.com", "foo.*"], false);
        assert_eq!(found(&index, ".foo.com"), None);
        assert_eq!(found(&index, "foo."), None);
        assert_eq!(found(&index, "a.foo.com").as_deref(), Some("*.foo.com"));
        assert_eq!(found(&index, "foo.c").as_deref(), Some("foo.*"));
    }

    #[test]
    fn case_of_the_authority_does_not_count() {
        let index = index(&["Shop.Example.COM", "*.Example.com"], false);
        assert_eq!(found(&index, "SHOP.example.com").as_deref(), Some("shop.example.com"));
        assert_eq!(found(&index, "a.EXAMPLE.com").as_deref(), Some("*.example.com"));
    }

    #[test]
    fn port_belongs_to_the_host_unless_it_is_ignored() {
        let kept = index(&["shop", "shop:80"], false);
        assert_eq!(found(&kept, "shop:80").as_deref(), Some("shop:80"));
        assert_eq!(found(&kept, "shop:81"), None);
        let ignored = index(&["shop", "[::1]"], true);
        for (authority, domain) in [("shop:81", "shop"), ("shop", "shop"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(found(&ignored, authority).as_deref(), Some(domain), "{authority}");
        }
    }

    #[test]
    fn empty_authority_is_taken_by_any_alone() {
        assert_eq!(found(&index(&["*a", "a*", "a"], false), ""), None);
        assert_eq!(found(&index(&["a", "*"], false), "").as_deref(), Some("*"));
        assert_eq!(found(&index(&["a", "*"], true), ":80").as_deref(), Some("*"));
    }

    #[test]
    fn every_domain_of_a_full_table_is_found_and_no_other() {
        let domains: Vec<String> = (0..5_000).map(|n| format!("svc-{n}.shop")).collect();
        let index = index(&domains.iter().map(String::as_str).collect::<Vec<_>>(), false);
        for (n, domain) in domains.iter().enumerate() {
            assert_eq!(index.0.find(domain).map(Claim::host), Some(n));
            assert_eq!(found(&index, &format!("{domain}s")), None);
        }
    }
}
