//! What became of resources that were offered, restored, refused and taken away.

use std::time::SystemTime;

use envoy_types::{
    pb::{
        envoy::config::cluster::v3::{
            Cluster as WireCluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        envoy::config::core::v3::Node,
        envoy::service::discovery::v3::DiscoveryResponse,
        google::protobuf::Any,
    },
    util::pack_any,
};
use mesh_core::{
    config::Discovery,
    identity::{FixedIdentity, Identities, Identity},
};
use tokio::time::Instant;

use super::*;
use crate::{
    session::{Config, Event, Session, Verdict},
    testkit::resource::{cluster, mutual_tls},
};

const CDS: ResourceKind = ResourceKind::Cluster;

fn asking_for(name: &str) -> Store {
    let mut store = Store::default();
    store.want(CDS, &name.into(), AuthorityId::default());
    store
}

fn offer(store: &mut Store, resource: WireCluster, version: &str) -> Result<Taken, Refused> {
    let raw = RawResource { name: None, version: None, body: pack_any(resource).into() };
    store.offer(CDS, raw, &version.into(), &Origin::anybody(&Context::new()))
}

fn unusable(name: &str) -> WireCluster {
    WireCluster { eds_cluster_config: None, ..cluster(name) }
}

fn warned_of(name: &str) -> WireCluster {
    WireCluster { connection_pool_per_downstream_connection: true, ..cluster(name) }
}

#[test]
fn same_bytes_are_compared_and_not_decoded() {
    let mut store = asking_for("a");
    assert!(offer(&mut store, cluster("a"), "1").expect("valid").is_decoded);
    assert!(store.take_changes().structure);
    assert!(!offer(&mut store, cluster("a"), "2").expect("valid").is_decoded);
    assert!(store.take_changes().is_empty());
    let status = store.status();
    assert_eq!(status[0].version.as_deref(), Some("2"), "and yet it is the new version that serves");
}

/// prost reads the length and bytes of a map that says it is a group; nobody else finds the name behind it.
#[test]
fn resource_whose_name_is_lost_behind_a_field_of_another_wire_type_is_refused() {
    let mut store = asking_for("a");
    let mut body = pack_any(cluster("a"));
    body.value.splice(..0, [0xa3, 0x02, 0x04, 0x60, 0x04, 0x60, 0x04]);
    assert!(resource::decode(&body, &Context::new()).is_ok(), "by itself it is a cluster");
    let raw = RawResource { name: None, version: None, body: body.into() };
    let refused = store.offer(CDS, raw, &"1".into(), &Origin::anybody(&Context::new())).expect_err("it has no name");
    assert_eq!((refused.error.name, &*refused.error.message), (None, "it has no name"));
}

#[test]
fn same_refusal_is_repeated_without_another_look() {
    let mut store = asking_for("a");
    let first = offer(&mut store, unusable("a"), "1").expect_err("refused");
    let again = offer(&mut store, unusable("a"), "2").expect_err("refused");
    assert_eq!((first.is_repeated, again.is_repeated), (false, true));
    assert_eq!(first.error, again.error);
    offer(&mut store, cluster("a"), "3").expect("valid");
    assert!(!offer(&mut store, unusable("a"), "4").expect_err("refused").is_repeated, "it was good in between");
}

#[test]
fn what_was_refused_for_want_of_an_identity_is_looked_at_again_once_there_are_more() {
    let registry = Identities::new();
    let context = Context::new().with_registry(registry.clone());
    let mut store = asking_for("a");
    let mut offer = |version: &str| {
        let body = pack_any(mutual_tls(cluster("a"), "shop", ["spiffe://shop.test/a"]));
        let raw = RawResource { name: None, version: None, body: body.into() };
        store.offer(CDS, raw, &version.into(), &Origin::anybody(&context))
    };
    let identity = || Arc::new(FixedIdentity::new(Identity::roots([&b"a root"[..]]).expect("it is not empty")));
    assert!(!offer("1").expect_err("refused").is_repeated);
    assert!(offer("2").expect_err("refused").is_repeated);
    registry.insert("another", identity());
    assert!(!offer("3").expect_err("refused").is_repeated, "it might have been that one");
    assert!(offer("4").expect_err("refused").is_repeated);
    registry.insert("shop", identity());
    assert!(offer("5").expect("the same bytes are valid now").is_decoded);
}

#[test]
fn refusal_bears_the_canonical_name_so_that_it_takes_nothing_away_and_leaves_no_other_name() {
    let canonical = "xdstp://p.test/envoy.config.cluster.v3.Cluster/c?a=1&b=2";
    let written = "xdstp://p.test/envoy.config.cluster.v3.Cluster/c?b=2&a=1";
    let mut store = Store::default();
    store.want_everything(CDS);
    let mut session = Session::new(Config::default(), Node::default(), 1);
    session.subscribe_all(CDS);
    session.stream_opened();
    let mut good = cluster(written);
    good.eds_cluster_config.as_mut().expect("set by the kit").service_name = "endpoints".to_owned();
    for (version, resource) in [("1", good), ("2", unusable(written)), ("3", unusable(written))] {
        let _request = session.poll_request(Instant::now());
        let resources = vec![pack_any(resource)];
        let (version_info, nonce) = (version.to_owned(), version.to_owned());
        let type_url = CDS.type_url().to_owned();
        let response = DiscoveryResponse { version_info, nonce, type_url, resources, ..Default::default() };
        session.received(response, Instant::now());
        let mut batch = std::iter::from_fn(|| session.poll_event())
            .find_map(|event| if let Event::Deliver(batch) = event { Some(batch) } else { None })
            .expect("it is of a kind that is asked for");
        let mut verdict = Verdict::default();
        for raw in batch.by_ref() {
            match store.offer(CDS, raw, &version.into(), &Origin::anybody(&Context::new())) {
                Ok(taken) => verdict.accepted.push(taken.name),
                Err(refused) => verdict.rejected.push(refused.error),
            }
        }
        session.answer(batch.into_ticket(), verdict, Instant::now());
        assert!(!std::iter::from_fn(|| session.poll_event()).any(|event| matches!(event, Event::Absent { .. })));
    }
    assert!(matches!(store.cluster(canonical), Known::Good(_)));
    assert_eq!(store.status()[0].state, ResourceState::Rejected);
    assert_eq!(session.unsubscribe_all(CDS), [canonical.into()], "no other name is known");
}

#[test]
fn refused_version_is_told_with_its_time_until_another_is_accepted() {
    let mut store = asking_for("a");
    let _ = offer(&mut store, cluster("a"), "1");
    let _ = offer(&mut store, unusable("a"), "2");
    let first = store.status()[0].refused.clone().expect("refused");
    assert_eq!(&*first.version, "2");
    let _ = offer(&mut store, unusable("a"), "3");
    let again = store.status()[0].clone();
    let refused = again.refused.expect("refused");
    assert_eq!((again.version.as_deref(), &*refused.version), (Some("1"), "3"), "offered again");
    assert!(refused.at >= first.at);
    let _ = offer(&mut store, cluster("a"), "4");
    assert_eq!(store.status()[0].refused, None);
}

fn saved(resource: WireCluster, version: &str) -> Saved {
    let contents = pack_any(resource).value.into();
    Saved { version: version.into(), updated: SystemTime::UNIX_EPOCH, contents }
}

fn restored(name: &str) -> Store {
    let mut store = asking_for(name);
    store.restore(CDS, name, saved(cluster(name), "old"), &Context::new()).expect("usable");
    store
}

#[test]
fn resource_of_an_earlier_run_serves_and_counts_for_no_answer() {
    let mut store = restored("a");
    assert!(matches!(store.cluster("a"), Known::Good(_)));
    assert!(store.take_changes().structure);
    assert!(store.lacks(AuthorityId::default()), "another server may know better");
    let status = store.status().remove(0);
    assert_eq!(
        (status.state, status.is_cached, status.version.as_deref()),
        (ResourceState::Requested, true, Some("old"))
    );
    assert_eq!(status.updated, Some(SystemTime::UNIX_EPOCH));
    assert_eq!(store.tally().cached(), 1);
    store.forget(CDS, "a");
    assert_eq!(store.tally(), Tally::default());
}

#[test]
fn resource_that_comes_again_is_of_this_run_and_is_nobodys_change() {
    let mut store = restored("a");
    store.take_changes();
    assert!(!offer(&mut store, cluster("a"), "new").expect("valid").is_decoded, "the same bytes");
    let status = store.status().remove(0);
    assert_eq!(
        (status.state, status.is_cached, status.version.as_deref()),
        (ResourceState::Synced, false, Some("new"))
    );
    assert!(status.updated > Some(SystemTime::UNIX_EPOCH));
    assert_eq!(store.tally().cached(), 0);
}

#[test]
fn resource_of_an_earlier_run_outlives_silence_and_refusals_and_not_the_word_that_there_is_none() {
    let mut store = restored("a");
    let _ = offer(&mut store, unusable("a"), "new");
    assert!(matches!(store.cluster("a"), Known::Good(_)));
    store.absent(CDS, "a", AbsenceReason::NotFoundTimer, Terms::default());
    assert!(matches!(store.cluster("a"), Known::Good(_)));
    let kept = Terms { keeps_cached: true, ..Terms::default() };
    store.absent(CDS, "a", AbsenceReason::Unknown, kept);
    assert!(matches!(store.cluster("a"), Known::Good(_)));
    let until_released = Terms { kept: Some("until no route names it"), ..Terms::default() };
    store.absent(CDS, "a", AbsenceReason::Unknown, until_released);
    assert!(matches!(store.cluster("a"), Known::Missing));
    assert_eq!(store.tally().cached(), 0);
}

#[test]
fn denial_is_told_apart_from_absence_until_there_is_other_news() {
    let is_denial = |store: &Store| store.dump()[0].failure.as_ref().map(|failure| failure.is_denial);
    let mut store = asking_for("a");
    assert_eq!(is_denial(&store), None);
    store.deny(CDS, "a", Denial { code: Code::NotFound, message: String::new() }, Terms::default());
    assert_eq!(is_denial(&store), Some(true));
    store.absent(CDS, "a", AbsenceReason::Removed, Terms::default());
    assert_eq!(is_denial(&store), Some(false));
    store.deny(CDS, "a", Denial { code: Code::Internal, message: String::new() }, Terms::default());
    let _ = offer(&mut store, cluster("a"), "1");
    assert_eq!(is_denial(&store), None);
}

#[test]
fn only_silence_of_a_patient_server_is_no_answer() {
    for is_patient in [false, true] {
        let mut store = asking_for("a");
        store.absent(CDS, "a", AbsenceReason::NotFoundTimer, Terms { is_patient, ..Terms::default() });
        assert_eq!(store.dump()[0].is_answered, !is_patient);
    }
}

#[test]
fn news_is_not_replaced_by_what_is_old_and_the_unusable_is_told() {
    let mut store = asking_for("a");
    store.restore(CDS, "a", saved(unusable("a"), "old"), &Context::new()).expect_err("unusable");
    assert!(matches!(store.cluster("a"), Known::Awaited));
    let _ = offer(&mut store, cluster("a"), "new");
    store.restore(CDS, "a", saved(cluster("a"), "old"), &Context::new()).expect("not looked at");
    assert_eq!(store.status()[0].version.as_deref(), Some("new"));
}

/// What is kept of the only resource.
fn kept(store: &Store) -> Option<Contents> {
    store.dump().remove(0).good.expect("good").contents
}

#[test]
fn contents_are_searched_for_secrets_by_who_shows_them_first_and_not_on_their_way_into_the_store() {
    let mut offered = asking_for("a");
    offered.keep_contents();
    let _ = offer(&mut offered, cluster("a"), "1");
    let _ = offer(&mut offered, cluster("a"), "2");
    let mut restored = asking_for("a");
    restored.keep_contents();
    restored.restore(CDS, "a", saved(cluster("a"), "old"), &Context::new()).expect("usable");
    for store in [offered, restored] {
        let contents = kept(&store).expect("kept");
        assert!(!contents.is_searched());
        assert!(contents.shown().is_some());
        assert!(kept(&store).expect("kept").is_searched(), "for all who show it after that");
    }
}

#[test]
fn contents_are_kept_where_asked_for_and_never_with_a_key() {
    let contents = |store: &Store| kept(store).and_then(|contents| contents.shown());
    let mut store = asking_for("a");
    let _ = offer(&mut store, cluster("a"), "1");
    assert_eq!(contents(&store), None);
    let mut store = asking_for("a");
    store.keep_contents();
    let _ = offer(&mut store, cluster("a"), "1");
    assert_eq!(contents(&store), Some(pack_any(cluster("a")).value.into()));
    let keyed = WireCluster { alt_stat_name: "-----BEGIN PRIVATE KEY-----".to_owned(), ..cluster("a") };
    let _ = offer(&mut store, keyed.clone(), "2");
    assert_eq!(contents(&store), None);
    // An earlier build may have written it, which knew of fewer.
    for (resource, is_kept) in [(cluster("a"), true), (keyed, false)] {
        let mut store = asking_for("a");
        store.keep_contents();
        store.restore(CDS, "a", saved(resource, "old"), &Context::new()).expect("usable");
        assert_eq!(contents(&store).is_some(), is_kept);
    }
}

#[test]
fn cluster_that_cannot_be_honoured_is_refused_by_name_and_kept_among_all() {
    let passthrough = || WireCluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        ..WireCluster { name: "a".to_owned(), ..WireCluster::default() }
    };
    let mut store = asking_for("a");
    let refused = offer(&mut store, passthrough(), "1").expect_err("asked for by name");
    assert_eq!(refused.error.name.as_deref(), Some("a"));
    assert!(refused.error.message.contains("original destination is not supported"), "{}", refused.error);

    let mut store = asking_for("a");
    store.shelves[CDS.index()].get_mut("a").expect("asked for").is_named = false;
    assert!(offer(&mut store, passthrough(), "1").expect("kept").has_new_warnings);
    let Known::Good(cluster) = store.cluster("a") else { panic!("it is there") };
    assert!(matches!(cluster.discovery, Discovery::Unsupported(_)), "{cluster:?}");
}

