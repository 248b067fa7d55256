//! From a DNS name to addresses, as an injected part.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, sync::OnceLock, time::Duration};

use hickory_resolver::TokioResolver;
use mesh_core::outcome::BoxError;
use tokio::time::Instant;

/// Looks names up.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, A and AAAA.
    fn resolve(&self, host: &str) -> Resolving;
}

/// A name that is being looked up.
pub type Resolving = Pin<Box<dyn Future<Output = Result<Resolved, BoxError>> + Send>>;

/// The answer to a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long they may be relied on: the least time to live of the records.
    pub valid_for: Duration,
}

/// Looks names up as the operating system is configured to (`/etc/resolv.conf`, `/etc/hosts`), by hickory-resolver; the
/// default. The configuration is read at the first look-up. It keeps no answers: whoever asks knows how often, and how long an
/// answer is valid.
#[derive(Default)]
pub struct SystemResolver {
    resolver: OnceLock<TokioResolver>,
}

impl SystemResolver {
    fn resolver(&self) -> Result<&TokioResolver, BoxError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let mut builder = TokioResolver::builder_tokio()?;
        builder.options_mut().cache_size = 0;
        let resolver = builder.build()?;
        Ok(self.resolver.get_or_init(|| resolver))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> Resolving {
        let host = host.to_owned();
        let resolver = self.resolver().cloned();
        Box::pin(async move {
            let answer = resolver?.lookup_ip(host).await?;
            let valid_for = answer.valid_until().saturating_duration_since(Instant::now().into_std());
            Ok(Resolved { addresses: answer.iter().collect(), valid_for })
        })
    }
}

impl fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemResolver").finish_non_exhaustive()
    }
}
