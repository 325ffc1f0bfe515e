//! What is seen of a process, of GPUs and MIG devices, and of daemons of ours, as plain values.

use std::path::PathBuf;

use crate::id::{GpuUuid, Pid};
use crate::mode::MpsHealth;
use crate::mps::{Declared, MpsDomain, ServerLimits};
use crate::units::Bytes;

/// What was seen of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its process id, as the caller sees it.
    pub pid: Pid,
    /// When it started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// Its command, as far as it may be read.
    pub command: String,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Whether the caller sees the process ids that daemons and driver speak of. Without that, a
    /// number in their lists may be another process.
    pub same_pid_namespace: bool,
    /// Its environment, where it could be read.
    pub environment: Option<Declared>,
    /// On which GPUs and MIG devices NVML says that it has a context.
    pub contexts: Vec<ContextFacts>,
    /// Whether NVML's list of processes could not be seen for some GPU.
    pub processes_hidden: bool,
}

/// A context of the process, by NVML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFacts {
    /// The GPU or MIG device; the GPU where the MIG device cannot be told.
    pub device: MpsDomain,
    /// Whether NVML lists the process as an MPS client there.
    pub mps_client: bool,
    /// The device memory that it uses there.
    pub memory: Option<Bytes>,
}

/// What was seen of a GPU or MIG device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainFacts {
    /// The GPU or MIG device.
    pub domain: MpsDomain,
    /// The GPU that it is or is a part of.
    pub gpu: GpuUuid,
    /// Its multiprocessors.
    pub sm_count: Option<u32>,
    /// Its memory.
    pub memory: Option<Bytes>,
    /// The daemon of ours, where there is one.
    pub daemon: Option<DaemonFacts>,
}

/// What was seen of a daemon of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonFacts {
    /// How it is.
    pub health: MpsHealth,
    /// Where it listens.
    pub directory: PathBuf,
    /// When a setting was last changed, in clock ticks since boot; none where that is not known.
    pub changed: Option<u64>,
    /// Whether those whom it serves can change what it gives, so that nobody knows what a client has.
    pub anyone_may_set: bool,
    /// Its servers; none where it was not asked or did not answer.
    pub servers: Option<Vec<ServerFacts>>,
}

/// What a daemon said of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its process.
    pub pid: Pid,
    /// Its clients; none where they were not told.
    pub clients: Option<Vec<Pid>>,
    /// What it gives new clients, where it said so.
    pub limits: Option<ServerLimits>,
}
