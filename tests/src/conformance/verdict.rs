//! What a client makes of a configuration: the kinds that it refuses, as the control plane sees it, and who answers its calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::{ControlPlane, Event};
use tokio::time::timeout;

use super::client::Client;
use super::mutate::{self, Mutation};
use super::{Addresses, Case, Scene, Tally, generate};

/// Targets that are open at a time.
const AT_ONCE: usize = 200;
/// For what takes moments.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what a sidecar says at once, if it says anything.
const MOMENT: Duration = Duration::from_secs(2);

/// What one client makes of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The kinds of which a resource is refused.
    pub refused: BTreeSet<ResourceKind>,
    /// Of each probe.
    pub tallies: Vec<Tally>,
    /// Why, in the client's words.
    pub words: Vec<String>,
}

/// Tries every case on the client.
///
/// # Panics
///
/// When the client leaves a response of the control plane unanswered for twenty seconds.
pub async fn of_all(plane: &ControlPlane, cases: &[Case], client: &mut Client) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    for batch in cases.chunks(AT_ONCE) {
        plane.update(|transaction| batch.iter().for_each(|case| case.offer(transaction)));
        let before = plane.events().len();
        let tallies = client.probe(batch).await;
        let answered = timeout(PATIENCE, plane.wait_answered()).await;
        assert!(answered.is_ok(), "the client does not say what it makes of a response");
        let refusals = refusals(&plane.events()[before..]);
        for (name, tallies) in tallies {
            let (refused, words) = refusals.get(&name).cloned().unwrap_or_default();
            verdicts.insert(name, Verdict { refused, tallies, words });
        }
        client.close().await;
        timeout(PATIENCE, plane.wait_streams(0)).await.expect("a client that is closed leaves");
        plane.update(|transaction| batch.iter().for_each(|case| case.withdraw(transaction)));
    }
    verdicts
}

/// Tries every generated configuration on the client, which has to take it as it is meant.
///
/// # Panics
///
/// When it takes one otherwise, and where [`of_all`] does.
pub async fn assert_as_meant(scene: &Scene, client: &mut Client) {
    let cases = generate::all(1, &scene.addresses());
    let verdicts = of_all(&scene.plane, &cases, client).await;
    let found = surprises(&cases, &verdicts);
    assert!(found.is_empty(), "{} surprises:\n{}", found.len(), found.join("\n"));
}

/// Tries every mutation on the client.
///
/// # Panics
///
/// Where [`of_all`] does.
pub async fn of_mutations(scene: &Scene, client: &mut Client) -> BTreeMap<&'static str, Verdict> {
    let (mutations, addresses) = (mutate::all(), scene.addresses());
    let cases: Vec<_> = mutations.iter().zip(0..).map(|(one, number)| one.proxyless(number, &addresses)).collect();
    let mut verdicts = of_all(&scene.plane, &cases, client).await;
    let verdict = |case: &Case| verdicts.remove(&case.name).expect("every case has a verdict");
    mutations.iter().map(|mutation| mutation.name).zip(cases.iter().map(verdict)).collect()
}

/// Kinds that were refused, and in which words, by the target of the stream: each target has a stream of its own.
fn refusals(events: &[Event]) -> BTreeMap<String, (BTreeSet<ResourceKind>, Vec<String>)> {
    let mut targets = BTreeMap::new();
    let mut refusals: BTreeMap<String, (BTreeSet<_>, Vec<_>)> = BTreeMap::new();
    for event in events {
        let Some(request) = event.request() else { continue };
        if request.kind == Some(ResourceKind::Listener)
            && let Some(target) = request.names.first()
        {
            targets.insert(request.stream, target.clone());
        }
        if let (Event::Nacked(_), Some(kind), Some(target)) = (event, request.kind, targets.get(&request.stream)) {
            let (kinds, words) = refusals.entry(target.clone()).or_default();
            kinds.insert(kind);
            words.extend(request.error.clone());
        }
    }
    refusals
}

