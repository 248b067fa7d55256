//! The protocol machine and the control plane of the test kit, in one conversation: through memory, in one thread, under a
//! paused clock.
//!
//! The [`Driver`] is the thinnest shell that a session can live in. It accepts what decodes and writes down what happens.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use hyper_util::rt::TokioIo;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::bootstrap::Node;
use mesh_xds_client::session::{Batch, Config, Event, Request, ResourceError, Session, Verdict};
use mesh_xds_client::testkit::resource::cluster;
use mesh_xds_client::testkit::{self, ControlPlane};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

const CDS: ResourceKind = ResourceKind::Cluster;

struct Driver {
    plane: ControlPlane,
    session: Session,
    stream: Option<(mpsc::UnboundedSender<DiscoveryRequest>, Streaming<DiscoveryResponse>)>,
    log: Vec<String>,
}

impl Driver {
    fn new(plane: &ControlPlane, seed: u64) -> Self {
        let session = Session::new(Config::default(), Node::new("driver").to_proto(), seed);
        Self { plane: plane.clone(), session, stream: None, log: Vec::new() }
    }

    /// Runs until `seconds` have passed.
    async fn run(&mut self, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            self.act().await;
            let wake = self.session.next_timeout().map_or(end, |due| due.min(end));
            tokio::select! {
                biased;
                response = next(&mut self.stream) => match response {
                    Ok(Some(response)) => self.session.received(response, Instant::now()),
                    Ok(None) => self.lose("end of stream"),
                    Err(status) => self.lose(status.message()),
                },
                () = tokio::time::sleep_until(wake) => self.session.timeout(Instant::now()),
            }
        }
        self.act().await;
    }

    fn lose(&mut self, cause: &str) {
        self.stream = None;
        self.session.stream_ended(cause, Instant::now());
    }

    async fn act(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.obey(event).await;
        }
        let Some((requests, _)) = &self.stream else { return };
        while let Some(Request::StateOfTheWorld(request)) = self.session.poll_request(Instant::now()) {
            let _ = requests.send(request);
        }
    }

    async fn obey(&mut self, event: Event) {
        match event {
            Event::Connect => match self.connect().await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.session.stream_opened();
                }
                Err(status) => self.lose(status.message()),
            },
            Event::Deliver(batch) => {
                let (mut batch, mut verdict): (Batch, _) = (*batch, Verdict::default());
                for resource in batch.by_ref() {
                    match Cluster::decode(resource.body.value.clone()) {
                        Ok(cluster) => verdict.accepted.push(cluster.name.into()),
                        Err(_) => verdict.rejected.push(ResourceError {
                            name: None,
                            field: None,
                            message: "not protobuf".to_owned(),
                        }),
                    }
                }
                self.log.push(format!("version {}: {:?}", batch.version, verdict.accepted));
                self.session.answer(batch.into_ticket(), verdict, Instant::now());
            }
            Event::Absent { name, reason, .. } => self.log.push(format!("absent {name}: {reason:?}")),
            Event::Lost { was_live, .. } => self.log.push(format!("lost, live {was_live}")),
            _ => {}
        }
    }

    async fn connect(&self) -> Result<(mpsc::UnboundedSender<DiscoveryRequest>, Streaming<DiscoveryResponse>), Status> {
        let plane = self.plane.clone();
        let connector = tower::service_fn(move |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(plane.serve_connection(theirs));
            async move { Ok::<_, std::io::Error>(TokioIo::new(ours)) }
        });
        let channel = Endpoint::from_static("http://plane").connect_with_connector(connector).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let (requests, outgoing) = mpsc::unbounded_channel();
        let outgoing = UnboundedReceiverStream::new(outgoing);
        let response = AggregatedDiscoveryServiceClient::new(channel).stream_aggregated_resources(outgoing).await?;
        Ok((requests, response.into_inner()))
    }
}

async fn next(
    stream: &mut Option<(mpsc::UnboundedSender<DiscoveryRequest>, Streaming<DiscoveryResponse>)>,
) -> Result<Option<DiscoveryResponse>, Status> {
    match stream {
        Some((_, responses)) => responses.message().await,
        None => std::future::pending().await,
    }
}

