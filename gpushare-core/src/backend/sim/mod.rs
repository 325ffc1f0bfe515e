//! The simulated driver: whole nodes of GPUs, in memory or in a file that processes share.
//!
//! It implements every port, so that everything above the ports can be tried and tested without a
//! GPU. [`Simulator`] makes a node and is also what makes things happen on it: processes, faults,
//! reboots. [`Faults`] decorates any ports, simulated or real, and makes any call of theirs fail,
//! hang, or be the last of the process.
//!
//! ```
//! use gpushare_core::backend::sim::{Fleet, ProcessSpec, Simulator};
//! use gpushare_core::port::NvmlLibrary as _;
//!
//! let simulator = Simulator::new("8xH100-80GB".parse()?)?;
//! let ports = simulator.ports_in_memory();
//! let mut nvml = ports.nvml.open()?;
//! assert_eq!(nvml.device_count()?, 8);
//!
//! let gpu = nvml.device(0)?;
//! simulator.busy(&gpu, ProcessSpec::new("python train.py"))?;
//! # Ok::<(), gpushare_core::Error>(())
//! ```
#![doc = include_str!("RULES.md")]

mod backing;
mod control;
mod devices;
mod faults;
mod fleet;
mod machine;
mod mig;
mod mps;
mod nvml;
mod ports;
mod process;
mod products;
mod raw;
mod rules;
mod state;
mod store;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use control::{FaultSpec, Loss};
pub use faults::{CallRecord, Death, Failure, Fault, Faults};
pub use fleet::Fleet;
pub use nvml::SimulatedNvml;
pub use process::{Process, ProcessKind, ProcessSpec, Target};
pub use products::{PRODUCTS, Product, ProductProfile};
pub use raw::{RawComputeProfile, RawProfile};
pub use rules::Rules;
pub use store::MemoryStore;

use crate::backend::cdi::SystemCdiFiles;
use crate::backend::directory::Directory;
use crate::backend::slots::FileSlots;
use crate::error::{Error, ErrorCode, Result};
use crate::port::{MpsHost, Ports, Processes, Store};
use backing::Backing;
use ports::SimulatedPorts;
use state::NodeState;

/// A simulated node. Clones are handles to the same node.
#[derive(Clone, Debug)]
pub struct Simulator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backing: Backing,
    clock: ports::Time,
    /// How many NVML sessions are open through this handle and its clones, by load of the driver.
    sessions: Mutex<BTreeMap<u64, usize>>,
}

impl Simulator {
    /// A node in memory, whose clock stands still except while a simulated call takes its time. What
    /// waits for others, be it for a lock, a lease or tenants that leave, waits in real time.
    ///
    /// # Errors
    /// None for a fleet that parses.
    pub fn new(fleet: Fleet) -> Result<Self> {
        let backing = Backing::memory(NodeState::new(fleet)?);
        Ok(Self::with(backing, ports::Time::virtual_clock()))
    }

    /// A node of its own in memory that is as this one is now: what happens to one does not happen to the
    /// other. NVML sessions stay with the one that they were opened from.
    ///
    /// # Errors
    /// IO.
    pub fn copy(&self) -> Result<Self> {
        let backing = Backing::memory(self.read(NodeState::clone)?);
        Ok(Self::with(backing, ports::Time::virtual_clock()))
    }

    /// A node in a file, which is made where it is not there. All that open the file share the node.
    ///
    /// Every change is made under a lock and written whole, by a rename, so that a process that
    /// dies leaves the state before or after its call. The clock is the real one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the file holds another fleet; PERMISSION_DENIED when others could change
    /// the directory that it is in; INVALID_STATE when it is no regular file; IO.
    pub fn in_file(path: &Path, fleet: Fleet) -> Result<Self> {
        let no_file =
            || Error::new(ErrorCode::InvalidArgument, format!("{} names no file", path.display()));
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(no_file)?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let directory = Directory::new(above.unwrap_or(Path::new(".")))?;
        Self::in_directory(&directory, name, false, fleet)
    }

    /// A node in a file of that name in a directory, which can be made too.
    pub(crate) fn in_directory(
        directory: &Directory,
        name: &str,
        make: bool,
        fleet: Fleet,
    ) -> Result<Self> {
        let backing = Backing::file(directory, name, make, fleet)?;
        Ok(Self::with(backing, ports::Time::real_clock()))
    }

    fn with(backing: Backing, clock: ports::Time) -> Self {
        Self { inner: Arc::new(Inner { backing, clock, sessions: Mutex::default() }) }
    }

    /// All ports of the node, with durable files in that store. Leases are of these ports and their clones.
    pub fn ports(&self, store: Arc<dyn Store>) -> Ports {
        let ports = Arc::new(SimulatedPorts::new(self.clone(), None));
        Ports {
            nvml: ports.clone(),
            mps: ports.clone(),
            policy: ports.clone(),
            reset: ports.clone(),
            processes: ports.clone(),
            store,
            slots: Arc::new(FileSlots::temporary()),
            devices: ports.clone(),
            cdi: Arc::new(SystemCdiFiles),
            clock: ports.clone(),
            machine: ports,
        }
    }

    /// All ports of the node, with durable files in a new [`MemoryStore`].
    pub fn ports_in_memory(&self) -> Ports {
        self.ports(Arc::new(MemoryStore::new()))
    }

    /// The processes of the node, and beneath them those of another port: simulated pids are
    /// answered by the simulator, all others by that port.
    pub fn processes_over(&self, beneath: Arc<dyn Processes>) -> Arc<dyn Processes> {
        Arc::new(SimulatedPorts::new(self.clone(), Some(beneath)))
    }

    /// The MPS daemons of the node, for users and groups of the machine whose processes are beneath.
    pub(crate) fn mps_over(&self, beneath: Arc<dyn Processes>) -> Arc<dyn MpsHost> {
        Arc::new(SimulatedPorts::new(self.clone(), Some(beneath)))
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<R>(&self, look: impl FnOnce(&NodeState) -> R) -> Result<R> {
        Ok(look(&*self.inner.backing.read()?))
    }

    fn change<R>(&self, change: impl FnOnce(&mut NodeState) -> R) -> Result<R> {
        self.inner.backing.change(change)
    }
}

#[cfg(test)]
mod tests;
