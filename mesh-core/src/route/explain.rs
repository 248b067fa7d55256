//! Why a request takes the route that it takes, in words.

use std::{fmt, sync::Arc};

use super::{NoRoute, Refusal};
use crate::{
    RequestHead,
    config::{
        Domain, HeaderKey, HeaderMatcher, HeaderTest, PathMatch, Pattern, QueryMatcher, QueryTest, Route, RouteMatch,
        StringMatcher,
    },
};

/// How a request was routed: the virtual host and the domain that took its authority, and every route tried in it.
///
/// Its `Display` is a text of several lines for people; what it says may change, the methods do not.
#[derive(Clone, Debug)]
pub struct Explanation {
    authority: Box<str>,
    path: Box<str>,
    virtual_host: Option<(Arc<str>, Domain)>,
    tried: Vec<TriedRoute>,
    taken: Option<usize>,
}

/// A route that was tried.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TriedRoute {
    /// The route.
    pub route: Arc<Route>,
    /// The first of its conditions that the request does not meet; none, it took the request.
    pub refusal: Option<Refusal>,
}

// === impl Explanation ===

impl Explanation {
    pub(super) fn without_virtual_host(head: &RequestHead<'_>) -> Self {
        Self {
            authority: head.authority.into(),
            path: head.uri.path().into(),
            virtual_host: None,
            tried: Vec::new(),
            taken: None,
        }
    }

    pub(super) fn of_virtual_host(
        head: &RequestHead<'_>,
        virtual_host: (Arc<str>, Domain),
        tried: impl Iterator<Item = (Arc<Route>, Option<Refusal>)>,
        taken: Option<usize>,
    ) -> Self {
        let tried = tried.map(|(route, refusal)| TriedRoute { route, refusal }).collect();
        Self { virtual_host: Some(virtual_host), tried, taken, ..Self::without_virtual_host(head) }
    }

    /// Name of the virtual host, if there is one for the authority.
    pub fn virtual_host(&self) -> Option<&Arc<str>> {
        self.virtual_host.as_ref().map(|(name, _)| name)
    }

    /// Which of its domains took the authority.
    pub fn domain(&self) -> Option<&Domain> {
        self.virtual_host.as_ref().map(|(_, domain)| domain)
    }

    /// The routes that were tried, in the order of the virtual host, from its first to the one taken or else its last.
    pub fn tried(&self) -> &[TriedRoute] {
        &self.tried
    }

    /// Place in the virtual host of the route taken, counting from 0.
    ///
    /// # Errors
    ///
    /// As [`RouteTable::select`](super::RouteTable::select).
    pub fn outcome(&self) -> Result<usize, NoRoute> {
        match (&self.virtual_host, self.taken) {
            (_, Some(taken)) => Ok(taken),
            (Some(_), None) => Err(NoRoute::Route),
            (None, None) => Err(NoRoute::VirtualHost),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "authority `{}`, path `{}`", self.authority, self.path)?;
        if let Some((name, domain)) = &self.virtual_host {
            write!(f, "\nvirtual host `{name}`, by its domain `{domain}`")?;
        }
        for (index, tried) in self.tried.iter().enumerate() {
            write!(f, "\n  route {index} {tried}")?;
        }
        match self.outcome() {
            Ok(_) => Ok(()),
            Err(none) => write!(f, "\n{none}"),
        }
    }
}

// === impl TriedRoute ===

impl fmt::Display for TriedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.route.name.is_empty() {
            write!(f, "`{}` ", self.route.name)?;
        }
        match self.refusal {
            None => f.write_str("takes it"),
            Some(refusal) => write!(f, "does not: {}", Wanted(&self.route.matches, refusal)),
        }
    }
}

/// The condition that was not met, as what would have met it.
struct Wanted<'a>(&'a RouteMatch, Refusal);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(matches, refusal) = self;
        match *refusal {
            Refusal::Path => path(f, &matches.path, matches.case_sensitive),
            Refusal::Fraction => {
                let share = matches.fraction.map_or(1.0, |fraction| fraction.share());
                write!(f, "it takes {}% of requests", share * 100.0)
            }
            Refusal::Grpc => f.write_str("content type must be gRPC's"),
            Refusal::Header(index) => header(f, &matches.headers[index]),
            Refusal::Query(index) => query(f, &matches.query[index]),
        }
    }
}

fn path(f: &mut fmt::Formatter<'_>, matcher: &PathMatch, case_sensitive: bool) -> fmt::Result {
    match matcher {
        PathMatch::Exact(wanted) => write!(f, "path must be `{wanted}`")?,
        PathMatch::Prefix(wanted) => write!(f, "path must start with `{wanted}`")?,
        PathMatch::SeparatedPrefix(wanted) => write!(f, "path must be `{wanted}` or lie below it")?,
        PathMatch::Regex(wanted) => return write!(f, "path must match `{}`", wanted.as_str()),
    }
    either_case(f, !case_sensitive)
}

fn header(f: &mut fmt::Formatter<'_>, matcher: &HeaderMatcher) -> fmt::Result {
    match matcher.key() {
        HeaderKey::Name(name) => write!(f, "header `{name}`")?,
        HeaderKey::Method => f.write_str("method")?,
        HeaderKey::Path => f.write_str("path and query")?,
        HeaderKey::Authority => f.write_str("authority")?,
        HeaderKey::Scheme => f.write_str("scheme")?,
    }
    let must = if matcher.is_inverted() { "must not" } else { "must" };
    match matcher.test() {
        HeaderTest::Value(wanted) => string(f, must, wanted)?,
        HeaderTest::Range(wanted) => {
            write!(f, " {must} be a number of at least {} and less than {}", wanted.start, wanted.end)?;
        }
        HeaderTest::Present(true) => write!(f, " {must} be there")?,
        HeaderTest::Present(false) => write!(f, " {must} be absent")?,
    }
    f.write_str(if matcher.takes_missing_as_empty() { ", absent counting as empty" } else { "" })
}

fn query(f: &mut fmt::Formatter<'_>, matcher: &QueryMatcher) -> fmt::Result {
    write!(f, "query parameter `{}`", matcher.name())?;
    match matcher.test() {
        QueryTest::Value(wanted) => string(f, "must", wanted),
        QueryTest::Present(true) => f.write_str(" must be there"),
        QueryTest::Present(false) => f.write_str(" must be absent"),
    }
}

fn string(f: &mut fmt::Formatter<'_>, must: &str, matcher: &StringMatcher) -> fmt::Result {
    match matcher.pattern() {
        Pattern::Exact(wanted) => write!(f, " {must} be `{wanted}`")?,
        Pattern::Prefix(wanted) => write!(f, " {must} start with `{wanted}`")?,
        Pattern::Suffix(wanted) => write!(f, " {must} end with `{wanted}`")?,
        Pattern::Contains(wanted) => write!(f, " {must} hold `{wanted}`")?,
        Pattern::Regex(wanted) => write!(f, " {must} match `{}`", wanted.as_str())?,
    }
    either_case(f, matcher.ignores_case())
}

fn either_case(f: &mut fmt::Formatter<'_>, applies: bool) -> fmt::Result {
    f.write_str(if applies { " in either case" } else { "" })
}
