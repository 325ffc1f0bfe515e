//! NVML's functions that the port has no use for, for whoever builds NVIDIA's C ABI on the simulator.

use super::mig::compute_sm_count;
use super::nvml::{PROFILE_END, SimulatedNvml};
use super::process::Process;
use super::products::Product;
use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MigUuid, ProfileId, ProfileIndex,
};
use crate::mig::{ComputeProfile, Profile};
use crate::port::{GpuInstanceInfo, NvmlResult, NvmlReturn};
use crate::units::Bytes;

/// A GPU-instance profile as `nvmlDeviceGetGpuInstanceProfileInfo` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawProfile {
    /// The profile, without its placements.
    pub profile: Profile,
    /// Its copy engines.
    pub copy_engines: u32,
}

/// A compute-instance profile as `nvmlGpuInstanceGetComputeInstanceProfileInfo` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawComputeProfile {
    /// The profile.
    pub profile: ComputeProfile,
    /// How many the GPU instance takes at most.
    pub max_instances: u32,
    /// Its streaming multiprocessors.
    pub sm_count: u32,
    /// The profile of the GPU instance, whose engines all its compute instances share.
    pub gpu_instance: RawProfile,
}

impl SimulatedNvml {
    /// `nvmlDeviceGetGpuInstanceProfileInfo`: NOT_SUPPORTED for an index that this GPU lacks,
    /// INVALID_ARGUMENT for one that no GPU has.
    ///
    /// # Errors
    /// As above, and as every call.
    pub fn raw_profile(&self, gpu: &GpuUuid, index: ProfileIndex) -> NvmlResult<RawProfile> {
        self.ask("nvmlDeviceGetGpuInstanceProfileInfoV", |node| {
            let product = node.product(node.gpu(gpu)?)?;
            if index.get() >= PROFILE_END {
                return Err(NvmlReturn::INVALID_ARGUMENT);
            }
            let profile = product.profile_at(index).ok_or(NvmlReturn::NOT_SUPPORTED)?;
            Ok(RawProfile { profile: profile.to_profile(), copy_engines: profile.copy_engines })
        })
    }

    /// `nvmlDeviceGetGpuInstanceRemainingCapacity`. With MIG off, as many as the GPU takes.
    ///
    /// # Errors
    /// NOT_SUPPORTED for a profile of another chip, INVALID_ARGUMENT for one of none.
    pub fn remaining_capacity(&self, gpu: &GpuUuid, profile: ProfileId) -> NvmlResult<u32> {
        self.ask("nvmlDeviceGetGpuInstanceRemainingCapacity", |node| {
            node.remaining_capacity(gpu, profile)
        })
    }

    /// `nvmlDeviceCreateGpuInstance`: creates it where it reduces the remaining capacity least.
    ///
    /// # Errors
    /// As [`create_gpu_instance`](crate::port::Nvml::create_gpu_instance).
    pub fn create_gpu_instance_anywhere(
        &self,
        gpu: &GpuUuid,
        profile: ProfileId,
    ) -> NvmlResult<GpuInstanceInfo> {
        self.change("nvmlDeviceCreateGpuInstance", |node| {
            node.create_gpu_instance(gpu, profile, None)
        })
    }

    /// `nvmlDeviceGetGpuInstanceById`.
    ///
    /// # Errors
    /// NOT_FOUND, NO_PERMISSION, or NOT_SUPPORTED with MIG off.
    pub fn gpu_instance(&self, gpu: &GpuUuid, gi: GpuInstanceId) -> NvmlResult<GpuInstanceInfo> {
        self.ask("nvmlDeviceGetGpuInstanceById", |node| {
            let (gi, _) = node.gpu_instance(gpu, gi)?;
            Ok(GpuInstanceInfo { id: gi.id, profile: gi.profile, placement: gi.placement })
        })
    }

