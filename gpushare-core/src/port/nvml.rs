//! The driver's library: one method for each driver call, in safe types.

use std::fmt;

use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MigUuid, MinorNumber, PciAddress,
    PciDeviceId, Pid, ProfileId, ProfileIndex,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::mode::ComputeMode;
use crate::port::{NvmlResult, NvmlReturn};
use crate::snapshot::Driver;
use crate::units::Bytes;

/// The driver's library, not yet opened: holds no device.
pub trait NvmlLibrary: Send + Sync + fmt::Debug {
    /// Opens the library (`nvmlInit`). What it returns holds devices open until it is dropped.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED, or what the driver returns.
    fn open(&self) -> NvmlResult<Box<dyn Nvml>>;
}

/// MIG mode: now, and after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigMode {
    /// Whether it is on.
    pub current: bool,
    /// Whether it will be on after a reset.
    pub pending: bool,
}

/// What became of a change of MIG mode: NVML hides it beside its return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// It is in force.
    Active,
    /// It waits for a reset, for this reason (IN_USE, RESET_REQUIRED, …).
    Pending(NvmlReturn),
}

/// What PCI says of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciInfo {
    /// Its address.
    pub address: PciAddress,
    /// Device and vendor.
    pub device_id: PciDeviceId,
    /// Subsystem device and vendor: with the device id, the model.
    pub subsystem_id: u32,
}

/// Whether the driver knows a profile index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileAnswer {
    /// The profile, without its placements.
    Profile(Profile),
    /// This GPU does not have it.
    NotOnThisGpu,
    /// No GPU has it, nor any index after it: the documented end of the loop.
    End,
}

/// A GPU instance, as the driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuInstanceInfo {
    /// Its id.
    pub id: GpuInstanceId,
    /// Its profile.
    pub profile: ProfileId,
    /// Where it stands.
    pub placement: Placement,
}

/// A compute instance, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeInstanceInfo {
    /// Its id.
    pub id: ComputeInstanceId,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// Where it stands, in compute slices of its GPU instance.
    pub placement: Placement,
    /// The uuid of the MIG device that it is.
    pub uuid: MigUuid,
}

/// A compute instance without the uuid of the MIG device that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnnamedComputeInstance {
    /// Its id.
    pub id: ComputeInstanceId,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// Where it stands, in compute slices of its GPU instance.
    pub placement: Placement,
}

impl From<&ComputeInstanceInfo> for UnnamedComputeInstance {
    fn from(info: &ComputeInstanceInfo) -> Self {
        Self { id: info.id, profile: info.profile, placement: info.placement }
    }
}

/// A MIG device, as anybody may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigDeviceInfo {
    /// Its uuid.
    pub uuid: MigUuid,
    /// Its GPU instance.
    pub gi: GpuInstanceId,
    /// Its compute instance.
    pub ci: ComputeInstanceId,
    /// Compute slices of its GPU instance.
    pub gpu_slices: u8,
    /// Its own compute slices.
    pub compute_slices: u8,
    /// Its memory.
    pub memory: Bytes,
    /// Its streaming multiprocessors.
    pub sm_count: u32,
}

/// What kind of context a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextKind {
    /// CUDA.
    Compute,
    /// Graphics.
    Graphics,
    /// A client of MPS.
    MpsClient,
}

/// A process on a GPU, as the driver lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: Pid,
    /// The instance that it is on.
    pub instance: Option<(GpuInstanceId, ComputeInstanceId)>,
    /// Its device memory, where the driver says.
    pub memory: Option<Bytes>,
}

