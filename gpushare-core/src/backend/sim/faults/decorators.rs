//! Each port, decorated: it counts its calls and asks the switch what happens at them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Refusal as _, Session, Shared};
use crate::error::{Error, Result};
use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MinorNumber, Pid, ProfileId,
    ProfileIndex, ShareId,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::mode::{ComputeMode, Interval};
use crate::mps::{Command, Dialect, MpsDomain, MpsSettings, Reply};
use crate::parameters::Access;
use crate::port::{
    Activation, CdiFiles, Clock, ComputeInstanceInfo, ComputePolicy, ContextKind, ForeignDaemon,
    GpuInstanceInfo, HeldSlot, LeaseScope, LockGuard, MigDeviceInfo, MigMode, MpsDaemon, MpsHost,
    Note, Nvml, NvmlFailure, NvmlLibrary, NvmlResult, PciInfo, Ports, ProcessFacts, ProcessInfo,
    Processes, ProfileAnswer, Reset, Signal, Slot, Slots, Store, Taken, Ticket,
};
use crate::snapshot::Driver;
use crate::units::Bytes;

const LOOK: bool = false;
const CHANGE: bool = true;

/// All ports of a process.
#[derive(Debug)]
pub(super) struct Faulty {
    ports: Ports,
    shared: Arc<Shared>,
}

impl Faulty {
    pub(super) fn wrap(ports: Ports, shared: &Arc<Shared>) -> Ports {
        let devices = ports.devices.clone();
        // What is seen of a machine cannot fail: it says what it did not see.
        let machine = ports.machine.clone();
        let faulty = Arc::new(Self { ports, shared: shared.clone() });
        Ports {
            nvml: faulty.clone(),
            mps: faulty.clone(),
            policy: faulty.clone(),
            reset: faulty.clone(),
            processes: faulty.clone(),
            store: faulty.clone(),
            slots: faulty.clone(),
            devices,
            cdi: faulty.clone(),
            clock: faulty,
            machine,
        }
    }

    fn call<R>(
        &self,
        name: &'static str,
        mutating: bool,
        call: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.shared.call(name, mutating, |_| (), call)
    }
}

impl NvmlLibrary for Faulty {
    fn open(&self) -> NvmlResult<Box<dyn Nvml>> {
        let open = || self.ports.nvml.open();
        let nvml = self.shared.call("nvml.open", LOOK, |_| (), open)?;
        let session: Arc<Session> = Arc::new(Mutex::new(Some(nvml)));
        self.shared.state().sessions.push(Arc::downgrade(&session));
        Ok(Box::new(FaultyNvml { session, shared: self.shared.clone() }))
    }
}

#[derive(Debug)]
struct FaultyNvml {
    session: Arc<Session>,
    shared: Arc<Shared>,
}

impl FaultyNvml {
    fn call<R>(
        &self,
        name: &'static str,
        mutating: bool,
        call: impl FnOnce(&mut dyn Nvml) -> NvmlResult<R>,
    ) -> NvmlResult<R> {
        self.shared.call(
            name,
            mutating,
            |_| (),
            || {
                let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
                match &mut *session {
                    Some(nvml) => call(&mut **nvml),
                    None => Err(NvmlFailure::dead(name)),
                }
            },
        )
    }
}

