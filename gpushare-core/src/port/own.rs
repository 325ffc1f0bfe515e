//! The ports as one process has them: in a forked child they do nothing.
//!
//! A callback or a log's receiver may fork, and the child come back from it into the middle of its
//! parent's call. There it has its parent's plans and none of its locks. Every port says no there, so
//! that nothing goes on, is rolled back or is noted; what the parent holds open stays the parent's.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Activation, CdiFiles, Clock, ComputeInstanceInfo, ComputePolicy, ContextKind, ForeignDaemon,
    GpuInstanceInfo, HeldSlot, LeaseScope, LockGuard, MigDeviceInfo, MigMode, MpsDaemon, MpsHost,
    Note, Nvml, NvmlFailure, NvmlLibrary, NvmlResult, NvmlReturn, PciInfo, Ports, ProcessFacts,
    ProcessInfo, Processes, ProfileAnswer, Reset, Signal, Slot, Slots, Store, Taken, Ticket,
    UnnamedComputeInstance,
};
use crate::error::{Error, ErrorCode, Result};
use crate::fork::Caller;
use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MinorNumber, Pid, ProfileId,
    ProfileIndex, ShareId,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::mode::{ComputeMode, Interval};
use crate::mps::{Command, Dialect, MpsDomain, MpsSettings, Reply};
use crate::parameters::Access;
use crate::snapshot::Driver;
use crate::units::Bytes;

impl Ports {
    /// The same for that process alone: in a forked child of it, what looks or changes something is
    /// INVALID_STATE.
    pub(crate) fn of(&self, caller: Caller) -> Self {
        let own = Arc::new(Own { ports: self.clone(), caller });
        Self {
            nvml: own.clone(),
            mps: own.clone(),
            policy: own.clone(),
            reset: own.clone(),
            processes: own.clone(),
            store: own.clone(),
            slots: own.clone(),
            devices: self.devices.clone(),
            cdi: own.clone(),
            clock: own,
            machine: self.machine.clone(),
        }
    }
}

/// Refuses a forked child of a process that began a call.
///
/// # Errors
/// INVALID_STATE.
pub(crate) fn expect_this(caller: Caller) -> Result<()> {
    if caller.is_this() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidState,
        format!(
            "this is a forked child of process {}, in the middle of a call that goes on there: the child has done nothing and holds nothing of it; end the child in the function that forked it, or open a node of its own",
            caller.pid()
        ),
    ))
}

/// The ports of one process.
struct Own {
    ports: Ports,
    caller: Caller,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ports.fmt(f)
    }
}

impl Own {
    fn call<R>(&self, call: impl FnOnce(&Ports) -> Result<R>) -> Result<R> {
        expect_this(self.caller)?;
        call(&self.ports)
    }
}

impl NvmlLibrary for Own {
    fn open(&self) -> NvmlResult<Box<dyn Nvml>> {
        if !self.caller.is_this() {
            return Err(not_here("nvmlInit_v2"));
        }
        let nvml = Some(self.ports.nvml.open()?);
        Ok(Box::new(OwnNvml { nvml, caller: self.caller }))
    }
}

fn not_here(call: &'static str) -> NvmlFailure {
    let detail = Some("not called in a forked child".to_owned());
    NvmlFailure { call, ret: NvmlReturn::UNINITIALIZED, detail }
}

/// The driver's library, opened by one process.
#[derive(Debug)]
struct OwnNvml {
    /// There until it is dropped.
    nvml: Option<Box<dyn Nvml>>,
    caller: Caller,
}

impl Drop for OwnNvml {
    fn drop(&mut self) {
        // To close it in the child could tell the driver that the parent is done.
        if !self.caller.is_this() {
            std::mem::forget(self.nvml.take());
        }
    }
}

macro_rules! nvml {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Nvml for OwnNvml {
            $(fn $name(&mut self $(, $arg: $type)*) -> NvmlResult<$answer> {
                match &mut self.nvml {
                    Some(nvml) if self.caller.is_this() => nvml.$name($($arg),*),
                    _ => Err(not_here(stringify!($name))),
                }
            })*
        }
    };
}

