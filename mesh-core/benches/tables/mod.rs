//! The route tables and requests that the route benches share.

use std::{iter, sync::Arc};

use http::{HeaderMap, HeaderName, Method, Uri};
use mesh_core::{
    Dice, RequestHead,
    config::{Action, Domain, HeaderMatcher, PathMatch, Route, RouteConfig, RouteMatch, StringMatcher, VirtualHost},
    route::RouteTable,
};

pub(crate) type Table = RouteTable<Arc<Route>>;

/// A request to route, in the parts that its head borrows from.
pub(crate) struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Request {
    pub(crate) fn get(uri: &str) -> Self {
        Self { method: Method::GET, uri: uri.parse().expect("a legal target"), headers: HeaderMap::new() }
    }

    pub(crate) fn head(&self) -> RequestHead<'_> {
        RequestHead::from_parts(&self.method, &self.uri, &self.headers)
    }
}

fn compile(hosts: Vec<VirtualHost>) -> Table {
    let config = RouteConfig::new("bench", hosts).expect("no domain stands twice");
    RouteTable::compile(&config, |_, route| route.clone())
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).expect("a legal domain")
}

fn everything() -> Arc<Route> {
    Arc::new(Route::new(RouteMatch::any(), Action::PassOn))
}

/// `count` services as Istio writes them, each by its names with and without port; wildcards of six lengths; and `*`.
pub(crate) fn many_hosts(count: usize) -> Table {
    let service = |n: usize| {
        let domains = [service_name(n), format!("{}:8080", service_name(n)), format!("svc-{n}.shop")];
        let domains = domains.iter().map(|name| domain(name)).collect();
        VirtualHost::new(service_name(n), domains, vec![everything()]).expect("it has domains")
    };
    let wildcards = ["*.example.com", "*.eu.example.com", "*.a.eu.example.com", "static.*", "cdn.eu.*", "img.*"];
    let wildcard = |text: &&str| VirtualHost::new(*text, vec![domain(text)], vec![everything()]).expect("it has one");
    let any = VirtualHost::any("any", vec![Route::new(RouteMatch::any(), Action::PassOn)]);
    compile((0..count).map(service).chain(wildcards.iter().map(wildcard)).chain(iter::once(any)).collect())
}

fn service_name(n: usize) -> String {
    format!("svc-{n}.shop.svc.cluster.local")
}

/// A request to every service of [`many_hosts`], shuffled, so that the next one is seldom in a cache near the last.
pub(crate) fn to_each_host(count: usize) -> Vec<Request> {
    let request = |n| Request::get(&format!("http://{}:8080/reviews/7?full=1", service_name(n)));
    let mut requests: Vec<_> = (0..count).map(request).collect();
    let mut dice = Dice::new(count as u64);
    for last in (1..requests.len()).rev() {
        requests.swap(last, dice.below(last as u32 + 1) as usize);
    }
    requests
}

/// One host with `count` routes: prefixes for the most part, among them exact paths, expressions and two of a
/// kind that differ by a header; the last takes everything.
pub(crate) fn many_routes(count: usize) -> Table {
    let version = HeaderMatcher::value(HeaderName::from_static("x-version"), StringMatcher::exact("next"));
    let rule = |n: usize| match n % 10 {
        _ if n + 1 == count => RouteMatch::any(),
        3 => RouteMatch::path(PathMatch::exact(&format!("/api/v1/kind-{n}/list"))),
        6 => RouteMatch::path(PathMatch::regex(&format!("/api/v1/kind-{n}/[0-9]+")).expect("a legal expression")),
        // Stands before the rule of the same path that asks for nothing.
        8 => RouteMatch::path(PathMatch::prefix(&format!("/api/v1/kind-{}/", n + 1))).header(version.clone()),
        _ => RouteMatch::path(PathMatch::prefix(&format!("/api/v1/kind-{n}/"))),
    };
    compile(vec![VirtualHost::any("one", (0..count).map(|n| Route::new(rule(n), Action::PassOn)).collect())])
}

/// A request that the last route but one of [`many_routes`] takes, as one is hardest to find by a scan.
pub(crate) fn to_a_late_route(count: usize) -> Request {
    Request::get(&format!("http://shop/api/v1/kind-{}/7?full=1", count.saturating_sub(2)))
}
