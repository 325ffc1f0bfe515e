//! Leases: what is asked for, and shares that are held for others.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::lease::{Lease, LeaseRequest, Wait};
use crate::node::Node;
use crate::port::{Signal, Taken};
use crate::snapshot::Share;
use crate::terminal::printable;

use super::Answer;
use super::arguments::{LeaseOptions, Select};
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

/// Takes a lease; Ctrl-C ends the waiting. Who waits long is told for whom.
pub(super) fn take(node: &Node, request: &LeaseRequest) -> Result<Lease> {
    let interrupt = Interrupt::listen()?;
    let mut told = false;
    node.lease_with(request, |wait: &Wait| {
        if !told && wait.waited >= TOLD {
            told = true;
            let holders: Vec<_> = wait.holders.iter().take(4).map(ToString::to_string).collect();
            say(&format!("gpushare: waiting for {}: held by {}", wait.what, holders.join(", ")));
        }
        interrupt.flow()
    })
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

fn show(output: &Output, lease: &Lease) -> Result<()> {
    let text = if output.json { lease.to_json() + "\n" } else { exports(lease) };
    output.text(&text).map(drop)
}

/// `lease --pid P`: starts a holder of its own and passes on what that says.
pub(super) fn for_process(
    node: &Node,
    output: &Output,
    options: &LeaseOptions,
    pid: Pid,
) -> Result<Answer> {
    expect_process(node, pid)?;
    let failed = |doing: &str, error: std::io::Error| {
        Error::new(ErrorCode::Io, format!("cannot {doing} the holder: {error}")).with_source(error)
    };
    let program = std::env::current_exe().map_err(|error| failed("find", error))?;
    let mut command = Command::new(program);
    command.args(own_options()).arg("hold").args(options.arguments());
    command.arg(format!("--pid={pid}")).arg("--detach");
    if output.json {
        command.arg("--json");
    }
    // Of its own group: what ends this command's does not end it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    let mut holder = command.spawn().map_err(|error| failed("start", error))?;
    let mut said = String::new();
    if let Some(stdout) = holder.stdout.take() {
        // It ends its line when it holds, and keeps nothing of this command's open.
        for line in BufReader::new(stdout).lines() {
            said.push_str(&line.map_err(|error| failed("hear", error))?);
            said.push('\n');
        }
    }
    if said.is_empty() {
        let status = holder.wait().map_err(|error| failed("hear", error))?;
        // It has said why.
        return Ok(Answer::Of(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)));
    }
    output.text(&said)?;
    Ok(Answer::Yes)
}

/// The global options of this command, for another.
fn own_options() -> Vec<String> {
    let mut arguments = std::env::args().skip(1);
    let mut own = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--" => break,
            "--sim" | "--state-dir" => {
                own.push(argument);
                own.extend(arguments.next());
            }
            other if other.starts_with("--sim=") || other.starts_with("--state-dir=") => {
                own.push(argument);
            }
            _ => {}
        }
    }
    own
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
    let watch = pid.map(watch).transpose()?;
    let lease = take(node, &request)?;
    // From here on a signal gives the share back.
    let interrupt = Interrupt::listen()?;
    show(output, &lease)?;
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

/// A descriptor that tells when a process ends.
fn watch(pid: Pid) -> Result<std::os::fd::OwnedFd> {
    let raw = i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw);
    let opened =
        raw.ok_or(rustix::io::Errno::SRCH).and_then(|raw| pidfd_open(raw, PidfdFlags::empty()));
    opened.map_err(|errno| {
        Error::new(ErrorCode::NotFound, format!("cannot watch process {pid}: {errno}"))
    })
}

/// Leaves the session of whoever started it, and everything of theirs.
fn leave() -> Result<()> {
    let failed = |error: rustix::io::Errno| {
        Error::new(ErrorCode::Io, format!("cannot leave the caller's session: {error}"))
    };
    // The leader of a group of its own cannot begin a session; then it keeps the caller's.
    let _ = rustix::process::setsid();
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
    let all = list.gpus.into_iter().flat_map(|gpu| gpu.shares).chain(list.void);
    let named = |share: &Share| {
        let name = share.lease.as_ref().and_then(|lease| lease.name.as_deref());
        share.is_leased() && (share.id.to_string() == id || name == Some(id))
    };
    let shares: Vec<Share> = all.filter(named).collect();
    let Some(first) = shares.first() else {
        return Err(Error::new(
            ErrorCode::NotFound,
            format!("nobody holds {id:?}; `gpushare leases` lists the shares and who has them"),
        ));
    };
    let holder = first.holder.clone().ok_or_else(|| Error::new(ErrorCode::NotFound, "free"))?;
    let held_for = first.lease.as_ref().and_then(|lease| lease.for_pid);
    let (Some(_), Some(start_time)) = (held_for, holder.start_time) else {
        return Err(Error::new(
            ErrorCode::Busy,
            format!("{} is held by {holder} itself, not by `gpushare hold`: it is given back when that process ends", first.id),
        )
        .with_holders(vec![holder]));
    };
    let processes = &node.ports().processes;
    processes.signal(holder.pid, start_time, Signal::Terminate)?;
    let start = Instant::now();
    for share in &shares {
        while matches!(node.ports().slots.try_take(&share.id)?, Taken::Held) {
            if start.elapsed() > PATIENCE {
                return Err(Error::new(
                    ErrorCode::Timeout,
                    format!("{holder} was asked to give {} back and has not", share.id),
                )
                .with_holders(vec![holder]));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if !output.json {
        let ids: Vec<_> = shares.iter().map(|share| share.id.to_string()).collect();
        output.text(&format!("Given back: {}\n", printable(&ids.join(", "))))?;
    } else {
        output.document(&node.leases()?)?;
    }
    Ok(Answer::Yes)
}

/// `cordon` with a reason, and `uncordon`.
pub(super) fn cordon(node: &Node, select: &Select, reason: Option<&str>) -> Result<Answer> {
    for gpu in select.to_change(&node.snapshot()?)? {
        match reason {
            Some(reason) => node.cordon(&gpu, reason)?,
            None => node.uncordon(&gpu)?,
        }
    }
    Ok(Answer::Yes)
}
