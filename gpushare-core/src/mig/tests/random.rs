//! Random requests, compared with the reference, in any order, and carried out step by step.

use proptest::prelude::*;

use crate::error::ErrorCode;
use crate::mig::geometry::{Geometry, Placement};
use crate::mig::order::{Action, order};
use crate::mig::solve::{CurrentCompute, CurrentInstance, Solution, WantedInstance, solve};
use crate::mig::tests::geometries;
use crate::mig::tests::reference::{canonical, reference, starts};
use crate::mig::tests::world::{places, possible};

/// Draws numbers from bytes, so that a failing case shrinks.
struct Draw(std::vec::IntoIter<u8>);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % end.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            let other = self.below(at + 1);
            list.swap(at, other);
        }
    }

    /// A random layout.
    fn layout(&mut self, geometry: &Geometry, tries: usize) -> Vec<(usize, Placement)> {
        let places = places(geometry);
        let mut layout = Vec::new();
        // Now and then mostly large ones, which can be cut again.
        let large = self.one_in(2);
        for _ in 0..self.below(tries + 1) {
            let end = if large { 1 + self.below(places.len()) } else { places.len() };
            layout.push(places[self.below(end)]);
            if !possible(geometry, &layout) {
                layout.pop();
            }
        }
        layout
    }

    /// Compute instances of a GPU instance: where they may stand, and now and then where they may not.
    fn standing(&mut self, geometry: &Geometry, profile: usize) -> Vec<CurrentCompute> {
        let slices = geometry.profiles()[profile].slices;
        let mut standing: Vec<CurrentCompute> = Vec::new();
        if self.one_in(2) {
            return vec![CurrentCompute { slices, start: 0, busy: self.one_in(3) }];
        }
        for _ in 0..self.below(6) {
            let size = 1 + self.below(slices.into()) as u8;
            let starts = match self.one_in(6) {
                true => (0..=slices - size).collect(),
                false => starts(geometry, profile, size),
            };
            if starts.is_empty() {
                continue;
            }
            let start = starts[self.below(starts.len())];
            let new = CurrentCompute { slices: size, start, busy: self.one_in(3) };
            let apart = |c: &CurrentCompute| c.start + c.slices <= start || start + size <= c.start;
            if standing.iter().all(apart) {
                standing.push(new);
            }
        }
        standing
    }

    fn current(&mut self, geometry: &Geometry) -> Vec<CurrentInstance> {
        let layout = self.layout(geometry, 12);
        let instance = |(profile, placement)| CurrentInstance {
            profile,
            placement,
            busy: self.one_in(5),
            compute: self.standing(geometry, profile),
        };
        layout.into_iter().map(instance).collect()
    }

    /// Slices of compute instances that mostly fit in a GPU instance.
    fn sizes(&mut self, geometry: &Geometry, profile: usize) -> Vec<u8> {
        let slices = geometry.profiles()[profile].slices;
        let known = |&size: &u8| !starts(geometry, profile, size).is_empty();
        let known: Vec<u8> = (1..=slices).filter(known).collect();
        let mut sizes: Vec<u8> = Vec::new();
        for _ in 0..self.below(6) {
            let end = 1 + self.below(known.len());
            let mut size = known[self.below(end)];
            if self.one_in(50) {
                size = 1 + self.below(slices.into()) as u8;
            }
            if sizes.iter().sum::<u8>() + size <= slices || self.one_in(30) {
                sizes.push(size);
            }
        }
        sizes
    }

    /// Instances that mostly fit.
    fn wanted(&mut self, geometry: &Geometry) -> Vec<WantedInstance> {
        let mut layout = self.layout(geometry, 10);
        if self.one_in(4) {
            let places = places(geometry);
            layout.push(places[self.below(places.len())]);
        }
        layout
            .into_iter()
            .map(|(profile, placement)| {
                let start = self.one_in(4).then_some(placement.start);
                let start = if self.one_in(60) { Some(self.below(9) as u8) } else { start };
                let compute = self.one_in(2).then(|| self.sizes(geometry, profile));
                WantedInstance { profile, start, compute }
            })
            .collect()
    }
}

