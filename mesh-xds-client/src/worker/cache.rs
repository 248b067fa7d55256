//! What an earlier run has kept, on its way into the store a slice at a time, and the word to the keeper that there is
//! news.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::decoding::{LEAST, SLICE};
use crate::{
    ResourceKind,
    cache::{Keeper, Loaded},
    resource::Context,
    status::Shared,
    store::{Saved, Store},
};

/// The worker's part in the cache file. It does nothing where there is none.
#[derive(Default)]
pub(crate) struct Cache {
    keeper: Option<Arc<Keeper>>,
    /// What was in the file and nobody has wanted yet. Let go of when all control planes have been reached, which know
    /// better.
    loaded: Option<Loaded>,
    /// What is wanted of it, and not decoded yet.
    queue: VecDeque<(ResourceKind, Arc<str>, Saved)>,
}

// === impl Cache ===

impl Cache {
    pub(crate) fn new(opened: Option<(Arc<Keeper>, Option<Loaded>)>) -> Self {
        let (keeper, loaded) = opened.unzip();
        Self { keeper, loaded: loaded.flatten(), queue: VecDeque::new() }
    }

    /// A control plane has answered.
    pub(super) fn tell(&self) {
        self.keeper.iter().for_each(|keeper| keeper.tell());
    }

    /// Something that is held has changed, or may have.
    pub(super) fn touch(&self) {
        self.keeper.iter().for_each(|keeper| keeper.touch());
    }

    /// A target is about to be let go of.
    pub(super) fn keep_for_write(&self, shared: &Shared) {
        self.keeper.iter().for_each(|keeper| keeper.keep_for_write(|| shared.held().store.dump()));
    }

    /// A resource is wanted. Returns how old it is if there is one, which then waits for its turn.
    pub(super) fn want(&mut self, kind: ResourceKind, name: &Arc<str>) -> Option<Duration> {
        let loaded = self.loaded.as_mut()?;
        let saved = loaded.take(kind, name)?;
        self.queue.push_back((kind, name.clone(), saved));
        Some(loaded.age)
    }

    /// Whether anything waits for its turn.
    pub(super) fn is_restoring(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Decodes a slice of what waits.
    pub(super) fn restore(&mut self, store: &mut Store, context: &Context) {
        let mut left = SLICE;
        while left > 0
            && let Some((kind, name, saved)) = self.queue.pop_front()
        {
            left = left.saturating_sub(LEAST + saved.contents.len());
            if let Err(error) = store.restore(kind, &name, saved, context) {
                tracing::warn!(%kind, %name, %error, "what an earlier run has kept of a resource is not used");
            }
        }
    }

    /// The control planes have been reached.
    pub(super) fn let_go(&mut self) {
        self.loaded = None;
    }
}
