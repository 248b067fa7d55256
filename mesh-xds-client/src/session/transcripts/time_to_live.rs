//! Transcripts of resources that come with a time to live, in both variants.

use envoy_types::pb::google::protobuf as wire;

use super::*;

const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];

fn asking(variant: Variant) -> Script {
    let mut script = Script::of(variant, 1);
    script.open(Cluster, &["a", "b"]);
    script
}

fn living(name: &str, version: &str, seconds: i64) -> Resource {
    Resource { ttl: Some(wire::Duration { seconds, nanos: 0 }), ..versioned(Cluster, name, version) }
}

fn heartbeat(name: &str, version: &str, seconds: i64) -> Resource {
    Resource { resource: None, ..living(name, version, seconds) }
}

impl Script {
    /// These resources in the variant of the script, accepted as far as they have a body. What the session says to it.
    fn offer(&mut self, variant: Variant, nonce: &str, resources: Vec<Resource>) -> Vec<String> {
        let names: Vec<_> = resources.iter().filter(|one| one.resource.is_some()).map(|one| one.name.clone()).collect();
        match variant {
            Variant::Delta => self.receive(delta(Cluster, nonce, resources, &[])),
            Variant::StateOfTheWorld => {
                let resources = resources.into_iter().map(wrapper).collect();
                self.receive(response(Cluster.type_url(), "v1", nonce, resources));
            }
        }
        self.events();
        self.accept(nonce, &names.iter().map(String::as_str).collect::<Vec<_>>());
        self.requests()
    }

    /// The resources of a version in state of the world, of which these can be used and these not.
    fn version(
        &mut self,
        kind: ResourceKind,
        version: &str,
        nonce: &str,
        resources: Vec<Resource>,
        (accepted, rejected): (&[&str], &[&str]),
    ) -> Vec<String> {
        self.receive(response(kind.type_url(), version, nonce, resources.into_iter().map(wrapper).collect()));
        self.events();
        self.reject(nonce, accepted, rejected);
        self.requests()
    }
}

#[test]
fn a_resource_expires_and_its_neighbour_without_a_time_does_not() {
    for variant in BOTH {
        let mut script = asking(variant);
        script.offer(variant, "n1", vec![living("a", "1", 10), versioned(Cluster, "b", "1")]);
        script.advance(9.9);
        assert!(script.events().is_empty());
        script.advance(0.1);
        assert_eq!(script.events(), ["absent CDS a: expired"]);
        assert_eq!(script.session.next_timeout(), None);
    }
}

#[test]
fn a_heartbeat_gives_it_more_time() {
    for variant in BOTH {
        let mut script = asking(variant);
        script.offer(variant, "n1", vec![living("a", "1", 10), versioned(Cluster, "b", "1")]);
        for nonce in ["n2", "n3", "n4"] {
            script.advance(9.0);
            let still = versioned(Cluster, "b", "1");
            let answer = script.offer(variant, nonce, vec![heartbeat("a", "1", 10), still]);
            assert!(!answer[0].ends_with("NACK"), "{answer:?}");
            assert!(script.events().is_empty());
        }
        script.advance(10.0);
        assert_eq!(script.events(), ["absent CDS a: expired"]);
    }
}

#[test]
fn it_lives_on_when_it_comes_without_a_time() {
    for variant in BOTH {
        let mut script = asking(variant);
        script.offer(variant, "n1", vec![living("a", "1", 10), versioned(Cluster, "b", "1")]);
        script.offer(variant, "n2", vec![versioned(Cluster, "a", "2"), versioned(Cluster, "b", "1")]);
        script.advance(60.0);
        assert!(script.events().is_empty());
    }
}

#[test]
fn time_passes_without_a_stream_and_what_expired_is_asked_for_anew() {
    for (variant, request) in BOTH.into_iter().zip(["CDS [a b c] - -", "CDS +[a b c] {c=1}"]) {
        let mut script = asking(variant);
        script.subscribe(Cluster, &["c"]);
        script.requests();
        let others = ["b", "c"].map(|name| versioned(Cluster, name, "1"));
        script.offer(variant, "n1", [living("a", "1", 1000)].into_iter().chain(others).collect());
        script.session.stream_ended("reset", script.now);
        script.events();
        script.advance(1000.0);
        assert_eq!(script.events(), ["connect", "absent CDS a: expired"]);
        script.session.stream_opened();
        assert_eq!(script.requests(), [request]);
    }
}

