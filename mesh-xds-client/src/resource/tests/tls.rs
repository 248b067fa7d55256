//! TLS towards endpoints.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, TransportSocket, UpstreamHttpProtocolOptions, data_source::Specifier},
        extensions::transport_sockets::{
            raw_buffer::v3::RawBuffer,
            tls::v3::{
                CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SdsSecretConfig,
                SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            },
        },
    },
    google::protobuf::{BoolValue, UInt32Value},
};
use mesh_core::config::{SanKind, Sni, Trust, UpstreamTls};

use super::{
    samples::{HTTP_OPTIONS, any, exact, http_options, socket_of, tls_context, unknown},
    *,
};

const SOCKET: &str = "transport_socket.typed_config";

fn attempt(message: &UpstreamTlsContext) -> Result<Decoded<Cluster>, ResourceError> {
    let cluster = cluster_pb::Cluster { transport_socket: socket_of(any(message)), ..samples::cluster() };
    decode_cluster(&cluster.encode_to_vec(), &samples::context())
}

fn tls_of(cluster: &Cluster) -> UpstreamTls {
    cluster.policy.tls.as_deref().expect("TLS").clone()
}

fn tls(message: &UpstreamTlsContext) -> UpstreamTls {
    tls_of(&attempt(message).expect("good TLS").value)
}

#[track_caller]
fn assert_tls_refused(cases: &[Case<UpstreamTlsContext>]) {
    for (path, spoil) in cases {
        let mut message = tls_context();
        spoil(&mut message);
        let bad = attempt(&message).expect_err(path);
        assert_eq!(bad.blamed(), format!("{SOCKET}.{path}"), "{}", bad);
    }
}

fn common(message: &mut UpstreamTlsContext) -> &mut CommonTlsContext {
    message.common_tls_context.as_mut().expect("the sample has a context")
}

fn combined(message: &mut UpstreamTlsContext) -> &mut CombinedCertificateValidationContext {
    match &mut common(message).validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => combined,
        _ => panic!("the sample has a combined context"),
    }
}

fn default_context(message: &mut UpstreamTlsContext) -> &mut CertificateValidationContext {
    combined(message).default_validation_context.as_mut().expect("the sample has a default")
}

fn instance(name: &str) -> Option<CertificateProviderPluginInstance> {
    Some(CertificateProviderPluginInstance { instance_name: name.to_owned(), ..Default::default() })
}

fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), ..Default::default() }
}

fn validated_by(context: CertificateValidationContext) -> UpstreamTlsContext {
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(context)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..Default::default() })
}

#[test]
fn deprecated_provider_instances_are_honoured() {
    let tls = tls(&tls_context());
    assert_eq!(*tls.trust(), Trust::Identity("default".into()));
    assert_eq!(tls.identity().map(|name| &**name), Some("default"));
    assert_eq!(*tls.sni(), Sni::Name("outbound_.80_._.cart.shop.svc.cluster.local".into()));
    assert!(tls.sans()[0].matches_uri("spiffe://cluster.local/ns/shop/sa/cart"));
}

#[test]
fn current_provider_instances_are_honoured_and_win_over_deprecated_ones() {
    let mut message = tls_context();
    common(&mut message).tls_certificate_provider_instance = instance("default");
    default_context(&mut message).ca_certificate_provider_instance = instance("default");
    assert_eq!(tls(&message), tls(&tls_context()));
    common(&mut message).tls_certificate_provider_instance = instance("other");
    let bad = attempt(&message).expect_err("the current field counts");
    assert!(bad.blamed().ends_with("tls_certificate_provider_instance.instance_name"));
}

