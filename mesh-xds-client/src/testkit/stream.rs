//! One client's stream: what it was sent and what it is due, in either variant of the protocol.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming, metadata::MetadataMap};

use super::command::Command;
use super::faults::Held;
use super::record::Request;
use super::{Shared, State};
use crate::ResourceKind;
use crate::session::Response;

/// Where a stream stands with one kind, in one variant of the protocol.
pub(super) trait Watch: Default + Send + 'static {
    type Request: Message + Default + Send + 'static;
    type Response: Message + Into<Response> + Send + 'static;

    /// The request as the record has it, but for what the stream knows better.
    fn record(request: &Self::Request) -> Request;

    /// The id of the node, where the request has a node.
    fn node_id(request: &Self::Request) -> Option<&str>;

    /// This response, if it is of this variant.
    fn spoken(response: Response) -> Option<Self::Response>;

    /// The type of a response.
    fn type_url(response: &Self::Response) -> &str;

    /// The version of the response that a nonce answers.
    fn settle(&mut self, nonce: &str) -> Option<String>;

    /// Takes in what a request asks for. Returns whether it is to be heeded.
    fn ask(&mut self, kind: ResourceKind, request: Self::Request) -> bool;

    /// The names that are asked for.
    fn names(&self) -> &BTreeSet<String>;

    /// The response that brings the client up to date, if it is not.
    fn due(&mut self, kind: ResourceKind, state: &State, nonce: String) -> Option<Self::Response>;

    /// A response is on its way.
    fn note_sent(&mut self, response: &Self::Response);

    /// What was sent and not answered.
    fn unanswered(&self) -> &Unanswered;
}

/// Nonce and version of what was sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered(pub(super) VecDeque<(String, String)>);

/// The task of one stream.
struct Stream<W: Watch> {
    id: u64,
    shared: Arc<Shared>,
    /// By [`ResourceKind::index`].
    watches: [W; ResourceKind::ALL.len()],
    node_id: String,
    nonces: u64,
    responses: mpsc::Sender<Result<Vec<u8>, Status>>,
    /// What is to be sent later, in the order in which it is due.
    later: BTreeMap<(Instant, u64), Vec<u8>>,
    /// How many responses were put off, to keep those in order that are due together.
    put_off: u64,
}

/// The stream is over: the client left, or was sent away.
struct Over;

