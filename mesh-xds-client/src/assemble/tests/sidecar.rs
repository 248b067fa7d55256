//! The dialect of sidecars: all clusters, and routes without a listener.

use mesh_core::config::FilterKind;

use tonic::Code;

use super::*;
use crate::{
    bootstrap::{Bootstrap, ChannelCredentials, Node},
    store::{Denial, Known},
};

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";
const ROUTES: &str = "reviews.shop.svc.cluster.local:9080";
const KEPT: Terms =
    Terms { kept: Some("until no route names it"), keeps_cached: false, is_strict: false, is_patient: false };

fn lead(target: &str) -> Result<Lead, Arc<str>> {
    let node = Node::new("sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local");
    let bootstrap = Bootstrap::builder().server("plane:80", ChannelCredentials::Insecure).node(node).build();
    Dialect::Sidecar.lead(&bootstrap.expect("a valid bootstrap"), target)
}

impl Bench {
    /// These targets are watched by a sidecar, and the control plane has these clusters.
    fn sidecar(targets: &[&str], clusters: &[&str]) -> Self {
        let mut bench = Self::new(Dialect::Sidecar);
        for target in targets {
            bench.watch(target, || lead(target));
        }
        clusters.iter().for_each(|name| drop(bench.set(static_cluster(name))));
        bench.shared.held().store.answered(Cds);
        bench.step();
        bench
    }

    fn deny(&mut self, cluster: &str, code: Code, terms: Terms) {
        let denial = Denial { code, message: String::new() };
        self.shared.held().store.deny(Cds, cluster, denial, terms);
    }
}

