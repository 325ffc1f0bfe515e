//! The real driver, through NVIDIA's management library NVML.
//!
//! [`RealNvml`] loads it when it is opened. Every method of [`Nvml`] is the fewest C calls that
//! answer it: one, as a rule, once the GPU's handle is known. A function that this driver's
//! library lacks is FUNCTION_NOT_FOUND with its name, when it is used and not before.
//!
//! All `unsafe` code of this crate is in here: NVML is a C library, and the half of it that
//! creates, lists and destroys MIG instances has no safe wrapper.

mod device;
mod instances;
mod library;
mod mig_devices;
mod processes;
mod profiles;

pub use library::RealNvml;

use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MinorNumber, ProfileId,
    ProfileIndex,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::mode::ComputeMode;
use crate::port::{
    Activation, ComputeInstanceInfo, ContextKind, GpuInstanceInfo, MigDeviceInfo, MigMode, Nvml,
    NvmlResult, PciInfo, ProcessInfo, ProfileAnswer, UnnamedComputeInstance,
};
use crate::snapshot::Driver;
use crate::units::Bytes;
use library::Session;

/// Each method is the inherent one of the same name, which stands with its subject.
macro_rules! inherent {
    ($(fn $method:ident($($argument:ident: $of:ty),*) -> $result:ty;)*) => {
        impl Nvml for Session {
            $(fn $method(&mut self, $($argument: $of),*) -> NvmlResult<$result> {
                Session::$method(self, $($argument),*)
            })*
        }
    };
}

inherent! {
    fn driver() -> Driver;
    fn device_count() -> u32;
    fn device(index: u32) -> GpuUuid;
    fn minor_number(gpu: &GpuUuid) -> MinorNumber;
    fn pci_info(gpu: &GpuUuid) -> PciInfo;
    fn name(gpu: &GpuUuid) -> String;
    fn memory_total(gpu: &GpuUuid) -> Bytes;
    fn compute_capability(gpu: &GpuUuid) -> (u32, u32);
    fn core_count(gpu: &GpuUuid) -> u32;
    fn compute_mode(gpu: &GpuUuid) -> ComputeMode;
    fn set_compute_mode(gpu: &GpuUuid, mode: ComputeMode) -> ();
    fn mig_mode(gpu: &GpuUuid) -> MigMode;
    fn set_mig_mode(gpu: &GpuUuid, enable: bool) -> Activation;
    fn profile(gpu: &GpuUuid, index: ProfileIndex) -> ProfileAnswer;
    fn placements(gpu: &GpuUuid, profile: ProfileId) -> Vec<Placement>;
    fn gpu_instances(gpu: &GpuUuid, profile: &Profile) -> Vec<GpuInstanceInfo>;
    fn create_gpu_instance(gpu: &GpuUuid, profile: ProfileId, placement: Placement)
        -> GpuInstanceInfo;
    fn destroy_gpu_instance(gpu: &GpuUuid, gi: GpuInstanceId) -> ();
    fn compute_profiles(gpu: &GpuUuid, gi: GpuInstanceId) -> Vec<ComputeProfile>;
    fn compute_instances(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId)
        -> Vec<ComputeInstanceInfo>;
    fn unnamed_compute_instances(gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId)
        -> Vec<UnnamedComputeInstance>;
    fn create_compute_instance(
        gpu: &GpuUuid, gi: GpuInstanceId, profile: ComputeProfileId, placement: Option<Placement>
    ) -> ComputeInstanceInfo;
    fn destroy_compute_instance(gpu: &GpuUuid, gi: GpuInstanceId, ci: ComputeInstanceId) -> ();
    fn mig_devices(gpu: &GpuUuid) -> Vec<MigDeviceInfo>;
    fn processes(gpu: &GpuUuid, kind: ContextKind) -> Vec<ProcessInfo>;
}
