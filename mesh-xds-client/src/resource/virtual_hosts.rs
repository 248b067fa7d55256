//! A route configuration, virtual host by virtual host: what is the same byte by byte as in the version before is used again,
//! and the rest decoded, a piece at a time.
//!
//! Thousands of virtual hosts are one resource, of which mostly a few change. So the message is taken apart at its first level
//! and no further; each virtual host is recognised by a print of its bytes, and only what is not is decoded. What is kept for
//! that is a print a virtual host, how much was warned of in it, and the texts of those warnings that are told.
//!
//! What comes of it is what decoding all of it at once would give, whatever came before: value, warnings, and of several
//! complaints the one that would be first. Bytes that are no message come before fields that break a rule, wherever both
//! stand; and what a virtual host says may depend on fields that follow it, so that none is read before all are found.

use std::{fmt, iter::Enumerate, mem, ops::Range, sync::Arc, vec};

use bytes::{Buf, Bytes};
use envoy_types::pb::envoy::{
    config::route::v3 as pb,
    extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager, http_connection_manager::RouteSpecifier,
    },
};
use mesh_core::config::{Checking, ConfigError, RouteConfig, VirtualHost};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};

use super::{
    Context, Rules,
    action::Scope,
    common::{filled, undecodable},
    former::Former,
    notes::Notes,
    route::{self, Frame},
};
use crate::fingerprint::Fingerprint;

/// The routes of a target as one version of their resource gives them.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// The routes.
    pub(crate) config: Arc<RouteConfig>,
    kept: Arc<Kept>,
}

/// What the next version is compared with.
#[derive(Debug, Default)]
struct Kept {
    scope: Scope,
    /// Of each virtual host in order.
    parts: Vec<Part>,
}

/// What is kept of a virtual host beside itself.
#[derive(Debug)]
struct Part {
    print: Fingerprint,
    noted: Noted,
}

/// What was warned of in a virtual host.
#[derive(Clone, Debug)]
enum Noted {
    Nothing,
    /// All that was, of which some at least is told.
    Told(Arc<Notes>),
    /// So much, of which nothing is told: thousands of virtual hosts must not hold as many texts for the life of a version. Where
    /// it is to be told in another version, the virtual host is decoded again.
    Counted(usize),
}

/// A route configuration on its way from its bytes: a resource, or what stands in a listener.
///
/// How much is done in one go is told in bytes to decode, of which the rest of the work is taken for a part. One virtual host
/// is never divided, nor is the list of those of the version before, by their prints, that is made when the first is not where it
/// was, and counted for what it costs when it is there.
#[derive(Debug)]
pub(crate) struct RouteDecoding {
    bytes: Bytes,
    place: Place,
    rules: Rules,
    former: Option<Routes>,
    splitting: Splitting,
    /// Set when the message is taken apart.
    reading: Option<Box<Reading>>,
    /// Set when its virtual hosts are read.
    checking: Option<Checking>,
}

/// Where a route configuration stands: how deep a message goes is counted from the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is a resource.
    Resource,
    /// It is the `route_config` of a connection manager.
    Manager,
}

/// Why there are no routes.
#[derive(Debug)]
pub(super) enum Failure {
    /// The bytes are no message.
    Broken(DecodeError),
    /// A rule is broken.
    Refused(ConfigError),
}

/// A connection manager that has its routes in it, without their virtual hosts.
pub(super) struct Emptied {
    /// The message without them.
    pub(super) manager: HttpConnectionManager,
    /// Where they stand.
    hosts: Vec<Range<usize>>,
    bytes: Bytes,
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
    place: Place,
    hosts: Vec<Arc<VirtualHost>>,
    parts: Vec<Part>,
    /// The first rule that is broken. Nothing is validated from then on, and all is decoded still.
    refused: Option<ConfigError>,
    broken: Option<DecodeError>,
}

/// `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

/// `HttpConnectionManager.rds`, `route_config` and `scoped_routes`, of which the last one counts.
const ROUTE_SPECIFIERS: [u32; 3] = [3, ROUTE_CONFIG, 31];
const ROUTE_CONFIG: u32 = 4;

