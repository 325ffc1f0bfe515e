//! What a program does around a change.

use std::ffi::{c_char, c_void};
use std::ptr;

use gpushare_core::apply::{Hooks, Moment};
use gpushare_core::{Error, ErrorCode, Plan, Result};

use crate::error::outcome;
use crate::gpu_info::count;
use crate::text::nul_terminated;

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum gpushare_moment {
    /// Something that this library has no number for.
    Other = 0,
    /// The GPUs are locked and there is something to do. Nobody was asked for consent yet: whoever the
    /// hook ends is in the way no more. Nothing is touched when it says no.
    PreApply = 1,
    /// A step comes next that changes the MIG mode of `gpu` or resets it, for the first time in this
    /// apply. When it says no, what was done is rolled back. Not called when such a step is undone.
    PreMode = 2,
    /// All is done. That it says no undoes nothing: it is in the report, as `failed_hooks`.
    PostApply = 3,
    /// It failed: `error` says how. What this hook says is added to that.
    Failure = 4,
}

/// When a hook is called, and with what. Everything in it is valid during the call alone.
///
/// See gpushare_hook_fn.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_hook {
    /// How much of this struct the library knows, in bytes: read what lies within it.
    pub struct_size: u32,
    /// When: a gpushare_moment.
    pub moment: u32,
    /// The plan that is carried out, a document of schema `gpushare.plan/v1`; never NULL.
    pub plan_json: *const c_char,
    /// PRE_MODE: the uuid of the GPU; else NULL.
    pub gpu: *const c_char,
    /// FAILURE: the error in words; else NULL.
    pub error: *const c_char,
    /// FAILURE: its gpushare_status; else 0.
    pub status: i32,
    /// FAILURE: its gpushare_outcome; else 0.
    pub outcome: i32,
}

/// A function that is called around a change, and says whether it may go on.
///
/// It runs on the thread that made the call. It returns 0 to go on, anything else to say no. Nothing is
/// called where there is nothing to do; after PRE_APPLY exactly one of POST_APPLY and FAILURE is, unless the
/// process dies. The GPUs are locked meanwhile: changing them with gpushare is LOCKED. It may fork: the call
/// goes on in the parent alone, and in a child that returns from it the call is INVALID_STATE, changes
/// nothing more and undoes nothing. No exception and no longjmp may leave it.
pub type gpushare_hook_fn =
    Option<unsafe extern "C" fn(hook: *const gpushare_hook, user: *mut c_void) -> i32>;

/// A function with what it wants to be called with.
struct Hooked {
    function: unsafe extern "C" fn(*const gpushare_hook, *mut c_void) -> i32,
    user: *mut c_void,
}

// SAFETY: it is called on the thread that made the call which it was given to, and lives no longer.
unsafe impl Send for Hooked {}
// SAFETY: as above.
unsafe impl Sync for Hooked {}

/// The hooks that a function is.
pub(crate) fn hooks(function: gpushare_hook_fn, user: *mut c_void) -> Option<Hooks> {
    let hooked = Hooked { function: function?, user };
    Some(Hooks::new(move |moment, plan| hooked.call(moment, plan)))
}

impl Hooked {
    fn call(&self, moment: &Moment<'_>, plan: &Plan) -> Result<()> {
        use gpushare_moment as Kind;
        let (kind, gpu, error) = match moment {
            Moment::PreApply => (Kind::PreApply, None, None),
            Moment::PreMode(gpu) => (Kind::PreMode, Some(*gpu), None),
            Moment::PostApply => (Kind::PostApply, None, None),
            Moment::Failure(error) => (Kind::Failure, None, Some(*error)),
            _ => (Kind::Other, None, None),
        };
        let plan_json = nul_terminated(plan.to_json());
        let gpu = gpu.map(|gpu| nul_terminated(gpu.as_str()));
        let text = error.map(|error| nul_terminated(error.to_string()));
        let pointer = |text: &Option<std::ffi::CString>| {
            text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
        };
        let hook = gpushare_hook {
            struct_size: count(size_of::<gpushare_hook>()),
            moment: kind as u32,
            plan_json: plan_json.as_ptr(),
            gpu: pointer(&gpu),
            error: pointer(&text),
            status: error.map_or(0, |error| error.code().number()),
            outcome: error.map_or(0, |error| outcome(error.outcome()) as i32),
        };
        // SAFETY: the caller gave it for this, with what it points to.
        match unsafe { (self.function)(&raw const hook, self.user) } {
            0 => Ok(()),
            number => Err(Error::new(ErrorCode::Interrupted, format!("it said no ({number})"))),
        }
    }
}
