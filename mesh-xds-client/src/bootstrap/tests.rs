//! What a bootstrap says, from JSON, from code and from the environment, and what is refused of it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::load::{FILE_VARIABLE, INLINE_VARIABLE};
use super::*;
use crate::session::Variant;

/// What Istio's agent writes for proxyless gRPC, in the parts that matter here.
const ISTIO: &str = r#"{
  "xds_servers": [{
    "server_uri": "unix:///etc/istio/proxy/XDS",
    "channel_creds": [{"type": "insecure"}],
    "server_features": ["xds_v3", "a_feature_of_tomorrow"]
  }],
  "node": {
    "id": "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local",
    "metadata": {"GENERATOR": "grpc", "LABELS": {"app": "web"}},
    "locality": {"region": "eu", "zone": "eu-1"},
    "UserAgentVersionType": null
  },
  "certificate_providers": {
    "default": {"plugin_name": "file_watcher", "config": {
      "certificate_file": "/var/lib/istio/data/cert-chain.pem",
      "private_key_file": "/var/lib/istio/data/key.pem",
      "ca_certificate_file": "/var/lib/istio/data/root-cert.pem",
      "refresh_interval": "900s"
    }},
    "cas": {"plugin_name": "google_cas", "config": {"anything": 1}}
  },
  "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
  "unknown": [1, 2]
}"#;

fn json(server: &str) -> String {
    format!(r#"{{"xds_servers": [{server}]}}"#)
}

fn refused(document: &str) -> ConfigError {
    match Bootstrap::from_json(document) {
        Err(BootstrapError::Invalid(error)) => error,
        other => panic!("{document} gave {other:?}"),
    }
}

#[test]
fn istio_bootstrap_is_read_whole() {
    let bootstrap = Bootstrap::from_json(ISTIO).expect("valid");
    let [server] = bootstrap.servers() else { panic!("one server") };
    assert_eq!(server.uri(), &ServerUri::Unix(PathBuf::from("/etc/istio/proxy/XDS")));
    assert_eq!(server.credentials(), &ChannelCredentials::Insecure);
    assert!(server.has_feature(ServerFeature::XdsV3));
    assert!(!server.has_feature(ServerFeature::IgnoreResourceDeletion));

    let node = bootstrap.node();
    assert_eq!(node.id, "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local");
    assert_eq!(node.metadata["LABELS"]["app"], "web");
    let locality = node.locality.as_ref().expect("given");
    assert_eq!((&*locality.region, &*locality.zone, &*locality.sub_zone), ("eu", "eu-1", ""));

    let Some(CertificateProvider::FileWatcher(files)) = bootstrap.certificate_provider("default") else {
        panic!("a file watcher")
    };
    assert_eq!(files.refresh_interval, Duration::from_secs(900));
    assert_eq!(files.ca.as_deref(), Some(Path::new("/var/lib/istio/data/root-cert.pem")));
    let identity = files.identity.as_ref().expect("given");
    assert_eq!(identity.private_key, Path::new("/var/lib/istio/data/key.pem"));
    let unknown = CertificateProvider::Unknown { plugin: "google_cas".to_owned() };
    assert_eq!(bootstrap.certificate_provider("cas"), Some(&unknown));

    let listener = bootstrap.server_listener_name("10.0.0.7:80");
    assert_eq!(listener.as_deref(), Some("xds.istio.io/grpc/lds/inbound/10.0.0.7:80"));
    assert_eq!(bootstrap.client_listener_name("reviews:9080"), "reviews:9080");
}

#[test]
fn first_supported_credentials_win_and_those_before_need_no_sense() {
    let server = r#"{"server_uri": "p:1", "channel_creds": [
        {"type": "google_default", "config": 7},
        {"type": "tls", "config": {"ca_certificate_file": "ca.pem"}},
        {"type": "insecure"}]}"#;
    let bootstrap = Bootstrap::from_json(json(server)).expect("valid");
    let files = CertificateFiles { ca: Some(PathBuf::from("ca.pem")), ..CertificateFiles::default() };
    assert_eq!(bootstrap.servers()[0].credentials(), &ChannelCredentials::Tls(files));
}

