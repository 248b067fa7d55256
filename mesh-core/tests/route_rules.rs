//! Which route a request takes, rule by rule, as Envoy documents and implements them.

use std::sync::Arc;

use http::{HeaderName, Method, Request, StatusCode, header::LOCATION};
use mesh_core::{
    RequestHead,
    config::{
        Action, ClusterChoice, Domain, Forward, Fraction, HeaderKey, HeaderMatcher, HeaderTest, PathMatch,
        QueryMatcher, QueryTest, Redirect, Route, RouteConfig, RouteMatch, StringMatcher, VirtualHost, WeightedCluster,
        WeightedClusters,
    },
    route::{NoRoute, Refusal, RouteTable, redirect},
};

/// One virtual host for everything, with a route named by its place for each matcher.
fn routes(matchers: impl IntoIterator<Item = RouteMatch>) -> RouteTable<Arc<Route>> {
    let named = |(index, matches): (usize, _)| Route::new(matches, Action::PassOn).named(index.to_string());
    let routes = matchers.into_iter().enumerate().map(named).collect();
    compile(vec![VirtualHost::any("any", routes)])
}

fn compile(hosts: Vec<VirtualHost>) -> RouteTable<Arc<Route>> {
    RouteTable::compile(&RouteConfig::new("r", hosts).expect("no domain stands twice"), |_, route| route.clone())
}

fn select<B>(table: &RouteTable<Arc<Route>>, request: &Request<B>, roll: u64) -> Result<usize, NoRoute> {
    let route = table.select(&RequestHead::of(request), roll)?;
    Ok(route.name.parse().expect("routes are named by number"))
}

fn get(target: &str) -> Request<()> {
    Request::get(target).body(()).expect("a legal request")
}

/// Whether one route of this path takes each of these paths.
fn takes(path: PathMatch, case_sensitive: bool, targets: &[&str]) -> Vec<bool> {
    let mut matches = RouteMatch::path(path);
    matches.case_sensitive = case_sensitive;
    // Others beside it, so that it is found through the index and not by trying all of a few.
    let others = (0..8).map(|n| RouteMatch::path(PathMatch::exact(&format!("/other-{n}"))));
    let table = routes([matches].into_iter().chain(others));
    targets.iter().map(|target| select(&table, &get(target), 0) == Ok(0)).collect()
}

#[test]
fn first_match_in_list_order_wins_whatever_is_longer() {
    let table = routes([
        RouteMatch::path(PathMatch::prefix("/a")),
        RouteMatch::path(PathMatch::exact("/a/b")),
        RouteMatch::path(PathMatch::regex("/x/.*").expect("legal")),
        RouteMatch::path(PathMatch::prefix("/x/y")),
        RouteMatch::any(),
        RouteMatch::path(PathMatch::exact("/never")),
    ]);
    let taken = ["/a/b", "/x/y", "/x", "/never"].map(|path| select(&table, &get(path), 0));
    assert_eq!(taken, [Ok(0), Ok(2), Ok(4), Ok(4)]);
}

#[test]
fn path_is_compared_without_query_and_fragment() {
    assert_eq!(takes(PathMatch::exact("/a"), true, &["/a?b", "/a#b", "/a?b#c", "/a/"]), [true, true, true, false]);
}

#[test]
fn prefix_is_bytes_and_not_segments() {
    assert_eq!(takes(PathMatch::prefix("/a"), true, &["/a", "/ab", "/a/b", "/b"]), [true, true, true, false]);
}

#[test]
fn empty_prefix_and_slash_take_every_path() {
    for prefix in ["", "/"] {
        assert_eq!(takes(PathMatch::prefix(prefix), true, &["/", "/a", "*"]), [true; 3], "{prefix:?}");
    }
}

#[test]
fn separated_prefix_takes_itself_and_what_is_below() {
    let path = PathMatch::separated_prefix("/a/b").expect("legal");
    assert_eq!(takes(path, true, &["/a/b", "/a/b/", "/a/b/c", "/a/bc", "/a"]), [true, true, true, false, false]);
}

#[test]
fn case_counts_unless_the_route_says_otherwise() {
    let kinds = [PathMatch::exact("/Ab"), PathMatch::prefix("/Ab"), PathMatch::separated_prefix("/Ab").expect("legal")];
    for path in kinds {
        assert_eq!(takes(path.clone(), true, &["/Ab", "/aB"]), [true, false], "{path:?}");
        assert_eq!(takes(path.clone(), false, &["/Ab", "/aB"]), [true, true], "{path:?}");
    }
}

#[test]
fn regex_describes_the_whole_path_and_decides_about_case_itself() {
    let regex = |pattern| PathMatch::regex(pattern).expect("legal");
    assert_eq!(takes(regex("/a"), false, &["/a", "/A", "/ab", "/a?b"]), [true, false, false, true]);
    assert_eq!(takes(regex("(?i)/a"), true, &["/A"]), [true]);
}

