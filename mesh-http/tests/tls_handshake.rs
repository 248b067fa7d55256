//! Whom a connector accepts, whom it refuses and in which words, and what it tells the peer.
#![cfg(any(feature = "tls-aws-lc", feature = "tls-ring"))]

mod tls_support;

use std::{
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper_util::rt::TokioIo;
use mesh_core::{
    config::{SanKind, SanMatcher, Sni, SpiffeId, StringMatcher, Trust, UpstreamTls},
    identity::{FixedIdentity, Identities, Identity, IdentityError, IdentityErrorKind, IdentitySource, IdentityStatus},
};
use mesh_http::tls::{PeerError, TlsError};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose};
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use self::tls_support::{
    Authority, Clock, Issued, SHOP, YEAR_2025, YEAR_2030, client, connector, default_identity, exchange, fixed,
    identities, leaf_params, provider, refusal, refusal_by, shake,
};

fn domain(trust_domain: &str, authority: &Authority) -> Identity {
    Identity::domain_roots(trust_domain, [authority.root()]).expect("legal")
}

fn by_identity() -> UpstreamTls {
    UpstreamTls::new(Trust::Identity(default_identity()))
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let authority = Authority::new("shop");
    let cart = authority.issue([SHOP]);
    let reviews = authority.issue(["spiffe://shop.example/ns/a/sa/reviews"]);
    let identity = cart.identity().with_bundle("shop.example", [authority.root()]).expect("legal");
    let id = SpiffeId::parse("spiffe://shop.example/ns/a/sa/reviews").expect("legal");
    let tls = by_identity().with_identity("default").with_spiffe_id(&id);
    let connector = client(fixed(identity)).connector(&tls, &[]).expect("legal");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = Arc::new(reviews.configure(&[version], Some(&authority)));
        let (ours, theirs) = shake(&connector, "reviews.shop:9080", &server).await;
        let (mut ours, mut theirs) = (ours.expect("ours"), theirs.expect("theirs"));
        exchange(&mut ours, &mut theirs).await;
        let shown = theirs.get_ref().1.peer_certificates().expect("shown");
        assert_eq!(shown[0], *cart.certificate.der());
        assert_eq!(ours.peer_certificates().next(), Some(&**reviews.certificate.der()));
    }
}

#[tokio::test]
async fn chains_are_followed_and_shown_through_intermediates() {
    let root = Authority::new("root");
    let (clients, servers) = (root.intermediate("clients"), root.intermediate("servers"));
    let identity = clients.issue(["cart"]).identity().with_default_bundle([root.root()]).expect("legal");
    let tls = by_identity().with_identity("default");
    let connector = client(fixed(identity)).connector(&tls, &[]).expect("legal");
    let server = Arc::new(servers.issue(["reviews"]).server_demanding(&root));
    let (ours, theirs) = shake(&connector, "reviews", &server).await;
    exchange(&mut ours.expect("ours"), &mut theirs.expect("theirs")).await;
}

/// Each call renews: every other identity is of the one authority or the other.
#[derive(Debug)]
struct Restless {
    identities: [Arc<Identity>; 2],
    calls: AtomicUsize,
}

impl IdentitySource for Restless {
    fn current(&self) -> Result<Arc<Identity>, IdentityError> {
        Ok(self.identities[self.calls.fetch_add(1, Ordering::Relaxed) % 2].clone())
    }

    fn status(&self) -> IdentityStatus {
        IdentityStatus::default()
    }
}

#[tokio::test]
async fn certificate_and_roots_of_one_identity_are_of_one_reading() {
    let authorities = [Authority::new("even"), Authority::new("odd")];
    let identity = |authority: &Authority| {
        Arc::new(authority.issue(["cart"]).identity().with_default_bundle([authority.root()]).expect("legal"))
    };
    let source = Restless { identities: authorities.each_ref().map(identity), calls: AtomicUsize::new(0) };
    let tls = by_identity().with_identity("default");
    let connector = client(identities(Arc::new(source))).connector(&tls, &[]).expect("legal");
    for authority in &authorities {
        let server = Arc::new(authority.issue(["reviews"]).server_demanding(authority));
        let (ours, theirs) = shake(&connector, "reviews", &server).await;
        ours.expect("ours");
        theirs.expect("theirs");
    }
}

