//! Compute instances: how a GPU instance is cut again.

use serde::{Deserialize, Serialize};

use crate::id::{ComputeProfileId, ComputeProfileIndex, ProfileIndex};

/// A compute-instance profile within a GPU instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComputeProfile {
    /// NVML's enum, which profile queries take.
    pub index: ComputeProfileIndex,
    /// The id that lists and creation take.
    pub id: ComputeProfileId,
    /// Compute slices.
    pub slices: u8,
    /// Where it may start, in compute slices of its GPU instance.
    pub starts: Vec<u8>,
}

impl ComputeProfile {
    /// A profile with what the driver says of it, and where it may start.
    pub const fn new(
        index: ComputeProfileIndex,
        id: ComputeProfileId,
        slices: u8,
        starts: Vec<u8>,
    ) -> Self {
        Self { index, id, slices, starts }
    }

    /// The profiles of compute instances in a GPU instance, before that GPU instance exists.
    ///
    /// **An assumption**, marked as such in every plan that rests on it: NVML answers for existing
    /// GPU instances only. The sizes are those that NVIDIA lists for the A100 (`nvidia-smi mig -lcip`),
    /// and go-nvlib's rule for the others; the starts are the ones that make the listed maximum
    /// come out. Apply asks the driver as soon as the GPU instance exists, and rolls back if it
    /// answers otherwise. The one full compute instance, the default, rests on no assumption.
    pub fn assumed(gpu_instance: ProfileIndex, slices: u8) -> Vec<Self> {
        (1..=slices)
            .filter(|&c| c == slices || 2 * c <= slices + 1)
            .filter_map(|c| {
                // The one-slice compute instance of a 1_SLICE_REV2 GPU instance has a profile of
                // its own, 1_SLICE_REV1 (seen on a GH200).
                let number = match (gpu_instance.get(), c) {
                    (9, 1) => 7,
                    (_, 1..=4) => u32::from(c) - 1,
                    (_, 7) => 4,
                    (_, 8) => 5,
                    (_, 6) => 6,
                    _ => return None,
                };
                let step = c.next_power_of_two();
                Some(Self {
                    index: ComputeProfileIndex::new(number),
                    id: ComputeProfileId::new(number),
                    slices: c,
                    starts: (0..=slices - c).step_by(step.into()).collect(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_gives_the_listed_profiles_of_an_a100() {
        let sizes_and_most = |index, slices| -> Vec<(u8, usize)> {
            ComputeProfile::assumed(ProfileIndex::new(index), slices)
                .iter()
                .map(|profile| (profile.slices, profile.starts.len()))
                .collect()
        };
        assert_eq!(sizes_and_most(0, 1), [(1, 1)]);
        assert_eq!(sizes_and_most(1, 2), [(1, 2), (2, 1)]);
        assert_eq!(sizes_and_most(2, 3), [(1, 3), (2, 1), (3, 1)]);
        assert_eq!(sizes_and_most(3, 4), [(1, 4), (2, 2), (4, 1)]);
        assert_eq!(sizes_and_most(4, 7), [(1, 7), (2, 3), (3, 2), (4, 1), (7, 1)]);
    }
}
