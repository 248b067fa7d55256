//! What one call costs by count: instructions (callgrind), allocations (dhat), system calls (strace).
//!
//! Each is the difference of a long run of this program and a short one, divided by the calls between them, so that neither
//! start nor connecting is in the figure. The tools watch the client alone: the backend is a process that they do not follow.
//! A client that is watched is slow, so at 32 in flight it finds full batches; system calls are then a lower bound.

use std::{env, fmt, fs, process::Command};

/// What one call costs; nothing where the tool is not installed.
pub(super) struct Bill {
    instructions: Option<f64>,
    allocations: Option<f64>,
    syscalls: Option<f64>,
}

struct Tool {
    program: &'static str,
    arguments: &'static [&'static str],
    /// Finds the count in what the tool wrote, line by line.
    count: fn(&str) -> Option<u64>,
    /// Calls of the short run.
    calls: usize,
}

const CALLGRIND: Tool = Tool {
    program: "valgrind",
    arguments: &["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-file=@LOG@"],
    count: |line| number_after(line, "Collected :"),
    calls: 960,
};

const DHAT: Tool = Tool {
    program: "valgrind",
    arguments: &["--tool=dhat", "--dhat-out-file=/dev/null", "--log-file=@LOG@"],
    count: |line| number_after(line, "bytes in").filter(|_| line.contains("Total:")),
    calls: 320,
};

/// Without `-f` it follows only the thread that the program starts with, which is the client's.
const STRACE: Tool = Tool {
    program: "strace",
    arguments: &["-c", "-o", "@LOG@"],
    count: |line| line.strip_suffix(" total")?.split_whitespace().nth(3)?.parse().ok(),
    calls: 960,
};

// === impl Bill ===

impl Bill {
    pub(super) fn of(stack: &str, at_once: usize) -> Self {
        let per_call = |tool: &Tool| tool.per_call(stack, at_once);
        Self { instructions: per_call(&CALLGRIND), allocations: per_call(&DHAT), syscalls: per_call(&STRACE) }
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |figure: Option<f64>, digits: usize| figure.map_or("-".into(), |figure| format!("{figure:.digits$}"));
        let (instructions, allocations) = (show(self.instructions, 0), show(self.allocations, 1));
        write!(f, "{instructions} {allocations} {}", show(self.syscalls, 2))
    }
}

// === impl Tool ===

impl Tool {
    fn per_call(&self, stack: &str, at_once: usize) -> Option<f64> {
        let short = self.count(stack, at_once, self.calls)?;
        let long = self.count(stack, at_once, 3 * self.calls)?;
        Some((long as f64 - short as f64) / (2 * self.calls) as f64)
    }

    fn count(&self, stack: &str, at_once: usize, calls: usize) -> Option<u64> {
        let log = env::temp_dir().join(format!("loopback-{}", std::process::id()));
        let log_name = log.to_string_lossy();
        let status = Command::new(self.program)
            .args(self.arguments.iter().map(|argument| argument.replace("@LOG@", &log_name)))
            .arg(env::current_exe().expect("this program is a file"))
            .args(["calls", stack, &at_once.to_string(), &calls.to_string()])
            .status()
            .ok()?;
        assert!(status.success(), "{} of {stack}: {status}", self.program);
        let text = fs::read_to_string(&log).expect("the tool wrote its log");
        fs::remove_file(&log).expect("just read");
        let count = text.lines().find_map(self.count);
        Some(count.unwrap_or_else(|| panic!("no count in what {} wrote:\n{text}", self.program)))
    }
}

/// The first number behind `key`, of a line like `==1== Total:     1,234 bytes in 56 blocks`.
fn number_after(line: &str, key: &str) -> Option<u64> {
    let word = line.split_once(key)?.1.split_whitespace().next()?;
    word.replace(',', "").parse().ok()
}