#[tokio::test]
async fn expired_certificate_is_refused() {
    let authority = Authority::new("shop");
    let server = authority.issue_valid(["reviews"], (2020, 2021)).server();
    let (error, cause) = refusal(&UpstreamTls::new(authority.trust()), "reviews", server).await;
    assert!(matches!(error, TlsError::Refused(PeerError::Expired { not_after: Some(_) })), "{error:?}");
    assert_eq!(cause, "it expired at 2021-01-01T00:00:00Z");
}

#[tokio::test]
async fn certificate_from_the_future_is_refused() {
    let authority = Authority::new("shop");
    let server = authority.issue_valid(["reviews"], (2026, 2030)).server();
    let (error, cause) = refusal(&UpstreamTls::new(authority.trust()), "reviews", server).await;
    assert!(matches!(error, TlsError::Refused(PeerError::NotYetValid { .. })), "{error:?}");
    assert_eq!(cause, "it is not valid before 2026-01-01T00:00:00Z");
}

#[tokio::test]
async fn wrong_name_is_refused_and_the_names_are_told() {
    let authority = Authority::new("shop");
    let issued = authority.issue(["ratings", "10.0.0.9", "a@b.example"]);
    let tls = UpstreamTls::new(authority.trust());
    let (error, cause) = refusal(&tls, "reviews:80", issued.server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::WrongName { .. })), "{error:?}");
    assert_eq!(cause, "it is not for `reviews` but for `ratings`, `10.0.0.9`, `a@b.example`");

    let (_, cause) = refusal(&tls, "10.0.0.5:80", issued.server()).await;
    assert!(cause.contains("not for `10.0.0.5`"), "{cause}");
}

#[tokio::test]
async fn wrong_spiffe_id_is_refused() {
    let authority = Authority::new("shop");
    let id = SpiffeId::parse("spiffe://shop.example/ns/a/sa/reviews").expect("legal");
    let tls = by_identity().with_spiffe_id(&id);
    let connector = client(fixed(domain("shop.example", &authority))).connector(&tls, &[]).expect("legal");
    let (error, cause) = refusal_by(&connector, "reviews", authority.issue([SHOP]).server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::WrongName { .. })), "{error:?}");
    assert_eq!(cause, format!("it is not for `spiffe://shop.example/ns/a/sa/reviews` but for `{SHOP}`"));
}

#[tokio::test]
async fn trust_domain_without_a_bundle_is_refused() {
    let (shop, bank) = (Authority::new("shop"), Authority::new("bank"));
    let tls = by_identity().with_trust_domain("bank.example").expect("legal");
    let connector = client(fixed(domain("shop.example", &shop))).connector(&tls, &[]).expect("legal");
    let (error, cause) = refusal_by(&connector, "x", bank.issue(["spiffe://bank.example/a"]).server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::WrongTrustDomain { .. })), "{error:?}");
    assert_eq!(cause, "its trust domain `bank.example` is not trusted; those that are: `shop.example`");
}

#[tokio::test]
async fn authority_of_one_domain_cannot_vouch_for_another() {
    let (shop, bank) = (Authority::new("shop"), Authority::new("bank"));
    let both = domain("shop.example", &shop).with_bundle("bank.example", [bank.root()]).expect("legal");
    let tls = by_identity().with_trust_domain("bank.example").expect("legal");
    let connector = client(fixed(both)).connector(&tls, &[]).expect("legal");

    let forged = shop.issue(["spiffe://bank.example/teller"]);
    let (error, _) = refusal_by(&connector, "x", forged.server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::Untrusted)), "{error:?}");

    let (genuine, _) = shake(&connector, "x", &bank.issue(["spiffe://bank.example/teller"]).server().into()).await;
    genuine.expect("accepted");
}

#[tokio::test]
async fn peer_without_spiffe_id_is_nobody_where_only_domains_are_trusted() {
    let shop = Authority::new("shop");
    let connector = client(fixed(domain("shop.example", &shop))).connector(&by_identity(), &[]).expect("legal");
    let (error, cause) = refusal_by(&connector, "reviews", shop.issue(["reviews"]).server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::WrongTrustDomain { presented: None, .. })), "{error:?}");
    assert_eq!(cause, "it has no SPIFFE id, and only trust domains are trusted: `shop.example`");
}

