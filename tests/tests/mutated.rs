//! A control plane that sends mutated responses, ten thousand of them, to a client under steady requests: no panic, no failed
//! request, no growth of memory or tasks, and what is said well afterwards is obeyed.
//!
//! A mutation may well be as valid as what it was made of, and then it is to be obeyed, whatever becomes of the requests. What
//! must hold is what those are owed that it did not touch: see [`Damage`], whose responses leave to the target under load,
//! byte by byte, what it has, or what must be refused. Its requests therefore have no excuse to fail, nor to be answered by
//! anybody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{
    panic,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation_counter::AllocationInfo;
use envoy_types::pb::{
    envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
    google::protobuf::{self as wire, Any},
};
use envoy_types::util::pack_any;
use mesh_core::Dice;
use mesh_http::Mesh;
use mesh_tests::{
    load::{Tally, under_load},
    sim::{Answer, Backend, Caller, PLANE, Speaks, World, address},
};
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature},
    session::{Response, Variant},
    testkit::{
        Event, Mutations, Transaction,
        resource::{cluster, endpoints, listener, refusal, route_config},
    },
};
use prost::{Message, Name};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

/// In each variant, half of the ten thousand.
const RESPONSES: usize = 5_000;

/// Of these, as many are sent before anything is measured: tables grow to their size, and stay.
const WARM_UP: usize = 1_000;

/// What the rest may leave behind, in all. A leak of a name or an error text each would be more than a hundred kilobytes.
const GROWTH: i64 = 16 * 1024;

/// The target under load. Its name is so unlike its neighbours' that no few bytes make the one of the other.
const SERVING: Service = Service("serving.under-load.test:80");

/// Targets that the same responses speak of, and that mutations are made of.
const NEIGHBOURS: [Service; 3] = [Service("b.test:80"), Service("c.test:80"), Service("d.test:80")];

#[test]
fn in_state_of_the_world_mutated_responses_harm_nobody() {
    mutated_responses_harm_nobody(Variant::StateOfTheWorld);
}

#[test]
fn in_delta_mutated_responses_harm_nobody() {
    mutated_responses_harm_nobody(Variant::Delta);
}

fn mutated_responses_harm_nobody(variant: Variant) {
    let panics = count_panics();
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let mut attack = runtime.block_on(Attack::begin(variant));
    attack.rounds(&runtime, WARM_UP);
    let tasks = runtime.metrics().num_alive_tasks();
    let growth = allocation_counter::measure(|| attack.rounds(&runtime, RESPONSES - WARM_UP));
    let AllocationInfo { bytes_current, bytes_max, .. } = growth;

    assert_eq!(panics.load(Ordering::Relaxed), 0);
    assert_eq!(runtime.metrics().num_alive_tasks(), tasks, "tasks");
    assert!(bytes_current < GROWTH, "{bytes_current} bytes are left of {bytes_max} at most");
    attack.seen.assert_varied();
}

/// Panics of any task, not of the test alone.
fn count_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    });
    &PANICS
}

/// A client under load, and the control plane that is about to mistreat it.
struct Attack {
    world: World,
    variant: Variant,
    _backends: [Backend; 2],
    mesh: Mesh,
    serving: Caller,
    _neighbours: Vec<Caller>,
    dice: Dice,
    mutations: Mutations,
    /// How many responses were sent.
    sent: usize,
    seen: Seen,
}

/// What the control plane saw of the client, and what it did itself.
#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    accepted: usize,
    refused: usize,
    streams: usize,
    neighbours: usize,
    wholes: usize,
    own: usize,
}

/// How a response is mutated.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One or more of the neighbours' resources are. A bad one takes no good one down, and a good one changes its own alone.
    Neighbours,
    /// All of it is, in any way that leaves the target under load its resource, or makes one of it that must be refused: names,
    /// types, wrappers, nonces and what is no response at all.
    Whole,
    /// The resource of the target under load is, so that it must be refused; the last good one serves.
    Own,
}