macro_rules! nvml {
    ($($kind:ident $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Nvml for FaultyNvml {
            $(fn $name(&mut self $(, $arg: $type)*) -> NvmlResult<$answer> {
                self.call(concat!("nvml.", stringify!($name)), $kind, |nvml| nvml.$name($($arg),*))
            })*
        }
    };
}

nvml! {
    LOOK driver() -> Driver;
    LOOK device_count() -> u32;
    LOOK device(index: u32) -> GpuUuid;
    LOOK minor_number(gpu: &GpuUuid) -> MinorNumber;
    LOOK pci_info(gpu: &GpuUuid) -> PciInfo;
    LOOK name(gpu: &GpuUuid) -> String;
    LOOK memory_total(gpu: &GpuUuid) -> Bytes;
    LOOK compute_capability(gpu: &GpuUuid) -> (u32, u32);
    LOOK core_count(gpu: &GpuUuid) -> u32;
    LOOK compute_mode(gpu: &GpuUuid) -> ComputeMode;
    CHANGE set_compute_mode(gpu: &GpuUuid, mode: ComputeMode) -> ();
    LOOK mig_mode(gpu: &GpuUuid) -> MigMode;
    CHANGE set_mig_mode(gpu: &GpuUuid, enable: bool) -> Activation;
    LOOK profile(gpu: &GpuUuid, index: ProfileIndex) -> ProfileAnswer;
    LOOK placements(gpu: &GpuUuid, profile: ProfileId) -> Vec<Placement>;
    LOOK gpu_instances(gpu: &GpuUuid, profile: &Profile) -> Vec<GpuInstanceInfo>;
    CHANGE create_gpu_instance(gpu: &GpuUuid, profile: ProfileId, placement: Placement) -> GpuInstanceInfo;
    CHANGE destroy_gpu_instance(gpu: &GpuUuid, gi: GpuInstanceId) -> ();
    LOOK compute_profiles(gpu: &GpuUuid, gi: GpuInstanceId) -> Vec<ComputeProfile>;
    LOOK compute_instances(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId) -> Vec<ComputeInstanceInfo>;
    CHANGE create_compute_instance(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId, placement: Option<Placement>) -> ComputeInstanceInfo;
    CHANGE destroy_compute_instance(gpu: &GpuUuid, gi: GpuInstanceId, ci: ComputeInstanceId) -> ();
    LOOK mig_devices(gpu: &GpuUuid) -> Vec<MigDeviceInfo>;
    LOOK processes(gpu: &GpuUuid, kind: ContextKind) -> Vec<ProcessInfo>;
}

impl MpsHost for Faulty {
    fn able(&self) -> bool {
        self.ports.mps.able()
    }

    fn dialect(&self) -> Result<Dialect> {
        self.call("mps.dialect", LOOK, || self.ports.mps.dialect())
    }

    fn probe(&self, domain: &MpsDomain) -> Result<Option<MpsDaemon>> {
        self.call("mps.probe", LOOK, || self.ports.mps.probe(domain))
    }

    fn expect_startable(&self, domain: &MpsDomain, access: &Access) -> Result<()> {
        let expect = || self.ports.mps.expect_startable(domain, access);
        self.call("mps.expect_startable", LOOK, expect)
    }

    fn start(&self, domain: &MpsDomain, access: &Access, settings: &MpsSettings) -> Result<()> {
        self.call("mps.start", CHANGE, || self.ports.mps.start(domain, access, settings))
    }

    fn command(&self, domain: &MpsDomain, command: &Command) -> Result<Reply> {
        let (name, kind) = match command {
            Command::TerminateClient { .. } => ("mps.terminate_client", CHANGE),
            other if other.privileged() => ("mps.set", CHANGE),
            _ => ("mps.get", LOOK),
        };
        self.call(name, kind, || self.ports.mps.command(domain, command))
    }

    fn admit(&self, domain: &MpsDomain, admit: bool) -> Result<()> {
        self.call("mps.admit", CHANGE, || self.ports.mps.admit(domain, admit))
    }

    fn stop(&self, domain: &MpsDomain) -> Result<()> {
        self.call("mps.stop", CHANGE, || self.ports.mps.stop(domain))
    }

    fn log(&self, domain: &MpsDomain) -> String {
        self.ports.mps.log(domain)
    }

    fn domains(&self) -> Result<Vec<MpsDomain>> {
        self.call("mps.domains", LOOK, || self.ports.mps.domains())
    }

    fn foreign(&self) -> Result<Vec<ForeignDaemon>> {
        self.call("mps.foreign", LOOK, || self.ports.mps.foreign())
    }
}

impl ComputePolicy for Faulty {
    fn able(&self) -> bool {
        self.ports.policy.able()
    }

    fn interval(&self, gpu: &GpuUuid) -> Result<Interval> {
        self.call("policy.interval", LOOK, || self.ports.policy.interval(gpu))
    }

    fn set_interval(&self, gpu: &GpuUuid, interval: Interval) -> Result<()> {
        self.call("policy.set_interval", CHANGE, || self.ports.policy.set_interval(gpu, interval))
    }
}

impl Reset for Faulty {
    fn able(&self) -> bool {
        self.ports.reset.able()
    }

    fn reset(&self, gpu: &GpuUuid) -> Result<()> {
        self.call("reset.reset", CHANGE, || self.ports.reset.reset(gpu))
    }
}

impl Processes for Faulty {
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
        let send = || self.ports.processes.signal(pid, start_time, signal);
        self.call("processes.signal", CHANGE, send)
    }
}

impl Store for Faulty {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.call("store.read", LOOK, || self.ports.store.read(name))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.call("store.replace", CHANGE, || self.ports.store.replace(name, content))
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        let torn = |percent: u8| {
            let kept = content.len() * usize::from(percent.min(100)) / 100;
            if let Some(prefix) = content.get(..kept) {
                // The process is about to die: nobody hears of an error.
                let _ = self.ports.store.append(name, prefix);
            }
        };
        let append = || self.ports.store.append(name, content);
        self.shared.call("store.append", CHANGE, torn, append)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.call("store.remove", CHANGE, || self.ports.store.remove(name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.call("store.list", LOOK, || self.ports.store.list(folder))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.call("store.rename", CHANGE, || self.ports.store.rename(from, to))
    }

    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>> {
        let taken = self.call("store.try_lock", LOOK, || self.ports.store.try_lock(name))?;
        let Some(lock) = taken else { return Ok(None) };
        let mut state = self.shared.state();
        // Another thread may have died meanwhile; then the lock goes as this returns.
        if state.dead {
            return Err(Error::dead("store.try_lock"));
        }
        let number = state.next_lock;
        state.next_lock += 1;
        state.locks.insert(number, lock);
        Ok(Some(Box::new(FaultyLock { number, shared: self.shared.clone() })))
    }

    fn place(&self) -> &Path {
        self.ports.store.place()
    }
}

impl CdiFiles for Faulty {
    fn expect_writable(&self, directory: &Path) -> Result<()> {
        self.call("cdi.expect_writable", LOOK, || self.ports.cdi.expect_writable(directory))
    }

