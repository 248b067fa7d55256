//! What is worked out once per set so that a pick is cheap: which share of the traffic goes where.
//!
//! A [`Pool`] is what a priority offers of one [`Tier`]; it is cut into [`Slice`]s, one per locality where localities share
//! by weight, else a single one. The index knows nothing of endpoints but their place in the roster.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    NoEndpoint,
    load::{Level, PriorityLoads, effective_weight},
    wheel::{Wheel, turn},
};
use crate::{
    Dice,
    config::{ClusterPolicy, HealthStatus, LoadBalancing, Semantics},
    dice::mix,
    endpoint::{Group, Measure, Member, Roster},
};

/// What of a cluster's policy bears on picking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) semantics: Semantics,
    pub(crate) balancing: LoadBalancing,
    pub(crate) locality_weighted: bool,
    /// In percent; zero is off.
    pub(crate) panic_threshold: f64,
    /// How fast costs fade, per millisecond.
    pub(crate) rate: f32,
}

/// Which share of the traffic goes where.
#[derive(Debug)]
pub(crate) struct Index {
    /// Healthy ones by priority, then degraded ones by priority.
    pub(crate) pools: Box<[Pool]>,
    share: Share,
    /// Who may be picked when nobody is available.
    pub(crate) last_resort: Slice,
    /// Why there may be nobody.
    pub(crate) reason: NoEndpoint,
    pub(crate) loads: PriorityLoads,
    /// How fit each priority is.
    pub(crate) levels: Box<[Level]>,
}

/// Which pool gets a request.
#[derive(Debug)]
enum Share {
    /// None of them.
    Nobody,
    One(u16),
    /// By a roll below 100; `u16::MAX` is no pool.
    Hundred(Box<[u16; 100]>),
}

/// What a priority offers of one tier.
#[derive(Debug)]
pub(crate) struct Pool {
    priority: u32,
    pub(crate) tier: Tier,
    pub(crate) slices: Box<[Slice]>,
    /// The localities' shares, where there are several.
    wheel: Option<Wheel>,
    turn: Turn,
}

/// A level of fitness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Healthy,
    Degraded,
    /// Everybody who does not drain, since the priority is in panic.
    Panic,
}

/// Members to choose from by the cluster's policy.
#[derive(Debug)]
pub(crate) struct Slice {
    order: Order,
    len: u32,
    /// The mean weight.
    pub(crate) mean: f32,
    /// The members' shares, where they differ.
    pub(crate) wheel: Option<Wheel>,
    turn: Turn,
}

/// Places in the roster. They are a run when all members of a priority or locality are fit, as they are nearly always.
#[derive(Debug)]
enum Order {
    Run(u32),
    Listed(Box<[u32]>),
}

/// Counts turns, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Turn(AtomicU64);

/// Sorts members into tiers.
struct Sorter<'a, H> {
    roster: &'a Roster<H>,
    rules: &'a Rules,
    turn: u64,
}

// === impl Rules ===

impl Rules {
    const PANIC_THRESHOLD: f64 = 50.0;

    pub(crate) fn of(policy: &ClusterPolicy, semantics: Semantics) -> Self {
        let balancing = policy.load_balancing.unwrap_or_default();
        let is_grpc = semantics == Semantics::Grpc;
        Self {
            semantics,
            balancing,
            locality_weighted: is_grpc || policy.locality_weighted.unwrap_or(false),
            panic_threshold: match policy.panic_threshold {
                _ if is_grpc => 0.0,
                Some(threshold) => threshold.value(),
                None => Self::PANIC_THRESHOLD,
            },
            rate: Measure::of(balancing).1,
        }
    }

    fn is_grpc(&self) -> bool {
        self.semantics == Semantics::Grpc
    }
}

// === impl Index ===

impl Index {
    pub(crate) fn new<H>(roster: &Roster<H>, rules: &Rules, turn: u64) -> Self {
        let sorter = Sorter { roster, rules, turn };
        let levels = sorter.levels();
        let loads = if rules.is_grpc() {
            PriorityLoads::first_fit(&levels)
        } else {
            PriorityLoads::spread(&levels, roster.overprovisioning, rules.panic_threshold)
        };
        let healthy = (0..).zip(&loads.panic).map(|(priority, panic)| {
            let tier = if *panic { Tier::Panic } else { Tier::Healthy };
            sorter.pool(priority, tier)
        });
        let degraded = (0..).zip(&loads.panic).filter(|(_, panic)| !**panic);
        let degraded = degraded.map(|(priority, _)| sorter.pool(priority, Tier::Degraded));
        let pools: Box<[Pool]> = healthy.chain(degraded).flatten().collect();
        Self {
            share: Share::new(&pools, &loads),
            pools,
            last_resort: sorter.last_resort(),
            reason: sorter.reason(),
            loads,
            levels: levels.into(),
        }
    }

    /// The pool whose turn it is, if its priority has one.
    #[inline]
    pub(crate) fn pool(&self, dice: &mut Dice) -> Option<&Pool> {
        match &self.share {
            Share::Nobody => None,
            Share::One(pool) => self.pools.get(usize::from(*pool)),
            Share::Hundred(table) => self.pools.get(usize::from(table[dice.below(100) as usize])),
        }
    }
}

