//! Routes and the hosts they belong to (`RouteConfiguration`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use envoy_types::pb::envoy::config::route::v3 as pb;
use mesh_core::config::{
    Action, ConfigError, Domain, HeaderMutations, Route, RouteConfig, RoutePolicy, TimeLimit, VirtualHost,
};

use super::{
    Rules,
    action::{self, Optional, Scope},
    common::number,
    filter,
    header::{self, REQUEST, RESPONSE},
    matcher,
    notes::{Notes, warn_if_set},
    retry,
};

/// The longest body of a direct response where nothing is said of it (`max_direct_response_body_size_bytes`).
const LONGEST_BODY: usize = 4096;

/// What a route configuration says beside its virtual hosts.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) name: String,
    pub(super) scope: Scope,
    request_headers: HeaderMutations,
    response_headers: HeaderMutations,
    most_specific_mutations_win: bool,
    ignore_port: bool,
}

/// The routes of a target, all at once.
pub(super) fn configuration(
    mut message: pb::RouteConfiguration,
    rules: Rules,
    notes: &mut Notes,
) -> Result<RouteConfig, ConfigError> {
    let hosts = std::mem::take(&mut message.virtual_hosts);
    let frame = frame(message, rules, notes)?;
    let hosts = notes.each("virtual_hosts", hosts, |message, notes| virtual_host(message, &frame.scope, notes))?;
    let mut config = RouteConfig::new(frame.name.as_str(), hosts)?;
    frame.put_around(&mut config);
    Ok(config)
}

/// What `message` says beside its virtual hosts, which are not looked at.
pub(super) fn frame(message: pb::RouteConfiguration, rules: Rules, notes: &mut Notes) -> Result<Frame, ConfigError> {
    warn_if_set!(
        notes,
        message,
        "requests are treated as without it",
        [internal_only_headers, request_mirror_policies, ignore_path_parameters_in_path_matching, route_specifiers]
    );
    warn_if_set!(notes, message, "only the virtual hosts that stand here are known", [vhds]);
    warn_if_set!(notes, message, "virtual hosts are chosen by the authority", [vhost_header]);
    let plugins = plugins(message.cluster_specifier_plugins)?;
    let longest_body = number(message.max_direct_response_body_size_bytes)
        .map_or(LONGEST_BODY, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let faults = filter::overrides(message.typed_per_filter_config, rules, notes)?;
    Ok(Frame {
        name: message.name,
        scope: Scope { plugins, rules, longest_body, faults },
        request_headers: header::mutations(
            REQUEST,
            message.request_headers_to_add,
            &message.request_headers_to_remove,
            notes,
        )?,
        response_headers: header::mutations(
            RESPONSE,
            message.response_headers_to_add,
            &message.response_headers_to_remove,
            notes,
        )?,
        most_specific_mutations_win: message.most_specific_header_mutations_wins,
        ignore_port: message.ignore_port_in_host_matching,
    })
}

/// No plugin is known here: one that is not optional is refused (gRFC A42).
fn plugins(messages: Vec<pb::ClusterSpecifierPlugin>) -> Result<BTreeMap<String, Optional>, ConfigError> {
    let mut plugins = BTreeMap::new();
    for (index, plugin) in messages.into_iter().enumerate() {
        let name = plugin.extension.map(|extension| extension.name).unwrap_or_default();
        if !plugin.is_optional {
            let field = format!("cluster_specifier_plugins[{index}].extension");
            return Err(ConfigError::new(field, name, "no plugin is known here; mark it optional, or name clusters"));
        }
        plugins.insert(name, plugin.is_optional);
    }
    Ok(plugins)
}

#[expect(deprecated, reason = "what is not honoured is warned of, deprecated or not")]
pub(super) fn virtual_host(
    message: pb::VirtualHost,
    scope: &Scope,
    notes: &mut Notes,
) -> Result<VirtualHost, ConfigError> {
    warn_if_set!(
        notes,
        message,
        "requests are treated as without it",
        [
            require_tls,
            rate_limits,
            cors,
            include_attempt_count_in_response,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            route_specifiers,
        ]
    );
    warn_if_set!(notes, message, "requests to these hosts find no route", [matcher]);
    let domains = domains(&message.domains)?;
    let policy = notes.opt("retry_policy", message.retry_policy, retry::policy)?.unwrap_or_default();
    let routes = notes.each("routes", message.routes, |message, notes| route(message, scope, &policy, notes))?;
    let mut host = VirtualHost::new(message.name, domains, routes.into_iter().flatten().collect())?;
    host.policy = policy;
    host.request_headers =
        header::mutations(REQUEST, message.request_headers_to_add, &message.request_headers_to_remove, notes)?;
    host.response_headers =
        header::mutations(RESPONSE, message.response_headers_to_add, &message.response_headers_to_remove, notes)?;
    host.faults =
        filter::overrides(message.typed_per_filter_config, scope.rules, notes)?.or_else(|| scope.faults.clone());
    host.announce_attempt = message.include_request_attempt_count;
    Ok(host)
}

fn domains(texts: &[String]) -> Result<Vec<Domain>, ConfigError> {
    let mut seen = HashSet::new();
    let mut domains = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let refuse = |value: &str, remedy: String| ConfigError::new(format!("domains[{index}]"), value, remedy);
        let domain = Domain::parse(text).map_err(|error| refuse(error.value(), error.remedy().to_owned()))?;
        if !seen.insert(domain.clone()) {
            return Err(refuse(text, "list a domain once".to_owned()));
        }
        domains.push(domain);
    }
    Ok(domains)
}

