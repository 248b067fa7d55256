//! What happens to a request that a route took: forwarded, redirected or answered (`RouteAction`, `RedirectAction`,
//! `DirectResponseAction`).

use std::sync::Arc;

use http::{
    HeaderName, StatusCode,
    uri::{Authority, Scheme},
};

use super::{ConfigError, FaultInjection, HeaderMutations, PathMatch, Regex, RequestPriority, RoutePolicy};

/// What happens to a request that a route took.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It goes to a cluster.
    Forward(Forward),
    /// It is answered with a redirect.
    Redirect(Redirect),
    /// It is answered here.
    Respond(DirectResponse),
    /// It goes on to the application itself; meaningful inbound only (`non_forwarding_action`).
    PassOn,
    /// It fails, since the action is one that this mesh does not have; the text names it.
    Unsupported(Arc<str>),
}

/// How a request goes to a cluster (`RouteAction`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Forward {
    /// Which cluster.
    pub to: ClusterChoice,
    /// Time limits and retries.
    pub policy: RoutePolicy,
    /// Which of the cluster's circuit breakers counts the request.
    pub priority: RequestPriority,
    /// Another path.
    pub path_rewrite: Option<PathRewrite>,
    /// Another authority.
    pub host_rewrite: Option<HostRewrite>,
    /// The answer when the cluster does not exist (`cluster_not_found_response_code`; default 503).
    pub cluster_not_found: StatusCode,
}

/// Which cluster a request goes to.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterChoice {
    /// This one.
    One(Arc<str>),
    /// One of several, by weight.
    Weighted(WeightedClusters),
    /// The one that the request names in this header.
    Header(HeaderName),
}

/// Clusters and the shares of requests that they take.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedClusters {
    entries: Vec<WeightedCluster>,
    total: u32,
}

/// One of several clusters (`WeightedCluster.ClusterWeight`).
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedCluster {
    /// Its name.
    pub cluster: Arc<str>,
    /// Its share; zero takes nothing, and keeps the cluster known.
    pub weight: u32,
    /// Changes to requests that go there.
    pub request_headers: HeaderMutations,
    /// Changes to responses from there.
    pub response_headers: HeaderMutations,
    /// Replaces the fault filter's own configuration for requests that go there.
    pub faults: Option<Arc<FaultInjection>>,
}

/// A path that replaces the request's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// Replaces what the route matched, prefix or whole path.
    Prefix(Box<str>),
    /// Replaces every match in the path; `\0` to `\9` quote groups.
    Regex {
        /// What is replaced.
        pattern: Regex,
        /// By what.
        substitution: Box<str>,
    },
}

/// An authority that replaces the request's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRewrite {
    /// This one; see [`literal`](Self::literal).
    Literal(Authority),
    /// The first value of this header; none, no rewrite.
    Header(HeaderName),
    /// The hostname of the endpoint that is picked (`auto_host_rewrite`).
    Endpoint,
}

/// A redirect (`RedirectAction`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Another scheme.
    pub scheme: Option<Scheme>,
    /// Another host; [`HostRewrite::literal`] says which are legal.
    pub host: Option<Authority>,
    /// Another port.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<RedirectPath>,
    /// Leaves the query out.
    pub strip_query: bool,
}

/// The path of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// This one; its own query, if it has one, replaces the request's.
    Whole(Box<str>),
    /// The request's, rewritten.
    Rewrite(PathRewrite),
}

/// An answer made on the spot (`DirectResponseAction`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    status: StatusCode,
    body: bytes::Bytes,
}

// === impl Action ===

impl Action {
    /// The names of the clusters that it refers to, in order.
    pub fn clusters(&self) -> Vec<Arc<str>> {
        match self {
            Self::Forward(Forward { to: ClusterChoice::One(name), .. }) => vec![name.clone()],
            Self::Forward(Forward { to: ClusterChoice::Weighted(several), .. }) => {
                several.entries.iter().map(|entry| entry.cluster.clone()).collect()
            }
            _ => Vec::new(),
        }
    }
}

// === impl Forward ===

