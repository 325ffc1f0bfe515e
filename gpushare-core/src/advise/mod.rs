//! Advice: which way to share the GPUs of a node suits a workload, and the spec that does it.
//!
//! Every way is tried on the snapshot by a plan, so an option that is said to fit plans without an
//! error, and says what applying it needs. Figures are measured ones, with the machine that they were
//! measured on; where nothing was measured nothing is said.

mod figures;
mod show;
#[cfg(test)]
#[cfg(all(feature = "sim", feature = "yaml"))]
mod tests;
mod ways;

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::GpuUuid;
use crate::plan::{self, Needs};
use crate::snapshot::{Snapshot, expect_schema};
use crate::spec::Spec;
use crate::units::Bytes;

pub use figures::Figure;

/// The schema that a serialised advice names.
pub const SCHEMA: &str = "gpushare.advice/v1";

/// What a workload needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Workload {
    /// How many processes, or containers, at the same time.
    pub count: NonZeroU32,
    /// The device memory of each, its CUDA context included; none where it is not known.
    #[serde(rename = "memory_bytes", default)]
    pub memory: Option<Bytes>,
    /// Whether one kernel fills a GPU.
    #[serde(default)]
    pub kernels: Kernels,
    /// What must hold between them.
    #[serde(default)]
    pub isolation: Isolation,
    /// How they use the GPU over time.
    #[serde(default)]
    pub style: Style,
    /// Whether they compute in bf16 or fp16.
    #[serde(default = "yes")]
    pub half_precision: bool,
}

const fn yes() -> bool {
    true
}

impl Workload {
    /// That many processes, of which nothing more is known.
    pub const fn new(count: NonZeroU32) -> Self {
        Self {
            count,
            memory: None,
            kernels: Kernels::Unknown,
            isolation: Isolation::None,
            style: Style::Unknown,
            half_precision: true,
        }
    }

    /// Reads one as a person or a program writes it: an object of JSON with `count` and whatever else
    /// is known, named as in the document of an [`Advice`]. A key that is none of these is refused.
    ///
    /// ```
    /// use gpushare_core::advise::{Isolation, Workload};
    /// let workload = Workload::from_json(r#"{"count": 4, "isolation": "limits"}"#)?;
    /// assert_eq!((workload.count.get(), workload.isolation), (4, Isolation::Limits));
    /// assert!(Workload::from_json(r#"{"count": 4, "memory": 8}"#).is_err());
    /// # Ok::<(), gpushare_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub fn from_json(text: &str) -> Result<Self> {
        const KEYS: [&str; 6] =
            ["count", "memory_bytes", "kernels", "isolation", "style", "half_precision"];
        let invalid = |why: String| {
            Error::new(crate::ErrorCode::InvalidArgument, format!("not a workload: {why}"))
        };
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let keys = KEYS.join(", ");
            return Err(invalid(format!("there is no key {key:?}; there are {keys}")));
        }
        let workload: Self =
            serde_json::from_value(object.into()).map_err(|error| invalid(error.to_string()))?;
        if workload.memory.is_some_and(|memory| memory.get() == 0) {
            return Err(invalid(
                "memory_bytes is 0; leave it out where it is not known".to_owned(),
            ));
        }
        Ok(workload)
    }
}

/// Whether one kernel fills a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kernels {
    /// It leaves most of it idle.
    Small,
    /// It fills it.
    Large,
    /// Nobody said.
    #[default]
    Unknown,
}

/// What must hold between the processes of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Isolation {
    /// Nothing: they trust each other.
    #[default]
    None,
    /// Each has limits of memory and compute that are enforced.
    Limits,
    /// Neither a fault nor the memory traffic of one reaches another.
    Strict,
}

/// How the processes of a workload use a GPU over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Style {
    /// People work with them: idle for the most part, and apt to fail.
    Interactive,
    /// They compute without a pause.
    Batch,
    /// Nobody said.
    #[default]
    Unknown,
}

/// A way to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Way {
    /// A GPU for each.
    Exclusive,
    /// They take turns.
    TimeSliced,
    /// They run at once through an MPS daemon.
    Mps,
    /// A MIG device for each.
    Mig,
    /// Several through an MPS daemon on each MIG device.
    MigWithMps,
}

impl Way {
    /// Every way.
    pub const ALL: &[Self] =
        &[Self::Exclusive, Self::TimeSliced, Self::Mps, Self::Mig, Self::MigWithMps];

    /// The word for it: a mode's, or `mig_with_mps`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::TimeSliced => "time_sliced",
            Self::Mps => "mps",
            Self::Mig => "mig",
            Self::MigWithMps => "mig_with_mps",
        }
    }
}

/// The ways to run a workload on a node, the recommended one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Advice {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// What was asked for.
    pub workload: Workload,
    /// What is recommended; none where nothing fits.
    pub recommended: Option<Way>,
    /// Every way, the best first.
    pub options: Vec<Choice>,
}

