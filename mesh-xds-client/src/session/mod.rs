//! The xDS protocol of one stream to one control plane, as a state machine without I/O.
//!
//! A [`Session`] is told what happened (a name is wanted, the stream opened, a response came, time passed) and says what to
//! do next (open a stream, send this request, decode this batch, report that absence). It owns no socket, no task and no
//! clock: `now` is an argument, and jitter comes from a seed, so a transcript of a session replays exactly.
//!
//! It speaks both [variants](Variant) of the protocol, one server in one, the next in the other. It knows names, versions and
//! nonces; what is inside a resource is read elsewhere, which is why a verdict comes back through [`Session::answer`].
//!
//! What is wanted and held, timers, back-off and refusals are the same in both variants. They differ in how a response is taken
//! apart (`batch`), in how a request says what is wanted (`subscriptions`), and here where [`Variant`] is named.
//!
//! # Driving it
//!
//! After each input: take every [`Event`] from [`poll_event`](Session::poll_event), then, while the transport has room for a
//! message, send what [`poll_request`](Session::poll_request) returns, then sleep until
//! [`next_timeout`](Session::next_timeout) at most. Requests are built when they are taken, so changes that pile up
//! behind a slow transport leave as one request.
//!
//! A [`Batch`] gives its resources one by one, and [`accept`](Session::accept) hears of each that is in use, so that thousands of
//! them can be gone through in parts; [`answer`](Session::answer) has the rest of the verdict.
//!
//! # Size
//!
//! The session never looks at how large a response is. Without a limit of its own a transport would refuse a full
//! state of more than 4 MiB (tonic's default), which a mesh of some thousand clusters reaches: it must raise its limit for
//! received messages, and end the stream when the limit is passed. That is a lost stream like any other, and what is held
//! goes on serving.
//!
//! # Refusals
//!
//! A response is refused at once. Where the next one has to be refused too, the server hears of it after a while, and ever
//! later while it offers the same bytes, since some offer what was refused again as soon as they hear of it
//! ([`Config::nack_initial`], [`Config::nack_max`]). Acceptance, changed names and other kinds never wait.
//!
//! # Everything
//!
//! [`Session::subscribe_all`] asks for all that the server has of a kind, besides what is asked for by name. Alone on a stream
//! it is said as the older servers know it, by a first request without names; together with names, or after them, by the
//! name `*`.
//!
//! # Time to live
//!
//! A resource may come with a time to live. Unless it comes again, or the server says in time that it stands as it was, it is
//! reported absent, whether there is a stream or not. A server says so by the name without a body, in the version that is in use:
//! in state of the world that is the last one accepted whole, in delta the resource's own. Of another it is refused.
//!
//! # Where the rules come from
//!
//! The xDS protocol ("REST and gRPC protocol" in Envoy's documentation), gRFC A27 (base), A46 (valid resources of a
//! refused response are used), A57 (what counts as a failure of connectivity), A88 and xRFC TP3 (`resource_errors`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use tokio::time::Instant;
use tonic::Code;

use crate::ResourceKind;
use crate::fingerprint::{Fingerprint, Fingerprinting};

mod backoff;
mod batch;
#[cfg(test)]
mod convergence;
mod nack;
#[cfg(test)]
mod properties;
mod refusals;
mod subscriptions;
#[cfg(test)]
mod transcripts;
mod wire;

pub(crate) use self::batch::TWICE;
pub use self::batch::{Batch, RawResource, Ticket, Verdict};
pub use self::nack::ResourceError;
pub use self::wire::{Request, Response, Sealed, SealedAny, SealedDelta, SealedState, Variant};

use self::backoff::Backoff;
use self::batch::{Denied, Gone};
use self::refusals::Refusals;
use self::subscriptions::Subscriptions;

/// How a [`Session`] speaks, and how patient it is.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the server is spoken to. Default: in state of the world.
    pub variant: Variant,
    /// How long a named resource may stay unanswered on a live stream before it is reported absent. Default 15 s, as in
    /// Envoy and gRPC. Lower it and a slow control plane looks like one that does not know the name.
    pub absence_timeout: Duration,
    /// The longest wait before the first attempt to reconnect. Default 1 s; each further attempt multiplies it by 1.6.
    pub reconnect_initial: Duration,
    /// The longest wait before any attempt to reconnect. Default 120 s.
    pub reconnect_max: Duration,
    /// The longest wait before a second refusal in a row of the same kind is told. Default 1 s; each further one of the same
    /// resources multiplies it by 1.6. Lower it and a control plane that offers what was refused at once is kept busier.
    pub nack_initial: Duration,
    /// The longest wait before any refusal is told. Default 30 s; a mended version may come late by as much.
    pub nack_max: Duration,
}

