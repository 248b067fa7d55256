//! A route configuration, virtual host by virtual host: what is the same byte by byte as in the version before is used again,
//! and the rest decoded, a piece at a time.
//!
//! Thousands of virtual hosts are one resource, of which mostly a few change. So the message is taken apart at its first level
//! and no further; each virtual host is recognised by a print of its bytes, and only what is not is decoded. What is kept for
//! that is a print a virtual host, and what was warned of in it.
//!
//! What comes of it is what decoding all of it at once would give, whatever came before: value, warnings, and of several
//! complaints the one that would be first. Bytes that are no message come before fields that break a rule, wherever both
//! stand; and what a virtual host says may depend on fields that follow it, so that none is read before all are found.

use std::{fmt, iter::Enumerate, mem, ops::Range, sync::Arc, vec};

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3 as pb;
use mesh_core::config::{Checking, ConfigError, Decoded, RouteConfig, VirtualHost};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, skip_field},
};

use super::{
    action::Scope,
    common::{filled, undecodable},
    former::Former,
    name_of,
    notes::Notes,
    refusal,
    route::{self, Frame},
};
use crate::{fingerprint::Fingerprint, session::ResourceError};

/// The routes of a target as one version of their resource gives them.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// The routes.
    pub(crate) config: Arc<RouteConfig>,
    kept: Arc<Kept>,
}

/// What the next version is compared with.
#[derive(Debug)]
struct Kept {
    scope: Scope,
    /// Of each virtual host in order.
    parts: Vec<Part>,
}

/// What is kept of a virtual host beside itself.
#[derive(Debug)]
struct Part {
    print: Fingerprint,
    /// What was warned of in it, if anything was.
    notes: Option<Arc<Notes>>,
}

/// A route configuration on its way from its bytes.
///
/// How much is done in one go is told in bytes to decode, of which the rest of the work is taken for a part. One virtual host
/// is never divided.
#[derive(Debug)]
pub(crate) struct RouteDecoding {
    bytes: Bytes,
    former: Option<Routes>,
    splitting: Splitting,
    /// Set when the message is taken apart.
    reading: Option<Box<Reading>>,
    /// Set when its virtual hosts are read.
    checking: Option<Checking>,
}

/// The message is taken apart.
#[derive(Debug, Default)]
struct Splitting {
    /// How far that has got.
    at: usize,
    /// Where each virtual host stands, with its key and its length.
    hosts: Vec<Range<usize>>,
    /// All other fields.
    rest: pb::RouteConfiguration,
    /// Why what follows those is no message.
    broken: Option<DecodeError>,
}

/// The virtual hosts are read.
#[derive(Debug)]
struct Reading {
    /// Those to come.
    left: Enumerate<vec::IntoIter<Range<usize>>>,
    frame: Frame,
    notes: Notes,
    /// Whether virtual hosts of the version before can be used as they are: they depend on this.
    has_former_scope: bool,
    way: Former<Fingerprint>,
    /// Where they are decoded, as what they are a part of: how deep a message goes is counted from there.
    message: pb::RouteConfiguration,
    hosts: Vec<Arc<VirtualHost>>,
    parts: Vec<Part>,
    /// The first rule that is broken. Nothing is validated from then on, and all is decoded still.
    refused: Option<ConfigError>,
    broken: Option<DecodeError>,
}

/// What a virtual host costs that is found, that is known, and that is compared with others.
const FOUND: usize = 2;
const KNOWN: usize = 8;
const COMPARED: usize = 8;

/// What a field costs that is decoded, beside its bytes.
const DECODED: usize = 64;

/// How much less than decoding it costs to make a print.
const PRINTING: usize = 16;

// === impl Routes ===

impl Routes {
    /// The same, where `former` says the same: in other bytes, which are those to compare with from now on.
    pub(crate) fn in_place_of(self, former: &Self) -> Self {
        Self { config: former.config.clone(), kept: self.kept }
    }
}

/// The same routes, whatever their bytes were.
impl PartialEq for Routes {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config
    }
}

