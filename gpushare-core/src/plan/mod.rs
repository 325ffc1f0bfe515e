//! A plan: the steps from a snapshot to a spec, with what they need.
//!
//! Planning is pure: the same snapshot and spec give the same plan, on every machine. It asks no
//! consent. A way that needs nothing always wins; where only an eviction, a reset or a hazard leads
//! to the spec, the plan lists it in [`Needs`], and apply without that consent refuses before
//! anything is touched.

mod alike;
pub(crate) mod explain;
mod layout;
mod mps;
pub(crate) mod previous;
#[cfg(feature = "cli")]
pub(crate) mod restore;
pub mod select;
pub(crate) mod shares;
pub mod state;
pub mod step;
mod target;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::Hazard;
use crate::id::{GpuIndex, GpuUuid, MigUuid};
use crate::mig::{Placement, ProfileName};
use crate::mode::{Mode, SharingMode};
use crate::process::Holder;
use crate::snapshot::{self, Snapshot, Visibility};
use crate::spec::Spec;
use crate::terminal::beginning;

pub use step::Step;

/// The schema that a serialised plan names.
pub const SCHEMA: &str = "gpushare.plan/v1";

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// A state, by spec.
    Apply(Spec),
    /// To leave `mps` or `mig` for what was there before, on these GPUs.
    Leave {
        /// The mode to leave.
        mode: Mode,
        /// The GPUs.
        gpus: Vec<GpuUuid>,
    },
}

/// The steps from a snapshot to what was asked for.
///
/// Serialise it to show or ship it. The steps of a plan that was deserialised are never executed:
/// apply plans again and compares digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// SHA-256 over the structure of the selected GPUs, what was asked for, and the steps.
    pub digest: String,
    /// SHA-256 over the structure of the selected GPUs alone.
    pub basis: String,
    /// Whether there is nothing to do.
    pub noop: bool,
    /// What was asked for.
    pub request: Request,
    /// The plan for each selected GPU, by uuid: the order in which they are locked and changed.
    pub gpus: Vec<GpuPlan>,
    /// What apply must be allowed to do.
    pub needs: Needs,
    /// Whether the steps were computed here and not read from a document.
    #[serde(skip)]
    pub(crate) computed: bool,
}

/// The plan for one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuPlan {
    /// The GPU.
    pub uuid: GpuUuid,
    /// NVML's index.
    pub index: Option<GpuIndex>,
    /// Its model.
    pub model: String,
    /// The mode that it is in.
    pub from: SharingMode,
    /// The mode that it will be in.
    pub to: SharingMode,
    /// Instances that stay as they are.
    pub keep: Vec<Kept>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What would still fit beside the instances afterwards.
    pub fits_after: Vec<Fit>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A GPU instance that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Kept {
    /// Its profile.
    pub profile: ProfileName,
    /// Where it stands.
    pub placement: Placement,
    /// Its MIG devices that stay.
    pub uuids: Vec<MigUuid>,
    /// Whether somebody uses it.
    pub busy: bool,
}

/// A profile that still fits, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fit {
    /// The profile.
    pub profile: ProfileName,
    /// Where one of it may start.
    pub starts: Vec<u8>,
}

/// What apply must be allowed to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Needs {
    /// Holders that must go.
    pub evict: Vec<Eviction>,
    /// GPUs that may be reset.
    pub reset: Vec<GpuUuid>,
    /// Hazards that must be accepted.
    pub hazards: Vec<GpuHazard>,
}

/// Holders that must go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Eviction {
    /// The GPU.
    pub gpu: GpuUuid,
    /// What they hold.
    pub what: String,
    /// Who they are; nobody where it could not be seen.
    pub holders: Vec<Holder>,
}

/// A hazard on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuHazard {
    /// The GPU.
    pub gpu: GpuUuid,
    /// The hazard.
    #[serde(flatten)]
    pub hazard: Hazard,
}

impl Needs {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.evict.is_empty() && self.reset.is_empty() && self.hazards.is_empty()
    }
}

