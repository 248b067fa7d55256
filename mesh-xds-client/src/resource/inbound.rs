//! What requests come in to this workload through (`virtualInbound` of a sidecar), kept as it is for who serves.

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use mesh_core::config::ConfigError;

use super::common::filled;

/// The listener through which requests come in to a workload, as its control plane sends it to a sidecar.
///
/// It is the message itself: which of its chains is meant depends on the port and the protocol of a connection, and what they
/// demand (TLS, identities, authorization) is for whoever accepts it.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundListener {
    message: Listener,
}

// === impl InboundListener ===

impl InboundListener {
    pub(super) fn new(message: Listener) -> Result<Self, ConfigError> {
        filled("name", message.name.clone(), "name the listener")?;
        if message.filter_chains.is_empty() && message.default_filter_chain.is_none() {
            return Err(ConfigError::new("filter_chains", "[]", "give a listener for servers at least one chain"));
        }
        Ok(Self { message })
    }

    /// The message of the control plane.
    pub fn message(&self) -> &Listener {
        &self.message
    }

    /// The chains for connections to this port: those that name it, or where there is none, those that name no port.
    pub fn chains(&self, port: u16) -> impl Iterator<Item = &FilterChain> {
        let named = |chain: &FilterChain| {
            let port = chain.filter_chain_match.as_ref().and_then(|fits| fits.destination_port.as_ref());
            port.map(|port| port.value)
        };
        let is_named = self.message.filter_chains.iter().any(|chain| named(chain) == Some(port.into()));
        let wanted = is_named.then_some(u32::from(port));
        self.message.filter_chains.iter().filter(move |chain| named(chain) == wanted)
    }
}
