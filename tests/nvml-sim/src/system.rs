//! Initialisation, versions, error texts, and how devices are found.

use std::ffi::{CStr, c_char, c_int, c_uint};

use gpushare_core::id::{GpuUuid, MigUuid, PciAddress};
use gpushare_core::port::{Nvml as _, NvmlReturn};

use crate::abi::{Handle, INVALID, Many, Out, Text, nvml};
use crate::session::{Object, Session, call_closed, close, open};

// SAFETY: no other function of that name is in this library.
#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> u32 {
    open("nvmlInit_v2")
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn nvmlInit() -> u32 {
    open("nvmlInit")
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> u32 {
    open("nvmlInitWithFlags")
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> u32 {
    close("nvmlShutdown")
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    let text: &CStr = match NvmlReturn(result) {
        NvmlReturn::SUCCESS => c"Success",
        NvmlReturn::UNINITIALIZED => c"Uninitialized",
        NvmlReturn::INVALID_ARGUMENT => c"Invalid Argument",
        NvmlReturn::NOT_SUPPORTED => c"Not Supported",
        NvmlReturn::NO_PERMISSION => c"Insufficient Permissions",
        NvmlReturn::NOT_FOUND => c"Not Found",
        NvmlReturn::INSUFFICIENT_SIZE => c"Insufficient Size",
        NvmlReturn::DRIVER_NOT_LOADED => c"Driver Not Loaded",
        NvmlReturn::TIMEOUT => c"Timeout",
        NvmlReturn::FUNCTION_NOT_FOUND => c"Function Not Found",
        NvmlReturn::GPU_IS_LOST => c"GPU is lost",
        NvmlReturn::RESET_REQUIRED => c"GPU requires reset",
        NvmlReturn::OPERATING_SYSTEM => c"The operating system has blocked the request",
        NvmlReturn::IN_USE => c"In use by another client",
        NvmlReturn::NO_DATA => c"No data",
        NvmlReturn::INSUFFICIENT_RESOURCES => c"Insufficient Resources",
        NvmlReturn::ARGUMENT_VERSION_MISMATCH => c"Argument version mismatch",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: Many<c_char>, length: c_uint) -> u32 {
    call_closed("nvmlSystemGetNVMLVersion", || version.text(length, "13.580.159.04"))
}

fn cuda_version(session: &mut Session) -> Result<c_int, crate::abi::Refusal> {
    let cuda = session.nvml.driver()?.cuda.ok_or(NvmlReturn::NOT_SUPPORTED)?;
    let (major, minor) = cuda.split_once('.').ok_or(NvmlReturn::UNKNOWN)?;
    match (major.parse::<c_int>(), minor.parse::<c_int>()) {
        (Ok(major), Ok(minor)) => Ok(major * 1000 + minor * 10),
        _ => Err(NvmlReturn::UNKNOWN.into()),
    }
}

fn find(session: &mut Session, uuid: &str) -> Result<Handle, crate::abi::Refusal> {
    if uuid.starts_with(MigUuid::PREFIX) {
        let uuid: MigUuid = uuid.parse().map_err(|_| INVALID)?;
        let (gpu, gi, ci) = session.nvml.mig_device(&uuid)?;
        return Ok(session.give(Object::Mig { uuid, gpu, gi, ci }));
    }
    let gpu: GpuUuid = uuid.parse().map_err(|_| INVALID)?;
    session.nvml.minor_number(&gpu)?;
    Ok(session.give(Object::Gpu(gpu)))
}

nvml! {
    fn nvmlSystemGetDriverVersion(session, version: Many<c_char>, length: c_uint) {
        version.text(length, &session.nvml.driver()?.version)
    }

    fn nvmlSystemGetCudaDriverVersion(session, version: Out<c_int>) {
        version.set(cuda_version(session)?)
    }

    fn nvmlSystemGetCudaDriverVersion_v2(session, version: Out<c_int>) {
        version.set(cuda_version(session)?)
    }

    fn nvmlSystemGetProcessName(session, pid: c_uint, name: Many<c_char>, length: c_uint) {
        for gpu in session.gpus()? {
            let there = session.nvml.visible_processes(&gpu, None)?;
            if let Some(process) = there.iter().find(|process| process.pid.get() == pid) {
                let room = (length as usize).saturating_sub(1).min(process.command.len());
                return name.text(length, process.command.get(..room).unwrap_or("?"));
            }
        }
        Err(NvmlReturn::NOT_FOUND.into())
    }

    fn nvmlDeviceGetCount_v2(session, count: Out<c_uint>) {
        count.set(session.nvml.device_count()?)
    }

    fn nvmlDeviceGetCount(session, count: Out<c_uint>) {
        count.set(session.nvml.device_count()?)
    }

    fn nvmlDeviceGetHandleByIndex_v2(session, index: c_uint, device: Out<Handle>) {
        let gpu = session.nvml.device(index)?;
        device.set(session.give(Object::Gpu(gpu)))
    }

    fn nvmlDeviceGetHandleByIndex(session, index: c_uint, device: Out<Handle>) {
        let gpu = session.nvml.device(index)?;
        device.set(session.give(Object::Gpu(gpu)))
    }

    fn nvmlDeviceGetHandleByUUID(session, uuid: Text, device: Out<Handle>) {
        let found = find(session, uuid.get()?)?;
        device.set(found)
    }

    fn nvmlDeviceGetHandleByPciBusId_v2(session, address: Text, device: Out<Handle>) {
        let wanted: PciAddress = address.get()?.parse().map_err(|_| INVALID)?;
        for gpu in session.gpus()? {
            if session.nvml.pci_info(&gpu)?.address == wanted {
                return device.set(session.give(Object::Gpu(gpu)));
            }
        }
        Err(NvmlReturn::NOT_FOUND.into())
    }
}
