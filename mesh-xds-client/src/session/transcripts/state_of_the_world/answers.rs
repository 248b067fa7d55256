//! Responses are answered: accepted, refused, in order, with the names that are wanted by then.

use super::*;

#[test]
fn ack_carries_the_new_version_and_its_nonce() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    assert_eq!(script.events(), ["live", "deliver CDS [a] v1 n1"]);
    assert!(script.requests().is_empty(), "no answer before the verdict");
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS [a] v1 n1"]);
}

#[test]
fn nack_carries_the_last_accepted_version_and_the_refused_nonce() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    script.respond(Cluster, "v2", "n2", &["a", "b"]);
    script.events();
    script.reject("n2", &["a"], &["b"]);
    let requests = script.take_requests();
    assert_eq!(line(&requests[0]), "CDS [a b] v1 n2 NACK");
    assert_eq!(complaint(&requests[0]), (3, r#"resource "b": lb_policy: unknown value 9"#));
}

#[test]
fn nack_before_any_accepted_version_carries_none() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.reject("n1", &[], &["a"]);
    assert_eq!(script.requests(), ["CDS [a] - n1 NACK"]);
}

#[test]
fn version_moves_on_after_a_refused_one() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.reject("n1", &[], &["a"]);
    script.requests();
    script.exchange(Cluster, "v2", "n2", &["a"]);
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS [a b] v2 n2"]);
}

#[test]
fn subscription_change_after_a_nack_carries_its_nonce_and_no_error() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    script.respond(Cluster, "v2", "n2", &["a"]);
    script.events();
    script.reject("n2", &[], &["a"]);
    script.requests();
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS [a b] v1 n2"]);
}

#[test]
fn names_wanted_while_a_batch_is_unanswered_go_with_its_answer() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.subscribe(Cluster, &["b"]);
    assert!(script.requests().is_empty());
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS [a b] v1 n1"]);
}

#[test]
fn an_unanswered_batch_holds_back_its_own_kind_only() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.subscribe(ClusterLoadAssignment, &["a"]);
    assert_eq!(script.requests(), ["EDS [a] - -"]);
}

#[test]
fn answers_leave_in_the_order_of_the_verdicts() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.subscribe(Listener, &["l"]);
    script.requests();
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.respond(Listener, "v1", "n2", &["l"]);
    script.respond(Cluster, "v2", "n3", &["a"]);
    script.events();
    script.accept("n1", &["a"]);
    script.accept("n2", &["l"]);
    script.reject("n3", &[], &["a"]);
    assert_eq!(script.requests(), ["CDS [a] v1 n1", "LDS [l] v1 n2", "CDS [a] v1 n3 NACK"]);
}

#[test]
fn a_response_to_names_dropped_meanwhile_is_answered_with_the_empty_list() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.unsubscribe(Cluster, &["a"]);
    script.requests();
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS [] v1 n1"]);
}
