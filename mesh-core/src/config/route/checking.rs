//! Checks that no two virtual hosts of a configuration have one name or one domain, in as many steps as its owner likes.

use std::{
    collections::{HashSet, hash_set},
    hash::{Hash, Hasher},
    mem,
    sync::Arc,
};

use super::{Domain, RouteConfig, VirtualHost};
use crate::{
    config::{ConfigError, HeaderMutations},
    former::Former,
};

/// A [`RouteConfig`] whose virtual hosts are being checked against each other, for those who have other things to do in
/// between.
#[derive(Debug)]
#[must_use = "a configuration is there when it is finished"]
pub struct Checking {
    name: Arc<str>,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    /// How many of them are checked.
    checked: usize,
    /// The version before, as long as it has all that was looked at: what was checked there need not be again.
    former: Option<(Arc<RouteConfig>, Former)>,
    names: HashSet<Arc<str>>,
    claims: HashSet<Claim>,
    /// The same, on their way out when nothing is left to check.
    spent: Option<(hash_set::IntoIter<Arc<str>>, hash_set::IntoIter<Claim>)>,
}

/// A domain of a virtual host, by its place there.
#[derive(Debug)]
struct Claim {
    host: Arc<VirtualHost>,
    place: usize,
}

/// How many names and domains are let go of in a step.
const DROPPED: usize = 8;

// === impl Checking ===

impl Checking {
    pub(super) fn new(name: Arc<str>, virtual_hosts: Vec<Arc<VirtualHost>>, former: Option<Arc<RouteConfig>>) -> Self {
        let mut checking = Self {
            name,
            virtual_hosts,
            checked: 0,
            former: former.map(|former| (former, Former::default())),
            names: HashSet::new(),
            claims: HashSet::new(),
            spent: None,
        };
        if checking.former.is_none() {
            checking.make_room();
        }
        checking
    }

    /// Checks so many virtual hosts more. Returns whether that was the last of them.
    ///
    /// # Errors
    ///
    /// As [`RouteConfig::new`].
    pub fn advance(&mut self, most: usize) -> Result<bool, ConfigError> {
        for _ in 0..most {
            let Some(host) = self.virtual_hosts.get(self.checked) else {
                if self.let_go_of_some() {
                    continue;
                }
                return Ok(true);
            };
            let Some((former, way)) = &mut self.former else {
                self.compare()?;
                self.checked += 1;
                continue;
            };
            let former = &former.virtual_hosts;
            let has_place = |at: usize| Arc::ptr_eq(&former[at], host) || former[at].claims_the_same_as(host);
            if way.find(former.len(), has_place).is_some() {
                self.checked += 1;
            } else {
                // This one may claim what any other does, so all have to be looked at.
                (self.former, self.checked) = (None, 0);
                self.make_room();
            }
        }
        Ok(false)
    }

    /// The configuration, which says nothing yet but its virtual hosts.
    ///
    /// # Panics
    ///
    /// When [`advance`](Self::advance) has not told that there is none left.
    pub fn finish(self) -> RouteConfig {
        assert_eq!(self.checked, self.virtual_hosts.len(), "it is finished when `advance` has returned true");
        RouteConfig {
            name: self.name,
            virtual_hosts: self.virtual_hosts,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            most_specific_mutations_win: false,
            ignore_port: false,
        }
    }

    /// Drops what some virtual hosts were compared by, which costs as much as to compare one. Returns whether there were any.
    fn let_go_of_some(&mut self) -> bool {
        let Self { names, claims, spent, .. } = self;
        let (names, claims) =
            spent.get_or_insert_with(|| (mem::take(names).into_iter(), mem::take(claims).into_iter()));
        names.by_ref().take(DROPPED).count() + claims.by_ref().take(DROPPED).count() > 0
    }

    /// All of it at once: a set that grows is made anew each time.
    fn make_room(&mut self) {
        self.names.reserve(self.virtual_hosts.len());
        self.claims.reserve(self.virtual_hosts.iter().map(|host| host.domains.len()).sum());
    }

    /// Compares the next virtual host with those before it.
    fn compare(&mut self) -> Result<(), ConfigError> {
        let (index, host) = (self.checked, &self.virtual_hosts[self.checked]);
        let field = |name: &str| format!("virtual_hosts[{index}].{name}");
        if !self.names.insert(host.name.clone()) {
            return Err(ConfigError::new(field("name"), &host.name, "name each virtual host once"));
        }
        for (place, domain) in host.domains.iter().enumerate() {
            if !self.claims.insert(Claim { host: host.clone(), place }) {
                return Err(ConfigError::new(field("domains"), domain, "list a domain in one virtual host only"));
            }
        }
        Ok(())
    }
}

// === impl Claim ===

impl Claim {
    fn domain(&self) -> &Domain {
        &self.host.domains[self.place]
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.domain() == other.domain()
    }
}

impl Eq for Claim {}

impl Hash for Claim {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.domain().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_in_two_virtual_hosts_is_refused() {
        let host = |name: &str| VirtualHost::any(name, vec![]);
        let error = RouteConfig::new("r", vec![host("a"), host("b")]).expect_err("`*` twice");
        assert_eq!((error.field(), error.value()), ("virtual_hosts[1].domains", "*"));
    }

    /// Reads the letters as virtual hosts of these names and of one domain each, in capitals of two.
    fn hosts(letters: &str) -> Vec<Arc<VirtualHost>> {
        let domains = |letter: char| {
            let names =
                if letter.is_uppercase() { vec![letter.to_string(), "x".to_owned()] } else { vec![letter.into()] };
            names.iter().map(|name| Domain::parse(name).expect("legal")).collect()
        };
        letters
            .chars()
            .map(|letter| VirtualHost::new(letter.to_string(), domains(letter), vec![]).expect("legal").into())
            .collect()
    }

    #[test]
    fn what_hosts_were_compared_by_is_let_go_of_step_by_step() {
        let letters: String = ('a'..='t').collect();
        let mut checking = RouteConfig::begin("r", hosts(&letters), None);
        let steps = std::iter::repeat_with(|| checking.advance(1).expect("legal")).take_while(|is_done| !is_done);
        assert_eq!(steps.count(), 20 + 3, "each is checked, and then all are dropped in steps of eight");
        assert!(checking.names.is_empty() && checking.claims.is_empty());
    }

    #[test]
    fn what_is_checked_after_another_version_is_what_is_checked_alone() {
        let versions = ["", "abc", "abcd", "bd", "dbca", "abb", "abBd", "aBCd", "xbA", "Ab", "cx"];
        let step_by_step = |letters: &str, former| {
            let mut checking = RouteConfig::begin("r", hosts(letters), former);
            while !checking.advance(1)? {}
            Ok::<_, ConfigError>(checking.finish())
        };
        for (before, now) in versions.iter().flat_map(|before| versions.map(|now| (before, now))) {
            let Ok(former) = step_by_step(before, None) else { continue };
            let alone = step_by_step(now, None);
            assert_eq!(step_by_step(now, Some(Arc::new(former))), alone, "{now} after {before}");
        }
        assert!(step_by_step("abBd", None).is_err() && step_by_step("aBCd", None).is_err());
    }
}
