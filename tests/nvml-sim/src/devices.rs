//! What GPUs and MIG devices are, and the modes of GPUs.

use std::ffi::{c_char, c_int, c_uint};

use gpushare_core::id::GpuUuid;
use gpushare_core::mig::{Attribute, ProfileName};
use gpushare_core::mode::ComputeMode;
use gpushare_core::port::{Activation, MigDeviceInfo, Nvml as _, NvmlReturn};
use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlDeviceAttributes_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t,
    nvmlPciInfoExt_t,
};

use crate::abi::{Answer, Handle, INVALID, Many, Out, Versioned, fixed, nvml, struct_version};
use crate::session::{Object, Session};

fn mig_device(session: &mut Session, device: Object) -> Answer<MigDeviceInfo> {
    let Object::Mig { uuid, gpu, .. } = device else {
        return Err(NvmlReturn::NOT_SUPPORTED.into());
    };
    let all = session.nvml.mig_devices(&gpu)?;
    let found = all.into_iter().find(|device| device.uuid == uuid);
    Ok(found.ok_or(NvmlReturn::NOT_FOUND)?)
}

/// The name of a MIG device: that of its GPU and the profile.
fn name(session: &mut Session, device: Object) -> Answer<String> {
    match device {
        Object::Gpu(gpu) => Ok(session.nvml.name(&gpu)?),
        Object::Mig { ref gpu, gi, .. } => {
            let gpu = gpu.clone();
            let device = mig_device(session, device)?;
            let profiles = session.nvml.product(&gpu)?.profiles;
            // Where the caller may not ask for the GPU instance, size and memory tell all but
            // the variants apart.
            let by_id = session.nvml.gpu_instance(&gpu, gi).ok();
            let by_size = || {
                profiles.iter().find(|profile| {
                    profile.to_profile().slices == device.gpu_slices
                        && profile.memory == device.memory
                        && profile.name.attribute == Attribute::Plain
                })
            };
            let profile = match by_id {
                Some(info) => profiles.iter().find(|profile| profile.id == info.profile),
                None => by_size(),
            };
            let short = ProfileName::short(device.gpu_slices);
            let name = profile.map_or(short, |profile| profile.name);
            let name = name.with_compute(device.compute_slices);
            Ok(format!("{} MIG {name}", session.nvml.name(&gpu)?))
        }
        _ => Err(INVALID),
    }
}

/// Memory in all and in use.
fn memory(session: &mut Session, device: Object) -> Answer<(u64, u64)> {
    let (total, used) = match device {
        Object::Gpu(gpu) => {
            (session.nvml.memory_total(&gpu)?, session.nvml.memory_used(&gpu, None)?)
        }
        Object::Mig { ref gpu, gi, .. } => {
            let used = session.nvml.memory_used(gpu, Some(gi))?;
            (mig_device(session, device)?.memory, used)
        }
        _ => return Err(INVALID),
    };
    Ok((total.get(), used.get().min(total.get())))
}

/// What PCI says, and the parts of the address, which only its text tells.
fn pci(session: &mut Session, gpu: &GpuUuid) -> Answer<(nvmlPciInfo_t, String)> {
    let info = session.nvml.pci_info(gpu)?;
    let text = info.address.to_string();
    let number = |part: Option<&str>| {
        part.and_then(|part| u32::from_str_radix(part, 16).ok()).ok_or(NvmlReturn::UNKNOWN)
    };
    let mut parts = text.split([':', '.']);
    let (domain, bus, slot) = (number(parts.next())?, number(parts.next())?, number(parts.next())?);
    let raw = nvmlPciInfo_t {
        busIdLegacy: fixed(format_args!("{domain:04X}:{bus:02X}:{slot:02X}.0")),
        domain,
        bus,
        device: slot,
        pciDeviceId: info.device_id.get(),
        pciSubSystemId: info.subsystem_id,
        busId: fixed(format_args!("{domain:08X}:{bus:02X}:{slot:02X}.0")),
    };
    Ok((raw, text))
}

