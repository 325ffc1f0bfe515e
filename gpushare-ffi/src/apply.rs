//! Applying a plan.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::PoisonError;

use gpushare_core::apply::{CdiSpecifications, Source};
use gpushare_core::export::Cdi;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Node, Result};

use crate::call::{Call, given};
use crate::error::gpushare_error;
use crate::event::{Listener, gpushare_progress_fn};
use crate::hook::{gpushare_hook_fn, hooks};
use crate::options::{expect_unused, hazards, seconds, timeout};
use crate::plan::gpushare_plan;
use crate::structs::{Versioned, flag, read};
use crate::text::{path, text};

/// What apply may do, and how long it may wait: all zero allows nothing and does not wait.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_apply_options {
    /// sizeof(gpushare_apply_options)
    pub struct_size: u32,
    /// Whether processes that are in the way are ended.
    pub allow_evict: u32,
    /// Whether GPUs are reset where that is the only way; covers the resets of a rollback too.
    pub allow_reset: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The hazards that are accepted, by name with commas between: "bypass-possible,minimum-sm". NULL
    /// for none. Which values do no harm is in the error that HAZARD comes with.
    pub allow_hazards: *const c_char,
    /// The digest that the plan must have; NULL for any.
    pub expect_digest: *const c_char,
    /// How long to wait for a GPU's lock, in seconds: 0 does not wait, below 0 is for ever.
    pub timeout_s: f64,
    /// How long processes have to go by themselves, in seconds.
    pub drain_s: f64,
    /// How long a process that is ended has between SIGTERM and SIGKILL, in seconds: 0 is 30, below 0
    /// is no time.
    pub grace_s: f64,
    /// A directory of programs that are run around the change, `pre-apply`, `pre-mode`, `post-apply` and
    /// `failure` as far as they are there: each reads the plan as JSON, and has GPUSHARE_HOOK, GPUSHARE_GPU
    /// or GPUSHARE_ERROR in its environment. NULL for none.
    pub hooks: *const c_char,
    /// How long each of them may take, in seconds: 0 is 60.
    pub hook_timeout_s: f64,
    /// A function that is called in their place; NULL for none.
    pub hook: gpushare_hook_fn,
    /// What `hook` gets as its last argument.
    pub hook_user: *mut c_void,
    /// The directory, by its absolute path, in which the GPUs have CDI specifications from now on, such as
    /// "/var/run/cdi": a container gets a share by `gpushare.dev/share=NAME`. They follow every change of
    /// these GPUs, also one that does not ask for it, and are written when nothing else is to do; which were
    /// is in the report, as `cdi_specifications`. NULL for none but those that are there.
    pub cdi: *const c_char,
    /// The `gpushare` program, by its absolute path, with which each container takes a lease of its share;
    /// NULL for containers without leases. Goes with `cdi`. UNSUPPORTED where the node is simulated in memory,
    /// which no other process sees.
    pub cdi_program: *const c_char,
    /// Whether the CDI specifications of the GPUs are removed, and there are none from now on.
    pub no_cdi: u32,
    /// Must be 0.
    pub reserved_2: u32,
}

// SAFETY: it is `repr(C)`, starts with its size, and zero is NULL and 0 everywhere.
unsafe impl Versioned for gpushare_apply_options {
    const NAME: &'static str = "gpushare_apply_options";
    const FIRST: usize = 56;
}

