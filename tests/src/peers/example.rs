//! A program of our own from `examples/`, run as its user runs it: what it says is all that is known of it.

use std::env;
use std::path::PathBuf;

use super::process::{self, Process};

/// A program, built.
pub struct Example {
    program: PathBuf,
}

/// A program, running.
pub struct RunningExample {
    process: Process,
}

// === impl Example ===

impl Example {
    /// Nothing, after a line on standard error, where it was not built. Cargo builds it along with the tests of the whole
    /// workspace, and not with those of this package alone, which run what was built last.
    ///
    /// # Panics
    ///
    /// Under `.ci/interop`, where it is to be had.
    pub fn find(name: &str) -> Option<Self> {
        let test = env::current_exe().expect("a test knows where it is");
        let profile = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
        let program = profile.join("examples").join(name);
        if !program.exists() {
            super::skip(&format!("run `cargo build -p mesh-examples --example {name}` first"));
            return None;
        }
        Some(Self { program })
    }

    /// Starts it with these arguments, and with no variables but these.
    pub fn start(&self, variables: &[(&str, &str)], arguments: &[&str]) -> RunningExample {
        let variables: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let program = self.program.display().to_string();
        let mut command = vec!["-i"];
        command.extend(variables.iter().map(String::as_str));
        command.push(&program);
        command.extend(arguments);
        RunningExample { process: Process::leashed("env".as_ref(), &command, process::directory()) }
    }
}

// === impl RunningExample ===

impl RunningExample {
    /// Waits until what it has said satisfies `is_so`. Returns that.
    ///
    /// # Panics
    ///
    /// After twenty seconds, or when it ends before.
    pub async fn says(&mut self, is_so: impl Fn(&str) -> bool) -> String {
        let log = self.process.path().join("log");
        let mut said = String::new();
        self.process
            .until(async || {
                said = std::fs::read_to_string(&log).unwrap_or_default();
                is_so(&said)
            })
            .await;
        said
    }

    /// Tells it to end (SIGTERM). Returns all that it has said.
    ///
    /// # Panics
    ///
    /// When it does not end within six seconds.
    pub async fn end(self) -> String {
        self.process.stop().await
    }
}
