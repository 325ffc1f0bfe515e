//! A GPU as C sees it.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use gpushare_core::snapshot::{GpuSnapshot, Visibility};
use gpushare_core::{Error, ErrorCode, Result, Snapshot};

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::mode;
use crate::node::{gpushare_node, state};
use crate::structs::{
    GPUSHARE_ID_SIZE, GPUSHARE_NAME_SIZE, GPUSHARE_PCI_SIZE, Output, Versioned, array,
};

/// A GPU as it was observed. Set `struct_size` before the call. The document of
/// gpushare_node_status_json() has all there is to know.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_gpu_info {
    /// sizeof(gpushare_gpu_info)
    pub struct_size: u32,
    /// How it is shared: a gpushare_mode.
    pub mode: u32,
    /// Its uuid: the key to it.
    pub uuid: [c_char; GPUSHARE_ID_SIZE],
    /// Its PCI address; empty where unknown.
    pub pci: [c_char; GPUSHARE_PCI_SIZE],
    /// NVML's name without "NVIDIA ".
    pub model: [c_char; GPUSHARE_NAME_SIZE],
    /// NVML's index, never a CUDA ordinal; -1 where unknown.
    pub index: i32,
    /// The minor number of /dev/nvidiaN; -1 where unknown.
    pub minor_number: i32,
    /// Its memory in bytes; 0 where unknown.
    pub memory_bytes: u64,
    /// Its streaming multiprocessors; 0 where unknown.
    pub sm_count: u32,
    /// The major number of its compute capability; 0 where unknown.
    pub compute_capability_major: u32,
    /// The minor number of its compute capability.
    pub compute_capability_minor: u32,
    /// Whether MIG is on.
    pub mig_enabled: u32,
    /// How many MIG devices it has.
    pub mig_device_count: u32,
    /// How many shares of it can be leased.
    pub share_count: u32,
    /// How many of these nobody has leased.
    pub free_share_count: u32,
    /// How many processes are on it, as far as the driver shows them.
    pub process_count: u32,
    /// Whether the driver did not show who uses it: then it is not known to be idle.
    pub processes_hidden: u32,
    /// Whether not all of it could be seen, for want of a privilege.
    pub visibility_partial: u32,
    /// Whether no new leases of it are given: gpushare_node_cordon().
    pub cordoned: u32,
    /// Whether a change of it was not finished: gpushare_node_recover().
    pub unsettled: u32,
}

// SAFETY: it is `repr(C)`, starts with its size, and consists of numbers.
unsafe impl Versioned for gpushare_gpu_info {
    const NAME: &'static str = "gpushare_gpu_info";
    const FIRST: usize = 360;
}

/// A number that may be unknown, or too large for C.
pub(crate) fn signed(number: Option<u32>) -> i32 {
    number.and_then(|number| i32::try_from(number).ok()).unwrap_or(-1)
}

pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// All GPUs.
pub(crate) fn of(snapshot: &Snapshot) -> Vec<gpushare_gpu_info> {
    snapshot.gpus.iter().map(of_gpu).collect()
}

fn of_gpu(gpu: &GpuSnapshot) -> gpushare_gpu_info {
    let capability = gpu.compute_capability.unwrap_or_default();
    gpushare_gpu_info {
        struct_size: 0,
        mode: mode::number(gpu.mode),
        uuid: array(gpu.uuid.as_str()),
        pci: array(&gpu.pci.map(|pci| pci.to_string()).unwrap_or_default()),
        model: array(&gpu.model),
        index: signed(gpu.index.map(|index| index.get())),
        minor_number: signed(gpu.minor.map(|minor| minor.get())),
        memory_bytes: gpu.memory.map_or(0, |memory| memory.get()),
        sm_count: gpu.sm_count.unwrap_or(0),
        compute_capability_major: capability.0,
        compute_capability_minor: capability.1,
        mig_enabled: gpu.mig.as_ref().is_some_and(|mig| mig.enabled).into(),
        mig_device_count: count(gpu.mig_devices.len()),
        share_count: count(gpu.shares.len()),
        free_share_count: count(gpu.shares.iter().filter(|share| !share.is_leased()).count()),
        process_count: count(gpu.processes.len()),
        processes_hidden: gpu.processes_hidden.into(),
        visibility_partial: (gpu.visibility != Visibility::Full).into(),
        cordoned: gpu.cordoned.is_some().into(),
        unsettled: gpu.unsettled.is_some().into(),
    }
}

/// What stands at an index that C gave.
pub(crate) fn at<'a, T>(list: &'a [T], index: usize, what: &str) -> Result<&'a T> {
    list.get(index).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidArgument,
            format!("index {index} is past the end: there are {} {what}", list.len()),
        )
    })
}

/// How many GPUs the node has, lost ones included that records of gpushare know.
///
/// Returns NOT_FOUND without a driver; DRIVER; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_gpu_count(
    node: Option<&gpushare_node>,
    count: Option<&mut MaybeUninit<usize>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_gpu_count").of(state(node)).run(err, || {
        let place = answer(count, 0, "count")?;
        *place = given(node, "node")?.state.view()?.gpus.len();
        Ok(())
    })
}

/// Fills in what was observed of the GPU at a position from 0 to gpushare_node_gpu_count() - 1: they go
/// by NVML's index, lost ones come last.
///
/// Returns INVALID_ARGUMENT for a position past the end; as gpushare_node_gpu_count().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_gpu_info(
    node: Option<&gpushare_node>,
    index: usize,
    info: *mut gpushare_gpu_info,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_gpu_info").of(state(node)).run(err, || {
        // SAFETY: C says how large it is.
        let output = unsafe { Output::new(info) }?;
        let view = given(node, "node")?.state.view()?;
        output.fill(at(&view.gpus, index, "GPUs")?);
        Ok(())
    })
}
