//! Leaks: transitions by the thousand through one handle, and what the process has open before and after.
//!
//! What a long-lived agent would do in a day and longer: apply, look, lease, recover, be refused, be stopped
//! halfway. Descriptors, threads and sessions of the driver must not grow at all, memory by less than a mebibyte
//! after a warm-up.

use std::fmt;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpushare_core::apply::Source;
use gpushare_core::lease::LeaseRequest;
use gpushare_core::plan::Request;
use gpushare_core::{ApplyOptions, ErrorCode, Event, Node, Spec};

use crate::dice::Dice;

/// The fleet of a soak.
pub const FLEET: &str = "2xH100-80GB";

/// How much memory the process may have gained after the warm-up, in KiB.
const MOST_KIB: u64 = 1024;

/// What each GPU is brought into, again and again; the last of them only where MPS is simulated.
const WANTED: [&str; 8] = [
    r#""mode": "exclusive""#,
    r#""mode": "mig", "mig": {"instances": {"1g.10gb": 2, "3g.40gb": 1}}"#,
    r#""mode": "time_sliced", "time_sliced": {"replicas": 4}"#,
    r#""mode": "mig", "mig": {"instances": {"2g.20gb": 2}}"#,
    r#""mode": "mig", "mig": {"instances": {"7g.80gb": 1}}"#,
    r#""mode": "time_sliced", "time_sliced": {"replicas": 2}"#,
    r#""mode": "mig", "mig": {"instances": [{"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"]}]}"#,
    r#""mode": "mps", "mps": {"max_clients": 4}"#,
];

/// How long a soak is.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Transitions that are measured.
    pub transitions: usize,
    /// Transitions before those.
    pub warm_up: usize,
}

impl Budget {
    /// That many, after a warm-up of a thousand, or of a quarter where that is less.
    pub fn of(transitions: usize) -> Self {
        Self { transitions, warm_up: (transitions / 4).min(1000) }
    }
}

/// What the process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Has {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Has {
    fn now() -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("/proc/self cannot be read: {error}");
        let count = |of: &str| fs::read_dir(of).map(Iterator::count).map_err(failed);
        let status = fs::read_to_string("/proc/self/status").map_err(failed)?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        Ok(Self {
            // One of them is the directory that is read.
            descriptors: count("/proc/self/fd")? - 1,
            threads: count("/proc/self/task")?,
            resident_kib: resident.ok_or("/proc/self/status does not say VmRSS")?,
        })
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Figures {
    transitions: usize,
    beside: usize,
    sessions: Option<u64>,
    before: Has,
    after: Has,
    most_kib: u64,
    took: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transitions, {} leases, recoveries, refusals and stops beside them, {:.1} s: descriptors {} -> {}, threads {} -> {}, resident {} KiB -> {} KiB (at most {} KiB more)",
            self.transitions,
            self.beside,
            self.took.as_secs_f64(),
            self.before.descriptors,
            self.after.descriptors,
            self.before.threads,
            self.after.threads,
            self.before.resident_kib,
            self.after.resident_kib,
            self.most_kib.saturating_sub(self.before.resident_kib),
        )?;
        match self.sessions {
            Some(sessions) => write!(f, ", {sessions} sessions of NVML opened and closed"),
            None => Ok(()),
        }
    }
}

/// Goes on with a node for that long. `calls` is where the simulator's library notes its calls, `each` is called
/// after each transition with its number.
///
/// # Errors
/// What leaked, or what failed.
pub fn run(
    node: &Node,
    budget: Budget,
    seed: u64,
    calls: Option<&Path>,
    each: &mut dyn FnMut(usize),
) -> Result<Figures, String> {
    let start = Instant::now();
    let mut walk = Walk {
        node,
        dice: Dice::new(seed),
        wanted: if node.is_simulated() { &WANTED } else { &WANTED[..WANTED.len() - 1] },
        at: [usize::MAX; 2],
        beside: 0,
    };
    let mut ledger = calls.map(Ledger::new);
    for number in 0..budget.warm_up {
        walk.step(number)?;
        each(number);
    }
    if let Some(ledger) = &mut ledger {
        ledger.balance(node)?;
    }
    let before = Has::now()?;
    let mut after = before;
    let mut most_kib = before.resident_kib;
    let every = (budget.transitions / 10).clamp(1, 1000);
    for number in 0..budget.transitions {
        walk.step(number)?;
        each(budget.warm_up + number);
        if (number + 1) % every != 0 && number + 1 != budget.transitions {
            continue;
        }
        if let Some(ledger) = &mut ledger {
            ledger.balance(node)?;
        }
        after = Has::now()?;
        most_kib = most_kib.max(after.resident_kib);
        let what = format!("after {} transitions: {before:?} became {after:?}", number + 1);
        if after.descriptors > before.descriptors {
            return Err(format!("descriptors leak {what}; open: {}", open_now()));
        }
        if after.threads > before.threads {
            return Err(format!("threads are left {what}"));
        }
        if after.resident_kib >= before.resident_kib + MOST_KIB {
            return Err(format!("memory leaks {what}"));
        }
    }
    Ok(Figures {
        transitions: budget.transitions,
        beside: walk.beside,
        sessions: ledger.map(|ledger| ledger.sessions),
        before,
        after,
        most_kib,
        took: start.elapsed(),
    })
}

