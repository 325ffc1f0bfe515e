//! What stands in the way of sharing on this machine, and which way suits a workload.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;

use gpushare_core::advise::{Workload, advise};

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::node::{gpushare_node, json as document, state};
use crate::text::needed_text;

/// What stands in the way of sharing GPUs on this machine, and the command that mends it, as a document
/// of schema `gpushare.doctor/v1`. Changes nothing and needs no privilege: what it could not see, it
/// says. Looks at the machine anew, which takes tens of milliseconds, or as long as the driver takes.
///
/// That something is wrong is an answer, not an error: `findings` has it, the worst first.
/// `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns INVALID_ARGUMENT; INVALID_STATE in a forked child.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_doctor_json(
    node: Option<&gpushare_node>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_doctor_json").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        *place = document(&given(node, "node")?.state.own()?.doctor())?;
        Ok(())
    })
}

/// Every way to run a workload on this node, the recommended one first with the spec that does it, as a
/// document of schema `gpushare.advice/v1`. Changes nothing and needs no privilege.
///
/// `workload` is an object of JSON: `count`, the processes at the same time, must be there; `memory_bytes`
/// of each, `kernels` (`small`, `large`), `isolation` (`none`, `limits`, `strict`), `style` (`interactive`,
/// `batch`) and `half_precision` (true, false) where they are known.
/// That nothing fits is an answer, not an error: `recommended` is null then.
/// `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns INVALID_ARGUMENT for a workload that cannot be read, with why; NOT_FOUND without a driver;
/// DRIVER; IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_advise_json(
    node: Option<&gpushare_node>,
    workload: *const c_char,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_advise_json").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        let node = given(node, "node")?.state.own()?;
        // SAFETY: C's strings end in NUL.
        let workload = Workload::from_json(unsafe { needed_text(workload, "workload") }?)?;
        *place = document(&advise(&node.snapshot()?, &workload))?;
        Ok(())
    })
}
