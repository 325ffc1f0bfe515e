//! Compute instances and their profiles.

use std::ffi::c_uint;

use gpushare_core::backend::sim::RawComputeProfile;
use gpushare_core::id::{ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid};
use gpushare_core::mig::Placement;
use gpushare_core::port::{ComputeInstanceInfo, Nvml as _, NvmlReturn};
use nvml_wrapper_sys::bindings::{
    nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t, nvmlComputeInstanceProfileInfo_t,
    nvmlComputeInstanceProfileInfo_v2_t, nvmlComputeInstanceProfileInfo_v3_t,
};

use crate::abi::{Answer, Handle, INVALID, In, Many, Out, Versioned, fixed, nvml, struct_version};
use crate::session::{Object, Session};

/// The first compute-instance profile index that no driver knows.
const PROFILE_END: c_uint = 9;

fn profile(session: &mut Session, instance: Handle, index: c_uint) -> Answer<RawComputeProfile> {
    let (gpu, gi) = session.gpu_instance(instance)?;
    let all = session.nvml.raw_compute_profiles(&gpu, gi)?;
    if index >= PROFILE_END {
        return Err(INVALID);
    }
    let found = all.into_iter().find(|raw| raw.profile.index.get() == index);
    Ok(found.ok_or(NvmlReturn::NOT_SUPPORTED)?)
}

/// The compute instances of a GPU instance, of one profile or of all.
fn instances(
    session: &mut Session,
    gpu: &GpuUuid,
    gi: GpuInstanceId,
    of: Option<ComputeProfileId>,
) -> Answer<Vec<ComputeInstanceInfo>> {
    let mut found = Vec::new();
    for raw in session.nvml.raw_compute_profiles(gpu, gi)? {
        if of.is_none_or(|of| of == raw.profile.id) {
            found.extend(session.nvml.compute_instances(gpu, gi, raw.profile.id)?);
        }
    }
    Ok(found)
}

fn info(session: &mut Session, handle: Handle) -> Answer<nvmlComputeInstanceInfo_t> {
    let (gpu, gi, ci) = session.compute_instance(handle)?;
    let all = instances(session, &gpu, gi, None)?;
    let found = all.into_iter().find(|found| found.id == ci).ok_or(NvmlReturn::NOT_FOUND)?;
    let device = match std::env::var("GPUSHARE_NVML_CI_DEVICE").as_deref() {
        Ok("mig") => Object::Mig { uuid: found.uuid, gpu: gpu.clone(), gi, ci },
        _ => Object::Gpu(gpu.clone()),
    };
    Ok(nvmlComputeInstanceInfo_t {
        device: session.give(device).pointer(),
        gpuInstance: session.give(Object::GpuInstance { gpu, gi }).pointer(),
        id: found.id.get(),
        profileId: found.profile.get(),
        placement: nvmlComputeInstancePlacement_t {
            start: found.placement.start.into(),
            size: found.placement.size.into(),
        },
    })
}

fn create(
    session: &mut Session,
    instance: Handle,
    profile: c_uint,
    placement: Option<nvmlComputeInstancePlacement_t>,
    made: &Out<Handle>,
) -> Answer {
    let (gpu, gi) = session.gpu_instance(instance)?;
    let placement = match placement {
        Some(place) => match (u8::try_from(place.start), u8::try_from(place.size)) {
            (Ok(start), Ok(size)) => Some(Placement { start, size }),
            _ => return Err(INVALID),
        },
        None => None,
    };
    let profile = ComputeProfileId::new(profile);
    let ci = session.nvml.create_compute_instance(&gpu, gi, profile, placement)?.id;
    made.set(session.give(Object::ComputeInstance { gpu, gi, ci }))
}

