//! Where a client makes something else of a mutation than ours does, and why: the one list, which tests hold to be exact and
//! from which the page beside mesh-xds-client is written.
//!
//! A fault of ours is mended and not listed. What is listed has a reason that would be given to the operator of a control
//! plane: Envoy's rules and gRPC's disagree, a peer has a limit of its own, or Istio sends what gRPC's clients would refuse.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::client::{Client, Ours};
use super::verdict::{self, Verdict};
use super::{Scene, generate, mutate};

/// A client that we did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// gRPC's C-core, by way of Python.
    GrpcCore,
    /// grpc-go.
    GrpcGo,
    /// Envoy as a sidecar, which is asked for its verdict alone.
    Envoy,
}

/// Rows that one reason explains.
struct Group {
    reason: &'static str,
    rows: &'static [Row],
}

/// What each client makes of one mutation: `refused`, or who answers the two methods that are called, a backend or a code.
/// Of Envoy it is `refused` or `accepted`. `=` is what ours does.
struct Row {
    mutation: &'static str,
    ours: &'static str,
    core: &'static str,
    go: &'static str,
    envoy: &'static str,
}

const fn row(
    mutation: &'static str,
    ours: &'static str,
    core: &'static str,
    go: &'static str,
    envoy: &'static str,
) -> Row {
    Row { mutation, ours, core, go, envoy }
}

/// Tries every mutation on our client, which has to differ from what `peer` makes of them as the list says.
///
/// # Panics
///
/// When it differs otherwise, and where [`verdict::of_all`] does.
pub async fn assert_as_listed(peer: Peer, scene: &Scene, theirs: &BTreeMap<&'static str, Verdict>) {
    let ours = verdict::of_mutations(scene, &mut Client::Ours(Ours::new(&scene.bootstrap))).await;
    let found = unlisted(peer, &ours, theirs);
    assert!(found.is_empty(), "{} not as listed:\n{}", found.len(), found.join("\n"));
}

/// What the list does not say of `peer`, one line each: a difference that is not listed, or one that is and is no more.
/// Verdicts are by the name of the mutation.
fn unlisted(
    peer: Peer,
    ours: &BTreeMap<&'static str, Verdict>,
    theirs: &BTreeMap<&'static str, Verdict>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (mutation, verdict) in theirs {
        let (our, their) = (told(peer, &ours[mutation]), told(peer, verdict));
        let listed = of(mutation).map(|row| row.theirs(peer)).filter(|theirs| *theirs != "=");
        let is_listed = match listed {
            Some(theirs) => theirs == their && our != their,
            None => our == their,
        };
        if !is_listed {
            let words = ours[mutation].words.iter().chain(&verdict.words).cloned().collect::<Vec<_>>().join("; ");
            let listed = listed.unwrap_or("=");
            found.push(format!("{mutation}: ours {our}, {peer:?} {their}, listed as {listed}: {words}"));
        }
    }
    found
}

/// Where ours does not do what the list says, one line each.
pub fn changed(ours: &BTreeMap<&'static str, Verdict>) -> Vec<String> {
    let mut found = Vec::new();
    for row in rows() {
        match ours.get(row.mutation).map(ToString::to_string) {
            Some(our) if our == row.ours => {}
            our => found.push(format!("{}: listed as {}, is {our:?}", row.mutation, row.ours)),
        }
    }
    found
}

/// The page about all of it, in Markdown.
pub fn page() -> String {
    let (generated, mutations) = (generate::COUNT.to_string(), mutate::all().len().to_string());
    let mut page = PREFACE.replace("GENERATED", &generated).replace("MUTATIONS", &mutations);
    for Group { reason, rows } in LISTED {
        let _ = write!(page, "\n{reason}\n\n| mutation | ours | C-core | grpc-go | Envoy |\n|---|---|---|---|---|\n");
        for Row { mutation, ours, core, go, envoy } in *rows {
            let same = |theirs: &'static str| if theirs == "=" { "" } else { theirs };
            let (core, go, envoy) = (same(core), same(go), same(envoy));
            let _ = writeln!(page, "| {mutation} | {ours} | {core} | {go} | {envoy} |");
        }
    }
    page
}

