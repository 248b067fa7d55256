//! A control plane steers: what clients of HTTP and of gRPC do when their configuration changes, goes wrong or goes away.
//!
//! All but one in a world in memory under a paused clock, where load is thousands of calls and takes no time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::{
    envoy::config::route::v3::{RouteConfiguration, RouteMatch, route_match::PathSpecifier},
    google::protobuf::Any,
};
use futures_util::future::select_all;
use mesh_core::{
    cluster::ClusterStatus,
    config::{CircuitBreakers, Thresholds},
    outcome::{FailureKind, Flags},
};
use mesh_http::{Client, Mesh};
use mesh_tests::{
    load::under_load,
    pair::assert_by_chance,
    patience::in_time,
    sim::{Answer, Backend, Caller, PLANE, Reach, Speaks, World, address, failure_of},
    wire::chain,
};
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials, Node},
    testkit::{
        ControlPlane,
        resource::{cluster, endpoints, listener, route_config},
    },
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

const TARGET: &str = "shop.test:80";
const CALLERS: usize = 8;
const ALL: [Speaks; 3] = [Speaks::Http1, Speaks::Http2, Speaks::Grpc];

// --- following ---

#[tokio::test(start_paused = true)]
async fn weights_are_followed_under_load_without_a_failed_call() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1, 2]), ("v2", &[3])]).await;
        for (v1, v2) in [(100, 0), (50, 50), (0, 100), (30, 70)] {
            let (_, during) = under_load(CALLERS, || shop.caller.call(), shop.route([("v1", v1), ("v2", v2)])).await;
            during.assert_none_failed();
            let (_, after) = under_load(CALLERS, || shop.caller.call(), sleep(Duration::from_secs(1))).await;
            after.assert_none_failed();
            // Of nothing and of everything chance takes nothing away.
            assert_by_chance(&after.answers, "v2-3", f64::from(v2) / 100.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_come_and_go_under_load_without_a_failed_call() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1, 2, 3, 4])]).await;
        let changes = async {
            for numbers in [&[1, 2][..], &[3], &[1, 2, 3, 4], &[4, 1], &[2]] {
                shop.endpoints("v1", numbers).await;
                sleep(Duration::from_millis(100)).await;
            }
        };
        let (_, during) = under_load(CALLERS, || shop.caller.call(), changes).await;
        during.assert_none_failed();
        assert_eq!(during.answers.len(), 4, "{speaks:?}: all of them had their turn: {during:?}");
        let (_, after) = under_load(CALLERS, || shop.caller.call(), sleep(Duration::from_millis(100))).await;
        assert_eq!(after.answers.keys().collect::<Vec<_>>(), ["v1-2"], "{speaks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn killed_endpoint_costs_no_call() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1, 2, 3])]).await;
        let (network, killed) = (&shop.world.network, &shop.backends[1]);
        let ((served, dialled), tally) = under_load(CALLERS, || shop.caller.call(), async {
            sleep(Duration::from_millis(50)).await;
            network.reset(address(2));
            network.reach(address(2), Reach::Refuses);
            let before = (killed.served(), network.dialled(address(2)));
            sleep(Duration::from_millis(500)).await;
            before
        })
        .await;
        tally.assert_none_failed();
        assert!(served > 0 && killed.served() == served, "{speaks:?}: it was called, and is no longer: {tally:?}");
        assert!(network.dialled(address(2)) > dialled, "{speaks:?}: the mesh has met its refusal");
    }
}

