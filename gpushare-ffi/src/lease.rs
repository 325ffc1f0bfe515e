//! Leases.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::os::fd::IntoRawFd as _;
use std::ptr;
use std::sync::Arc;

use gpushare_core::Lease;
use gpushare_core::lease::{DeviceNode, Grant};
use gpushare_core::port::LeaseScope;

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::gpu_info::{at, signed};
use crate::mode;
use crate::mps::{process, verdict_number};
use crate::node::{State, gpushare_node, json as document, state};
use crate::request::gpushare_lease_request;
use crate::status::gpushare_status;
use crate::structs::{
    GPUSHARE_ID_SIZE, GPUSHARE_NAME_SIZE, GPUSHARE_PATH_SIZE, GPUSHARE_PROFILE_SIZE, Output,
    Versioned, array, flag, read,
};
use crate::text::{give, nul_terminated};

/// The right of one process tree to one share, or to several. One thread at a time; it outlives its
/// node.
///
/// It lasts until gpushare_lease_release(), or until the last process that has a descriptor of it is gone.
/// Its descriptors are close-on-exec and given up by forked children: gpushare_lease_dup_fd() makes a copy for
/// one process, and gpushare_lease_fd() hands them on to every child.
#[derive(Debug)]
pub struct gpushare_lease {
    state: Arc<State>,
    lease: Lease,
    name: CString,
    variables: Vec<(CString, Option<CString>)>,
    shares: Vec<gpushare_lease_share>,
    device_nodes: Vec<gpushare_device_node>,
    gives_back: bool,
}

/// One share of a lease. Set `struct_size` before the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_lease_share {
    /// sizeof(gpushare_lease_share)
    pub struct_size: u32,
    /// How its GPU is shared: a gpushare_mode.
    pub mode: u32,
    /// Its id.
    pub id: [c_char; GPUSHARE_ID_SIZE],
    /// The uuid of its GPU.
    pub gpu: [c_char; GPUSHARE_ID_SIZE],
    /// The uuid of the MIG device that it is of; empty for a whole GPU.
    pub mig_device: [c_char; GPUSHARE_ID_SIZE],
    /// The profile of that MIG device.
    pub profile: [c_char; GPUSHARE_PROFILE_SIZE],
    /// The model of its GPU.
    pub model: [c_char; GPUSHARE_NAME_SIZE],
    /// NVML's index of its GPU, never a CUDA ordinal; -1 where unknown.
    pub index: i32,
    /// The multiprocessors that the tenant can use at most; 0 where unknown.
    pub sm_count: u32,
    /// The device memory in bytes that the tenant can use at most; 0 where unknown.
    pub memory_bytes: u64,
    /// Whether the tenant is to be a client of an MPS daemon: see gpushare_lease_verify().
    pub mps_client: u32,
    /// Whether it holds for this user's processes alone, because gpushare is not set up on this node.
    pub scope_private: u32,
}

// SAFETY: it is `repr(C)`, starts with its size, and consists of numbers.
unsafe impl Versioned for gpushare_lease_share {
    const NAME: &'static str = "gpushare_lease_share";
    const FIRST: usize = 576;
}

/// A device node that the tenant needs. Set `struct_size` before the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_device_node {
    /// sizeof(gpushare_device_node)
    pub struct_size: u32,
    /// Its major number; -1 where unknown.
    pub major_number: i32,
    /// Its minor number; -1 where unknown.
    pub minor_number: i32,
    /// Whether it is not there.
    pub missing: u32,
    /// Where it is, or would be.
    pub path: [c_char; GPUSHARE_PATH_SIZE],
    /// What makes it, where it is missing.
    pub made_by: [c_char; GPUSHARE_NAME_SIZE],
}

// SAFETY: it is `repr(C)`, starts with its size, and consists of numbers.
unsafe impl Versioned for gpushare_device_node {
    const NAME: &'static str = "gpushare_device_node";
    const FIRST: usize = 400;
}

