//! All layouts of a GPU, and the best way between them by looking at each.
//!
//! Layouts are sets of places, and a place is a profile and where it stands. What a layout costs
//! is read off set differences; nothing is shared with the search.

use std::collections::BTreeMap;

use crate::mig::fit::fits;
use crate::mig::geometry::{Geometry, Placement};
use crate::mig::solve::{
    Cost, CurrentCompute, CurrentInstance, PlacedCompute, Solution, WantedInstance, solve,
};

/// One layout.
pub(super) struct Layout {
    /// Its places, as bits of [`World::places`].
    pub(super) set: u32,
    /// How many of each profile.
    pub(super) counts: Vec<usize>,
    largest_left: u8,
    placements_taken: u8,
    /// Its starts, by profile and start.
    starts: Vec<u8>,
}

/// A GPU with all its layouts.
pub(super) struct World {
    pub(super) geometry: Geometry,
    /// By profile and start.
    pub(super) places: Vec<(usize, Placement)>,
    pub(super) layouts: Vec<Layout>,
    /// The layouts of each multiset of profiles.
    pub(super) multisets: Vec<(Vec<usize>, Vec<usize>)>,
}

/// Whether these may stand together: slot by slot, profile by profile, engine by engine.
pub(super) fn possible(geometry: &Geometry, layout: &[(usize, Placement)]) -> bool {
    let mut owner = [0; 32];
    for &(_, placement) in layout {
        for slot in placement.start..placement.start + placement.size {
            owner[usize::from(slot)] += 1;
        }
    }
    let count = |profile: usize| layout.iter().filter(|&&(other, _)| other == profile).count();
    let sum = |engine: fn(&crate::mig::geometry::Engines) -> u8| -> u32 {
        let each = layout.iter().map(|&(profile, _)| &geometry.profiles()[profile].engines);
        each.map(|engines| u32::from(engine(engines))).sum()
    };
    let total = geometry.engines();
    owner.iter().all(|&owners| owners <= 1)
        && (0..geometry.profiles().len())
            .all(|profile| count(profile) <= geometry.profiles()[profile].max_instances.into())
        && sum(|e| e.decoders) <= total.decoders.into()
        && sum(|e| e.encoders) <= total.encoders.into()
        && sum(|e| e.jpeg) <= total.jpeg.into()
        && sum(|e| e.optical_flow) <= total.optical_flow.into()
}

/// The places of a geometry by profile and start.
pub(super) fn places(geometry: &Geometry) -> Vec<(usize, Placement)> {
    let profiles = geometry.profiles().iter().enumerate();
    profiles.flat_map(|(p, of)| of.placements.iter().map(move |&at| (p, at))).collect()
}

/// The largest profile that still fits and how many places do, as [`Cost`] has them.
pub(super) fn left(geometry: &Geometry, layout: &[(usize, Placement)]) -> (u8, u8) {
    let mut fitting = Vec::new();
    for place in places(geometry) {
        let mut more = layout.to_vec();
        more.push(place);
        if possible(geometry, &more) {
            fitting.push(place.0);
        }
    }
    let largest = fitting.iter().min().copied().unwrap_or(geometry.profiles().len());
    (largest as u8, 255 - fitting.len() as u8)
}

impl World {
    pub(super) fn new(geometry: Geometry) -> Self {
        let places = places(&geometry);
        let mut world = Self { geometry, places, layouts: Vec::new(), multisets: Vec::new() };
        world.enumerate(0, 0);
        let mut multisets = BTreeMap::<_, Vec<usize>>::new();
        for (position, layout) in world.layouts.iter().enumerate() {
            multisets.entry(layout.counts.clone()).or_default().push(position);
        }
        world.multisets = multisets.into_iter().collect();
        world
    }

    pub(super) fn members(&self, set: u32) -> Vec<usize> {
        (0..self.places.len()).filter(|place| set >> place & 1 == 1).collect()
    }

    fn enumerate(&mut self, from: usize, set: u32) {
        let members: Vec<_> = self.members(set).iter().map(|&place| self.places[place]).collect();
        if !possible(&self.geometry, &members) {
            return;
        }
        let (largest_left, placements_taken) = left(&self.geometry, &members);
        let mut counts = vec![0; self.geometry.profiles().len()];
        members.iter().for_each(|&(profile, _)| counts[profile] += 1);
        let starts = members.iter().map(|(_, placement)| placement.start).collect();
        self.layouts.push(Layout { set, counts, largest_left, placements_taken, starts });
        for place in from..self.places.len() {
            self.enumerate(place + 1, set | 1 << place);
        }
    }

