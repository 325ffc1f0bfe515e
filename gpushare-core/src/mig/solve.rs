//! The exact planner of one GPU's layout.

use crate::error::Result;
use crate::mig::geometry::{Geometry, Placement};

/// A GPU instance that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentInstance {
    /// Position of its profile in [`Geometry::profiles`].
    pub profile: usize,
    /// Where it stands.
    pub placement: Placement,
    /// Whether somebody uses it apart from its compute instances, or may do.
    pub busy: bool,
    /// Its compute instances.
    pub compute: Vec<CurrentCompute>,
}

/// A compute instance that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentCompute {
    /// Compute slices.
    pub slices: u8,
    /// Where it starts, in compute slices of its GPU instance.
    pub start: u8,
    /// Whether somebody uses it, or may do.
    pub busy: bool,
}

/// A GPU instance that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedInstance {
    /// Position of its profile in [`Geometry::profiles`].
    pub profile: usize,
    /// Where it must start, if that matters.
    pub start: Option<u8>,
    /// Slices of its compute instances; none means one that fills it.
    pub compute: Option<Vec<u8>>,
}

/// The best way from the current instances to the wanted ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// For each wanted instance, in the order asked for, where it will stand.
    pub instances: Vec<PlacedInstance>,
    /// The current GPU instances that go, by position, ascending.
    pub destroyed: Vec<usize>,
    /// What it costs and leaves.
    pub cost: Cost,
}

/// Where a wanted GPU instance will stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedInstance {
    /// Where.
    pub placement: Placement,
    /// The current instance that it is, by position, if it exists already.
    pub keeps: Option<usize>,
    /// Its compute instances.
    pub compute: Vec<PlacedCompute>,
    /// The compute instances of the kept instance that go, by position, ascending.
    pub destroyed_compute: Vec<usize>,
}

/// Where a wanted compute instance will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedCompute {
    /// Compute slices.
    pub slices: u8,
    /// Where it starts, in compute slices of its GPU instance.
    pub start: u8,
    /// The current compute instance that it is, by position, if it exists already.
    pub keeps: Option<usize>,
}

/// What a solution costs and leaves: compared field by field, in this order, smaller is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Compute instances in use, and GPU instances in use apart from those, that go.
    pub evictions: u8,
    /// GPU instances that go.
    pub gpu_instance_destroys: u8,
    /// Compute instances that go, those of destroyed GPU instances included.
    pub compute_instance_destroys: u8,
    /// GPU and compute instances that come.
    pub creates: u8,
    /// Position of the largest profile that still fits; the number of profiles when none does.
    pub largest_left: u8,
    /// Placements that are still possible, summed over profiles, counted down from 255.
    pub placements_taken: u8,
}

/// Finds the best solution.
///
/// # Errors
/// INSUFFICIENT when the wanted instances do not fit on this GPU at all.
pub fn solve(
    _geometry: &Geometry,
    _current: &[CurrentInstance],
    _wanted: &[WantedInstance],
) -> Result<Solution> {
    Err(crate::Error::new(crate::ErrorCode::Unsupported, "not yet"))
}
