//! Matchers: strings, headers, query parameters, as Envoy means them (`envoy.type.matcher.v3`, `HeaderMatcher`).

mod header;
mod query;
mod regex;
mod string;

pub use self::{
    header::{HeaderKey, HeaderMatcher, HeaderTest},
    query::{QueryMatcher, QueryTest},
    regex::Regex,
    string::{Pattern, StringMatcher},
};
