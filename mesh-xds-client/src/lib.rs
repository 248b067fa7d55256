//! Keeps the configuration current: the xDS protocol, validation into mesh-core's types, status.
//!
//! It refuses the data path: no request ever passes through it. An update takes this way:
//!
//! ```text
//!                           session    who is told what, without I/O
//!                              |
//! socket -> transport -----> worker -----> assemble -> Snapshot
//!           one stream         |           whole and warm, or not yet
//!           a server         store      the last good version
//!                              |
//!                           resource    decoded and validated
//! ```
//!
//! - [`XdsClient`] is the handle, and the source that a mesh takes its configuration from; its work is one task;
//! - [`istio`]: one line into an Istio mesh, and which [`Dialect`] to speak there;
//! - [`bootstrap`]: which control planes to ask for what, and as whom;
//! - [`csds`]: how every resource stands, as a gRPC service for tools;
//! - [`cache`]: the last good resources on disk, for a start with no control plane in reach;
//! - [`session`]: the protocol of one stream, as a state machine without I/O;
//! - `testkit` (with the feature of that name): a control plane in process, for tests of one's own.
//!
//! # What a reader of snapshots may rely on
//!
//! A snapshot holds every cluster that a ready target's routes name, with its endpoints, or else that cluster is known not
//! to exist; new routes come when their clusters are warm, and until then the old ones stay. A response is seen as a
//! whole. What did not change is the same `Arc`. Refused versions, lost streams and silence take nothing away that
//! served; only the server's removal of a listener does, and the end of a time to live. Clusters that the server removes, and
//! in delta routes and endpoints, serve until nothing names them, since the two seldom come in one response. A server that says
//! why it does not give a resource (xRFC TP3) ends the wait for it, and not what it gave before.
//!
//! Where a server has the feature `fail_on_data_errors` (gRFC A88), what it removes or calls not found or not permitted is gone at
//! once, and so is what was good before a version that is refused.
//!
//! A target of which nothing is known is not in the snapshot; the client's status says what is missing, and why the control
//! plane is not there, if it is not.
//!
//! # Several control planes
//!
//! However many targets are watched, there is one stream to a server, and one to each of those that the authorities of
//! `xdstp:` names have (gRFC A47): resources may refer to those of other authorities, and each is asked for, and believed, where it
//! belongs. A name that belongs nowhere is refused, and the status says why.
//!
//! Of the servers of one list the first is used. While it cannot be reached, and something is lacking, the next is asked for all
//! that is wanted of that authority: resources of two servers may not fit together (gRFC A71). The first is tried all the while,
//! and as soon as it answers the others are let go. Meanwhile nothing is taken away: what the next server does not have stays as it
//! was, unless it has the feature `fail_on_data_errors` and has sent all its listeners or clusters without it. Clusters that
//! came because all are asked for go as if the preferred server had removed them when its first full state lacks them; in
//! delta, where nothing says that a server has sent all, when they have not come within the
//! [time](XdsClientBuilder::absence_timeout) that any resource has, counted from the first response that it sends of clusters.
//! Its silence takes nothing away: they stay for as long as it has said nothing of clusters, whatever it says of listeners.
//! [`SourceStatus::servers`](mesh_core::source::SourceStatus::servers) has them all.
//!
//! # State of the world, or delta
//!
//! A server is spoken to in state of the world, which all know, unless its bootstrap has the feature
//! [`mesh.delta`](bootstrap::ServerFeature::Delta). What reaches a mesh is the same; what a change costs is not: in delta it is
//! what has changed, in state of the world every name is listed with each answer, and full states are sent and compared. A
//! server that does not know delta is not asked in state of the world instead: the status says why there is nothing.
//!
//! # Metrics
//!
//! Through the `metrics` facade; a recorder has to be installed before the client is built.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `mesh_xds_connected` | gauge | `server` | 1 while the control plane has answered on the present stream, else 0 (gRFC A78 leaves it at 1 where a stream ends that had answered); of two at one address the second is `address (2)` |
//! | `mesh_xds_updates_accepted_total` | counter | `kind` | resources that came and are used, changed or not |
//! | `mesh_xds_updates_rejected_total` | counter | `kind` | resources that came and are refused |
//! | `mesh_xds_resources` | gauge | `kind`, `state` | resources that are asked for |
//! | `mesh_xds_last_update_timestamp_seconds` | gauge | | Unix time at which a resource was last accepted |
//! | `mesh_xds_config_age_seconds` | gauge | | how long ago control planes last stood by what serves |
//! | `mesh_xds_config_from_cache` | gauge | | resources that serve by the [cache file](cache) alone |
//! | `mesh_xds_cache_write_failures_total` | counter | | times that the cache file could not be written |
//!
//! The age is that of the authority that is worst off, of those that are asked for anything. An authority's is zero while one of
//! its control planes has answered on the present stream, since that one would say what has changed, and until there is anything
//! to be of an age. From the end of that stream on it grows, shown to within a second or a hundredth; after a start from the
//! cache file it goes on from the age of what is in the file. With the last that is asked of an authority its age ends, and
//! while nothing is asked of any the age is zero. It tells how far what serves may be behind: alert on it. A stream that is broken
//! and does not end counts as one until keep-alive has found it out. When a single resource came is in the status.
//!
//! # Known gaps
//!
//! Of clusters alone everything can be asked for, in [sidecars' dialect](Dialect::Sidecar). Load is not reported. A listener that its server removes is gone, as in gRPC to this day; the default of
//! A88, to keep it, is had with `ignore_resource_deletion` (A53). Names of `xdstp:` with directives, and collections, are refused.
//! A request that names its cluster (`cluster_header`) gets to one of `xdstp:` only where its routes name that too.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod cache;
pub mod csds;
#[cfg(mesh_fuzz)]
#[doc(hidden)]
pub mod fuzzing;
pub mod istio;
pub mod session;
#[cfg(feature = "testkit")]
pub mod testkit;

mod agreement;
mod assemble;
mod causes;
mod client;
mod dialect;
mod expected;
mod fingerprint;
mod kind;
mod meters;
mod name;
mod pace;
mod report;
mod resource;
mod secrets;
mod status;
mod store;
mod token;
mod transport;
mod worker;

pub use self::{
    client::{BuildError, XdsClient, XdsClientBuilder},
    dialect::Dialect,
    kind::ResourceKind,
    transport::SetupError,
};
