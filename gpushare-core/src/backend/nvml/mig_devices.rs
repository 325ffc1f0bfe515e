//! MIG devices: compute instances as everybody sees them.

use std::ptr;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlDeviceAttributes_t};

use super::library::{Handle, Session, call, narrow, senseless};
use crate::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, MigUuid};
use crate::port::{MigDeviceInfo, NvmlFailure, NvmlResult, NvmlReturn};
use crate::units::Bytes;

/// Where the search for a MIG device stops if the driver never says that it is over. A GPU has 7
/// at most today.
const MOST_DEVICES: u32 = 64;

/// The MIG devices of a GPU that were found so far, and where the search goes on.
#[derive(Debug, Default)]
pub(super) struct Found {
    next: u32,
    devices: Vec<(Handle<nvmlDevice_t>, GpuInstanceId, ComputeInstanceId)>,
}

impl Session {
    pub(super) fn mig_devices(&mut self, gpu: &GpuUuid) -> NvmlResult<Vec<MigDeviceInfo>> {
        const CALL: &str = "nvmlDeviceGetAttributes_v2";
        let mut devices = Vec::new();
        for (handle, gi, ci) in self.mig_handles(gpu)? {
            let uuid = mig_uuid(self.uuid_of(handle)?)?;
            let mut attributes = nvmlDeviceAttributes_t {
                multiprocessorCount: 0,
                sharedCopyEngineCount: 0,
                sharedDecoderCount: 0,
                sharedEncoderCount: 0,
                sharedJpegCount: 0,
                sharedOfaCount: 0,
                gpuInstanceSliceCount: 0,
                computeInstanceSliceCount: 0,
                memorySizeMB: 0,
            };
            call!(self.lib(), nvmlDeviceGetAttributes_v2(handle, &mut attributes))?;
            devices.push(MigDeviceInfo {
                uuid,
                gi,
                ci,
                gpu_slices: narrow(CALL, "the GPU slices", attributes.gpuInstanceSliceCount)?,
                compute_slices: narrow(
                    CALL,
                    "the compute slices",
                    attributes.computeInstanceSliceCount,
                )?,
                memory: Bytes::from_mebibytes(attributes.memorySizeMB),
                sm_count: attributes.multiprocessorCount,
            });
        }
        Ok(devices)
    }

    /// The handles of the MIG devices of a GPU, with their GPU and compute instance. Their
    /// indices have holes where devices were destroyed.
    fn mig_handles(
        &mut self,
        gpu: &GpuUuid,
    ) -> NvmlResult<Vec<(nvmlDevice_t, GpuInstanceId, ComputeInstanceId)>> {
        let device = self.handle(gpu)?;
        let mut most = 0;
        call!(self.lib(), nvmlDeviceGetMaxMigDeviceCount(device, &mut most))?;
        let mut handles = Vec::new();
        for index in 0..most {
            match self.mig_handle(device, index) {
                Ok(found) => handles.push(found),
                Err(NvmlFailure { ret: NvmlReturn::NOT_FOUND, .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(handles)
    }

    fn mig_handle(
        &self,
        device: nvmlDevice_t,
        index: u32,
    ) -> NvmlResult<(nvmlDevice_t, GpuInstanceId, ComputeInstanceId)> {
        let mut handle = ptr::null_mut();
        call!(self.lib(), nvmlDeviceGetMigDeviceHandleByIndex(device, index, &mut handle))?;
        let (mut gi, mut ci) = (0, 0);
        call!(self.lib(), nvmlDeviceGetGpuInstanceId(handle, &mut gi))?;
        call!(self.lib(), nvmlDeviceGetComputeInstanceId(handle, &mut ci))?;
        Ok((handle, GpuInstanceId::new(gi), ComputeInstanceId::new(ci)))
    }

    /// The uuid of the MIG device that a compute instance is.
    ///
    /// `of` is the device that its description names. nvml.h calls that the parent device, and
    /// nvidia-smi 535 to 555 print its index as the GPU's: it is the GPU. NVIDIA's DRA driver took
    /// it for the MIG device until its version 0.5.0. Whichever it is on this driver, it says so.
    pub(super) fn mig_uuid(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
        of: nvmlDevice_t,
    ) -> NvmlResult<MigUuid> {
        if of != self.handle(gpu)? {
            let uuid = self.uuid_of(of)?;
            if !uuid.starts_with(GpuUuid::PREFIX) {
                return mig_uuid(uuid);
            }
        }
        let handle = self.find_mig_device(gpu, gi, ci)?;
        let uuid = match self.uuid_of(handle) {
            Ok(uuid) => uuid,
            // It was found some time ago, and may have been destroyed and made again since.
            Err(_) => {
                self.forget_mig_devices(gpu);
                let handle = self.find_mig_device(gpu, gi, ci)?;
                self.uuid_of(handle)?
            }
        };
        mig_uuid(uuid)
    }

    /// The handle of a MIG device, searched for no further than it stands. What was found is
    /// remembered until something of the GPU's instances is changed or its MIG mode is read,
    /// which is how an observation begins.
    fn find_mig_device(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
    ) -> NvmlResult<nvmlDevice_t> {
        let device = self.handle(gpu)?;
        let mut found = self.take_mig_devices(gpu);
        let wanted = |devices: &[(Handle<nvmlDevice_t>, _, _)]| {
            let known = devices.iter().find(|&&(_, of_gi, of_ci)| (of_gi, of_ci) == (gi, ci));
            known.map(|(handle, ..)| handle.0)
        };
        let mut anew = found.next > 0;
        let answer = loop {
            if let Some(handle) = wanted(&found.devices) {
                break Ok(handle);
            }
            let next = if found.next < MOST_DEVICES {
                self.mig_handle(device, found.next)
            } else {
                Err(NvmlFailure::new(
                    "nvmlDeviceGetMigDeviceHandleByIndex",
                    NvmlReturn::INVALID_ARGUMENT,
                ))
            };
            match next {
                Ok((handle, gi, ci)) => found.devices.push((Handle(handle), gi, ci)),
                Err(NvmlFailure { ret: NvmlReturn::NOT_FOUND, .. }) => {}
                // Past the end. What was searched before it was made is searched once more.
                Err(NvmlFailure { ret: NvmlReturn::INVALID_ARGUMENT, .. }) if anew => {
                    found = Found::default();
                    anew = false;
                    continue;
                }
                Err(NvmlFailure { ret: NvmlReturn::INVALID_ARGUMENT, call, .. }) => {
                    break Err(NvmlFailure::new(call, NvmlReturn::NOT_FOUND));
                }
                Err(failure) => break Err(failure),
            }
            found.next += 1;
        };
        self.put_mig_devices(gpu, found);
        answer
    }
}

fn mig_uuid(text: String) -> NvmlResult<MigUuid> {
    text.parse().map_err(|_| {
        senseless("nvmlDeviceGetUUID", format!("a MIG device says that its uuid is {text:?}"))
    })
}