impl Share {
    fn new(pools: &[Pool], loads: &PriorityLoads) -> Self {
        let find = |priority: usize, degraded: bool| {
            let wanted = |pool: &Pool| pool.priority as usize == priority && (pool.tier == Tier::Degraded) == degraded;
            pools.iter().position(wanted).map_or(u16::MAX, |place| place as u16)
        };
        let healthy = loads.healthy.iter().enumerate().map(|(priority, load)| (find(priority, false), *load));
        let degraded = loads.degraded.iter().enumerate().map(|(priority, load)| (find(priority, true), *load));
        let shares = healthy.chain(degraded).filter(|(_, load)| *load > 0);
        let mut table = Vec::with_capacity(100);
        shares.for_each(|(pool, load)| table.extend(std::iter::repeat_n(pool, load as usize)));
        match <Box<[u16; 100]>>::try_from(table.into_boxed_slice()) {
            Ok(table) if table.iter().all(|pool| *pool == table[0]) => Self::One(table[0]),
            Ok(table) => Self::Hundred(table),
            // Loads add up to a hundred unless there is no priority at all.
            Err(_) => Self::Nobody,
        }
    }
}

// === impl Pool ===

impl Pool {
    /// The slice whose turn it is.
    #[inline]
    pub(crate) fn slice(&self, balancing: LoadBalancing, dice: &mut Dice) -> &Slice {
        let Some(wheel) = &self.wheel else { return &self.slices[0] };
        let point = match balancing {
            LoadBalancing::RoundRobin => turn(self.turn.next()),
            _ => dice.roll(),
        };
        &self.slices[wheel.sector(point)]
    }
}

// === impl Slice ===

