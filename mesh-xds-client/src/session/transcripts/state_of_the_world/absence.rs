//! What is gone, what was never there, and the clocks that tell.

use super::*;

#[test]
fn full_state_without_a_held_name_removes_it() {
    for (kind, short) in [(Cluster, "CDS"), (Listener, "LDS")] {
        let mut script = Script::asking(kind, &["a", "b"]);
        script.exchange(kind, "v1", "n1", &["a", "b"]);
        script.exchange_quietly(kind, "v2", "n2", &["b"]);
        assert_eq!(script.events(), [format!("absent {short} a: removed")]);
    }
}

#[test]
fn partial_state_without_a_held_name_says_nothing_of_it() {
    for kind in [ClusterLoadAssignment, RouteConfiguration] {
        let mut script = Script::asking(kind, &["a", "b"]);
        script.exchange(kind, "v1", "n1", &["a", "b"]);
        script.exchange_quietly(kind, "v2", "n2", &["b"]);
        assert!(script.events().is_empty());
    }
}

#[test]
fn full_state_without_a_name_never_delivered_leaves_it_to_its_timer() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange_quietly(Cluster, "v1", "n1", &["b"]);
    assert!(script.events().is_empty());
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS a: not found"]);
}

#[test]
fn a_refused_resource_is_not_a_removed_one() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    script.respond(Cluster, "v2", "n2", &["a"]);
    script.events();
    script.reject("n2", &[], &["a"]);
    script.advance(60.0);
    assert!(script.events().is_empty());
}

#[test]
fn a_refused_response_still_removes_what_it_leaves_out() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    script.respond(Cluster, "v2", "n2", &["b"]);
    script.events();
    script.reject("n2", &[], &["b"]);
    assert_eq!(script.events(), ["absent CDS a: removed"]);
}

#[test]
fn a_removed_name_is_held_again_when_it_returns() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    for (version, nonce) in [("v2", "n2"), ("v4", "n4")] {
        script.exchange_quietly(Cluster, version, nonce, &[]);
        assert_eq!(script.events(), ["absent CDS a: removed"]);
        script.exchange(Cluster, "v3", "n3", &["a"]);
    }
}

#[test]
fn clock_of_absence_starts_when_the_request_is_sent() {
    let mut script = Script::new();
    script.subscribe(ClusterLoadAssignment, &["a"]);
    script.advance(60.0);
    script.session.stream_opened();
    script.advance(60.0);
    script.requests();
    script.events();
    script.advance(14.9);
    assert!(script.events().is_empty());
    script.advance(0.1);
    assert_eq!(script.events(), ["absent EDS a: not found"]);
    script.advance(60.0);
    assert!(script.events().is_empty(), "absence is reported once");
}

#[test]
fn next_timeout_is_the_soonest_name_still_awaited() {
    let mut script = Script::asking(ClusterLoadAssignment, &["a"]);
    let start = script.now;
    script.advance(5.0);
    script.subscribe(ClusterLoadAssignment, &["b"]);
    script.requests();
    assert_eq!(script.session.next_timeout(), Some(start + Duration::from_secs(15)));
    script.exchange(ClusterLoadAssignment, "v1", "n1", &["a"]);
    assert_eq!(script.session.next_timeout(), Some(start + Duration::from_secs(20)));
    script.unsubscribe(ClusterLoadAssignment, &["b"]);
    assert_eq!(script.session.next_timeout(), None);
}

#[test]
fn a_refused_resource_stops_its_clock_since_it_exists() {
    let mut script = Script::asking(ClusterLoadAssignment, &["a"]);
    script.respond(ClusterLoadAssignment, "v1", "n1", &["a"]);
    script.events();
    script.reject("n1", &[], &["a"]);
    script.advance(60.0);
    assert!(script.events().is_empty());
}

#[test]
fn clock_of_absence_stops_with_the_stream_and_starts_anew_on_the_next() {
    let mut script = Script::asking(ClusterLoadAssignment, &["a"]);
    script.advance(14.0);
    script.lose_stream();
    script.session.stream_opened();
    script.advance(14.0);
    assert!(script.events().is_empty(), "the new stream has not sent its request");
    script.requests();
    script.advance(14.0);
    assert!(script.events().is_empty());
    script.advance(1.0);
    assert_eq!(script.events(), ["absent EDS a: not found"]);
}

#[test]
fn a_held_name_has_no_clock_on_the_next_stream() {
    let mut script = Script::asking(ClusterLoadAssignment, &["a"]);
    script.exchange(ClusterLoadAssignment, "v1", "n1", &["a"]);
    script.lose_stream();
    script.session.stream_opened();
    script.requests();
    assert_eq!(script.session.next_timeout(), None);
}
