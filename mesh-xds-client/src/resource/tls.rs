//! TLS towards endpoints: whom to trust, who to be, which name to ask for (`UpstreamTlsContext`).

use std::sync::Arc;

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, TransportSocket, data_source, transport_socket::ConfigType},
    extensions::transport_sockets::{
        raw_buffer::v3::RawBuffer,
        tls::v3::{
            CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsParameters,
            UpstreamTlsContext, common_tls_context::ValidationContextType, subject_alt_name_matcher::SanType,
            tls_parameters::TlsProtocol,
        },
    },
};
use mesh_core::config::{ConfigError, IdentityName, SanKind, SanMatcher, Sni, StringMatcher, Trust, UpstreamTls};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    Context,
    common::{is, is_true, unpack},
    connection::Auto,
    matcher,
    notes::{IsSet, Notes, warn_if_set},
};

/// Whom to trust, and which names are accepted of them.
struct Validation {
    roots: Roots,
    sans: Vec<SanMatcher>,
}

/// Whom to trust.
enum Roots {
    /// Those that the certificates of the mesh come from, as the process knows them.
    Mesh(IdentityName),
    /// Those of somebody else, who vouches for others too.
    Others(Trust),
}

/// The secret by which Istio means the roots of the system.
const SYSTEM_ROOTS: &str = "file-root:system";

/// TLS, or none for the transport that is plain.
pub(super) fn decode(
    message: TransportSocket,
    auto: Auto,
    context: &Context,
    notes: &mut Notes,
) -> Result<Option<UpstreamTls>, ConfigError> {
    let Some(ConfigType::TypedConfig(extension)) = message.config_type else {
        return Err(ConfigError::new("typed_config", message.name, "set it to an UpstreamTlsContext"));
    };
    if is::<RawBuffer>(&extension) {
        return Ok(None);
    }
    notes
        .at("typed_config", extension, |extension, notes| upstream(unpack(&extension)?, auto, context, notes).map(Some))
}

fn upstream(
    message: UpstreamTlsContext,
    auto: Auto,
    context: &Context,
    notes: &mut Notes,
) -> Result<UpstreamTls, ConfigError> {
    warn_if_set!(notes, message, "renegotiation is not known here", [allow_renegotiation]);
    let Some(common) = message.common_tls_context else {
        return Err(ConfigError::new("common_tls_context", "", "set it, and say whom to trust"));
    };
    let common = notes.at("common_tls_context", common, |common, notes| {
        refuse_unknown(&common)?;
        warn_if_set!(notes, common, "secrets are never logged", [key_log]);
        let identity = identity(&common, context)?;
        let validation = validation(common.validation_context_type, context, notes)?;
        Ok((identity, validation, alpn(common.alpn_protocols)))
    })?;
    let (identity, validation, alpn) = common;
    let validates_sent_name = auto.san_validation || message.auto_sni_san_validation;
    let sans = sans(&validation, validates_sent_name, notes)?;
    let sni = sni(message.sni, message.auto_host_sni, auto.sni, sans.is_empty())?;
    let mut tls = UpstreamTls::new(validation.roots.into_trust()).with_sni(sni).with_sans(sans).with_alpn(alpn);
    if let Some(identity) = identity {
        tls = tls.with_identity(identity);
    }
    Ok(tls)
}

/// The protocols to offer, as they are written. Only the one by which Istio's proxies agree to tell each other who they are
/// before anything else is left out, as they leave it out themselves of connections for HTTP.
fn alpn(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| name != "istio-peer-exchange");
    names
}

/// The name to send: of those that may be, the nearest to the request, as in Envoy; but where an
/// authority is an IP address Envoy sends the next of them, and none is sent here. Where it is also the name to ask for there has to
/// be one, though Envoy would send none.
fn sni(name: String, of_endpoint: bool, of_authority: bool, is_asked_for: bool) -> Result<Sni, ConfigError> {
    const LONGEST: usize = 255;
    if name.len() > LONGEST {
        return Err(ConfigError::new("sni", name, "give at most 255 bytes"));
    }
    let name = (!name.is_empty()).then(|| Arc::from(name));
    Ok(match name {
        _ if of_authority => Sni::Authority,
        otherwise if of_endpoint => Sni::EndpointHostname { otherwise },
        Some(name) => Sni::Name(name),
        None if is_asked_for => Sni::Authority,
        None => Sni::Off,
    })
}

