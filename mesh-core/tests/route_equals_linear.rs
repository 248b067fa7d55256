//! The compiled route table gives the answer of a scan over all virtual hosts and routes, for any table and any request.
//!
//! The scan below is written from the rules and shares no code with the crate: tables are generated as a model of their
//! own, which is handed to the crate as configuration and to the scan as it is. Alphabets are tiny, so that domains,
//! prefixes and conditions overlap in nearly every case.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh_core::{
    RequestHead,
    config::{
        Action, Domain, Fraction, HeaderKey, HeaderMatcher, HeaderTest, PathMatch, QueryMatcher, QueryTest, Route,
        RouteConfig, RouteMatch, StringMatcher, VirtualHost,
    },
    route::{Explanation, NoRoute, Refusal, RouteTable},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

// What is generated.

#[derive(Clone, Debug)]
struct Table {
    hosts: Vec<Host>,
    ignore_port: bool,
}

#[derive(Clone, Debug)]
struct Host {
    domains: Vec<String>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    path: Path,
    case_sensitive: bool,
    header: Option<Header>,
    query: Option<Query>,
    method: Option<Method>,
    percent: Option<u32>,
    grpc: bool,
}

#[derive(Clone, Debug)]
enum Path {
    Exact(String),
    Prefix(String),
    Separated(String),
    /// Which of [`EXPRESSIONS`].
    Regex(usize),
}

#[derive(Clone, Debug)]
struct Header {
    test: Test,
    invert: bool,
    missing_as_empty: bool,
}

#[derive(Clone, Debug)]
enum Test {
    Text(Text),
    Range(i64, i64),
    Present(bool),
}

#[derive(Clone, Debug)]
struct Text {
    how: How,
    wanted: String,
    ignore_case: bool,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Exact,
    Prefix,
    Suffix,
    Contains,
}

#[derive(Clone, Debug)]
enum Query {
    Text(Text),
    Present(bool),
}

#[derive(Clone, Debug)]
struct Request {
    method: Method,
    authority: String,
    path: String,
    query: Option<String>,
    header: Vec<String>,
    content_type: Option<&'static str>,
    roll: u64,
}

/// Expressions and, by hand, what each describes.
type Expression = (&'static str, fn(&str) -> bool);

const EXPRESSIONS: &[Expression] = &[
    ("/a.*", |path| path.starts_with("/a")),
    ("^/b$", |path| path == "/b"),
    (".*b", |path| path.ends_with('b')),
    ("/a|/b", |path| path == "/a" || path == "/b"),
    ("(?i)/a+", |path| path.len() > 1 && path.starts_with('/') && path[1..].chars().all(|c| "aA".contains(c))),
    ("/ab?", |path| path == "/a" || path == "/ab"),
    ("/a{0,1}/b*", |path| {
        ["/", "/a"].iter().any(|start| {
            path.strip_prefix(start)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| rest.chars().all(|c| c == 'b'))
        })
    }),
    ("/[aA]/?", |path| ["/a", "/A", "/a/", "/A/"].contains(&path)),
];

// How it is generated.

fn table() -> impl Strategy<Value = Table> {
    let hosts = prop_oneof![vec(host(0..6), 0..8), vec(host(0..60), 1..2)];
    (hosts, prop::bool::weighted(0.3)).prop_map(|(mut hosts, ignore_port)| {
        let mut seen = Vec::new();
        for host in &mut hosts {
            host.domains.retain(|domain| {
                let domain = domain.to_lowercase();
                let is_new = !seen.contains(&domain);
                seen.push(domain);
                is_new
            });
        }
        hosts.retain(|host| !host.domains.is_empty());
        Table { hosts, ignore_port }
    })
}

fn host(rules: std::ops::Range<usize>) -> impl Strategy<Value = Host> {
    let domain = prop_oneof![
        4 => "[abA.]{1,4}",
        1 => "[ab]{1,2}:[12]",
        4 => "\\*[ab.]{1,3}",
        4 => "[abB.]{1,3}\\*",
        2 => Just("*".to_owned()),
    ];
    (vec(domain, 1..4), vec(rule(), rules)).prop_map(|(domains, rules)| Host { domains, rules })
}