impl Plan {
    /// How many steps there are over all GPUs.
    pub fn step_count(&self) -> usize {
        self.gpus.iter().map(|gpu| gpu.steps.len()).sum()
    }

    /// The plan for a GPU.
    pub fn gpu(&self, uuid: &GpuUuid) -> Option<&GpuPlan> {
        self.gpus.iter().find(|gpu| &gpu.uuid == uuid)
    }

    /// The GPUs that it changes.
    pub fn changed(&self) -> impl Iterator<Item = &GpuPlan> {
        self.gpus.iter().filter(|gpu| !gpu.steps.is_empty())
    }

    /// The plan as a document of schema [`SCHEMA`].
    pub fn to_json(&self) -> String {
        // Every value in it serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a document of schema [`SCHEMA`].
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        let plan: Self = serde_json::from_str(text).map_err(|error| {
            let why = error.to_string();
            Error::new(ErrorCode::InvalidArgument, format!("not a plan: {}", beginning(&why)))
        })?;
        snapshot::expect_schema(&plan.schema, SCHEMA)?;
        Ok(plan)
    }
}

/// Plans the way from a snapshot to a spec.
///
/// # Errors
/// INVALID_ARGUMENT for an unknown profile or a wrong start, NOT_FOUND for a GPU that is not there,
/// UNSUPPORTED for a mode that a GPU lacks, INSUFFICIENT for more than fits,
/// PERMISSION_DENIED where the observer could not see enough, RECOVERY_REQUIRED where an unfinished
/// change lies in the way. All of them before anything is touched.
pub fn plan(snapshot: &Snapshot, spec: &Spec) -> Result<Plan> {
    plan_request(snapshot, &Request::Apply(spec.clone()))
}

/// Plans the way to what was asked for.
///
/// # Errors
/// As [`plan`].
pub fn plan_request(snapshot: &Snapshot, request: &Request) -> Result<Plan> {
    let mut needs = Needs::default();
    let mut gpus = Vec::new();
    for (position, target) in target::targets(snapshot, request)? {
        let Some(gpu) = snapshot.gpus.get(position) else { continue };
        let planned = layout::plan_gpu(snapshot, gpu, &target, &mut needs).map_err(|error| {
            error.of_gpu(&gpu.uuid).context(format!("GPU {}", select::name(gpu)))
        })?;
        gpus.push(planned);
    }
    gpus.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    needs.evict.sort_by(|a, b| a.gpu.cmp(&b.gpu));
    needs.reset.sort();
    let noop = gpus.iter().all(|gpu| gpu.steps.is_empty());
    let basis = basis(snapshot, gpus.iter().map(|gpu| &gpu.uuid));
    let steps: Vec<_> = gpus.iter().map(|gpu| (&gpu.uuid, &gpu.steps)).collect();
    let digest = snapshot::hash(&(&basis, request, &steps));
    Ok(Plan {
        schema: SCHEMA.to_owned(),
        simulated: snapshot.simulated,
        digest,
        basis,
        noop,
        request: request.clone(),
        gpus,
        needs,
        computed: true,
    })
}

/// SHA-256 over the structure of some GPUs of a snapshot, and the life of machine and driver.
pub fn basis<'a>(snapshot: &Snapshot, uuids: impl Iterator<Item = &'a GpuUuid>) -> String {
    snapshot::hash(&(
        &snapshot.epoch,
        snapshot::digest(uuids.filter_map(|uuid| snapshot.gpu(uuid))),
    ))
}

/// Refuses a GPU whose instances could not be seen: to plan for it, and to list them.
pub(crate) fn expect_visible(gpu: &snapshot::GpuSnapshot) -> Result<()> {
    match &gpu.visibility {
        Visibility::Partial { missing } if gpu.mig.as_ref().is_some_and(|mig| mig.enabled) => {
            Err(Error::new(
                ErrorCode::PermissionDenied,
                format!(
                    "MIG is on, and where its instances stand is shown to root or to who may open {}; ask as such a user",
                    missing.join(", ")
                ),
            )
            .with_needs(missing.clone()))
        }
        _ => Ok(()),
    }
}