/// One control plane, one node, and what is wanted from it. See the [module](self).
#[derive(Debug)]
pub struct Session {
    absence_timeout: Duration,
    node: Node,
    variant: Variant,
    link: Link,
    /// How many streams were begun; the number of the current one. Tells an answer which stream it belongs to.
    stream: u64,
    /// By [`ResourceKind::index`].
    kinds: [Subscriptions; ResourceKind::ALL.len()],
    /// What is owed to the current stream, in order. Emptied when it ends.
    outgoing: VecDeque<Outgoing>,
    /// The first of that, when it has been begun.
    drafted: Option<Draft>,
    events: VecDeque<Event>,
    /// Names awaited on the current stream, soonest first: all wait equally long, so the order of sending is the order of
    /// time. Entries of names that were answered or dropped since are passed over.
    awaited: VecDeque<Awaited>,
    backoff: Backoff,
    /// Type URLs already reported as ignored. Bounded, since a peer chooses them.
    ignored: BTreeSet<String>,
}

/// What the owner of a [`Session`] must act on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Open a stream, then call [`Session::stream_opened`] or [`Session::stream_ended`].
    Connect,
    /// The first response of a stream arrived: the control plane is there.
    Live,
    /// Decode these resources and give the verdict to [`Session::answer`].
    Deliver(Box<Batch>),
    /// The control plane has no such resource, as far as can be told.
    Absent {
        /// The kind that was asked for.
        kind: ResourceKind,
        /// The name that was asked for.
        name: String,
        /// How it became known.
        reason: AbsenceReason,
    },
    /// The control plane does not give a resource, and says why (xRFC TP3). It ends the wait for it; whether it ends what was
    /// delivered before is for the owner to decide (gRFC A88).
    Denied {
        /// The kind that was asked for.
        kind: ResourceKind,
        /// The name that was asked for.
        name: String,
        /// `NotFound` where there is none.
        code: Code,
        /// The control plane's words.
        message: String,
    },
    /// The stream ended, or could not be opened. What was delivered stays valid, and another attempt is due.
    Lost {
        /// The cause, as given to [`Session::stream_ended`].
        cause: String,
        /// Whether the stream had brought a response. If not, this is a failure of connectivity (gRFC A57), to be shown to
        /// those who still wait for a resource; if so, servers end streams in the normal course of things.
        was_live: bool,
        /// How long until the next [`Event::Connect`].
        retry_in: Duration,
    },
    /// A response was neither used nor answered. Reported once for each type URL.
    Ignored {
        /// The type URL of the response.
        type_url: String,
    },
}

/// How a resource is known to be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsenceReason {
    /// It was asked for on a live stream and not answered within [`Config::absence_timeout`].
    NotFoundTimer,
    /// The server said so of what it had delivered: a response with the full state of its kind no longer had it, or one in delta
    /// called it removed.
    Removed,
    /// The server said in delta, of what it never delivered, that there is none. It says so at once, though the resource may be
    /// on its way: such a name is reported after [`Config::absence_timeout`], as it would be in silence. Where it was reported for
    /// silence already, it is reported once more.
    Unknown,
    /// Its time to live was over, and nothing was heard of it.
    Expired,
}

/// Where the stream stands.
#[derive(Debug)]
enum Link {
    /// Nothing was ever wanted, or nothing was when the last stream was due again.
    Idle,
    /// `Event::Connect` was given out.
    Connecting,
    Open {
        variant: Variant,
        /// Whether the node was sent, which only the first request of a stream carries.
        introduced: bool,
        /// Whether something is asked for that is not said to be held, so that there is something to answer, in delta.
        prompted: bool,
        /// Whether a response has come.
        live: bool,
    },
    /// The last stream ended and the next is due at `until`.
    Waiting { until: Instant },
}

