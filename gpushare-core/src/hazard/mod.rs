//! Settings that work and harm.
//!
//! A hazard is not an error: the driver takes the setting, nothing fails, and results are wrong or
//! a limit is none. Plans list hazards; apply wants each allowed by name. What the card or the driver
//! does not take at all is an error ([`expect_possible`]), and [`split`] finds equal parts without a hazard.

mod hopper;
mod limits;
mod split;
mod target;

use serde::{Deserialize, Serialize};

use crate::mode::ComputeMode;
use crate::mps::sm_share;
use crate::parameters::{MpsComputeMode, MpsConfig};
use crate::snapshot::GpuSnapshot;
use crate::units::{Bytes, ThreadPercentage};

pub use crate::mps::{MINIMUM_SM, sm_count};
pub use limits::{expect_possible, most_clients, notes};
pub use split::{PlainShare, SPLIT_SCHEMA, Split, split, split_gpus};
pub use target::MpsTarget;

/// A hazard of a setting on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hazard {
    /// The name by which it is allowed.
    pub name: HazardName,
    /// What would happen.
    pub message: String,
    /// Values that do no harm.
    pub safe: Vec<String>,
}

/// The names of hazards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HazardName {
    /// A percentage whose SM count leaves parts of half-precision products unwritten.
    HopperPartialSm,
    /// A partial percentage on a Hopper card with another number of SMs than was measured, or inside
    /// a MIG device of a Hopper card, or on a card that does not say what it is.
    HopperUnmeasured,
    /// A process that misses the MPS daemon gets the whole GPU or MIG device.
    BypassPossible,
    /// A percentage so small that the driver's minimum takes its place.
    MinimumSm,
    /// A memory limit that a CUDA context all but fills.
    SmallLimit,
}

impl HazardName {
    /// Every name.
    pub const ALL: &[Self] = &[
        Self::HopperPartialSm,
        Self::HopperUnmeasured,
        Self::BypassPossible,
        Self::MinimumSm,
        Self::SmallLimit,
    ];

    /// The name as people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HopperPartialSm => "hopper-partial-sm",
            Self::HopperUnmeasured => "hopper-unmeasured",
            Self::BypassPossible => "bypass-possible",
            Self::MinimumSm => "minimum-sm",
            Self::SmallLimit => "small-limit",
        }
    }
}

impl std::fmt::Display for HazardName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The memory limit below which a CUDA context leaves little: it takes 514 MiB of the limit on an
/// H200 (measured: 1,534 MiB left of 2 GiB).
const LEAST_LIMIT: Bytes = Bytes::from_mebibytes(1024);

/// Hazards of an MPS configuration on a whole GPU.
pub fn of_mps(gpu: &GpuSnapshot, config: &MpsConfig) -> Vec<Hazard> {
    of_mps_on(&MpsTarget::of_gpu(gpu), config)
}

/// Hazards of an MPS configuration on a GPU or a MIG device.
pub fn of_mps_on(target: &MpsTarget, config: &MpsConfig) -> Vec<Hazard> {
    let percentage = config.thread_percentage;
    let mut hazards: Vec<_> = of_percentage(target, percentage)
        .map(|name| Hazard {
            name,
            message: match (name, target.sm_count) {
                (HazardName::MinimumSm, Some(total)) => format!(
                    "{percentage} % of {total} SMs is less than the {MINIMUM_SM} that every client gets: more clients than you think fit, and each gets more"
                ),
                _ => hopper::message(name, target, percentage),
            },
            safe: nearest(target, percentage).map(|safe| safe.to_string()).collect(),
        })
        .collect();
    hazards.extend(bypass(target, config));
    if config.pinned_memory_limit.is_some_and(|limit| limit < LEAST_LIMIT) {
        hazards.push(Hazard {
            name: HazardName::SmallLimit,
            message: "a CUDA context alone takes about half a GiB of the memory limit".to_owned(),
            safe: vec![format!("{LEAST_LIMIT} or more")],
        });
    }
    hazards
}

