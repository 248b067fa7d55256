//! Assembly from a store that is filled by hand, step by step.

use std::net::SocketAddr;

use envoy_types::{
    pb::envoy::{
        config::cluster::v3::{
            Cluster as WireCluster,
            cluster::{ClusterDiscoveryType, CustomClusterType},
        },
        config::core::v3::Node,
        extensions::clusters::aggregate::v3::ClusterConfig,
    },
    util::pack_any,
};
use mesh_core::{
    config::ClusterEntry,
    source::{ResourceState, ResourceStatus},
};
use proptest::prelude::*;

mod sidecar;

use super::*;
use crate::{
    pace::in_slices,
    resource::Context,
    session::{AbsenceReason, RawResource},
    store::{AuthorityId, Origin, Terms},
    testkit::{
        Resource,
        resource::{cluster, endpoints, listener, route_config},
    },
};

use ResourceKind::{Cluster as Cds, ClusterLoadAssignment as Eds, Listener as Lds, RouteConfiguration as Rds};

/// A store and what is made of it, with the names that are asked for as they would be.
struct Bench {
    shared: Shared,
    assembly: Assembly,
    context: Context,
}

impl Bench {
    /// Nothing is held, and these targets are watched.
    fn watching(targets: &[&str]) -> Self {
        let mut bench = Self::new(Dialect::Grpc);
        for target in targets {
            bench.watch(target, || Ok(Lead::Listener((*target).into())));
        }
        bench
    }

    fn new(dialect: Dialect) -> Self {
        let mut context = Context::new();
        if dialect == Dialect::Sidecar {
            context = context.for_sidecars();
        }
        let shared = Shared::new(Node::default(), ["plane:80".to_owned()]);
        let mut bench = Self { shared, assembly: Assembly::new("node-1", dialect), context };
        bench.shared.held().store.touch();
        bench.step();
        bench
    }

    fn watch(&mut self, target: &str, lead: impl FnOnce() -> Result<Lead, Arc<str>>) -> Option<Arc<Snapshot>> {
        self.assembly.watch(target.into(), lead);
        self.shared.held().store.touch();
        self.step()
    }

    /// Assembles, and asks for what is wanted until there is no more to ask for.
    fn step(&mut self) -> Option<Arc<Snapshot>> {
        let changes = self.shared.held().store.take_changes();
        let mut pace = Pace::new();
        let (Assembled { snapshot, wanted }, _) = in_slices(self.assembly.assemble(&self.shared, &changes, &mut pace));
        in_slices(self.assembly.let_go(&mut pace));
        let Some(wanted) = wanted else { return snapshot };
        let store = &mut self.shared.held().store;
        for kind in ResourceKind::ALL {
            if wanted.everything(kind) {
                store.want_everything(kind);
            }
            for name in store.sweep(kind, wanted.of(kind), None, usize::MAX).dispensable {
                store.forget(kind, &name);
            }
            for name in wanted.of(kind) {
                if store.get(kind, name).is_none() {
                    store.want(kind, name, AuthorityId::default());
                }
            }
        }
        snapshot
    }

    fn set<R: Resource + 'static>(&mut self, resource: R) -> Option<Arc<Snapshot>> {
        self.offer(resource);
        self.step()
    }

    /// Takes it only where it is wanted.
    fn offer<R: Resource + 'static>(&mut self, resource: R) {
        let raw = RawResource { name: None, version: None, body: pack_any(resource).into() };
        self.shared
            .held()
            .store
            .offer(R::KIND, raw, &"1".into(), &Origin::anybody(&self.context))
            .expect("a valid resource");
    }

    /// A version of a resource that no decoder takes.
    fn spoil(&mut self, kind: ResourceKind, name: &str) -> Option<Arc<Snapshot>> {
        let body = envoy_types::pb::google::protobuf::Any { type_url: kind.type_url().to_owned(), value: vec![0xff] };
        let raw = RawResource { name: Some(name.to_owned()), version: None, body: body.into() };
        self.shared
            .held()
            .store
            .offer(kind, raw, &"2".into(), &Origin::anybody(&self.context))
            .expect_err("it is no protobuf");
        self.step()
    }

    fn time_out(&mut self, kind: ResourceKind, name: &str) -> Option<Arc<Snapshot>> {
        self.shared.held().store.absent(kind, name, AbsenceReason::NotFoundTimer, Terms::default());
        self.step()
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) -> Option<Arc<Snapshot>> {
        self.shared.held().store.absent(kind, name, AbsenceReason::Removed, Terms::default());
        self.step()
    }

    /// The target `web`, which serves from the cluster `a`.
    fn serving() -> Self {
        let mut bench = Self::watching(&["web"]);
        bench.set(listener("web", "routes"));
        bench.set(route_config("routes", [("a", 1)]));
        bench.set(cluster("a"));
        bench.set(endpoints("a", [one()])).expect("it is whole");
        bench
    }

    fn wanted(&self, kind: ResourceKind) -> Vec<String> {
        self.shared.held().store.names(kind).map(ToString::to_string).collect()
    }
}