#[derive(Debug)]
enum Outgoing {
    /// The names of a kind have changed.
    Names(ResourceKind),
    /// A batch was answered.
    Answer(ResourceKind, Reply),
}

/// A request that is being made: what it lists is with the names of its kind.
#[derive(Debug)]
struct Draft {
    kind: ResourceKind,
    reply: Reply,
    /// Whether it says which names are wanted, which in delta an answer does not.
    lists_names: bool,
}

/// The part of a request that answers a response. Empty in the first request of a kind on a stream.
#[derive(Debug, Default)]
struct Reply {
    version: String,
    nonce: String,
    error: Option<rpc::Status>,
}

#[derive(Debug)]
struct Awaited {
    deadline: Instant,
    kind: ResourceKind,
    name: Arc<str>,
}

/// Longer than any process, and short enough to be added to an instant.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// How many type URLs are remembered as ignored.
const MAX_IGNORED: usize = 32;

/// How many names that were answered are passed over at a time; more than are decoded at a time.
const PASSED_OVER: usize = 128;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            variant: Variant::default(),
            absence_timeout: Duration::from_secs(15),
            reconnect_initial: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(120),
            nack_initial: Duration::from_secs(1),
            nack_max: Duration::from_secs(30),
        }
    }
}

// === impl Session ===

impl Session {
    /// A session that wants nothing yet. `seed` decides the jitter of its reconnects, and of what it
    /// repeats.
    pub fn new(config: Config, node: Node, seed: u64) -> Self {
        let subscriptions = |kind: ResourceKind| {
            let seed = seed.wrapping_add(1 + kind.index() as u64);
            let backoff = Backoff::new(config.nack_initial, config.nack_max.min(FOREVER), seed);
            Subscriptions::new(Refusals::new(backoff))
        };
        Self {
            absence_timeout: config.absence_timeout.min(FOREVER),
            node,
            variant: config.variant,
            link: Link::Idle,
            stream: 0,
            kinds: ResourceKind::ALL.map(subscriptions),
            outgoing: VecDeque::new(),
            drafted: None,
            events: VecDeque::new(),
            awaited: VecDeque::new(),
            backoff: Backoff::new(config.reconnect_initial, config.reconnect_max.min(FOREVER), seed),
            ignored: BTreeSet::new(),
        }
    }

    /// How long a named resource may stay unanswered; see [`Config::absence_timeout`].
    pub(crate) fn patience(&self) -> Duration {
        self.absence_timeout
    }

    /// Asks for a resource, until [`unsubscribe`](Self::unsubscribe). Asking twice is asking once: counting users is the
    /// caller's. `*` is not a name but says what [`subscribe_all`](Self::subscribe_all) does, to servers alone: the caller keeps
    /// it away, above all where names come from others.
    ///
    /// The first subscription opens the stream.
    pub fn subscribe(&mut self, kind: ResourceKind, name: &str) {
        if self.kinds[kind.index()].add(name) {
            self.names_changed(kind);
        }
        self.wake();
    }

    /// Makes room for so many names of a kind, for whoever is about to ask for thousands: a map that grows is made anew, all names
    /// that are in it in one go.
    pub(crate) fn make_room(&mut self, kind: ResourceKind, names: usize) {
        self.kinds[kind.index()].make_room(names);
    }

    /// Stops asking for a resource. The caller forgets what it held under that name.
    pub fn unsubscribe(&mut self, kind: ResourceKind, name: &str) {
        if self.kinds[kind.index()].remove(name) {
            self.names_changed(kind);
        }
    }

    /// Asks for everything of a kind that the server has, until [`unsubscribe_all`](Self::unsubscribe_all), besides what is asked
    /// for by name. In state of the world servers have a notion of that for listeners and clusters only.
    ///
    /// What comes of it has no clock, and is reported absent when the server removes it, as what was asked for by name.
    pub fn subscribe_all(&mut self, kind: ResourceKind) {
        if self.kinds[kind.index()].want_everything() {
            self.names_changed(kind);
        }
        self.wake();
    }

    /// Asks for no more of a kind than by name. Returns, in order, the names that came because everything was asked for: the
    /// caller forgets them, unless another server has them.
    pub fn unsubscribe_all(&mut self, kind: ResourceKind) -> Vec<Arc<str>> {
        let Some(left) = self.kinds[kind.index()].leave_everything() else { return Vec::new() };
        self.names_changed(kind);
        left
    }

