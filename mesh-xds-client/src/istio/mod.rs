//! Istio: which dialect to speak with istiod, who a workload is, and how it gets into the mesh.
//!
//! ```no_run
//! use mesh_xds_client::istio::Workload;
//!
//! let client = Workload::from_env()?.client()?.build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/istio` is a whole program, with the manifests of its pod.
//!
//! A client goes straight to istiod: neither Istio's agent nor a proxy is needed beside the process, and where a pod has
//! them, the ports that this process calls should be excluded from interception, or its requests pass two meshes.
//!
//! # The secure port
//!
//! istiod's port 15012 speaks TLS and asks who calls; a [`Workload`] takes it unless told otherwise. Believed of istiod is what
//! the root vouches for, under the host of its address or a [name](Workload::discovery_name). The caller is known by the token
//! of its service account, or by a [certificate](Workload::authenticate_by_certificate). Where the injector mounts them, both
//! are found without a word:
//!
//! | | from the environment | in code |
//! |---|---|---|
//! | root | `/var/run/secrets/istio/root-cert.pem`, `XDS_ROOT_CA`, `CA_ROOT_CA` | [`secure`](Workload::secure) |
//! | token | `/var/run/secrets/tokens/istio-token` | [`token`](Workload::token) |
//! | name | `ISTIOD_SAN` | [`discovery_name`](Workload::discovery_name) |
//!
//! Namespace and service account must be those of the token, if the workload says them: istiod ends other streams with
//! `PERMISSION_DENIED` and says which account the token is of. A token that it does not believe ends them with
//! `UNAUTHENTICATED`, why is in its log. Either way the file is read again for the next stream, what was learnt before keeps
//! serving, and the status has istiod's words, as it has ours where there is no token in the file.
//!
//! istiod's header for its choice among several Kubernetes clusters (`clusterid`) is not sent: tokens are reviewed by the
//! cluster that istiod runs in.
//!
//! # Which dialect
//!
//! Speak as a **sidecar**, which a [`Workload`] does unless told otherwise. What reaches Envoy reaches this process then, and
//! istiod sends what has changed. Speak as a gRPC client (`.dialect(Dialect::Grpc)`) where one of the reasons on the right
//! holds.
//!
//! | | as a sidecar | as a gRPC client |
//! |---|---|---|
//! | `VirtualService`, Gateway API routes, subsets | all | all |
//! | `DestinationRule`: outlier detection, connection pools, timeouts of connections, TLS to the outside, panic threshold | honoured | not sent |
//! | automatic mutual TLS | endpoint by endpoint, by what each can do | only `ISTIO_MUTUAL` said by name |
//! | `ServiceEntry` resolved by DNS, or by nobody (`NONE`) | served | has no endpoints |
//! | a service without an address (`clusterIP: None`) | its endpoints | its endpoints |
//! | balancing where nothing is said | least requests | turns |
//! | rules of timeouts and weights | Envoy's, for gRPC channels too | gRPC's for gRPC channels |
//! | `retries: { attempts: 0 }` | no retries, whatever the client's preset | not told from silence |
//! | a change of one service costs | what has changed (delta) | all that is asked for (state of the world: istiod's delta for gRPC forgets names) |
//! | a client holds | all clusters of its namespace's view; a `Sidecar` resource with few egress hosts keeps that small | what it asks for |
//! | needs | any istiod that serves sidecars | one that serves `GENERATOR=grpc`; mTLS with SPIFFE names from 1.29 on |
//!
//! A client of one or two services in a mesh of thousands, without a `Sidecar` resource to narrow its view, is cheaper as a
//! gRPC client. So is one whose rules must be those of other gRPC clients beside it. Everybody else loses by it.
//!
//! # Targets of a sidecar
//!
//! `reviews:9080`, `reviews.shop:9080`, the name in full, or a host of a `ServiceEntry`: one service.
//! [`Dialect::Sidecar`](crate::Dialect::Sidecar) says how short names are completed.
//!
//! `*:9080`: every service that has this port, by the authority of each request; such a client holds the endpoints of all of
//! them. Names that are no service of their own are reached in this way alone: those below the host of a `ServiceEntry` that
//! begins with a wildcard, and Kubernetes services of type `ExternalName`.
//!
//! Istio routes by HTTP only what it takes for HTTP: a port needs a name or an `appProtocol` that says so (`http`, `http2`,
//! `grpc`), or none, in which case it is looked at. Ports of TCP and of HTTPS have no routes, and requests to them fail (NR).
//!
//! # TLS to the outside
//!
//! A `DestinationRule` with `tls: { mode: SIMPLE }` has the certificate verified by the roots of the system, for the name that is
//! sent. Files that one names are istiod's words for secrets, which the process is given by
//! [`XdsClientBuilder::secret`](crate::XdsClientBuilder::secret): of `caCertificates: /etc/ca.pem` the roots, as
//! `file-root:/etc/ca.pem`, and of `clientCertificate` and `privateKey` the identity, as `file-cert:/etc/cert.pem~/etc/key.pem`.
//! Roots that come so may vouch for the world: where no `subjectAltNames` are said either, the name that is sent is asked for, where
//! Envoy would accept all that they vouch for. `insecureSkipVerify` is refused.
//!
//! # What comes in
//!
//! A sidecar's `virtualInbound`, which says what callers must prove and may do, is asked for and kept:
//! [`XdsClient::inbound_listener`](crate::XdsClient::inbound_listener).

mod environment;
mod error;
pub(crate) mod names;
#[cfg(test)]
mod tests;
mod workload;

pub use self::{error::WorkloadError, workload::Workload};
pub use crate::resource::InboundListener;
