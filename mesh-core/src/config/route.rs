//! Routes: which requests go where (`envoy.config.route.v3`).

use std::{
    collections::{HashSet, hash_set},
    fmt,
    hash::{Hash, Hasher},
    mem,
    sync::Arc,
};

use super::{
    Action, ClusterChoice, ConfigError, FaultInjection, Forward, Fraction, HeaderMatcher, HeaderMutations,
    QueryMatcher, Regex, RoutePolicy,
};
use crate::former::Former;

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

/// A [`RouteConfig`] whose virtual hosts are being checked against each other, for those who have other things to do in
/// between.
#[derive(Debug)]
#[must_use = "a configuration is there when it is finished"]
pub struct Checking {
    name: Arc<str>,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    /// How many of them are checked.
    checked: usize,
    /// The version before, as long as it has all that was looked at: what was checked there need not be again.
    former: Option<(Arc<RouteConfig>, Former)>,
    names: HashSet<Arc<str>>,
    claims: HashSet<Claim>,
    /// The same, on their way out when nothing is left to check.
    spent: Option<(hash_set::IntoIter<Arc<str>>, hash_set::IntoIter<Claim>)>,
}

/// A domain of a virtual host, by its place there.
#[derive(Debug)]
struct Claim {
    host: Arc<VirtualHost>,
    place: usize,
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

/// How many names and domains are let go of in a step.
const DROPPED: usize = 8;

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
        let mut checking = Checking {
            name: name.into(),
            virtual_hosts,
            checked: 0,
            former: former.map(|former| (former, Former::default())),
            names: HashSet::new(),
            claims: HashSet::new(),
            spent: None,
        };
        if checking.former.is_none() {
            checking.make_room();
        }
        checking
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

// === impl Checking ===

impl Checking {
    /// Checks so many virtual hosts more. Returns whether that was the last of them.
    ///
    /// # Errors
    ///
    /// As [`RouteConfig::new`].
    pub fn advance(&mut self, most: usize) -> Result<bool, ConfigError> {
        for _ in 0..most {
            let Some(host) = self.virtual_hosts.get(self.checked) else {
                if self.let_go_of_some() {
                    continue;
                }
                return Ok(true);
            };
            let Some((former, way)) = &mut self.former else {
                self.compare()?;
                self.checked += 1;
                continue;
            };
            let former = &former.virtual_hosts;
            let has_place = |at: usize| Arc::ptr_eq(&former[at], host) || former[at].claims_the_same_as(host);
            if way.find(former.len(), has_place).is_some() {
                self.checked += 1;
            } else {
                // This one may claim what any other does, so all have to be looked at.
                (self.former, self.checked) = (None, 0);
                self.make_room();
            }
        }
        Ok(false)
    }

    /// The configuration, which says nothing yet but its virtual hosts.
    ///
    /// # Panics
    ///
    /// When [`advance`](Self::advance) has not told that there is none left.
    pub fn finish(self) -> RouteConfig {
        assert_eq!(self.checked, self.virtual_hosts.len(), "it is finished when `advance` has returned true");
        RouteConfig {
            name: self.name,
            virtual_hosts: self.virtual_hosts,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            most_specific_mutations_win: false,
            ignore_port: false,
        }
    }

    /// Drops what some virtual hosts were compared by, which costs as much as to compare one. Returns whether there were any.
    fn let_go_of_some(&mut self) -> bool {
        let Self { names, claims, spent, .. } = self;
        let (names, claims) =
            spent.get_or_insert_with(|| (mem::take(names).into_iter(), mem::take(claims).into_iter()));
        names.by_ref().take(DROPPED).count() + claims.by_ref().take(DROPPED).count() > 0
    }

    /// All of it at once: a set that grows is made anew each time.
    fn make_room(&mut self) {
        self.names.reserve(self.virtual_hosts.len());
        self.claims.reserve(self.virtual_hosts.iter().map(|host| host.domains.len()).sum());
    }

    /// Compares the next virtual host with those before it.
    fn compare(&mut self) -> Result<(), ConfigError> {
        let (index, host) = (self.checked, &self.virtual_hosts[self.checked]);
        let field = |name: &str| format!("virtual_hosts[{index}].{name}");
        if !self.names.insert(host.name.clone()) {
            return Err(ConfigError::new(field("name"), &host.name, "name each virtual host once"));
        }
        for (place, domain) in host.domains.iter().enumerate() {
            if !self.claims.insert(Claim { host: host.clone(), place }) {
                return Err(ConfigError::new(field("domains"), domain, "list a domain in one virtual host only"));
            }
        }
        Ok(())
    }
}

// === impl Claim ===

impl Claim {
    fn domain(&self) -> &Domain {
        &self.host.domains[self.place]
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.domain() == other.domain()
    }
}

impl Eq for Claim {}

impl Hash for Claim {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.domain().hash(state);
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

    #[test]
    fn domain_in_two_virtual_hosts_is_refused() {
        let host = |name: &str| VirtualHost::any(name, vec![]);
        let error = RouteConfig::new("r", vec![host("a"), host("b")]).expect_err("`*` twice");
        assert_eq!((error.field(), error.value()), ("virtual_hosts[1].domains", "*"));
    }

    /// Reads the letters as virtual hosts of these names and of one domain each, in capitals of two.
    fn hosts(letters: &str) -> Vec<Arc<VirtualHost>> {
        let domains = |letter: char| {
            let names =
                if letter.is_uppercase() { vec![letter.to_string(), "x".to_owned()] } else { vec![letter.into()] };
            names.iter().map(|name| Domain::parse(name).expect("legal")).collect()
        };
        letters
            .chars()
            .map(|letter| VirtualHost::new(letter.to_string(), domains(letter), vec![]).expect("legal").into())
            .collect()
    }

    #[test]
    fn what_hosts_were_compared_by_is_let_go_of_step_by_step() {
        let letters: String = ('a'..='t').collect();
        let mut checking = RouteConfig::begin("r", hosts(&letters), None);
        let steps = std::iter::repeat_with(|| checking.advance(1).expect("legal")).take_while(|is_done| !is_done);
        assert_eq!(steps.count(), 20 + 3, "each is checked, and then all are dropped in steps of eight");
        assert!(checking.names.is_empty() && checking.claims.is_empty());
    }

    #[test]
    fn what_is_checked_after_another_version_is_what_is_checked_alone() {
        let versions = ["", "abc", "abcd", "bd", "dbca", "abb", "abBd", "aBCd", "xbA", "Ab", "cx"];
        let step_by_step = |letters: &str, former| {
            let mut checking = RouteConfig::begin("r", hosts(letters), former);
            while !checking.advance(1)? {}
            Ok::<_, ConfigError>(checking.finish())
        };
        for (before, now) in versions.iter().flat_map(|before| versions.map(|now| (before, now))) {
            let Ok(former) = step_by_step(before, None) else { continue };
            let alone = step_by_step(now, None);
            assert_eq!(step_by_step(now, Some(Arc::new(former))), alone, "{now} after {before}");
        }
        assert!(step_by_step("abBd", None).is_err() && step_by_step("aBCd", None).is_err());
    }
}
