//! Leases: what is asked for, and shares that are held for others.

use std::ffi::OsString;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::lease::{Lease, LeaseRequest, Wait};
use crate::node::{Node, keep_descriptors_from_children};
use crate::port::Signal;
use crate::process::Holder;
use crate::snapshot::Share;
use crate::terminal::{count, printable};

use super::Answer;
use super::arguments::{Global, LeaseOptions, Select};
use super::interrupt::Interrupt;
use super::output::{Output, say};

/// How often a holder that waits looks whether it is to stop.
const POLL: Duration = Duration::from_millis(100);
/// How long a holder may take to give a share back.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a caller who waits is told for whom.
const TOLD: Duration = Duration::from_secs(1);

impl LeaseOptions {
    /// The same as a request. What the caller's own CUDA_VISIBLE_DEVICES hides is not leased.
    pub(super) fn request(&self) -> Result<LeaseRequest> {
        let mut request = match (&self.share, &self.gpu, &self.mig) {
            (Some(share), _, _) => LeaseRequest::share(share.clone()),
            (_, Some(gpu), _) => LeaseRequest::gpu(gpu),
            (_, _, Some(any)) if any == "any" => LeaseRequest::any_mig(),
            (_, _, Some(profile)) => LeaseRequest::mig(profile.parse()?),
            _ => LeaseRequest::any(),
        };
        request = request.count(self.count).timeout(self.timeout.0).create(self.create);
        if let Some(memory) = self.min_memory {
            request = request.min_memory(memory);
        }
        if let Some(count) = self.min_sms {
            request = request.min_sm_count(count);
        }
        if let Some(percentage) = self.thread_percentage {
            request = request.thread_percentage(percentage);
        }
        if let Some(limit) = self.pinned_memory_limit {
            request = request.pinned_memory_limit(limit);
        }
        for hazard in &self.allow_hazard {
            request = request.allow_hazard(*hazard);
        }
        match std::env::var("CUDA_VISIBLE_DEVICES") {
            Ok(list) => Ok(request.visible(list)),
            Err(std::env::VarError::NotPresent) => Ok(request),
            Err(std::env::VarError::NotUnicode(list)) => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("CUDA_VISIBLE_DEVICES is {list:?}, which is no text"),
            )),
        }
    }

    /// The same as arguments of another command.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--count={}", self.count)];
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        add("share", self.share.as_ref().map(ToString::to_string));
        add("gpu", self.gpu.clone());
        add("mig", self.mig.clone());
        add("min-memory", self.min_memory.map(|memory| memory.to_string()));
        add("min-sms", self.min_sms.map(|count| count.to_string()));
        add("thread-percentage", self.thread_percentage.map(|p| p.to_string()));
        add("pinned-memory-limit", self.pinned_memory_limit.map(|limit| limit.to_string()));
        for hazard in &self.allow_hazard {
            add("allow-hazard", Some(hazard.to_string()));
        }
        let timeout =
            self.timeout.0.map_or_else(|| "none".to_owned(), |t| t.as_secs_f64().to_string());
        add("timeout", Some(timeout));
        if self.create {
            arguments.push("--create".to_owned());
        }
        arguments
    }
}

/// Takes a lease; Ctrl-C ends the waiting, and so does nobody's listening any more. Who waits long is
/// told for whom.
pub(super) fn take(
    node: &Node,
    request: &LeaseRequest,
    interrupt: &Interrupt,
    heard: impl Fn() -> bool,
) -> Result<Lease> {
    let mut told = false;
    node.lease_with(request, |wait: &Wait| {
        if !told && wait.waited >= TOLD {
            told = true;
            say(&format!("gpushare: waiting for {}: {}", wait.what, in_the_way(wait)));
        }
        if heard() { interrupt.flow() } else { ControlFlow::Break(()) }
    })
}

fn in_the_way(wait: &Wait) -> String {
    let mut parts = Vec::new();
    if !wait.holders.is_empty() {
        let names: Vec<_> = wait.holders.iter().take(4).map(ToString::to_string).collect();
        let more = match wait.holders.len().saturating_sub(names.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("held by {}{more}", names.join(", ")));
    }
    if wait.ahead > 0 {
        parts.push(format!("{} came before", count(wait.ahead, "caller")));
    }
    if parts.is_empty() { "others have it".to_owned() } else { parts.join("; ") }
}