nvml! {
    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
        session,
        instance: Handle,
        index: c_uint,
        engines: c_uint,
        info: Out<nvmlComputeInstanceProfileInfo_t>,
    ) {
        let raw = profile(session, instance, index)?;
        if engines != 0 {
            return Err(INVALID);
        }
        let shared = &raw.gpu_instance;
        info.set(nvmlComputeInstanceProfileInfo_t {
            id: raw.profile.id.get(),
            sliceCount: raw.profile.slices.into(),
            instanceCount: raw.max_instances,
            multiprocessorCount: raw.sm_count,
            sharedCopyEngineCount: shared.copy_engines,
            sharedDecoderCount: shared.profile.engines.decoders.into(),
            sharedEncoderCount: shared.profile.engines.encoders.into(),
            sharedJpegCount: shared.profile.engines.jpeg.into(),
            sharedOfaCount: shared.profile.engines.optical_flow.into(),
        })
    }

    fn nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        session, instance: Handle, index: c_uint, engines: c_uint, info: Versioned,
    ) {
        let raw = profile(session, instance, index)?;
        if engines != 0 {
            return Err(INVALID);
        }
        let shared = &raw.gpu_instance;
        let of = shared.profile.name.with_compute(raw.profile.slices);
        let name = fixed(format_args!("MIG {of}"));
        let word = info.word()?;
        if word == struct_version::<nvmlComputeInstanceProfileInfo_v3_t>(3) {
            return info.set(3, nvmlComputeInstanceProfileInfo_v3_t {
                version: word,
                id: raw.profile.id.get(),
                sliceCount: raw.profile.slices.into(),
                instanceCount: raw.max_instances,
                multiprocessorCount: raw.sm_count,
                sharedCopyEngineCount: shared.copy_engines,
                sharedDecoderCount: shared.profile.engines.decoders.into(),
                sharedEncoderCount: shared.profile.engines.encoders.into(),
                sharedJpegCount: shared.profile.engines.jpeg.into(),
                sharedOfaCount: shared.profile.engines.optical_flow.into(),
                name,
                capabilities: 0,
            });
        }
        info.set(2, nvmlComputeInstanceProfileInfo_v2_t {
            version: word,
            id: raw.profile.id.get(),
            sliceCount: raw.profile.slices.into(),
            instanceCount: raw.max_instances,
            multiprocessorCount: raw.sm_count,
            sharedCopyEngineCount: shared.copy_engines,
            sharedDecoderCount: shared.profile.engines.decoders.into(),
            sharedEncoderCount: shared.profile.engines.encoders.into(),
            sharedJpegCount: shared.profile.engines.jpeg.into(),
            sharedOfaCount: shared.profile.engines.optical_flow.into(),
            name,
        })
    }

    fn nvmlGpuInstanceGetComputeInstancePossiblePlacements(
        session,
        instance: Handle,
        profile: c_uint,
        places: Many<nvmlComputeInstancePlacement_t>,
        count: Out<c_uint>,
    ) {
        let (gpu, gi) = session.gpu_instance(instance)?;
        let all = session.nvml.compute_profiles(&gpu, gi)?;
        let found = all.iter().find(|found| found.id.get() == profile).ok_or(INVALID)?;
        let size = found.slices.into();
        let all: Vec<_> = found
            .starts
            .iter()
            .map(|&start| nvmlComputeInstancePlacement_t { start: start.into(), size })
            .collect();
        let number = c_uint::try_from(all.len()).map_err(|_| NvmlReturn::UNKNOWN)?;
        if !places.is_null() {
            places.fill(number, &all)?;
        }
        count.set(number)
    }

    fn nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        session, instance: Handle, profile: c_uint, count: Out<c_uint>,
    ) {
        let (gpu, gi) = session.gpu_instance(instance)?;
        let profile = ComputeProfileId::new(profile);
        count.set(session.nvml.compute_remaining_capacity(&gpu, gi, profile)?)
    }

    fn nvmlGpuInstanceCreateComputeInstance(
        session, instance: Handle, profile: c_uint, made: Out<Handle>,
    ) {
        create(session, instance, profile, None, &made)
    }

    fn nvmlGpuInstanceCreateComputeInstanceWithPlacement(
        session,
        instance: Handle,
        profile: c_uint,
        placement: In<nvmlComputeInstancePlacement_t>,
        made: Out<Handle>,
    ) {
        create(session, instance, profile, Some(placement.get()?), &made)
    }

    fn nvmlGpuInstanceGetComputeInstances(
        session, instance: Handle, profile: c_uint, found: Many<Handle>, count: Out<c_uint>,
    ) {
        let (gpu, gi) = session.gpu_instance(instance)?;
        let all = session.nvml.raw_compute_profiles(&gpu, gi)?;
        let most = all.iter().find(|raw| raw.profile.id.get() == profile);
        let most = most.ok_or(INVALID)?.max_instances;
        let all = instances(session, &gpu, gi, Some(ComputeProfileId::new(profile)))?;
        let handles: Vec<_> = all
            .iter()
            .map(|info| {
                session.give(Object::ComputeInstance { gpu: gpu.clone(), gi, ci: info.id })
            })
            .collect();
        // nvml.h: the buffer has room for all instances that the profile supports.
        found.fill(most, &handles)?;
        count.set(c_uint::try_from(handles.len()).map_err(|_| NvmlReturn::UNKNOWN)?)
    }

    fn nvmlGpuInstanceGetComputeInstanceById(
        session, instance: Handle, id: c_uint, found: Out<Handle>,
    ) {
        let (gpu, gi) = session.gpu_instance(instance)?;
        let ci = ComputeInstanceId::new(id);
        let all = instances(session, &gpu, gi, None)?;
        if !all.iter().any(|info| info.id == ci) {
            return Err(NvmlReturn::NOT_FOUND.into());
        }
        found.set(session.give(Object::ComputeInstance { gpu, gi, ci }))
    }

    fn nvmlComputeInstanceGetInfo_v2(
        session, instance: Handle, out: Out<nvmlComputeInstanceInfo_t>,
    ) {
        let found = info(session, instance)?;
        out.set(found)
    }

    fn nvmlComputeInstanceDestroy(session, instance: Handle) {
        let (gpu, gi, ci) = session.compute_instance(instance)?;
        Ok(session.nvml.destroy_compute_instance(&gpu, gi, ci)?)
    }
}
