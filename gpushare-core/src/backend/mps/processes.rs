//! Processes of NVIDIA's MPS programs, and their end.
//!
//! A daemon that answers is known by its socket. One that does not listen yet, has lost its socket,
//! or is a server, is known by what it was started with: our directory, in its environment.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::system::SystemProcesses;
use crate::error::Result;
use crate::id::Pid;
use crate::port::{Processes as _, Signal};

/// The control daemon, which is also the program of commands to it.
pub(super) const CONTROL: &str = "nvidia-cuda-mps-control";
/// Its servers.
const SERVER: &str = "nvidia-cuda-mps-server";
/// What the kernel keeps of either name.
const SHORT: &str = "nvidia-cuda-mps";

/// The variable that names the directory.
pub(super) const PIPE_DIRECTORY: &str = "CUDA_MPS_PIPE_DIRECTORY";

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

/// The control daemons and servers that were started with this directory, as far as this user may
/// look.
pub(super) fn of_directory(directory: &Path) -> Vec<Process> {
    let ours = |pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        is_mps(pid) && names(&environment, directory)
    };
    // Its name tells most of them apart, by one read each.
    let named = all().filter(|pid| has_name(*pid));
    named.filter_map(|pid| Process::now(pid).filter(|_| ours(pid))).collect()
}

/// Whether a process is a control daemon or server, and was started with no other directory: a
/// container's root may not look into the environment of a daemon that has another group.
pub(super) fn may_be_of_directory(pid: Pid, directory: &Path) -> bool {
    let others = || match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) => !names(&environment, directory),
        Err(_) => false,
    };
    is_mps(pid) && !others()
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
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    value_of(&environment, name).map(|value| OsStr::from_bytes(value).to_owned())
}

/// As getenv(3): the first of that name.
fn value_of<'a>(environment: &'a [u8], name: &str) -> Option<&'a [u8]> {
    environment
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn has_name(pid: Pid) -> bool {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
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
fn is_daemon_call(arguments: &[u8]) -> bool {
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

fn arguments(pid: Pid) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
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
