//! A server that offers again what was refused is refused ever later, and nothing else waits for that.

use super::*;

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
