//! Transcripts in delta.

use envoy_types::pb::envoy::service::discovery::v3::ResourceName;

use super::*;

/// A session that asks for `names` of `kind` on an open stream in delta, with the first request sent.
fn asking(kind: ResourceKind, names: &[&str]) -> Script {
    let mut script = Script::of(Variant::Delta, 1);
    script.open(kind, names);
    script
}

// Requests

#[test]
fn first_request_subscribes_to_every_name() {
    let mut script = Script::of(Variant::Delta, 1);
    script.subscribe(Cluster, &["b", "a"]);
    script.subscribe(Listener, &["l"]);
    assert_eq!(script.events(), ["connect"]);
    script.session.stream_opened();
    let requests = script.take_requests();
    let nodes: Vec<_> = requests.iter().map(|one| one.node().map(|node| node.id.as_str())).collect();
    assert_eq!(nodes, [Some("node-1"), None], "the node opens the stream, and is not repeated");
    assert_eq!(requests.iter().map(line).collect::<Vec<_>>(), ["CDS +[a b]", "LDS +[l]"]);
}

#[test]
fn later_requests_hold_what_changed() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.subscribe(Cluster, &["c"]);
    script.unsubscribe(Cluster, &["a"]);
    assert_eq!(script.requests(), ["CDS +[c] -[a]"]);
    script.subscribe(Cluster, &["c"]);
    assert!(script.requests().is_empty(), "no news");
}

#[test]
fn a_name_that_came_and_went_unsent_is_not_spoken_of() {
    let mut script = asking(Cluster, &["a"]);
    script.subscribe(Cluster, &["b"]);
    script.unsubscribe(Cluster, &["b"]);
    assert!(script.requests().is_empty());
}

#[test]
fn names_do_not_wait_for_an_answer_and_do_not_travel_with_one() {
    let mut script = asking(Cluster, &["a"]);
    script.change(Cluster, "n1", &[("a", "1")], &[]);
    script.events();
    script.subscribe(Cluster, &["b"]);
    assert_eq!(script.requests(), ["CDS +[b]"], "a request that answers nothing has no nonce");
    script.subscribe(Cluster, &["c"]);
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS +[c]", "CDS n1"]);
}

#[test]
fn a_name_dropped_and_wanted_again_unsent_is_subscribed_to_once_more() {
    let mut script = asking(ClusterLoadAssignment, &["a"]);
    script.exchange_change(ClusterLoadAssignment, "n1", &[("a", "1")]);
    script.unsubscribe(ClusterLoadAssignment, &["a"]);
    script.subscribe(ClusterLoadAssignment, &["a"]);
    assert_eq!(script.requests(), ["EDS +[a]"], "which makes the server send it again");
    script.advance(15.0);
    assert_eq!(script.events(), ["absent EDS a: not found"], "and its clock runs");
}

#[test]
fn last_name_dropped_is_unsubscribed_and_a_new_stream_is_not_told_of_the_kind() {
    let mut script = asking(Cluster, &["a"]);
    script.subscribe(Listener, &["l"]);
    script.requests();
    script.unsubscribe(Cluster, &["a"]);
    assert_eq!(script.requests(), ["CDS -[a]"]);
    assert_eq!(script.reopen(), ["LDS +[l]"]);
}

#[test]
fn a_new_stream_is_told_what_is_held_and_in_which_version() {
    let mut script = asking(Cluster, &["a", "b", "c", "d"]);
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "7")]);
    script.change(Cluster, "n2", &[("c", "1")], &["d"]);
    script.events();
    script.reject("n2", &[], &["c"]);
    script.requests();
    assert_eq!(script.reopen(), ["CDS +[a b c d] {b=7}"], "all but one, so that there is something to say");
}

#[test]
fn a_new_stream_leaves_one_version_out_and_not_one_of_each_kind() {
    let mut script = asking(Cluster, &["a"]);
    script.subscribe(Listener, &["l"]);
    script.requests();
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.exchange_change(Listener, "n2", &[("l", "1")]);
    assert_eq!(script.reopen(), ["CDS +[a]", "LDS +[l] {l=1}"]);
}

#[test]
fn what_another_server_has_replaced_is_not_claimed() {
    let mut script = asking(Cluster, &["a"]);
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.session.forget_versions();
    assert_eq!(script.reopen(), ["CDS +[a]"]);
}

// Answers

#[test]
fn each_response_is_answered_by_its_nonce() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.change(Cluster, "n1", &[("a", "1")], &[]);
    script.change(Cluster, "n2", &[("b", "1")], &[]);
    assert_eq!(script.events(), ["live", "deliver CDS [a] s1 n1", "deliver CDS [b] s1 n2"]);
    assert!(script.requests().is_empty(), "no answer before the verdict");
    script.accept("n1", &["a"]);
    script.accept("n2", &["b"]);
    assert_eq!(script.requests(), ["CDS n1", "CDS n2"]);
}

