//! The driver's library, simulated.

use std::time::Duration;

use super::Simulator;
use super::ports::SimulatedPorts;
use super::products::Product;
use super::state::{GpuState, NodeState, Presence};
use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MinorNumber, PciAddress,
    ProfileId, ProfileIndex,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::mode::ComputeMode;
use crate::port::{
    Activation, ComputeInstanceInfo, ContextKind, GpuInstanceInfo, MigDeviceInfo, MigMode, Nvml,
    NvmlFailure, NvmlLibrary, NvmlResult, NvmlReturn, PciInfo, ProcessInfo, ProfileAnswer,
};
use crate::snapshot::Driver;
use crate::units::Bytes;

/// The driver that is simulated: the one that was measured.
pub(super) const DRIVER: &str = "580.159.04";
pub(super) const CUDA: &str = "13.0";
/// The first profile index that this driver does not know: 17, measured.
pub(super) const PROFILE_END: u32 = 17;

type Answer<T> = Result<T, NvmlReturn>;

/// The simulated NVML, opened. Its own methods are NVML's that the port has no use for.
#[derive(Debug)]
pub struct SimulatedNvml {
    pub(super) simulator: Simulator,
    /// The load of the driver that it was opened under: a session does not outlive it.
    load: u64,
}

impl Simulator {
    /// Opens the simulated NVML.
    ///
    /// # Errors
    /// What a fault says, or OPERATING_SYSTEM where the node's file can't be read.
    pub fn open(&self) -> NvmlResult<SimulatedNvml> {
        const CALL: &str = "nvmlInit_v2";
        let load = self.read(|node| node.loads).map_err(|error| unreadable(CALL, &error))?;
        *self.sessions().entry(load).or_default() += 1;
        let session = SimulatedNvml { simulator: self.clone(), load };
        session.ask(CALL, |_| Ok(()))?;
        Ok(session)
    }
}

impl Drop for SimulatedNvml {
    fn drop(&mut self) {
        if let Some(open) = self.simulator.sessions().get_mut(&self.load) {
            *open = open.saturating_sub(1);
        }
    }
}

impl NvmlLibrary for SimulatedPorts {
    fn open(&self) -> NvmlResult<Box<dyn Nvml>> {
        Ok(Box::new(self.simulator.open()?))
    }
}

fn unreadable(call: &'static str, error: &crate::Error) -> NvmlFailure {
    NvmlFailure { call, ret: NvmlReturn::OPERATING_SYSTEM, detail: Some(error.to_string()) }
}

impl SimulatedNvml {
    /// A call that changes nothing.
    pub(super) fn ask<R>(
        &self,
        call: &'static str,
        look: impl Fn(&NodeState) -> Answer<R>,
    ) -> NvmlResult<R> {
        let answer = self.simulator.read(|node| {
            if node.faults.iter().any(|fault| fault.call == call) {
                return None;
            }
            Some(self.alive(node).and_then(|()| look(node)))
        });
        match answer.map_err(|error| unreadable(call, &error))? {
            Some(answer) => answer.map_err(|ret| NvmlFailure::new(call, ret)),
            None => self.act(call, |node| look(node)),
        }
    }

    /// A call that changes something, or that a fault waits for.
    fn act<R>(
        &self,
        call: &'static str,
        change: impl FnOnce(&mut NodeState) -> Answer<R>,
    ) -> NvmlResult<R> {
        let answer = self.simulator.change(|node| {
            self.alive(node)?;
            match node.take_fault(call) {
                Some((ret, false)) => Err(ret),
                Some((ret, true)) => change(node).and(Err(ret)),
                None => change(node),
            }
        });
        answer.map_err(|error| unreadable(call, &error))?.map_err(|ret| NvmlFailure::new(call, ret))
    }

    /// A call that changes something, which takes the time that the rules say.
    pub(super) fn change<R>(
        &self,
        call: &'static str,
        change: impl FnOnce(&mut NodeState) -> Answer<R>,
    ) -> NvmlResult<R> {
        let latency = self.simulator.read(|node| node.rules.latency_ms).unwrap_or(0);
        if latency > 0 {
            self.simulator.inner.clock.sleep(Duration::from_millis(latency));
        }
        self.act(call, change)
    }

