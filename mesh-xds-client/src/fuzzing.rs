//! The door for fuzz targets, in builds of theirs alone: decoders that are nobody else's to call, and good resources to start
//! from. No part of the API, and no promise.

use bytes::Bytes;
use envoy_types::pb::google::protobuf::Any;
use mesh_core::config::{Decoded, Warning};

use crate::ResourceKind;
use crate::resource::{self, Resource, samples};
use crate::session::ResourceError;

/// What the decoder made of a resource.
#[derive(Debug, PartialEq)]
pub struct Accepted {
    value: Resource,
    /// What is not honoured of it.
    pub warnings: Vec<Warning>,
}

/// Reads a resource as the client does that knows the identity `default`.
///
/// # Errors
///
/// Where it is refused.
pub fn decode(kind: ResourceKind, bytes: &[u8]) -> Result<Accepted, ResourceError> {
    let body = Any { type_url: kind.type_url().to_owned(), value: bytes.to_vec() };
    let decoded = resource::decode(&body, &samples::context())?;
    Ok(Accepted { value: decoded.value, warnings: decoded.warnings })
}

/// The name under which a resource is filed.
pub fn name_of(bytes: &[u8]) -> Option<String> {
    resource::name_of(bytes).map(|name| name.to_string())
}

/// A good resource of each kind, with most of what the model can hold.
pub fn samples() -> [(ResourceKind, Vec<u8>); 4] {
    samples::all().map(|any| (ResourceKind::from_type_url(&any.type_url).expect("a kind"), any.value))
}

// === impl Accepted ===

impl Accepted {
    /// Endpoints or routes, read again by a client that holds these.
    pub fn again(&self, bytes: &[u8]) -> Option<Result<Self, ResourceError>> {
        let bytes = Bytes::copy_from_slice(bytes);
        let decoded = match &self.value {
            Resource::Endpoints(former) => {
                resource::decode_endpoints(bytes, Some(former)).map(|decoded| decoded.map(Resource::Endpoints))
            }
            Resource::RouteConfiguration(former) => {
                resource::decode_routes(bytes, Some(former)).map(|decoded| decoded.map(Resource::RouteConfiguration))
            }
            _ => return None,
        };
        Some(decoded.map(|Decoded { value, warnings }| Self { value, warnings }))
    }

    /// The routes of a route configuration.
    pub fn routes(&self) -> Option<&mesh_core::config::RouteConfig> {
        if let Resource::RouteConfiguration(routes) = &self.value { Some(&routes.config) } else { None }
    }

    /// The endpoints of a cluster.
    pub fn endpoints(&self) -> Option<&mesh_core::config::Endpoints> {
        if let Resource::Endpoints(assignment) = &self.value { Some(&assignment.endpoints) } else { None }
    }
}