    /// The caller holds these of another server, of which it asked for everything and does not any longer; this one, which
    /// is asked for everything, tells whether it has them. They are reported absent where its first full state lacks them, and
    /// in delta, where nothing ends what comes first, when they have not come [in time](Config::absence_timeout) after the
    /// first response of their kind.
    pub fn presume(&mut self, kind: ResourceKind, names: &[Arc<str>]) {
        names.iter().for_each(|name| self.kinds[kind.index()].presume(name));
    }

    /// What is held came from another server meanwhile: the next stream starts without versions, since this one would take them
    /// for its own and leave out what it believes to be held (gRFC A71). What came because everything is asked for is as if
    /// [presumed](Self::presume).
    ///
    /// A stream that is open has told the server of versions: [`Event::Connect`] follows, and the caller closes it.
    pub fn forget_versions(&mut self) {
        self.kinds.iter_mut().for_each(Subscriptions::forget_versions);
        if matches!(self.link, Link::Open { .. }) {
            self.leave_stream();
            self.connect();
        }
    }

    /// The stream that [`Event::Connect`] called for can take requests.
    pub fn stream_opened(&mut self) {
        if !matches!(self.link, Link::Connecting) {
            return;
        }
        self.link = Link::Open { variant: self.variant, introduced: false, prompted: false, live: false };
        if self.variant == Variant::StateOfTheWorld {
            self.prompt();
        }
        for kind in ResourceKind::ALL {
            self.names_changed(kind);
        }
    }

    /// Has a server that has no news say something: where it is told of all that it knows, it may send nothing until something
    /// changes, and without a response nobody could tell that it is there. In delta one name does.
    fn prompt(&mut self) {
        if self.kinds.iter().any(Subscriptions::asks_for_news) {
            return;
        }
        let told = self.kinds.iter_mut().filter(|kind| kind.may_begin());
        if let Some(smallest) = told.min_by_key(|kind| kind.len()) {
            smallest.version.clear();
        }
    }

    /// A response arrived on the current stream. One of the other variant than the stream's is dropped.
    pub fn received(&mut self, response: impl Into<Sealed>, now: Instant) {
        let response = response.into();
        let Link::Open { live, variant, .. } = &mut self.link else { return };
        if *variant != response.variant() {
            return;
        }
        if !std::mem::replace(live, true) {
            self.events.push_back(Event::Live);
        }
        self.backoff.reset();

        let kind = ResourceKind::from_type_url(response.type_url());
        // A kind never asked for on this stream is not answered: a request without names would be read as a wish
        // for everything.
        let Some(kind) = kind.filter(|kind| self.kinds[kind.index()].asked()) else {
            return self.ignore(response.type_url().to_owned());
        };
        let subscriptions = &mut self.kinds[kind.index()];
        subscriptions.delivered();
        let compares = subscriptions.refusals.compares();
        let batch = Batch::unpack(self.stream, kind, response, compares, now);
        self.events.push_back(Event::Deliver(Box::new(batch)));
    }

    /// A resource of a [`Batch`] is in use, which is said ahead of the verdict on the batch, and not once more in it. So a batch of
    /// thousands need not be gone through in one go at its end.
    ///
    /// Batches of one kind are gone through one after the other.
    pub fn accept(&mut self, batch: &mut Batch, name: &str) {
        let ticket = &mut batch.ticket;
        let label = ticket.labels.remove(name).unwrap_or_default();
        let subscriptions = &mut self.kinds[ticket.kind.index()];
        if !std::mem::replace(&mut ticket.is_begun, true) {
            subscriptions.begin_answer();
        }
        subscriptions.hold(name, label);
    }