nvml! {
    driver() -> Driver;
    device_count() -> u32;
    device(index: u32) -> GpuUuid;
    minor_number(gpu: &GpuUuid) -> MinorNumber;
    pci_info(gpu: &GpuUuid) -> PciInfo;
    name(gpu: &GpuUuid) -> String;
    memory_total(gpu: &GpuUuid) -> Bytes;
    compute_capability(gpu: &GpuUuid) -> (u32, u32);
    core_count(gpu: &GpuUuid) -> u32;
    compute_mode(gpu: &GpuUuid) -> ComputeMode;
    set_compute_mode(gpu: &GpuUuid, mode: ComputeMode) -> ();
    mig_mode(gpu: &GpuUuid) -> MigMode;
    set_mig_mode(gpu: &GpuUuid, enable: bool) -> Activation;
    profile(gpu: &GpuUuid, index: ProfileIndex) -> ProfileAnswer;
    placements(gpu: &GpuUuid, profile: ProfileId) -> Vec<Placement>;
    gpu_instances(gpu: &GpuUuid, profile: &Profile) -> Vec<GpuInstanceInfo>;
    create_gpu_instance(gpu: &GpuUuid, profile: ProfileId, placement: Placement) -> GpuInstanceInfo;
    destroy_gpu_instance(gpu: &GpuUuid, gi: GpuInstanceId) -> ();
    compute_profiles(gpu: &GpuUuid, gi: GpuInstanceId) -> Vec<ComputeProfile>;
    compute_instances(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId) -> Vec<ComputeInstanceInfo>;
    unnamed_compute_instances(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId) -> Vec<UnnamedComputeInstance>;
    create_compute_instance(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId, placement: Option<Placement>) -> ComputeInstanceInfo;
    destroy_compute_instance(gpu: &GpuUuid, gi: GpuInstanceId, ci: ComputeInstanceId) -> ();
    mig_devices(gpu: &GpuUuid) -> Vec<MigDeviceInfo>;
    processes(gpu: &GpuUuid, kind: ContextKind) -> Vec<ProcessInfo>;
}

impl MpsHost for Own {
    fn able(&self) -> bool {
        self.ports.mps.able()
    }

    fn dialect(&self) -> Result<Dialect> {
        self.call(|ports| ports.mps.dialect())
    }

    fn probe(&self, domain: &MpsDomain) -> Result<Option<MpsDaemon>> {
        self.call(|ports| ports.mps.probe(domain))
    }

    fn expect_startable(&self, domain: &MpsDomain, access: &Access) -> Result<()> {
        self.call(|ports| ports.mps.expect_startable(domain, access))
    }

    fn start(&self, domain: &MpsDomain, access: &Access, settings: &MpsSettings) -> Result<()> {
        self.call(|ports| ports.mps.start(domain, access, settings))
    }

    fn command(&self, domain: &MpsDomain, command: &Command) -> Result<Reply> {
        self.call(|ports| ports.mps.command(domain, command))
    }

    fn admit(&self, domain: &MpsDomain, admit: bool) -> Result<()> {
        self.call(|ports| ports.mps.admit(domain, admit))
    }

    fn stop(&self, domain: &MpsDomain) -> Result<()> {
        self.call(|ports| ports.mps.stop(domain))
    }

    fn log(&self, domain: &MpsDomain) -> String {
        self.ports.mps.log(domain)
    }

    fn domains(&self) -> Result<Vec<MpsDomain>> {
        self.call(|ports| ports.mps.domains())
    }

    fn foreign(&self) -> Result<Vec<ForeignDaemon>> {
        self.call(|ports| ports.mps.foreign())
    }
}

impl ComputePolicy for Own {
    fn able(&self) -> bool {
        self.ports.policy.able()
    }

    fn interval(&self, gpu: &GpuUuid) -> Result<Interval> {
        self.call(|ports| ports.policy.interval(gpu))
    }

    fn set_interval(&self, gpu: &GpuUuid, interval: Interval) -> Result<()> {
        self.call(|ports| ports.policy.set_interval(gpu, interval))
    }

    fn set_interval_locked(&self, gpu: &GpuUuid, interval: Interval, lock: OwnedFd) -> Result<()> {
        self.call(|ports| ports.policy.set_interval_locked(gpu, interval, lock))
    }
}

impl Reset for Own {
    fn able(&self) -> bool {
        self.ports.reset.able()
    }

    fn reset(&self, gpu: &GpuUuid) -> Result<()> {
        self.call(|ports| ports.reset.reset(gpu))
    }

    fn reset_locked(&self, gpu: &GpuUuid, lock: OwnedFd) -> Result<()> {
        self.call(|ports| ports.reset.reset_locked(gpu, lock))
    }
}

impl Processes for Own {
    fn facts(&self, pid: Pid) -> Option<ProcessFacts> {
        self.ports.processes.facts(pid)
    }

    fn own_pid(&self) -> Pid {
        self.ports.processes.own_pid()
    }

    fn own_start_time(&self) -> Option<u64> {
        self.ports.processes.own_start_time()
    }

    fn own_uid(&self) -> u32 {
        self.ports.processes.own_uid()
    }

    fn caller_uid(&self) -> u32 {
        self.ports.processes.caller_uid()
    }

