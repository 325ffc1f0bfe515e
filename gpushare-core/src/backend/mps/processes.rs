//! Processes of NVIDIA's MPS programs, and their end.
//!
//! A daemon that answers is known by its socket. One that does not listen yet, has lost its socket,
//! or is a server, is known by what it was started with: our directory, in its environment. Anybody can
//! start a process with that, so it counts only with the users and the program that we start.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::system::{SystemProcesses, arguments, environment_of, read_of};
use crate::error::Result;
use crate::id::Pid;
use crate::port::{Processes as _, Signal};

/// The control daemon, which is also the program of commands to it.
pub(in crate::backend) const CONTROL: &str = "nvidia-cuda-mps-control";
/// Its servers.
const SERVER: &str = "nvidia-cuda-mps-server";
/// What the kernel keeps of either name.
pub(in crate::backend) const SHORT: &str = "nvidia-cuda-mps";

/// The variable that names the directory.
pub(in crate::backend) const PIPE_DIRECTORY: &str = "CUDA_MPS_PIPE_DIRECTORY";

/// How often a process that is to end is looked at.
const STEP: Duration = Duration::from_millis(5);

/// A process, not the next one with its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its pid.
    pub(super) pid: Pid,
    /// When it started, in clock ticks since boot.
    start_time: u64,
}

impl Process {
    /// The process that has that pid now; none when it has ended.
    pub(super) fn now(pid: Pid) -> Option<Self> {
        let start_time = SystemProcesses::new().facts(pid)?.start_time;
        Some(Self { pid, start_time })
    }

    fn is_alive(self) -> bool {
        Self::now(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) -> Result<()> {
        SystemProcesses::new().signal(self.pid, self.start_time, signal)
    }
}

/// Whether all have ended within that time.
pub(super) fn have_ended(processes: &[Process], within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while processes.iter().any(|process| process.is_alive()) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(STEP);
    }
    true
}

/// Ends processes: asked first, killed after that time.
///
/// # Errors
/// PERMISSION_DENIED where they are another user's.
pub(super) fn end(processes: &[Process], grace: Duration) -> Result<()> {
    processes.iter().try_for_each(|process| process.signal(Signal::Terminate))?;
    if have_ended(processes, grace) {
        return Ok(());
    }
    processes.iter().try_for_each(|process| process.signal(Signal::Kill))
}

/// Who was started with a directory of ours, or says so.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Control daemons and servers.
    pub(super) ours: Vec<Process>,
    /// Others, who call themselves so. They are left alone: what they are called and what they were
    /// started with is theirs to choose.
    pub(super) pretenders: Vec<Pid>,
}

/// The control daemons and servers that were started with this directory, as far as this user may
/// look.
pub(super) fn of_directory(directory: &Path) -> Vec<Process> {
    claims(directory).ours
}

/// Everybody who says that they were started with this directory, as far as this user may look.
pub(super) fn claims(directory: &Path) -> Claims {
    let claims = |pid: &Pid| {
        let environment = environment_of(*pid).unwrap_or_default();
        is_mps(*pid) && names(&environment, directory)
    };
    let mut found = Claims::default();
    let mut of_others = Vec::new();
    // Its name tells most of them apart, by one read each.
    for pid in all().filter(|pid| has_name(*pid)) {
        let Some(process) = Process::now(pid).filter(|_| claims(&pid)) else { continue };
        if is_trusted(pid) {
            found.ours.push(process);
        } else {
            of_others.push(process);
        }
    }
    // Whom a daemon started is its own, whoever it runs as.
    let daemons: Vec<_> = found.ours.iter().map(|process| process.pid).collect();
    for process in of_others {
        let facts = SystemProcesses::new().facts(process.pid);
        let parent = facts.filter(|facts| facts.start_time == process.start_time);
        match parent.and_then(|facts| facts.parent) {
            Some(parent) if daemons.contains(&parent) => found.ours.push(process),
            _ => found.pretenders.push(process.pid),
        }
    }
    found
}

/// Whether a process that the kernel named is a control daemon, and was started with no other
/// directory: a container's root may not look into the environment of a daemon that has another
/// group.
pub(super) fn may_be_of_directory(pid: Pid, directory: &Path) -> bool {
    let others = || environment_of(pid).is_some_and(|environment| !names(&environment, directory));
    is_mps(pid) && ids(pid).is_some_and(|ids| ids.are_trusted()) && !others()
}

/// Whether nobody but root and this user can have made a process what it is.
///
/// The program of a process that may take on other users' rights (set-id) was started by anybody,
/// with a name, arguments and an environment of their choice.
fn is_trusted(pid: Pid) -> bool {
    const SET_ID: u32 = 0o6000;
    // Through the link itself: the file need not have a name any more.
    let program = fs::metadata(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program.mode() & SET_ID == 0)
        && ids(pid).is_some_and(|ids| ids.are_trusted())
}

/// The real and the effective user and group of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    users: [u32; 2],
    groups: [u32; 2],
}

fn ids(pid: Pid) -> Option<Ids> {
    Ids::parse(&read_of(pid, "status", 4096).ok()?)
}

impl Ids {
    fn parse(status: &[u8]) -> Option<Self> {
        let two = |start: &str| {
            let status = String::from_utf8_lossy(status);
            let line = status.lines().find_map(|line| line.strip_prefix(start))?;
            let mut numbers = line.split_ascii_whitespace().map_while(|number| number.parse().ok());
            Some([numbers.next()?, numbers.next()?])
        };
        Some(Self { users: two("Uid:")?, groups: two("Gid:")? })
    }

