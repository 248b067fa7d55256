//! What happens to the requests of a route: forwarding, redirects, direct answers (`Route.action`).

use std::{collections::BTreeMap, sync::Arc};

use envoy_types::pb::envoy::{
    config::{core::v3 as core, route::v3 as pb},
    r#type::matcher::v3::RegexMatchAndSubstitute,
};
use http::StatusCode;
use mesh_core::config::{
    Action, ClusterChoice, ConfigError, DirectResponse, FaultInjection, Forward, HostRewrite, PathRewrite, Redirect,
    RedirectPath, RequestPriority, RoutePolicy, Timeouts, WeightedCluster, WeightedClusters,
};

use super::{
    Rules,
    common::{duration, filled, header_name, limit, printable, status, told_as},
    filter,
    header::{self, REQUEST, RESPONSE},
    matcher,
    notes::{IsSet, Notes, warn_if_set},
    retry,
};

/// What the configuration as a whole says and its virtual hosts need.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scope {
    /// Cluster specifier plugins by name, and whether one may be missing.
    pub(super) plugins: BTreeMap<String, Optional>,
    pub(super) rules: Rules,
    /// The longest body of a direct response.
    pub(super) longest_body: usize,
    /// What holds where a virtual host has no override of its own.
    pub(super) faults: Option<Arc<FaultInjection>>,
}

/// Whether what is not known here may be left out.
pub(super) type Optional = bool;

const NAME_A_CLUSTER: &str = "name the cluster";

/// An action; none when the route is to be left out.
pub(super) fn decode(
    action: Option<pb::route::Action>,
    scope: &Scope,
    notes: &mut Notes,
) -> Result<Option<Action>, ConfigError> {
    use pb::route::Action as Wire;
    match action {
        Some(Wire::Route(message)) => notes.at("route", message, |message, notes| forward(message, scope, notes)),
        Some(Wire::Redirect(message)) => notes.at("redirect", message, redirect).map(Some),
        Some(Wire::DirectResponse(message)) => {
            notes.at("direct_response", message, |message, notes| respond(message, scope, notes)).map(Some)
        }
        Some(Wire::NonForwardingAction(_)) => Ok(Some(Action::PassOn)),
        Some(Wire::FilterAction(_)) => Ok(Some(unsupported("filter_action", notes))),
        None => Ok(Some(unsupported("action", notes))),
    }
}

/// The route stays, so that its requests do not fall through to one that was not meant for them.
fn unsupported(field: &'static str, notes: &mut Notes) -> Action {
    notes.warn(field, "this is not known here; requests of the route fail");
    Action::Unsupported(field.into())
}

// --- route ---

fn forward(mut message: pb::RouteAction, scope: &Scope, notes: &mut Notes) -> Result<Option<Action>, ConfigError> {
    use pb::route_action::ClusterSpecifier;
    if let Some(ClusterSpecifier::ClusterSpecifierPlugin(name)) = &message.cluster_specifier {
        if scope.plugins.contains_key(name) {
            notes.warn("cluster_specifier_plugin", "no plugin is known here; the route is left out");
            return Ok(None);
        }
        let remedy = "name one of cluster_specifier_plugins";
        return Err(ConfigError::new("cluster_specifier_plugin", name, remedy));
    }
    if let Some(field) = beyond_forward(&message) {
        return Ok(Some(unsupported(field, notes)));
    }
    warn_of_unread(&message, notes);
    let mut forward = Forward::to(cluster(message.cluster_specifier.take(), scope.rules, notes)?);
    forward.path_rewrite = path_rewrite(std::mem::take(&mut message.prefix_rewrite), message.regex_rewrite.as_ref())?;
    forward.host_rewrite = host_rewrite(message.host_rewrite_specifier.take())?;
    if !scope.rules.may_rewrite_hosts && forward.host_rewrite.take().is_some() {
        notes.warn(
            "host_rewrite_specifier",
            "requests keep their authority; the bootstrap does not call the server trusted_xds_server",
        );
    }
    forward.priority = priority(message.priority)?;
    forward.cluster_not_found = cluster_not_found(message.cluster_not_found_response_code)?;
    notes.each("hash_policy", std::mem::take(&mut message.hash_policy), hash_policy)?;
    forward.policy = policy(message, scope.rules, notes)?;
    Ok(Some(Action::Forward(forward)))
}

