//! What routes, faults, drops and limits do to requests, seen by a client of a mesh that a source steers, over pipes in
//! memory and under a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use client_support::{Net, Said, says, serve, text};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use mesh_core::{
    config::{
        AbortStatus, Action, Cluster, ClusterChoice, ClusterEntry, DirectResponse, DropOverload, Endpoint, Endpoints,
        FaultAbort, FaultDelay, FaultInjection, FilterKind, Forward, Fraction, HeaderAppend, HeaderMutations,
        HeaderTemplate, HostRewrite, HttpFilter, Listener, PathMatch, PathRewrite, Redirect, Regex, RequestPriority,
        RetryOn, RetryPolicy, Route, RouteConfig, RouteMatch, Snapshot, TargetState, Thresholds, TimeLimit, Timeouts,
        VirtualHost, WeightedCluster, WeightedClusters,
    },
    outcome::{FailureKind, Flags, Sent},
};
use mesh_http::{Body, CallOptions, Client, ClientBuilder, Error, Mesh, protocol::Http};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

/// What a source says of the target `shop`: the clusters `one` and `two`, of an endpoint each, and `mute`, whose two never
/// answer.
struct World {
    listener: Listener,
    clusters: BTreeMap<Arc<str>, ClusterEntry>,
}

type Answered = Result<Response<Body>, Error>;

// === impl Said ===

impl Said {
    fn says(&self, target: TargetState, clusters: &BTreeMap<Arc<str>, ClusterEntry>) {
        let generation = self.0.borrow().generation + 1;
        let targets = [("shop".into(), target)].into();
        self.0.send_replace(Arc::new(Snapshot { generation, targets, clusters: clusters.clone() }));
    }

    fn mesh(&self) -> Mesh {
        let net = Net::new(|address, stream| match address.ip().to_string().as_str() {
            "10.0.0.8" | "10.0.0.9" => drop(tokio::spawn(async move {
                let _held = stream;
                std::future::pending::<()>().await;
            })),
            _ => drop(tokio::spawn(serve(stream, move |request| {
                let header = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
                let (host, a, attempt) = (header("host"), header("x-a"), header("x-envoy-attempt-count"));
                let mut answer = says(format!("{} {} {host} {a} {attempt}", address.ip(), request.uri()));
                let status = request.headers().get("x-answer").map(|status| status.to_str().unwrap().parse().unwrap());
                *answer.status_mut() = status.unwrap_or(StatusCode::OK);
                answer
            }))),
        });
        Mesh::builder().source(self.clone()).connector(net).seed(1).build().unwrap()
    }
}

// === impl World ===

impl World {
    /// Every request of every host goes the way of `route`.
    fn new(route: Route) -> Self {
        Self::of(VirtualHost::any("all", vec![route]))
    }

    fn of(host: VirtualHost) -> Self {
        let endpoint = |n: u8| Endpoint::new(SocketAddr::from(([10, 0, 0, n], 80))).with_hostname(format!("host-{n}"));
        let cluster = |name: &str, endpoints: &[u8]| {
            let endpoints = Endpoints::flat(endpoints.iter().map(|n| endpoint(*n)).collect()).unwrap();
            let cluster = Arc::new(Cluster::new(name).unwrap());
            (name.into(), ClusterEntry { cluster, endpoints: Some(Arc::new(endpoints)) })
        };
        Self {
            listener: Listener::new("shop", Arc::new(RouteConfig::new("r", vec![host]).unwrap())),
            clusters: [cluster("one", &[1]), cluster("two", &[2]), cluster("mute", &[8, 9])].into(),
        }
    }

    fn faults(mut self, faults: FaultInjection) -> Self {
        self.listener.filters = vec![HttpFilter { name: "fault".into(), kind: FilterKind::Faults(Arc::new(faults)) }];
        self
    }

    fn drops(mut self, percent: u32) -> Self {
        let entry = self.clusters.get_mut("one").unwrap();
        let drop = DropOverload { category: "lb".into(), share: Fraction::new(percent, 100).unwrap() };
        let endpoints = Endpoints::clone(entry.endpoints.as_ref().unwrap()).with_drops(vec![drop]);
        entry.endpoints = Some(Arc::new(endpoints));
        self
    }

