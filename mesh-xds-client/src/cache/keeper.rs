//! Writes the file: some time after something has changed, and at the end.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{CacheStatus, Found, Loaded, Scope, disk, file};
use crate::{meters, status::Shared, store::Dump, worker::in_one_line};

/// Keeps a client's cache file. Its I/O is done where blocking is allowed, and never by the worker.
pub(crate) struct Keeper {
    path: PathBuf,
    scope: Scope,
    interval: Duration,
    found: Found,
    changed: Notify,
    /// Whether something has changed since it was last written.
    is_behind: AtomicBool,
    /// Whether a control plane has answered in this run.
    is_told: AtomicBool,
    /// What is to be written though nobody may want it any longer. See [`keep_for_write`](Self::keep_for_write).
    kept: Mutex<Option<Vec<Dump>>>,
    /// Held while the file is being written.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    written: Option<SystemTime>,
    last_error: Option<Arc<io::Error>>,
}

/// One writing of the file. One that a runtime drops, since it ends, is done then.
struct Writing(Arc<Keeper>, Arc<Shared>);

/// Writes the file when the work ends.
struct AtTheEnd(Arc<Keeper>, Arc<Shared>);

// === impl Keeper ===

impl Keeper {
    /// Reads the file with blocking I/O.
    pub(crate) fn open(path: PathBuf, scope: Scope, interval: Duration) -> (Arc<Self>, Option<Loaded>) {
        let read = disk::read(&path).and_then(|bytes| bytes.map(|bytes| file::decode(&bytes, &scope)).transpose());
        let (found, loaded) = match read {
            Ok(None) => (Found::Nothing, None),
            Ok(Some((loaded, agreed))) => {
                let count = loaded.count();
                let (path, age) = (path.display(), loaded.age);
                tracing::info!(%path, count, ?age, "configuration of an earlier run is at hand");
                (Found::Resources { count, agreed }, Some(loaded))
            }
            Err(reason) => {
                let (path, error) = (path.display(), in_one_line(&reason));
                tracing::warn!(%path, error, "configuration of an earlier run is not used");
                (Found::Refused(Arc::new(reason)), None)
            }
        };
        let keeper = Self {
            path,
            scope,
            interval,
            found,
            changed: Notify::new(),
            is_behind: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            kept: Mutex::default(),
            state: Mutex::default(),
        };
        (Arc::new(keeper), loaded)
    }

    /// A control plane has answered.
    pub(crate) fn tell(&self) {
        self.is_told.store(true, Ordering::Release);
    }

    /// Something that is held has changed. What no control plane has had a word in is not worth writing: what an earlier run
    /// has kept may be more.
    pub(crate) fn touch(&self) {
        if !self.is_told.load(Ordering::Acquire) {
            return;
        }
        *lock(&self.kept) = None;
        if !self.is_behind.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    /// A target is about to be let go of, and what it needed with it.
    ///
    /// That is how a program ends: its clients go first, one by one. The next run will want what they had, so what is
    /// still to be written is that which is held now, unless there are other changes after it.
    pub(crate) fn keep_for_write(&self, dump: impl FnOnce() -> Vec<Dump>) {
        if self.is_behind.load(Ordering::Acquire) {
            lock(&self.kept).get_or_insert_with(dump);
        }
    }

    /// Writes what `shared` holds, for as long as it is polled and once more when it is dropped.
    pub(crate) async fn keep(self: Arc<Self>, shared: Arc<Shared>) {
        let _last = AtTheEnd(self.clone(), shared.clone());
        loop {
            self.changed.notified().await;
            sleep(self.interval).await;
            let writing = Writing(self.clone(), shared.clone());
            // One that a runtime cancels is done all the same.
            let _ = spawn_blocking(move || drop(writing)).await;
        }
    }

    pub(crate) fn status(&self) -> CacheStatus {
        let state = lock(&self.state);
        CacheStatus {
            path: self.path.clone(),
            found: self.found.clone(),
            written: state.written,
            last_error: state.last_error.clone(),
        }
    }

    /// Writes what has changed, or else how long what is there has been good.
    fn write(&self, shared: &Shared) {
        let mut state = lock(&self.state);
        // What changes from here on is for the next time.
        let is_behind = self.is_behind.swap(false, Ordering::AcqRel);
        let agreed = agreed(shared);
        let contents = if is_behind {
            let kept = lock(&self.kept).take();
            file::encode(&self.scope, agreed, &kept.unwrap_or_else(|| shared.held().store.dump()))
        } else {
            let before = disk::read(&self.path).ok().flatten();
            let Some(renewed) = before.and_then(|file| file::renew(&file, &self.scope, agreed)) else { return };
            renewed
        };
        match disk::replace(&self.path, &contents) {
            Ok(()) => (state.written, state.last_error) = (Some(SystemTime::now()), None),
            Err(error) => {
                meters::cache_failure();
                let error = Arc::new(error);
                if state.last_error.replace(error.clone()).is_none() {
                    tracing::warn!(path = %self.path.display(), %error, "configuration cannot be kept for the next run");
                }
                drop(state);
                self.touch();
            }
        }
    }
}

/// When a control plane was last known to stand by what is held.
fn agreed(shared: &Shared) -> SystemTime {
    let age = shared.held().agreement.age(Instant::now());
    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Writing ===

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.write(&self.1);
    }
}

// === impl AtTheEnd ===

impl Drop for AtTheEnd {
    /// Even where nothing has changed: the file says until when it was known to be good. A run that no control plane
    /// has answered has nothing to say to that.
    fn drop(&mut self) {
        if !self.0.is_told.load(Ordering::Acquire) {
            return;
        }
        let writing = Writing(self.0.clone(), self.1.clone());
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(writing))),
            Err(_) => drop(writing),
        }
    }
}
