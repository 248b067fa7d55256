//! The format of a cache file: a header of fixed length, then one protobuf message.
//!
//! ```text
//! 8 bytes "meshxds\n" | u32 format | u64 length of the message | u64 its checksum | the message
//! ```
//!
//! Numbers are little-endian. Whatever cannot be read as before gets another format number, and a reader knows its own
//! alone: a cache is worth no migration.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tokio::time::Instant;

use super::{Unusable, checksum};
use crate::{
    ResourceKind,
    store::{Dump, DumpedGood, Saved},
};

/// The format that is written and read.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"meshxds\n";
const HEADER: usize = 8 + 4 + 8 + 8;

/// Who a file is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) node_id: String,
    pub(crate) node_cluster: String,
    /// The control planes, the preferred first.
    pub(crate) servers: Vec<String>,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// By [`ResourceKind::index`].
    shelves: [HashMap<String, Saved>; ResourceKind::ALL.len()],
    /// How long before the file was read a control plane was last known to agree.
    age: Duration,
    read: Instant,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(string, tag = "2")]
    node_cluster: String,
    #[prost(string, repeated, tag = "3")]
    servers: Vec<String>,
    /// Milliseconds since 1970, as all times here.
    #[prost(uint64, tag = "4")]
    agreed: u64,
    #[prost(message, repeated, tag = "5")]
    shelves: Vec<Shelf>,
}

#[derive(Clone, PartialEq, Message)]
struct Shelf {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, repeated, tag = "2")]
    items: Vec<Item>,
}

#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "3")]
    updated: u64,
    #[prost(bytes = "bytes", tag = "4")]
    contents: Bytes,
}

/// A file of all that is good in `dumps` and may be written.
pub(super) fn encode(scope: &Scope, agreed: SystemTime, dumps: &[Dump]) -> Vec<u8> {
    let Scope { node_id, node_cluster, servers } = scope.clone();
    let shelves = ResourceKind::ALL.map(|kind| Shelf {
        type_url: kind.type_url().to_owned(),
        items: dumps.iter().filter(|dump| dump.kind == kind).filter_map(item).collect(),
    });
    with_header(&Content { node_id, node_cluster, servers, agreed: millis(agreed), shelves: shelves.into() })
}

/// The same file with another time, if it is whole and for this scope.
pub(super) fn renew(file: &Bytes, scope: &Scope, agreed: SystemTime) -> Option<Vec<u8>> {
    let content = content(file, scope).ok()?;
    Some(with_header(&Content { agreed: millis(agreed), ..content }))
}

fn with_header(content: &Content) -> Vec<u8> {
    let length = content.encoded_len();
    let mut file = Vec::with_capacity(HEADER + length);
    file.put_bytes(0, HEADER);
    content.encode_raw(&mut file);
    let (mut header, body) = file.split_at_mut(HEADER);
    header.put_slice(MAGIC);
    header.put_u32_le(FORMAT);
    header.put_u64_le(body.len() as u64);
    header.put_u64_le(checksum::of(body));
    file
}

fn item(dump: &Dump) -> Option<Item> {
    let DumpedGood { version, updated, contents, .. } = dump.good.as_ref().filter(|good| !good.is_mortal)?;
    Some(Item {
        name: dump.name.to_string(),
        version: version.to_string(),
        updated: millis(*updated),
        contents: contents.as_ref()?.shown()?,
    })
}

/// What is in a file, if it is whole and for this scope, and when a control plane was last known to agree with it.
pub(super) fn decode(file: &Bytes, scope: &Scope) -> Result<(Loaded, SystemTime), Unusable> {
    let content = content(file, scope)?;
    let agreed = time(content.agreed);
    let age = SystemTime::now().duration_since(agreed).unwrap_or_default();
    let mut loaded = Loaded { shelves: Default::default(), age, read: Instant::now() };
    for Shelf { type_url, items } in content.shelves {
        let Some(kind) = ResourceKind::from_type_url(&type_url) else { continue };
        let mut version: Arc<str> = "".into();
        loaded.shelves[kind.index()] = items
            .into_iter()
            .map(|item| {
                // In state of the world all of a kind have one.
                if *version != *item.version {
                    version = item.version.into();
                }
                let saved = Saved { version: version.clone(), updated: time(item.updated), contents: item.contents };
                (item.name, saved)
            })
            .collect();
    }
    Ok((loaded, agreed))
}

fn content(file: &Bytes, scope: &Scope) -> Result<Content, Unusable> {
    let content = Content::decode(checked(file)?).map_err(|_| Unusable::Foreign)?;
    if (&content.node_id, &content.node_cluster) != (&scope.node_id, &scope.node_cluster) {
        return Err(Unusable::Node { found: format!("{} ({})", content.node_id, content.node_cluster) });
    }
    if content.servers != scope.servers {
        return Err(Unusable::Servers { found: content.servers });
    }
    Ok(content)
}

