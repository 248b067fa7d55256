//! Tells whether a resource may hold a private key or another secret, so that its bytes are neither shown nor written down.
//!
//! A control plane is meant to name secrets and hand them out over SDS, which this client does not ask for; but nothing
//! keeps one from writing a key into a TLS context, and a field that is not honoured is in the bytes all the same. A
//! resource cannot be stripped of its key and still be what it was, so it is left out whole.
//!
//! What is known to be harmless is shown, and nothing else. An extension can stand wherever an `Any` can, so the bytes are
//! searched for those, at whatever depth and [by whatever URL](extensions), and each has to be one of these:
//!
//! - [`KEYLESS`]: Envoy's schema has no field for a secret in it, and Istio's none either;
//! - one of a few that may hold secrets, which is read: TLS contexts, over QUIC and within STARTTLS too, where a key, a PKCS#12
//!   bundle, a password or a session ticket key that stands there itself counts, and not the name of a file; the keys of JSON
//!   Web Tokens, where those that verify are public and others are not; and configuration without a schema (`TypedStruct`),
//!   which counts for what it calls itself.
//!
//! All else may hold a secret: an `envoy...tls.v3.Secret`, whose purpose it is, and an extension that nobody here has heard of.
//! So may what cannot be read, or is deeper or more than anybody writes, and what is in PEM and says that it is a private key,
//! in whatever field. A listener with a filter of one's own is then not in the cache file, and what refers to it is missing
//! after a start without a control plane.
//!
//! What is not found is a secret in a text that is meant for something else, such as a token in a header that a route adds,
//! or in the call credentials of a gRPC service that a `ConfigSource` names; nor one in an extension of whose name the last part
//! begins with a small letter, where the URL is not as almost all are.

use std::mem;

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::{
        filters::http::jwt_authn::v3::{JwtAuthentication, jwt_provider::JwksSourceSpecifier},
        transport_sockets::{
            quic::v3::{QuicDownstreamTransport, QuicUpstreamTransport},
            starttls::v3::{StartTlsConfig, UpstreamStartTlsConfig},
            tls::v3::{
                CommonTlsContext, DownstreamTlsContext, TlsCertificate, UpstreamTlsContext,
                downstream_tls_context::SessionTicketKeysType,
            },
        },
    },
};
use memchr::memmem;
use prost::Message;
use serde_json::Value;

mod extensions;
mod keyless;

use self::{
    extensions::{Extension, Search},
    keyless::KEYLESS,
};

/// Whether there may be a secret in the bytes of a resource.
pub(crate) fn may_be_in(resource: &[u8]) -> bool {
    // PEM, of whatever sort of key and in whatever field.
    memmem::find(resource, b"PRIVATE KEY-----").is_some() || may_be_in_extension(resource)
}

/// Whether there may be one in an extension. What has the bytes of an `Any` is judged by its name, or read, and what has a type
/// URL and is not in such a place is judged by its name, as that of a message within a text is.
fn may_be_in_extension(resource: &[u8]) -> bool {
    let Ok(mut search) = Search::through(resource) else { return true };
    let found = mem::take(&mut search.found);
    // Type URLs of what is to be read, less those that stand where it can be.
    let mut unread = 0_usize;
    for place in memmem::find_iter(resource, TYPE_URL) {
        let name = name_at(resource, place);
        if has_secret_of(name).is_some() {
            unread += 1;
        } else if !is_keyless(name) {
            return true;
        }
    }
    for Extension { is_usual, name, value } in found {
        match has_secret_of(name) {
            Some(has_secret) => {
                if search.spend(value.len()).is_err() || has_secret(value) {
                    return true;
                }
                unread = unread.saturating_sub(usize::from(is_usual));
            }
            None if !is_keyless(name) => return true,
            None => {}
        }
    }
    unread > 0
}

/// Whether a message does, or cannot be read.
type HasSecret = fn(&[u8]) -> bool;

/// How almost all type URLs begin.
const TYPE_URL: &[u8] = b"type.googleapis.com/";