fn rule() -> impl Strategy<Value = Rule> {
    let path = prop_oneof![
        3 => "/[abA/]{0,3}".prop_map(Path::Exact),
        3 => "/[abA/]{0,3}".prop_map(Path::Prefix),
        1 => select(vec!["", "/"]).prop_map(|prefix| Path::Prefix(prefix.to_owned())),
        2 => "/[abA/]{0,2}[abA]".prop_map(Path::Separated),
        2 => (0..EXPRESSIONS.len()).prop_map(Path::Regex),
    ];
    (
        path,
        any::<bool>(),
        option::weighted(0.25, header()),
        option::weighted(0.2, query()),
        option::weighted(0.2, method()),
        option::weighted(0.2, 0..=100_u32),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(path, case_sensitive, header, query, method, percent, grpc)| Rule {
            path,
            case_sensitive,
            header,
            query,
            method,
            percent,
            grpc,
        })
}

fn header() -> impl Strategy<Value = Header> {
    let test = prop_oneof![
        3 => text().prop_map(Test::Text),
        1 => (-2..3_i64, 0..4_i64).prop_map(|(start, length)| Test::Range(start, start + length)),
        1 => any::<bool>().prop_map(Test::Present),
    ];
    (test, any::<bool>(), any::<bool>()).prop_map(|(test, invert, missing_as_empty)| Header {
        test,
        invert,
        missing_as_empty,
    })
}

fn text() -> impl Strategy<Value = Text> {
    let how = select(vec![How::Exact, How::Prefix, How::Suffix, How::Contains]);
    (how, "[abA,]{1,2}", any::<bool>()).prop_map(|(how, wanted, ignore_case)| Text { how, wanted, ignore_case })
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![text().prop_map(Query::Text), any::<bool>().prop_map(Query::Present)]
}

fn method() -> impl Strategy<Value = Method> {
    select(vec![Method::GET, Method::POST])
}

fn request() -> impl Strategy<Value = Request> {
    let authority = prop_oneof![8 => "[abAB.]{1,5}", 2 => "[ab]{1,2}:[12]", 1 => Just(String::new())];
    let path = prop_oneof![12 => "/[abA/]{0,5}", 1 => Just("*".to_owned()), 1 => Just(String::new())];
    let value = prop_oneof![3 => "[abA]{0,3}", 1 => "-?[0-3]", 1 => Just("1x".to_owned())];
    (
        method(),
        authority,
        path,
        option::of("(k=[abA]{0,2}|j=a|k)(&k=[ab]|&j){0,2}"),
        vec(value, 0..3),
        option::of(select(vec!["application/grpc", "application/grpc+proto", "application/grpcx", "text/plain"])),
        any::<u64>(),
    )
        .prop_map(|(method, authority, path, query, header, content_type, roll)| Request {
            method,
            authority,
            path,
            query,
            header,
            content_type,
            roll,
        })
}

// The scan.

/// Numbers of the virtual host and of the route in it.
fn scan(table: &Table, request: &Request) -> Result<(usize, usize), NoRoute> {
    let mut best: Option<((u8, usize), usize)> = None;
    let authority = request.authority.to_lowercase();
    let authority = match authority.rfind(':') {
        Some(colon) if table.ignore_port => &authority[..colon],
        _ => &authority[..],
    };
    for (number, host) in table.hosts.iter().enumerate() {
        for domain in &host.domains {
            if let Some(rank) = rank(&domain.to_lowercase(), authority) {
                best = best.max(Some((rank, number)));
            }
        }
    }
    let (_, host) = best.ok_or(NoRoute::VirtualHost)?;
    let route = table.hosts[host].rules.iter().position(|rule| rule_takes(rule, request)).ok_or(NoRoute::Route)?;
    Ok((host, route))
}

/// How well a domain fits: its kind, then its length.
fn rank(domain: &str, authority: &str) -> Option<(u8, usize)> {
    if domain == "*" {
        return Some((0, 0));
    }
    let longer = authority.len() >= domain.len();
    if let Some(suffix) = domain.strip_prefix('*') {
        return (longer && authority.ends_with(suffix)).then_some((2, domain.len()));
    }
    if let Some(prefix) = domain.strip_suffix('*') {
        return (longer && authority.starts_with(prefix)).then_some((1, domain.len()));
    }
    (domain == authority).then_some((3, domain.len()))
}

