//! Where a source is followed: on a thread of the mesh's own, which holds up nobody and ends with the mesh, or on its runtime.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc as blocking,
    },
    thread,
    time::Duration,
};

use client_support::{Said, Zone, named, text};
use mesh_core::{
    config::{
        Address, Cluster, ClusterEntry, Discovery, DnsEndpoints, DnsName, Endpoint, Endpoints, Listener, RouteConfig,
        Snapshot, TargetState,
    },
    source::{ConfigSource, Interest, SourceStatus, Work},
};
use mesh_http::{
    Client, Control, Mesh,
    connect::{Connect, Connecting},
    resolve::{Resolve, Resolving},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};

const OWN: &str = "mesh-control";

/// A source whose work holds its thread when it is told to, and which tells where and how it ends.
#[derive(Clone)]
struct Plane {
    said: Said,
    hold: Arc<Notify>,
    release: Arc<Mutex<blocking::Receiver<()>>>,
    news: mpsc::UnboundedSender<News>,
    /// Set by the blocking work with which it ends.
    is_written: Arc<AtomicBool>,
}

/// The other end.
struct Watched {
    plane: Plane,
    news: mpsc::UnboundedReceiver<News>,
    release: blocking::Sender<()>,
}

#[derive(Debug, PartialEq)]
enum News {
    /// The work was begun on the thread of this name.
    Begun(String),
    /// It holds its thread.
    Holds,
    /// The thread is gone.
    ThreadEnded,
}

thread_local! {
    /// Dropped when the thread ends.
    static AT_THE_END: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
}

struct AtTheEnd(mpsc::UnboundedSender<News>);

/// Writes when it is dropped, by blocking work, which a runtime that ends may drop before it is begun.
struct LastWords(Arc<AtomicBool>);

struct Writing(Arc<AtomicBool>);

impl Watched {
    fn new() -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        let (release, released) = blocking::channel();
        let release_end = Arc::new(Mutex::new(released));
        let said = Said::default();
        said.0.send_replace(snapshot(Discovery::Endpoints("books".into())));
        let plane = Plane { said, hold: Arc::default(), release: release_end, news: tell, is_written: Arc::default() };
        Self { plane, news, release }
    }

    async fn next(&mut self) -> News {
        timeout(Duration::from_secs(60), self.news.recv()).await.expect("there are news").unwrap()
    }

    fn next_blocking(&mut self) -> News {
        self.news.blocking_recv().unwrap()
    }

    fn client(&self, control: Option<Control>) -> Client {
        let builder = Mesh::builder().source(self.plane.clone()).connector(named()).seed(1);
        let builder = match control {
            Some(control) => builder.control(control),
            None => builder,
        };
        Client::builder("shop").mesh(&builder.build().unwrap()).build().unwrap()
    }

    /// Requests are answered, and the status is told, while the source holds its thread.
    async fn holds_up_nobody(mut self, control: Option<Control>) {
        let client = self.client(control);
        assert_eq!(self.next().await, News::Begun(OWN.into()));
        client.ready().await.unwrap();
        self.plane.hold.notify_one();
        assert_eq!(self.next().await, News::Holds);
        for _ in 0..10 {
            let answer = timeout(Duration::from_secs(60), client.get("http://shop/")).await.expect("in time").unwrap();
            assert_eq!(text(answer).await, "10.0.0.1:80");
        }
        assert_eq!(client.status().clusters.len(), 1);
        self.release.send(()).unwrap();
        drop(client);
        assert_eq!(self.next().await, News::ThreadEnded);
    }
}

impl ConfigSource for Plane {
    fn watch(&self, target: &str) -> Interest {
        self.said.watch(target)
    }

    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.said.snapshots()
    }

    fn work(&self) -> Work {
        let this = self.clone();
        let is_asked_by_own = thread_name() == OWN;
        Box::pin(async move {
            let begun = thread_name();
            assert_eq!(begun == OWN, is_asked_by_own, "who has a thread for the work asks for it there");
            AT_THE_END.set(Some(AtTheEnd(this.news.clone())));
            let _last_words = LastWords(this.is_written.clone());
            let _ = this.news.send(News::Begun(begun));
            this.hold.notified().await;
            let _ = this.news.send(News::Holds);
            let _ = this.release.lock().unwrap().recv();
            std::future::pending().await
        })
    }

    fn status(&self) -> SourceStatus {
        self.said.status()
    }
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let _ = self.0.send(News::ThreadEnded);
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let writing = Writing(self.0.clone());
        spawn_blocking(move || drop(writing));
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