// === impl RouteDecoding ===

impl RouteDecoding {
    /// Begins to decode `bytes`. Virtual hosts that have the same bytes as in `former`, the version before, are taken from
    /// there.
    pub(crate) fn new(bytes: Bytes, former: Option<Routes>) -> Self {
        Self { bytes, former, splitting: Splitting::default(), reading: None, checking: None }
    }

    /// Goes on until `left` is used up. Returns what has become of it, once, when that is known.
    ///
    /// # Errors
    ///
    /// Refuses what decoding all of it at once would refuse, and for the same reason.
    pub(crate) fn advance(&mut self, left: &mut usize) -> Option<Result<Decoded<Routes>, ResourceError>> {
        match self.go_on(left) {
            Ok(is_done) => is_done.then(|| Ok(self.finish())),
            Err(error) => Some(Err(refusal(name_of(&self.bytes).as_deref(), &error))),
        }
    }

    /// Returns whether it is done.
    fn go_on(&mut self, left: &mut usize) -> Result<bool, ConfigError> {
        let former = self.former.as_ref();
        while *left > 0 {
            if let Some(checking) = &mut self.checking {
                let most = left.div_ceil(COMPARED);
                *left = left.saturating_sub(most.saturating_mul(COMPARED));
                if checking.advance(most)? {
                    return Ok(true);
                }
            } else if let Some(reading) = &mut self.reading {
                if reading.advance(&self.bytes, former, left)? {
                    let (name, hosts) = (reading.frame.name.as_str(), mem::take(&mut reading.hosts));
                    self.checking = Some(RouteConfig::begin(name, hosts, former.map(|former| former.config.clone())));
                }
            } else if self.splitting.advance(&self.bytes, left) {
                let reading = Reading::new(mem::take(&mut self.splitting), former);
                self.reading = Some(Box::new(reading));
            }
        }
        Ok(false)
    }

    fn finish(&mut self) -> Decoded<Routes> {
        let reading = self.reading.take().expect("virtual hosts are read before they are checked");
        let mut config = self.checking.take().expect("it is done when they are checked").finish();
        let Reading { frame, notes, parts, .. } = *reading;
        let scope = frame.put_around(&mut config);
        let value = Routes { config: Arc::new(config), kept: Arc::new(Kept { scope, parts }) };
        Decoded { value, warnings: notes.finish() }
    }
}

// === impl Splitting ===

impl Splitting {
    /// Returns whether that was the last field, or the last that can be told apart.
    fn advance(&mut self, bytes: &[u8], left: &mut usize) -> bool {
        while *left > 0 {
            let rest = &bytes[self.at..];
            if rest.is_empty() {
                return true;
            }
            // Whatever is wrong with what cannot be told apart, prost says so.
            let (is_host, length) = field(rest).unwrap_or((false, rest.len()));
            if is_host {
                self.hosts.push(self.at..self.at + length);
                *left = left.saturating_sub(FOUND);
            } else if let Err(error) = merge(&mut self.rest, rest, length) {
                self.broken = Some(error);
                return true;
            } else {
                *left = left.saturating_sub(DECODED + length);
            }
            self.at += length;
        }
        false
    }
}

/// Reads the first field of `bytes`, which is of this length.
fn merge(message: &mut pb::RouteConfiguration, bytes: &[u8], length: usize) -> Result<(), DecodeError> {
    message.merge(&bytes[..length]).map_err(|error| {
        // What is broken may reach for the bytes after it, and is told otherwise where there are some.
        message.merge(bytes).err().unwrap_or(error)
    })
}

/// Whether the first field of `message` is a virtual host, and how long it is with its key.
fn field(message: &[u8]) -> Result<(bool, usize), DecodeError> {
    const VIRTUAL_HOSTS: u32 = 2;
    let mut after = message;
    let (tag, wire_type) = decode_key(&mut after)?;
    skip_field(wire_type, tag, &mut after, DecodeContext::default())?;
    let is_host = tag == VIRTUAL_HOSTS && wire_type == WireType::LengthDelimited;
    Ok((is_host, message.len() - after.len()))
}

