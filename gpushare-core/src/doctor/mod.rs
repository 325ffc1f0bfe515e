//! The doctor: what stands in the way of sharing GPUs on this machine, and what mends it.
//!
//! It is the troubleshooting page as code. A check looks at one thing and has an id that never
//! changes; what it finds has evidence, the command that mends it, and where that knowledge is from. What
//! could not be looked at is said, with what that would take: a check that did not look has not passed.

mod containers;
mod driver;
mod facts;
mod gpus;
mod mps;
mod places;
mod show;
#[cfg(test)]
#[cfg(feature = "sim")]
mod tests;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::GpuUuid;
use crate::snapshot::{GpuSnapshot, Snapshot, expect_schema};

pub use facts::{
    CdiSpec, Containers, DaemonProcess, DeviceNode, Hidden, Library, MachineFacts, MigMinor,
    MpsDirectory, Part, PipeDirectory, SpecFile,
};

/// The schema that a serialised diagnosis names.
pub const SCHEMA: &str = "gpushare.doctor/v1";

/// What was found, what was not looked at, and what is as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
    /// The ids of the checks that found nothing and saw all.
    pub checked: Vec<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Something does not work, or gives wrong results.
    Error,
    /// Something will not work, or is not as somebody wanted it.
    Warning,
    /// Worth knowing. There is nothing that must be mended.
    Notice,
}

impl Severity {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The check that found it: one of [`check_ids`].
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// The GPU that it is about; none where it is about the machine.
    pub gpu: Option<GpuUuid>,
    /// What it is, in a sentence.
    pub summary: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// The command that mends it, or what to do.
    pub mend: String,
    /// Where it is known from that this is so.
    pub source: String,
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unseen {
    /// What.
    pub what: String,
    /// What it would take.
    pub needed: String,
    /// The checks that could not be made for that, or not wholly.
    pub checks: Vec<String>,
}

impl Diagnosis {
    /// Whether there is something to mend: an error or a warning.
    pub fn needs_mending(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity != Severity::Notice)
    }

    /// The same, said of a simulated node or of a real one: without a driver nothing else tells.
    #[must_use]
    pub fn of_simulated(self, simulated: bool) -> Self {
        Self { simulated, ..self }
    }

    /// The findings of a check.
    pub fn findings_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.findings.iter().filter(move |finding| finding.id == id)
    }

    /// Reads a document of schema [`SCHEMA`].
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        let diagnosis: Self = serde_json::from_str(text).map_err(|error| {
            Error::new(crate::ErrorCode::InvalidArgument, format!("not a diagnosis: {error}"))
                .with_source(error)
        })?;
        expect_schema(&diagnosis.schema, SCHEMA)?;
        Ok(diagnosis)
    }
}

/// What a check sees.
struct Seen<'a> {
    /// The node, or why it could not be observed.
    node: std::result::Result<&'a Snapshot, &'a Error>,
    machine: &'a MachineFacts,
    /// The GPUs that were asked about; none for all.
    only: Option<&'a [GpuUuid]>,
}

impl<'a> Seen<'a> {
    fn wants(&self, gpu: &GpuSnapshot) -> bool {
        self.only.is_none_or(|only| only.contains(&gpu.uuid))
    }

    /// The GPUs that were asked about.
    fn gpus(&self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a GpuSnapshot> {
        snapshot.gpus.iter().filter(|gpu| self.wants(gpu))
    }
}

/// What a check found, before it has its id.
#[derive(Debug)]
struct Found {
    severity: Severity,
    gpu: Option<GpuUuid>,
    summary: String,
    evidence: Vec<String>,
    mend: String,
    source: &'static str,
}

impl Found {
    fn new(severity: Severity, summary: impl Into<String>, source: &'static str) -> Self {
        Self {
            severity,
            gpu: None,
            summary: summary.into(),
            evidence: Vec::new(),
            mend: String::new(),
            source,
        }
    }

