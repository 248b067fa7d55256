//! The clients that configurations are tried on: ours, and peers, which obey the same commands in a process of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use mesh_core::source::ConfigSource as _;
use mesh_grpc::Channel;
use mesh_grpc::testkit::Raw;
use mesh_http::Mesh;
use mesh_xds_client::XdsClient;
use mesh_xds_client::bootstrap::Bootstrap;
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::{Code, Request, Status};

use super::{Case, Probe, Tally};
use crate::peers::Prober;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for a configuration, once it had its time.
const NO_PATIENCE: Duration = Duration::from_millis(100);
/// Targets that are probed at a time.
const WORKERS: usize = 16;
/// Calls after which a backend that is warmed up for is given up, and so it is after so many failures in a row.
const ENOUGH: u32 = 2000;
const FAILURES: u32 = 100;

/// A gRPC client that is steered by xDS.
pub enum Client {
    /// Ours.
    Ours(Ours),
    /// One that we did not write.
    Peer(Prober),
}

/// Our channel and our xDS client, one of each for every target, as the peers have it.
pub struct Ours {
    bootstrap: Bootstrap,
    /// Until `close`.
    meshes: Vec<Mesh>,
}

// === impl Client ===

impl Client {
    /// Probes targets, several at a time, and leaves their channels open.
    pub async fn probe(&mut self, cases: &[Case]) -> BTreeMap<String, Vec<Tally>> {
        match self {
            Self::Ours(ours) => ours.probe(cases).await,
            Self::Peer(prober) => prober.probe(cases).await,
        }
    }

    /// Closes what [`probe`](Self::probe) opened.
    pub async fn close(&mut self) {
        match self {
            Self::Ours(ours) => ours.meshes.clear(),
            Self::Peer(prober) => prober.close().await,
        }
    }
}

// === impl Ours ===

impl Ours {
    /// A client by this bootstrap, which is that of the peers.
    ///
    /// # Panics
    ///
    /// When it is not valid.
    pub fn new(bootstrap: &str) -> Self {
        let bootstrap = Bootstrap::from_json(bootstrap).expect("a bootstrap that peers read is valid");
        Self { bootstrap, meshes: Vec::new() }
    }

    async fn probe(&mut self, cases: &[Case]) -> BTreeMap<String, Vec<Tally>> {
        let bootstrap = &self.bootstrap;
        let probed =
            futures_util::stream::iter(cases).zip(futures_util::stream::iter(0..)).map(async |(case, seed)| {
                let source = XdsClient::new(bootstrap.clone()).expect("the files of the bootstrap are there");
                let mesh = Mesh::builder().source(source.clone()).seed(seed).build().expect("a test has a runtime");
                let channel = Channel::builder(&*case.name).mesh(&mesh).ready_timeout(NO_PATIENCE).build();
                let channel = channel.expect("a target is all that a steered client needs");
                settle(&source, &channel).await;
                (case.name.clone(), probe_all(channel, &case.probes).await, mesh)
            });
        let probed: Vec<_> = probed.buffer_unordered(WORKERS).collect().await;
        let mut tallies = BTreeMap::new();
        for (name, told, mesh) in probed {
            tallies.insert(name, told);
            self.meshes.push(mesh);
        }
        tallies
    }
}

/// Waits until the target is known, or something of it refused: a peer's calls fail at once then, where ours would wait for
/// something better.
async fn settle(source: &XdsClient, channel: &Channel) {
    let refused = async {
        while source.status().resources.iter().all(|resource| resource.error.is_none()) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let settled = async {
        tokio::select! {
            biased;
            _ = channel.ready() => {}
            () = refused => {}
        }
    };
    // Of a resource without a readable name nothing more is ever heard.
    let _ = timeout(PATIENCE, settled).await;
}

async fn probe_all(channel: Channel, probes: &[Probe]) -> Vec<Tally> {
    let mut tallies = Vec::with_capacity(probes.len());
    for probe in probes {
        warm_up(&channel, probe).await;
        let mut tally = Tally::default();
        for _ in 0..probe.count {
            match call(&channel, probe).await {
                Ok(backend) => *tally.answers.entry(backend).or_default() += 1,
                Err(status) => {
                    *tally.failures.entry(name_of(status.code())).or_default() += 1;
                    if probe.warm.is_empty() {
                        break;
                    }
                }
            }
        }
        tallies.push(tally);
    }
    tallies
}

async fn warm_up(channel: &Channel, probe: &Probe) {
    let mut missing: Vec<_> = probe.warm.iter().collect();
    let mut failed = 0;
    for _ in 0..ENOUGH {
        if missing.is_empty() || failed == FAILURES {
            return;
        }
        match call(channel, probe).await {
            Ok(backend) => {
                missing.retain(|name| **name != backend);
                failed = 0;
            }
            Err(_) => failed += 1,
        }
    }
}

/// Who answered.
async fn call(channel: &Channel, probe: &Probe) -> Result<String, Status> {
    let mut request = Request::new(Bytes::from_static(b"ping"));
    for (name, value) in &probe.metadata {
        let name: tonic::metadata::AsciiMetadataKey = name.parse().expect("a header's name");
        request.metadata_mut().insert(name, value.parse().expect("a header's value"));
    }
    request.set_timeout(PATIENCE);
    let path: PathAndQuery = probe.path.parse().expect("a method's path");
    let answer = async {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        grpc.unary::<_, Bytes, _>(request, path, Raw).await
    };
    let late = || Status::new(Code::DeadlineExceeded, "this client let it wait");
    let answer = timeout(PATIENCE * 2, answer).await.unwrap_or_else(|_| Err(late()))?;
    String::from_utf8(answer.into_inner().to_vec()).map_err(|_| Status::new(Code::Internal, "not a name"))
}

/// As the protocol writes it, in capitals.
fn name_of(code: Code) -> String {
    let words = format!("{code:?}");
    let mut name = String::new();
    for letter in words.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_the_protocol_does() {
        assert_eq!(name_of(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
        assert_eq!(name_of(Code::Unavailable), "UNAVAILABLE");
    }
}
