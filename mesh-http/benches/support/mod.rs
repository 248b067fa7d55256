//! Calls over loopback and what they cost the client: the harness of the `loopback` benches.
//!
//! A client is one thread with a runtime of its own, the backend another process, so that whatever the client's process spends
//! is the client's. Each stack has a process to itself, so that none pays for what another leaves behind. They take turns within
//! one run, since ratios hold where times do not.
//!
//! Each runtime has a timer set, as that of any service has. To wait without one is dearer by 0.5 us where this was written,
//! which only a client that keeps none would pay: hyper-util's does not, ours does.
//!
//! All processes share one core. With one call in flight client and backend never work at the same time; on two cores each of
//! them goes to sleep and is woken across cores for every call, which costs the client four times as much as all its work.
//! Left alone, the scheduler moves them together and apart in the middle of a round, and the ratio of two stacks may be
//! anything up to that.
#![allow(clippy::print_stdout, missing_docs, dead_code, reason = "shared by the benches of two crates")]

pub(crate) mod backend;
mod bill;

use std::{
    env,
    future::Future,
    io::{BufRead, BufReader, Lines, Write},
    net::SocketAddr,
    pin::Pin,
    process::{Child, ChildStdout, Command, Stdio},
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

/// The process of a stack that is compared.
struct Client {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
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

/// What the program does, by its arguments: serve, be one of the clients that are compared, make some calls for a tool that
/// looks on, or compare the stacks.
pub(crate) fn main(speaks: Speaks, stacks: Stacks) {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["serve", ..] => backend::serve(speaks),
        ["client", stack, ..] => be_client(stacks, stack),
        ["calls", stack, at_once, calls, ..] => make_calls(stacks, stack, Load::parse(at_once, calls)),
        _ => compare(stacks),
    }
}

fn make_calls(stacks: Stacks, name: &str, load: Load) {
    with_stack(stacks, name, async |stack| stack.run(load).await);
}

/// Makes the calls that it is told of, line by line, and tells what each cost, until the input ends.
fn be_client(stacks: Stacks, name: &str) {
    with_stack(stacks, name, async |stack| {
        for line in std::io::stdin().lines() {
            let line = line.expect("text");
            let (at_once, calls) = line.split_once(' ').expect("two numbers");
            println!("{}", cpu_per_call(stack, Load::parse(at_once, calls)).await);
        }
    });
}

fn with_stack(stacks: Stacks, name: &str, act: impl AsyncFnOnce(&Stack)) {
    let (backend, runtime) = (Backend::start(), runtime());
    runtime.block_on(async {
        tokio::spawn(tokio::time::sleep(Duration::from_secs(24 * 60 * 60)));
        let stacks = stacks(backend.addresses());
        act(stacks.iter().flatten().find(|stack| stack.name == name).expect("a stack of this name")).await;
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
    let groups = names(stacks);
    for at_once in AT_ONCE {
        for group in &groups {
            compare_group(group, at_once);
        }
    }
    groups.concat()
}

fn names(stacks: Stacks) -> Vec<Vec<&'static str>> {
    let (backend, runtime) = (Backend::start(), runtime());
    let groups = runtime.block_on(async { stacks(backend.addresses()) });
    groups.iter().map(|group| group.iter().map(|stack| stack.name).collect()).collect()
}

fn compare_group(names: &[&str], at_once: usize) {
    let mut clients: Vec<_> = names.iter().map(|name| Client::start(name)).collect();
    let calls: Vec<_> = clients.iter_mut().map(|client| client.calls_in_a_round(at_once)).collect();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = clients.iter_mut().zip(&calls).map(|(client, calls)| client.run(Load { at_once, calls: *calls }));
        rounds.push(round.collect::<Vec<_>>());
    }
    for (index, name) in names.iter().enumerate() {
        let (cpu, _, _) = spread(rounds.iter().map(|round| round[index]));
        let (ratio, least, most) = spread(rounds.iter().map(|round| round[index] / round[0]));
        println!("cpu {name} x{at_once} {cpu:.2} {ratio:.3} ({least:.3} to {most:.3})");
    }
}

// === impl Client ===

impl Client {
    fn start(stack: &str) -> Self {
        let program = env::current_exe().expect("this program is a file");
        let mut process = Command::new(program)
            .args(["client", stack])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was started before");
        let output = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self { process, output }
    }

    /// CPU a call.
    fn run(&mut self, Load { at_once, calls }: Load) -> f64 {
        let input = self.process.stdin.as_mut().expect("piped");
        writeln!(input, "{at_once} {calls}").expect("it reads");
        let line = self.output.next().expect("it tells").expect("text");
        line.parse().expect("a number")
    }

    /// Also makes the first calls, which connect.
    fn calls_in_a_round(&mut self, at_once: usize) -> usize {
        let calls = 100 * at_once;
        self.run(Load { at_once, calls });
        let started = Instant::now();
        self.run(Load { at_once, calls });
        let each = started.elapsed().as_secs_f64() / calls as f64;
        ((ROUND.as_secs_f64() / each) as usize).max(at_once)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

// === impl Load ===

impl Load {
    fn parse(at_once: &str, calls: &str) -> Self {
        let number = |text: &str| text.parse().expect("a number");
        Self { at_once: number(at_once), calls: number(calls) }
    }
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
