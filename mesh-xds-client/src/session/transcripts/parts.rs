//! What may be done in parts comes to the same as in one go.

use super::*;

/// A session whose stream is open, and that has not asked for these names of clusters yet.
fn about_to_ask(variant: Variant, names: &[&str]) -> Script {
    let mut script = Script::of(variant, 1);
    script.subscribe(Cluster, names);
    script.events();
    script.session.stream_opened();
    script
}

#[test]
fn request_that_is_made_name_by_name_is_the_one_that_is_made_at_once() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let (mut slow, mut fast) = (about_to_ask(variant, &["a", "b", "c"]), about_to_ask(variant, &["a", "b", "c"]));
        let mut parts = 1;
        while !slow.session.draft_request(1, slow.now) {
            parts += 1;
        }
        assert!(parts > 3, "{parts} parts");
        assert_eq!(slow.requests(), fast.requests());
        slow.subscribe(Cluster, &["d"]);
        fast.subscribe(Cluster, &["d"]);
        assert!(!slow.session.draft_request(1, slow.now));
        assert_eq!(slow.requests(), fast.requests());
    }
}

#[test]
fn names_that_change_while_a_request_is_made_are_left_to_the_next() {
    let mut script = about_to_ask(Variant::Delta, &["a", "c"]);
    assert!(!script.session.draft_request(1, script.now));
    script.subscribe(Cluster, &["b"]);
    script.unsubscribe(Cluster, &["c"]);
    let requests = script.requests().concat();
    assert!(requests.starts_with("CDS +[a") && requests.ends_with("-[c]") && requests.contains('b'), "{requests}");
}

#[test]
fn request_that_is_half_made_when_its_stream_ends_is_made_anew_on_the_next() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mut script = about_to_ask(variant, &["a", "b", "c"]);
        assert!(!script.session.draft_request(4, script.now), "two have a clock, and one has none");
        script.lose_stream();
        script.session.stream_opened();
        let names = if variant == Variant::Delta { "CDS +[a b c]" } else { "CDS [a b c]" };
        let requests = script.requests();
        assert!(requests.len() == 1 && requests[0].starts_with(names), "{requests:?}");
    }
}

#[test]
fn name_that_is_there_twice_is_found_by_looking_at_one_at_a_time() {
    let mut script = about_to_ask(Variant::Delta, &["a", "b"]);
    script.requests();
    let twice = ["a", "b", "a"].map(|name| versioned(Cluster, name, "1"));
    script.receive(delta(Cluster, "n1", twice.into(), &["b", "c"]));
    script.session.poll_event();
    let Some(Event::Deliver(mut batch)) = script.session.poll_event() else { panic!("a batch is due") };
    assert_eq!([1; 4].map(|most| batch.check(most)), [1, 1, 1, 0]);
    assert_eq!(batch.next(), None, "each is there twice, be it among what is removed");
}