// === impl Reading ===

impl Reading {
    fn new(splitting: Splitting, former: Option<&Routes>) -> Self {
        let Splitting { hosts, rest, broken, .. } = splitting;
        let mut notes = Notes::default();
        let frame = framed(rest, &mut notes);
        let (frame, refused) = match frame {
            Ok(frame) => (frame, None),
            Err(error) => (Frame::default(), Some(error)),
        };
        Self {
            has_former_scope: refused.is_none() && former.is_some_and(|former| former.kept.scope == frame.scope),
            frame,
            notes,
            way: Former::default(),
            message: pb::RouteConfiguration::default(),
            parts: Vec::with_capacity(hosts.len()),
            left: hosts.into_iter().enumerate(),
            hosts: Vec::new(),
            refused,
            broken,
        }
    }

    /// Returns whether that was the last virtual host.
    fn advance(&mut self, bytes: &[u8], former: Option<&Routes>, left: &mut usize) -> Result<bool, ConfigError> {
        let undecodable = |error| undecodable(&error, bytes.len());
        while *left > 0 {
            let Some((index, place)) = self.left.next() else {
                return match (self.broken.take().map(undecodable), self.refused.take()) {
                    (Some(error), _) | (None, Some(error)) => Err(error),
                    (None, None) => Ok(true),
                };
            };
            let cost = self.read(index, &bytes[place.start..], place.len(), former).map_err(undecodable)?;
            *left = left.saturating_sub(cost);
        }
        Ok(false)
    }

    /// Reads the virtual host that stands at `index`, the first field of `bytes`. Returns what it has cost.
    fn read(
        &mut self,
        index: usize,
        bytes: &[u8],
        length: usize,
        former: Option<&Routes>,
    ) -> Result<usize, DecodeError> {
        let print = Fingerprint::of_bytes(&bytes[..length]);
        let parts = former.map_or(&[][..], |former| &former.kept.parts);
        let place = self.way.find(parts, |part| part.print, print);
        let there = |place: usize| former.and_then(|former| former.config.virtual_hosts().get(place));
        if let (true, Ok(place)) = (self.has_former_scope, place)
            && let Some(same) = there(place)
        {
            self.add(index, same.clone(), Part { print, notes: parts[place].notes.clone() });
            return Ok(KNOWN + length / PRINTING);
        }
        merge(&mut self.message, bytes, length)?;
        let message = self.message.virtual_hosts.pop().unwrap_or_default();
        if self.refused.is_none() {
            let mut notes = Notes::default();
            match route::virtual_host(message, &self.frame.scope, &mut notes) {
                Ok(host) => {
                    // Servers that write maps in any order send the same in other bytes.
                    let same = there(place.unwrap_or_else(|place| place)).filter(|same| ***same == host);
                    let notes = (notes.count() > 0).then(|| Arc::new(notes));
                    self.add(index, same.cloned().unwrap_or_else(|| Arc::new(host)), Part { print, notes });
                }
                Err(error) => self.refused = Some(error.within(at(index))),
            }
        }
        Ok(DECODED + length)
    }

    fn add(&mut self, index: usize, host: Arc<VirtualHost>, part: Part) {
        if let Some(notes) = &part.notes {
            self.notes.take_over(at(index), notes);
        }
        self.hosts.push(host);
        self.parts.push(part);
    }
}

/// Inside a listener a route configuration needs no name, as a resource it does.
fn framed(message: pb::RouteConfiguration, notes: &mut Notes) -> Result<Frame, ConfigError> {
    filled("name", message.name.clone(), "name the route configuration")?;
    route::frame(message, notes)
}

/// The path of a virtual host.
fn at(index: usize) -> impl fmt::Display {
    struct At(usize);
    impl fmt::Display for At {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "virtual_hosts[{}]", self.0)
        }
    }
    At(index)
}
