//! Five thousand clients lose their control plane in the same instant, and do not come back in one.
//!
//! In virtual time, by the state machine alone: it decides when a stream is opened, and the client opens it in that
//! moment.
#![allow(clippy::print_stderr, reason = "the figures of a run are what it is read for")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::session::{Config, Event, Session, Verdict};
use tokio::time::Instant;

const CLIENTS: usize = 5_000;
const WINDOW: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const KIND: ResourceKind = ResourceKind::Cluster;

/// What the control plane sees of its clients, from the moment in which it goes.
struct Return {
    /// When a connection was asked for, in order, in vain or not.
    attempts: Vec<Duration>,
    /// When each client was served again, in order.
    served: Vec<Duration>,
}

/// A client that holds what it wants, on a live stream.
fn held(seed: u64, now: Instant) -> Session {
    let mut session = Session::new(Config::default(), Node::default(), seed);
    session.subscribe(KIND, "shop");
    assert!(connects(&mut session));
    serve(&mut session, now);
    session
}

/// Opens the stream and answers on it.
fn serve(session: &mut Session, now: Instant) {
    session.stream_opened();
    session.poll_request(now).expect("a name is wanted");
    let response = DiscoveryResponse { type_url: KIND.type_url().to_owned(), ..Default::default() };
    session.received(response, now);
    while let Some(event) = session.poll_event() {
        if let Event::Deliver(batch) = event {
            session.answer(batch.into_ticket(), Verdict { accepted: vec!["shop".into()], rejected: Vec::new() }, now);
        }
    }
    session.poll_request(now).expect("an answer is owed");
}

fn connects(session: &mut Session) -> bool {
    std::iter::from_fn(|| session.poll_event()).any(|event| matches!(event, Event::Connect))
}

/// The control plane is gone for `outage`, for everybody at once.
fn outage(outage: Duration) -> Return {
    let gone = Instant::now();
    let mut sessions: Vec<_> = (0..CLIENTS as u64).map(|client| held(1_000 + client, gone)).collect();
    let mut due = BinaryHeap::new();
    for (client, session) in sessions.iter_mut().enumerate() {
        session.stream_ended("the control plane went", gone);
        due.push(Reverse((session.next_timeout().expect("an attempt is due"), client)));
    }
    let mut seen = Return { attempts: Vec::new(), served: Vec::new() };
    while let Some(Reverse((now, client))) = due.pop() {
        let session = &mut sessions[client];
        session.timeout(now);
        assert!(connects(session), "it wakes for nothing else");
        seen.attempts.push(now - gone);
        if now - gone < outage {
            session.stream_ended("connection refused", now);
        } else {
            serve(session, now);
            seen.served.push(now - gone);
        }
        if let Some(next) = session.next_timeout() {
            due.push(Reverse((next, client)));
        }
    }
    seen
}

/// The most that fall into any window.
fn peak(times: &[Duration]) -> usize {
    let within = |(first, start): (usize, &Duration)| times[first..].partition_point(|time| *time < *start + WINDOW);
    times.iter().enumerate().map(within).max().unwrap_or(0)
}

fn report(title: &str, seen: &Return, outage: Duration) {
    let last = seen.served.last().expect("all come back").saturating_sub(outage);
    let (attempts, served) = (peak(&seen.attempts), peak(&seen.served));
    eprintln!("{title}: at most {attempts} attempts and {served} successes in 100 ms; all back after {last:.1?}");
}

#[test]
fn restart_is_met_by_at_most_an_eighth_of_the_fleet_in_a_tenth_of_a_second() {
    let seen = outage(Duration::ZERO);
    report("at once", &seen, Duration::ZERO);
    assert_eq!(seen.served.len(), CLIENTS);
    assert!(peak(&seen.attempts) <= CLIENTS / 8, "{}", peak(&seen.attempts));
    assert!(*seen.served.last().expect("some") <= SECOND, "and all are back within the first wait");
}

#[test]
fn longer_outage_spreads_the_return_wider() {
    let away = 30 * SECOND;
    let seen = outage(away);
    report("after 30 s", &seen, away);
    assert_eq!(seen.served.len(), CLIENTS);
    let attempts = peak(&seen.attempts);
    assert!(attempts <= CLIENTS / 5, "{attempts}: who tries in vain tries again, ever later");
    assert!(peak(&seen.served) <= CLIENTS / 40, "{}", peak(&seen.served));
    let in_time = seen.served.partition_point(|at| *at <= 2 * away);
    assert!(in_time >= CLIENTS * 9 / 10, "{in_time} are back when it has been there for as long as it was away");
    assert!(*seen.served.last().expect("some") <= away + 120 * SECOND, "and all within the longest wait");
}

#[test]
fn after_a_long_outage_all_are_back_within_the_longest_wait() {
    let away = 3_600 * SECOND;
    let seen = outage(away);
    report("after an hour", &seen, away);
    assert_eq!(seen.served.len(), CLIENTS);
    assert!(peak(&seen.served) <= CLIENTS / 200, "{}", peak(&seen.served));
    assert!(*seen.served.last().expect("some") <= away + 120 * SECOND);
}