impl Forward {
    /// To a cluster, as it is.
    pub fn to(to: ClusterChoice) -> Self {
        Self {
            to,
            policy: RoutePolicy::default(),
            priority: RequestPriority::Default,
            path_rewrite: None,
            host_rewrite: None,
            cluster_not_found: StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

// === impl WeightedClusters ===

impl WeightedClusters {
    /// These clusters.
    ///
    /// # Errors
    ///
    /// Refuses an empty list, an empty name, and weights that add up to nothing or past 2^32-1.
    pub fn new(entries: Vec<WeightedCluster>) -> Result<Self, ConfigError> {
        if let Some(index) = entries.iter().position(|entry| entry.cluster.is_empty()) {
            return Err(ConfigError::new(format!("clusters[{index}].name"), "", "name the cluster"));
        }
        let sum = entries.iter().map(|entry| u64::from(entry.weight)).sum::<u64>();
        match u32::try_from(sum) {
            Ok(total) if total > 0 => Ok(Self { entries, total }),
            _ => Err(ConfigError::new("clusters.weight", sum, "let the weights add up to between 1 and 4294967295")),
        }
    }

    /// The clusters, in the order of their source.
    pub fn entries(&self) -> &[WeightedCluster] {
        &self.entries
    }

    /// The sum of the weights.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Index of the entry that a roll falls on: `roll % total` within the weights laid end to end (Envoy's rule).
    pub fn pick(&self, roll: u64) -> usize {
        let mut left = (roll % u64::from(self.total)) as u32;
        for (index, entry) in self.entries.iter().enumerate() {
            if left < entry.weight {
                return index;
            }
            left -= entry.weight;
        }
        unreachable!("the roll is below the sum of the weights")
    }
}

// === impl WeightedCluster ===

impl WeightedCluster {
    /// `weight` shares to `cluster`.
    pub fn new(cluster: impl Into<Arc<str>>, weight: u32) -> Self {
        Self {
            cluster: cluster.into(),
            weight,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            faults: None,
        }
    }
}

// === impl PathRewrite ===

impl PathRewrite {
    /// The path (and query) that replaces `path`, of which `matches` took a part.
    pub fn apply(&self, path: &str, matches: &PathMatch) -> String {
        let (path_only, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
        match self {
            Self::Prefix(prefix) => {
                let taken = match matches {
                    PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::SeparatedPrefix(text) => text.len(),
                    PathMatch::Regex(_) => path_only.len(),
                };
                format!("{prefix}{}{query}", path_only.get(taken..).unwrap_or_default())
            }
            Self::Regex { pattern, substitution } => {
                let quoted = rust_substitution(substitution);
                match pattern.unanchored().replace_all(path_only, quoted.as_str()) {
                    replaced if replaced.is_empty() => path.to_owned(),
                    replaced => format!("{replaced}{query}"),
                }
            }
        }
    }
}

/// RE2 quotes a group as `\1` and a backslash as `\\`; the regex crate as `${1}` and a dollar as `$$`.
fn rust_substitution(re2: &str) -> String {
    let mut out = String::with_capacity(re2.len());
    let mut characters = re2.chars();
    while let Some(character) = characters.next() {
        match character {
            '$' => out.push_str("$$"),
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => out.push_str(&format!("${{{digit}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

// === impl HostRewrite ===

impl HostRewrite {
    /// Replaces the authority by `text`: a host, or a host with a port.
    ///
    /// # Errors
    ///
    /// Refuses what no authority can be, such as a text with blanks, and user information.
    pub fn literal(text: &str) -> Result<Self, ConfigError> {
        authority("host_rewrite_literal", text).map(Self::Literal)
    }
}

fn authority(field: &'static str, text: &str) -> Result<Authority, ConfigError> {
    match text.parse::<Authority>() {
        Ok(authority) if !text.contains('@') => Ok(authority),
        _ => Err(ConfigError::new(field, text, "give a host, or host:port")),
    }
}

// === impl Redirect ===

impl Redirect {
    /// A redirect with `status` that changes nothing yet.
    ///
    /// # Errors
    ///
    /// Refuses a status other than 301, 302, 303, 307 and 308.
    pub fn new(status: StatusCode) -> Result<Self, ConfigError> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Err(ConfigError::new("redirect.response_code", status, "use 301, 302, 303, 307 or 308"));
        }
        Ok(Self { status, scheme: None, host: None, port: None, path: None, strip_query: false })
    }

    /// To another scheme, such as `https`.
    ///
    /// # Errors
    ///
    /// Refuses what no scheme can be.
    pub fn to_scheme(mut self, text: &str) -> Result<Self, ConfigError> {
        let refuse = |_| ConfigError::new("scheme_redirect", text, "give a scheme, such as https");
        self.scheme = Some(text.parse().map_err(refuse)?);
        Ok(self)
    }

    /// To another host, or host and port.
    ///
    /// # Errors
    ///
    /// As [`HostRewrite::literal`].
    pub fn to_host(mut self, text: &str) -> Result<Self, ConfigError> {
        self.host = Some(authority("host_redirect", text)?);
        Ok(self)
    }
}

// === impl DirectResponse ===

impl DirectResponse {
    /// Answers with `status` and `body`.
    ///
    /// # Errors
    ///
    /// Refuses a status outside 200 to 599.
    pub fn new(status: StatusCode, body: impl Into<bytes::Bytes>) -> Result<Self, ConfigError> {
        let body = body.into();
        if !(200..600).contains(&status.as_u16()) {
            return Err(ConfigError::new("direct_response.status", status, "use 200 to 599"));
        }
        Ok(Self { status, body })
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &bytes::Bytes {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roll_falls_on_the_entry_whose_interval_holds_it() {
        let weights = [30, 30, 40].map(|weight| WeightedCluster::new("c", weight)).to_vec();
        let clusters = WeightedClusters::new(weights).expect("they add up");
        assert_eq!([115, 445, 560].map(|roll| clusters.pick(roll)), [0, 1, 2]);
    }

    #[test]
    fn weights_that_add_up_to_nothing_or_too_much_are_refused() {
        let of = |weights: &[u32]| {
            WeightedClusters::new(weights.iter().map(|weight| WeightedCluster::new("c", *weight)).collect())
        };
        assert!(of(&[]).is_err() && of(&[0, 0]).is_err() && of(&[u32::MAX, 1]).is_err());
        assert!(of(&[0, 1]).is_ok());
    }

    #[test]
    fn hosts_and_schemes_that_no_request_could_name_are_refused() {
        let found = || Redirect::new(StatusCode::FOUND).expect("a redirect");
        for bad in ["", "bad host", "a\r\nset-cookie: b", "me@shop", "shop/x"] {
            assert_eq!(HostRewrite::literal(bad).expect_err(bad).field(), "host_rewrite_literal");
            assert_eq!(found().to_host(bad).expect_err(bad).field(), "host_redirect");
        }
        assert_eq!(found().to_scheme("a b").expect_err("a blank").field(), "scheme_redirect");
        assert!(HostRewrite::literal("shop:80").is_ok() && found().to_host("[::1]:80").is_ok());
    }

    #[test]
    fn prefix_rewrite_replaces_what_the_route_matched_and_keeps_the_query() {
        let rewrite = PathRewrite::Prefix("/new".into());
        assert_eq!(rewrite.apply("/old/a?b=/old", &PathMatch::prefix("/old")), "/new/a?b=/old");
        assert_eq!(rewrite.apply("/old?b", &PathMatch::exact("/old")), "/new?b");
    }

    #[test]
    fn regex_rewrite_quotes_groups_and_leaves_the_path_when_nothing_would_remain() {
        let rewrite = |pattern: &str, substitution: &str| PathRewrite::Regex {
            pattern: Regex::new(pattern).expect("legal"),
            substitution: substitution.into(),
        };
        let any = PathMatch::prefix("/");
        assert_eq!(rewrite("/v(\\d+)", r"/ver$\1").apply("/v1/v2?q=/v3", &any), "/ver$1/ver$2?q=/v3");
        assert_eq!(rewrite(".*", "").apply("/a?b", &any), "/a?b");
    }
}
