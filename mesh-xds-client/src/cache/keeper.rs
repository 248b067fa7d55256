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
use crate::{meters, status::Shared, worker::in_one_line};

/// Keeps a client's cache file. Its I/O is done where blocking is allowed, and never by the worker.
pub(crate) struct Keeper {
    path: PathBuf,
    scope: Scope,
    interval: Duration,
    found: Found,
    changed: Notify,
    /// Whether something has changed since it was last written.
    is_behind: AtomicBool,
    /// Whether anything has changed in this run: until then the file of the run before is the better one.
    has_news: AtomicBool,
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
                tracing::info!(path = %path.display(), count, age = ?loaded.age, "configuration of an earlier run is at hand");
                (Found::Resources { count, agreed }, Some(loaded))
            }
            Err(reason) => {
                tracing::warn!(path = %path.display(), error = %in_one_line(&reason), "configuration of an earlier run is not used");
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
            has_news: AtomicBool::new(false),
            state: Mutex::default(),
        };
        (Arc::new(keeper), loaded)
    }

    /// Something that is held has changed.
    pub(crate) fn touch(&self) {
        self.has_news.store(true, Ordering::Release);
        if !self.is_behind.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
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
        let state = self.state();
        CacheStatus {
            path: self.path.clone(),
            found: self.found.clone(),
            written: state.written,
            last_error: state.last_error.clone(),
        }
    }

    fn write(&self, shared: &Shared) {
        let mut state = self.state();
        // What changes from here on is for the next time.
        self.is_behind.store(false, Ordering::Release);
        let (dumps, age) = {
            let held = shared.held();
            (held.store.dump(), held.agreement.age(Instant::now()))
        };
        let now = SystemTime::now();
        let agreed = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        match disk::replace(&self.path, &file::encode(&self.scope, agreed, &dumps)) {
            Ok(()) => (state.written, state.last_error) = (Some(now), None),
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Writing ===

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.write(&self.1);
    }
}

// === impl AtTheEnd ===

impl Drop for AtTheEnd {
    /// Even where nothing has changed since: the file says until when it was known to be good.
    fn drop(&mut self) {
        if !self.0.has_news.load(Ordering::Acquire) {
            return;
        }
        let writing = Writing(self.0.clone(), self.1.clone());
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(writing))),
            Err(_) => drop(writing),
        }
    }
}
