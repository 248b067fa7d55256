//! Several authorities, each with control planes of its own, in one client (gRFC A47).

use std::collections::BTreeSet;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as WireCluster;
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind::{self, Cluster, ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::bootstrap::{Authority, Bootstrap, BootstrapBuilder, ChannelCredentials, Node, ServerFeature};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::{XdsClient, XdsClientBuilder};

use crate::support::{Pipes, Planes, Running, address, offer, reached, ready, routed, run, set};

const SECOND: Duration = Duration::from_secs(1);

const OWN: &str = "10.0.0.1:1";
const PARTNER: &str = "10.0.0.1:2";

fn of_partner(kind: ResourceKind, id: &str) -> String {
    let (_, message) = kind.type_url().rsplit_once('/').expect("a type URL");
    format!("xdstp://partner.test/{message}/{id}")
}

/// A cluster of an authority, which has to say what its endpoints are called.
fn partner_cluster(id: &str) -> WireCluster {
    let mut made = cluster(&of_partner(Cluster, id));
    let eds = made.eds_cluster_config.as_mut().expect("set by the kit");
    eds.service_name = of_partner(ClusterLoadAssignment, id);
    made
}

/// Offers `echo` under the names of the partner.
fn offer_partner(plane: &ControlPlane) {
    plane.update(|tx| {
        let (routes, cluster) = (of_partner(RouteConfiguration, "echo"), of_partner(Cluster, "v9"));
        tx.set(listener(&of_partner(Listener, "echo"), routes.as_str()));
        tx.set(route_config(&routes, [(cluster.as_str(), 1)])).set(partner_cluster("v9"));
        tx.set(endpoints(&of_partner(ClusterLoadAssignment, "v9"), [address(9)]));
    });
}

fn bootstrap() -> BootstrapBuilder {
    Bootstrap::builder().server(OWN, ChannelCredentials::Insecure).node(Node::new("test-node"))
}

fn client_of(bootstrap: BootstrapBuilder, pipes: &[&Pipes]) -> XdsClientBuilder {
    let connector = Planes((1..).zip(pipes.iter().map(|pipes| (*pipes).clone())).collect());
    XdsClient::builder(bootstrap.build().expect("a valid bootstrap")).connector(connector).seed(7)
}

/// What a control plane was asked for, of any kind.
fn asked(plane: &ControlPlane) -> BTreeSet<String> {
    ResourceKind::ALL.into_iter().flat_map(|kind| plane.subscriptions(kind)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_authority_is_asked_for_its_own_and_one_that_is_away_is_in_nobodys_way() {
    for features in [&[][..], &[ServerFeature::Delta]] {
        let (own, partner) = (ControlPlane::new(), ControlPlane::new());
        let (to_own, to_partner) = (Pipes::to(&own), Pipes::to(&partner));
        offer(&own, "echo", &["v1"]);
        offer_partner(&partner);
        let server = mesh_xds_client::bootstrap::Server::builder(PARTNER, ChannelCredentials::Insecure);
        let authority = Authority::builder().add_server(server.features(features.iter().copied()));
        let mut running = run(client_of(bootstrap().authority("partner.test", authority), &[&to_own, &to_partner]));
        let _interests = [running.client.watch("echo"), running.client.watch("xds://partner.test/echo")];
        running.until_routed("echo", &["v1"]).await;
        let cluster = of_partner(Cluster, "v9");
        let snapshot = running.until_routed("xds://partner.test/echo", &[&cluster]).await;
        assert_eq!(reached(&snapshot, &cluster), ["10.0.0.9:80"]);
        assert_eq!(asked(&own), set(&["echo", "v1"]));
        assert!(asked(&partner).iter().all(|name| name.starts_with("xdstp://partner.test/")), "{:?}", asked(&partner));
        let servers = running.client.status().servers;
        assert_eq!(
            servers.iter().map(|one| (&*one.server, one.connected)).collect::<Vec<_>>(),
            [(OWN, true), (PARTNER, true)]
        );

        to_partner.cut(true);
        partner.abort_connections();
        own.set(endpoints("v1", [address(2)]));
        let snapshot = running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
        assert_eq!(routed(&snapshot, "xds://partner.test/echo"), Some(set(&[&cluster])), "the last good one serves");
        running.settle(60 * SECOND).await;
        let servers = running.client.status().servers;
        assert_eq!((servers[0].connected, servers[1].connected), (true, false));
        assert!(servers[0].last_error.is_none() && servers[1].last_error.is_some());
        assert!(running.client.status().connected, "the bootstrap's own speaks for the client");
    }
}

#[tokio::test(start_paused = true)]
async fn age_is_that_of_the_authority_that_is_asked_and_has_been_away_for_longest() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let (own, partner) = (ControlPlane::new(), ControlPlane::new());
    let (to_own, to_partner) = (Pipes::to(&own), Pipes::to(&partner));
    offer(&own, "echo", &["v1"]);
    offer_partner(&partner);
    let server = mesh_xds_client::bootstrap::Server::builder(PARTNER, ChannelCredentials::Insecure);
    let authority = Authority::builder().add_server(server);
    let mut running = run(client_of(bootstrap().authority("partner.test", authority), &[&to_own, &to_partner]));
    let of_own = running.client.watch("echo");
    let of_partner_too = running.client.watch("xds://partner.test/echo");
    running.until_routed("echo", &["v1"]).await;
    running.until_routed("xds://partner.test/echo", &[&of_partner(Cluster, "v9")]).await;
    let is_aged = |running: &Running, least: Duration| {
        let age = running.client.status().age;
        assert!(age >= least && age < least + 60 * SECOND, "{age:?} for {least:?}");
    };

    // 1. The partner's goes first, the own an hour later.
    to_partner.cut(true);
    partner.abort_connections();
    running.settle(HOUR).await;
    is_aged(&running, HOUR);
    to_own.cut(true);
    own.abort_connections();
    running.settle(HOUR).await;
    is_aged(&running, 2 * HOUR);

    // 2. Nobody asks the partner's any longer, and its silence means nothing.
    drop(of_partner_too);
    running.settle(SECOND).await;
    is_aged(&running, HOUR);
    assert_eq!(running.client.status().server, OWN);

    // 3. Nor the own. There is nothing left that could be of an age, and another server's word would count.
    drop(of_own);
    running.settle(HOUR).await;
    assert_eq!(running.client.status().age, Duration::ZERO);
    to_partner.cut(false);
    let _interest = running.client.watch("xds://partner.test/echo");
    running.settle(150 * SECOND).await;
    assert_eq!(running.client.status().age, Duration::ZERO);
    let status = running.client.status();
    assert_eq!((&*status.server, status.connected), (PARTNER, true), "the one that is asked speaks for the client");
}

#[tokio::test(start_paused = true)]
async fn one_server_of_several_authorities_has_one_stream() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    offer_partner(&plane);
    let same = Authority::builder().server(OWN, ChannelCredentials::Insecure);
    let bootstrap = bootstrap().authority("partner.test", same).authority("other.test", Authority::builder());
    let mut running = run(client_of(bootstrap, &[&Pipes::to(&plane)]));
    let _interests = [running.client.watch("echo"), running.client.watch("xds://partner.test/echo")];
    running.until_routed("echo", &["v1"]).await;
    running.until_routed("xds://partner.test/echo", &[&of_partner(Cluster, "v9")]).await;
    assert_eq!(plane.streams(), 1);
    assert_eq!(running.client.status().servers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn names_are_the_same_however_they_are_written() {
    let partner = ControlPlane::new();
    let listener_name = of_partner(Listener, "echo%7E?b=2&a=1");
    let routes = of_partner(RouteConfiguration, "r");
    let cluster = of_partner(Cluster, "v9");
    for features in [&[][..], &[ServerFeature::Delta]] {
        // Asked for in the canonical form, answered in another.
        partner.update(|tx| {
            let canonical = of_partner(Listener, "echo~?a=1&b=2");
            tx.raw(
                Listener,
                &canonical,
                envoy_types::util::pack_any(listener(&listener_name, format!("{routes}?z=1&y=%32").as_str())),
            );
            let canonical = format!("{routes}?y=2&z=1");
            tx.raw(
                RouteConfiguration,
                &canonical,
                envoy_types::util::pack_any(route_config(&canonical, [(cluster.as_str(), 1)])),
            );
            tx.set(partner_cluster("v9")).set(endpoints(&of_partner(ClusterLoadAssignment, "v9"), [address(9)]));
        });
        let server = mesh_xds_client::bootstrap::Server::builder(PARTNER, ChannelCredentials::Insecure);
        let authority = Authority::builder()
            .add_server(server.features(features.iter().copied()))
            .client_listener_template("xdstp://partner.test/envoy.config.listener.v3.Listener/%s?b=2&a=1");
        let unused = Pipes::to(&partner);
        let mut running = run(client_of(bootstrap().authority("partner.test", authority), &[&unused, &unused]));
        let _interest = running.client.watch("xds://partner.test/echo~");
        running.until_routed("xds://partner.test/echo~", &[&cluster]).await;
        assert_eq!(running.state(Listener, &of_partner(Listener, "echo~?a=1&b=2")), Some(ResourceState::Synced));
        assert_eq!(running.state(RouteConfiguration, &format!("{routes}?y=2&z=1")), Some(ResourceState::Synced));
    }
}

#[tokio::test(start_paused = true)]
async fn refused_version_leaves_the_one_before_in_force_however_its_name_is_written() {
    for features in [&[][..], &[ServerFeature::Delta]] {
        let partner = ControlPlane::new();
        offer_partner(&partner);
        let canonical = of_partner(Listener, "echo?a=1&b=2");
        let written = |routes: &str| listener(&of_partner(Listener, "echo?b=2&a=1"), routes);
        let routes = of_partner(RouteConfiguration, "echo");
        partner.raw(Listener, &canonical, envoy_types::util::pack_any(written(&routes)));
        let server = mesh_xds_client::bootstrap::Server::builder(PARTNER, ChannelCredentials::Insecure);
        let authority = Authority::builder()
            .add_server(server.features(features.iter().copied()))
            .client_listener_template("xdstp://partner.test/envoy.config.listener.v3.Listener/%s?b=2&a=1");
        let pipes = Pipes::to(&partner);
        let mut running = run(client_of(bootstrap().authority("partner.test", authority), &[&pipes, &pipes]));
        let _interest = running.client.watch("xds://partner.test/echo");
        running.until_routed("xds://partner.test/echo", &[&of_partner(Cluster, "v9")]).await;

        let version = partner.raw(Listener, &canonical, envoy_types::util::pack_any(written("")));
        let nack = partner.wait_acked(Listener, &version).await.expect_err("the routes have no name");
        assert!(nack.request().error.as_deref().is_some_and(|text| text.contains(&canonical)), "{nack}");
        running.settle(20 * SECOND).await;
        let resource = running.resource(Listener, &canonical).expect("it is asked for");
        assert_eq!(resource.state, ResourceState::Rejected, "{resource:?}");
        assert!(ready(&running.present(), "xds://partner.test/echo").is_some(), "the version before serves");
    }
}

#[tokio::test(start_paused = true)]
async fn name_that_nobody_can_be_asked_for_says_why_and_spoils_nothing_else() {
    let own = ControlPlane::new();
    offer(&own, "echo", &["v1"]);
    let stranger = "xdstp://stranger.test/envoy.config.cluster.v3.Cluster/c";
    let mistyped = "xdstp://own.test/envoy.config.listener.v3.Listener/c";
    own.set(route_config("echo", [("v1", 1), (stranger, 1), (mistyped, 1)]));
    own.set(listener("lost", "xdstp://stranger.test/envoy.config.route.v3.RouteConfiguration/r"));
    let bootstrap = bootstrap().authority("own.test", Authority::builder());
    let mut running = run(client_of(bootstrap, &[&Pipes::to(&own)]));
    let targets = ["echo", "lost", "xds://stranger.test/echo"];
    let _interests = targets.map(|target| running.client.watch(target));
    let snapshot = running.until_routed("echo", &["v1", stranger, mistyped]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    for (name, why) in
        [(stranger, "`stranger.test` is not one of the bootstrap's authorities"), (mistyped, "another type")]
    {
        let resource = running.resource(Cluster, name).expect("it is named");
        assert_eq!(resource.state, ResourceState::Rejected);
        assert!(resource.error.as_ref().is_some_and(|error| error.contains(why)), "{resource:?}");
    }
    let reason = running.until_unavailable("lost").await;
    assert!(reason.contains("stranger.test") && reason.contains("test-node"), "{reason}");
    let reason = running.until_unavailable("xds://stranger.test/echo").await;
    assert!(reason.contains("authority that the bootstrap does not have (it has own.test)"), "{reason}");
    assert!(asked(&own).iter().all(|name| !name.contains("stranger")), "nobody is asked");
}

#[tokio::test(start_paused = true)]
async fn resource_of_an_authority_is_not_taken_from_the_server_of_another() {
    let (own, partner) = (ControlPlane::new(), ControlPlane::new());
    offer_partner(&own);
    offer(&own, "echo", &["v1"]);
    let cluster_name = of_partner(Cluster, "v9");
    // It sends the other's cluster along, with an endpoint of its own.
    own.set(endpoints(&of_partner(ClusterLoadAssignment, "v9"), [address(66)]));
    offer_partner(&partner);
    let authority = Authority::builder().server(PARTNER, ChannelCredentials::Insecure);
    let pipes = [&Pipes::to(&own), &Pipes::to(&partner)];
    let mut running = run(client_of(bootstrap().authority("partner.test", authority), &pipes));
    let _interests = [running.client.watch("echo"), running.client.watch("xds://partner.test/echo")];
    running.until_routed("xds://partner.test/echo", &[&cluster_name]).await;
    running.until_routed("echo", &["v1"]).await;
    own.send(envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse {
        type_url: ClusterLoadAssignment.type_url().to_owned(),
        resources: vec![envoy_types::util::pack_any(endpoints(
            &of_partner(ClusterLoadAssignment, "v9"),
            [address(66)],
        ))],
        version_info: "7".to_owned(),
        nonce: "unasked".to_owned(),
        ..Default::default()
    });
    own.wait_for(|event| event.request().is_some_and(|request| request.nonce == "unasked")).await;
    running.settle(SECOND).await;
    assert_eq!(reached(&running.present(), &cluster_name), ["10.0.0.9:80"]);
}

#[tokio::test(start_paused = true)]
async fn plain_target_goes_to_an_authority_where_the_template_says_so() {
    let (own, partner) = (ControlPlane::new(), ControlPlane::new());
    offer_partner(&partner);
    let authority = Authority::builder().server(PARTNER, ChannelCredentials::Insecure);
    let bootstrap = bootstrap()
        .client_listener_template("xdstp://partner.test/envoy.config.listener.v3.Listener/%s")
        .authority("partner.test", authority);
    let mut running = run(client_of(bootstrap, &[&Pipes::to(&own), &Pipes::to(&partner)]));
    let _interest = running.client.watch("echo");
    let snapshot = running.until_routed("echo", &[&of_partner(Cluster, "v9")]).await;
    assert!(ready(&snapshot, "echo").is_some());
    let status = running.client.status();
    assert_eq!((&*status.server, status.connected), (PARTNER, true), "nobody else is asked for anything");
    assert_eq!(own.events().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn authority_falls_back_by_itself() {
    let (own, partner) = (ControlPlane::new(), ControlPlane::new());
    let (to_own, to_partner) = (Pipes::to(&own), Pipes::to(&partner));
    to_partner.cut(true);
    offer(&own, "echo", &["v1"]);
    offer_partner(&own);
    offer_partner(&partner);
    let authority =
        Authority::builder().server(PARTNER, ChannelCredentials::Insecure).server(OWN, ChannelCredentials::Insecure);
    let mut running = run(client_of(bootstrap().authority("partner.test", authority), &[&to_own, &to_partner]));
    let echo = running.client.watch("echo");
    let _partner = running.client.watch("xds://partner.test/echo");
    running.until_routed("echo", &["v1"]).await;
    running.until_routed("xds://partner.test/echo", &[&of_partner(Cluster, "v9")]).await;
    assert_eq!(own.streams(), 1, "on the stream that is there");
    assert!(asked(&own).iter().any(|name| name.starts_with("xdstp:")));

    to_partner.cut(false);
    partner.wait_streams(1).await;
    running.settle(SECOND).await;
    assert_eq!(asked(&own), set(&["echo", "v1"]), "of the partner nothing any longer, and the stream is kept");
    assert_eq!(own.streams(), 1);
    drop(echo);
}

#[tokio::test(start_paused = true)]
async fn request_does_not_choose_who_is_asked() {
    let (own, partner) = (ControlPlane::new(), ControlPlane::new());
    let (to_own, to_partner) = (Pipes::to(&own), Pipes::to(&partner));
    offer(&own, "echo", &["v1"]);
    own.set(cluster("v2"));
    own.set(endpoints("v2", [address(2)]));
    offer_partner(&partner);
    let authority = Authority::builder().server(PARTNER, ChannelCredentials::Insecure);
    let client = client_of(bootstrap().authority("partner.test", authority), &[&to_own, &to_partner]);
    let mut running = run(client);
    let _echo = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;

    // A request says where it wants to go (`cluster_header`).
    let refused = [&of_partner(Cluster, "v9"), "xdstp://nobody.test/t/i", "xdstp:", "*", ""];
    let interests = refused.map(|name| running.client.demand(name));
    assert!(interests.iter().all(Option::is_none));
    let _demanded = running.client.demand("v2").expect("a name of the older form");
    running.until(|snapshot| reached(snapshot, "v2") == ["10.0.0.2:80"]).await;
    running.settle(60 * SECOND).await;
    assert_eq!(to_partner.attempts(), 0);
    assert_eq!(asked(&own), set(&["echo", "v1", "v2"]));
}

#[tokio::test]
async fn two_authorities_over_real_sockets() {
    let (own, partner) = (ControlPlane::new(), ControlPlane::new());
    offer(&own, "echo", &["v1"]);
    offer_partner(&partner);
    let at_own = own.listen("127.0.0.1:0").await.expect("a port");
    let at_partner = partner.listen("127.0.0.1:0").await.expect("a port");
    let authority = Authority::builder().server(at_partner.to_string(), ChannelCredentials::Insecure);
    let bootstrap = Bootstrap::builder()
        .server(at_own.to_string(), ChannelCredentials::Insecure)
        .authority("partner.test", authority)
        .build()
        .expect("a valid bootstrap");
    let mut running = run(XdsClient::builder(bootstrap));
    let _interests = [running.client.watch("echo"), running.client.watch("xds://partner.test/echo")];
    running.until_routed("echo", &["v1"]).await;
    running.until_routed("xds://partner.test/echo", &[&of_partner(Cluster, "v9")]).await;
}
