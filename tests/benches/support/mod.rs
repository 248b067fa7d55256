//! A mesh of some size, its control plane and its one backend: what the benches of the whole path share.
//!
//! Control plane and backend have a thread each, so that what the thread of the bench spends is the client's, and no request waits
//! for the control plane at the backend. A control plane of another machine takes no core from either.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::config::{
        cluster::v3::Cluster,
        core::v3::Metadata,
        endpoint::v3::ClusterLoadAssignment,
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
        },
    },
    google::protobuf::{Duration as WireDuration, Struct, Value, value::Kind},
};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_http::{Control, Mesh};
use mesh_xds_client::{
    XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials, ServerFeature},
    session::Variant,
    testkit::{
        ControlPlane,
        resource::{cluster, endpoints, listener},
    },
};
use rustix::{
    thread::gettid,
    time::{ClockId, clock_gettime},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

/// What clients ask for.
pub(crate) const TARGET: &str = "web";

/// What clients have to reach, elsewhere.
pub(crate) struct Elsewhere {
    /// The control plane's.
    pub(crate) runtime: Runtime,
    _backends_runtime: Runtime,
    pub(crate) plane: ControlPlane,
    pub(crate) address: SocketAddr,
    pub(crate) backend: SocketAddr,
}

/// So many clusters with so many endpoints each, and a virtual host for each cluster, as a sidecar is told of a mesh.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) clusters: usize,
    pub(crate) endpoints: usize,
}

// === impl Elsewhere ===

impl Elsewhere {
    pub(crate) fn start() -> Self {
        Self::start_in(&mut one_thread())
    }

    /// The same, where the control plane has what time of the machine nobody else wants.
    pub(crate) fn start_remote() -> Self {
        Self::start_in(one_thread().on_thread_start(take_what_is_left))
    }

    fn start_in(planes_runtime: &mut Builder) -> Self {
        let build = |builder: &mut Builder| builder.build().expect("a runtime");
        let (runtime, backends_runtime) = (build(planes_runtime), build(&mut one_thread()));
        let plane = ControlPlane::new();
        let address = runtime.block_on(plane.listen("127.0.0.1:0")).expect("a free port");
        let backend = backends_runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let at = listener.local_addr().expect("bound");
            tokio::spawn(serve(listener));
            at
        });
        Self { runtime, _backends_runtime: backends_runtime, plane, address, backend }
    }

    /// Offers all of a mesh in version `version`, which stands in every resource.
    pub(crate) fn offer(&self, size: Size, version: u32) {
        self.plane.update(|tx| {
            tx.set(listener(TARGET, "routes")).set(routes(size, version));
            for number in 0..size.clusters {
                tx.set(said(number, version)).set(self.assignment(number, size, version));
            }
        });
    }

    /// The same, where the endpoints may have Istio's metadata.
    pub(crate) fn offer_described(&self, size: Size, has_metadata: bool) {
        self.offer(size, 0);
        if !has_metadata {
            return;
        }
        self.plane.update(|tx| {
            for number in 0..size.clusters {
                let mut said = self.assignment(number, size, 0);
                let endpoints = said.endpoints.iter_mut().flat_map(|locality| &mut locality.lb_endpoints);
                endpoints.for_each(|endpoint| endpoint.metadata = Some(istio_metadata(number)));
                tx.set(said);
            }
        });
    }

    /// The endpoints of a cluster: of the first, the backend.
    pub(crate) fn assignment(&self, number: usize, size: Size, version: u32) -> ClusterLoadAssignment {
        if number == 0 {
            return endpoints(&name(0), [self.backend]);
        }
        let address = |host: usize| SocketAddr::from(([10, (number >> 8) as u8, number as u8, host as u8], 80));
        endpoints(&name(number), (0..size.endpoints).map(|host| (address(host), 1 + version)))
    }

    /// A source that is told by this control plane.
    pub(crate) fn source(&self, variant: Variant) -> XdsClient {
        let feature = (variant == Variant::Delta).then_some(ServerFeature::Delta);
        let server = self.address.to_string();
        let bootstrap = Bootstrap::builder().server_with_features(&server, ChannelCredentials::Insecure, feature);
        XdsClient::new(bootstrap.build().expect("a valid bootstrap")).expect("nothing to read")
    }

    /// A mesh that such a source steers, on the runtime around or on a thread of its own.
    pub(crate) fn mesh(&self, variant: Variant, control: Control) -> Mesh {
        Mesh::builder().source(self.source(variant)).control(control).build().expect("a runtime")
    }
}

