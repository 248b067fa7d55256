//! What a cluster looks like at this moment, as plain data for people.

use std::sync::Arc;

use super::{Cluster, Transport};
use crate::{
    config::{Address, HealthStatus, Locality, RequestPriority},
    endpoint::{EndpointId, Group, Member},
    limit::Figures,
    pick::EndpointSet,
};

/// What a cluster looks like at one moment. The figures are read one after the other and may not add up under traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub name: Arc<str>,
    /// What requests of default priority have under way and may have, and how much was refused them.
    pub limits: Figures,
    /// The same of requests of high priority.
    pub high_limits: Figures,
    /// By priority, the preferred first.
    pub priorities: Vec<PriorityStatus>,
    /// In the order of their source, by priority.
    pub endpoints: Vec<EndpointStatus>,
}

/// What a priority gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityStatus {
    /// Of a hundred requests, to healthy endpoints; to any, in panic.
    pub healthy_load: u32,
    /// Of a hundred requests, to degraded endpoints.
    pub degraded_load: u32,
    /// Whether health is ignored, since too few are healthy.
    pub is_in_panic: bool,
}

/// What an endpoint looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStatus {
    /// Its number.
    pub id: EndpointId,
    /// Where it listens.
    pub addresses: Vec<Address>,
    /// Its name.
    pub hostname: Option<Arc<str>>,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// Its priority.
    pub priority: u32,
    /// Its weight.
    pub weight: u32,
    /// What its source says of it.
    pub health: HealthStatus,
    /// Whether it is left out because its answers were bad.
    pub is_ejected: bool,
    /// Whether it is left alone because no connection could be made of late.
    pub is_unreachable: bool,
    /// Requests under way.
    pub in_flight: u32,
    /// Whether it was ever used.
    pub is_open: bool,
}

impl<T: Transport> Cluster<T> {
    /// What it looks like now.
    pub fn status(&self) -> ClusterStatus {
        let set = self.set.load_full();
        let endpoints = set.roster.groups.iter().flat_map(|group| {
            let members = &set.roster.members[group.members.start as usize..group.members.end as usize];
            members.iter().map(|member| EndpointStatus::of(member, group))
        });
        ClusterStatus {
            name: self.name.clone(),
            limits: self.limits().figures(RequestPriority::Default),
            high_limits: self.limits().figures(RequestPriority::High),
            priorities: priorities(&set),
            endpoints: endpoints.collect(),
        }
    }
}

fn priorities<H>(set: &EndpointSet<H>) -> Vec<PriorityStatus> {
    let loads = &set.index.loads;
    let shares = loads.healthy.iter().zip(&loads.degraded).zip(&loads.panic);
    shares
        .map(|((healthy, degraded), panic)| PriorityStatus {
            healthy_load: *healthy,
            degraded_load: *degraded,
            is_in_panic: *panic,
        })
        .collect()
}

impl EndpointStatus {
    fn of<H>(member: &Member<H>, group: &Group) -> Self {
        let seat = &member.seat;
        let standing = seat.live().standing();
        Self {
            id: seat.id(),
            addresses: seat.addresses().to_vec(),
            hostname: seat.hostname().cloned(),
            locality: group.locality.clone(),
            priority: group.priority,
            weight: member.weight,
            health: member.health,
            is_ejected: standing.is_ejected(),
            is_unreachable: standing.tries() > 0,
            in_flight: seat.in_flight(),
            is_open: seat.handle().is_some(),
        }
    }
}
