//! What the control plane has to offer: resources by kind and name, and a version for each kind.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener, route::v3::RouteConfiguration,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use prost::{Message, Name};

use crate::ResourceKind;

/// A message that a control plane hands out under a name: one of the four kinds.
pub trait Resource: Message + Name + sealed::Sealed {
    /// The kind of the message.
    const KIND: ResourceKind;

    /// The name under which clients ask for it.
    fn resource_name(&self) -> &str;
}

/// Several changes that clients see as one: each kind that changes gets one new version.
#[derive(Debug)]
pub struct Transaction<'a> {
    store: &'a mut Store,
    touched: BTreeSet<ResourceKind>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// By [`ResourceKind::index`].
    shelves: [Shelf; ResourceKind::ALL.len()],
}

/// All resources of one kind.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Counts up, and never restarts while the control plane lives.
    pub(super) version: u64,
    pub(super) resources: BTreeMap<String, Stored>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) body: Any,
    /// The version in which this resource was last set.
    pub(super) since: u64,
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! resource {
    ($message:ident, $name:ident) => {
        impl sealed::Sealed for $message {}

        impl Resource for $message {
            const KIND: ResourceKind = ResourceKind::$message;

            fn resource_name(&self) -> &str {
                &self.$name
            }
        }
    };
}

resource!(Cluster, name);
resource!(ClusterLoadAssignment, cluster_name);
resource!(Listener, name);
resource!(RouteConfiguration, name);

// === impl Transaction ===

impl Transaction<'_> {
    /// Adds a resource, or replaces the one of that kind and name. Setting what is already there counts as a change.
    pub fn set<R: Resource>(&mut self, resource: R) -> &mut Self {
        let name = resource.resource_name().to_owned();
        self.raw(R::KIND, &name, pack_any(resource))
    }

    /// As [`set`](Self::set), with bytes that need not be what they claim to be, offered under `name`.
    pub fn raw(&mut self, kind: ResourceKind, name: &str, body: Any) -> &mut Self {
        let shelf = self.touch(kind);
        let since = shelf.version;
        shelf.resources.insert(name.to_owned(), Stored { body, since });
        self
    }

    /// Removes a resource. Nothing happens when there is none.
    ///
    /// In state of the world clients hear of it for listeners and clusters only: there the protocol has no removal of the other
    /// two.
    pub fn remove(&mut self, kind: ResourceKind, name: &str) -> &mut Self {
        if self.store.shelf(kind).resources.contains_key(name) {
            self.touch(kind).resources.remove(name);
        }
        self
    }

    fn touch(&mut self, kind: ResourceKind) -> &mut Shelf {
        let shelf = &mut self.store.shelves[kind.index()];
        if self.touched.insert(kind) {
            shelf.version += 1;
        }
        shelf
    }
}

// === impl Store ===

impl Store {
    pub(super) fn begin(&mut self) -> Transaction<'_> {
        Transaction { store: self, touched: BTreeSet::new() }
    }

    pub(super) fn shelf(&self, kind: ResourceKind) -> &Shelf {
        &self.shelves[kind.index()]
    }
}
