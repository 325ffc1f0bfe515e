//! A program that leases, for tests that need it in processes of their own: to contend, to be
//! killed, to be another user.
//!
//! `leaser apply SPEC`; `leaser take GPU TIMEOUT_MS` (leases, says what and waits until its input
//! ends, gives back); `leaser inherit GPU` (the same, with a child that has the descriptor);
//! `leaser forked GPU` (the same, and then does as a forked child does); `leaser storm COUNT
//! WITNESSES HOLD_US` (leases again and again any share, and prints when it asked and when it got
//! it); `leaser flip SECONDS SEED` (applies one spec after the other); `leaser tenant SECONDS SEED`
//! (leases whatever is there and looks whether it is void); `leaser leases`. The node is the one
//! that the environment names. An error is a line that begins with its code.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use gpushare_core::fork;
use gpushare_core::id::ShareId;
use gpushare_core::lease::LeaseRequest;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Lease, Node, Result};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let needs = error.needs().join("|");
            let _ = say(&format!("{} {error} needs={needs}", error.code().name()));
            ExitCode::FAILURE
        }
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorCode::InvalidArgument, what.to_owned())
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| invalid("no number"))
}

fn run(arguments: &[&str]) -> Result<()> {
    let node = Node::open()?;
    match *arguments {
        ["apply", spec] => {
            node.apply(&spec.parse()?, &ApplyOptions::new().allow_reset(true))?;
            say("applied")
        }
        ["take", gpu, timeout] => {
            let timeout = Some(Duration::from_millis(number(timeout)?));
            let lease = node.lease(&LeaseRequest::gpu(gpu).timeout(timeout))?;
            say(&json!({"share": only(&lease)?, "variables": lease.variables()}).to_string())?;
            wait_for_end();
            lease.release()
        }
        ["inherit", gpu] => {
            let lease = node.lease(&LeaseRequest::gpu(gpu))?;
            let mut child = sleeper();
            lease.apply_to(&mut child)?;
            let child = spawn(child)?;
            say(&json!({"share": only(&lease)?, "child": child}).to_string())?;
            wait_for_end();
            lease.release()
        }
        ["forked", gpu] => forked(&node, gpu),
        ["storm", count, witnesses, hold] => {
            storm(&node, number(count)?, Path::new(witnesses), number(hold)?)
        }
        ["flip", seconds, seed] => flip(&node, number(seconds)?, number(seed)?),
        ["tenant", seconds, seed] => tenant(&node, number(seconds)?, number(seed)?),
        ["leases"] => {
            let list = node.leases()?;
            say(&serde_json::to_string(&list).unwrap_or_default())
        }
        _ => Err(invalid("see the first lines of leaser.rs")),
    }
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(failed)
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorCode::Io, "the leaser cannot go on").with_source(error)
}