fn one() -> SocketAddr {
    ([10, 0, 0, 1], 80).into()
}

fn two() -> SocketAddr {
    ([10, 0, 0, 2], 80).into()
}

fn three() -> SocketAddr {
    ([10, 0, 0, 3], 80).into()
}

/// A cluster that brings its one endpoint along.
fn static_cluster(name: &str) -> WireCluster {
    let own = endpoints(name, [three()]);
    WireCluster { name: name.to_owned(), load_assignment: Some(own), ..WireCluster::default() }
}

fn routes(snapshot: &Snapshot) -> Vec<Arc<str>> {
    match &snapshot.targets["web"] {
        TargetState::Ready(listener) => listener.routes.clusters(),
        other => panic!("{other:?}"),
    }
}

fn reason(snapshot: &Snapshot, target: &str) -> Arc<str> {
    match &snapshot.targets[target] {
        TargetState::Unavailable(reason) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_wanted_as_the_graph_reveals_them() {
    let mut bench = Bench::watching(&["web"]);
    assert_eq!(bench.wanted(Lds), ["web"]);
    assert!(bench.set(listener("web", "routes")).is_none());
    assert_eq!(bench.wanted(Rds), ["routes"]);
    assert!(bench.set(route_config("routes", [("a", 1), ("b", 1)])).is_none());
    assert_eq!(bench.wanted(Cds), ["a", "b"]);
    assert!(bench.set(cluster("a")).is_none());
    assert_eq!(bench.wanted(Eds), ["a"]);
    assert!(bench.set(endpoints("a", [one()])).is_none(), "b is not known");
    let snapshot = bench.set(static_cluster("b")).expect("b needs no endpoints from elsewhere");
    assert_eq!(snapshot.clusters.len(), 2);
    assert_eq!(bench.wanted(Eds), ["a"]);
}

#[test]
fn what_is_no_longer_reached_is_forgotten() {
    let mut bench = Bench::serving();
    bench.set(route_config("routes", [("b", 1)]));
    assert_eq!(bench.wanted(Cds), ["a", "b"], "a serves until b is warm");
    bench.set(static_cluster("b")).expect("b is warm");
    assert_eq!(bench.wanted(Cds), ["b"]);
    assert!(bench.wanted(Eds).is_empty());

    bench.set(listener("web", route_config("inline", [("b", 1)]))).expect("other routes");
    assert!(bench.wanted(Rds).is_empty());
    bench.assembly.release("web");
    bench.shared.held().store.touch();
    let snapshot = bench.step().expect("nothing is left");
    assert!(snapshot.targets.is_empty() && snapshot.clusters.is_empty());
    assert!(ResourceKind::ALL.into_iter().all(|kind| bench.wanted(kind).is_empty()));
}

#[test]
fn every_answer_about_a_cluster_ends_the_wait_for_it() {
    type Answer = fn(&mut Bench) -> Option<Arc<Snapshot>>;
    let answers: [Answer; 5] = [
        |bench| bench.set(static_cluster("b")),
        |bench| bench.time_out(Cds, "b"),
        |bench| bench.remove(Cds, "b"),
        |bench| bench.spoil(Cds, "b"),
        |bench| {
            assert!(bench.set(cluster("b")).is_none(), "its endpoints are not known");
            bench.time_out(Eds, "b")
        },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let mut bench = Bench::serving();
        assert!(bench.set(route_config("routes", [("a", 1), ("b", 1)])).is_none());
        let snapshot = answer(&mut bench).unwrap_or_else(|| panic!("answer {number}"));
        assert_eq!(routes(&snapshot).len(), 2, "answer {number}");
        assert!(snapshot.clusters["a"].endpoints.is_some());
        assert_eq!(snapshot.clusters.contains_key("b"), [0, 4].contains(&number), "answer {number}");
    }
}

#[test]
fn newest_routes_win_while_older_ones_still_warm() {
    let mut bench = Bench::serving();
    bench.set(route_config("routes", [("b", 1)]));
    bench.set(route_config("routes", [("c", 1)]));
    assert_eq!(bench.wanted(Cds), ["a", "c"], "nobody waits for b any longer");
    let snapshot = bench.set(static_cluster("c")).expect("c is warm");
    assert_eq!(routes(&snapshot), ["c".into()]);
    // Back to what serves: there is nothing to publish, and nothing left to wait for.
    bench.set(route_config("routes", [("d", 1)]));
    assert!(bench.set(route_config("routes", [("c", 1)])).is_none_or(|snapshot| routes(&snapshot) == ["c".into()]));
    assert_eq!(bench.wanted(Cds), ["c"]);
}

#[test]
fn bad_news_of_what_serves_is_not_published() {
    let mut bench = Bench::serving();
    for (kind, name) in [(Lds, "web"), (Rds, "routes"), (Cds, "a"), (Eds, "a")] {
        assert!(bench.spoil(kind, name).is_none(), "{kind}");
        assert_eq!(
            bench.shared.held().store.status().iter().filter(|one| one.state == ResourceState::Rejected).count(),
            1
        );
        bench.time_out(kind, name);
        assert!(bench.step().is_none(), "{kind}");
        // As it was, so that the next kind is spoilt alone.
        match kind {
            Lds => drop(bench.set(listener("web", "routes"))),
            Rds => drop(bench.set(route_config("routes", [("a", 1)]))),
            Cds => drop(bench.set(cluster("a"))),
            Eds => drop(bench.set(endpoints("a", [one()]))),
        }
    }
    assert_eq!(bench.assembly.snapshot.generation, 1);
}

#[test]
fn removed_listener_makes_its_target_unavailable_and_its_return_mends_it() {
    let mut bench = Bench::serving();
    let snapshot = bench.remove(Lds, "web").expect("it is gone");
    let reason = reason(&snapshot, "web");
    assert!(reason.contains("Listener `web`") && reason.contains("node-1"), "{reason}");
    assert!(snapshot.clusters.is_empty());
    assert!(bench.wanted(Cds).is_empty());
    assert!(bench.set(listener("web", "routes")).is_none(), "its routes have to come again");
    bench.set(route_config("routes", [("a", 1)]));
    bench.set(cluster("a"));
    assert!(bench.set(endpoints("a", [one()])).is_some());
}

#[test]
fn target_without_a_name_for_its_listener_asks_for_nothing() {
    let mut bench = Bench::watching(&[]);
    bench.assembly.watch("xds://x/y".into(), || Err("no such authority".into()));
    bench.shared.held().store.touch();
    let snapshot = bench.step().expect("there is something to say");
    assert_eq!(&*reason(&snapshot, "xds://x/y"), "no such authority");
    assert!(bench.wanted(Lds).is_empty());
}

#[test]
fn other_endpoints_change_their_clusters_and_nothing_else() {
    let mut bench = Bench::serving();
    bench.set(route_config("routes", [("a", 1), ("b", 1), ("c", 1)]));
    bench.set(static_cluster("b"));
    let mut shares = cluster("c");
    shares.eds_cluster_config.as_mut().expect("set by the kit").service_name = "a".to_owned();
    let before = bench.set(shares).expect("all are warm");
    let after = bench.set(endpoints("a", [two()])).expect("a change");
    assert_eq!(after.generation, before.generation + 1);
    let listener = |snapshot: &Snapshot| match &snapshot.targets["web"] {
        TargetState::Ready(listener) => listener.clone(),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&listener(&before), &listener(&after)));
    for name in ["a", "b", "c"] {
        assert!(Arc::ptr_eq(&before.clusters[name].cluster, &after.clusters[name].cluster));
    }
    let of =
        |name: &str| after.clusters[name].endpoints.as_ref().map(|endpoints| endpoints.groups()[0].endpoints.clone());
    assert_eq!(of("a"), of("c"));
    assert_eq!(of("a").expect("known")[0].address().to_string(), "10.0.0.2:80");
    assert_eq!(of("b").expect("its own")[0].address().to_string(), "10.0.0.3:80");
}

#[test]
fn same_meaning_in_other_bytes_is_nobodys_change() {
    let mut bench = Bench::serving();
    let mut renamed = listener("web", "routes");
    // Named in Envoy's statistics only.
    renamed.stat_prefix = "other".to_owned();
    assert!(bench.set(renamed).is_none());
    assert!(bench.set(endpoints("a", [one()])).is_none());
}

#[test]
fn target_with_several_users_stays_until_the_last() {
    let mut bench = Bench::serving();
    bench.assembly.watch("web".into(), || panic!("its name is known"));
    bench.assembly.release("web");
    bench.shared.held().store.touch();
    assert!(bench.step().is_none());
    assert_eq!(bench.wanted(Lds), ["web"]);
}

#[test]
fn a_snapshot_that_is_read_stays_as_it_is_while_endpoints_change() {
    let port = |snapshot: &Snapshot, cluster: &str| {
        let endpoints = snapshot.clusters[cluster].endpoints.clone().expect("known");
        endpoints.groups()[0].endpoints[0].address().to_string()
    };
    for kept in 0..4 {
        let mut bench = Bench::serving();
        bench.set(route_config("routes", [("a", 1), ("b", 1)]));
        bench.set(cluster("b"));
        bench.set(endpoints("b", [one()])).expect("it is whole");
        let mut expected = ["10.0.0.1:80".to_owned(), "10.0.0.1:80".to_owned()];
        let mut readers = std::collections::VecDeque::new();
        for round in 0..20_u8 {
            let at = SocketAddr::from(([10, 1, 0, round], 80));
            let changed = usize::from(round % 3 == 0);
            expected[changed] = at.to_string();
            let next = bench.set(endpoints(["a", "b"][changed], [at])).expect("it has changed");
            readers.push_back((next, expected.clone()));
            for (snapshot, expected) in &readers {
                assert_eq!(&[port(snapshot, "a"), port(snapshot, "b")], expected, "{kept} kept, round {round}");
            }
            readers.drain(..readers.len().saturating_sub(kept));
        }
    }
}

fn aggregate(name: &str, parts: &[&str]) -> WireCluster {
    let config = ClusterConfig { clusters: parts.iter().map(ToString::to_string).collect() };
    let custom = CustomClusterType { name: "aggregate".to_owned(), typed_config: Some(pack_any(config)) };
    WireCluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(custom)),
        ..WireCluster::default()
    }
}