/// What the descriptors of this process lead to.
fn open_now() -> String {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let targets: Vec<_> = targets.map(|target| target.display().to_string()).take(20).collect();
    targets.join(", ")
}

/// One transition after the other.
struct Walk<'a> {
    node: &'a Node,
    dice: Dice,
    wanted: &'static [&'static str],
    /// What each GPU was brought into last.
    at: [usize; 2],
    beside: usize,
}

impl Walk<'_> {
    fn step(&mut self, number: usize) -> Result<(), String> {
        let gpu = self.dice.below(2);
        let mut want = self.dice.below(self.wanted.len());
        if want == self.at[gpu] {
            want = (want + 1) % self.wanted.len();
        }
        if number % 20 == 7 {
            self.stop_halfway(gpu, want)?;
        }
        let spec = spec(gpu, self.wanted[want])?;
        let report = self.node.apply(&spec, &ApplyOptions::new());
        let report = report.map_err(|error| format!("transition {number}: {error:?}"))?;
        if report.steps == 0 {
            return Err(format!("transition {number} to {} was none", self.wanted[want]));
        }
        self.at[gpu] = want;
        match number % 20 {
            3 => self.lease()?,
            11 => self.be_refused(gpu)?,
            17 => {
                self.beside += 1;
                self.node.recover().map_err(|error| format!("recover: {error:?}"))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn lease(&mut self) -> Result<(), String> {
        self.beside += 1;
        let lease = self.node.lease(&LeaseRequest::any()).map_err(|e| format!("lease: {e:?}"))?;
        lease.check().map_err(|error| format!("the lease is not ours: {error:?}"))?;
        lease.release().map_err(|error| format!("release: {error:?}"))
    }

    /// What no GPU of the fleet can do.
    fn be_refused(&mut self, gpu: usize) -> Result<(), String> {
        self.beside += 1;
        let spec = spec(gpu, r#""mode": "mig", "mig": {"instances": {"1g.10gb": 8}}"#)?;
        match self.node.apply(&spec, &ApplyOptions::new()) {
            Err(error) if error.code() == ErrorCode::Insufficient => Ok(()),
            other => Err(format!("eight slices of seven: {other:?}")),
        }
    }

    /// The caller stops at a step, and it is rolled back.
    fn stop_halfway(&mut self, gpu: usize, want: usize) -> Result<(), String> {
        self.beside += 1;
        let request = Request::Apply(spec(gpu, self.wanted[want])?);
        let at = 1 + self.dice.below(3);
        let mut stopped = false;
        let result = self.node.apply_with(
            Source::Request(&request),
            &ApplyOptions::new(),
            |event: &Event| match event {
                Event::Step { number, .. } if *number >= at => {
                    stopped = true;
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            },
        );
        match result {
            Err(error) if stopped && error.code() == ErrorCode::Interrupted => Ok(()),
            Ok(_) if !stopped => {
                self.at[gpu] = usize::MAX;
                let other = (want + 1) % self.wanted.len();
                let spec = spec(gpu, self.wanted[other])?;
                let applied = self.node.apply(&spec, &ApplyOptions::new());
                applied.map(drop).map_err(|error| format!("{error:?}"))
            }
            other => Err(format!("stopped: {stopped}, and {other:?}")),
        }
    }
}

fn spec(gpu: usize, wanted: &str) -> Result<Spec, String> {
    let text = format!(r#"{{"version": "gpushare/v1", "gpus": [{{"select": {gpu}, {wanted}}}]}}"#);
    text.parse().map_err(|error| format!("{text}: {error:?}"))
}

/// The sessions of NVML that the simulator's library counted.
struct Ledger {
    file: PathBuf,
    sessions: u64,
}

impl Ledger {
    fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), sessions: 0 }
    }

    /// As often opened as closed, so far. The library says so when the last session is closed: one that stays
    /// open keeps it silent.
    fn balance(&mut self, node: &Node) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.file.display());
        let (opened, _) = read(&self.file)?;
        File::create(&self.file).map_err(failed)?;
        node.snapshot().map_err(|error| format!("a snapshot: {error:?}"))?;
        let (last, closed) = read(&self.file)?;
        if last == 0 || last != closed {
            return Err(format!(
                "sessions of NVML leak: after {} that were closed a snapshot opens {last} and closes {closed}",
                self.sessions + opened
            ));
        }
        self.sessions += opened + last;
        File::create(&self.file).map(drop).map_err(failed)
    }
}

/// How often a session was opened and closed.
fn read(file: &Path) -> Result<(u64, u64), String> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|error| format!("{}: {error}", file.display()))?,
    };
    let sum = |of: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let lines = lines.filter(|(name, _)| name.starts_with(of));
        lines.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
    };
    Ok((sum("nvmlInit"), sum("nvmlShutdown")))
}
