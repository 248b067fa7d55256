//! How the control plane is told to misbehave.

use std::time::Duration;

use tonic::Status;

use super::command::Command;
use super::faults::{Damage, Held};
use super::shared::notify_all;
use super::{ControlPlane, Mutations};
use crate::ResourceKind;
use crate::session::Response;

/// Breaking.
impl ControlPlane {
    /// Ends every open stream with a status, after what was already on its way. Connections stay.
    pub fn end_streams(&self, status: Status) {
        self.shared.with(|state| state.tell_streams(|| Command::End(status.clone())));
    }

    /// Cuts every open connection, without a word.
    pub fn abort_connections(&self) {
        self.shared.with(|state| notify_all(&state.connections));
    }

    /// Leaves new connections unserved until [`resume`](Self::resume): they open, and nothing answers. Open ones go on.
    pub fn pause(&self) {
        self.shared.with(|state| state.faults.is_paused = true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.with(|state| state.faults.is_paused = false);
        self.shared.resumed.notify_waiters();
    }

    /// Closes every listener and cuts every connection. When it returns, the ports are free, for anybody unless a
    /// [`Place`](super::Place) keeps them, and [`listen`](Self::listen) or [`serve`](Self::serve) start again with the same
    /// resources and higher versions.
    ///
    /// Waits for the futures of `serve` and `serve_connection` to end, so those must be running in tasks, or have been dropped.
    pub async fn stop(&self) {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.shared.with(|state| state.end_serving()) {
                return;
            }
            ended.await;
        }
    }

    /// Answers new streams with this status, or serves them again. Open ones go on.
    pub fn refuse_streams(&self, status: impl Into<Option<Status>>) {
        let status = status.into();
        self.shared.with(|state| state.faults.refusal = status);
    }

    /// Sends every response this much later. Zero, the default, sends at once.
    pub fn delay(&self, delay: Duration) {
        self.shared.with(|state| state.faults.delay = delay);
    }

    /// Sends the responses of one kind this much later than the others, which pass them.
    pub fn delay_kind(&self, kind: ResourceKind, delay: Duration) {
        self.shared.with(|state| state.faults.delays.insert(kind, delay));
    }

    /// Holds responses back until [`release`](Self::release). Those of [`send`](Self::send) leave all the same.
    pub fn hold(&self) {
        self.shared.with(|state| {
            state.faults.held.get_or_insert_default();
        });
    }

    /// Sends what was [held back](Self::hold), after `rearrange` has put it in another order, left some of it out or said some
    /// of it twice. Nothing is held back from then on.
    ///
    /// ```
    /// # let plane = mesh_xds_client::testkit::ControlPlane::new();
    /// plane.hold();
    /// // Change resources; `wait_held` says when the responses are there.
    /// plane.release(|held| held.reverse());
    /// ```
    pub fn release(&self, rearrange: impl FnOnce(&mut Vec<Held>)) {
        let mut held = self.shared.with(|state| state.faults.held.take()).unwrap_or_default();
        rearrange(&mut held);
        self.shared.with(|state| {
            for Held { stream, response } in held {
                if let Some(stream) = state.streams.get(&stream) {
                    let _ = stream.commands.send(Command::Release(Box::new(response)));
                }
            }
        });
    }

    /// Does this to the bytes of the next response of a kind, on whatever stream. Said twice, it is done to the next two.
    ///
    /// ```
    /// # use mesh_xds_client::ResourceKind;
    /// # let plane = mesh_xds_client::testkit::ControlPlane::new();
    /// plane.corrupt_next(ResourceKind::Cluster, |bytes| bytes.truncate(bytes.len() / 2));
    /// ```
    pub fn corrupt_next(&self, kind: ResourceKind, damage: impl FnOnce(&mut Vec<u8>) + Send + 'static) {
        let damage = Damage(Box::new(damage));
        self.shared.with(|state| state.faults.damages.entry(kind).or_default().push_back(damage));
    }

    /// Sends of every response the next of these [mutations](Mutations), or all of them whole again.
    pub fn mutate(&self, mutations: impl Into<Option<Mutations>>) {
        let mutations = mutations.into();
        self.shared.with(|state| state.faults.mutations = mutations);
    }

    /// Writes to connections one byte at a time, this far apart. Zero, the default, writes at full speed.
    pub fn drip(&self, pause: Duration) {
        self.shared.with(|state| state.faults.drip = pause);
    }

    /// Listens to requests and answers none, until called with `false`, when all that is due is sent.
    pub fn silence(&self, is_silent: bool) {
        self.shared.with(|state| {
            state.faults.is_silent = is_silent;
            state.tell_streams(|| Command::Changed);
        });
    }

    /// Sends a response to every open stream of its variant as it is: unsolicited, with a wrong nonce, of an unknown
    /// type.
    pub fn send(&self, response: impl Into<Response>) {
        let response = response.into();
        self.shared.with(|state| state.tell_streams(|| Command::Send(Box::new(response.clone()))));
    }

    /// Sends these bytes to every open stream in place of a response, at once.
    pub fn send_bytes(&self, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.shared.with(|state| state.tell_streams(|| Command::Write(bytes.clone())));
    }
}