fn of_grant(grant: &Grant, scope: LeaseScope) -> gpushare_lease_share {
    let profile = grant.profile.map(|profile| profile.to_string()).unwrap_or_default();
    gpushare_lease_share {
        struct_size: 0,
        mode: mode::number(grant.mode),
        id: array(&grant.share.to_string()),
        gpu: array(grant.gpu.as_str()),
        mig_device: array(grant.mig_device.as_ref().map_or("", |device| device.as_str())),
        profile: array(&profile),
        model: array(&grant.model),
        index: signed(grant.index.map(|index| index.get())),
        sm_count: grant.sm_count.unwrap_or(0),
        memory_bytes: grant.memory.map_or(0, |memory| memory.get()),
        mps_client: grant.is_mps().into(),
        scope_private: (scope == LeaseScope::Private).into(),
    }
}

fn of_node(node: &DeviceNode) -> gpushare_device_node {
    gpushare_device_node {
        struct_size: 0,
        major_number: signed(node.major),
        minor_number: signed(node.minor),
        missing: node.missing.is_some().into(),
        path: array(&node.path.to_string_lossy()),
        made_by: array(node.missing.as_deref().unwrap_or_default()),
    }
}

impl gpushare_lease {
    fn new(state: Arc<State>, lease: Lease, gives_back: bool) -> Self {
        let mut nodes: Vec<&DeviceNode> = Vec::new();
        for node in lease.grants().iter().flat_map(|grant| &grant.device_nodes) {
            if !nodes.iter().any(|known| known.path == node.path) {
                nodes.push(node);
            }
        }
        let set = lease.variables().iter().map(|(name, value)| {
            (nul_terminated(name.as_str()), Some(nul_terminated(value.as_str())))
        });
        let unset = lease.unset().iter().map(|name| (nul_terminated(name.as_str()), None));
        Self {
            state,
            name: nul_terminated(lease.name()),
            variables: set.chain(unset).collect(),
            shares: lease.grants().iter().map(|grant| of_grant(grant, lease.scope())).collect(),
            device_nodes: nodes.into_iter().map(of_node).collect(),
            gives_back,
            lease,
        }
    }
}

fn call<'a>(name: &'static str, lease: Option<&'a gpushare_lease>) -> Call<'a> {
    Call::named(name).of(lease.map(|lease| &*lease.state))
}

/// Leases what is asked for, or waits for it as long as the request says. `request` may be NULL: any
/// share. `*lease` is the caller's, to be given back with gpushare_lease_release().
///
/// Returns BUSY where others have it and no waiting was wanted, with who; TIMEOUT; NOT_FOUND and
/// INSUFFICIENT where there is no such share, with what there is; INVALID_STATE and RECOVERY_REQUIRED
/// for a GPU of which nothing is leased now; UNSUPPORTED for limits without MPS; HAZARD, with values
/// that do no harm; PERMISSION_DENIED; IO; INTERRUPTED where the request's callback stopped it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_lease_acquire(
    node: Option<&gpushare_node>,
    request: *const gpushare_lease_request,
    lease: Option<&mut MaybeUninit<*mut gpushare_lease>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_lease_acquire").of(state(node)).changes().run(err, || {
        let place = answer(lease, ptr::null_mut(), "lease")?;
        let state = &given(node, "node")?.state;
        // SAFETY: C says how large it is.
        let theirs = unsafe { read(request) }?;
        // SAFETY: C's strings end in NUL.
        let request = unsafe { theirs.request() }?;
        let listener = theirs.listener();
        let leased = state.own()?.lease_with(&request, |wait| listener.hear_wait(wait));
        if flag(theirs.create) {
            state.forget();
        }
        let lease = gpushare_lease::new(state.clone(), leased?, flag(theirs.give_back));
        *place = Box::into_raw(Box::new(lease));
        Ok(())
    })
}