#[tokio::test(start_paused = true)]
async fn removed_endpoint_gets_nothing_new_and_finishes_what_it_has() {
    for speaks in ALL {
        let shop = Shop::open_with(speaks, &[("v1", &[1])], |_| Answer::after(Duration::from_secs(2))).await;
        let fast = shop.world.backend(2, "fast", speaks, Answer::OK);
        let under_way = tokio::spawn({
            let caller = shop.caller.clone();
            async move { caller.call().await }
        });
        sleep(Duration::from_secs(1)).await;
        shop.endpoints("v1", &[2]).await;
        for _ in 0..20 {
            assert_eq!(shop.caller.call().await.unwrap(), "fast", "{speaks:?}");
        }
        assert_eq!(under_way.await.unwrap().unwrap(), "v1-1", "{speaks:?}");
        assert_eq!((shop.backends[0].served(), fast.served()), (1, 20));
        sleep(Duration::from_millis(10)).await;
        assert_eq!(
            shop.world.network.open(address(1)),
            0,
            "{speaks:?}: its connection has ended with its last response"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_is_warm_before_routes_use_it() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1])]).await;
        // An answer that takes no time would hold the clock still.
        let _new = shop.world.backend(2, "new", speaks, Answer::after(Duration::from_millis(1)));
        let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
            // Routes first, then the cluster, then its endpoints: the worst order there is.
            shop.world.plane.set(route_config("routes", [("v2", 1)]));
            sleep(Duration::from_millis(200)).await;
            shop.world.plane.set(cluster("v2"));
            sleep(Duration::from_millis(200)).await;
            shop.world.plane.set(endpoints("v2", [address(2)]));
            sleep(Duration::from_millis(200)).await;
        })
        .await;
        tally.assert_none_failed();
        assert!(tally.answers["v1-1"] > 0 && tally.answers["new"] > 0, "{speaks:?}: {tally:?}");
        assert_eq!(shop.caller.call().await.unwrap(), "new");
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_push_keeps_endpoints_counts_and_connections() {
    for speaks in ALL {
        let shop = Shop::open_with(speaks, &[("v1", &[1, 2])], |_| Answer::after(Duration::from_millis(500))).await;
        let calls: Vec<_> = (0..6)
            .map(|_| {
                let caller = shop.caller.clone();
                tokio::spawn(async move { caller.call().await })
            })
            .collect();
        sleep(Duration::from_millis(100)).await;
        let before = shop.cluster("v1");
        let dialled = [1, 2].map(|number| shop.world.network.dialled(address(number)));
        assert_eq!(in_flight(&before), 6, "{speaks:?}");

        for _ in 0..5 {
            shop.world.plane.update(|tx| {
                tx.set(listener(TARGET, "routes")).set(route_config("routes", [("v1", 1)]));
                tx.set(cluster("v1")).set(endpoints("v1", [1, 2].map(address)));
            });
            shop.settled().await;
        }

        assert_eq!(shop.cluster("v1"), before, "{speaks:?}: numbers, counts and all");
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let (_, tally) = under_load(4, || shop.caller.call(), sleep(Duration::from_secs(2))).await;
        tally.assert_none_failed();
        assert_eq!(
            [1, 2].map(|number| shop.world.network.dialled(address(number))),
            dialled,
            "{speaks:?}: no new connection"
        );
        assert_eq!(in_flight(&shop.cluster("v1")), 0, "{speaks:?}");
    }
}

// --- going wrong ---

#[tokio::test(start_paused = true)]
async fn dangling_cluster_fails_only_its_own_traffic() {
    let shop = Shop::open(Speaks::Http1, &[("v1", &[1])]).await;
    shop.world.plane.set(with_prefix("/gone", "gone", route_config("routes", [("v1", 1)])));
    shop.settled().await;
    // Its absence is certain once the wait for it is over.
    sleep(Duration::from_secs(20)).await;
    let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
        let error = shop.caller.call_at("/gone/1").await.unwrap_err();
        let (kind, _, flags) = failure_of(&error).unwrap();
        assert_eq!((kind, flags), (FailureKind::NoCluster, Flags::NC), "{error}");
        sleep(Duration::from_millis(100)).await;
    })
    .await;
    tally.assert_none_failed();
    let status = shop.mesh.status().source.unwrap();
    assert!(status.resources.iter().any(|one| &*one.name == "gone" && one.error.is_some()), "{status:#?}");

    let other = Shop::open(Speaks::Grpc, &[("v1", &[1])]).await;
    other.world.plane.set(route_config("routes", [("gone", 1)]));
    sleep(Duration::from_secs(20)).await;
    let error = other.caller.call().await.unwrap_err();
    assert_eq!(failure_of(&error).unwrap().2, Flags::NC, "{error}");
    let status = error.downcast_ref::<tonic::Status>().unwrap();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    other.route([("v1", 1)]).await;
    assert!(other.caller.call().await.is_ok(), "and it heals");
}

