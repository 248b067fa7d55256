//! Where a decoder is in the message it reads: turns local complaints into full paths, and collects the warnings.

use std::{collections::HashMap, fmt::Display};

use mesh_core::config::{ConfigError, Warning};

/// The warnings of one resource.
///
/// A decoder reads one message and speaks of its fields alone; [`at`](Self::at) and its kin put the path of the message
/// before whatever was said within.
#[derive(Debug, Default)]
pub(super) struct Notes {
    warnings: Vec<Warning>,
    unsaid: usize,
}

/// Whether a field says anything: not the zero of its type, and present where presence can be told.
pub(super) trait IsSet {
    fn is_set(&self) -> bool;
}

/// Warns of each of these fields that is set; `$meaning` says what that means for traffic.
macro_rules! warn_if_set {
    ($notes:expr, $message:expr, $meaning:literal, [$($field:ident),+ $(,)?]) => {
        $(
            if $crate::resource::notes::IsSet::is_set(&$message.$field) {
                $notes.warn(stringify!($field), $meaning);
            }
        )+
    };
}

pub(super) use warn_if_set;

// === impl Notes ===

impl Notes {
    /// The most warnings that are kept of one resource: a set of 100,000 endpoints must not become as many texts.
    pub(super) const LIMIT: usize = 64;

    /// Notes that `field` is not honoured, and what that means.
    pub(super) fn warn(&mut self, field: impl Into<String>, meaning: impl Into<std::borrow::Cow<'static, str>>) {
        if self.warnings.len() < Self::LIMIT {
            self.warnings.push(Warning::new(field, meaning));
        } else {
            self.unsaid += 1;
        }
    }

    /// Reads `message`, which is found at `part`.
    pub(super) fn at<M, T>(
        &mut self,
        part: impl Display,
        message: M,
        read: impl FnOnce(M, &mut Self) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.within(&part, |notes| read(message, notes)).map_err(|error| error.within(&part))
    }

    /// Takes what is noted in `note` for said of the message at `part`.
    pub(super) fn within<T>(&mut self, part: impl Display, note: impl FnOnce(&mut Self) -> T) -> T {
        let earlier = self.warnings.len();
        let outcome = note(self);
        for warning in &mut self.warnings[earlier..] {
            warning.field = format!("{part}.{}", warning.field);
        }
        outcome
    }

    /// Reads `message` if there is one.
    pub(super) fn opt<M, T>(
        &mut self,
        part: &'static str,
        message: Option<M>,
        read: impl FnOnce(M, &mut Self) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        message.map(|message| self.at(part, message, read)).transpose()
    }

    /// Reads `message`, and refuses its absence.
    pub(super) fn required<M, T>(
        &mut self,
        part: &'static str,
        message: Option<M>,
        read: impl FnOnce(M, &mut Self) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        match message {
            Some(message) => self.at(part, message, read),
            None => Err(ConfigError::new(part, "", "set this field")),
        }
    }

    /// Reads every message of a list.
    ///
    /// What is read has memory of its own, of just its size: `collect` would leave it in that of the messages, which are many
    /// times as large, or in twice of what it needs.
    pub(super) fn each<M, T>(
        &mut self,
        part: &'static str,
        messages: Vec<M>,
        mut read: impl FnMut(M, &mut Self) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let mut values = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            values.push(self.at(format_args!("{part}[{index}]"), message, &mut read)?);
        }
        Ok(values)
    }

    /// Takes over what was noted of this message apart, as if it had been noted here.
    pub(super) fn take_over(&mut self, noted: &Self) {
        let room = Self::LIMIT - self.warnings.len();
        self.warnings.extend(noted.warnings.iter().take(room).cloned());
        self.unsaid += noted.unsaid + noted.warnings.len().saturating_sub(room);
    }

    /// Takes so many that were noted apart for noted here, without a word of any.
    pub(super) fn leave_out(&mut self, count: usize) {
        self.unsaid += count;
    }

    /// Whether of all that is noted from now on no word is kept.
    pub(super) fn is_full(&self) -> bool {
        self.warnings.len() >= Self::LIMIT
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> usize {
        self.warnings.len()
    }

    /// How many warnings there are so far.
    pub(super) fn count(&self) -> usize {
        self.warnings.len() + self.unsaid
    }

    /// The warnings, and last how many more there were.
    pub(super) fn finish(mut self) -> Vec<Warning> {
        if self.unsaid > 0 {
            self.warnings.push(Warning::new("", format!("{} further warnings are left out", self.unsaid)));
        }
        self.warnings
    }
}

// === impl IsSet ===

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_within_is_told_with_its_path() {
        let mut notes = Notes::default();
        let outcome = notes.each("routes", vec![false, true], |fails, notes| {
            notes.at("route", fails, |fails, notes| {
                notes.warn("hash_policy", "ignored");
                if fails { Err(ConfigError::new("timeout", "-1s", "at least zero")) } else { Ok(()) }
            })
        });
        assert_eq!(outcome.expect_err("the second fails").field(), "routes[1].route.timeout");
        let fields: Vec<_> = notes.finish().into_iter().map(|warning| warning.field).collect();
        assert_eq!(fields, ["routes[0].route.hash_policy", "routes[1].route.hash_policy"]);
    }

    #[test]
    fn warnings_are_bounded_and_the_rest_counted() {
        let mut notes = Notes::default();
        for _ in 0..Notes::LIMIT + 7 {
            notes.warn("field", "ignored");
        }
        let warnings = notes.finish();
        assert_eq!(warnings.len(), Notes::LIMIT + 1);
        assert!(warnings[Notes::LIMIT].message.starts_with("7 further"));
    }
}