fn rule_takes(rule: &Rule, request: &Request) -> bool {
    path_fits(rule, &request.path)
        && rule.header.as_ref().is_none_or(|header| header_fits(header, &request.header))
        && rule.query.as_ref().is_none_or(|query| query_fits(query, request.query.as_deref()))
        && rule.method.as_ref().is_none_or(|method| *method == request.method)
        && rule.percent.is_none_or(|percent| request.roll % 100 < u64::from(percent))
        && (!rule.grpc || matches!(request.content_type, Some("application/grpc" | "application/grpc+proto")))
}

fn path_fits(rule: &Rule, path: &str) -> bool {
    let fold = |text: &str| if rule.case_sensitive { text.to_owned() } else { text.to_lowercase() };
    match &rule.path {
        _ if path.is_empty() => false,
        Path::Exact(wanted) => fold(wanted) == fold(path),
        Path::Prefix(wanted) => ["", "/"].contains(&wanted.as_str()) || fold(path).starts_with(&fold(wanted)),
        Path::Separated(wanted) => fold(path) == fold(wanted) || fold(path).starts_with(&format!("{}/", fold(wanted))),
        Path::Regex(which) => EXPRESSIONS[*which].1(path),
    }
}

fn header_fits(header: &Header, values: &[String]) -> bool {
    let joined = values.join(",");
    if values.is_empty() && !header.missing_as_empty {
        // Absent: only a test of presence has an answer.
        return matches!(header.test, Test::Present(wanted) if wanted == header.invert);
    }
    let passes = match &header.test {
        Test::Text(text) => text_fits(text, &joined),
        Test::Range(start, end) => joined.parse::<i64>().is_ok_and(|number| *start <= number && number < *end),
        Test::Present(wanted) => *wanted,
    };
    passes ^ header.invert
}

fn text_fits(text: &Text, value: &str) -> bool {
    let (wanted, value) = match text.ignore_case {
        true => (text.wanted.to_lowercase(), value.to_lowercase()),
        false => (text.wanted.clone(), value.to_owned()),
    };
    match text.how {
        How::Exact => value == wanted,
        How::Prefix => value.starts_with(&wanted),
        How::Suffix => value.ends_with(&wanted),
        How::Contains => value.contains(&wanted),
    }
}

/// About the first parameter named `k`.
fn query_fits(query: &Query, text: Option<&str>) -> bool {
    let mut pairs = text.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.find(|(name, _)| *name == "k").map(|(_, value)| value);
    match query {
        Query::Text(text) => value.is_some_and(|value| text_fits(text, value)),
        Query::Present(wanted) => value.is_some() == *wanted,
    }
}

// The model as the crate's configuration.

const HEADER: HeaderName = HeaderName::from_static("x-h");

fn config(table: &Table) -> RouteConfig {
    let hosts = table.hosts.iter().enumerate().map(|(number, host)| {
        let domains = host.domains.iter().map(|domain| Domain::parse(domain).expect("generated legal")).collect();
        let named = |(index, rule)| Arc::new(route(rule).named(format!("{number}/{index}")));
        let routes = host.rules.iter().enumerate().map(named).collect();
        VirtualHost::new(number.to_string(), domains, routes).expect("it has domains")
    });
    let mut config = RouteConfig::new("generated", hosts.collect()).expect("no domain stands twice");
    config.ignore_port = table.ignore_port;
    config
}

fn route(rule: &Rule) -> Route {
    // Compiling an expression takes longer than all the rest of a case.
    static COMPILED: LazyLock<Vec<PathMatch>> =
        LazyLock::new(|| EXPRESSIONS.iter().map(|(text, _)| PathMatch::regex(text).expect("legal")).collect());
    let mut matches = RouteMatch::path(match &rule.path {
        Path::Exact(text) => PathMatch::exact(text),
        Path::Prefix(text) => PathMatch::prefix(text),
        Path::Separated(text) => PathMatch::separated_prefix(text).expect("generated legal"),
        Path::Regex(which) => COMPILED[*which].clone(),
    });
    matches.case_sensitive = rule.case_sensitive;
    matches.grpc = rule.grpc;
    matches.fraction = rule.percent.map(|percent| Fraction::new(percent, 100).expect("a legal denominator"));
    matches.headers.extend(rule.method.as_ref().map(HeaderMatcher::method));
    matches.headers.extend(rule.header.as_ref().map(header_matcher));
    matches.query.extend(rule.query.as_ref().map(query_matcher));
    Route::new(matches, Action::PassOn)
}

