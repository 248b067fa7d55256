//! The configuration as plain, validated, immutable data.
//!
//! There is one model. Code builders construct it, control planes decode into it, tests print it; routing, balancing and
//! the layers read it. A value that exists is valid: constructors refuse with a [`ConfigError`] that names the field, the
//! value and the remedy. What is unset stays apart from what is set, so that sources can be stacked field by field
//! ([`Policy::or`]).
//!
//! A field means what Envoy's field of that name means, because that is what control planes assume. Where gRPC's rules
//! differ, [`Semantics`] decides when the configuration is compiled; the data does not depend on who reads it.

mod action;
mod aggregate;
mod cluster;
mod dns;
mod endpoint;
mod error;
mod header;
mod listener;
mod matcher;
mod policy;
pub mod preset;
mod retry;
mod route;
mod security;
mod snapshot;
mod tls;
mod value;

pub use self::{
    action::{
        Action, ClusterChoice, DirectResponse, Forward, HostRewrite, PathRewrite, Redirect, RedirectPath,
        WeightedCluster, WeightedClusters,
    },
    aggregate::{Aggregate, AggregateError},
    cluster::{
        CircuitBreakers, Cluster, Discovery, HttpProtocol, LoadBalancing, OutlierDetection, RequestPriority,
        RetryBudget, Thresholds,
    },
    dns::{AddressFamily, DnsEndpoints, DnsName, Host, LookUp},
    endpoint::{
        Address, DropOverload, Endpoint, Endpoints, HealthStatus, Locality, LocalityEndpoints, Metadata, MetadataValue,
    },
    error::{ConfigError, Decoded, Warning},
    header::{HeaderAppend, HeaderMutations, HeaderTemplate, RenderedMutations, TemplateScope},
    listener::{AbortStatus, FaultAbort, FaultDelay, FaultInjection, FilterKind, HttpFilter, Listener},
    matcher::{HeaderKey, HeaderMatcher, HeaderTest, Pattern, QueryMatcher, QueryTest, Regex, StringMatcher},
    policy::{ClusterPolicy, ConnectionPolicy, Policy, RoutePolicy, Timeouts},
    retry::{Backoff, RetryAfter, RetryOn, RetryPolicy},
    route::{Checking, Domain, PathMatch, Route, RouteConfig, RouteMatch, VirtualHost},
    security::{Security, SecurityMatch},
    snapshot::{ClusterEntry, Snapshot, TargetState},
    tls::{IdentityName, SanKind, SanMatcher, Sni, SpiffeId, Trust, UpstreamTls},
    value::{Fraction, Percent, TimeLimit, Weight},
};

/// Whose rules count where Envoy and gRPC disagree about what a control plane says; fixed by the kind of client. What
/// stands in code means what its documentation says, which is Envoy's meaning, in gRPC channels too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// Envoy's: HTTP clients.
    #[default]
    Envoy,
    /// gRPC's: gRPC channels. Route timeouts yield to stream durations (A31), endpoint weights, overprovisioning and panic
    /// do not count (A27), localities always share by weight; redirects, direct responses and clusters that a header names
    /// fail their requests (A28).
    Grpc,
}
