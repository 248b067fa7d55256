//! The door for fuzz targets, in builds of theirs alone: decoders that are nobody else's to call, and good resources to start
//! from. No part of the API, and no promise.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::google::protobuf::Any;
use mesh_core::config::{Cluster, Warning};

use crate::{
    Dialect, ResourceKind,
    bootstrap::Bootstrap,
    name,
    resource::{self, InboundListener, Resource, samples},
    session::ResourceError,
};

/// What the decoder made of a resource.
#[derive(Debug, PartialEq)]
pub struct Accepted {
    value: Resource,
    /// What is not honoured of it.
    pub warnings: Vec<Warning>,
}

/// Reads a resource as the client does that speaks this dialect and knows the identity `default`.
///
/// # Errors
///
/// Where it is refused.
pub fn decode(kind: ResourceKind, bytes: &[u8], dialect: Dialect) -> Result<Accepted, ResourceError> {
    let body = Any { type_url: kind.type_url().to_owned(), value: bytes.to_vec() };
    let context = match dialect {
        Dialect::Grpc => samples::context(),
        Dialect::Sidecar => samples::sidecar::context(),
    };
    let decoded = resource::decode(&body, &context)?;
    Ok(Accepted { value: decoded.value, warnings: decoded.warnings })
}

/// The name under which a resource is filed.
pub fn name_of(bytes: &[u8]) -> Option<String> {
    name::name_of(bytes).map(|name| name.to_string())
}

/// Good resources, with most of what the model can hold, in both dialects.
pub fn samples() -> impl Iterator<Item = (ResourceKind, Vec<u8>)> {
    let all = samples::all().into_iter().chain(samples::sidecar::all());
    all.map(|any| (ResourceKind::from_type_url(&any.type_url).expect("a kind"), any.value))
}

/// Looks for what leads to the routes of a target.
///
/// # Errors
///
/// Where there is no such target. The text says what to write.
pub fn lead(dialect: Dialect, bootstrap: &Bootstrap, target: &str) -> Result<(), Arc<str>> {
    dialect.lead(bootstrap, target).map(drop)
}

// === impl Accepted ===

impl Accepted {
    /// Endpoints, read again by a client that holds these.
    pub fn again(&self, bytes: &[u8]) -> Option<Result<Self, ResourceError>> {
        let Resource::Endpoints(former) = &self.value else { return None };
        let decoded = resource::decode_endpoints(Bytes::copy_from_slice(bytes), Some(former));
        Some(decoded.map(|decoded| Self { value: Resource::Endpoints(decoded.value), warnings: decoded.warnings }))
    }

    /// The routes of a route configuration.
    pub fn routes(&self) -> Option<&mesh_core::config::RouteConfig> {
        if let Resource::RouteConfiguration(routes) = &self.value { Some(&routes.config) } else { None }
    }

    /// What requests come in through.
    pub fn inbound(&self) -> Option<&InboundListener> {
        if let Resource::Inbound(listener) = &self.value { Some(listener) } else { None }
    }

    /// A cluster.
    pub fn cluster(&self) -> Option<&Cluster> {
        if let Resource::Cluster { cluster, .. } = &self.value { Some(cluster) } else { None }
    }

    /// The endpoints of a cluster.
    pub fn endpoints(&self) -> Option<&mesh_core::config::Endpoints> {
        if let Resource::Endpoints(assignment) = &self.value { Some(&assignment.endpoints) } else { None }
    }
}
