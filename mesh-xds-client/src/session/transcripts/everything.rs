//! Transcripts of asking for everything of a kind, besides what is asked for by name.

use super::*;

/// A session that asks for every cluster on an open stream, with the first request sent.
fn asking_for_everything(variant: Variant) -> Script {
    let mut script = Script::of(variant, 1);
    script.session.subscribe_all(Cluster);
    assert_eq!(script.events(), ["connect"]);
    script.session.stream_opened();
    script
}

// In state of the world

#[test]
fn alone_it_is_a_list_without_names() {
    let mut script = asking_for_everything(Variant::StateOfTheWorld);
    assert_eq!(script.requests(), ["CDS [] - -"]);
    script.exchange_quietly(Cluster, "v1", "n1", &["a", "b"]);
    assert_eq!(script.requests(), ["CDS [] v1 n1"]);
    script.with_listener();
    assert_eq!(script.reopen(), ["CDS [] v1 -", "LDS [l] - -"]);
}

#[test]
fn names_beside_it_make_it_a_name_until_the_stream_ends() {
    let mut script = asking_for_everything(Variant::StateOfTheWorld);
    script.requests();
    script.subscribe(Cluster, &["a"]);
    assert_eq!(script.requests(), ["CDS [* a] - -"]);
    script.unsubscribe(Cluster, &["a"]);
    assert_eq!(script.requests(), ["CDS [*] - -"]);
    assert_eq!(script.reopen(), ["CDS [] - -"]);
}

#[test]
fn after_names_it_is_a_name() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.session.subscribe_all(Cluster);
    script.unsubscribe(Cluster, &["a"]);
    assert_eq!(script.requests(), ["CDS [*] - -"]);
    script.session.unsubscribe_all(Cluster);
    assert_eq!(script.requests(), ["CDS [] - -"]);
}

#[test]
fn a_list_without_names_is_taken_back_by_way_of_a_name() {
    let mut script = asking_for_everything(Variant::StateOfTheWorld);
    script.requests();
    script.session.unsubscribe_all(Cluster);
    assert_eq!(script.requests(), ["CDS [*] - -", "CDS [] - -"], "or it would go on meaning everything");
}

#[test]
fn what_a_full_state_no_longer_has_is_removed_though_nobody_named_it() {
    let mut script = asking_for_everything(Variant::StateOfTheWorld);
    script.requests();
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    script.exchange_quietly(Cluster, "v2", "n2", &["b"]);
    assert_eq!(script.events(), ["absent CDS a: removed"]);
}

#[test]
fn what_another_server_had_is_gone_with_the_first_full_state_without_it() {
    let mut script = asking_for_everything(Variant::StateOfTheWorld);
    script.session.presume(Cluster, &["a".into(), "b".into(), "c".into()]);
    script.session.presume(RouteConfiguration, &["r".into()]);
    assert_eq!(script.requests(), ["CDS [] - -"]);
    script.advance(60.0);
    assert!(script.events().is_empty(), "silence takes nothing away");
    script.exchange_quietly(Cluster, "v1", "n1", &["b", "d"]);
    assert_eq!(script.events(), ["absent CDS a: removed", "absent CDS c: removed"]);
    script.exchange_quietly(Cluster, "v2", "n2", &["d"]);
    assert_eq!(script.events(), ["absent CDS b: removed"]);
}

#[test]
fn what_another_server_had_outlives_a_response_of_which_not_every_name_can_be_read() {
    let mut script = asking_for_everything(Variant::StateOfTheWorld);
    script.session.presume(Cluster, &["a".into()]);
    script.requests();
    script.respond(Cluster, "v1", "n1", &["b"]);
    script.events();
    let nameless = ResourceError { name: None, field: None, message: "garbage".to_owned() };
    script.answer("n1", &["b"], vec![nameless]);
    assert!(script.events().is_empty());
    script.exchange_quietly(Cluster, "v2", "n2", &["b"]);
    assert_eq!(script.events(), ["absent CDS a: removed"]);
}

// In delta

