//! Servers that go away and come back under load: no call is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::{Request, Status};

use crate::support::{Client, Messages, Server, Terms, message, one};

/// Calls without a pause until it is told to end.
struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    callers: JoinSet<Vec<Status>>,
}

impl Load {
    fn start(client: &Client, callers: usize) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (mut client, over, answered) = (client.clone(), over.clone(), answered.clone());
            tasks.spawn(async move {
                let mut failures = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    match client.unary(Request::new(message("x"))).await {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(status) => failures.push(status),
                    }
                }
                failures
            });
        }
        Self { over, answered, callers: tasks }
    }

    /// Waits until `more` calls were answered from now on.
    async fn go_on(&self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        crate::support::until("the load goes on", || self.answered.load(Ordering::Relaxed) >= goal).await;
    }

    async fn end(mut self) -> Vec<Status> {
        self.over.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            failures.extend(caller.expect("no panic"));
        }
        failures
    }
}

async fn answer(_: Request<tonic::Streaming<bytes::Bytes>>) -> Result<tonic::Response<Messages>, Status> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(one(""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_nothing() {
    let mut servers = vec![Server::start(answer).await, Server::start(answer).await];
    let load = Load::start(&Client::of(servers.iter().map(|server| server.address)), 16);
    for _ in 0..6 {
        load.go_on(200).await;
        let server = servers.remove(0);
        let address = server.address;
        server.drain().await;
        servers.push(Server::on(address, Terms::default(), answer).await);
    }
    load.go_on(200).await;
    let failures = load.end().await;
    assert!(failures.is_empty(), "{} failed, the first: {:?}", failures.len(), failures[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_grow_old_under_load_lose_nothing() {
    let terms = Terms { max_connection_age: Some(Duration::from_millis(40)), ..Terms::default() };
    let server = Server::on(([127, 0, 0, 1], 0).into(), terms, answer).await;
    let load = Load::start(&Client::of([server.address]), 16);
    tokio::time::sleep(Duration::from_millis(800)).await;
    load.go_on(100).await;
    let failures = load.end().await;
    assert!(failures.is_empty(), "{} failed, the first: {:?}", failures.len(), failures[0]);
}
