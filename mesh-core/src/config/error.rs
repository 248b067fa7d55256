//! What is said when a configuration value is refused, and when part of one had to be ignored.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// A configuration value that is refused: which field, which value, and what to write instead.
///
/// Builders and control-plane decoders refuse through this one type, so the same mistake reads the same wherever it was
/// made. The field is a path from the value that was being built, such as `virtual_hosts[2].routes[0].match.prefix`.
///
/// # Examples
///
/// ```
/// use mesh_core::config::Percent;
///
/// let error = Percent::new(130.0).unwrap_err();
/// assert_eq!(error.value(), "130");
/// assert!(error.to_string().contains("between 0 and 100"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    value: String,
    remedy: Cow<'static, str>,
}

/// Part of a configuration that is understood but cannot be honoured, and what happens instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Path of the field, in the words of its source (for xDS, proto field names).
    pub field: String,
    /// What was ignored and what it means for traffic.
    pub message: Cow<'static, str>,
}

/// A decoded value and the parts of its source that it does not honour.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// The valid value.
    pub value: T,
    /// What was left out, in the order of the source.
    pub warnings: Vec<Warning>,
}

// === impl ConfigError ===

impl ConfigError {
    /// Refuses `value` of `field`; `remedy` says what would be accepted.
    pub fn new(field: impl Into<String>, value: impl fmt::Display, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), value: shortened(value.to_string()), remedy: remedy.into() }
    }

    /// The same refusal seen from the message that holds the field: `within("routes[1]")` turns `prefix` into
    /// `routes[1].prefix`.
    #[must_use]
    pub fn within(mut self, parent: impl fmt::Display) -> Self {
        let separator = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{parent}{separator}{}", self.field);
        self
    }

    /// The same refusal, of the field that a bare value was meant for: a type such as
    /// [`TimeLimit`](super::TimeLimit) does not know which that is.
    #[must_use]
    pub fn named(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// Path of the refused field.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The refused value as text, shortened past 256 characters.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What would be accepted.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is refused with value `{}`: {}", self.field, self.value, self.remedy)
    }
}

impl StdError for ConfigError {}

/// A value may come from a peer and be of any size; an error that quotes it must not be.
fn shortened(mut value: String) -> String {
    const LONGEST: usize = 256;
    if let Some((end, _)) = value.char_indices().nth(LONGEST) {
        value.truncate(end);
        value.push('…');
    }
    value
}

// === impl Warning ===

impl Warning {
    /// A warning about `field`.
    pub fn new(field: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

// === impl Decoded ===

impl<T> Decoded<T> {
    /// The same with another value.
    pub fn map<U>(self, into: impl FnOnce(T) -> U) -> Decoded<U> {
        Decoded { value: into(self.value), warnings: self.warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_builds_a_path_from_the_inside_out() {
        let error = ConfigError::new("prefix", "x", "start with /").within("match").within("routes[3]");
        assert_eq!(error.field(), "routes[3].match.prefix");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character_boundary() {
        let error = ConfigError::new("path", "é".repeat(4096), "shorter");
        assert_eq!(error.value().chars().count(), 257);
    }
}