    /// The verdict on a [`Batch`].
    ///
    /// Batches of one kind are answered in the order of their delivery. A verdict may come after its stream has ended: it
    /// counts, and nothing is sent for it. The refusal of what was refused before is sent later, so that a server which
    /// offers it again at once is not kept busy; see [`Config::nack_initial`].
    pub fn answer(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        let Ticket { stream, kind, version, nonce, is_begun, fingerprint, malformed, heartbeats, .. } = ticket;
        let fingerprint = fingerprint.map(Fingerprinting::finish);
        let Ticket { mut labels, gone, denied, .. } = ticket;
        let Verdict { accepted, mut rejected } = verdict;
        rejected.extend(malformed);

        let subscriptions = &mut self.kinds[kind.index()];
        subscriptions.decided();
        if !is_begun {
            subscriptions.begin_answer();
        }
        accepted.iter().for_each(|name| subscriptions.hold(name, labels.remove(&**name).unwrap_or_default()));
        rejected.iter().filter_map(|error| error.name.as_deref()).for_each(|name| subscriptions.refuse(name));
        for (name, label) in heartbeats {
            if let Err(message) = subscriptions.keep(&name, label, &version) {
                rejected.push(ResourceError { name: Some(name), field: None, message: message.to_owned() });
            }
        }
        let denied = denied.into_iter().filter(|denied| subscriptions.deny(&denied.name));
        self.events.extend(denied.map(|Denied { name, code, message }| Event::Denied { kind, name, code, message }));
        let gone = match gone {
            Gone::Named(names) => subscriptions.remove_named(&names),
            Gone::Missing if rejected.iter().all(|error| error.name.is_some()) => subscriptions.remove_missing(),
            // Where one name could not be read, nobody can say which names are missing.
            Gone::Missing => Vec::new(),
        };
        let gone = gone.into_iter().map(|(name, reason)| Event::Absent { kind, name: name.to_string(), reason });
        self.events.extend(gone);

        let error = (!rejected.is_empty()).then(|| nack::error_detail(&rejected));
        let is_of_this_stream = stream == self.stream && matches!(self.link, Link::Open { .. });
        if !is_of_this_stream {
            subscriptions.presume_refused();
        }
        // Nothing vouches for a version that is not answered, where nothing of it is wanted.
        if error.is_none() && (is_of_this_stream || !subscriptions.is_empty()) {
            subscriptions.move_on(version, kind.is_full_state());
        }
        let Link::Open { variant, .. } = self.link else { return };
        if !is_of_this_stream {
            // The present stream has waited for this.
            return self.names_changed(kind);
        }
        if variant == Variant::Delta {
            let deadline = now + self.absence_timeout;
            let doubted = self.kinds[kind.index()].doubt(deadline);
            self.arm(kind, doubted, deadline);
        }
        let version = self.kinds[kind.index()].version.clone();
        let reply = Reply { version, nonce, error };
        self.reply(kind, variant, reply, fingerprint, now);
    }

    /// Sends an answer, or has it wait.
    fn reply(&mut self, kind: ResourceKind, variant: Variant, reply: Reply, print: Option<Fingerprint>, now: Instant) {
        let is_delta = variant == Variant::Delta;
        let is_refused = reply.error.is_some();
        if is_refused && is_delta {
            // Each response has an answer of its own, and only the latest waits.
            self.release(kind);
        }
        let subscriptions = &mut self.kinds[kind.index()];
        if !is_refused {
            if !is_delta && subscriptions.refusals.end() {
                subscriptions.settled();
            }
            return self.outgoing.push_back(Outgoing::Answer(kind, reply));
        }
        if subscriptions.refusals.hold(print, reply, now) {
            subscriptions.settled();
        }
        // Names that the server has not heard of do not wait.
        let is_carrier = !is_delta && subscriptions.is_changed();
        if is_carrier || subscriptions.refusals.until() <= Some(now) {
            self.release(kind);
        }
    }

    /// The current stream ended, or could not be opened.
    pub fn stream_ended(&mut self, cause: impl Into<String>, now: Instant) {
        let was_live = match self.link {
            Link::Connecting => false,
            Link::Open { live, .. } => live,
            Link::Idle | Link::Waiting { .. } => return,
        };
        self.leave_stream();
        let retry_in = self.backoff.next_wait();
        self.link = Link::Waiting { until: now + retry_in };
        self.events.push_back(Event::Lost { cause: cause.into(), was_live, retry_in });
    }

    /// The owner has dropped the stream, or the attempt to open it, which says nothing of the server: no [`Event::Lost`] follows.
    /// The next is due at once; a wait that goes on already goes on.
    pub fn interrupt(&mut self, now: Instant) {
        if matches!(self.link, Link::Idle | Link::Waiting { .. }) {
            return;
        }
        self.leave_stream();
        self.link = Link::Waiting { until: now };
        self.events.retain(|event| !matches!(event, Event::Connect | Event::Live));
    }