#[test]
fn a_refusal_names_the_bad_and_the_good_beside_it_is_in_use() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "1")]);
    script.change(Cluster, "n2", &[("a", "2"), ("b", "2")], &[]);
    script.events();
    script.reject("n2", &["a"], &["b"]);
    let requests = script.take_requests();
    assert_eq!(line(&requests[0]), "CDS n2 NACK");
    assert_eq!(complaint(&requests[0]), (3, r#"resource "b": lb_policy: unknown value 9"#));
    assert_eq!(script.reopen(), ["CDS +[a b] {b=1}"], "the bad one has its last good version");
}

#[test]
fn a_verdict_after_the_stream_counts_and_is_not_sent() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.change(Cluster, "n1", &[("a", "1"), ("b", "1")], &[]);
    script.events();
    script.lose_stream();
    script.accept("n1", &["a", "b"]);
    script.session.stream_opened();
    assert_eq!(script.requests(), ["CDS +[a b] {b=1}"]);
}

#[test]
fn what_is_accepted_leaves_a_waiting_refusal_of_something_else_alone() {
    let mut script = asking(Cluster, &["a", "b"]);
    for nonce in ["n1", "n2"] {
        script.change(Cluster, nonce, &[("a", "1")], &[]);
        script.events();
        script.reject(nonce, &[], &["a"]);
    }
    assert_eq!(script.requests(), ["CDS n1 NACK"], "the second in a row waits");
    script.exchange_change(Cluster, "n3", &[("b", "1")]);
    script.advance(1.0);
    assert_eq!(script.requests(), ["CDS n2 NACK"]);
}

#[test]
fn a_further_refusal_sends_the_one_that_waits_on_its_way() {
    let mut script = asking(Cluster, &["a", "b"]);
    for (nonce, name) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        script.change(Cluster, nonce, &[(name, "1")], &[]);
        script.events();
        script.reject(nonce, &[], &[name]);
    }
    assert_eq!(script.requests(), ["CDS n1 NACK", "CDS n2 NACK"]);
    script.advance(1.0);
    assert_eq!(script.requests(), ["CDS n3 NACK"], "none is settled by another");
}

// What is gone

#[test]
fn what_is_removed_is_absent_at_once_whatever_its_kind() {
    for kind in ResourceKind::ALL {
        let mut script = asking(kind, &["a", "b"]);
        script.exchange_change(kind, "n1", &[("a", "1"), ("b", "1")]);
        script.change(kind, "n2", &[("b", "2")], &["a"]);
        script.events();
        script.accept("n2", &["b"]);
        assert_eq!(script.events(), [format!("absent {} a: removed", short(kind.type_url()))]);
        script.requests();
        script.exchange_change(kind, "n3", &[("a", "3")]);
        assert!(script.events().is_empty(), "it may come back, being asked for still");
    }
}

#[test]
fn what_a_response_does_not_mention_stays() {
    let mut script = asking(Listener, &["a", "b"]);
    script.exchange_change(Listener, "n1", &[("a", "1"), ("b", "1")]);
    script.exchange_change(Listener, "n2", &[("a", "2")]);
    assert!(script.events().is_empty());
}

#[test]
fn a_name_that_the_server_does_not_have_is_given_the_time_to_come() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.change(Cluster, "n1", &[], &["a", "b"]);
    script.events();
    script.accept("n1", &[]);
    script.requests();
    script.advance(14.0);
    script.exchange_change(Cluster, "n2", &[("b", "1")]);
    script.advance(1.0);
    assert_eq!(script.events(), ["absent CDS a: unknown"], "the server has said so");
    assert_eq!(script.session.next_timeout(), None);
}

#[test]
fn a_word_that_comes_after_the_time_for_it_is_told_once() {
    let mut script = asking(Cluster, &["a"]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS a: not found"]);
    let expected: [&[&str]; 2] = [&["absent CDS a: unknown"], &[]];
    for (nonce, expected) in ["n1", "n2"].into_iter().zip(expected) {
        script.change(Cluster, nonce, &[], &["a"]);
        script.events();
        script.accept(nonce, &[]);
        assert_eq!(script.events(), expected);
    }
}

#[test]
fn a_removal_is_told_once() {
    let mut script = asking(Cluster, &["a"]);
    script.exchange_change(Cluster, "n0", &[("a", "1")]);
    let expected: [&[&str]; 2] = [&["absent CDS a: removed"], &[]];
    for (nonce, expected) in ["n1", "n2"].into_iter().zip(expected) {
        script.change(Cluster, nonce, &[], &["a", "never asked for"]);
        script.events();
        script.accept(nonce, &[]);
        assert_eq!(script.events(), expected);
    }
}

#[test]
fn a_removal_from_before_the_name_was_wanted_again_is_not_believed() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.unsubscribe(Cluster, &["a"]);
    script.requests();
    script.subscribe(Cluster, &["a"]);
    script.change(Cluster, "n2", &[], &["a"]);
    script.events();
    script.accept("n2", &[]);
    assert!(script.events().is_empty(), "the server has not heard of this subscription");
    assert_eq!(script.requests(), ["CDS +[a]", "CDS n2"]);
}

