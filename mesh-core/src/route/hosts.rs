//! Which virtual host takes an authority: an exact domain, else the longest suffix, else the longest prefix, else `*`.

use super::hash::folded;
use crate::config::{Domain, VirtualHost};

/// The domains of all virtual hosts in one hash table with open addressing, never more than half full.
#[derive(Debug)]
pub(super) struct HostIndex {
    slots: Box<[Slot]>,
    domains: Vec<Claim>,
    /// The lengths that suffixes have, longest first.
    suffixes: Vec<usize>,
    /// The lengths that prefixes have, longest first.
    prefixes: Vec<usize>,
    /// Which of `domains` is `*`.
    any: Option<usize>,
    ignore_port: bool,
}

/// A domain and the virtual host that it belongs to.
#[derive(Debug)]
pub(super) struct Claim {
    domain: Domain,
    host: usize,
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
}

// === impl HostIndex ===

impl HostIndex {
    /// An index with room for so many domains, and none yet.
    pub(super) fn for_domains(count: usize, ignore_port: bool) -> Self {
        Self {
            slots: vec![Slot { tag: 0, claim: FREE }; (count * 2).next_power_of_two()].into(),
            domains: Vec::with_capacity(count),
            suffixes: Vec::new(),
            prefixes: Vec::new(),
            any: None,
            ignore_port,
        }
    }

    /// Adds the domains of the virtual host that is counted as `host`.
    pub(super) fn add(&mut self, host: usize, virtual_host: &VirtualHost) {
        for domain in virtual_host.domains() {
            let claim = self.domains.len();
            match key(domain) {
                None => self.any = self.any.or(Some(claim)),
                Some((kind, text)) => self.file(kind, text, claim),
            }
            self.domains.push(Claim { domain: domain.clone(), host });
        }
    }

    fn file(&mut self, kind: Kind, text: &[u8], claim: usize) {
        match kind {
            Kind::Exact => {}
            Kind::Suffix => note(&mut self.suffixes, text.len()),
            Kind::Prefix => note(&mut self.prefixes, text.len()),
        }
        let (hash, mask) = (folded(kind as u64, text), self.slots.len() - 1);
        let mut at = hash as usize & mask;
        while self.slots[at].claim != FREE {
            at = (at + 1) & mask;
        }
        let claim = u32::try_from(claim).expect("a configuration has fewer than 2^32 domains");
        self.slots[at] = Slot { tag: tag(hash), claim };
    }

    /// The domains, in the order in which they were added.
    pub(super) fn into_claims(self) -> impl Iterator<Item = Claim> {
        self.domains.into_iter()
    }

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
                let claim = &self.domains[slot.claim as usize];
                if claim.is(kind, text) {
                    return Some(claim);
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn any(&self) -> Option<&Claim> {
        self.any.map(|claim| &self.domains[claim])
    }
}

/// Notes a length, longest first.
fn note(lengths: &mut Vec<usize>, length: usize) {
    if let Err(place) = lengths.binary_search_by(|known| length.cmp(known)) {
        lengths.insert(place, length);
    }
}

/// The half of a hash that does not pick the slot.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn key(domain: &Domain) -> Option<(Kind, &[u8])> {
    match domain {
        Domain::Exact(text) => Some((Kind::Exact, text.as_bytes())),
        Domain::Suffix(text) => Some((Kind::Suffix, text.as_bytes())),
        Domain::Prefix(text) => Some((Kind::Prefix, text.as_bytes())),
        Domain::Any => None,
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
    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Index of the virtual host.
    pub(super) fn host(&self) -> usize {
        self.host
    }

    fn is(&self, kind: Kind, text: &[u8]) -> bool {
        key(&self.domain).is_some_and(|(own, domain)| own == kind && domain.eq_ignore_ascii_case(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One virtual host for each domain.
    fn index(domains: &[&str], ignore_port: bool) -> HostIndex {
        let host = |domain: &&str| {
            let domain = Domain::parse(domain).expect("a legal domain");
            VirtualHost::new(domain.to_string(), vec![domain], vec![]).expect("one domain")
        };
        let mut index = HostIndex::for_domains(domains.len(), ignore_port);
        domains.iter().map(host).enumerate().for_each(|(number, host)| index.add(number, &host));
        index
    }

    fn found(index: &HostIndex, authority: &str) -> Option<String> {
        index.find(authority).map(|claim| claim.domain().to_string())
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
            assert_eq!(index.find(domain).map(Claim::host), Some(n));
            assert_eq!(found(&index, &format!("{domain}s")), None);
        }
    }
}
