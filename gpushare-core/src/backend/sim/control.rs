//! What makes things happen on a simulated node: for tests, and for `gpushare sim`.

use serde::{Deserialize, Serialize};

use super::Simulator;
use super::fleet::Fleet;
use super::rules::Rules;
use super::state::{NodeState, Presence, Process, ProcessKind};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, MigUuid, Pid};
use crate::mode::ComputeMode;
use crate::port::{NvmlFailure, NvmlReturn};
use crate::process::{Holder, HolderKind};
use crate::units::Bytes;

/// The most clients that an MPS daemon takes: 48, measured on driver 580.
const MPS_CLIENTS: usize = 48;
/// What an MPS server holds of a GPU: 66 MiB, measured.
const MPS_SERVER_MEMORY: Bytes = Bytes::from_mebibytes(66);

/// Where a process stands: a GPU, or an instance of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The whole GPU.
    Gpu(GpuUuid),
    /// A compute instance.
    Instance(GpuUuid, GpuInstanceId, ComputeInstanceId),
    /// A MIG device, which is a compute instance by its uuid.
    MigDevice(MigUuid),
}

impl From<&GpuUuid> for Target {
    fn from(gpu: &GpuUuid) -> Self {
        Self::Gpu(gpu.clone())
    }
}

impl From<&MigUuid> for Target {
    fn from(device: &MigUuid) -> Self {
        Self::MigDevice(device.clone())
    }
}

impl From<(&GpuUuid, GpuInstanceId, ComputeInstanceId)> for Target {
    fn from((gpu, gi, ci): (&GpuUuid, GpuInstanceId, ComputeInstanceId)) -> Self {
        Self::Instance(gpu.clone(), gi, ci)
    }
}

/// A process to put on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessSpec {
    /// Its command.
    pub command: String,
    /// The user it runs as.
    pub uid: u32,
    /// What it does.
    pub kind: ProcessKind,
    /// Its device memory.
    pub memory: Bytes,
    /// It ignores SIGTERM.
    pub stubborn: bool,
    /// It holds the GPU or instance and nobody can see it.
    pub invisible: bool,
}

impl ProcessSpec {
    /// A CUDA process of user 1000 with 1 GiB, which ends when it is asked to.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            uid: 1000,
            kind: ProcessKind::Compute,
            memory: Bytes::from_mebibytes(1024),
            stubborn: false,
            invisible: false,
        }
    }

    /// The same, run by that user.
    #[must_use]
    pub fn by(self, uid: u32) -> Self {
        Self { uid, ..self }
    }

    /// The same, doing that.
    #[must_use]
    pub fn doing(self, kind: ProcessKind) -> Self {
        Self { kind, ..self }
    }

    /// The same, with that much memory.
    #[must_use]
    pub fn with_memory(self, memory: Bytes) -> Self {
        Self { memory, ..self }
    }

    /// The same, ignoring SIGTERM.
    #[must_use]
    pub fn stubborn(self) -> Self {
        Self { stubborn: true, ..self }
    }

    /// The same, seen by nobody.
    #[must_use]
    pub fn invisible(self) -> Self {
        Self { invisible: true, ..self }
    }
}

/// A fault of one driver call to come. It strikes once, in whichever process makes the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSpec {
    /// The NVML function, as [`NvmlFailure::call`] names it.
    pub call: String,
    /// Which of its calls from now: 1 is the next.
    pub nth: u32,
    /// What it returns.
    pub nvml_return: u32,
    /// Whether the call takes effect before it fails.
    pub after_effect: bool,
}

impl FaultSpec {
    /// The next call of that function fails, without effect.
    pub fn next(call: impl Into<String>, ret: NvmlReturn) -> Self {
        Self { call: call.into(), nth: 1, nvml_return: ret.0, after_effect: false }
    }

    /// The same at that call: 1 is the next.
    #[must_use]
    pub fn at(self, nth: u32) -> Self {
        Self { nth, ..self }
    }

    /// The same, after the call took effect.
    #[must_use]
    pub fn after_effect(self) -> Self {
        Self { after_effect: true, ..self }
    }
}

/// How a GPU goes missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// It is listed and answers GPU_IS_LOST, until a reset or reboot.
    Lost,
    /// It is not listed any more, until a reboot.
    Gone,
}

impl Simulator {
    /// The fleet of the node.
    ///
    /// # Errors
    /// IO, as for every method here: the node's file can't be read or written.
    pub fn fleet(&self) -> Result<Fleet> {
        self.read(|node| node.fleet.clone())
    }