#[test]
fn cluster_made_of_others_is_warm_with_the_last_of_them() {
    let mut bench = Bench::serving();
    assert!(bench.set(route_config("routes", [("sum", 1)])).is_none());
    assert!(bench.set(aggregate("sum", &["b", "inner"])).is_none());
    assert!(bench.set(aggregate("inner", &["c", "sum"])).is_none());
    assert_eq!(bench.wanted(Cds), ["a", "b", "c", "inner", "sum"], "the old routes serve");
    assert!(bench.set(static_cluster("b")).is_none());
    assert!(bench.set(cluster("c")).is_none());
    let snapshot = bench.set(endpoints("c", [one()])).expect("all is known");
    assert_eq!(routes(&snapshot), ["sum".into()]);
    assert_eq!(snapshot.clusters.keys().map(|name| &**name).collect::<Vec<_>>(), ["b", "c", "inner", "sum"]);
    bench.step();
    assert_eq!(bench.wanted(Cds), ["b", "c", "inner", "sum"]);
}

#[test]
fn cluster_that_comes_to_be_made_of_others_serves_as_before_until_they_are_warm() {
    let mut bench = Bench::serving();
    assert!(bench.set(aggregate("a", &["b"])).is_none());
    assert_eq!(bench.wanted(Cds), ["a", "b"]);
    bench.set(cluster("b"));
    let snapshot = bench.set(endpoints("b", [one()])).expect("it is warm");
    assert!(snapshot.clusters["a"].cluster.aggregate().is_some() && snapshot.clusters.contains_key("b"));

    assert!(bench.set(aggregate("a", &["c"])).is_none());
    assert_eq!(bench.wanted(Cds), ["a", "b", "c"], "what it was made of serves still");
    let snapshot = bench.time_out(Cds, "c").expect("there is no such cluster");
    assert_eq!(snapshot.clusters.len(), 1, "it is made of nothing, as it was said");
    bench.step();
    assert_eq!(bench.wanted(Cds), ["a", "c"]);
}