/// The hazards of a percentage alone. 100 % is no limit and has none.
fn of_percentage(
    target: &MpsTarget,
    percentage: ThreadPercentage,
) -> impl Iterator<Item = HazardName> {
    let partial = percentage < ThreadPercentage::FULL;
    let hopper = partial.then(|| hopper::judge(target, percentage)).flatten();
    let small = target.sm_count.is_some_and(|total| sm_share(percentage, total) < MINIMUM_SM);
    let minimum = (partial && small).then_some(HazardName::MinimumSm);
    hopper.into_iter().chain(minimum)
}

/// The whole percentages, upwards.
fn whole_percentages() -> impl DoubleEndedIterator<Item = ThreadPercentage> {
    (1..=100u32).filter_map(|whole| ThreadPercentage::new(whole.into()).ok())
}

/// The whole percentages without a hazard that are nearest below and above.
fn nearest(
    target: &MpsTarget,
    percentage: ThreadPercentage,
) -> impl Iterator<Item = ThreadPercentage> {
    let safe = |other: &ThreadPercentage| of_percentage(target, *other).next().is_none();
    let below = whole_percentages().rev().filter(|other| *other < percentage).find(safe);
    let above = whole_percentages().filter(|other| *other > percentage).find(safe);
    below.into_iter().chain(above)
}