fn geometry(which: usize) -> Geometry {
    [
        geometries::h100_with_media,
        geometries::a100,
        geometries::a30_with_media,
        geometries::rtx_pro_6000,
        geometries::h100,
        geometries::scarce,
    ][which]()
}

/// Which code the refusal must have: nonsense is told from what does not fit.
fn refusal(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
) -> ErrorCode {
    let nonsense = wanted.iter().any(|wanted| {
        let profile = &geometry.profiles()[wanted.profile];
        let starts_well =
            wanted.start.is_none_or(|start| profile.placements.iter().any(|p| p.start == start));
        let same = || current.iter().filter(|current| current.profile == wanted.profile);
        let exists = |size| same().flat_map(|c| &c.compute).any(|c| c.slices == size);
        let known = |&size: &u8| !starts(geometry, wanted.profile, size).is_empty() || exists(size);
        !starts_well || !wanted.compute.iter().flatten().all(known)
    });
    if nonsense { ErrorCode::InvalidArgument } else { ErrorCode::Insufficient }
}

/// Carries the actions out, checking every moment, and compares the end with the solution.
pub(super) fn carry_out(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
    solution: &Solution,
) -> Vec<Action> {
    type Compute = Vec<(u8, u8)>;
    struct Standing {
        current: Option<usize>,
        wanted: Option<usize>,
        place: (usize, Placement),
        compute: Compute,
    }
    let actions = order(geometry, current, wanted, solution).unwrap();
    let mut standing: Vec<Standing> = current
        .iter()
        .enumerate()
        .map(|(position, instance)| Standing {
            current: Some(position),
            wanted: solution.instances.iter().position(|placed| placed.keeps == Some(position)),
            place: (instance.profile, instance.placement),
            compute: instance.compute.iter().map(|c| (c.slices, c.start)).collect(),
        })
        .collect();
    let mut phase = 0;
    for &action in &actions {
        match action {
            Action::DestroyCompute { current: position, compute } => {
                let gone = current[position].compute[compute];
                let at = standing.iter_mut().find(|s| s.current == Some(position)).unwrap();
                let compute = at.compute.iter().position(|&c| c == (gone.slices, gone.start));
                at.compute.remove(compute.unwrap());
            }
            Action::DestroyGpuInstance { current: position } => {
                let at = standing.iter().position(|s| s.current == Some(position)).unwrap();
                assert!(standing[at].compute.is_empty() && standing[at].wanted.is_none());
                standing.remove(at);
            }
            Action::CreateGpuInstance { wanted: position } => {
                let place = (wanted[position].profile, solution.instances[position].placement);
                standing.push(Standing {
                    current: None,
                    wanted: Some(position),
                    place,
                    compute: Vec::new(),
                });
                let layout: Vec<_> = standing.iter().map(|s| s.place).collect();
                assert!(possible(geometry, &layout), "{actions:?}");
            }
            Action::CreateCompute { wanted: position, compute } => {
                let new = solution.instances[position].compute[compute];
                let at = standing.iter_mut().find(|s| s.wanted == Some(position)).unwrap();
                let apart = |&(slices, start): &(u8, u8)| {
                    start + slices <= new.start || new.start + new.slices <= start
                };
                assert!(at.compute.iter().all(apart), "{actions:?}");
                at.compute.push((new.slices, new.start));
            }
        }
        // Creates, destroys, creates.
        let destroys =
            matches!(action, Action::DestroyCompute { .. } | Action::DestroyGpuInstance { .. });
        phase = match (phase, destroys) {
            (0, true) => 1,
            (1, false) => 2,
            (2, true) => panic!("a destroy after the last creates: {actions:?}"),
            (phase, _) => phase,
        };
    }
    assert_eq!(standing.len(), wanted.len());
    for mut at in standing {
        let position = at.wanted.unwrap();
        let placed = &solution.instances[position];
        assert_eq!(at.place, (wanted[position].profile, placed.placement));
        let mut compute: Compute = placed.compute.iter().map(|c| (c.slices, c.start)).collect();
        compute.sort_unstable();
        at.compute.sort_unstable();
        assert_eq!(at.compute, compute);
    }
    actions
}

