//! The first step of a request: its route, its cluster, and what changes before it is sent.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use mesh_core::{
    Dice, RequestHead,
    config::{HeaderMutations, HostRewrite, RenderedMutations, TemplateScope},
    deadline::Expiry,
    outcome::FailureKind,
    route::redirect,
};
use tokio::time::Instant;

use super::{caller::Beginning, faults::InjectedFaults, routed::Facts};
use crate::{
    Error,
    body::Body,
    cluster::Cluster,
    mesh::{Compiled, Target},
    plan::{Destinations, ForwardPlan, Plan, Step, Treatment},
    protocol::Protocol,
};

/// What becomes of a request by its route.
pub(crate) enum Routing<P: Protocol> {
    /// It goes to a cluster.
    Forward(Forwarding),
    /// It is answered here; boxed, since this is rare and a body is large.
    Answer(Box<Response<Body<P>>>),
    /// Its cluster does not exist. The request is as it came, and may wait for the cluster until its time is up, above all where
    /// it has `named` the cluster itself.
    Missing { error: Error, named: Option<Arc<str>>, deadline: Option<Expiry> },
}

/// What was decided about a request that goes to a cluster, and what waits for it before and after.
pub(crate) struct Forwarding {
    pub(crate) facts: Facts,
    pub(crate) faults: InjectedFaults,
    /// Made now, as they quote the request.
    pub(crate) response_changes: Vec<RenderedMutations>,
}

/// Finds the route of `request`, and changes it as the route says. It stays where it is: it is large to move.
///
/// # Errors
///
/// NR when there is no route, DPE when its changes leave nothing that can be sent.
pub(crate) fn route<B, P: Protocol>(
    (target, compiled): (&Target, &Compiled),
    beginning: &Beginning,
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
            let deadline = deadline::<P, B>(forward, beginning, request);
            match choose((target, compiled), forward, &head, (roll, beginning.start)) {
                Ok((treatment, cluster)) => {
                    let leg = Leg { plan, forward, treatment, cluster };
                    leg.forwarding(beginning, deadline, dice, request).map(Routing::Forward)
                }
                Err(error) => {
                    Ok(Routing::Missing { error, named: forward.to.named_by(&head).map(Arc::from), deadline })
                }
            }
        }
    }
}

/// When the time of a request is up, by the word of its route, its caller or its scope.
fn deadline<P: Protocol, B>(forward: &ForwardPlan, beginning: &Beginning, request: &Request<B>) -> Option<Expiry> {
    let limit = forward.limits.overall(P::asked_timeout(request.headers()));
    Expiry::nearer(limit.map(|limit| limit.expiry(beginning.start)), beginning.own_expiry())
}

/// Which of the plan's clusters the request goes to, or the one that it names itself, and how it is treated.
fn choose<'a>(
    (target, compiled): (&Target, &Compiled),
    forward: &'a ForwardPlan,
    head: &RequestHead<'_>,
    (roll, now): (u64, Instant),
) -> Result<(&'a Treatment, Arc<Cluster>), Error> {
    let destination = match &forward.to {
        Destinations::One(destination) => destination,
        Destinations::Weighted { shares, each } => &each[shares.pick(roll)],
        Destinations::Named { treatment, .. } => {
            let name = forward.to.named_by(head);
            let name = name.ok_or_else(|| no_cluster(forward, "(none named)", "is not known"))?;
            let found = compiled.cluster(name).cloned().or_else(|| target.on_demand.find(name, now));
            let found = found.ok_or_else(|| no_cluster(forward, name, "is not known"))?;
            return Ok((treatment, found.map_err(|why| no_cluster(forward, name, &why))?));
        }
    };
    let cluster = destination.cluster.as_ref().map_err(|why| no_cluster(forward, &destination.name, why))?;
    Ok((&destination.treatment, cluster.clone()))
}

/// Why there is no cluster `name` for a request: it is not known, or cannot be used.
fn no_cluster(forward: &ForwardPlan, name: &str, why: &str) -> Error {
    Error::new(FailureKind::NoCluster, format!("cluster `{name}` {why}")).answering(forward.cluster_not_found)
}