#[test]
fn a_resource_that_is_dropped_does_not_expire() {
    for variant in BOTH {
        let mut script = asking(variant);
        script.offer(variant, "n1", vec![living("a", "1", 10), versioned(Cluster, "b", "1")]);
        script.unsubscribe(Cluster, &["a"]);
        script.requests();
        assert_eq!(script.session.next_timeout(), None);
    }
}

#[test]
fn a_time_that_is_none_is_refused() {
    for variant in BOTH {
        for seconds in [0, -1, i64::MIN] {
            let mut script = asking(variant);
            let answer = script.offer(variant, "n1", vec![living("a", "1", seconds)]);
            assert!(answer[0].ends_with("n1 NACK"), "{answer:?}");
        }
        let mut script = asking(variant);
        script.offer(variant, "n1", vec![living("a", "1", i64::MAX)]);
        assert!(script.session.next_timeout().is_some(), "for ever is long, and no panic");
    }
}

#[test]
fn a_heartbeat_of_another_version_is_refused_in_delta() {
    let mut script = asking(Variant::Delta);
    script.offer(Variant::Delta, "n1", vec![living("a", "1", 10)]);
    let answer = script.offer(Variant::Delta, "n2", vec![heartbeat("a", "2", 10), heartbeat("nobody's", "1", 10)]);
    assert_eq!(answer, ["CDS n2 NACK"]);
    script.advance(10.0);
    assert_eq!(script.events(), ["absent CDS a: expired"]);
}

#[test]
fn a_heartbeat_of_a_refused_version_is_refused_in_state_of_the_world_and_the_version_before_stays() {
    let mut script = asking(Variant::StateOfTheWorld);
    let b = versioned(Cluster, "b", "");
    script.version(Cluster, "v1", "n1", vec![living("a", "", 10), b.clone()], (&["a", "b"], &[]));
    let refused = script.version(Cluster, "v2", "n2", vec![living("a", "", 10), b.clone()], (&["b"], &["a"]));
    assert_eq!(refused, ["CDS [a b] v1 n2 NACK"]);
    script.version(Cluster, "v2", "n3", vec![heartbeat("a", "", 10), b], (&["b"], &[]));
    script.advance(1.0);
    assert_eq!(script.requests(), ["CDS [a b] v1 n3 NACK"]);
    script.advance(9.0);
    assert_eq!(script.events(), ["absent CDS a: expired"]);
}

#[test]
fn a_heartbeat_does_not_bring_back_what_expired() {
    for variant in BOTH {
        for is_named in [true, false] {
            let mut script = Script::of(variant, 1);
            if !is_named {
                script.session.subscribe_all(Cluster);
            }
            script.open(Cluster, if is_named { &["a", "b"] } else { &[] });
            script.offer(variant, "n1", vec![living("a", "1", 10), versioned(Cluster, "b", "1")]);
            script.advance(10.0);
            assert_eq!(script.events(), ["absent CDS a: expired"]);
            let answer = script.offer(variant, "n2", vec![heartbeat("a", "1", 10), versioned(Cluster, "b", "1")]);
            assert!(answer[0].ends_with("n2 NACK"), "{answer:?}");
            assert!(script.events().is_empty());
        }
    }
}

#[test]
fn a_heartbeat_of_what_never_came_leaves_its_clock_running() {
    for variant in BOTH {
        let mut script = asking(variant);
        let answer = script.offer(variant, "n1", vec![heartbeat("a", "1", 10), versioned(Cluster, "b", "1")]);
        assert!(answer[0].ends_with("n1 NACK"), "{answer:?}");
        script.advance(15.0);
        assert_eq!(script.events(), ["absent CDS a: not found"]);
    }
}