/// A solution without positions: who stands where, what stays and what goes.
fn essence(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
    solution: &Solution,
) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut standing: Vec<_> = wanted
        .iter()
        .zip(&solution.instances)
        .map(|(wanted, placed)| {
            let compute = placed.compute.iter();
            let mut compute: Vec<_> =
                compute.map(|c| (c.slices, c.start, c.keeps.is_some())).collect();
            compute.sort_unstable();
            (canonical(geometry, wanted), placed.placement, placed.keeps.is_some(), compute)
        })
        .collect();
    standing.sort();
    let gone = solution.destroyed.iter().map(|&position| &current[position]);
    let mut gone: Vec<_> = gone.map(|current| (current.profile, current.placement)).collect();
    gone.sort_unstable();
    (standing, gone, solution.cost)
}

/// Compares the solution with the reference, and carries it out.
fn agree(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
) -> Result<(), TestCaseError> {
    match (solve(geometry, current, wanted), reference(geometry, current, wanted)) {
        (Ok(solution), expected) => {
            prop_assert_eq!(Some(&solution), expected.as_ref());
            carry_out(geometry, current, wanted, &solution);
        }
        (Err(error), None) => {
            prop_assert_eq!(error.code(), refusal(geometry, current, wanted));
        }
        (Err(error), Some(_)) => prop_assert!(false, "{}", error),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_best_way_by_definition(
        which in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let geometry = geometry(which);
        let mut draw = Draw(bytes.into_iter());
        let (wanted, current) = (draw.wanted(&geometry), draw.current(&geometry));
        agree(&geometry, &current, &wanted)?;
    }

    /// The same with large GPU instances of one profile, which are cut again.
    #[test]
    fn the_best_way_to_cut_again(
        which in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let geometry = geometry(which);
        let mut draw = Draw(bytes.into_iter());
        let large = geometry.profiles().iter().filter(|profile| profile.slices > 2).count();
        let profile = draw.below(large);
        let mut current = Vec::new();
        let mut wanted = Vec::new();
        for &placement in &geometry.profiles()[profile].placements {
            let compute = draw.standing(&geometry, profile);
            current.push(CurrentInstance { profile, placement, busy: false, compute });
            let compute = Some(draw.sizes(&geometry, profile));
            wanted.push(WantedInstance { profile, start: None, compute });
        }
        agree(&geometry, &current, &wanted)?;
    }

    #[test]
    fn the_order_of_what_is_given_does_not_matter(
        which in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let geometry = geometry(which);
        let mut draw = Draw(bytes.into_iter());
        let (mut wanted, mut current) = (draw.wanted(&geometry), draw.current(&geometry));
        let one = solve(&geometry, &current, &wanted);
        let one = one.map(|one| essence(&geometry, &current, &wanted, &one));
        draw.shuffle(&mut wanted);
        draw.shuffle(&mut current);
        wanted.iter_mut().filter_map(|w| w.compute.as_mut()).for_each(|list| draw.shuffle(list));
        current.iter_mut().for_each(|instance| draw.shuffle(&mut instance.compute));
        match (one, solve(&geometry, &current, &wanted)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(one, essence(&geometry, &current, &wanted, &other));
            }
            (Err(one), Err(other)) => {
                prop_assert_eq!(one.code(), other.code());
            }
            (one, other) => prop_assert!(false, "{:?} {:?}", one, other),
        }
    }

    #[test]
    fn what_exists_can_be_wanted(
        which in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let geometry = geometry(which);
        let current = Draw(bytes.into_iter()).current(&geometry);
        let same = |instance: &CurrentInstance| WantedInstance {
            profile: instance.profile,
            start: Some(instance.placement.start),
            compute: Some(instance.compute.iter().map(|compute| compute.slices).collect()),
        };
        let wanted: Vec<_> = current.iter().map(same).collect();
        let solution = solve(&geometry, &current, &wanted).unwrap();
        prop_assert!(order(&geometry, &current, &wanted, &solution).unwrap().is_empty());
    }
}