    fn alive(&self, node: &NodeState) -> Answer<()> {
        if node.loads == self.load { Ok(()) } else { Err(NvmlReturn::UNINITIALIZED) }
    }

    pub(super) fn of<R>(
        &self,
        call: &'static str,
        gpu: &GpuUuid,
        look: impl Fn(&GpuState, &'static Product) -> R,
    ) -> NvmlResult<R> {
        self.ask(call, |node| {
            let gpu = node.gpu(gpu)?;
            Ok(look(gpu, node.product(gpu)?))
        })
    }
}

impl Nvml for SimulatedNvml {
    fn driver(&mut self) -> NvmlResult<Driver> {
        self.ask("nvmlSystemGetDriverVersion", |_| {
            Ok(Driver { version: DRIVER.to_owned(), cuda: Some(CUDA.to_owned()) })
        })
    }

    fn device_count(&mut self) -> NvmlResult<u32> {
        self.ask("nvmlDeviceGetCount_v2", |node| {
            let count = node.gpus.iter().filter(|gpu| gpu.presence != Presence::Gone).count();
            u32::try_from(count).map_err(|_| NvmlReturn::UNKNOWN)
        })
    }

    fn device(&mut self, index: u32) -> NvmlResult<GpuUuid> {
        self.ask("nvmlDeviceGetHandleByIndex_v2", |node| {
            let index = usize::try_from(index).map_err(|_| NvmlReturn::INVALID_ARGUMENT)?;
            let mut listed = node.gpus.iter().filter(|gpu| gpu.presence != Presence::Gone);
            let gpu = listed.nth(index).ok_or(NvmlReturn::INVALID_ARGUMENT)?;
            Ok(node.gpu(&gpu.uuid)?.uuid.clone())
        })
    }

    fn minor_number(&mut self, gpu: &GpuUuid) -> NvmlResult<MinorNumber> {
        self.ask("nvmlDeviceGetMinorNumber", |node| {
            Ok(MinorNumber::new(node.minor(node.gpu(gpu)?)))
        })
    }

    fn pci_info(&mut self, gpu: &GpuUuid) -> NvmlResult<PciInfo> {
        self.of("nvmlDeviceGetPciInfo_v3", gpu, |gpu, product| PciInfo {
            // A fleet has 64 cards at most, so the bus fits.
            address: PciAddress::new(0, (gpu.position as u8).saturating_mul(3) + 3, 0, 0),
            device_id: product.device_id,
            subsystem_id: product.subsystem_id,
        })
    }

    fn name(&mut self, gpu: &GpuUuid) -> NvmlResult<String> {
        self.of("nvmlDeviceGetName", gpu, |_, product| product.nvml_name.to_owned())
    }

    fn memory_total(&mut self, gpu: &GpuUuid) -> NvmlResult<Bytes> {
        self.of("nvmlDeviceGetMemoryInfo", gpu, |_, product| product.memory)
    }

    fn compute_capability(&mut self, gpu: &GpuUuid) -> NvmlResult<(u32, u32)> {
        self.of("nvmlDeviceGetCudaComputeCapability", gpu, |_, product| product.compute_capability)
    }

    fn core_count(&mut self, gpu: &GpuUuid) -> NvmlResult<u32> {
        self.of("nvmlDeviceGetNumGpuCores", gpu, |_, product| product.core_count())
    }

    fn compute_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<ComputeMode> {
        self.ask("nvmlDeviceGetComputeMode", |node| {
            let gpu = node.gpu(gpu)?;
            if gpu.mig { Err(NvmlReturn::NOT_SUPPORTED) } else { Ok(gpu.compute_mode) }
        })
    }

    fn set_compute_mode(&mut self, gpu: &GpuUuid, mode: ComputeMode) -> NvmlResult<()> {
        self.change("nvmlDeviceSetComputeMode", |node| {
            if node.gpu(gpu)?.mig {
                return Err(NvmlReturn::NOT_SUPPORTED);
            }
            node.privileged()?;
            node.gpu_mut(gpu)?.compute_mode = mode;
            Ok(())
        })
    }