#[test]
fn what_another_server_had_is_gone_when_it_has_not_come_in_time_after_the_first_response() {
    let mut script = asking_for_everything(Variant::Delta);
    let names = ["a", "b", "c", "d"].map(Arc::from);
    script.session.presume(Cluster, &names);
    assert_eq!(script.requests(), ["CDS"], "its versions would say nothing to this server");
    script.advance(60.0);
    assert!(script.events().is_empty(), "silence takes nothing away");
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.advance(10.0);
    script.change(Cluster, "n2", &[("b", "1")], &["c"]);
    script.events();
    script.accept("n2", &["b"]);
    assert_eq!(script.events(), ["absent CDS c: removed"], "the server may say so before");
    script.advance(4.9);
    assert!(script.events().is_empty());
    script.advance(0.1);
    assert_eq!(script.events(), ["absent CDS d: unknown"]);
    script.advance(60.0);
    assert!(script.events().is_empty(), "what has come has no clock");
}

#[test]
fn each_of_what_other_servers_had_has_its_time_from_the_next_response() {
    let mut script = asking_for_everything(Variant::Delta);
    script.session.presume(Cluster, &["a".into()]);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("b", "1")]);
    script.advance(10.0);
    script.session.presume(Cluster, &["c".into()]);
    script.exchange_change(Cluster, "n2", &[("b", "2")]);
    script.advance(5.0);
    assert_eq!(script.events(), ["absent CDS a: unknown"]);
    script.exchange_change(Cluster, "n3", &[("b", "3")]);
    script.advance(10.0);
    assert_eq!(script.events(), ["absent CDS c: unknown"], "what comes in between starts no clock anew");
}

#[test]
fn what_a_lost_stream_has_refused_has_its_time_on_the_next() {
    let mut script = asking_for_everything(Variant::Delta);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("b", "1")]);
    script.change(Cluster, "n2", &[("a", "1")], &[]);
    script.events();
    script.reject("n2", &[], &["a"]);
    script.reopen();
    script.exchange_change(Cluster, "n3", &[("b", "2")]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS a: unknown"]);
}

#[test]
fn what_another_server_had_is_not_asked_for_by_name_on_the_next_stream_and_has_its_time_anew() {
    let mut script = asking_for_everything(Variant::Delta);
    script.session.presume(Cluster, &["a".into()]);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("b", "1")]);
    script.advance(10.0);
    assert_eq!(script.reopen(), ["CDS {b=1}"]);
    script.advance(60.0);
    assert!(script.events().is_empty());
    script.exchange_change(Cluster, "n2", &[("c", "1")]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS a: unknown"]);
}

#[test]
fn what_went_while_versions_were_forgotten_is_found_missing() {
    let mut script = asking_for_everything(Variant::Delta);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "1")]);
    script.session.stream_ended("reset", script.now);
    script.session.forget_versions();
    script.advance(60.0);
    script.events();
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS"], "the server is not told of `a`, and will not say that it is gone");
    script.exchange_change(Cluster, "n2", &[("b", "2")]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS a: unknown"]);
}

#[test]
fn alone_it_is_a_first_request_without_names() {
    let mut script = asking_for_everything(Variant::Delta);
    assert_eq!(script.requests(), ["CDS"]);
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "2")]);
    assert_eq!(script.reopen(), ["CDS {a=1 b=2}"], "what came of it is told of, and not subscribed to");
}

#[test]
fn a_name_ends_what_was_implied_so_it_is_said_together_with_it() {
    let mut script = asking_for_everything(Variant::Delta);
    script.requests();
    script.subscribe(Cluster, &["x"]);
    assert_eq!(script.requests(), ["CDS +[* x]"]);
    script.subscribe(Cluster, &["y"]);
    assert_eq!(script.requests(), ["CDS +[y]"]);
    script.session.unsubscribe_all(Cluster);
    assert_eq!(script.requests(), ["CDS -[*]"]);
}

#[test]
fn with_names_it_is_a_name_from_the_start() {
    let mut script = Script::of(Variant::Delta, 1);
    script.session.subscribe_all(Cluster);
    script.subscribe(Cluster, &["x"]);
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS +[* x]"]);
}