#[test]
fn cluster_that_is_demanded_is_held_as_long_as_it_is() {
    let mut bench = Bench::serving();
    for _ in 0..2 {
        bench.assembly.demand("b".into());
    }
    bench.shared.held().store.touch();
    assert!(bench.step().is_none());
    assert_eq!(bench.wanted(Cds), ["a", "b"]);
    assert!(bench.set(cluster("b")).is_none(), "its endpoints are not known");
    let snapshot = bench.set(endpoints("b", [two()])).expect("it is warm");
    assert!(snapshot.clusters.contains_key("b"));
    for left in [true, false] {
        bench.assembly.waive("b");
        bench.shared.held().store.touch();
        bench.step();
        assert_eq!(bench.wanted(Eds).iter().any(|name| name == "b"), left);
    }
}

#[test]
fn clusters_above_one_another_without_end_are_not_followed_without_end() {
    let mut bench = Bench::serving();
    bench.set(route_config("routes", [("c0", 1)]));
    for number in 0..100 {
        if bench.wanted(Cds).contains(&format!("c{number}")) {
            bench.set(aggregate(&format!("c{number}"), &[&format!("c{}", number + 1)]));
        }
    }
    assert!(bench.wanted(Cds).len() <= 2 + 17, "{:?}", bench.wanted(Cds));
}

