//! Keeps the endpoints of a cluster current by DNS.
//!
//! Names are looked up again when the least of their times to live is over, within bounds; after a failure, with a growing
//! wait. A failed or empty look-up changes nothing: the last good addresses serve on.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Dice,
    config::{Address, Backoff, Discovery, DnsName, Endpoint, Endpoints},
    outcome::BoxError,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{cluster::Cluster, resolve::Resolve};

/// Look-ups no more often than this, whatever the records say: a time to live of zero is common and means "do not cache".
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Look-ups at least this often, so that a mistake in a zone heals.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long one look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The names of a cluster, and what is known of them.
pub(crate) struct Names {
    names: Vec<DnsName>,
    /// Whether the addresses of one name are one endpoint.
    logical: bool,
    resolver: Arc<dyn Resolve>,
    dice: Dice,
    failures: u32,
}

/// What one round of look-ups found.
pub(crate) struct Round {
    /// The endpoints, unless a look-up failed.
    pub(crate) endpoints: Result<Endpoints, BoxError>,
    /// When to look again.
    pub(crate) next: Duration,
}

impl Names {
    /// The names of `discovery`, if it is by DNS.
    pub(crate) fn of(discovery: &Discovery, resolver: &Arc<dyn Resolve>, seed: u64) -> Option<Self> {
        let (names, logical) = match discovery {
            Discovery::StrictDns(names) => (names.clone(), false),
            Discovery::LogicalDns(name) => (vec![name.clone()], true),
            _ => return None,
        };
        Some(Self { names, logical, resolver: resolver.clone(), dice: Dice::new(seed), failures: 0 })
    }

    /// Looks all names up once.
    pub(crate) async fn round(&mut self) -> Round {
        match self.look_up().await {
            Ok((endpoints, valid_for)) => {
                self.failures = 0;
                Round { endpoints: Ok(endpoints), next: valid_for.clamp(SHORTEST_WAIT, LONGEST_WAIT) }
            }
            Err(error) => {
                self.failures += 1;
                let backoff = Backoff::new(SHORTEST_WAIT, Duration::from_secs(60)).expect("1 s is below 60 s");
                // Half of the window is certain, so that a failing resolver is never asked in a tight loop.
                let next = backoff.window(self.failures).mul_f64(0.5 + self.dice.share() / 2.0);
                Round { endpoints: Err(error), next }
            }
        }
    }

    async fn look_up(&self) -> Result<(Endpoints, Duration), BoxError> {
        let mut endpoints = Vec::new();
        let mut valid_for = LONGEST_WAIT;
        for name in &self.names {
            let answer = timeout(PATIENCE, self.resolver.resolve(name.host())).await??;
            valid_for = valid_for.min(answer.valid_for);
            let mut addresses = answer.addresses.iter().map(|ip| Address::from(SocketAddr::new(*ip, name.port())));
            if self.logical {
                endpoints.extend(
                    addresses.next().map(|first| {
                        Endpoint::new(first).with_additional(addresses).with_hostname(name.host().clone())
                    }),
                );
            } else {
                endpoints.extend(addresses.map(|address| Endpoint::new(address).with_hostname(name.host().clone())));
            }
        }
        Ok((Endpoints::flat(distinct(endpoints))?, valid_for))
    }

    /// Keeps `cluster` current for as long as somebody holds it. After the first round, good or bad, it is warm.
    pub(crate) async fn follow(mut self, cluster: Weak<Cluster>, warm: Arc<AtomicBool>, poke: Arc<Notify>) {
        loop {
            let round = self.round().await;
            let Some(cluster) = cluster.upgrade() else { return };
            match round.endpoints {
                Ok(endpoints) => cluster.update_endpoints(&endpoints),
                Err(error) => {
                    tracing::warn!(%error, cluster = %cluster.name(), "look-up failed, last addresses serve on")
                }
            }
            drop(cluster);
            if !warm.swap(true, Ordering::AcqRel) {
                poke.notify_one();
            }
            sleep(round.next).await;
        }
    }
}

/// Two names may share an address; the first counts.
fn distinct(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut seen = std::collections::HashSet::new();
    endpoints.into_iter().filter(|endpoint| seen.insert(endpoint.address().clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::resolve::{Resolved, Resolving};

    /// Addresses and seconds to live; none for a failure.
    type Answer = Option<(Vec<[u8; 4]>, u64)>;

    /// Answers with what the script says, in turn.
    struct Scripted(Mutex<Vec<Answer>>);

    impl Resolve for Scripted {
        fn resolve(&self, _: &str) -> Resolving {
            let answer = self.0.lock().expect("no test panics here").remove(0);
            Box::pin(async move {
                let (addresses, seconds) = answer.ok_or("no such name")?;
                let addresses = addresses.into_iter().map(Into::into).collect();
                Ok(Resolved { addresses, valid_for: Duration::from_secs(seconds) })
            })
        }
    }

    fn names(discovery: Discovery, script: Vec<Answer>) -> Names {
        let resolver: Arc<dyn Resolve> = Arc::new(Scripted(Mutex::new(script)));
        Names::of(&discovery, &resolver, 1).expect("by DNS")
    }

    fn name() -> DnsName {
        DnsName::new("reviews.example", 80).expect("a legal name")
    }

    #[tokio::test]
    async fn every_address_of_a_strict_name_is_an_endpoint() {
        let answer = Some((vec![[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 1]], 30));
        let round = names(Discovery::StrictDns(vec![name()]), vec![answer]).round().await;
        assert_eq!(round.endpoints.expect("resolved").len(), 2);
        assert_eq!(round.next, Duration::from_secs(30));
    }

    #[tokio::test]
    async fn logical_name_is_one_endpoint_with_all_its_addresses() {
        let answer = Some((vec![[10, 0, 0, 1], [10, 0, 0, 2]], 30));
        let round = names(Discovery::LogicalDns(name()), vec![answer]).round().await;
        let endpoints = round.endpoints.expect("resolved");
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints.groups()[0].endpoints[0].addresses().len(), 2);
    }

    #[tokio::test]
    async fn time_to_live_is_kept_within_bounds() {
        let answers = [0, 86_400].map(|seconds| Some((vec![[10, 0, 0, 1]], seconds))).to_vec();
        let mut names = names(Discovery::StrictDns(vec![name()]), answers);
        assert_eq!(names.round().await.next, SHORTEST_WAIT);
        assert_eq!(names.round().await.next, LONGEST_WAIT);
    }

    #[tokio::test]
    async fn failures_and_empty_answers_wait_longer_each_time() {
        let script = vec![None, Some((vec![], 5)), None, None];
        let mut names = names(Discovery::StrictDns(vec![name()]), script);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let round = names.round().await;
            assert!(round.endpoints.is_err());
            waits.push(round.next);
        }
        assert!(waits.windows(2).all(|pair| pair[1] >= pair[0].mul_f64(0.99)), "{waits:?}");
        assert!(waits[3] >= Duration::from_secs(4));
    }
}