#[test]
fn a_heartbeat_beside_its_resource_is_a_name_listed_twice() {
    let mut script = asking(Variant::StateOfTheWorld);
    script.receive(response(Cluster.type_url(), "v1", "n1", vec![wrapper(living("a", "", 10))]));
    script.events();
    script.accept("n1", &["a"]);
    script.requests();
    let twice = vec![wrapper(living("a", "", 10)), wrapper(heartbeat("a", "", 20))];
    script.receive(response(Cluster.type_url(), "v1", "n2", twice));
    script.events();
    script.accept("n2", &["a"]);
    let requests = script.take_requests();
    assert_eq!(complaint(&requests[0]).1, r#"resource "a": it is listed twice in one response"#);
}

#[test]
fn no_version_vouches_for_what_expired_until_it_has_come_again() {
    let kind = RouteConfiguration;
    let living = |name| Resource { ttl: Some(wire::Duration { seconds: 10, nanos: 0 }), ..versioned(kind, name, "") };
    let mut script = Script::of(Variant::StateOfTheWorld, 1);
    script.open(kind, &["a", "b"]);
    script.version(kind, "v1", "n1", vec![living("a"), versioned(kind, "b", "")], (&["a", "b"], &[]));
    script.advance(10.0);
    assert_eq!(script.events(), ["absent RDS a: expired"]);
    let beat = script.version(kind, "v1", "n1b", vec![heartbeat("a", "", 10)], (&[], &[]));
    assert_eq!(beat, ["RDS [a b] v1 n1b NACK"]);
    let answer = script.version(kind, "v2", "n2", vec![versioned(kind, "b", "")], (&["b"], &[]));
    assert_eq!(answer, ["RDS [a b] v2 n2"]);
    assert_eq!(script.reopen(), ["RDS [a b] - -"], "a server that compares versions would send nothing");
    assert_eq!(script.reopen(), ["RDS [a b] - -"], "nor has it come yet");
    script.version(kind, "v2", "n3", vec![versioned(kind, "a", ""), versioned(kind, "b", "")], (&["a", "b"], &[]));
    script.with_listener();
    assert_eq!(script.reopen(), ["LDS [l] - -", "RDS [a b] v2 -"]);
}

#[test]
fn a_full_state_vouches_for_what_expired() {
    let mut script = asking(Variant::StateOfTheWorld);
    let b = versioned(Cluster, "b", "");
    script.version(Cluster, "v1", "n1", vec![living("a", "", 10), b.clone()], (&["a", "b"], &[]));
    script.advance(10.0);
    script.version(Cluster, "v2", "n2", vec![b], (&["b"], &[]));
    script.with_listener();
    assert_eq!(script.reopen(), ["CDS [a b] v2 -", "LDS [l] - -"], "the server has said that there is no `a`");
}

#[test]
fn a_version_stays_in_use_on_its_stream_though_a_resource_of_it_expires() {
    let mut script = asking(Variant::StateOfTheWorld);
    let both = || vec![living("a", "", 10), living("b", "", 20)];
    script.version(Cluster, "v1", "n1", both(), (&["a", "b"], &[]));
    script.advance(10.0);
    script.subscribe(Cluster, &["c"]);
    assert_eq!(script.requests(), ["CDS [a b c] v1 n1"]);
    let beat = script.version(Cluster, "v1", "n2", vec![heartbeat("b", "", 20)], (&[], &[]));
    assert_eq!(beat, ["CDS [a b c] v1 n2"]);
}

#[test]
fn a_wrapper_without_a_name_times_the_resource_in_it() {
    let mut script = asking(Variant::StateOfTheWorld);
    let cluster = envoy_types::pb::envoy::config::cluster::v3::Cluster { name: "a".to_owned(), ..Default::default() };
    let body = Any { type_url: Cluster.type_url().to_owned(), value: cluster.encode_to_vec() };
    let nameless = Resource { name: String::new(), resource: Some(body), ..living("a", "", 10) };
    script.version(Cluster, "v1", "n1", vec![nameless, versioned(Cluster, "b", "")], (&["a", "b"], &[]));
    script.advance(10.0);
    assert_eq!(script.events(), ["absent CDS a: expired"]);
}

#[test]
fn a_wrapper_without_name_and_body_is_refused() {
    let mut script = asking(Variant::StateOfTheWorld);
    script.version(Cluster, "v1", "n1", vec![living("a", "", 10)], (&["a"], &[]));
    script.receive(response(Cluster.type_url(), "v1", "n2", vec![wrapper(heartbeat("", "", 10))]));
    script.events();
    script.accept("n2", &[]);
    assert!(script.events().is_empty(), "it may be of anything that is held");
    let requests = script.take_requests();
    assert_eq!(complaint(&requests[0]).1, "resource without a readable name: name: it has no name");
}