/// No name that is known here is longer.
const LONGEST: usize = 0x7f;

/// What may hold secrets, by its name, and whether a message of it does.
const READ: [(&str, HasSecret); 9] = [
    ("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", |value| read(value, has_key_upstream)),
    ("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", |value| read(value, has_key_downstream)),
    ("envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport", |value| {
        read(value, |quic: QuicUpstreamTransport| quic.upstream_tls_context.is_some_and(has_key_upstream))
    }),
    ("envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport", |value| {
        read(value, |quic: QuicDownstreamTransport| quic.downstream_tls_context.is_some_and(has_key_downstream))
    }),
    ("envoy.extensions.transport_sockets.starttls.v3.UpstreamStartTlsConfig", |value| {
        read(value, |starttls: UpstreamStartTlsConfig| starttls.tls_socket_config.is_some_and(has_key_upstream))
    }),
    ("envoy.extensions.transport_sockets.starttls.v3.StartTlsConfig", |value| {
        read(value, |starttls: StartTlsConfig| starttls.tls_socket_config.is_some_and(has_key_downstream))
    }),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", |value| read(value, has_secret_of_tokens)),
    ("xds.type.v3.TypedStruct", |value| read(value, is_unknown)),
    ("udpa.type.v1.TypedStruct", |value| read(value, is_unknown)),
];

/// Configuration without a schema.
#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    /// What it is instead of.
    #[prost(string, tag = "1")]
    type_url: String,
}

fn is_keyless(name: &[u8]) -> bool {
    KEYLESS.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
}

/// How a message of this name is read, if it is one of those that may hold secrets.
fn has_secret_of(name: &[u8]) -> Option<HasSecret> {
    READ.iter().find(|(read, _)| read.as_bytes() == name).map(|(_, has_secret)| *has_secret)
}

/// The name with which the type URL at this place ends.
///
/// How long it is stands before it, in one byte for all names that are known here: what comes after it may look like more of it,
/// since some tags of fields are letters.
fn name_at(resource: &[u8], place: usize) -> &[u8] {
    let said = resource[..place].last().map_or(0, |length| usize::from(*length));
    let name = &resource[place + TYPE_URL.len()..];
    let run = name.iter().take(LONGEST).take_while(|byte| is_of_name(byte)).count();
    &name[..said.checked_sub(TYPE_URL.len()).filter(|said| *said <= run).unwrap_or(run)]
}

fn is_of_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_')
}

/// Whether a message is as asked, or cannot be read.
fn read<M: Message + Default>(value: &[u8], is_it: impl FnOnce(M) -> bool) -> bool {
    M::decode(value).map_or(true, is_it)
}

fn has_key_upstream(context: UpstreamTlsContext) -> bool {
    context.common_tls_context.is_some_and(has_key)
}

fn has_key_downstream(context: DownstreamTlsContext) -> bool {
    let has_ticket_key = match context.session_ticket_keys_type {
        Some(SessionTicketKeysType::SessionTicketKeys(tickets)) => tickets.keys.iter().any(is_here),
        _ => false,
    };
    has_ticket_key || context.common_tls_context.is_some_and(has_key)
}

fn has_key(context: CommonTlsContext) -> bool {
    context.tls_certificates.iter().any(|certificate| {
        let TlsCertificate { private_key, pkcs12, password, private_key_provider, .. } = certificate;
        // A provider's configuration is its own affair.
        private_key_provider.is_some() || [private_key, pkcs12, password].into_iter().flatten().any(is_here)
    })
}

/// Whether the data is here, rather than in a file or a variable that is named here.
fn is_here(source: &DataSource) -> bool {
    !matches!(source.specifier, Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)))
}

