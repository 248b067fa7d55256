//! The first step of a request: its route, its cluster, and what changes before it is sent.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use mesh_core::{
    config::{HostRewrite, RenderedMutations, RequestHead, TemplateScope},
    deadline::Expiry,
    outcome::FailureKind,
    route::redirect,
};

use super::{
    CallOptions, Facts,
    caller::{Beginning, asked, nearer},
    faults::Met,
};
use crate::{
    Error,
    body::Body,
    cluster::Cluster,
    mesh::Compiled,
    plan::{ForwardPlan, Plan, Step, Target, Targets},
    protocol::Protocol,
};

/// What becomes of a request by its route.
pub(crate) enum Routing<P: Protocol> {
    /// It goes to a cluster.
    Forward(Forwarding),
    /// It is answered here; boxed, since this is rare and a body is large.
    Answer(Box<Response<Body<P>>>),
}

/// How a request goes to a cluster, and what waits for it before and after.
pub(crate) struct Forwarding {
    pub(crate) facts: Facts,
    pub(crate) faults: Met,
    /// Made now, as they quote the request.
    pub(crate) response_changes: Vec<RenderedMutations>,
}

/// Finds the route of `request`, and changes it as the route says. It stays where it is: it is large to move.
///
/// # Errors
///
/// NR when there is none, NC when its cluster does not exist.
pub(crate) fn route<B, P: Protocol>(
    compiled: &Compiled,
    beginning: Beginning,
    request: &mut Request<B>,
) -> Result<Routing<P>, Error> {
    let mut dice = beginning.dice;
    // One number a request: the same decides fractions and weights, as in Envoy.
    let roll = dice.roll();
    let head = RequestHead::of(request);
    let plan = compiled.table.select(&head, roll).map_err(|none| Error::new(FailureKind::NoRoute, none))?;
    match &plan.step {
        Step::Redirect(to) => {
            let answer = redirect(to, &head, plan.path_match()).map(|()| Body::empty());
            Ok(Routing::Answer(Box::new(changed(answer, plan, &head))))
        }
        Step::Respond(with) => {
            let mut answer = Response::new(Body::from(with.body().clone()));
            *answer.status_mut() = with.status();
            Ok(Routing::Answer(Box::new(changed(answer, plan, &head))))
        }
        Step::Refuse(why) => Err(Error::new(FailureKind::NoRoute, why.to_string())),
        Step::Forward(forward) => {
            let plan = plan.clone();
            let (index, named) = choose(compiled, forward, &head, roll)?;
            forwarded::<B, P>(plan, index, named, Beginning { dice, ..beginning }, request).map(Routing::Forward)
        }
    }
}

/// Which of the plan's targets the request goes to, or the cluster that it names itself.
fn choose(
    compiled: &Compiled,
    forward: &ForwardPlan<Arc<Cluster>>,
    head: &RequestHead<'_>,
    roll: u64,
) -> Result<(usize, Option<Arc<Cluster>>), Error> {
    match &forward.targets {
        Targets::One(_) => Ok((0, None)),
        Targets::Weighted { shares, .. } => Ok((shares.pick(roll), None)),
        Targets::Header(name) => {
            let named = head.headers.get(name).and_then(|name| name.to_str().ok());
            match named.and_then(|name| compiled.cluster(name)) {
                Some(cluster) => Ok((0, Some(cluster.clone()))),
                None => Err(no_cluster(forward, named.unwrap_or("(none named)"))),
            }
        }
    }
}

fn no_cluster(forward: &ForwardPlan<Arc<Cluster>>, name: &str) -> Error {
    Error::new(FailureKind::NoCluster, format!("cluster `{name}` is not known")).answering(forward.cluster_not_found)
}