/// How the world of the property test changes.
#[derive(Debug, Clone)]
enum Change {
    /// The routes go to these clusters.
    Routes(BTreeSet<u8>),
    /// A cluster in another version: with endpoints of its own name, of another, or none from elsewhere.
    Cluster(u8, u8),
    /// Other endpoints of one name and the next.
    Endpoints(u8, u8),
    /// The server takes a cluster away.
    Remove(u8),
    Demand(u8),
    Watch(bool),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => prop::collection::btree_set(0..CLUSTERS, 1..40).prop_map(Change::Routes),
        1 => (0..CLUSTERS, any::<u8>()).prop_map(|(cluster, how)| Change::Cluster(cluster, how)),
        3 => (0..CLUSTERS, any::<u8>()).prop_map(|(name, port)| Change::Endpoints(name, port)),
        1 => (0..CLUSTERS).prop_map(Change::Remove),
        1 => (0..CLUSTERS).prop_map(Change::Demand),
        1 => any::<bool>().prop_map(Change::Watch),
    ]
}

const CLUSTERS: u8 = 80;

impl Bench {
    fn make(&mut self, change: Change) {
        let name = |number: u8| format!("c{number:02}");
        match change {
            Change::Routes(to) => {
                let to: Vec<_> = to.into_iter().map(name).collect();
                self.set(route_config("routes", to.iter().map(|name| (name.as_str(), 1))));
            }
            Change::Cluster(number, how) => self.set_cluster(&name(number), how),
            Change::Endpoints(number, port) => {
                // Several at once, as a push brings them.
                for number in [number, (number + 1) % CLUSTERS] {
                    self.offer(endpoints(&name(number), [SocketAddr::from(([10, 0, 0, 1], 1 + u16::from(port)))]));
                }
                self.step();
            }
            Change::Remove(number) => {
                self.remove(Cds, &name(number));
            }
            Change::Demand(number) => {
                self.assembly.demand(name(number).into());
                self.shared.held().store.touch();
                self.step();
            }
            Change::Watch(is_watched) if is_watched == self.assembly.targets.is_empty() => {
                if is_watched {
                    self.watch("web", || Ok(Lead::Listener("web".into())));
                } else {
                    self.assembly.release("web");
                    self.shared.held().store.touch();
                    self.step();
                }
            }
            Change::Watch(_) => {}
        }
    }