#[test]
#[expect(deprecated, reason = "the fields that Istio sends")]
fn tls_is_refused_for_each_field_that_breaks_a_rule() {
    assert_tls_refused(&[
        ("sni", |m| m.sni = "x".repeat(256)),
        ("common_tls_context", |m| m.common_tls_context = None),
        ("common_tls_context.tls_certificate_certificate_provider_instance.instance_name", |m| {
            common(m).tls_certificate_certificate_provider_instance = Some(Default::default());
        }),
        ("common_tls_context.tls_certificates", |m| {
            common(m).tls_certificate_certificate_provider_instance = None;
            common(m).tls_certificates = vec![Default::default()];
        }),
        ("common_tls_context.tls_certificate_sds_secret_configs", |m| {
            common(m).tls_certificate_certificate_provider_instance = None;
            common(m).tls_certificate_sds_secret_configs = vec![secret("default"), secret("default")];
        }),
        ("common_tls_context.tls_certificate_sds_secret_configs[0].name", |m| {
            common(m).tls_certificate_certificate_provider_instance = None;
            common(m).tls_certificate_sds_secret_configs = vec![secret("kubernetes://other")];
        }),
        ("common_tls_context.validation_context", |m| common(m).validation_context_type = None),
        ("common_tls_context.validation_context_sds_secret_config.name", |m| {
            common(m).validation_context_type =
                Some(ValidationContextType::ValidationContextSdsSecretConfig(secret("kubernetes://other")));
        }),
        ("common_tls_context.custom_handshaker", |m| common(m).custom_handshaker = Some(Default::default())),
        ("common_tls_context.tls_params.cipher_suites", |m| {
            let cipher_suites = vec!["AES".to_owned()];
            common(m).tls_params = Some(TlsParameters { cipher_suites, ..Default::default() });
        }),
        ("common_tls_context.tls_params.tls_minimum_protocol_version", |m| {
            common(m).tls_params = Some(TlsParameters { tls_minimum_protocol_version: 4, ..Default::default() });
        }),
        ("common_tls_context.tls_params.tls_maximum_protocol_version", |m| {
            common(m).tls_params = Some(TlsParameters { tls_maximum_protocol_version: 3, ..Default::default() });
        }),
        ("common_tls_context.combined_validation_context.default_validation_context", |m| {
            combined(m).validation_context_certificate_provider_instance = None;
        }),
        (
            "common_tls_context.combined_validation_context.validation_context_certificate_provider_instance\
             .instance_name",
            |m| {
                let provider = combined(m).validation_context_certificate_provider_instance.as_mut();
                provider.expect("set").instance_name = "other".to_owned();
            },
        ),
        (
            "common_tls_context.combined_validation_context.default_validation_context\
             .ca_certificate_provider_instance.instance_name",
            |m| default_context(m).ca_certificate_provider_instance = instance("other"),
        ),
    ]);
}

#[test]
fn checks_of_certificates_that_are_not_known_are_refused() {
    let cases: [Case<CertificateValidationContext>; 8] = [
        ("verify_certificate_spki", |c| c.verify_certificate_spki = vec!["x".to_owned()]),
        ("verify_certificate_hash", |c| c.verify_certificate_hash = vec!["x".to_owned()]),
        ("require_signed_certificate_timestamp", |c| {
            c.require_signed_certificate_timestamp = Some(BoolValue { value: true });
        }),
        ("crl", |c| c.crl = inline("x")),
        ("max_verify_depth", |c| c.max_verify_depth = Some(UInt32Value { value: 1 })),
        ("custom_validator_config", |c| c.custom_validator_config = Some(Default::default())),
        ("match_typed_subject_alt_names[0].san_type", |c| {
            c.match_typed_subject_alt_names = vec![SubjectAltNameMatcher { san_type: 5, ..Default::default() }];
        }),
        ("match_typed_subject_alt_names[0].matcher", |c| {
            c.match_typed_subject_alt_names = vec![SubjectAltNameMatcher { san_type: 2, ..Default::default() }];
        }),
    ];
    for (path, spoil) in cases {
        let mut message = tls_context();
        spoil(default_context(&mut message));
        let bad = attempt(&message).expect_err(path);
        let at = "common_tls_context.combined_validation_context.default_validation_context";
        assert_eq!(bad.blamed(), format!("{SOCKET}.{at}.{path}"));
    }
}

#[test]
fn transport_without_tls_is_plain_and_an_unknown_one_refused() {
    let with = |transport_socket| cluster_pb::Cluster { transport_socket, ..samples::cluster() };
    for plain in [None, socket_of(any(&RawBuffer::default()))] {
        let cluster = decode_cluster(&with(plain).encode_to_vec(), &Context::new()).expect("plain");
        assert_eq!(cluster.value.policy.tls, None);
    }
    let refused = |socket| {
        let bad = decode_cluster(&with(socket).encode_to_vec(), &samples::context()).expect_err("not TLS");
        bad.blamed().to_owned()
    };
    assert_eq!(refused(socket_of(unknown())), format!("{SOCKET}.type_url"));
    assert_eq!(refused(Some(TransportSocket::default())), SOCKET);
}

