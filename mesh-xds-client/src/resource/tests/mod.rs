//! What is accepted, what is refused and under which path, and what is warned of, one claim at a time.

mod cluster;
mod endpoints;
mod garbage;
mod listener;
mod route;
mod tls;
mod virtual_hosts;

use mesh_core::config::{Decoded, Security, Warning};

use super::*;

/// The path of a field, and what is done to it.
type Case<M> = (&'static str, fn(&mut M));

impl ResourceError {
    /// The path of the field to blame, empty where it is the whole resource.
    fn blamed(&self) -> &str {
        self.field.as_deref().unwrap_or_default()
    }
}

/// Reads a message as a resource of its kind.
fn decode_message<M: Message + prost::Name>(
    message: &M,
    context: &Context,
) -> Result<Decoded<Resource>, ResourceError> {
    decode(&samples::any(message), context)
}

/// Changes one thing about a good message, which must then be refused for the field at `path`.
#[track_caller]
fn assert_refused<M: Message + prost::Name + Clone>(good: M, context: &Context, cases: &[Case<M>]) {
    decode_message(&good, context).expect("the sample is good");
    for (path, spoil) in cases {
        let mut message = good.clone();
        spoil(&mut message);
        match decode_message(&message, context) {
            Err(bad) => assert_eq!(bad.blamed(), *path, "{}", bad),
            Ok(_) => panic!("{path} was accepted"),
        }
    }
}

/// Changes one thing about a good message, which must then be accepted with a warning of the field at `path`.
#[track_caller]
fn assert_warned<M: Message + prost::Name + Clone>(good: M, context: &Context, cases: &[Case<M>]) {
    let before = decode_message(&good, context).expect("the sample is good").warnings;
    for (path, change) in cases {
        assert!(!before.iter().any(|warning| warning.field == *path), "{path} is warned of in the sample");
        let mut message = good.clone();
        change(&mut message);
        match decode_message(&message, context) {
            Ok(decoded) => assert!(fields(&decoded.warnings).contains(path), "{path}: {:?}", decoded.warnings),
            Err(bad) => panic!("{path} was refused: {}", bad),
        }
    }
}

fn fields(warnings: &[Warning]) -> Vec<&str> {
    warnings.iter().map(|warning| warning.field.as_str()).collect()
}

#[test]
fn samples_are_good_and_honoured_whole() {
    let context = samples::context();
    for sample in samples::all() {
        let decoded = decode(&sample, &context).expect("good");
        assert_eq!(fields(&decoded.warnings), Vec::<&str>::new(), "{}", sample.type_url);
    }
}

#[test]
fn samples_of_sidecars_are_honoured_but_for_what_is_said_to_be_left_out() {
    let context = samples::sidecar::context();
    let decoded: Vec<_> = samples::sidecar::all().iter().map(|any| decode(any, &context).expect("good")).collect();
    let warned: Vec<_> = decoded.iter().map(|decoded| fields(&decoded.warnings)).collect();
    assert_eq!(warned, [vec![], vec![], vec![], vec![], vec!["type"], vec!["type"], vec![]]);
    assert!(matches!(decoded[0].value, Resource::Inbound(_)));
    let Resource::Cluster { cluster, is_patient: false } = &decoded[2].value else { panic!("a cluster") };
    assert_eq!(cluster.policy.security.len(), 2, "with TLS, and in plaintext");
    let Resource::Endpoints(assignment) = &decoded[6].value else { panic!("endpoints") };
    let facts = assignment.endpoints.groups()[0].endpoints[0].metadata().map(|facts| &**facts);
    assert!(matches!(cluster.policy.security_of(facts), Security::Tls(_)));
}

#[test]
fn empty_names_are_refused() {
    let context = samples::context();
    assert_refused(samples::listener(), &context, &[("name", |m| m.name.clear())]);
    assert_refused(samples::routes(), &context, &[("name", |m| m.name.clear())]);
    assert_refused(samples::cluster(), &context, &[("name", |m| m.name.clear())]);
    assert_refused(samples::endpoints(), &context, &[("cluster_name", |m| m.cluster_name.clear())]);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for kind in ResourceKind::ALL {
        let any = Any { type_url: kind.type_url().to_owned(), value: vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f] };
        let bad = decode(&any, &Context::new()).expect_err("no message");
        assert_eq!((bad.name, bad.field.as_deref()), (None, Some("value")), "{kind}");
    }
}

#[test]
fn a_bad_resource_is_refused_under_its_name() {
    let mut routes = samples::routes();
    routes.virtual_hosts[0].domains.clear();
    let bad = decode_message(&routes, &Context::new()).expect_err("no domains");
    assert_eq!(bad.name.as_deref(), Some("routes"));
    assert!(bad.to_string().starts_with(r#"resource "routes": virtual_hosts[0].domains: "#), "{bad}");
}

#[test]
fn the_name_is_known_though_the_rest_is_cut_off() {
    let whole = samples::any(&samples::cluster());
    let mut cut = whole.clone();
    cut.value.truncate(cut.value.len() - 1);
    let bad = decode(&cut, &samples::context()).expect_err("cut off");
    assert_eq!((bad.name.as_deref(), bad.blamed()), (Some("cluster"), "value"));
}

#[test]
fn a_type_that_nobody_asked_for_is_refused() {
    let any = Any { type_url: "type.googleapis.com/google.protobuf.Duration".to_owned(), value: Vec::new() };
    assert_eq!(decode(&any, &Context::new()).expect_err("unknown").blamed(), "type_url");
}