/// What a virtual host costs that is found, that is listed by its print, that is known, and that is compared with others.
const FOUND: usize = 2;
const LISTED: usize = 2;
const KNOWN: usize = 8;
const COMPARED: usize = 8;

/// What a field costs that is decoded, beside its bytes.
const DECODED: usize = 64;

/// How much less than decoding it costs to make a print.
const PRINTING: usize = 16;

// === impl Routes ===

impl Routes {
    /// Those of a message, all at once. The next version has nothing to compare with.
    pub(super) fn whole(
        message: pb::RouteConfiguration,
        context: &Context,
        notes: &mut Notes,
    ) -> Result<Self, ConfigError> {
        let config = Arc::new(route::configuration(message, context.rules(), notes)?);
        Ok(Self { config, kept: Arc::default() })
    }

    /// How many texts of warnings are kept.
    #[cfg(test)]
    pub(super) fn texts(&self) -> usize {
        let texts =
            self.kept.parts.iter().map(|part| if let Noted::Told(notes) = &part.noted { notes.texts() } else { 0 });
        texts.sum()
    }

    /// The same, where `former` says the same in other bytes. It is the new ones that the next version is compared with.
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
    /// Begins to decode the resource `bytes`. Virtual hosts that have the same bytes as in `former`, the version before, are
    /// taken from there.
    pub(super) fn new(bytes: Bytes, former: Option<Routes>, context: &Context) -> Self {
        Self::begin(bytes, Place::Resource, Splitting::default(), former, context)
    }

    /// Begins to decode what was taken out of a connection manager, in the same way.
    pub(super) fn of_manager(emptied: &mut Emptied, former: Option<Routes>, context: &Context) -> Self {
        let Emptied { manager, hosts, bytes } = emptied;
        let rest = match &mut manager.route_specifier {
            Some(RouteSpecifier::RouteConfig(config)) => mem::take(config),
            _ => pb::RouteConfiguration::default(),
        };
        let splitting = Splitting { at: bytes.len(), hosts: mem::take(hosts), rest, broken: None };
        Self::begin(bytes.clone(), Place::Manager, splitting, former, context)
    }

    fn begin(bytes: Bytes, place: Place, splitting: Splitting, former: Option<Routes>, context: &Context) -> Self {
        Self { bytes, place, rules: context.rules(), former, splitting, reading: None, checking: None }
    }

    /// Goes on until `left` is used up. Returns whether it is done.
    ///
    /// # Errors
    ///
    /// Refuses what decoding all of it at once would refuse, and for the same reason.
    pub(super) fn advance(&mut self, left: &mut usize) -> Result<bool, Failure> {
        let former = self.former.as_ref();
        while *left > 0 {
            if let Some(checking) = &mut self.checking {
                let most = left.div_ceil(COMPARED);
                *left = left.saturating_sub(most.saturating_mul(COMPARED));
                if checking.advance(most).map_err(Failure::Refused)? {
                    return Ok(true);
                }
            } else if let Some(reading) = &mut self.reading {
                if reading.advance(&self.bytes, former, left)? {
                    let (name, hosts) = (reading.frame.name.as_str(), mem::take(&mut reading.hosts));
                    self.checking = Some(RouteConfig::begin(name, hosts, former.map(|former| former.config.clone())));
                }
            } else if self.splitting.advance(&self.bytes, left) {
                let splitting = mem::take(&mut self.splitting);
                let reading = Reading::new(splitting, self.place, self.rules, former);
                self.reading = Some(Box::new(reading));
            }
        }
        Ok(false)
    }