    fn are_trusted(self) -> bool {
        self.are_trusted_by(rustix::process::geteuid().as_raw())
    }

    /// Root's daemons run with group 0, and so do their servers, with the users whom they serve. No
    /// user can take that group.
    fn are_trusted_by(self, own: u32) -> bool {
        let root = own == 0 && self.groups == [0; 2];
        root || self.users.iter().all(|&user| user == own || user == 0)
    }
}

fn names(environment: &[u8], directory: &Path) -> bool {
    value_of(environment, PIPE_DIRECTORY) == Some(directory.as_os_str().as_bytes())
}

/// Every process.
pub(super) fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Pid::new(entry.file_name().to_str()?.parse().ok()?)))
}

/// The value of a variable that a process was started with, where that can be read.
pub(super) fn variable(pid: Pid, name: &str) -> Option<std::ffi::OsString> {
    let environment = environment_of(pid)?;
    value_of(&environment, name).map(|value| OsStr::from_bytes(value).to_owned())
}

/// As getenv(3): the first of that name.
pub(in crate::backend) fn value_of<'a>(environment: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = environment
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    // Longer than any path: another user's text, which is shown.
    value.map(|value| value.get(..4096).unwrap_or(value))
}

fn has_name(pid: Pid) -> bool {
    let name = read_of(pid, "comm", 64).unwrap_or_default();
    name.trim_ascii_end() == SHORT.as_bytes()
}

fn is_mps(pid: Pid) -> bool {
    has_name(pid) && programs(pid).iter().any(|name| name == CONTROL || name == SERVER)
}

/// Whether a process is a control daemon, and not somebody who talks to one.
pub(super) fn is_daemon(pid: Pid) -> bool {
    has_name(pid)
        && programs(pid).iter().any(|name| name == CONTROL)
        && is_daemon_call(&arguments(pid))
}

/// By the options that make it a daemon. Without one it reads commands.
pub(in crate::backend) fn is_daemon_call(arguments: &[u8]) -> bool {
    arguments.split(|&byte| byte == 0).skip(1).any(|argument| {
        argument.starts_with(b"-d")
            || argument.starts_with(b"-f")
            || argument == b"--daemon"
            || argument.starts_with(b"--for")
    })
}

/// What a process may be called: by its file, its first argument, and for a script its second.
fn programs(pid: Pid) -> Vec<String> {
    let file = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let arguments = arguments(pid);
    let arguments = arguments.split(|&byte| byte == 0).take(2).map(OsStr::from_bytes);
    let paths = file.iter().map(|file| file.as_os_str()).chain(arguments);
    let names = paths.filter_map(|path| Path::new(path).file_name()?.to_str());
    // An update of the driver removes the file of a daemon that runs.
    names.map(|name| name.trim_end_matches(" (deleted)").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_the_whole_name_and_the_whole_value() {
        let environment = b"A=1\0CUDA_MPS_PIPE_DIRECTORY=/a b\0CUDA_MPS_PIPE_DIRECTORY=/c\0E=\0X\0";
        assert_eq!(value_of(environment, PIPE_DIRECTORY), Some(&b"/a b"[..]));
        assert_eq!(value_of(environment, "E"), Some(&b""[..]));
        for name in ["CUDA_MPS_PIPE", "X", "", "PIPE_DIRECTORY"] {
            assert_eq!(value_of(environment, name), None, "{name}");
        }
    }

    #[test]
    fn nobody_but_root_and_this_user_are_trusted() {
        let ids = |users, groups| Ids { users, groups };
        for (ids, own, trusted) in [
            (ids([0, 0], [0, 0]), 0, true),
            (ids([0, 0], [7, 7]), 0, true),
            // A server of root's daemon.
            (ids([7, 7], [0, 0]), 0, true),
            (ids([7, 7], [0, 0]), 8, false),
            // A set-id program: it has our rights, and was started by somebody else.
            (ids([7, 0], [7, 7]), 0, false),
            (ids([7, 7], [7, 0]), 0, false),
            (ids([7, 7], [7, 7]), 0, false),
            (ids([7, 7], [7, 7]), 7, true),
            (ids([0, 7], [7, 7]), 7, true),
            (ids([8, 7], [7, 7]), 7, false),
        ] {
            assert_eq!(ids.are_trusted_by(own), trusted, "{ids:?} {own}");
        }
        let status = b"Name:\tUid:\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!(Ids::parse(status), Some(ids([1, 2], [5, 6])));
        assert_eq!(Ids::parse(b"Uid:\t1\nGid:\t5\t6\n"), None);
    }

    #[test]
    fn a_daemon_is_told_from_who_talks_to_it() {
        for call in ["-d", "-f", "-df", "--daemon", "--foreground", "--forground", "-M\0-d"] {
            assert!(is_daemon_call(format!("{CONTROL}\0{call}\0").as_bytes()), "{call}");
        }
        for call in ["", "-h", "get_server_list", "--help"] {
            assert!(!is_daemon_call(format!("{CONTROL}\0{call}\0").as_bytes()), "{call}");
        }
    }

    #[test]
    fn this_process_is_none_of_them() {
        let own = Pid::new(std::process::id());
        assert!(all().any(|pid| pid == own));
        assert!(!is_mps(own) && !is_daemon(own));
        let process = Process::now(own).unwrap();
        assert!(!have_ended(&[process], Duration::ZERO));
        let earlier = Process { start_time: process.start_time - 1, ..process };
        assert!(have_ended(&[earlier], Duration::ZERO), "the pid has passed on");
    }
}
