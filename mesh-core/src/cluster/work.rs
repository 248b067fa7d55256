//! The work of a cluster beside its requests: it ejects the endpoints that were accused, and lets them back in time.

use std::{
    future::Future,
    sync::{Arc, Weak},
};

use tokio::time::{Instant, timeout_at};

use super::{Cluster, Transport};
use crate::{
    endpoint::{Accusation, Home, Roster},
    outlier::{Outlier, Verdict},
};

/// Says that somebody reviews ejections, as long as it lives.
struct Reviewing(Arc<Home>);

impl<T: Transport> Cluster<T> {
    /// Ejects endpoints that were accused and lets them back in time; sleeps while there is nothing to do, and ends when
    /// the cluster is dropped. Run it once. While nobody runs it nobody is ejected, since nobody would come back.
    pub fn work(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        run(Arc::downgrade(self), self.home.clone())
    }

    /// Judges who is accused and, when a sweep is due, reviews all ejections; then says when the next sweep is due.
    fn tend(&self, sweep_is_due: bool, now: Instant) -> Option<Instant> {
        let accusations = self.home.take_accusations();
        let mut writer = self.writer();
        let set = self.set.load_full();
        let outlier = writer.outlier.as_mut()?;
        let mut has_changed = false;
        for accusation in &accusations {
            has_changed |= self.judge(outlier, &set.roster, accusation);
        }
        if sweep_is_due {
            has_changed |= self.readmit(outlier, &set.roster, now);
        }
        let next_sweep = outlier.next_sweep(now);
        if has_changed {
            self.publish(&mut writer, set.roster.clone(), set.rules);
        }
        next_sweep
    }

    fn judge(&self, outlier: &mut Outlier, roster: &Roster<T::Handle>, accusation: &Accusation) -> bool {
        let Accusation { endpoint: id, detector, at } = *accusation;
        let mut endpoints = roster.members.iter().map(|member| &member.seat);
        let Some(endpoint) = endpoints.find(|endpoint| endpoint.id() == id) else { return false };
        let verdict = outlier.accuse(id, detector, roster.members.len(), at);
        let address = &endpoint.addresses()[0];
        let Verdict::Ejected(length) = verdict else {
            tracing::debug!(cluster = %self.name, endpoint.addr = %address, ?detector, ?verdict, "endpoint not ejected");
            return false;
        };
        tracing::warn!(cluster = %self.name, endpoint.addr = %address, ?detector, ?length, "endpoint ejected");
        endpoint.live().set_ejected(true);
        true
    }

    fn readmit(&self, outlier: &mut Outlier, roster: &Roster<T::Handle>, now: Instant) -> bool {
        let back = outlier.sweep(now);
        let endpoints = roster.members.iter().map(|member| &member.seat);
        for endpoint in endpoints.filter(|endpoint| back.binary_search(&endpoint.id()).is_ok()) {
            tracing::info!(cluster = %self.name, endpoint.addr = %endpoint.addresses()[0], "ejection over");
            endpoint.live().reset_failures();
            endpoint.live().set_ejected(false);
        }
        !back.is_empty()
    }
}

async fn run<T: Transport>(cluster: Weak<Cluster<T>>, home: Arc<Home>) {
    let reviewing = Reviewing::new(home);
    let mut next_sweep: Option<Instant> = None;
    while let Some(strong) = cluster.upgrade() {
        let now = Instant::now();
        next_sweep = strong.tend(next_sweep.is_some_and(|sweep| sweep <= now), now);
        // Only the bell is held while waiting, so that the cluster can end.
        drop(strong);
        let rung = reviewing.0.bell.notified();
        match next_sweep {
            Some(sweep) => _ = timeout_at(sweep, rung).await,
            None => rung.await,
        }
    }
}

// === impl Reviewing ===

impl Reviewing {
    fn new(home: Arc<Home>) -> Self {
        home.set_reviewed(true);
        Self(home)
    }
}

impl Drop for Reviewing {
    fn drop(&mut self) {
        self.0.set_reviewed(false);
    }
}