#[tokio::test(start_paused = true)]
async fn refused_routes_leave_the_last_good_ones_serving() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1])]).await;
        let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
            let mut bad = route_config("routes", [("v1", 1)]);
            bad.virtual_hosts[0].domains.clear();
            let version = shop.world.plane.set(bad);
            let nacked = shop.world.plane.wait_acked(ResourceKind::RouteConfiguration, &version).await.unwrap_err();
            let reason = nacked.request().error.clone().unwrap();
            assert!(reason.contains("routes") && reason.contains("domains"), "{reason}");

            let type_url = ResourceKind::RouteConfiguration.type_url().to_owned();
            let version = shop.world.plane.raw(
                ResourceKind::RouteConfiguration,
                "routes",
                Any { type_url, value: vec![0xff; 9] },
            );
            shop.world.plane.wait_acked(ResourceKind::RouteConfiguration, &version).await.unwrap_err();
            sleep(Duration::from_millis(100)).await;
        })
        .await;
        tally.assert_none_failed();
        let status = shop.mesh.status().source.unwrap();
        let routes = status.resources.iter().find(|one| &*one.name == "routes").unwrap();
        assert!(routes.error.as_ref().is_some_and(|error| error.contains("simulated")), "{routes:?}");
        shop.route([("v1", 1)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn control_plane_may_go_and_is_obeyed_when_it_is_back() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1]), ("v2", &[2])]).await;
        let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
            shop.world.stop_control_plane().await;
            sleep(Duration::from_secs(1)).await;
        })
        .await;
        tally.assert_none_failed();
        assert!(!shop.mesh.status().source.unwrap().connected);

        let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
            shop.world.plane.set(route_config("routes", [("v2", 1)]));
            shop.world.listen_for_clients();
            shop.world.plane.wait_streams(1).await;
            shop.settled().await;
        })
        .await;
        tally.assert_none_failed();
        assert!(shop.mesh.status().source.unwrap().connected);
        assert_eq!(shop.caller.call().await.unwrap(), "v2-2", "{speaks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn control_plane_that_resets_over_and_over_harms_nobody() {
    let shop = Shop::open(Speaks::Grpc, &[("v1", &[1])]).await;
    let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            shop.world.network.reset(PLANE);
        }
    })
    .await;
    tally.assert_none_failed();
    let dialled = shop.world.network.dialled(PLANE);
    assert!(dialled > 10, "most resets met a stream: {dialled}");
    shop.world.plane.wait_streams(1).await;
    shop.route([("v1", 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn ready_timeout_says_what_is_waited_for() {
    const LIMIT: Duration = Duration::from_secs(3);
    for (reach, says) in [(Reach::Open, "not connected to"), (Reach::Refuses, "takes no connections")] {
        let world = World::new();
        // It takes requests and answers none, so that nobody can tell whether it is a control plane.
        world.plane.silence(true);
        world.network.reach(PLANE, reach);
        let mesh = world.mesh(1);
        let client = Client::builder(TARGET).mesh(&mesh).ready_timeout(LIMIT).build().unwrap();
        let start = Instant::now();
        let error = client.get(format!("http://{TARGET}/")).await.unwrap_err();
        assert_eq!(start.elapsed(), LIMIT);
        assert_eq!((error.kind(), error.flags()), (FailureKind::NoConfig, Flags::NR));
        let text = chain(&error);
        for part in [TARGET, "3s", &PLANE.to_string(), says] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn call_waits_for_the_first_configuration() {
    for speaks in ALL {
        let world = World::new();
        let _backend = world.backend(1, "one", speaks, Answer::OK);
        let caller = Caller::of(&world.mesh(1), TARGET, speaks);
        let call = tokio::spawn(async move { caller.call().await });
        sleep(Duration::from_secs(4)).await;
        offer(&world.plane, &[("v1", &[1])]);
        assert_eq!(call.await.unwrap().unwrap(), "one", "{speaks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn target_that_does_not_exist_says_so_and_is_there_when_it_comes() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[("v1", &[1])]).await;
        let caller = Caller::of(&shop.mesh, "other.test:80", speaks);
        let reason = caller.ready().await.unwrap_err();
        assert!(chain(&*reason).contains("other.test:80"), "{reason:?}");
        let error = caller.call().await.unwrap_err();
        let (kind, _, flags) = failure_of(&error).unwrap();
        assert_eq!((kind, flags), (FailureKind::NoConfig, Flags::NR), "{error}");
        assert_eq!(shop.caller.call().await.unwrap(), "v1-1", "{speaks:?}: the neighbour is unharmed");

        let version = shop.world.plane.set(listener("other.test:80", "routes"));
        shop.world.plane.wait_acked(ResourceKind::Listener, &version).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        assert_eq!(caller.call().await.unwrap(), "v1-1", "{speaks:?}");
    }
}

// --- sharing and ending ---

#[tokio::test(start_paused = true)]
async fn clients_of_one_mesh_share_one_stream() {
    let shop = Shop::open(Speaks::Grpc, &[("v1", &[1])]).await;
    let more = [Caller::of(&shop.mesh, TARGET, Speaks::Grpc), Caller::of(&shop.mesh, "b.test:80", Speaks::Http1)];
    more[0].ready().await.unwrap();
    shop.settled().await;
    assert_eq!((shop.world.plane.streams(), shop.world.network.dialled(PLANE)), (1, 1));
    assert_eq!(shop.world.plane.subscriptions(ResourceKind::Listener).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_responses_finish_and_refuses_what_comes_after() {
    for speaks in ALL {
        let shop = Shop::open_with(speaks, &[("v1", &[1])], |_| Answer::after(Duration::from_secs(2))).await;
        let under_way = tokio::spawn({
            let caller = shop.caller.clone();
            async move { caller.call().await }
        });
        sleep(Duration::from_secs(1)).await;
        assert!(shop.mesh.shutdown(Duration::from_secs(5)).await, "{speaks:?}: nothing has to be cut");
        assert_eq!(under_way.await.unwrap().unwrap(), "v1-1");
        let error = shop.caller.call().await.unwrap_err();
        assert!(chain(&*error).contains("shut down"), "{error:?}");
        assert_eq!(shop.world.network.open(address(1)), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_what_outlives_its_grace() {
    for speaks in ALL {
        let shop = Shop::open_with(speaks, &[("v1", &[1])], |_| Answer::after(Duration::from_secs(600))).await;
        let caller = shop.caller.clone();
        let under_way = tokio::spawn(async move { caller.call().await });
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        assert!(!shop.mesh.shutdown(Duration::from_secs(5)).await, "{speaks:?}");
        assert!(start.elapsed() < Duration::from_secs(6));
        let cut = timeout(Duration::from_secs(1), under_way).await.expect("the caller hears of it").unwrap();
        assert!(failure_of(&cut.unwrap_err()).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn last_handle_ends_every_task() {
    for speaks in ALL {
        let world = World::new();
        let _backend = world.backend(1, "one", speaks, Answer::OK);
        offer(&world.plane, &[("v1", &[1])]);
        sleep(Duration::from_millis(10)).await;
        let before = tasks();
        let mesh = world.mesh(1);
        let caller = Caller::of(&mesh, TARGET, speaks);
        for _ in 0..10 {
            caller.call().await.unwrap();
        }
        drop(mesh);
        caller.call().await.expect("a client is a handle too");
        assert!(tasks() > before);
        drop(caller);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(tasks(), before, "{speaks:?}");
        assert_eq!((world.network.open(address(1)), world.plane.streams()), (0, 0), "{speaks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_clients_that_came_and_went() {
    let shop = Shop::open(Speaks::Http1, &[("v1", &[1, 2])]).await;
    let _grpc = shop.world.backend(3, "grpc", Speaks::Grpc, Answer::OK);
    shop.caller.call().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let before = (tasks(), shop.mesh.status().clusters.len(), shop.mesh.status().targets.len());
    for round in 0..200 {
        let mine = Thresholds { max_requests: Some(1 + round), ..Thresholds::default() };
        // Of another policy, so with clusters of its own; of code alone; of a target that nobody else has.
        let breakers = CircuitBreakers { default: mine, high: mine };
        let steered = Client::builder(TARGET).mesh(&shop.mesh).circuit_breakers(breakers).build().unwrap();
        let coded = mesh_grpc::Channel::builder("mine").mesh(&shop.mesh).endpoints([address(3)]).build().unwrap();
        let alone = Client::builder(format!("round-{round}.test:80")).mesh(&shop.mesh).build().unwrap();
        steered.get(format!("http://{TARGET}/")).await.unwrap();
        Caller::Grpc(coded).call().await.unwrap();
        drop(alone);
    }
    sleep(Duration::from_secs(1)).await;
    let after = (tasks(), shop.mesh.status().clusters.len(), shop.mesh.status().targets.len());
    assert_eq!(after, before, "tasks, clusters, targets");
    assert_eq!(shop.world.plane.subscriptions(ResourceKind::Listener).len(), 1);
    assert_eq!(shop.world.network.open(address(3)), 0);
}

// --- real sockets ---

#[tokio::test]
async fn over_real_sockets_weights_shift_and_a_backend_dies_without_a_failed_call() {
    for speaks in ALL {
        in_time(&format!("the whole story, {speaks:?}"), shift_and_kill(speaks)).await;
    }
}

async fn shift_and_kill(speaks: Speaks) {
    let think = Answer::after(Duration::from_millis(1));
    let one = Backend::on_loopback("one", speaks, think).await.unwrap();
    let mut two = Backend::on_loopback("two", speaks, think).await.unwrap();
    let three = Backend::on_loopback("three", speaks, think).await.unwrap();
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(listener(TARGET, "routes")).set(route_config("routes", [("v1", 1), ("v2", 0)]));
        tx.set(cluster("v1")).set(endpoints("v1", [one.address(), two.address()]));
        tx.set(cluster("v2")).set(endpoints("v2", [three.address()]));
    });
    let address = plane.listen("127.0.0.1:0").await.unwrap();
    let bootstrap = Bootstrap::builder()
        .server(address.to_string(), ChannelCredentials::Insecure)
        .node(Node::new("sockets"))
        .build()
        .unwrap();
    let mesh = Mesh::builder().source(XdsClient::new(bootstrap).unwrap()).build().unwrap();
    let caller = Caller::of(&mesh, TARGET, speaks);
    caller.ready().await.unwrap();
    let ((), tally) = under_load(CALLERS, || caller.call(), async {
        for v2 in [50, 0, 100, 50] {
            let version = plane.set(route_config("routes", [("v1", 100 - v2), ("v2", v2)]));
            plane.wait_acked(ResourceKind::RouteConfiguration, &version).await.unwrap();
            select_all([&one, &two, &three].map(|backend| Box::pin(backend.serves_more(50)))).await;
        }
        two.kill().await;
        one.serves_more(50).await;
    })
    .await;
    tally.assert_none_failed();
    assert_eq!(tally.answers.len(), 3, "{speaks:?}: {tally:?}");
    assert!(mesh.shutdown(Duration::from_secs(5)).await);
}

// --- the shop ---

/// A steered client, and what it is steered among.
struct Shop {
    world: World,
    mesh: Mesh,
    caller: Caller,
    backends: Vec<Backend>,
}

impl Shop {
    /// Backends of these numbers, named by cluster and number; all traffic goes to the first cluster.
    async fn open(speaks: Speaks, clusters: &[(&str, &[u8])]) -> Self {
        Self::open_with(speaks, clusters, |number| Answer::after(Duration::from_millis(1 + u64::from(number)))).await
    }

    async fn open_with(speaks: Speaks, clusters: &[(&str, &[u8])], manner: impl Fn(u8) -> Answer) -> Self {
        let world = World::new();
        let mut backends = Vec::new();
        for (name, numbers) in clusters {
            for number in *numbers {
                backends.push(world.backend(*number, &format!("{name}-{number}"), speaks, manner(*number)));
            }
        }
        offer(&world.plane, clusters);
        let mesh = world.mesh(5);
        let caller = Caller::of(&mesh, TARGET, speaks);
        caller.ready().await.unwrap();
        Self { world, mesh, caller, backends }
    }

    async fn route<const N: usize>(&self, weights: [(&str, u32); N]) {
        let version = self.world.plane.set(route_config("routes", weights));
        self.world.plane.wait_acked(ResourceKind::RouteConfiguration, &version).await.unwrap();
        // It was understood; the mesh takes it up at once.
        sleep(Duration::from_millis(1)).await;
    }

    async fn endpoints(&self, cluster: &str, numbers: &[u8]) {
        let version = self.world.plane.set(endpoints(cluster, numbers.iter().copied().map(address)));
        self.world.plane.wait_acked(ResourceKind::ClusterLoadAssignment, &version).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }

    /// Lets everything arrive that is on its way.
    async fn settled(&self) {
        sleep(Duration::from_millis(20)).await;
    }

    fn cluster(&self, name: &str) -> ClusterStatus {
        self.mesh.status().clusters.into_iter().find(|cluster| &*cluster.name == name).unwrap()
    }
}

fn offer(plane: &ControlPlane, clusters: &[(&str, &[u8])]) {
    plane.update(|tx| {
        let first = clusters[0].0;
        let weights = clusters.iter().map(|(name, _)| (*name, u32::from(*name == first)));
        tx.set(listener(TARGET, "routes")).set(route_config("routes", weights));
        for (name, numbers) in clusters {
            let addresses = numbers.iter().copied().map(address).collect::<Vec<SocketAddr>>();
            tx.set(cluster(name)).set(endpoints(name, addresses));
        }
    });
}

/// The same routes, after one that sends everything below `prefix` to `cluster`.
fn with_prefix(prefix: &str, cluster: &str, mut routes: RouteConfiguration) -> RouteConfiguration {
    let mut first = route_config("", [(cluster, 1)]).virtual_hosts.remove(0).routes.remove(0);
    first.r#match =
        Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())), ..RouteMatch::default() });
    routes.virtual_hosts[0].routes.insert(0, first);
    routes
}

fn in_flight(cluster: &ClusterStatus) -> u32 {
    cluster.endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