/// A story with everything in it: delivery, removal, refusal, a name that comes late, streams that end and are cut.
async fn story(seed: u64) -> (Vec<String>, Vec<String>) {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut driver = Driver::new(&plane, seed);
    driver.session.subscribe(CDS, "a");
    driver.session.subscribe(CDS, "late");
    driver.run(20).await;
    plane.set(cluster("late"));
    driver.run(1).await;
    plane.remove(CDS, "a");
    driver.run(1).await;
    plane.raw(CDS, "late", Any { type_url: CDS.type_url().to_owned(), value: vec![0xff; 3] });
    driver.run(1).await;
    plane.end_streams(Status::unavailable("restarting"));
    driver.run(5).await;
    plane.abort_connections();
    plane.set(cluster("late"));
    driver.run(5).await;
    let events = plane.events().iter().map(|event| format!("{event:?}")).collect();
    (driver.log, events)
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_through_delivery_removal_refusal_and_lost_streams() {
    let (log, _) = story(1).await;
    assert_eq!(
        log,
        [
            r#"version 1: ["a"]"#,
            "absent late: NotFoundTimer",
            r#"version 2: ["a", "late"]"#,
            r#"version 3: ["late"]"#,
            "absent a: Removed",
            "version 4: []",
            "lost, live true",
            "version 4: []",
            "lost, live true",
            r#"version 5: ["late"]"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn every_response_is_answered_once_on_each_stream() {
    let plane = ControlPlane::new();
    let mut driver = Driver::new(&plane, 1);
    plane.set(cluster("a"));
    driver.session.subscribe(CDS, "a");
    driver.run(1).await;
    plane.end_streams(Status::unavailable("restarting"));
    driver.run(5).await;
    let requests = plane.events().into_iter().filter_map(|event| event.request().cloned());
    let seen: Vec<_> = requests.map(|one| (one.has_node, one.version, one.answers.is_some())).collect();
    let version = "1".to_owned();
    assert_eq!(
        seen,
        [
            (true, String::new(), false),
            (false, version.clone(), true),
            // Of all that is held, for which a server could have no news, one kind is asked for anew.
            (true, String::new(), false),
            (false, version, true)
        ]
    );
}

#[tokio::test]
async fn the_same_seed_tells_the_same_story() {
    let tell = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        std::thread::spawn(move || runtime.expect("a runtime").block_on(story(7))).join().expect("the story ends")
    };
    assert_eq!(tell(), tell());
}

#[tokio::test(start_paused = true)]
async fn a_stream_cut_every_100_ms_neither_stalls_nor_loses_what_is_held() {
    let plane = ControlPlane::new();
    let mut driver = Driver::new(&plane, 3);
    plane.set(cluster("a"));
    driver.session.subscribe(CDS, "a");
    let cutter = tokio::spawn({
        let plane = plane.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                plane.abort_connections();
            }
        }
    });
    driver.run(60).await;
    cutter.abort();
    assert!(!driver.log.iter().any(|line| line.starts_with("absent")), "{:?}", driver.log);
    let opened = plane.events().iter().filter(|event| matches!(event, testkit::Event::StreamOpened { .. })).count();
    assert!((20..=600).contains(&opened), "{opened} streams in a minute");

    let version = plane.set(cluster("a"));
    driver.run(5).await;
    plane.wait_acked(CDS, &version).await.expect("accepted");
}

#[tokio::test(start_paused = true)]
async fn a_silent_control_plane_makes_names_absent_once_and_heals() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.silence(true);
    let mut driver = Driver::new(&plane, 3);
    driver.session.subscribe(CDS, "a");
    driver.run(100).await;
    assert_eq!(driver.log, ["absent a: NotFoundTimer"]);
    plane.silence(false);
    driver.run(1).await;
    assert_eq!(driver.log[1..], [r#"version 1: ["a"]"#]);
}
