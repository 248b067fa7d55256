//! Conformance: generated configurations on one control plane, and what each xDS client makes of them.
//!
//! [`generate`] makes configurations that are good and knows who has to answer; [`mutate`] breaks one field of a good one at
//! a time; [`client`] drives the clients, ours and those we did not write, which all obey the same commands; [`verdict`] reads
//! what a client made of a configuration from its answers to the control plane and from who answered its calls;
//! [`differences`] lists, with the reason, where a client differs from ours on purpose.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::google::protobuf::Any;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::Transaction;
use prost::{Message, Name};
use serde::{Deserialize, Serialize};

pub mod client;
pub mod differences;
mod fleet;
pub mod generate;
pub mod mutate;
mod scene;
pub mod verdict;

pub use self::fleet::Fleet;
pub use self::scene::Scene;

/// Everything that a control plane says of one target, and the calls that tell what a client makes of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name of the target, and so of its listener.
    pub name: String,
    /// Each with its kind and name.
    pub resources: Vec<(ResourceKind, String, Any)>,
    /// What is called.
    pub probes: Vec<Probe>,
}

/// So many calls of one method.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// The method, `/service/Method`.
    pub path: String,
    /// Headers of each call.
    pub metadata: Vec<(String, String)>,
    /// The backends that must have answered before calls count: a channel prefers those that it is connected to.
    pub warm: Vec<String>,
    /// Calls that count. Where nobody has to answer, the first failure is the last of them.
    pub count: u32,
    /// Who should answer.
    #[serde(skip)]
    pub expected: Shares,
}

/// The share of calls by who answers: a backend, or the code of a failure.
pub type Shares = BTreeMap<String, f64>;

/// How the calls of one probe ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tally {
    /// Calls by the name of the backend.
    pub answers: BTreeMap<String, u32>,
    /// Calls by the code of the failure.
    pub failures: BTreeMap<String, u32>,
}

// === impl Case ===

impl Case {
    /// Offers all of it.
    pub fn offer(&self, transaction: &mut Transaction<'_>) {
        for (kind, name, body) in &self.resources {
            transaction.raw(*kind, name, body.clone());
        }
    }

    /// Takes all of it away.
    pub fn withdraw(&self, transaction: &mut Transaction<'_>) {
        for (kind, name, _) in &self.resources {
            transaction.remove(*kind, name);
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Calls by who answered them, or by how they failed.
    pub fn all(&self) -> impl Iterator<Item = (&String, u32)> {
        self.answers.iter().chain(&self.failures).map(|(who, calls)| (who, *calls))
    }

    /// What is unlikely about it, by six times the deviation of chance and one: nothing, unless somebody is wrong.
    ///
    /// With some five thousand shares in a run, chance alone gets there once in a hundred thousand runs. Who should answer
    /// never, or always, has no such room.
    pub fn unlikely(&self, expected: &Shares) -> Option<String> {
        let counts: BTreeMap<_, _> = self.all().collect();
        let calls = f64::from(counts.values().sum::<u32>());
        let is_far = |who: &String| {
            let share = expected.get(who).copied().unwrap_or_default();
            let deviation = (calls * share * (1.0 - share)).sqrt();
            let room = if deviation > 0.0 { 6.0 * deviation + 1.0 } else { 0.0 };
            (f64::from(counts.get(who).copied().unwrap_or_default()) - calls * share).abs() > room + 1e-6
        };
        let is_unlikely = counts.keys().copied().chain(expected.keys()).any(is_far);
        is_unlikely.then(|| format!("{expected:?} was expected, {counts:?} came"))
    }
}

/// The message inside.
///
/// # Panics
///
/// When there is another one.
fn unpacked<M: Message + Default + Name>(any: &Any) -> M {
    assert_eq!(any.type_url, M::type_url(), "a message of another type");
    M::decode(&*any.value).expect("it was encoded here")
}

/// Addresses of the backends, by name.
pub type Addresses = BTreeMap<String, SocketAddr>;

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(one: u32, other: u32) -> Tally {
        Tally { answers: [("a".to_owned(), one), ("b".to_owned(), other)].into(), ..Tally::default() }
    }

    fn shares(one: f64, other: f64) -> Shares {
        [("a".to_owned(), one), ("b".to_owned(), other)].into()
    }

    #[test]
    fn chance_has_room_and_certainty_has_none() {
        assert_eq!(tally(180, 120).unlikely(&shares(0.5, 0.5)), None);
        assert!(tally(220, 80).unlikely(&shares(0.5, 0.5)).is_some());
        assert_eq!(tally(300, 0).unlikely(&shares(1.0, 0.0)), None);
        assert!(tally(299, 1).unlikely(&shares(1.0, 0.0)).is_some());
    }

    #[test]
    fn somebody_unexpected_is_unlikely() {
        let mut tally = tally(150, 150);
        tally.failures.insert("UNAVAILABLE".to_owned(), 1);
        assert!(tally.unlikely(&shares(0.5, 0.5)).is_some());
    }
}