/// The field that makes a request what it cannot be made here, so that sending it would be wrong.
fn beyond_forward(message: &pb::RouteAction) -> Option<&'static str> {
    use pb::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    match &message.cluster_specifier {
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => return Some("inline_cluster_specifier_plugin"),
        None => return Some("cluster_specifier"),
        _ => {}
    }
    match &message.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => return Some("host_rewrite_path_regex"),
        Some(HostRewriteSpecifier::HostRewrite(_)) => return Some("host_rewrite"),
        _ => {}
    }
    if message.path_rewrite_policy.is_some() {
        return Some("path_rewrite_policy");
    }
    message.path_rewrite.is_set().then_some("path_rewrite")
}

#[expect(deprecated, reason = "what is not honoured is warned of, deprecated or not")]
fn warn_of_unread(message: &pb::RouteAction, notes: &mut Notes) {
    warn_if_set!(
        notes,
        message,
        "requests are treated as without it",
        [
            metadata_match,
            append_x_forwarded_host,
            flush_timeout,
            retry_policy_typed_config,
            request_mirror_policies,
            rate_limits,
            hash_policy,
            cors,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            hedge_policy,
        ]
    );
}

/// Nothing is hashed here. What no other client would take is still refused: a header without a name, an expression that
/// does not compile.
fn hash_policy(message: pb::route_action::HashPolicy, notes: &mut Notes) -> Result<(), ConfigError> {
    use pb::route_action::hash_policy::PolicySpecifier;
    let Some(PolicySpecifier::Header(header)) = message.policy_specifier else {
        return Ok(());
    };
    notes.at("header", header, |header, _| {
        filled("header_name", header.header_name, "name the header")?;
        header.regex_rewrite.as_ref().map(regex_rewrite).transpose().map(drop)
    })
}

/// Time limits and retries.
#[expect(deprecated, reason = "max_grpc_timeout came before max_stream_duration and Istio still sends it")]
fn policy(message: pb::RouteAction, rules: Rules, notes: &mut Notes) -> Result<RoutePolicy, ConfigError> {
    let retry = notes.opt("retry_policy", message.retry_policy, retry::policy)?.unwrap_or_default();
    let stream = match notes.opt("max_stream_duration", message.max_stream_duration, stream_duration)? {
        Some(stream) => stream,
        None if !rules.is_for_sidecars => {
            warn_if_set!(
                notes,
                message,
                "a deadline comes from max_stream_duration alone",
                [max_grpc_timeout, grpc_timeout_offset]
            );
            Timeouts::default()
        }
        None => Timeouts {
            grpc_timeout_max: limit("max_grpc_timeout", message.max_grpc_timeout)?,
            grpc_timeout_offset: duration("grpc_timeout_offset", message.grpc_timeout_offset)?,
            ..Timeouts::default()
        },
    };
    let timeouts = Timeouts {
        request: limit("timeout", message.timeout)?,
        idle: limit("idle_timeout", message.idle_timeout)?,
        per_try: retry.timeouts.per_try,
        per_try_idle: retry.timeouts.per_try_idle,
        ..stream
    };
    Ok(RoutePolicy { timeouts, retry: retry.retry })
}

fn stream_duration(message: pb::route_action::MaxStreamDuration, _: &mut Notes) -> Result<Timeouts, ConfigError> {
    Ok(Timeouts {
        max_stream_duration: limit("max_stream_duration", message.max_stream_duration)?,
        grpc_timeout_max: limit("grpc_timeout_header_max", message.grpc_timeout_header_max)?,
        grpc_timeout_offset: duration("grpc_timeout_header_offset", message.grpc_timeout_header_offset)?,
        ..Timeouts::default()
    })
}

