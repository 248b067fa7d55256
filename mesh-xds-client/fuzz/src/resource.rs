//! What holds of a resource whatever its bytes are.

use std::sync::LazyLock;

use libfuzzer_sys::fuzzer_mutate;
use mesh_core::RequestHead;
use mesh_core::config::{Cluster, Metadata, RouteConfig, Security};
use mesh_core::route::RouteTable;
use mesh_xds_client::fuzzing::{Accepted, decode, name_of, samples};
use mesh_xds_client::testkit::Mutations;
use mesh_xds_client::{Dialect, ResourceKind};

/// As many warnings as one resource gives, with the one that says how many more there are.
const WARNINGS: usize = 65;

/// Endpoints that a client holds when others come.
static HELD: LazyLock<Accepted> = LazyLock::new(|| {
    let (kind, sample) =
        samples().find(|one| one.0 == ResourceKind::ClusterLoadAssignment).expect("there are some endpoints");
    decode(kind, &sample, Dialect::Grpc).expect("the sample is good")
});

/// Reads `bytes` as a resource of `kind`, in every way in which the client does.
pub fn check(kind: ResourceKind, bytes: &[u8]) {
    for dialect in [Dialect::Grpc, Dialect::Sidecar] {
        check_in(dialect, kind, bytes);
    }
}

fn check_in(dialect: Dialect, kind: ResourceKind, bytes: &[u8]) {
    let read = decode(kind, bytes, dialect);
    assert_eq!(read, decode(kind, bytes, dialect), "it is read alike twice");
    match &read {
        // prost reads a map of whatever wire type, others pass over it: what has no name by that is refused where it is filed.
        Ok(_) if name_of(bytes).is_none() => {}
        Ok(accepted) => check_accepted(accepted, bytes),
        Err(error) => {
            assert!(!error.message.is_empty() && !error.message.ends_with(": "), "the remedy is told");
            assert_eq!(error.name, name_of(bytes), "it is refused under the name under which it is filed");
        }
    }
    if kind == ResourceKind::ClusterLoadAssignment {
        assert_eq!(HELD.again(bytes), Some(read), "what is held changes nothing about what comes");
    }
}

fn check_accepted(accepted: &Accepted, bytes: &[u8]) {
    assert!(accepted.warnings.len() <= WARNINGS, "warnings are bounded");
    if let Some(again) = accepted.again(bytes) {
        assert_eq!(again.as_ref(), Ok(accepted), "the same bytes mean the same");
    }
    if let Some(routes) = accepted.routes() {
        route(routes);
    }
    if let Some(cluster) = accepted.cluster() {
        secure(cluster);
    }
    if let Some(listener) = accepted.inbound() {
        let is_chosen = [0, 9080, u16::MAX].map(|port| listener.chains(port).count());
        let chains = listener.message().filter_chains.len();
        assert!(is_chosen.iter().all(|chosen| *chosen <= chains), "a chain is one of the listener's");
    }
}

/// What a cluster names TLS for is not reached in plaintext by endpoints that say nothing of it, unless it says so by name.
fn secure(cluster: &Cluster) {
    let policy = &cluster.policy;
    let is_plain_by_name = policy.security.iter().any(|one| one.security == Security::Plaintext);
    for metadata in [None, Some(&Metadata::default())] {
        let is_plain = policy.security_of(metadata) == Security::Plaintext;
        let is_secured = policy.tls.is_some() || !policy.security.is_empty();
        assert!(!is_plain || !is_secured || is_plain_by_name, "it falls back to plaintext");
    }
}

/// Routes that were accepted can be compiled, and requests find their way through them, or none.
fn route(routes: &RouteConfig) {
    let table = RouteTable::compile(routes, |_, route| route.clone());
    for uri in ["http://echo.shop:80/", "http://v2.echo.shop/api/v2/items?debug=1", "/"] {
        let request = http::Request::get(uri).header("x-version", "2").body(()).expect("a legal request");
        let head = RequestHead::of(&request);
        for roll in [0, u64::MAX] {
            let taken = table.select(&head, roll).is_ok();
            assert_eq!(taken, table.explain(&head, roll).outcome().is_ok(), "what is explained is what is done");
        }
    }
}

/// Mutates a message: as protobuf most of the time, as bytes otherwise.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if seed.is_multiple_of(4) {
        return fuzzer_mutate(data, size, max_size);
    }
    let mutated = Mutations::new(seed.into()).of(&data[..size]);
    let length = mutated.len().min(max_size);
    data[..length].copy_from_slice(&mutated[..length]);
    length
}

/// The target of one kind of resource.
#[macro_export]
macro_rules! resource_target {
    ($kind:ident) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::resource::check(
            mesh_xds_client::ResourceKind::$kind,
            bytes
        ));

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::resource::mutate(data, size, max_size, seed)
        });
    };
}