    fn tell(&self, source: &Said) {
        source.says(TargetState::Ready(Arc::new(self.listener.clone())), &self.clusters);
    }

    /// A client that knows it.
    async fn client(&self) -> Client {
        self.client_with(|builder| builder).await
    }

    async fn client_with(&self, say: impl FnOnce(ClientBuilder<Http>) -> ClientBuilder<Http>) -> Client {
        let source = Said::default();
        self.tell(&source);
        client_of(&source, say).await
    }
}

async fn client_of(source: &Said, say: impl FnOnce(ClientBuilder<Http>) -> ClientBuilder<Http>) -> Client {
    let client = say(Client::builder("shop").mesh(&source.mesh())).build().unwrap();
    client.ready().await.unwrap();
    client
}

fn to(cluster: &str) -> Forward {
    Forward::to(ClusterChoice::One(cluster.into()))
}

fn forward(forward: Forward) -> Route {
    Route::new(RouteMatch::any(), Action::Forward(forward))
}

/// The route to cluster `one`, changed.
fn one(change: impl FnOnce(&mut Forward)) -> Route {
    let mut to = to("one");
    change(&mut to);
    forward(to)
}

/// The route to the cluster that never answers, with limits.
fn mute(timeouts: Timeouts) -> Route {
    let mut to = to("mute");
    to.policy.timeouts = timeouts;
    forward(to)
}

fn set(value: &str) -> HeaderMutations {
    let template = HeaderTemplate::new(value).unwrap();
    HeaderMutations::new().set(HeaderName::from_static("x-a"), template, HeaderAppend::Overwrite).unwrap()
}

fn limit(seconds: u64) -> Option<TimeLimit> {
    Some(TimeLimit::after(Duration::from_secs(seconds)).unwrap())
}

fn by_header() -> Forward {
    Forward::to(ClusterChoice::Header(HeaderName::from_static("x-to")))
}

fn abort(percent: u32) -> Option<FaultAbort> {
    let status = AbortStatus::Http(StatusCode::IM_A_TEAPOT);
    FaultAbort::new(status, Fraction::new(percent, 100).unwrap()).ok()
}

fn delay(seconds: u64) -> Option<FaultDelay> {
    Some(FaultDelay { duration: Duration::from_secs(seconds), share: Fraction::ALL })
}

fn request(path: &str, headers: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(format!("http://shop{path}")).body(Full::default()).unwrap();
    headers.iter().for_each(|(name, value)| drop(request.headers_mut().insert(*name, value.parse().unwrap())));
    request
}

fn with(options: CallOptions) -> Request<Full<Bytes>> {
    let mut request = request("/", &[]);
    request.extensions_mut().insert(options);
    request
}

/// What comes of a call, of which nothing in a test takes minutes: with no timer left, a paused clock would stand for ever.
async fn ended<F: Future>(call: F) -> F::Output {
    timeout(Duration::from_secs(300), call).await.expect("a call that ends")
}

fn flags(answer: &Answered) -> Flags {
    match answer {
        Ok(answer) => answer.extensions().get::<Flags>().copied().unwrap_or_default(),
        Err(error) => error.flags(),
    }
}

