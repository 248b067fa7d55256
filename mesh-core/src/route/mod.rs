//! The compiled route table: which route a request takes, found without looking at the routes that it cannot take.
//!
//! [`RouteConfig`] says what Envoy's `RouteConfiguration` says: the virtual host of the most specific domain, and in it the
//! first route whose conditions all hold. Read literally, that is a scan over virtual hosts and then over routes, run
//! for every request. [`RouteTable`] gives the same answer from two indexes that are built once per configuration:
//!
//! - **Hosts** lie in one hash table. A request costs one look-up for its exact host and one for every *length* of wildcard
//!   that the configuration knows, longest first, until one is there; how many virtual hosts there are does not matter.
//! - **Paths** of a virtual host lie in a radix tree, which a request descends once. What it passes on the way are the routes
//!   whose path may fit; the lowest of those that pass in full is the first match.
//!
//! The path index only narrows: every candidate is then tested in full, by the one function that
//! [`explain`](RouteTable::explain) reports from. It may therefore name a route too many, and never one too few.
//!
//! A look-up allocates nothing, but for two tests that need a text which the request does not hold: a header that
//! is repeated has its values joined, and a regular expression grows its caches the first times that it runs.
//!
//! # Examples
//!
//! ```
//! use mesh_core::{
//!     RequestHead,
//!     config::{Action, ClusterChoice, Forward, PathMatch, Route, RouteConfig, RouteMatch, VirtualHost},
//!     route::RouteTable,
//! };
//!
//! let to = |cluster: &str| Action::Forward(Forward::to(ClusterChoice::One(cluster.into())));
//! let routes = vec![
//!     Route::new(RouteMatch::path(PathMatch::prefix("/v2/")), to("next")).named("next"),
//!     Route::new(RouteMatch::any(), to("stable")).named("stable"),
//! ];
//! let config = RouteConfig::new("reviews", vec![VirtualHost::any("all", routes)])?;
//! let table = RouteTable::compile(&config, |_, route| route.clone());
//!
//! let request = http::Request::get("http://reviews/v2/7").body(()).expect("a legal request");
//! let route = table.select(&RequestHead::of(&request), 0).expect("it takes the first");
//! assert_eq!(&*route.name, "next");
//! println!("{}", table.explain(&RequestHead::of(&request), 0));
//! # Ok::<(), mesh_core::config::ConfigError>(())
//! ```

use std::{fmt, sync::Arc};

use crate::{
    RequestHead,
    config::{Route, RouteConfig, VirtualHost},
    former::Former,
};

mod explain;
mod hash;
mod hosts;
mod paths;
mod redirect;
mod refusal;

pub use self::{
    explain::{Explanation, TriedRoute},
    redirect::redirect,
    refusal::Refusal,
};
use self::{
    hosts::{HostIndex, Indexing},
    paths::PathIndex,
    refusal::refusal,
};

/// A [`RouteConfig`] compiled for look-ups; with every route it keeps a `T`, what the embedder prepared for it.
#[derive(Debug)]
pub struct RouteTable<T> {
    hosts: HostIndex,
    /// In the order of the configuration, as `hosts` counts them.
    virtual_hosts: Box<[Host<T>]>,
}

/// A [`RouteTable`] on its way, one virtual host after the other, for those who have other things to do in between.
#[derive(Debug)]
#[must_use = "a table is there when it is finished"]
pub struct Compiling<'a, T> {
    config: &'a RouteConfig,
    former: Option<&'a RouteTable<T>>,
    way: Former,
    virtual_hosts: Vec<Host<T>>,
    hosts: Hosts,
}

/// How far the index of hosts has got. It comes last, when it is known what the virtual hosts are.
#[derive(Debug)]
enum Hosts {
    /// So many are those of the table before, in the same order and of the same domains.
    Same(usize),
    /// So many are in an index of their own.
    Indexing(usize, Indexing),
    Done(HostIndex),
}

/// The routes of one virtual host. A clone shares everything.
#[derive(Debug)]
struct Host<T> {
    said: Arc<VirtualHost>,
    /// In the order of the configuration, as `paths` counts them.
    routes: Arc<[Entry<T>]>,
    /// None where there are too few routes for an index to pay.
    paths: Option<PathIndex>,
}

/// How many virtual hosts are indexed in one go: it takes about as long as to compile one.
const INDEXED: usize = 32;

