//! `run`: a command as the tenant of a share.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::WaitOptions;
use signal_hook::SigId;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::lease::Lease;
use crate::mode::Verdict;
use crate::node::Node;
use crate::port::{Signal, ancestry};

use super::Answer;
use super::arguments::LeaseOptions;
use super::interrupt::{Interrupt, ignored};
use super::lease::take;
use super::output::{Known, Output, say};

/// As a shell has it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_THERE: u8 = 127;
const BY_SIGNAL: i32 = 128;

/// How often a tenant is looked at until it has proved itself, and from then on.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a tenant may be on a GPU while nobody can say whether it is inside its share.
const DOUBT: Duration = Duration::from_secs(3);
/// What a tenant has between SIGTERM and SIGKILL when it is outside its share.
const GRACE: Duration = Duration::from_secs(5);

/// `run`: becomes the command, or stays its parent to verify it.
pub(super) fn run(
    node: &Node,
    output: &Output,
    options: &LeaseOptions,
    verify: bool,
    words: &[OsString],
) -> Result<Answer> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::new(ErrorCode::InvalidArgument, "a command is missing"));
    };
    let mut request = options.request()?;
    if options.create {
        if !verify {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                "--create gives the MIG device back at the end, which takes a parent that stays: add --verify, or create it first with `gpushare mig create`",
            ));
        }
        request = request.give_back(true);
    }
    if verify {
        expect_verifiable(node)?;
    }
    let lease = {
        let interrupt = Interrupt::listen_unless_ignored()?;
        take(node, &request, &interrupt, || true)?
    };
    if node.is_simulated() && !output.json {
        say("gpushare: SIMULATED: the command gets variables of GPUs that are not there");
    }
    let mut command = Command::new(program);
    command.args(arguments);
    lease.apply_to(&mut command)?;
    if !verify {
        // The lease goes on with the command, which is this process from here on.
        let error = command.exec();
        return Ok(not_started(node, output, program, error));
    }
    let answer = watched(node, output, &lease, program, &mut command);
    // However it ended: what was created for it goes.
    let released = lease.release();
    let answer = answer?;
    match released {
        // The command's own children go on with it: that is no failure of the command's.
        Err(error) if error.code() == ErrorCode::Busy => say(&format!("gpushare: {error}")),
        released => released?,
    }
    Ok(answer)
}

/// Refuses to verify where the driver's word on processes would say nothing of the command.
fn expect_verifiable(node: &Node) -> Result<()> {
    if node.is_simulated() {
        return Ok(());
    }
    let hidden = node.snapshot()?.gpus.iter().any(|gpu| gpu.processes_hidden);
    if !hidden && node.ports().processes.in_first_pid_namespace() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Unsupported,
        "a command cannot be verified here: the driver speaks of processes by numbers of the machine's first pid namespace, and this process is in another or may not see them; verify from outside, with `gpushare mps verify`",
    ))
}

/// Runs a command to its end.
fn watched(
    node: &Node,
    output: &Output,
    lease: &Lease,
    program: &OsString,
    command: &mut Command,
) -> Result<Answer> {
    let signals = Signals::listen()?;
    // Whatever the command starts stays below this process, also when its own parent ends.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|errno| {
        Error::new(ErrorCode::Io, format!("cannot keep the command's processes together: {errno}"))
            .with_source(std::io::Error::from(errno))
    })?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_started(node, output, program, error)),
    };
    let tenant =
        Tenant { node, lease, child, status: None, proved: BTreeSet::new(), doubted: None };
    let status = tenant.watch(&signals)?;
    let code = status.code().unwrap_or_else(|| BY_SIGNAL + status.signal().unwrap_or_default());
    Ok(Answer::Of(u8::try_from(code).unwrap_or(super::RUN_FAILED)))
}

fn not_started(node: &Node, output: &Output, program: &OsString, error: std::io::Error) -> Answer {
    let (status, code) = match error.kind() {
        ErrorKind::NotFound => (NOT_THERE, ErrorCode::NotFound),
        ErrorKind::PermissionDenied => (NOT_EXECUTABLE, ErrorCode::PermissionDenied),
        _ => (NOT_EXECUTABLE, ErrorCode::Io),
    };
    let message = format!("cannot run {}: {error}", program.to_string_lossy());
    let known = Known { simulated: Some(node.is_simulated()), recovering: false };
    output.error(&Error::new(code, message).with_source(error), known);
    Answer::Of(status)
}

/// A command that runs, until it has proved to be inside its share.
struct Tenant<'a> {
    node: &'a Node,
    lease: &'a Lease,
    child: Child,
    /// How it ended.
    status: Option<ExitStatus>,
    /// Its processes that are inside.
    proved: BTreeSet<Pid>,
    /// Since when nobody can say of one of them.
    doubted: Option<Instant>,
}