    /// The server is left, with nothing asked of it any longer; the caller closes the stream. No [`Event::Lost`] follows. Whatever
    /// is asked for next opens a stream at once, as the first one did, without versions or a wait.
    pub fn leave(&mut self) {
        self.leave_stream();
        self.link = Link::Idle;
        self.forget_versions();
        self.backoff.reset();
        self.events.retain(|event| !matches!(event, Event::Connect));
    }

    fn leave_stream(&mut self) {
        self.outgoing.clear();
        self.drafted = None;
        self.awaited.clear();
        self.kinds.iter_mut().for_each(Subscriptions::leave_stream);
    }

    /// Time has passed. Harmless when nothing was due.
    pub fn timeout(&mut self, now: Instant) {
        if matches!(self.link, Link::Waiting { until } if until <= now) {
            self.reconnect();
        }
        while self.awaited.front().is_some_and(|next| next.deadline <= now) {
            let Some(Awaited { kind, name, deadline }) = self.awaited.pop_front() else { break };
            let subscriptions = &mut self.kinds[kind.index()];
            let Some(is_denied) = subscriptions.awaited(&name, deadline) else { continue };
            let reason = subscriptions.run_out(&name, is_denied);
            self.events.push_back(Event::Absent { kind, name: name.to_string(), reason });
        }
        for kind in ResourceKind::ALL {
            while let Some(name) = self.kinds[kind.index()].expire(now) {
                let name = name.to_string();
                self.events.push_back(Event::Absent { kind, name, reason: AbsenceReason::Expired });
            }
            if self.kinds[kind.index()].refusals.until().is_some_and(|until| until <= now) {
                self.release(kind);
            }
        }
    }

