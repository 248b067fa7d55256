//! Who a workload is, from code and from its environment.

use std::{error::Error as _, fs, net::IpAddr, path::Path};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::{
    Dialect,
    bootstrap::{Bootstrap, CallCredentials, CertificateProvider, ChannelCredentials, ServerFeature},
};

const POD: [(&str, &str); 4] =
    [("POD_NAME", "web-1"), ("POD_NAMESPACE", "shop"), ("INSTANCE_IP", "10.0.0.7"), ("SERVICE_ACCOUNT", "web")];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An empty file system.
fn nothing() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn put(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
    fs::write(path, text).expect("writable");
}

fn read(root: &TempDir, variables: &[(&str, &str)]) -> Result<Workload, WorkloadError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Workload::from_environment(variables, root)
}

fn pod(root: &TempDir, more: &[(&str, &str)]) -> Workload {
    read(root, &[&POD[..], more].concat()).expect("it is described")
}

fn metadata(workload: &Workload) -> Json {
    workload.node().expect("legal").metadata.into()
}

fn credentials(bootstrap: &Bootstrap) -> ChannelCredentials {
    bootstrap.servers()[0].credentials().clone()
}

#[test]
fn node_has_istios_four_parts_and_all_that_code_says() {
    let workload = Workload::new("web-1", "shop", ip("10.0.0.7"))
        .ip(ip("fd00::7"))
        .service_account("web")
        .cluster_id("east")
        .label("app", "web")
        .annotation("note", "x")
        .workload_name("web")
        .owner("kubernetes://apis/apps/v1/namespaces/shop/deployments/web")
        .network("net-1")
        .mesh_id("mesh-1")
        .istio_version("1.31.0")
        .node_name("machine-1")
        .metadata("OTHER", 7);
    let node = workload.node().expect("legal");
    assert_eq!(node.id, "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local");
    assert_eq!(node.cluster, "web.shop");
    let expected = json!({
        "NAME": "web-1",
        "NAMESPACE": "shop",
        "CLUSTER_ID": "east",
        "INSTANCE_IPS": "10.0.0.7,fd00::7",
        "SERVICE_ACCOUNT": "web",
        "LABELS": { "app": "web" },
        "ANNOTATIONS": { "note": "x" },
        "WORKLOAD_NAME": "web",
        "OWNER": "kubernetes://apis/apps/v1/namespaces/shop/deployments/web",
        "NETWORK": "net-1",
        "MESH_ID": "mesh-1",
        "ISTIO_VERSION": "1.31.0",
        "NODE_NAME": "machine-1",
        "PROXY_CONFIG": {},
        "INTERCEPTION_MODE": "REDIRECT",
        "OTHER": 7,
    });
    assert_eq!(metadata(&workload), expected);
    let elsewhere = workload.dns_domain("mesh.example").node().expect("legal");
    assert_eq!(elsewhere.id, "sidecar~10.0.0.7~web-1.shop~shop.svc.mesh.example");
}

#[test]
fn names_that_would_break_the_id_are_refused() {
    for (field, workload) in [
        ("name", Workload::new("", "shop", ip("10.0.0.7"))),
        ("name", Workload::new("a~b", "shop", ip("10.0.0.7"))),
        ("namespace", Workload::new("web", "", ip("10.0.0.7"))),
        ("dns_domain", Workload::new("web", "shop", ip("10.0.0.7")).dns_domain("")),
    ] {
        assert_eq!(workload.node().expect_err(field).field(), field);
    }
}

#[test]
fn sidecars_are_spoken_to_in_delta_and_grpcs_clients_in_state_of_the_world() {
    let workload = Workload::new("web-1", "shop", ip("10.0.0.7"));
    let sidecar = workload.bootstrap().expect("legal");
    assert!(sidecar.servers()[0].has_feature(ServerFeature::Delta));
    assert!(!sidecar.node().metadata.contains_key("GENERATOR"));
    let grpc = workload.dialect(Dialect::Grpc).bootstrap().expect("legal");
    assert!(!grpc.servers()[0].has_feature(ServerFeature::Delta));
    assert_eq!(grpc.node().metadata["GENERATOR"], "grpc");
    assert_eq!(grpc.server_listener_name("10.0.0.7:80").as_deref(), Some("xds.istio.io/grpc/lds/inbound/10.0.0.7:80"));
}