/// As many routes are tested faster than an index is read; measured, cold and warm.
const FEW: usize = 4;

#[derive(Debug)]
struct Entry<T> {
    route: Arc<Route>,
    prepared: T,
}

/// Why a request has no route; an HTTP client answers both with 404 and the flag NR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoRoute {
    /// No virtual host has a domain that takes the request's authority.
    VirtualHost,
    /// The virtual host has no route that takes the request.
    Route,
}

// === impl RouteTable ===

impl<T> RouteTable<T> {
    /// Compiles `config`; `prepare` is asked once for each route, in order.
    pub fn compile(config: &RouteConfig, mut prepare: impl FnMut(&VirtualHost, &Arc<Route>) -> T) -> Self {
        let mut compiling = Self::begin(config);
        while compiling.advance(&mut prepare) {}
        compiling.finish()
    }

    /// Begins to compile `config`, for whoever has more of it than should be compiled in one go.
    pub fn begin(config: &RouteConfig) -> Compiling<'_, T> {
        Compiling {
            config,
            former: None,
            way: Former::default(),
            virtual_hosts: Vec::with_capacity(config.virtual_hosts().len()),
            hosts: Hosts::Same(0),
        }
    }

    /// Virtual host by virtual host, for whoever has more of them than should be dropped in one go. Of one that other tables
    /// share only this share goes.
    pub fn take_apart(self) -> impl Iterator<Item = impl Sized + use<T>> + use<T> {
        self.virtual_hosts.into_iter()
    }

    /// What was prepared for the route that the request takes.
    ///
    /// `roll` is the request's one random number: it decides every [fraction](crate::config::RouteMatch::fraction) here, and
    /// the same one picks among weighted clusters later, so that a share of a share is what Envoy makes it.
    ///
    /// # Errors
    ///
    /// Tells apart that no virtual host takes the request's authority, and that none of its routes takes the request. An
    /// empty authority is taken only by `*`; a request without path (`CONNECT`) by no route.
    pub fn select(&self, head: &RequestHead<'_>, roll: u64) -> Result<&T, NoRoute> {
        let found = self.hosts.find(head.authority).ok_or(NoRoute::VirtualHost)?;
        let host = &self.virtual_hosts[found.host()];
        let index = host.first_match(head, roll).ok_or(NoRoute::Route)?;
        Ok(&host.routes[index].prepared)
    }

    /// Whether the virtual hosts of `config` are as many, and are found by the same part of an authority.
    fn is_found_like(&self, config: &RouteConfig) -> bool {
        self.virtual_hosts.len() == config.virtual_hosts().len() && self.hosts.ignores_port() == config.ignore_port
    }

    /// How [`select`](Self::select) comes to its answer, for people; it costs a test of every route before the one taken.
    pub fn explain(&self, head: &RequestHead<'_>, roll: u64) -> Explanation {
        let Some(found) = self.hosts.find(head.authority) else {
            return Explanation::without_virtual_host(head);
        };
        let host = &self.virtual_hosts[found.host()];
        let taken = host.first_match(head, roll);
        let tried = &host.routes[..taken.map_or(host.routes.len(), |index| index + 1)];
        Explanation::of_virtual_host(
            head,
            (host.said.name().clone(), host.said.domains()[found.domain()].clone()),
            tried.iter().map(|entry| (entry.route.clone(), refusal(&entry.route.matches, head, roll))),
            taken,
        )
    }
}

// === impl Compiling ===

impl<'a, T> Compiling<'a, T> {
    /// The same, where virtual hosts can be [taken over](Self::take_over) from this table.
    pub fn after(self, former: &'a RouteTable<T>) -> Self {
        Self { former: Some(former), ..self }
    }

    /// Takes over the next virtual hosts from the table before: those that are there by the same `Arc`, and of which `is_same`
    /// says that the same would be prepared for their routes. Returns how many, which is not more than `most`.
    pub fn take_over(&mut self, most: usize, is_same: impl Fn(&VirtualHost) -> bool) -> usize {
        let Some(former) = self.former else { return 0 };
        let had = self.virtual_hosts.len();
        for host in self.config.virtual_hosts().iter().skip(had).take(most) {
            let is_it = |place: usize| Arc::ptr_eq(&former.virtual_hosts[place].said, host);
            match self.way.find(former.virtual_hosts.len(), is_it) {
                Some(place) if is_same(host) => self.virtual_hosts.push(former.virtual_hosts[place].clone()),
                _ => break,
            }
        }
        self.virtual_hosts.len() - had
    }

