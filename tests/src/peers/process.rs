//! Child processes that end with their test, and the conversation in lines of JSON that ours hold with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::SOURCES;
use crate::patience::PATIENCE;

/// How long a peer may take to end once its input has.
const FAREWELL: Duration = Duration::from_secs(6);

/// A running peer. Dropping it ends its input, waits until it is gone, and, when the test is failing, shows its log.
///
/// A peer goes when its input ends, and the system ends the input when the test process dies: nothing is left behind by a
/// test that was killed. The drop blocks its thread for the moment this takes.
pub(super) struct Process {
    child: Child,
    /// Taken on drop.
    input: Option<ChildStdin>,
    log: PathBuf,
    /// Where the peer writes; removed after it is gone.
    directory: TempDir,
}

/// A [`Process`] that announces itself with one line of JSON and then answers each line with one line.
pub(super) struct Conversation {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A fresh directory for a peer to write to.
pub(super) fn directory() -> TempDir {
    TempDir::with_prefix("mesh-interop-").expect("a temporary directory can be made")
}

// === impl Process ===

impl Process {
    /// Starts a program that does not watch its input, on a leash that does it instead.
    pub(super) fn leashed(program: &Path, arguments: &[&str], directory: TempDir) -> Self {
        let mut command = Command::new(format!("{SOURCES}/leash"));
        command.arg(program).args(arguments);
        Self::start(command, directory, |log| log.into())
    }

    fn start(mut command: Command, directory: TempDir, output: impl FnOnce(File) -> Stdio) -> Self {
        let log = directory.path().join("log");
        let file = File::create(&log).expect("a fresh directory can be written to");
        let output = output(file.try_clone().expect("a file handle can be cloned"));
        let spawned = command.stdin(Stdio::piped()).stdout(output).stderr(file).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take();
        Self { child, input, log, directory }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sends a line. To a leash it is the name of a signal for the program: `HUP`, `STOP`, `CONT`, `KILL`.
    pub(super) async fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("input is open until drop");
        let line = format!("{line}\n");
        if let Err(error) = input.write_all(line.as_bytes()).await {
            panic!("the peer does not read: {error}\n{}", self.log());
        }
    }

    /// Ends the process as a drop does, without blocking the thread. Returns what it wrote.
    pub(super) async fn stop(mut self) -> String {
        self.input = None;
        if timeout(FAREWELL, self.child.wait()).await.is_err() {
            panic!("the peer does not end\n{}", self.log());
        }
        self.log()
    }

    /// Ends the process without a farewell: sockets are reset, nothing is flushed.
    pub(super) async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Waits for `ready` to come true; fails the test when the process ends before that, or takes too long.
    pub(super) async fn until(&mut self, mut ready: impl AsyncFnMut() -> bool) {
        let waiting = async {
            loop {
                // Before the question: what makes it ready may be the last that it does.
                let ended = self.child.try_wait().expect("a child can be waited for");
                if ready().await {
                    return;
                }
                if let Some(status) = ended {
                    panic!("the peer ended before it was ready: {status}\n{}", self.log());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("the peer is not ready after {PATIENCE:?}\n{}", self.log());
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// True when the process ended by itself in time.
    fn wait(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < FAREWELL {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        if !self.wait() {
            // Nothing more can be done about a process that does not go.
            let _ = self.child.start_kill();
        }
        if std::thread::panicking() {
            // `eprintln`, so that the harness shows it beside the failure.
            #[expect(clippy::print_stderr, reason = "the log of a peer belongs to the failure of its test")]
            {
                eprintln!("log of the peer:\n{}", self.log());
            }
        }
    }
}

// === impl Conversation ===

impl Conversation {
    /// Starts the program and waits for its first line, `{"ready": ..}`.
    pub(super) async fn start(command: Command) -> (Self, Value) {
        let mut process = Process::start(command, directory(), |_| Stdio::piped());
        let output = process.child.stdout.take().expect("output was asked for");
        let mut conversation = Self { process, lines: BufReader::new(output).lines() };
        let mut first = conversation.line().await;
        let ready = first.get_mut("ready").map(Value::take);
        (conversation, ready.unwrap_or_else(|| panic!("not a ready line: {first}")))
    }

    /// Gives a command and returns what was said to it.
    ///
    /// # Panics
    ///
    /// When the peer answers with an error: tests give no commands that may fail.
    pub(super) async fn ask(&mut self, command: &Value) -> Value {
        self.process.write(&command.to_string()).await;
        let mut answer = self.line().await;
        let ok = answer.get_mut("ok").map(Value::take);
        ok.unwrap_or_else(|| panic!("{command} was answered with {answer}"))
    }

    pub(super) async fn kill(self) {
        self.process.kill().await;
    }

    async fn line(&mut self) -> Value {
        match timeout(PATIENCE, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => serde_json::from_str(&line).expect("the peer speaks JSON"),
            Ok(end) => panic!("the peer said no more: {end:?}\n{}", self.process.log()),
            Err(_) => panic!("the peer says nothing\n{}", self.process.log()),
        }
    }
}
