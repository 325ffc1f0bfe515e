//! GPU-instance profiles, their placements, and how many more instances fit.

use std::ffi::c_uint;

use gpushare_core::backend::sim::RawProfile;
use gpushare_core::id::{GpuUuid, ProfileId, ProfileIndex};
use gpushare_core::port::{Nvml as _, NvmlReturn};
use nvml_wrapper_sys::bindings::{
    nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t,
    nvmlGpuInstanceProfileInfo_v3_t,
};

use crate::abi::{Answer, Handle, Many, Out, Versioned, fixed, nvml, struct_version};
use crate::session::Session;

fn write(raw: &RawProfile, info: &Versioned) -> Answer {
    let profile = &raw.profile;
    let name = fixed(format_args!("MIG {}", profile.name));
    let (v2, v3) = (
        struct_version::<nvmlGpuInstanceProfileInfo_v2_t>(2),
        struct_version::<nvmlGpuInstanceProfileInfo_v3_t>(3),
    );
    match info.word()? {
        word if word == v2 => info.set(
            2,
            nvmlGpuInstanceProfileInfo_v2_t {
                version: word,
                id: profile.id.get(),
                isP2pSupported: 0,
                sliceCount: profile.slices.into(),
                instanceCount: profile.max_instances.into(),
                multiprocessorCount: profile.sm_count,
                copyEngineCount: raw.copy_engines,
                decoderCount: profile.engines.decoders.into(),
                encoderCount: profile.engines.encoders.into(),
                jpegCount: profile.engines.jpeg.into(),
                ofaCount: profile.engines.optical_flow.into(),
                memorySizeMB: profile.memory.get() >> 20,
                name,
            },
        ),
        word if word == v3 => info.set(
            3,
            nvmlGpuInstanceProfileInfo_v3_t {
                version: word,
                id: profile.id.get(),
                sliceCount: profile.slices.into(),
                instanceCount: profile.max_instances.into(),
                multiprocessorCount: profile.sm_count,
                copyEngineCount: raw.copy_engines,
                decoderCount: profile.engines.decoders.into(),
                encoderCount: profile.engines.encoders.into(),
                jpegCount: profile.engines.jpeg.into(),
                ofaCount: profile.engines.optical_flow.into(),
                memorySizeMB: profile.memory.get() >> 20,
                name,
                capabilities: 0,
            },
        ),
        _ => Err(NvmlReturn::ARGUMENT_VERSION_MISMATCH.into()),
    }
}

fn placements(
    session: &mut Session,
    gpu: &GpuUuid,
    profile: c_uint,
    places: &Many<nvmlGpuInstancePlacement_t>,
    count: &Out<c_uint>,
) -> Answer {
    let found = session.nvml.placements(gpu, ProfileId::new(profile))?;
    let found: Vec<_> = found
        .iter()
        .map(|place| nvmlGpuInstancePlacement_t {
            start: place.start.into(),
            size: place.size.into(),
        })
        .collect();
    let number = c_uint::try_from(found.len()).map_err(|_| NvmlReturn::UNKNOWN)?;
    if !places.is_null() {
        // nvml.h: the buffer must be large enough, and its size is not passed.
        places.fill(number, &found)?;
    }
    count.set(number)
}

nvml! {
    fn nvmlDeviceGetGpuInstanceProfileInfo(
        session, device: Handle, index: c_uint, info: Out<nvmlGpuInstanceProfileInfo_t>,
    ) {
        let gpu = session.gpu(device)?;
        let raw = session.nvml.raw_profile(&gpu, ProfileIndex::new(index))?;
        let profile = raw.profile;
        info.set(nvmlGpuInstanceProfileInfo_t {
            id: profile.id.get(),
            isP2pSupported: 0,
            sliceCount: profile.slices.into(),
            instanceCount: profile.max_instances.into(),
            multiprocessorCount: profile.sm_count,
            copyEngineCount: raw.copy_engines,
            decoderCount: profile.engines.decoders.into(),
            encoderCount: profile.engines.encoders.into(),
            jpegCount: profile.engines.jpeg.into(),
            ofaCount: profile.engines.optical_flow.into(),
            memorySizeMB: profile.memory.get() >> 20,
        })
    }

    fn nvmlDeviceGetGpuInstanceProfileInfoV(
        session, device: Handle, index: c_uint, info: Versioned,
    ) {
        let gpu = session.gpu(device)?;
        write(&session.nvml.raw_profile(&gpu, ProfileIndex::new(index))?, &info)
    }

    fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        session,
        device: Handle,
        profile: c_uint,
        places: Many<nvmlGpuInstancePlacement_t>,
        count: Out<c_uint>,
    ) {
        let gpu = session.gpu(device)?;
        placements(session, &gpu, profile, &places, &count)
    }

    fn nvmlDeviceGetGpuInstancePossiblePlacements(
        session,
        device: Handle,
        profile: c_uint,
        places: Many<nvmlGpuInstancePlacement_t>,
        count: Out<c_uint>,
    ) {
        let gpu = session.gpu(device)?;
        placements(session, &gpu, profile, &places, &count)
    }

    fn nvmlDeviceGetGpuInstanceRemainingCapacity(
        session, device: Handle, profile: c_uint, count: Out<c_uint>,
    ) {
        let gpu = session.gpu(device)?;
        count.set(session.nvml.remaining_capacity(&gpu, ProfileId::new(profile))?)
    }
}
