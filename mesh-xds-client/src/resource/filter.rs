//! The filters of a listener, and what virtual hosts, routes and weighted clusters replace of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use envoy_types::pb::{
    envoy::{
        config::route::v3::FilterConfig,
        extensions::filters::{
            common::fault::v3::{FaultDelay as DelayMessage, fault_delay::FaultDelaySecifier},
            http::{
                fault::v3::{FaultAbort as AbortMessage, HttpFault, fault_abort::ErrorType},
                router::v3::Router,
            },
            network::http_connection_manager::v3::{HttpFilter as Message, http_filter::ConfigType},
        },
        r#type::v3::FractionalPercent,
    },
    google::protobuf::Any,
};
use mesh_core::config::{
    AbortStatus, ConfigError, FaultAbort, FaultDelay, FaultInjection, FilterKind, Fraction, HttpFilter,
};

use super::{
    Rules,
    common::{filled, fraction, is, message_name, number, positive, status, told_as, unpack},
    matcher,
    notes::{IsSet, Notes, warn_if_set},
};

/// The name under which control planes list the fault filter.
const FAULT_FILTER: &str = "envoy.filters.http.fault";

/// Filters that Istio sends without marking them optional. None of them decides whether a request is allowed: without
/// them a request loses telemetry, affinity or browser headers.
const SPARED: [&str; 9] = [
    "envoy.config.route.v3.CorsPolicy",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    "io.istio.http.peer_metadata.Config",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    "stats.PluginConfig",
];

/// What became of one entry of the chain.
enum Stage {
    Filter(FilterKind),
    Router,
    Skipped,
}

/// The filters before the router, which has to stand last.
pub(super) fn chain(messages: Vec<Message>, notes: &mut Notes) -> Result<Vec<HttpFilter>, ConfigError> {
    let mut names = HashSet::new();
    let mut filters = Vec::new();
    let mut routed = false;
    for (index, message) in messages.into_iter().enumerate() {
        let found = notes.at(format_args!("http_filters[{index}]"), message, |message, notes| {
            let name: Arc<str> = filled("name", message.name.clone(), "name the filter")?.into();
            if !names.insert(name.clone()) {
                return Err(ConfigError::new("name", name, "name each filter once"));
            }
            match stage(message, notes)? {
                Stage::Skipped => Ok(None),
                _ if routed => Err(ConfigError::new("name", name, "put the router last")),
                Stage::Router => {
                    routed = true;
                    Ok(None)
                }
                Stage::Filter(kind) => Ok(Some(HttpFilter { name, kind })),
            }
        })?;
        filters.extend(found);
    }
    if !routed {
        return Err(ConfigError::new("http_filters", format!("{} filters", names.len()), "put a router last"));
    }
    if filters.len() > 1 {
        notes.warn("http_filters", "what a route says of one fault filter replaces all of them");
    }
    Ok(filters)
}

fn stage(message: Message, notes: &mut Notes) -> Result<Stage, ConfigError> {
    let extension = match message.config_type {
        Some(ConfigType::TypedConfig(extension)) => extension,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return unknown("config_discovery", &message.name, message.is_optional, notes).map(|()| Stage::Skipped);
        }
        None => return unknown("typed_config", &message.name, message.is_optional, notes).map(|()| Stage::Skipped),
    };
    if is::<Router>(&extension) {
        if message.disabled {
            return Err(ConfigError::new("disabled", true, "leave the router on"));
        }
        let router: Router = unpack(&extension).map_err(|error| error.within("typed_config"))?;
        warn_if_set!(
            notes,
            router,
            "requests are treated as without it",
            [upstream_http_filters, respect_expected_rq_timeout]
        );
        return Ok(Stage::Router);
    }
    if is::<HttpFault>(&extension) {
        let faults = notes.at("typed_config", &extension, unpack_faults)?;
        // A filter that is off does nothing until a route says otherwise, as one without faults.
        let faults = if message.disabled { Arc::default() } else { faults };
        return Ok(Stage::Filter(FilterKind::Faults(faults)));
    }
    let optional = message.is_optional || is_spared(&extension);
    unknown("typed_config", &extension.type_url, optional, notes).map(|()| Stage::Skipped)
}

/// Leaves out what is not known here if that is allowed.
fn unknown(field: &'static str, what: &str, optional: bool, notes: &mut Notes) -> Result<(), ConfigError> {
    if !optional {
        return Err(ConfigError::new(field, what, "mark it optional, or leave it out; it is not known here"));
    }
    notes.warn(field, format!("not known here and left out: {what}"));
    Ok(())
}

fn is_spared(extension: &Any) -> bool {
    SPARED.contains(&message_name(&extension.type_url))
}

