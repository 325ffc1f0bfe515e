//! Processes of a simulated node: who may come onto a GPU, and who stands there.

use serde::{Deserialize, Serialize};

use super::mps::MpsServerState;
use super::state::{FIRST_PID, NodeState};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, MigUuid, Pid};
use crate::mode::ComputeMode;
use crate::mps::{MpsDomain, ServerLimits};
use crate::port::{ContextKind, NvmlFailure};
use crate::process::{Holder, HolderKind};
use crate::units::Bytes;

/// The most clients that an MPS daemon takes: 48, measured on driver 580.
const MPS_CLIENTS: usize = 48;
/// What an MPS server holds of a GPU: 66 MiB, measured.
const MPS_SERVER_MEMORY: Bytes = Bytes::from_mebibytes(66);

type Instance = Option<(GpuInstanceId, ComputeInstanceId)>;

/// What a simulated process does on its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessKind {
    /// It has a CUDA context.
    Compute,
    /// It has a graphics context.
    Graphics,
    /// It is a client of the MPS daemon of ours.
    MpsClient,
}

impl ProcessKind {
    /// Whether NVML lists such a process among those of a kind: clients of MPS are CUDA processes too.
    pub(super) fn listed_as(self, kind: ContextKind) -> bool {
        match kind {
            ContextKind::Compute => matches!(self, Self::Compute | Self::MpsClient),
            ContextKind::Graphics => self == Self::Graphics,
            ContextKind::MpsClient => self == Self::MpsClient,
        }
    }
}

/// A process of the simulated node that uses a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Process {
    /// Its pid: above those of real processes, or that of a real one.
    pub pid: Pid,
    /// When it started, in clock ticks.
    pub start_time: u64,
    /// Its command.
    pub command: String,
    /// The user it runs as.
    pub uid: u32,
    /// Its parent.
    pub parent: Option<Pid>,
    /// What it does.
    pub kind: ProcessKind,
    /// On which GPU.
    pub gpu: GpuUuid,
    /// On which instance of it.
    pub instance: Option<(GpuInstanceId, ComputeInstanceId)>,
    /// Its device memory.
    #[serde(rename = "memory_bytes")]
    pub memory: Bytes,
    /// It ignores SIGTERM.
    pub stubborn: bool,
    /// It holds the GPU and nobody can see it.
    pub invisible: bool,
    /// Its environment; none where nobody may read it.
    #[serde(default)]
    pub environment: Option<Vec<(String, String)>>,
    /// The name of its program; none where nobody may see it.
    #[serde(default)]
    pub program: Option<String>,
}

