//! Calls over loopback and what they cost the client: the harness of the `loopback` benches.
//!
//! The client is one thread with a runtime of its own, the backend another process, so that whatever this process spends is
//! the client's. Stacks take turns within one run, since ratios hold where times do not.
//!
//! Both processes share one core. With one call in flight they never work at the same time; on two cores each of them goes to
//! sleep and is woken across cores for every call, which costs the client four times as much as all its work. Left alone, the
//! scheduler moves them together and apart in the middle of a round, and the ratio of two stacks may be anything up to that.
#![allow(clippy::print_stdout, missing_docs, dead_code, reason = "shared by the benches of two crates")]

pub(crate) mod backend;
mod bill;

use std::{
    env,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

use self::{
    backend::{Backend, Speaks},
    bill::Bill,
};

/// A client under measurement.
pub(crate) struct Stack {
    name: &'static str,
    run: Run,
}

/// Makes so many calls, so many at a time.
type Run = Box<dyn Fn(Load) -> Pin<Box<dyn Future<Output = ()>>>>;

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) at_once: usize,
    pub(crate) calls: usize,
}

/// The stacks that are compared, made in a runtime from the addresses of the backend: in groups, of each of which the first is
/// the measure of the others.
pub(crate) type Stacks = fn(&[SocketAddr]) -> Vec<Vec<Stack>>;

/// How many calls are in flight.
const AT_ONCE: [usize; 2] = [1, 32];

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(200);

// === impl Stack ===

impl Stack {
    /// `call` makes one call and reads its answer to the end.
    pub(crate) fn new<C, F>(name: &'static str, call: C) -> Self
    where
        C: Fn() -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, run: Box::new(move |load| Box::pin(run(call.clone(), load))) }
    }

    pub(crate) async fn run(&self, load: Load) {
        (self.run)(load).await;
    }
}

/// Each caller is a task, as the handlers of a server are.
async fn run<C, F>(call: C, Load { at_once, calls }: Load)
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let caller = |call: C| async move {
        for _ in 0..calls / at_once {
            call().await;
        }
    };
    let callers: Vec<_> = (0..at_once).map(|_| tokio::spawn(caller(call.clone()))).collect();
    for caller in callers {
        caller.await.expect("no call panics");
    }
}

/// What the program does, by its arguments: serve, make some calls for a tool that looks on, or compare the stacks.
pub(crate) fn main(speaks: Speaks, stacks: Stacks) {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["serve", ..] => backend::serve(speaks),
        ["calls", stack, at_once, calls, ..] => {
            let number = |text: &str| text.parse().expect("a number");
            make_calls(stacks, stack, Load { at_once: number(at_once), calls: number(calls) });
        }
        _ => compare(stacks),
    }
}

fn make_calls(stacks: Stacks, name: &str, load: Load) {
    let (backend, runtime) = (Backend::start(), runtime());
    runtime.block_on(async {
        let stacks = stacks(backend.addresses());
        let stack = stacks.iter().flatten().find(|stack| stack.name == name).expect("a stack of this name");
        stack.run(load).await;
    });
}

fn compare(stacks: Stacks) {
    share_one_core();
    println!("client CPU per call, microseconds and ratio: median of {ROUNDS} alternated rounds (least to most)");
    let names = compare_cpu(stacks);
    println!("\nper call, by difference of two runs: instructions in user space, allocations, system calls");
    for at_once in AT_ONCE {
        for name in &names {
            println!("bill {name} x{at_once} {}", Bill::of(name, at_once));
        }
    }
}

/// Keeps this process, and the backend that it starts, on the last core that it may use.
fn share_one_core() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let may_use = sched_getaffinity(None).expect("a process may ask");
        let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| may_use.is_set(*cpu)).expect("it runs on one");
        let mut one = CpuSet::new();
        one.set(last);
        sched_setaffinity(None, &one).expect("it may use this one");
    }
}

fn compare_cpu(stacks: Stacks) -> Vec<&'static str> {
    let (backend, runtime) = (Backend::start(), runtime());
    runtime.block_on(async {
        let groups = stacks(backend.addresses());
        for at_once in AT_ONCE {
            for group in &groups {
                compare_group(group, at_once).await;
            }
        }
        groups.iter().flatten().map(|stack| stack.name).collect()
    })
}

async fn compare_group(stacks: &[Stack], at_once: usize) {
    let mut calls = Vec::new();
    for stack in stacks {
        calls.push(calls_in_a_round(stack, at_once).await);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut round = Vec::new();
        for (stack, calls) in stacks.iter().zip(&calls) {
            round.push(cpu_per_call(stack, Load { at_once, calls: *calls }).await);
        }
        rounds.push(round);
    }
    for (index, stack) in stacks.iter().enumerate() {
        let (cpu, _, _) = spread(rounds.iter().map(|round| round[index]));
        let (ratio, least, most) = spread(rounds.iter().map(|round| round[index] / round[0]));
        println!("cpu {} x{at_once} {cpu:.2} {ratio:.3} ({least:.3} to {most:.3})", stack.name);
    }
}

/// Also the first calls, which connect.
async fn calls_in_a_round(stack: &Stack, at_once: usize) -> usize {
    let calls = 100 * at_once;
    stack.run(Load { at_once, calls }).await;
    let started = Instant::now();
    stack.run(Load { at_once, calls }).await;
    let each = started.elapsed().as_secs_f64() / calls as f64;
    ((ROUND.as_secs_f64() / each) as usize).max(at_once)
}

/// In microseconds, of this thread, kernel included.
async fn cpu_per_call(stack: &Stack, load: Load) -> f64 {
    let before = thread_time();
    stack.run(load).await;
    (thread_time() - before).as_secs_f64() * 1e6 / (load.calls / load.at_once * load.at_once) as f64
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

/// Median, least and most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
