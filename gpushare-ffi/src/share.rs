//! A share as C sees it.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use gpushare_core::Snapshot;
use gpushare_core::snapshot::{GpuSnapshot, Share};

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::gpu_info::{at, count, signed};
use crate::mode;
use crate::node::{gpushare_node, state};
use crate::structs::{GPUSHARE_ID_SIZE, GPUSHARE_PROFILE_SIZE, Output, Versioned, array};

/// What can be leased, as it was observed. Set `struct_size` before the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_share_info {
    /// sizeof(gpushare_share_info)
    pub struct_size: u32,
    /// The position of its GPU, for gpushare_node_gpu_info().
    pub gpu: u32,
    /// Its id, which a lease can ask for.
    pub id: [c_char; GPUSHARE_ID_SIZE],
    /// The uuid of the GPU or MIG device that it is of.
    pub device: [c_char; GPUSHARE_ID_SIZE],
    /// The profile of the MIG device; empty for a whole GPU.
    pub profile: [c_char; GPUSHARE_PROFILE_SIZE],
    /// The memory of that device in bytes, of which an MPS client may get less; 0 where unknown.
    pub memory_bytes: u64,
    /// The streaming multiprocessors of that device; 0 where unknown.
    pub sm_count: u32,
    /// Whether somebody has leased it.
    pub leased: u32,
    /// The process that holds the lease, one of several perhaps; 0 where nobody does.
    pub holder_pid: i32,
    /// The process for which it is held, where that is not the holder; else 0.
    pub for_pid: i32,
    /// Whether the process that took the lease is gone or has released it, and others hold on:
    /// children of it, or who was handed a descriptor. `holder_pid` is one of those, as far as it can be seen.
    pub inherited: u32,
    /// Whether no new leases of its GPU are given.
    pub cordoned: u32,
    /// The uuid of its GPU.
    pub gpu_uuid: [c_char; GPUSHARE_ID_SIZE],
    /// How its GPU is shared: a gpushare_mode.
    pub mode: u32,
    /// NVML's index of its GPU, never a CUDA ordinal; -1 where unknown.
    pub index: i32,
}

// SAFETY: it is `repr(C)`, starts with its size, and consists of numbers.
unsafe impl Versioned for gpushare_share_info {
    const NAME: &'static str = "gpushare_share_info";
    const FIRST: usize = 328;
}

/// All shares, GPU by GPU.
pub(crate) fn of(snapshot: &Snapshot) -> Vec<gpushare_share_info> {
    let gpus = snapshot.gpus.iter().enumerate();
    gpus.flat_map(|(position, gpu)| {
        gpu.shares.iter().map(move |share| of_share(count(position), gpu, share))
    })
    .collect()
}

fn of_share(position: u32, gpu: &GpuSnapshot, share: &Share) -> gpushare_share_info {
    let device = gpu.mig_device(&share.id);
    let lease = share.lease.as_ref();
    let profile = device.map(|device| device.profile.to_string()).unwrap_or_default();
    let memory = device.map_or(gpu.memory, |device| device.memory);
    let pid = |pid: gpushare_core::id::Pid| signed(Some(pid.get()));
    gpushare_share_info {
        struct_size: 0,
        gpu: position,
        id: array(&share.id.to_string()),
        device: array(share.id.device()),
        profile: array(&profile),
        memory_bytes: memory.map_or(0, |memory| memory.get()),
        sm_count: device.map_or(gpu.sm_count, |device| device.sm_count).unwrap_or(0),
        leased: share.is_leased().into(),
        holder_pid: share.holder.as_ref().map_or(0, |holder| pid(holder.pid)),
        for_pid: lease.and_then(|lease| lease.for_pid).map_or(0, pid),
        inherited: lease.is_some_and(|lease| lease.inherited).into(),
        cordoned: gpu.cordoned.is_some().into(),
        gpu_uuid: array(gpu.uuid.as_str()),
        mode: mode::number(gpu.mode),
        index: signed(gpu.index.map(|index| index.get())),
    }
}

/// How many shares the node has, over all its GPUs.
///
/// Returns NOT_FOUND without a driver; DRIVER; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_share_count(
    node: Option<&gpushare_node>,
    count: Option<&mut MaybeUninit<usize>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_share_count").of(state(node)).run(err, || {
        let place = answer(count, 0, "count")?;
        *place = given(node, "node")?.state.view()?.shares.len();
        Ok(())
    })
}

/// Fills in what was observed of the share at a position from 0 to gpushare_node_share_count() - 1:
/// they go by GPU, and there by device and number.
///
/// Returns INVALID_ARGUMENT for a position past the end; as gpushare_node_share_count().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_share_info(
    node: Option<&gpushare_node>,
    index: usize,
    info: *mut gpushare_share_info,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_share_info").of(state(node)).run(err, || {
        // SAFETY: C says how large it is.
        let output = unsafe { Output::new(info) }?;
        let view = given(node, "node")?.state.view()?;
        output.fill(at(&view.shares, index, "shares")?);
        Ok(())
    })
}
