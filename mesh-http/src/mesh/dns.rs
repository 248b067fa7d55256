//! Keeps the endpoints of a cluster current by DNS.
//!
//! Each name is looked up by itself: again when the least of its times to live is over, within bounds; after a failure, with a
//! wait that grows. What serves is the union of what each name meant last, so a failed or empty look-up changes nothing, and
//! a name that is gone takes no other with it.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
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
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::{
    cluster::Cluster,
    resolve::{Resolve, Resolved},
};

/// Look-ups no more often than this, whatever the records say: a time to live of zero is common and means "do not cache".
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Look-ups at least this often, so that a mistake in a zone heals.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long one look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The look-ups of a cluster, a task a name. They end when this is dropped, and say nothing to the cluster from then on.
#[derive(Debug)]
pub(crate) struct LookUps {
    board: Arc<Board>,
}

/// What the look-ups of a cluster share.
#[derive(Debug)]
struct Board {
    cluster: Weak<Cluster>,
    names: Vec<DnsName>,
    /// Whether the addresses of one name are one endpoint.
    is_logical: bool,
    known: Mutex<Known>,
    /// Set once there are addresses, or none to be had.
    is_warm: AtomicBool,
    /// Rung when that is set.
    poke: Arc<Notify>,
    /// Cancelled under the lock of `known`, so that what was found too late is not published after it.
    stop: CancellationToken,
}

/// What is known of the names, in their order.
#[derive(Debug)]
struct Known {
    /// What each meant last; never an empty list.
    addresses: Vec<Option<Vec<IpAddr>>>,
    /// How many have not had an answer yet, good or bad.
    unanswered: usize,
    /// Whether endpoints of an earlier discovery serve; they do until every name was answered.
    others_serve: bool,
}

// === impl LookUps ===

impl LookUps {
    /// Begins to look up the names of `discovery`, if it is by DNS, for `cluster`, in place of those `before`; what was found
    /// out of the same names is taken over. Endpoints of before, or of elsewhere (`others_serve`), stay until there are new
    /// ones.
    pub(crate) fn begin(
        parts: &Parts,
        cluster: &Arc<Cluster>,
        discovery: &Discovery,
        before: Option<Self>,
        others_serve: bool,
    ) -> Option<Self> {
        let (names, is_logical) = match discovery {
            Discovery::StrictDns(names) => (names.clone(), false),
            Discovery::LogicalDns(name) => (vec![name.clone()], true),
            Discovery::Endpoints(_) | Discovery::Static(_) => return None,
        };
        let addresses = names.iter().map(|name| before.as_ref()?.addresses(name)).collect();
        let others_serve = others_serve || before.as_ref().is_some_and(Self::serve);
        // They end before the new ones begin, so that they cannot have the last word.
        drop(before);
        let board = Arc::new(Board {
            cluster: Arc::downgrade(cluster),
            is_logical,
            known: Mutex::new(Known { addresses, unanswered: names.len(), others_serve }),
            is_warm: AtomicBool::new(others_serve || names.is_empty()),
            poke: parts.poke.clone(),
            stop: CancellationToken::new(),
            names,
        });
        let seed = parts.next_seed();
        for index in 0..board.names.len() {
            let dice = Dice::of_call(seed, 0, index as u64);
            let (board, resolver) = (board.clone(), parts.resolver.clone());
            parts.tasks.work(async move {
                board.stop.run_until_cancelled(board.follow(index, &*resolver, dice)).await;
            });
        }
        Some(Self { board })
    }

    /// Whether routes may use the cluster: there are addresses, or none to be had.
    pub(crate) fn are_warm(&self) -> bool {
        self.board.is_warm.load(Ordering::Acquire)
    }

    /// Whether the cluster has endpoints, by them or from before.
    fn serve(&self) -> bool {
        let known = self.board.known();
        known.others_serve || known.addresses.iter().any(Option::is_some)
    }

    /// What `name` meant last.
    fn addresses(&self, name: &DnsName) -> Option<Vec<IpAddr>> {
        let index = self.board.names.iter().position(|known| known.host() == name.host())?;
        self.board.known().addresses[index].clone()
    }
}

impl Drop for LookUps {
    fn drop(&mut self) {
        let _known = self.board.known();
        self.board.stop.cancel();
    }
}

// === impl Board ===

