//! What CUDA would show.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::node::{gpushare_node, json as document, state};
use crate::text::text;

/// The devices that CUDA shows a process with that value of CUDA_VISIBLE_DEVICES, without CUDA; NULL is
/// the variable unset. Reads no environment. That CUDA shows none is an answer, not an error.
///
/// `*json`, a document of schema `gpushare.resolve/v1`, is the caller's, to be freed with
/// gpushare_string_free().
///
/// Returns NOT_FOUND without a driver; DRIVER; IO; INVALID_ARGUMENT for what is not UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_resolve_visible_devices(
    node: Option<&gpushare_node>,
    cvd: *const c_char,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_resolve_visible_devices").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        let node = given(node, "node")?;
        // SAFETY: C's strings end in NUL.
        let list = unsafe { text(cvd, "CUDA_VISIBLE_DEVICES") }?;
        *place = document(&node.state.own()?.resolve_visible_devices(list)?)?;
        Ok(())
    })
}