/// The names to accept; none for the one that was sent.
///
/// Without matchers Envoy and gRPC accept every certificate of those they trust. That is kept for the roots of a mesh,
/// whose SNI is often no name of the endpoint, and not for roots that vouch for others.
fn sans(validation: &Validation, validates_sent_name: bool, notes: &mut Notes) -> Result<Vec<SanMatcher>, ConfigError> {
    if validates_sent_name {
        return Ok(Vec::new());
    }
    if !validation.sans.is_empty() || matches!(validation.roots, Roots::Others(_)) {
        return Ok(validation.sans.clone());
    }
    notes.warn("common_tls_context", "no name is asked for; every certificate of the mesh is accepted");
    let anything = SanMatcher { kind: None, matcher: StringMatcher::regex(".*")? };
    Ok(vec![anything])
}

/// Refuses what would weaken the connection, or be taken for a protection, if it were left out.
fn refuse_unknown(message: &CommonTlsContext) -> Result<(), ConfigError> {
    if let Some(parameters) = &message.tls_params {
        refuse_narrow(parameters).map_err(|error| error.within("tls_params"))?;
    }
    for (field, set) in [
        ("custom_handshaker", message.custom_handshaker.is_set()),
        ("custom_tls_certificate_selector", message.custom_tls_certificate_selector.is_set()),
    ] {
        if set {
            return Err(ConfigError::new(field, "set", "leave it out; it is not known here"));
        }
    }
    Ok(())
}

/// gRPC refuses all parameters. Istio sends those that change nothing here, where TLS 1.2 and 1.3 are spoken.
fn refuse_narrow(message: &TlsParameters) -> Result<(), ConfigError> {
    if message.tls_minimum_protocol_version > TlsProtocol::TlSv12 as i32 {
        let version = message.tls_minimum_protocol_version;
        return Err(ConfigError::new("tls_minimum_protocol_version", version, "use TLSv1_2 or TLS_AUTO"));
    }
    let newest = [TlsProtocol::TlsAuto as i32, TlsProtocol::TlSv13 as i32];
    if !newest.contains(&message.tls_maximum_protocol_version) {
        let version = message.tls_maximum_protocol_version;
        return Err(ConfigError::new("tls_maximum_protocol_version", version, "use TLSv1_3 or TLS_AUTO"));
    }
    for (field, set) in [
        ("cipher_suites", message.cipher_suites.is_set()),
        ("ecdh_curves", message.ecdh_curves.is_set()),
        ("signature_algorithms", message.signature_algorithms.is_set()),
        ("compliance_policies", message.compliance_policies.is_set()),
    ] {
        if set {
            return Err(ConfigError::new(field, "set", "leave it out; the process chooses its cryptography"));
        }
    }
    Ok(())
}

// --- who to be ---

/// The identity to show. The field that replaced the others counts where several are set.
#[expect(
    deprecated,
    reason = "Istio sends proxyless clients the field that tls_certificate_provider_instance replaced"
)]
fn identity(message: &CommonTlsContext, context: &Context) -> Result<Option<IdentityName>, ConfigError> {
    if let Some(instance) = &message.tls_certificate_provider_instance {
        let field = "tls_certificate_provider_instance.instance_name";
        return instance_of(field, &instance.instance_name, context).map(Some);
    }
    if let Some(instance) = &message.tls_certificate_certificate_provider_instance {
        let field = "tls_certificate_certificate_provider_instance.instance_name";
        return instance_of(field, &instance.instance_name, context).map(Some);
    }
    for (field, set) in [
        ("tls_certificates", message.tls_certificates.is_set()),
        ("tls_certificate_certificate_provider", message.tls_certificate_certificate_provider.is_set()),
    ] {
        if set {
            return Err(ConfigError::new(field, "set", "name an instance in tls_certificate_provider_instance"));
        }
    }
    match message.tls_certificate_sds_secret_configs.as_slice() {
        [] => Ok(None),
        [secret] => secret_of("tls_certificate_sds_secret_configs[0].name", secret, context).map(Some),
        several => {
            Err(ConfigError::new("tls_certificate_sds_secret_configs", several.len(), "name one; a client shows one"))
        }
    }
}