fn cluster(
    specifier: Option<pb::route_action::ClusterSpecifier>,
    rules: Rules,
    notes: &mut Notes,
) -> Result<ClusterChoice, ConfigError> {
    use pb::route_action::ClusterSpecifier;
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            filled("cluster", name, NAME_A_CLUSTER).map(|name| ClusterChoice::One(name.into()))
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => header_name("cluster_header", &name).map(ClusterChoice::Header),
        Some(ClusterSpecifier::WeightedClusters(message)) => notes
            .at("weighted_clusters", message, |message, notes| weighted(message, rules, notes))
            .map(ClusterChoice::Weighted),
        // `forward` took plugins and silence away.
        _ => Err(ConfigError::new("cluster_specifier", "", NAME_A_CLUSTER)),
    }
}

fn weighted(message: pb::WeightedCluster, rules: Rules, notes: &mut Notes) -> Result<WeightedClusters, ConfigError> {
    warn_if_set!(
        notes,
        message,
        "clusters are drawn at random, by their weights",
        [runtime_key_prefix, random_value_specifier]
    );
    let entries = notes.each("clusters", message.clusters, |entry, notes| weighted_entry(entry, rules, notes))?;
    WeightedClusters::new(entries)
}

fn weighted_entry(
    message: pb::weighted_cluster::ClusterWeight,
    rules: Rules,
    notes: &mut Notes,
) -> Result<WeightedCluster, ConfigError> {
    warn_if_set!(notes, message, "requests are treated as without it", [metadata_match, host_rewrite_specifier]);
    let name = filled("name", message.name, NAME_A_CLUSTER)?;
    let Some(weight) = message.weight else {
        return Err(ConfigError::new("weight", "", "give a weight; 0 takes nothing"));
    };
    let mut entry = WeightedCluster::new(name, weight.value);
    entry.request_headers =
        header::mutations(REQUEST, message.request_headers_to_add, &message.request_headers_to_remove, notes)?;
    entry.response_headers =
        header::mutations(RESPONSE, message.response_headers_to_add, &message.response_headers_to_remove, notes)?;
    entry.faults = filter::overrides(message.typed_per_filter_config, rules, notes)?;
    Ok(entry)
}

fn path_rewrite(prefix: String, regex: Option<&RegexMatchAndSubstitute>) -> Result<Option<PathRewrite>, ConfigError> {
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (true, Some(message)) => regex_rewrite(message).map(Some),
        (false, None) => Ok(Some(PathRewrite::Prefix(printable("prefix_rewrite", prefix)?.into()))),
        (false, Some(_)) => {
            Err(ConfigError::new("regex_rewrite", prefix, "set either prefix_rewrite or regex_rewrite, not both"))
        }
    }
}

fn regex_rewrite(message: &RegexMatchAndSubstitute) -> Result<PathRewrite, ConfigError> {
    let refused = |error: ConfigError| error.within("regex_rewrite");
    let Some(pattern) = &message.pattern else {
        return Err(refused(ConfigError::new("pattern", "", "set this field")));
    };
    let pattern = matcher::regex("pattern", pattern).map_err(refused)?;
    let substitution = printable("substitution", message.substitution.clone()).map_err(refused)?;
    Ok(PathRewrite::Regex { pattern, substitution: substitution.into() })
}

fn host_rewrite(specifier: Option<pb::route_action::HostRewriteSpecifier>) -> Result<Option<HostRewrite>, ConfigError> {
    use pb::route_action::HostRewriteSpecifier as Specifier;
    match specifier {
        Some(Specifier::HostRewriteLiteral(host)) if !host.is_empty() => HostRewrite::literal(&host).map(Some),
        Some(Specifier::HostRewriteHeader(name)) => {
            header_name("host_rewrite_header", &name).map(HostRewrite::Header).map(Some)
        }
        Some(Specifier::AutoHostRewrite(auto)) => Ok(auto.value.then_some(HostRewrite::Endpoint)),
        _ => Ok(None),
    }
}

