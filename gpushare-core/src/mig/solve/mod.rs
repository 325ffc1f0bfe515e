//! The exact planner of one GPU's layout.
//!
//! Between a layout that exists and the instances that somebody wants there are at most some
//! hundred ways on any GPU of NVIDIA's, so [`solve`] looks at all of them and takes the best,
//! by [`Cost`]. Nothing is tried on hardware. [`order`](crate::mig::order) says in which order
//! the answer is carried out.
//!
//! What a layout may be: its placements share no slot, no profile has more instances than
//! [`max_instances`](crate::mig::Profile::max_instances), and the engines of all instances are
//! within [`Geometry::engines`]. In a GPU instance, compute instances share no slice.
//!
//! # One answer
//! Ways of equal cost are told apart so that the answer is the same whatever the order in which
//! the current and the wanted instances are given:
//!
//! 1. The final instances are sorted by position of their profile and start. The lowest vector
//!    of starts wins.
//! 2. Wanted instances are ordered by profile, start (none first) and the slices of their compute
//!    instances (descending; none given counts as one full one). With the final instances sorted as
//!    before, the lowest vector of wanted instances wins: the first wanted one stands lowest.
//! 3. In a GPU instance the compute instances are sorted by slices, descending, and start. The
//!    lowest vector of starts wins.
//!
//! Wanted instances that are equal get their placements in the order asked for, lowest start
//! first, and so do equal compute instances.

mod compute;
mod demand;
mod refusal;
mod search;

use crate::error::{Error, ErrorCode, Result};
use crate::mig::geometry::{Geometry, Placement};

use demand::Demand;

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
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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

/// The most compute instances of one GPU that the planner takes. NVIDIA's GPUs have at most 8.
const MOST_COMPUTE: usize = 64;

/// Finds the best solution.
///
/// A current GPU instance is kept when a wanted one of its profile is put exactly where it stands,
/// and a compute instance when a wanted one of its size is put where it starts in a kept GPU
/// instance. Everything else goes. Compute instances of new GPU instances stand where
/// [`ComputeProfile::assumed`](crate::mig::ComputeProfile::assumed) says; what exists already
/// proves that it may stand where it does.
///
/// Takes about a microsecond, needs no privileges and asks no driver.
///
/// # Errors
/// - INVALID_ARGUMENT for a position that is no profile, a start that is no placement of its
///   profile, or a size that its compute instances do not come in.
/// - INSUFFICIENT when the wanted instances do not fit on this GPU even when it is empty, or
///   wanted compute instances not in their GPU instance; with the largest parts of it that do.
/// - UNSUPPORTED for more instances, or more ways to place them, than any known GPU has.
pub fn solve(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
) -> Result<Solution> {
    check(geometry, current)?;
    let demand = Demand::new(geometry, current, wanted)?;
    search::best(geometry, current, wanted, &demand)?
        .ok_or_else(|| refusal::insufficient(geometry, wanted))
}

/// Refuses current instances that the search has no room for.
fn check(geometry: &Geometry, current: &[CurrentInstance]) -> Result<()> {
    let compute: usize = current.iter().map(|instance| instance.compute.len()).sum();
    if current.len() > Geometry::LIMIT || compute > MOST_COMPUTE {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "the GPU has {} GPU instances and {compute} compute instances; gpushare plans for at most {} and {MOST_COMPUTE}",
                current.len(),
                Geometry::LIMIT
            ),
        ));
    }
    match current.iter().find(|instance| instance.profile >= geometry.profiles().len()) {
        Some(instance) => Err(refusal::no_profile(geometry, instance.profile)),
        None => Ok(()),
    }
}