impl Tenant<'_> {
    fn watch(mut self, signals: &Signals) -> Result<ExitStatus> {
        let mut next = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            signals.pass_on(&self.child);
            if Instant::now() >= next {
                match self.look() {
                    Ok(()) => {}
                    Err(error) => {
                        self.end()?;
                        return Err(error);
                    }
                }
                let settled = !self.proved.is_empty() && self.doubted.is_none();
                next = Instant::now() + if settled { LOOK_AGAIN } else { LOOK };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, if it has. Processes that it left are taken care of, too.
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status)))
                    if u32::try_from(pid.as_raw_pid()) == Ok(self.child.id()) =>
                {
                    self.status = Some(ExitStatus::from_raw(status.as_raw()));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(Errno::CHILD) if self.status.is_some() => break,
                Err(errno) => {
                    return Err(Error::new(
                        ErrorCode::Io,
                        format!("cannot wait for the command: {errno}"),
                    ));
                }
            }
        }
        Ok(self.status)
    }

    /// Looks at the command's processes that are on GPUs: each must be inside the lease.
    fn look(&mut self) -> Result<()> {
        let snapshot = self.node.snapshot()?;
        let on_gpus = snapshot.gpus.iter().flat_map(|gpu| &gpu.processes);
        let pids: BTreeSet<Pid> = on_gpus.map(|process| process.holder.pid).collect();
        let mut doubt = None;
        for pid in pids {
            if !self.is_of(pid) {
                continue;
            }
            let verified = match self.lease.verify(pid) {
                Ok(verified) => verified,
                // It ended meanwhile.
                Err(error) if error.code() == ErrorCode::NotFound => continue,
                Err(error) => return Err(error),
            };
            let why = verified.reasons.join("; ");
            match verified.verdict {
                Verdict::Attached => {
                    self.proved.insert(pid);
                }
                Verdict::NotAttached => {
                    return Err(Error::new(
                        ErrorCode::InvalidState,
                        format!(
                            "the command was ended: process {pid} of it is not inside its share: {why}"
                        ),
                    ));
                }
                // It was inside before, and nothing says that it is not.
                _ if self.proved.contains(&pid) => {}
                _ => doubt = Some((pid, why)),
            }
        }
        match doubt {
            None => self.doubted = None,
            Some((pid, why)) => {
                let since = *self.doubted.get_or_insert_with(Instant::now);
                if since.elapsed() >= DOUBT {
                    return Err(Error::new(
                        ErrorCode::InvalidState,
                        format!(
                            "the command was ended: nobody can say whether process {pid} of it is inside its share: {why}"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a process is the command or one that it started.
    fn is_of(&self, pid: Pid) -> bool {
        let processes = self.node.ports().processes.as_ref();
        ancestry(processes, pid).skip(1).any(|pid| pid == processes.own_pid())
    }

    /// The command and all that it started, with when each began.
    fn all(&self) -> Vec<(Pid, u64)> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let facts = |pid| Some((pid, self.node.ports().processes.facts(pid)?.start_time));
        pids.map(Pid::new).filter(|pid| self.is_of(*pid)).filter_map(facts).collect()
    }

    /// Ends the command and all that it started: SIGTERM, then SIGKILL. Who is another user's stays.
    fn end(&mut self) -> Result<()> {
        let processes = &self.node.ports().processes;
        let start = Instant::now();
        let mut asked = BTreeSet::new();
        loop {
            self.ended()?;
            let left = self.all();
            let elapsed = start.elapsed();
            if (left.is_empty() && self.status.is_some()) || elapsed > 2 * GRACE {
                return Ok(());
            }
            for (pid, start_time) in left {
                let signal = match elapsed > GRACE {
                    true => Signal::Kill,
                    false if asked.insert(pid) => Signal::Terminate,
                    false => continue,
                };
                // It may have ended.
                let _ = processes.signal(pid, start_time, signal);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A child that was not waited for yet has its pid for itself.
fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Signals that are passed on to the command.
struct Signals {
    came: Vec<(i32, Arc<AtomicUsize>)>,
    handlers: Vec<SigId>,
}

impl Signals {
    fn listen() -> Result<Self> {
        let mut signals = Self { came: Vec::new(), handlers: Vec::new() };
        let passed_on = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH];
        // What this process ignores the command is to ignore, too.
        for signal in passed_on.into_iter().filter(|signal| !ignored(*signal)) {
            let came = Arc::new(AtomicUsize::new(0));
            let handler = signal_hook::flag::register_usize(signal, came.clone(), 1);
            signals.handlers.push(handler.map_err(|error| {
                Error::new(ErrorCode::Io, format!("cannot listen for signal {signal}: {error}"))
                    .with_source(error)
            })?);
            signals.came.push((signal, came));
        }
        Ok(signals)
    }

    /// What the terminal sends, it sends to the command too.
    fn pass_on(&self, child: &Child) {
        for (signal, came) in &self.came {
            if came.swap(0, Ordering::Relaxed) == 0 {
                continue;
            }
            let by_terminal = matches!(*signal, SIGINT | SIGQUIT | SIGWINCH) && in_foreground();
            let known = rustix::process::Signal::from_named_raw(*signal);
            if let Some(signal) = known.filter(|_| !by_terminal) {
                send(child, signal);
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

/// Whether the terminal sends what is typed there to this process's group.
fn in_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(std::io::stdin());
    foreground.is_ok_and(|group| group == rustix::process::getpgrp())
}
