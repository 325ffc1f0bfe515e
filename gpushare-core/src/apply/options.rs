//! What a caller allows and wants to hear.

use std::time::Duration;

use crate::apply::{CdiSpecifications, Hooks};
use crate::fork::Caller;
use crate::hazard::HazardName;
use crate::id::GpuUuid;
use crate::plan::Plan;
use crate::process::Holder;

/// What apply may do, and how long it may wait. By default nothing, and not at all.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApplyOptions {
    /// Whether holders that are in the way are ended.
    pub allow_evict: bool,
    /// Whether GPUs are reset where that is the only way; covers the resets of a rollback too.
    pub allow_reset: bool,
    /// Hazards that are accepted.
    pub allow_hazards: Vec<HazardName>,
    /// The digest that the plan must have.
    pub expect: Option<String>,
    /// How long to wait for a lock: zero does not wait, none waits for ever.
    pub timeout: Option<Duration>,
    /// How long to wait for holders to go by themselves.
    pub drain: Duration,
    /// How long an evicted process has between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// What is called around a change; by default nothing.
    pub hooks: Option<Hooks>,
    /// What becomes of CDI specifications.
    pub cdi: CdiSpecifications,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ApplyOptions {
    /// Allows nothing and waits for nothing; 30 s of grace.
    pub const fn new() -> Self {
        Self {
            allow_evict: false,
            allow_reset: false,
            allow_hazards: Vec::new(),
            expect: None,
            timeout: Some(Duration::ZERO),
            drain: Duration::ZERO,
            grace: Duration::from_secs(30),
            hooks: None,
            cdi: CdiSpecifications::AsBefore,
        }
    }

    /// Whether holders that are in the way are ended.
    #[must_use]
    pub const fn allow_evict(mut self, allow: bool) -> Self {
        self.allow_evict = allow;
        self
    }

    /// Whether GPUs are reset where that is the only way.
    #[must_use]
    pub const fn allow_reset(mut self, allow: bool) -> Self {
        self.allow_reset = allow;
        self
    }

    /// Accepts a hazard.
    #[must_use]
    pub fn allow_hazard(mut self, hazard: HazardName) -> Self {
        self.allow_hazards.push(hazard);
        self
    }

    /// The digest that the plan must have.
    #[must_use]
    pub fn expect(mut self, digest: impl Into<String>) -> Self {
        self.expect = Some(digest.into());
        self
    }

    /// How long to wait for a lock: zero does not wait, none waits for ever.
    #[must_use]
    pub const fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long to wait for holders to go by themselves.
    #[must_use]
    pub const fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// How long an evicted process has between SIGTERM and SIGKILL.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// What is called around a change.
    #[must_use]
    pub fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// What becomes of CDI specifications: kept in a directory, removed, or as before.
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use gpushare_core::apply::CdiSpecifications;
    /// use gpushare_core::export::Cdi;
    /// use gpushare_core::{ApplyOptions, Node, Spec};
    ///
    /// let directory = tempfile::tempdir().unwrap();
    /// let node = Node::builder().sim("1xH100-80GB").open()?;
    /// let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}"#.parse()?;
    /// let cdi = CdiSpecifications::Keep(Cdi::new(directory.path()));
    /// let report = node.apply(&spec, &ApplyOptions::new().cdi(cdi))?;
    /// assert!(report.cdi_specifications[0].is_file());
    /// # }
    /// # Ok::<(), gpushare_core::Error>(())
    /// ```
    #[must_use]
    pub fn cdi(mut self, specifications: CdiSpecifications) -> Self {
        self.cdi = specifications;
        self
    }

    /// The same for a call of one process, whose forked children call no hook.
    pub(crate) fn of(&self, caller: Caller) -> Self {
        Self { hooks: self.hooks.clone().map(|hooks| hooks.of(caller)), ..self.clone() }
    }
}

/// What happens while apply runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The plan is made and consented to, the GPUs are locked, and nothing is changed yet. Not told
    /// where there is nothing to do.
    Planned {
        /// The plan that is carried out next.
        plan: Box<Plan>,
    },
    /// Another process has the lock of that GPU.
    WaitingForLock {
        /// The GPU.
        gpu: GpuUuid,
    },
    /// Holders have time to go by themselves.
    Draining {
        /// Who is still there.
        holders: Vec<Holder>,
    },
    /// A holder is being ended.
    Evicting {
        /// Who.
        holder: Holder,
    },
    /// A step begins.
    Step {
        /// Its number over all GPUs, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// The GPU.
        gpu: GpuUuid,
        /// What it does.
        what: String,
    },
    /// Something failed, or the caller asked to stop: what was done is being undone.
    RollingBack,
    /// What a dead applier left is being settled.
    Recovering {
        /// The name of its journal.
        journal: String,
    },
}
