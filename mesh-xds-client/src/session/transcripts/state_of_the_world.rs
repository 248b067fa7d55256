//! Transcripts in state of the world.

use super::*;

// Requests

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

// Answers

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

// What is refused again

/// A server that offers the same bad resources again as soon as it hears of the refusal, for so many seconds: when each
/// refusal was sent.
fn refusals(
    script: &mut Script,
    kind: ResourceKind,
    seconds: f64,
    mut names: impl FnMut(u32) -> Vec<&'static str>,
) -> Vec<f64> {
    let start = script.now;
    let mut sent = Vec::new();
    for offer in 0.. {
        let (nonce, names) = (format!("again-{offer}"), names(offer));
        script.respond(kind, "bad", &nonce, &names);
        script.events();
        script.reject(&nonce, &[], &names);
        let mut requests = script.requests();
        while requests.is_empty() {
            script.now = script.session.next_timeout().expect("the refusal is due some time");
            script.session.timeout(script.now);
            requests = script.requests();
        }
        assert_eq!(requests.len(), 1);
        assert!(requests[0].ends_with(&format!("{nonce} NACK")), "{requests:?}");
        let at = (script.now - start).as_secs_f64();
        if at > seconds {
            break;
        }
        sent.push(at);
    }
    sent
}

#[test]
fn first_refusal_leaves_at_once_and_the_same_again_ever_later() {
    for seed in 0..20 {
        let mut script = Script::seeded(seed);
        script.open(Cluster, &["a"]);
        let sent = refusals(&mut script, Cluster, 600.0, |_| vec!["a"]);
        assert_eq!(sent[0], 0.0);
        // Full jitter makes a wait anything below its ceiling, which is 30 s from the ninth on.
        assert!((15..=90).contains(&sent.len()), "{} refusals in ten minutes", sent.len());
        let longest = sent.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!((20.0..=30.0).contains(&longest), "{longest} s between two");
        assert!(sent.windows(2).zip([1.0, 1.6, 2.56]).all(|(pair, ceiling)| pair[1] - pair[0] <= ceiling), "{sent:?}");
    }
}

#[test]
fn refusals_of_different_resources_are_a_moment_apart() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    let names = |offer: u32| if offer.is_multiple_of(2) { vec!["a"] } else { vec!["b"] };
    let sent = refusals(&mut script, Cluster, 100.0, names);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] <= 1.0), "{sent:?}");
    assert!((100..400).contains(&sent.len()), "{}", sent.len());
}

#[test]
fn acceptance_is_never_late_and_ends_the_row() {
    let mut script = Script::asking(Cluster, &["a"]);
    for round in 0..3 {
        assert_eq!(refusals(&mut script, Cluster, 60.0, |_| vec!["a"])[0], 0.0, "round {round}");
        script.respond(Cluster, "good", "good", &["a"]);
        script.events();
        script.accept("good", &["a"]);
        assert_eq!(script.requests(), ["CDS [a] good good"]);
    }
}

/// A script whose second refusal in a row, `n2`, waits.
fn holding_a_refusal(names: &[&str]) -> Script {
    let mut script = Script::asking(Cluster, names);
    for nonce in ["n1", "n2"] {
        script.respond(Cluster, "bad", nonce, names);
        script.events();
        script.reject(nonce, &[], names);
    }
    assert_eq!(script.requests().len(), 1, "the second waits");
    script
}

#[test]
fn a_refusal_that_waits_holds_up_no_other_kind() {
    let mut script = holding_a_refusal(&["a"]);
    script.subscribe(Listener, &["l"]);
    assert_eq!(script.requests(), ["LDS [l] - -"]);
    script.exchange_quietly(Listener, "v1", "l1", &["l"]);
    assert_eq!(script.requests(), ["LDS [l] v1 l1"]);
    script.advance(1.0);
    assert_eq!(script.requests(), ["CDS [a] - n2 NACK"]);
    assert_eq!(script.session.next_timeout(), None);
}

#[test]
fn a_change_of_names_takes_a_waiting_refusal_along() {
    let mut script = holding_a_refusal(&["a"]);
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS [a b] - n2 NACK"]);
    script.advance(100.0);
    assert!(script.requests().is_empty());
}

#[test]
fn a_refusal_does_not_wait_while_names_do() {
    let mut script = holding_a_refusal(&["a"]);
    script.respond(Cluster, "bad", "n3", &["a"]);
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS [a b] - n2 NACK"]);
    script.subscribe(Cluster, &["c"]);
    script.events();
    script.reject("n3", &[], &["a"]);
    assert_eq!(script.requests(), ["CDS [a b c] - n3 NACK"]);
}