/// A route; none when it can take no request here.
#[expect(deprecated, reason = "what is not honoured is warned of, deprecated or not")]
fn route(
    message: pb::Route,
    scope: &Scope,
    host: &RoutePolicy,
    notes: &mut Notes,
) -> Result<Option<Arc<Route>>, ConfigError> {
    warn_if_set!(
        notes,
        message,
        "requests are treated as without it",
        [per_request_buffer_limit_bytes, request_body_buffer_limit, route_specifiers]
    );
    let Some(matches) = notes.required("match", message.r#match, matcher::route)? else {
        return Ok(None);
    };
    let Some(mut action) = action::decode(message.action, scope, notes)? else {
        return Ok(None);
    };
    let faults = filter::overrides(message.typed_per_filter_config, scope.rules, notes)?;
    let request_headers =
        header::mutations(REQUEST, message.request_headers_to_add, &message.request_headers_to_remove, notes)?;
    let response_headers =
        header::mutations(RESPONSE, message.response_headers_to_add, &message.response_headers_to_remove, notes)?;
    replace_whole_retry_policy(&mut action, host);
    let mut route = Route::new(matches, action).named(message.name);
    route.request_headers = request_headers;
    route.response_headers = response_headers;
    route.faults = faults;
    Ok(Some(Arc::new(route)))
}

/// A route's retry policy replaces its host's with all it says, the limits of a try included; those limits stack field by
/// field in the model, so a route that leaves one out has to say that it is off.
fn replace_whole_retry_policy(action: &mut Action, host: &RoutePolicy) {
    let Action::Forward(forward) = action else {
        return;
    };
    if forward.policy.retry.is_none() {
        return;
    }
    let own = &mut forward.policy.timeouts;
    own.per_try = own.per_try.or(host.timeouts.per_try.map(|_| TimeLimit::OFF));
    own.per_try_idle = own.per_try_idle.or(host.timeouts.per_try_idle.map(|_| TimeLimit::OFF));
}

// === impl Frame ===

impl Frame {
    /// Has `config` say what it says. What is left is what the virtual hosts were read in.
    pub(super) fn put_around(self, config: &mut RouteConfig) -> Scope {
        config.request_headers = self.request_headers;
        config.response_headers = self.response_headers;
        config.most_specific_mutations_win = self.most_specific_mutations_win;
        config.ignore_port = self.ignore_port;
        self.scope
    }
}
