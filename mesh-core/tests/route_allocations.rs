//! Selecting a route allocates nothing.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_core::{
    RequestHead,
    config::{
        Action, Domain, Fraction, HeaderKey, HeaderMatcher, HeaderTest, PathMatch, QueryMatcher, QueryTest, Route,
        RouteConfig, RouteMatch, StringMatcher, VirtualHost,
    },
    route::{NoRoute, RouteTable},
};

fn route(matches: RouteMatch, name: &str) -> Arc<Route> {
    Arc::new(Route::new(matches, Action::PassOn).named(name))
}

/// A rule with a condition of every kind, in the forms that fold case.
fn demanding() -> RouteMatch {
    let folded = |matcher: StringMatcher| matcher.ignore_case().expect("not a regular expression");
    let header = |name, matcher| HeaderMatcher::value(HeaderName::from_static(name), matcher);
    let mut matches = RouteMatch::path(PathMatch::separated_prefix("/Api/V1").expect("legal"))
        .fraction(Fraction::ALL)
        .header(HeaderMatcher::method(&Method::POST))
        .header(header("x-prefix", folded(StringMatcher::prefix("ab").expect("filled"))))
        .header(header("x-suffix", folded(StringMatcher::suffix("yz").expect("filled"))))
        .header(header("x-contains", folded(StringMatcher::contains("mn").expect("filled"))))
        .header(HeaderMatcher::new(HeaderKey::Path, HeaderTest::Present(true)))
        .query(QueryMatcher::new("q", QueryTest::Value(folded(StringMatcher::exact("on")))).expect("named"));
    matches.case_sensitive = false;
    matches.grpc = true;
    matches
}

fn table() -> RouteTable<Arc<Route>> {
    let routes = vec![
        route(RouteMatch::path(PathMatch::exact("/exact")), "exact"),
        route(RouteMatch::path(PathMatch::regex("/item/[0-9]+").expect("legal")), "regex"),
        route(demanding(), "demanding"),
    ];
    let domains = ["shop.example.com", "*.example.com", "shop.*"].map(|text| Domain::parse(text).expect("legal"));
    let host = VirtualHost::new("shop", domains.to_vec(), routes).expect("it has domains");
    RouteTable::compile(&RouteConfig::new("r", vec![host]).expect("nothing stands twice"), |_, route| route.clone())
}

#[test]
fn select_allocates_nothing_whatever_it_finds() {
    let table = table();
    let headers: HeaderMap =
        [("content-type", "application/grpc+proto"), ("x-prefix", "ABc"), ("x-suffix", "xYZ"), ("x-contains", "lMNo")]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
    for (target, expected) in [
        ("http://SHOP.example.COM/exact", Ok("exact")),
        ("http://a.Example.com/item/7", Ok("regex")),
        ("http://shop.org/api/v1/x?q=ON", Ok("demanding")),
        ("http://shop.org/api/v1/x?q=off", Err(NoRoute::Route)),
        ("http://nowhere/", Err(NoRoute::VirtualHost)),
    ] {
        let uri = target.parse().expect("a legal target");
        let head = RequestHead::from_parts(&Method::POST, &uri, &headers);
        // The first run of a regular expression allocates its caches.
        assert_eq!(table.select(&head, 0).map(|route| &*route.name), expected, "{target}");
        let counted = allocation_counter::measure(|| {
            let _ = std::hint::black_box(table.select(std::hint::black_box(&head), 0));
        });
        assert_eq!(counted.count_total, 0, "{target}");
    }
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(counted.count_total, 1);
}