impl gpushare_apply_options {
    /// The same for the core.
    ///
    /// # Safety
    /// Its strings are NULL or end in NUL.
    unsafe fn options(&self, node: &Node) -> Result<ApplyOptions> {
        expect_unused(self.reserved)?;
        expect_unused(self.reserved_2)?;
        let mut options = ApplyOptions::new()
            .allow_evict(flag(self.allow_evict))
            .allow_reset(flag(self.allow_reset))
            .timeout(timeout(self.timeout_s)?)
            .drain(seconds(self.drain_s, "drain_s")?);
        if self.grace_s != 0.0 {
            let grace = if self.grace_s < 0.0 { 0.0 } else { self.grace_s };
            options = options.grace(seconds(grace, "grace_s")?);
        }
        // SAFETY: the caller says so.
        for hazard in hazards(unsafe { text(self.allow_hazards, "allow_hazards") }?)? {
            options = options.allow_hazard(hazard);
        }
        // SAFETY: as above.
        if let Some(digest) = unsafe { text(self.expect_digest, "expect_digest") }? {
            options = options.expect(digest);
        }
        // SAFETY: as above.
        options = options.cdi(unsafe { self.specifications(node) }?);
        let limit = if self.hook_timeout_s == 0.0 { 60.0 } else { self.hook_timeout_s };
        let limit = seconds(limit, "hook_timeout_s")?;
        // SAFETY: as above.
        let directory = unsafe { path(self.hooks) };
        let directory = directory.map(|directory| node.hooks(directory, limit)).transpose()?;
        match (directory, hooks(self.hook, self.hook_user)) {
            (Some(_), Some(_)) => Err(Error::new(
                ErrorCode::InvalidArgument,
                "hooks and hook: give a directory or a function, and not both",
            )),
            (Some(hooks), None) | (None, Some(hooks)) => Ok(options.hooks(hooks)),
            (None, None) => Ok(options),
        }
    }

    /// What becomes of CDI specifications.
    ///
    /// # Safety
    /// Its strings are NULL or end in NUL.
    unsafe fn specifications(&self, node: &Node) -> Result<CdiSpecifications> {
        // SAFETY: the caller says so.
        let directory = unsafe { path(self.cdi) };
        // SAFETY: as above.
        let program = unsafe { path(self.cdi_program) };
        let refused = |why| Err(Error::new(ErrorCode::InvalidArgument, why));
        match (directory, program, flag(self.no_cdi)) {
            (None, None, false) => Ok(CdiSpecifications::AsBefore),
            (None, None, true) => Ok(CdiSpecifications::Remove),
            (Some(directory), None, false) => Ok(CdiSpecifications::Keep(Cdi::new(directory))),
            (Some(directory), Some(program), false) => {
                let hook = node.lease_hook(program)?;
                Ok(CdiSpecifications::Keep(Cdi::new(directory).lease_hook(hook)))
            }
            (Some(_), _, true) => refused("cdi and no_cdi: keep specifications or remove them"),
            (None, Some(_), _) => refused("cdi_program goes with cdi"),
        }
    }
}

/// Carries a plan out, if the GPUs are still as it was made for. Needs root.
///
/// Afterwards a GPU is in the state before or in the state wanted. A plan is from one state to another:
/// once it has changed something, to apply it again is STALE. Plan the spec anew; where it has been
/// reached, that plan is a no-op. A no-op can be applied again and again. `options` may be NULL. `progress`,
/// called with `user`, may be NULL. What was done is in gpushare_plan_report_json().
///
/// Returns BUSY, RESET_REQUIRED or HAZARD before anything is touched, where that was not allowed; STALE
/// where the GPUs are no longer as they were planned for; LOCKED and TIMEOUT where another changes them;
/// INTERRUPTED where `progress` stopped it; INVALID_ARGUMENT; INVALID_STATE in a forked child; NOT_FOUND,
/// UNSUPPORTED, INSUFFICIENT, PERMISSION_DENIED, DRIVER, MPS, IO, RECOVERY_REQUIRED. Where
/// gpushare_error_outcome() is INDETERMINATE, gpushare_node_recover() is due.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_plan_apply(
    plan: Option<&gpushare_plan>,
    options: *const gpushare_apply_options,
    progress: gpushare_progress_fn,
    user: *mut c_void,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    let call = Call::named("gpushare_plan_apply").of(plan.map(|plan| &*plan.state)).changes();
    call.run(err, || {
        let plan = given(plan, "plan")?;
        // SAFETY: C says how large it is.
        let options = unsafe { read(options) }?;
        let node = plan.state.own()?;
        // SAFETY: C's strings end in NUL.
        let options = unsafe { options.options(node) }?;
        let listener = Listener { function: progress, user };
        let report =
            node.apply_with(Source::Plan(&plan.plan), &options, |event| listener.hear(event));
        plan.state.forget();
        *plan.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report?);
        Ok(())
    })
}