#[test]
fn a_resource_from_before_the_name_was_wanted_again_does_not_stand_for_the_subscription() {
    let mut script = asking(Cluster, &["a", "b"]);
    script.unsubscribe(Cluster, &["a"]);
    script.requests();
    script.subscribe(Cluster, &["a"]);
    script.change(Cluster, "n1", &[("a", "1")], &[]);
    script.events();
    script.accept("n1", &["a"]);
    assert_eq!(script.requests(), ["CDS +[a]", "CDS n1"]);
}

#[test]
fn silence_about_a_name_is_absence_after_a_while() {
    let mut script = asking(RouteConfiguration, &["a", "b"]);
    script.exchange_change(RouteConfiguration, "n1", &[("a", "1")]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent RDS b: not found"]);
}

#[test]
fn what_is_held_has_no_clock_on_a_new_stream() {
    let mut script = asking(Cluster, &["a"]);
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    script.reopen();
    script.advance(60.0);
    assert!(script.events().is_empty(), "the server need not send what it is told is held");
}

// What is odd

#[test]
fn what_nobody_asked_for_is_accepted_and_not_held() {
    let mut script = asking(Cluster, &["a", "c"]);
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!(script.reopen(), ["CDS +[a c] {c=1}"]);
}

#[test]
fn an_alias_is_not_the_name() {
    let mut script = asking(Cluster, &["a"]);
    let other = Resource { aliases: vec!["a".to_owned()], ..versioned(Cluster, "b", "1") };
    script.receive(delta(Cluster, "n1", vec![other], &[]));
    script.events();
    script.accept("n1", &["b"]);
    assert_eq!(script.requests(), ["CDS n1"]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS a: not found"]);
}

#[test]
fn a_name_listed_twice_is_refused_and_its_neighbour_used() {
    for removed in [&["a"][..], &[]] {
        let mut script = asking(Cluster, &["a", "b", "c"]);
        script.exchange_change(Cluster, "n0", &[("c", "1")]);
        let mut resources = vec![versioned(Cluster, "a", "1"), versioned(Cluster, "c", "2")];
        if removed.is_empty() {
            resources.push(versioned(Cluster, "a", "2"));
        }
        script.receive(delta(Cluster, "n1", resources, removed));
        assert_eq!(script.events(), ["deliver CDS [c] s1 n1"]);
        script.accept("n1", &["c"]);
        assert!(script.events().is_empty());
        let requests = script.take_requests();
        assert_eq!(complaint(&requests[0]).1, r#"resource "a": it is listed twice in one response"#);
        script.exchange_change(Cluster, "n2", &[("b", "1")]);
        assert_eq!(script.reopen(), ["CDS +[a b c] {c=2}"]);
    }
}

#[test]
fn a_resource_without_a_name_is_refused() {
    let mut script = asking(Cluster, &["a"]);
    script.receive(delta(Cluster, "n1", vec![versioned(Cluster, "", "1")], &[]));
    script.events();
    script.accept("n1", &[]);
    let requests = script.take_requests();
    assert_eq!(complaint(&requests[0]).1, "resource without a readable name: name: it has no name");
}

#[test]
fn a_name_with_dynamic_parameters_is_none_since_nobody_asked_by_any() {
    let mut script = asking(Cluster, &["a"]);
    let name = ResourceName { name: "a".to_owned(), ..Default::default() };
    let resource = Resource { resource_name: Some(name), name: String::new(), ..versioned(Cluster, "a", "1") };
    script.receive(delta(Cluster, "n1", vec![resource], &[]));
    assert_eq!(script.events(), ["live", "deliver CDS [] s1 n1"]);
    script.accept("n1", &[]);
    let requests = script.take_requests();
    assert_eq!(complaint(&requests[0]).1, "resource without a readable name: name: it has no name");
}

#[test]
fn a_kind_never_asked_for_is_ignored() {
    let mut script = asking(Cluster, &["a"]);
    script.change(Listener, "n1", &[("l", "1")], &[]);
    assert_eq!(script.events(), ["live", &format!("ignored {}", Listener.type_url())]);
    assert!(script.requests().is_empty());
}