fn instance_of(field: &'static str, name: &str, context: &Context) -> Result<IdentityName, ConfigError> {
    context.identity(name).ok_or_else(|| ConfigError::new(field, name, "name an identity that this process was given"))
}

fn secret_of(field: &'static str, secret: &SdsSecretConfig, context: &Context) -> Result<IdentityName, ConfigError> {
    let remedy = match secret.name.split_once(':') {
        Some(("kubernetes", _)) => "name another secret; those of Kubernetes are for gateways, and are not fetched",
        Some((FILE_CERTIFICATE | FILE_ROOTS, _)) => {
            "give the process an identity of these files, and map the secret to it, by `XdsClientBuilder::secret`"
        }
        _ => "name a secret that this process has an identity for",
    };
    context.secret(&secret.name).ok_or_else(|| ConfigError::new(field, &secret.name, remedy))
}

/// How Istio begins the names of secrets that are files of the workload.
const FILE_CERTIFICATE: &str = "file-cert";
const FILE_ROOTS: &str = "file-root";

// --- whom to trust ---

#[expect(
    deprecated,
    reason = "Istio sends proxyless clients the fields that ca_certificate_provider_instance replaced"
)]
fn validation(
    message: Option<ValidationContextType>,
    context: &Context,
    notes: &mut Notes,
) -> Result<Validation, ConfigError> {
    match message {
        Some(ValidationContextType::ValidationContext(message)) => {
            notes.at("validation_context", message, |message, notes| {
                let roots = roots(&message, context)?.ok_or_else(|| nobody("ca_certificate_provider_instance"))?;
                Ok(Validation { roots, sans: names(message, notes)? })
            })
        }
        Some(ValidationContextType::CombinedValidationContext(message)) => {
            notes.at("combined_validation_context", message, |message, notes| {
                let default = message.default_validation_context.unwrap_or_default();
                let own = roots(&default, context).map_err(|error| error.within("default_validation_context"))?;
                let instance = message.validation_context_certificate_provider_instance;
                let secret = message.validation_context_sds_secret_config;
                let roots = match (own, instance, secret) {
                    (Some(roots @ Roots::Mesh(_)), ..) => roots,
                    (_, Some(instance), _) => {
                        let field = "validation_context_certificate_provider_instance.instance_name";
                        Roots::Mesh(instance_of(field, &instance.instance_name, context)?)
                    }
                    (_, None, Some(secret)) => {
                        roots_of_secret("validation_context_sds_secret_config.name", &secret, context)?
                    }
                    (Some(roots), None, None) => roots,
                    (None, None, None) => return Err(nobody("default_validation_context")),
                };
                Ok(Validation { roots, sans: notes.at("default_validation_context", default, names)? })
            })
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            let roots = roots_of_secret("validation_context_sds_secret_config.name", &secret, context)?;
            Ok(Validation { roots, sans: Vec::new() })
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(instance)) => {
            let field = "validation_context_certificate_provider_instance.instance_name";
            let roots = Roots::Mesh(instance_of(field, &instance.instance_name, context)?);
            Ok(Validation { roots, sans: Vec::new() })
        }
        Some(ValidationContextType::ValidationContextCertificateProvider(provider)) => {
            let remedy = "use ca_certificate_provider_instance";
            Err(ConfigError::new("validation_context_certificate_provider", provider.name, remedy))
        }
        None => Err(nobody("validation_context")),
    }
}

fn nobody(field: &'static str) -> ConfigError {
    ConfigError::new(field, "", "say whom to trust; otherwise no certificate would be verified")
}

