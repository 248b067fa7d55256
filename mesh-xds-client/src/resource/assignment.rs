//! An endpoint resource and the one before it: what is the same byte by byte is used again, and the rest decoded.
//!
//! Sets of endpoints change often, and little at a time. So the message is read as far as its endpoints and no further; each
//! is recognised by a hash of its bytes, and only what is not is decoded. What is kept for that is eight bytes an endpoint.
//!
//! An endpoint that something was warned of is decoded again each time, so that the warning comes again with the place where
//! the endpoint stands now.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::config::{
        core::v3 as core,
        endpoint::v3::{self as pb, cluster_load_assignment::Policy},
    },
    google::protobuf::UInt32Value,
};
use mesh_core::config::{ConfigError, Endpoint, Endpoints};
use prost::Message;

use super::{
    common::{filled, undecodable},
    endpoints::{self, Group, Interner, Place},
    former::Former,
    notes::Notes,
};

/// The endpoints of a cluster as one version of their resource gives them.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    /// The name under which they are asked for.
    pub(crate) cluster: Arc<str>,
    /// The endpoints.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Of each endpoint in order, or empty where one was left out and the places do not tell.
    prints: Box<[Print]>,
}

/// `ClusterLoadAssignment`, its endpoints not decoded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Sealed {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<SealedGroup>,
    #[prost(message, optional, tag = "4")]
    policy: Option<Policy>,
}

/// `LocalityLbEndpoints` with the bytes of each `LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
struct SealedGroup {
    #[prost(message, optional, tag = "1")]
    locality: Option<core::Locality>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    lb_endpoints: Vec<Bytes>,
    #[prost(message, optional, tag = "3")]
    load_balancing_weight: Option<UInt32Value>,
    #[prost(uint32, tag = "5")]
    priority: u32,
    #[prost(message, optional, tag = "7")]
    load_balancer_endpoints: Option<SealedList>,
    #[prost(message, optional, tag = "8")]
    leds_cluster_locality_config: Option<pb::LedsClusterLocalityConfig>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<core::Metadata>,
}

/// `LocalityLbEndpoints.LbEndpointList`.
#[derive(Clone, PartialEq, Message)]
struct SealedList {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    lb_endpoints: Vec<Bytes>,
}

/// Stands for the bytes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Print(u64);

/// The endpoints of `message`, those of `former` where they are the same.
pub(super) fn decode(
    message: Sealed,
    former: Option<&Assignment>,
    notes: &mut Notes,
) -> Result<Assignment, ConfigError> {
    let cluster = filled("cluster_name", message.cluster_name, "name the cluster")?;
    let mut interner = Interner::after(former.map(|former| &*former.endpoints));
    let known: Vec<_> = former.iter().flat_map(|former| former.printed()).collect();
    let mut former = Former::default();
    let mut prints = Vec::with_capacity(known.len());
    let read = |bytes: Bytes, notes: &mut Notes| {
        let print = Print::of(&bytes);
        if let Ok(place) = former.find(&known, |(print, _)| *print, print) {
            prints.push(print);
            return Ok(known[place].1.clone());
        }
        let said = notes.count();
        let message = pb::LbEndpoint::decode(&*bytes).map_err(|error| undecodable(&error, bytes.len()))?;
        let endpoint = endpoints::endpoint(message, &mut interner, notes)?;
        prints.push(if notes.count() == said { print } else { Print::NONE });
        Ok(endpoint)
    };
    let groups = message.endpoints.into_iter().map(Group::from).collect();
    let (endpoints, is_whole) = endpoints::assignment(groups, message.policy, Place::Required, read, notes)?;
    if !is_whole {
        prints.clear();
    }
    Ok(Assignment { cluster: cluster.into(), endpoints: Arc::new(endpoints), prints: prints.into() })
}

// === impl Assignment ===

impl Assignment {
    /// The endpoints with their prints, where these are known.
    fn printed(&self) -> impl Iterator<Item = (Print, &Endpoint)> {
        let endpoints = self.endpoints.groups().iter().flat_map(|group| &group.endpoints);
        self.prints.iter().copied().zip(endpoints)
    }
}

/// The same endpoints, whatever their bytes were.
impl PartialEq for Assignment {
    fn eq(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.endpoints == other.endpoints
    }
}

// === impl SealedGroup ===

impl From<SealedGroup> for Group<Bytes> {
    fn from(message: SealedGroup) -> Self {
        Self {
            locality: message.locality,
            endpoints: message.load_balancer_endpoints.map_or(message.lb_endpoints, |list| list.lb_endpoints),
            load_balancing_weight: message.load_balancing_weight,
            priority: message.priority,
            metadata: message.metadata,
            is_referred: message.leds_cluster_locality_config.is_some(),
        }
    }
}

// === impl Print ===

impl Print {
    /// Of no bytes at all.
    const NONE: Self = Self(0);

    fn of(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        Self(hasher.finish().max(1))
    }
}