const PREFACE: &str = "\
# What our xDS client makes of a configuration, and what others make of it

One control plane hands the same configurations to this crate's client as a gRPC client, to gRPC's C-core, to grpc-go and, as
a sidecar's, to Envoy. `.ci/interop grpc-core grpc-go envoy` compares them; this page is written from the list that those tests
hold to be exact, and a test holds the page to the list.

Of GENERATED generated configurations (paths, headers, weights, fractions, localities, priorities, health, DNS, aggregates,
retries, durations, hosts, drops, faults) the three gRPC clients make the same: they accept them, the same backends answer, and with the
shares that are meant.

Of MUTATIONS mutations, which break one field of a good configuration each or set one that some client does not know,
these are the ones where somebody differs. A cell says `refused`, or who answers two methods: the first belongs to the
backend `a`, the second to `b`. An empty cell is what ours does. Envoy is asked for its verdict only.
";

fn rows() -> impl Iterator<Item = &'static Row> {
    LISTED.iter().flat_map(|group| group.rows)
}

fn of(mutation: &str) -> Option<&'static Row> {
    rows().find(|row| row.mutation == mutation)
}

/// A verdict in the words of the list.
fn told(peer: Peer, verdict: &Verdict) -> String {
    match (peer, verdict.is_accepted()) {
        (Peer::Envoy, true) => "accepted".to_owned(),
        _ => verdict.to_string(),
    }
}

// === impl Row ===

impl Row {
    fn theirs(&self, peer: Peer) -> &'static str {
        match peer {
            Peer::GrpcCore => self.core,
            Peer::GrpcGo => self.go,
            Peer::Envoy => self.envoy,
        }
    }
}

