//! Types that nobody knows or asked for, and the wrappers that resources come in.

use super::*;

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
    assert_eq!((resources[1].name.as_deref(), &resources[1].body), (None, &bare.into()));
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
    script.receive(response(Cluster.type_url(), "v1", "n2", vec![heartbeat]));
    assert_eq!(script.events(), ["deliver CDS [] v1 n2"]);
    script.accept("n2", &[]);
    assert!(script.events().is_empty());
    assert_eq!(script.requests(), ["CDS [a] v1 n2"]);
}
