//! Tests of one query parameter (`envoy.config.route.v3.QueryParameterMatcher`).

use super::StringMatcher;
use crate::config::ConfigError;

/// A test of the first query parameter of a name (`envoy.config.route.v3.QueryParameterMatcher`), on raw text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    name: Box<str>,
    test: QueryTest,
}

/// What a [`QueryMatcher`] asks of the parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryTest {
    /// The value matches.
    Value(StringMatcher),
    /// The parameter is there, or, with `false`, is not.
    Present(bool),
}

// === impl QueryMatcher ===

impl QueryMatcher {
    /// Tests the first parameter called `name`.
    ///
    /// # Errors
    ///
    /// Refuses an empty name.
    pub fn new(name: impl Into<Box<str>>, test: QueryTest) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.is_empty() {
            return Err(ConfigError::new("query_parameters.name", "", "name the parameter"));
        }
        Ok(Self { name, test })
    }

    /// Which parameter is tested.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked of it.
    pub fn test(&self) -> &QueryTest {
        &self.test
    }

    /// Whether the query (the text after `?`) passes.
    pub fn matches(&self, query: &str) -> bool {
        let value = query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key == &*self.name).then_some(value),
            None => (pair == &*self.name).then_some(""),
        });
        match &self.test {
            QueryTest::Value(matcher) => value.is_some_and(|value| matcher.matches(value)),
            QueryTest::Present(wanted) => value.is_some() == *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_looks_at_the_first_occurrence_of_raw_text() {
        let matcher = QueryMatcher::new("k", QueryTest::Value(StringMatcher::exact("a%20b"))).expect("named");
        assert!(matcher.matches("x=1&k=a%20b&k=2"));
        assert!(!matcher.matches("k=2&k=a%20b"));
        assert!(QueryMatcher::new("k", QueryTest::Present(true)).expect("named").matches("k"));
    }
}
