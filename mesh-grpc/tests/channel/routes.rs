//! What a channel makes of routes: gRPC's reading of what a control plane says, and the plain one of what code says.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, StatusCode};
use mesh_core::{
    config::{
        Action, Cluster, ClusterChoice, ClusterEntry, DirectResponse, DropOverload, Endpoint, Endpoints, Forward,
        Fraction, Listener, LoadBalancing, Percent, Redirect, Route, RouteConfig, RouteMatch, Snapshot, TargetState,
        TimeLimit, Timeouts, VirtualHost, Weight,
    },
    outcome::Flags,
};
use mesh_grpc::{Channel, flags};
use mesh_http::Mesh;
use tonic::Code;

use crate::support::{Alive, Client, Said, Server, built, message, one, until};

/// Routes every call by `action`.
fn routes(action: Action) -> RouteConfig {
    let host = VirtualHost::any("all", vec![Route::new(RouteMatch::any(), action)]);
    RouteConfig::new("r", vec![host]).expect("legal")
}

fn to_echo(timeouts: Timeouts) -> Action {
    let mut to = Forward::to(ClusterChoice::One("echo".into()));
    to.policy.timeouts = timeouts;
    Action::Forward(to)
}

fn echo() -> Cluster {
    Cluster::new("echo").expect("legal")
}

fn endpoints(server: &Server) -> Endpoints {
    Endpoints::flat(vec![Endpoint::new(server.address)]).expect("legal")
}

/// A client whose control plane says `action` of every call.
fn steered(action: Action, endpoints: Endpoints) -> Client {
    let listener = Listener::new("echo", Arc::new(routes(action)));
    let entry = ClusterEntry { cluster: Arc::new(echo()), endpoints: Some(Arc::new(endpoints)) };
    let said = Said(Arc::new(Snapshot {
        generation: 1,
        targets: [("echo".into(), TargetState::Ready(Arc::new(listener)))].into(),
        clusters: [("echo".into(), entry)].into(),
    }));
    let mesh = Mesh::builder().source(said).seed(1).build().expect("a runtime");
    built(Channel::builder("echo").mesh(&mesh))
}

fn limit(millis: u64) -> Option<TimeLimit> {
    TimeLimit::after(Duration::from_millis(millis)).ok()
}

#[tokio::test]
async fn actions_that_grpc_does_not_know_are_unavailable() {
    let server = Server::start(async |_| Ok(one("")));
    let redirect = Redirect::new(StatusCode::FOUND).expect("a redirect").to_host("mall").expect("legal");
    let respond = DirectResponse::new(StatusCode::OK, "hello").expect("legal");
    let by_header = Forward::to(ClusterChoice::Header(HeaderName::from_static("x-to")));
    for action in [Action::Redirect(redirect), Action::Respond(respond), Action::Forward(by_header)] {
        let claim = format!("{action:?}");
        let status = steered(action, endpoints(&server)).unary(message("")).await.expect_err("not for gRPC");
        assert_eq!((status.code(), flags(&status)), (Code::Unavailable, Flags::NR), "{claim}");
        assert!(status.message().contains("gRPC does not know"), "{status:?}");
    }
}

#[tokio::test]
async fn maximum_for_the_header_is_the_deadline_of_calls_without_one() {
    let server = Server::silent(&Alive::default());
    let said = Timeouts { grpc_timeout_max: limit(50), request: limit(1), ..Timeouts::default() };
    let mut client = steered(to_echo(said), endpoints(&server));
    let status = until("the end of its time", client.unary(message(""))).await.expect_err("too slow");
    assert_eq!((status.code(), flags(&status)), (Code::DeadlineExceeded, Flags::UT));
    assert!(status.message().contains("50ms"), "{status:?}");
}

#[tokio::test]
async fn timeout_of_routes_in_code_holds() {
    let server = Server::silent(&Alive::default());
    let routes = routes(to_echo(Timeouts { request: limit(50), ..Timeouts::default() }));
    let mut client = built(Channel::builder("echo").routes(routes).cluster(echo(), endpoints(&server)));
    let status = until("the end of its time", client.unary(message(""))).await.expect_err("too slow");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn weights_of_endpoints_in_code_hold_and_a_control_planes_do_not() {
    let light = Server::start(async |_| Ok(one("light")));
    let heavy = Server::start(async |_| Ok(one("heavy")));
    let weighted =
        |server: &Server, weight| Endpoint::new(server.address).with_weight(Weight::new(weight).expect("not zero"));
    let endpoints = Endpoints::flat(vec![weighted(&light, 1), weighted(&heavy, 9)]).expect("legal");
    let to_light = async |mut client: Client| {
        let mut count = 0;
        for _ in 0..40 {
            count += u32::from(client.unary(message("")).await.expect("an answer").into_inner() == "light");
        }
        count
    };

    let in_code =
        Channel::builder("echo").routes(routes(to_echo(Timeouts::default()))).cluster(echo(), endpoints.clone());
    let count = to_light(built(in_code.load_balancing(LoadBalancing::RoundRobin))).await;
    assert!((3..=5).contains(&count), "{count} of 40");
    let count = to_light(steered(to_echo(Timeouts::default()), endpoints)).await;
    assert!((10..=30).contains(&count), "{count} of 40");
}

#[tokio::test]
async fn policies_that_grpc_does_not_have_are_refused_where_a_control_plane_steers() {
    let mesh = Mesh::builder().source(Said::default()).build().expect("a runtime");
    let refused = |builder: mesh_grpc::ChannelBuilder| {
        let error = builder.mesh(&mesh).build().expect_err("refused");
        error.config_error().expect("a configuration error").field().to_owned()
    };
    let panic = Channel::builder("echo").pin(|policy| policy.cluster.panic_threshold = Some(Percent::ALL));
    assert_eq!(refused(panic), "pin.cluster.panic_threshold");
    let localities = Channel::builder("echo").policy(|policy| policy.cluster.locality_weighted = Some(false));
    assert_eq!(refused(localities), "policy.cluster.locality_weighted");
}

#[tokio::test]
async fn load_that_is_shed_is_unavailable() {
    let server = Server::start(async |_| Ok(one("")));
    let all = DropOverload { category: "lb".into(), share: Fraction::ALL };
    let mut client = steered(to_echo(Timeouts::default()), endpoints(&server).with_drops(vec![all]));
    let status = client.unary(message("")).await.expect_err("all is dropped");
    assert_eq!((status.code(), flags(&status)), (Code::Unavailable, Flags::UDO));
}
