//! Routes: which requests go where (`envoy.config.route.v3`).

use std::{collections::HashSet, fmt, sync::Arc};

use super::{
    Action, ClusterChoice, ConfigError, FaultInjection, Forward, Fraction, HeaderMatcher, HeaderMutations,
    QueryMatcher, Regex, RoutePolicy,
};

mod checking;

pub use self::checking::Checking;

/// All routes of a target, by host (`RouteConfiguration`).
///
/// It shares its virtual hosts with the version before where they are the same ([`begin`](Self::begin)), so that whoever
/// makes something of them can tell by the `Arc` what need not be made again.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    name: Arc<str>,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Changes to requests of every route.
    pub request_headers: HeaderMutations,
    /// Changes to responses of every route.
    pub response_headers: HeaderMutations,
    /// Whether the mutations of the route win over those of its virtual host, and those over these
    /// (`most_specific_header_mutations_wins`). Default: the least specific win.
    pub most_specific_mutations_win: bool,
    /// Whether the port of the request's authority is left out when a virtual host is looked for.
    pub ignore_port: bool,
}

/// The routes of some hosts (`VirtualHost`).
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    name: Arc<str>,
    domains: Vec<Domain>,
    /// The routes; the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// What holds for every route that does not say otherwise.
    pub policy: RoutePolicy,
    /// Changes to requests of these routes.
    pub request_headers: HeaderMutations,
    /// Changes to responses of these routes.
    pub response_headers: HeaderMutations,
    /// Replaces the fault filter's own configuration for these routes.
    pub faults: Option<Arc<FaultInjection>>,
    /// Tells the backend which attempt it sees, counting from 1 (`include_request_attempt_count`).
    pub announce_attempt: bool,
}

/// The hosts of a virtual host; an exact name wins over a suffix, a suffix over a prefix, longer ones first, and any last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// This host, and port if it names one.
    Exact(Box<str>),
    /// What ends so, after at least one character more (`*.example.com`).
    Suffix(Box<str>),
    /// What starts so, before at least one character more (`example.*`).
    Prefix(Box<str>),
    /// Every host (`*`).
    Any,
}

/// One rule: which requests, and what happens to them (`Route`).
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// For people, logs and metrics; may be empty.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: RouteMatch,
    /// What happens to them.
    pub action: Action,
    /// Changes to the request.
    pub request_headers: HeaderMutations,
    /// Changes to the response.
    pub response_headers: HeaderMutations,
    /// Replaces the fault filter's own configuration for this route.
    pub faults: Option<Arc<FaultInjection>>,
}

/// Which requests a route takes: all conditions must hold (`RouteMatch`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RouteMatch {
    /// The path, without query and fragment.
    pub path: PathMatch,
    /// Whether letters of either case differ in the path; regular expressions decide for themselves.
    pub case_sensitive: bool,
    /// The headers and pseudo-headers; the method is `:method`.
    pub headers: Vec<HeaderMatcher>,
    /// The query parameters.
    pub query: Vec<QueryMatcher>,
    /// A share of requests, drawn at random.
    pub fraction: Option<Fraction>,
    /// Only gRPC requests, by their content type.
    pub grpc: bool,
}

/// The path that a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(Box<str>),
    /// What starts so; empty and `/` take every path.
    Prefix(Box<str>),
    /// This path, or what follows it after a `/`.
    SeparatedPrefix(Box<str>),
    /// What the expression describes as a whole.
    Regex(Regex),
}

// === impl RouteConfig ===

impl RouteConfig {
    /// The routes of `virtual_hosts`.
    ///
    /// # Errors
    ///
    /// Refuses a domain that stands twice, whichever hosts it stands in, and a virtual host's name that does.
    pub fn new(name: impl Into<Arc<str>>, virtual_hosts: Vec<VirtualHost>) -> Result<Self, ConfigError> {
        let mut checking = Self::begin(name, virtual_hosts.into_iter().map(Arc::new).collect(), None);
        while !checking.advance(usize::MAX)? {}
        Ok(checking.finish())
    }

    /// Begins to check `virtual_hosts` against each other, for whoever has more of them than should be checked in one go.
    ///
    /// Where `former` has all of them, or others of the same names and domains, in this order, they are compared with it, one
    /// by one, and nothing else has to be looked at.
    pub fn begin(
        name: impl Into<Arc<str>>,
        virtual_hosts: Vec<Arc<VirtualHost>>,
        former: Option<Arc<Self>>,
    ) -> Checking {
        Checking::new(name.into(), virtual_hosts, former)
    }

    /// Every request of every host to one cluster.
    pub fn to_cluster(name: impl Into<Arc<str>>, cluster: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        let forward = Forward::to(ClusterChoice::One(cluster.into()));
        let host = VirtualHost::any(name.clone(), vec![Route::new(RouteMatch::any(), Action::Forward(forward))]);
        Self::new(name, vec![host]).expect("one virtual host repeats nothing")
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The virtual hosts, in the order of their source.
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    pub(super) fn take_apart(self: Arc<Self>) -> impl Iterator<Item = Arc<VirtualHost>> + Send {
        Arc::into_inner(self).into_iter().flat_map(|routes| routes.virtual_hosts)
    }

    /// The names of all clusters that routes refer to, each once, in order of appearance.
    pub fn clusters(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.flat_map(|route| route.action.clusters()).filter(|name| seen.insert(name.clone())).collect()
    }
}

impl PartialEq for RouteConfig {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, virtual_hosts, request_headers, response_headers, most_specific_mutations_win, ignore_port } =
            self;
        // One that both share need not be looked at.
        let is_same = |(a, b): (&Arc<VirtualHost>, &Arc<VirtualHost>)| Arc::ptr_eq(a, b) || a == b;
        *name == other.name
            && *request_headers == other.request_headers
            && *response_headers == other.response_headers
            && *most_specific_mutations_win == other.most_specific_mutations_win
            && *ignore_port == other.ignore_port
            && virtual_hosts.len() == other.virtual_hosts.len()
            && virtual_hosts.iter().zip(&other.virtual_hosts).all(is_same)
    }
}

