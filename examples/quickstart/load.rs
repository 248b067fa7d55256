//! Load: callers that send one request after the other until they are told to stop, and a tally of who answered.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Response;
use mesh_examples::echo::{SayRequest, echo_client::EchoClient};
use mesh_grpc::Channel;
use mesh_http::{Body, CallOptions, Client};
use tokio::task::JoinSet;

/// How many callers each client has.
const CALLERS: usize = 8;

/// Who answered how often, and what failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Answers by backend.
    pub(crate) answers: BTreeMap<String, u64>,
    /// What failed, in its own words.
    pub(crate) failures: Vec<String>,
}

/// Load that goes on until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<Tally>,
}

/// The two clients under load, in the words of either.
#[derive(Clone)]
pub(crate) enum Caller {
    /// A hyper-style client.
    Http(Client),
    /// A client that tonic generated.
    Grpc(EchoClient<Channel>),
}

// === impl Tally ===

impl Tally {
    /// All answers.
    pub(crate) fn total(&self) -> u64 {
        self.answers.values().sum()
    }

    /// The share of answers by backends whose name starts so, in percent.
    pub(crate) fn share(&self, name: &str) -> f64 {
        let of =
            self.answers.iter().filter(|(backend, _)| backend.starts_with(name)).map(|(_, count)| count).sum::<u64>();
        100.0 * of as f64 / self.total().max(1) as f64
    }

    fn note(&mut self, answer: Result<String, String>) {
        match answer {
            Ok(backend) => *self.answers.entry(backend).or_default() += 1,
            Err(error) => self.failures.push(error),
        }
    }

    fn merge(&mut self, other: Self) {
        for (backend, count) in other.answers {
            *self.answers.entry(backend).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers: Vec<_> = self.answers.iter().map(|(backend, count)| format!("{backend} {count}")).collect();
        write!(f, "{} answered, {} failed ({})", self.total(), self.failures.len(), answers.join(", "))?;
        match self.failures.first() {
            Some(first) => write!(f, "; first failure: {first}"),
            None => Ok(()),
        }
    }
}

// === impl Load ===

impl Load {
    /// Sends requests as fast as they are answered.
    pub(crate) fn start(caller: &Caller) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (caller, stop) = (caller.clone(), stop.clone());
            callers.spawn(async move {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    tally.note(caller.call().await);
                }
                tally
            });
        }
        Self { stop, callers }
    }

    /// Stops sending, waits for the last answers, and counts.
    pub(crate) async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        while let Some(part) = self.callers.join_next().await {
            tally.merge(part.expect("a caller does not panic"));
        }
        tally
    }
}

// === impl Caller ===

impl Caller {
    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Grpc(_) => "gRPC",
        }
    }

    /// One request; the backend that answered.
    pub(crate) async fn call(&self) -> Result<String, String> {
        match self {
            Self::Http(client) => {
                let response = client.get("http://pages.shop:8080/item/7").await.map_err(|error| error.reason())?;
                backend_of(&response)
            }
            Self::Grpc(client) => {
                let mut request = tonic::Request::new(SayRequest { text: "hello".to_owned() });
                // gRPC methods do not tell, so the caller does: to say hello twice does no harm.
                request.extensions_mut().insert(CallOptions::new().idempotent());
                let reply = client.clone().say(request).await.map_err(|status| status.to_string())?;
                Ok(reply.into_inner().backend)
            }
        }
    }

    /// A number of requests, one after the other.
    pub(crate) async fn calls(&self, count: usize) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..count {
            tally.note(self.call().await);
        }
        tally
    }
}

fn backend_of(response: &Response<Body>) -> Result<String, String> {
    let backend = response.headers().get("x-backend").and_then(|name| name.to_str().ok());
    match (response.status().is_success(), backend) {
        (true, Some(backend)) => Ok(backend.to_owned()),
        (status, _) => Err(format!("status {} (success: {status})", response.status())),
    }
}