fn bypass(target: &MpsTarget, config: &MpsConfig) -> Option<Hazard> {
    let (message, safe) = if !target.exclusive_possible {
        (
            "compute mode is not set on a MIG device: a process that misses the daemon gets the whole MIG device, without a limit",
            "a MIG device for each tenant",
        )
    } else if config.compute_mode == MpsComputeMode::Unchanged
        && target.compute_mode != Some(ComputeMode::ExclusiveProcess)
    {
        (
            "compute mode stays as it is: a process that misses the daemon gets the whole GPU, without a limit",
            "compute_mode: exclusive_process",
        )
    } else {
        return None;
    };
    Some(Hazard {
        name: HazardName::BypassPossible,
        message: message.to_owned(),
        safe: vec![safe.to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn percent(percent: f64) -> ThreadPercentage {
        ThreadPercentage::new(percent).unwrap()
    }

    /// A GPU with that many SMs, 141 GiB of memory and compute mode DEFAULT.
    pub(super) fn card(sms: u32, capability: (u32, u32)) -> MpsTarget {
        let mut gpu = GpuSnapshot::new("GPU-00000000-0000-0000-0000-000000000000".parse().unwrap());
        gpu.sm_count = Some(sms);
        gpu.compute_capability = Some(capability);
        gpu.memory = Some(Bytes::from_mebibytes(141 << 10));
        gpu.compute_mode = Some(ComputeMode::Default);
        MpsTarget::of_gpu(&gpu)
    }

    pub(super) fn slice(sms: u32, capability: (u32, u32)) -> MpsTarget {
        MpsTarget {
            mig_device: true,
            compute_mode: None,
            exclusive_possible: false,
            ..card(sms, capability)
        }
    }

    /// The card on which the bands were measured.
    pub(super) fn measured() -> MpsTarget {
        card(132, (9, 0))
    }

    fn at(percentage: f64) -> MpsConfig {
        MpsConfig { thread_percentage: percent(percentage), ..MpsConfig::default() }
    }

    fn names(target: &MpsTarget, percentage: f64) -> Vec<HazardName> {
        of_mps_on(target, &at(percentage)).iter().map(|hazard| hazard.name).collect()
    }

    #[test]
    fn the_nearest_safe_percentages_are_named() {
        for (percentage, safe) in [
            (33.0, &["27", "47"][..]),
            (15.0, &["13", "23"]),
            (60.0, &["51", "90"]),
            (13.5, &["13", "23"]),
            (89.5, &["51", "90"]),
            (2.0, &["7"]),
        ] {
            let hazards = of_mps_on(&measured(), &at(percentage));
            assert_eq!(hazards.len(), 1, "{hazards:?}");
            assert_eq!(hazards[0].safe, safe, "{percentage} %");
        }
        assert_eq!(of_mps_on(&card(114, (9, 0)), &at(2.0))[0].safe, ["100"]);
    }

    #[test]
    fn every_safe_value_is_safe_and_none_nearer_is() {
        let targets = [measured(), card(114, (9, 0)), card(84, (8, 6)), slice(16, (9, 0))];
        for target in targets {
            for tenth in 1..=1000 {
                let percentage = f64::from(tenth) / 10.0;
                let clean = |whole: u32| of_percentage(&target, percent(whole.into())).count() == 0;
                for hazard in of_mps_on(&target, &at(percentage)) {
                    if hazard.name == HazardName::BypassPossible {
                        continue;
                    }
                    let safe: Vec<u32> = hazard.safe.iter().map(|s| s.parse().unwrap()).collect();
                    let harmless: Vec<u32> = (1..=100).filter(|&whole| clean(whole)).collect();
                    let below = harmless.iter().rfind(|&&whole| f64::from(whole) < percentage);
                    let above = harmless.iter().find(|&&whole| f64::from(whole) > percentage);
                    let both: Vec<u32> = below.into_iter().chain(above).copied().collect();
                    assert_eq!(safe, both);
                    assert!(!safe.is_empty());
                }
            }
        }
    }

    #[test]
    fn the_message_says_what_was_measured_and_where() {
        let hazards = of_mps_on(&measured(), &at(33.0));
        for part in ["33 %", "42 of 132 SMs", "36-60", "H200", "580.159.04", "CUDA 13.0", "fp32"] {
            assert!(hazards[0].message.contains(part), "{part}: {}", hazards[0].message);
        }
    }

    #[test]
    fn what_was_not_measured_is_said_to_be_so() {
        let unmeasured = [HazardName::HopperUnmeasured];
        assert_eq!(names(&card(114, (9, 0)), 40.0), unmeasured);
        // A percentage that is safe on the measured card is not on another.
        assert_eq!(names(&card(114, (9, 0)), 25.0), unmeasured);
        let unknown = MpsTarget { sm_count: None, ..measured() };
        assert_eq!(names(&unknown, 25.0), unmeasured);
        let silent = MpsTarget { compute_capability: None, ..measured() };
        assert_eq!(names(&silent, 25.0), unmeasured);
        assert_eq!(names(&slice(132, (9, 0)), 25.0), [unmeasured[0], HazardName::BypassPossible]);
        assert_eq!(names(&slice(60, (9, 0)), 100.0), [HazardName::BypassPossible]);
        assert_eq!(names(&slice(42, (8, 0)), 40.0), [HazardName::BypassPossible]);
        assert_eq!(names(&card(148, (10, 0)), 40.0), []);
        assert_eq!(names(&measured(), 100.0), []);
    }

    #[test]
    fn only_an_exclusive_gpu_cannot_be_bypassed() {
        let unchanged = MpsConfig { compute_mode: MpsComputeMode::Unchanged, ..at(100.0) };
        for mode in ComputeMode::ALL {
            let target = MpsTarget { compute_mode: Some(*mode), ..measured() };
            let open = *mode != ComputeMode::ExclusiveProcess;
            assert_eq!(!of_mps_on(&target, &unchanged).is_empty(), open, "{mode}");
            assert!(of_mps_on(&target, &at(100.0)).is_empty());
        }
    }

    #[test]
    fn a_small_limit_is_a_hazard() {
        for (mebibytes, small) in [(1, true), (1023, true), (1024, false), (4096, false)] {
            let limit = Some(Bytes::from_mebibytes(mebibytes));
            let config = MpsConfig { pinned_memory_limit: limit, ..at(100.0) };
            assert_eq!(!of_mps_on(&measured(), &config).is_empty(), small, "{mebibytes}");
        }
    }
}
