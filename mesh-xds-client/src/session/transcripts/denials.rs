//! Transcripts of servers that say why they do not give a resource (xRFC TP3), in both variants.

use envoy_types::pb::envoy::service::discovery::v3::{ResourceError as WireError, ResourceName};
use envoy_types::pb::google::rpc::Status;
use tonic::Code;

use super::*;

fn denials(names: &[(&str, Code)]) -> Vec<WireError> {
    let error = |(name, code): &(&str, Code)| WireError {
        resource_name: Some(ResourceName { name: (*name).to_owned(), ..Default::default() }),
        error_detail: Some(Status { code: *code as i32, message: "no such thing".to_owned(), details: Vec::new() }),
    };
    names.iter().map(error).collect()
}

fn deny(script: &mut Script, variant: Variant, nonce: &str, delivered: &[&str], denied: &[(&str, Code)]) {
    let resource_errors = denials(denied);
    match variant {
        Variant::StateOfTheWorld => {
            let resources = delivered.iter().map(|name| wrapped(name, Cluster.type_url())).collect();
            script
                .receive(DiscoveryResponse { resource_errors, ..response(Cluster.type_url(), "v1", nonce, resources) });
        }
        Variant::Delta => {
            let resources = delivered.iter().map(|name| versioned(Cluster, name, "1")).collect();
            script.receive(DeltaDiscoveryResponse { resource_errors, ..delta(Cluster, nonce, resources, &[]) });
        }
    }
    script.events();
    script.accept(nonce, delivered);
}

fn of_both(claim: impl Fn(&mut Script, Variant)) {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mut script = Script::of(variant, 1);
        script.open(Cluster, &["a", "b"]);
        claim(&mut script, variant);
    }
}

#[test]
fn denial_ends_the_wait_and_is_accepted() {
    of_both(|script, variant| {
        deny(script, variant, "n1", &["a"], &[("b", Code::NotFound)]);
        assert_eq!(script.events(), ["denied CDS b: NotFound no such thing"]);
        assert!(!script.requests().iter().any(|request| request.ends_with("NACK")));
        assert_eq!(script.session.next_timeout(), None, "nothing is awaited any longer");
    });
}

#[test]
fn denial_of_what_was_delivered_is_no_removal() {
    of_both(|script, variant| {
        deny(script, variant, "n1", &["a", "b"], &[]);
        deny(script, variant, "n2", &["a"], &[("b", Code::PermissionDenied)]);
        assert_eq!(script.events(), ["denied CDS b: PermissionDenied no such thing"]);
        deny(script, variant, "n3", &["a", "b"], &[]);
        assert!(script.events().is_empty(), "and it may come again");
    });
}

#[test]
fn denial_of_what_the_same_response_removes_is_told_once() {
    let mut script = Script::of(Variant::Delta, 1);
    script.open(Cluster, &["a"]);
    script.exchange_change(Cluster, "n1", &[("a", "1")]);
    let resource_errors = denials(&[("a", Code::NotFound)]);
    script.receive(DeltaDiscoveryResponse { resource_errors, ..delta(Cluster, "n2", Vec::new(), &["a"]) });
    script.events();
    script.accept("n2", &[]);
    assert_eq!(script.events(), ["denied CDS a: NotFound no such thing"]);
}

#[test]
fn denial_of_what_nobody_asked_for_or_what_came_along_is_passed_over() {
    of_both(|script, variant| {
        deny(script, variant, "n1", &["a", "b"], &[("a", Code::Internal), ("c", Code::NotFound)]);
        assert!(script.events().is_empty());
    });
}

#[test]
fn what_was_denied_is_not_said_to_be_held_so_that_the_same_version_may_come_again() {
    let mut script = Script::of(Variant::Delta, 1);
    script.open(Cluster, &["a", "b", "c"]);
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "1"), ("c", "1")]);
    deny(&mut script, Variant::Delta, "n2", &[], &[("c", Code::PermissionDenied)]);
    assert_eq!(
        script.reopen(),
        ["CDS +[a b c] {b=1}"],
        "of `a` nothing is said either, so that there is something to answer"
    );
    assert_eq!(script.session.next_timeout(), None, "and it is not waited for");
}

#[test]
fn what_was_denied_of_all_stays_while_each_stream_denies_it_and_not_when_one_is_silent() {
    let mut script = Script::of(Variant::Delta, 1);
    script.session.subscribe_all(Cluster);
    script.session.stream_opened();
    script.requests();
    script.exchange_change(Cluster, "n1", &[("a", "1"), ("b", "1")]);
    for nonce in ["n2", "n3"] {
        deny(&mut script, Variant::Delta, nonce, &[], &[("b", Code::PermissionDenied)]);
        script.advance(60.0);
        assert_eq!(script.events(), ["denied CDS b: PermissionDenied no such thing"]);
        assert_eq!(script.reopen(), ["CDS {a=1}"]);
    }
    script.exchange_change(Cluster, "n4", &[("a", "2")]);
    script.advance(15.0);
    assert_eq!(script.events(), ["absent CDS b: unknown"]);
}