fn ready(snapshot: &Snapshot, target: &str) -> Arc<Listener> {
    match &snapshot.targets[target] {
        TargetState::Ready(listener) => listener.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_cluster_is_wanted_and_none_by_its_name() {
    let bench = Bench::sidecar(&[], &["a", "b"]);
    let wanted = Wanted::of_dialect(Dialect::Sidecar);
    assert!(wanted.everything(Cds) && wanted.of(Cds).is_empty());
    assert_eq!(bench.wanted(Cds), ["a", "b"], "they are held although nobody names them");
    assert_eq!(bench.wanted(Lds), ["virtualInbound"]);
}

#[test]
fn short_name_means_the_service_that_has_a_cluster() {
    for target in ["reviews:9080", "reviews.shop:9080", "reviews.shop.svc:9080", "xds:///reviews.shop:9080"] {
        let bench = Bench::sidecar(&[target], &["outbound|9080||other.shop.svc.cluster.local", REVIEWS]);
        assert_eq!(bench.wanted(Rds), [ROUTES], "{target}");
    }
    let outside = Bench::sidecar(&["api.example.com:443"], &["outbound|443||api.example.com"]);
    assert_eq!(outside.wanted(Rds), ["api.example.com:443"]);
    let both = Bench::sidecar(&["reviews:9080"], &["outbound|9080||reviews", REVIEWS]);
    assert_eq!(both.wanted(Rds), ["reviews:9080"], "what is written in full counts first");
}

#[test]
fn name_waits_for_a_service_and_is_unavailable_when_none_has_come() {
    let mut bench = Bench::sidecar(&["reviews:9080"], &["outbound|9090||reviews.shop.svc.cluster.local"]);
    let candidates: Vec<_> = bench.wanted(Cds).into_iter().filter(|name| name.contains("9080")).collect();
    assert_eq!(candidates.len(), 4);
    let mut last = None;
    for name in &candidates {
        assert!(last.is_none(), "another may come");
        last = bench.time_out(Cds, name);
    }
    let reason = reason(&last.expect("there is something to say"), "reviews:9080");
    assert!(reason.contains(REVIEWS) && reason.contains("node-1"), "{reason}");
    assert!(bench.wanted(Rds).is_empty());

    bench.set(static_cluster(REVIEWS));
    let snapshot = bench.set(route_config(ROUTES, [(REVIEWS, 1)])).expect("the service has come");
    assert_eq!(ready(&snapshot, "reviews:9080").routes.clusters(), [REVIEWS.into()]);
    let held = ["outbound|9080||reviews.shop.svc.cluster.local", "outbound|9090||reviews.shop.svc.cluster.local"];
    assert_eq!(bench.wanted(Cds), held, "nobody waits for the others any longer");
}

#[test]
fn service_that_is_removed_makes_its_target_unavailable_and_its_return_mends_it() {
    let mut bench = Bench::sidecar(&["reviews:9080"], &[REVIEWS, "b"]);
    bench.set(route_config(ROUTES, [(REVIEWS, 1)])).expect("it is whole");
    bench.shared.held().store.absent(Cds, REVIEWS, AbsenceReason::Removed, KEPT);
    let snapshot = bench.step().expect("it is gone");
    assert!(reason(&snapshot, "reviews:9080").contains(REVIEWS));
    assert!(snapshot.clusters.is_empty());
    assert!(bench.wanted(Rds).is_empty());
    bench.assembly.release("reviews:9080");
    bench.shared.held().store.touch();
    bench.step();
    assert_eq!(bench.wanted(Cds), ["b"], "and nothing is left of it");
    bench.watch("reviews:9080", || lead("reviews:9080"));
    bench.set(static_cluster(REVIEWS));
    assert!(bench.set(route_config(ROUTES, [(REVIEWS, 1)])).is_some());
}

#[test]
fn service_that_is_denied_serves_by_the_version_before_until_it_is_removed() {
    for code in [Code::NotFound, Code::PermissionDenied] {
        let mut bench = Bench::sidecar(&["reviews:9080"], &[REVIEWS]);
        bench.set(route_config(ROUTES, [(REVIEWS, 1)])).expect("it is whole");
        bench.deny(REVIEWS, code, KEPT);
        assert!(bench.step().is_none(), "{code:?}");
        assert_eq!((bench.wanted(Cds), bench.wanted(Rds)), (vec![REVIEWS.to_owned()], vec![ROUTES.to_owned()]));
        bench.shared.held().store.absent(Cds, REVIEWS, AbsenceReason::Removed, KEPT);
        let snapshot = bench.step().expect("it is gone");
        assert!(reason(&snapshot, "reviews:9080").contains(REVIEWS));
    }
}

#[test]
fn denied_cluster_that_nobody_needs_is_held_while_there_is_a_version_of_it() {
    for (is_strict, held) in [(false, vec!["a", "b"]), (true, vec!["a"])] {
        let mut bench = Bench::sidecar(&[], &["a", "b"]);
        bench.deny("b", Code::PermissionDenied, Terms { is_strict, ..KEPT });
        bench.step();
        assert_eq!(bench.wanted(Cds), held);
        bench.shared.held().store.absent(Cds, "b", AbsenceReason::Removed, KEPT);
        bench.step();
        assert_eq!(bench.wanted(Cds), ["a"]);
    }
}

#[test]
fn removed_cluster_serves_until_no_route_names_it() {
    let mut bench = Bench::sidecar(&["*:9080"], &["a", "b"]);
    bench.set(route_config("9080", [("a", 1), ("b", 1)])).expect("it is whole");
    bench.shared.held().store.absent(Cds, "b", AbsenceReason::Removed, KEPT);
    assert!(bench.step().is_none());
    assert_eq!(bench.wanted(Cds), ["a", "b"]);
    let snapshot = bench.set(route_config("9080", [("a", 1)])).expect("other routes");
    assert_eq!(snapshot.clusters.len(), 1);
    assert_eq!(bench.wanted(Cds), ["a"]);
}

#[test]
fn routes_wait_for_a_cluster_that_may_be_about_to_come() {
    let mut bench = Bench::sidecar(&["*:9080"], &["a"]);
    bench.set(route_config("9080", [("a", 1)])).expect("it is whole");
    assert!(bench.set(route_config("9080", [("a", 1), ("late", 1)])).is_none(), "the old ones serve");
    let snapshot = bench.set(static_cluster("late")).expect("it has come");
    assert!(snapshot.clusters.contains_key("late"));

    assert!(bench.set(route_config("9080", [("a", 1), ("never", 1)])).is_none());
    let snapshot = bench.time_out(Cds, "never").expect("they have waited long enough");
    assert!(snapshot.clusters.contains_key("a") && !snapshot.clusters.contains_key("never"));
    bench.set(route_config("9080", [("a", 1)])).expect("other routes");
    assert_eq!(bench.wanted(Cds), ["a", "late"], "what never came is forgotten, and what the server has is not");
}

/// A cluster as Istio has it.
fn patient(name: &str) -> WireCluster {
    let mut cluster = cluster(name);
    let source = cluster.eds_cluster_config.as_mut().and_then(|eds| eds.eds_config.as_mut()).expect("it is of EDS");
    source.initial_fetch_timeout = Some(Default::default());
    cluster
}

#[test]
fn routes_wait_for_endpoints_however_long_they_take_where_others_serve() {
    let mut bench = Bench::sidecar(&["*:9080"], &["a"]);
    bench.set(route_config("9080", [("a", 1)])).expect("it is whole");
    bench.set(patient("v2"));
    assert!(bench.set(route_config("9080", [("v2", 1)])).is_none(), "its endpoints have not come");
    assert!(bench.time_out(Eds, "v2").is_none(), "nor are they known after a while");
    let snapshot = bench.set(endpoints("v2", [one()])).expect("they have come");
    assert_eq!(ready(&snapshot, "*:9080").routes.clusters(), ["v2".into()]);

    bench.set(cluster("v3"));
    assert!(bench.set(route_config("9080", [("v3", 1)])).is_none(), "its endpoints have not come");
    bench.time_out(Eds, "v3").expect("the cluster does not say that they are to be waited for");

    // Whoever has no routes yet is better off with a part of them.
    let mut bench = Bench::sidecar(&["*:9080"], &["a"]);
    bench.set(patient("v2"));
    assert!(bench.set(route_config("9080", [("a", 1), ("v2", 1)])).is_none());
    let snapshot = bench.time_out(Eds, "v2").expect("they have waited long enough");
    assert!(snapshot.clusters.contains_key("a") && snapshot.clusters["v2"].endpoints.is_none());
}

#[test]
fn port_asks_for_its_routes_at_once() {
    let mut bench = Bench::new(Dialect::Sidecar);
    bench.watch("*:9080", || lead("*:9080"));
    assert_eq!(bench.wanted(Rds), ["9080"]);
}

#[test]
fn silence_about_retries_means_none_and_faults_wait_for_the_routes() {
    let mut bench = Bench::sidecar(&["*:9080"], &["a"]);
    let snapshot = bench.set(route_config("9080", [("a", 1)])).expect("it is whole");
    let listener = ready(&snapshot, "*:9080");
    assert_eq!(listener.policy.retry.as_ref().map(|policy| policy.retries()), Some(0));
    assert!(matches!(&*listener.filters, [one] if one.kind == FilterKind::Faults(Arc::default())));
}

#[test]
fn listener_for_what_comes_in_is_kept_and_in_nobodys_way() {
    use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener as Wire};
    let chain = |port: Option<u32>, name: &str| FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: port.map(|value| envoy_types::pb::google::protobuf::UInt32Value { value }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let chains = vec![chain(None, "any"), chain(Some(8080), "http"), chain(Some(8080), "https")];
    let inbound = Wire { name: "virtualInbound".to_owned(), filter_chains: chains, ..Default::default() };
    let mut bench = Bench::sidecar(&["*:9080"], &["a"]);
    bench.set(route_config("9080", [("a", 1)])).expect("it is whole");
    assert!(bench.set(inbound.clone()).is_none(), "nobody's routes have changed");
    let held = bench.shared.held().store.inbound("virtualInbound").expect("it is there").clone();
    assert_eq!(*held.message(), inbound);
    let names = |port| held.chains(port).map(|chain| &*chain.name).collect::<Vec<_>>();
    assert_eq!((names(8080), names(9090)), (vec!["http", "https"], vec!["any"]));
    assert!(matches!(bench.shared.held().store.listener("virtualInbound"), Known::Missing), "it is for no client");

    assert!(bench.spoil(Lds, "virtualInbound").is_none());
    assert_eq!(bench.shared.held().store.inbound("virtualInbound"), Some(&held), "the last good one stays");
}

#[test]
fn target_that_names_no_service_says_what_to_write() {
    let mut bench = Bench::new(Dialect::Sidecar);
    let snapshot = bench.watch("reviews", || lead("reviews")).expect("there is something to say");
    assert!(reason(&snapshot, "reviews").contains("write `host:port`"));
}