fn has_secret_of_tokens(filter: JwtAuthentication) -> bool {
    let sources = filter.providers.values().filter_map(|provider| provider.jwks_source_specifier.as_ref());
    sources.into_iter().any(|source| match source {
        JwksSourceSpecifier::LocalJwks(DataSource { specifier: Some(Specifier::InlineString(keys)), .. }) => {
            !are_public(keys.as_bytes())
        }
        JwksSourceSpecifier::LocalJwks(DataSource { specifier: Some(Specifier::InlineBytes(keys)), .. }) => {
            !are_public(keys)
        }
        JwksSourceSpecifier::LocalJwks(source) => is_here(source),
        JwksSourceSpecifier::RemoteJwks(_) => false,
    })
}

/// Whether these are JSON Web Keys without the part that signs: `k` of symmetric ones, `d` of all others (RFC 7518).
fn are_public(keys: &[u8]) -> bool {
    let Ok(keys) = serde_json::from_slice::<Value>(keys) else { return false };
    let all = keys.get("keys").and_then(Value::as_array);
    all.is_some_and(|all| all.iter().all(|key| key.is_object() && key.get("k").or(key.get("d")).is_none()))
}

/// Whether a message without a schema is instead of one that may hold secrets.
fn is_unknown(message: TypedStruct) -> bool {
    let name = message.type_url.rsplit_once('/').map_or(&*message.type_url, |(_, name)| name);
    !is_keyless(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use envoy_types::{
        pb::{
            envoy::{
                config::{
                    cluster::v3::{Cluster, cluster::TransportSocketMatch},
                    core::v3::{TransportSocket, transport_socket::ConfigType},
                    listener::v3::{FilterChain, Listener},
                },
                extensions::{
                    filters::{
                        http::{jwt_authn::v3::JwtProvider, router::v3::Router},
                        network::http_connection_manager::v3::{
                            HttpConnectionManager, HttpFilter, http_filter::ConfigType as FilterConfig,
                        },
                    },
                    transport_sockets::tls::v3::{
                        CertificateProviderPluginInstance, GenericSecret, SdsSecretConfig, Secret,
                        TlsSessionTicketKeys, secret::Type as SecretType,
                    },
                },
            },
            google::protobuf::Any,
        },
        util::pack_any,
    };
    use prost::Name;

    use super::*;

    fn data(specifier: Specifier) -> Option<DataSource> {
        Some(DataSource { specifier: Some(specifier), ..Default::default() })
    }

    /// A cluster that is reached by TLS as this says, but only for some of its endpoints.
    fn cluster(common: CommonTlsContext) -> Cluster {
        let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
        let socket = TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(context))),
        };
        let matched = TransportSocketMatch { transport_socket: Some(socket), ..Default::default() };
        Cluster { name: "shop".to_owned(), transport_socket_matches: vec![matched], ..Default::default() }
    }

    fn with_certificate(certificate: TlsCertificate) -> Cluster {
        cluster(CommonTlsContext { tls_certificates: vec![certificate], ..Default::default() })
    }

    #[test]
    fn key_in_a_tls_context_is_found_whatever_its_form() {
        let pem = || data(Specifier::InlineString("-----BEGIN EC PRIVATE KEY-----\n".to_owned()));
        let der = || data(Specifier::InlineBytes(vec![0x30, 0x82]));
        for certificate in [
            TlsCertificate { private_key: pem(), ..Default::default() },
            TlsCertificate { private_key: der(), ..Default::default() },
            TlsCertificate { pkcs12: der(), ..Default::default() },
            TlsCertificate { password: der(), ..Default::default() },
        ] {
            assert!(may_be_in(&with_certificate(certificate.clone()).encode_to_vec()), "{certificate:?}");
        }
    }

    #[test]
    fn ticket_keys_of_a_listener_are_found() {
        let tickets = TlsSessionTicketKeys { keys: vec![data(Specifier::InlineBytes(vec![7; 80])).expect("data")] };
        let context = DownstreamTlsContext {
            session_ticket_keys_type: Some(SessionTicketKeysType::SessionTicketKeys(tickets)),
            ..Default::default()
        };
        let socket = TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(context))),
        };
        let chain = FilterChain { transport_socket: Some(socket), ..Default::default() };
        let listener = Listener { filter_chains: vec![chain], ..Default::default() };
        assert!(may_be_in(&listener.encode_to_vec()));
    }

    #[test]
    fn names_and_files_of_secrets_are_none() {
        let instance = CertificateProviderPluginInstance { instance_name: "default".to_owned(), ..Default::default() };
        let secret = SdsSecretConfig { name: "default".to_owned(), ..Default::default() };
        let common = CommonTlsContext {
            tls_certificate_provider_instance: Some(instance),
            tls_certificate_sds_secret_configs: vec![secret],
            ..Default::default()
        };
        assert!(!may_be_in(&cluster(common).encode_to_vec()));
        let file = TlsCertificate {
            certificate_chain: data(Specifier::InlineString("-----BEGIN CERTIFICATE-----".to_owned())),
            private_key: data(Specifier::Filename("/etc/certs/key.pem".to_owned())),
            ..Default::default()
        };
        assert!(!may_be_in(&with_certificate(file).encode_to_vec()));
        assert!(!may_be_in(&cluster(CommonTlsContext::default()).encode_to_vec()));
    }

    #[test]
    fn context_that_cannot_be_read_is_taken_to_hold_a_key() {
        let certificate =
            TlsCertificate { private_key: data(Specifier::Filename("/key".to_owned())), ..Default::default() };
        let whole = with_certificate(certificate).encode_to_vec();
        assert!(!may_be_in(&whole));
        assert!(may_be_in(&whole[..whole.len() - 1]));
    }

    fn der() -> Option<DataSource> {
        data(Specifier::InlineBytes(vec![0x30, 0x82]))
    }

    fn with_pkcs12() -> CommonTlsContext {
        let certificate = TlsCertificate { pkcs12: der(), ..Default::default() };
        CommonTlsContext { tls_certificates: vec![certificate], ..Default::default() }
    }

    /// A cluster that is reached through what this says.
    fn through(typed_config: Any) -> Vec<u8> {
        let socket =
            TransportSocket { name: "a socket".to_owned(), config_type: Some(ConfigType::TypedConfig(typed_config)) };
        Cluster { name: "shop".to_owned(), transport_socket: Some(socket), ..Default::default() }.encode_to_vec()
    }

    fn of_type(name: &str, value: Vec<u8>) -> Any {
        Any { type_url: format!("type.googleapis.com/{name}"), value }
    }

    #[test]
    fn key_is_found_through_whatever_transport_tls_goes() {
        for common_tls_context in [Some(with_pkcs12()), Some(CommonTlsContext::default())] {
            let is_expected = common_tls_context != Some(CommonTlsContext::default());
            let upstream = UpstreamTlsContext { common_tls_context: common_tls_context.clone(), ..Default::default() };
            let downstream = DownstreamTlsContext { common_tls_context, ..Default::default() };
            for socket in [
                pack_any(upstream.clone()),
                pack_any(downstream.clone()),
                pack_any(QuicUpstreamTransport { upstream_tls_context: Some(upstream.clone()) }),
                pack_any(QuicDownstreamTransport {
                    downstream_tls_context: Some(downstream.clone()),
                    ..Default::default()
                }),
                pack_any(UpstreamStartTlsConfig { tls_socket_config: Some(upstream), ..Default::default() }),
                pack_any(StartTlsConfig { tls_socket_config: Some(downstream), ..Default::default() }),
            ] {
                let url = socket.type_url.clone();
                assert_eq!(may_be_in(&through(socket)), is_expected, "{url}");
            }
        }
    }

    #[test]
    fn secret_is_found_whatever_it_is() {
        let secret = GenericSecret { secret: der(), ..Default::default() };
        let secret = Secret { name: "s".to_owned(), r#type: Some(SecretType::GenericSecret(secret)) };
        assert!(may_be_in(&through(pack_any(secret))));
    }

    #[test]
    fn what_nobody_has_heard_of_may_hold_a_secret() {
        assert!(may_be_in(&through(of_type("example.sockets.v1.Own", vec![8, 1]))));
        assert!(may_be_in(&through(of_type("envoy.api.v2.auth.UpstreamTlsContext", Vec::new()))));
        assert!(may_be_in(&through(of_type("example.sockets.v1.own", Vec::new()))));
        assert!(!may_be_in(&through(of_type(
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            Vec::new()
        ))));
    }

    #[test]
    fn key_is_found_by_whatever_url() {
        let context = UpstreamTlsContext { common_tls_context: Some(with_pkcs12()), ..Default::default() };
        let foreign = Any { type_url: format!("elsewhere/{}", UpstreamTlsContext::full_name()), ..pack_any(context) };
        assert!(may_be_in(&through(foreign)));
    }

    /// Who decodes goes by what is after the slash, and so does who looks for keys.
    #[test]
    fn secret_in_a_filter_is_found_by_whatever_url() {
        let is_suspect = |type_url: &str, value: Vec<u8>| {
            let config_type = Some(FilterConfig::TypedConfig(Any { type_url: type_url.to_owned(), value }));
            let filter = HttpFilter { name: "own".to_owned(), is_optional: true, config_type, ..Default::default() };
            may_be_in(&through(pack_any(HttpConnectionManager { http_filters: vec![filter], ..Default::default() })))
        };
        let tokens = |keys: &str| {
            let source = data(Specifier::InlineString(keys.to_owned())).map(JwksSourceSpecifier::LocalJwks);
            let provider = JwtProvider { jwks_source_specifier: source, ..Default::default() };
            JwtAuthentication { providers: [("issuer".to_owned(), provider)].into(), ..Default::default() }
                .encode_to_vec()
        };
        let untyped = |type_url: &str| TypedStruct { type_url: type_url.to_owned() }.encode_to_vec();
        for prefix in ["acme.dev/", "x/", "x/y/", "/", ""] {
            let url = |name: &str| format!("{prefix}{name}");
            assert!(is_suspect(&url("acme.v1.ApiKeyFilter"), b"\x0a\x06abc123".to_vec()), "{prefix}");
            let filter = url("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication");
            assert!(is_suspect(&filter, tokens(r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#)), "{prefix}");
            assert!(!is_suspect(&filter, tokens(r#"{"keys": [{"kty": "RSA", "n": "AA"}]}"#)), "{prefix}");
            assert!(is_suspect(&url("xds.type.v3.TypedStruct"), untyped("acme.v1.ApiKeyFilter")), "{prefix}");
            assert!(!is_suspect(&url("xds.type.v3.TypedStruct"), untyped("x/stats.PluginConfig")), "{prefix}");
        }
    }

    /// As an extension within a text, of which nobody knows how it is read.
    #[test]
    fn type_url_where_no_message_is_counts_by_its_name() {
        let named = |name: &str| {
            let note = format!("~type.googleapis.com/{name}");
            Cluster { alt_stat_name: note, ..Default::default() }.encode_to_vec()
        };
        assert!(!may_be_in(&named(KEYLESS[0])));
        assert!(may_be_in(&named("example.sockets.v1.Own")));
        assert!(may_be_in(&named(READ[0].0)));
    }

    #[test]
    fn crafted_texts_are_read_in_a_few_steps_for_each_byte() {
        const LENGTH: usize = 1 << 20;
        let text =
            |part: &str| Cluster { name: part.repeat(LENGTH / part.len()), ..Default::default() }.encode_to_vec();
        let nested = (0..90).fold([0x0a, 0].repeat(LENGTH / 2), |inner, _| {
            Any { type_url: "x/envoy.extensions.filters.http.router.v3.Router".to_owned(), value: inner }
                .encode_to_vec()
        });
        for crafted in [
            text("a.tls.v3.Secret"),
            text("streamTransport"),
            text("type.googleapis.com/"),
            text("\n\x05x/Own\x12"),
            text("\n"),
            text("\n\0"),
            [0x0a, 0].repeat(LENGTH / 2),
            through(Any { type_url: "x/Own".to_owned(), value: nested }),
        ] {
            let search = Search::through(&crafted).expect("within the limit");
            let steps = crafted.len() * extensions::STEPS_PER_BYTE - search.left;
            assert!(steps <= crafted.len(), "{steps} for {}", crafted.len());
        }
    }

    #[test]
    fn messages_that_are_read_within_each_other_have_an_end() {
        /// A field that no TLS context has.
        const WITHIN: u32 = 200;
        let is_suspect = |depth: usize| {
            let innermost = UpstreamTlsContext { sni: "a".repeat(1 << 16), ..Default::default() }.encode_to_vec();
            let value = (0..depth).fold(innermost, |inner, _| {
                let inner = of_type(&UpstreamTlsContext::full_name(), inner).encode_to_vec();
                let mut value = Vec::new();
                prost::encoding::bytes::encode(WITHIN, &inner, &mut value);
                value
            });
            may_be_in(&through(of_type(&UpstreamTlsContext::full_name(), value)))
        };
        assert!(!is_suspect(3));
        assert!(is_suspect(10));
    }

    #[test]
    fn configuration_without_a_schema_counts_for_what_it_is_instead_of() {
        let is_suspect = |type_url: &str| {
            let message = TypedStruct { type_url: type_url.to_owned() };
            may_be_in(&through(of_type("udpa.type.v1.TypedStruct", message.encode_to_vec())))
        };
        assert!(!is_suspect("type.googleapis.com/stats.PluginConfig"));
        assert!(is_suspect("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"));
        assert!(is_suspect("envoy.extensions.filters.http.wasm.v3.Wasm"));
        assert!(is_suspect(""));
    }

    #[test]
    fn keys_of_tokens_may_be_shown_where_they_are_public() {
        let is_suspect = |source: Option<JwksSourceSpecifier>| {
            let provider = JwtProvider { jwks_source_specifier: source, ..Default::default() };
            let providers = [("issuer".to_owned(), provider)].into();
            may_be_in(&through(pack_any(JwtAuthentication { providers, ..Default::default() })))
        };
        let local = |text: &str| data(Specifier::InlineString(text.to_owned())).map(JwksSourceSpecifier::LocalJwks);
        assert!(!is_suspect(local(r#"{"keys": [{"kty": "RSA", "e": "AQAB", "n": "AA"}, {"kty": "EC", "x": "AA"}]}"#)));
        assert!(is_suspect(local(r#"{"keys": [{"kty": "RSA", "n": "AA"}, {"kty": "oct", "k": "c2VjcmV0"}]}"#)));
        assert!(is_suspect(local(r#"{"keys": [{"kty": "EC", "x": "AA", "d": "AA"}]}"#)));
        assert!(is_suspect(local("secret")));
        assert!(!is_suspect(data(Specifier::Filename("/keys".to_owned())).map(JwksSourceSpecifier::LocalJwks)));
    }

    /// An empty message leaves out its value, and what follows its URL may be a letter.
    #[test]
    fn end_of_a_name_is_told_by_its_length() {
        let router = HttpFilter {
            name: "router".to_owned(),
            is_optional: true,
            disabled: true,
            config_type: Some(FilterConfig::TypedConfig(pack_any(Router::default()))),
        };
        let manager = HttpConnectionManager { http_filters: vec![router], ..Default::default() };
        assert!(!may_be_in(&through(pack_any(manager))));
        for name in KEYLESS {
            let mut bytes = through(of_type(name, Vec::new()));
            bytes.extend_from_slice(b"B\x00");
            assert!(!may_be_in(&bytes), "{name}");
        }
    }

    #[test]
    fn names_are_in_order() {
        assert!(KEYLESS.is_sorted());
        assert!(KEYLESS.iter().all(|name| TYPE_URL.len() + name.len() <= LONGEST), "lengths are one byte");
        assert!(READ.iter().all(|(name, _)| !is_keyless(name.as_bytes())));
    }
}