#[test]
fn secrets_of_a_sidecar_become_identities() {
    let common = CommonTlsContext {
        // As Istio sends it: nothing that TLS 1.2 and 1.3 would not do anyway.
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: 3,
            tls_maximum_protocol_version: 4,
            ..Default::default()
        }),
        alpn_protocols: ["istio-peer-exchange", "istio", "h2"].map(str::to_owned).to_vec(),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(CertificateValidationContext {
                    match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
                        san_type: 3,
                        matcher: Some(exact("spiffe://a/b")),
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                validation_context_sds_secret_config: Some(secret("ROOTCA")),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let tls = tls(&UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() });
    assert_eq!(*tls.trust(), Trust::Identity("default".into()));
    assert_eq!(tls.identity().map(|name| &**name), Some("default"));
    assert_eq!(tls.sans()[0].kind, Some(SanKind::Uri));
    assert_eq!(tls.alpn().iter().map(|name| &**name).collect::<Vec<_>>(), ["istio", "h2"]);
}

#[test]
fn roots_are_the_systems_or_sent_inline_as_pem() {
    let system = CertificateValidationContext { system_root_certs: Some(Default::default()), ..Default::default() };
    assert_eq!(*tls(&validated_by(system)).trust(), Trust::System);

    let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
    let roots = |trusted_ca| validated_by(CertificateValidationContext { trusted_ca, ..Default::default() });
    let Trust::Roots(found) = tls(&roots(inline(&pem.repeat(2)))).trust().clone() else { panic!("roots") };
    assert_eq!(found.iter().map(|root| &**root).collect::<Vec<&[u8]>>(), [[1_u8, 2, 3], [1, 2, 3]]);

    let from_file = DataSource { specifier: Some(Specifier::Filename("/ca.pem".to_owned())), ..Default::default() };
    for bad in [inline(""), inline("garbage"), Some(from_file), Some(DataSource::default())] {
        let error = attempt(&roots(bad)).expect_err("no certificates");
        assert_eq!(error.blamed(), format!("{SOCKET}.common_tls_context.validation_context.trusted_ca"));
    }
}

#[test]
#[expect(deprecated, reason = "the field that Istio sends")]
fn mesh_roots_without_names_accept_everyone_with_a_warning_and_public_roots_do_not() {
    let mut message = tls_context();
    default_context(&mut message).match_subject_alt_names.clear();
    let Decoded { value, warnings } = attempt(&message).expect("good");
    assert!(tls_of(&value).sans()[0].matches_dns("anyone"));
    assert_eq!(fields(&warnings), [format!("{SOCKET}.common_tls_context")]);

    let system = CertificateValidationContext { system_root_certs: Some(Default::default()), ..Default::default() };
    let public = tls(&validated_by(system));
    assert!(public.sans().is_empty(), "the name that was sent is asked for");
    assert_eq!(*public.sni(), Sni::Authority);
}