    /// Its GPUs by their place in the fleet, those that went missing included.
    ///
    /// # Errors
    /// IO.
    pub fn gpus(&self) -> Result<Vec<GpuUuid>> {
        self.read(|node| node.gpus.iter().map(|gpu| gpu.uuid.clone()).collect())
    }

    /// Its processes, the invisible ones included.
    ///
    /// # Errors
    /// IO.
    pub fn processes(&self) -> Result<Vec<Process>> {
        self.read(|node| node.processes.clone())
    }

    /// Puts a process on a GPU or an instance, where the driver would let it.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_STATE for a whole GPU with MIG on or a prohibited compute mode; BUSY where
    /// EXCLUSIVE_PROCESS admits no more; MPS for a client without a daemon, or too many.
    pub fn busy(&self, target: impl Into<Target>, spec: ProcessSpec) -> Result<Pid> {
        let target = target.into();
        self.change(|node| node.admit(&target, spec))?
    }

    /// Ends a process.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn idle(&self, pid: Pid) -> Result<()> {
        self.change(|node| {
            let before = node.processes.len();
            node.end_process(pid);
            if node.processes.len() < before {
                return Ok(());
            }
            Err(Error::new(ErrorCode::NotFound, format!("no simulated process has pid {pid}")))
        })?
    }

    /// Ends all processes on a GPU, and says how many.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn idle_all(&self, gpu: &GpuUuid) -> Result<usize> {
        self.change(|node| {
            node.known(gpu)?;
            let pids: Vec<_> = node.on_gpu(gpu).map(|process| process.pid).collect();
            pids.iter().for_each(|pid| node.end_process(*pid));
            Ok(pids.len())
        })?
    }

    /// Kills the MPS daemon of a GPU, its server and clients: what is left is a dead daemon of ours.
    ///
    /// # Errors
    /// NOT_FOUND where none runs.
    pub fn kill_mps_daemon(&self, gpu: &GpuUuid) -> Result<()> {
        self.change(|node| {
            node.known(gpu)?;
            let running = node.gpu_state(gpu).and_then(|gpu| gpu.mps.as_mut());
            let Some(mps) = running.filter(|mps| mps.alive) else {
                return Err(Error::new(ErrorCode::NotFound, "no MPS daemon runs there").of_gpu(gpu));
            };
            mps.alive = false;
            mps.server = None;
            node.end_mps_processes(gpu);
            Ok(())
        })?
    }

    /// Lets a driver call to come fail.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for call number 0, or a return of 0, which is success.
    pub fn fault(&self, fault: FaultSpec) -> Result<()> {
        if fault.nth == 0 || fault.nvml_return == NvmlReturn::SUCCESS.0 {
            let why = "a fault strikes call 1 or a later one, and returns no SUCCESS";
            return Err(Error::new(ErrorCode::InvalidArgument, why));
        }
        self.change(|node| node.faults.push(fault))
    }

    /// The faults that have not struck yet.
    ///
    /// # Errors
    /// IO.
    pub fn faults(&self) -> Result<Vec<FaultSpec>> {
        self.read(|node| node.faults.clone())
    }

    /// Forgets the faults that have not struck yet.
    ///
    /// # Errors
    /// IO.
    pub fn clear_faults(&self) -> Result<()> {
        self.change(|node| node.faults.clear())
    }

    /// Reboots the machine: every process ends, lost GPUs are back, and what no driver keeps is gone.
    ///
    /// # Errors
    /// IO.
    pub fn reboot(&self) -> Result<()> {
        self.change(|node| {
            node.boots += 1;
            node.gpus.iter_mut().for_each(|gpu| gpu.presence = Presence::Present);
            node.load_driver();
        })
    }

    /// Unloads the driver and loads it again.
    ///
    /// # Errors
    /// BUSY while a process uses a GPU, or NVML is open through this handle.
    pub fn reload(&self) -> Result<()> {
        self.change(|node| {
            let open = self.own_sessions(node.loads);
            let seen = node.processes.iter().filter(|process| !process.invisible).map(holder);
            let holders: Vec<_> = open.into_iter().chain(seen).collect();
            if !(holders.is_empty() && node.processes.is_empty()) {
                let why = "the driver is in use; end what uses it first";
                return Err(Error::new(ErrorCode::Busy, why).with_holders(holders));
            }
            node.load_driver();
            Ok(())
        })?
    }

    /// Takes a GPU away.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn lose(&self, gpu: &GpuUuid, loss: Loss) -> Result<()> {
        self.change(|node| {
            node.known(gpu)?;
            if let Some(gpu) = node.gpu_state(gpu) {
                gpu.presence = match loss {
                    Loss::Lost => Presence::Lost,
                    Loss::Gone => Presence::Gone,
                };
            }
            Ok(())
        })?
    }

    /// The rules that have no source, as they are set.
    ///
    /// # Errors
    /// IO.
    pub fn rules(&self) -> Result<Rules> {
        self.read(|node| node.rules.clone())
    }

    /// Sets the rules that have no source. Creations and destructions are counted anew.
    ///
    /// # Errors
    /// IO.
    pub fn set_rules(&self, rules: Rules) -> Result<()> {
        self.change(|node| {
            node.rules = rules;
            node.creates = 0;
            node.destroys = 0;
        })
    }

    /// The user that the driver takes its caller for.
    ///
    /// # Errors
    /// IO.
    pub fn acting_uid(&self) -> Result<u32> {
        self.read(|node| node.acting_uid)
    }

    /// Lets the driver take its caller for that user. It begins with root, so that anybody can try
    /// everything.
    ///
    /// # Errors
    /// IO.
    pub fn act_as(&self, uid: u32) -> Result<()> {
        self.change(|node| node.acting_uid = uid)
    }

    /// This process as a holder, where it has NVML open.
    pub(super) fn own_sessions(&self, load: u64) -> Option<Holder> {
        let open = self.sessions().get(&load).copied().unwrap_or(0);
        (open > 0).then(|| Holder::new(Pid::new(std::process::id()), HolderKind::Compute))
    }
}

