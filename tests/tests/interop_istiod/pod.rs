//! The example `istio`, in what `pod.yaml` makes its environment: a process with neither sidecar nor agent, as a user runs it.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use mesh_tests::kubernetes::{destination_rule, service, token, virtual_service};
use mesh_tests::pair::{Shares, assert_by_chance};
use mesh_tests::peers::{Example, ISTIOD, Istiod, RunningExample};
use mesh_xds_client::Dialect;

use crate::shop::{Shop, Workload, accepted, listed};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/istio/pod.yaml");
const POD: &str = include_str!("../../../examples/istio/pod.yaml");

/// What the pod sets, the field that it takes it from, and what that is here.
const VARIABLES: [(&str, &str, &str); 4] = [
    ("POD_NAME", "metadata.name", "caller"),
    ("POD_NAMESPACE", "metadata.namespace", "shop"),
    ("INSTANCE_IP", "status.podIP", "127.0.0.9"),
    ("SERVICE_ACCOUNT", "spec.serviceAccountName", "caller"),
];
const HOST: &str = "reviews.shop.svc.cluster.local";
const URL: &str = "http://reviews.shop:9080/reviews/0";
const HOUR: Duration = Duration::from_secs(3600);

/// What the pod has mounted.
struct Files {
    root: TempDir,
}

// === impl Files ===

impl Files {
    /// What the downward API says of the pod, and nothing that istiod or the pod proves itself by.
    fn without_istiod() -> Self {
        let files = Self { root: tempfile::tempdir().unwrap() };
        files.put("/etc/istio/pod", "labels", "app=\"caller\"\nversion=\"v1\"\nsidecar.istio.io/inject=\"false\"");
        files.put("/etc/istio/pod", "annotations", "kubernetes.io/config.source=\"api\"");
        files
    }

    /// All of it.
    async fn of(shop: &mut Shop) -> Self {
        let files = Self::without_istiod();
        files.put("/var/run/secrets/istio", "root-cert.pem", &shop.istiod.root().await);
        files.put("/var/run/secrets/tokens", "istio-token", &token("caller", HOUR));
        files
    }

    /// A file where the pod has something mounted.
    fn put(&self, mount: &str, file: &str, text: &str) {
        stands(&format!("mountPath: {mount} }}"));
        stands(&format!("path: {file}"));
        let directory = self.root.path().join(mount.trim_start_matches('/'));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file), text).unwrap();
    }

    /// Starts the program as the pod does, with an istiod at this address.
    fn start(&self, example: &Example, istiod: &str) -> RunningExample {
        let (root, config) =
            (self.root.path().display().to_string(), json!({ "discoveryAddress": istiod }).to_string());
        let mut variables = vec![("POD_ROOT", &*root), ("PROXY_CONFIG", &config), ("ISTIOD_SAN", ISTIOD)];
        for (name, field, value) in VARIABLES {
            stands(&format!("- {{ name: {name}, valueFrom: {{ fieldRef: {{ fieldPath: {field} }} }} }}"));
            variables.push((name, value));
        }
        assert_eq!(POD.matches("valueFrom:").count(), VARIABLES.len(), "all that the pod sets is tried here");
        stands(&format!("args: [{URL:?}]"));
        example.start(&variables, &[URL])
    }
}

/// Adds a workload that takes plaintext, and that istiod believes to take mutual TLS as well, as if it had a sidecar.
async fn add(shop: &mut Shop, name: &'static str, number: u8) {
    let workload = Workload::start(name, number, &["reviews"]).await;
    let mut objects = workload.objects();
    objects[0]["metadata"]["labels"]["security.istio.io/tlsMode"] = json!("istio");
    for object in &objects {
        shop.istiod.apply(object).await;
    }
    shop.workloads.insert(name, workload);
}

/// Asserts that this is in the pod's file.
fn stands(text: &str) {
    assert!(POD.contains(text), "pod.yaml lacks `{text}`");
}

/// As in the pod's file: for the pod alone, in plaintext.
fn rule() -> Value {
    stands("workloadSelector: { matchLabels: { app: caller } }");
    stands("tls: { mode: DISABLE }");
    let mut rule = destination_rule(HOST, &["v1", "v2"], json!({ "tls": { "mode": "DISABLE" } }));
    rule["spec"]["workloadSelector"] = json!({ "matchLabels": { "app": "caller" } });
    rule
}