#[test]
fn after_names_it_is_subscribed_to_and_unsubscribed_from() {
    let mut script = Script::of(Variant::Delta, 1);
    script.open(Cluster, &["x"]);
    script.session.subscribe_all(Cluster);
    assert_eq!(script.requests(), ["CDS +[*]"]);
    script.session.unsubscribe_all(Cluster);
    assert_eq!(script.requests(), ["CDS -[*]"]);
}

#[test]
fn what_was_implied_is_unsubscribed_by_its_name() {
    let mut script = asking_for_everything(Variant::Delta);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.session.unsubscribe_all(Cluster);
    assert_eq!(script.requests(), ["CDS -[*]"]);
    script.session.stream_ended("reset", script.now);
    script.events();
    script.advance(500.0);
    assert!(script.events().is_empty(), "nothing is wanted any more");
}

#[test]
fn a_name_dropped_while_everything_is_wanted_stays_until_the_server_says_otherwise() {
    let mut script = asking_for_everything(Variant::Delta);
    script.subscribe(Cluster, &["x"]);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("x", "1"), ("y", "1"), ("z", "1")]);
    script.unsubscribe(Cluster, &["x"]);
    assert_eq!(script.requests(), ["CDS -[x]"]);
    script.change(Cluster, "n2", &[], &["x"]);
    script.events();
    script.accept("n2", &[]);
    assert_eq!(script.events(), ["absent CDS x: removed"]);
    assert_eq!(script.reopen(), ["CDS {y=1 z=1}"]);
}

#[test]
fn a_name_that_came_with_everything_can_be_asked_for() {
    let mut script = asking_for_everything(Variant::Delta);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "1"), ("c", "1")]);
    script.subscribe(Cluster, &["a", "b"]);
    assert_eq!(script.requests(), ["CDS +[* a b]"]);
    script.advance(60.0);
    assert!(script.events().is_empty(), "it is held, and has no clock");
    script.session.unsubscribe_all(Cluster);
    script.requests();
    assert_eq!(script.reopen(), ["CDS +[a b] {b=1}"]);
}

#[test]
fn a_name_that_the_server_never_heard_is_not_taken_back() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mut script = asking_for_everything(variant);
        script.requests();
        match variant {
            Variant::StateOfTheWorld => script.exchange_quietly(Cluster, "v1", "n1", &["a"]),
            Variant::Delta => script.exchange_change(Cluster, "n1", &[("a", "1")]),
        };
        script.requests();
        script.subscribe(Cluster, &["a"]);
        script.unsubscribe(Cluster, &["a"]);
        assert!(script.requests().iter().all(|request| !request.contains('a')), "it came because everything is wanted");
    }
}

#[test]
fn a_new_stream_has_something_to_answer_though_all_of_a_kind_is_held_by_nobodys_name() {
    let mut script = asking_for_everything(Variant::Delta);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.subscribe(RouteConfiguration, &["r", "s"]);
    script.requests();
    script.exchange_change(RouteConfiguration, "n2", &[("r", "1"), ("s", "1")]);
    assert_eq!(script.reopen(), ["CDS {a=1}", "RDS +[r s] {s=1}"]);
}

#[test]
fn what_is_listed_twice_is_known_by_its_canonical_name() {
    let mut script = asking_for_everything(Variant::Delta);
    let canonical = "xdstp://p.test/envoy.config.cluster.v3.Cluster/c?a=1&b=2";
    let written = "xdstp://p.test/envoy.config.cluster.v3.Cluster/c?b=2&a=1";
    script.requests();
    script.exchange_change(Cluster, "n1", &[(canonical, "1")]);
    script.change(Cluster, "n2", &[(written, "2"), (written, "3")], &[]);
    script.events();
    script.answer("n2", &[], Vec::new());
    assert_eq!(script.requests(), ["CDS n2 NACK"]);
    let left = script.session.unsubscribe_all(Cluster);
    assert_eq!(left, [canonical.into()], "and by no other");
}
