//! How a cluster reaches its endpoints: implemented by connection pools, by tests, and by a factory of tower services.

use std::{fmt, future::Future, sync::Arc};

use crate::{
    config::{Address, ClusterPolicy, Metadata},
    endpoint::EndpointId,
    limit::Limits,
    outcome::BoxError,
};

/// Makes, keeps and retires what carries requests to endpoints.
pub trait Transport: Send + Sync + 'static {
    /// What it keeps for one endpoint.
    type Handle: Send + Sync + 'static;

    /// An endpoint is picked for the first time. Must not block: it is called on the task of a request, and connecting
    /// belongs to the handle.
    fn open(&self, endpoint: &EndpointInfo<'_>) -> Self::Handle;

    /// The cluster's policy or what is known of the endpoint may have changed: what the handle does from now on follows
    /// `endpoint`, and connections that no longer fit finish what they have and take nothing new.
    fn update(&self, handle: &Self::Handle, endpoint: &EndpointInfo<'_>);

    /// The endpoint has left its cluster: the handle finishes what it has. Called once. A request that was picked for the
    /// endpoint just before may still arrive and should be carried.
    fn retire(&self, handle: &Self::Handle);
}

/// What a transport is told of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EndpointInfo<'a> {
    /// The name of its cluster.
    pub cluster: &'a Arc<str>,
    /// Its number within the cluster.
    pub id: EndpointId,
    /// Where it listens; at least one address, to be tried in order.
    pub addresses: &'a [Address],
    /// Its name, if it has one.
    pub hostname: Option<&'a Arc<str>>,
    /// Facts about it.
    pub metadata: Option<&'a Arc<Metadata>>,
    /// How its cluster is treated.
    pub policy: &'a ClusterPolicy,
    /// What its cluster may have under way.
    pub limits: &'a Arc<Limits>,
}

/// Carries requests; `&self`, since an endpoint is shared by all who use its cluster.
pub trait Dispatch<R> {
    /// What comes back.
    type Response;
    /// Brings it. Dropping it gives up the request.
    type Future: Future<Output = Result<Self::Response, Undelivered<R>>>;

    /// Sends `request`.
    fn dispatch(&self, request: R) -> Self::Future;
}

/// A request that was not answered.
pub struct Undelivered<R> {
    /// The request, where it never left and another endpoint can have it.
    pub request: Option<R>,
    /// What happened; [`Failure::of`](crate::outcome::Failure::of) reads it.
    pub error: BoxError,
}

impl<R> fmt::Debug for Undelivered<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undelivered").field("is_returned", &self.request.is_some()).field("error", &self.error).finish()
    }
}