/// The message of a file whose header it fits.
fn checked(file: &Bytes) -> Result<Bytes, Unusable> {
    let mut header = &**file;
    if header.len() < MAGIC.len() || header.copy_to_bytes(MAGIC.len()) != MAGIC[..] {
        return Err(Unusable::Foreign);
    }
    let torn = |expected| Unusable::Torn { expected, found: file.len() as u64 };
    let format = header.try_get_u32_le().map_err(|_| torn(HEADER as u64))?;
    if format != FORMAT {
        return Err(Unusable::Format { found: format });
    }
    let length = header.try_get_u64_le().map_err(|_| torn(HEADER as u64))?;
    let sum = header.try_get_u64_le().map_err(|_| torn(HEADER as u64))?;
    if header.len() as u64 != length {
        return Err(torn(length.saturating_add(HEADER as u64)));
    }
    if checksum::of(header) != sum {
        return Err(Unusable::Checksum);
    }
    Ok(file.slice(HEADER..))
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time that no clock can tell is the beginning of them all.
fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

// === impl Loaded ===

impl Loaded {
    /// How many resources are in it.
    pub(crate) fn count(&self) -> usize {
        self.shelves.iter().map(HashMap::len).sum()
    }

    /// A resource.
    pub(crate) fn get(&self, kind: ResourceKind, name: &str) -> Option<&Saved> {
        self.shelves[kind.index()].get(name)
    }

    /// Lets go of all but these.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(ResourceKind, &str) -> bool) {
        for (kind, shelf) in ResourceKind::ALL.into_iter().zip(&mut self.shelves) {
            shelf.retain(|name, _| is_kept(kind, name));
        }
    }

    /// How long ago a control plane was last known to agree with it.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.age.saturating_add(now.saturating_duration_since(self.read))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::source::ResourceState;
    use proptest::prelude::*;

    use super::*;
    use crate::store::Contents;

    const CLUSTER: &[u8] = b"\x0a\x01c";
    const LISTENER: &[u8] = b"\x0a\x01l";

    fn scope() -> Scope {
        let (node_id, node_cluster) = ("web-1".to_owned(), "shop".to_owned());
        Scope { node_id, node_cluster, servers: vec!["istiod:15010".to_owned(), "other:15010".to_owned()] }
    }

    fn held(kind: ResourceKind, name: &str, contents: Option<&'static [u8]>) -> Dump {
        let updated = time(1_700_000_000_123);
        let contents = contents.map(|bytes| Contents::new(Bytes::from_static(bytes)));
        let good = DumpedGood { version: "7".into(), updated, contents, is_mortal: false };
        Dump {
            kind,
            name: name.into(),
            state: ResourceState::Synced,
            is_answered: true,
            good: Some(good),
            failure: None,
        }
    }

    fn written() -> Bytes {
        let mut mortal = held(ResourceKind::Cluster, "mortal", Some(CLUSTER));
        mortal.good.iter_mut().for_each(|good| good.is_mortal = true);
        let missing = Dump { good: None, ..held(ResourceKind::Cluster, "missing", None) };
        let dumps = [
            held(ResourceKind::Cluster, "a", Some(CLUSTER)),
            held(ResourceKind::Listener, "a", Some(LISTENER)),
            held(ResourceKind::Cluster, "not kept", None),
            held(ResourceKind::Cluster, "secret", Some(b"\x0a\x1b-----BEGIN PRIVATE KEY-----")),
            mortal,
            missing,
        ];
        encode(&scope(), time(1_700_000_000_456), &dumps).into()
    }

    #[test]
    fn what_is_good_and_may_be_written_comes_back_as_it_was() {
        let (loaded, agreed) = decode(&written(), &scope()).expect("good");
        assert_eq!(agreed, time(1_700_000_000_456));
        assert_eq!(loaded.count(), 2);
        let saved = loaded.get(ResourceKind::Cluster, "a").expect("written");
        assert_eq!((&*saved.version, &*saved.contents), ("7", CLUSTER));
        assert_eq!(saved.updated, time(1_700_000_000_123));
        for name in ["not kept", "secret", "mortal", "missing"] {
            assert!(loaded.get(ResourceKind::Cluster, name).is_none());
        }
    }

    #[test]
    fn renewed_file_differs_in_its_time_alone() {
        let later = time(1_800_000_000_000);
        let renewed = renew(&written(), &scope(), later).expect("whole");
        let (loaded, agreed) = decode(&renewed.into(), &scope()).expect("good");
        assert_eq!((loaded.count(), agreed), (2, later));
        assert_eq!(loaded.get(ResourceKind::Listener, "a").expect("written").contents, LISTENER);
        let other_node = Scope { node_id: "web-2".to_owned(), ..scope() };
        assert!(renew(&written(), &other_node, later).is_none());
    }

    #[test]
    fn file_of_another_node_or_other_servers_is_refused() {
        let other_node = Scope { node_id: "web-2".to_owned(), ..scope() };
        assert!(matches!(decode(&written(), &other_node), Err(Unusable::Node { found }) if found == "web-1 (shop)"));
        let fewer = Scope { servers: vec!["istiod:15010".to_owned()], ..scope() };
        assert!(matches!(decode(&written(), &fewer), Err(Unusable::Servers { found }) if found == scope().servers));
    }

    #[test]
    fn each_fault_has_its_reason() {
        let good = written();
        let torn = good.slice(..good.len() - 1);
        let expected = good.len() as u64;
        assert!(matches!(decode(&torn, &scope()), Err(Unusable::Torn { expected: e, .. }) if e == expected));
        assert!(matches!(decode(&good.slice(..10), &scope()), Err(Unusable::Torn { .. })));
        assert!(matches!(decode(&Bytes::from_static(b"{\"json\": 1}"), &scope()), Err(Unusable::Foreign)));
        assert!(matches!(decode(&Bytes::new(), &scope()), Err(Unusable::Foreign)));
        let mut later = good.to_vec();
        later[8] = 2;
        assert!(matches!(decode(&later.into(), &scope()), Err(Unusable::Format { found: 2 })));
        let mut rotten = good.to_vec();
        *rotten.last_mut().expect("not empty") ^= 1;
        assert!(matches!(decode(&rotten.into(), &scope()), Err(Unusable::Checksum)));
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_always_found(place in 0..1_000_000_usize, change in 1_u8..) {
            let mut file = written().to_vec();
            let place = place % file.len();
            file[place] ^= change;
            prop_assert!(decode(&file.into(), &scope()).is_err());
        }
    }
}
