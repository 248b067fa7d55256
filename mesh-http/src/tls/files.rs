//! An identity that lives in PEM files, as Kubernetes secrets, cert-manager and SPIFFE helpers leave them.
//!
//! Files are polled and their contents compared. Notifications would be quicker, and miss what matters most: Kubernetes
//! swaps a symbolic link two directories up, and network file systems notify nobody.
//!
//! A new version is taken when two reads in a row return it and it fits together: certificates and key parse, and the key
//! is the certificate's. Two reads, because a chain that is cut after its first certificate parses as well as a whole one.
//! Until then, and whatever is wrong with the new files, the last good version stays.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use mesh_core::identity::{Der, Identity, IdentityError, IdentityErrorKind, IdentitySource, IdentityStatus, Work};
use tokio::{task, time};

use super::{
    PeerError, Provider,
    certificate::Leaf,
    client::certified_key,
    pem::{certificates_from_pem, private_key_from_pem},
    roots::root_store,
};
use crate::files;

/// An [`IdentitySource`] over PEM files that it watches.
#[derive(Debug)]
pub struct FileIdentity {
    files: Files,
    provider: Provider,
    interval: Duration,
    current: ArcSwap<Identity>,
    watch: Mutex<Watch>,
}

/// Says which files a [`FileIdentity`] reads, and how often.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct FileIdentityBuilder {
    files: Files,
    interval: Duration,
}

#[derive(Clone, Debug)]
struct Files {
    credential: Option<CredentialFiles>,
    bundles: Vec<BundleFile>,
}

#[derive(Clone, Debug)]
struct CredentialFiles {
    chain: PathBuf,
    key: PathBuf,
}

#[derive(Clone, Debug)]
struct BundleFile {
    /// Whose roots these are; unset for the default bundle.
    trust_domain: Option<Box<str>>,
    path: PathBuf,
}

/// What the files held: chain and key, then each bundle.
#[derive(PartialEq, Eq)]
struct Contents {
    credential: Option<(Vec<u8>, Vec<u8>)>,
    bundles: Vec<Vec<u8>>,
}

/// Contents that made sense.
struct Loaded {
    identity: Identity,
    expires: Option<SystemTime>,
}

/// What the watcher remembers from one read to the next.
struct Watch {
    in_use: Contents,
    news: News,
    status: IdentityStatus,
}

/// What the last read returned, where it was not what is in use.
enum News {
    None,
    /// Read once; taken if the next read returns the same.
    Unsettled(Contents),
    /// Read twice, and of no use.
    Rejected(Contents),
}

/// How long to wait before the next read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Settle,
    Poll,
}

// === impl FileIdentity ===

impl FileIdentity {
    /// How often the files are read unless [told otherwise](FileIdentityBuilder::interval): every 10 s, a small part of the
    /// minute in which a kubelet brings a renewed secret, and of the time that renewals leave before expiry.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

