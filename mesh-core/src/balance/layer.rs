//! The balancer as a tower layer, over a factory of services.

use std::sync::Arc;

use tower_layer::Layer;

use super::{Balance, OverServices, OwnDice};
use crate::{
    Dice,
    carry::Fixed,
    cluster::{Cluster, FromFactory, Transport},
    config::{self, ClusterPolicy, Endpoints, Semantics},
    hold::AtOnce,
};

/// Makes a [`Balance`] over a factory, which stands where the service stands otherwise.
///
/// # Examples
///
/// HTTP, where a request counts as under way until its response body has ended:
///
/// ```
/// use std::{convert::Infallible, net::SocketAddr};
///
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use mesh_core::{
///     balance::BalanceLayer,
///     cluster::EndpointInfo,
///     config::{ClusterPolicy, Endpoint, Endpoints, LoadBalancing},
///     hold::UntilEnd,
///     outcome::HttpClassifier,
/// };
/// use tower::{Service, ServiceBuilder, service_fn};
/// use tower_http::set_header::SetRequestHeaderLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let endpoints = Endpoints::flat(vec![Endpoint::new("10.0.0.5:9080".parse::<SocketAddr>()?)])?;
/// let policy = ClusterPolicy { load_balancing: Some(LoadBalancing::PEAK_EWMA), ..ClusterPolicy::default() };
/// let agent = http::HeaderValue::from_static("me");
///
/// let mut service = ServiceBuilder::new()
///     .layer(SetRequestHeaderLayer::overriding(http::header::USER_AGENT, agent))
///     .layer(BalanceLayer::new(endpoints, policy).hold(UntilEnd(HttpClassifier)))
///     .service(|_: &EndpointInfo<'_>| {
///         service_fn(|request: Request<()>| async move {
///             Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from(format!("{:?}", request.headers()))))
///         })
///     });
///
/// let response = service.call(Request::new(())).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BalanceLayer<K = AtOnce> {
    endpoints: Endpoints,
    policy: ClusterPolicy,
    seed: u64,
    hold: K,
}

impl BalanceLayer {
    /// A balancer over `endpoints`, treated by `policy`, seeded at random.
    pub fn new(endpoints: Endpoints, policy: ClusterPolicy) -> Self {
        Self { endpoints, policy, seed: Dice::random_seed(), hold: AtOnce }
    }
}

impl<K> BalanceLayer<K> {
    /// Decides by this seed, so that every run decides alike.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// As [`Balance::hold`].
    #[must_use]
    pub fn hold<L>(self, hold: L) -> BalanceLayer<L> {
        BalanceLayer { endpoints: self.endpoints, policy: self.policy, seed: self.seed, hold }
    }

    pub(super) fn over<F>(&self, factory: F) -> OverServices<F, K>
    where
        FromFactory<F>: Transport,
        K: Clone,
    {
        let config = Arc::new(config::Cluster::new("endpoints").expect("the name is not empty"));
        let transport = FromFactory::new(factory);
        let cluster = Cluster::new(&config, self.policy.clone(), Semantics::Envoy, transport, self.seed);
        cluster.update_endpoints(&self.endpoints);
        Balance::new(Fixed(cluster), OwnDice::new(self.seed), self.hold.clone())
    }
}

impl<F, K> Layer<F> for BalanceLayer<K>
where
    FromFactory<F>: Transport,
    K: Clone,
{
    type Service = OverServices<F, K>;

    fn layer(&self, factory: F) -> Self::Service {
        self.over(factory)
    }
}