/// The name of the lease, which `gpushare leases` shows.
///
/// The lease's own: it is valid until gpushare_lease_release(). NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_name(lease: Option<&gpushare_lease>) -> *const c_char {
    lease.map_or(ptr::null(), |lease| lease.name.as_ptr())
}

/// How many shares the lease is of. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_share_count(lease: Option<&gpushare_lease>) -> usize {
    lease.map_or(0, |lease| lease.shares.len())
}

/// Fills in what the lease gives of its share at a position from 0 to gpushare_lease_share_count() - 1.
///
/// Returns INVALID_ARGUMENT for a position past the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_lease_info(
    lease: Option<&gpushare_lease>,
    index: usize,
    info: *mut gpushare_lease_share,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_info", lease).run(err, || {
        // SAFETY: C says how large it is.
        let output = unsafe { Output::new(info) }?;
        output.fill(at(&given(lease, "lease")?.shares, index, "shares")?);
        Ok(())
    })
}

/// How many variables the tenant's environment needs set or removed. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_env_count(lease: Option<&gpushare_lease>) -> usize {
    lease.map_or(0, |lease| lease.variables.len())
}

/// One variable of the tenant's environment: set it to `*value`, or remove it where `*value` is NULL.
/// Do all of them: what an outer environment says of MPS would count otherwise.
///
/// Both are the lease's own, and valid until gpushare_lease_release().
///
/// Returns INVALID_ARGUMENT for a NULL and for a position past the end, and there is no more to be said.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_env(
    lease: Option<&gpushare_lease>,
    index: usize,
    name: Option<&mut MaybeUninit<*const c_char>>,
    value: Option<&mut MaybeUninit<*const c_char>>,
) -> i32 {
    let name = name.map(|name| name.write(ptr::null()));
    let value = value.map(|value| value.write(ptr::null()));
    let variable = lease.and_then(|lease| lease.variables.get(index));
    let (Some(name), Some(value), Some((its_name, its_value))) = (name, value, variable) else {
        return gpushare_status::InvalidArgument as i32;
    };
    *name = its_name.as_ptr();
    *value = its_value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
    gpushare_status::Ok as i32
}

/// How many device nodes the tenant needs. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_device_node_count(lease: Option<&gpushare_lease>) -> usize {
    lease.map_or(0, |lease| lease.device_nodes.len())
}

/// Fills in a device node that the tenant needs: those of the driver, of its GPUs, and of a MIG device
/// two capabilities. For containers.
///
/// Returns INVALID_ARGUMENT for a position past the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_lease_device_node(
    lease: Option<&gpushare_lease>,
    index: usize,
    device_node: *mut gpushare_device_node,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_device_node", lease).run(err, || {
        // SAFETY: C says how large it is.
        let output = unsafe { Output::new(device_node) }?;
        output.fill(at(&given(lease, "lease")?.device_nodes, index, "device nodes")?);
        Ok(())
    })
}

/// A copy of the descriptor that holds the share at a position from 0 to gpushare_lease_share_count() - 1,
/// for the one process that is to have the share: by dup2() or F_SETFD in a forked child, an action of
/// posix_spawn(), or SCM_RIGHTS. Whoever has one holds the share, after gpushare_lease_release() too.
///
/// It is the caller's, to be closed with close(), and close-on-exec: children that are forked meanwhile
/// have it until they exec. Close it as soon as it is handed over. -1 on failure.
///
/// Returns INVALID_ARGUMENT for a position past the end; INVALID_STATE in a forked child; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_dup_fd(
    lease: Option<&gpushare_lease>,
    index: usize,
    fd: Option<&mut MaybeUninit<i32>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_dup_fd", lease).run(err, || {
        let place = answer(fd, -1, "fd")?;
        let lease = given(lease, "lease")?;
        lease.state.own()?;
        at(&lease.shares, index, "shares")?;
        *place = lease.lease.duplicate(index)?.into_raw_fd();
        Ok(())
    })
}