#[tokio::test]
async fn certificate_that_breaks_the_spiffe_rules_is_refused() {
    let authority = Authority::new("shop");
    let mut signing = leaf_params([SHOP]);
    signing.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    for (params, reason) in [
        (leaf_params([SHOP, "https://shop.example"]), "another URI beside it"),
        (leaf_params([SHOP, "spiffe://shop.example/b"]), "another URI beside it"),
        (leaf_params(["spiffe://shop.example//cart"]), "does not obey"),
        (leaf_params(["spiffe://shop.example"]), "not a workload"),
        (leaf_params(["SPIFFE://shop.example/cart"]), "does not obey"),
        (signing, "may sign certificates"),
    ] {
        let server = authority.issue_params(params).server();
        let tls = UpstreamTls::new(authority.trust()).with_trust_domain("shop.example").expect("legal");
        let (error, cause) = refusal(&tls, "cart", server).await;
        assert!(matches!(error, TlsError::Refused(PeerError::InvalidSpiffeId { .. })), "{error:?}");
        assert!(cause.contains(reason), "{cause}");
    }
}

#[tokio::test]
async fn stranger_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for issued in [theirs.issue(["reviews"]), Issued::self_signed("reviews")] {
        let (error, cause) = refusal(&UpstreamTls::new(ours.trust()), "reviews", issued.server()).await;
        assert!(matches!(error, TlsError::Refused(PeerError::Untrusted)), "{error:?}");
        assert_eq!(cause, "no trusted root vouches for it");
    }
}