/// The way of a request to its cluster.
struct Leg<'a> {
    plan: &'a Plan,
    forward: &'a Arc<ForwardPlan>,
    treatment: &'a Treatment,
    cluster: Arc<Cluster>,
}

// === impl Leg ===

impl Leg<'_> {
    fn forwarding<B>(
        self,
        beginning: &Beginning,
        deadline: Option<Expiry>,
        mut dice: Dice,
        request: &mut Request<B>,
    ) -> Result<Forwarding, Error> {
        let head = RequestHead::of(request);
        let faults = InjectedFaults::draw(&self.treatment.faults, self.cluster.name(), &head, &mut dice);
        let response_changes = self.render(&self.treatment.response_headers, &head);
        self.change(request)?;
        let options = &beginning.options;
        let facts = Facts {
            forward: self.forward.clone(),
            cluster: self.cluster,
            itinerary: None,
            start: beginning.start,
            deadline,
            dice,
            idempotent: options.idempotent,
            wait_for_ready: options.wait_for_ready,
            priority: options.priority.unwrap_or(self.forward.priority),
        };
        Ok(Forwarding { facts, faults, response_changes })
    }

    /// Changes the request as its route says: headers, then host, then path (Envoy's order).
    fn change<B>(&self, request: &mut Request<B>) -> Result<(), Error> {
        let changes = &self.treatment.request_headers;
        if !changes.is_empty() {
            let rendered = self.render(changes, &RequestHead::of(request));
            rendered.into_iter().for_each(|changes| changes.apply(request.headers_mut()));
        }
        if let Some(authority) = new_authority(self.forward, request) {
            set_authority(request, &authority)?;
        }
        if let Some(rewrite) = &self.forward.path_rewrite {
            let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            let rewritten = rewrite.apply(path, self.plan.path_match());
            set_path(request, &rewritten)?;
        }
        Ok(())
    }

    fn render(&self, changes: &[HeaderMutations], head: &RequestHead<'_>) -> Vec<RenderedMutations> {
        let scope = TemplateScope { request: *head, route: &self.plan.route.name, cluster: self.cluster.name() };
        changes.iter().map(|changes| changes.render(&scope)).collect()
    }
}

fn new_authority<B>(forward: &ForwardPlan, request: &Request<B>) -> Option<String> {
    match forward.host_rewrite.as_ref()? {
        HostRewrite::Literal(host) => Some(host.to_string()),
        HostRewrite::Header(name) => Some(request.headers().get(name)?.to_str().ok()?.to_owned()),
        // Known when an endpoint is picked.
        HostRewrite::Endpoint => None,
    }
}

/// Makes `authority` the request's, wherever the request holds one.
pub(crate) fn set_authority<B>(request: &mut Request<B>, authority: &str) -> Result<(), Error> {
    let refuse = |error: http::Error| Error::new(FailureKind::Request, error);
    let value = HeaderValue::from_str(authority).map_err(|error| refuse(error.into()))?;
    let mut parts = request.uri().clone().into_parts();
    let authority = authority.parse().map_err(|error: http::uri::InvalidUri| refuse(error.into()))?;
    if request.headers().contains_key(header::HOST) || parts.authority.is_none() {
        request.headers_mut().insert(header::HOST, value);
    }
    if parts.authority.is_some() {
        parts.authority = Some(authority);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| refuse(error.into()))?;
    }
    Ok(())
}

fn set_path<B>(request: &mut Request<B>, path: &str) -> Result<(), Error> {
    let refuse = |error: http::Error| Error::new(FailureKind::Request, error);
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|error: http::uri::InvalidUri| refuse(error.into()))?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| refuse(error.into()))?;
    Ok(())
}

/// A local answer, with the header changes of its route.
fn changed<P: Protocol>(mut answer: Response<Body<P>>, plan: &Plan, head: &RequestHead<'_>) -> Response<Body<P>> {
    let scope = TemplateScope { request: *head, route: &plan.route.name, cluster: "" };
    for changes in &plan.response_headers {
        changes.render(&scope).apply(answer.headers_mut());
    }
    answer
}