/// Variables as a shell takes them.
fn exports(lease: &Lease) -> String {
    let mut text = String::new();
    for name in lease.unset() {
        text.push_str(&format!("unset {name}\n"));
    }
    for (name, value) in lease.variables() {
        text.push_str(&format!("export {name}='{}'\n", value.replace('\'', "'\\''")));
    }
    text
}

/// Returns whether somebody read it.
fn show(output: &Output, lease: &Lease) -> Result<bool> {
    let text = if output.json { lease.to_json() + "\n" } else { exports(lease) };
    output.text(&text)
}

/// The last line of a holder that `lease` started: it holds, and goes on alone from here.
const HOLDS: &str = "gpushare holds";

/// `lease --pid P`: starts a holder of its own and passes on what that says, where somebody wants it.
pub(super) fn for_process(
    node: &Node,
    output: Option<&Output>,
    own: &[OsString],
    global: &Global,
    options: &LeaseOptions,
    pid: Pid,
) -> Result<Answer> {
    expect_process(node, pid)?;
    let failed = |doing: &str, error: std::io::Error| {
        Error::new(ErrorCode::Io, format!("cannot {doing} the holder: {error}")).with_source(error)
    };
    let mut command = match own.split_first() {
        Some((program, first)) => {
            let mut command = Command::new(program);
            command.args(first);
            command
        }
        None => Command::new(std::env::current_exe().map_err(|error| failed("find", error))?),
    };
    if let Some(fleet) = &global.sim {
        command.arg("--sim").arg(fleet);
    }
    if let Some(directory) = &global.state_dir {
        command.arg("--state-dir").arg(directory);
    }
    command.arg("hold").args(options.arguments());
    command.arg(format!("--pid={pid}")).arg("--detach");
    if output.is_some_and(|output| output.json) {
        command.arg("--json");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // It outlives this command: what its caller has open, a lease of its own among it, is not for it.
    keep_descriptors_from_children().map_err(|error| failed("start", error))?;
    let mut holder = command.spawn().map_err(|error| failed("start", error))?;
    let mut said = String::new();
    if let Some(mut stdout) = holder.stdout.take() {
        // It closes its end when it holds.
        stdout.read_to_string(&mut said).map_err(|error| failed("hear", error))?;
    }
    let Some(lease) = said.strip_suffix('\n').and_then(|said| said.strip_suffix(HOLDS)) else {
        let status = holder.wait().map_err(|error| failed("hear", error))?;
        // It has said why.
        output.map(|output| output.text(&said)).transpose()?;
        return Ok(Answer::Of(match status.code().and_then(|code| u8::try_from(code).ok()) {
            None | Some(0) => super::FAILED,
            Some(code) => code,
        }));
    };
    output.map(|output| output.text(lease)).transpose()?;
    Ok(Answer::Yes)
}

fn expect_process(node: &Node, pid: Pid) -> Result<u64> {
    let facts = node.ports().processes.facts(pid);
    facts.map(|facts| facts.start_time).ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("there is no process {pid} to hold a share for"))
    })
}

/// `hold`: until a signal comes, or that process ends.
pub(super) fn hold(
    node: &Node,
    output: &Output,
    options: &LeaseOptions,
    pid: Option<Pid>,
    detach: bool,
) -> Result<Answer> {
    let tenant = pid.map(|pid| expect_process(node, pid).map(|start| (pid, start))).transpose()?;
    let whom = pid.unwrap_or(node.ports().processes.own_pid());
    let request = options.request()?.for_pid(whom).give_back(options.create);
    let watch = pid.and_then(watch);
    // A signal ends the waiting, and gives the share back later on.
    let interrupt = Interrupt::listen()?;
    let lease = take(node, &request, &interrupt, || !detach || somebody_reads())?;
    let read = show(output, &lease)?;
    if detach && !(read && output.text(&format!("{HOLDS}\n"))?) {
        lease.release()?;
        return Err(Error::new(
            ErrorCode::Interrupted,
            "whoever asked for the share is gone; it is given back",
        ));
    }
    if detach {
        leave()?;
    }
    let gone = || {
        tenant.is_some_and(|(pid, start)| {
            node.ports().processes.facts(pid).is_none_or(|facts| facts.start_time != start)
        })
    };
    while !interrupt.asked() && !gone() {
        match &watch {
            Some(watch) => {
                let timeout = Timespec::try_from(POLL).ok();
                let mut ends = [PollFd::new(watch, PollFlags::IN)];
                let _ = poll(&mut ends, timeout.as_ref());
            }
            None => std::thread::sleep(POLL),
        }
    }
    lease.release()?;
    Ok(Answer::Yes)
}

