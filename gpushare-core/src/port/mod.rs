//! The ports: everything that touches the outside, as traits.
//!
//! Each method of [`Nvml`] is one driver call, or one of NVML's two-step calls, in safe types and
//! nothing more: no decision, no retry, no cache of anything that can change. That makes a port
//! thin enough to be simulated, counted, and made to fail at any call.

mod cdi;
mod devices;
mod machine;
mod mps;
mod nvml;
mod own;
mod returned;
mod slots;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::id::{GpuUuid, Pid};
use crate::mode::Interval;

pub use cdi::CdiFiles;
pub use devices::Devices;
pub use machine::Machine;
pub use mps::{ForeignDaemon, MpsDaemon, MpsHost};
pub use nvml::{
    Activation, ComputeInstanceInfo, ContextKind, GpuInstanceInfo, MigDeviceInfo, MigMode, Nvml,
    NvmlLibrary, PciInfo, ProcessInfo, ProfileAnswer, UnnamedComputeInstance,
};
pub(crate) use own::expect_this;
pub use returned::{NvmlFailure, NvmlResult, NvmlReturn};
pub use slots::{HeldSlot, LeaseScope, Note, Slot, Slots, Taken, Ticket};

/// The time-slice interval, for which NVML has no function.
pub trait ComputePolicy: Send + Sync + fmt::Debug {
    /// Whether it can be read and set here at all.
    fn able(&self) -> bool;
    /// The interval of a GPU.
    fn interval(&self, gpu: &GpuUuid) -> Result<Interval>;
    /// Sets the interval of a GPU.
    fn set_interval(&self, gpu: &GpuUuid, interval: Interval) -> Result<()>;
    /// Sets the interval of a GPU in a process that holds the GPU's lock too: should we die
    /// meanwhile, nobody else changes the GPU before that process has ended.
    fn set_interval_locked(&self, gpu: &GpuUuid, interval: Interval, lock: OwnedFd) -> Result<()> {
        drop(lock);
        self.set_interval(gpu, interval)
    }
}

/// Resets a GPU, for which NVML has no function.
pub trait Reset: Send + Sync + fmt::Debug {
    /// Whether GPUs can be reset here at all.
    fn able(&self) -> bool;
    /// Resets one GPU and no other. No NVML of ours may be open.
    fn reset(&self, gpu: &GpuUuid) -> Result<()>;
    /// Resets one GPU in a process that holds the GPU's lock too: should we die meanwhile, nobody
    /// else changes the GPU before that process has ended.
    fn reset_locked(&self, gpu: &GpuUuid, lock: OwnedFd) -> Result<()> {
        drop(lock);
        self.reset(gpu)
    }
}

/// What the system knows of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Its command, as it calls itself.
    pub command: String,
    /// The name of the program that it runs, where that may be seen and the program is root's.
    pub program: Option<String>,
    /// The user it runs as.
    pub uid: u32,
    /// Its parent.
    pub parent: Option<Pid>,
}

/// A signal that eviction sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGKILL: end.
    Kill,
}

/// Processes of this machine.
pub trait Processes: Send + Sync + fmt::Debug {
    /// What is known of a process; none when it is gone or a zombie.
    fn facts(&self, pid: Pid) -> Option<ProcessFacts>;
    /// This process.
    fn own_pid(&self) -> Pid;
    /// When this process started, where it can be seen: it is asked once.
    fn own_start_time(&self) -> Option<u64> {
        self.facts(self.own_pid()).map(|facts| facts.start_time)
    }
    /// The user that this process runs as.
    fn own_uid(&self) -> u32;
    /// The user behind this process: under sudo the one who called it.
    fn caller_uid(&self) -> u32 {
        self.own_uid()
    }
    /// These variables of a process's environment, as far as they are set; none where it may not be
    /// read.
    fn environment(&self, pid: Pid, names: &[&str]) -> Option<Vec<(String, String)>>;
    /// Whether this process sees the pids that the driver speaks of: it is in the machine's first
    /// pid namespace.
    fn in_first_pid_namespace(&self) -> bool;
    /// Signals exactly that process, not one that got its pid since.
    fn signal(&self, pid: Pid, start_time: u64, signal: Signal) -> Result<()>;
}