#[test]
fn warnings_are_news_when_they_change() {
    let mut store = asking_for("a");
    assert!(offer(&mut store, warned_of("a"), "1").expect("valid").has_new_warnings);
    let other = WireCluster { alt_stat_name: "other".to_owned(), ..warned_of("a") };
    assert!(!offer(&mut store, other, "2").expect("valid").has_new_warnings);
    assert!(!offer(&mut store, cluster("a"), "3").expect("valid").has_new_warnings);
    assert!(offer(&mut store, warned_of("a"), "4").expect("valid").has_new_warnings);
    assert_eq!(store.status()[0].warnings.len(), 1);
}

#[test]
fn what_nobody_asked_for_is_neither_looked_at_nor_kept() {
    let mut store = asking_for("a");
    let taken = offer(&mut store, unusable("b"), "1").expect("nobody looks");
    assert_eq!(taken, Taken { name: "b".into(), is_decoded: false, has_new_warnings: false });
    assert!(store.get(CDS, "b").is_none());
    assert!(store.take_changes().is_empty());
}

#[test]
fn resource_of_another_type_or_without_a_name_is_refused() {
    let mut store = asking_for("a");
    let foreign = Any { type_url: ResourceKind::Listener.type_url().to_owned(), value: Vec::new() };
    let nameless = Any { type_url: CDS.type_url().to_owned(), value: Vec::new() };
    for (body, field) in [(foreign, "type_url"), (nameless, "name")] {
        let raw = RawResource { name: None, version: None, body: body.into() };
        let refused = store.offer(CDS, raw, &"1".into(), &Origin::anybody(&Context::new())).expect_err("refused");
        assert_eq!(refused.error.field.as_deref(), Some(field), "{:?}", refused.error);
    }
}

