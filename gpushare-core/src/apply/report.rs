//! What apply and recover did.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::apply::cdi::Put;
use crate::id::{GpuUuid, MigUuid};
use crate::mig::Placement;
use crate::mps::MpsDomain;
use crate::plan::{Plan, previous};
use crate::process::Holder;
use crate::snapshot::Snapshot;
use crate::spec::Spec;
use crate::terminal::{count, printable};

/// The schema that a serialised report names.
pub const SCHEMA: &str = "gpushare.report/v1";

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// What came of it.
    pub outcome: ReportOutcome,
    /// The digest of the plan that was applied.
    pub digest: Option<String>,
    /// How many steps were done.
    pub steps: usize,
    /// A spec that leads back to the state before: apply it to undo the change. GPUs whose state
    /// no spec can say are named in `not_in_previous`.
    pub previous: Spec,
    /// GPUs whose state before no spec can say, with why.
    pub not_in_previous: Vec<String>,
    /// MIG devices that were created again in the place of earlier ones.
    pub recreated: Vec<Recreated>,
    /// Processes that were ended.
    pub evicted: Vec<Evicted>,
    /// Changes of dead appliers that were settled first.
    pub recovered: Vec<Recovered>,
    /// MPS daemons of ours whose devices were gone: of a recovery.
    #[serde(default, rename = "stray_mps")]
    pub strays: Vec<Stray>,
    /// What hooks said that failed after the change was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_hooks: Vec<String>,
    /// CDI specifications that were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_specifications: Vec<PathBuf>,
    /// CDI specifications that were removed for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_cdi_specifications: Vec<PathBuf>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReportOutcome {
    /// Everything was as wanted.
    Unchanged,
    /// It is now.
    Applied,
    /// Unfinished changes were settled, or stray MPS daemons ended.
    Recovered,
}

/// A MIG device that was created again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recreated {
    /// Its GPU.
    pub gpu: GpuUuid,
    /// Where its GPU instance stands.
    pub placement: Placement,
    /// The uuid before.
    pub old: MigUuid,
    /// The uuid now.
    pub new: MigUuid,
}

/// A process that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evicted {
    /// The GPU that it was on.
    pub gpu: GpuUuid,
    /// Who it was; of its command the program alone, since a report is kept.
    pub holder: Holder,
    /// Whether it had to be killed.
    pub killed: bool,
}

/// A change of a dead applier that was settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recovered {
    /// The name of its journal.
    pub journal: String,
    /// Its GPUs.
    pub gpus: Vec<GpuUuid>,
    /// How it was settled.
    pub settled: Settled,
    /// MIG devices that were created again.
    pub recreated: Vec<Recreated>,
}

/// An MPS daemon of ours whose device was gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stray {
    /// The device that it was started for.
    #[serde(rename = "device")]
    pub domain: MpsDomain,
    /// Why it was left, and what to do; none where it was ended and its directory removed.
    pub left: Option<String>,
}

/// How an unfinished change was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Settled {
    /// The GPUs are in the state before it.
    RolledBack,
    /// The GPUs are in the state that it led to.
    Finished,
    /// A reboot or a reload of the driver has undone it: there was nothing left of either state.
    Void,
}

impl Report {
    fn new(snapshot: &Snapshot, plan: &Plan, outcome: ReportOutcome) -> Self {
        let (previous, not_in_previous) = previous::of(snapshot, plan);
        Self {
            schema: SCHEMA.to_owned(),
            simulated: snapshot.simulated,
            outcome,
            digest: Some(plan.digest.clone()),
            steps: plan.step_count(),
            previous,
            not_in_previous,
            recreated: Vec::new(),
            evicted: Vec::new(),
            recovered: Vec::new(),
            strays: Vec::new(),
            failed_hooks: Vec::new(),
            cdi_specifications: Vec::new(),
            removed_cdi_specifications: Vec::new(),
        }
    }

    /// Whether CDI specifications were written or removed.
    fn puts(&self) -> bool {
        !self.cdi_specifications.is_empty() || !self.removed_cdi_specifications.is_empty()
    }

    /// What became of CDI specifications.
    pub(super) fn put(&mut self, put: Put) {
        self.cdi_specifications = put.written;
        self.removed_cdi_specifications = put.removed;
    }

    pub(super) fn unchanged(snapshot: &Snapshot, plan: &Plan) -> Self {
        Self { steps: 0, ..Self::new(snapshot, plan, ReportOutcome::Unchanged) }
    }

    pub(super) fn applied(snapshot: &Snapshot, plan: &Plan) -> Self {
        Self::new(snapshot, plan, ReportOutcome::Applied)
    }

    pub(super) fn recovered(
        simulated: bool,
        recovered: Vec<Recovered>,
        strays: Vec<Stray>,
    ) -> Self {
        let nothing = recovered.is_empty() && strays.iter().all(|stray| stray.left.is_some());
        let outcome = if nothing { ReportOutcome::Unchanged } else { ReportOutcome::Recovered };
        Self {
            schema: SCHEMA.to_owned(),
            simulated,
            outcome,
            digest: None,
            steps: 0,
            previous: Spec::default(),
            not_in_previous: Vec::new(),
            recreated: recovered.iter().flat_map(|one| one.recreated.clone()).collect(),
            evicted: Vec::new(),
            recovered,
            strays,
            failed_hooks: Vec::new(),
            cdi_specifications: Vec::new(),
            removed_cdi_specifications: Vec::new(),
        }
    }

    /// The report as a document of schema [`SCHEMA`].
    pub fn to_json(&self) -> String {
        // Every value in it serialises.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        for one in &self.recovered {
            let how = match one.settled {
                Settled::RolledBack => "rolled back",
                Settled::Finished => "finished",
                Settled::Void => "void: a reboot or driver reload undid it",
            };
            writeln!(f, "Unfinished change {}: {how}", printable(&one.journal))?;
        }
        for device in &self.recreated {
            writeln!(f, "{} was created again as {}", device.old, device.new)?;
        }
        for evicted in &self.evicted {
            let how = if evicted.killed { "killed" } else { "ended" };
            writeln!(f, "{how} {}", evicted.holder)?;
        }
        for stray in &self.strays {
            match &stray.left {
                Some(why) => {
                    let why = printable(why);
                    writeln!(f, "The stray MPS daemon of {} was left: {why}", stray.domain)?;
                }
                None => writeln!(f, "Ended the stray MPS daemon of {}", stray.domain)?,
            }
        }
        match self.outcome {
            ReportOutcome::Unchanged if !self.strays.is_empty() => {
                writeln!(f, "Nothing was changed.")
            }
            ReportOutcome::Unchanged if self.puts() => writeln!(f, "No GPU was changed."),
            ReportOutcome::Unchanged => writeln!(f, "Nothing to do."),
            ReportOutcome::Applied => writeln!(f, "Applied: {}.", count(self.steps, "step")),
            ReportOutcome::Recovered => writeln!(f, "Recovered."),
        }?;
        let files = [
            ("Wrote", "in", &self.cdi_specifications),
            ("Removed", "from", &self.removed_cdi_specifications),
        ];
        for (did, preposition, files) in files {
            let places: BTreeSet<_> = files.iter().filter_map(|path| path.parent()).collect();
            for place in places {
                let there = files.iter().filter(|path| path.parent() == Some(place)).count();
                let (what, place) = (count(there, "CDI specification"), place.to_string_lossy());
                writeln!(f, "{did} {what} {preposition} {}", printable(&place))?;
            }
        }
        let mut failed = self.failed_hooks.iter();
        failed.try_for_each(|hook| writeln!(f, "Done, and yet: {}", printable(hook)))
    }
}