    fn read(&self, directory: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        self.call("cdi.read", LOOK, || self.ports.cdi.read(directory, name))
    }

    fn replace(&self, directory: &Path, name: &str, content: &[u8]) -> Result<()> {
        self.call("cdi.replace", CHANGE, || self.ports.cdi.replace(directory, name, content))
    }

    fn remove(&self, directory: &Path, name: &str) -> Result<()> {
        self.call("cdi.remove", CHANGE, || self.ports.cdi.remove(directory, name))
    }
}

/// A lock that is held until it is dropped or its process dies.
#[derive(Debug)]
struct FaultyLock {
    number: u64,
    shared: Arc<Shared>,
}

impl LockGuard for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let lock = self.shared.state().locks.remove(&self.number);
        drop(lock);
    }
}

impl Slots for Faulty {
    fn scope(&self) -> LeaseScope {
        self.ports.slots.scope()
    }

    fn may_prepare(&self) -> bool {
        self.ports.slots.may_prepare()
    }

    fn prepare(&self, shares: &[ShareId]) -> Result<()> {
        self.call("slots.prepare", CHANGE, || self.ports.slots.prepare(shares))
    }

    fn are_there(&self, shares: &[ShareId]) -> Result<bool> {
        self.call("slots.are_there", LOOK, || self.ports.slots.are_there(shares))
    }

    // A slot that was taken is its taker's: whoever lets a process die lets go of it, too.
    fn try_take(&self, share: &ShareId) -> Result<Taken> {
        self.call("slots.try_take", LOOK, || self.ports.slots.try_take(share))
    }

    fn retire(&self, slot: &Slot) -> Result<()> {
        self.call("slots.retire", CHANGE, || self.ports.slots.retire(slot))
    }

    fn held(&self) -> Result<Vec<HeldSlot>> {
        self.call("slots.held", LOOK, || self.ports.slots.held())
    }

    fn openers(&self) -> Vec<(ShareId, Pid)> {
        self.ports.slots.openers()
    }

    fn has_litter(&self, known: &BTreeSet<ShareId>) -> Result<bool> {
        self.call("slots.has_litter", LOOK, || self.ports.slots.has_litter(known))
    }

    fn sweep(&self, known: &BTreeSet<ShareId>) -> Result<()> {
        self.call("slots.sweep", CHANGE, || self.ports.slots.sweep(known))
    }

    fn note(&self, share: &ShareId, content: &[u8]) -> Result<()> {
        self.call("slots.note", CHANGE, || self.ports.slots.note(share, content))
    }

    fn notes(&self, share: Option<&ShareId>) -> Result<Vec<Note>> {
        self.call("slots.notes", LOOK, || self.ports.slots.notes(share))
    }

    fn join(&self, content: &[u8]) -> Result<Box<dyn Ticket>> {
        self.call("slots.join", CHANGE, || self.ports.slots.join(content))
    }

    fn queue(&self) -> Result<Vec<String>> {
        self.call("slots.queue", LOOK, || self.ports.slots.queue())
    }

    fn ticket(&self, name: &str) -> Option<Vec<u8>> {
        self.ports.slots.ticket(name)
    }

    fn still_waits(&self, ticket: &str) -> bool {
        self.ports.slots.still_waits(ticket)
    }
}

impl Clock for Faulty {
    fn now(&self) -> Duration {
        self.ports.clock.now()
    }

    fn unix_time(&self) -> u64 {
        self.ports.clock.unix_time()
    }

    fn ticks(&self) -> u64 {
        self.ports.clock.ticks()
    }

    fn sleep(&self, duration: Duration) {
        self.ports.clock.sleep(duration);
    }

    fn time_of_others(&self) -> Duration {
        self.ports.clock.time_of_others()
    }

    fn wait_for_others(&self, duration: Duration) {
        self.ports.clock.wait_for_others(duration);
    }

    fn boot_id(&self) -> Result<String> {
        self.call("clock.boot_id", LOOK, || self.ports.clock.boot_id())
    }

    fn driver_load(&self) -> Option<u64> {
        self.ports.clock.driver_load()
    }
}
