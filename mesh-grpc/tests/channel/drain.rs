//! Servers that go away and come back under load: no call is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use tonic::{Request, Status};

use crate::support::{Client, Messages, Server, client_of, message, one, until};

/// Calls without a pause until it is told to end.
struct Load {
    over: Arc<AtomicBool>,
    answered: watch::Sender<u64>,
    callers: JoinSet<Vec<Status>>,
}

impl Load {
    fn start(client: &Client, callers: usize) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), watch::Sender::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            tasks.spawn(call_on(client.clone(), over.clone(), answered.clone()));
        }
        Self { over, answered, callers: tasks }
    }

    /// Waits until `more` calls were answered from now on.
    async fn go_on(&self, more: u64) {
        let mut answered = self.answered.subscribe();
        let goal = *answered.borrow() + more;
        until("the load goes on", answered.wait_for(|count| *count >= goal)).await.expect("its sender is here");
    }

    async fn end(self) -> Vec<Status> {
        self.over.store(true, Ordering::Relaxed);
        until("every caller has its answer", self.callers.join_all()).await.concat()
    }
}

async fn call_on(mut client: Client, over: Arc<AtomicBool>, answered: watch::Sender<u64>) -> Vec<Status> {
    let mut failures = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match client.unary(message("x")).await {
            Ok(_) => answered.send_modify(|count| *count += 1),
            Err(status) => {
                failures.push(status);
                // A call that fails at once waits for nothing: without a pause its caller would keep a worker from all
                // that could mend it, the timers of the test included, and a failure would look like a hang.
                tokio::task::yield_now().await;
            }
        }
    }
    failures
}

/// Takes a moment, so that calls are under way whenever something happens to the server.
async fn answer(_: Request<tonic::Streaming<bytes::Bytes>>) -> Result<tonic::Response<Messages>, Status> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(one(""))
}

fn none_failed(failures: &[Status]) {
    assert!(failures.is_empty(), "{} failed, the first: {:?}", failures.len(), failures[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_nothing() {
    let mut servers = vec![Server::start(answer), Server::start(answer)];
    let load = Load::start(&client_of(servers.iter().map(|server| server.address)), 16);
    for _ in 0..6 {
        load.go_on(200).await;
        let place = servers.remove(0).drain().await;
        servers.push(Server::at(place, answer));
    }
    load.go_on(200).await;
    none_failed(&load.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_grow_old_under_load_lose_nothing() {
    let mut server = Server::aging(Duration::from_millis(40), answer);
    let load = Load::start(&client_of([server.address]), 16);
    until("ten connections have followed each other", server.accepted.wait_for(|count| *count >= 10))
        .await
        .expect("it serves");
    load.go_on(100).await;
    none_failed(&load.end().await);
}