/// A process as errors name it.
pub(super) fn holder(process: &Process) -> Holder {
    let kind = match process.kind {
        ProcessKind::Compute => HolderKind::Compute,
        ProcessKind::Graphics => HolderKind::Graphics,
        ProcessKind::MpsClient => HolderKind::MpsClient,
    };
    Holder {
        start_time: Some(process.start_time),
        command: process.command.clone(),
        uid: Some(process.uid),
        ..Holder::new(process.pid, kind)
    }
}

impl NodeState {
    pub(super) fn gpu_state(&mut self, uuid: &GpuUuid) -> Option<&mut super::state::GpuState> {
        self.gpus.iter_mut().find(|gpu| gpu.uuid == *uuid)
    }

    /// Refuses a GPU that the node never had.
    pub(super) fn known(&self, uuid: &GpuUuid) -> Result<()> {
        if self.gpus.iter().any(|gpu| gpu.uuid == *uuid) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::NotFound, format!("the simulated node has no GPU {uuid}")))
    }

    pub(super) fn mig_device(
        &self,
        uuid: &MigUuid,
    ) -> Option<(GpuUuid, GpuInstanceId, ComputeInstanceId)> {
        self.gpus.iter().find_map(|gpu| {
            gpu.instances.iter().find_map(|gi| {
                let ci = gi.compute.iter().find(|ci| ci.uuid == *uuid)?;
                Some((gpu.uuid.clone(), gi.id, ci.id))
            })
        })
    }

    fn admit(&mut self, target: &Target, spec: ProcessSpec) -> Result<Pid> {
        let (uuid, instance) = match target {
            Target::Gpu(gpu) => (gpu.clone(), None),
            Target::Instance(gpu, gi, ci) => (gpu.clone(), Some((*gi, *ci))),
            Target::MigDevice(device) => {
                let (gpu, gi, ci) = self.mig_device(device).ok_or_else(|| {
                    Error::new(ErrorCode::NotFound, format!("no GPU has a MIG device {device}"))
                })?;
                (gpu, Some((gi, ci)))
            }
        };
        let refuse = |code, why: String| Err(Error::new(code, why).of_gpu(&uuid));
        let lookup = |ret| Error::from(NvmlFailure::new("cuInit", ret)).of_gpu(&uuid);
        let gpu = self.gpu(&uuid).map_err(lookup)?;
        if let Some((gi, ci)) = instance {
            let there = gpu.instances.iter().find(|instance| instance.id == gi);
            if there.is_none_or(|gi| gi.compute.iter().all(|compute| compute.id != ci)) {
                return refuse(
                    ErrorCode::NotFound,
                    format!("{uuid} has no compute instance {ci} in a GPU instance {gi}"),
                );
            }
        }
        let mps = gpu.mps.as_ref().filter(|mps| mps.alive);
        // Who holds a GPU unseen asked no one.
        if !spec.invisible {
            if gpu.mig && instance.is_none() {
                return refuse(
                    ErrorCode::InvalidState,
                    format!("MIG is on: a process runs on an instance of {uuid}, not on all of it"),
                );
            }
            if gpu.compute_mode == ComputeMode::Prohibited && spec.kind != ProcessKind::Graphics {
                return refuse(ErrorCode::InvalidState, format!("{uuid} is prohibited"));
            }
            let compute: Vec<_> = self
                .on_gpu(&uuid)
                .filter(|p| !p.invisible && p.kind == ProcessKind::Compute)
                .collect();
            let exclusive = matches!(
                gpu.compute_mode,
                ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread
            );
            // An MPS server is the one process that its clients count as.
            let new_one = match spec.kind {
                ProcessKind::Compute => true,
                ProcessKind::Graphics => false,
                ProcessKind::MpsClient => mps.is_some_and(|mps| mps.server.is_none()),
            };
            if exclusive && new_one && !compute.is_empty() {
                let holders = compute.into_iter().map(holder).collect();
                return refuse(ErrorCode::Busy, format!("{uuid} admits one process"))
                    .map_err(|error| error.with_holders(holders));
            }
            if spec.kind == ProcessKind::MpsClient {
                if mps.is_none() {
                    return refuse(ErrorCode::Mps, format!("no MPS daemon serves {uuid}"));
                }
                let clients = self.on_gpu(&uuid).filter(|p| p.kind == ProcessKind::MpsClient);
                if clients.count() >= MPS_CLIENTS {
                    return refuse(
                        ErrorCode::Mps,
                        format!("the MPS daemon of {uuid} has {MPS_CLIENTS} clients already"),
                    );
                }
            }
        }
        let process = Process {
            pid: Pid::new(0),
            start_time: 0,
            command: spec.command,
            uid: spec.uid,
            parent: None,
            kind: spec.kind,
            gpu: uuid.clone(),
            instance,
            memory: spec.memory,
            stubborn: spec.stubborn,
            invisible: spec.invisible,
        };
        let server = match mps {
            Some(mps) if spec.kind == ProcessKind::MpsClient && mps.server.is_none() => {
                Some(Process {
                    command: "nvidia-cuda-mps-server".to_owned(),
                    parent: Some(mps.daemon),
                    kind: ProcessKind::Compute,
                    memory: MPS_SERVER_MEMORY,
                    ..process.clone()
                })
            }
            _ => None,
        };
        if let Some(server) = server {
            let pid = self.add_process(server);
            if let Some(mps) = self.gpu_state(&uuid).and_then(|gpu| gpu.mps.as_mut()) {
                mps.server = Some(pid);
            }
        }
        Ok(self.add_process(process))
    }

    /// Ends a process; an MPS server takes its clients with it.
    pub(super) fn end_process(&mut self, pid: Pid) {
        let served = self.gpus.iter_mut().find_map(|gpu| {
            let mps = gpu.mps.as_mut().filter(|mps| mps.server == Some(pid))?;
            mps.server = None;
            Some(gpu.uuid.clone())
        });
        self.processes.retain(|process| {
            let client = process.kind == ProcessKind::MpsClient;
            process.pid != pid && !(client && Some(&process.gpu) == served.as_ref())
        });
    }

    /// Ends the clients of a GPU's MPS daemon, and its server.
    pub(super) fn end_mps_processes(&mut self, gpu: &GpuUuid) {
        let daemon = self.gpu_state(gpu).and_then(|gpu| gpu.mps.as_ref()).map(|mps| mps.daemon);
        self.processes.retain(|process| {
            let server = process.parent.is_some() && process.parent == daemon;
            process.gpu != *gpu || !(server || process.kind == ProcessKind::MpsClient)
        });
    }

    /// The fault that strikes this call, and whether it does so after its effect.
    pub(super) fn take_fault(&mut self, call: &str) -> Option<(NvmlReturn, bool)> {
        for fault in self.faults.iter_mut().filter(|fault| fault.call == call) {
            fault.nth = fault.nth.saturating_sub(1);
        }
        let due = self.faults.iter().position(|fault| fault.nth == 0)?;
        let fault = self.faults.remove(due);
        Some((NvmlReturn(fault.nvml_return), fault.after_effect))
    }
}