    fn error(summary: impl Into<String>, source: &'static str) -> Self {
        Self::new(Severity::Error, summary, source)
    }

    fn warning(summary: impl Into<String>, source: &'static str) -> Self {
        Self::new(Severity::Warning, summary, source)
    }

    fn notice(summary: impl Into<String>, source: &'static str) -> Self {
        Self::new(Severity::Notice, summary, source)
    }

    fn of(mut self, gpu: &GpuSnapshot) -> Self {
        self.gpu = Some(gpu.uuid.clone());
        self
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = mend.into();
        self
    }
}

/// What a check came to.
#[derive(Debug, Default)]
struct Looked {
    found: Vec<Found>,
    /// What, and what it would take.
    unseen: Vec<(String, String)>,
}

impl Looked {
    fn unseen(mut self, what: impl Into<String>, needed: impl Into<String>) -> Self {
        self.unseen.push((what.into(), needed.into()));
        self
    }

    /// The same without a part of the machine, where it is hidden.
    fn without(self, machine: &MachineFacts, part: &Part, what: &str) -> Self {
        match machine.hidden(part) {
            Some(why) => self.unseen(what, why),
            None => self,
        }
    }
}

impl From<Found> for Looked {
    fn from(found: Found) -> Self {
        Self { found: vec![found], unseen: Vec::new() }
    }
}

impl From<Option<Found>> for Looked {
    fn from(found: Option<Found>) -> Self {
        found.into_iter().collect()
    }
}

impl FromIterator<Found> for Looked {
    fn from_iter<I: IntoIterator<Item = Found>>(found: I) -> Self {
        Self { found: found.into_iter().collect(), unseen: Vec::new() }
    }
}

impl FromIterator<Self> for Looked {
    fn from_iter<I: IntoIterator<Item = Self>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, one| {
            sum.found.extend(one.found);
            sum.unseen.extend(one.unseen);
            sum
        })
    }
}

/// How a check looks.
enum Look {
    /// At the machine, and at the node or why there is none.
    Machine(fn(&Seen<'_>) -> Looked),
    /// At the node.
    Node(fn(&Seen<'_>, &Snapshot) -> Looked),
    /// At each GPU that was asked about.
    Gpu(fn(&Snapshot, &GpuSnapshot) -> Looked),
}

/// A check.
struct Check {
    id: &'static str,
    look: Look,
}

const fn machine(id: &'static str, look: fn(&Seen<'_>) -> Looked) -> Check {
    Check { id, look: Look::Machine(look) }
}

const fn node(id: &'static str, look: fn(&Seen<'_>, &Snapshot) -> Looked) -> Check {
    Check { id, look: Look::Node(look) }
}

const fn gpu(id: &'static str, look: fn(&Snapshot, &GpuSnapshot) -> Looked) -> Check {
    Check { id, look: Look::Gpu(look) }
}

/// Every check. An id is added and never changed.
const CHECKS: &[Check] = &[
    machine("library-missing", driver::library_missing),
    machine("driver-not-loaded", driver::not_loaded),
    machine("driver-mismatch", driver::mismatch),
    machine("driver-fails", driver::fails),
    node("no-gpu", driver::no_gpu),
    node("device-node-missing", driver::node_missing),
    node("device-node-wrong", driver::node_wrong),
    node("device-node-closed", driver::node_closed),
    node("capability-node-missing", driver::capability_missing),
    node("persistence-off", driver::persistence),
    node("tool-missing", driver::tool_missing),
    machine("toolkit-missing", containers::toolkit),
    machine("docker-runtime-missing", containers::docker_runtime),
    machine("cdi-spec-missing", containers::cdi_missing),
    node("cdi-spec-stale", containers::cdi_stale),
    node("share-spec-stale", containers::share_stale),
    node("gpu-lost", gpus::lost),
    gpu("change-unfinished", gpus::unfinished),
    gpu("mode-pending", gpus::pending),
    gpu("mode-closed", gpus::closed),
    gpu("mode-drift", gpus::drift),
    gpu("record-stale", gpus::record_stale),
    node("sharing-not-stored", gpus::not_stored),
    gpu("exclusive-left-behind", gpus::exclusive_left),
    gpu("instance-without-compute", gpus::without_compute),
    gpu("daemon-dead", mps::dead),
    gpu("daemon-frozen", mps::frozen),
    gpu("daemon-strange", mps::strange),
    gpu("daemon-closed", mps::closed),
    gpu("daemon-drift", mps::drift),
    gpu("hazard-in-force", mps::hazard_in_force),
    node("declared-percentage-corrupts", mps::declared),
    node("foreign-daemon", places::foreign),
    machine("daemon-dies-with-its-group", places::cgroup),
    machine("default-directory-in-use", places::default_in_use),
    machine("default-directory-left", places::default_left),
    machine("default-directory-strange", places::default_strange),
    machine("environment-for-all", places::environment),
    node("daemon-directory-left", places::directory_left),
];

/// The ids of all checks.
pub fn check_ids() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.id)
}