fn roots(message: &CertificateValidationContext, context: &Context) -> Result<Option<Roots>, ConfigError> {
    if let Some(instance) = &message.ca_certificate_provider_instance {
        let field = "ca_certificate_provider_instance.instance_name";
        return Ok(Some(Roots::Mesh(instance_of(field, &instance.instance_name, context)?)));
    }
    if message.system_root_certs.is_some() {
        return Ok(Some(Roots::Others(Trust::System)));
    }
    Ok(message.trusted_ca.as_ref().map(certificates).transpose()?.map(Roots::Others))
}

/// Whom a secret has one trust. Roots that Istio names by their file are those that a DestinationRule has for a host outside, which
/// are as likely as not the world's.
fn roots_of_secret(field: &'static str, secret: &SdsSecretConfig, context: &Context) -> Result<Roots, ConfigError> {
    if secret.name == SYSTEM_ROOTS && context.secret(&secret.name).is_none() {
        return Ok(Roots::Others(Trust::System));
    }
    let name = secret_of(field, secret, context)?;
    let is_of_file = secret.name.split_once(':').is_some_and(|(kind, _)| kind == FILE_ROOTS);
    Ok(if is_of_file { Roots::Others(Trust::Identity(name)) } else { Roots::Mesh(name) })
}

fn certificates(source: &DataSource) -> Result<Trust, ConfigError> {
    let refuse = |remedy: &'static str| ConfigError::new("trusted_ca", "", remedy);
    let pem = match &source.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => bytes.as_slice(),
        Some(data_source::Specifier::InlineString(text)) => text.as_bytes(),
        _ => return Err(refuse("send the certificates inline, or use ca_certificate_provider_instance")),
    };
    let roots: Result<Vec<Box<[u8]>>, _> = CertificateDer::pem_slice_iter(pem)
        .map(|found| found.map(|certificate| Box::from(certificate.as_ref())))
        .collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(Trust::Roots(Arc::from(roots))),
        _ => Err(refuse("send certificates in PEM")),
    }
}

/// The names that are accepted. What would narrow who is accepted is refused, what would widen it is warned of.
#[expect(deprecated, reason = "match_subject_alt_names came before the typed list and is still sent")]
fn names(message: CertificateValidationContext, notes: &mut Notes) -> Result<Vec<SanMatcher>, ConfigError> {
    for (field, set) in [
        ("verify_certificate_spki", message.verify_certificate_spki.is_set()),
        ("verify_certificate_hash", message.verify_certificate_hash.is_set()),
        ("require_signed_certificate_timestamp", is_true(message.require_signed_certificate_timestamp)),
        ("crl", message.crl.is_set()),
        ("custom_validator_config", message.custom_validator_config.is_set()),
        ("max_verify_depth", message.max_verify_depth.is_set()),
    ] {
        if set {
            return Err(ConfigError::new(field, "set", "leave it out; it is not known here"));
        }
    }
    warn_if_set!(
        notes,
        message,
        "certificates are verified as without it",
        [allow_expired_certificate, trust_chain_verification]
    );
    if message.match_typed_subject_alt_names.is_set() {
        return notes.each("match_typed_subject_alt_names", message.match_typed_subject_alt_names, typed_name);
    }
    notes.each("match_subject_alt_names", message.match_subject_alt_names, |message, notes| {
        Ok(SanMatcher { kind: None, matcher: matcher::string(message, notes)? })
    })
}

fn typed_name(message: SubjectAltNameMatcher, notes: &mut Notes) -> Result<SanMatcher, ConfigError> {
    let kind = match SanType::try_from(message.san_type) {
        Ok(SanType::Dns) => SanKind::Dns,
        Ok(SanType::Uri) => SanKind::Uri,
        Ok(SanType::Email) => SanKind::Email,
        Ok(SanType::IpAddress) => SanKind::Ip,
        Ok(SanType::Unspecified | SanType::OtherName) | Err(_) => {
            return Err(ConfigError::new("san_type", message.san_type, "use DNS, URI, EMAIL or IP_ADDRESS"));
        }
    };
    Ok(SanMatcher { kind: Some(kind), matcher: notes.required("matcher", message.matcher, matcher::string)? })
}

// === impl Roots ===

impl Roots {
    fn into_trust(self) -> Trust {
        match self {
            Self::Mesh(name) => Trust::Identity(name),
            Self::Others(trust) => trust,
        }
    }
}
