//! Cordons, and who has which share.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;

use gpushare_core::id::GpuUuid;
use gpushare_core::{Node, Result};

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::node::{gpushare_node, json as document, state};
use crate::text::needed_text;

/// The GPUs that a selector of C means.
///
/// # Safety
/// It is NULL or ends in NUL.
unsafe fn selected(node: &Node, gpu: *const c_char) -> Result<Vec<GpuUuid>> {
    // SAFETY: the caller says so.
    node.select(unsafe { needed_text(gpu, "gpu") }?)
}

/// Stops new leases of a GPU, whatever its mode becomes, until gpushare_node_uncordon(). Leases that
/// are there stay. Needs root; survives a reboot.
///
/// `gpu` is NVML's index, a uuid or the beginning of one, a PCI address, or "all"; `reason` is one line.
///
/// Returns NOT_FOUND for a GPU that is not there; INVALID_ARGUMENT; PERMISSION_DENIED; IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_cordon(
    node: Option<&gpushare_node>,
    gpu: *const c_char,
    reason: *const c_char,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_cordon").of(state(node)).run(err, || {
        let state = &given(node, "node")?.state;
        // SAFETY: C's strings end in NUL.
        let reason = unsafe { needed_text(reason, "reason") }?;
        let own = state.own()?;
        // SAFETY: as above.
        for gpu in unsafe { selected(own, gpu) }? {
            own.cordon(&gpu, reason)?;
        }
        state.forget();
        Ok(())
    })
}

/// Lets shares of a GPU be leased again. Nothing happens to one that was not stopped. Needs root.
///
/// `gpu` is as in gpushare_node_cordon().
///
/// Returns NOT_FOUND for a GPU that is not there; INVALID_ARGUMENT; PERMISSION_DENIED; IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_uncordon(
    node: Option<&gpushare_node>,
    gpu: *const c_char,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_uncordon").of(state(node)).run(err, || {
        let state = &given(node, "node")?.state;
        let own = state.own()?;
        // SAFETY: C's strings end in NUL.
        for gpu in unsafe { selected(own, gpu) }? {
            own.uncordon(&gpu)?;
        }
        state.forget();
        Ok(())
    })
}

/// Who has which share now, as a document of schema `gpushare.leases/v1`. As root it also makes it
/// possible for all users to lease what there is.
///
/// `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns NOT_FOUND without a driver; DRIVER; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_leases_json(
    node: Option<&gpushare_node>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_leases_json").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        *place = document(&given(node, "node")?.state.own()?.leases()?)?;
        Ok(())
    })
}
