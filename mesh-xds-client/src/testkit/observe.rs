//! What clients have done so far, and waiting for what they are about to do.

use std::collections::BTreeSet;

use super::{ControlPlane, Event, Nacked, Request, State, command::StreamHandle};
use crate::ResourceKind;

// === impl ControlPlane ===

/// Observing.
impl ControlPlane {
    /// All that clients did so far and was not [taken](Self::take_events), oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.with(|state| state.record.clone())
    }

    /// As [`events`](Self::events), and forgets them, so that a test which runs for long keeps its memory.
    pub fn take_events(&self) -> Vec<Event> {
        self.shared.with(|state| {
            state.taken += state.record.len();
            std::mem::take(&mut state.record)
        })
    }

    /// The requests that accepted a response, oldest first.
    pub fn acks(&self) -> Vec<Request> {
        self.shared.with(|state| state.record.iter().filter_map(Event::acked).cloned().collect())
    }

    /// The requests that refused a response, oldest first.
    pub fn nacks(&self) -> Vec<Request> {
        self.shared.with(|state| state.record.iter().filter_map(Event::nacked).cloned().collect())
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.shared.with(|state| state.streams.len())
    }

    /// The names of a kind that open streams ask for.
    pub fn subscriptions(&self, kind: ResourceKind) -> BTreeSet<String> {
        self.shared.with(|state| {
            state.streams.values().filter_map(|stream| stream.names.get(&kind)).flatten().cloned().collect()
        })
    }

    /// The first event, past or to come, that `is_it` says yes to.
    ///
    /// Waits for ever when there is none: put it in a [`tokio::time::timeout`]. Dropping the future has no effect.
    pub async fn wait_for(&self, mut is_it: impl FnMut(&Event) -> bool) -> Event {
        let mut seen = 0_usize;
        self.wait_until(move |plane| {
            let new = plane.shared.with(|state| {
                let new = state.record[seen.saturating_sub(state.taken)..].to_vec();
                seen = state.taken + state.record.len();
                new
            });
            new.into_iter().find(&mut is_it)
        })
        .await
    }

    /// Waits until exactly `count` streams are open.
    pub async fn wait_streams(&self, count: usize) {
        self.wait_until(|plane| (plane.streams() == count).then_some(())).await;
    }

    /// Waits until at least `count` responses are [held back](Self::hold).
    pub async fn wait_held(&self, count: usize) {
        let held = |state: &mut State| state.faults.held.as_ref().map_or(0, Vec::len);
        self.wait_until(|plane| (plane.shared.with(held) >= count).then_some(())).await;
    }

    /// Waits until a client accepts `version` of a kind, or a later one. A version that is no number, from a response of your own,
    /// is awaited exactly.
    ///
    /// # Errors
    ///
    /// The refusal, when a client refuses that version or a later one before any accepts it.
    pub async fn wait_acked(&self, kind: ResourceKind, version: &str) -> Result<Request, Nacked> {
        let answers = |request: &Request| request.kind == Some(kind) && request.answers_at_least(version);
        let event = self.wait_for(|event| {
            let answer = event.acked().or_else(|| event.nacked());
            answer.is_some_and(answers)
        });
        match event.await {
            Event::Nacked(request) => Err(Nacked::new(request)),
            event => Ok(event.request().cloned().unwrap_or_default()),
        }
    }

    /// Waits until every response that was sent on a stream which is still open has been answered, one way or the other.
    pub async fn wait_answered(&self) {
        self.wait_until(|plane| {
            let is_answered = |stream: &StreamHandle| stream.unanswered.values().all(|count| *count == 0);
            plane.shared.with(|state| state.streams.values().all(is_answered)).then_some(())
        })
        .await;
    }

    async fn wait_until<T>(&self, mut find: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let recorded = self.shared.recorded.notified();
            tokio::pin!(recorded);
            // Registered before looking, so that nothing recorded in between is missed.
            recorded.as_mut().enable();
            if let Some(found) = find(self) {
                return found;
            }
            recorded.await;
        }
    }
}