fn header_matcher(header: &Header) -> HeaderMatcher {
    let test = match &header.test {
        Test::Text(text) => HeaderTest::Value(string_matcher(text)),
        Test::Range(start, end) => HeaderTest::Range(*start..*end),
        Test::Present(wanted) => HeaderTest::Present(*wanted),
    };
    let mut matcher = HeaderMatcher::new(HeaderKey::Name(HEADER), test);
    if header.invert {
        matcher = matcher.invert();
    }
    if header.missing_as_empty {
        matcher = matcher.missing_as_empty();
    }
    matcher
}

fn query_matcher(query: &Query) -> QueryMatcher {
    let test = match query {
        Query::Text(text) => QueryTest::Value(string_matcher(text)),
        Query::Present(wanted) => QueryTest::Present(*wanted),
    };
    QueryMatcher::new("k", test).expect("named")
}

fn string_matcher(text: &Text) -> StringMatcher {
    let wanted = text.wanted.as_str();
    let matcher = match text.how {
        How::Exact => Ok(StringMatcher::exact(wanted)),
        How::Prefix => StringMatcher::prefix(wanted),
        How::Suffix => StringMatcher::suffix(wanted),
        How::Contains => StringMatcher::contains(wanted),
    };
    match text.ignore_case {
        true => matcher.and_then(StringMatcher::ignore_case).expect("not a regular expression"),
        false => matcher.expect("not empty"),
    }
}

/// The parts that a head borrows from.
fn parts(request: &Request) -> (Uri, HeaderMap) {
    let query = request.query.as_ref().filter(|_| request.path.starts_with('/'));
    let target = match (request.path.as_str(), query) {
        // A target without path, as that of CONNECT.
        ("", _) => "a:1".to_owned(),
        (path, Some(query)) => format!("{path}?{query}"),
        (path, None) => path.to_owned(),
    };
    let mut headers = HeaderMap::new();
    for value in &request.header {
        headers.append(HEADER, HeaderValue::from_str(value).expect("visible"));
    }
    if let Some(content_type) = request.content_type {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    (target.parse().expect("a legal target"), headers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn table_routes_as_a_scan_does_and_explains_it(table in table(), requests in vec(request(), 8)) {
        let compiled = RouteTable::compile(&config(&table), |_, route| route.name.clone());
        for mut request in requests {
            // `*` has no query.
            request.query = request.query.filter(|_| request.path.starts_with('/'));
            let (uri, headers) = parts(&request);
            let head =
                RequestHead { method: &request.method, uri: &uri, authority: &request.authority, headers: &headers };

            let expected = scan(&table, &request);
            let selected = compiled.select(&head, request.roll);
            let name = expected.map(|(host, route)| format!("{host}/{route}"));
            prop_assert_eq!(selected.map(|name| name.to_string()), name, "{:?}", request);

            let explanation = compiled.explain(&head, request.roll);
            prop_assert_eq!(explanation.outcome(), expected.map(|(_, route)| route));
            prop_assert_eq!(explanation.virtual_host().is_none(), expected == Err(NoRoute::VirtualHost));
            let tried = explanation.tried();
            let refused = tried.iter().take_while(|tried| tried.refusal.is_some()).count();
            match expected {
                Ok((_, route)) => prop_assert_eq!((refused, tried.len()), (route, route + 1)),
                Err(_) => prop_assert_eq!(refused, tried.len()),
            }
            for (tried, rule) in tried.iter().zip(rules(&table, &explanation)) {
                prop_assert_eq!(tried.refusal == Some(Refusal::Path), !path_fits(rule, &request.path));
            }
        }
    }
}

/// The generated rules of the virtual host that an explanation is about.
fn rules<'a>(table: &'a Table, explanation: &Explanation) -> &'a [Rule] {
    match explanation.virtual_host() {
        Some(name) => &table.hosts[name.parse::<usize>().expect("hosts are named by number")].rules,
        None => &[],
    }
}
