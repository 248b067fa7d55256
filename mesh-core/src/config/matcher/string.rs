//! Tests of one string (`envoy.type.matcher.v3.StringMatcher`).

use super::Regex;
use crate::config::ConfigError;

/// A test of one string (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

/// What a [`StringMatcher`] looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The whole text.
    Exact(Box<str>),
    /// How it starts; never empty.
    Prefix(Box<str>),
    /// How it ends; never empty.
    Suffix(Box<str>),
    /// What it holds; never empty.
    Contains(Box<str>),
    /// What all of it looks like.
    Regex(Regex),
}

// === impl StringMatcher ===

impl StringMatcher {
    /// Matches `text` itself.
    pub fn exact(text: impl Into<Box<str>>) -> Self {
        Self { pattern: Pattern::Exact(text.into()), ignore_case: false }
    }

    /// Matches what starts with `text`.
    ///
    /// # Errors
    ///
    /// Refuses an empty text, which would match everything.
    pub fn prefix(text: impl Into<Box<str>>) -> Result<Self, ConfigError> {
        filled("prefix", text.into()).map(|text| Self { pattern: Pattern::Prefix(text), ignore_case: false })
    }

    /// Matches what ends with `text`.
    ///
    /// # Errors
    ///
    /// Refuses an empty text, which would match everything.
    pub fn suffix(text: impl Into<Box<str>>) -> Result<Self, ConfigError> {
        filled("suffix", text.into()).map(|text| Self { pattern: Pattern::Suffix(text), ignore_case: false })
    }

    /// Matches what holds `text`.
    ///
    /// # Errors
    ///
    /// Refuses an empty text, which would match everything.
    pub fn contains(text: impl Into<Box<str>>) -> Result<Self, ConfigError> {
        filled("contains", text.into()).map(|text| Self { pattern: Pattern::Contains(text), ignore_case: false })
    }

    /// Matches what `regex` describes as a whole.
    ///
    /// # Errors
    ///
    /// As [`Regex::new`].
    pub fn regex(regex: &str) -> Result<Self, ConfigError> {
        Regex::new(regex).map(Self::from)
    }

    /// Takes ASCII letters of either case for the same.
    ///
    /// # Errors
    ///
    /// Refuses this for a regular expression, which says `(?i)` itself.
    pub fn ignore_case(mut self) -> Result<Self, ConfigError> {
        match &mut self.pattern {
            Pattern::Regex(regex) => {
                return Err(ConfigError::new("ignore_case", regex.as_str(), "write (?i) in the regular expression"));
            }
            Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Contains(text) => {
                text.make_ascii_lowercase();
            }
        }
        self.ignore_case = true;
        Ok(self)
    }

    /// Whether `text` passes.
    pub fn matches(&self, text: &str) -> bool {
        if !self.ignore_case {
            return self.pattern.matches(text);
        }
        // On bytes, so that no text is copied to be folded; a multi-byte character has no byte in common with ASCII.
        let (bytes, same) = (text.as_bytes(), <[u8]>::eq_ignore_ascii_case);
        match &self.pattern {
            Pattern::Exact(wanted) => same(bytes, wanted.as_bytes()),
            Pattern::Prefix(wanted) => bytes.get(..wanted.len()).is_some_and(|start| same(start, wanted.as_bytes())),
            Pattern::Suffix(wanted) => {
                bytes.len().checked_sub(wanted.len()).is_some_and(|at| same(&bytes[at..], wanted.as_bytes()))
            }
            Pattern::Contains(wanted) => bytes.windows(wanted.len()).any(|part| same(part, wanted.as_bytes())),
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }

    /// What is looked for.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether ASCII case is ignored.
    pub fn ignores_case(&self) -> bool {
        self.ignore_case
    }
}

impl From<Regex> for StringMatcher {
    fn from(regex: Regex) -> Self {
        Self { pattern: Pattern::Regex(regex), ignore_case: false }
    }
}

// === impl Pattern ===

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *text,
            Self::Prefix(wanted) => text.starts_with(&**wanted),
            Self::Suffix(wanted) => text.ends_with(&**wanted),
            Self::Contains(wanted) => text.contains(&**wanted),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn filled(field: &'static str, text: Box<str>) -> Result<Box<str>, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::new(field, "", "give at least one character, or match on presence"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_case_folds_ascii_and_is_refused_for_regex() {
        let folded = |matcher: Result<StringMatcher, ConfigError>| matcher.and_then(StringMatcher::ignore_case);
        let prefix = folded(StringMatcher::prefix("AbC")).expect("legal");
        assert!(prefix.matches("aBcd") && !prefix.matches("ab"));
        let suffix = folded(StringMatcher::suffix("AbC")).expect("legal");
        assert!(suffix.matches("éaBc") && !suffix.matches("bc"));
        let contains = folded(StringMatcher::contains("AbC")).expect("legal");
        assert!(contains.matches("xéaBcd") && !contains.matches("xabd"));
        assert!(StringMatcher::regex("a").and_then(StringMatcher::ignore_case).is_err());
    }
}
