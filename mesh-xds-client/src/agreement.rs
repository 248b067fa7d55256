//! How old the configuration is: how long ago control planes last stood by what is held.
//!
//! Each authority that is asked for anything has an age of its own, and the age of all is that of the oldest:
//!
//! ```text
//!           nothing asked --------- asked, and it answers ---------> present, age 0
//!                 |                                               ^         |
//!     asked, and restored from a cache file                    answers   its stream ends, or
//!                 v                                               |      the work is dropped
//!     past, from the age in the file on ------------------------->|         v
//!                                                                 +------ past, from 0 on
//!
//!     from everywhere: nothing is asked of it any longer --> nothing asked, no age
//! ```
//!
//! What was asked for and never came has no age, nor makes any: there is nothing that could be behind.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::AuthorityId;

/// Whether the control planes of each authority stand by what is held of it. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Agreements {
    /// By [`AuthorityId`]. Those that are not there are as new.
    authorities: Vec<Agreement>,
    /// Set by every move, taken by whoever shows the age.
    has_moved: bool,
}

/// What is asked of an authority, and whether one of its control planes is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is asked for nothing.
    Unasked,
    /// One has answered on its present stream, and would say what has changed.
    Present,
    /// None is there.
    Away,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Agreement {
    /// Nothing is asked, or nothing was ever held.
    #[default]
    Nothing,
    Present,
    /// The control planes have been away since then, when what is held was this old.
    Past {
        since: Instant,
        age: Duration,
    },
}

// === impl Agreements ===

impl Agreements {
    /// How long ago the control planes last stood by what is held.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.authorities.iter().map(|agreement| agreement.age(now)).max().unwrap_or_default()
    }

    /// Whether the age grows with time.
    pub(crate) fn is_past(&self) -> bool {
        self.authorities.iter().any(|agreement| matches!(agreement, Agreement::Past { .. }))
    }

    /// Whether there is nothing that could be of an age.
    pub(crate) fn is_nothing(&self) -> bool {
        self.authorities.iter().all(|agreement| *agreement == Agreement::Nothing)
    }

    /// What an earlier run has kept, so long ago, serves.
    pub(crate) fn restored(&mut self, id: AuthorityId, age: Duration, now: Instant) {
        if *self.of(id) == Agreement::Nothing {
            self.set(id, Agreement::Past { since: now, age });
        }
    }

    /// Takes note of where an authority stands.
    pub(crate) fn update(&mut self, id: AuthorityId, presence: Presence, now: Instant) {
        let agreement = match presence {
            Presence::Unasked => Agreement::Nothing,
            Presence::Present => Agreement::Present,
            Presence::Away => self.of(id).without_control_plane(now),
        };
        self.set(id, agreement);
    }

    /// Nobody works any longer, and so nobody is heard.
    pub(crate) fn end(&mut self, now: Instant) {
        for id in (0..self.authorities.len()).map(AuthorityId) {
            self.set(id, self.authorities[id.0].without_control_plane(now));
        }
    }

    /// Whether anything has moved since this was last called.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    fn set(&mut self, id: AuthorityId, agreement: Agreement) {
        let before = std::mem::replace(self.of(id), agreement);
        self.has_moved |= before != agreement;
    }

    fn of(&mut self, id: AuthorityId) -> &mut Agreement {
        if self.authorities.len() <= id.0 {
            self.authorities.resize_with(id.0 + 1, Agreement::default);
        }
        &mut self.authorities[id.0]
    }
}

// === impl Agreement ===

impl Agreement {
    fn age(self, now: Instant) -> Duration {
        match self {
            Self::Nothing | Self::Present => Duration::ZERO,
            Self::Past { since, age } => now.saturating_duration_since(since).saturating_add(age),
        }
    }

    fn without_control_plane(self, now: Instant) -> Self {
        match self {
            Self::Present => Self::Past { since: now, age: Duration::ZERO },
            Self::Nothing | Self::Past { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Presence::*, *};

    const HOUR: Duration = Duration::from_secs(3600);
    const OWN: AuthorityId = AuthorityId(0);
    const PARTNER: AuthorityId = AuthorityId(2);

    #[test]
    fn age_counts_from_the_last_word_and_is_nothing_while_somebody_answers() {
        let start = Instant::now();
        let mut agreements = Agreements::default();
        agreements.update(OWN, Away, start);
        assert_eq!(agreements.age(start + HOUR), Duration::ZERO, "nothing is held");
        agreements.restored(OWN, 2 * HOUR, start);
        agreements.restored(OWN, 5 * HOUR, start + HOUR);
        agreements.update(OWN, Away, start + HOUR);
        assert_eq!(agreements.age(start + HOUR), 3 * HOUR);
        agreements.update(OWN, Present, start + HOUR);
        assert_eq!(agreements.age(start + 2 * HOUR), Duration::ZERO);
        agreements.restored(OWN, 2 * HOUR, start + 2 * HOUR);
        agreements.update(OWN, Away, start + 2 * HOUR);
        assert_eq!(agreements.age(start + 3 * HOUR), HOUR);
    }

    #[test]
    fn age_of_all_is_that_of_the_oldest_that_is_asked_for_anything() {
        let start = Instant::now();
        let mut agreements = Agreements::default();
        agreements.update(OWN, Present, start);
        agreements.update(PARTNER, Present, start);
        agreements.update(PARTNER, Away, start);
        agreements.update(OWN, Away, start + HOUR);
        assert_eq!(agreements.age(start + 2 * HOUR), 2 * HOUR);
        agreements.update(PARTNER, Unasked, start + 2 * HOUR);
        assert_eq!(agreements.age(start + 2 * HOUR), HOUR, "and the other has not been away for as long");
        agreements.update(OWN, Unasked, start + 2 * HOUR);
        assert_eq!(agreements.age(start + 3 * HOUR), Duration::ZERO);
        assert!(agreements.is_nothing());
    }

    #[test]
    fn moves_are_told_once_and_standing_still_is_none() {
        let start = Instant::now();
        let mut agreements = Agreements::default();
        agreements.update(OWN, Present, start);
        assert!(agreements.take_moved() && !agreements.take_moved());
        agreements.update(OWN, Present, start + HOUR);
        assert!(!agreements.take_moved());
        agreements.end(start + HOUR);
        assert!(agreements.take_moved() && agreements.is_past());
    }
}
