//! Certificates and keys out of PEM text, with errors that name where the text came from.

use mesh_core::identity::{Der, IdentityError, PrivateKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};

const CERTIFICATES: &str = "give PEM with `-----BEGIN CERTIFICATE-----` sections";
const KEY: &str = "give PEM with one private key, unencrypted: PKCS #8, PKCS #1 or SEC 1";

/// The certificates in `text`, in their order; `origin` is the file or field that errors name.
///
/// # Errors
///
/// Refuses PEM that cannot be read, one that is cut short included, and text with no certificate in it.
pub fn certificates_from_pem(text: &[u8], origin: &str) -> Result<Vec<Der>, IdentityError> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .map(|item| item.map(|der| der.to_vec().into_boxed_slice()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(origin, error, CERTIFICATES))?;
    if certificates.is_empty() {
        return Err(IdentityError::invalid(origin, "there is no certificate in it", CERTIFICATES));
    }
    Ok(certificates)
}

/// The first private key in `text`; `origin` is the file or field that errors name.
///
/// # Errors
///
/// Refuses PEM that cannot be read, and text with no key in it; an encrypted key counts as none.
pub fn private_key_from_pem(text: &[u8], origin: &str) -> Result<PrivateKey, IdentityError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(PrivateKey::from(key.secret_der())),
        Err(pem::Error::NoItemsFound) => Err(IdentityError::invalid(origin, "there is no private key in it", KEY)),
        // Not kept as a source: it may quote a line of the key.
        Err(_) => Err(IdentityError::invalid(origin, "its private key cannot be read", KEY)),
    }
}

fn unreadable(origin: &str, error: pem::Error, remedy: &'static str) -> IdentityError {
    IdentityError::invalid(origin, "it is not PEM, or cut short", remedy).with_source(error)
}
