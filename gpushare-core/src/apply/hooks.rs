//! Hooks: what a caller does around a change, such as to stop the monitors that hold a GPU open.
//!
//! They are called where something is changed, and never where nothing is to do. After
//! [`Moment::PreApply`] has been called, exactly one of [`Moment::PostApply`] and
//! [`Moment::Failure`] is, unless the process dies. Nothing of the driver is held open meanwhile
//! but at [`Moment::PreMode`]; the locks of the GPUs are held throughout, so a hook that changes
//! these GPUs with gpushare gets LOCKED.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fork::Caller;
use crate::id::GpuUuid;
use crate::plan::{Plan, Step};
use crate::port::expect_this;

/// When a hook is called.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Moment<'a> {
    /// The GPUs are locked and there is something to do. Nobody was asked for consent yet: whoever
    /// this hook ends is in the way no more. An error is that of the apply, and nothing is touched.
    PreApply,
    /// A step comes next that changes the MIG mode of this GPU or resets it, for the first time in
    /// this apply. An error rolls back. Not called when such a step is undone.
    PreMode(&'a GpuUuid),
    /// All is done. An error does not undo it: it is in the report.
    PostApply,
    /// It failed, and what was done is undone or cannot be: the error says which. An error is added
    /// to it.
    Failure(&'a Error),
}

impl Moment<'_> {
    /// The word for it: `pre-apply`, `pre-mode`, `post-apply`, `failure`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::PreApply => "pre-apply",
            Self::PreMode(_) => "pre-mode",
            Self::PostApply => "post-apply",
            Self::Failure(_) => "failure",
        }
    }

    /// The words of all moments.
    pub const WORDS: [&'static str; 4] = ["pre-apply", "pre-mode", "post-apply", "failure"];

    /// What a program that is called at this moment finds in its environment: `GPUSHARE_HOOK` (the
    /// word), `GPUSHARE_SIMULATED` (0 or 1), `GPUSHARE_GPU` at `pre-mode`; at `failure`
    /// `GPUSHARE_ERROR_CODE` (`BUSY`), `GPUSHARE_OUTCOME` (`rolled_back`) and `GPUSHARE_ERROR` (the
    /// message).
    pub fn environment(&self, plan: &Plan) -> Vec<(&'static str, String)> {
        let simulated = u8::from(plan.simulated).to_string();
        let mut variables =
            vec![("GPUSHARE_HOOK", self.to_string()), ("GPUSHARE_SIMULATED", simulated)];
        match self {
            Self::PreMode(gpu) => variables.push(("GPUSHARE_GPU", gpu.to_string())),
            Self::Failure(error) => variables.extend([
                ("GPUSHARE_ERROR_CODE", error.code().to_string()),
                ("GPUSHARE_OUTCOME", error.outcome().to_string()),
                ("GPUSHARE_ERROR", error.to_string()),
            ]),
            Self::PreApply | Self::PostApply => {}
        }
        variables
    }
}

impl fmt::Display for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A function that is called around a change, with the plan that is carried out.
///
/// [`Node::hooks`](crate::Node::hooks) makes one of a directory of programs.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use gpushare_core::apply::{Hooks, Moment};
/// use gpushare_core::{ApplyOptions, Node, Spec};
///
/// let node = Node::builder().sim("1xH100-80GB").open()?;
/// let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}"#.parse()?;
/// let hooks = Hooks::new(|moment, plan| {
///     match moment {
///         Moment::PreApply => println!("stops what watches {} GPUs", plan.changed().count()),
///         Moment::PostApply | Moment::Failure(_) => println!("starts it again"),
///         _ => {}
///     }
///     Ok(())
/// });
/// node.apply(&spec, &ApplyOptions::new().hooks(hooks))?;
/// # }
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Hooks(Arc<Called>);

type Called = dyn Fn(&Moment<'_>, &Plan) -> Result<()> + Send + Sync;

impl Hooks {
    /// Calls that function at each moment.
    pub fn new(hook: impl Fn(&Moment<'_>, &Plan) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// The same for one process: a child that is forked meanwhile calls none, and one that comes back from a
    /// hook does not go on.
    pub(super) fn of(self, caller: Caller) -> Self {
        Self::new(move |moment, plan| {
            expect_this(caller)?;
            let said = (self.0)(moment, plan);
            expect_this(caller)?;
            said
        })
    }

    pub(super) fn call(&self, moment: &Moment<'_>, plan: &Plan) -> Result<()> {
        (self.0)(moment, plan).map_err(|error| error.context(format!("hook {moment}")))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

/// Whether a step changes the MIG mode or resets the GPU.
pub(super) const fn changes_mode(step: &Step) -> bool {
    matches!(step, Step::SetMigMode { .. } | Step::CallOffMigMode { .. } | Step::Reset { .. })
}

/// Hooks that are told of the steps of one plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtSteps<'a> {
    pub(super) hooks: &'a Hooks,
    pub(super) plan: &'a Plan,
}

impl AtSteps<'_> {
    /// Before a step of a GPU: these steps of it came before.
    pub(super) fn before(&self, gpu: &GpuUuid, step: &Step, earlier: &[Step]) -> Result<()> {
        if changes_mode(step) && !earlier.iter().any(changes_mode) {
            self.hooks.call(&Moment::PreMode(gpu), self.plan)?;
        }
        Ok(())
    }
}