    /// An identity whose certificate chain and private key are in these files; both may be in one.
    pub fn builder(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> FileIdentityBuilder {
        let credential = Some(CredentialFiles { chain: chain.into(), key: key.into() });
        FileIdentityBuilder { files: Files { credential, bundles: Vec::new() }, interval: Self::DEFAULT_INTERVAL }
    }

    /// An identity that shows no certificate and trusts the roots in this file.
    pub fn roots(path: impl Into<PathBuf>) -> FileIdentityBuilder {
        let files = Files { credential: None, bundles: Vec::new() };
        FileIdentityBuilder { files, interval: Self::DEFAULT_INTERVAL }.ca(path)
    }

    /// Reads the files until it is dropped.
    async fn watch(self: Arc<Self>) {
        let mut next = Next::Poll;
        loop {
            time::sleep(self.wait(next)).await;
            let this = self.clone();
            // Parsing rides along: it costs more than the reads.
            match task::spawn_blocking(move || this.read_again()).await {
                Ok(after) => next = after,
                // The runtime is shutting down.
                Err(error) if error.is_cancelled() => return,
                Err(error) => tracing::error!(%error, "reading an identity's files failed"),
            }
        }
    }

    fn wait(&self, next: Next) -> Duration {
        const SETTLE: Duration = Duration::from_millis(500);
        match next {
            Next::Settle => SETTLE.min(self.interval),
            Next::Poll => self.interval,
        }
    }

    fn read_again(&self) -> Next {
        let read = self.files.read();
        let mut watch = self.lock();
        match read {
            Ok(contents) => self.consider(&mut watch, contents),
            // Any to none: what follows a failed read must be read twice again.
            Err(error) => {
                watch.news = News::None;
                watch.fail(error);
                Next::Poll
            }
        }
    }

    fn consider(&self, watch: &mut Watch, contents: Contents) -> Next {
        // Back to what is in use: whatever was news is gone.
        if contents == watch.in_use {
            watch.news = News::None;
            watch.status.last_error = None;
            return Next::Poll;
        }
        match &watch.news {
            // Unsettled to in use, or to rejected: the same twice.
            News::Unsettled(seen) if *seen == contents => self.take(watch, contents),
            // Rejected stays: the error has been reported, and only other contents can mend it.
            News::Rejected(seen) if *seen == contents => return Next::Poll,
            // Any to unsettled: news, or newer news.
            _ => {
                watch.news = News::Unsettled(contents);
                return Next::Settle;
            }
        }
        Next::Poll
    }

    fn take(&self, watch: &mut Watch, contents: Contents) {
        match self.files.load(&contents, &self.provider) {
            Ok(Loaded { identity, expires }) => {
                tracing::info!(files = %self.files.describe(), "identity renewed");
                self.current.store(Arc::new(identity));
                *watch = Watch::new(contents, expires);
            }
            Err(error) => {
                watch.fail(error);
                watch.news = News::Rejected(contents);
            }
        }
    }

    /// Nothing that holds the lock leaves the state half changed, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdentitySource for FileIdentity {
    fn current(&self) -> Result<Arc<Identity>, IdentityError> {
        Ok(self.current.load_full())
    }

    fn status(&self) -> IdentityStatus {
        self.lock().status.clone()
    }

    fn work(self: Arc<Self>) -> Work {
        Box::pin(self.watch())
    }
}

// === impl FileIdentityBuilder ===

impl FileIdentityBuilder {
    /// Trusts the roots in this file.
    ///
    /// They are those of our own trust domain, where our certificate has a SPIFFE id, and of peers that have none; name
    /// other domains with [`bundle`](Self::bundle). Without an id of our own they are for every peer, until a domain is named.
    pub fn ca(self, path: impl Into<PathBuf>) -> Self {
        self.push(None, path.into())
    }

    /// Trusts the roots in this file for peers of this trust domain, beside those of any other file for it.
    pub fn bundle(self, trust_domain: impl Into<Box<str>>, path: impl Into<PathBuf>) -> Self {
        self.push(Some(trust_domain.into()), path.into())
    }

    /// Reads the files this often; [10 s](FileIdentity::DEFAULT_INTERVAL) by default. Less finds renewals sooner, for a few
    /// small reads each time.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Reads and checks the files, which blocks for as long as the disk takes.
    ///
    /// # Errors
    ///
    /// Refuses a file that is missing or cannot be read, that holds no certificate or key, or one that cannot be used; a key
    /// that is not the certificate's; an interval of zero.
    pub fn build(self, provider: &Provider) -> Result<FileIdentity, IdentityError> {
        if self.interval.is_zero() {
            return Err(IdentityError::invalid("interval", "it is zero", "give the time between two reads"));
        }
        let contents = self.files.read()?;
        let Loaded { identity, expires } = self.files.load(&contents, provider)?;
        Ok(FileIdentity {
            files: self.files,
            provider: provider.clone(),
            interval: self.interval,
            current: ArcSwap::from_pointee(identity),
            watch: Mutex::new(Watch::new(contents, expires)),
        })
    }