// --- typed_per_filter_config ---

/// What replaces the configuration of the fault filter. Which filters stand in the chain is not known while routes are
/// read, so an override is told by its type rather than by the name that it is listed under. One for another filter is refused
/// unless it is optional (gRFC A39), but where the filters themselves are passed over, as those of Istio's sidecars are.
pub(super) fn overrides(
    messages: HashMap<String, Any>,
    rules: Rules,
    notes: &mut Notes,
) -> Result<Option<Arc<FaultInjection>>, ConfigError> {
    let mut faults = None;
    for (name, extension) in messages.into_iter().collect::<BTreeMap<_, _>>() {
        let found = notes.at(format_args!("typed_per_filter_config[{name}]"), extension, |extension, notes| {
            override_of(&name, extension, rules, notes)
        })?;
        if faults.is_some() && found.is_some() {
            notes.warn("typed_per_filter_config", "several speak of faults; the first counts");
        }
        faults = faults.or(found);
    }
    Ok(faults)
}

fn override_of(
    name: &str,
    extension: Any,
    rules: Rules,
    notes: &mut Notes,
) -> Result<Option<Arc<FaultInjection>>, ConfigError> {
    let (extension, optional) = if is::<FilterConfig>(&extension) {
        let wrapper: FilterConfig = unpack(&extension)?;
        let speaks_of_faults = wrapper.config.as_ref().map_or(name == FAULT_FILTER, is::<HttpFault>);
        if wrapper.disabled && speaks_of_faults {
            return Ok(Some(Arc::default()));
        }
        if wrapper.disabled {
            notes.warn("disabled", "the filter is not known here");
            return Ok(None);
        }
        match wrapper.config {
            Some(extension) => (extension, wrapper.is_optional),
            None => return Err(ConfigError::new("config", "", "set this field, or disable the filter")),
        }
    } else {
        (extension, false)
    };
    if is::<HttpFault>(&extension) {
        return unpack_faults(&extension, notes).map(Some);
    }
    let optional = optional || rules.is_for_sidecars || is_spared(&extension);
    unknown("type_url", &extension.type_url, optional, notes).map(|()| None)
}

// --- fault ---

fn unpack_faults(extension: &Any, notes: &mut Notes) -> Result<Arc<FaultInjection>, ConfigError> {
    let message: HttpFault = unpack(extension)?;
    faults(message, notes).map(Arc::new)
}

fn faults(message: HttpFault, notes: &mut Notes) -> Result<FaultInjection, ConfigError> {
    warn_if_set!(notes, message, "responses are not slowed down", [response_rate_limit]);
    let delay = notes.opt("delay", message.delay, delay)?.flatten();
    let abort = notes.opt("abort", message.abort, abort)?.flatten();
    let headers = notes.each("headers", message.headers, matcher::header)?;
    if message.downstream_nodes.is_set() {
        // Without this test everyone would suffer the faults of a few.
        notes.warn("downstream_nodes", "this condition is not known here; no fault is injected");
        return Ok(FaultInjection::default());
    }
    Ok(FaultInjection {
        delay,
        abort,
        headers,
        cluster: message.upstream_cluster.is_set().then(|| message.upstream_cluster.into()),
        max_active: number(message.max_active_faults),
    })
}

fn delay(message: DelayMessage, notes: &mut Notes) -> Result<Option<FaultDelay>, ConfigError> {
    let share = share(message.percentage)?;
    match message.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            Ok(positive("fixed_delay", Some(fixed))?.map(|duration| FaultDelay { duration, share }))
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            notes.warn("header_delay", "requests cannot ask for delays here");
            Ok(None)
        }
        None => Err(ConfigError::new("fixed_delay", "", "set this field")),
    }
}

fn abort(message: AbortMessage, notes: &mut Notes) -> Result<Option<FaultAbort>, ConfigError> {
    warn_if_set!(notes, message, "the body is the usual one", [response_body]);
    let share = share(message.percentage)?;
    let with = match message.error_type {
        Some(ErrorType::HttpStatus(code)) => AbortStatus::Http(status("http_status", code)?),
        Some(ErrorType::GrpcStatus(code)) => AbortStatus::Grpc(code),
        Some(ErrorType::HeaderAbort(_)) => {
            notes.warn("header_abort", "requests cannot ask for aborts here");
            return Ok(None);
        }
        None => return Err(ConfigError::new("http_status", "", "set http_status or grpc_status")),
    };
    FaultAbort::new(with, share).map(Some).map_err(|error| told_as("http_status", &error))
}

/// Unset is never.
fn share(message: Option<FractionalPercent>) -> Result<Fraction, ConfigError> {
    fraction("percentage", message.unwrap_or_default())
}
