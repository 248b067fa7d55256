//! A process of an Istio mesh, without a sidecar and without an agent: what runs in the pod of `pod.yaml`. It calls a service
//! a hundred times a second. You will see, each second, by which route the calls went, who answered how many of them (told by
//! how the answers begin), and how the others failed; and why, as long as they have nowhere to go:
//!
//! ```text
//! canary-10: reviews-v1 91, reviews-v2 9
//! ```
//!
//! `CALLS` is how many calls it makes; without it they go on until SIGTERM or ctrl-c. To try it outside a pod, with an istiod
//! that `kubectl port-forward` brings near, set the variables of `pod.yaml`, and moreover `POD_ROOT` to a directory that stands
//! for `/`, `PROXY_CONFIG` to `{"discoveryAddress":"127.0.0.1:15012"}`, and `ISTIOD_SAN` to `istiod.istio-system.svc`.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::{collections::BTreeMap, env, error::Error, io, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use mesh_core::source::ResourceState;
use mesh_http::{CallOptions, Client, Mesh};
use mesh_xds_client::istio::Workload;
use tokio::{
    select, signal,
    task::JoinSet,
    time::{Instant, interval, interval_at},
};

/// A hundred calls a second, and no more than so many at a time.
const PACE: Duration = Duration::from_millis(10);
const MOST: usize = 100;
/// How long a call may take, and so how long the process does once it is told to end.
const LIMIT: Duration = Duration::from_secs(4);
/// How long it waits for the first route at most; less, so that it can say why there is none.
const PATIENCE: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

/// The route that a call took, and who answered it, or why nobody did.
type Call = (String, Result<String, String>);

/// What became of the calls.
#[derive(Default)]
struct Tally {
    /// By route, since the last report.
    routes: BTreeMap<String, BTreeMap<Result<String, String>, u64>>,
    failed: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url: Uri = env::args().nth(1).ok_or("say what to call, such as http://reviews.shop:9080/reviews/0")?.parse()?;
    let target = url.authority().ok_or("say what to call with its host and port")?.as_str();
    let mut calls = env::var("CALLS").map_or(Ok(u64::MAX), |calls| calls.parse())?;

    let workload = match env::var_os("POD_ROOT") {
        None => Workload::from_env()?,
        Some(root) => Workload::from_environment(env::vars(), root)?,
    };
    let mesh = Mesh::builder().source(workload.client()?.build()?).build()?;
    let client = Client::builder(target).mesh(&mesh).ready_timeout(PATIENCE).build()?;

    let (mut made, mut tally, mut last_trouble) = (0, Tally::default(), String::new());
    let (mut pace, mut second) = (interval(PACE), interval_at(Instant::now() + SECOND, SECOND));
    let (mut under_way, mut end) = (JoinSet::new(), pin!(told_to_end()));
    while made < calls || !under_way.is_empty() {
        select! {
            biased;
            told = &mut end, if made < calls => {
                told?;
                calls = made;
            }
            _ = second.tick() => {
                tally.report();
                let trouble = trouble(&mesh).unwrap_or_default();
                if !trouble.is_empty() && trouble != last_trouble {
                    println!("{target}: {trouble}");
                }
                last_trouble = trouble;
            }
            Some(call) = under_way.join_next() => tally.count(call?),
            _ = pace.tick(), if made < calls && under_way.len() < MOST => {
                made += 1;
                under_way.spawn(call(client.clone(), url.clone()));
            }
        }
    }
    mesh.shutdown(LIMIT).await;
    tally.report();
    println!("{made} calls, {} failed", tally.failed);
    Ok(())
}

async fn call(client: Client, url: Uri) -> Call {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = url;
    request.extensions_mut().insert(CallOptions::new().within(LIMIT));
    // Before the first, a call waits for it.
    let route = route(&client, &request).unwrap_or_else(|| "no route yet".into());
    (route, answer(&client, request).await)
}

/// The name of the route that the request will take.
fn route(client: &Client, request: &Request<Empty<Bytes>>) -> Option<String> {
    let explanation = client.explain(request)?;
    explanation.outcome().ok()?;
    Some(explanation.tried().last()?.route.name.to_string())
}

async fn answer(client: &Client, request: Request<Empty<Bytes>>) -> Result<String, String> {
    let response = client.request(request).await.map_err(|error| error.reason())?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("status {status}"));
    }
    let body = response.into_body().collect().await.map_err(|error| error.reason())?.to_bytes();
    Ok(String::from_utf8_lossy(&body).lines().next().unwrap_or_default().chars().take(60).collect())
}

/// Why the calls have nowhere to go, where that is so: the mesh's word, and what its source is waiting for.
fn trouble(mesh: &Mesh) -> Option<String> {
    let status = mesh.status();
    let unavailable = status.targets.iter().find_map(|target| target.unavailable.as_ref())?;
    let source = status.source?;
    let connected = if source.connected { "connected" } else { "not connected" };
    let mut lines = vec![unavailable.to_string(), format!("{}: {connected}", source.server)];
    lines.extend(source.last_error);
    for resource in source.resources.into_iter().filter(|resource| resource.state != ResourceState::Synced) {
        let why = resource.error.unwrap_or_else(|| format!("{:?}", resource.state));
        lines.push(format!("{} `{}`: {why}", resource.kind, resource.name));
    }
    Some(lines.join("\n  "))
}

/// Waits for SIGTERM, which ends a pod, or for ctrl-c.
async fn told_to_end() -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminated = signal::unix::signal(signal::unix::SignalKind::terminate())?;
        select! {
            _ = terminated.recv() => Ok(()),
            interrupted = signal::ctrl_c() => interrupted,
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, (route, answer): Call) {
        self.failed += u64::from(answer.is_err());
        *self.routes.entry(route).or_default().entry(answer).or_default() += 1;
    }

    /// Prints a line for each route that was taken.
    fn report(&mut self) {
        for (route, answers) in std::mem::take(&mut self.routes) {
            let each = answers.iter().map(|(answer, calls)| match answer {
                Ok(who) => format!("{who} {calls}"),
                Err(reason) => format!("failed {calls} ({reason})"),
            });
            println!("{route}: {}", each.collect::<Vec<_>>().join(", "));
        }
    }
}