#[test]
fn request_without_path_is_taken_by_no_route() {
    let connect = Request::connect("shop:443").body(()).expect("legal");
    assert_eq!(select(&routes([RouteMatch::any()]), &connect, 0), Err(NoRoute::Route));
}

#[test]
fn every_condition_must_hold() {
    let header = |name, value| HeaderMatcher::value(HeaderName::from_static(name), StringMatcher::exact(value));
    let query = QueryMatcher::new("q", QueryTest::Present(true)).expect("named");
    let table = routes([RouteMatch::path(PathMatch::prefix("/a")).header(header("x-a", "1")).query(query)]);
    let request = |target: &str, value| Request::get(target).header("x-a", value).body(()).expect("legal");
    assert_eq!(select(&table, &request("/a?q", "1"), 0), Ok(0));
    for (target, value) in [("/b?q", "1"), ("/a?q", "2"), ("/a?r", "1"), ("/a", "1")] {
        assert_eq!(select(&table, &request(target, value), 0), Err(NoRoute::Route), "{target} {value}");
    }
}

#[test]
fn query_matcher_for_absence_takes_a_request_without_query() {
    let absent = QueryMatcher::new("q", QueryTest::Present(false)).expect("named");
    let table = routes([RouteMatch::any().query(absent)]);
    assert_eq!(select(&table, &get("/"), 0), Ok(0));
    assert_eq!(select(&table, &get("/?q"), 0), Err(NoRoute::Route));
}

#[test]
fn method_is_matched_as_a_header() {
    let table = routes([RouteMatch::any().header(HeaderMatcher::method(&Method::POST)), RouteMatch::any()]);
    assert_eq!(select(&table, &get("/"), 0), Ok(1));
    assert_eq!(select(&table, &Request::post("/").body(()).expect("legal"), 0), Ok(0));
}

#[test]
fn grpc_is_told_by_the_content_type() {
    let mut grpc = RouteMatch::any();
    grpc.grpc = true;
    let table = routes([grpc]);
    for (content_type, expected) in [
        ("application/grpc", Ok(0)),
        ("application/grpc+proto", Ok(0)),
        ("application/grpc-web", Err(NoRoute::Route)),
        ("application/grpcx", Err(NoRoute::Route)),
        ("application/json", Err(NoRoute::Route)),
    ] {
        let request = Request::post("/").header("content-type", content_type).body(()).expect("legal");
        assert_eq!(select(&table, &request, 0), expected, "{content_type}");
    }
    assert_eq!(select(&table, &get("/"), 0), Err(NoRoute::Route));
}

#[test]
fn fraction_takes_rolls_below_its_numerator() {
    let tenth = Fraction::new(10, 100).expect("a legal denominator");
    let table = routes([RouteMatch::any().fraction(tenth), RouteMatch::any()]);
    let taken = [0, 9, 10, 99, 100, 109, 110].map(|roll| select(&table, &get("/"), roll));
    assert_eq!(taken, [Ok(0), Ok(0), Ok(1), Ok(1), Ok(0), Ok(0), Ok(1)]);
}

#[test]
fn one_roll_decides_the_fraction_and_the_weighted_cluster_after_it() {
    let weights = [("a", 30), ("b", 30), ("c", 40)].map(|(name, weight)| WeightedCluster::new(name, weight));
    let clusters = WeightedClusters::new(weights.to_vec()).expect("they add up");
    let forward = Forward::to(ClusterChoice::Weighted(clusters.clone()));
    let half = Fraction::new(50, 100).expect("a legal denominator");
    let route = Route::new(RouteMatch::any().fraction(half), Action::Forward(forward)).named("0");
    let table = compile(vec![VirtualHost::any("any", vec![route])]);
    // Only rolls that the fraction lets in get as far as the weights, so the third cluster gets nothing.
    let picked = |roll| select(&table, &get("/"), roll).map(|_| clusters.pick(roll));
    assert_eq!([115, 445, 560].map(picked), [Ok(0), Ok(1), Err(NoRoute::Route)]);
}

#[test]
fn no_virtual_host_and_no_route_are_told_apart() {
    let host = VirtualHost::new("shop", vec![Domain::parse("shop").expect("legal")], vec![]).expect("a domain");
    let table = compile(vec![host]);
    assert_eq!(select(&table, &get("http://shop/"), 0), Err(NoRoute::Route));
    assert_eq!(select(&table, &get("http://mall/"), 0), Err(NoRoute::VirtualHost));
    assert_eq!(select(&compile(vec![]), &get("http://shop/"), 0), Err(NoRoute::VirtualHost));
}