// === impl Verdict ===

impl Verdict {
    /// Whether nothing was refused.
    pub fn is_accepted(&self) -> bool {
        self.refused.is_empty()
    }
}

/// `refused`, or who answers each probe: `a, b+c, UNAVAILABLE`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_accepted() {
            return f.write_str("refused");
        }
        let who = |tally: &Tally| tally.all().map(|(who, _)| who.clone()).collect::<Vec<_>>().join("+");
        f.write_str(&self.tallies.iter().map(who).collect::<Vec<_>>().join(", "))
    }
}

/// Tries every mutation on a sidecar that takes everything from the control plane, one after the other: a sidecar that
/// refuses one resource of a response says no more of the others.
///
/// After each, the sidecar is back at what is good, which it says again: while a cluster warms up it keeps its refusals to
/// itself, and says them once that cluster is gone.
///
/// # Panics
///
/// When it refuses what is good.
pub async fn of_sidecar(
    plane: &ControlPlane,
    mutations: &[Mutation],
    addresses: &Addresses,
) -> BTreeMap<&'static str, Verdict> {
    let good = mutate::good_sidecar(addresses);
    plane.update(|transaction| good.offer(transaction));
    for kind in ResourceKind::ALL {
        assert!(is_accepted(plane, kind, PATIENCE).await, "the sidecar refuses what is good: {kind}");
    }
    let mut verdicts = BTreeMap::new();
    for (number, mutation) in mutations.iter().enumerate() {
        let before = plane.events().len();
        let case = mutation.sidecar(number, addresses);
        plane.update(|transaction| case.offer(transaction));
        // Whatever it says is looked at below.
        is_accepted(plane, mutation.kind, MOMENT).await;
        plane.update(|transaction| case.withdraw(transaction));
        let is_back = async { while !recovers(plane, &good).await {} };
        assert!(timeout(PATIENCE, is_back).await.is_ok(), "{}: the sidecar does not come back", mutation.name);
        verdicts.insert(mutation.name, said_of(mutation, &plane.events()[before..]));
    }
    verdicts
}

/// Whether what is good is taken when it is sent once more. A sidecar may say of it what it had to say of the version before.
async fn recovers(plane: &ControlPlane, good: &Case) -> bool {
    plane.update(|transaction| good.offer(transaction));
    is_accepted(plane, ResourceKind::Cluster, PATIENCE).await
        && is_accepted(plane, ResourceKind::Listener, PATIENCE).await
}

/// Whether the present version of a kind is accepted, in time.
async fn is_accepted(plane: &ControlPlane, kind: ResourceKind, patience: Duration) -> bool {
    let version = plane.version(kind);
    matches!(timeout(patience, plane.wait_acked(kind, &version)).await, Ok(Ok(_)))
}

fn said_of(mutation: &Mutation, events: &[Event]) -> Verdict {
    let refusals = events.iter().filter(|event| matches!(event, Event::Nacked(_))).filter_map(Event::request);
    let refusals: Vec<_> = refusals.filter(|request| request.kind == Some(mutation.kind)).collect();
    Verdict {
        refused: refusals.iter().filter_map(|request| request.kind).collect(),
        words: refusals.iter().filter_map(|request| request.error.clone()).collect(),
        tallies: Vec::new(),
    }
}

/// Where a client does not do what is expected of a good configuration, one line each.
pub fn surprises(cases: &[Case], verdicts: &BTreeMap<String, Verdict>) -> Vec<String> {
    let mut found = Vec::new();
    for case in cases {
        let verdict = &verdicts[&case.name];
        if !verdict.is_accepted() {
            found.push(format!("{}: {verdict}: {}", case.name, verdict.words.join("; ")));
        }
        for (probe, tally) in case.probes.iter().zip(&verdict.tallies) {
            if let Some(unlikely) = tally.unlikely(&probe.expected) {
                found.push(format!("{}: {} {:?}: {unlikely}", case.name, probe.path, probe.metadata));
            }
        }
    }
    found
}