impl Slice {
    fn new<H>(members: &[Member<H>], places: Vec<u32>, rules: &Rules, turn: u64) -> Self {
        let weight = |place: &u32| members[*place as usize].weight;
        let is_even = rules.is_grpc() || places.windows(2).all(|pair| weight(&pair[0]) == weight(&pair[1]));
        let weights = places.iter().map(|place| u64::from(weight(place)));
        let sum: u64 = weights.clone().sum();
        Self {
            len: places.len() as u32,
            mean: if places.is_empty() { 1.0 } else { sum as f32 / places.len() as f32 },
            wheel: if is_even { None } else { Wheel::new(weights) },
            order: Order::new(places),
            turn: Turn::starting(turn),
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The place in the roster of number `number` of this slice.
    #[inline]
    pub(crate) fn place(&self, number: u32) -> usize {
        let place = match &self.order {
            Order::Run(start) => start + number,
            Order::Listed(places) => places[number as usize],
        };
        place as usize
    }

    /// Whose turn it is.
    #[inline]
    pub(crate) fn in_turn(&self) -> u32 {
        let number = self.turn.next();
        match &self.wheel {
            Some(wheel) => wheel.sector(turn(number)) as u32,
            None => number as u32 % self.len,
        }
    }

    /// Anybody, by weight.
    #[inline]
    pub(crate) fn at_random(&self, dice: &mut Dice) -> u32 {
        match &self.wheel {
            Some(wheel) => wheel.sector(dice.roll()) as u32,
            None => dice.below(self.len),
        }
    }

    /// Two at random. Where weights are equal they differ, which makes the most of two; where they are not, they are drawn
    /// one like the other, so that over both nobody comes up more often than its weight says.
    #[inline]
    pub(crate) fn two_at_random(&self, dice: &mut Dice) -> (u32, u32) {
        if self.wheel.is_some() {
            return self.two_by_weight(dice);
        }
        let roll = dice.roll();
        let below = |half: u64, bound: u32| ((half * u64::from(bound)) >> 32) as u32;
        let first = below(roll >> 32, self.len);
        let second = below(roll & u64::from(u32::MAX), self.len.saturating_sub(1).max(1));
        if self.len == 1 { (0, 0) } else { (first, second + u32::from(second >= first)) }
    }

    // Out of line, so that draws among equals need not save the registers that this takes.
    #[inline(never)]
    fn two_by_weight(&self, dice: &mut Dice) -> (u32, u32) {
        (self.at_random(dice), self.at_random(dice))
    }
}

impl Order {
    fn new(places: Vec<u32>) -> Self {
        match places.first() {
            Some(start) if places.iter().zip(*start..).all(|(place, expected)| *place == expected) => Self::Run(*start),
            _ => Self::Listed(places.into()),
        }
    }
}

impl Turn {
    fn starting(at: u64) -> Self {
        Self(AtomicU64::new(at))
    }

    #[inline]
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

// === impl Sorter ===

impl<H> Sorter<'_, H> {
    fn priorities(&self) -> u32 {
        self.roster.groups.last().map_or(0, |group| group.priority + 1)
    }

    /// Groups that may have traffic. gRPC skips a locality without weight (A27).
    fn groups(&self, priority: u32) -> impl Iterator<Item = &Group> {
        let skips = self.rules.is_grpc();
        self.roster.groups.iter().filter(move |group| group.priority == priority && !(skips && group.weight == 0))
    }

    fn level(&self, priority: u32) -> Level {
        let mut level = Level::default();
        for group in self.groups(priority) {
            let of_group = self.level_of(group);
            level.total += of_group.total;
            level.healthy += of_group.healthy;
            level.degraded += of_group.degraded;
        }
        level
    }

    fn levels(&self) -> Vec<Level> {
        (0..self.priorities()).map(|priority| self.level(priority)).collect()
    }

    fn level_of(&self, group: &Group) -> Level {
        let members = range(&group.members).map(|place| &self.roster.members[place]);
        let mut level = Level::default();
        for member in members.filter(|member| member.health != HealthStatus::Draining) {
            level.total += 1;
            level.healthy += u32::from(self.is_in(member, Tier::Healthy));
            level.degraded += u32::from(self.is_in(member, Tier::Degraded));
        }
        level
    }

    fn is_in(&self, member: &Member<H>, tier: Tier) -> bool {
        let is_ejected = member.seat.is_ejected();
        match tier {
            Tier::Panic => member.health != HealthStatus::Draining,
            Tier::Healthy => !is_ejected && matches!(member.health, HealthStatus::Unknown | HealthStatus::Healthy),
            // gRPC takes only the healthy and the unknown (A27).
            Tier::Degraded => !is_ejected && member.health == HealthStatus::Degraded && !self.rules.is_grpc(),
        }
    }

    /// What `priority` offers of `tier`, if anything.
    fn pool(&self, priority: u32, tier: Tier) -> Option<Pool> {
        // A priority in panic forgets localities along with health.
        let by_locality = self.rules.locality_weighted && tier != Tier::Panic;
        let mut slices = if by_locality { self.by_locality(priority, tier) } else { Vec::new() };
        if slices.is_empty() {
            // Envoy forgets localities where none counts as well. gRPC passes them over, and then nobody is left.
            slices = self.whole(priority, tier);
        }
        let (slices, weights): (Vec<_>, Vec<_>) = slices.into_iter().filter(|(slice, _)| slice.len > 0).unzip();
        let wheel = if slices.len() > 1 { Wheel::new(weights) } else { None };
        let turn = Turn::starting(mix(self.turn ^ u64::from(priority)));
        (!slices.is_empty()).then(|| Pool { priority, tier, slices: slices.into(), wheel, turn })
    }

    fn whole(&self, priority: u32, tier: Tier) -> Vec<(Slice, u64)> {
        let places = self.groups(priority).flat_map(|group| self.places(group, tier)).collect();
        vec![(self.slice(places), 1)]
    }

    fn by_locality(&self, priority: u32, tier: Tier) -> Vec<(Slice, u64)> {
        let weighted = self.groups(priority).filter_map(|group| {
            let level = self.level_of(group);
            let fit = if tier == Tier::Degraded { level.degraded } else { level.healthy };
            let weight = if self.rules.is_grpc() {
                u64::from(group.weight)
            } else {
                effective_weight(group.weight, fit, level.total, self.roster.overprovisioning)
            };
            (weight > 0).then(|| (self.slice(self.places(group, tier).collect()), weight))
        });
        weighted.collect()
    }

    fn places<'b>(&'b self, group: &Group, tier: Tier) -> impl Iterator<Item = u32> + use<'b, H> {
        let fit = move |place: &u32| self.is_in(&self.roster.members[*place as usize], tier);
        group.members.clone().filter(fit)
    }

    fn slice(&self, places: Vec<u32>) -> Slice {
        let turn = mix(self.turn.wrapping_add(u64::from(places.first().copied().unwrap_or(0))));
        Slice::new(&self.roster.members, places, self.rules, turn)
    }

    /// Who may be picked when nobody is available: everybody, or, where health is never ignored, those whose source does
    /// not call them unhealthy. Nobody who drains. As in panic, localities do not count.
    fn last_resort(&self) -> Slice {
        let ignores_health = self.rules.panic_threshold > 0.0;
        let may = |member: &Member<H>| match member.health {
            HealthStatus::Draining => false,
            HealthStatus::Unhealthy => ignores_health,
            HealthStatus::Degraded => !self.rules.is_grpc(),
            HealthStatus::Unknown | HealthStatus::Healthy => true,
        };
        let groups = (0..self.priorities()).flat_map(|priority| self.groups(priority));
        let places = groups.flat_map(|group| group.members.clone());
        self.slice(places.filter(|place| may(&self.roster.members[*place as usize])).collect())
    }

    fn reason(&self) -> NoEndpoint {
        let members = &self.roster.members;
        if members.is_empty() {
            NoEndpoint::Empty
        } else if members.iter().all(|member| member.health == HealthStatus::Draining) {
            NoEndpoint::Draining
        } else if self.rules.is_grpc() && self.roster.groups.iter().all(|group| group.weight == 0) {
            NoEndpoint::Unweighted
        } else {
            NoEndpoint::Unhealthy
        }
    }
}

fn range(places: &Range<u32>) -> Range<usize> {
    places.start as usize..places.end as usize
}
