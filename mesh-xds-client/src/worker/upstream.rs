//! One control plane of the process: its session, and what its bootstrap says of it.
//!
//! However many authorities name it, there is one stream to it. What of its session waits for the stream lies here;
//! the stream itself lies with the work, and ends with it.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::config::core::v3::Node;
use metrics::Gauge;
use tokio::time::Instant;

use super::fallback::Standing;
use crate::{
    ResourceKind,
    bootstrap::{Server, ServerFeature},
    meters,
    session::{self, AbsenceReason, Session},
    store::Terms,
    transport::Dialer,
};

/// A control plane. See the [module](self).
pub(crate) struct Upstream {
    pub(super) server: Server,
    /// As [`names`] has it.
    pub(super) name: String,
    pub(super) dialer: Arc<Dialer>,
    pub(super) session: Session,
    pub(super) standing: Standing,
    pub(super) connected: Gauge,
    /// Of which kinds all that it has has come on the present stream, by [`ResourceKind::index`].
    pub(super) is_told: [bool; ResourceKind::ALL.len()],
}

/// How long gRFC A88 waits for a resource where silence is trouble rather than absence.
const PATIENT: Duration = Duration::from_secs(30);

/// What status, logs and metrics call each of these servers: its address, which from the second of one address on has a number.
///
/// A bootstrap names an address twice where it is to be reached with other credentials, or spoken to in the other variant.
pub(crate) fn names(servers: &[&Server]) -> Vec<String> {
    let addresses: Vec<_> = servers.iter().map(|server| server.uri().to_string()).collect();
    let numbered = addresses.iter().enumerate().map(|(place, address)| {
        match addresses[..place].iter().filter(|before| *before == address).count() {
            0 => address.clone(),
            before => format!("{address} ({})", before + 1),
        }
    });
    numbered.collect()
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn new(
        server: Server,
        name: String,
        dialer: Arc<Dialer>,
        mut config: session::Config,
        node: Node,
        seed: u64,
    ) -> Self {
        config.variant = server.variant();
        if server.has_feature(ServerFeature::ResourceTimerIsTransientError) {
            config.absence_timeout = config.absence_timeout.max(PATIENT);
        }
        Self {
            dialer,
            session: Session::new(config, node, seed),
            standing: Standing::default(),
            connected: meters::connected(&name),
            is_told: Default::default(),
            name,
            server,
        }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// It has answered on the present stream.
    pub(super) fn came(&mut self) {
        self.standing = Standing::Live;
        self.connected.set(1.0);
    }

    /// Its stream has ended, after an answer or before one: servers end streams in the normal course of things, but not before
    /// they have said a word (gRFC A57).
    pub(super) fn left(&mut self, was_live: bool) {
        self.gone(if was_live { Standing::Untold } else { Standing::Failing });
    }

    /// The stream was dropped on this side. Whether it can be reached is known as well as before.
    pub(super) fn interrupted(&mut self, now: Instant) {
        self.session.interrupt(now);
        self.gone(if self.standing == Standing::Live { Standing::Untold } else { self.standing });
    }

    /// Nobody asks it for anything any longer. Should somebody again, it is dialled at once, and told nothing of what it sent.
    pub(super) fn let_go(&mut self) {
        self.session.leave();
        self.gone(Standing::Untold);
    }

    fn gone(&mut self, standing: Standing) {
        self.standing = standing;
        self.connected.set(0.0);
        self.is_told = Default::default();
    }

    /// Whether it may say which authority requests bear (gRFC A81).
    pub(super) fn is_trusted(&self) -> bool {
        self.server.has_feature(ServerFeature::TrustedXdsServer)
    }

    /// What its bad news of a resource of this kind means.
    pub(super) fn terms(&self, kind: ResourceKind) -> Terms {
        let is_strict = self.server.has_feature(ServerFeature::FailOnDataErrors);
        Terms {
            kept: if is_strict { None } else { self.why_kept(kind) },
            keeps_cached: !is_strict && (!kind.is_full_state() || self.ignores_removals()),
            is_strict,
            is_patient: self.server.has_feature(ServerFeature::ResourceTimerIsTransientError),
        }
    }

    /// Why what the server removes goes on serving.
    ///
    /// A control plane that orders its responses removes a cluster before the routes that named it, where one change
    /// does both: until they have let go, the cluster is not to be missed. When none names it, it is forgotten.
    fn why_kept(&self, kind: ResourceKind) -> Option<&'static str> {
        match kind {
            ResourceKind::Cluster => return Some("until no route names it"),
            // Delta alone can remove these. Envoy goes on with them, whatever their server says.
            ResourceKind::ClusterLoadAssignment => return Some("until no cluster names it"),
            ResourceKind::RouteConfiguration => return Some("until no listener names it"),
            ResourceKind::Listener => {}
        }
        self.ignores_removals().then_some("since the server has the feature ignore_resource_deletion")
    }

    fn ignores_removals(&self) -> bool {
        self.server.has_feature(ServerFeature::IgnoreResourceDeletion)
    }

    /// What it means that nothing was heard of a resource that is asked for, in all the time that there was for it.
    ///
    /// Where something is held of an earlier run alone, silence of the server takes nothing away. One that has sent its full
    /// state has not been silent: it has said that there is none, unless silence of this server is trouble whatever else it says
    /// (gRFC A88).
    pub(super) fn silence_about(&self, kind: ResourceKind, is_cached: bool) -> AbsenceReason {
        if is_cached && self.is_told[kind.index()] && !self.terms(kind).is_patient {
            AbsenceReason::Unknown
        } else {
            AbsenceReason::NotFoundTimer
        }
    }
}