/// Serves one stream until either side ends it.
pub(super) async fn serve<W: Watch>(
    shared: Arc<Shared>,
    metadata: MetadataMap,
    mut requests: Streaming<W::Request>,
    responses: mpsc::Sender<Result<Vec<u8>, Status>>,
) {
    let (commands, mut orders) = mpsc::unbounded_channel();
    let id = shared.open_stream(commands, metadata);
    let mut stream = Stream::<W> {
        id,
        shared,
        watches: Default::default(),
        node_id: String::new(),
        nonces: 0,
        responses: responses.clone(),
        later: BTreeMap::new(),
        put_off: 0,
    };
    loop {
        let next = stream.later.keys().next().map(|(due, _)| *due);
        let step = tokio::select! {
            biased;
            () = responses.closed() => Err(Over),
            Some(order) = orders.recv() => stream.obey(order).await,
            request = requests.message() => match request {
                Ok(Some(request)) => stream.hear(request).await,
                Ok(None) | Err(_) => Err(Over),
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => stream.send_later().await,
        };
        if step.is_err() {
            return;
        }
    }
}

// === impl Stream ===

impl<W: Watch> Stream<W> {
    async fn obey(&mut self, command: Command) -> Result<(), Over> {
        match command {
            Command::Changed => {
                for kind in ResourceKind::ALL {
                    self.send_due(kind).await?;
                }
                Ok(())
            }
            Command::Send(response) => {
                let Some(response) = W::spoken(*response) else { return Ok(()) };
                if let Some(kind) = ResourceKind::from_type_url(W::type_url(&response)) {
                    self.watches[kind.index()].note_sent(&response);
                    self.count_unanswered(kind);
                }
                self.send(response).await
            }
            Command::Release(response) => match W::spoken(*response) {
                Some(response) => self.send(response).await,
                None => Ok(()),
            },
            Command::Write(bytes) => self.write(bytes).await,
            Command::End(status) => {
                let _ = self.responses.send(Err(status)).await;
                Err(Over)
            }
        }
    }

    async fn hear(&mut self, request: W::Request) -> Result<(), Over> {
        if let Some(node_id) = W::node_id(&request) {
            node_id.clone_into(&mut self.node_id);
        }
        let mut recorded = W::record(&request);
        (recorded.stream, recorded.node_id) = (self.id, self.node_id.clone());
        let Some(kind) = recorded.kind else {
            self.shared.record(recorded.into());
            return Ok(());
        };
        let watch = &mut self.watches[kind.index()];
        recorded.answers = watch.settle(&recorded.nonce);
        let is_heeded = watch.ask(kind, request);
        let names = watch.names().clone();
        if recorded.is_delta {
            recorded.names = names.iter().cloned().collect();
        }
        self.shared.record(recorded.into());
        if !is_heeded {
            self.count_unanswered(kind);
            self.shared.recorded.notify_waiters();
            return Ok(());
        }
        self.shared.with(|state| {
            if let Some(handle) = state.streams.get_mut(&self.id) {
                handle.names.insert(kind, names);
            }
        });
        self.send_due(kind).await?;
        // Not before what is due has been sent: in between it would seem that the client is done.
        self.count_unanswered(kind);
        self.shared.recorded.notify_waiters();
        Ok(())
    }

    async fn send_due(&mut self, kind: ResourceKind) -> Result<(), Over> {
        let watch = &mut self.watches[kind.index()];
        let nonce = format!("{}-{}", self.id, self.nonces + 1);
        let due = self.shared.with(|state| if state.faults.is_silent { None } else { watch.due(kind, state, nonce) });
        let Some(response) = due else { return Ok(()) };
        watch.note_sent(&response);
        self.count_unanswered(kind);
        self.nonces += 1;
        let holds = self.shared.with(|state| state.faults.held.is_some());
        if !holds {
            return self.send(response).await;
        }
        self.shared.hold(Held { stream: self.id, response: response.into() });
        Ok(())
    }

    fn count_unanswered(&self, kind: ResourceKind) {
        let count = self.watches[kind.index()].unanswered().0.len();
        self.shared.with(|state| {
            if let Some(handle) = state.streams.get_mut(&self.id) {
                handle.unanswered.insert(kind, count);
            }
        });
    }

    /// Sends a response, as it is or as it is to be corrupted, at once or as late as its kind is.
    async fn send(&mut self, response: W::Response) -> Result<(), Over> {
        let kind = ResourceKind::from_type_url(W::type_url(&response));
        let mut bytes = response.encode_to_vec();
        let delay = self.shared.with(|state| {
            state.faults.corrupt(kind, &mut bytes);
            state.faults.delay_of(kind)
        });
        if delay.is_zero() {
            return self.write(bytes).await;
        }
        self.put_off += 1;
        self.later.insert((Instant::now() + delay, self.put_off), bytes);
        Ok(())
    }

    /// Sends what was put off and is due.
    async fn send_later(&mut self) -> Result<(), Over> {
        match self.later.pop_first() {
            Some((_, bytes)) => self.write(bytes).await,
            None => Ok(()),
        }
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Over> {
        self.responses.send(Ok(bytes)).await.map_err(|_| Over)
    }
}

impl<W: Watch> Drop for Stream<W> {
    fn drop(&mut self) {
        self.shared.close_stream(self.id);
    }
}

// === impl Unanswered ===

impl Unanswered {
    pub(super) fn add(&mut self, nonce: &str, version: &str) {
        self.0.push_back((nonce.to_owned(), version.to_owned()));
    }

    pub(super) fn place(&self, nonce: &str) -> Option<usize> {
        self.0.iter().position(|(sent, _)| sent == nonce)
    }
}
