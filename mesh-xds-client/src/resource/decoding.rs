//! Resources that hold so many routes that they are decoded in pieces: a route configuration, or a listener with one in it.

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::listener::v3::Listener, extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};
use mesh_core::config::{ConfigError, Decoded};
use prost::Message;

use super::{
    Context, Resource,
    common::is,
    decode_parts, listener,
    notes::Notes,
    refusal,
    virtual_hosts::{Emptied, Failure, RouteDecoding, Routes},
};
use crate::{ResourceKind, name::name_of, session::ResourceError};

/// A resource on its way from its bytes.
#[derive(Debug)]
pub(crate) struct Decoding {
    kind: ResourceKind,
    bytes: Bytes,
    routes: RouteDecoding,
    /// What the routes stand in, unless they are the resource. Taken when they are known.
    around: Option<Box<(Listener, HttpConnectionManager)>>,
}

// === impl Decoding ===

impl Decoding {
    /// Begins to decode the resource of this kind and these bytes, if it can be done in pieces. Virtual hosts that have the same
    /// bytes as in `former`, the version before, are taken from there.
    pub(crate) fn new(kind: ResourceKind, bytes: &Bytes, former: Option<&Resource>, context: &Context) -> Option<Self> {
        let former = former.and_then(Resource::routes).cloned();
        let (routes, around) = match kind {
            ResourceKind::RouteConfiguration => (RouteDecoding::new(bytes.clone(), former, context), None),
            ResourceKind::Listener if !context.is_inbound(bytes) => {
                let mut message = Listener::decode(bytes.clone()).ok()?;
                let extension = message.api_listener.as_mut()?.api_listener.as_mut()?;
                if !is::<HttpConnectionManager>(extension) {
                    return None;
                }
                let mut emptied = Emptied::new(std::mem::take(&mut extension.value).into())?;
                let routes = RouteDecoding::of_manager(&mut emptied, former, context);
                (routes, Some(Box::new((message, emptied.manager))))
            }
            _ => return None,
        };
        Some(Self { kind, bytes: bytes.clone(), routes, around })
    }

    /// Goes on until `left` is used up, which is told in bytes to decode. Returns what has become of it, once, when that is
    /// known.
    ///
    /// # Errors
    ///
    /// Refuses what [`decode_parts`] would refuse, and for the same reason.
    pub(crate) fn advance(
        &mut self,
        left: &mut usize,
        context: &Context,
    ) -> Option<Result<Decoded<Resource>, ResourceError>> {
        let routes = match self.routes.advance(left) {
            Ok(false) => return None,
            Ok(true) => Ok(self.routes.finish()),
            // How that is told depends on what the routes stand in.
            Err(Failure::Broken(_)) if self.around.is_some() => {
                return Some(decode_parts(self.kind.type_url(), &self.bytes, context));
            }
            Err(failure) => Err(failure.into_error(self.bytes.len())),
        };
        let outcome = match self.around.take() {
            Some(around) => put_into(*around, routes, context),
            None => routes.map(|(routes, notes)| {
                let value = Resource::RouteConfiguration(routes);
                Decoded { value, warnings: notes.finish() }
            }),
        };
        Some(outcome.map_err(|error| refusal(name_of(&self.bytes).as_deref(), &error)))
    }
}

fn put_into(
    (message, manager): (Listener, HttpConnectionManager),
    routes: Result<(Routes, Notes), ConfigError>,
    context: &Context,
) -> Result<Decoded<Resource>, ConfigError> {
    let mut notes = Notes::default();
    let listener = listener::decode_around(message, manager, routes, context, &mut notes)?;
    Ok(Decoded { value: listener, warnings: notes.finish() }.map(|listener| Resource::Listener(listener.into())))
}
