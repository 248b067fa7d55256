//! What LDS says of a target: its filters, and its routes or the name to ask RDS for (`Listener`).

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        config::{core::v3::HttpProtocolOptions, listener::v3 as pb},
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
        },
    },
    google::protobuf::Any,
};
use mesh_core::config::{ConfigError, HttpFilter, RoutePolicy, Timeouts};

use super::{
    Context,
    common::{filled, limit, same_source, unpack},
    filter,
    notes::{IsSet, Notes, warn_if_set},
    virtual_hosts::Routes,
};

/// A listener for clients (`api_listener`), which becomes a [`Listener`](mesh_core::config::Listener) once its routes are
/// known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerResource {
    /// The name of the target.
    pub(crate) name: Arc<str>,
    /// What requests pass before they are routed on, in order; the router itself is not listed.
    pub(crate) filters: Vec<HttpFilter>,
    /// Where its routes are.
    pub(crate) routes: RouteSource,
    /// What holds for every route that does not say otherwise: `stream_idle_timeout` and
    /// `common_http_protocol_options.max_stream_duration`.
    pub(crate) policy: RoutePolicy,
}

/// Where the routes of a listener are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouteSource {
    /// In the listener itself.
    Inline(Routes),
    /// In the route configuration of this name, from the same control plane.
    Named(Arc<str>),
}

/// What the connection manager of a listener says.
struct Manager {
    filters: Vec<HttpFilter>,
    routes: RouteSource,
    policy: RoutePolicy,
}

/// A listener. Its socket address, which Istio sends along, is for servers and not looked at.
pub(super) fn decode(
    message: pb::Listener,
    context: &Context,
    notes: &mut Notes,
) -> Result<ListenerResource, ConfigError> {
    listener(message, notes, |extension, notes| manager(unpack(&extension)?, None, context, notes))
}

/// As [`decode`] where the manager of `message` has been unpacked and the routes in it read already.
pub(super) fn decode_around(
    message: pb::Listener,
    unpacked: HttpConnectionManager,
    routes: Result<(Routes, Notes), ConfigError>,
    context: &Context,
    notes: &mut Notes,
) -> Result<ListenerResource, ConfigError> {
    listener(message, notes, |_, notes| manager(unpacked, Some(routes), context, notes))
}

fn listener(
    message: pb::Listener,
    notes: &mut Notes,
    manager: impl FnOnce(Any, &mut Notes) -> Result<Manager, ConfigError>,
) -> Result<ListenerResource, ConfigError> {
    let name = filled("name", message.name, "name the listener")?;
    let Some(api) = message.api_listener else {
        let remedy = "set this field; a listener without it is for servers";
        return Err(ConfigError::new("api_listener", "", remedy));
    };
    let Manager { filters, routes, policy } =
        notes.at("api_listener", api, |api, notes| notes.required("api_listener", api.api_listener, manager))?;
    Ok(ListenerResource { name: name.into(), filters, routes, policy })
}

fn manager(
    message: HttpConnectionManager,
    read: Option<Result<(Routes, Notes), ConfigError>>,
    context: &Context,
    notes: &mut Notes,
) -> Result<Manager, ConfigError> {
    if message.xff_num_trusted_hops != 0 {
        return Err(ConfigError::new("xff_num_trusted_hops", message.xff_num_trusted_hops, "leave it 0"));
    }
    if message.original_ip_detection_extensions.is_set() {
        let count = message.original_ip_detection_extensions.len();
        return Err(ConfigError::new("original_ip_detection_extensions", count, "leave the list empty"));
    }
    warn_if_set!(
        notes,
        message,
        "requests are treated as without it",
        [
            local_reply_config,
            early_header_mutation_extensions,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            strip_port_mode,
            request_timeout,
        ]
    );
    let filters = filter::chain(message.http_filters, notes)?;
    let routes = match message.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => notes.at("rds", rds, named)?,
        Some(RouteSpecifier::RouteConfig(config)) => {
            RouteSource::Inline(notes.at("route_config", config, |config, notes| match read {
                Some(outcome) => outcome.map(|(routes, noted)| {
                    notes.take_over(&noted);
                    routes
                }),
                None => Routes::whole(config, context, notes),
            })?)
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(ConfigError::new("scoped_routes", "", "use rds or route_config"));
        }
        None => return Err(ConfigError::new("route_specifier", "", "set rds or route_config")),
    };
    let options = notes.opt("common_http_protocol_options", message.common_http_protocol_options, stream_limits)?;
    let idle = limit("stream_idle_timeout", message.stream_idle_timeout)?;
    let timeouts = Timeouts { idle, ..options.unwrap_or_default() };
    Ok(Manager { filters, routes, policy: RoutePolicy { timeouts, retry: None } })
}

fn named(message: Rds, notes: &mut Notes) -> Result<RouteSource, ConfigError> {
    same_source("config_source", message.config_source.as_ref(), notes)?;
    let name = filled("route_config_name", message.route_config_name, "name the route configuration")?;
    Ok(RouteSource::Named(name.into()))
}

/// The other fields of the message are about connections that a server accepts.
fn stream_limits(message: HttpProtocolOptions, _: &mut Notes) -> Result<Timeouts, ConfigError> {
    Ok(Timeouts {
        max_stream_duration: limit("max_stream_duration", message.max_stream_duration)?,
        ..Timeouts::default()
    })
}