/// A target, whose routes, clusters and endpoints are named like it.
#[derive(Clone, Copy, Debug)]
struct Service(&'static str);

// === impl Attack ===

impl Attack {
    async fn begin(variant: Variant) -> Self {
        let world = World::new();
        let think = Answer::after(Duration::from_millis(20));
        let backends = [1, 2].map(|number| world.backend(number, &number.to_string(), Speaks::Http2, think));
        let features = (variant == Variant::Delta).then_some(ServerFeature::Delta);
        let bootstrap = Bootstrap::builder()
            .server_with_features(PLANE.to_string(), ChannelCredentials::Insecure, features)
            .node(Node::new("mutated"))
            .build()
            .unwrap();
        let source = XdsClient::builder(bootstrap).connector(world.network.clone()).seed(3);
        let source = source.reconnect(Duration::from_millis(20), Duration::from_millis(50)).build().unwrap();
        let mesh = world.unsteered(3).source(source).build().unwrap();
        let serving = Caller::of(&mesh, SERVING.0, Speaks::Http2);
        let neighbours = NEIGHBOURS.map(|service| Caller::of(&mesh, service.0, Speaks::Http2));
        let mut attack = Self {
            world,
            variant,
            _backends: backends,
            mesh,
            serving,
            _neighbours: neighbours.into(),
            dice: Dice::new(11),
            mutations: Mutations::new(11),
            sent: 0,
            seen: Seen::default(),
        };
        attack.say_all_well(1).await;
        attack.serving.ready().await.unwrap();
        attack
    }

    /// Sends mutated responses under load, says all well again, and looks whether that is obeyed.
    fn rounds(&mut self, runtime: &Runtime, count: usize) {
        runtime.block_on(async {
            let serving = self.serving.clone();
            let ((), tally) = under_load(4, || serving.call(), async {
                for _ in 0..count {
                    self.send_mutated().await;
                }
            })
            .await;
            self.note(&tally, "1");
            self.say_all_well(2).await;
            let ((), tally) = under_load(4, || serving.call(), sleep(Duration::from_secs(1))).await;
            self.note(&tally, "2");
            self.say_all_well(1).await;
            // Longer than a refusal waits to be told, and than anything is awaited.
            sleep(Duration::from_secs(60)).await;
            self.take_events();
            // The network forgets closed connections when it is asked for open ones.
            assert_eq!(self.world.network.open(PLANE), 1, "connections");
        });
    }

    /// Sets everything, with the target under load at this backend, and waits until the client has it.
    async fn say_all_well(&mut self, backend: u8) {
        self.world.plane.update(|tx| {
            NEIGHBOURS.iter().for_each(|service| service.offer(tx, 3));
            SERVING.offer(tx, backend);
        });
        sleep(Duration::from_secs(5)).await;
        let status = self.mesh.status().source.unwrap();
        let serving = status.resources.iter().filter(|one| &*one.name == SERVING.0);
        assert!(serving.clone().all(|one| one.error.is_none()), "{status:#?}");
    }

    fn note(&mut self, tally: &Tally, backend: &str) {
        tally.assert_none_failed();
        // Those under way when the endpoints changed were the other's.
        let strays = tally.calls() - tally.answers.get(backend).copied().unwrap_or_default();
        assert!(strays <= 4 && tally.calls() > 100, "{tally:#?}");
        self.seen.calls += tally.calls();
    }

    /// The next mutated response, once the client listens.
    async fn send_mutated(&mut self) {
        let kind = ResourceKind::ALL[self.sent % ResourceKind::ALL.len()];
        self.until_listening(kind).await;
        self.sent += 1;
        let damage = match self.dice.below(3) {
            0 => Damage::Neighbours,
            1 => Damage::Whole,
            _ => Damage::Own,
        };
        match damage {
            Damage::Neighbours => {
                self.seen.neighbours += 1;
                let bodies = NEIGHBOURS.map(|service| (service, self.mutated_or_not(service.body(kind, 3))));
                self.world
                    .plane
                    .send(self.response(kind, [(SERVING, SERVING.body(kind, 1))].into_iter().chain(bodies)));
            }
            Damage::Whole => {
                self.seen.wholes += 1;
                let bodies = [SERVING].into_iter().chain(NEIGHBOURS).map(|service| (service, service.body(kind, 1)));
                let good = encoded(&self.response(kind, bodies));
                let bytes = loop {
                    let bytes = self.mutations.of(&good);
                    if bytes != good && spares(self.variant, &bytes) {
                        break bytes;
                    }
                };
                self.world.plane.send_bytes(bytes);
            }
            Damage::Own => {
                self.seen.own += 1;
                let body = loop {
                    let body = self.mutated(SERVING.body(kind, 1));
                    // In a full state, a resource that goes by another name says that this one is gone.
                    if refusal(&body).is_some() && ["", SERVING.0].contains(&&*name_of(&body)) {
                        break body;
                    }
                };
                let neighbours = NEIGHBOURS.map(|service| (service, service.body(kind, 3)));
                self.world.plane.send(self.response(kind, [(SERVING, body)].into_iter().chain(neighbours)));
            }
        }
        sleep(Duration::from_millis(2)).await;
        if self.sent.is_multiple_of(100) {
            self.take_events();
        }
    }

    /// After a lost stream, the client is soon there again and asks for what it asked for before.
    async fn until_listening(&self, kind: ResourceKind) {
        let is_asked = || self.world.plane.subscriptions(kind).contains(SERVING.0);
        let listening = async {
            while !is_asked() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let status = || self.mesh.status().source;
        timeout(Duration::from_secs(10), listening).await.unwrap_or_else(|_| panic!("{kind}: {:#?}", status()));
    }

    fn mutated(&mut self, body: Any) -> Any {
        Any { value: self.mutations.of(&body.value), ..body }
    }

    fn mutated_or_not(&mut self, body: Any) -> Any {
        if self.dice.below(2) == 0 { body } else { self.mutated(body) }
    }

    fn response(&self, kind: ResourceKind, bodies: impl Iterator<Item = (Service, Any)>) -> Response {
        let (version, nonce, type_url) =
            (self.sent.to_string(), format!("m-{}", self.sent), kind.type_url().to_owned());
        match self.variant {
            Variant::StateOfTheWorld => DiscoveryResponse {
                version_info: version,
                nonce,
                type_url,
                resources: bodies.map(|(_, body)| body).collect(),
                ..Default::default()
            }
            .into(),
            Variant::Delta => {
                let resource = |(service, body): (Service, Any)| Resource {
                    name: service.0.to_owned(),
                    version: version.clone(),
                    // For mutations to make something of.
                    ttl: (service.0 != SERVING.0).then_some(wire::Duration { seconds: 3600, nanos: 0 }),
                    resource: Some(body),
                    ..Default::default()
                };
                let resources = bodies.map(resource).collect();
                let removed_resources = vec!["nobody's".to_owned()];
                DeltaDiscoveryResponse { resources, removed_resources, nonce, type_url, ..Default::default() }.into()
            }
        }
    }

    fn take_events(&mut self) {
        for event in self.world.plane.take_events() {
            match event {
                Event::Acked(_) => self.seen.accepted += 1,
                Event::Nacked(_) => self.seen.refused += 1,
                Event::StreamOpened { .. } => self.seen.streams += 1,
                _ => {}
            }
        }
        self.world.record.forget();
    }
}

// === impl Seen ===

impl Seen {
    /// The client had something to say to all this, and was not merely reconnecting.
    fn assert_varied(&self) {
        let Self { accepted, refused, streams, neighbours, wholes, own, .. } = *self;
        assert!([neighbours, wholes, own].iter().all(|count| *count > RESPONSES / 4), "{self:?}");
        assert!(refused > RESPONSES / 4 && accepted > RESPONSES / 10 && streams > 50, "{self:?}");
    }
}

/// Whether a response leaves to the target under load what it has. What is no response ends the stream, and takes nothing away.
fn spares(variant: Variant, bytes: &[u8]) -> bool {
    match variant {
        Variant::StateOfTheWorld => {
            DiscoveryResponse::decode(bytes).map_or(true, |response| spares_in_state(&response))
        }
        Variant::Delta => DeltaDiscoveryResponse::decode(bytes).map_or(true, |response| spares_in_delta(&response)),
    }
}

/// In a full state, what is not there is removed.
fn spares_in_state(response: &DiscoveryResponse) -> bool {
    let Some(kind) = ResourceKind::from_type_url(&response.type_url) else { return true };
    let is_there = response.resources.iter().any(|body| speaks_of_serving(None, body));
    let wrapped = response.resources.iter().any(|body| body.type_url == Resource::type_url());
    !wrapped
        && (is_there || !kind.is_full_state())
        && response.resources.iter().all(|body| is_harmless(kind, None, body))
}

fn spares_in_delta(response: &DeltaDiscoveryResponse) -> bool {
    let Some(kind) = ResourceKind::from_type_url(&response.type_url) else { return true };
    let resources = response.resources.iter();
    !response.removed_resources.iter().any(|name| name == SERVING.0)
        && resources.clone().all(|one| one.name != SERVING.0 || one.ttl.is_none())
        && resources.clone().all(|one| one.resource_name.is_none())
        && resources
            .filter_map(|one| Some((&one.name, one.resource.as_ref()?)))
            .all(|(name, body)| is_harmless(kind, Some(name), body))
}

/// Whether a resource is not the serving target's, or is what that has, or must be refused.
fn is_harmless(kind: ResourceKind, name: Option<&str>, body: &Any) -> bool {
    !speaks_of_serving(name, body)
        || *body == SERVING.body(kind, 1)
        || body.type_url != kind.type_url()
        || refusal(body).is_some()
}

/// Whether it goes by the serving target's name, inside or on its wrapper.
fn speaks_of_serving(wrapper: Option<&str>, body: &Any) -> bool {
    name_of(body) == SERVING.0 || wrapper == Some(SERVING.0)
}

/// In all four messages the name is the first field.
fn name_of(body: &Any) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    let mut named = Named::default();
    let _ = named.merge(body.value.as_slice());
    named.name
}

fn encoded(response: &Response) -> Vec<u8> {
    match response {
        Response::StateOfTheWorld(response) => response.encode_to_vec(),
        Response::Delta(response) => response.encode_to_vec(),
    }
}

// === impl Service ===

impl Service {
    fn body(self, kind: ResourceKind, backend: u8) -> Any {
        match kind {
            ResourceKind::Listener => pack_any(listener(self.0, self.0)),
            ResourceKind::RouteConfiguration => pack_any(route_config(self.0, [(self.0, 1)])),
            ResourceKind::Cluster => pack_any(cluster(self.0)),
            _ => pack_any(endpoints(self.0, [address(backend)])),
        }
    }

    fn offer(self, tx: &mut Transaction<'_>, backend: u8) {
        for kind in ResourceKind::ALL {
            tx.raw(kind, self.0, self.body(kind, backend));
        }
    }
}
