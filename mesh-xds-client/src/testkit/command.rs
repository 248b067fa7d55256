//! What the control plane keeps of a stream, and how it reaches the stream's task.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tonic::Status;

use crate::ResourceKind;
use crate::session::Response;

/// What the control plane tells the task of a stream.
#[derive(Debug)]
pub(super) enum Command {
    /// Resources changed, or silence ended.
    Changed,
    /// Send this as it is, where the stream is of its variant.
    Send(Box<Response>),
    /// Send this, which was made up already and held back.
    Release(Box<Response>),
    /// Send these bytes in place of a response.
    Write(Vec<u8>),
    /// End the stream.
    End(Status),
}

/// What the control plane keeps of a live stream.
#[derive(Debug)]
pub(super) struct StreamHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) names: BTreeMap<ResourceKind, BTreeSet<String>>,
    /// Responses of each kind that were sent and not answered.
    pub(super) unanswered: BTreeMap<ResourceKind, usize>,
}