#[test]
fn a_later_answer_settles_the_refusal_that_waits() {
    let mut script = holding_a_refusal(&["a"]);
    let due = script.session.next_timeout();
    script.respond(Cluster, "bad", "n3", &["a"]);
    script.events();
    script.reject("n3", &[], &["a"]);
    assert_eq!(script.session.next_timeout(), due, "a server that does not wait for answers puts none off");
    script.advance(1.0);
    assert_eq!(script.requests(), ["CDS [a] - n3 NACK"]);

    let mut script = holding_a_refusal(&["a"]);
    script.exchange_quietly(Cluster, "good", "n3", &["a"]);
    assert_eq!(script.requests(), ["CDS [a] good n3"]);
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS [a b] good n3"], "no answer is owed");
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS b: not found"]);
    assert!(script.requests().is_empty());
}

#[test]
fn a_refusal_that_waits_ends_with_its_stream() {
    let mut script = holding_a_refusal(&["a"]);
    script.lose_stream();
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a] - -"]);
    assert_eq!(script.session.next_timeout(), None);
    script.respond(Cluster, "bad", "n3", &["a"]);
    script.events();
    script.reject("n3", &[], &["a"]);
    assert_eq!(script.requests(), ["CDS [a] - n3 NACK"], "the first of its stream");
}

// What is passed over

#[test]
fn unknown_type_is_neither_answered_nor_reported_twice() {
    let mut script = Script::asking(Cluster, &["a"]);
    for nonce in ["n1", "n2"] {
        script.receive(response("type.googleapis.com/other.Thing", "v1", nonce, Vec::new()));
    }
    assert_eq!(script.events(), ["live", "ignored type.googleapis.com/other.Thing"]);
    assert!(script.requests().is_empty());
}

#[test]
fn a_kind_never_asked_for_is_not_answered_since_that_would_ask_for_everything() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Listener, "v1", "n1", &["l"]);
    assert_eq!(script.events(), ["live", &format!("ignored {}", Listener.type_url())]);
    assert!(script.requests().is_empty());
}

#[test]
fn memory_of_ignored_types_is_bounded() {
    let mut script = Script::asking(Cluster, &["a"]);
    for number in 0..1000 {
        script.receive(response(&format!("type/{number}"), "v1", "n1", Vec::new()));
    }
    assert!(script.events().len() < 50);
}

#[test]
fn wrapper_is_taken_off_and_bare_resources_stay_nameless() {
    let mut script = Script::asking(Cluster, &["a"]);
    let bare = Any { type_url: Cluster.type_url().to_owned(), value: vec![1] };
    script.receive(response(Cluster.type_url(), "v1", "n1", vec![wrapped("a", Cluster.type_url()), bare.clone()]));
    script.session.poll_event();
    let Some(Event::Deliver(batch)) = script.session.poll_event() else { panic!("a batch is due") };
    let resources: Vec<_> = batch.collect();
    assert_eq!(resources[0].name.as_deref(), Some("a"));
    assert_eq!(resources[0].body.type_url, Cluster.type_url());
    assert_eq!((resources[1].name.as_deref(), &resources[1].body), (None, &bare));
}

#[test]
fn a_wrapper_that_is_not_protobuf_refuses_the_response_and_removes_nothing() {
    let mut script = Script::asking(Cluster, &["a", "b"]);
    script.exchange(Cluster, "v1", "n1", &["a", "b"]);
    let garbage = Any { type_url: Resource::type_url(), value: vec![0xff; 7] };
    script.receive(response(Cluster.type_url(), "v2", "n2", vec![wrapped("a", Cluster.type_url()), garbage]));
    assert_eq!(script.events(), ["deliver CDS [a] v2 n2"]);
    script.accept("n2", &["a"]);
    assert_eq!(script.requests(), ["CDS [a b] v1 n2 NACK"]);
    assert!(script.events().is_empty(), "the unreadable resource may have been b");
}

#[test]
fn a_wrapper_without_body_says_that_the_resource_stands() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    let heartbeat = wrapper(Resource { name: "a".to_owned(), ..Default::default() });
    script.receive(response(Cluster.type_url(), "v2", "n2", vec![heartbeat]));
    assert_eq!(script.events(), ["deliver CDS [] v2 n2"]);
    script.accept("n2", &[]);
    assert!(script.events().is_empty());
    assert_eq!(script.requests(), ["CDS [a] v2 n2"]);
}

// Absence

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

// Streams

#[test]
fn version_outlives_the_stream_and_the_nonce_does_not() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    script.lose_stream();
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a] v1 -"]);
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

#[test]
fn answers_not_yet_sent_die_with_the_stream() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.respond(Cluster, "v1", "n1", &["a"]);
    script.events();
    script.accept("n1", &["a"]);
    script.lose_stream();
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a] v1 -"]);
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

// Another server

#[test]
fn versions_that_are_forgotten_are_taken_back_from_a_stream_that_has_told_them() {
    let mut script = Script::asking(Cluster, &["a"]);
    script.exchange(Cluster, "v1", "n1", &["a"]);
    assert_eq!(script.reopen(), ["CDS [a] v1 -"]);
    script.session.forget_versions();
    assert_eq!(script.events(), ["connect"]);
    script.respond(Cluster, "v1", "late", &[]);
    assert!(script.events().is_empty(), "that stream is closed");
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS [a] - -"]);
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
