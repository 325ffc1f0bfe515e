//! Processes on GPUs and MIG devices.

use std::ffi::c_uint;

use gpushare_core::backend::sim::ProcessKind;
use gpushare_core::id::{ComputeInstanceId, GpuInstanceId};
use gpushare_core::port::{ContextKind, Nvml as _, NvmlReturn, ProcessInfo};
use nvml_wrapper_sys::bindings::nvmlProcessInfo_t;

use crate::abi::{Answer, Handle, Many, Out, nvml};
use crate::session::{Object, Session};

fn of_kind(kind: ProcessKind, wanted: ContextKind) -> bool {
    match wanted {
        ContextKind::Compute => matches!(kind, ProcessKind::Compute | ProcessKind::MpsClient),
        ContextKind::Graphics => kind == ProcessKind::Graphics,
        ContextKind::MpsClient => kind == ProcessKind::MpsClient,
    }
}

/// Those of one MIG device, for which nobody needs privilege.
fn on_instance(
    session: &mut Session,
    device: Object,
    wanted: ContextKind,
) -> Answer<Vec<ProcessInfo>> {
    let Object::Mig { gpu, gi, ci, .. } = device else { return Ok(Vec::new()) };
    let instance: (GpuInstanceId, ComputeInstanceId) = (gi, ci);
    let there = session.nvml.visible_processes(&gpu, Some(instance))?;
    let listed = there.iter().filter(|process| of_kind(process.kind, wanted));
    Ok(listed
        .map(|process| ProcessInfo {
            pid: process.pid,
            instance: process.instance,
            memory: Some(process.memory),
        })
        .collect())
}

/// The list, or how long it is where it does not fit.
fn list(
    session: &mut Session,
    device: Handle,
    wanted: ContextKind,
    count: &Out<c_uint>,
    infos: &Many<nvmlProcessInfo_t>,
) -> Answer {
    let found = match session.device(device)? {
        Object::Gpu(gpu) => session.nvml.processes(&gpu, wanted)?,
        device => on_instance(session, device, wanted)?,
    };
    let entries: Vec<_> = found
        .iter()
        .map(|process| nvmlProcessInfo_t {
            pid: process.pid.get(),
            usedGpuMemory: process.memory.map_or(u64::MAX, |memory| memory.get()),
            gpuInstanceId: process.instance.map_or(u32::MAX, |(gi, _)| gi.get()),
            computeInstanceId: process.instance.map_or(u32::MAX, |(_, ci)| ci.get()),
        })
        .collect();
    let room = count.get()?;
    count.set(c_uint::try_from(entries.len()).map_err(|_| NvmlReturn::UNKNOWN)?)?;
    if entries.is_empty() {
        return Ok(());
    }
    if room == 0 || entries.len() > room as usize {
        return Err(NvmlReturn::INSUFFICIENT_SIZE.into());
    }
    infos.fill(room, &entries)
}

macro_rules! lists {
    ($($name:ident $kind:ident;)*) => {$(nvml! {
        fn $name(session, device: Handle, count: Out<c_uint>, infos: Many<nvmlProcessInfo_t>) {
            list(session, device, ContextKind::$kind, &count, &infos)
        }
    })*};
}

lists! {
    nvmlDeviceGetComputeRunningProcesses_v2 Compute;
    nvmlDeviceGetComputeRunningProcesses_v3 Compute;
    nvmlDeviceGetGraphicsRunningProcesses_v2 Graphics;
    nvmlDeviceGetGraphicsRunningProcesses_v3 Graphics;
    nvmlDeviceGetMPSComputeRunningProcesses_v2 MpsClient;
    nvmlDeviceGetMPSComputeRunningProcesses_v3 MpsClient;
}
