//! Tells whether a resource may hold a private key, so that its bytes are neither shown nor written down.
//!
//! A control plane is meant to name secrets and hand them out over SDS, which this client does not ask for; but nothing
//! keeps one from writing a key into a TLS context, and a field that is not honoured is in the bytes all the same. A
//! resource cannot be stripped of its key and still be what it was, so it is left out whole.
//!
//! A TLS context can stand wherever an `Any` can. So the bytes are not read by their schema, which would have to be
//! known to the last extension: they are searched for the type URLs of what holds keys, and what follows those is read.
//! What cannot be read is taken to hold one.

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CommonTlsContext, DownstreamTlsContext, TlsCertificate, UpstreamTlsContext,
        downstream_tls_context::SessionTicketKeysType,
    },
};
use memchr::memmem;
use prost::{Message, encoding::decode_varint};

/// Whether there may be a private key in the bytes of a resource.
pub(crate) fn may_be_in(resource: &[u8]) -> bool {
    // PEM, of whatever sort of key and in whatever field.
    contains(resource, b"PRIVATE KEY-----")
        || contains(resource, SECRET)
        || holds(resource, UPSTREAM, |context: UpstreamTlsContext| {
            context.common_tls_context.as_ref().is_some_and(has_key)
        })
        || holds(resource, DOWNSTREAM, |context: DownstreamTlsContext| {
            let tickets = matches!(context.session_ticket_keys_type, Some(SessionTicketKeysType::SessionTicketKeys(_)));
            tickets || context.common_tls_context.as_ref().is_some_and(has_key)
        })
}

/// The ends of the type URLs of what may hold keys. The package's version is not in them, which has been others.
const UPSTREAM: &[u8] = b".UpstreamTlsContext";
const DOWNSTREAM: &[u8] = b".DownstreamTlsContext";
const SECRET: &[u8] = b"transport_sockets.tls.v3.Secret";

fn has_key(context: &CommonTlsContext) -> bool {
    context.tls_certificates.iter().any(|certificate| {
        let TlsCertificate { private_key, pkcs12, password, private_key_provider, .. } = certificate;
        // A provider's configuration is its own affair.
        private_key_provider.is_some() || [private_key, pkcs12, password].into_iter().flatten().any(is_inline)
    })
}

/// Whether the data is here, rather than in a file or a variable that is named here.
fn is_inline(source: &DataSource) -> bool {
    matches!(source.specifier, Some(Specifier::InlineBytes(_) | Specifier::InlineString(_)))
}

/// Whether a message of this type is in `resource` that `is_it` says yes to, or that cannot be read.
fn holds<M: Message + Default>(resource: &[u8], type_url: &'static [u8], is_it: impl Fn(M) -> bool) -> bool {
    let read = |end| M::decode(value_after(&resource[end..])?).ok();
    places(resource, type_url).any(|end| read(end).is_none_or(&is_it))
}

/// The `value` of an `Any`, from the end of its `type_url` on, if that is what follows and it is whole.
fn value_after(rest: &[u8]) -> Option<&[u8]> {
    /// Field 2, with a length.
    const VALUE: u8 = 0x12;
    let mut rest = rest.strip_prefix(&[VALUE])?;
    let length = decode_varint(&mut rest).ok()?;
    rest.get(..usize::try_from(length).ok()?)
}

fn contains(haystack: &[u8], needle: &'static [u8]) -> bool {
    places(haystack, needle).next().is_some()
}

/// Where `needle` ends, each time that it occurs.
fn places(haystack: &[u8], needle: &'static [u8]) -> impl Iterator<Item = usize> {
    memmem::find_iter(haystack, needle).map(|start| start + needle.len())
}

#[cfg(test)]
mod tests {
    use envoy_types::{
        pb::envoy::{
            config::{
                cluster::v3::{Cluster, cluster::TransportSocketMatch},
                core::v3::{TransportSocket, transport_socket::ConfigType},
                listener::v3::{FilterChain, Listener},
            },
            extensions::transport_sockets::tls::v3::{
                CertificateProviderPluginInstance, SdsSecretConfig, TlsSessionTicketKeys,
            },
        },
        util::pack_any,
    };

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
}