/// As in the pod's file: the pod's calls by weight, those of others as if there was no rule.
fn canary(weight: u32) -> Value {
    stands("match: [{ sourceLabels: { app: caller } }]");
    let to = |subset, weight| json!({ "destination": { "host": HOST, "subset": subset }, "weight": weight });
    let ours = json!({
        "name": format!("canary-{weight}"),
        "match": [{ "sourceLabels": { "app": "caller" } }],
        "route": [to("v1", 100 - weight), to("v2", weight)],
    });
    let others = json!({ "name": "everybody-else", "route": [{ "destination": { "host": HOST } }] });
    virtual_service(HOST, json!([ours, others]))
}

/// Who answered how many of the calls that went by this route, by what the program has said.
fn answers(said: &str, route: &str) -> Shares {
    let mut shares = Shares::new();
    for line in said.lines().filter_map(|line| line.strip_prefix(route)?.strip_prefix(": ")) {
        let answers = line.split(", ").filter_map(|answer| answer.rsplit_once(' '));
        for (name, calls) in answers.filter_map(|(name, calls)| Some((name, calls.parse::<u64>().ok()?))) {
            *shares.entry(name.to_owned()).or_default() += calls;
        }
    }
    shares
}

#[tokio::test]
async fn pods_file_is_what_istio_takes() {
    let Some(istiod) = Istiod::find() else { return };
    istiod.validate(FILE).await;
}

#[tokio::test]
async fn pod_without_a_sidecar_follows_a_canary_without_a_failed_call() {
    let Some(example) = Example::find("istio") else { return };
    let Some(mut shop) = Shop::open(Dialect::Sidecar).await else { return };
    shop.istiod.apply(&service("reviews", 11, &[("http", 9080)])).await;
    for (name, number) in [("v1-a", 1), ("v2-a", 2)] {
        add(&mut shop, name, number).await;
    }
    shop.istiod.apply(&rule()).await;
    shop.istiod.apply(&canary(0)).await;

    let files = Files::of(&mut shop).await;
    let mut caller = files.start(&example, &shop.istiod.secure_addr().to_string());
    for weight in [0, 50, 100] {
        shop.istiod.apply(&canary(weight)).await;
        let route = format!("canary-{weight}");
        let said = caller.says(|said| answers(said, &route).values().sum::<u64>() >= 300).await;
        let shares = answers(&said, &route);
        assert_by_chance(&shares, "v2-a", f64::from(weight) / 100.0);
        println!("{route}: {shares:?}");
    }
    accepted(&shop.istiod).await;
    listed(&shop.istiod, &[("SYNCED", 4)]).await;

    let said = caller.end().await;
    let last = said.lines().last().unwrap_or_default();
    assert!(!said.contains("failed (") && last.ends_with(" calls, 0 failed"), "{said}");
    println!("{last}");
}

#[tokio::test]
async fn pod_says_what_keeps_it_from_istiod() {
    let Some(example) = Example::find("istio") else { return };
    let files = Files::without_istiod();
    let nowhere = "127.0.0.1:1";
    let said = files.start(&example, nowhere).says(|said| said.contains("root-cert.pem")).await;
    assert!(said.contains("it cannot be read"), "{said}");

    let authority = mesh_tests::identity::Authority::new().identify("ns/istio-system/sa/istiod");
    files.put("/var/run/secrets/istio", "root-cert.pem", &fs::read_to_string(authority.roots).unwrap());
    let mut caller = files.start(&example, nowhere);
    caller.says(|said| said.contains("there is no token to show to the control plane")).await;
    files.put("/var/run/secrets/tokens", "istio-token", &token("caller", HOUR));
    caller.says(|said| said.contains("the control plane takes no connections")).await;
    let said = caller.end().await;
    assert!(said.contains("has no configuration"), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.ends_with(" failed") && !last.ends_with(" 0 failed"), "{said}");
}

#[tokio::test]
async fn pod_says_what_its_calls_lack_until_they_lack_nothing() {
    let Some(example) = Example::find("istio") else { return };
    let Some(mut shop) = Shop::open(Dialect::Sidecar).await else { return };
    let files = Files::of(&mut shop).await;
    let mut caller = files.start(&example, &shop.istiod.secure_addr().to_string());
    caller.says(|said| said.contains(&format!("Cluster `outbound|9080||{HOST}`: Requested"))).await;
    shop.istiod.apply(&service("reviews", 11, &[("http", 9080)])).await;
    caller.says(|said| said.contains("the cluster has no endpoints")).await;
    add(&mut shop, "v1-a", 1).await;
    caller.says(|said| said.contains("identity `default`: no source is registered")).await;
    shop.istiod.apply(&rule()).await;
    caller.says(|said| answers(said, "default").contains_key("v1-a")).await;
}
