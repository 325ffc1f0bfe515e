//! GPU instances and compute instances.

use std::ffi::c_uint;
use std::ptr;

use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_t, nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t,
    nvmlComputeInstanceProfileInfo_t, nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t,
    nvmlGpuInstancePlacement_t,
};

use super::library::{Session, call, narrow};
use super::profiles::{ROOM, filled};
use crate::id::{
    ComputeInstanceId, ComputeProfileId, ComputeProfileIndex, GpuInstanceId, GpuUuid, ProfileId,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::port::{
    ComputeInstanceInfo, GpuInstanceInfo, NvmlFailure, NvmlResult, NvmlReturn,
    UnnamedComputeInstance,
};

/// The one kind of engine profile that NVML has: engines are shared within a GPU instance.
const SHARED_ENGINES: c_uint = 0;
/// Where the search for compute-instance profiles stops if the driver never says that it is
/// over. NVIDIA has 9.
const MOST_COMPUTE_PROFILES: c_uint = 64;

impl Session {
    pub(super) fn gpu_instances(
        &mut self,
        gpu: &GpuUuid,
        profile: &Profile,
    ) -> NvmlResult<Vec<GpuInstanceInfo>> {
        let device = self.handle(gpu)?;
        // max_instances is a byte, so twice ROOM would do; nvml.h asks for that many at least.
        let mut handles = vec![ptr::null_mut(); ROOM.max(profile.max_instances.into())];
        let mut count = handles.len() as c_uint;
        let id = profile.id.get();
        call!(self.lib(), nvmlDeviceGetGpuInstances(device, id, handles.as_mut_ptr(), &mut count))?;
        filled("nvmlDeviceGetGpuInstances", &handles, count)?
            .iter()
            .map(|&handle| self.gpu_instance(gpu, handle))
            .collect()
    }

    /// What a GPU instance is; its handle is remembered by its id.
    fn gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        handle: nvmlGpuInstance_t,
    ) -> NvmlResult<GpuInstanceInfo> {
        const CALL: &str = "nvmlGpuInstanceGetInfo";
        let mut info = nvmlGpuInstanceInfo_t {
            device: ptr::null_mut(),
            id: 0,
            profileId: 0,
            placement: nvmlGpuInstancePlacement_t { start: 0, size: 0 },
        };
        call!(self.lib(), nvmlGpuInstanceGetInfo(handle, &mut info))?;
        self.remember_instance(gpu, info.id, handle);
        Ok(GpuInstanceInfo {
            id: GpuInstanceId::new(info.id),
            profile: ProfileId::new(info.profileId),
            placement: Placement {
                start: narrow(CALL, "the start of a GPU instance", info.placement.start)?,
                size: narrow(CALL, "the size of a GPU instance", info.placement.size)?,
            },
        })
    }

    /// The handle of a GPU instance, asked for where it is not known yet.
    fn instance(&mut self, gpu: &GpuUuid, gi: GpuInstanceId) -> NvmlResult<nvmlGpuInstance_t> {
        let device = self.handle(gpu)?;
        if let Some(known) = self.known_instance(gpu, gi.get()) {
            return Ok(known);
        }
        let mut handle = ptr::null_mut();
        call!(self.lib(), nvmlDeviceGetGpuInstanceById(device, gi.get(), &mut handle))?;
        self.remember_instance(gpu, gi.get(), handle);
        Ok(handle)
    }

    /// Passes a result on, and forgets the handle of the GPU instance where it says that the
    /// handle is no good any more: somebody else may have destroyed the instance.
    fn settle<T>(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        result: NvmlResult<T>,
    ) -> NvmlResult<T> {
        if let Err(failure) = &result {
            if matches!(failure.ret, NvmlReturn::INVALID_ARGUMENT | NvmlReturn::NOT_FOUND) {
                self.forget_instance(gpu, gi.get());
            }
        }
        result
    }

    pub(super) fn create_gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        profile: ProfileId,
        placement: Placement,
    ) -> NvmlResult<GpuInstanceInfo> {
        let device = self.handle(gpu)?;
        let place = nvmlGpuInstancePlacement_t {
            start: placement.start.into(),
            size: placement.size.into(),
        };
        let mut handle = ptr::null_mut();
        call!(
            self.lib(),
            nvmlDeviceCreateGpuInstanceWithPlacement(device, profile.get(), &place, &mut handle)
        )?;
        self.gpu_instance(gpu, handle)
    }

    pub(super) fn destroy_gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
    ) -> NvmlResult<()> {
        let handle = self.instance(gpu, gi)?;
        let destroyed = call!(self.lib(), nvmlGpuInstanceDestroy(handle));
        if destroyed.is_ok() {
            self.forget_instance(gpu, gi.get());
        }
        self.settle(gpu, gi, destroyed)
    }

    pub(super) fn compute_profiles(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
    ) -> NvmlResult<Vec<ComputeProfile>> {
        let handle = self.instance(gpu, gi)?;
        let found = self.compute_profiles_of(handle);
        self.settle(gpu, gi, found)
    }

    fn compute_profiles_of(&self, gi: nvmlGpuInstance_t) -> NvmlResult<Vec<ComputeProfile>> {
        const CALL: &str = "nvmlGpuInstanceGetComputeInstanceProfileInfo";
        let mut profiles = Vec::new();
        for index in 0..MOST_COMPUTE_PROFILES {
            let mut info = nvmlComputeInstanceProfileInfo_t {
                id: 0,
                sliceCount: 0,
                instanceCount: 0,
                multiprocessorCount: 0,
                sharedCopyEngineCount: 0,
                sharedDecoderCount: 0,
                sharedEncoderCount: 0,
                sharedJpegCount: 0,
                sharedOfaCount: 0,
            };
            let asked = call!(
                self.lib(),
                nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, index, SHARED_ENGINES, &mut info)
            );
            match asked.as_ref().map_err(|failure| failure.ret) {
                Ok(()) => {}
                Err(NvmlReturn::NOT_SUPPORTED) => continue,
                // The first index exists everywhere, so there it is the handle that is no good.
                Err(NvmlReturn::INVALID_ARGUMENT) if index > 0 => break,
                Err(_) => asked?,
            }
            let slices = narrow(CALL, "the number of compute slices", info.sliceCount)?;
            let id = ComputeProfileId::new(info.id);
            profiles.push(ComputeProfile {
                index: ComputeProfileIndex::new(index),
                id,
                slices,
                starts: self.compute_starts(gi, id)?,
            });
        }
        // R470 cannot be asked where they start. Only for the largest, which fills the GPU
        // instance, is that known all the same.
        if let Some(whole) = profiles.iter_mut().max_by_key(|profile| profile.slices) {
            if whole.starts.is_empty() {
                whole.starts.push(0);
            }
        }
        Ok(profiles)
    }

    /// Where compute instances of a profile may start; nowhere that is known on R470.
    fn compute_starts(
        &self,
        gi: nvmlGpuInstance_t,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<u8>> {
        const CALL: &str = "nvmlGpuInstanceGetComputeInstancePossiblePlacements";
        let mut places = [nvmlComputeInstancePlacement_t { start: 0, size: 0 }; ROOM];
        let mut count = ROOM as c_uint;
        let asked = call!(
            self.lib(),
            nvmlGpuInstanceGetComputeInstancePossiblePlacements(
                gi,
                profile.get(),
                places.as_mut_ptr(),
                &mut count
            )
        );
        match asked {
            Ok(()) => {}
            Err(NvmlFailure { ret: NvmlReturn::FUNCTION_NOT_FOUND, .. }) => {
                return Ok(Vec::new());
            }
            Err(failure) => return Err(failure),
        }
        filled(CALL, &places, count)?
            .iter()
            .map(|place| narrow(CALL, "the start of a compute instance", place.start))
            .collect()
    }

    pub(super) fn compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<ComputeInstanceInfo>> {
        let handles = self.compute_handles(gpu, gi, profile)?;
        handles.into_iter().map(|handle| self.compute_instance(gpu, gi, handle)).collect()
    }

    pub(super) fn unnamed_compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<UnnamedComputeInstance>> {
        let handles = self.compute_handles(gpu, gi, profile)?;
        handles.into_iter().map(|handle| Ok(self.describe_compute_instance(handle)?.0)).collect()
    }

    fn compute_handles(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<nvmlComputeInstance_t>> {
        let handle = self.instance(gpu, gi)?;
        let mut handles = [ptr::null_mut(); ROOM];
        let mut count = ROOM as c_uint;
        let listed = call!(
            self.lib(),
            nvmlGpuInstanceGetComputeInstances(
                handle,
                profile.get(),
                handles.as_mut_ptr(),
                &mut count
            )
        );
        self.settle(gpu, gi, listed)?;
        Ok(filled("nvmlGpuInstanceGetComputeInstances", &handles, count)?.to_vec())
    }

    /// A compute instance, and the device that its description names.
    fn describe_compute_instance(
        &self,
        handle: nvmlComputeInstance_t,
    ) -> NvmlResult<(UnnamedComputeInstance, nvmlDevice_t)> {
        const CALL: &str = "nvmlComputeInstanceGetInfo_v2";
        let mut info = nvmlComputeInstanceInfo_t {
            device: ptr::null_mut(),
            gpuInstance: ptr::null_mut(),
            id: 0,
            profileId: 0,
            placement: nvmlComputeInstancePlacement_t { start: 0, size: 0 },
        };
        call!(self.lib(), nvmlComputeInstanceGetInfo_v2(handle, &mut info))?;
        let found = UnnamedComputeInstance {
            id: ComputeInstanceId::new(info.id),
            profile: ComputeProfileId::new(info.profileId),
            placement: Placement {
                start: narrow(CALL, "the start of a compute instance", info.placement.start)?,
                size: narrow(CALL, "the size of a compute instance", info.placement.size)?,
            },
        };
        Ok((found, info.device))
    }

    fn compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        handle: nvmlComputeInstance_t,
    ) -> NvmlResult<ComputeInstanceInfo> {
        let (UnnamedComputeInstance { id, profile, placement }, device) =
            self.describe_compute_instance(handle)?;
        let uuid = self.mig_uuid(gpu, gi, id, device)?;
        Ok(ComputeInstanceInfo { id, profile, placement, uuid })
    }

    /// Creates a compute instance. R470 knows no placements: there, it works without one.
    pub(super) fn create_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
        placement: Option<Placement>,
    ) -> NvmlResult<ComputeInstanceInfo> {
        let instance = self.instance(gpu, gi)?;
        let mut handle = ptr::null_mut();
        let created = match placement {
            Some(placement) => {
                let place = nvmlComputeInstancePlacement_t {
                    start: placement.start.into(),
                    size: placement.size.into(),
                };
                call!(
                    self.lib(),
                    nvmlGpuInstanceCreateComputeInstanceWithPlacement(
                        instance,
                        profile.get(),
                        &place,
                        &mut handle
                    )
                )
            }
            None => call!(
                self.lib(),
                nvmlGpuInstanceCreateComputeInstance(instance, profile.get(), &mut handle)
            ),
        };
        self.settle(gpu, gi, created)?;
        self.forget_mig_devices(gpu);
        self.compute_instance(gpu, gi, handle)
    }

    pub(super) fn destroy_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
    ) -> NvmlResult<()> {
        let instance = self.instance(gpu, gi)?;
        let mut handle = ptr::null_mut();
        let found = call!(
            self.lib(),
            nvmlGpuInstanceGetComputeInstanceById(instance, ci.get(), &mut handle)
        );
        self.settle(gpu, gi, found)?;
        self.forget_mig_devices(gpu);
        call!(self.lib(), nvmlComputeInstanceDestroy(handle))
    }
}
