//! What is told to a server that answers in place of another, or is left and asked again.

use super::*;

#[test]
fn versions_that_are_forgotten_are_taken_back_from_a_stream_that_has_told_them() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    script.with_listener();
    assert_eq!(script.reopen(), ["CDS [a b] v1 -", "LDS [l] - -"]);
    script.session.forget_versions();
    assert_eq!(script.events(), ["connect"]);
    script.respond(Cluster, "v1", "late", &[]);
    assert!(script.events().is_empty(), "that stream is closed");
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a b] - -", "LDS [l] - -"]);
}

#[test]
fn server_that_was_left_is_asked_again_at_once_and_as_for_the_first_time() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    for _ in 0..10 {
        script.lose_stream();
    }
    script.session.stream_ended("reset", script.now);
    script.events();
    script.unsubscribe(Cluster, &["a"]);
    script.session.leave();
    assert_eq!((script.events().len(), script.session.next_timeout()), (0, None));
    script.subscribe(Cluster, &["a"]);
    assert_eq!(script.events(), ["connect"]);
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a] - -"]);
    script.session.stream_ended("reset", script.now);
    let retry_in = script.session.next_timeout().expect("a reconnect is due") - script.now;
    assert!(retry_in <= Duration::from_secs(1), "{retry_in:?}");
}

#[test]
fn verdict_that_comes_after_a_server_was_left_leaves_no_version() {
    let mut script = Script::of(Variant::StateOfTheWorld, 1);
    script.session.subscribe_all(Cluster);
    script.events();
    script.session.stream_opened();
    script.requests();
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.session.unsubscribe_all(Cluster);
    script.session.leave();
    script.accept("n1", &["a"]);
    script.session.subscribe_all(Cluster);
    assert_eq!(script.events(), ["connect"]);
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [] - -"], "nothing of it is held");
}

#[test]
fn last_name_that_leaves_while_a_response_is_judged_does_not_make_its_answer_a_refusal() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.unsubscribe(Cluster, &["a"]);
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS [] v1 n1"]);
}
