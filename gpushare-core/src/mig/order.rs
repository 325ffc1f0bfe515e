//! In which order a solution is carried out.

use crate::error::{Error, ErrorCode, Result};
use crate::mig::fit::Room;
use crate::mig::geometry::{Geometry, Placement};
use crate::mig::solve::{CurrentInstance, PlacedInstance, Solution, WantedInstance};

/// One change of a GPU, by positions in what [`order`] was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// A compute instance of a current GPU instance goes.
    DestroyCompute {
        /// Position of the GPU instance among the current ones.
        current: usize,
        /// Position in [`CurrentInstance::compute`].
        compute: usize,
    },
    /// A current GPU instance goes. Its compute instances have gone before.
    DestroyGpuInstance {
        /// Its position among the current ones.
        current: usize,
    },
    /// A wanted GPU instance comes.
    CreateGpuInstance {
        /// Its position among the wanted ones.
        wanted: usize,
    },
    /// A compute instance comes, in a GPU instance that is kept or has come before.
    CreateCompute {
        /// Position of the GPU instance among the wanted ones.
        wanted: usize,
        /// Position in [`PlacedInstance::compute`].
        compute: usize,
    },
}

/// The order in which a solution is carried out, so that a failure costs as little as may be:
///
/// 1. what fits beside all that exists: GPU instances, lowest first, each followed by its compute
///    instances, and compute instances in GPU instances that are kept;
/// 2. what goes, lowest first: of GPU instances that are kept, compute instances; others with all
///    of theirs;
/// 3. all else that comes, as in 1.
///
/// At every moment no slot or slice is taken twice, and each profile's maximum and the GPU's
/// engines are respected.
///
/// # Errors
/// INVALID_ARGUMENT when the solution is not one of these current and wanted instances.
pub fn order(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
    solution: &Solution,
) -> Result<Vec<Action>> {
    check(geometry, current, wanted, solution)?;
    let mut actions = Vec::new();
    let mut later = Vec::new();

    let mut by_start: Vec<usize> = (0..wanted.len()).collect();
    by_start.sort_by_key(|&position| solution.instances[position].placement);
    let mut taken = current.iter().fold(0, |taken, instance| taken | instance.placement.mask());
    let mut room = Room::beside(geometry, current.iter().map(|instance| instance.profile));
    for position in by_start {
        let placed = &solution.instances[position];
        match placed.keeps {
            Some(kept) => {
                create_beside(&current[kept], placed, position, &mut actions, &mut later);
            }
            None => {
                let (mask, profile) = (placed.placement.mask(), wanted[position].profile);
                let now = taken & mask == 0 && room.has(geometry, profile);
                if now {
                    taken |= mask;
                    room.take(geometry, profile);
                }
                let to = if now { &mut actions } else { &mut later };
                to.push(Action::CreateGpuInstance { wanted: position });
                let compute = 0..placed.compute.len();
                to.extend(
                    compute.map(|compute| Action::CreateCompute { wanted: position, compute }),
                );
            }
        }
    }

    let mut by_start: Vec<usize> = (0..current.len()).collect();
    by_start.sort_by_key(|&position| (current[position].placement, position));
    for position in by_start {
        let destroy = |compute| Action::DestroyCompute { current: position, compute };
        match solution.instances.iter().find(|placed| placed.keeps == Some(position)) {
            Some(placed) => actions.extend(placed.destroyed_compute.iter().copied().map(destroy)),
            None => {
                actions.extend((0..current[position].compute.len()).map(destroy));
                actions.push(Action::DestroyGpuInstance { current: position });
            }
        }
    }
    actions.append(&mut later);
    Ok(actions)
}

/// Sorts the compute instances that come in a kept GPU instance into those that fit now and others.
fn create_beside(
    kept: &CurrentInstance,
    placed: &PlacedInstance,
    wanted: usize,
    now: &mut Vec<Action>,
    later: &mut Vec<Action>,
) {
    let slices = kept.compute.iter().map(|c| Placement::new(c.start, c.slices).mask());
    let taken = slices.fold(0, |taken, mask| taken | mask);
    for (compute, new) in placed.compute.iter().enumerate() {
        if new.keeps.is_none() {
            let free = Placement::new(new.start, new.slices).mask() & taken == 0;
            let to = if free { &mut *now } else { &mut *later };
            to.push(Action::CreateCompute { wanted, compute });
        }
    }
}

fn check(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
    solution: &Solution,
) -> Result<()> {
    let profiles = geometry.profiles().len();
    let fits_current = |placed: &PlacedInstance| {
        placed.keeps.is_none_or(|kept| {
            current.get(kept).is_some_and(|instance| {
                let here = |&position: &usize| position < instance.compute.len();
                instance.placement == placed.placement
                    && placed.destroyed_compute.iter().all(here)
                    && placed.compute.iter().filter_map(|compute| compute.keeps).all(|c| here(&c))
            })
        })
    };
    let consistent = solution.instances.len() == wanted.len()
        && wanted.iter().all(|wanted| wanted.profile < profiles)
        && current.iter().all(|instance| instance.profile < profiles)
        && solution.instances.iter().all(fits_current);
    if consistent {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        "the solution is not one of these current and wanted instances; solve again",
    ))
}