#[test]
fn pod_is_described_by_its_variables_and_files() {
    let root = nothing();
    put(&root, "/etc/istio/pod/labels", "app=\"web\"\nistio-locality=\"eu.a.1\"\n");
    put(&root, "/etc/istio/pod/annotations", "kubernetes.io/config.seen=\"2026-01-01\"\nquoted=\"a \\\"b\\\"\"\n");
    let workload = pod(
        &root,
        &[
            ("ISTIO_META_WORKLOAD_NAME", "web"),
            ("ISTIO_META_CLUSTER_ID", "east"),
            ("ISTIO_METAJSON_MORE", r#"{"APP_CONTAINERS": "web,log", "COUNT": 2}"#),
            ("TRUST_DOMAIN", "shop.example"),
            ("CANONICAL_SERVICE", "web-canonical"),
            ("PROXY_CONFIG", r#"{"discoveryAddress": "istiod.mesh.svc:15012", "concurrency": 2}"#),
        ],
    );
    let said = metadata(&workload);
    for (key, value) in [
        ("NAME", json!("web-1")),
        ("NAMESPACE", json!("shop")),
        ("INSTANCE_IPS", json!("10.0.0.7")),
        ("SERVICE_ACCOUNT", json!("web")),
        ("WORKLOAD_NAME", json!("web")),
        ("CLUSTER_ID", json!("east")),
        ("APP_CONTAINERS", json!("web,log")),
        ("COUNT", json!(2)),
        ("TRUST_DOMAIN", json!("shop.example")),
        ("PROXY_CONFIG", json!({ "discoveryAddress": "istiod.mesh.svc:15012", "concurrency": 2 })),
        (
            "LABELS",
            json!({ "app": "web", "istio-locality": "eu.a.1", "service.istio.io/canonical-name": "web-canonical" }),
        ),
        ("ANNOTATIONS", json!({ "kubernetes.io/config.seen": "2026-01-01", "quoted": "a \"b\"" })),
    ] {
        assert_eq!(said[key], value, "{key}");
    }
    let bootstrap = workload.bootstrap().expect("legal");
    assert_eq!(bootstrap.node().locality.as_ref().map(ToString::to_string).as_deref(), Some("eu/a/1"));
    assert!(bootstrap.servers()[0].uri().to_string().contains("istiod.mesh.svc:15012"));
    let ChannelCredentials::Tls(files) = credentials(&bootstrap) else { panic!("TLS") };
    assert_eq!(files.ca, Some(root.path().join("var/run/secrets/istio/root-cert.pem")));
    let token = root.path().join("var/run/secrets/tokens/istio-token");
    assert_eq!(bootstrap.servers()[0].call_credentials(), [CallCredentials::JwtTokenFile(token)]);
    assert_eq!(bootstrap.servers()[0].tls_name(), None);
}

#[test]
fn istiod_that_is_reached_by_another_name_is_known_by_its_own() {
    let named = pod(&nothing(), &[("CA_ADDR", "127.0.0.1:15012"), ("ISTIOD_SAN", "istiod.istio-system.svc")]);
    let server = named.bootstrap().expect("legal").servers()[0].clone();
    assert_eq!(server.tls_name(), Some("istiod.istio-system.svc"));
    assert!(server.uri().to_string().contains("127.0.0.1:15012"));
    let plain = named.plaintext().bootstrap().expect("legal").servers()[0].clone();
    assert_eq!((plain.tls_name(), plain.call_credentials()), (None, &[][..]), "TLS only");
}

#[test]
fn address_of_istiod_says_whether_it_is_for_plaintext() {
    let root = nothing();
    let foreign = pod(&root, &[("CA_ADDR", "ca.example:443")]).bootstrap().expect("legal");
    assert!(foreign.servers()[0].uri().to_string().contains("istiod.istio-system.svc:15012"), "{foreign:?}");
    let plain = pod(&root, &[("CA_ADDR", "istiod:15010")]).bootstrap().expect("legal");
    assert_eq!(credentials(&plain), ChannelCredentials::Insecure);
    let secure = pod(&root, &[("CA_ADDR", "istiod:15012"), ("XDS_ROOT_CA", "/own/root.pem")]).bootstrap();
    let ChannelCredentials::Tls(files) = credentials(&secure.expect("legal")) else { panic!("TLS") };
    assert_eq!(files.ca.as_deref(), Some(Path::new("/own/root.pem")));
    let default = pod(&root, &[]).bootstrap().expect("legal");
    assert!(default.servers()[0].uri().to_string().contains("istiod.istio-system.svc:15012"));
}

#[test]
fn certificates_of_a_directory_are_the_identity_of_the_workload() {
    let workload = pod(&nothing(), &[("OUTPUT_CERTS", "/certs")]);
    let bootstrap = workload.bootstrap().expect("legal");
    let Some(CertificateProvider::FileWatcher(files)) = bootstrap.certificate_provider("default") else {
        panic!("a file watcher")
    };
    assert_eq!(files.ca.as_deref(), Some(Path::new("/certs/root-cert.pem")));
    let identity = files.identity.clone().expect("a certificate and its key");
    assert_eq!(identity.certificate, Path::new("/certs/cert-chain.pem"));
    let ChannelCredentials::Tls(to_istiod) = credentials(&bootstrap) else { panic!("TLS") };
    assert_eq!(to_istiod.identity, None, "istiod is shown it where that is asked for");
    let shown = workload.authenticate_by_certificate().bootstrap().expect("legal");
    let ChannelCredentials::Tls(to_istiod) = credentials(&shown) else { panic!("TLS") };
    assert_eq!(to_istiod.identity, Some(identity));
    assert_eq!(shown.servers()[0].call_credentials(), [], "in place of a token");
    let none = pod(&nothing(), &[]).authenticate_by_certificate().bootstrap();
    assert_eq!(none.expect_err("there are none").field(), "certificates");
}

#[test]
fn what_is_missing_is_named_with_a_remedy() {
    let root = nothing();
    for (left_out, field) in [(0, "POD_NAME"), (1, "POD_NAMESPACE"), (2, "INSTANCE_IP")] {
        let mut variables = POD.to_vec();
        variables.remove(left_out);
        let error = read(&root, &variables).expect_err(field);
        let WorkloadError::Invalid(cause) = &error else { panic!("{error}") };
        assert_eq!((cause.field(), cause.value()), (field, "unset"));
        assert!(cause.remedy().contains("downward API"), "{}", cause.remedy());
        assert!(error.source().is_some());
    }
    put(&root, "/var/run/secrets/kubernetes.io/serviceaccount/namespace", "bank\n");
    let variables = [POD[0], POD[2]];
    assert_eq!(metadata(&read(&root, &variables).expect("the file has it"))["NAMESPACE"], "bank");
}

#[test]
fn what_cannot_be_read_is_refused_by_its_place() {
    for (variables, field) in [
        (("INSTANCE_IPS", "10.0.0.7,nowhere"), "INSTANCE_IPS"),
        (("PROXY_CONFIG", "discoveryAddress: istiod:15012"), "PROXY_CONFIG"),
        (("PROXY_CONFIG", r#"{"discoveryAddress": 7}"#), "PROXY_CONFIG.discoveryAddress"),
        (("ISTIO_METAJSON_X", "[]"), "ISTIO_METAJSON_X"),
    ] {
        let error = read(&nothing(), &[&POD[..], &[variables]].concat()).expect_err(field);
        assert!(matches!(&error, WorkloadError::Invalid(cause) if cause.field() == field), "{error:?}");
    }
    let root = nothing();
    put(&root, "/etc/istio/pod/labels", "app=\"web\"\nbroken\n");
    let error = read(&root, &POD).expect_err("a line that is none");
    assert!(matches!(&error, WorkloadError::Invalid(cause) if cause.field() == "/etc/istio/pod/labels:2"), "{error:?}");
    let root = nothing();
    put(&root, "/etc/istio/pod/labels/folder", "");
    assert!(matches!(read(&root, &POD), Err(WorkloadError::Read { .. })));
}
