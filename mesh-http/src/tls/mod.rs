//! Mutual TLS: who we are is read from watched files or memory at each handshake, and every peer proves who it is.
//!
//! A [`TlsClient`] is what the TLS connections of a process share: the cryptography, the identities by name, the roots of
//! the operating system, the clock. It makes one [`Connector`] for each [`UpstreamTls`](mesh_core::config::UpstreamTls).
//! A connector shakes hands with the identity and the trust that are current at that moment; connections that exist keep
//! what they were made with.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "tls-aws-lc")] {
//! use std::sync::Arc;
//!
//! use mesh_core::{
//!     config::{Trust, UpstreamTls},
//!     identity::{Identities, IdentitySource},
//! };
//! use mesh_http::tls::{FileIdentity, Provider, TlsClient};
//!
//! let provider = Provider::aws_lc();
//! let files = FileIdentity::builder("chain.pem", "key.pem").bundle("cluster.local", "roots.pem").build(&provider)?;
//! let files = Arc::new(files);
//! tokio::spawn(files.clone().work());
//! let identities = Identities::new();
//! identities.insert("default", files);
//!
//! let client = TlsClient::new(provider, identities);
//! let tls = UpstreamTls::new(Trust::Identity("default".into()))
//!     .with_identity("default")
//!     .with_trust_domain("cluster.local")?;
//! let connector = client.connector(&tls, &["h2"])?;
//! let name = connector.peer_name("reviews.shop:9080", None)?;
//! let stream = connector.connect(tokio::net::TcpStream::connect("10.0.0.5:9080").await?, &name).await?;
//! assert_eq!(stream.alpn(), Some(&b"h2"[..]));
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! # What a peer must prove
//!
//! Its chain ends in a root that is trusted, now; its own certificate is not an authority's; and it bears a name that is
//! expected: one that passes a SAN matcher where there are any, else the name that was asked for. A certificate that claims
//! a SPIFFE id follows the X509-SVID rules and, where trust comes with an identity, is judged by the bundle of its own trust
//! domain. Nothing here skips a step or falls back to plaintext. Revocation lists are not read: mesh certificates are
//! short-lived instead.
//!
//! # Versions
//!
//! TLS 1.3 and 1.2 are both offered. All that a mesh of its own needs is 1.3, but a client's endpoints may be databases,
//! gateways or Envoys whose maximum is still 1.2 (Envoy's default for its client side). rustls offers 1.2 with forward
//! secrecy and AEAD ciphers only, and a downgrade between peers that both know 1.3 is detected (RFC 8446, 4.1.3).
//!
//! # Cryptography
//!
//! A [`Provider`] is a value that is handed in. The features `tls-aws-lc` and `tls-ring` only add constructors for it, and
//! rustls's process-wide default is neither read nor set.

mod certificate;
mod client;
mod error;
mod files;
mod pem;
mod provider;
mod roots;
mod stream;
mod verify;

pub use self::{
    client::{Connector, PeerName, TlsClient},
    error::{PeerError, TlsError},
    files::{FileIdentity, FileIdentityBuilder},
    pem::{certificates_from_pem, private_key_from_pem},
    provider::Provider,
    stream::TlsStream,
};