/// A descriptor that tells when a process ends, where there can be one.
fn watch(pid: Pid) -> Option<OwnedFd> {
    let raw = i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw)?;
    pidfd_open(raw, PidfdFlags::empty()).ok()
}

/// Whether the other end of standard output is still open.
fn somebody_reads() -> bool {
    let stdout = std::io::stdout();
    let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = poll(&mut ends, Some(&Timespec::default()));
    polled.is_err() || !ends[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Leaves the session of whoever started it, and everything of theirs.
fn leave() -> Result<()> {
    let failed = |error: rustix::io::Errno| {
        Error::new(ErrorCode::Io, format!("cannot leave the caller's session: {error}"))
            .with_source(std::io::Error::from(error))
    };
    rustix::process::setsid().map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)?;
    let flags = rustix::fs::OFlags::RDWR;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).map_err(failed)?;
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(failed)
}

/// `release`: asks the holder to give it back, and waits until it has.
pub(super) fn release(node: &Node, output: &Output, id: &str) -> Result<Answer> {
    let list = node.leases()?;
    let all: Vec<Share> =
        list.gpus.into_iter().flat_map(|gpu| gpu.shares).chain(list.void).collect();
    fn name(share: &Share) -> Option<&str> {
        share.lease.as_ref().and_then(|lease| lease.name.as_deref())
    }
    let named = |share: &&Share| {
        share.is_leased() && (share.id.to_string() == id || name(share) == Some(id))
    };
    let Some(first) = all.iter().find(named) else {
        return Err(Error::new(
            ErrorCode::NotFound,
            format!("nobody holds {id:?}; `gpushare leases` lists the shares and who has them"),
        ));
    };
    let Some(holder) = first.holder.clone() else {
        return Err(Error::new(ErrorCode::NotFound, format!("nobody holds {}", first.id)));
    };
    let held_for = first.lease.as_ref().and_then(|lease| lease.for_pid);
    let (Some(_), Some(start_time)) = (held_for, holder.start_time) else {
        return Err(Error::new(
            ErrorCode::Busy,
            format!(
                "{} is held by {holder} itself, not by `gpushare hold` or `gpushare lease`: it is given back when that process and its children have ended",
                first.id
            ),
        )
        .with_holders(vec![holder]));
    };
    // A lease of several shares is given back as a whole.
    let with_it = |share: &&Share| {
        share.holder.as_ref().is_some_and(|other| other.pid == holder.pid)
            && name(share) == name(first)
    };
    let shares: Vec<&Share> = all.iter().filter(with_it).collect();
    node.ports().processes.signal(holder.pid, start_time, Signal::Terminate)?;
    let start = Instant::now();
    while still_holds(node, &holder, &shares)? {
        if start.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorCode::Timeout,
                format!("{holder} was asked to give {} back and has not", first.id),
            )
            .with_holders(vec![holder]));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if !output.json {
        let ids: Vec<_> = shares.iter().map(|share| share.id.to_string()).collect();
        output.text(&format!("Given back: {}\n", printable(&ids.join(", "))))?;
    } else {
        output.document(&node.leases()?)?;
    }
    Ok(Answer::Yes)
}

/// Whether a holder has one of these, be it that somebody else has taken the others since.
fn still_holds(node: &Node, holder: &Holder, shares: &[&Share]) -> Result<bool> {
    let facts = node.ports().processes.facts(holder.pid);
    if facts.is_none_or(|facts| Some(facts.start_time) != holder.start_time) {
        return Ok(false);
    }
    let held = node.ports().slots.held()?;
    Ok(held.iter().any(|slot| {
        slot.pid.is_none_or(|pid| pid == holder.pid)
            && shares.iter().any(|share| share.id == slot.share)
    }))
}

/// `cordon` with a reason, and `uncordon`.
pub(super) fn cordon(
    node: &Node,
    output: &Output,
    select: &Select,
    reason: Option<&str>,
) -> Result<Answer> {
    for gpu in select.to_change(&node.snapshot()?)? {
        match reason {
            Some(reason) => node.cordon(&gpu, reason)?,
            None => node.uncordon(&gpu)?,
        }
    }
    output.show(&node.leases()?)?;
    Ok(Answer::Yes)
}