fn snapshot(discovery: Discovery) -> Arc<Snapshot> {
    let mut cluster = Cluster::new("books").unwrap();
    cluster.policy.connections.connect_ahead = Some(8);
    let endpoint = Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 80)));
    let endpoints =
        matches!(discovery, Discovery::Endpoints(_)).then(|| Arc::new(Endpoints::flat(vec![endpoint]).unwrap()));
    cluster.discovery = discovery;
    let routes = Listener::new("shop", Arc::new(RouteConfig::to_cluster("routes", "books")));
    Arc::new(Snapshot {
        generation: 1,
        targets: [("shop".into(), TargetState::Ready(Arc::new(routes)))].into(),
        clusters: [("books".into(), ClusterEntry { cluster: Arc::new(cluster), endpoints })].into(),
    })
}

fn one_worker() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

// --- who waits for whom ---

#[test]
fn source_that_holds_its_thread_holds_up_no_request_of_a_runtime_of_several() {
    one_worker().block_on(async { tokio::spawn(Watched::new().holds_up_nobody(None)).await.unwrap() });
}

#[tokio::test]
async fn nor_of_a_current_thread_runtime_if_asked_for() {
    Watched::new().holds_up_nobody(Some(Control::OwnThread)).await;
}

#[tokio::test]
async fn mesh_of_a_current_thread_runtime_stays_in_its_thread() {
    let mut watched = Watched::new();
    let client = watched.client(None);
    assert_eq!(watched.next().await, News::Begun(thread_name()));
    client.ready().await.unwrap();
}

#[test]
fn mesh_of_a_runtime_of_several_may_stay_there() {
    one_worker().block_on(async {
        let mut watched = Watched::new();
        let _client = watched.client(Some(Control::Runtime));
        let News::Begun(name) = watched.next().await else { panic!("it begins first") };
        assert_ne!(name, OWN);
    });
}

/// Notes on which threads it is asked.
#[derive(Clone)]
struct Noted<T>(T, Arc<Mutex<BTreeSet<String>>>);

impl<T> Noted<T> {
    fn note(&self) {
        self.1.lock().unwrap().insert(thread_name());
    }
}

impl<T: Connect> Connect for Noted<T> {
    fn connect(&self, address: &Address) -> Connecting {
        self.note();
        self.0.connect(address)
    }
}

impl<T: Resolve> Resolve for Noted<T> {
    fn resolve(&self, host: &str) -> Resolving {
        self.note();
        self.0.resolve(host)
    }
}

#[tokio::test]
async fn connections_and_look_ups_belong_to_the_runtime_whoever_begins_them() {
    let mut watched = Watched::new();
    let (zone, notes) = (Zone::new(), Arc::<Mutex<BTreeSet<_>>>::default());
    zone.set("one.example", Some(&[1]));
    let (connector, resolver) = (Noted(named(), notes.clone()), Noted(zone, notes.clone()));
    let mesh = Mesh::builder().source(watched.plane.clone()).connector(connector).resolver(resolver);
    let mesh = mesh.control(Control::OwnThread).build().unwrap();
    let client = Client::builder("shop").mesh(&mesh).build().unwrap();
    assert_eq!(watched.next().await, News::Begun(OWN.into()));
    client.ready().await.unwrap();
    // The thread connects ahead, and has a name looked up.
    let names = Endpoints::by_name([DnsName::new("one.example", 80).unwrap()]).unwrap();
    watched.plane.said.0.send_replace(snapshot(Discovery::Dns(Arc::new(DnsEndpoints::strict(names)))));
    while notes.lock().unwrap().is_empty() || client.status().pools.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(text(client.get("http://shop/").await.unwrap()).await, "10.0.0.1:80");
    assert_eq!(*notes.lock().unwrap(), [thread_name()].into());
}

// --- its end ---

#[tokio::test]
async fn thread_ends_with_the_last_handle() {
    let mut watched = Watched::new();
    let client = watched.client(Some(Control::OwnThread));
    let other = client.clone();
    assert_eq!(watched.next().await, News::Begun(OWN.into()));
    drop(client);
    assert_eq!(text(other.get("http://shop/").await.unwrap()).await, "10.0.0.1:80");
    drop(other);
    assert_eq!(watched.next().await, News::ThreadEnded);
}

#[tokio::test]
async fn shutdown_ends_the_thread_and_what_it_had_to_write() {
    let mut watched = Watched::new();
    let client = watched.client(Some(Control::OwnThread));
    assert_eq!(watched.next().await, News::Begun(OWN.into()));
    client.ready().await.unwrap();
    assert!(client.shutdown(Duration::from_secs(60)).await);
    assert!(watched.plane.is_written.load(SeqCst));
    assert_eq!(watched.next().await, News::ThreadEnded);
}

