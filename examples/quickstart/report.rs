//! What the reader sees: each claim, its figures, and whether it held.

use std::{fmt::Display, io::IsTerminal, time::Instant};

/// Prints claims as they are tried, and counts those that did not hold.
pub(crate) struct Report {
    start: Instant,
    colours: bool,
    claims: u32,
    failed: u32,
}

impl Report {
    /// An empty report. Colours are for terminals only.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), colours: std::io::stdout().is_terminal(), claims: 0, failed: 0 }
    }

    /// Says something.
    pub(crate) fn say(&self, text: impl Display) {
        println!("{text}");
    }

    /// Opens the next claim.
    pub(crate) fn claim(&mut self, text: impl Display) {
        self.claims += 1;
        let number = self.claims;
        println!("\n{}", self.painted("1", format!("{number}. {text}")));
    }

    /// A figure of the claim, and whether it is as claimed.
    pub(crate) fn check(&mut self, holds: bool, figure: impl Display) {
        if !holds {
            self.failed += 1;
        }
        let mark = if holds { self.painted("32", "ok  ") } else { self.painted("31", "FAIL") };
        println!("   {mark} {figure}");
    }

    /// Ends the report; whether everything held.
    pub(crate) fn end(&self) -> bool {
        let seconds = self.start.elapsed().as_secs_f64();
        let summary = match self.failed {
            0 => self.painted("1;32", format!("All {} claims held, in {seconds:.1} s.", self.claims)),
            failed => self.painted("1;31", format!("{failed} figures were not as claimed, in {seconds:.1} s.")),
        };
        println!("\n{summary}");
        self.failed == 0
    }

    fn painted(&self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