    /// The best way from a layout, some of it busy, to a multiset: what it costs and where it ends.
    pub(super) fn best(&self, from: u32, busy: u32, to: usize) -> (Cost, u32) {
        let options = self.multisets[to].1.iter().map(|&position| &self.layouts[position]);
        let cost = |layout: &Layout| {
            let gone = (from & !layout.set).count_ones() as u8;
            Cost {
                evictions: (busy & !layout.set).count_ones() as u8,
                gpu_instance_destroys: gone,
                compute_instance_destroys: gone,
                creates: 2 * (layout.set & !from).count_ones() as u8,
                largest_left: layout.largest_left,
                placements_taken: layout.placements_taken,
            }
        };
        let ways = options.map(|layout| (cost(layout), &layout.starts, layout.set));
        let (cost, _, set) = ways.min().unwrap();
        (cost, set)
    }

    /// Compares what fits beside a layout with adding each place.
    pub(super) fn check_fits(&self, layout: &Layout) {
        let members: Vec<_> = self.members(layout.set).iter().map(|&p| self.places[p]).collect();
        let fits = fits(&self.geometry, &members);
        let fitting = |place: &&(usize, Placement)| {
            let mut more = members.clone();
            more.push(**place);
            possible(&self.geometry, &more)
        };
        let expected: Vec<_> = self.places.iter().filter(fitting).copied().collect();
        let each = fits.iter().flat_map(|fit| fit.placements.iter().map(|&at| (fit.profile, at)));
        assert_eq!(each.collect::<Vec<_>>(), expected);
        assert!(fits.iter().all(|fit| !fit.placements.is_empty()));
    }

    /// How many GPU instances of a layout can come while all of another still stand.
    pub(super) fn come_first(&self, from: u32, to: u32) -> usize {
        let slots = |set| self.members(set).iter().fold(0, |m, &p| m | self.places[p].1.mask());
        let new = self.members(to & !from);
        new.iter().filter(|&&place| self.places[place].1.mask() & slots(from) == 0).count()
    }

    /// The instances of a layout, each with one full compute instance, some of them busy.
    pub(super) fn current(&self, set: u32, busy: u32) -> Vec<CurrentInstance> {
        let instance = |place: usize| {
            let (profile, placement) = self.places[place];
            let slices = self.geometry.profiles()[profile].slices;
            let busy = busy >> place & 1 == 1;
            let compute = vec![CurrentCompute { slices, start: 0, busy }];
            CurrentInstance { profile, placement, busy: false, compute }
        };
        self.members(set).into_iter().map(instance).collect()
    }

    /// The wanted instances of a multiset.
    pub(super) fn wanted(&self, multiset: usize) -> Vec<WantedInstance> {
        let counts = self.multisets[multiset].0.iter().enumerate();
        counts
            .flat_map(|(profile, &count)| {
                vec![WantedInstance { profile, start: None, compute: None }; count]
            })
            .collect()
    }

    /// Solves and compares all of the answer.
    pub(super) fn check(&self, from: u32, busy: u32, to: usize) -> Solution {
        let (current, wanted) = (self.current(from, busy), self.wanted(to));
        let solution = solve(&self.geometry, &current, &wanted).unwrap();
        let (cost, set) = self.best(from, busy, to);
        assert_eq!(solution.cost, cost, "{current:?} to {wanted:?}");
        let mut members = self.members(set).into_iter();
        let from = self.members(from);
        // The wanted ones are sorted as the places are.
        for (wanted, placed) in wanted.iter().zip(&solution.instances) {
            let place = members.next().unwrap();
            assert_eq!((wanted.profile, placed.placement), self.places[place]);
            assert_eq!(placed.keeps, from.iter().position(|&other| other == place));
            let slices = self.geometry.profiles()[wanted.profile].slices;
            let keeps = placed.keeps.map(|_| 0);
            assert_eq!(placed.compute, [PlacedCompute { slices, start: 0, keeps }]);
            assert!(placed.destroyed_compute.is_empty());
        }
        assert_eq!(members.next(), None);
        let gone = (0..from.len()).filter(|&position| set >> from[position] & 1 == 0);
        assert_eq!(solution.destroyed, gone.collect::<Vec<_>>());
        solution
    }
}