#[test]
fn of_a_name_listed_twice_the_first_is_used_and_the_second_refused_by_name() {
    let mut store = asking_for("a");
    store.want(CDS, &"b".into(), AuthorityId::default());
    let (context, mut seen) = (Context::new(), HashSet::new());
    let mut begin = |resource: WireCluster| {
        let raw = RawResource { name: None, version: None, body: pack_any(resource).into() };
        match store.begin(CDS, raw, &"1".into(), &mut seen, &Origin::anybody(&context)) {
            Begun::Settled(outcome) => outcome,
            Begun::Underway(_) => panic!("a cluster is not divided"),
        }
    };
    begin(cluster("a")).expect("the first");
    let refused = begin(warned_of("a")).expect_err("the second");
    assert_eq!(refused.error.to_string(), r#"resource "a": it is listed twice in one response"#);
    begin(cluster("b")).expect("its neighbour");
    let status = store.status();
    assert!(status.iter().all(|one| one.state == ResourceState::Synced && one.warnings.is_empty()), "{status:?}");
}

#[test]
fn resource_in_a_wrapper_of_another_name_is_refused_in_either_variant() {
    for version in [None, Some("1".to_owned())] {
        let mut store = asking_for("a");
        let raw = RawResource { name: Some("b".to_owned()), version, body: pack_any(cluster("a")).into() };
        let refused = store.offer(CDS, raw, &"1".into(), &Origin::anybody(&Context::new())).expect_err("refused");
        assert_eq!(refused.error.to_string(), r#"resource "b": it calls itself `a`"#);
        assert!(matches!(store.cluster("a"), Known::Awaited));
    }
}

#[test]
fn every_resource_is_counted_in_one_state_and_none_when_all_are_forgotten() {
    let mut store = asking_for("a");
    let counted = |store: &Store| -> Vec<_> {
        store.tally().iter().filter(|(_, _, count)| *count > 0).map(|(_, state, count)| (state, count)).collect()
    };
    assert_eq!(counted(&store), [(ResourceState::Requested, 1)]);
    let _ = offer(&mut store, unusable("a"), "1");
    assert_eq!(counted(&store), [(ResourceState::Rejected, 1)]);
    let _ = offer(&mut store, cluster("a"), "2");
    assert_eq!(counted(&store), [(ResourceState::Synced, 1)]);
    store.absent(CDS, "a", AbsenceReason::Removed, Terms::default());
    assert_eq!(counted(&store), [(ResourceState::Absent, 1)]);
    assert_eq!(store.forget(CDS, "a"), Some(AuthorityId::default()));
    assert_eq!(counted(&store), []);
}

mod divided {
    //! Route configurations that are taken in pieces.

    use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

    use super::*;

    const RDS: ResourceKind = ResourceKind::RouteConfiguration;

    /// Of a thousand virtual hosts, the second of which has this name.
    fn routes(second: &str) -> RouteConfiguration {
        let host = |number: usize| {
            let name = if number == 1 { second.to_owned() } else { format!("host-{number}") };
            VirtualHost { domains: vec![format!("{number}.test")], name, ..Default::default() }
        };
        RouteConfiguration { name: "r".to_owned(), virtual_hosts: (0..1000).map(host).collect(), ..Default::default() }
    }

    fn begin(store: &mut Store, resource: RouteConfiguration, version: &str) -> Box<Underway> {
        let raw = RawResource { name: None, version: None, body: pack_any(resource).into() };
        match store.begin(RDS, raw, &version.into(), &mut HashSet::new(), &Origin::anybody(&Context::new())) {
            Begun::Underway(underway) => underway,
            Begun::Settled(outcome) => panic!("it is large: {outcome:?}"),
        }
    }

    /// The outcome, and in how many pieces it came about.
    fn end(store: &mut Store, underway: &mut Underway) -> (Result<Taken, Refused>, usize) {
        let context = Context::new();
        (1..)
            .find_map(|pieces| {
                let outcome = underway.advance(&mut 1000, store, &Origin::anybody(&context))?;
                Some((outcome, pieces))
            })
            .expect("it comes to an end")
    }

    fn offer(store: &mut Store, resource: RouteConfiguration, version: &str) -> (Result<Taken, Refused>, usize) {
        let mut underway = begin(store, resource, version);
        end(store, &mut underway)
    }

    fn store() -> Store {
        let mut store = Store::default();
        store.want(RDS, &"r".into(), AuthorityId::default());
        store
    }

    fn held(store: &Store) -> Arc<RouteConfig> {
        match store.routes("r") {
            Known::Good(routes) => routes.clone(),
            _ => panic!("it is there"),
        }
    }

    #[test]
    fn what_changed_is_decoded_and_the_rest_taken_from_the_version_before() {
        let mut store = store();
        let (first, whole) = offer(&mut store, routes("a"), "1");
        assert!(first.expect("valid").is_decoded);
        let before = held(&store);
        assert!(store.take_changes().structure);
        let (again, compared) = offer(&mut store, routes("a"), "2");
        assert!(!again.expect("valid").is_decoded);
        assert!(store.take_changes().is_empty());
        let (changed, parts) = offer(&mut store, routes("b"), "3");
        assert!(changed.expect("valid").is_decoded);
        assert!(compared < parts && 4 * parts < whole, "{compared}, {parts} and {whole} pieces");
        let now = held(&store);
        let is_shared: Vec<_> =
            before.virtual_hosts().iter().zip(now.virtual_hosts()).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert!(is_shared.iter().enumerate().all(|(number, is_shared)| *is_shared == (number != 1)));
    }

    #[test]
    fn refusal_leaves_the_version_before_and_is_repeated_without_another_look() {
        let mut store = store();
        let _ = offer(&mut store, routes("a"), "1");
        let bad = || routes("host-0");
        let (first, _) = offer(&mut store, bad(), "2");
        let (again, _) = offer(&mut store, bad(), "3");
        let (first, again) = (first.expect_err("a name twice"), again.expect_err("a name twice"));
        assert_eq!((first.is_repeated, again.is_repeated), (false, true));
        assert_eq!(first.error.field.as_deref(), Some("virtual_hosts[1].name"));
        assert_eq!(&**held(&store).virtual_hosts()[1].name(), "a");
    }

    #[test]
    fn what_nobody_wants_any_more_comes_to_nothing() {
        let mut store = store();
        let mut underway = begin(&mut store, routes("a"), "1");
        store.forget(RDS, "r");
        let (outcome, _) = end(&mut store, &mut underway);
        assert!(!outcome.expect("nobody looks at it").is_decoded);
        assert!(store.get(RDS, "r").is_none());
    }
}
