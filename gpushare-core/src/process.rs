//! A process that stands on a GPU, as errors, snapshots and plans name it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Pid;
use crate::terminal::printable;

/// Whether a process ignores a signal, by what the kernel says in its `/proc/PID/status`.
pub(crate) fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let bit = u32::try_from(signal - 1).ok();
    bit.and_then(|bit| mask.checked_shr(bit)).is_some_and(|mask| mask & 1 == 1)
}

/// What a holder of a GPU or MIG device is to us. It decides whether and how it can be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HolderKind {
    /// A process with a CUDA context.
    Compute,
    /// A process with a graphics context: a display server for the most part.
    Graphics,
    /// A client of an MPS daemon of ours.
    MpsClient,
    /// An MPS server or daemon that is not ours.
    ForeignMps,
    /// NVIDIA's own services: DCGM, persistenced, fabric manager.
    Service,
    /// A process that holds a lease, be it on the GPU or not.
    Lease,
}

/// A process that holds a GPU or an instance of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id.
    pub pid: Pid,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`): with the pid, who it is.
    /// Absent when `/proc` does not show the process (another pid namespace).
    pub start_time: Option<u64>,
    /// Its command, as far as it may be read.
    pub command: String,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// What it is to us.
    pub kind: HolderKind,
    /// Why it is never evicted, when it is not.
    pub protected: Option<String>,
}

impl Holder {
    /// A holder of which only the pid is known.
    pub fn new(pid: Pid, kind: HolderKind) -> Self {
        Self { pid, start_time: None, command: String::new(), uid: None, kind, protected: None }
    }

    /// The same without the arguments of its command. What is written down, or handed on as the report of
    /// a change, outlives the process; on a command line there may be a password.
    pub(crate) fn without_arguments(&self) -> Self {
        let program = self.command.split_whitespace().next().unwrap_or_default();
        Self { command: program.to_owned(), ..self.clone() }
    }
}

impl fmt::Display for Holder {
    /// One line; characters that a terminal obeys are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = if self.command.is_empty() { "?" } else { &self.command };
        write!(f, "pid {} ({})", self.pid, printable(command))?;
        if let Some(why) = &self.protected {
            write!(f, " [never evicted: {}]", printable(why))?;
        }
        Ok(())
    }
}
