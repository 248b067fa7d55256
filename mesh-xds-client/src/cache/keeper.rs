//! Writes the file: some time after something has changed, and at the end.

use std::{
    collections::HashSet,
    io, mem,
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
use crate::{ResourceKind, causes::in_one_line, meters, status::Shared, store::Dump};

/// Keeps a client's cache file. Its I/O is done where blocking is allowed, and never by the worker.
pub(crate) struct Keeper {
    path: PathBuf,
    scope: Scope,
    interval: Duration,
    found: Found,
    changed: Notify,
    /// Whether a control plane has answered in this run.
    is_told: AtomicBool,
    /// Locked before what is held, by those who need both, and never while the file is read or written.
    pending: Mutex<Pending>,
    /// For moments, and never while the file is read or written: whoever asks for the status may be on a task.
    state: Mutex<State>,
    /// Held by the one who writes the file, so that the last writing of a run begins when the one before has ended. Nobody else
    /// ever waits for it.
    turn: Mutex<()>,
}

/// What is still to be written.
#[derive(Default)]
struct Pending {
    /// Whether something has changed since it was last written.
    is_behind: bool,
    /// Whether what is forgotten is to be written all the same. See [`releasing`](Keeper::releasing).
    is_leaving: bool,
    /// What is to be written though nobody may want it any longer.
    gone: Vec<Dump>,
    /// When a control plane was last known to stand by what was held, as of the last time that a target was let go of.
    agreed: Option<SystemTime>,
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
                let (path, age) = (path.display(), loaded.age(Instant::now()));
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
            is_told: AtomicBool::new(false),
            pending: Mutex::default(),
            state: Mutex::default(),
            turn: Mutex::default(),
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
        let mut pending = lock(&self.pending);
        (pending.is_leaving, pending.gone) = (false, Vec::new());
        if !mem::replace(&mut pending.is_behind, true) {
            self.changed.notify_one();
        }
    }

    /// A target is about to be let go of, and what it needed [with it](Self::forgetting).
    ///
    /// That is how a program ends: its clients go first, one by one. The next run will want what they had, so where something
    /// is still to be written that is what is held now, unless there are other changes after it. How old it is cannot be told
    /// any longer when nothing is held, and is noted too.
    pub(crate) fn releasing(&self, shared: &Shared) {
        let mut pending = lock(&self.pending);
        pending.agreed = agreed(shared).or(pending.agreed);
        pending.is_leaving = pending.is_behind;
    }

    /// A resource is about to be forgotten. Nothing else is looked at: there may be thousands, and this is the worker.
    pub(crate) fn forgetting(&self, shared: &Shared, kind: ResourceKind, name: &Arc<str>) {
        let mut pending = lock(&self.pending);
        if pending.is_leaving {
            pending.gone.extend(shared.held().store.get(kind, name).map(|entry| entry.dump(kind, name)));
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
        let _turn = lock(&self.turn);
        let (dumps, agreed) = self.take(shared);
        let contents = match &dumps {
            Some(dumps) => Some(file::encode(&self.scope, agreed, dumps)),
            None => self.renewed(agreed),
        };
        let Some(contents) = contents else { return };
        match disk::replace(&self.path, &contents) {
            Ok(()) => *lock(&self.state) = State { written: Some(SystemTime::now()), last_error: None },
            Err(error) => self.failed(error, dumps),
        }
    }

    /// What is to be written, if anything has changed, and as of when. What changes from here on is for the next time.
    ///
    /// Whoever [forgets a resource](Self::forgetting) waits until it is taken: there is nothing in between by which what is
    /// held is neither kept nor written.
    fn take(&self, shared: &Shared) -> (Option<Vec<Dump>>, SystemTime) {
        let mut pending = lock(&self.pending);
        let is_behind = mem::take(&mut pending.is_behind);
        pending.is_leaving = false;
        let gone = mem::take(&mut pending.gone);
        let dumps = is_behind.then(|| {
            let held = shared.held().store.dump();
            with_gone(held, gone)
        });
        (dumps, agreed(shared).or(pending.agreed).unwrap_or_else(SystemTime::now))
    }

    /// The file that is there, as of now.
    fn renewed(&self, agreed: SystemTime) -> Option<Vec<u8>> {
        let before = disk::read(&self.path).ok().flatten();
        before.and_then(|file| file::renew(&file, &self.scope, agreed))
    }

    /// The file could not be written. What it was to hold is tried again, unless there are other changes meanwhile.
    fn failed(&self, error: io::Error, dumps: Option<Vec<Dump>>) {
        meters::cache_failure();
        let error = Arc::new(error);
        if lock(&self.state).last_error.replace(error.clone()).is_none() {
            tracing::warn!(path = %self.path.display(), %error, "configuration cannot be kept for the next run");
        }
        let mut pending = lock(&self.pending);
        if let Some(dumps) = dumps
            && !mem::replace(&mut pending.is_behind, true)
        {
            (pending.is_leaving, pending.gone) = (true, dumps);
            self.changed.notify_one();
        }
    }
}

/// What is held, and what was before, where that is not held any longer.
fn with_gone(mut held: Vec<Dump>, mut gone: Vec<Dump>) -> Vec<Dump> {
    let good = held.iter().filter(|dump| dump.good.is_some());
    let good: HashSet<_> = good.map(|dump| (dump.kind.index(), &*dump.name)).collect();
    gone.retain(|dump| !good.contains(&(dump.kind.index(), &*dump.name)));
    held.append(&mut gone);
    held
}

/// When a control plane was last known to stand by what is held, if anything is.
fn agreed(shared: &Shared) -> Option<SystemTime> {
    let held = shared.held();
    let age = (!held.agreements.is_nothing()).then(|| held.agreements.age(Instant::now()))?;
    Some(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use bytes::Bytes;
    use envoy_types::pb::envoy::config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment};
    use mesh_core::source::ResourceState;
    use prost::Message;

    use super::*;
    use crate::{
        resource::Context,
        store::{AuthorityId, Contents, DumpedGood, Saved},
    };

    fn scope() -> Scope {
        Scope { node_id: String::new(), node_cluster: String::new(), servers: Vec::new() }
    }

    const EDS: ResourceKind = ResourceKind::ClusterLoadAssignment;

    /// Has the store hold endpoints of this name.
    fn hold(shared: &Shared, name: &Arc<str>) {
        let assignment = ClusterLoadAssignment { cluster_name: name.to_string(), ..Default::default() };
        let (version, contents) = ("1".into(), assignment.encode_to_vec().into());
        let store = &mut shared.held().store;
        store.keep_contents();
        store.want(EDS, name, AuthorityId::default());
        let saved = Saved { version, updated: SystemTime::now(), contents };
        store.restore(EDS, name, saved, &Context::new()).expect("usable");
    }

    /// Waits until a writer has begun, which has to wait for the store.
    fn wait_for_begun(keeper: &Keeper) {
        while keeper.pending.try_lock().is_ok_and(|pending| pending.is_behind) {
            thread::yield_now();
        }
    }

    #[test]
    fn status_is_told_while_the_file_is_being_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let (keeper, _) = Keeper::open(directory.path().join("xds.cache"), scope(), Duration::ZERO);
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        keeper.tell();
        keeper.touch();
        // A writer that has begun, and has to wait for the store before it comes to an end.
        let held = shared.held();
        let writing = Writing(keeper.clone(), shared.clone());
        let writer = thread::spawn(move || drop(writing));
        wait_for_begun(&keeper);
        let (tell, told) = mpsc::channel();
        let asked = keeper.clone();
        thread::spawn(move || tell.send(asked.status().written));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(None), "nobody waits for the writer");
        drop(held);
        writer.join().expect("it does not panic");
        assert!(keeper.status().written.is_some());
    }

    #[test]
    fn target_that_is_let_go_of_while_a_writing_begins_is_in_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        let (keeper, _) = Keeper::open(path.clone(), scope(), Duration::ZERO);
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        let name = Arc::from("shop");
        hold(&shared, &name);
        let held = shared.held();
        keeper.tell();
        keeper.touch();
        let writing = Writing(keeper.clone(), shared.clone());
        let writer = thread::spawn(move || drop(writing));
        wait_for_begun(&keeper);
        // Whoever forgets a resource asks for this first, and waits until the writer has what is held.
        for _ in 0..1_000 {
            assert!(keeper.pending.try_lock().is_err(), "what is let go of now is in no file");
            thread::yield_now();
        }
        drop(held);
        keeper.releasing(&shared);
        keeper.forgetting(&shared, EDS, &name);
        shared.held().store.forget(EDS, &name);
        writer.join().expect("it does not panic");
        let (_, loaded) = Keeper::open(path, scope(), Duration::ZERO);
        assert_eq!(loaded.expect("written").count(), 1);
    }

    #[test]
    fn what_is_forgotten_after_a_target_was_let_go_of_is_still_written_and_what_stays_is_not_copied_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xds.cache");
        let (keeper, _) = Keeper::open(path.clone(), scope(), Duration::ZERO);
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        let names = ["a", "b", "c"].map(Arc::from);
        names.iter().for_each(|name| hold(&shared, name));
        let forget = |name| {
            keeper.forgetting(&shared, EDS, name);
            shared.held().store.forget(EDS, name);
        };
        let gone = || lock(&keeper.pending).gone.len();
        let written = || {
            keeper.write(&shared);
            Keeper::open(path.clone(), scope(), Duration::ZERO).1.expect("written").count()
        };
        keeper.tell();
        keeper.touch();
        keeper.releasing(&shared);
        assert_eq!(gone(), 0);
        forget(&names[0]);
        assert_eq!((gone(), written()), (1, 3));
        forget(&names[1]);
        assert_eq!((gone(), written()), (0, 3), "the file has it already");
        keeper.touch();
        assert_eq!(written(), 1);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_though_nobody_wants_it_any_longer() {
        let directory = tempfile::tempdir().expect("a directory");
        let (place, scope) = (directory.path().join("later"), scope());
        let (keeper, _) = Keeper::open(place.join("xds.cache"), scope.clone(), Duration::ZERO);
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        keeper.tell();
        keeper.touch();
        let (version, updated, contents) = ("1".into(), SystemTime::now(), Some(Contents::new(Bytes::new())));
        let good = DumpedGood { version, updated, contents, is_mortal: false };
        lock(&keeper.pending).gone = vec![Dump {
            kind: ResourceKind::Cluster,
            name: "shop".into(),
            state: ResourceState::Synced,
            is_answered: true,
            good: Some(good),
            failure: None,
        }];
        keeper.write(&shared);
        assert!(keeper.status().last_error.is_some());
        std::fs::create_dir(&place).expect("made");
        keeper.write(&shared);
        let (_, loaded) = Keeper::open(place.join("xds.cache"), scope, Duration::ZERO);
        assert_eq!(loaded.expect("written").count(), 1);
    }
}