impl Process {
    /// Whether it is there: a real one may have ended.
    fn is_there(&self) -> bool {
        if self.pid.get() >= FIRST_PID {
            return true;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // One that nobody waited for yet has no context any more.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }
}

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
    /// Its environment; none where nobody may read it.
    pub environment: Option<Vec<(String, String)>>,
    /// The name of its program; none where nobody may see it.
    pub program: Option<String>,
    /// The real process that it is: that one's command, user and environment count. It is on its GPU
    /// until it ends.
    pub real: Option<Pid>,
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
            environment: None,
            program: None,
            real: None,
        }
    }

    /// The same, being a real process of this machine.
    #[must_use]
    pub fn being(self, pid: Pid) -> Self {
        Self { real: Some(pid), ..self }
    }

    /// The same, running that program, whatever it calls itself.
    #[must_use]
    pub fn running(self, program: impl Into<String>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// The same, with that environment, which everybody may read.
    #[must_use]
    pub fn with_environment(self, variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self { environment: Some(variables.iter().map(owned).collect()), ..self }
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
    /// The processes on a GPU, the invisible ones included.
    pub(super) fn on_gpu<'a>(&'a self, gpu: &'a GpuUuid) -> impl Iterator<Item = &'a Process> {
        self.processes.iter().filter(move |process| process.gpu == *gpu && process.is_there())
    }

    /// Whether somebody uses a GPU instance, or one compute instance of it.
    pub(super) fn in_use(
        &self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: Option<ComputeInstanceId>,
    ) -> bool {
        self.on_gpu(gpu)
            .filter_map(|process| process.instance)
            .any(|instance| instance.0 == gi && ci.is_none_or(|ci| instance.1 == ci))
    }

    pub(super) fn add_process(&mut self, process: Process) -> Pid {
        let pid = Pid::new(self.next_pid);
        self.next_pid += 1;
        let start_time = u64::from(self.next_pid - FIRST_PID) * 100;
        self.processes.push(Process { pid, start_time, ..process });
        pid
    }

    /// A real process, which may be on several devices.
    fn add_real(&mut self, pid: Pid, process: Process) -> Pid {
        self.processes.retain(Process::is_there);
        self.processes.push(Process { pid, ..process });
        pid
    }

    pub(super) fn admit(&mut self, target: &Target, spec: ProcessSpec) -> Result<Pid> {
        let (gpu, instance) = self.resolve(target)?;
        // Who holds a GPU unseen asked no one.
        if !spec.invisible {
            self.may_enter(&gpu, instance, spec.kind).map_err(|error| error.of_gpu(&gpu))?;
        }
        let process = Process {
            pid: Pid::new(0),
            start_time: 0,
            command: spec.command,
            uid: spec.uid,
            parent: None,
            kind: spec.kind,
            gpu: gpu.clone(),
            instance,
            memory: spec.memory,
            stubborn: spec.stubborn,
            invisible: spec.invisible,
            environment: spec.environment,
            program: spec.program,
        };
        let domain = match target {
            Target::MigDevice(device) => device.clone().into(),
            _ => self.domain(&gpu, instance),
        };
        let waiting = self.mps(&domain).filter(|mps| mps.serves() && mps.server.is_none());
        let waiting = waiting.map(|mps| (mps.daemon, ServerLimits::of(&mps.settings)));
        if let (Some((daemon, limits)), ProcessKind::MpsClient) = (waiting, spec.kind) {
            let pid = self.add_process(Process {
                command: "nvidia-cuda-mps-server".to_owned(),
                parent: Some(daemon),
                kind: ProcessKind::Compute,
                memory: MPS_SERVER_MEMORY,
                program: None,
                ..process.clone()
            });
            if let Some(mps) = self.mps_mut(&domain) {
                mps.server = Some(MpsServerState { pid, limits });
            }
        }
        Ok(match spec.real {
            Some(pid) => self.add_real(pid, process),
            None => self.add_process(process),
        })
    }

    /// What an MPS daemon serves there.
    fn domain(&self, gpu: &GpuUuid, instance: Instance) -> MpsDomain {
        let gpus = self.gpus.iter().filter(|state| state.uuid == *gpu);
        let cis = gpus
            .flat_map(|gpu| &gpu.instances)
            .filter_map(|gi| gi.compute.iter().find(|ci| Some((gi.id, ci.id)) == instance));
        match cis.map(|ci| ci.uuid.clone()).next() {
            Some(device) => device.into(),
            None => gpu.clone().into(),
        }
    }

    /// Where a process would stand.
    fn resolve(&self, target: &Target) -> Result<(GpuUuid, Instance)> {
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
        let gpu = self.gpu(&uuid);
        let gpu = gpu.map_err(|ret| Error::from(NvmlFailure::new("cuInit", ret)).of_gpu(&uuid))?;
        if let Some((gi, ci)) = instance {
            let there = gpu.instances.iter().find(|instance| instance.id == gi);
            if there.is_none_or(|gi| gi.compute.iter().all(|compute| compute.id != ci)) {
                let why = format!("{uuid} has no compute instance {ci} in a GPU instance {gi}");
                return Err(Error::new(ErrorCode::NotFound, why).of_gpu(&uuid));
            }
        }
        Ok((uuid, instance))
    }

    /// Whether the driver lets one more process of that kind onto a GPU.
    fn may_enter(&self, uuid: &GpuUuid, instance: Instance, kind: ProcessKind) -> Result<()> {
        let refuse = |code, why: String| Err(Error::new(code, why));
        let gpu = self.gpu(uuid).map_err(|ret| NvmlFailure::new("cuInit", ret))?;
        if gpu.mig && instance.is_none() {
            let why =
                format!("MIG is on: a process runs on an instance of {uuid}, not on all of it");
            return refuse(ErrorCode::InvalidState, why);
        }
        if gpu.compute_mode == ComputeMode::Prohibited && kind != ProcessKind::Graphics {
            return refuse(ErrorCode::InvalidState, format!("{uuid} is prohibited"));
        }
        let domain = self.domain(uuid, instance);
        let mps = self.mps(&domain).filter(|mps| mps.serves());
        let clients = self.mps_clients(&domain).len();
        // An MPS server is the one process that its clients count as.
        let is_one_more = match (kind, mps) {
            (ProcessKind::Compute, _) => true,
            (ProcessKind::Graphics, _) => false,
            (ProcessKind::MpsClient, None) => {
                return refuse(ErrorCode::Mps, format!("no MPS daemon serves {domain}"));
            }
            (ProcessKind::MpsClient, Some(_)) if clients >= MPS_CLIENTS => {
                let why = format!("the MPS daemon of {domain} has {MPS_CLIENTS} clients already");
                return refuse(ErrorCode::Mps, why);
            }
            (ProcessKind::MpsClient, Some(mps)) => mps.server.is_none(),
        };
        let exclusive = matches!(
            gpu.compute_mode,
            ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread
        );
        let present = self.on_gpu(uuid).filter(|p| !p.invisible && p.kind == ProcessKind::Compute);
        let holders: Vec<_> = present.map(holder).collect();
        if exclusive && is_one_more && !holders.is_empty() {
            let why = format!("{uuid} admits one process");
            return Err(Error::new(ErrorCode::Busy, why).with_holders(holders));
        }
        Ok(())
    }

    /// Ends a process; an MPS server takes its clients with it.
    pub(super) fn end_process(&mut self, pid: Pid) {
        let process = self.processes.iter().find(|process| process.pid == pid);
        let place = process.map(|process| (process.gpu.clone(), process.instance));
        if let Some((gpu, instance)) = place {
            let domain = self.domain(&gpu, instance);
            let server = self.mps(&domain).and_then(|mps| mps.server.as_ref());
            if server.is_some_and(|server| server.pid == pid) {
                self.end_mps_processes(&domain);
            }
        }
        self.processes.retain(|process| process.pid != pid);
    }
}