// === impl VirtualHost ===

impl VirtualHost {
    /// The routes of `domains`.
    ///
    /// # Errors
    ///
    /// Refuses an empty list of domains.
    pub fn new(name: impl Into<Arc<str>>, domains: Vec<Domain>, routes: Vec<Arc<Route>>) -> Result<Self, ConfigError> {
        if domains.is_empty() {
            return Err(ConfigError::new("domains", "[]", "list at least one domain; `*` is every host"));
        }
        Ok(Self {
            name: name.into(),
            domains,
            routes,
            policy: RoutePolicy::default(),
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            faults: None,
            announce_attempt: false,
        })
    }

    /// The routes of every host.
    pub fn any(name: impl Into<Arc<str>>, routes: Vec<Route>) -> Self {
        let routes = routes.into_iter().map(Arc::new).collect();
        Self::new(name, vec![Domain::Any], routes).expect("one domain is listed")
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The hosts.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn claims_the_same_as(&self, other: &Self) -> bool {
        self.name == other.name && self.domains == other.domains
    }
}

// === impl Domain ===

impl Domain {
    /// Reads a domain as Envoy writes it; letters are taken in lower case.
    ///
    /// # Errors
    ///
    /// Refuses an empty text and a `*` anywhere but at one end.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let refuse = |remedy: &'static str| Err(ConfigError::new("domains", text, remedy));
        let lower = text.to_ascii_lowercase();
        if lower.is_empty() {
            return refuse("give a host, `*.suffix`, `prefix.*` or `*`");
        }
        if lower == "*" {
            return Ok(Self::Any);
        }
        let domain = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            (Some(suffix), None) => Self::Suffix(suffix.into()),
            (None, Some(prefix)) => Self::Prefix(prefix.into()),
            (None, None) => Self::Exact(lower.as_str().into()),
            (Some(_), Some(_)) => return refuse("put one `*`, at one end"),
        };
        if domain.text().contains('*') {
            return refuse("put one `*`, at one end");
        }
        Ok(domain)
    }

    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Suffix(text) | Self::Prefix(text) => text,
            Self::Any => "",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

// === impl Route ===

impl Route {
    /// Does `action` to what `matches`.
    pub fn new(matches: RouteMatch, action: Action) -> Self {
        Self {
            name: Arc::default(),
            matches,
            action,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            faults: None,
        }
    }

    /// The same, named.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Every request.
    pub fn any() -> Self {
        Self::path(PathMatch::Prefix("/".into()))
    }

    /// Requests of this path.
    pub fn path(path: PathMatch) -> Self {
        Self { path, case_sensitive: true, headers: Vec::new(), query: Vec::new(), fraction: None, grpc: false }
    }

    /// Only if this header matcher passes too.
    #[must_use]
    pub fn header(mut self, matcher: HeaderMatcher) -> Self {
        self.headers.push(matcher);
        self
    }

    /// Only if this query matcher passes too.
    #[must_use]
    pub fn query(mut self, matcher: QueryMatcher) -> Self {
        self.query.push(matcher);
        self
    }

    /// Only this share of requests.
    #[must_use]
    pub fn fraction(mut self, fraction: Fraction) -> Self {
        self.fraction = Some(fraction);
        self
    }
}

// === impl PathMatch ===

impl PathMatch {
    /// The path `text` itself.
    pub fn exact(text: &str) -> Self {
        Self::Exact(text.into())
    }

    /// Paths that start with `text`.
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(text.into())
    }

    /// The path `text` and what lies below it.
    ///
    /// # Errors
    ///
    /// Refuses a text that ends in `/`, holds `?` or `#`, or does not start with `/`.
    pub fn separated_prefix(text: &str) -> Result<Self, ConfigError> {
        if !text.starts_with('/') || text.ends_with('/') || text.contains(['?', '#']) {
            return Err(ConfigError::new(
                "path_separated_prefix",
                text,
                "give a path such as /a/b, without a / at its end",
            ));
        }
        Ok(Self::SeparatedPrefix(text.into()))
    }

    /// Paths that `regex` describes as a whole.
    ///
    /// # Errors
    ///
    /// As [`Regex::new`].
    pub fn regex(regex: &str) -> Result<Self, ConfigError> {
        Regex::new(regex).map(Self::Regex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_is_legal_at_one_end_only() {
        assert_eq!(Domain::parse("*.A.com").expect("legal"), Domain::Suffix(".a.com".into()));
        assert_eq!(Domain::parse("a.*").expect("legal"), Domain::Prefix("a.".into()));
        for bad in ["", "**", "*a*", "a*b", "*a*b"] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }
}