#[test]
fn routes_of_less_specific_hosts_are_not_tried() {
    let host = |domain: &str, path: &str| {
        let route = Route::new(RouteMatch::path(PathMatch::prefix(path)), Action::PassOn).named("0");
        VirtualHost::new(domain, vec![Domain::parse(domain).expect("legal")], vec![Arc::new(route)]).expect("a domain")
    };
    let table = compile(vec![host("*", "/"), host("shop", "/only")]);
    assert_eq!(select(&table, &get("http://shop/other"), 0), Err(NoRoute::Route));
}

#[test]
fn prepare_is_asked_once_for_each_route_in_order() {
    let host = |name: &str, domain: &str, count: usize| {
        let route = |index| Arc::new(Route::new(RouteMatch::any(), Action::PassOn).named(format!("{name}{index}")));
        let domain = Domain::parse(domain).expect("legal");
        VirtualHost::new(name, vec![domain], (0..count).map(route).collect()).expect("a domain")
    };
    let config = RouteConfig::new("r", vec![host("a", "a", 2), host("b", "b", 1)]).expect("no domain stands twice");
    let mut asked = Vec::new();
    let table = RouteTable::compile(&config, |host, route| {
        asked.push(format!("{}:{}", host.name(), route.name));
        asked.len()
    });
    assert_eq!(asked, ["a:a0", "a:a1", "b:b0"]);
    assert_eq!(table.select(&RequestHead::of(&get("http://b/")), 0), Ok(&3));
}

