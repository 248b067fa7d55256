//! Clusters of every kind, as a control plane sends them: what clients of HTTP and of gRPC reach through them, what becomes of
//! them when their endpoints fail, and what is left when they are gone.
//!
//! All in a world in memory under a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use envoy_types::{
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    CircuitBreakers, Cluster,
                    circuit_breakers::Thresholds,
                    cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy},
                },
                core::v3::{
                    Address, HealthStatus, SocketAddress, address::Address as Place, socket_address::PortSpecifier,
                },
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                    cluster_load_assignment::{Policy, policy::DropOverload},
                    lb_endpoint::HostIdentifier,
                },
                route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier},
            },
            extensions::clusters::{aggregate::v3::ClusterConfig, dns::v3::DnsCluster},
            r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
        },
        google::protobuf::UInt32Value,
    },
    util::pack_any,
};
use http_body_util::Empty;
use mesh_core::outcome::{FailureKind, Flags};
use mesh_http::{
    CallOptions, Client, Mesh,
    resolve::{Resolve, Resolved, Resolving},
};
use mesh_tests::{
    load::{Tally, under_load},
    sim::{Answer, Backend, Caller, Reach, Speaks, World, address, failure_of},
};
use mesh_xds_client::{
    ResourceKind,
    testkit::resource::{cluster, endpoints, listener, route_config},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

const TARGET: &str = "shop.test:80";
const CALLERS: usize = 8;
const ALL: [Speaks; 3] = [Speaks::Http1, Speaks::Http2, Speaks::Grpc];
const SECOND: Duration = Duration::from_secs(1);

// --- endpoints in the cluster, and by DNS ---

#[tokio::test(start_paused = true)]
async fn endpoints_that_stand_in_the_cluster_serve() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[1, 2], |shop| {
            shop.set(of_type("v1", DiscoveryType::Static, vec![group(0, &["10.0.0.1", "10.0.0.2"])]));
        });
        assert_eq!(shop.answering().await, ["1", "2"], "{speaks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_address_of_every_strict_name_is_an_endpoint_of_its_priority() {
    for speaks in ALL {
        let shop = Shop::open(speaks, &[1, 2, 3, 4], |shop| {
            shop.zone.set("one.test", &[1]).set("two.test", &[2, 3]).set("far.test", &[4]);
            let groups = vec![group(0, &["one.test", "two.test"]), group(1, &["far.test"])];
            shop.set(of_type("v1", DiscoveryType::StrictDns, groups));
        });
        assert_eq!(shop.answering().await, ["1", "2", "3"], "{speaks:?}");
        for number in [1, 2, 3] {
            shop.kill(number);
        }
        let tally = shop.calls(40).await;
        tally.assert_none_failed();
        assert_eq!(tally.answers.into_keys().collect::<Vec<_>>(), ["4"], "{speaks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn logical_name_is_one_endpoint_whose_dead_address_costs_a_head_start() {
    for speaks in ALL {
        for is_extension in [false, true] {
            let shop = Shop::open(speaks, &[2], |shop| {
                shop.zone.set("one.test", &[1, 2]);
                shop.world.network.reach(address(1), Reach::BlackHole);
                let logical = of_type("v1", DiscoveryType::LogicalDns, vec![group(0, &["one.test"])]);
                let config = DnsCluster { all_addresses_in_single_endpoint: true, ..DnsCluster::default() };
                shop.set(if is_extension { custom(logical, pack_any(config)) } else { logical });
            });
            let start = Instant::now();
            assert_eq!(shop.caller.call().await.unwrap(), "2", "{speaks:?}");
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(250) && took < Duration::from_millis(300), "{speaks:?}: {took:?}");
            assert_eq!(shop.mesh.status().clusters[0].endpoints.len(), 1);
            // What a name meant last counts while it cannot be looked up.
            shop.zone.names.lock().unwrap().clear();
            sleep(600 * SECOND).await;
            assert_eq!(shop.caller.call().await.unwrap(), "2", "{speaks:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn further_addresses_of_an_endpoint_are_tried_when_the_first_is_dead() {
    let shop = Shop::open(Speaks::Grpc, &[2], |shop| {
        shop.world.network.reach(address(1), Reach::BlackHole);
        let mut assigned = endpoints("v1", [address(1)]);
        let Some(HostIdentifier::Endpoint(first)) = &mut assigned.endpoints[0].lb_endpoints[0].host_identifier else {
            panic!("the kit gives addresses");
        };
        first.additional_addresses.push(envoy_types::pb::envoy::config::endpoint::v3::endpoint::AdditionalAddress {
            address: place("10.0.0.2"),
        });
        shop.set(cluster("v1"));
        shop.world.plane.set(assigned);
    });
    assert_eq!(shop.caller.call().await.unwrap(), "2");
}

// --- what is not honoured ---

#[tokio::test(start_paused = true)]
async fn original_destination_and_unknown_kinds_are_refused_by_name_and_harm_no_neighbour() {
    let shop = Shop::open(Speaks::Http1, &[1], |shop| {
        shop.set(cluster("v1"));
        shop.world.plane.set(endpoints("v1", [address(1)]));
    });
    assert_eq!(shop.caller.call().await.unwrap(), "1");
    let unknown = custom(cluster("odd"), pack_any(ClusterLoadAssignment::default()));
    for (odd, says) in [
        (of_type("odd", DiscoveryType::OriginalDst, Vec::new()), "original destination is not supported"),
        (unknown, "cluster type `custom`"),
    ] {
        shop.world.plane.set(route_config("routes", [("v1", 1), ("odd", 0)]));
        let version = shop.world.plane.set(odd);
        let nacked = shop.world.plane.wait_acked(ResourceKind::Cluster, &version).await.unwrap_err();
        let reason = nacked.request().error.clone().unwrap();
        assert!(reason.contains("odd") && reason.contains(says), "{reason}");
        assert_eq!(shop.caller.call().await.unwrap(), "1");
    }
}

// --- aggregates ---

#[tokio::test(start_paused = true)]
async fn aggregate_prefers_the_first_and_fails_over_without_a_failed_call() {
    for speaks in ALL {
        let shop = Shop::of_aggregate(speaks, &[("near", &[1, 2]), ("far", &[3])]);
        assert_eq!(shop.answering().await, ["1", "2"], "{speaks:?}");
        let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
            sleep(SECOND).await;
            shop.kill(1);
            shop.kill(2);
            sleep(SECOND).await;
        })
        .await;
        tally.assert_none_failed();
        assert!(tally.answers["3"] > 0, "{speaks:?}: {tally:?}");
        for number in [1, 2] {
            shop.world.network.reach(address(number), Reach::Open);
        }
        sleep(120 * SECOND).await;
        assert_eq!(shop.answering().await, ["1", "2"], "{speaks:?}: and back");
    }
}

#[tokio::test(start_paused = true)]
async fn aggregate_follows_the_health_that_the_control_plane_tells() {
    for speaks in ALL {
        let shop = Shop::of_aggregate(speaks, &[("near", &[1]), ("far", &[2])]);
        assert_eq!(shop.answering().await, ["1"], "{speaks:?}");
        let mut sick = endpoints("near", [address(1)]);
        sick.endpoints[0].lb_endpoints[0].health_status = HealthStatus::Unhealthy as i32;
        for (now, answers) in [(sick, "2"), (endpoints("near", [address(1)]), "1")] {
            shop.world.plane.set(now);
            sleep(SECOND).await;
            assert_eq!(shop.answering().await, [answers], "{speaks:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn aggregate_is_warm_with_all_that_it_is_made_of_and_follows_its_changes() {
    for speaks in ALL {
        let shop = Shop::of_aggregate(speaks, &[("near", &[1])]);
        assert_eq!(shop.answering().await, ["1"], "{speaks:?}");
        let _new = shop.world.backend(2, "2", speaks, Answer::after(Duration::from_millis(1)));
        let ((), tally) = under_load(CALLERS, || shop.caller.call(), async {
            shop.set(cluster("new"));
            shop.set(aggregate("inner", &["new", "v1", "gone"]));
            shop.set(aggregate("v1", &["inner"]));
            // Endpoints come last.
            sleep(SECOND).await;
            assert!(shop.wanted(ResourceKind::Cluster).contains(&"near".to_owned()), "it serves still");
            shop.world.plane.set(endpoints("new", [address(2)]));
            sleep(SECOND).await;
        })
        .await;
        tally.assert_none_failed();
        // The absence of a cluster is certain when the wait for it is over.
        sleep(20 * SECOND).await;
        assert_eq!(shop.answering().await, ["2"], "{speaks:?}");
        assert_eq!(shop.wanted(ResourceKind::Cluster), ["gone", "inner", "new", "v1"], "{speaks:?}");
        assert_eq!(shop.wanted(ResourceKind::ClusterLoadAssignment), ["new"]);
    }
}

#[tokio::test(start_paused = true)]
async fn aggregate_that_leads_nowhere_fails_its_own_traffic_and_says_why() {
    let shop = Shop::of_aggregate(Speaks::Http1, &[("near", &[1])]);
    assert_eq!(shop.answering().await, ["1"]);
    for (parts, says) in [(&["v1"][..], "none of the clusters"), (&["gone"], "none of the clusters")] {
        shop.set(aggregate("v1", parts));
        sleep(20 * SECOND).await;
        let error = shop.caller.call().await.unwrap_err();
        assert_eq!(failure_of(&error).unwrap().2, Flags::NC, "{error}");
        assert!(mesh_tests::wire::chain(&*error).contains(says), "{error:?}");
    }
    shop.set(aggregate("v1", &["near"]));
    sleep(SECOND).await;
    assert_eq!(shop.answering().await, ["1"], "and it heals");
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_part_hold_and_no_other_part_makes_up_for_them() {
    let shop = Shop::of_aggregate(Speaks::Http2, &[("near", &[1]), ("far", &[2])]);
    assert_eq!(shop.answering().await, ["1"]);
    let none = Thresholds { max_requests: Some(UInt32Value { value: 0 }), ..Thresholds::default() };
    let breakers = CircuitBreakers { thresholds: vec![none], ..CircuitBreakers::default() };
    shop.set(Cluster { circuit_breakers: Some(breakers), ..cluster("near") });
    sleep(SECOND).await;
    let error = shop.caller.call().await.unwrap_err();
    let (kind, _, flags) = failure_of(&error).unwrap();
    assert_eq!((kind, flags), (FailureKind::Overflow, Flags::UO), "{error}");
}

#[tokio::test(start_paused = true)]
async fn part_that_sheds_load_sheds_what_goes_to_it_and_nothing_else() {
    let shop = Shop::of_aggregate(Speaks::Http1, &[("near", &[1, 2]), ("far", &[3])]);
    assert_eq!(shop.answering().await, ["1", "2"]);
    // Half of it can take 70 of 100, of which it takes none.
    let mut near = endpoints("near", [address(1), address(2)]);
    near.endpoints[0].lb_endpoints[1].health_status = HealthStatus::Unhealthy as i32;
    let all = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred as i32 };
    let shed = DropOverload { category: "lb".to_owned(), drop_percentage: Some(all) };
    near.policy = Some(Policy { drop_overloads: vec![shed], ..Policy::default() });
    shop.world.plane.set(near);
    sleep(SECOND).await;
    let tally = shop.calls(200).await;
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["3"], "{tally:?}");
    assert!((30..90).contains(&tally.answers["3"]), "{tally:?}");
}

// --- clusters that requests name ---

#[tokio::test(start_paused = true)]
async fn cluster_that_a_request_names_is_asked_for_and_let_go_of() {
    let shop = Shop::by_header(&[1]);
    shop.set(cluster("v1"));
    shop.world.plane.set(endpoints("v1", [address(1)]));
    sleep(SECOND).await;
    assert!(shop.wanted(ResourceKind::Cluster).is_empty(), "nobody has named one");
    assert_eq!(shop.named("v1").await.unwrap(), "1");
    assert_eq!(shop.wanted(ResourceKind::Cluster), ["v1"]);
    for _ in 0..10 {
        sleep(100 * SECOND).await;
        assert_eq!(shop.named("v1").await.unwrap(), "1", "in use");
    }
    sleep(900 * SECOND).await;
    assert!(shop.wanted(ResourceKind::Cluster).is_empty(), "and gone when idle");
    assert!(shop.wanted(ResourceKind::ClusterLoadAssignment).is_empty());
    assert!(shop.mesh.status().clusters.is_empty());
    assert_eq!(shop.named("v1").await.unwrap(), "1", "and asked for again");
}

#[tokio::test(start_paused = true)]
async fn request_waits_a_bounded_time_for_the_cluster_that_it_names() {
    let shop = Shop::by_header(&[1]);
    let start = Instant::now();
    for waited in [5, 5] {
        let error = shop.named("late").await.unwrap_err();
        assert_eq!(failure_of(&error).unwrap().2, Flags::NC, "{error}");
        assert_eq!(start.elapsed().as_secs(), waited, "the second does not wait again");
    }
    shop.set(cluster("late"));
    shop.world.plane.set(endpoints("late", [address(1)]));
    sleep(SECOND).await;
    assert_eq!(shop.named("late").await.unwrap(), "1", "it came after all");
    let error = shop.name_with("never", CallOptions::new().within(SECOND)).await.unwrap_err();
    assert_eq!(failure_of(&error).unwrap().0, FailureKind::Timeout, "{error}");
}

#[tokio::test(start_paused = true)]
async fn strangers_cannot_make_a_client_ask_for_clusters_without_end() {
    let shop = Shop::by_header(&[1]);
    shop.set(cluster("v1"));
    shop.world.plane.set(endpoints("v1", [address(1)]));
    assert_eq!(shop.named("v1").await.unwrap(), "1");
    let calls: Vec<_> = (0..2_000)
        .map(|number| {
            let shop = shop.client();
            tokio::spawn(async move { name(&shop, &format!("junk-{number}"), CallOptions::new()).await })
        })
        .collect();
    sleep(SECOND).await;
    assert_eq!(shop.wanted(ResourceKind::Cluster).len(), 256);
    for call in calls {
        call.await.unwrap().unwrap_err();
    }
    for number in 0..300 {
        shop.name_with(&format!("more-{number}"), CallOptions::new().within(SECOND / 100)).await.unwrap_err();
    }
    assert_eq!(shop.wanted(ResourceKind::Cluster).len(), 256);
    assert_eq!(shop.named("v1").await.unwrap(), "1", "what is there keeps its place");
    sleep(900 * SECOND).await;
    assert!(shop.wanted(ResourceKind::Cluster).is_empty());
}

#[tokio::test(start_paused = true)]
async fn stranger_can_name_neither_every_cluster_nor_who_is_asked() {
    let shop = Shop::by_header(&[1]);
    shop.set(cluster("v1"));
    shop.world.plane.set(endpoints("v1", [address(1)]));
    assert_eq!(shop.named("v1").await.unwrap(), "1");
    let start = Instant::now();
    for name in ["*", "xdstp://partner.test/envoy.config.cluster.v3.Cluster/v1", "xdstp:///t/v1"] {
        let error = shop.named(name).await.unwrap_err();
        assert_eq!(failure_of(&error).unwrap().2, Flags::NC, "{error}");
    }
    assert!(start.elapsed() < SECOND, "there is nothing to wait for");
    assert_eq!(shop.wanted(ResourceKind::Cluster), ["v1"]);
}

#[tokio::test(start_paused = true)]
async fn aggregate_that_a_request_names_comes_with_its_parts() {
    let shop = Shop::by_header(&[1]);
    shop.set(aggregate("v1", &["near"]));
    shop.set(cluster("near"));
    shop.world.plane.set(endpoints("near", [address(1)]));
    assert_eq!(shop.named("v1").await.unwrap(), "1");
    sleep(900 * SECOND).await;
    assert!(shop.wanted(ResourceKind::Cluster).is_empty());
    assert!(shop.mesh.status().clusters.is_empty());
}

// --- coming and going ---

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_ten_thousand_clusters_that_came_and_went() {
    const ROUNDS: usize = 500;
    const CLUSTERS: usize = 20;
    let shop = Shop::open(Speaks::Http2, &[1], |shop| {
        shop.zone.set("one.test", &[1]);
        shop.set(cluster("v1"));
        shop.world.plane.set(endpoints("v1", [address(1)]));
    });
    assert_eq!(shop.caller.call().await.unwrap(), "1");
    sleep(SECOND).await;
    let before = shop.counts();
    for round in 0..ROUNDS {
        let names: Vec<_> = (0..CLUSTERS).map(|number| format!("round-{round}-{number}")).collect();
        let part = |name: &str| format!("{name}-part");
        shop.world.plane.update(|tx| {
            for (number, name) in names.iter().enumerate() {
                match number % 4 {
                    0 => tx.set(cluster(name)).set(endpoints(name, [address(1)])),
                    1 => tx.set(of_type(name, DiscoveryType::Static, vec![group(0, &["10.0.0.1"])])),
                    2 => tx.set(of_type(name, DiscoveryType::StrictDns, vec![group(0, &["one.test"])])),
                    _ => tx
                        .set(aggregate(name, &[&part(name)]))
                        .set(cluster(&part(name)))
                        .set(endpoints(&part(name), [address(1)])),
                };
            }
            tx.set(route_config("routes", names.iter().map(|name| (name.as_str(), 1))));
        });
        sleep(SECOND).await;
        assert_eq!(shop.caller.call().await.unwrap(), "1", "round {round}");
        assert_eq!(shop.mesh.status().clusters.len(), CLUSTERS + CLUSTERS / 4, "round {round}: its own, and no other");
        shop.world.plane.update(|tx| {
            for name in names.iter().flat_map(|name| [name.clone(), part(name)]) {
                tx.remove(ResourceKind::Cluster, &name).remove(ResourceKind::ClusterLoadAssignment, &name);
            }
        });
    }
    shop.world.plane.set(route_config("routes", [("v1", 1)]));
    sleep(SECOND).await;
    assert_eq!(shop.caller.call().await.unwrap(), "1");
    sleep(SECOND).await;
    assert_eq!(shop.counts(), before);
}

// --- the shop ---

/// A steered client whose traffic goes to `v1`, and what it is steered among. Backends are named by their number.
struct Shop {
    world: World,
    zone: Zone,
    mesh: Mesh,
    caller: Caller,
    _backends: Vec<Backend>,
}

/// What is offered before there is a client.
struct Offer {
    world: World,
    zone: Zone,
}

/// What names mean.
#[derive(Clone, Default)]
struct Zone {
    names: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
}

impl Offer {
    fn set(&self, cluster: Cluster) {
        self.world.plane.set(cluster);
    }
}

impl Shop {
    fn open(speaks: Speaks, backends: &[u8], offer: impl FnOnce(&Offer)) -> Self {
        let routes = route_config("routes", [("v1", 1)]);
        Self::with_routes(speaks, backends, routes, offer)
    }

    fn with_routes(speaks: Speaks, backends: &[u8], routes: RouteConfiguration, offer: impl FnOnce(&Offer)) -> Self {
        let offered = Offer { world: World::new(), zone: Zone::default() };
        offer(&offered);
        let Offer { world, zone } = offered;
        world.plane.set(listener(TARGET, "routes"));
        world.plane.set(routes);
        let backends = backends
            .iter()
            .map(|number| world.backend(*number, &number.to_string(), speaks, Answer::after(Duration::from_millis(1))));
        let backends = backends.collect();
        let source = world.source(5).build().unwrap();
        let mesh = world.unsteered(5).resolver(zone.clone()).source(source).build().unwrap();
        let caller = Caller::of(&mesh, TARGET, speaks);
        Self { world, zone, mesh, caller, _backends: backends }
    }

    /// `v1` is made of these clusters.
    fn of_aggregate(speaks: Speaks, parts: &[(&str, &[u8])]) -> Self {
        let backends: Vec<u8> = parts.iter().flat_map(|(_, numbers)| numbers.iter().copied()).collect();
        Self::open(speaks, &backends, |offer| {
            let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
            offer.set(aggregate("v1", &names));
            for (name, numbers) in parts {
                offer.set(cluster(name));
                offer.world.plane.set(endpoints(name, numbers.iter().copied().map(address)));
            }
        })
    }

    /// Requests name their cluster.
    fn by_header(backends: &[u8]) -> Self {
        let mut routes = route_config("routes", [("any", 1)]);
        let Some(Action::Route(to)) = &mut routes.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
        to.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x-cluster".to_owned()));
        Self::with_routes(Speaks::Http1, backends, routes, |_| {})
    }

    fn set(&self, cluster: Cluster) {
        self.world.plane.set(cluster);
    }

    /// Nobody answers there any longer.
    fn kill(&self, number: u8) {
        self.world.network.reset(address(number));
        self.world.network.reach(address(number), Reach::Refuses);
    }

    async fn calls(&self, many: usize) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..many {
            tally.count(self.caller.call().await);
        }
        tally
    }

    /// Who answers.
    async fn answering(&self) -> Vec<String> {
        let tally = self.calls(40).await;
        tally.assert_none_failed();
        tally.answers.into_keys().collect()
    }

    fn wanted(&self, kind: ResourceKind) -> Vec<String> {
        self.world.plane.subscriptions(kind).into_iter().collect()
    }

    fn client(&self) -> Client {
        let Caller::Http(client) = &self.caller else { panic!("it is of HTTP") };
        client.clone()
    }

    async fn named(&self, cluster: &str) -> Result<String, mesh_tests::wire::Error> {
        self.name_with(cluster, CallOptions::new()).await
    }

    async fn name_with(&self, cluster: &str, options: CallOptions) -> Result<String, mesh_tests::wire::Error> {
        name(&self.client(), cluster, options).await
    }

    /// Tasks, clusters in use, names that are asked for, resources that are held.
    fn counts(&self) -> [usize; 5] {
        let status = self.mesh.status();
        [
            Handle::current().metrics().num_alive_tasks(),
            status.clusters.len(),
            self.wanted(ResourceKind::Cluster).len(),
            self.wanted(ResourceKind::ClusterLoadAssignment).len(),
            status.source.map_or(0, |source| source.resources.len()),
        ]
    }
}

/// A request that names its cluster.
async fn name(client: &Client, cluster: &str, options: CallOptions) -> Result<String, mesh_tests::wire::Error> {
    let request = http::Request::get(format!("http://{TARGET}/")).header("x-cluster", cluster).extension(options);
    let response = client.request(request.body(Empty::<Bytes>::new())?).await?;
    Ok(mesh_tests::sim::text(response).await)
}

impl Zone {
    fn set(&self, name: &str, numbers: &[u8]) -> &Self {
        let addresses = numbers.iter().map(|number| address(*number).ip()).collect();
        self.names.lock().unwrap().insert(name.to_owned(), addresses);
        self
    }
}

impl Resolve for Zone {
    fn resolve(&self, host: &str) -> Resolving {
        let found = self.names.lock().unwrap().get(host).cloned();
        Box::pin(async move {
            let addresses = found.ok_or("there is no such name")?;
            Ok(Resolved { addresses, valid_for: Duration::from_secs(30) })
        })
    }
}

/// A cluster of this type, and these endpoints in it.
fn of_type(name: &str, kind: DiscoveryType, groups: Vec<LocalityLbEndpoints>) -> Cluster {
    let assigned = ClusterLoadAssignment { endpoints: groups, ..ClusterLoadAssignment::default() };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        load_assignment: Some(assigned),
        ..Cluster::default()
    }
}

/// The same cluster by an extension.
fn custom(cluster: Cluster, config: envoy_types::pb::google::protobuf::Any) -> Cluster {
    let custom = CustomClusterType { name: "custom".to_owned(), typed_config: Some(config) };
    Cluster { cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(custom)), ..cluster }
}

fn aggregate(name: &str, parts: &[&str]) -> Cluster {
    let config = ClusterConfig { clusters: parts.iter().map(ToString::to_string).collect() };
    let bare = Cluster { name: name.to_owned(), lb_policy: LbPolicy::ClusterProvided as i32, ..Cluster::default() };
    custom(bare, pack_any(config))
}

/// Endpoints at port 80 of these hosts.
fn group(priority: u32, hosts: &[&str]) -> LocalityLbEndpoints {
    let endpoint = |host: &&str| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: place(host), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    LocalityLbEndpoints {
        priority,
        lb_endpoints: hosts.iter().map(endpoint).collect(),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..LocalityLbEndpoints::default()
    }
}

fn place(host: &str) -> Option<Address> {
    let socket = SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(80)),
        ..SocketAddress::default()
    };
    Some(Address { address: Some(Place::SocketAddress(socket)) })
}