/// The descriptor that holds the share at a position from 0 to gpushare_lease_share_count() - 1, and
/// hands the lease on, to no one in particular: the descriptors of all its shares lose close-on-exec, and
/// from now on every child that any thread of this process starts has them, past exec, and so have
/// the children of these. What the lease is of is free when all of them are gone. A process with
/// several leases or other children wants gpushare_lease_dup_fd().
///
/// It is the lease's own and not to be closed. -1 on failure.
///
/// Returns INVALID_ARGUMENT for a position past the end; INVALID_STATE in a forked child; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_fd(
    lease: Option<&gpushare_lease>,
    index: usize,
    fd: Option<&mut MaybeUninit<i32>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_fd", lease).run(err, || {
        let place = answer(fd, -1, "fd")?;
        let lease = given(lease, "lease")?;
        lease.state.own()?;
        at(&lease.shares, index, "shares")?;
        *place = *at(&lease.lease.raw_descriptors()?, index, "shares")?;
        Ok(())
    })
}

/// Everything that the lease says of itself, as a document of schema `gpushare.lease/v1`: what the
/// tenant is held to (`enforced`) and what it is asked for (`declared`).
///
/// `*json` is the caller's, to be freed with gpushare_string_free().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_to_json(
    lease: Option<&gpushare_lease>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_to_json", lease).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        *place = give(given(lease, "lease")?.lease.to_json());
        Ok(())
    })
}

/// Refuses a lease that is void: its GPU was partitioned anew, reset or lost.
///
/// Returns INVALID_STATE saying why; as gpushare_node_refresh().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_check(
    lease: Option<&gpushare_lease>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_check", lease).run(err, || {
        let lease = given(lease, "lease")?;
        lease.state.own()?;
        lease.lease.check()
    })
}

/// Whether a process is inside the lease: on its devices and on no other, and where they are an MPS
/// daemon's, as a client of that daemon. `*verdict` is a gpushare_verdict: only ATTACHED is a yes, and
/// who does not use CUDA yet is UNKNOWN.
///
/// `*json`, why, is the caller's, to be freed with gpushare_string_free(); `json` may be NULL.
///
/// Returns NOT_FOUND where there is no such process; as gpushare_node_refresh().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_verify(
    lease: Option<&gpushare_lease>,
    pid: i32,
    verdict: Option<&mut MaybeUninit<u32>>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    call("gpushare_lease_verify", lease).run(err, || {
        let json = json.map(|json| json.write(ptr::null_mut()));
        let place = answer(verdict, 0, "verdict")?;
        let lease = given(lease, "lease")?;
        lease.state.own()?;
        let verification = lease.lease.verify(process(pid)?)?;
        *place = verdict_number(verification.verdict);
        if let Some(json) = json {
            *json = document(&verification)?;
        }
        Ok(())
    })
}

/// Gives a lease back and frees it, whatever is returned. Whoever has a descriptor of it keeps the share
/// until they are gone. What was created for it is destroyed where `give_back` said so. In a forked child it
/// only closes. Does nothing for NULL.
///
/// Returns what destroying it returned. BUSY: it stays, because a child still has a descriptor, or somebody
/// else was quicker to lease it; the error names it and them, and nobody destroys it later. Wait
/// for the children first. Else as gpushare_plan_apply(). Whoever is killed gives nothing back.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_lease_release(
    lease: Option<Box<gpushare_lease>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    let state = lease.as_ref().map(|lease| lease.state.clone());
    Call::named("gpushare_lease_release").of(state.as_deref()).changes().run(err, || {
        let Some(lease) = lease else { return Ok(()) };
        if !lease.state.opener.is_this() {
            return Ok(());
        }
        let gpushare_lease { state, lease, gives_back, .. } = *lease;
        let released = lease.release();
        if gives_back {
            state.forget();
        }
        released
    })
}