    fn mig_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<MigMode> {
        self.ask("nvmlDeviceGetMigMode", |node| node.mig_mode(gpu))
    }

    fn set_mig_mode(&mut self, gpu: &GpuUuid, enable: bool) -> NvmlResult<Activation> {
        self.change("nvmlDeviceSetMigMode", |node| node.set_mig_mode(gpu, enable))
    }

    fn profile(&mut self, gpu: &GpuUuid, index: ProfileIndex) -> NvmlResult<ProfileAnswer> {
        match self.raw_profile(gpu, index) {
            Ok(raw) => Ok(ProfileAnswer::Profile(raw.profile)),
            Err(NvmlFailure { ret: NvmlReturn::NOT_SUPPORTED, .. }) => {
                Ok(ProfileAnswer::NotOnThisGpu)
            }
            Err(NvmlFailure { ret: NvmlReturn::INVALID_ARGUMENT, .. }) => Ok(ProfileAnswer::End),
            Err(failure) => Err(failure),
        }
    }

    fn placements(&mut self, gpu: &GpuUuid, profile: ProfileId) -> NvmlResult<Vec<Placement>> {
        self.ask("nvmlDeviceGetGpuInstancePossiblePlacements_v2", |node| {
            node.placements(gpu, profile)
        })
    }

    fn gpu_instances(
        &mut self,
        gpu: &GpuUuid,
        profile: &Profile,
    ) -> NvmlResult<Vec<GpuInstanceInfo>> {
        self.ask("nvmlDeviceGetGpuInstances", |node| node.gpu_instances(gpu, profile.id))
    }

    fn create_gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        profile: ProfileId,
        placement: Placement,
    ) -> NvmlResult<GpuInstanceInfo> {
        self.change("nvmlDeviceCreateGpuInstanceWithPlacement", |node| {
            node.create_gpu_instance(gpu, profile, Some(placement))
        })
    }

    fn destroy_gpu_instance(&mut self, gpu: &GpuUuid, gi: GpuInstanceId) -> NvmlResult<()> {
        self.change("nvmlGpuInstanceDestroy", |node| node.destroy_gpu_instance(gpu, gi))
    }

    fn compute_profiles(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
    ) -> NvmlResult<Vec<ComputeProfile>> {
        self.ask("nvmlGpuInstanceGetComputeInstanceProfileInfoV", |node| {
            node.compute_profiles(gpu, gi)
        })
    }

    fn compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<ComputeInstanceInfo>> {
        self.ask("nvmlGpuInstanceGetComputeInstances", |node| {
            node.compute_instances(gpu, gi, profile)
        })
    }

    fn create_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
        placement: Option<Placement>,
    ) -> NvmlResult<ComputeInstanceInfo> {
        let call = match placement {
            Some(_) => "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
            None => "nvmlGpuInstanceCreateComputeInstance",
        };
        self.change(call, |node| node.create_compute_instance(gpu, gi, profile, placement))
    }

    fn destroy_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
    ) -> NvmlResult<()> {
        self.change("nvmlComputeInstanceDestroy", |node| node.destroy_compute_instance(gpu, gi, ci))
    }

    fn mig_devices(&mut self, gpu: &GpuUuid) -> NvmlResult<Vec<MigDeviceInfo>> {
        self.ask("nvmlDeviceGetMigDeviceHandleByIndex", |node| node.mig_devices(gpu))
    }

    fn processes(&mut self, gpu: &GpuUuid, kind: ContextKind) -> NvmlResult<Vec<ProcessInfo>> {
        let call = match kind {
            ContextKind::Compute => "nvmlDeviceGetComputeRunningProcesses_v3",
            ContextKind::Graphics => "nvmlDeviceGetGraphicsRunningProcesses_v3",
            ContextKind::MpsClient => "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        };
        self.ask(call, |node| {
            if node.gpu(gpu)?.mig {
                node.privileged()?;
            }
            let listed = node.on_gpu(gpu).filter(|p| !p.invisible && p.kind.listed_as(kind));
            let info = |p: &super::Process| ProcessInfo {
                pid: p.pid,
                instance: p.instance,
                memory: Some(p.memory),
            };
            Ok(listed.map(info).collect())
        })
    }
}
