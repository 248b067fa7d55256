//! Who is in a cluster at one moment: the endpoints by group, each known by what it was before.

use std::{collections::HashMap, num::NonZeroU64, ops::Range, sync::Arc};

use super::{EndpointId, Seat};
use crate::config::{self, Address, DropOverload, HealthStatus, Locality, Metadata};

/// Who is there: members by group, groups by priority.
pub(crate) struct Roster<H> {
    pub(crate) members: Box<[Member<H>]>,
    pub(crate) groups: Box<[Group]>,
    /// In percent.
    pub(crate) overprovisioning: u32,
    pub(crate) drops: Box<[DropOverload]>,
}

/// An endpoint as a member of a set.
pub(crate) struct Member<H> {
    pub(crate) seat: Seat<H>,
    pub(crate) metadata: Option<Arc<Metadata>>,
    pub(crate) weight: u32,
    pub(crate) health: HealthStatus,
}

/// The members of one locality at one priority.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) locality: Arc<Locality>,
    /// Zero where the source gave none.
    pub(crate) weight: u32,
    pub(crate) priority: u32,
    pub(crate) members: Range<u32>,
}

/// Finds the seat of an identity in the roster before. Sources tend to keep their order, so the place where the last
/// one was found is tried first, and a table is made only when that fails.
struct Finder<'a, H> {
    before: &'a [Member<H>],
    next: usize,
    table: Option<HashMap<Key<'a>, &'a Seat<H>>>,
}

type Key<'a> = (&'a [Address], Option<&'a str>);

// === impl Roster ===

impl<H> Roster<H> {
    pub(crate) fn empty() -> Self {
        Self {
            members: Box::default(),
            groups: Box::default(),
            overprovisioning: config::Endpoints::OVERPROVISIONING,
            drops: Box::default(),
        }
    }

    /// The roster of `config`. Who was in the roster before keeps the seat; who is new gets a number of `next_id`.
    pub(crate) fn next(&self, config: &config::Endpoints, next_id: &mut u64) -> Self {
        let mut finder = Finder { before: &self.members, next: 0, table: None };
        let mut order: Vec<_> = config.groups().iter().collect();
        order.sort_by_key(|group| group.priority);

        let mut members = Vec::with_capacity(config.len());
        let mut groups = Vec::with_capacity(order.len());
        for group in order {
            let start = members.len() as u32;
            members.extend(group.endpoints.iter().map(|endpoint| Member::new(endpoint, &mut finder, next_id)));
            groups.push(Group {
                locality: group.locality.clone(),
                weight: group.weight.map_or(0, config::Weight::get),
                priority: group.priority,
                members: start..members.len() as u32,
            });
        }
        Self {
            members: members.into(),
            groups: groups.into(),
            overprovisioning: config.overprovisioning(),
            drops: config.drops().into(),
        }
    }

    /// Who is here and not in `next`.
    pub(crate) fn gone(&self, next: &Self) -> Vec<Seat<H>> {
        let mut stay: Vec<_> = next.members.iter().map(|member| member.seat.id()).collect();
        stay.sort_unstable();
        let gone = self.members.iter().filter(|member| stay.binary_search(&member.seat.id()).is_err());
        gone.map(|member| member.seat.clone()).collect()
    }
}

// === impl Member ===

impl<H> Member<H> {
    fn new(config: &config::Endpoint, finder: &mut Finder<'_, H>, next_id: &mut u64) -> Self {
        let seat = finder.find(config).unwrap_or_else(|| {
            *next_id += 1;
            let number = NonZeroU64::new(*next_id).expect("2^64 endpoints are never made");
            Seat::new(EndpointId::new(number), config)
        });
        Self { seat, metadata: config.metadata().cloned(), weight: config.weight().get(), health: config.health() }
    }
}

// === impl Finder ===

impl<'a, H> Finder<'a, H> {
    fn find(&mut self, config: &config::Endpoint) -> Option<Seat<H>> {
        if self.table.is_none() {
            match self.before.get(self.next) {
                Some(member) if member.seat.is(config) => {
                    self.next += 1;
                    return Some(member.seat.clone());
                }
                // Whoever is new past the end of the old roster could still stand earlier in it.
                Some(_) => {}
                None if self.before.is_empty() => return None,
                None => {}
            }
        }
        let before = self.before;
        let table = self.table.get_or_insert_with(|| before.iter().map(|m| (key(&m.seat), &m.seat)).collect());
        let found = table.get(&(config.addresses(), config.hostname().map(|name| &**name)));
        found.map(|seat| Seat::clone(seat))
    }
}

fn key<H>(seat: &Seat<H>) -> Key<'_> {
    (seat.addresses(), seat.hostname().map(|name| &**name))
}
