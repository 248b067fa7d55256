//! What an earlier run has kept, on its way into the store a slice at a time, and the word to the keeper that there is
//! news.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::decoding::{LEAST, SLICE};
use crate::{
    ResourceKind,
    agreement::Agreements,
    cache::{Keeper, Loaded},
    resource::Context,
    status::Shared,
    store::{Entry, Saved, Store},
};

/// The worker's part in the cache file. It does nothing where there is none.
#[derive(Default)]
pub(crate) struct Cache {
    keeper: Option<Arc<Keeper>>,
    /// What was in the file, whoever has wanted it by now: who wants it again after that finds it. What is of an authority
    /// is let go of when a control plane of it has answered, which knows better.
    loaded: Option<Loaded>,
    /// Whether some of it may have to be let go of. Set by news of an authority, taken when nothing is being restored.
    is_outlived: bool,
    /// What is wanted of it, and not decoded yet.
    queue: VecDeque<Waiting>,
}

/// What an earlier run has kept of a resource, on its way.
struct Waiting {
    kind: ResourceKind,
    name: Arc<str>,
    saved: Saved,
    age: Duration,
}

// === impl Cache ===

impl Cache {
    pub(crate) fn new(opened: Option<(Arc<Keeper>, Option<Loaded>)>) -> Self {
        let (keeper, loaded) = opened.unzip();
        Self { keeper, loaded: loaded.flatten(), is_outlived: false, queue: VecDeque::new() }
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
    pub(super) fn releasing(&self, shared: &Shared) {
        self.keeper.iter().for_each(|keeper| keeper.releasing(shared));
    }

    /// A resource is about to be forgotten.
    pub(super) fn forgetting(&self, shared: &Shared, kind: ResourceKind, name: &Arc<str>) {
        self.keeper.iter().for_each(|keeper| keeper.forgetting(shared, kind, name));
    }

    /// A resource is wanted. If there is one, it waits for its turn.
    pub(super) fn want(&mut self, kind: ResourceKind, name: &Arc<str>) {
        let Some(loaded) = &self.loaded else { return };
        let Some(saved) = loaded.get(kind, name) else { return };
        let (saved, age) = (saved.clone(), loaded.age(Instant::now()));
        self.queue.push_back(Waiting { kind, name: name.clone(), saved, age });
    }

    /// Whether anything waits for its turn.
    pub(super) fn is_restoring(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Decodes a slice of what waits.
    pub(super) fn restore(&mut self, store: &mut Store, agreements: &mut Agreements, context: &Context) {
        let mut left = SLICE;
        while left > 0
            && let Some(Waiting { kind, name, saved, age }) = self.queue.pop_front()
        {
            left = left.saturating_sub(LEAST + saved.contents.len());
            if let Err(error) = store.restore(kind, &name, saved, context) {
                tracing::warn!(%kind, %name, %error, "what an earlier run has kept of a resource is not used");
            }
            let restored = store.get(kind, &name).filter(|entry| entry.is_cached());
            if let Some(authority) = restored.and_then(Entry::authority) {
                agreements.restored(authority, age, Instant::now());
            }
        }
    }

    /// A control plane may have answered, and know better.
    pub(super) fn outlive(&mut self) {
        self.is_outlived = true;
    }

    /// Lets go of what control planes know better by now, unless there is more to be restored at present.
    pub(super) fn let_go(&mut self, is_known: impl Fn(ResourceKind, &str) -> bool) {
        if self.is_restoring() || !std::mem::take(&mut self.is_outlived) {
            return;
        }
        if let Some(loaded) = &mut self.loaded {
            loaded.retain(|kind, name| !is_known(kind, name));
        }
    }
}