/// The priority of requests or of circuit breakers.
pub(super) fn priority(number: i32) -> Result<RequestPriority, ConfigError> {
    match core::RoutingPriority::try_from(number) {
        Ok(core::RoutingPriority::Default) => Ok(RequestPriority::Default),
        Ok(core::RoutingPriority::High) => Ok(RequestPriority::High),
        Err(_) => Err(ConfigError::new("priority", number, "use DEFAULT or HIGH")),
    }
}

fn cluster_not_found(number: i32) -> Result<StatusCode, ConfigError> {
    use pb::route_action::ClusterNotFoundResponseCode as Code;
    match Code::try_from(number) {
        Ok(Code::ServiceUnavailable) => Ok(StatusCode::SERVICE_UNAVAILABLE),
        Ok(Code::NotFound) => Ok(StatusCode::NOT_FOUND),
        Ok(Code::InternalServerError) => Ok(StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => Err(ConfigError::new("cluster_not_found_response_code", number, "use a code between 0 and 2")),
    }
}

// --- redirect ---

fn redirect(message: pb::RedirectAction, notes: &mut Notes) -> Result<Action, ConfigError> {
    use pb::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    let mut redirect = Redirect::new(redirect_status(message.response_code)?)?;
    redirect = match message.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => redirect.to_scheme(&scheme)?,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => redirect.to_scheme("https")?,
        _ => redirect,
    };
    if !message.host_redirect.is_empty() {
        redirect = redirect.to_host(&message.host_redirect)?;
    }
    redirect.port = port(message.port_redirect)?;
    redirect.path = match message.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => text("path_redirect", path)?.map(RedirectPath::Whole),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            text("prefix_rewrite", prefix)?.map(|prefix| RedirectPath::Rewrite(PathRewrite::Prefix(prefix)))
        }
        Some(PathRewriteSpecifier::RegexRewrite(message)) => Some(RedirectPath::Rewrite(regex_rewrite(&message)?)),
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Ok(unsupported("path_rewrite", notes)),
        None => None,
    };
    redirect.strip_query = message.strip_query;
    Ok(Action::Redirect(redirect))
}

fn redirect_status(number: i32) -> Result<StatusCode, ConfigError> {
    use pb::redirect_action::RedirectResponseCode as Code;
    match Code::try_from(number) {
        Ok(Code::MovedPermanently) => Ok(StatusCode::MOVED_PERMANENTLY),
        Ok(Code::Found) => Ok(StatusCode::FOUND),
        Ok(Code::SeeOther) => Ok(StatusCode::SEE_OTHER),
        Ok(Code::TemporaryRedirect) => Ok(StatusCode::TEMPORARY_REDIRECT),
        Ok(Code::PermanentRedirect) => Ok(StatusCode::PERMANENT_REDIRECT),
        Err(_) => Err(ConfigError::new("response_code", number, "use a code between 0 and 4")),
    }
}

/// A text that may be left empty for none.
fn text(field: &'static str, text: String) -> Result<Option<Box<str>>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    printable(field, text).map(|text| Some(text.into()))
}

/// A port, 0 for none.
fn port(number: u32) -> Result<Option<u16>, ConfigError> {
    match u16::try_from(number) {
        Ok(port) => Ok((port > 0).then_some(port)),
        Err(_) => Err(ConfigError::new("port_redirect", number, "give a port up to 65535")),
    }
}

// --- direct_response ---

fn respond(message: pb::DirectResponseAction, scope: &Scope, notes: &mut Notes) -> Result<Action, ConfigError> {
    use core::data_source::Specifier;
    warn_if_set!(notes, message, "the body is sent as it is", [body_format]);
    let body = match message.body.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => return Ok(unsupported("body", notes)),
        None => Vec::new(),
    };
    if body.len() > scope.longest_body {
        let remedy = "keep it within max_direct_response_body_size_bytes";
        return Err(ConfigError::new("body", format!("{} bytes", body.len()), remedy));
    }
    let response = DirectResponse::new(status("status", message.status)?, body);
    response.map(Action::Respond).map_err(|error| told_as("status", &error))
}
