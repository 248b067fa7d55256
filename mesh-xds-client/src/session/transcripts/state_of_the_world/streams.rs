//! What outlives a stream, what dies with it, and how long until the next.

use super::*;

#[test]
fn version_outlives_the_stream_and_the_nonce_does_not() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    script.with_listener();
    assert_eq!(script.reopen()[0], "CDS [a b] v1 -");
}

#[test]
fn server_that_has_no_news_is_given_something_to_say() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    script.with_listener();
    assert_eq!(script.reopen(), ["CDS [a b] v1 -", "LDS [l] - -"], "the kind of the fewest names");
    assert_eq!(script.reopen(), ["CDS [a b] v1 -", "LDS [l] - -"], "it has not come again");
    script.exchange(Listener, "l1", "n2", &["l"]);

    script.subscribe(RouteConfiguration, &["r", "s", "t"]);
    script.requests();
    assert_eq!(script.reopen(), ["CDS [a b] v1 -", "LDS [l] l1 -", "RDS [r s t] - -"], "there is news to wait for");
}

#[test]
fn version_is_not_claimed_for_a_name_it_never_covered() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    script.session.stream_ended("reset", script.now);
    script.subscribe(Cluster, &["b"]);
    script.advance(1.0);
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a b] - -"]);
}

#[test]
fn a_verdict_after_the_stream_ended_counts_and_is_not_sent() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.lose_stream();
    script.session.stream_opened();
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS [a] v1 -"]);
}

/// A kind that may not begin yet, since there is no verdict on what the last stream brought, is no news to wait for: it may tell by
/// and by that all is held.
#[test]
fn verdict_that_is_owed_is_nothing_that_a_server_has_to_say() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.with_listener();
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    assert_eq!(script.reopen(), ["LDS [l] - -"]);
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS [a] v1 -"]);
}

#[test]
fn answers_not_yet_sent_die_with_the_stream() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.with_listener();
    script.respond(Cluster, "v1", "n1", &["a", "b"]);
    script.events();
    script.accept("n1", &["a", "b"]);
    assert_eq!(script.reopen(), ["CDS [a b] v1 -", "LDS [l] - -"]);
}

#[test]
fn a_response_without_a_stream_is_dropped() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.lose_stream();
    script.respond(Cluster, "v1", "n1", &["a"]);
    assert!(script.events().is_empty());
}

#[test]
fn loss_tells_whether_the_stream_had_answered() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.session.stream_ended("refused", script.now);
    assert_eq!(script.events(), ["lost refused, live false"]);
    script.advance(1.0);
    script.session.stream_opened();
    script.requests();
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.session.stream_ended("goodbye", script.now);
    assert_eq!(script.events(), ["connect", "live", "deliver CDS [a] v1 n1", "lost goodbye, live true"]);
}

#[test]
fn waits_grow_while_nothing_answers_and_start_over_after_a_response() {
    let mut script = Script::asking(Cluster, &["a"]);
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        script.session.stream_ended("refused", script.now);
        let Some(Event::Lost { retry_in, .. }) = script.session.poll_event() else { panic!("a loss is due") };
        longest = longest.max(retry_in);
        script.advance(retry_in.as_secs_f64());
        assert_eq!(script.events(), ["connect"]);
    }
    assert!(longest > Duration::from_secs(30), "{longest:?}");

    script.session.stream_opened();
    script.requests();
    script.exchange(Cluster, "v1", "n1", &["a"]);
    script.session.stream_ended("reset", script.now);
    let Some(Event::Lost { retry_in, .. }) = script.session.poll_event() else { panic!("a loss is due") };
    assert!(retry_in <= Duration::from_secs(1), "{retry_in:?}");
}

#[test]
fn nothing_wanted_means_no_reconnect_until_something_is() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.unsubscribe(Cluster, &["a"]);
    script.session.stream_ended("reset", script.now);
    script.events();
    script.advance(500.0);
    assert!(script.events().is_empty());
    script.subscribe(Cluster, &["a"]);
    assert_eq!(script.events(), ["connect"]);
}
