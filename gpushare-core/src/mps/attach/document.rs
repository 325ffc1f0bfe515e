//! Whether a process is a client of an MPS daemon of ours, as a document.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Pid;
use crate::mode::Verdict;
use crate::mps::MpsDomain;
use crate::terminal::printable;
use crate::units::{Bytes, ThreadPercentage};

/// The schema that a serialised attachment names.
pub const ATTACHMENT_SCHEMA: &str = "gpushare.attachment/v1";

/// Whether a process is a client of an MPS daemon of ours, and what holds it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attachment {
    /// [`ATTACHMENT_SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// The process.
    pub pid: Pid,
    /// When it started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// Its command, as far as it may be read.
    pub command: String,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Whether it is attached.
    pub verdict: Verdict,
    /// Attached: the GPU or MIG device whose daemon serves it.
    pub domain: Option<MpsDomain>,
    /// Attached: the server.
    #[serde(rename = "server_pid")]
    pub server: Option<Pid>,
    /// Attached: the device memory that it uses there, by NVML.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// What it can have at most: enforced by the server against its will.
    pub at_most: AtMost,
    /// What its environment asks of CUDA. Declared: nothing here is enforced, and the process could
    /// have changed it. None where it could not be read.
    pub declared: Option<Declared>,
    /// Why, in words.
    pub reasons: Vec<String>,
}

/// What a client can have at most. An upper bound: a client may have asked for less. None is unknown.
///
/// Up to driver 535 any user of a daemon can change its values; such a change is not seen here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AtMost {
    /// Multiprocessors.
    pub sm_count: Option<u32>,
    /// The share of threads.
    pub thread_percentage: Option<ThreadPercentage>,
    /// Device memory, its CUDA context included: the limit, or where there is none the device's.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// Why something of it is unknown.
    pub reason: Option<String>,
}

impl AtMost {
    /// Nothing is known, for that reason.
    pub(super) fn unknown(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::default() }
    }
}

/// What the environment of a process asks of MPS, as it stands there. None where a variable is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// `CUDA_MPS_PIPE_DIRECTORY`.
    pub pipe_directory: Option<String>,
    /// `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE`.
    pub thread_percentage: Option<String>,
    /// `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT`.
    pub pinned_memory_limit: Option<String>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
    /// `CUDA_MPS_CLIENT_PRIORITY`.
    pub priority: Option<String>,
}

impl Declared {
    /// The variables that are set.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("CUDA_MPS_PIPE_DIRECTORY", &self.pipe_directory),
            ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", &self.thread_percentage),
            ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", &self.pinned_memory_limit),
            ("CUDA_VISIBLE_DEVICES", &self.visible_devices),
            ("CUDA_MPS_CLIENT_PRIORITY", &self.priority),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        let command = if self.command.is_empty() { "?" } else { &self.command };
        write!(f, "pid {} ({}): ", self.pid, printable(command))?;
        match self.verdict {
            Verdict::Attached => write!(f, "attached")?,
            Verdict::NotAttached => write!(f, "not attached")?,
            Verdict::Unknown => write!(f, "unknown whether it is attached")?,
        }
        if let Some(domain) = &self.domain {
            write!(f, " to the MPS daemon of {domain}")?;
        }
        if let Some(server) = self.server {
            write!(f, ", server {server}")?;
        }
        writeln!(f)?;
        for reason in &self.reasons {
            writeln!(f, "  {}", printable(reason))?;
        }
        if let Some(memory) = self.memory {
            writeln!(f, "  uses {memory}")?;
        }
        let at_most = &self.at_most;
        let limits = [
            at_most.sm_count.map(|count| format!("{count} SMs")),
            at_most.thread_percentage.map(|percentage| format!("{percentage} % of the threads")),
            at_most.memory.map(|memory| format!("{memory} of memory")),
        ];
        let limits: Vec<_> = limits.into_iter().flatten().collect();
        if !limits.is_empty() {
            writeln!(f, "  enforced: at most {}", limits.join(", "))?;
        }
        if let (Some(reason), Verdict::Attached) = (&at_most.reason, self.verdict) {
            writeln!(f, "  not known to be enforced: {}", printable(reason))?;
        }
        if let Some(declared) = &self.declared {
            for (name, value) in declared.variables() {
                writeln!(f, "  declared, not enforced: {name}={}", printable(value))?;
            }
        }
        Ok(())
    }
}
