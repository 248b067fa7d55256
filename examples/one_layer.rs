//! One layer alone: mesh-core's retry layer in a `ServiceBuilder` of one's own, around any tower service, with somebody else's
//! layer in between. You will see a service that fails twice answer at the third attempt.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use mesh_core::{
    config::{Backoff, RetryOn, RetryPolicy},
    retry::{RetryLayer, Tried, Verdict, Wait},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let policy = RetryPolicy::on(RetryOn::RESET)
        .max_retries(3)?
        .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(50))?);
    // What to retry is a closure here; for HTTP there are Envoy's rules.
    let judge = |tried: Tried<'_, String>| match tried.result {
        Ok(_) => Verdict::Deliver,
        Err(_) => Verdict::Retry(Wait::Backoff),
    };

    let service = ServiceBuilder::new()
        .layer(RetryLayer::cloning(policy).judge(judge).per_try_timeout(Duration::from_secs(1)))
        .concurrency_limit(8)
        .service(service_fn(async |name: &'static str| {
            let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed) + 1;
            println!("attempt {attempt}");
            if attempt < 3 { Err(std::io::Error::other("not yet")) } else { Ok(format!("hello, {name}")) }
        }));

    println!("{}", service.oneshot("tower").await?);
    Ok(())
}