/// The driver's library, opened. Dropping it closes it (`nvmlShutdown`).
///
/// GPUs are named by uuid; an implementation may keep handles, and finds them again after every
/// change of MIG mode and every reset, as NVML demands.
pub trait Nvml: Send + fmt::Debug {
    /// Versions of driver and CUDA.
    fn driver(&mut self) -> NvmlResult<Driver>;
    /// How many GPUs there are.
    fn device_count(&mut self) -> NvmlResult<u32>;
    /// The GPU with that index.
    fn device(&mut self, index: u32) -> NvmlResult<GpuUuid>;
    /// The minor number of its device node.
    fn minor_number(&mut self, gpu: &GpuUuid) -> NvmlResult<MinorNumber>;
    /// Its PCI address and ids.
    fn pci_info(&mut self, gpu: &GpuUuid) -> NvmlResult<PciInfo>;
    /// Its product name.
    fn name(&mut self, gpu: &GpuUuid) -> NvmlResult<String>;
    /// Its memory in all.
    fn memory_total(&mut self, gpu: &GpuUuid) -> NvmlResult<Bytes>;
    /// Its compute capability, major and minor.
    fn compute_capability(&mut self, gpu: &GpuUuid) -> NvmlResult<(u32, u32)>;
    /// Its CUDA cores.
    fn core_count(&mut self, gpu: &GpuUuid) -> NvmlResult<u32>;

    /// Its compute mode.
    fn compute_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<ComputeMode>;
    /// Sets its compute mode.
    fn set_compute_mode(&mut self, gpu: &GpuUuid, mode: ComputeMode) -> NvmlResult<()>;
    /// Its MIG mode; NOT_SUPPORTED where it has none.
    fn mig_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<MigMode>;
    /// Changes its MIG mode. `Ok` does not mean that it is in force: read the activation.
    fn set_mig_mode(&mut self, gpu: &GpuUuid, enable: bool) -> NvmlResult<Activation>;

    /// The GPU-instance profile with that index.
    fn profile(&mut self, gpu: &GpuUuid, index: ProfileIndex) -> NvmlResult<ProfileAnswer>;
    /// Where instances of a profile may stand, whether MIG is on or not.
    fn placements(&mut self, gpu: &GpuUuid, profile: ProfileId) -> NvmlResult<Vec<Placement>>;
    /// The GPU instances of a profile. Needs privilege.
    fn gpu_instances(
        &mut self,
        gpu: &GpuUuid,
        profile: &Profile,
    ) -> NvmlResult<Vec<GpuInstanceInfo>>;
    /// Creates a GPU instance at a placement.
    fn create_gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        profile: ProfileId,
        placement: Placement,
    ) -> NvmlResult<GpuInstanceInfo>;
    /// Destroys a GPU instance; IN_USE while it has compute instances or users.
    fn destroy_gpu_instance(&mut self, gpu: &GpuUuid, gi: GpuInstanceId) -> NvmlResult<()>;

    /// The compute-instance profiles of an existing GPU instance, with their placements.
    fn compute_profiles(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
    ) -> NvmlResult<Vec<ComputeProfile>>;
    /// The compute instances of a profile in a GPU instance. Needs privilege.
    fn compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<ComputeInstanceInfo>>;
    /// The same without their uuids, which cost most drivers a search through all MIG devices.
    fn unnamed_compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<UnnamedComputeInstance>> {
        let instances = self.compute_instances(gpu, gi, profile)?;
        Ok(instances.iter().map(UnnamedComputeInstance::from).collect())
    }
    /// Creates a compute instance, at a placement where one is given.
    fn create_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
        placement: Option<Placement>,
    ) -> NvmlResult<ComputeInstanceInfo>;
    /// Destroys a compute instance; IN_USE while somebody uses it.
    fn destroy_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
    ) -> NvmlResult<()>;

    /// The MIG devices, through their own handles: what a caller without privilege can see.
    fn mig_devices(&mut self, gpu: &GpuUuid) -> NvmlResult<Vec<MigDeviceInfo>>;
    /// The processes with a context of that kind. On a GPU with MIG on, for a privileged caller
    /// those of all instances.
    fn processes(&mut self, gpu: &GpuUuid, kind: ContextKind) -> NvmlResult<Vec<ProcessInfo>>;
}