/// As Istio's DestinationRule has it that trusts these roots and names no one.
fn validated_by_secret(name: &str) -> UpstreamTlsContext {
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext::default()),
        validation_context_sds_secret_config: Some(secret(name)),
        ..Default::default()
    };
    UpstreamTlsContext {
        sni: "api.example.com".to_owned(),
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn attempt_with(message: &UpstreamTlsContext, context: &Context) -> Result<Decoded<Cluster>, ResourceError> {
    let cluster = cluster_pb::Cluster { transport_socket: socket_of(any(message)), ..samples::cluster() };
    decode_cluster(&cluster.encode_to_vec(), context)
}

#[test]
fn roots_of_the_system_go_by_the_secret_that_istio_names_for_them() {
    let message = validated_by_secret("file-root:system");
    let found = tls(&message);
    assert_eq!((found.trust(), found.sans()), (&Trust::System, &[][..]), "the name that was sent is asked for");

    let own = samples::context().with_secret("file-root:system", "ours");
    let found = tls_of(&attempt_with(&message, &own).expect("the process has them otherwise").value);
    assert_eq!((found.trust(), found.sans()), (&Trust::Identity("ours".into()), &[][..]));
}

#[test]
fn roots_in_a_file_that_istio_names_vouch_for_others_than_the_mesh() {
    let context = samples::context().with_secret("file-root:/etc/ca.pem", "public").with_secret("mesh", "mesh");
    let Decoded { value, warnings } =
        attempt_with(&validated_by_secret("file-root:/etc/ca.pem"), &context).expect("the secret is mapped");
    assert_eq!(*tls_of(&value).trust(), Trust::Identity("public".into()));
    assert!(tls_of(&value).sans().is_empty() && warnings.is_empty(), "the name that was sent is asked for");

    let Decoded { value, .. } = attempt_with(&validated_by_secret("mesh"), &context).expect("the secret is mapped");
    assert!(tls_of(&value).sans()[0].matches_dns("anyone"));
}

#[test]
fn name_to_send_is_that_of_the_authority_of_the_endpoint_or_given_in_this_order() {
    let of_endpoint = |otherwise: Option<&str>| Sni::EndpointHostname { otherwise: otherwise.map(Into::into) };
    for (name, by_host, by_authority, expected) in [
        ("", false, false, Sni::Off),
        ("db.example", false, false, Sni::Name("db.example".into())),
        ("", true, false, of_endpoint(None)),
        ("db.example", true, false, of_endpoint(Some("db.example"))),
        ("db.example", true, true, Sni::Authority),
        ("db.example", false, true, Sni::Authority),
    ] {
        let message = UpstreamTlsContext { sni: name.to_owned(), auto_host_sni: by_host, ..tls_context() };
        let mut options = http_options();
        options.upstream_http_protocol_options =
            Some(UpstreamHttpProtocolOptions { auto_sni: by_authority, ..Default::default() });
        let cluster = cluster_pb::Cluster {
            transport_socket: socket_of(any(&message)),
            typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&options))].into(),
            ..samples::cluster()
        };
        let cluster = decode_cluster(&cluster.encode_to_vec(), &samples::context()).expect("good").value;
        assert_eq!(*tls_of(&cluster).sni(), expected, "`{name}`, {by_host}, {by_authority}");
    }
}

#[test]
fn name_that_was_sent_is_asked_for_where_the_cluster_says_so() {
    let mut options = http_options();
    options.upstream_http_protocol_options =
        Some(UpstreamHttpProtocolOptions { auto_sni: true, auto_san_validation: true, ..Default::default() });
    let cluster = cluster_pb::Cluster {
        transport_socket: socket_of(any(&tls_context())),
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&options))].into(),
        ..samples::cluster()
    };
    let cluster = decode_cluster(&cluster.encode_to_vec(), &samples::context()).expect("good").value;
    assert!(tls_of(&cluster).sans().is_empty(), "auto_san_validation replaces the list");
}

#[test]
fn secrets_that_would_have_to_be_fetched_are_refused_by_name() {
    for (name, remedy) in [
        ("kubernetes://shop-credential", "not fetched"),
        ("file-cert:/etc/cert.pem~/etc/key.pem", "by `XdsClientBuilder::secret`"),
        ("unheard-of", "has an identity for"),
    ] {
        let mut message = tls_context();
        let common = common(&mut message);
        *common = CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret(name)],
            validation_context_type: common.validation_context_type.take(),
            ..Default::default()
        };
        let bad = attempt(&message).expect_err(name);
        assert_eq!(bad.blamed(), format!("{SOCKET}.common_tls_context.tls_certificate_sds_secret_configs[0].name"));
        assert!(bad.message.contains(remedy), "{bad}");
    }
}

#[test]
fn identities_that_the_process_lacks_are_refused() {
    let cluster = samples::cluster();
    let bad = decode_cluster(&cluster.encode_to_vec(), &Context::new()).expect_err("no identity");
    assert_eq!(bad.name.as_deref(), Some("cluster"));
    assert!(bad.message.contains("`default`"), "{bad}");
}