    /// `nvmlGpuInstanceGetComputeInstanceProfileInfo`, for every profile that the GPU instance has.
    ///
    /// # Errors
    /// As [`gpu_instance`](Self::gpu_instance).
    pub fn raw_compute_profiles(
        &self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
    ) -> NvmlResult<Vec<RawComputeProfile>> {
        self.ask("nvmlGpuInstanceGetComputeInstanceProfileInfoV", |node| {
            let product = node.product(node.gpu(gpu)?)?;
            let (_, own) = node.gpu_instance(gpu, gi)?;
            let profiles = node.compute_profiles(gpu, gi)?.into_iter();
            let raw = profiles.map(|profile| RawComputeProfile {
                max_instances: u32::try_from(profile.starts.len()).unwrap_or(u32::MAX),
                sm_count: compute_sm_count(product, own, profile.slices),
                gpu_instance: RawProfile {
                    profile: own.to_profile(),
                    copy_engines: own.copy_engines,
                },
                profile,
            });
            Ok(raw.collect())
        })
    }

    /// `nvmlGpuInstanceGetComputeInstanceRemainingCapacity`.
    ///
    /// # Errors
    /// As [`gpu_instance`](Self::gpu_instance), and NOT_SUPPORTED for a profile that it lacks.
    pub fn compute_remaining_capacity(
        &self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<u32> {
        self.ask("nvmlGpuInstanceGetComputeInstanceRemainingCapacity", |node| {
            node.compute_remaining_capacity(gpu, gi, profile)
        })
    }

    /// `nvmlDeviceGetMaxMigDeviceCount`: zero with MIG off or none.
    ///
    /// # Errors
    /// As every call.
    pub fn max_mig_devices(&self, gpu: &GpuUuid) -> NvmlResult<u32> {
        self.of("nvmlDeviceGetMaxMigDeviceCount", gpu, |gpu, product| {
            let most = product.profiles.iter().map(|profile| u32::from(profile.max_instances));
            if gpu.mig { most.max().unwrap_or(0) } else { 0 }
        })
    }

    /// The GPU of a MIG device, and its ids there.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn mig_device(
        &self,
        uuid: &MigUuid,
    ) -> NvmlResult<(GpuUuid, GpuInstanceId, ComputeInstanceId)> {
        self.ask("nvmlDeviceGetHandleByUUID", |node| {
            node.mig_device(uuid).ok_or(NvmlReturn::NOT_FOUND)
        })
    }

    /// The card of a GPU.
    ///
    /// # Errors
    /// As every call.
    pub fn product(&self, gpu: &GpuUuid) -> NvmlResult<&'static Product> {
        self.of("nvmlDeviceGetHandleByUUID", gpu, |_, product| product)
    }

    /// The memory in use on a GPU, or on one GPU instance of it.
    ///
    /// # Errors
    /// As every call.
    pub fn memory_used(&self, gpu: &GpuUuid, gi: Option<GpuInstanceId>) -> NvmlResult<Bytes> {
        self.ask("nvmlDeviceGetMemoryInfo", |node| {
            let gpu = node.gpu(gpu)?;
            let there = node.on_gpu(&gpu.uuid).filter(|process| {
                gi.is_none_or(|gi| process.instance.is_some_and(|instance| instance.0 == gi))
            });
            Ok(Bytes::new(there.map(|process| process.memory.get()).sum()))
        })
    }

    /// The processes that can be seen on a GPU, or on one compute instance of it: what the handle
    /// of a MIG device lists, for which no privilege is needed.
    ///
    /// # Errors
    /// As every call.
    pub fn visible_processes(
        &self,
        gpu: &GpuUuid,
        instance: Option<(GpuInstanceId, ComputeInstanceId)>,
    ) -> NvmlResult<Vec<Process>> {
        self.ask("nvmlDeviceGetComputeRunningProcesses_v3", |node| {
            let gpu = node.gpu(gpu)?;
            let there = node.on_gpu(&gpu.uuid).filter(|process| {
                !process.invisible && instance.is_none_or(|wanted| process.instance == Some(wanted))
            });
            Ok(there.cloned().collect())
        })
    }
}