    fn push(mut self, trust_domain: Option<Box<str>>, path: PathBuf) -> Self {
        self.files.bundles.push(BundleFile { trust_domain, path });
        self
    }
}

// === impl Files ===

impl Files {
    fn read(&self) -> Result<Contents, IdentityError> {
        let credential = match &self.credential {
            Some(files) => Some((read(&files.chain)?, read(&files.key)?)),
            None => None,
        };
        let bundles = self.bundles.iter().map(|file| read(&file.path)).collect::<Result<_, _>>()?;
        Ok(Contents { credential, bundles })
    }

    fn load(&self, contents: &Contents, provider: &Provider) -> Result<Loaded, IdentityError> {
        let mut bundles = BTreeMap::<_, Vec<Der>>::new();
        for (file, text) in self.bundles.iter().zip(&contents.bundles) {
            bundles.entry(file.trust_domain.as_deref()).or_default().extend(file.parse(text)?);
        }
        let Some((files, (chain, key))) = self.credential.as_ref().zip(contents.credential.as_ref()) else {
            let identity = trusting(None, bundles, None)?;
            return Ok(Loaded { identity, expires: None });
        };
        let identity = files.parse(chain, key, provider)?;
        let leaf = files.leaf(&identity)?;
        let id = leaf.spiffe_id().map_err(|error| files.unusable(error))?;
        let own_domain = id.as_ref().map(|id| id.trust_domain());
        Ok(Loaded { identity: trusting(Some(identity), bundles, own_domain)?, expires: Some(leaf.not_after) })
    }

    /// The paths, for a log line.
    fn describe(&self) -> String {
        let credential = self.credential.iter().flat_map(|files| [&files.chain, &files.key]);
        let bundles = self.bundles.iter().map(|file| &file.path);
        credential.chain(bundles).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// The largest file that is read. The roots of all public authorities are some hundred kilobytes.
const MAX_SIZE: u64 = 4 << 20;

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    files::read(path, MAX_SIZE).map_err(|error| {
        let remedy = "give the path of a regular file of 4 MiB at most that this process may read";
        IdentityError::new(IdentityErrorKind::Unreadable, origin(path), "it cannot be read", remedy).with_source(error)
    })
}

fn origin(path: &Path) -> String {
    path.display().to_string()
}

/// Adds bundles to an identity, or makes one of them alone. Roots without a name are those of `own_domain` as well.
fn trusting<'a>(
    identity: Option<Identity>,
    mut bundles: BTreeMap<Option<&'a str>, Vec<Der>>,
    own_domain: Option<&'a str>,
) -> Result<Identity, IdentityError> {
    let unnamed = bundles.remove(&None);
    if let (Some(domain), Some(roots)) = (own_domain, &unnamed) {
        bundles.entry(Some(domain)).or_default().extend(roots.iter().cloned());
    }
    let mut identity = match (identity, unnamed) {
        (Some(identity), Some(roots)) => identity.with_default_bundle(roots)?,
        (Some(identity), None) => identity,
        (None, roots) => Identity::roots(roots.unwrap_or_default())?,
    };
    for (domain, roots) in bundles {
        identity = identity.with_bundle(domain.unwrap_or_default(), roots)?;
    }
    Ok(identity)
}

// === impl CredentialFiles ===

impl CredentialFiles {
    fn parse(&self, chain: &[u8], key: &[u8], provider: &Provider) -> Result<Identity, IdentityError> {
        let (chain_origin, key_origin) = (origin(&self.chain), origin(&self.key));
        let chain = certificates_from_pem(chain, &chain_origin)?;
        let identity = Identity::new(chain, private_key_from_pem(key, &key_origin)?)?;
        if let Some(credential) = identity.credential() {
            certified_key(credential, provider.rustls(), &chain_origin, &key_origin)?;
        }
        Ok(identity)
    }