fn one_thread() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all();
    builder
}

/// Has the system run this thread when it has nothing else to run.
pub(crate) fn take_what_is_left() {
    let thread = gettid().to_string();
    let status = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(status.is_ok_and(|status| status.success()), "chrt, of util-linux, may do this for anybody");
}

pub(crate) fn name(number: usize) -> String {
    format!("outbound|9080||service-{number}.shop.svc.cluster.local")
}

/// By which a request reaches a cluster.
pub(crate) fn host(number: usize) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}

fn said(number: usize, version: u32) -> Cluster {
    let connect_timeout = Some(WireDuration { seconds: 1 + i64::from(version), nanos: 0 });
    Cluster { connect_timeout, ..cluster(&name(number)) }
}

/// What Istio says of an endpoint: its workload, and that it takes mutual TLS.
fn istio_metadata(number: usize) -> Metadata {
    let one = |key: &str, value: String| Struct {
        fields: [(key.to_owned(), Value { kind: Some(Kind::StringValue(value)) })].into(),
    };
    let workload = format!("service-{number}-v1;shop;service-{number};v1;Kubernetes");
    let filter_metadata = [
        ("istio".to_owned(), one("workload", workload)),
        ("envoy.transport_socket_match".to_owned(), one("tlsMode", "istio".to_owned())),
    ];
    Metadata { filter_metadata: filter_metadata.into(), ..<_>::default() }
}

/// In another version every route has another name.
pub(crate) fn routes(size: Size, version: u32) -> RouteConfiguration {
    routes_in(&vec![version; size.clusters])
}

/// The same, where each virtual host has its own version.
pub(crate) fn routes_in(versions: &[u32]) -> RouteConfiguration {
    let virtual_host = |(number, version): (usize, &u32)| {
        let everything = route_match::PathSpecifier::Prefix("/".to_owned());
        let action = RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(name(number))),
            ..<_>::default()
        };
        let route = Route {
            name: format!("version-{version}"),
            r#match: Some(RouteMatch { path_specifier: Some(everything), ..<_>::default() }),
            action: Some(route::Action::Route(action)),
            ..<_>::default()
        };
        VirtualHost { name: host(number), domains: vec![host(number)], routes: vec![route], ..<_>::default() }
    };
    RouteConfiguration {
        name: "routes".to_owned(),
        virtual_hosts: versions.iter().enumerate().map(virtual_host).collect(),
        ..<_>::default()
    }
}

/// Answers every call with what it brought, over HTTP/2; gRPC's too, whose callers look for trailers.
async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket of ours");
        let server = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let trailers =
        HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let mut response = Response::new(Full::new(body).with_trailers(async { Some(Ok(trailers)) }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// The CPU that this thread has spent.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("CPU time is not negative")
}

/// The CPU that the threads of this name have spent, as far as they still run.
pub(crate) fn time_of_threads(named: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("a kernel that tells");
    let paths = tasks.map(|task| task.expect("an entry").path());
    let is_of = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == named);
    let spent = paths.filter(is_of).filter_map(|path| {
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How the lines of the benches call the two variants.
pub(crate) fn called(variant: Variant) -> &'static str {
    match variant {
        Variant::StateOfTheWorld => "full",
        Variant::Delta => "delta",
    }
}
