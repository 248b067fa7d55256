//! One pick: priority, then locality, then the policy among those who are left; no lock, no allocation.

use super::{
    EndpointSet, NoEndpoint, Terms,
    index::{Pool, Slice, Tier},
};
use crate::{
    config::LoadBalancing,
    endpoint::{Home, Member, Standing},
};

/// How often a draw that came to nothing is repeated before the pool is searched. While half of it is available, one pick
/// in sixteen searches, and finds somebody after two steps.
const DRAWS: usize = 4;

/// One pick under way.
struct Pick<'a, 'b, H> {
    set: &'a EndpointSet<H>,
    home: &'a Home,
    terms: &'b mut Terms,
}

impl<H> EndpointSet<H> {
    /// The endpoint for a request; where there is none, [`refusal`](Self::refusal) says why.
    // Always in line, and what is rare is not: every attempt passes here.
    #[inline(always)]
    pub(crate) fn pick<'a>(&'a self, home: &'a Home, terms: &mut Terms) -> Option<&'a Member<H>> {
        let Some(pool) = self.index.pool(&mut terms.dice) else { return self.pick_elsewhere(home, terms) };
        let slice = pool.slice(self.rules.balancing, &mut terms.dice);
        let drawn = Pick { set: self, home, terms }.draw(slice, pool.tier);
        drawn.or_else(|| self.pick_again(home, terms, pool, slice))
    }

    /// Somebody available who was not tried, in whatever pool.
    #[cold]
    pub(crate) fn pick_untried<'a>(&'a self, home: &'a Home, terms: &mut Terms) -> Option<&'a Member<H>> {
        let mut pick = Pick { set: self, home, terms };
        let slices = self.index.pools.iter().flat_map(|pool| pool.slices.iter().map(|slice| (slice, pool.tier)));
        slices.into_iter().find_map(|(slice, tier)| pick.scan(slice, tier, false))
    }

    /// Why nobody was picked.
    pub(crate) fn refusal(&self) -> NoEndpoint {
        if self.index.last_resort.len() == 0 { self.index.reason } else { NoEndpoint::Unreachable }
    }

    /// Whoever came up was not available.
    #[cold]
    fn pick_again<'a>(
        &'a self,
        home: &'a Home,
        terms: &mut Terms,
        pool: &'a Pool,
        slice: &'a Slice,
    ) -> Option<&'a Member<H>> {
        let mut pick = Pick { set: self, home, terms };
        let drawn = (1..DRAWS).find_map(|_| pick.draw(slice, pool.tier));
        drawn.or_else(|| pick.search(pool, slice))
    }

    /// The priority whose turn it is has nobody.
    #[cold]
    fn pick_elsewhere<'a>(&'a self, home: &'a Home, terms: &mut Terms) -> Option<&'a Member<H>> {
        Pick { set: self, home, terms }.elsewhere(None)
    }

    /// Whether a pick that rather waits would find somebody at `now`, in milliseconds.
    pub(crate) fn is_available(&self, now: u64) -> bool {
        self.index
            .pools
            .iter()
            .any(|pool| pool.members(self).any(|member| is_open(member.seat.live().standing(), pool.tier, || now)))
    }

    /// When the first of those who only cannot be reached is due for a probe, in milliseconds. Whoever is out for another
    /// reason is no more available for its probe being due, and comes back with another set.
    pub(crate) fn next_probe(&self) -> Option<u64> {
        let due = |pool: &Pool, standing: Standing| {
            (standing.tries() > 0 && !is_out(standing, pool.tier)).then(|| standing.until())
        };
        let pools = self.index.pools.iter();
        pools.flat_map(|pool| pool.members(self).filter_map(|member| due(pool, member.seat.live().standing()))).min()
    }
}

impl Pool {
    fn members<'a, H>(&'a self, set: &'a EndpointSet<H>) -> impl Iterator<Item = &'a Member<H>> {
        let of_slice = |slice: &'a Slice| (0..slice.len()).map(|number| &set.roster.members[slice.place(number)]);
        self.slices.iter().flat_map(of_slice)
    }
}

