//! What the gRPC clients of both peers have in common: they probe the targets that they are told.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::process::Command;

use super::process::Conversation;
use crate::conformance::{Case, Tally};

/// A process that calls targets and tells who answered.
pub struct Prober {
    conversation: Conversation,
}

// === impl Prober ===

impl Prober {
    /// Starts the program; `bootstrap` is the JSON that leads it to its control plane.
    pub(super) async fn start(mut command: Command, bootstrap: &str) -> Self {
        command.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap).env_remove("GRPC_XDS_BOOTSTRAP");
        let (conversation, _) = Conversation::start(command).await;
        Self { conversation }
    }

    /// Probes targets, several at a time, and leaves their channels open.
    pub async fn probe(&mut self, cases: &[Case]) -> BTreeMap<String, Vec<Tally>> {
        let targets = cases.iter().map(|case| json!({ "target": case.name, "probes": case.probes }));
        let targets: Vec<Value> = targets.collect();
        let tallies = self.conversation.ask(&json!({ "probe": { "targets": targets } })).await;
        serde_json::from_value(tallies).expect("tallies have this form")
    }

    /// Closes the channels that [`probe`](Self::probe) opened.
    pub async fn close(&mut self) {
        self.conversation.ask(&json!({ "close": {} })).await;
    }
}