#[test]
fn explanation_reads_as_what_happened() {
    let version = HeaderMatcher::value(HeaderName::from_static("x-version"), StringMatcher::exact("next"));
    let absent = HeaderMatcher::new(HeaderKey::Name(HeaderName::from_static("x-old")), HeaderTest::Present(true));
    let mut folded = RouteMatch::path(PathMatch::exact("/V1"));
    folded.case_sensitive = false;
    let mut grpc = RouteMatch::any();
    grpc.grpc = true;
    let parameter = QueryTest::Value(StringMatcher::prefix("x").expect("filled"));
    let matchers = [
        RouteMatch::path(PathMatch::separated_prefix("/v2").expect("legal")),
        folded,
        RouteMatch::any().header(version.clone()),
        RouteMatch::any().header(absent.invert()).header(version.invert().missing_as_empty()),
        RouteMatch::any().query(QueryMatcher::new("q", parameter).expect("named")),
        RouteMatch::any().fraction(Fraction::new(5, 1_000_000).expect("legal")),
        grpc,
        RouteMatch::any(),
        RouteMatch::any(),
    ];
    let table = routes(matchers);
    let request = Request::get("http://Shop:80/v1/7?q=y").header("x-version", "now").body(()).expect("legal");
    let explanation = table.explain(&RequestHead::of(&request), 70);
    assert_eq!(explanation.outcome(), Ok(3));
    assert_eq!(explanation.tried()[2].refusal, Some(Refusal::Header(0)));
    let text = "\
authority `Shop:80`, path `/v1/7`
virtual host `any`, by its domain `*`
  route 0 `0` does not: path must be `/v2` or lie below it
  route 1 `1` does not: path must be `/V1` in either case
  route 2 `2` does not: header `x-version` must be `next`
  route 3 `3` takes it";
    assert_eq!(explanation.to_string(), text);

    let request =
        Request::get("http://shop/v3").header("x-version", "now").header("x-old", "1").body(()).expect("legal");
    let text = table.explain(&RequestHead::of(&request), 70).to_string();
    for line in [
        "route 3 `3` does not: header `x-old` must not be there",
        "route 4 `4` does not: query parameter `q` must start with `x`",
        "route 5 `5` does not: it takes 0.0005% of requests",
        "route 6 `6` does not: content type must be gRPC's",
        "route 7 `7` takes it",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn explanation_of_nothing_found_ends_with_the_reason() {
    let host = VirtualHost::new("shop", vec![Domain::parse("*.shop").expect("legal")], vec![]).expect("a domain");
    let table = compile(vec![host]);
    let explain = |target: &str| table.explain(&RequestHead::of(&get(target)), 0).to_string();
    assert_eq!(explain("http://mall/"), "authority `mall`, path `/`\nno virtual host takes the request's authority");
    assert!(explain("http://a.shop/").ends_with("no route of the virtual host takes the request"));
}

#[test]
fn redirect_answers_with_its_status_and_an_absolute_location() {
    let see = Redirect::new(StatusCode::SEE_OTHER).expect("a redirect").to_host("mall.example").expect("a host");
    // As an inbound HTTP/1 request arrives: the host is a header and the target has no scheme.
    let request = Request::get("/cart?id=7").header("host", "shop:8080").body(()).expect("legal");
    let response = redirect(&see, &RequestHead::of(&request), &PathMatch::prefix("/"));
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()[LOCATION], "http://mall.example/cart?id=7");
}

fn host(name: &str, domain: &str) -> Arc<VirtualHost> {
    let route = Route::new(RouteMatch::any(), Action::PassOn).named(name);
    let domain = Domain::parse(domain).expect("legal");
    Arc::new(VirtualHost::new(name, vec![domain], vec![Arc::new(route)]).expect("one domain"))
}

fn config(hosts: Vec<Arc<VirtualHost>>) -> RouteConfig {
    let mut checking = RouteConfig::begin("r", hosts, None);
    while !checking.advance(1).expect("no domain stands twice") {}
    checking.finish()
}

#[test]
fn table_that_is_compiled_in_parts_is_the_same_as_in_one_go() {
    let config = config(vec![host("0", "a.test"), host("1", "*")]);
    let mut compiling = RouteTable::begin(&config);
    let mut parts = 0;
    while compiling.advance(|_, route| route.clone()) {
        parts += 1;
    }
    let table = compiling.finish();
    assert!(parts > 2);
    assert_eq!(
        [get("http://a.test/"), get("http://b.test/")].map(|request| select(&table, &request, 0)),
        [Ok(0), Ok(1)]
    );
    let (next, _) = compile_after(&table, &config, 1);
    assert_eq!(table.take_apart().count(), 2, "its share of each");
    assert_eq!(select(&next, &get("http://a.test/"), 0), Ok(0));
    assert_eq!(next.take_apart().count(), 2);
}

/// Compiles after `former`, and counts the routes that something is prepared for.
fn compile_after(
    former: &RouteTable<Arc<Route>>,
    config: &RouteConfig,
    most: usize,
) -> (RouteTable<Arc<Route>>, usize) {
    let mut compiling = RouteTable::begin(config).after(former);
    let mut prepared = 0;
    loop {
        while compiling.take_over(most, |host| !host.name().starts_with("other")) > 0 {}
        let prepare = |_: &VirtualHost, route: &Arc<Route>| {
            prepared += 1;
            route.clone()
        };
        if !compiling.advance(prepare) {
            return (compiling.finish(), prepared);
        }
    }
}

#[test]
fn what_a_table_takes_over_is_not_prepared_again_and_found_as_if_it_were() {
    let count = 100;
    let hosts: Vec<_> = (0..count).map(|n| host(&n.to_string(), &format!("{n}.test"))).collect();
    let other = |n: usize| host(&format!("other-{n}"), &format!("{n}.other.test"));
    let change = |change: &dyn Fn(&mut Vec<Arc<VirtualHost>>)| {
        let mut hosts = hosts.clone();
        change(&mut hosts);
        hosts
    };
    let before = RouteTable::compile(&config(hosts.clone()), |_, route| route.clone());
    for (now, anew) in [
        (hosts.clone(), 0),
        (change(&|hosts| hosts[7] = host("7", "7.test")), 1),
        (change(&|hosts| hosts[7] = other(7)), 1),
        (change(&|hosts| hosts.insert(50, other(50))), 1),
        (change(&|hosts| drop(hosts.drain(10..30))), 0),
        (change(&|hosts| hosts.truncate(96)), 0),
        (change(&|hosts| hosts.clear()), 0),
        (change(&|hosts| hosts.swap(0, 99)), 99),
    ] {
        let config = config(now);
        let fresh = RouteTable::compile(&config, |_, route| route.clone());
        for most in [1, 16, usize::MAX] {
            let (table, prepared) = compile_after(&before, &config, most);
            assert_eq!(prepared, anew);
            let domains = (0..count).map(|n| format!("http://{n}.test/"));
            for domain in domains.chain(["http://7.other.test/", "http://50.other.test/"].map(str::to_owned)) {
                let request = get(&domain);
                let found = |table: &RouteTable<Arc<Route>>| table.select(&RequestHead::of(&request), 0).cloned();
                assert_eq!(found(&table), found(&fresh), "{domain}");
                let explained = |table: &RouteTable<_>| table.explain(&RequestHead::of(&request), 0).to_string();
                assert_eq!(explained(&table), explained(&fresh));
            }
        }
    }
}

#[test]
fn port_is_minded_by_what_the_new_configuration_says() {
    let mut config = config(vec![host("0", "a.test")]);
    let before = RouteTable::compile(&config, |_, route| route.clone());
    config.ignore_port = true;
    let (after, prepared) = compile_after(&before, &config, 1);
    assert_eq!(prepared, 0);
    assert_eq!([&before, &after].map(|table| select(table, &get("http://a.test:80/"), 0).is_ok()), [false, true]);
}

#[test]
fn what_is_not_the_same_to_its_preparer_is_prepared_again() {
    let config = config(vec![host("other", "a.test"), host("1", "b.test")]);
    let before = RouteTable::compile(&config, |_, route| route.clone());
    assert_eq!(compile_after(&before, &config, 16).1, 1);
}