    /// Compiles the next virtual host; `prepare` is asked once for each of its routes, in order. When there is none left, some
    /// are indexed. Returns whether there was anything to do.
    pub fn advance(&mut self, mut prepare: impl FnMut(&VirtualHost, &Arc<Route>) -> T) -> bool {
        match self.config.virtual_hosts().get(self.virtual_hosts.len()) {
            Some(host) => {
                self.virtual_hosts.push(Host::compile(host, &mut prepare));
                true
            }
            None => self.index(),
        }
    }

    fn index(&mut self) -> bool {
        let (said, ignore_port) = (self.config.virtual_hosts(), self.config.ignore_port);
        match &mut self.hosts {
            Hosts::Same(count) => {
                let former = self.former.filter(|former| former.is_found_like(self.config));
                let had = former.map_or(&[][..], |former| &former.virtual_hosts[*count..]);
                let is_same = |(host, had): &(&Arc<VirtualHost>, &Host<T>)| {
                    Arc::ptr_eq(host, &had.said) || host.domains() == had.said.domains()
                };
                let compared = said[*count..].iter().zip(had).take(INDEXED).take_while(is_same).count();
                *count += compared;
                match former {
                    Some(former) if *count == said.len() => self.hosts = Hosts::Done(former.hosts.clone()),
                    Some(_) if compared == INDEXED => {}
                    _ => {
                        let domains = said.iter().map(|host| host.domains().len()).sum();
                        self.hosts = Hosts::Indexing(0, Indexing::new(domains));
                    }
                }
                true
            }
            Hosts::Indexing(count, indexing) => {
                said[*count..].iter().take(INDEXED).for_each(|host| indexing.add(host));
                *count = said.len().min(*count + INDEXED);
                if *count == said.len() {
                    self.hosts = Hosts::Done(indexing.finish(ignore_port));
                }
                true
            }
            Hosts::Done(_) => false,
        }
    }

    /// The table of the virtual hosts.
    ///
    /// # Panics
    ///
    /// When [`advance`](Self::advance) has not told that there is none left.
    pub fn finish(self) -> RouteTable<T> {
        let Hosts::Done(hosts) = self.hosts else { panic!("a table is finished when `advance` has returned false") };
        RouteTable { hosts, virtual_hosts: self.virtual_hosts.into() }
    }
}

// === impl Host ===

impl<T> Host<T> {
    fn compile(host: &Arc<VirtualHost>, prepare: &mut impl FnMut(&VirtualHost, &Arc<Route>) -> T) -> Self {
        let entry = |route: &Arc<Route>| Entry { route: route.clone(), prepared: prepare(host, route) };
        Self {
            said: host.clone(),
            routes: host.routes.iter().map(entry).collect(),
            paths: (host.routes.len() > FEW)
                .then(|| PathIndex::new(host.routes.iter().map(|route| &route.matches.path))),
        }
    }

    /// Index of the first route, in the order of the configuration, that takes the request.
    ///
    /// Candidates come as a few lists, each in order, so the first match is the least of the first matches of each, and a
    /// list is left as soon as it cannot improve on what is found.
    fn first_match(&self, head: &RequestHead<'_>, roll: u64) -> Option<usize> {
        let passes = |index: &usize| refusal(&self.routes[*index].route.matches, head, roll).is_none();
        let mut first = self.routes.len();
        let Some(paths) = &self.paths else {
            return (0..first).find(passes);
        };
        paths.candidates(head.uri.path(), |candidates| {
            let mut earlier = candidates.iter().map(|index| *index as usize).take_while(|index| *index < first);
            first = earlier.find(passes).unwrap_or(first);
        });
        (first < self.routes.len()).then_some(first)
    }
}

// Derived it would ask for `T: Clone`.
impl<T> Clone for Host<T> {
    fn clone(&self) -> Self {
        Self { said: self.said.clone(), routes: self.routes.clone(), paths: self.paths.clone() }
    }
}

// === impl NoRoute ===

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtualHost => "no virtual host takes the request's authority",
            Self::Route => "no route of the virtual host takes the request",
        })
    }
}

impl std::error::Error for NoRoute {}