    fn set_cluster(&mut self, name: &str, how: u8) {
        match how % 5 {
            0 => self.set(static_cluster(name)),
            1 => self.set(aggregate(name, &["c00", "c01"])),
            2 => {
                let mut other = cluster(name);
                let from = other.eds_cluster_config.get_or_insert_default();
                from.service_name = format!("c{:02}", how % CLUSTERS);
                self.set(other)
            }
            _ => self.set(cluster(name)),
        };
    }

    /// Everything that is asked for comes.
    fn answer(&mut self) {
        loop {
            let status = self.shared.held().store.status();
            let awaited: Vec<_> = status.into_iter().filter(|one| one.state == ResourceState::Requested).collect();
            if awaited.is_empty() {
                return;
            }
            for ResourceStatus { kind, name, .. } in awaited {
                match ResourceKind::ALL.into_iter().find(|known| known.name() == kind).expect("a kind") {
                    Lds => self.offer(listener("web", "routes")),
                    Rds => self.offer(route_config("routes", [("c00", 1)])),
                    Cds => self.offer(cluster(&name)),
                    Eds => self.offer(endpoints(&name, [one()])),
                }
            }
            self.step();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was kept, brought up to date or copied on the way: it is what who comes now would make of what is held.
    #[test]
    fn what_was_brought_up_to_date_is_what_is_assembled_from_scratch(
        changes in prop::collection::vec((change(), any::<bool>()), 1..30),
    ) {
        let mut bench = Bench::watching(&["web"]);
        let mut reader = None;
        for (change, reads) in changes {
            bench.make(change);
            bench.answer();
            let mut fresh = Assembly::new("node-1", Dialect::Grpc);
            for target in bench.assembly.targets.keys() {
                fresh.watch(target.clone(), || Ok(Lead::Listener(target.clone())));
            }
            bench.assembly.demanded.keys().for_each(|name| fresh.demand(name.clone()));
            let everything = Changes { structure: true, ..Changes::default() };
            in_slices(fresh.assemble(&bench.shared, &everything, &mut Pace::new()));
            assert_are_alike(&bench.assembly.snapshot, &fresh.snapshot);
            prop_assert_eq!(&bench.assembly.aliases, &fresh.aliases);
            // Whoever reads the last one keeps it from being used again.
            reader = reads.then(|| bench.assembly.snapshot.clone()).or(reader);
        }
    }
}

/// The listeners are two, of the same routes.
fn assert_are_alike(a: &Snapshot, b: &Snapshot) {
    let routes = |state: &TargetState| match state {
        TargetState::Ready(listener) => Ok(Arc::as_ptr(&listener.routes)),
        TargetState::Unavailable(reason) => Err(reason.clone()),
    };
    let targets =
        |of: &Snapshot| of.targets.iter().map(|(name, state)| (name.clone(), routes(state))).collect::<Vec<_>>();
    assert_eq!(targets(a), targets(b));
    let entry = |entry: &ClusterEntry| (Arc::as_ptr(&entry.cluster), entry.endpoints.as_ref().map(Arc::as_ptr));
    let clusters = |of: &Snapshot| of.clusters.iter().map(|(name, one)| (name.clone(), entry(one))).collect::<Vec<_>>();
    assert_eq!(clusters(a), clusters(b));
}
