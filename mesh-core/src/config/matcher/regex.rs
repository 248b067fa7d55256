//! Regular expressions as Envoy means them: RE2's, of a whole text.

use std::{borrow::Cow, fmt, sync::OnceLock};

use crate::config::ConfigError;

/// A regular expression that must match the whole text (RE2 full match).
///
/// Compiled when it is made; equal when the pattern is. A pattern whose compiled form would pass 1 MiB is refused: Envoy
/// counts RE2 program instructions there, which has no equivalent here.
#[derive(Clone)]
pub struct Regex {
    pattern: Box<str>,
    compiled: regex::Regex,
    /// The pattern without anchors, set at the first replacement; most expressions only ever match.
    unanchored: OnceLock<regex::Regex>,
}

// === impl Regex ===

impl Regex {
    /// The most memory that one compiled pattern may take.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles `pattern`, to be matched against whole texts.
    ///
    /// # Errors
    ///
    /// Refuses what is not a regular expression, uses back-references or look-around, or compiles past
    /// [`SIZE_LIMIT`](Self::SIZE_LIMIT).
    pub fn new(pattern: &str) -> Result<Self, ConfigError> {
        let spelled = spell_out(pattern);
        // Compiled alone first: `a)(b` would otherwise become legal inside the anchoring group.
        build(&spelled)
            .and_then(|_| build(&format!(r"\A(?:{spelled})\z")))
            .map(|compiled| Self { pattern: pattern.into(), compiled, unanchored: OnceLock::new() })
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    ConfigError::new("regex", pattern, "its compiled form passes 1 MiB; shorten it or its repetitions")
                }
                other => ConfigError::new("regex", pattern, format!("write RE2 syntax; {}", first_line(&other))),
            })
    }

    /// Whether all of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The pattern compiled without anchors, for replacing inside a text.
    pub(crate) fn unanchored(&self) -> &regex::Regex {
        let build = || build(&spell_out(&self.pattern)).expect("the pattern compiled when this value was made");
        self.unanchored.get_or_init(build)
    }
}

fn build(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(Regex::SIZE_LIMIT).build()
}

/// RE2 has a quotation, `\Q..\E` or to the end, in which every character stands for itself; the regex crate does not, and
/// gets it character by character.
fn spell_out(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains(r"\Q") {
        return pattern.into();
    }
    let (mut spelled, mut rest) = (String::new(), pattern);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        spelled.push_str(before);
        rest = match escape.strip_prefix(r"\Q") {
            Some(quoted) => {
                let (quoted, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
                spelled.push_str(&regex::escape(quoted));
                after
            }
            None => {
                let end = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
                spelled.push_str(&escape[..end]);
                &escape[end..]
            }
        };
    }
    spelled.push_str(rest);
    spelled.into()
}

fn first_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().next_back().unwrap_or_default().trim().to_owned()
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regex_matches_the_whole_text_only() {
        let regex = Regex::new("a|b").expect("legal");
        assert!(regex.is_match("a") && regex.is_match("b"));
        assert!(!regex.is_match("ab"));
        assert!(Regex::new("a)(b").is_err());
    }

    #[test]
    fn regex_takes_a_quotation_literally() {
        let matches = |pattern, text| Regex::new(pattern).expect("legal").is_match(text);
        assert!(matches(r"/\Qa.b(\E.*", "/a.b(c") && !matches(r"/\Qa.b(\E.*", "/axb(c"));
        assert!(matches(r"\Q*", "*"), "to the end, where it is not closed");
        assert!(matches(r"\\Q+", r"\QQ"), "a backslash of its own opens none");
        assert!(Regex::new(r"\Qa\E(").is_err());
    }

    #[test]
    fn regex_that_would_grow_past_the_limit_is_refused_with_its_remedy() {
        let error = Regex::new("((a{100}){100}){100}").expect_err("a million states");
        assert!(error.remedy().contains("1 MiB"), "{error}");
    }
}
