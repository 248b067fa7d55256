//! Requests that are refused before balancing, because the source of the endpoints sheds load
//! (`ClusterLoadAssignment.Policy.drop_overloads`).

use std::{error::Error as StdError, fmt, sync::Arc, sync::atomic::Ordering::Relaxed};

use super::{Cluster, Transport};
use crate::{
    Dice,
    config::{DropOverload, Fraction},
    outcome::{Failed, Failure, FailureKind, Flags, Sent},
};

/// A request was refused since the source of the endpoints sheds load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    category: Arc<str>,
    is_unconditional: bool,
}

impl<T: Transport> Cluster<T> {
    /// Whether a request is to be refused before it is counted or balanced; each category draws for itself, in order.
    ///
    /// Meant to be asked once a request, as Envoy does, whatever number of attempts it takes. Where nothing is dropped it
    /// costs one look at a flag, and leaves the dice alone.
    #[inline]
    pub fn drop_overload(&self, dice: &mut Dice) -> Option<Dropped> {
        if !self.is_dropping.load(Relaxed) {
            return None;
        }
        self.draw_drop(dice)
    }

    #[cold]
    fn draw_drop(&self, dice: &mut Dice) -> Option<Dropped> {
        let set = self.set.load();
        let dropped = set.roster.drops.iter().find(|drop| drop.share.contains(dice.roll()));
        dropped.map(Dropped::by)
    }
}

// === impl Dropped ===

impl Dropped {
    fn by(drop: &DropOverload) -> Self {
        Self { category: drop.category.clone(), is_unconditional: drop.share.share() >= Fraction::ALL.share() }
    }

    /// Whose decision it was.
    pub fn category(&self) -> &Arc<str> {
        &self.category
    }

    /// What it stands for: flag DO, or UDO where all requests are refused; nothing sent.
    pub fn failure(&self) -> Failure {
        let flags = if self.is_unconditional { Flags::UDO } else { Flags::DO };
        Failure { flags, ..Failure::new(FailureKind::Dropped, Sent::No) }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "load is shed by `{}`", self.category)
    }
}

impl StdError for Dropped {}

impl From<Dropped> for Failed {
    fn from(dropped: Dropped) -> Self {
        Self::because(dropped.failure(), dropped)
    }
}
