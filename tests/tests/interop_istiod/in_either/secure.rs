//! istiod's secure port: istiod is known by its root and its name, and a caller by the token of its service account.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use mesh_core::source::ConfigSource as _;
use mesh_http::Mesh;
use mesh_tests::kubernetes::{token, virtual_service};
use mesh_tests::peers::ISTIOD;
use mesh_tests::sim::{Caller, Speaks};
use mesh_xds_client::{XdsClient, istio};

use super::open;
use crate::shop::{HOST, HTTP_PORT, RECONNECT, Shop, accepted, listed, to};

const ACCOUNT: &str = "web";
const HOUR: Duration = Duration::from_secs(3600);
/// So soon before its end each stream looks for another.
const BRIEF: Duration = Duration::from_secs(80);

/// What a pod has mounted.
struct Files {
    directory: TempDir,
}

// === impl Files ===

impl Files {
    async fn of(shop: &mut Shop) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(files.path("root-cert.pem"), shop.istiod.root().await).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// At once, as the kubelet does.
    fn put(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// A caller of this account that shows the token in this file.
    fn caller(&self, shop: &Shop, token: &str) -> istio::Workload {
        shop.caller()
            .service_account(ACCOUNT)
            .discovery(shop.istiod.secure_addr().to_string())
            .discovery_name(ISTIOD)
            .secure(self.path("root-cert.pem"))
            .token(self.path(token))
    }
}

/// The same, believed by nobody.
fn forged(token: &str) -> String {
    token.replace(".good", ".bad")
}

/// Waits until the status tells of this trouble.
async fn troubled(source: &XdsClient, why: &str) {
    let told = || source.status().last_error.unwrap_or_default();
    let waiting = async {
        while !told().contains(why) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "{why} in {}", told());
}

#[tokio::test]
async fn stream_shows_the_token_that_the_file_holds_when_it_begins() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let files = Files::of(&mut shop).await;
    files.put("token", &token(ACCOUNT, BRIEF));
    let ours = shop.clients_as(&files.caller(&shop, "token")).await;
    accepted(&shop.istiod).await;
    listed(&shop.istiod, &[("SYNCED", 4)]).await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            for (name, rotated, why) in [
                ("first", token("other", BRIEF), "sa/other"),
                ("second", forged(&token(ACCOUNT, HOUR)), "Unauthenticated: authentication failure"),
            ] {
                files.put("token", &rotated);
                shop.istiod.restart().await;
                shop.istiod.apply(&virtual_service(HOST, json!([{ "name": name, "route": [to("")] }]))).await;
                troubled(&ours.source, why).await;
                files.put("token", &token(ACCOUNT, BRIEF));
                ours.routed_by(name).await;
            }
            accepted(&shop.istiod).await;
        })
        .await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn caller_that_istiod_does_not_believe_says_why_and_is_served_as_soon_as_it_is_believed() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let files = Files::of(&mut shop).await;
    files.put("forged", &forged(&token(ACCOUNT, HOUR)));
    files.put("other", &token("other", HOUR));
    files.put("none", "a secret");
    files.put("old", &token(ACCOUNT, Duration::ZERO));
    let target = format!("{HOST}:{HTTP_PORT}");
    let mut callers = Vec::new();
    for (file, parts) in [
        ("missing", ["there is no token to show to the control plane", "missing cannot be read"]),
        ("none", ["there is no token to show to the control plane", "it does not have three parts"]),
        ("old", ["there is no token to show to the control plane", "has expired"]),
        // What is wrong with it is in istiod's log only.
        ("forged", ["the control plane ended the stream", "Unauthenticated: authentication failure"]),
        ("other", ["PermissionDenied: authorization failed", "spiffe://mesh.test/ns/shop/sa/other"]),
    ] {
        let workload = files.caller(&shop, file).metadata("NAME", file);
        let source = workload.client().unwrap().reconnect(RECONNECT, RECONNECT).build().unwrap();
        let mesh = Mesh::builder().source(source.clone()).build().unwrap();
        let caller = Caller::of(&mesh, &target, Speaks::Http1);
        for part in parts {
            troubled(&source, part).await;
        }
        assert!(!source.status().connected && source.snapshots().borrow().clusters.is_empty(), "{file}");
        callers.push((file, caller));
    }
    for (file, caller) in callers {
        files.put(file, &token(ACCOUNT, HOUR));
        timeout(Duration::from_secs(20), caller.ready()).await.expect(file).unwrap();
        assert_eq!(caller.call().await.unwrap(), "v1-a");
    }
}

#[tokio::test]
async fn istiod_that_cannot_prove_who_it_is_is_not_believed() {
    let Some(mut shop) = open().await else { return };
    let files = Files::of(&mut shop).await;
    files.put("token", &token(ACCOUNT, HOUR));
    let other = mesh_tests::identity::Authority::new().identify("ns/istio-system/sa/istiod");
    let right = files.caller(&shop, "token");
    for workload in [right.clone().discovery_name("istiod.elsewhere.svc"), right.secure(other.roots)] {
        let source = workload.client().unwrap().build().unwrap();
        let mesh = Mesh::builder().source(source.clone()).build().unwrap();
        let _caller = Caller::of(&mesh, &format!("{HOST}:{HTTP_PORT}"), Speaks::Http1);
        troubled(&source, "the TLS handshake with the control plane failed").await;
        assert!(!source.status().connected);
    }
}