const LISTED: &[Group] = &[
    Group {
        reason: "gRPC's clients refuse what gRFCs A27, A29, A39, A41 or A48 tell them to; Envoy has no such rule. Ours is a gRPC client too, and a server that sends such a resource to one has made a mistake.",
        rows: &[
            row("manager: xff_num_trusted_hops 1", "refused", "=", "=", "accepted"),
            row("filters: none", "refused", "=", "=", "accepted"),
            row("filters: one name twice", "refused", "=", "=", "accepted"),
            row("filters: RBAC of a server", "refused", "=", "=", "accepted"),
            row("policies: least request of one choice", "refused", "=", "=", "accepted"),
            row("reports: to another server", "refused", "=", "=", "accepted"),
            row("locality: missing", "refused", "=", "=", "accepted"),
            row("locality: priority 1 alone", "refused", "=", "=", "accepted"),
            row("locality: priorities 0 and 2", "refused", "=", "=", "accepted"),
            row("locality: twice at one priority", "refused", "=", "=", "accepted"),
            row("locality: weights beyond 32 bits", "refused", "=", "=", "accepted"),
            row("endpoint: twice in one locality", "refused", "=", "=", "accepted"),
            row("TLS: no common context", "refused", "=", "=", "accepted"),
            row("TLS: no validation", "refused", "=", "=", "accepted"),
            row("TLS: validation without roots", "refused", "=", "=", "accepted"),
            row("TLS: verify_certificate_spki", "refused", "=", "=", "accepted"),
            row("TLS: verify_certificate_hash", "refused", "=", "=", "accepted"),
            row("TLS: require_signed_certificate_timestamp", "refused", "=", "=", "accepted"),
            row("TLS: roots of an unknown provider", "refused", "=", "=", "accepted"),
            row("TLS: an identity of an unknown provider", "refused", "=", "=", "accepted"),
            row("TLS: certificates inline", "refused", "=", "=", "accepted"),
            row("TLS: certificates by SDS", "refused", "=", "=", "accepted"),
            row("TLS: validation by SDS", "refused", "=", "=", "accepted"),
            row("header: no matcher", "refused", "=", "=", "accepted"),
            row("header: no matcher, present", "refused", "=", "=", "accepted"),
        ],
    },
    Group {
        reason: "Envoy checks the constraints of every field of a message that it knows. Here, as in gRPC's clients, a field that nothing reads breaks nothing.",
        rows: &[
            row("manager: request_timeout negative", "a, b", "=", "=", "refused"),
            row("manager: stat_prefix empty", "a, b", "=", "=", "refused"),
            row("manager: codec_type unknown", "a, b", "=", "=", "refused"),
            row("host: no name", "a, b", "=", "=", "refused"),
            row("weighted: a name and a header", "a, b", "=", "=", "refused"),
            row("retry: an unknown predicate of hosts", "a, b", "=", "=", "refused"),
            row("hash: by nothing", "a, b", "=", "=", "refused"),
            row("hash: by a cookie", "a, b", "=", "=", "refused"),
            row("mirror: to nowhere", "a, b", "=", "=", "refused"),
            row("cluster: unknown protocol options", "a, b", "=", "=", "refused"),
            row("cluster: an HTTP/2 window of one byte", "a, b", "=", "=", "refused"),
            row("cluster: a health check without anything", "a, b", "=", "=", "refused"),
            row("endpoint: resolver_name", "a, b", "=", "=", "refused"),
            row("endpoint: health check port 70000", "a, b", "=", "=", "refused"),
            row("policy: endpoint_stale_after 0", "a, b", "=", "=", "refused"),
            row("policy: endpoint_stale_after negative", "a, b", "=", "=", "refused"),
        ],
    },
    Group {
        reason: "What Envoy refuses is refused here, read by gRPC's clients or not: the model has Envoy's constraints, and a control plane that breaks one has made a mistake.",
        rows: &[
            row("fault: abort without a status", "refused", "a, b", "a, b", "="),
            row("fault: abort with HTTP status 100", "refused", "UNKNOWN, UNKNOWN", "a, b", "="),
            row("fault: abort with HTTP status 700", "refused", "UNKNOWN, UNKNOWN", "a, b", "="),
            row("fault: abort of an unknown denominator", "refused", "a, b", "a, b", "="),
            row("fault: delay without a time", "refused", "a, b", "a, b", "="),
            row("fault: delay of an unknown denominator", "refused", "a, b", "a, b", "="),
            row("manager: stream_idle_timeout negative", "refused", "a, b", "a, b", "="),
            row("host: one domain twice", "refused", "a, b", "a, b", "="),
            row("host: one domain in two hosts", "refused", "a, b", "a, b", "="),
            row("match: a fraction without a value", "refused", "a, b", "b, b", "="),
            row("match: a query parameter without a name", "refused", "b, b", "b, b", "="),
            row("header: no name", "refused", "b, b", "b, b", "="),
            row("action: redirect with an unknown code", "refused", "UNAVAILABLE, b", "UNAVAILABLE, b", "="),
            row("action: direct response of status 99", "refused", "UNAVAILABLE, b", "UNAVAILABLE, b", "="),
            row("action: direct response of status 600", "refused", "UNAVAILABLE, b", "UNAVAILABLE, b", "="),
            row("forward: as a header without a name says", "refused", "b, b", "b, b", "="),
            row("retry: max_interval below base_interval", "refused", "a, b", "a, b", "="),
            row("retry: per_try_timeout negative", "refused", "a, b", "a, b", "="),
            row("timeout: negative", "refused", "a, b", "a, b", "="),
            row("timeout: of too many nanoseconds", "refused", "a, b", "a, b", "="),
            row("timeout: idle_timeout negative", "refused", "a, b", "a, b", "="),
            row("override: unknown, of all", "refused", "a, b", "a, b", "="),
            row("headers: one to add without a name", "refused", "a, b", "a, b", "="),
            row("headers: one to add with a line break", "refused", "a, b", "a, b", "="),
            row("headers: a pseudo-header to add", "refused", "a, b", "a, b", "="),
            row("headers: a pseudo-header to remove", "refused", "a, b", "a, b", "="),
            row("headers: host to remove", "refused", "a, b", "a, b", "="),
            row("headers: one to remove without a name", "refused", "a, b", "a, b", "="),
            row("rewrite: prefix and expression", "refused", "a, b", "a, b", "="),
            row("rewrite: a bad expression", "refused", "a, b", "a, b", "="),
            row("rewrite: the host, with a line break", "refused", "a, b", "a, b", "="),
            row("forward: an unknown priority", "refused", "a, b", "a, b", "="),
            row("forward: an unknown code for a missing cluster", "refused", "a, b", "a, b", "="),
            row("DNS: port 70000", "refused", "UNAVAILABLE, b", "UNAVAILABLE, b", "="),
            row("lb: a panic threshold above 100", "refused", "a, b", "a, b", "="),
            row("TLS: a name matched by a bad expression", "refused", "a, b", "a, b", "="),
            row("TLS: a name matched by nothing", "refused", "a, b", "a, b", "="),
            row("TLS: a name matched by an empty prefix", "refused", "a, b", "a, b", "="),
            row("TLS: a name of an unspecified kind", "refused", "a, b", "a, b", "="),
            row("outliers: interval 0", "refused", "a, b", "a, b", "="),
            row("outliers: enforcing_consecutive_5xx 101", "refused", "a, b", "a, b", "="),
            row("breakers: an unknown priority", "refused", "a, b", "a, b", "="),
            row("cluster: connect_timeout 0", "refused", "a, b", "a, b", "="),
            row("cluster: connect_timeout negative", "refused", "a, b", "a, b", "="),
            row("locality: endpoints to be found by LEDS", "refused", "a, b", "a, b", "="),
            row("policy: overprovisioning_factor 0", "refused", "a, b", "a, b", "="),
            row("filters: router disabled", "refused", "a, b", "a, b", "="),
            row("endpoint: no port", "refused", "UNAVAILABLE, b", "UNAVAILABLE, b", "="),
            row("endpoint: a port by name", "refused", "UNAVAILABLE, b", "UNAVAILABLE, b", "="),
            row("policies: bytes that are no round robin", "refused", "a, b", "a, b", "="),
        ],
    },
    Group {
        reason: "grpc-go takes what it cannot use: it leaves the part out, or its calls fail or wait. C-core and Envoy refuse it, and so do we.",
        rows: &[
            row("manager: routes inline, without domains", "refused", "=", "UNAVAILABLE, UNAVAILABLE", "="),
            row("fault: delay of a negative time", "refused", "=", "a, b", "="),
            row("manager: max_stream_duration negative", "refused", "=", "a, b", "="),
            row("manager: max_stream_duration of too many nanoseconds", "refused", "=", "a, b", "="),
            row("manager: max_stream_duration of too many seconds", "refused", "=", "a, b", "="),
            row("host: no domains", "refused", "=", "UNAVAILABLE, UNAVAILABLE", "="),
            row("match: a fraction of an unknown denominator", "refused", "=", "b, b", "="),
            row("forward: to a cluster without a name", "refused", "=", "DEADLINE_EXCEEDED, DEADLINE_EXCEEDED", "="),
            row("weighted: one without a weight", "refused", "=", "a, b", "="),
            row("weighted: one without a name", "refused", "=", "DEADLINE_EXCEEDED, DEADLINE_EXCEEDED", "="),
            row("timeout: max_stream_duration negative", "refused", "=", "a, b", "="),
            row("timeout: max_stream_duration of too many nanoseconds", "refused", "=", "a, b", "="),
            row("timeout: grpc_timeout_header_max negative", "refused", "=", "a, b", "="),
            row("hash: by a header without a name", "refused", "=", "a, b", "="),
            row("ring: minimum above maximum", "refused", "=", "UNAVAILABLE, b", "="),
            row("ring: maximum 0", "refused", "=", "a, b", "="),
            row("ring: minimum above eight million", "refused", "=", "UNAVAILABLE, b", "="),
            row("ring: maximum above eight million", "refused", "=", "UNAVAILABLE, b", "="),
            row("policies: weighted by load, with a negative period", "refused", "=", "a, b", "="),
            row("TLS: sni beyond 255 bytes", "refused", "=", "a, b", "="),
            row("endpoint: nothing in it", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: a name in place of an address", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: no address", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: an address of no kind", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: a host name as address", "refused", "=", "a, b", "="),
            row("endpoint: an empty address", "refused", "=", "a, b", "="),
            row("endpoint: port 70000", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: a pipe without a path", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: an internal listener", "refused", "=", "UNAVAILABLE, b", "="),
            row("endpoint: an additional address without a port", "refused", "=", "a, b", "="),
            row("endpoint: an additional address that is a host name", "refused", "=", "a, b", "="),
            row("drops: no category", "refused", "=", "a, b", "="),
        ],
    },
    Group {
        reason: "C-core takes it, grpc-go and Envoy refuse it, and so do we.",
        rows: &[
            row("header: string with an empty prefix", "refused", "a, b", "=", "="),
            row("header: string with an empty suffix", "refused", "a, b", "=", "="),
            row("header: string that contains nothing", "refused", "a, b", "=", "="),
            row("retry: base_interval 0", "refused", "UNAVAILABLE, UNAVAILABLE", "=", "="),
            row("retry: max_interval 0", "refused", "UNAVAILABLE, UNAVAILABLE", "=", "="),
            row("outliers: failure_percentage_threshold 101", "refused", "a, b", "=", "="),
        ],
    },
    Group {
        reason: "A domain, or a weight, that can match or mean nothing is refused, as by C-core at least: Envoy and grpc-go keep it and never come to it.",
        rows: &[
            row("host: an empty domain", "refused", "=", "UNAVAILABLE, UNAVAILABLE", "accepted"),
            row("host: an empty domain beside a good one", "refused", "=", "UNAVAILABLE, UNAVAILABLE", "accepted"),
            row("host: a domain with a star inside", "refused", "=", "UNAVAILABLE, UNAVAILABLE", "accepted"),
        ],
    },
    Group {
        reason: "A star is a wildcard at one end of a domain only. The others take two for a pattern that is read as it happens to be: a host that each reader gives other requests to is refused. Istio allows a star in the first label of a host alone, and puts one before the names of headless services, which have none.",
        rows: &[
            row("host: a domain of two stars", "refused", "a, b", "a, b", "accepted"),
            row("host: a domain with stars at both ends", "refused", "a, b", "a, b", "accepted"),
        ],
    },
    Group {
        reason: "Hosts are told apart by name in status, metrics and explanations here, so that two of one name are refused; to the others a name is a label. Istio names each by its host and port, and leaves out a second of that name.",
        rows: &[row("host: one name twice", "refused", "a, b", "a, b", "accepted")],
    },
    Group {
        reason: "C-core skips a locality without a weight before it looks at its name; Envoy needs no name. Here it is refused before it is skipped, as in grpc-go.",
        rows: &[row("locality: missing, without a weight", "refused", "UNAVAILABLE, b", "=", "accepted")],
    },
    Group {
        reason: "C-core does not add up the weights of endpoints, which it does not use; Envoy bounds them in another way. gRFC A27's bound holds here as in grpc-go.",
        rows: &[row("endpoint: weights beyond 32 bits", "refused", "a+c, b", "=", "accepted")],
    },
    Group {
        reason: "A percentage that is missing is refused as by C-core (gRFC A27); grpc-go and Envoy read it as none.",
        rows: &[row("drops: no percentage", "refused", "=", "a, b", "accepted")],
    },
    Group {
        reason: "The name of the routes is required by Envoy's own documentation of the field, and by grpc-go; C-core and Envoy ask for a resource without a name, and wait.",
        rows: &[row("rds: no name", "refused", "DEADLINE_EXCEEDED, DEADLINE_EXCEEDED", "=", "accepted")],
    },
    Group {
        reason: "The weighted cluster of a header is not known here, and a name is missing; C-core says so too. grpc-go waits for a cluster without a name.",
        rows: &[row(
            "weighted: a header in place of a name",
            "refused",
            "=",
            "DEADLINE_EXCEEDED, DEADLINE_EXCEEDED",
            "accepted",
        )],
    },
    Group {
        reason: "`self` is gRPC's own word for the same server (gRFC A27), which Envoy does not know.",
        rows: &[
            row("rds: config_source self", "a, b", "=", "=", "refused"),
            row("EDS: eds_config self", "a, b", "=", "=", "refused"),
        ],
    },
    Group {
        reason: "Envoy asks that the router comes last even if what follows is unknown and optional; by gRFC A39 what is skipped is not there.",
        rows: &[row("filters: unknown, optional, after the router", "a, b", "=", "=", "refused")],
    },
    Group {
        reason: "An optional filter that is not understood is skipped (gRFC A39). C-core wants to see its configuration; Envoy could fetch it, and finds no source.",
        rows: &[
            row("filters: no configuration, optional", "a, b", "refused", "=", "="),
            row("filters: configuration by discovery, optional", "a, b", "refused", "=", "refused"),
        ],
    },
    Group {
        reason: "Istio marks none of its filters optional: this one stands in the listeners of its sidecars, and that of sticky sessions also in those of gRPC's clients. They decide nothing about whether a request is allowed, and are skipped with a warning.",
        rows: &[row("filters: CORS", "a, b", "refused", "refused", "=")],
    },
    Group {
        reason: "`disabled` is known to Envoy and to us. grpc-go reads past it and injects the fault.",
        rows: &[row("fault: disabled", "a, b", "=", "UNAVAILABLE, UNAVAILABLE", "=")],
    },
    Group {
        reason: "The wrapper says that a filter is off, and it is, whichever it is: Envoy's reading. gRPC's clients want to know the filter first.",
        rows: &[row("override: wrapped, disabled", "a, b", "refused", "refused", "=")],
    },
    Group {
        reason: "C-core knows the codes of gRPC by number; to the others any number may be sent.",
        rows: &[row("fault: abort with gRPC status 99", "UNKNOWN, UNKNOWN", "refused", "=", "=")],
    },
    Group {
        reason: "Envoy's matchers of a path are known here and decide as they do there. gRPC's clients know the prefix, the path and the expression only.",
        rows: &[
            row("match: CONNECT", "b, b", "refused", "refused", "="),
            row("match: a separated prefix", "a, a", "refused", "refused", "="),
        ],
    },
    Group {
        reason: "Envoy wants an expression of one byte at least; gRPC's clients and ours take the empty one, which matches nothing that is called.",
        rows: &[row("match: an empty expression", "b, b", "=", "=", "refused")],
    },
    Group {
        reason: "A limit of the library RE2 on repetitions; ours bounds the compiled size instead.",
        rows: &[row("match: a repetition beyond a thousand", "b, b", "refused", "refused", "refused")],
    },
    Group {
        reason: "A condition that is not known here is never met, so that a route is not taken by requests that it was not meant for. gRPC's clients leave the condition out.",
        rows: &[
            row("match: TLS context", "b, b", "a, b", "a, b", "="),
            row("match: dynamic metadata", "b, b", "a, b", "a, b", "refused"),
        ],
    },
    Group {
        reason: "A field of Envoy's that gRPC's clients read past: a header that is not there is treated as one that is empty, and so as one that is present.",
        rows: &[row("header: a missing one treated as empty", "b, b", "a, b", "a, b", "=")],
    },
    Group {
        reason: "C-core refuses a range that is empty by more than nothing; to the others, and to us, it matches nothing.",
        rows: &[row("header: a range that ends before it starts", "b, b", "refused", "=", "=")],
    },
    Group {
        reason: "To grpc-go a call has no content-type while it is routed, whatever gRFC A28 says.",
        rows: &[row("header: content-type", "a, b", "=", "b, b", "=")],
    },
    Group {
        reason: "A route whose action is not known keeps its requests and fails them, rather than let them fall through to a route that was not meant for them. gRPC's clients leave such a route out, and Envoy refuses it.",
        rows: &[
            row("forward: nowhere", "UNAVAILABLE, b", "b, b", "b, b", "refused"),
            row("plugin: inline", "UNAVAILABLE, b", "b, b", "b, b", "refused"),
            row("action: missing", "UNAVAILABLE, b", "=", "=", "refused"),
        ],
    },
    Group {
        reason: "The cluster that a header names is known here, as it is to Envoy; these calls have no such header, so they fail. gRPC's clients leave the route out.",
        rows: &[row("forward: as a header says", "UNAVAILABLE, b", "b, b", "b, b", "=")],
    },
    Group {
        reason: "C-core wants plugins to have different names; nobody else has plugins to mix up.",
        rows: &[row("plugin: one name twice", "a, b", "refused", "=", "=")],
    },
    Group {
        reason: "No retries, as Envoy reads it; gRPC's clients refuse the number (gRFC A44).",
        rows: &[
            row("retry: num_retries 0", "a, b", "refused", "refused", "="),
            row("retry: of the host, num_retries 0", "a, b", "refused", "refused", "="),
        ],
    },
    Group {
        reason: "C-core reads durations below a millisecond as none, and then has no service config that it takes.",
        rows: &[row("retry: base_interval below a millisecond", "a, b", "UNAVAILABLE, UNAVAILABLE", "=", "=")],
    },
    Group {
        reason: "C-core reads `retry_on` letter by letter, blanks and capitals included; Envoy and grpc-go trim it.",
        rows: &[row("retry: retry_on with blanks", "a, b", "UNAVAILABLE, b", "=", "=")],
    },
    Group {
        reason: "C-core reads `retry_on` in lower case only; the others do not mind.",
        rows: &[row("retry: retry_on in capitals", "a, b", "UNAVAILABLE, b", "=", "=")],
    },
    Group {
        reason: "C-core 1.85 is early by a second: calls of a route whose limit is two seconds end after one, and where it is one they end at once.",
        rows: &[row(
            "timeout: max_stream_duration less than a second longer than the call",
            "a, b",
            "DEADLINE_EXCEEDED, b",
            "=",
            "=",
        )],
    },
    Group {
        reason: "The model knows clusters that are not EDS; gRPC's clients do not.",
        rows: &[
            row("type: STATIC", "a, b", "refused", "refused", "="),
            row("type: STRICT_DNS", "a, b", "refused", "refused", "="),
        ],
    },
    Group {
        reason: "More policies are known here than in gRPC's clients, and what is not known is replaced by turns with a warning rather than that the cluster is lost: Istio sends least requests and rings to gRPC's clients too, and all of these to sidecars, whose clusters are read here as well. Envoy has pick_first in other builds, and splits by locality only around a policy that is weighted by load.",
        rows: &[
            row("policy: LEAST_REQUEST", "a, b", "refused", "=", "="),
            row("policy: RANDOM", "a, b", "refused", "refused", "="),
            row("policy: MAGLEV", "a, b", "refused", "refused", "="),
            row("ring: another hash", "a, b", "refused", "refused", "="),
            row("policies: ring hash of another hash", "a, b", "refused", "refused", "="),
            row("policies: ring hash of the default hash", "a, b", "=", "refused", "="),
            row("policies: least request", "a, b", "refused", "=", "="),
            row("policies: pick first", "a, b", "=", "=", "refused"),
            row("policies: localities around round robin", "a, b", "=", "=", "refused"),
        ],
    },
    Group {
        reason: "gRFCs A42 and A58 bound these, and grpc-go does so in part; Envoy looks at less.",
        rows: &[
            row("ring: minimum 0", "refused", "=", "a, b", "accepted"),
            row("policies: weighted by load, with a negative penalty", "refused", "=", "=", "accepted"),
            row("policies: ring hash with minimum 0", "refused", "=", "a, b", "accepted"),
            row("policies: ring hash of more than eight million", "refused", "=", "=", "accepted"),
        ],
    },
    Group {
        reason: "Endpoints that differ in transport are Istio's way to mutual TLS, read here as by Envoy. grpc-go refuses the list and C-core reads past it.",
        rows: &[row("socket: matches", "a, b", "=", "refused", "=")],
    },
    Group {
        reason: "A transport in plain text is one that Envoy has, and Istio sends.",
        rows: &[row("socket: raw", "a, b", "refused", "refused", "=")],
    },
    Group {
        reason: "The type of a transport is what counts, not its name; grpc-go wants the name too. The peers' channels have credentials without TLS, so that calls reach the backend, which ours does not speak TLS with.",
        rows: &[row("socket: another name", "UNAVAILABLE, b", "a, b", "refused", "=")],
    },
    Group {
        reason: "Istio tells sidecars to speak TLS 1.2 and 1.3, which is spoken here anyway; gRPC's clients refuse the message whatever it says. Narrower limits are refused here too, since they would not be kept. The backend speaks no TLS, so calls fail.",
        rows: &[row("TLS: tls_params", "UNAVAILABLE, b", "refused", "refused", "=")],
    },
    Group {
        reason: "Roots of the system are known here, to Envoy, and to C-core by default; grpc-go has them behind a switch. The backend speaks no TLS, so our calls fail, while C-core's channel has credentials without TLS.",
        rows: &[row("TLS: roots of the system", "UNAVAILABLE, b", "a, b", "refused", "=")],
    },
    Group {
        reason: "A limit of no connections at all would leave the cluster without use; the others read past it, or let requests wait for ever. Istio sends no limits per host, and leaves out one of zero for the cluster.",
        rows: &[row("breakers: max_connections 0 per host", "refused", "a, b", "a, b", "accepted")],
    },
    Group {
        reason: "C-core looks at a field that nobody else reads.",
        rows: &[row("cluster: an unknown upstream_config", "a, b", "refused", "=", "=")],
    },
    Group {
        reason: "Envoy wants a weight of one at least; by gRFC A27 a locality of none gets nothing.",
        rows: &[
            row("locality: weight 0", "UNAVAILABLE, b", "=", "=", "refused"),
            row("locality: weight 0, beside another", "c, b", "=", "=", "refused"),
        ],
    },
    Group {
        reason: "Requests go over TCP here, and an endpoint of another protocol is not one that TCP reaches; Envoy has QUIC, and gRPC's clients do not look.",
        rows: &[row("endpoint: UDP", "refused", "a, b", "a, b", "accepted")],
    },
    Group {
        reason: "Istio lists the gateway of a remote network in every locality behind it. What was listed before is left out, as in Envoy.",
        rows: &[
            row("endpoint: in two localities", "a, b", "refused", "refused", "="),
            row("endpoint: at two priorities", "a, b", "refused", "refused", "="),
            row("endpoint: an additional address that is the first one", "a, b", "refused", "refused", "="),
        ],
    },
    Group {
        reason: "More than everything is everything to gRPC's clients and to us; Envoy refuses it.",
        rows: &[row("drops: 150 per cent", "UNAVAILABLE, b", "=", "=", "refused")],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::{env, fs};

    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mesh-xds-client/CONFORMANCE.md");

    #[test]
    fn page_says_what_the_list_does() {
        if env::var_os("MESH_WRITE_CONFORMANCE").is_some() {
            fs::write(PAGE, page()).expect("the checkout can be written to");
        }
        let written = fs::read_to_string(PAGE).expect("the page is in the checkout");
        assert!(written == page(), "write it anew: MESH_WRITE_CONFORMANCE=1 cargo test -p mesh-tests page_says");
    }

    #[test]
    fn rows_are_of_mutations_listed_once_and_differ_somewhere() {
        let names: BTreeSet<_> = mutate::all().iter().map(|mutation| mutation.name).collect();
        let mut listed = BTreeSet::new();
        for row in rows() {
            assert!(names.contains(row.mutation), "{} is no mutation", row.mutation);
            assert!(listed.insert(row.mutation), "{} is listed twice", row.mutation);
            assert!([row.core, row.go, row.envoy] != ["="; 3], "{} differs nowhere", row.mutation);
        }
    }
}