#[tokio::test]
async fn roots_of_the_system_do_not_vouch_for_a_private_authority() {
    let server = Authority::new("shop").issue(["reviews"]).server().into();
    let (ours, _) = shake(&connector(&UpstreamTls::new(Trust::System)), "reviews", &server).await;
    match ours.expect_err("refused") {
        TlsError::Refused(PeerError::Untrusted) => {}
        // A machine without any root says so instead.
        TlsError::Identity(error) => assert!(error.subject().contains("operating system"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn authority_is_no_peer() {
    let authority = Authority::new("shop");
    let mut params = leaf_params(["reviews"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let server = authority.issue_params(params).server();
    let (error, cause) = refusal(&UpstreamTls::new(authority.trust()), "reviews", server).await;
    assert!(matches!(error, TlsError::Refused(PeerError::Authority)), "{error:?}");
    assert!(cause.contains("authority"));
}

#[tokio::test]
async fn names_that_cannot_be_read_condemn_the_certificate() {
    let authority = Authority::new("shop");
    let mut params: CertificateParams = leaf_params([]);
    // A URI whose bytes are not text, in a subject alternative name extension.
    let names = vec![0x30, 0x04, 0x86, 0x02, 0xff, 0xfe];
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
    let anything =
        SanMatcher { kind: None, matcher: StringMatcher::contains("").unwrap_or_else(|_| StringMatcher::exact("")) };
    let tls = UpstreamTls::new(authority.trust()).with_sans([anything]);
    let (error, _) = refusal(&tls, "reviews", authority.issue_params(params).server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::Malformed { .. })), "{error:?}");
}

#[tokio::test]
async fn demand_for_a_certificate_that_we_have_not_arrives_with_the_first_read() {
    let authority = Authority::new("shop");
    let server = Arc::new(authority.issue(["reviews"]).server_demanding(&authority));
    let (ours, theirs) = shake(&connector(&UpstreamTls::new(authority.trust())), "reviews", &server).await;
    theirs.expect_err("refused by the server");
    let error = ours.expect("our half is done").read_u8().await.expect_err("refused");
    let found = TlsError::find(&error).expect("typed");
    assert!(matches!(found, TlsError::Alert(AlertDescription::CertificateRequired)), "{found:?}");
    assert!(found.to_string().contains("demands a client certificate"));
}

#[tokio::test]
async fn late_refusal_is_found_in_the_error_of_hyper() {
    let authority = Authority::new("shop");
    let server = Arc::new(authority.issue(["reviews"]).server_demanding(&authority));
    let (ours, _) = shake(&connector(&UpstreamTls::new(authority.trust())), "reviews", &server).await;
    let io = TokioIo::new(ours.expect("our half is done"));
    let (_sender, connection) = hyper::client::conn::http1::handshake::<_, String>(io).await.expect("no bytes yet");
    let error = connection.await.expect_err("refused");
    let found = TlsError::find(&error).expect("typed");
    assert!(matches!(found, TlsError::Alert(AlertDescription::CertificateRequired)), "{found:?}");
}

#[tokio::test]
async fn demand_for_a_certificate_fails_the_handshake_of_tls_1_2() {
    let authority = Authority::new("shop");
    let server = authority.issue(["reviews"]).configure(&[&rustls::version::TLS12], Some(&authority));
    let (error, _) = refusal(&UpstreamTls::new(authority.trust()), "reviews", server).await;
    assert!(matches!(error, TlsError::Alert(_)), "{error:?}");
}

#[tokio::test]
async fn plaintext_peer_is_called_so() {
    let connector = connector(&UpstreamTls::new(Authority::new("shop").trust()));
    let name = connector.peer_name("reviews", None).expect("name");
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\0\0\x12\x04\0\0\0\0\0", b"220 mail\r\n"] {
        let (near, mut far) = tokio::io::duplex(4096);
        far.write_all(answer).await.expect("room");
        let error = connector.connect(near, &name).await.expect_err("refused");
        assert!(matches!(error, TlsError::Plaintext), "{error:?}");
        assert!(error.to_string().contains("does not speak TLS"));
    }
}

#[tokio::test]
async fn peer_that_hangs_up_is_called_so() {
    let connector = connector(&UpstreamTls::new(Authority::new("shop").trust()));
    let name = connector.peer_name("reviews", None).expect("name");
    let (near, mut far) = tokio::io::duplex(4096);
    let hang_up = async {
        far.read_u8().await.expect("client hello");
        drop(far);
    };
    let (error, ()) = tokio::join!(connector.connect(near, &name), hang_up);
    let error = error.expect_err("no handshake");
    assert!(matches!(error, TlsError::Closed), "{error:?}");
}

#[tokio::test]
async fn missing_identity_says_what_is_missing() {
    let authority = Authority::new("shop");
    let roots_only = Identity::roots([authority.root()]).expect("legal");
    let certificate_only = authority.issue([SHOP]).identity();
    for (identities, tls, subject) in [
        (Identities::new(), by_identity(), "identity `default`: no source is registered"),
        (fixed(roots_only), by_identity().with_identity("default"), "identity `default`: it has no certificate"),
        (fixed(certificate_only), by_identity(), "identity `default`: it has no trust bundle"),
    ] {
        let connector = client(identities).connector(&tls, &[]).expect("looked up later");
        let name = connector.peer_name("reviews", None).expect("name");
        let (near, _far) = tokio::io::duplex(4096);
        let error = connector.connect(near, &name).await.expect_err("nothing to go by");
        let TlsError::Identity(cause) = &error else { panic!("{error:?}") };
        assert_eq!(cause.kind(), IdentityErrorKind::Absent);
        assert!(cause.to_string().starts_with(subject), "{cause}");
    }
}

#[tokio::test]
async fn identity_may_come_after_the_connector() {
    let authority = Authority::new("shop");
    let identities = Identities::new();
    let connector = client(identities.clone()).connector(&by_identity(), &[]).expect("legal");
    let roots = Identity::roots([authority.root()]).expect("legal");
    identities.insert("default", Arc::new(FixedIdentity::new(roots)));
    let (ours, _) = shake(&connector, "reviews", &authority.issue(["reviews"]).server().into()).await;
    ours.expect("accepted");
}

#[test]
fn root_that_is_none_is_refused_when_the_connector_is_made() {
    let tls = UpstreamTls::new(Trust::Roots(vec![Box::from(&b"no"[..])].into()));
    let error = client(Identities::new()).connector(&tls, &[]).expect_err("refused");
    let cause = error.source().expect("cause").to_string();
    assert!(cause.starts_with("trusted roots, certificate 0: it cannot serve as a root"), "{cause}");
}

#[tokio::test]
async fn sni_is_sent_as_configured() {
    let authority = Authority::new("shop");
    let issued = authority.issue(["reviews.shop", "endpoint.shop", "fixed.shop", "10.0.0.5", "::1"]);
    let server = Arc::new(issued.server());
    let fixed = || Sni::Name("fixed.shop".into());
    let of_endpoint = |otherwise: Option<&str>| Sni::EndpointHostname { otherwise: otherwise.map(Into::into) };
    for (sni, authority_text, hostname, expected) in [
        (Sni::Authority, "reviews.shop:9080", Some("endpoint.shop"), Some("reviews.shop")),
        (Sni::Authority, "10.0.0.5:9080", Some("endpoint.shop"), None),
        (Sni::Authority, "[::1]:9080", None, None),
        (of_endpoint(None), "reviews.shop", Some("endpoint.shop"), Some("endpoint.shop")),
        (of_endpoint(None), "reviews.shop", Some("10.0.0.5"), None),
        (of_endpoint(None), "reviews.shop", None, Some("reviews.shop")),
        (of_endpoint(Some("db.shop")), "reviews.shop", Some("endpoint.shop"), Some("endpoint.shop")),
        (of_endpoint(Some("db.shop")), "reviews.shop", None, Some("db.shop")),
        (fixed(), "reviews.shop", Some("endpoint.shop"), Some("fixed.shop")),
        (Sni::Off, "reviews.shop", Some("endpoint.shop"), None),
    ] {
        let case = format!("{sni:?} {authority_text} {hostname:?}");
        let connector = connector(&UpstreamTls::new(authority.trust()).with_sni(sni));
        let name = connector.peer_name(authority_text, hostname).expect("name");
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(server.clone());
        let (ours, theirs) = tokio::join!(connector.connect(near, &name), acceptor.accept(far));
        ours.expect(&case);
        assert_eq!(theirs.expect(&case).get_ref().1.server_name(), expected, "{case}");
    }
}

#[tokio::test]
async fn names_that_istio_sends_are_sent_as_they_are() {
    let authority = Authority::new("shop");
    let istio = "outbound_.9080_._.reviews.shop.svc.cluster.local";
    let tls = UpstreamTls::new(authority.trust()).with_sni(Sni::Name(istio.into())).with_trust_domain("shop.example");
    let server = authority.issue([SHOP]).server().into();
    let (ours, theirs) = shake(&connector(&tls.expect("legal")), "reviews:9080", &server).await;
    ours.expect("accepted");
    assert_eq!(theirs.expect("accepted").get_ref().1.server_name(), Some(istio));
}

#[tokio::test]
async fn connecting_can_be_spawned() {
    let authority = Authority::new("shop");
    let connector = connector(&UpstreamTls::new(authority.trust()));
    let name = connector.peer_name("reviews", None).expect("name");
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connecting = tokio::spawn(async move { connector.connect(near, &name).await });
    TlsAcceptor::from(Arc::new(authority.issue(["reviews"]).server())).accept(far).await.expect("accepted");
    connecting.await.expect("no panic").expect("accepted");
}

#[test]
fn what_is_no_name_is_refused() {
    let connector = connector(&UpstreamTls::new(Authority::new("shop").trust()));
    for bad in ["", "a b", "*.shop", "-", "[::1"] {
        let error = connector.peer_name(bad, None).expect_err(bad);
        assert!(matches!(error, TlsError::Name { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn switched_off_sni_still_asks_for_the_authority() {
    let authority = Authority::new("shop");
    let tls = UpstreamTls::new(authority.trust()).with_sni(Sni::Off);
    let (error, _) = refusal(&tls, "reviews", authority.issue(["ratings"]).server()).await;
    assert!(matches!(error, TlsError::Refused(PeerError::WrongName { .. })), "{error:?}");
}

#[tokio::test]
async fn wildcard_stands_for_one_label() {
    let authority = Authority::new("shop");
    let server = Arc::new(authority.issue(["*.shop.example"]).server());
    let by_name = UpstreamTls::new(authority.trust());
    let by_san = |name| by_name.clone().with_sans([SanMatcher::dns(name)]);
    for (tls, asked, accepted) in [
        (by_name.clone(), "reviews.shop.example", true),
        (by_name.clone(), "a.reviews.shop.example", false),
        (by_name.clone(), "shop.example", false),
        (by_san("reviews.shop.example"), "elsewhere", true),
        (by_san("a.reviews.shop.example"), "reviews.shop.example", false),
    ] {
        let (ours, _) = shake(&connector(&tls), asked, &server).await;
        assert_eq!(ours.is_ok(), accepted, "{asked}");
    }
}

#[tokio::test]
async fn any_name_that_passes_any_matcher_suffices() {
    let authority = Authority::new("shop");
    let server = Arc::new(authority.issue(["a.shop", "10.0.0.5", "cart@shop.example"]).server());
    let exact = |kind, text| SanMatcher { kind, matcher: StringMatcher::exact(text) };
    for (matcher, accepted) in [
        (exact(Some(SanKind::Ip), "10.0.0.5"), true),
        (exact(Some(SanKind::Dns), "10.0.0.5"), false),
        (exact(Some(SanKind::Email), "cart@shop.example"), true),
        (exact(None, "a.shop"), true),
        (exact(Some(SanKind::Uri), "a.shop"), false),
    ] {
        let case = format!("{matcher:?}");
        let tls = UpstreamTls::new(authority.trust()).with_sans([SanMatcher::dns("nobody"), matcher]);
        let (ours, _) = shake(&connector(&tls), "whatever", &server).await;
        assert_eq!(ours.is_ok(), accepted, "{case}");
    }
}

#[tokio::test]
async fn alpn_is_negotiated() {
    let authority = Authority::new("shop");
    let mut server = authority.issue(["reviews"]).server();
    server.alpn_protocols = vec![b"http/1.1".to_vec(), b"istio".to_vec(), b"h2".to_vec()];
    let server = Arc::new(server);
    let tls = UpstreamTls::new(authority.trust());
    for (tls, implied, expected) in [
        (tls.clone(), &["h2"][..], Some(&b"h2"[..])),
        (tls.clone(), &["h2", "http/1.1"], Some(b"http/1.1")),
        (tls.clone(), &[], None),
        (tls.clone().with_alpn(["istio"]), &["h2"], Some(b"istio")),
    ] {
        let connector = client(Identities::new()).connector(&tls, implied).expect("legal");
        let (ours, _) = shake(&connector, "reviews", &server).await;
        assert_eq!(ours.expect("accepted").alpn(), expected);
    }

    let connector = client(Identities::new()).connector(&tls, &["h3"]).expect("legal");
    let (ours, _) = shake(&connector, "reviews", &server).await;
    let error = ours.expect_err("nothing in common");
    assert!(matches!(error, TlsError::Alert(AlertDescription::NoApplicationProtocol)), "{error:?}");
}

#[tokio::test]
async fn session_is_resumed_by_the_same_connector_only() {
    let authority = Authority::new("shop");
    let server = Arc::new(authority.issue(["reviews"]).server());
    let tls = UpstreamTls::new(authority.trust());
    let (first, second) = (connector(&tls), connector(&tls));
    for (connector, resumed) in [(&first, false), (&first, true), (&second, false)] {
        let (ours, theirs) = shake(connector, "reviews", &server).await;
        let (mut ours, mut theirs) = (ours.expect("ours"), theirs.expect("theirs"));
        exchange(&mut ours, &mut theirs).await;
        assert_eq!(ours.is_resumed(), resumed);
    }
}

#[tokio::test]
async fn session_does_not_outlive_the_certificate_of_its_peer() {
    let authority = Authority::new("shop");
    let issued = authority.issue_valid(["reviews"], (2020, 2030));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = Arc::new(issued.server_of_version(version));
        let clock = Clock::at(YEAR_2030 - 60);
        let client = mesh_http::tls::TlsClient::with_clock(provider(), Identities::new(), clock.clone());
        let connector = client.connector(&UpstreamTls::new(authority.trust()), &[]).expect("legal");
        let (ours, theirs) = shake(&connector, "reviews", &server).await;
        exchange(&mut ours.expect("ours"), &mut theirs.expect("theirs")).await;

        // The server has a new certificate since, and still knows its sessions.
        clock.set(YEAR_2030 + 60);
        let mut renewed = authority.issue_valid(["reviews"], (2029, 2031)).server_of_version(version);
        renewed.session_storage = server.session_storage.clone();
        let renewed = Arc::new(renewed);
        let error = shake(&connector, "reviews", &renewed).await.0.expect_err("resumed with the old one");
        assert!(matches!(error, TlsError::Refused(PeerError::Expired { .. })), "{error:?}");
        assert!(!shake(&connector, "reviews", &renewed).await.0.expect("from nothing").is_resumed());
    }
}

#[tokio::test]
async fn session_is_not_resumed_under_another_trust() {
    let (shop, bank) = (Authority::new("shop"), Authority::new("bank"));
    let server = Arc::new(shop.issue(["reviews"]).server());
    let roots =
        |authority: &Authority| Arc::new(FixedIdentity::new(Identity::roots([authority.root()]).expect("legal")));
    let identities = identities(roots(&shop));
    let client = mesh_http::tls::TlsClient::with_clock(provider(), identities.clone(), Clock::at(YEAR_2025));
    let connector = client.connector(&by_identity(), &[]).expect("legal");
    let (ours, theirs) = shake(&connector, "reviews", &server).await;
    exchange(&mut ours.expect("ours"), &mut theirs.expect("theirs")).await;

    identities.insert("default", roots(&bank));
    let (ours, _) = shake(&connector, "reviews", &server).await;
    let error = ours.expect_err("no longer trusted");
    assert!(matches!(error, TlsError::Refused(PeerError::Untrusted)), "{error:?}");
}
