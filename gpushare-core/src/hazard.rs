//! Settings that work and harm.
//!
//! A hazard is not an error: the driver takes the setting, nothing fails, and results are wrong or
//! a limit is none. Plans list hazards; apply wants each allowed by name.

use serde::{Deserialize, Serialize};

use crate::mode::ComputeMode;
use crate::parameters::{MpsComputeMode, MpsConfig};
use crate::snapshot::GpuSnapshot;
use crate::units::{Bytes, ThreadPercentage};

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
    /// A partial percentage on a Hopper card with another number of SMs than was measured.
    HopperUnmeasured,
    /// A process that misses the MPS daemon gets the whole GPU.
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

/// Multiprocessors that an MPS client sees under a percentage: `max(8, 2 * floor(p * SMs / 200))`.
///
/// Exact for all 100 whole percentages on an H200 (132 SMs, driver 580.159.04, measured).
pub fn sm_count(percentage: ThreadPercentage, total: u32) -> u32 {
    let half = (percentage.get() * f64::from(total) / 200.0).floor();
    // In range: the percentage is at most 100.
    (2 * half as u32).max(MINIMUM_SM)
}

const MINIMUM_SM: u32 = 8;

/// SM counts of a 132-SM Hopper card within which half-precision products were wrong: three bands,
/// each treated as unsafe as a whole (measured on an H200, driver 580.159.04, cuBLAS of CUDA 13.0;
/// an independent report on another H200 names the same bands).
const UNSAFE_SM: [(u32, u32); 3] = [(18, 28), (36, 60), (68, 116)];

/// The SM count for which the bands were measured.
const MEASURED_SM: u32 = 132;

/// Hazards of an MPS configuration on a GPU.
pub fn of_mps(gpu: &GpuSnapshot, config: &MpsConfig) -> Vec<Hazard> {
    let mut hazards = Vec::new();
    let percentage = config.thread_percentage;
    if let Some(total) = gpu.sm_count.filter(|_| percentage < ThreadPercentage::FULL) {
        let sms = sm_count(percentage, total);
        let hopper = gpu.compute_capability.is_some_and(|(major, _)| major == 9);
        if hopper && total == MEASURED_SM {
            if UNSAFE_SM.iter().any(|&(low, high)| (low..=high).contains(&sms)) {
                hazards.push(Hazard {
                    name: HazardName::HopperPartialSm,
                    message: format!(
                        "at {percentage} % a client gets {sms} of {total} SMs, where cuBLAS leaves parts of half-precision products unwritten, without an error"
                    ),
                    safe: ["1-13", "23-27", "47-51", "90-100"].map(str::to_owned).to_vec(),
                });
            }
        } else if hopper {
            hazards.push(Hazard {
                name: HazardName::HopperUnmeasured,
                message: format!(
                    "Hopper cards with 132 SMs compute wrong half-precision products at many percentages; this one has {total} SMs and was not measured"
                ),
                safe: vec!["100".to_owned()],
            });
        }
        if 2.0 * (percentage.get() * f64::from(total) / 200.0).floor() < f64::from(MINIMUM_SM) {
            hazards.push(Hazard {
                name: HazardName::MinimumSm,
                message: format!(
                    "{percentage} % of {total} SMs is less than the {MINIMUM_SM} that every client gets: more clients than you think fit, and each gets more"
                ),
                safe: vec![format!("{}", (f64::from(MINIMUM_SM) * 100.0 / f64::from(total)).ceil())],
            });
        }
    }
    if config.compute_mode == MpsComputeMode::Unchanged
        && gpu.compute_mode != Some(ComputeMode::ExclusiveProcess)
    {
        hazards.push(Hazard {
            name: HazardName::BypassPossible,
            message: "compute mode stays as it is: a process that misses the daemon gets the whole GPU, without a limit".to_owned(),
            safe: vec!["compute_mode: exclusive_process".to_owned()],
        });
    }
    // A context takes 514 MiB of the limit on an H200 (measured: 1,534 MiB left of 2 GiB).
    let least = Bytes::from_mebibytes(1024);
    if config.pinned_memory_limit.is_some_and(|limit| limit < least) {
        hazards.push(Hazard {
            name: HazardName::SmallLimit,
            message: "a CUDA context alone takes about half a GiB of the memory limit".to_owned(),
            safe: vec![format!("{least} or more")],
        });
    }
    hazards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GpuUuid;

    fn hazards(sms: u32, capability: (u32, u32), percent: f64) -> Vec<HazardName> {
        let uuid: GpuUuid = "GPU-00000000-0000-0000-0000-000000000000".parse().unwrap();
        let mut gpu = GpuSnapshot::new(uuid);
        gpu.sm_count = Some(sms);
        gpu.compute_capability = Some(capability);
        let config = MpsConfig {
            thread_percentage: ThreadPercentage::new(percent).unwrap(),
            ..MpsConfig::default()
        };
        of_mps(&gpu, &config).iter().map(|hazard| hazard.name).collect()
    }

    #[test]
    fn the_bands_are_those_that_were_reported() {
        for percent in 1..=100u32 {
            let wrong = matches!(percent, 14..=22 | 28..=46 | 52..=89);
            let found = hazards(132, (9, 0), percent.into()).contains(&HazardName::HopperPartialSm);
            assert_eq!(found, wrong, "{percent} %");
        }
    }

    #[test]
    fn other_cards_are_unmeasured_or_clean() {
        assert_eq!(hazards(114, (9, 0), 40.0), [HazardName::HopperUnmeasured]);
        assert_eq!(hazards(148, (10, 0), 40.0), []);
        assert_eq!(hazards(132, (9, 0), 2.0), [HazardName::MinimumSm]);
    }
}