/// Diagnoses a node by what was observed of it, or by why nothing could be, and by what is seen of
/// its machine. Never fails: without a driver that is the first finding.
pub fn diagnose(
    observed: std::result::Result<&Snapshot, &Error>,
    machine: &MachineFacts,
) -> Diagnosis {
    examine(&Seen { node: observed, machine, only: None })
}

/// The same of these GPUs, and of the machine.
pub fn diagnose_gpus(snapshot: &Snapshot, machine: &MachineFacts, only: &[GpuUuid]) -> Diagnosis {
    examine(&Seen { node: Ok(snapshot), machine, only: Some(only) })
}

fn examine(seen: &Seen<'_>) -> Diagnosis {
    let mut findings = Vec::new();
    let mut unseen: Vec<Unseen> = Vec::new();
    let mut checked = Vec::new();
    for check in CHECKS {
        let looked = check.look(seen);
        if looked.found.is_empty() && looked.unseen.is_empty() {
            checked.push(check.id.to_owned());
        }
        for (what, needed) in looked.unseen {
            match unseen.iter_mut().find(|other| other.what == what && other.needed == needed) {
                Some(other) if other.checks.iter().any(|id| id == check.id) => {}
                Some(other) => other.checks.push(check.id.to_owned()),
                None => unseen.push(Unseen { what, needed, checks: vec![check.id.to_owned()] }),
            }
        }
        findings.extend(looked.found.into_iter().map(|found| Finding {
            id: check.id.to_owned(),
            severity: found.severity,
            gpu: found.gpu,
            summary: found.summary,
            evidence: found.evidence,
            mend: found.mend,
            source: found.source.to_owned(),
        }));
    }
    // Those of one severity stay in the order of the checks, which is that of what rests on what.
    findings.sort_by_key(|finding| finding.severity);
    let simulated = seen.node.is_ok_and(|snapshot| snapshot.simulated);
    Diagnosis { schema: SCHEMA.to_owned(), simulated, findings, unseen, checked }
}

impl Check {
    fn look(&self, seen: &Seen<'_>) -> Looked {
        match (&self.look, seen.node) {
            (Look::Machine(look), _) => look(seen),
            (Look::Node(look), Ok(snapshot)) => look(seen, snapshot),
            (Look::Gpu(look), Ok(snapshot)) => {
                seen.gpus(snapshot).map(|gpu| look(snapshot, gpu)).collect()
            }
            (Look::Node(_) | Look::Gpu(_), Err(_)) => {
                Looked::default().unseen("the GPUs", "a driver that answers")
            }
        }
    }
}

/// How a command names a GPU.
fn selector(gpu: &GpuSnapshot) -> String {
    gpu.index.map_or_else(|| gpu.uuid.to_string(), |index| index.to_string())
}
