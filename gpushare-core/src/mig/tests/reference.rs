//! The best way by definition: every assignment of wanted instances to placements and of compute
//! instances to starts, compared by what [`solve`](crate::mig::solve) promises, word by word.

use std::cmp::Reverse;

use crate::mig::compute::ComputeProfile;
use crate::mig::geometry::{Geometry, Placement};
use crate::mig::solve::{
    Cost, CurrentCompute, CurrentInstance, PlacedCompute, PlacedInstance, Solution, WantedInstance,
};
use crate::mig::tests::world::{left, possible};

/// The solution, or none when there is none.
pub(super) fn reference(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
) -> Option<Solution> {
    let mut ways = Vec::new();
    assign(geometry, current, wanted, &mut Vec::new(), &mut ways);
    let fewest = ways.iter().map(|way| actions(&way.cost)).min()?;
    ways.retain(|way| actions(&way.cost) == fewest);
    for way in &mut ways {
        let layout: Vec<_> = layout(wanted, &way.instances);
        (way.cost.largest_left, way.cost.placements_taken) = left(geometry, &layout);
    }
    ways.into_iter().min_by_key(|way| {
        let mut standing: Vec<_> = wanted
            .iter()
            .zip(&way.instances)
            .enumerate()
            .map(|(position, (wanted, placed))| {
                let start = placed.placement.start;
                (wanted.profile, start, canonical(geometry, wanted), position)
            })
            .collect();
        standing.sort();
        let starts: Vec<_> = standing.iter().map(|at| at.1).collect();
        let who: Vec<_> = standing.iter().map(|at| at.2.clone()).collect();
        let asked: Vec<_> = standing.iter().map(|at| at.3).collect();
        (way.cost, starts, who, asked)
    })
}

fn actions(cost: &Cost) -> [u8; 4] {
    [cost.evictions, cost.gpu_instance_destroys, cost.compute_instance_destroys, cost.creates]
}

fn layout(wanted: &[WantedInstance], placed: &[PlacedInstance]) -> Vec<(usize, Placement)> {
    wanted.iter().zip(placed).map(|(wanted, placed)| (wanted.profile, placed.placement)).collect()
}

/// What tells wanted instances apart: profile, start, slices descending.
pub(super) fn canonical(
    geometry: &Geometry,
    wanted: &WantedInstance,
) -> (usize, Option<u8>, Vec<u8>) {
    let mut sizes = sizes(geometry, wanted);
    sizes.sort_by_key(|&size| Reverse(size));
    (wanted.profile, wanted.start, sizes)
}

fn sizes(geometry: &Geometry, wanted: &WantedInstance) -> Vec<u8> {
    wanted.compute.clone().unwrap_or_else(|| vec![geometry.profiles()[wanted.profile].slices])
}

fn assign(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
    placed: &mut Vec<PlacedInstance>,
    ways: &mut Vec<Solution>,
) {
    let Some(next) = wanted.get(placed.len()) else {
        ways.push(finish(current, placed.clone()));
        return;
    };
    for &placement in &geometry.profiles()[next.profile].placements {
        if next.start.is_some_and(|start| start != placement.start) {
            continue;
        }
        let keeps = current
            .iter()
            .position(|other| (other.profile, other.placement) == (next.profile, placement));
        let standing = keeps.map_or(Vec::new(), |keeps| current[keeps].compute.clone());
        let Some(compute) = best_compute(geometry, next, &standing) else { continue };
        let goes = |other: &usize| !compute.iter().any(|compute| compute.keeps == Some(*other));
        let destroyed_compute = (0..standing.len()).filter(goes).collect();
        placed.push(PlacedInstance { placement, keeps, compute, destroyed_compute });
        if possible(geometry, &layout(wanted, placed)) {
            assign(geometry, current, wanted, placed, ways);
        }
        placed.pop();
    }
}

fn finish(current: &[CurrentInstance], instances: Vec<PlacedInstance>) -> Solution {
    let mut cost = Cost::default();
    let mut destroyed = Vec::new();
    for (position, instance) in current.iter().enumerate() {
        let kept = instances.iter().find(|placed| placed.keeps == Some(position));
        if kept.is_none() {
            destroyed.push(position);
            cost.gpu_instance_destroys += 1;
            cost.evictions += u8::from(instance.busy);
        }
        for (position, compute) in instance.compute.iter().enumerate() {
            if kept.is_none_or(|kept| kept.destroyed_compute.contains(&position)) {
                cost.compute_instance_destroys += 1;
                cost.evictions += u8::from(compute.busy);
            }
        }
    }
    for placed in &instances {
        let new = placed.compute.iter().filter(|compute| compute.keeps.is_none()).count();
        cost.creates += u8::from(placed.keeps.is_none()) + new as u8;
    }
    Solution { instances, destroyed, cost }
}

/// The best assignment of the wanted compute instances of one GPU instance.
fn best_compute(
    geometry: &Geometry,
    wanted: &WantedInstance,
    standing: &[CurrentCompute],
) -> Option<Vec<PlacedCompute>> {
    let mut all = vec![Vec::<PlacedCompute>::new()];
    for slices in sizes(geometry, wanted) {
        let mut starts = starts(geometry, wanted.profile, slices);
        starts.extend(standing.iter().filter(|c| c.slices == slices).map(|c| c.start));
        starts.sort_unstable();
        starts.dedup();
        let mut longer = Vec::new();
        for some in &all {
            for &start in &starts {
                let keeps = standing.iter().position(|c| (c.slices, c.start) == (slices, start));
                let apart = |other: &PlacedCompute| {
                    other.start + other.slices <= start || start + slices <= other.start
                };
                if some.iter().all(apart) {
                    let mut some = some.clone();
                    some.push(PlacedCompute { slices, start, keeps });
                    longer.push(some);
                }
            }
        }
        all = longer;
    }
    all.into_iter().min_by_key(|some| {
        let goes = |(position, _): &(usize, &CurrentCompute)| {
            !some.iter().any(|compute| compute.keeps == Some(*position))
        };
        let gone: Vec<_> = standing.iter().enumerate().filter(goes).collect();
        let evictions = gone.iter().filter(|(_, compute)| compute.busy).count();
        let creates = some.iter().filter(|compute| compute.keeps.is_none()).count();
        let mut sorted: Vec<_> = some.iter().map(|c| (Reverse(c.slices), c.start)).collect();
        sorted.sort();
        let as_asked: Vec<_> = some.iter().map(|compute| compute.start).collect();
        (evictions, gone.len(), creates, sorted, as_asked)
    })
}

/// Where new compute instances of that size may start.
pub(super) fn starts(geometry: &Geometry, profile: usize, slices: u8) -> Vec<u8> {
    let profile = &geometry.profiles()[profile];
    let mut assumed = ComputeProfile::assumed(profile.index, profile.slices).into_iter();
    assumed.find(|compute| compute.slices == slices).map_or(Vec::new(), |compute| compute.starts)
}
