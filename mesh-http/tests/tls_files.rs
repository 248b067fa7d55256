//! An identity in files: what is refused at the start, what a renewal takes over, and what never does.
#![cfg(any(feature = "tls-aws-lc", feature = "tls-ring"))]

mod tls_support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    config::{SanMatcher, Trust, UpstreamTls},
    identity::{Identity, IdentityErrorKind, IdentitySource},
};
use mesh_http::tls::{Connector, FileIdentity, FileIdentityBuilder, PeerError, TlsError};
use tempfile::TempDir;
use tokio::time;

use self::tls_support::{Authority, Issued, SHOP, client, default_identity, exchange, identities, provider, shake};

/// Long enough for a change to be seen and settle.
const A_WHILE: Duration = Duration::from_secs(12);

/// A directory with `chain.pem`, `key.pem` and `roots.pem`.
struct Folder(TempDir);

impl Folder {
    fn new(issued: &Issued, authority: &Authority) -> Self {
        let folder = Self(TempDir::new().expect("directory"));
        folder.write("chain.pem", issued.certificate.pem());
        folder.write("key.pem", issued.key.serialize_pem());
        folder.write("roots.pem", authority.pem());
        folder
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(file), text).expect("written");
    }

    fn files(&self) -> FileIdentityBuilder {
        FileIdentity::builder(self.path("chain.pem"), self.path("key.pem")).ca(self.path("roots.pem"))
    }

    /// The files, watched.
    fn watch(&self) -> Arc<FileIdentity> {
        watched(self.files())
    }
}

fn watched(files: FileIdentityBuilder) -> Arc<FileIdentity> {
    let source = Arc::new(files.build(&provider()).expect("legal"));
    tokio::spawn(source.clone().work());
    source
}

fn current(source: &Arc<FileIdentity>) -> Arc<Identity> {
    source.current().expect("there is one")
}

fn chain(source: &Arc<FileIdentity>) -> Vec<Vec<u8>> {
    current(source).credential().expect("shown").chain().iter().map(|der| der.to_vec()).collect()
}

fn der(issued: &Issued) -> Vec<u8> {
    issued.certificate.der().to_vec()
}

/// Mutual TLS with whatever the files say.
fn mutual(source: &Arc<FileIdentity>) -> Connector {
    let tls = UpstreamTls::new(Trust::Identity(default_identity())).with_identity("default");
    client(identities(source.clone())).connector(&tls, &[]).expect("legal")
}

#[tokio::test(start_paused = true)]
async fn renewal_is_for_the_next_handshake_and_connections_live_on() {
    let authority = Authority::new("shop");
    let (old, new) = (authority.issue(["cart"]), authority.issue(["cart"]));
    let folder = Folder::new(&old, &authority);
    let source = folder.watch();
    let connector = mutual(&source);
    let server = Arc::new(authority.issue(["reviews"]).server_demanding(&authority));

    // 1. A connection with the old certificate, and a session that could be resumed.
    let (ours, theirs) = shake(&connector, "reviews", &server).await;
    let (mut ours, mut theirs) = (ours.expect("ours"), theirs.expect("theirs"));
    exchange(&mut ours, &mut theirs).await;
    assert_eq!(theirs.get_ref().1.peer_certificates().expect("shown")[0], *old.certificate.der());

    // 2. The files are renewed.
    folder.write("chain.pem", new.certificate.pem());
    folder.write("key.pem", new.key.serialize_pem());
    time::sleep(A_WHILE).await;

    // 3. The next handshake shows the new certificate and resumes nothing.
    let (next, theirs_next) = shake(&connector, "reviews", &server).await;
    let theirs_next = theirs_next.expect("theirs");
    assert_eq!(theirs_next.get_ref().1.peer_certificates().expect("shown")[0], *new.certificate.der());
    assert!(!next.expect("ours").is_resumed());

    // 4. The first connection has not noticed.
    exchange(&mut ours, &mut theirs).await;
}