    /// The routes, and what was noted of them.
    ///
    /// # Panics
    ///
    /// When [`advance`](Self::advance) has not told that it is done.
    pub(super) fn finish(&mut self) -> (Routes, Notes) {
        let reading = self.reading.take().expect("virtual hosts are read before they are checked");
        let mut config = self.checking.take().expect("it is done when they are checked").finish();
        let Reading { frame, notes, parts, .. } = *reading;
        let scope = frame.put_around(&mut config);
        (Routes { config: Arc::new(config), kept: Arc::new(Kept { scope, parts }) }, notes)
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
            let (number, length) = field(rest).unwrap_or((None, rest.len()));
            if number == Some(VIRTUAL_HOSTS) {
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

/// The number of the first field of `message`, where what follows is of some length, and how long the field is with its key.
fn field(message: &[u8]) -> Result<(Option<u32>, usize), DecodeError> {
    let mut after = message;
    let (tag, wire_type) = decode_key(&mut after)?;
    skip_field(wire_type, tag, &mut after, DecodeContext::default())?;
    let number = (wire_type == WireType::LengthDelimited).then_some(tag);
    Ok((number, message.len() - after.len()))
}

/// What is written before the `length` bytes of the field `tag`.
fn head(tag: u32, length: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(12);
    encode_key(tag, WireType::LengthDelimited, &mut head);
    encode_varint(length as u64, &mut head);
    head
}

// === impl Reading ===

impl Reading {
    fn new(splitting: Splitting, place: Place, rules: Rules, former: Option<&Routes>) -> Self {
        let Splitting { hosts, rest, broken, .. } = splitting;
        let mut notes = Notes::default();
        let (frame, refused) = match place.frame(rest, rules, &mut notes) {
            Ok(frame) => (frame, None),
            Err(error) => (Frame::default(), Some(error)),
        };
        Self {
            has_former_scope: refused.is_none() && former.is_some_and(|former| former.kept.scope == frame.scope),
            frame,
            notes,
            way: Former::default(),
            place,
            hosts: Vec::with_capacity(hosts.len()),
            parts: Vec::with_capacity(hosts.len()),
            left: hosts.into_iter().enumerate(),
            refused,
            broken,
        }
    }

    /// Returns whether that was the last virtual host.
    fn advance(&mut self, bytes: &[u8], former: Option<&Routes>, left: &mut usize) -> Result<bool, Failure> {
        while *left > 0 {
            let Some((index, place)) = self.left.next() else {
                return match (self.broken.take(), self.refused.take()) {
                    (Some(error), _) => Err(Failure::Broken(error)),
                    (None, Some(error)) => Err(Failure::Refused(error)),
                    (None, None) => Ok(true),
                };
            };
            let cost = self.read(index, &bytes[place.start..], place.len(), former).map_err(Failure::Broken)?;
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
        let was_listed = self.way.is_listed();
        let place = self.way.find(parts, |part| part.print, print);
        let listing = if was_listed == self.way.is_listed() { 0 } else { LISTED * parts.len() };
        let there = |place: usize| former.and_then(|former| former.config.virtual_hosts().get(place));
        if let (true, Ok(place)) = (self.has_former_scope, place)
            && let Some(same) = there(place)
            && let Some(noted) = parts[place].noted.again(&self.notes)
        {
            self.add(index, same.clone(), print, noted);
            return Ok(listing + KNOWN + length / PRINTING);
        }
        let message = self.place.virtual_host(bytes, length)?;
        if self.refused.is_none() {
            let mut notes = Notes::default();
            match route::virtual_host(message, &self.frame.scope, &mut notes) {
                Ok(host) => {
                    // Servers that write maps in any order send the same in other bytes.
                    let same = there(place.unwrap_or_else(|place| place)).filter(|same| ***same == host);
                    let noted = Noted::new(notes, &self.notes);
                    self.add(index, same.cloned().unwrap_or_else(|| Arc::new(host)), print, noted);
                }
                Err(error) => self.refused = Some(error.within(at(index))),
            }
        }
        Ok(listing + DECODED + length)
    }

    fn add(&mut self, index: usize, host: Arc<VirtualHost>, print: Fingerprint, noted: Noted) {
        match &noted {
            Noted::Nothing => {}
            Noted::Told(notes) => self.notes.within(at(index), |all| all.take_over(notes)),
            Noted::Counted(count) => self.notes.leave_out(*count),
        }
        self.hosts.push(host);
        self.parts.push(Part { print, noted });
    }
}

// === impl Noted ===

impl Noted {
    /// This was noted of the next virtual host after `all`.
    fn new(notes: Notes, all: &Notes) -> Self {
        match notes.count() {
            0 => Self::Nothing,
            count if all.is_full() => Self::Counted(count),
            _ => Self::Told(Arc::new(notes)),
        }
    }

    /// The same, of the next virtual host after `all` in another version. None where it is to be told and the texts are not kept.
    fn again(&self, all: &Notes) -> Option<Self> {
        match self {
            Self::Told(notes) if all.is_full() => Some(Self::Counted(notes.count())),
            Self::Counted(_) if !all.is_full() => None,
            same => Some(same.clone()),
        }
    }
}

// === impl Place ===

impl Place {
    fn frame(self, message: pb::RouteConfiguration, rules: Rules, notes: &mut Notes) -> Result<Frame, ConfigError> {
        // Inside a listener a route configuration needs no name, as a resource it does.
        if self == Self::Resource {
            filled("name", message.name.clone(), "name the route configuration")?;
        }
        route::frame(message, rules, notes)
    }

    /// Reads the first field of `bytes`, which is of this length.
    fn virtual_host(self, bytes: &[u8], length: usize) -> Result<pb::VirtualHost, DecodeError> {
        let mut config = pb::RouteConfiguration::default();
        match self {
            Self::Resource => merge(&mut config, bytes, length)?,
            Self::Manager => {
                let head = head(ROUTE_CONFIG, length);
                let manager = HttpConnectionManager::decode(head.chain(&bytes[..length]))?;
                if let Some(RouteSpecifier::RouteConfig(inner)) = manager.route_specifier {
                    config = inner;
                }
            }
        }
        Ok(config.virtual_hosts.pop().unwrap_or_default())
    }
}

// === impl Failure ===

impl Failure {
    /// The same of a resource of this length.
    pub(super) fn into_error(self, length: usize) -> ConfigError {
        match self {
            Self::Broken(error) => undecodable(&error, length),
            Self::Refused(error) => error,
        }
    }
}

// === impl Emptied ===

impl Emptied {
    /// The connection manager `bytes`, if it is a message and there is one place where it says its routes.
    pub(super) fn new(bytes: Bytes) -> Option<Self> {
        let specifiers = fields(&bytes, 0..bytes.len(), |number| ROUTE_SPECIFIERS.contains(&number))?;
        let [config] = &specifiers[..] else { return None };
        let mut inside = &bytes[config.clone()];
        let (tag, _) = decode_key(&mut inside).ok()?;
        decode_varint(&mut inside).ok()?;
        if tag != ROUTE_CONFIG {
            return None;
        }
        let hosts = fields(&bytes, config.end - inside.len()..config.end, |number| number == VIRTUAL_HOSTS)?;
        let length = inside.len() - hosts.iter().map(ExactSizeIterator::len).sum::<usize>();
        let mut emptied = bytes[..config.start].to_vec();
        emptied.extend(head(ROUTE_CONFIG, length));
        let mut from = config.end - inside.len();
        for host in &hosts {
            emptied.extend_from_slice(&bytes[from..host.start]);
            from = host.end;
        }
        emptied.extend_from_slice(&bytes[from..]);
        let manager = HttpConnectionManager::decode(&emptied[..]).ok()?;
        Some(Self { manager, hosts, bytes })
    }
}

/// Where the fields stand, in this part of `bytes`, whose number `is_wanted` says yes to. None where not all fields can be told
/// apart.
fn fields(bytes: &[u8], part: Range<usize>, is_wanted: impl Fn(u32) -> bool) -> Option<Vec<Range<usize>>> {
    let (mut at, mut found) = (part.start, Vec::new());
    while at < part.end {
        let (number, length) = field(&bytes[at..part.end]).ok()?;
        if number.is_some_and(&is_wanted) {
            found.push(at..at + length);
        }
        at += length;
    }
    Some(found)
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
