//! What is asked for, and when, in state of the world.

use super::*;

#[test]
fn first_subscription_opens_the_stream_and_nothing_else_does() {
    let mut script = Script::new();
    script.advance(100.0);
    assert!(script.events().is_empty());
    script.subscribe(Listener, &["a"]);
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.events(), ["connect"]);
    assert!(script.requests().is_empty(), "nothing is sent before the stream is open");
}

#[test]
fn node_is_in_the_first_request_of_each_stream_only() {
    let mut script = Script::new();
    script.subscribe(Listener, &["a"]);
    script.subscribe(Cluster, &["b"]);
    for _ in 0..2 {
        script.session.stream_opened();
        let requests = script.take_requests();
        let nodes: Vec<_> = requests.iter().map(|one| one.node().map(|node| node.id.as_str())).collect();
        assert_eq!(nodes, [Some("node-1"), None]);
        script.lose_stream();
    }
}

#[test]
fn every_request_carries_all_names_of_its_kind() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.subscribe(Cluster, &["c"]);
    assert_eq!(script.requests(), ["CDS [a b c] - -"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b", "c"]);
    script.unsubscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS [a c] v1 n1"]);
}

#[test]
fn kinds_are_asked_for_clusters_first() {
    let mut script = Script::new();
    script.subscribe(RouteConfiguration, &["r"]);
    script.subscribe(Listener, &["l"]);
    script.subscribe(ClusterLoadAssignment, &["e"]);
    script.subscribe(Cluster, &["c"]);
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [c] - -", "EDS [e] - -", "LDS [l] - -", "RDS [r] - -"]);
}

#[test]
fn changes_that_wait_for_the_transport_leave_as_one_request() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.subscribe(Cluster, &["b", "c"]);
    script.unsubscribe(Cluster, &["a"]);
    script.subscribe(Cluster, &["d"]);
    assert_eq!(script.requests(), ["CDS [b c d] - -"]);
}

#[test]
fn a_name_asked_for_twice_is_no_change() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.subscribe(Cluster, &["a"]);
    script.unsubscribe(Cluster, &["unknown"]);
    assert!(script.requests().is_empty());
}

#[test]
fn last_name_dropped_sends_an_empty_list_where_names_were_sent() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.unsubscribe(Cluster, &["a"]);
    assert_eq!(script.requests(), ["CDS [] - -"]);
}

#[test]
fn last_name_dropped_unsent_sends_nothing_since_that_would_ask_for_everything() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.subscribe(Listener, &["l"]);
    script.unsubscribe(Listener, &["l"]);
    assert!(script.requests().is_empty());
    script.subscribe(Listener, &["l"]);
    assert_eq!(script.requests(), ["LDS [l] - -"], "and a later name is asked for");
}

#[test]
fn a_kind_without_names_is_not_asked_for_on_a_new_stream() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.subscribe(Listener, &["l"]);
    script.requests();
    script.unsubscribe(Listener, &["l"]);
    script.lose_stream();
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a] - -"]);
}

#[test]
fn a_name_dropped_and_wanted_again_unsent_is_taken_back_before_it_is_asked_for() {
    let mut script = Script::asking(ClusterLoadAssignment, &["a", "b"]);
    script.exchange(ClusterLoadAssignment, "v1", "n1", &["a", "b"]);
    script.unsubscribe(ClusterLoadAssignment, &["a"]);
    script.subscribe(ClusterLoadAssignment, &["a"]);
    assert_eq!(script.requests(), ["EDS [b] v1 n1", "EDS [a b] v1 n1"]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent EDS a: not found"], "its clock started with the second request");
}
