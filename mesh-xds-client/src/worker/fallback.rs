//! Which of the servers of one authority are in use: falling back, and falling forward again (gRFC A71).
//!
//! ```text
//!             cannot be reached, and something is lacking
//!   preferred ------------------------------------------> preferred, still tried, and the next
//!             <------------------------------------------
//!                        the preferred answers
//! ```
//!
//! Servers are used from the first of the list on, and never with a gap: whoever comes before the last in use is
//! tried still. What a server is asked for it is asked for as a whole, since resources of two servers may not fit
//! together. What was brought before a move stays, until the server in charge says otherwise.
//!
//! A state machine without I/O: it is shown where the servers stand, and says the next step.

use std::ops::Range;

/// The servers of one authority that are in use.
#[derive(Debug)]
pub(super) struct Fallback {
    servers: usize,
    /// How many are in use, from the first on. None until there is anything to ask for.
    in_use: usize,
    /// Whether a server that is lost is reason enough, though nothing may be lacking (gRFC A95).
    is_on_reachability_only: bool,
}

/// Where a server stands, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was not heard of since it was last tried, or since its last stream ended in the normal course of things.
    #[default]
    Untold,
    /// It has answered on the present stream.
    Live,
    /// The last stream to it ended before an answer, or could not be opened.
    Failing,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this server too.
    Use(usize),
    /// Ask these no longer.
    Release(Range<usize>),
}

// === impl Fallback ===

impl Fallback {
    pub(super) fn new(servers: usize, is_on_reachability_only: bool) -> Self {
        Self { servers, in_use: 0, is_on_reachability_only }
    }

    /// The servers that are in use, the preferred one first.
    pub(super) fn in_use(&self) -> Range<usize> {
        0..self.in_use
    }

    /// The next step, of an authority that is asked for something. To be called until there is none.
    pub(super) fn step(
        &mut self,
        standing: impl Fn(usize) -> Standing,
        is_lacking: impl FnOnce() -> bool,
    ) -> Option<Step> {
        let Some(last) = self.in_use.checked_sub(1) else { return self.use_next() };
        // Forward: whoever stands in for one that is there has done its duty.
        let live = self.in_use().find(|server| standing(*server) == Standing::Live);
        if let Some(live) = live {
            let released = live + 1..self.in_use;
            self.in_use = released.start;
            return (!released.is_empty()).then_some(Step::Release(released));
        }
        // Back: the last hope has failed, and it matters.
        let is_lost = standing(last) == Standing::Failing;
        if is_lost && self.in_use < self.servers && (self.is_on_reachability_only || is_lacking()) {
            return self.use_next();
        }
        None
    }

    fn use_next(&mut self) -> Option<Step> {
        self.in_use += 1;
        Some(Step::Use(self.in_use - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::{Standing::*, *};

    /// An authority, and where its servers stand.
    struct Script {
        fallback: Fallback,
        standing: Vec<Standing>,
        is_lacking: bool,
    }

    impl Script {
        fn of(servers: usize) -> Self {
            let fallback = Fallback::new(servers, false);
            Self { fallback, standing: vec![Untold; servers], is_lacking: true }
        }

        /// A server is heard of; what follows from that.
        fn hear(&mut self, server: usize, standing: Standing) -> Vec<Step> {
            self.standing[server] = standing;
            self.steps()
        }

        fn steps(&mut self) -> Vec<Step> {
            let step = || self.fallback.step(|server| self.standing[server], || self.is_lacking);
            std::iter::from_fn(step).collect()
        }
    }

    #[test]
    fn first_server_is_used_and_the_others_are_left_alone_while_it_is_there() {
        let mut script = Script::of(3);
        assert_eq!(script.fallback.in_use(), 0..0);
        assert_eq!(script.steps(), [Step::Use(0)]);
        for standing in [Live, Untold, Live] {
            assert_eq!(script.hear(0, standing), []);
        }
    }

    #[test]
    fn each_failure_brings_the_next_until_there_is_no_next() {
        let mut script = Script::of(3);
        script.steps();
        assert_eq!(script.hear(0, Failing), [Step::Use(1)]);
        assert_eq!(script.hear(0, Failing), [], "the next has its chance first");
        assert_eq!(script.hear(1, Failing), [Step::Use(2)]);
        assert_eq!(script.hear(2, Failing), []);
        assert_eq!(script.fallback.in_use(), 0..3);
    }

    #[test]
    fn preferred_server_that_answers_ends_the_use_of_all_below_it() {
        let mut script = Script::of(4);
        script.steps();
        for server in 0..3 {
            script.hear(server, Failing);
        }
        assert_eq!(script.hear(3, Live), []);
        assert_eq!(script.hear(1, Live), [Step::Release(2..4)]);
        assert_eq!(script.hear(0, Live), [Step::Release(1..2)]);
        assert_eq!(script.fallback.in_use(), 0..1);
    }

    #[test]
    fn nothing_lacking_is_no_reason_to_fall_back_until_something_is() {
        let mut script = Script::of(2);
        script.steps();
        script.hear(0, Live);
        script.is_lacking = false;
        assert_eq!(script.hear(0, Untold), [], "a stream that ended after an answer");
        assert_eq!(script.hear(0, Failing), []);
        script.is_lacking = true;
        assert_eq!(script.steps(), [Step::Use(1)]);
        script.is_lacking = false;
        assert_eq!(script.hear(1, Live), [], "and then the second is kept, for as long as the first is away");
        assert_eq!(script.hear(0, Live), [Step::Release(1..2)]);
    }

    #[test]
    fn lost_server_is_reason_enough_where_the_authority_says_so() {
        let mut script = Script::of(2);
        script.fallback = Fallback::new(2, true);
        script.is_lacking = false;
        script.steps();
        assert_eq!(script.hear(0, Failing), [Step::Use(1)]);
    }

    #[test]
    fn stand_in_that_fails_is_not_given_up_while_the_others_fail_too() {
        let mut script = Script::of(2);
        script.steps();
        script.hear(0, Failing);
        script.hear(1, Live);
        assert_eq!(script.hear(1, Untold), []);
        assert_eq!(script.hear(1, Failing), []);
        assert_eq!(script.hear(0, Untold), []);
        assert_eq!(script.hear(0, Failing), []);
        assert_eq!(script.fallback.in_use(), 0..2);
        assert_eq!(script.hear(1, Live), []);
    }

    #[test]
    fn server_that_others_use_and_is_there_already_is_known_to_be() {
        let mut script = Script::of(3);
        script.standing = vec![Failing, Live, Untold];
        assert_eq!(script.steps(), [Step::Use(0), Step::Use(1)]);
    }
}