/// One way to run a workload on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Choice {
    /// Which.
    pub way: Way,
    /// Whether it gives what was asked for.
    pub fits: bool,
    /// Why it does not.
    pub why_not: Option<String>,
    /// The spec that does it, where it fits.
    pub spec: Option<Spec>,
    /// The GPUs that it takes.
    pub gpus: Vec<GpuUuid>,
    /// What applying it must be allowed to do, where it fits.
    pub needs: Option<Needs>,
    /// Why one would choose it here.
    pub reasons: Vec<String>,
    /// What was measured of it.
    pub figures: Vec<Figure>,
    /// What it does not give.
    pub lacks: Vec<String>,
}

impl Advice {
    /// What is recommended; none where nothing fits.
    pub fn best(&self) -> Option<&Choice> {
        self.options.first().filter(|choice| choice.fits)
    }

    /// The option of a way.
    pub fn option(&self, way: Way) -> Option<&Choice> {
        self.options.iter().find(|choice| choice.way == way)
    }

    /// Reads a document of schema [`SCHEMA`].
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        let advice: Self = serde_json::from_str(text).map_err(|error| {
            Error::new(crate::ErrorCode::InvalidArgument, format!("not an advice: {error}"))
                .with_source(error)
        })?;
        expect_schema(&advice.schema, SCHEMA)?;
        Ok(advice)
    }
}

/// The ways to run a workload on a node, the recommended one first. GPUs that nobody uses are taken
/// first, and no more of them than it takes; the others stay as they are.
pub fn advise(snapshot: &Snapshot, workload: &Workload) -> Advice {
    advise_on(snapshot, workload, None)
}

/// The same with these GPUs alone.
pub fn advise_on(snapshot: &Snapshot, workload: &Workload, only: Option<&[GpuUuid]>) -> Advice {
    let node = ways::Node::new(snapshot, only);
    let mut options: Vec<_> =
        Way::ALL.iter().map(|&way| choice(&node, snapshot, workload, way)).collect();
    let preferred = preference(workload);
    options.sort_by_key(|choice| {
        let harms = choice
            .needs
            .as_ref()
            .is_some_and(|needs| !needs.evict.is_empty() || !needs.hazards.is_empty());
        (!choice.fits, harms, preferred.iter().position(|way| *way == choice.way))
    });
    let recommended = options.first().filter(|choice| choice.fits).map(|choice| choice.way);
    Advice {
        schema: SCHEMA.to_owned(),
        simulated: snapshot.simulated,
        workload: workload.clone(),
        recommended,
        options,
    }
}

fn choice(node: &ways::Node<'_>, snapshot: &Snapshot, workload: &Workload, way: Way) -> Choice {
    let mut choice = Choice {
        way,
        fits: false,
        why_not: None,
        spec: None,
        gpus: Vec::new(),
        needs: None,
        reasons: ways::reasons(way).iter().map(|&text| text.to_owned()).collect(),
        figures: figures::of(way),
        lacks: ways::lacks(way).iter().map(|&text| text.to_owned()).collect(),
    };
    let tried = node.way(workload, way).and_then(|layout| {
        let needs = plan::plan(snapshot, &layout.spec).map_err(|error| error.to_string())?.needs;
        let stay = needs.evict.iter().flat_map(|eviction| &eviction.holders);
        if let Some(holder) = stay.clone().find(|holder| holder.protected.is_some()) {
            return Err(format!("{holder} is in the way"));
        }
        Ok((layout, needs))
    });
    match tried {
        Ok((layout, needs)) => {
            choice.fits = true;
            choice.reasons.splice(0..0, layout.says);
            choice.spec = Some(layout.spec);
            choice.gpus = layout.gpus;
            choice.needs = Some(needs);
        }
        Err(why) => choice.why_not = Some(why),
    }
    choice
}

/// The ways in the order of preference for a workload, were each to fit.
fn preference(workload: &Workload) -> [Way; 5] {
    use Way::{Exclusive, Mig, MigWithMps, Mps, TimeSliced};
    let large = workload.kernels == Kernels::Large;
    match (workload.isolation, workload.kernels, workload.style) {
        _ if workload.count.get() == 1 => [Exclusive, Mig, Mps, TimeSliced, MigWithMps],
        (Isolation::Strict | Isolation::Limits, ..) if large => {
            [Exclusive, Mig, Mps, TimeSliced, MigWithMps]
        }
        (Isolation::Strict, ..) => [Mig, Exclusive, Mps, TimeSliced, MigWithMps],
        (Isolation::Limits, ..) => [Mps, Mig, Exclusive, TimeSliced, MigWithMps],
        // Who is idle for the most part wants the card when he wants it; who fails ends nobody else.
        (Isolation::None, _, Style::Interactive) => [TimeSliced, Mps, Mig, Exclusive, MigWithMps],
        (Isolation::None, Kernels::Small, _) => [Mps, TimeSliced, Mig, Exclusive, MigWithMps],
        (Isolation::None, Kernels::Large, _) => [Exclusive, TimeSliced, Mig, Mps, MigWithMps],
        (Isolation::None, Kernels::Unknown, _) => [Exclusive, TimeSliced, Mps, Mig, MigWithMps],
    }
}