    fn environment(&self, pid: Pid, names: &[&str]) -> Option<Vec<(String, String)>> {
        self.ports.processes.environment(pid, names)
    }

    fn in_first_pid_namespace(&self) -> bool {
        self.ports.processes.in_first_pid_namespace()
    }

    fn signal(&self, pid: Pid, start_time: u64, signal: Signal) -> Result<()> {
        self.call(|ports| ports.processes.signal(pid, start_time, signal))
    }
}

impl Store for Own {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.call(|ports| ports.store.read(name))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.call(|ports| ports.store.replace(name, content))
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        self.call(|ports| ports.store.append(name, content))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.call(|ports| ports.store.remove(name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.call(|ports| ports.store.list(folder))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.call(|ports| ports.store.rename(from, to))
    }

    // A lock is a file of its own that is closed and never unlocked: a child that drops its copy takes
    // nothing from its parent.
    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>> {
        self.call(|ports| ports.store.try_lock(name))
    }

    fn place(&self) -> &Path {
        self.ports.store.place()
    }
}

impl CdiFiles for Own {
    fn expect_writable(&self, directory: &Path) -> Result<()> {
        self.call(|ports| ports.cdi.expect_writable(directory))
    }

    fn read(&self, directory: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        self.call(|ports| ports.cdi.read(directory, name))
    }

    fn replace(&self, directory: &Path, name: &str, content: &[u8]) -> Result<()> {
        self.call(|ports| ports.cdi.replace(directory, name, content))
    }

    fn remove(&self, directory: &Path, name: &str) -> Result<()> {
        self.call(|ports| ports.cdi.remove(directory, name))
    }
}

impl Slots for Own {
    fn scope(&self) -> LeaseScope {
        self.ports.slots.scope()
    }

    fn may_prepare(&self) -> bool {
        self.ports.slots.may_prepare()
    }

    fn prepare(&self, shares: &[ShareId]) -> Result<()> {
        self.call(|ports| ports.slots.prepare(shares))
    }

    fn are_there(&self, shares: &[ShareId]) -> Result<bool> {
        self.call(|ports| ports.slots.are_there(shares))
    }

    fn try_take(&self, share: &ShareId) -> Result<Taken> {
        self.call(|ports| ports.slots.try_take(share))
    }

    fn retire(&self, slot: &Slot) -> Result<()> {
        self.call(|ports| ports.slots.retire(slot))
    }

    fn held(&self) -> Result<Vec<HeldSlot>> {
        self.call(|ports| ports.slots.held())
    }

    fn openers(&self) -> Vec<(ShareId, Pid)> {
        self.ports.slots.openers()
    }

    fn has_litter(&self, known: &BTreeSet<ShareId>) -> Result<bool> {
        self.call(|ports| ports.slots.has_litter(known))
    }

    fn sweep(&self, known: &BTreeSet<ShareId>) -> Result<()> {
        self.call(|ports| ports.slots.sweep(known))
    }

    fn note(&self, share: &ShareId, content: &[u8]) -> Result<()> {
        self.call(|ports| ports.slots.note(share, content))
    }

    fn notes(&self, share: Option<&ShareId>) -> Result<Vec<Note>> {
        self.call(|ports| ports.slots.notes(share))
    }

    fn join(&self, content: &[u8]) -> Result<Box<dyn Ticket>> {
        self.call(|ports| ports.slots.join(content))
    }

    fn queue(&self) -> Result<Vec<String>> {
        self.call(|ports| ports.slots.queue())
    }

    fn ticket(&self, name: &str) -> Option<Vec<u8>> {
        self.ports.slots.ticket(name)
    }

    // It would remove a ticket that nobody holds.
    fn still_waits(&self, ticket: &str) -> bool {
        !self.caller.is_this() || self.ports.slots.still_waits(ticket)
    }
}

impl Clock for Own {
    fn now(&self) -> Duration {
        self.ports.clock.now()
    }

    fn unix_time(&self) -> u64 {
        self.ports.clock.unix_time()
    }

    fn ticks(&self) -> u64 {
        self.ports.clock.ticks()
    }

    // Nobody waits in a child, where the time of a simulated node would go on.
    fn sleep(&self, duration: Duration) {
        if self.caller.is_this() {
            self.ports.clock.sleep(duration);
        }
    }

    fn time_of_others(&self) -> Duration {
        self.ports.clock.time_of_others()
    }

    fn wait_for_others(&self, duration: Duration) {
        if self.caller.is_this() {
            self.ports.clock.wait_for_others(duration);
        }
    }

    fn boot_id(&self) -> Result<String> {
        self.call(|ports| ports.clock.boot_id())
    }

    fn driver_load(&self) -> Option<u64> {
        self.ports.clock.driver_load()
    }
}