    /// When [`timeout`](Self::timeout) may have something to do, unless an input changes that.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        let reconnect = match self.link {
            Link::Waiting { until } => Some(until),
            _ => None,
        };
        let of_kinds = self.kinds.iter().flat_map(|kind| [kind.refusals.until(), kind.next_expiry()]);
        let soonest = of_kinds.chain([reconnect]).flatten().min();
        self.next_awaited().into_iter().chain(soonest).min()
    }

    /// The next thing to act on, in the order in which things happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Goes on with the next request by `most` names, for whoever has other things to do while thousands are listed. Returns
    /// whether [`poll_request`](Self::poll_request) has nothing left to list. The clock of a name starts when it is listed.
    pub fn draft_request(&mut self, most: usize, now: Instant) -> bool {
        if self.drafted.is_none() {
            self.drafted = self.begin_request();
        }
        let Some(Draft { kind, .. }) = self.drafted else { return true };
        let (deadline, awaited) = (now + self.absence_timeout, &mut self.awaited);
        let arm = |name| awaited.push_back(Awaited { deadline, kind, name });
        self.kinds[kind.index()].list(most, deadline, arm)
    }

    /// The next request for the current stream, to be sent at once: taking it starts the clock of the names that it asks for.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        let Link::Open { variant, .. } = self.link else { return None };
        let request = loop {
            while !self.draft_request(usize::MAX, now) {}
            let draft = self.drafted.take()?;
            let request = match variant {
                Variant::StateOfTheWorld => self.state_request(draft).map(Request::StateOfTheWorld),
                Variant::Delta => self.delta_request(draft).map(Request::Delta),
            };
            if let Some(request) = request {
                break request;
            }
        };
        Some(request.with_node(self.introduce()))
    }

    /// How many answers wait for [`poll_request`](Self::poll_request). Each response brings one, so whoever goes on reading from a
    /// server that does not read lets them grow without end.
    pub fn unsent_answers(&self) -> usize {
        self.outgoing.iter().filter(|outgoing| matches!(outgoing, Outgoing::Answer(..))).count()
    }

    /// Begins the next request. In state of the world each lists the names, an answer as well.
    ///
    /// In delta an answer is an answer and changes no names: servers (istiod is one) pass over a request whose nonce they have left
    /// behind, and names that came with it would be lost.
    fn begin_request(&mut self) -> Option<Draft> {
        let Link::Open { variant, .. } = self.link else { return None };
        loop {
            let outgoing = self.outgoing.pop_front()?;
            let (Outgoing::Answer(kind, _) | Outgoing::Names(kind)) = outgoing;
            let subscriptions = &mut self.kinds[kind.index()];
            let is_announcement = matches!(outgoing, Outgoing::Names(_));
            let reply = match (outgoing, variant) {
                (Outgoing::Answer(_, reply), _) => {
                    subscriptions.answered(&reply.nonce);
                    Some(reply)
                }
                (Outgoing::Names(_), Variant::StateOfTheWorld) => subscriptions.announce(),
                (Outgoing::Names(_), Variant::Delta) => subscriptions.begin_changes().then(Reply::default),
            };
            let Some(reply) = reply else { continue };
            if variant == Variant::StateOfTheWorld {
                subscriptions.begin_all();
            }
            return Some(Draft { kind, reply, lists_names: is_announcement || variant == Variant::StateOfTheWorld });
        }
    }

    fn state_request(&mut self, Draft { kind, reply, .. }: Draft) -> Option<DiscoveryRequest> {
        let sent = self.kinds[kind.index()].finish_all()?;
        if sent.is_partial {
            self.names_changed(kind);
        }
        Some(DiscoveryRequest {
            version_info: reply.version,
            resource_names: sent.names,
            type_url: kind.type_url().to_owned(),
            response_nonce: reply.nonce,
            error_detail: reply.error,
            ..Default::default()
        })
    }

    fn delta_request(&mut self, Draft { kind, reply, lists_names }: Draft) -> Option<DeltaDiscoveryRequest> {
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: reply.nonce,
            error_detail: reply.error,
            ..Default::default()
        };
        if lists_names {
            let mut changes = self.kinds[kind.index()].finish_changes()?;
            if let Link::Open { prompted: prompted @ false, live: false, .. } = &mut self.link {
                *prompted = changes.leave_out_one_version();
            }
            request.resource_names_subscribe = changes.subscribe;
            request.resource_names_unsubscribe = changes.unsubscribe;
            request.initial_resource_versions = changes.versions;
        }
        Some(request)
    }

    fn arm(&mut self, kind: ResourceKind, names: Vec<Arc<str>>, deadline: Instant) {
        self.awaited.extend(names.into_iter().map(|name| Awaited { deadline, kind, name }));
    }

    /// The node, for the first request of a stream.
    fn introduce(&mut self) -> Option<Node> {
        let Link::Open { introduced, .. } = &mut self.link else { return None };
        (!std::mem::replace(introduced, true)).then(|| self.node.clone())
    }

    fn names_changed(&mut self, kind: ResourceKind) {
        let Link::Open { variant, .. } = self.link else { return };
        if variant == Variant::StateOfTheWorld {
            // A refusal that waits is an answer owed, which goes first and carries the names.
            self.release(kind);
        }
        if self.kinds[kind.index()].mark_changed() {
            self.outgoing.push_back(Outgoing::Names(kind));
        }
    }

    /// Sends the refusal that waits, if there is one.
    fn release(&mut self, kind: ResourceKind) {
        if let Some(reply) = self.kinds[kind.index()].refusals.release() {
            self.outgoing.push_back(Outgoing::Answer(kind, reply));
        }
    }

    /// The first subscription opens the stream.
    fn wake(&mut self) {
        if matches!(self.link, Link::Idle) {
            self.connect();
        }
    }

    fn reconnect(&mut self) {
        if self.kinds.iter().all(Subscriptions::is_empty) {
            self.link = Link::Idle;
        } else {
            self.connect();
        }
    }

    fn connect(&mut self) {
        self.stream += 1;
        self.link = Link::Connecting;
        self.events.push_back(Event::Connect);
    }

    fn ignore(&mut self, type_url: String) {
        if self.ignored.len() < MAX_IGNORED && self.ignored.insert(type_url.clone()) {
            self.events.push_back(Event::Ignored { type_url });
        }
    }

    /// The soonest deadline that still stands, or one that is sooner: of thousands that were answered since, some are passed over
    /// at a time.
    fn next_awaited(&mut self) -> Option<Instant> {
        for _ in 0..PASSED_OVER {
            let next = self.awaited.front()?;
            if self.kinds[next.kind.index()].awaited(&next.name, next.deadline).is_some() {
                break;
            }
            self.awaited.pop_front();
        }
        self.awaited.front().map(|next| next.deadline)
    }
}
