//! Plans.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use gpushare_core::{Error, ErrorCode, Plan, Report, Result, Spec};

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::node::{State, gpushare_node, json as document, state};
use crate::text::{give, nul_terminated};

/// The steps from the GPUs as they are to a spec. Any thread may use it, several at once, and it
/// outlives its node.
#[derive(Debug)]
pub struct gpushare_plan {
    pub(crate) state: Arc<State>,
    pub(crate) plan: Plan,
    digest: CString,
    /// What leads back to the state that it was made for.
    back: Spec,
    /// Of the last apply that succeeded.
    pub(crate) report: Mutex<Option<Report>>,
}

/// A spec is no longer.
const LONGEST: usize = 1 << 20;

/// Text of that length.
///
/// # Safety
/// It is NULL, or so many bytes can be read there.
unsafe fn bytes<'a>(pointer: *const c_char, len: usize) -> Result<&'a [u8]> {
    let pointer = given((!pointer.is_null()).then_some(pointer), "spec")?;
    if len > LONGEST {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("the spec has {len} bytes; a spec has at most {LONGEST}"),
        ));
    }
    // SAFETY: the caller says so.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) })
}

/// Plans the way to a spec: YAML or JSON of `len` bytes at `spec`, at most 1 MiB, which need not end in
/// NUL. Looks at the GPUs anew, changes nothing, and needs no privilege, except where MIG is on.
///
/// It asks no consent: where only an eviction, a reset or a hazard leads to the spec, the plan lists it
/// (`needs` in gpushare_plan_to_json()), and gpushare_plan_apply() has to be allowed it.
/// `*plan` is the caller's, to be freed with gpushare_plan_free().
///
/// Returns INVALID_ARGUMENT for a spec that cannot be read, with key and line; NOT_FOUND for a GPU that
/// is not there; UNSUPPORTED for a mode that a GPU lacks; INSUFFICIENT for more than fits, with what
/// would; PERMISSION_DENIED; RECOVERY_REQUIRED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_plan(
    node: Option<&gpushare_node>,
    spec: *const c_char,
    len: usize,
    plan: Option<&mut MaybeUninit<*mut gpushare_plan>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_plan").of(state(node)).run(err, || {
        let place = answer(plan, ptr::null_mut(), "plan")?;
        let node = given(node, "node")?;
        // SAFETY: C says how long it is.
        let spec = Spec::from_bytes(unsafe { bytes(spec, len) }?)?;
        let (plan, back) = node.state.own()?.plan_and_way_back(&spec)?;
        let digest = nul_terminated(plan.digest.as_str());
        let state = node.state.clone();
        let plan = gpushare_plan { state, plan, digest, back, report: Mutex::new(None) };
        *place = Box::into_raw(Box::new(plan));
        Ok(())
    })
}

/// Frees a plan. Does nothing for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_free(plan: Option<Box<gpushare_plan>>) {
    drop(plan);
}

/// 1 where there is nothing to do, else 0. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_is_noop(plan: Option<&gpushare_plan>) -> i32 {
    plan.is_some_and(|plan| plan.plan.noop).into()
}

/// How many steps there are, over all GPUs. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_step_count(plan: Option<&gpushare_plan>) -> usize {
    plan.map_or(0, |plan| plan.plan.step_count())
}

/// The name of this plan on this state of the GPUs: SHA-256 in hexadecimal. Who reviewed it can
/// have it applied and no other: `expect_digest` of gpushare_apply_options.
///
/// The plan's own: it is valid until gpushare_plan_free(). NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_digest(plan: Option<&gpushare_plan>) -> *const c_char {
    plan.map_or(ptr::null(), |plan| plan.digest.as_ptr())
}

/// The plan as a document of schema `gpushare.plan/v1`: for each GPU what stays, each step, and what
/// would still fit; and what has to be allowed.
///
/// `*json` is the caller's, to be freed with gpushare_string_free().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_to_json(
    plan: Option<&gpushare_plan>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_plan_to_json").of(plan.map(|plan| &*plan.state)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        *place = give(given(plan, "plan")?.plan.to_json());
        Ok(())
    })
}

/// What the last gpushare_plan_apply() of this plan that succeeded has done: a document of schema
/// `gpushare.report/v1`. Its `previous` is a spec that leads back; `recreated` names MIG devices that
/// have another uuid now.
///
/// `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns INVALID_STATE before that.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_report_json(
    plan: Option<&gpushare_plan>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_plan_report_json").of(plan.map(|plan| &*plan.state)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        *place = give(given(plan, "plan")?.applied()?.to_json());
        Ok(())
    })
}

/// A spec of the GPUs that the plan changes as they were when it was made, as JSON: plan and apply it to
/// undo the change. It names no GPU where the plan is a no-op. It is `previous` of the report, which says in
/// `not_in_previous` what no spec can say.
///
/// It is there before the plan is applied: who keeps it first has the way back even when they are killed
/// meanwhile. An apply that succeeds started from just that state: any other is STALE.
///
/// `*spec` is the caller's, to be freed with gpushare_string_free().
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_plan_previous_json(
    plan: Option<&gpushare_plan>,
    spec: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_plan_previous_json").of(plan.map(|plan| &*plan.state)).run(err, || {
        let place = answer(spec, ptr::null_mut(), "spec")?;
        *place = document(&given(plan, "plan")?.back)?;
        Ok(())
    })
}

impl gpushare_plan {
    /// What the last apply has done.
    fn applied(&self) -> Result<Report> {
        // In a forked child a thread that held it may be no more.
        let report = match self.report.try_lock() {
            Ok(report) => report,
            Err(TryLockError::Poisoned(report)) => report.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.state.opener.expect_this()?;
                self.report.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        report.clone().ok_or_else(|| {
            Error::new(ErrorCode::InvalidState, "the plan was not applied yet: there is no report")
        })
    }
}