fn forwarded<B, P: Protocol>(
    plan: Arc<Plan<Arc<Cluster>>>,
    target: usize,
    named: Option<Arc<Cluster>>,
    beginning: Beginning,
    request: &mut Request<B>,
) -> Result<Forwarding, Error> {
    let Step::Forward(forward) = &plan.step else { unreachable!("the caller has matched it") };
    let options = request.extensions_mut().remove::<CallOptions>().unwrap_or_default();
    let chosen = match &forward.targets {
        Targets::One(chosen) => Some(chosen),
        Targets::Weighted { targets, .. } => Some(&targets[target]),
        Targets::Header(_) => None,
    };
    let cluster = match named.or_else(|| chosen?.cluster.clone()) {
        Some(cluster) => cluster,
        None => return Err(no_cluster(forward, chosen.map_or("", |target| &target.name))),
    };

    let mut dice = beginning.dice;
    let head = RequestHead::of(request);
    let faults = chosen.map_or_else(Met::default, |target| Met::draw(&target.faults, &head, &mut dice));
    let response_changes =
        chosen.map_or_else(Vec::new, |target| render(&target.response_headers, &plan, &cluster, &head));
    let asked = asked::<P>(request.headers(), &options);
    change(&plan, forward, chosen, &cluster, request)?;

    let own = forward.limits.overall(asked).map(|limit| Facts::expiry(beginning.start, limit));
    let deadline = nearer(own, beginning.scoped(&options), Expiry::at);
    let facts = Facts {
        cluster,
        start: beginning.start,
        deadline,
        dice,
        idempotent: options.is_idempotent(),
        wait_for_ready: options.waits_for_ready(),
        priority: options.request_priority().unwrap_or(forward.priority),
        plan,
    };
    Ok(Forwarding { facts, faults, response_changes })
}

/// Changes the request as its route says: headers, then host, then path (Envoy's order).
fn change<B>(
    plan: &Plan<Arc<Cluster>>,
    forward: &ForwardPlan<Arc<Cluster>>,
    target: Option<&Target<Arc<Cluster>>>,
    cluster: &Arc<Cluster>,
    request: &mut Request<B>,
) -> Result<(), Error> {
    if let Some(target) = target.filter(|target| !target.request_headers.is_empty()) {
        let rendered = render(&target.request_headers, plan, cluster, &RequestHead::of(request));
        rendered.into_iter().for_each(|changes| changes.apply(request.headers_mut()));
    }
    if let Some(authority) = new_authority(forward, request) {
        set_authority(request, &authority)?;
    }
    if let Some(rewrite) = &forward.path_rewrite {
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let rewritten = rewrite.apply(path, plan.path_match());
        set_path(request, &rewritten)?;
    }
    Ok(())
}

fn new_authority<B>(forward: &ForwardPlan<Arc<Cluster>>, request: &Request<B>) -> Option<String> {
    match forward.host_rewrite.as_ref()? {
        HostRewrite::Literal(host) => Some(host.to_string()),
        HostRewrite::Header(name) => Some(request.headers().get(name)?.to_str().ok()?.to_owned()),
        // Known when an endpoint is picked.
        _ => None,
    }
}

/// Makes `authority` the request's, wherever the request holds one.
pub(crate) fn set_authority<B>(request: &mut Request<B>, authority: &str) -> Result<(), Error> {
    let refuse = |error: http::Error| Error::new(FailureKind::RequestBody, error);
    let value = HeaderValue::from_str(authority).map_err(|error| refuse(error.into()))?;
    if request.headers().contains_key(header::HOST) || request.uri().authority().is_none() {
        request.headers_mut().insert(header::HOST, value);
    }
    if request.uri().authority().is_some() {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(authority.parse().map_err(|error: http::uri::InvalidUri| refuse(error.into()))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| refuse(error.into()))?;
    }
    Ok(())
}

fn set_path<B>(request: &mut Request<B>, path: &str) -> Result<(), Error> {
    let refuse = |error: http::Error| Error::new(FailureKind::RequestBody, error);
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|error: http::uri::InvalidUri| refuse(error.into()))?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| refuse(error.into()))?;
    Ok(())
}

fn render(
    changes: &[mesh_core::config::HeaderMutations],
    plan: &Plan<Arc<Cluster>>,
    cluster: &Arc<Cluster>,
    head: &RequestHead<'_>,
) -> Vec<RenderedMutations> {
    let scope = TemplateScope { request: *head, route: &plan.route.name, cluster: cluster.name() };
    changes.iter().map(|changes| changes.render(&scope)).collect()
}

/// A local answer, with the header changes of its route.
fn changed<P: Protocol>(
    mut answer: Response<Body<P>>,
    plan: &Plan<Arc<Cluster>>,
    head: &RequestHead<'_>,
) -> Response<Body<P>> {
    let scope = TemplateScope { request: *head, route: &plan.route.name, cluster: "" };
    for changes in &plan.response_headers {
        changes.render(&scope).apply(answer.headers_mut());
    }
    answer
}