#[test]
fn tls_without_config_trusts_the_system_and_presents_nothing() {
    let bootstrap = Bootstrap::from_json(json(r#"{"server_uri": "p:1", "channel_creds": [{"type": "tls"}]}"#));
    let files = CertificateFiles { ca: None, identity: None, refresh_interval: Duration::from_secs(600) };
    assert_eq!(bootstrap.expect("valid").servers()[0].credentials(), &ChannelCredentials::Tls(files));
}

#[test]
fn a_mistake_is_named_by_path_value_and_remedy() {
    for (document, field, value, remedy) in [
        ("[]".to_owned(), "$", "[]", "object"),
        ("{}".to_owned(), "xds_servers", "[]", "at least one"),
        (r#"{"xds_servers": {}}"#.to_owned(), "xds_servers", "{}", "array"),
        (json("7"), "xds_servers[0]", "7", "object"),
        (json("{}"), "xds_servers[0].server_uri", "unset", "address"),
        (json(r#"{"server_uri": 5}"#), "xds_servers[0].server_uri", "5", "string"),
        (json(r#"{"server_uri": "p:1"}"#), "xds_servers[0].channel_creds", "none", "`insecure` or `tls`"),
        (
            json(r#"{"server_uri": "p:1", "channel_creds": [{"type": "google_default"}, {"type": "alts"}]}"#),
            "xds_servers[0].channel_creds",
            "google_default, alts",
            "`insecure` or `tls`",
        ),
        (
            json(r#"{"server_uri": "p", "channel_creds": [{"type": "insecure"}]}"#),
            "xds_servers[0].server_uri",
            "p",
            "host:port",
        ),
        (
            json(r#"{"server_uri": "https://p:1", "channel_creds": [{"type": "insecure"}]}"#),
            "xds_servers[0].server_uri",
            "https://p:1",
            "use `tls`",
        ),
        (
            json(r#"{"server_uri": "http://p:1", "channel_creds": [{"type": "tls"}]}"#),
            "xds_servers[0].server_uri",
            "http://p:1",
            "use `insecure`",
        ),
        (
            json(r#"{"server_uri": "p:1", "channel_creds": [{"type": "tls", "config": {"certificate_file": "c"}}]}"#),
            "xds_servers[0].channel_creds[0].config.private_key_file",
            "unset",
            "key",
        ),
        (
            json(r#"{"server_uri": "p:1", "channel_creds": [{"type": "tls", "config": {"refresh_interval": "1m"}}]}"#),
            "xds_servers[0].channel_creds[0].config.refresh_interval",
            "1m",
            "600s",
        ),
        (
            json(r#"{"server_uri": "p:1", "channel_creds": [{"type": "insecure"}], "server_features": [1]}"#),
            "xds_servers[0].server_features[0]",
            "1",
            "string",
        ),
    ] {
        let error = refused(&document);
        assert_eq!((error.field(), error.value()), (field, value), "{document}");
        assert!(error.remedy().contains(remedy), "{error}");
    }
}

#[test]
fn every_server_is_checked_though_the_first_would_do() {
    let good = r#"{"server_uri": "p:1", "channel_creds": [{"type": "insecure"}]}"#;
    let error = refused(&json(&format!(r#"{good}, {{"server_uri": "p", "channel_creds": [{{"type": "tls"}}]}}"#)));
    assert_eq!(error.field(), "xds_servers[1].server_uri");
}

#[test]
fn a_mistake_outside_the_servers_is_named_too() {
    let server = r#""xds_servers": [{"server_uri": "p:1", "channel_creds": [{"type": "insecure"}]}]"#;
    for (rest, field) in [
        (r#""node": {"id": 1}"#, "node.id"),
        (r#""node": {"locality": {"zone": []}}"#, "node.locality.zone"),
        (r#""node": {"metadata": "x"}"#, "node.metadata"),
        (r#""certificate_providers": {"a": {}}"#, "certificate_providers.a.plugin_name"),
        (
            r#""certificate_providers": {"a": {"plugin_name": "file_watcher"}}"#,
            "certificate_providers.a.config.ca_certificate_file",
        ),
        (
            r#""certificate_providers": {"a": {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "c", "refresh_interval": "0s"}}}"#,
            "certificate_providers.a.config.refresh_interval",
        ),
        (
            r#""certificate_providers": {"a": {"plugin_name": "file_watcher", "config": {"spiffe_trust_bundle_map_file": "m"}}}"#,
            "certificate_providers.a.config.spiffe_trust_bundle_map_file",
        ),
        (r#""client_default_listener_resource_name_template": 1"#, "client_default_listener_resource_name_template"),
    ] {
        assert_eq!(refused(&format!("{{{server}, {rest}}}")).field(), field);
    }
}

#[test]
fn code_and_json_make_the_same_bootstrap() {
    let server = r#"{"server_uri": "plane:18000", "channel_creds": [{"type": "insecure"}], "server_features": ["trusted_xds_server"]}"#;
    let json = format!(r#"{{"xds_servers": [{server}], "node": {{"id": "n", "metadata": {{"k": "v"}}}}}}"#);
    let code = Bootstrap::builder()
        .server_with_features("plane:18000", ChannelCredentials::Insecure, [ServerFeature::TrustedXdsServer])
        .node(Node::new("n").metadata("k", "v"))
        .build();
    assert_eq!(code.expect("valid"), Bootstrap::from_json(json).expect("valid"));
}

#[test]
fn code_is_refused_as_json_is() {
    let error = Bootstrap::builder().build().expect_err("no server");
    assert_eq!(error.field(), "xds_servers");
    let error = Bootstrap::builder().server("plane", ChannelCredentials::Insecure).build().expect_err("no port");
    assert_eq!(error.field(), "xds_servers[0].server_uri");
    let files = CertificateFiles { refresh_interval: Duration::ZERO, ..CertificateFiles::default() };
    let error =
        Bootstrap::builder().server("plane:1", ChannelCredentials::Tls(files)).build().expect_err("no interval");
    assert_eq!(error.field(), "xds_servers[0].channel_creds.config.refresh_interval");
}

#[test]
fn xdstp_templates_take_the_service_percent_encoded() {
    let template = "xdstp://plane/envoy.config.listener.v3.Listener/clients/%s";
    let builder =
        Bootstrap::builder().server("plane:1", ChannelCredentials::Insecure).client_listener_template(template);
    let name = builder.build().expect("valid").client_listener_name("a b/c?d%e:80");
    assert_eq!(name, "xdstp://plane/envoy.config.listener.v3.Listener/clients/a%20b/c%3Fd%25e:80");
}

#[test]
fn the_file_variable_wins_and_an_empty_one_counts_as_unset() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bootstrap.json");
    std::fs::write(&path, ISTIO).expect("written");
    let inline = json(r#"{"server_uri": "inline:1", "channel_creds": [{"type": "insecure"}]}"#);
    let from = |file: &str| {
        let variables: HashMap<_, OsString> =
            HashMap::from([(FILE_VARIABLE, file.into()), (INLINE_VARIABLE, inline.clone().into())]);
        let bootstrap = Bootstrap::from_variables(|name| variables.get(name).cloned());
        bootstrap.map(|bootstrap| bootstrap.servers()[0].uri().to_string())
    };
    assert_eq!(from(path.to_str().expect("text")).expect("valid"), "unix:/etc/istio/proxy/XDS");
    assert_eq!(from("").expect("valid"), "inline:1");
    let error = from("/no/such/file").expect_err("a missing file is not passed over");
    assert_eq!(error.to_string(), "the xDS bootstrap /no/such/file cannot be read");
    assert!(error.source().is_some());
}

#[test]
fn no_variable_says_what_to_set() {
    let error = Bootstrap::from_variables(|_| None).expect_err("nothing is set");
    assert!(matches!(error, BootstrapError::NotSet));
    assert!(error.to_string().contains(FILE_VARIABLE) && error.to_string().contains(INLINE_VARIABLE));
}

#[test]
fn text_that_is_not_json_says_where() {
    let error = Bootstrap::from_json("{\n  x").expect_err("no JSON");
    assert!(error.source().expect("the parser's").to_string().contains("line 2"), "{error:?}");
}

#[test]
fn a_server_is_spoken_to_in_delta_where_the_bootstrap_says_so() {
    let server = |feature: &str| {
        let server = format!(
            r#"{{"server_uri": "p:1", "channel_creds": [{{"type": "insecure"}}], "server_features": ["{feature}"]}}"#
        );
        Bootstrap::from_json(format!(r#"{{"xds_servers": [{server}]}}"#)).expect("valid").servers()[0].variant()
    };
    assert_eq!(server("mesh.delta"), Variant::Delta);
    assert_eq!(server("xds_v3"), Variant::StateOfTheWorld);
}

#[test]
fn target_becomes_a_listener_name_by_the_template() {
    let builder = || Bootstrap::builder().server("plane:1", ChannelCredentials::Insecure);
    let plain = builder().build().expect("valid");
    for target in ["echo.shop:7070", "xds:///echo.shop:7070", "xds:echo.shop:7070"] {
        assert_eq!(plain.listener_of(target), Ok("echo.shop:7070".into()), "{target}");
    }
    let template = "xdstp://a/envoy.config.listener.v3.Listener/%s";
    let federated = builder().client_listener_template(template).build().expect("valid");
    let expected = "xdstp://a/envoy.config.listener.v3.Listener/a%20b";
    assert_eq!(federated.listener_of("xds:///a b"), Ok(expected.into()));
}

#[test]
fn target_that_cannot_be_named_says_what_to_write() {
    let plain = Bootstrap::builder().server("plane:1", ChannelCredentials::Insecure).build().expect("valid");
    for target in ["", "xds:", "xds:///", "xds://authority/echo", "xds://authority", "xds://authority/"] {
        let reason = plain.listener_of(target).expect_err(target);
        assert!(reason.contains("xds:///name"), "{reason}");
    }
    let reason = plain.listener_of("xds://authority/echo").expect_err("unknown");
    assert!(reason.contains("authority that the bootstrap does not have (it has none)"), "{reason}");
}

// --- authorities and call credentials ---

/// Two servers, and three authorities: one with all that it can have, one with nothing, one without a name.
const FEDERATED: &str = r#"{
  "xds_servers": [
    {"server_uri": "plane:1", "channel_creds": [{"type": "insecure"}]},
    {"server_uri": "plane:2", "channel_creds": [{"type": "insecure"}], "server_features": ["fail_on_data_errors"]}
  ],
  "client_default_listener_resource_name_template": "xdstp://own.test/envoy.config.listener.v3.Listener/%s?b=1&a=2",
  "authorities": {
    "partner.test": {
      "xds_servers": [{
        "server_uri": "partner:443",
        "channel_creds": [{"type": "tls"}],
        "call_creds": [
          {"type": "of_tomorrow", "config": 7},
          {"type": "jwt_token_file", "config": {"jwt_token_file": "/var/run/secrets/tokens/istio-token"}}
        ],
        "server_features": ["resource_timer_is_transient_error", "ignore_resource_deletion", "xds_v3", "xds_v3"]
      }],
      "client_listener_resource_name_template": "xdstp://partner.test/envoy.config.listener.v3.Listener/clients/%s",
      "fallback_on_reachability_only": true,
      "of_tomorrow": []
    },
    "own.test": {},
    "": {"xds_servers": []}
  }
}"#;

#[test]
fn authorities_are_read_whole_and_lack_nothing() {
    let bootstrap = Bootstrap::from_json(FEDERATED).expect("valid");
    let names: Vec<_> = bootstrap.authorities().map(|(name, _)| name).collect();
    assert_eq!(names, ["", "own.test", "partner.test"]);
    for name in ["own.test", ""] {
        let authority = bootstrap.authority(name).expect("given");
        assert_eq!(authority.servers(), bootstrap.servers(), "those of the bootstrap, where it names none");
        let template = format!("xdstp://{name}/envoy.config.listener.v3.Listener/%s");
        assert_eq!(authority.client_listener_template(), template);
        assert!(!authority.falls_back_on_reachability_only());
    }
    let partner = bootstrap.authority("partner.test").expect("given");
    assert!(partner.falls_back_on_reachability_only());
    let [server] = partner.servers() else { panic!("one server") };
    let token = CallCredentials::JwtTokenFile(PathBuf::from("/var/run/secrets/tokens/istio-token"));
    assert_eq!(server.call_credentials(), [token]);
    assert!(server.has_feature(ServerFeature::ResourceTimerIsTransientError));
    assert!(server.has_feature(ServerFeature::IgnoreResourceDeletion));
    assert!(!server.has_feature(ServerFeature::FailOnDataErrors));
}

#[test]
fn authorities_of_code_and_json_are_the_same() {
    let server = Server::builder("partner:443", ChannelCredentials::Tls(CertificateFiles::default()))
        .call_credentials(CallCredentials::JwtTokenFile("/var/run/secrets/tokens/istio-token".into()))
        .features([ServerFeature::XdsV3, ServerFeature::IgnoreResourceDeletion])
        .feature(ServerFeature::ResourceTimerIsTransientError);
    let partner = Authority::builder()
        .add_server(server)
        .client_listener_template("xdstp://partner.test/envoy.config.listener.v3.Listener/clients/%s")
        .fallback_on_reachability_only(true);
    let code = Bootstrap::builder()
        .server("plane:1", ChannelCredentials::Insecure)
        .server_with_features("plane:2", ChannelCredentials::Insecure, [ServerFeature::FailOnDataErrors])
        .client_listener_template("xdstp://own.test/envoy.config.listener.v3.Listener/%s?b=1&a=2")
        .authority("partner.test", partner)
        .authority("own.test", Authority::builder())
        .authority("", Authority::builder())
        .build();
    assert_eq!(code.expect("valid"), Bootstrap::from_json(FEDERATED).expect("valid"));
}

#[test]
fn name_in_a_certificate_is_for_tls_only() {
    let server = |credentials| {
        let server = Server::builder("127.0.0.1:15012", credentials).tls_name("plane.test");
        Bootstrap::builder().add_server(server).build()
    };
    let tls = server(ChannelCredentials::Tls(CertificateFiles::default())).expect("valid");
    assert_eq!(tls.servers()[0].tls_name(), Some("plane.test"));
    let error = server(ChannelCredentials::Insecure).expect_err("nobody would check it");
    assert_eq!((error.field(), error.value()), ("xds_servers[0].tls_name", "plane.test"));
}

#[test]
fn target_with_an_authority_goes_by_the_template_of_that_authority() {
    let bootstrap = Bootstrap::from_json(FEDERATED).expect("valid");
    let listener = "envoy.config.listener.v3.Listener";
    for (target, expected) in [
        ("echo:80", format!("xdstp://own.test/{listener}/echo:80?a=2&b=1")),
        ("xds:///echo:80", format!("xdstp://own.test/{listener}/echo:80?a=2&b=1")),
        ("xds://own.test/echo:80", format!("xdstp://own.test/{listener}/echo:80")),
        ("xds://partner.test/a b/echo:80", format!("xdstp://partner.test/{listener}/clients/a%20b/echo:80")),
    ] {
        assert_eq!(bootstrap.listener_of(target), Ok(expected.into()), "{target}");
    }
    let reason = bootstrap.listener_of("xds://stranger.test/echo").expect_err("nobody knows it");
    assert!(reason.contains("stranger.test") && reason.contains("own.test, partner.test"), "{reason}");
}

#[test]
fn a_mistake_in_an_authority_or_in_call_credentials_is_named_by_its_path() {
    let server = r#"{"server_uri": "p:1", "channel_creds": [{"type": "tls"}]}"#;
    let of_authority =
        |authority: &str| format!(r#"{{"xds_servers": [{server}], "authorities": {{"a": {authority}}}}}"#);
    let of_server = |credentials: &str, calls: &str| {
        json(&format!(
            r#"{{"server_uri": "p:1", "channel_creds": [{{"type": "{credentials}"}}], "call_creds": {calls}}}"#
        ))
    };
    for (document, field) in [
        (of_authority("7"), "authorities.a"),
        (of_authority(r#"{"xds_servers": [{}]}"#), "authorities.a.xds_servers[0].server_uri"),
        (
            of_authority(r#"{"xds_servers": [{"server_uri": "p", "channel_creds": [{"type": "tls"}]}]}"#),
            "authorities.a.xds_servers[0].server_uri",
        ),
        (
            of_authority(
                r#"{"client_listener_resource_name_template": "xdstp://b/envoy.config.listener.v3.Listener/%s"}"#,
            ),
            "authorities.a.client_listener_resource_name_template",
        ),
        (
            of_authority(r#"{"client_listener_resource_name_template": "%s"}"#),
            "authorities.a.client_listener_resource_name_template",
        ),
        (of_authority(r#"{"fallback_on_reachability_only": "yes"}"#), "authorities.a.fallback_on_reachability_only"),
        (format!(r#"{{"xds_servers": [{server}], "authorities": {{"a/b": {{}}}}}}"#), "authorities.a/b"),
        (of_server("tls", "[7]"), "xds_servers[0].call_creds[0]"),
        (of_server("tls", r#"[{"type": "jwt_token_file"}]"#), "xds_servers[0].call_creds[0].config.jwt_token_file"),
        (
            of_server("tls", r#"[{"type": "jwt_token_file", "config": {"jwt_token_file": 1}}]"#),
            "xds_servers[0].call_creds[0].config.jwt_token_file",
        ),
        (
            of_server("insecure", r#"[{"type": "jwt_token_file", "config": {"jwt_token_file": "f"}}]"#),
            "xds_servers[0].call_creds",
        ),
    ] {
        let error = refused(&document);
        assert_eq!(error.field().trim_end_matches('.'), field, "{document}: {error}");
    }
}

// --- a file that is there, or still to come ---

#[test]
#[cfg(unix)]
fn what_is_no_file_or_too_large_for_a_bootstrap_is_refused_and_holds_nobody_up() {
    use std::io::ErrorKind;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    let directory = tempfile::tempdir().expect("a directory");
    let (fifo, large) = (directory.path().join("fifo"), directory.path().join("large"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
    std::fs::File::create(&large).and_then(|file| file.set_len(1 << 30)).expect("made");
    for (path, kind) in [(fifo, ErrorKind::InvalidInput), (large, ErrorKind::FileTooLarge)] {
        let error = Bootstrap::from_file(&path).expect_err("no bootstrap");
        assert!(matches!(&error, BootstrapError::Read { source, .. } if source.kind() == kind), "{error:?}");
    }
}

const POLL: Duration = Duration::from_millis(100);

async fn wait_for(path: &Path) -> Result<String, BootstrapError> {
    let bootstrap = Bootstrap::wait_for_file(path, POLL, 100 * POLL).await?;
    Ok(bootstrap.servers()[0].uri().to_string())
}

#[tokio::test(start_paused = true)]
async fn file_that_is_not_there_or_not_whole_is_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent").join("bootstrap.json");
    let start = tokio::time::Instant::now();
    let writer = async {
        tokio::time::sleep(5 * POLL).await;
        std::fs::create_dir(path.parent().expect("it has one")).expect("made");
        for part in ["", "{", &ISTIO[..ISTIO.len() / 2]] {
            std::fs::write(&path, part).expect("written");
            tokio::time::sleep(5 * POLL).await;
        }
        std::fs::write(&path, ISTIO).expect("written");
    };
    let (uri, ()) = tokio::join!(wait_for(&path), writer);
    assert_eq!(uri.expect("valid"), "unix:/etc/istio/proxy/XDS");
    assert!((20 * POLL..=21 * POLL).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn file_that_does_not_come_is_given_up_and_one_that_is_wrong_is_told_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bootstrap.json");
    let start = tokio::time::Instant::now();
    assert!(matches!(wait_for(&path).await, Err(BootstrapError::Read { .. })));
    assert!((99 * POLL..=100 * POLL).contains(&start.elapsed()), "{:?}", start.elapsed());
    for (text, is_expected) in [("{]", false), ("{}", true)] {
        std::fs::write(&path, text).expect("written");
        let start = tokio::time::Instant::now();
        let error = wait_for(&path).await.expect_err("no bootstrap");
        assert_eq!(matches!(error, BootstrapError::Invalid(_)), is_expected, "{error:?}");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