#[tokio::test(start_paused = true)]
async fn requests_arrive_as_their_route_changes_them() {
    type Headers = &'static [(&'static str, &'static str)];
    let weighted = || {
        let mut entry = WeightedCluster::new("two", 1);
        entry.request_headers = set("entry");
        ClusterChoice::Weighted(WeightedClusters::new(vec![WeightedCluster::new("one", 0), entry]).unwrap())
    };
    let regex = || PathRewrite::Regex { pattern: Regex::new("/o(.)d").unwrap(), substitution: r"/\1".into() };
    let old = |to: Forward| Route::new(RouteMatch::path(PathMatch::prefix("/old")), Action::Forward(to));
    let prefix = || {
        let mut to = to("one");
        to.path_rewrite = Some(PathRewrite::Prefix("/new".into()));
        to
    };
    let headers = |value| {
        let mut route = one(|_| {});
        route.request_headers = set(value);
        route
    };
    let header_host = || HostRewrite::Header(HeaderName::from_static("x-host"));
    let rows: [(&str, Route, &str, Headers, &str); 12] = [
        ("unchanged", one(|_| {}), "/a?b", &[], "10.0.0.1 /a?b shop - -"),
        ("prefix", old(prefix()), "/old/a?b", &[], "10.0.0.1 /new/a?b shop - -"),
        ("regex", one(|to| to.path_rewrite = Some(regex())), "/old?b", &[], "10.0.0.1 /l?b shop - -"),
        (
            "literal host",
            one(|to| to.host_rewrite = Some(HostRewrite::literal("mall:81").unwrap())),
            "/",
            &[],
            "10.0.0.1 / mall:81 - -",
        ),
        (
            "host of a header",
            one(|to| to.host_rewrite = Some(header_host())),
            "/",
            &[("x-host", "mall")],
            "10.0.0.1 / mall - -",
        ),
        ("no such header", one(|to| to.host_rewrite = Some(header_host())), "/", &[], "10.0.0.1 / shop - -"),
        (
            "host of the endpoint",
            one(|to| to.host_rewrite = Some(HostRewrite::Endpoint)),
            "/",
            &[],
            "10.0.0.1 / host-1 - -",
        ),
        ("header", headers("%REQ(x-b)% to %UPSTREAM_CLUSTER%"), "/", &[("x-b", "b")], "10.0.0.1 / shop b to one -"),
        ("cluster's header", forward(Forward::to(weighted())), "/", &[], "10.0.0.2 / shop entry -"),
        ("cluster of a header", forward(by_header()), "/", &[("x-to", "two")], "10.0.0.2 / shop - -"),
        (
            "the same with header changes",
            {
                let mut route = forward(by_header());
                route.request_headers = set("%UPSTREAM_CLUSTER%");
                route
            },
            "/",
            &[("x-to", "two")],
            "10.0.0.2 / shop two -",
        ),
        ("empty header", headers("%REQ(x-none)%"), "/", &[], "10.0.0.1 / shop - -"),
    ];
    for (claim, route, path, headers, arrives) in rows {
        // Clusters that a header may name are those that some route names.
        let others = ["one", "two"]
            .map(|name| Route::new(RouteMatch::path(PathMatch::exact("/never")), Action::Forward(to(name))));
        let host = VirtualHost::any("all", [vec![route], others.to_vec()].concat());
        let client = World::of(host).client().await;
        let answer = client.request(request(path, headers)).await.unwrap();
        assert_eq!(text(answer).await, arrives, "{claim}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_numbered_for_the_backend_where_the_host_says_so() {
    let retried = one(|to| to.policy.retry = Some(Arc::new(RetryPolicy::on(RetryOn::SERVER_ERROR))));
    let mut host = VirtualHost::any("all", vec![retried]);
    host.announce_attempt = true;
    let client = World::of(host).client().await;
    let answer = client.request(request("/", &[("x-answer", "500")])).await;
    assert_eq!(flags(&answer), Flags::URX);
    assert_eq!(text(answer.unwrap()).await, "10.0.0.1 / shop - 2");
}

#[tokio::test(start_paused = true)]
async fn answers_are_made_and_changed_as_their_route_says() {
    let redirect = Redirect::new(StatusCode::FOUND).unwrap().to_scheme("https").unwrap().to_host("mall").unwrap();
    let respond = DirectResponse::new(StatusCode::IM_A_TEAPOT, "tea").unwrap();
    let rows: [(&str, Action, StatusCode, &str, &str); 4] = [
        ("forwarded", Action::Forward(to("one")), StatusCode::OK, "10.0.0.1 /a?b shop - -", "-"),
        ("by the cluster of a header", Action::Forward(by_header()), StatusCode::OK, "10.0.0.1 /a?b shop - -", "-"),
        ("redirected", Action::Redirect(redirect), StatusCode::FOUND, "", "https://mall/a?b"),
        ("answered here", Action::Respond(respond), StatusCode::IM_A_TEAPOT, "tea", "-"),
    ];
    for (claim, action, status, body, location) in rows {
        let mut route = Route::new(RouteMatch::path(PathMatch::prefix("/a")), action);
        route.response_headers = set("%ROUTE_NAME%");
        let host = VirtualHost::any("all", vec![route.named("r-1"), one(|_| {})]);
        let client = World::of(host).client().await;
        let answer = client.request(request("/a?b", &[("x-to", "one")])).await.unwrap();
        assert_eq!((answer.status(), answer.headers()["x-a"].to_str().unwrap()), (status, "r-1"), "{claim}");
        assert_eq!(answer.headers().get("location").map_or("-", |to| to.to_str().unwrap()), location, "{claim}");
        assert_eq!(text(answer).await, body, "{claim}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_end_requests_in_time_with_their_flag() {
    let maximum = Timeouts { grpc_timeout_max: Some(TimeLimit::OFF), ..Timeouts::default() };
    let off = Timeouts { request: Some(TimeLimit::OFF), ..Timeouts::default() };
    let rows: [(&str, Timeouts, Option<u64>, Flags, u64); 9] = [
        ("preset", Timeouts::default(), None, Flags::UT, 15),
        ("request", Timeouts { request: limit(2), ..off }, None, Flags::UT, 2),
        ("stream duration", Timeouts { max_stream_duration: limit(3), ..off }, None, Flags::DT, 3),
        ("idle", Timeouts { idle: limit(4), ..off }, None, Flags::SI, 4),
        ("per try", Timeouts { per_try: limit(5), ..off }, None, Flags::UT, 5),
        ("per try, idle", Timeouts { per_try_idle: limit(6), ..off }, None, Flags::UT, 6),
        ("caller's", off, Some(7), Flags::UT, 7),
        ("nearer than the caller's", Timeouts { request: limit(2), ..off }, Some(60), Flags::UT, 2),
        ("beside a maximum for grpc-timeout", Timeouts { request: limit(2), ..maximum }, Some(60), Flags::UT, 2),
    ];
    for (claim, timeouts, asked, ends_with, seconds) in rows {
        let client = World::new(mute(timeouts)).client_with(ClientBuilder::no_retries).await;
        let options = asked.map(|asked| CallOptions::new().within(Duration::from_secs(asked)));
        let start = Instant::now();
        let answer = ended(client.request(with(options.unwrap_or_default()))).await;
        assert_eq!((flags(&answer), start.elapsed()), (ends_with, Duration::from_secs(seconds)), "{claim}");
        assert_eq!(answer.unwrap_err().sent(), Sent::Maybe, "{claim}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_and_delays_beyond_the_clock_are_no_panics() {
    let endless = Some(TimeLimit::after(Duration::MAX).unwrap());
    let timeouts = Timeouts { request: limit(2), per_try: endless, ..Timeouts::default() };
    let client = World::new(mute(timeouts)).client_with(ClientBuilder::no_retries).await;
    assert_eq!(flags(&ended(client.get("http://shop/")).await), Flags::UT);

    let delay = Some(FaultDelay { duration: Duration::MAX, share: Fraction::ALL });
    let faults = FaultInjection { delay, ..FaultInjection::default() };
    let route = one(|to| to.policy.timeouts.request = limit(2));
    let client = World::new(route).faults(faults).client().await;
    assert_eq!(flags(&ended(client.get("http://shop/")).await), Flags::DI | Flags::UT);
}

#[tokio::test(start_paused = true)]
async fn pin_limits_whatever_the_source_and_the_caller_say() {
    let said = Timeouts { request: limit(9), grpc_timeout_max: Some(TimeLimit::OFF), ..Timeouts::default() };
    let world = World::new(mute(said));
    let client = world.client_with(|builder| builder.pin(|policy| policy.route.timeouts.request = limit(1))).await;
    let start = Instant::now();
    let error = ended(client.request(with(CallOptions::new().within(Duration::from_secs(60))))).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn endpoint_is_not_to_blame_for_streams_that_last_or_fall_silent() {
    let ejected = async |timeouts| {
        let client = World::new(mute(timeouts)).client_with(ClientBuilder::no_retries).await;
        for _ in 0..12 {
            ended(client.get("http://shop/")).await.unwrap_err();
        }
        let clusters = client.mesh().status().clusters;
        clusters.iter().flat_map(|cluster| &cluster.endpoints).filter(|endpoint| endpoint.is_ejected).count()
    };
    assert_eq!(ejected(Timeouts { max_stream_duration: limit(1), ..Timeouts::default() }).await, 0);
    assert_eq!(ejected(Timeouts { idle: limit(1), ..Timeouts::default() }).await, 0);
    assert_eq!(
        ejected(Timeouts { per_try_idle: limit(1), ..Timeouts::default() }).await,
        1,
        "an attempt's silence is its"
    );
    assert_eq!(ejected(Timeouts { request: limit(1), ..Timeouts::default() }).await, 1, "but for slow answers it is");
}

#[tokio::test(start_paused = true)]
async fn faults_delay_and_abort_and_say_so() {
    let none = FaultInjection::default;
    let elsewhere = || FaultInjection { abort: abort(100), cluster: Some("two".into()), ..none() };
    let to_mute = || {
        let mut route = mute(Timeouts { request: limit(7), ..Timeouts::default() });
        route.name = "mute".into();
        route
    };
    let header = || forward(by_header());
    type Row = (&'static str, Route, FaultInjection, Option<u16>, Flags, u64);
    let rows: [Row; 9] = [
        ("none", one(|_| {}), none(), Some(200), Flags::default(), 0),
        ("delay", one(|_| {}), FaultInjection { delay: delay(5), ..none() }, Some(200), Flags::DI, 5),
        ("abort", one(|_| {}), FaultInjection { abort: abort(100), ..none() }, Some(418), Flags::FI, 0),
        (
            "both",
            one(|_| {}),
            FaultInjection { delay: delay(5), abort: abort(100), ..none() },
            Some(418),
            Flags::DI | Flags::FI,
            5,
        ),
        (
            "delay before an error",
            to_mute(),
            FaultInjection { delay: delay(5), ..none() },
            None,
            Flags::DI | Flags::UT,
            7,
        ),
        (
            "delay past the time of the request",
            to_mute(),
            FaultInjection { delay: delay(9), abort: abort(100), ..none() },
            None,
            Flags::DI | Flags::UT,
            7,
        ),
        ("of another cluster", one(|_| {}), elsewhere(), Some(200), Flags::default(), 0),
        ("cluster of a header", header(), FaultInjection { abort: abort(100), ..none() }, Some(418), Flags::FI, 0),
        ("cluster of a header, not meant", header(), elsewhere(), Some(200), Flags::default(), 0),
    ];
    for (claim, route, faults, status, expected, seconds) in rows {
        let other = Route::new(RouteMatch::path(PathMatch::exact("/never")), Action::Forward(to("one")));
        let world = World::of(VirtualHost::any("all", vec![route, other])).faults(faults);
        let client = world.client_with(ClientBuilder::no_retries).await;
        let start = Instant::now();
        let answer = ended(client.request(request("/", &[("x-to", "one")]))).await;
        assert_eq!((flags(&answer), start.elapsed()), (expected, Duration::from_secs(seconds)), "{claim}");
        assert_eq!(answer.ok().map(|answer| answer.status().as_u16()), status, "{claim}");
    }
}

#[tokio::test(start_paused = true)]
async fn active_faults_are_counted_by_filter_across_routes_and_updates() {
    let limited = || FaultInjection { delay: delay(10), max_active: Some(1), ..FaultInjection::default() };
    let weights = WeightedClusters::new(vec![WeightedCluster::new("one", 1), WeightedCluster::new("two", 1)]).unwrap();
    let routes = |count: usize| {
        let route = forward(Forward::to(ClusterChoice::Weighted(weights.clone())));
        World::of(VirtualHost::any("all", vec![route; count])).faults(limited())
    };
    let source = Said::default();
    routes(1).tell(&source);
    let client = client_of(&source, |builder| builder).await;
    let mut held = JoinSet::new();
    held.spawn(client.get("http://shop/"));
    for _ in 0..8 {
        assert_eq!(
            flags(&client.get("http://shop/").await),
            Flags::default(),
            "one is held, whichever cluster it is for"
        );
    }
    // The same filter, in a listener that has changed.
    routes(2).tell(&source);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(flags(&client.get("http://shop/").await), Flags::default(), "one is held still");
    held.shutdown().await;
    let start = Instant::now();
    assert_eq!(flags(&client.get("http://shop/").await), Flags::DI);
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

/// What comes of a request: what was added to it and to its answer, how it ended, and after how many seconds.
async fn seen(client: &Client, path: &str) -> (String, Flags, u64) {
    let start = Instant::now();
    let answer = ended(client.request(request(path, &[]))).await;
    let (flags, seconds) = (flags(&answer), start.elapsed().as_secs());
    let Ok(answer) = answer else { return ("no answer".into(), flags, seconds) };
    let said = answer.headers()["x-a"].to_str().unwrap().to_owned();
    let arrived = text(answer).await;
    (format!("{} {said}", arrived.split(' ').nth(3).unwrap()), flags, seconds)
}

#[tokio::test(start_paused = true)]
async fn what_a_listener_says_anew_holds_for_virtual_hosts_that_stay_the_same() {
    fn routes(listener: &mut Listener) -> &mut RouteConfig {
        Arc::make_mut(&mut listener.routes)
    }
    fn faults(listener: &mut Listener, faults: FaultInjection) {
        listener.filters[0].kind = FilterKind::Faults(Arc::new(faults));
    }
    let rename = |listener: &mut Listener| {
        let mut renamed = Listener::new("other", listener.routes.clone());
        (renamed.filters, renamed.policy) = (listener.filters.clone(), listener.policy.clone());
        *listener = renamed;
    };
    type Row<'a> = (&'a str, &'a dyn Fn(&mut Listener), &'a str, (&'a str, Flags, u64), (&'a str, Flags, u64));
    let (all, slow) = (("all all", Flags::default(), 0), ("no answer", Flags::UT, 15));
    let rows: [Row<'_>; 7] = [
        ("nothing", &|_| {}, "/", all, all),
        // Nobody has met the faults of a listener of this name yet.
        ("name", &rename, "/", all, ("all all", Flags::DI, 100)),
        (
            "filters",
            &|listener| faults(listener, FaultInjection { delay: delay(5), ..FaultInjection::default() }),
            "/",
            all,
            ("all all", Flags::DI, 5),
        ),
        ("policy", &|listener| listener.policy.timeouts.request = limit(2), "/mute", slow, ("no answer", Flags::UT, 2)),
        (
            "request headers",
            &|listener| routes(listener).request_headers = set("new"),
            "/",
            all,
            ("new all", Flags::default(), 0),
        ),
        (
            "response headers",
            &|listener| routes(listener).response_headers = set("new"),
            "/",
            all,
            ("all new", Flags::default(), 0),
        ),
        (
            "whose headers win",
            &|listener| routes(listener).most_specific_mutations_win = true,
            "/",
            all,
            ("host host", Flags::default(), 0),
        ),
    ];
    for (claim, change, path, before, after) in rows {
        let to_mute = Route::new(RouteMatch::path(PathMatch::exact("/mute")), Action::Forward(to("mute")));
        let to_one = one(|to| to.policy.timeouts.request = Some(TimeLimit::OFF));
        let mut host = VirtualHost::any("all", vec![to_mute, to_one]);
        (host.request_headers, host.response_headers) = (set("host"), set("host"));
        let limited = FaultInjection { delay: delay(100), max_active: Some(1), ..FaultInjection::default() };
        let mut world = World::of(host).faults(limited);
        routes(&mut world.listener).request_headers = set("all");
        routes(&mut world.listener).response_headers = set("all");
        let source = Said::default();
        world.tell(&source);
        let client = client_of(&source, ClientBuilder::no_retries).await;
        let owned = |(said, flags, seconds): (&str, _, _)| (said.to_owned(), flags, seconds);

        // 1. One request is held by the filter of this listener, which holds no other beside it.
        let _held = JoinSet::from_iter([client.get("http://shop/")]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(seen(&client, path).await, owned(before), "{claim}: before");

        // 2. The listener is another; of its routes, the virtual host is the very same.
        let host = world.listener.routes.virtual_hosts()[0].clone();
        change(&mut world.listener);
        assert!(Arc::ptr_eq(&host, &world.listener.routes.virtual_hosts()[0]));
        world.tell(&source);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(seen(&client, path).await, owned(after), "{claim}: after");
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_names_no_known_cluster_fails_as_its_route_says() {
    let mut to = by_header();
    to.cluster_not_found = StatusCode::NOT_FOUND;
    let client = World::of(VirtualHost::any("all", vec![forward(to), one(|_| {})])).client().await;
    for headers in [&[("x-to", "three")][..], &[]] {
        let error = client.request(request("/", headers)).await.unwrap_err();
        assert_eq!((error.flags(), error.status()), (Flags::NC, StatusCode::NOT_FOUND));
    }
}

#[tokio::test(start_paused = true)]
async fn source_that_sheds_load_has_its_share_of_requests_refused_unsent() {
    let dropped = async |percent| {
        let client = World::new(one(|_| {})).drops(percent).client().await;
        let mut errors = Vec::new();
        for _ in 0..200 {
            errors.extend(client.request(with(CallOptions::new().wait_for_ready())).await.err());
        }
        errors
    };
    assert!(dropped(0).await.is_empty());
    let some = dropped(25).await;
    assert!((30..70).contains(&some.len()), "{} of 200", some.len());
    for error in some {
        assert_eq!((error.kind(), error.flags(), error.sent()), (FailureKind::Dropped, Flags::DO, Sent::No));
        assert!(error.is_overloaded());
        let answer = error.into_response();
        assert_eq!(
            (answer.status(), &answer.headers()["x-envoy-drop-overload"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"true".parse().unwrap())
        );
    }
    let all = dropped(100).await;
    assert!(all.len() == 200 && all.iter().all(|error| error.flags() == Flags::UDO));
    let answer = all.into_iter().next().unwrap().into_response();
    assert!(answer.headers().contains_key("x-envoy-unconditional-drop-overload"));
}

#[tokio::test(start_paused = true)]
async fn drops_end_with_the_next_endpoints() {
    let source = Said::default();
    World::new(one(|_| {})).drops(100).tell(&source);
    let client = client_of(&source, |builder| builder).await;
    assert_eq!(flags(&client.get("http://shop/").await), Flags::UDO);
    World::new(one(|_| {})).tell(&source);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(client.get("http://shop/").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_ready_outlasts_want_of_configuration_and_of_its_cluster() {
    let (world, source) = (World::new(one(|_| {})), Said::default());
    let nothing = BTreeMap::new();
    source.says(TargetState::Unavailable("not there".into()), &nothing);
    let client = Client::builder("shop").mesh(&source.mesh()).no_timeout().build().unwrap();
    client.ready().await.unwrap_err();

    // 1. Whoever does not wait fails at once.
    let start = Instant::now();
    assert_eq!(flags(&client.get("http://shop/").await), Flags::NR);
    assert_eq!(start.elapsed(), Duration::ZERO);

    // 2. Who waits does so until its own time is up.
    let waiting = CallOptions::new().wait_for_ready();
    let answer = ended(client.request(with(waiting.within(Duration::from_secs(3))))).await;
    assert_eq!((flags(&answer), start.elapsed()), (Flags::UT, Duration::from_secs(3)));
    let error = answer.unwrap_err();
    assert_eq!(error.sent(), Sent::No);
    assert!(error.reason().contains("no configuration: not there"), "{}", error.reason());

    // 3. Or until there are routes; and then until there is the cluster.
    let call = tokio::spawn(client.request(with(waiting)));
    source.says(TargetState::Unavailable("still not there".into()), &nothing);
    tokio::time::sleep(Duration::from_secs(60)).await;
    source.says(TargetState::Ready(Arc::new(world.listener.clone())), &nothing);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(flags(&client.get("http://shop/").await), Flags::NC, "who does not wait");
    assert!(!call.is_finished());
    world.tell(&source);
    assert_eq!(text(ended(call).await.unwrap().unwrap()).await, "10.0.0.1 / shop - -");
}

#[tokio::test(start_paused = true)]
async fn call_whose_time_is_up_before_the_first_configuration_says_what_it_waited_for() {
    let source = Said::default();
    let client = Client::builder("shop").mesh(&source.mesh()).build().unwrap();
    let error = client.request(with(CallOptions::new().within(Duration::from_secs(1)))).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let reason = error.reason();
    assert!(reason.contains("target `shop` has no configuration after 1s"), "{reason}");
    assert!(reason.contains("limit of 1s on the whole request"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_its_cluster_has_its_routes_time() {
    let source = Said::default();
    let world = World::new(one(|to| to.policy.timeouts.request = limit(4)));
    source.says(TargetState::Ready(Arc::new(world.listener.clone())), &BTreeMap::new());
    let client = client_of(&source, |builder| builder).await;
    let start = Instant::now();
    assert_eq!(flags(&ended(client.request(with(CallOptions::new().wait_for_ready()))).await), Flags::UT);
    assert_eq!(start.elapsed(), Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_calls_that_wait_for_ready() {
    let source = Said::default();
    source.says(TargetState::Unavailable("not there".into()), &BTreeMap::new());
    let client = Client::builder("shop").mesh(&source.mesh()).build().unwrap();
    let call = tokio::spawn(client.request(with(CallOptions::new().wait_for_ready())));
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.mesh().shutdown(Duration::ZERO).await;
    assert!(ended(call).await.unwrap().unwrap_err().is_unrouted());
}

#[tokio::test(start_paused = true)]
async fn breakers_of_the_two_priorities_are_apart() {
    let high = Route::new(RouteMatch::path(PathMatch::prefix("/high")), {
        let mut to = to("mute");
        to.priority = RequestPriority::High;
        Action::Forward(to)
    });
    let world = World::of(VirtualHost::any("all", vec![high, mute(Timeouts::default())]));
    let narrow = |max_requests| Thresholds { max_requests: Some(max_requests), ..Thresholds::default() };
    let client = world
        .client_with(|builder| {
            builder.no_retries().pin(|policy| {
                policy.cluster.circuit_breakers.default = narrow(1);
                policy.cluster.circuit_breakers.high = narrow(2);
            })
        })
        .await;
    let mut held = JoinSet::new();
    held.spawn(client.get("http://shop/"));
    held.spawn(client.get("http://shop/high"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let in_flight = || -> u32 {
        let clusters = client.mesh().status().clusters;
        clusters.iter().flat_map(|cluster| &cluster.endpoints).map(|endpoint| endpoint.in_flight).sum()
    };
    assert_eq!(in_flight(), 2);
    assert_eq!(flags(&client.get("http://shop/").await), Flags::UO);
    held.spawn(client.request(with(CallOptions::new().priority(RequestPriority::High))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(in_flight(), 3, "the call itself may say which breaker counts it");
    assert_eq!(flags(&client.get("http://shop/high").await), Flags::UO);
}

#[tokio::test(start_paused = true)]
async fn explanation_is_what_happens() {
    let picky = Route::new(RouteMatch::path(PathMatch::prefix("/two")), Action::Forward(to("two")));
    let client = World::of(VirtualHost::any("all", vec![picky, one(|_| {})])).client().await;
    for (path, route, address) in [("/two", 0, "10.0.0.2"), ("/", 1, "10.0.0.1")] {
        let request = request(path, &[]);
        assert_eq!(client.explain(&request).unwrap().outcome().unwrap(), route);
        assert!(text(client.request(request).await.unwrap()).await.starts_with(address), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_error_has_a_flag() {
    let rewritten =
        World::new(one(|to| to.host_rewrite = Some(HostRewrite::Header(HeaderName::from_static("x-host")))));
    let client = rewritten.client().await;
    let error = client.get("not a uri").await.unwrap_err();
    assert_eq!((error.kind(), error.flags(), error.sent()), (FailureKind::Request, Flags::DPE, Sent::No));
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    let error = client.request(request("/", &[("x-host", "bad host")])).await.unwrap_err();
    assert_eq!((error.kind(), error.flags()), (FailureKind::Request, Flags::DPE));

    let broken = http_body_util::StreamBody::new(futures_util::stream::iter([
        Ok(http_body::Frame::data(Bytes::from("a"))),
        Err("the caller's own"),
    ]));
    let error = client.request(Request::post("http://shop/").body(broken).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.flags()), (FailureKind::RequestBody, Flags::DC));
}