    fn leaf(&self, identity: &Identity) -> Result<Leaf, IdentityError> {
        let der = identity.credential().and_then(|credential| credential.chain().first());
        Leaf::parse(der.map(|der| &**der).unwrap_or_default()).map_err(|error| self.unusable(error))
    }

    fn unusable(&self, error: PeerError) -> IdentityError {
        let remedy = "give a certificate that peers can accept";
        IdentityError::invalid(origin(&self.chain), "its first certificate cannot be used", remedy).with_source(error)
    }
}

// === impl BundleFile ===

impl BundleFile {
    fn parse(&self, text: &[u8]) -> Result<Vec<Der>, IdentityError> {
        let origin = origin(&self.path);
        let roots = certificates_from_pem(text, &origin)?;
        root_store(&roots, &origin)?;
        Ok(roots)
    }
}

// === impl Watch ===

impl Watch {
    /// Just loaded, from contents that are of use.
    fn new(in_use: Contents, expires: Option<SystemTime>) -> Self {
        let status = IdentityStatus { since: Some(SystemTime::now()), expires, last_error: None };
        Self { in_use, news: News::None, status }
    }

    /// Reports `error`, once for as long as it stays the same.
    fn fail(&mut self, error: IdentityError) {
        let is_known = self.status.last_error.as_ref().is_some_and(|known| known.to_string() == error.to_string());
        if !is_known {
            tracing::warn!(%error, "an identity's files cannot be used; the last good one stays");
        }
        self.status.last_error = Some(error);
    }
}

/// Holds a private key; never printed.
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("status", &self.status).finish_non_exhaustive()
    }
}

#[cfg(all(test, any(feature = "tls-aws-lc", feature = "tls-ring")))]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::NamedTempFile;

    use super::*;

    #[cfg(feature = "tls-aws-lc")]
    fn provider() -> Provider {
        Provider::aws_lc()
    }

    #[cfg(not(feature = "tls-aws-lc"))]
    fn provider() -> Provider {
        Provider::ring()
    }

    fn root() -> String {
        CertificateParams::default().self_signed(&KeyPair::generate().expect("key")).expect("root").pem()
    }

    #[test]
    fn useless_files_are_parsed_once_and_polled_at_the_usual_pace() {
        let file = NamedTempFile::new().expect("file");
        fs::write(file.path(), root()).expect("written");
        let source = FileIdentity::roots(file.path()).build(&provider()).expect("legal");
        assert_eq!(source.read_again(), Next::Poll, "nothing new");

        fs::write(file.path(), "of no use").expect("written");
        assert_eq!(source.read_again(), Next::Settle, "read once");
        assert_eq!(source.read_again(), Next::Poll, "read twice, rejected");
        assert_eq!(source.read_again(), Next::Poll, "still rejected");

        fs::write(file.path(), root()).expect("written");
        assert_eq!(source.read_again(), Next::Settle, "news again");
        assert_eq!(source.read_again(), Next::Poll, "taken");
        assert!(source.status().last_error.is_none());
    }

    #[test]
    fn two_reads_count_only_in_a_row() {
        let file = NamedTempFile::new().expect("file");
        let (old, new) = (root(), root());
        let put = |text: &str| fs::write(file.path(), text).expect("written");
        put(&old);
        let source = FileIdentity::roots(file.path()).build(&provider()).expect("legal");
        let before = source.current.load_full();

        let gone = || fs::remove_file(file.path()).expect("removed");
        let back = || put(&old);
        for between in [&gone as &dyn Fn(), &back] {
            put(&new);
            assert_eq!(source.read_again(), Next::Settle);
            between();
            assert_eq!(source.read_again(), Next::Poll);
            put(&new);
            assert_eq!(source.read_again(), Next::Settle);
            back();
            assert_eq!(source.read_again(), Next::Poll);
        }
        assert!(Arc::ptr_eq(&before, &source.current.load_full()));
    }
}