#[test]
fn runtime_waits_for_what_the_thread_of_a_dropped_mesh_has_to_write() {
    for runtime in [one_worker(), Builder::new_current_thread().enable_all().build().unwrap()] {
        let mut watched = Watched::new();
        runtime.block_on(async {
            let client = watched.client(Some(Control::OwnThread));
            assert_eq!(watched.next().await, News::Begun(OWN.into()));
            drop(client);
        });
        drop(runtime);
        assert!(watched.plane.is_written.load(SeqCst));
        assert_eq!(watched.next_blocking(), News::ThreadEnded);
    }
}

#[test]
fn thread_ends_with_the_runtime_that_it_works_for() {
    for runtime in [one_worker(), Builder::new_current_thread().enable_all().build().unwrap()] {
        let mut watched = Watched::new();
        let client = runtime.block_on(async { watched.client(Some(Control::OwnThread)) });
        assert_eq!(watched.next_blocking(), News::Begun(OWN.into()));
        drop(runtime);
        assert_eq!(watched.next_blocking(), News::ThreadEnded);
        assert_eq!(client.status().targets.len(), 1);
    }
}

#[test]
fn thread_for_a_runtime_that_is_gone_ends_at_once() {
    let runtime = one_worker();
    let gone = runtime.handle().clone();
    drop(runtime);
    let watched = Watched::new();
    let mesh = Mesh::builder().source(watched.plane.clone()).runtime(gone).control(Control::OwnThread).build();
    let Watched { plane, mut news, .. } = watched;
    drop((mesh.unwrap(), plane));
    while let Some(news) = news.blocking_recv() {
        assert_ne!(news, News::Holds);
    }
}

#[test]
fn mesh_needs_a_runtime_beside_its_thread() {
    let built = Mesh::builder().source(Said::default()).control(Control::OwnThread).build();
    assert_eq!(built.unwrap_err().config_error().unwrap().field(), "runtime");
}

/// A source that has said something and cannot work.
struct Broken(Said, fn() -> Work);

impl ConfigSource for Broken {
    fn watch(&self, target: &str) -> Interest {
        self.0.watch(target)
    }

    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.snapshots()
    }

    fn work(&self) -> Work {
        self.1()
    }

    fn status(&self) -> SourceStatus {
        self.0.status()
    }
}

#[tokio::test]
async fn what_a_source_has_said_is_followed_though_its_work_panics() {
    let breaks: [fn() -> Work; 2] = [|| panic!("no work"), || Box::pin(async { panic!("no more work") })];
    for work in breaks {
        let said = Said::default();
        let mesh = Mesh::builder().source(Broken(said.clone(), work)).connector(named()).control(Control::OwnThread);
        let client = Client::builder("shop").mesh(&mesh.build().unwrap()).build().unwrap();
        said.0.send_replace(snapshot(Discovery::Endpoints("books".into())));
        timeout(Duration::from_secs(60), client.ready()).await.expect("it is followed").unwrap();
        assert_eq!(text(client.get("http://shop/").await.unwrap()).await, "10.0.0.1:80");
    }
}

#[tokio::test]
async fn shutdown_waits_no_longer_than_it_is_told_for_a_source_that_holds_its_thread() {
    let mut watched = Watched::new();
    let client = watched.client(Some(Control::OwnThread));
    assert_eq!(watched.next().await, News::Begun(OWN.into()));
    watched.plane.hold.notify_one();
    assert_eq!(watched.next().await, News::Holds);
    let ended = timeout(Duration::from_secs(60), client.shutdown(Duration::from_millis(1))).await;
    assert!(ended.expect("it does not wait for the thread"), "there are no connections");
    watched.release.send(()).unwrap();
    assert_eq!(watched.next().await, News::ThreadEnded);
}

#[test]
fn runtime_that_is_told_not_to_wait_does_not_wait_for_the_thread() {
    let endings: [fn(Runtime); 2] = [Runtime::shutdown_background, |runtime| runtime.shutdown_timeout(Duration::ZERO)];
    for end in endings {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut watched = Watched::new();
        let _client = runtime.block_on(async {
            let client = watched.client(Some(Control::OwnThread));
            assert_eq!(watched.next().await, News::Begun(OWN.into()));
            watched.plane.hold.notify_one();
            assert_eq!(watched.next().await, News::Holds);
            client
        });
        let (tell, ended) = blocking::channel();
        thread::spawn(move || {
            end(runtime);
            let _ = tell.send(());
        });
        ended.recv_timeout(Duration::from_secs(60)).expect("it does not wait for the thread");
        watched.release.send(()).unwrap();
        assert_eq!(watched.next_blocking(), News::ThreadEnded);
    }
}