fn wait_for_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn only(lease: &Lease) -> Result<ShareId> {
    lease.shares().next().cloned().ok_or_else(|| invalid("a lease of nothing"))
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn spawn(mut command: Command) -> Result<u32> {
    Ok(command.spawn().map_err(failed)?.id())
}

/// Does in this process what is to be done in a forked child, with another that has the descriptors
/// in the place of the parent.
fn forked(node: &Node, gpu: &str) -> Result<()> {
    let dropped = node.lease(&LeaseRequest::gpu(gpu))?;
    let asked_for = node.lease(&LeaseRequest::gpu(gpu))?;
    let copies = asked_for.descriptors()?;
    drop(copies);
    let shares = [only(&dropped)?, only(&asked_for)?];
    fork::after_in_child();
    let errors = [dropped.check(), asked_for.check()]
        .map(|checked| checked.err().map_or("OK", |error| error.code().name()));
    say(&json!({"shares": shares, "errors": errors}).to_string())?;
    wait_for_end();
    dropped.release()?;
    asked_for.release()
}

/// Nanoseconds that all processes count alike.
fn now() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// The mark of a holder, which knows nothing of slots: a file that only one can make.
struct Witness {
    path: std::path::PathBuf,
}

impl Witness {
    fn stand(folder: &Path, share: &ShareId) -> Result<Self> {
        let path = folder.join(share.to_string().replace('/', "+"));
        let own = std::process::id();
        let start = start_time(own).unwrap_or_default();
        let text = format!("{own} {start}");
        for _ in 0..3 {
            let new = OpenOptions::new().write(true).create_new(true).open(&path);
            match new {
                Ok(mut file) => {
                    file.write_all(text.as_bytes()).map_err(failed)?;
                    return Ok(Self { path });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let there = fs::read_to_string(&path).unwrap_or_default();
                    let mut words = there.split(' ');
                    let pid = words.next().and_then(|pid| pid.parse().ok());
                    let begun = words.next().and_then(|start| start.parse().ok());
                    let alive = pid.is_some_and(|pid: u32| {
                        start_time(pid).is_some_and(|now| Some(now) == begun)
                    });
                    if alive {
                        let what = format!("{share} is {there}'s and {own}'s");
                        return Err(Error::new(ErrorCode::Panic, what));
                    }
                    // Killed with its mark standing, or before it had written it.
                    let _ = fs::remove_file(&path);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Error::new(ErrorCode::Panic, format!("{share} has holder after holder")))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Of a process that exits (the kernel's include/linux/sched.h).
const PF_EXITING: u32 = 4;

/// When a process that is alive began.
fn start_time(pid: u32) -> Option<u64> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.read_to_string(&mut text).ok()?;
    let after = text.rsplit(')').next()?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    // Nothing is held by a zombie, nor by what is about to be one: a killed process gives its
    // descriptors up before its state says so, and says that it exits before it gives them up.
    let flags: u32 = fields.get(6)?.parse().ok()?;
    if fields.first() == Some(&"Z") || flags & PF_EXITING != 0 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn storm(node: &Node, count: u64, witnesses: &Path, hold: u64) -> Result<()> {
    let snapshot = node.snapshot()?;
    say("ready")?;
    let mut go = [0];
    std::io::stdin().read_exact(&mut go).map_err(failed)?;
    let request = LeaseRequest::any().timeout(None);
    let mut lines = String::new();
    for _ in 0..count {
        let asked = now();
        let lease = node.lease_in(&snapshot, &request)?;
        let got = now();
        let witness = Witness::stand(witnesses, &only(&lease)?)?;
        std::thread::sleep(Duration::from_micros(hold));
        drop(witness);
        drop(lease);
        lines.push_str(&format!("{asked} {got} {}\n", now()));
    }
    say(&lines)
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

const WANTED: [&str; 7] = [
    r#""mode": "exclusive""#,
    r#""mode": "time_sliced", "time_sliced": {"replicas": 4}"#,
    r#""mode": "time_sliced", "time_sliced": {"replicas": 2}"#,
    r#""mode": "mps", "mps": {"max_clients": 4}"#,
    r#""mode": "mig", "mig": {"instances": {"1g.10gb": 2, "3g.40gb": 1}}"#,
    r#""mode": "mig", "mig": {"instances": {"2g.20gb": 2}}"#,
    r#""mode": "mig", "mig": {"instances": {"1g.10gb": 7}}"#,
];

fn flip(node: &Node, seconds: u64, seed: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(seed | 1);
    let (mut applied, mut busy) = (0, 0);
    while Instant::now() < end {
        let (gpu, want) = (dice.roll(2), WANTED[dice.roll(7) as usize]);
        let spec =
            format!(r#"{{"version": "gpushare/v1", "gpus": [{{"select": {gpu}, {want}}}]}}"#);
        match node.apply(&spec.parse()?, &ApplyOptions::new().allow_reset(true)) {
            Ok(_) => applied += 1,
            Err(error) if matches!(error.code(), ErrorCode::Busy | ErrorCode::Locked) => busy += 1,
            Err(error) => return Err(error),
        }
        std::thread::sleep(Duration::from_millis(dice.roll(10)));
    }
    say(&json!({"applied": applied, "busy": busy}).to_string())
}

fn tenant(node: &Node, seconds: u64, seed: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(seed | 1);
    let (mut leased, mut void, mut wrong) = (0, 0, 0);
    let mut refused: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
    let mut snapshot = node.snapshot()?;
    while Instant::now() < end {
        // An old snapshot more often than a new one.
        if dice.roll(4) == 0 {
            snapshot = node.snapshot()?;
        }
        let timeout = Duration::from_millis(dice.roll(3) * 60);
        let request = LeaseRequest::any().timeout(Some(timeout));
        let lease = match node.lease_in(&snapshot, &request) {
            Ok(lease) => lease,
            Err(error) => {
                *refused.entry(error.code().name()).or_default() += 1;
                snapshot = node.snapshot()?;
                continue;
            }
        };
        leased += 1;
        for _ in 0..=dice.roll(3) {
            match lease.check() {
                Ok(()) => {}
                Err(error) if error.code() == ErrorCode::InvalidState => void += 1,
                Err(error) => return Err(error),
            }
            let grant = lease.grants().first().ok_or_else(|| invalid("no grant"))?;
            let present = node.snapshot()?;
            if present.gpu(&grant.gpu).is_none_or(|gpu| gpu.mode != grant.mode) {
                wrong += 1;
            }
            std::thread::sleep(Duration::from_millis(dice.roll(8)));
        }
        lease.release()?;
    }
    say(&json!({"leased": leased, "void": void, "wrong": wrong, "refused": refused}).to_string())
}