nvml! {
    fn nvmlDeviceGetIndex(session, device: Handle, index: Out<c_uint>) {
        let place = match session.device(device)? {
            // Among the MIG devices of its GPU: nvidia-smi -q shows it so.
            Object::Mig { uuid, gpu, .. } => {
                session.nvml.mig_devices(&gpu)?.iter().position(|known| known.uuid == uuid)
            }
            _ => {
                let gpu = session.gpu(device)?;
                session.gpus()?.iter().position(|known| *known == gpu)
            }
        };
        let place = place.and_then(|place| c_uint::try_from(place).ok());
        index.set(place.ok_or(NvmlReturn::NOT_FOUND)?)
    }

    fn nvmlDeviceGetName(session, device: Handle, text: Many<c_char>, length: c_uint) {
        let device = session.device(device)?;
        text.text(length, &name(session, device)?)
    }

    fn nvmlDeviceGetUUID(session, device: Handle, text: Many<c_char>, length: c_uint) {
        match session.device(device)? {
            Object::Mig { uuid, .. } => {
                session.nvml.mig_device(&uuid)?;
                text.text(length, uuid.as_str())
            }
            _ => text.text(length, session.gpu(device)?.as_str()),
        }
    }

    fn nvmlDeviceGetMinorNumber(session, device: Handle, minor: Out<c_uint>) {
        let gpu = session.gpu(device)?;
        minor.set(session.nvml.minor_number(&gpu)?.get())
    }

    fn nvmlDeviceGetPciInfo_v3(session, device: Handle, info: Out<nvmlPciInfo_t>) {
        let gpu = session.parent(device)?;
        info.set(pci(session, &gpu)?.0)
    }

    fn nvmlDeviceGetPciInfoExt(session, device: Handle, info: Versioned) {
        let gpu = session.parent(device)?;
        let (raw, _) = pci(session, &gpu)?;
        info.set(1, nvmlPciInfoExt_t {
            version: struct_version::<nvmlPciInfoExt_t>(1),
            domain: raw.domain,
            bus: raw.bus,
            device: raw.device,
            pciDeviceId: raw.pciDeviceId,
            pciSubSystemId: raw.pciSubSystemId,
            baseClass: 3,
            subClass: 2,
            busId: raw.busId,
        })
    }

    fn nvmlDeviceGetMemoryInfo(session, device: Handle, info: Out<nvmlMemory_t>) {
        let device = session.device(device)?;
        let (total, used) = memory(session, device)?;
        info.set(nvmlMemory_t { total, used, free: total - used })
    }

    fn nvmlDeviceGetMemoryInfo_v2(session, device: Handle, info: Versioned) {
        let device = session.device(device)?;
        let (total, used) = memory(session, device)?;
        let version = struct_version::<nvmlMemory_v2_t>(2);
        info.set(2, nvmlMemory_v2_t { version, total, reserved: 0, used, free: total - used })
    }

    fn nvmlDeviceGetBAR1MemoryInfo(session, device: Handle, info: Out<nvmlBAR1Memory_t>) {
        let device = session.device(device)?;
        // As large as the memory and empty. Without it nvidia-smi shows no MIG devices.
        let (total, _) = memory(session, device)?;
        info.set(nvmlBAR1Memory_t { bar1Total: total, bar1Free: total, bar1Used: 0 })
    }

    fn nvmlDeviceGetCudaComputeCapability(
        session, device: Handle, major: Out<c_int>, minor: Out<c_int>,
    ) {
        let gpu = session.parent(device)?;
        let (a, b) = session.nvml.compute_capability(&gpu)?;
        major.set(c_int::try_from(a).map_err(|_| INVALID)?)?;
        minor.set(c_int::try_from(b).map_err(|_| INVALID)?)
    }

    fn nvmlDeviceGetArchitecture(session, device: Handle, architecture: Out<c_uint>) {
        let gpu = session.parent(device)?;
        // NVML_DEVICE_ARCH_*
        architecture.set(match session.nvml.compute_capability(&gpu)? {
            (6, _) => 4,
            (7, 5) => 6,
            (7, _) => 5,
            (8, 9) => 8,
            (8, _) => 7,
            (9, _) => 9,
            (10.., _) => 10,
            _ => c_uint::MAX,
        })
    }

    fn nvmlDeviceGetBrand(session, device: Handle, brand: Out<c_uint>) {
        session.device(device)?;
        // NVML_BRAND_NVIDIA, as an H200 says.
        brand.set(14)
    }

    fn nvmlDeviceGetNumGpuCores(session, device: Handle, cores: Out<c_uint>) {
        let gpu = session.gpu(device)?;
        cores.set(session.nvml.core_count(&gpu)?)
    }

    fn nvmlDeviceGetPersistenceMode(session, device: Handle, mode: Out<c_uint>) {
        session.gpu(device)?;
        mode.set(1)
    }

    fn nvmlDeviceSetPersistenceMode(session, device: Handle, _mode: c_uint) {
        session.gpu(device)?;
        Ok(())
    }

    fn nvmlDeviceGetComputeMode(session, device: Handle, mode: Out<c_uint>) {
        let gpu = session.parent(device)?;
        mode.set(match session.nvml.compute_mode(&gpu)? {
            ComputeMode::Default => 0,
            ComputeMode::ExclusiveThread => 1,
            ComputeMode::Prohibited => 2,
            ComputeMode::ExclusiveProcess => 3,
            _ => return Err(NvmlReturn::UNKNOWN.into()),
        })
    }

    fn nvmlDeviceSetComputeMode(session, device: Handle, mode: c_uint) {
        let gpu = session.gpu(device)?;
        let mode = match mode {
            0 => ComputeMode::Default,
            1 => ComputeMode::ExclusiveThread,
            2 => ComputeMode::Prohibited,
            3 => ComputeMode::ExclusiveProcess,
            _ => return Err(INVALID),
        };
        Ok(session.nvml.set_compute_mode(&gpu, mode)?)
    }

    fn nvmlDeviceGetMigMode(session, device: Handle, current: Out<c_uint>, pending: Out<c_uint>) {
        let gpu = session.gpu(device)?;
        let mode = session.nvml.mig_mode(&gpu)?;
        current.set(mode.current.into())?;
        pending.set(mode.pending.into())
    }

    fn nvmlDeviceSetMigMode(session, device: Handle, mode: c_uint, status: Out<c_uint>) {
        let gpu = session.gpu(device)?;
        let enable = match mode {
            0 => false,
            1 => true,
            _ => return Err(INVALID),
        };
        match session.nvml.set_mig_mode(&gpu, enable)? {
            Activation::Active => status.set(NvmlReturn::SUCCESS.0),
            Activation::Pending(reason) => status.set(reason.0),
        }
    }

    fn nvmlDeviceIsMigDeviceHandle(session, device: Handle, is: Out<c_uint>) {
        is.set(matches!(session.device(device)?, Object::Mig { .. }).into())
    }

    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(session, device: Handle, gpu: Out<Handle>) {
        match session.device(device)? {
            Object::Mig { gpu: parent, .. } => gpu.set(session.give(Object::Gpu(parent))),
            _ => Err(NvmlReturn::NOT_SUPPORTED.into()),
        }
    }

    fn nvmlDeviceGetMaxMigDeviceCount(session, device: Handle, count: Out<c_uint>) {
        let gpu = session.gpu(device)?;
        count.set(session.nvml.max_mig_devices(&gpu)?)
    }

    fn nvmlDeviceGetMigDeviceHandleByIndex(
        session, device: Handle, index: c_uint, mig: Out<Handle>,
    ) {
        let gpu = session.gpu(device)?;
        if index >= session.nvml.max_mig_devices(&gpu)? {
            return Err(INVALID);
        }
        let all = session.nvml.mig_devices(&gpu)?;
        let found = all.into_iter().nth(index as usize).ok_or(NvmlReturn::NOT_FOUND)?;
        let device = Object::Mig { uuid: found.uuid, gpu, gi: found.gi, ci: found.ci };
        mig.set(session.give(device))
    }

    fn nvmlDeviceGetGpuInstanceId(session, device: Handle, id: Out<c_uint>) {
        let device = session.device(device)?;
        id.set(mig_device(session, device)?.gi.get())
    }

    fn nvmlDeviceGetComputeInstanceId(session, device: Handle, id: Out<c_uint>) {
        let device = session.device(device)?;
        id.set(mig_device(session, device)?.ci.get())
    }

    fn nvmlDeviceGetAttributes_v2(
        session, device: Handle, attributes: Out<nvmlDeviceAttributes_t>,
    ) {
        let device = session.device(device)?;
        let Object::Mig { gpu, gi, .. } = device.clone() else {
            return Err(NvmlReturn::NOT_SUPPORTED.into());
        };
        let mig = mig_device(session, device)?;
        let profiles = session.nvml.product(&gpu)?.profiles;
        let id = session.nvml.gpu_instance(&gpu, gi).ok().map(|info| info.profile);
        let own = profiles.iter().find(|profile| Some(profile.id) == id);
        let engines = own.map(|profile| profile.engines).unwrap_or_default();
        attributes.set(nvmlDeviceAttributes_t {
            multiprocessorCount: mig.sm_count,
            sharedCopyEngineCount: own.map_or(0, |profile| profile.copy_engines),
            sharedDecoderCount: engines.decoders.into(),
            sharedEncoderCount: engines.encoders.into(),
            sharedJpegCount: engines.jpeg.into(),
            sharedOfaCount: engines.optical_flow.into(),
            gpuInstanceSliceCount: mig.gpu_slices.into(),
            computeInstanceSliceCount: mig.compute_slices.into(),
            memorySizeMB: mig.memory.get() >> 20,
        })
    }
}