/// A process, its parent, and so on as far as they are seen. A parent is asked for only when it is
/// wanted.
pub fn ancestry(processes: &dyn Processes, pid: Pid) -> impl Iterator<Item = Pid> + '_ {
    let mut seen: Vec<Pid> = Vec::new();
    std::iter::from_fn(move || {
        let next = match seen.last() {
            None => Some(pid),
            Some(last) => processes.facts(*last).and_then(|facts| facts.parent),
        };
        // A pid that passed on meanwhile can close a circle.
        let next = next.filter(|pid| !seen.contains(pid))?;
        seen.push(next);
        Some(next)
    })
}

/// Holds a lock until it is dropped.
pub trait LockGuard: Send + fmt::Debug {
    /// Another descriptor of the lock, for a helper process to hold it too; none where the lock is
    /// no file.
    fn descriptor(&self) -> Option<OwnedFd> {
        None
    }
}

/// Durable files and locks below our directories.
///
/// Names are relative: `journal/x.jsonl`. A store that is simulated drops at a crash what was not synced.
pub trait Store: Send + Sync + fmt::Debug {
    /// The whole file; none when it is not there.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;
    /// Replaces the file: after it returns, the new content is durable, and at no time is it half there.
    fn replace(&self, name: &str, content: &[u8]) -> Result<()>;
    /// Appends to the file and makes it durable.
    fn append(&self, name: &str, content: &[u8]) -> Result<()>;
    /// Removes the file durably; not being there is no error.
    fn remove(&self, name: &str) -> Result<()>;
    /// The names of the files in a folder, sorted.
    fn list(&self, folder: &str) -> Result<Vec<String>>;
    /// Moves a file within the store durably.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Takes a lock if it is free, without waiting.
    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>>;
    /// Where the durable files are, for messages.
    fn place(&self) -> &Path;
}

/// Time, and which life of machine and driver this is.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since some fixed moment, never going back.
    fn now(&self) -> Duration;
    /// Seconds since 1970, for records that people read.
    fn unix_time(&self) -> u64;
    /// Clock ticks since boot, as the kernel counts the start of processes: hundredths of a second.
    fn ticks(&self) -> u64 {
        u64::try_from(self.now().as_millis() / 10).unwrap_or(u64::MAX)
    }
    /// Waits.
    fn sleep(&self, duration: Duration);
    /// Time since some fixed moment, never going back, as it passes for other processes and threads: how
    /// long they are waited for is measured by it. It is [`now`](Self::now) unless a node has a time of its own.
    fn time_of_others(&self) -> Duration {
        self.now()
    }
    /// Waits for another process or thread, which needs the time to act.
    fn wait_for_others(&self, duration: Duration) {
        self.sleep(duration);
    }
    /// The kernel's boot id.
    fn boot_id(&self) -> Result<String>;
    /// A number that differs for every load of the driver's module, where it can be told.
    fn driver_load(&self) -> Option<u64>;
}

/// All ports of a node together.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The driver.
    pub nvml: Arc<dyn NvmlLibrary>,
    /// MPS daemons.
    pub mps: Arc<dyn MpsHost>,
    /// The time-slice interval.
    pub policy: Arc<dyn ComputePolicy>,
    /// Resets.
    pub reset: Arc<dyn Reset>,
    /// Processes.
    pub processes: Arc<dyn Processes>,
    /// Durable files and locks.
    pub store: Arc<dyn Store>,
    /// Who holds which share.
    pub slots: Arc<dyn Slots>,
    /// Device nodes.
    pub devices: Arc<dyn Devices>,
    /// CDI specifications.
    pub cdi: Arc<dyn CdiFiles>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The machine around the GPUs.
    pub machine: Arc<dyn Machine>,
}
