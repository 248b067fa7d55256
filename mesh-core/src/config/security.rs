//! How connections to an endpoint are secured, where that depends on the endpoint (`Cluster.transport_socket_matches`).
//!
//! A mesh that moves to mutual TLS has endpoints of one service that speak it and others that do not. What an endpoint's
//! metadata says under [`SecurityMatch::NAMESPACE`] decides: the first match of the cluster that the endpoint fits. One
//! that fits none is reached as the cluster's [`tls`](ClusterPolicy::tls) says, and where that is unset, not at all: in
//! plaintext an endpoint is reached only where that is said by name.

use std::{collections::BTreeMap, sync::Arc};

use super::{ClusterPolicy, Metadata, MetadataValue, UpstreamTls};

/// How connections to an endpoint are secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all, which was said by name.
    Plaintext,
    /// By TLS.
    Tls(Arc<UpstreamTls>),
    /// In a way that cannot be had, for this reason: no connection is made.
    Unavailable(Arc<str>),
}

/// How the endpoints of some metadata are reached (`Cluster.TransportSocketMatch`).
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityMatch {
    /// What it is called, for people.
    pub name: Arc<str>,
    /// The facts that an endpoint must have, all of them; without any, every endpoint fits.
    pub facts: BTreeMap<Arc<str>, MetadataValue>,
    /// What holds for the endpoints that fit.
    pub security: Security,
}

// === impl SecurityMatch ===

impl SecurityMatch {
    /// Where an endpoint's metadata has the facts that are matched.
    pub const NAMESPACE: &'static str = "envoy.transport_socket_match";

    /// Whether an endpoint of this metadata is meant.
    pub fn fits(&self, metadata: Option<&Metadata>) -> bool {
        if self.facts.is_empty() {
            return true;
        }
        let known = metadata.and_then(|metadata| metadata.0.get(Self::NAMESPACE));
        known.is_some_and(|known| self.facts.iter().all(|(key, fact)| known.get(key) == Some(fact)))
    }
}

// === impl ClusterPolicy ===

impl ClusterPolicy {
    /// How an endpoint of this metadata is reached.
    ///
    /// Meant to be asked once, when an endpoint is opened or its metadata or the policy has changed.
    pub fn security_of(&self, metadata: Option<&Metadata>) -> Security {
        let of_match = self.security.iter().find(|one| one.fits(metadata)).map(|one| one.security.clone());
        let of_all = || self.tls.clone().map(Security::Tls);
        let silent = || match self.security.is_empty() {
            true => Security::Plaintext,
            false => Security::Unavailable("its metadata fits none of the cluster's transport_socket_matches".into()),
        };
        of_match.or_else(of_all).unwrap_or_else(silent)
    }

    /// Whether anything is said of security.
    pub(super) fn says_security(&self) -> bool {
        self.tls.is_some() || !self.security.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Trust;

    fn facts(facts: &[(&str, &str)]) -> BTreeMap<Arc<str>, MetadataValue> {
        facts.iter().map(|(key, fact)| ((*key).into(), MetadataValue::String((*fact).into()))).collect()
    }

    fn endpoint(known: &[(&str, &str)]) -> Metadata {
        Metadata(BTreeMap::from([(SecurityMatch::NAMESPACE.into(), facts(known))]))
    }

    fn tls() -> Security {
        Security::Tls(Arc::new(UpstreamTls::new(Trust::System)))
    }

    fn one(wanted: &[(&str, &str)], security: Security) -> SecurityMatch {
        SecurityMatch { name: "one".into(), facts: facts(wanted), security }
    }

    fn policy(matches: Vec<SecurityMatch>) -> ClusterPolicy {
        ClusterPolicy { security: matches.into(), ..ClusterPolicy::default() }
    }

    #[test]
    fn first_match_whose_facts_are_all_there_counts() {
        let policy = policy(vec![
            one(&[("tlsMode", "istio"), ("zone", "a")], Security::Unavailable("zone a".into())),
            one(&[("tlsMode", "istio")], tls()),
            one(&[], Security::Plaintext),
        ]);
        let of = |known: &[(&str, &str)]| policy.security_of(Some(&endpoint(known)));
        assert_eq!(of(&[("tlsMode", "istio"), ("other", "fact")]), tls());
        assert_eq!(of(&[("tlsMode", "istio"), ("zone", "a")]), Security::Unavailable("zone a".into()));
        assert_eq!(of(&[("tlsMode", "disabled")]), Security::Plaintext);
        assert_eq!(policy.security_of(None), Security::Plaintext);
    }

    #[test]
    fn endpoint_that_fits_none_follows_the_cluster_and_never_falls_back_to_plaintext() {
        let mut policy = policy(vec![one(&[("tlsMode", "istio")], Security::Plaintext)]);
        assert!(matches!(policy.security_of(None), Security::Unavailable(_)));
        policy.tls = Some(Arc::new(UpstreamTls::new(Trust::System)));
        assert_eq!(policy.security_of(None), tls());
        assert_eq!(ClusterPolicy::default().security_of(None), Security::Plaintext, "nothing is said of security");
    }

    #[test]
    fn facts_under_another_namespace_are_not_looked_at() {
        let elsewhere = Metadata(BTreeMap::from([("istio".into(), facts(&[("tlsMode", "istio")]))]));
        assert!(!one(&[("tlsMode", "istio")], tls()).fits(Some(&elsewhere)));
    }

    #[test]
    fn source_that_speaks_of_security_has_said_all_of_it() {
        let pinned = ClusterPolicy { tls: Some(Arc::new(UpstreamTls::new(Trust::System))), ..ClusterPolicy::default() };
        let below = policy(vec![one(&[], Security::Plaintext)]);
        assert_eq!(pinned.or(&below).security_of(None), tls(), "a demand for TLS is not weakened from below");
        assert_eq!(below.or(&pinned).security_of(None), Security::Plaintext);
        assert_eq!(ClusterPolicy::default().or(&below).security_of(None), Security::Plaintext);
    }
}