impl Board {
    /// Looks a name up, for ever.
    async fn follow(&self, index: usize, resolver: &dyn Resolve, mut dice: Dice) {
        let name = &self.names[index];
        let mut is_first = true;
        let mut failures = 0;
        loop {
            let wait = match look_up(resolver, name).await {
                Ok(Resolved { addresses, valid_for }) => {
                    failures = 0;
                    self.learn(index, Some(addresses), is_first);
                    valid_for.clamp(SHORTEST_WAIT, LONGEST_WAIT)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, name = %name.host(), "look-up failed, last addresses serve on");
                    self.learn(index, None, is_first);
                    wait_after(failures, &mut dice)
                }
            };
            is_first = false;
            sleep(wait).await;
        }
    }

    /// Takes the answer to a look-up, and publishes what all names mean now.
    fn learn(&self, index: usize, answer: Option<Vec<IpAddr>>, is_first: bool) {
        let mut known = self.known();
        if self.stop.is_cancelled() {
            return;
        }
        known.unanswered -= usize::from(is_first);
        let is_news = answer.is_some() || (is_first && known.unanswered == 0);
        if answer.is_some() {
            known.addresses[index] = answer;
        }
        let may_replace = known.unanswered == 0 || !known.others_serve;
        if let (true, true, Some(cluster)) = (is_news, may_replace, self.cluster.upgrade()) {
            self.publish(&known, &cluster);
        }
        let is_warm = known.unanswered == 0 || known.addresses.iter().any(Option::is_some);
        drop(known);
        if is_warm && !self.is_warm.swap(true, Ordering::AcqRel) {
            self.poke.notify_one();
        }
    }

    fn publish(&self, known: &Known, cluster: &Cluster) {
        let of_names = self.names.iter().zip(&known.addresses);
        let found = of_names.flat_map(|(name, addresses)| match addresses {
            Some(addresses) => endpoints(name, addresses, self.is_logical),
            None => Vec::new(),
        });
        // Two names may share an address; the first counts.
        let mut seen = HashSet::new();
        let found: Vec<_> = found.filter(|endpoint| seen.insert(endpoint.address().clone())).collect();
        match Endpoints::flat(found) {
            Ok(endpoints) => cluster.update_endpoints(&endpoints),
            // No name has ever meant anything.
            Err(error) => tracing::warn!(%error, cluster = %cluster.name(), "no name of the cluster has an address"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_up(resolver: &dyn Resolve, name: &DnsName) -> Result<Resolved, BoxError> {
    let answer = timeout(PATIENCE, resolver.resolve(name.host())).await??;
    match answer.addresses.is_empty() {
        true => Err("the name has no addresses".into()),
        false => Ok(answer),
    }
}

/// How long to wait after so many failures in a row. Half of the window is certain, so that a failing resolver is never
/// asked in a tight loop.
fn wait_after(failures: u32, dice: &mut Dice) -> Duration {
    let backoff = Backoff::new(SHORTEST_WAIT, LONGEST_BACKOFF).expect("1 s is below 60 s");
    backoff.window(failures).mul_f64(0.5 + dice.share() / 2.0)
}

/// Every address of a name; as one endpoint, where that is what the name stands for.
fn endpoints(name: &DnsName, addresses: &[IpAddr], is_logical: bool) -> Vec<Endpoint> {
    let mut addresses = addresses.iter().map(|ip| Address::from(SocketAddr::new(*ip, name.port())));
    let named = |endpoint: Endpoint| endpoint.with_hostname(name.host().clone());
    if is_logical {
        let first = addresses.next().map(Endpoint::new);
        return first.map(|first| named(first.with_additional(addresses))).into_iter().collect();
    }
    addresses.map(|address| named(Endpoint::new(address))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn every_address_of_a_strict_name_is_an_endpoint_and_a_logical_name_is_one() {
        let name = DnsName::new("reviews.example", 80).expect("a legal name");
        let addresses = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last)));
        let strict = endpoints(&name, &addresses, false);
        assert_eq!(strict.iter().map(|endpoint| endpoint.addresses().len()).collect::<Vec<_>>(), [1, 1]);
        let logical = endpoints(&name, &addresses, true);
        assert_eq!(logical.iter().map(|endpoint| endpoint.addresses().len()).collect::<Vec<_>>(), [2]);
        assert!(strict.iter().chain(&logical).all(|endpoint| endpoint.hostname() == Some(name.host())));
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_minute() {
        let mut dice = Dice::new(1);
        let waits: Vec<_> = (1..12).map(|failures| wait_after(failures, &mut dice)).collect();
        assert!(waits[0] >= SHORTEST_WAIT / 2 && waits[0] <= SHORTEST_WAIT, "{waits:?}");
        assert!(waits[5] >= Duration::from_secs(16), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST_BACKOFF), "{waits:?}");
    }
}
