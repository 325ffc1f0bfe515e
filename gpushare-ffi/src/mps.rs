//! MPS: whether a process is a client, and equal parts.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;

use gpushare_core::hazard::split_gpus;
use gpushare_core::id::Pid;
use gpushare_core::mode::Verdict;
use gpushare_core::mps::Attachment;
use gpushare_core::plan::select;
use gpushare_core::{Error, ErrorCode, Result};

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::gpu_info::signed;
use crate::node::{gpushare_node, json as document, state};
use crate::structs::{GPUSHARE_ID_SIZE, GPUSHARE_REASON_SIZE, Output, Versioned, array};
use crate::text::text;

/// Whether a process is where it should be. What is unknown never counts as attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum gpushare_verdict {
    /// It cannot be told.
    Unknown = 0,
    /// It is.
    Attached = 1,
    /// It is not.
    NotAttached = 2,
}

/// Whether a process is a client of an MPS daemon of gpushare's, and what holds it there. Set
/// `struct_size` before the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_mps_attachment {
    /// sizeof(gpushare_mps_attachment)
    pub struct_size: u32,
    /// A gpushare_verdict. Only ATTACHED is a yes.
    pub verdict: u32,
    /// The process.
    pub pid: i32,
    /// ATTACHED: the process of the MPS server; else 0.
    pub server_pid: i32,
    /// When the process started, in clock ticks since boot; 0 where unknown.
    pub start_time: u64,
    /// ATTACHED: the device memory that it uses there in bytes, by NVML; 0 where unknown.
    pub memory_bytes: u64,
    /// The device memory in bytes that the server lets it have at most; 0 where unknown.
    pub at_most_memory_bytes: u64,
    /// The share of threads in percent that the server lets it have at most; 0 where unknown.
    pub at_most_thread_percentage: f64,
    /// The multiprocessors that the server lets it have at most; 0 where unknown.
    pub at_most_sm_count: u32,
    /// Whether the node is simulated.
    pub simulated: u32,
    /// ATTACHED: the uuid of the GPU or MIG device whose daemon serves it; else empty.
    pub domain: [c_char; GPUSHARE_ID_SIZE],
    /// Why, in words.
    pub reason: [c_char; GPUSHARE_REASON_SIZE],
}

// SAFETY: it is `repr(C)`, starts with its size, and consists of numbers.
unsafe impl Versioned for gpushare_mps_attachment {
    const NAME: &'static str = "gpushare_mps_attachment";
    const FIRST: usize = 696;
}

pub(crate) const fn verdict_number(verdict: Verdict) -> u32 {
    let verdict = match verdict {
        Verdict::Attached => gpushare_verdict::Attached,
        Verdict::NotAttached => gpushare_verdict::NotAttached,
        // What a newer core may say is not known to pass.
        _ => gpushare_verdict::Unknown,
    };
    verdict as u32
}

/// A process that C named.
pub(crate) fn process(pid: i32) -> Result<Pid> {
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0);
    pid.map(Pid::new).ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, "pid is no process: give a number above 0")
    })
}

fn of(attachment: &Attachment) -> gpushare_mps_attachment {
    let at_most = &attachment.at_most;
    gpushare_mps_attachment {
        struct_size: 0,
        verdict: verdict_number(attachment.verdict),
        pid: signed(Some(attachment.pid.get())),
        server_pid: attachment.server.map_or(0, |server| signed(Some(server.get()))),
        start_time: attachment.start_time.unwrap_or(0),
        memory_bytes: attachment.memory.map_or(0, |memory| memory.get()),
        at_most_memory_bytes: at_most.memory.map_or(0, |memory| memory.get()),
        at_most_thread_percentage: at_most.thread_percentage.map_or(0.0, |p| p.get()),
        at_most_sm_count: at_most.sm_count.unwrap_or(0),
        simulated: attachment.simulated.into(),
        domain: array(attachment.domain.as_ref().map_or("", |domain| domain.as_str())),
        reason: array(&attachment.reasons.join("; ")),
    }
}

/// Whether a process is a client of an MPS daemon of gpushare's, by what the daemon and the driver say,
/// never by what the process was told. A process that misses the daemon by a letter of its environment
/// runs with the whole GPU and without an error: ask after it began to use CUDA.
///
/// Needs no privilege to say UNKNOWN; to see daemons and clients of other users, root.
///
/// Returns NOT_FOUND where there is no such process; as gpushare_node_refresh().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_mps_verify(
    node: Option<&gpushare_node>,
    pid: i32,
    attachment: *mut gpushare_mps_attachment,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_mps_verify").of(state(node)).run(err, || {
        // SAFETY: C says how large it is.
        let output = unsafe { Output::new(attachment) }?;
        let node = given(node, "node")?;
        output.fill(&of(&node.state.own()?.verify_mps(process(pid)?)?));
        Ok(())
    })
}

/// The same as a document of schema `gpushare.attachment/v1`, with all reasons and what the process's
/// environment asks for, which is declared and not enforced.
///
/// `*json` is the caller's, to be freed with gpushare_string_free().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_mps_verify_json(
    node: Option<&gpushare_node>,
    pid: i32,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_mps_verify_json").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        let node = given(node, "node")?;
        *place = document(&node.state.own()?.verify_mps(process(pid)?)?)?;
        Ok(())
    })
}

/// Equal parts of a GPU for that many MPS clients, with percentages that corrupt nothing: a document of
/// schema `gpushare.split/v1`. Speaks of the snapshot that gpushare_node_gpu_info() speaks of.
///
/// `gpu` is NVML's index, a uuid or the beginning of one, or a PCI address; `all` or NULL where
/// all GPUs of the node have one answer. `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns INVALID_ARGUMENT for 0 parts or more than a daemon serves; UNSUPPORTED where no percentage is
/// known to be right; INSUFFICIENT for more than fit, with the most that do; NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_mps_split(
    node: Option<&gpushare_node>,
    gpu: *const c_char,
    parts: u32,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_mps_split").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        let view = given(node, "node")?.state.view()?;
        // SAFETY: C's strings end in NUL.
        let selector = unsafe { text(gpu, "gpu") }?.unwrap_or("all");
        let snapshot = &view.snapshot;
        let positions = select::one(snapshot, &select::parse(selector)?)?;
        let gpus = positions.iter().filter_map(|&position| snapshot.gpus.get(position));
        *place = document(&split_gpus(snapshot, gpus, parts)?)?;
        Ok(())
    })
}
