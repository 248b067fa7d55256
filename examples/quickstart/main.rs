//! The whole mesh on one machine, in under 20 seconds: a control plane and six backends on loopback, mutual TLS with
//! certificates made on the spot, a hyper-style client and a generated tonic client. Each claim is tried under load and shown
//! with its figures; the program ends with a non-zero code when one did not hold.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

mod load;
mod report;
mod shop;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use http::Request;
use http_body_util::Empty;
use mesh_core::{
    config::{CircuitBreakers, SpiffeId, Thresholds, Trust, UpstreamTls},
    outcome::Flags,
};
use mesh_examples::echo::echo_client::EchoClient;
use mesh_grpc::Channel;
use mesh_http::{Client, Mesh};
use tokio::{task::JoinSet, time::sleep};

use self::{
    load::{Caller, Load},
    report::Report,
    shop::{BACKEND_ID, Result, Shop, TARGETS},
};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut report = Report::new();
    let mut shop = Shop::open().await?;
    report.say(
        "A service mesh inside this process: no sidecar, nothing installed.\n\
         Six backends (three HTTP, three gRPC; versions v1 and v2) listen on loopback and demand client certificates;\n\
         a control plane tells the clients where they are and how to treat them.",
    );

    // All that an application does: one mesh, and clients of it.
    let mesh = Mesh::builder().source(shop.source()?).build()?;
    let http = Client::builder(TARGETS[0]).mesh(&mesh).build()?;
    let channel = Channel::builder(TARGETS[1]).mesh(&mesh).build()?;
    http.ready().await?;
    channel.ready().await?;
    let callers = [Caller::Http(http), Caller::Grpc(EchoClient::new(channel))];

    spread(&mut report, &callers).await;
    kill(&mut report, &mut shop, &callers).await?;
    shift(&mut report, &shop, &callers).await?;
    slow(&mut report, &shop, &mesh).await?;
    flood(&mut report, &shop, &mesh).await?;
    identity(&mut report, &mesh).await?;
    control_plane(&mut report, &shop, &callers).await?;

    mesh.shutdown(Duration::from_secs(1)).await;
    Ok(if report.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn spread(report: &mut Report, callers: &[Caller]) {
    report.claim("Requests spread over the backends: half of them to v1, which has two, half to v2");
    for caller in callers {
        let tally = caller.calls(400).await;
        let v2 = tally.share("v2");
        let halves = (tally.share("v1-a") - tally.share("v1-b")).abs();
        let holds = tally.failures.is_empty() && (38.0..62.0).contains(&v2) && halves < 12.0;
        report.check(holds, format!("{}: {tally}", caller.name()));
    }
}

async fn kill(report: &mut Report, shop: &mut Shop, callers: &[Caller]) -> Result<()> {
    report.claim("A backend is killed under load, and no request is lost");
    let loads: Vec<_> = callers.iter().map(Load::start).collect();
    sleep(Duration::from_millis(500)).await;
    shop.kill_first();
    sleep(Duration::from_millis(700)).await;
    shop.replace_first().await?;
    sleep(Duration::from_millis(500)).await;
    for (caller, load) in callers.iter().zip(loads) {
        let tally = load.stop().await;
        let replaced = tally.answers.contains_key("v1-c");
        report.check(tally.failures.is_empty() && replaced, format!("{}: {tally}", caller.name()));
    }
    Ok(())
}

async fn shift(report: &mut Report, shop: &Shop, callers: &[Caller]) -> Result<()> {
    report.claim("The control plane shifts traffic from v1 to v2 under load, and no request is lost");
    for to_v2 in [0, 50, 100] {
        let shifting: Vec<_> = callers.iter().map(Load::start).collect();
        shop.shift(to_v2).await?;
        let shifted: Vec<_> = callers.iter().map(Load::start).collect();
        sleep(Duration::from_millis(300)).await;
        for ((caller, shifting), shifted) in callers.iter().zip(shifting).zip(shifted) {
            let (during, after) = (shifting.stop().await, shifted.stop().await);
            let share = after.share("v2");
            let lost = during.failures.len() + after.failures.len();
            let figure = format!(
                "{} {}/{to_v2}: {share:.1} % of {} answers from v2, {lost} of {} lost",
                caller.name(),
                100 - to_v2,
                after.total(),
                during.total() + after.total(),
            );
            // Half of the requests, give or take what chance allows for so many draws.
            let chance = if to_v2 == 50 { 450.0 * (0.25 / after.total() as f64).sqrt() } else { 0.1 };
            report.check(lost == 0 && (share - f64::from(to_v2)).abs() < chance, figure);
        }
    }
    shop.shift(0).await
}

async fn slow(report: &mut Report, shop: &Shop, mesh: &Mesh) -> Result<()> {
    report.claim("A slow backend is cut off by the per-try timeout (100 ms), and the request is tried elsewhere");
    // What is pinned in code holds whatever the control plane says.
    let client = Client::builder(TARGETS[0]).mesh(mesh).per_try_timeout(Duration::from_millis(100)).build()?;
    client.ready().await?;
    let caller = Caller::Http(client);
    shop.backends[0][0].slow_down(Duration::from_secs(5));
    let start = Instant::now();
    let tally = caller.calls(20).await;
    let seconds = start.elapsed().as_secs_f64();
    shop.backends[0][0].slow_down(Duration::ZERO);
    let holds = tally.failures.is_empty() && !tally.answers.contains_key("v1-c") && seconds < 4.0;
    report.check(holds, format!("{}: {tally}, all within {seconds:.2} s", caller.name()));
    Ok(())
}

async fn flood(report: &mut Report, shop: &Shop, mesh: &Mesh) -> Result<()> {
    report.claim("A flood is refused at once by the circuit breaker, and retries are held to their budget");
    let thresholds = Thresholds { max_requests: Some(10), ..Thresholds::default() };
    let breakers = CircuitBreakers { default: thresholds, high: thresholds };
    let client = Client::builder(TARGETS[0]).mesh(mesh).circuit_breakers(breakers).build()?;
    client.ready().await?;
    shop.backends[0].iter().for_each(|backend| backend.slow_down(Duration::from_millis(400)));
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let call = client.get("http://pages.shop:8080/");
        calls.spawn(async move {
            let start = Instant::now();
            (call.await, start.elapsed())
        });
    }
    let (mut answered, mut refused, mut slowest_refusal) = (0, 0, Duration::ZERO);
    while let Some(call) = calls.join_next().await {
        match call? {
            (Ok(_), _) => answered += 1,
            (Err(error), after) if error.flags().contains(Flags::UO) => {
                refused += 1;
                slowest_refusal = slowest_refusal.max(after);
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    shop.backends[0].iter().for_each(|backend| backend.slow_down(Duration::ZERO));
    let holds = answered == 10 && refused == 190 && slowest_refusal < Duration::from_millis(200);
    let figure =
        format!("200 at once, 10 allowed: {answered} answered, {refused} refused (UO) within {slowest_refusal:?}");
    report.check(holds, figure);

    let client = Client::builder(TARGETS[0]).mesh(mesh).build()?;
    let before = served(shop);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let request = Request::get("http://pages.shop:8080/broken").body(Empty::<bytes::Bytes>::new())?;
        calls.spawn(client.request(request));
    }
    let answers = calls.join_all().await.into_iter().filter(|answer| answer.is_ok()).count();
    let attempts = served(shop) - before;
    let figure = format!(
        "100 requests that all fail with 503, two retries each allowed: {attempts} attempts reach the backends, not 300 ({answers} answers)"
    );
    report.check((100..=160).contains(&attempts), figure);
    Ok(())
}

fn served(shop: &Shop) -> u64 {
    shop.backends[0].iter().map(|backend| backend.served()).sum()
}

async fn identity(report: &mut Report, mesh: &Mesh) -> Result<()> {
    report.claim("A peer with the wrong identity is refused");
    let other = SpiffeId::parse("spiffe://shop.example/ns/bank/sa/vault")?;
    let expected = UpstreamTls::new(Trust::Identity("default".into())).with_identity("default").with_spiffe_id(&other);
    let client = Client::builder(TARGETS[0]).mesh(mesh).tls(expected).build()?;
    match client.get("http://pages.shop:8080/").await {
        Ok(_) => report.check(false, format!("{BACKEND_ID} was taken for {}", other.as_str())),
        Err(error) => report.check(error.is_tls(), error.reason()),
    }
    Ok(())
}

async fn control_plane(report: &mut Report, shop: &Shop, callers: &[Caller]) -> Result<()> {
    report.claim("The control plane goes away and traffic is unharmed; it comes back and is obeyed");
    let loads: Vec<_> = callers.iter().map(Load::start).collect();
    shop.stop_control_plane().await;
    sleep(Duration::from_secs(1)).await;
    for (caller, load) in callers.iter().zip(loads) {
        let tally = load.stop().await;
        report.check(tally.failures.is_empty(), format!("{} without a control plane: {tally}", caller.name()));
    }
    shop.start_control_plane().await?;
    shop.shift(100).await?;
    for caller in callers {
        let tally = caller.calls(100).await;
        report.check(tally.share("v2") > 99.0, format!("{} after its return, all to v2: {tally}", caller.name()));
    }
    Ok(())
}
