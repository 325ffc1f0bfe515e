//! GPU instances.

use std::ffi::c_uint;

use gpushare_core::id::{GpuInstanceId, ProfileId};
use gpushare_core::mig::Placement;
use gpushare_core::port::{Nvml as _, NvmlReturn};
use nvml_wrapper_sys::bindings::{nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t};

use crate::abi::{Handle, INVALID, In, Many, Out, nvml};
use crate::session::Object;

nvml! {
    fn nvmlDeviceGetGpuInstances(
        session, device: Handle, profile: c_uint, instances: Many<Handle>, count: Out<c_uint>,
    ) {
        let gpu = session.gpu(device)?;
        let known = session.nvml.product(&gpu)?.profile(ProfileId::new(profile));
        let known = known.ok_or(INVALID)?.to_profile();
        let found = session.nvml.gpu_instances(&gpu, &known)?;
        let handles: Vec<_> = found
            .iter()
            .map(|found| session.give(Object::GpuInstance { gpu: gpu.clone(), gi: found.id }))
            .collect();
        // nvml.h: the buffer has room for all instances that the profile supports.
        instances.fill(known.max_instances.into(), &handles)?;
        count.set(c_uint::try_from(handles.len()).map_err(|_| NvmlReturn::UNKNOWN)?)
    }

    fn nvmlDeviceGetGpuInstanceById(session, device: Handle, id: c_uint, instance: Out<Handle>) {
        let gpu = session.gpu(device)?;
        let gi = session.nvml.gpu_instance(&gpu, GpuInstanceId::new(id))?.id;
        instance.set(session.give(Object::GpuInstance { gpu, gi }))
    }

    fn nvmlGpuInstanceGetInfo(session, instance: Handle, info: Out<nvmlGpuInstanceInfo_t>) {
        let (gpu, gi) = session.gpu_instance(instance)?;
        let found = session.nvml.gpu_instance(&gpu, gi)?;
        info.set(nvmlGpuInstanceInfo_t {
            device: session.give(Object::Gpu(gpu)).pointer(),
            id: found.id.get(),
            profileId: found.profile.get(),
            placement: nvmlGpuInstancePlacement_t {
                start: found.placement.start.into(),
                size: found.placement.size.into(),
            },
        })
    }

    fn nvmlDeviceCreateGpuInstance(
        session, device: Handle, profile: c_uint, instance: Out<Handle>,
    ) {
        let gpu = session.gpu(device)?;
        let made = session.nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(profile))?;
        instance.set(session.give(Object::GpuInstance { gpu, gi: made.id }))
    }

    fn nvmlDeviceCreateGpuInstanceWithPlacement(
        session,
        device: Handle,
        profile: c_uint,
        placement: In<nvmlGpuInstancePlacement_t>,
        instance: Out<Handle>,
    ) {
        let gpu = session.gpu(device)?;
        let place = placement.get()?;
        let place = match (u8::try_from(place.start), u8::try_from(place.size)) {
            (Ok(start), Ok(size)) => Placement { start, size },
            _ => return Err(INVALID),
        };
        let made = session.nvml.create_gpu_instance(&gpu, ProfileId::new(profile), place)?;
        instance.set(session.give(Object::GpuInstance { gpu, gi: made.id }))
    }

    fn nvmlGpuInstanceDestroy(session, instance: Handle) {
        let (gpu, gi) = session.gpu_instance(instance)?;
        Ok(session.nvml.destroy_gpu_instance(&gpu, gi)?)
    }
}
