//! The balancer as a tower service.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{OwnDice, Picked, Terms, future::ResponseFuture};
use crate::{
    carry::{Fixed, PolicyOf},
    cluster::{Cluster, Dispatch, FromFactory, Transport},
    config::{ClusterPolicy, Endpoints},
    hold::{AtOnce, Hold},
    outcome::BoxError,
};

/// Sends each request to an endpoint of its cluster.
///
/// - `P` finds the cluster of a request, `A` its [`Terms`], and `K` holds the request's guard until its
///   response has ended.
/// - A request that never left, since no connection could be made or the peer refused it unprocessed, moves on to an
///   endpoint where it was not, at most [`Tried::CAPACITY`](crate::endpoint::Tried::CAPACITY) times. This is no retry: no
///   budget pays for it, since nobody has done any work for it.
/// - It is always ready: which endpoint must be ready depends on the request. That is picked in `call`.
/// - Dropping the future gives up the request; the endpoint counts it as neither success nor failure.
/// - Clones share their clusters.
///
/// Tower's own `balance::p2c` picks among services that are ready and takes no request before one is; it knows loads, but
/// neither failures nor priorities, and needs a buffer in front to be shared.
///
/// # Examples
///
/// Two replicas, three times as much for the second; a factory makes the service of each endpoint at its first use. Any
/// request type will do:
///
/// ```
/// use std::{convert::Infallible, net::SocketAddr};
///
/// use mesh_core::{
///     balance::BalanceLayer,
///     cluster::EndpointInfo,
///     config::{ClusterPolicy, Endpoint, Endpoints, Weight},
/// };
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let light = Endpoint::new("10.0.0.5:9080".parse::<SocketAddr>()?);
/// let heavy = Endpoint::new("10.0.0.6:9080".parse::<SocketAddr>()?).with_weight(Weight::new(3)?);
///
/// let policy = ClusterPolicy::default(); // round robin
/// // With a seed, every run begins its turns at the same place. `Balance::from_endpoints` leaves that to chance.
/// let layer = BalanceLayer::new(Endpoints::flat(vec![light, heavy])?, policy).seed(1);
/// let balance = layer.layer(|endpoint: &EndpointInfo<'_>| {
///     let name = endpoint.addresses[0].to_string();
///     service_fn(move |question: u32| {
///         let name = name.clone();
///         async move { Ok::<_, Infallible>(format!("{name} got {question}")) }
///     })
/// });
///
/// let mut heavy = 0;
/// for question in 0..400 {
///     let answer = balance.clone().oneshot(question).await?;
///     heavy += u32::from(answer.starts_with("10.0.0.6"));
/// }
/// assert!((299..=301).contains(&heavy));
/// # Ok(())
/// # }
/// ```
pub struct Balance<T, P, A = OwnDice, K = AtOnce> {
    clusters: P,
    terms: A,
    hold: K,
    transport: PhantomData<fn() -> T>,
}

/// A balancer over one cluster that a factory of services carries.
pub type OverServices<F, K = AtOnce> = Balance<FromFactory<F>, Fixed<Arc<Cluster<FromFactory<F>>>>, OwnDice, K>;

impl<T, P, A, K> Balance<T, P, A, K> {
    /// A balancer for the clusters that `clusters` finds, with terms from `terms`.
    pub const fn new(clusters: P, terms: A, hold: K) -> Self {
        Self { clusters, terms, hold, transport: PhantomData }
    }

    /// The same, with guards held by `hold`: [`UntilEnd`](crate::hold::UntilEnd) for HTTP, where a response ends with its
    /// body. The default takes every response for complete.
    #[must_use]
    pub fn hold<L>(self, hold: L) -> Balance<T, P, A, L> {
        Balance::new(self.clusters, self.terms, hold)
    }
}

impl<F> OverServices<F>
where
    FromFactory<F>: Transport,
{
    /// A balancer over `endpoints`; `factory` makes the service of each at its first use. Randomly seeded: see
    /// [`BalanceLayer`](super::BalanceLayer) to give the seed, or to stack it in a `ServiceBuilder`.
    pub fn from_endpoints(endpoints: &Endpoints, policy: ClusterPolicy, factory: F) -> Self {
        super::BalanceLayer::new(endpoints.clone(), policy).over(factory)
    }
}

impl<F, K> OverServices<F, K>
where
    FromFactory<F>: Transport,
{
    /// The cluster: for new endpoints, another policy, a look at its status, and its
    /// [work](Cluster::work), which must run if endpoints are to be ejected.
    pub fn cluster(&self) -> &Arc<Cluster<FromFactory<F>>> {
        &self.clusters.0
    }
}

impl<R, T, P, A, K> Service<R> for Balance<T, P, A, K>
where
    T: Transport,
    T::Handle: Dispatch<R>,
    P: PolicyOf<R, Arc<Cluster<T>>>,
    A: PolicyOf<R, Terms>,
    K: Hold<<T::Handle as Dispatch<R>>::Response, Picked<T::Handle>> + Clone,
{
    type Response = K::Held;
    type Error = BoxError;
    type Future = ResponseFuture<R, T, K>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    // Always: a function that is called may have to move the request, which is large.
    #[inline(always)]
    fn call(&mut self, request: R) -> Self::Future {
        ResponseFuture::new(request, &self.clusters, &self.terms, &self.hold)
    }
}

impl<T, P: Clone, A: Clone, K: Clone> Clone for Balance<T, P, A, K> {
    fn clone(&self) -> Self {
        Self::new(self.clusters.clone(), self.terms.clone(), self.hold.clone())
    }
}

impl<T, P: fmt::Debug, A, K> fmt::Debug for Balance<T, P, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("clusters", &self.clusters).finish_non_exhaustive()
    }
}
