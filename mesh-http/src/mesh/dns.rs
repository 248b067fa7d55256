//! Keeps the endpoints of a cluster current by DNS.
//!
//! Each name is looked up by itself: again when the least of its times to live is over, within bounds; after a failure, with a
//! wait that grows. What serves is the union of what each name meant last, so a failed or empty look-up changes nothing, and
//! a name that is gone takes no other with it.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Dice,
    config::{AddressFamily, Discovery, DnsEndpoints, LookUp, Semantics},
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

/// Look-ups at least this often where the records decide, so that a mistake in a zone heals.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
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
    said: Arc<DnsEndpoints>,
    /// Those of `said`, each once.
    names: Vec<Arc<str>>,
    /// Which addresses count.
    family: AddressFamily,
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
        (cluster, rules): (&Arc<Cluster>, Semantics),
        discovery: &Discovery,
        before: Option<Self>,
        others_serve: bool,
    ) -> Option<Self> {
        let Discovery::Dns(said) = discovery else { return None };
        let family = if rules == Semantics::Grpc { AddressFamily::All } else { said.look_up().family };
        let names = said.names();
        // What did not count then was not kept, so under another family only the next look-up can tell.
        let known = before.as_ref().filter(|before| before.board.family == family);
        let addresses = names.iter().map(|name| known?.addresses(name)).collect();
        let others_serve = others_serve || before.as_ref().is_some_and(Self::serve);
        // They end before the new ones begin, so that they cannot have the last word.
        drop(before);
        let known = Known { addresses, unanswered: names.len(), others_serve };
        let board = Arc::new(Board {
            cluster: Arc::downgrade(cluster),
            said: said.clone(),
            family,
            is_warm: AtomicBool::new(others_serve || names.is_empty()),
            poke: parts.poke.clone(),
            stop: CancellationToken::new(),
            names,
            known: Mutex::new(known),
        });
        if board.names.is_empty() {
            board.publish(&board.known(), cluster);
        }
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
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let index = self.board.names.iter().position(|known| **known == *name)?;
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
        let (name, how) = (&self.names[index], self.said.look_up());
        let mut is_first = true;
        let mut failures = 0;
        loop {
            let wait = match look_up(resolver, name, self.family).await {
                Ok(Resolved { addresses, valid_for }) => {
                    failures = 0;
                    self.learn(index, Some(addresses), is_first);
                    wait_after_answer(how, valid_for)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, %name, "look-up failed, last addresses serve on");
                    self.learn(index, None, is_first);
                    wait_after_failure(how, failures, &mut dice)
                }
            };
            is_first = false;
            sleep(wait + how.jitter.mul_f64(dice.share())).await;
        }
    }

    /// Takes the answer to a look-up, and publishes what all names mean now.
    fn learn(&self, index: usize, answer: Option<Vec<IpAddr>>, is_first: bool) {
        let mut known = self.known();
        if self.stop.is_cancelled() {
            return;
        }
        known.unanswered -= usize::from(is_first);
        let is_news =
            known.take(index, answer) || (is_first && (known.addresses[index].is_some() || known.unanswered == 0));
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
        let found = self.said.resolved(|name| {
            let index = self.names.iter().position(|known| **known == *name);
            index.and_then(|index| known.addresses[index].as_deref()).unwrap_or_default()
        });
        match found {
            Ok(endpoints) if endpoints.is_empty() => {
                tracing::warn!(cluster = %cluster.name(), "no name of the cluster has ever had an address");
            }
            Ok(endpoints) => cluster.update_endpoints(&endpoints),
            Err(error) => {
                tracing::warn!(%error, cluster = %cluster.name(), "too many addresses, the last ones serve on")
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    /// Takes an answer. Says whether it differs from the one before: the same addresses in another order do not, since resolvers
    /// turn them about, and the endpoint of a logical name is all of them.
    fn take(&mut self, index: usize, answer: Option<Vec<IpAddr>>) -> bool {
        let (Some(answer), held) = (answer, &mut self.addresses[index]) else { return false };
        let is_same = held
            .as_ref()
            .is_some_and(|held| held.len() == answer.len() && held.iter().all(|address| answer.contains(address)));
        if !is_same {
            *held = Some(answer);
        }
        !is_same
    }
}

async fn look_up(resolver: &dyn Resolve, name: &str, family: AddressFamily) -> Result<Resolved, BoxError> {
    let Resolved { addresses, valid_for } = timeout(PATIENCE, resolver.resolve(name)).await??;
    if addresses.is_empty() {
        return Err("the name has no addresses".into());
    }
    let addresses = family.of(addresses);
    match addresses.is_empty() {
        true => Err(format!("the name has no addresses of the family that counts, {family:?}").into()),
        false => Ok(Resolved { addresses, valid_for }),
    }
}

/// How long an answer serves whose records are valid for so long.
fn wait_after_answer(how: &LookUp, valid_for: Duration) -> Duration {
    match how.refresh {
        Some(refresh) if !how.follows_records || valid_for.is_zero() => refresh,
        _ => valid_for.clamp(how.least_validity, LONGEST_WAIT.max(how.least_validity)),
    }
}

/// How long to wait after so many failures in a row. Half of the window is certain, so that a failing resolver is never
/// asked in a tight loop.
fn wait_after_failure(how: &LookUp, failures: u32, dice: &mut Dice) -> Duration {
    how.failure.window(failures).mul_f64(0.5 + dice.share() / 2.0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn failures_wait_longer_each_time_up_to_a_minute() {
        let (how, mut dice) = (LookUp::default(), Dice::new(1));
        let waits: Vec<_> = (1..12).map(|failures| wait_after_failure(&how, failures, &mut dice)).collect();
        assert!(waits[0] >= LookUp::LEAST / 2 && waits[0] <= LookUp::LEAST, "{waits:?}");
        assert!(waits[5] >= Duration::from_secs(16), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(60)), "{waits:?}");
    }

    #[test]
    fn records_or_a_rate_decide_when_a_name_is_looked_up_again() {
        let seconds = Duration::from_secs;
        let of = |refresh: Option<u64>, follows_records, valid_for| {
            let how = LookUp { refresh: refresh.map(seconds), follows_records, ..LookUp::default() };
            wait_after_answer(&how, seconds(valid_for)).as_secs()
        };
        assert_eq!([of(None, true, 30), of(None, true, 0), of(None, true, 9_999)], [30, 1, 300]);
        assert_eq!([of(Some(5), true, 30), of(Some(5), true, 0)], [30, 5], "a rate beside the records");
        assert_eq!([of(Some(5), false, 30), of(Some(600), false, 30)], [5, 600], "a rate alone");
        assert_eq!(of(None, false, 30), 30);
        let slow = LookUp { least_validity: seconds(60), ..LookUp::default() };
        assert_eq!(wait_after_answer(&slow, seconds(2)), seconds(60));
    }

    #[test]
    fn addresses_that_a_resolver_turned_about_are_no_news() {
        let ip = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let mut known = Known { addresses: vec![None], unanswered: 0, others_serve: false };
        assert!(known.take(0, Some(vec![ip(1), ip(2)])));
        assert!(!known.take(0, Some(vec![ip(2), ip(1)])));
        assert!(!known.take(0, None));
        assert_eq!(known.addresses[0], Some(vec![ip(1), ip(2)]));
        assert!(known.take(0, Some(vec![ip(2)])));
    }
}