impl<'a, H> Pick<'a, '_, H> {
    /// Draws as the policy says; none when whoever came up is not available.
    // Always in line, though there are several who draw: only the first does more than hardly ever.
    #[inline(always)]
    fn draw(&mut self, slice: &Slice, tier: Tier) -> Option<&'a Member<H>> {
        let member = match self.set.rules.balancing {
            LoadBalancing::RoundRobin => self.open(slice, slice.in_turn(), tier)?,
            LoadBalancing::LeastRequest { choices } => self.least_loaded(slice, choices, tier)?,
            LoadBalancing::PeakEwma { .. } => self.quickest(slice, tier)?,
            LoadBalancing::Random => {
                let number = slice.at_random(&mut self.terms.dice);
                self.open(slice, number, tier)?
            }
        };
        self.claim(member).then_some(member)
    }

    // Out of line, as is the next, so that a draw of one need not save the registers that a comparison takes.
    #[inline(never)]
    fn least_loaded(&mut self, slice: &Slice, choices: u32, tier: Tier) -> Option<&'a Member<H>> {
        let (first, second) = slice.two_at_random(&mut self.terms.dice);
        let mut best = self.better(slice, (first, second), tier, |first, second| self.is_less(slice, second, first));
        for _ in 2..choices {
            let number = slice.at_random(&mut self.terms.dice);
            let further = self.open(slice, number, tier);
            best = match (best, further) {
                (Some(best), Some(further)) if !self.is_less(slice, further, best) => Some(best),
                (best, None) => best,
                (_, further) => further,
            };
        }
        best
    }

    #[inline(never)]
    fn quickest(&mut self, slice: &Slice, tier: Tier) -> Option<&'a Member<H>> {
        let (first, second) = slice.two_at_random(&mut self.terms.dice);
        let now = self.home.millis(self.terms.now);
        self.better(slice, (first, second), tier, |first, other| {
            self.cost(slice, other, now) < self.cost(slice, first, now)
        })
    }

    /// Of two, the one that is open; of two that are open, the second if `second_wins`.
    // Always in line, as whoever asks is but this and the draw of two.
    #[inline(always)]
    fn better(
        &self,
        slice: &Slice,
        (first, second): (u32, u32),
        tier: Tier,
        second_wins: impl FnOnce(&Member<H>, &Member<H>) -> bool,
    ) -> Option<&'a Member<H>> {
        match (self.open(slice, first, tier), self.open(slice, second, tier)) {
            (Some(first), Some(second)) if second_wins(first, second) => Some(second),
            (Some(first), _) => Some(first),
            (None, second) => second,
        }
    }

    /// Whether `a` has less to do than `b`, for its weight. Nobody wins a tie, so that without load the draw decides, and
    /// weights hold.
    #[inline(always)]
    fn is_less(&self, slice: &Slice, a: &Member<H>, b: &Member<H>) -> bool {
        let (load_a, load_b) = (self.load(a), self.load(b));
        if slice.wheel.is_none() {
            return load_a < load_b;
        }
        load_a * u64::from(b.weight) < load_b * u64::from(a.weight)
    }

    /// Requests in flight, and what failures of late count as: an endpoint that fails at once is idle for a bad reason.
    #[inline]
    fn load(&self, member: &Member<H>) -> u64 {
        let penalty = member.seat.live().penalty(|| self.home.millis(self.terms.now), self.set.rules.rate);
        u64::from(member.seat.in_flight()) + u64::from(penalty)
    }

    /// How long a request would take: the latency, times those who are before it, for the endpoint's weight. Nothing at an
    /// endpoint that is new, so that it soon has a history.
    #[inline]
    fn cost(&self, slice: &Slice, member: &Member<H>, now: u64) -> f32 {
        let Some(latency) = member.seat.live().latency(now, self.set.rules.rate) else { return 0.0 };
        let mut before = member.seat.in_flight() as f32;
        if slice.wheel.is_some() {
            before *= slice.mean / member.weight as f32;
        }
        latency * (before + 1.0)
    }

    /// Number `number` of the slice, if it is available and the request was not there before.
    // Always in line: a call costs more than this does.
    #[inline(always)]
    fn open(&self, slice: &Slice, number: u32, tier: Tier) -> Option<&'a Member<H>> {
        let member = &self.set.roster.members[slice.place(number)];
        (self.is_open(member, tier) && !self.was_tried(member)).then_some(member)
    }

    #[inline]
    fn is_open(&self, member: &Member<H>, tier: Tier) -> bool {
        is_open(member.seat.live().standing(), tier, || self.home.millis(self.terms.now))
    }

    #[inline]
    fn was_tried(&self, member: &Member<H>) -> bool {
        self.terms.tried.contains(member.seat.id())
    }

    /// Takes the probe, if the member is due for one.
    #[inline]
    fn claim(&self, member: &Member<H>) -> bool {
        let standing = member.seat.live().standing();
        standing.tries() == 0 || self.claim_probe(member, standing)
    }

    #[cold]
    fn claim_probe(&self, member: &Member<H>, standing: Standing) -> bool {
        let now = self.home.millis(self.terms.now);
        !standing.is_unreachable(now) && member.seat.live().claim_probe(standing, now)
    }

    /// Draws a locality as well, so that those who stand in for others share as they always do.
    #[cold]
    fn draw_in(&mut self, pool: &'a Pool) -> Option<&'a Member<H>> {
        (0..DRAWS).find_map(|_| {
            let slice = pool.slice(self.set.rules.balancing, &mut self.terms.dice);
            self.draw(slice, pool.tier)
        })
    }

    /// Looks at everybody: in the pool whose turn it was, those not tried before those tried; then elsewhere.
    fn search(mut self, pool: &'a Pool, slice: &'a Slice) -> Option<&'a Member<H>> {
        if let Some(member) = self.scan(slice, pool.tier, false).or_else(|| self.draw_in(pool)) {
            return Some(member);
        }
        let rest = || pool.slices.iter().filter(|other| !std::ptr::eq(*other, slice));
        for tried in [false, true] {
            for slice in std::iter::once(slice).chain(rest()) {
                if let Some(member) = self.scan(slice, pool.tier, tried) {
                    return Some(member);
                }
            }
        }
        self.elsewhere(Some(pool))
    }

    /// Looks in the other pools, by preference; unless the request rather waits, then takes who is ejected, and at the very
    /// last who could not be reached.
    fn elsewhere(mut self, than: Option<&'a Pool>) -> Option<&'a Member<H>> {
        let index = &self.set.index;
        let others = index.pools.iter().filter(|pool| than.is_none_or(|than| !std::ptr::eq(*pool, than)));
        // Those tried as well: a request that waits must get whoever `is_available` speaks of, or it would spin.
        for tried in [false, true] {
            for pool in others.clone() {
                let drawn = if tried { None } else { self.draw_in(pool) };
                let found = || pool.slices.iter().find_map(|slice| self.scan(slice, pool.tier, tried));
                if let Some(member) = drawn.or_else(found) {
                    return Some(member);
                }
            }
        }
        if index.last_resort.len() == 0 || self.terms.wait_for_ready {
            return None;
        }
        let reachable = self.scan(&index.last_resort, Tier::Panic, false);
        Some(reachable.unwrap_or_else(|| self.anybody(&index.last_resort)))
    }

    /// Somebody who was not tried, or else anybody.
    fn anybody(&mut self, slice: &'a Slice) -> &'a Member<H> {
        let set = self.set;
        let start = slice.at_random(&mut self.terms.dice);
        let member = |number| &set.roster.members[slice.place(number)];
        slice.from(start).map(member).find(|member| !self.was_tried(member)).unwrap_or_else(|| member(start))
    }

    /// The first that is open, from a random one on; `tried` is whether it may have been tried.
    fn scan(&mut self, slice: &Slice, tier: Tier, tried: bool) -> Option<&'a Member<H>> {
        let set = self.set;
        let start = slice.at_random(&mut self.terms.dice);
        slice
            .from(start)
            .map(|number| &set.roster.members[slice.place(number)])
            .find(|member| self.is_open(member, tier) && (tried || !self.was_tried(member)) && self.claim(member))
    }
}

impl Slice {
    /// All numbers of the slice, from `start` on and around.
    fn from(&self, start: u32) -> impl Iterator<Item = u32> + use<> {
        (start..self.len()).chain(0..start)
    }
}

#[inline]
fn is_open(standing: Standing, tier: Tier, now: impl FnOnce() -> u64) -> bool {
    standing.is_clear() || is_open_despite(standing, tier, now())
}

#[cold]
fn is_open_despite(standing: Standing, tier: Tier, now: u64) -> bool {
    !is_out(standing, tier) && !standing.is_unreachable(now)
}

/// Whether it is not to be picked, whoever answers. In panic, ejections do not count.
fn is_out(standing: Standing, tier: Tier) -> bool {
    standing.is_retired() || (standing.is_ejected() && tier != Tier::Panic)
}
