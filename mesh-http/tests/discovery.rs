//! A cluster that finds its endpoints in another way from now on, by the word of its source: the old ones serve until there are
//! new ones, and say nothing afterwards.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use client_support::{Said, TTL, Zone, answering, named};
use mesh_core::config::{
    Cluster, ClusterEntry, Discovery, DnsEndpoints, DnsName, Endpoint, Endpoints, Listener, RouteConfig, Snapshot,
    TargetState,
};
use mesh_http::{Client, Mesh};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const ONE: &str = "one.example";
const TWO: &str = "two.example";

/// A client of one cluster, and what it is told.
struct Shop {
    said: Said,
    routes: Arc<Listener>,
    zone: Zone,
    client: Client,
}

impl Shop {
    fn open() -> Self {
        let (said, zone) = (Said::default(), Zone::new());
        zone.set(ONE, Some(&[1])).set(TWO, Some(&[2]));
        let mesh = Mesh::builder().source(said.clone()).connector(named()).resolver(zone.clone()).seed(1);
        let client = Client::builder("shop").mesh(&mesh.build().unwrap()).build().unwrap();
        let routes = Arc::new(Listener::new("shop", Arc::new(RouteConfig::to_cluster("routes", "books"))));
        Self { said, routes, zone, client }
    }

    fn say(&self, discovery: Discovery, endpoints: Option<Endpoints>) {
        let mut cluster = Cluster::new("books").unwrap();
        cluster.discovery = discovery;
        let entry = ClusterEntry { cluster: Arc::new(cluster), endpoints: endpoints.map(Arc::new) };
        self.said.0.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot {
                generation: snapshot.generation + 1,
                targets: [("shop".into(), TargetState::Ready(self.routes.clone()))].into(),
                clusters: [("books".into(), entry)].into(),
            });
        });
    }

    fn say_names(&self, names: &[&str]) {
        self.say(by_dns(names), None);
    }

    fn say_endpoints(&self, numbers: &[u8]) {
        self.say(Discovery::Endpoints("books".into()), Some(endpoints(numbers)));
    }

    async fn answering(&self) -> BTreeSet<u8> {
        // The mesh has its turn first.
        sleep(SECOND).await;
        answering(&self.client).await
    }
}

fn by_dns(names: &[&str]) -> Discovery {
    let names = names.iter().map(|name| DnsName::new(*name, 80).unwrap());
    Discovery::Dns(Arc::new(DnsEndpoints::strict(Endpoints::by_name(names).unwrap())))
}

fn endpoints(numbers: &[u8]) -> Endpoints {
    let at = |number: &u8| Endpoint::new(SocketAddr::from(([10, 0, 0, *number], 80)));
    Endpoints::flat(numbers.iter().map(at).collect()).unwrap()
}

fn at<const N: usize>(numbers: [u8; N]) -> BTreeSet<u8> {
    numbers.into()
}

#[tokio::test(start_paused = true)]
async fn from_one_name_to_another() {
    let shop = Shop::open();
    shop.say_names(&[ONE]);
    assert_eq!(shop.answering().await, at([1]));
    shop.say_names(&[TWO]);
    assert_eq!(shop.answering().await, at([2]));
    let asked = shop.zone.asked(ONE);
    sleep(TTL * 4).await;
    assert_eq!(shop.answering().await, at([2]));
    assert_eq!(shop.zone.asked(ONE), asked, "nobody asks for the old name");
}

#[tokio::test(start_paused = true)]
async fn from_names_to_endpoints_of_the_source_for_good() {
    let shop = Shop::open();
    shop.say_names(&[ONE]);
    assert_eq!(shop.answering().await, at([1]));
    shop.say_endpoints(&[9]);
    assert_eq!(shop.answering().await, at([9]));
    sleep(TTL * 4).await;
    assert_eq!(shop.answering().await, at([9]), "no look-up has the last word");
}

#[tokio::test(start_paused = true)]
async fn from_a_name_that_is_being_looked_up_to_endpoints() {
    let shop = Shop::open();
    shop.zone.takes(ONE, 9 * SECOND);
    shop.say_names(&[ONE]);
    sleep(SECOND).await;
    shop.say_endpoints(&[9]);
    assert_eq!(shop.answering().await, at([9]), "it is warm at once");
    sleep(9 * SECOND).await;
    assert_eq!(shop.answering().await, at([9]));
}

#[tokio::test(start_paused = true)]
async fn from_endpoints_to_names_when_they_are_known() {
    let shop = Shop::open();
    shop.say_endpoints(&[9]);
    assert_eq!(shop.answering().await, at([9]));
    shop.zone.takes(TWO, 9 * SECOND);
    shop.say_names(&[ONE, TWO]);
    assert_eq!(shop.answering().await, at([9]), "the old set serves until every name was answered");
    sleep(9 * SECOND).await;
    assert_eq!(shop.answering().await, at([1, 2]));
}

#[tokio::test(start_paused = true)]
async fn names_that_do_not_resolve_leave_the_endpoints_that_were() {
    let shop = Shop::open();
    shop.say_endpoints(&[9]);
    assert_eq!(shop.answering().await, at([9]));
    shop.say_names(&["gone.example"]);
    sleep(TTL).await;
    assert_eq!(shop.answering().await, at([9]));
    shop.say_names(&["gone.example", TWO]);
    assert_eq!(shop.answering().await, at([2]), "an answer replaces them");
}

#[tokio::test(start_paused = true)]
async fn name_that_stays_keeps_its_addresses_when_another_joins() {
    let shop = Shop::open();
    shop.say_names(&[ONE]);
    assert_eq!(shop.answering().await, at([1]));
    shop.zone.set(ONE, None);
    shop.say_names(&[ONE, TWO]);
    assert_eq!(shop.answering().await, at([1, 2]));
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_stand_in_the_cluster_are_followed() {
    let shop = Shop::open();
    for number in [3, 4] {
        shop.say(Discovery::Static(Arc::new(endpoints(&[number]))), None);
        assert_eq!(shop.answering().await, at([number]));
    }
    shop.say_names(&[ONE]);
    assert_eq!(shop.answering().await, at([1]));
}