#[tokio::test(start_paused = true)]
async fn renewed_roots_are_believed_and_the_old_ones_no_longer() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = Folder::new(&old.issue(["cart"]), &old);
    let source = watched(FileIdentity::roots(folder.path("roots.pem")));
    let tls = UpstreamTls::new(Trust::Identity(default_identity()));
    let connector = client(identities(source)).connector(&tls, &[]).expect("legal");
    let (of_old, of_new) = (old.issue(["reviews"]).server().into(), new.issue(["reviews"]).server().into());
    shake(&connector, "reviews", &of_old).await.0.expect("old is believed");

    folder.write("roots.pem", new.pem());
    time::sleep(A_WHILE).await;

    shake(&connector, "reviews", &of_new).await.0.expect("new is believed");
    let error = shake(&connector, "reviews", &of_old).await.0.expect_err("old is not");
    assert!(matches!(error, TlsError::Refused(PeerError::Untrusted)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_half_written_keeps_the_last_good() {
    let authority = Authority::new("shop");
    let (old, new) = (authority.issue(["cart"]), authority.issue(["cart"]));
    let folder = Folder::new(&old, &authority);
    let source = folder.watch();
    let before = current(&source);
    let whole = new.certificate.pem();

    // The chain cut short, then empty, then whole but beside the old key; gone; and the new key at last.
    for (text, complaint) in [
        (Some(&whole[..whole.len() / 2]), "cut short"),
        (Some(""), "no certificate"),
        (Some(&whole[..]), "not that of the certificate"),
        (None, "cannot be read"),
    ] {
        match text {
            Some(text) => folder.write("chain.pem", text),
            None => fs::remove_file(folder.path("chain.pem")).expect("removed"),
        }
        time::sleep(A_WHILE).await;
        assert!(Arc::ptr_eq(&before, &current(&source)), "{complaint}");
        let error = source.status().last_error.expect("reported").to_string();
        assert!(error.contains(complaint), "{error}");
    }

    folder.write("chain.pem", &whole);
    folder.write("key.pem", new.key.serialize_pem());
    time::sleep(A_WHILE).await;
    assert_eq!(chain(&source), [der(&new)]);
    assert!(source.status().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn chain_is_not_taken_before_it_settles() {
    let authority = Authority::new("shop");
    let (old, new) = (authority.issue(["cart"]), authority.issue(["cart"]));
    let folder = Folder::new(&old, &authority);
    let source = folder.watch();

    // The first certificate of a chain and its key fit together; the rest is still to come.
    folder.write("key.pem", new.key.serialize_pem());
    folder.write("chain.pem", new.certificate.pem());
    time::sleep(FileIdentity::DEFAULT_INTERVAL + Duration::from_millis(100)).await;
    folder.write("chain.pem", new.certificate.pem() + &authority.pem());
    time::sleep(Duration::from_millis(500)).await;
    assert_eq!(chain(&source), [der(&old)], "read once as it is now");

    time::sleep(Duration::from_millis(500)).await;
    assert_eq!(chain(&source), [der(&new), authority.root().to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn files_that_return_to_what_is_in_use_clear_the_error() {
    let authority = Authority::new("shop");
    let old = authority.issue(["cart"]);
    let folder = Folder::new(&old, &authority);
    let source = folder.watch();
    folder.write("chain.pem", "");
    time::sleep(A_WHILE).await;
    assert!(source.status().last_error.is_some());

    folder.write("chain.pem", old.certificate.pem());
    time::sleep(A_WHILE).await;
    assert!(source.status().last_error.is_none());
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn swapped_symbolic_link_is_seen() {
    let authority = Authority::new("shop");
    let (old, new) = (authority.issue(["cart"]), authority.issue(["cart"]));
    let (of_old, of_new) = (Folder::new(&old, &authority), Folder::new(&new, &authority));
    let mount = TempDir::new().expect("directory");
    let path = |name: &str| mount.path().join(name);
    // As a kubelet lays a secret out: files point through `..data`, and one rename moves them all.
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, path(name)).expect("link");
    link(of_old.0.path(), "..data");
    link(Path::new("..data/chain.pem"), "chain.pem");
    link(Path::new("..data/key.pem"), "key.pem");
    let source = watched(FileIdentity::builder(path("chain.pem"), path("key.pem")));
    assert_eq!(chain(&source), [der(&old)]);

    link(of_new.0.path(), "..data_tmp");
    fs::rename(path("..data_tmp"), path("..data")).expect("swapped");
    time::sleep(A_WHILE).await;
    assert_eq!(chain(&source), [der(&new)]);
}

#[test]
fn unusable_files_are_refused_by_path() {
    let authority = Authority::new("shop");
    let issued = authority.issue(["cart"]);
    let certificate = issued.certificate.pem();
    let cut = &certificate[..certificate.len() / 2];
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let other_key = authority.issue(["cart"]).key.serialize_pem();
    for (file, text, kind, problem) in [
        ("chain.pem", None, IdentityErrorKind::Unreadable, "cannot be read"),
        ("key.pem", None, IdentityErrorKind::Unreadable, "cannot be read"),
        ("roots.pem", None, IdentityErrorKind::Unreadable, "cannot be read"),
        ("chain.pem", Some("nothing here"), IdentityErrorKind::Invalid, "no certificate"),
        ("chain.pem", Some(cut), IdentityErrorKind::Invalid, "cut short"),
        ("chain.pem", Some(garbage), IdentityErrorKind::Invalid, "first certificate cannot be read"),
        ("key.pem", Some(&certificate[..]), IdentityErrorKind::Invalid, "no private key"),
        ("key.pem", Some(bad_key), IdentityErrorKind::Invalid, "not a private key"),
        ("key.pem", Some(&other_key), IdentityErrorKind::Mismatched, "not that of the certificate"),
        ("roots.pem", Some(garbage), IdentityErrorKind::Invalid, "cannot serve as a root"),
    ] {
        let folder = Folder::new(&issued, &authority);
        match text {
            Some(text) => folder.write(file, text),
            None => fs::remove_file(folder.path(file)).expect("removed"),
        }
        let error = folder.files().build(&provider()).expect_err(problem);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.subject().contains(&folder.path(file).display().to_string()), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!error.remedy().is_empty());
    }
}

#[test]
fn interval_of_zero_is_refused() {
    let authority = Authority::new("shop");
    let folder = Folder::new(&authority.issue(["cart"]), &authority);
    let error = folder.files().interval(Duration::ZERO).build(&provider()).expect_err("refused");
    assert_eq!(error.subject(), "interval");
}

#[test]
fn status_tells_when_the_certificate_expires() {
    let authority = Authority::new("shop");
    let issued = authority.issue_valid(["cart"], (2020, 3000));
    let source = Folder::new(&issued, &authority).files().build(&provider()).expect("legal");
    assert!(source.status().to_string().ends_with("expires 3000-01-01T00:00:00Z"), "{}", source.status());
}

#[tokio::test]
async fn unnamed_roots_are_those_of_our_own_trust_domain() {
    let (shop, bank) = (Authority::new("shop"), Authority::new("bank"));
    let folder = Folder::new(&shop.issue([SHOP]), &shop);
    folder.write("bank.pem", bank.pem());
    let tls = UpstreamTls::new(Trust::Identity(default_identity()));
    let any = ["spiffe://shop.example/a", "spiffe://bank.example/a"]
        .map(|uri| SanMatcher { kind: None, matcher: mesh_core::config::StringMatcher::exact(uri) });
    let tls = tls.with_sans(any);
    let connect = |files: FileIdentityBuilder| {
        let source = Arc::new(files.build(&provider()).expect("legal"));
        client(identities(source)).connector(&tls, &[]).expect("legal")
    };
    let teller = bank.issue(["spiffe://bank.example/a"]).server().into();
    let forged = shop.issue(["spiffe://bank.example/a"]).server().into();
    let cart = shop.issue(["spiffe://shop.example/a"]).server().into();

    let alone = connect(folder.files());
    shake(&alone, "x", &cart).await.0.expect("our own domain");
    let error = shake(&alone, "x", &forged).await.0.expect_err("another domain");
    assert!(matches!(error, TlsError::Refused(PeerError::WrongTrustDomain { .. })), "{error:?}");

    let federated = connect(folder.files().bundle("bank.example", folder.path("bank.pem")));
    shake(&federated, "x", &cart).await.0.expect("our own domain");
    shake(&federated, "x", &teller).await.0.expect("a named domain");
    let error = shake(&federated, "x", &forged).await.0.expect_err("the wrong authority");
    assert!(matches!(error, TlsError::Refused(PeerError::Untrusted)), "{error:?}");
}
