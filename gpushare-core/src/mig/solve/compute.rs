//! Where the compute instances of one GPU instance stand.

use crate::mig::compute::ComputeProfile;
use crate::mig::geometry::{Geometry, Placement, Profile};
use crate::mig::solve::CurrentCompute;

/// Slices of compute instances, descending: four bits each, the first in the highest.
///
/// As numbers these compare like the lists. [`Geometry::new`] takes no profile of 16 slices, so
/// sixteen of four bits are enough for what fits in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sizes(pub(super) u64);

impl Sizes {
    /// One compute instance of that many slices.
    pub(super) fn one(slices: u8) -> Self {
        Self(u64::from(slices & 15) << 60)
    }

    /// Those, if they are slices of one GPU instance of that many.
    pub(super) fn of(sizes: &[u8], slices: u8) -> Option<Self> {
        let sum: usize = sizes.iter().map(|&size| usize::from(size)).sum();
        if sum > usize::from(slices) || sum > 15 || sizes.contains(&0) {
            return None;
        }
        let mut sorted = [0; 16];
        sorted.iter_mut().zip(sizes).for_each(|(to, &from)| *to = from);
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        Some(Self(sorted.iter().fold(0, |packed, &size| packed << 4 | u64::from(size))))
    }

    /// How many.
    pub(super) fn len(self) -> u8 {
        (16 - self.0.trailing_zeros() / 4) as u8
    }

    /// The slices of the largest.
    pub(super) fn first(self) -> Option<u8> {
        (self.0 != 0).then(|| self.get(0))
    }

    /// The slices of that one, or 0.
    fn get(self, position: usize) -> u8 {
        if position < 16 { (self.0 >> (60 - 4 * position)) as u8 & 15 } else { 0 }
    }
}

/// Where compute instances of each size may start, as bits.
pub(super) type Starts = [u16; Geometry::LIMIT];

/// Where new compute instances may start in a GPU instance of a profile.
pub(super) fn legal_starts(profile: &Profile, sizes: Sizes) -> Starts {
    let mut starts = [0; Geometry::LIMIT];
    if let Some(full) = starts.get_mut(usize::from(profile.slices)) {
        // The one full compute instance rests on no assumption.
        *full = 1;
    }
    if sizes.0 != 0 && sizes != Sizes::one(profile.slices) {
        for compute in ComputeProfile::assumed(profile.index, profile.slices) {
            if let Some(bits) = starts.get_mut(usize::from(compute.slices)) {
                *bits = compute.starts.iter().fold(0, |bits, &start| bits | bit(start));
            }
        }
    }
    starts
}

fn bit(start: u8) -> u16 {
    1u16.checked_shl(start.into()).unwrap_or(0)
}

/// The best arrangement of compute instances in a GPU instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrangement {
    /// Busy ones that are kept.
    pub(super) busy_kept: u8,
    /// All that are kept.
    pub(super) kept: u8,
    /// The starts, in the order of the sizes.
    starts: [u8; 16],
    /// The positions of what is kept, in the same order; [`NEW`] for none.
    keeps: [u8; 16],
}

const NEW: u8 = u8::MAX;

impl Arrangement {
    /// Takes out the lowest start that is left for that size, and the position of what is kept.
    pub(super) fn take(&mut self, sizes: Sizes, size: u8) -> (u8, Option<usize>) {
        // Starts are below 16, so those taken can be marked.
        let position = (0..16).find(|&i| sizes.get(i) == size && self.starts[i] != NEW);
        let Some(position) = position else { return (0, None) };
        let start = std::mem::replace(&mut self.starts[position], NEW);
        let keeps = self.keeps[position];
        (start, (keeps != NEW).then_some(keeps.into()))
    }
}

/// Finds the arrangement that keeps the most: busy ones first, then all; then the lowest starts.
/// None when they do not fit.
pub(super) fn arrange(
    sizes: Sizes,
    legal: &Starts,
    current: &[CurrentCompute],
) -> Option<Arrangement> {
    let mut search = Search { sizes, legal, current, now: Arrangement::default(), best: None };
    search.now.keeps = [NEW; 16];
    search.put(0, 0, 0);
    search.best
}

struct Search<'a> {
    sizes: Sizes,
    legal: &'a Starts,
    current: &'a [CurrentCompute],
    now: Arrangement,
    best: Option<Arrangement>,
}

impl Search<'_> {
    /// Puts the compute instance at `position` and all after it, at `from` or above.
    fn put(&mut self, position: usize, from: u8, taken: u16) {
        let size = self.sizes.get(position);
        if size == 0 {
            let kept = |arrangement: &Arrangement| (arrangement.busy_kept, arrangement.kept);
            // Starts are tried in ascending order, so the first of its kind is the lowest.
            if self.best.as_ref().is_none_or(|best| kept(best) < kept(&self.now)) {
                self.best = Some(self.now);
            }
            return;
        }
        let standing = self.current.iter().filter(|current| current.slices == size);
        let own = standing.fold(0, |bits, current| bits | bit(current.start));
        let mut starts = (self.legal[usize::from(size)] | own) & (u16::MAX << from);
        while starts != 0 {
            let start = starts.trailing_zeros() as u8;
            starts &= starts - 1;
            let mask = Placement::new(start, size).mask();
            if taken & mask != 0 {
                continue;
            }
            let before = self.now;
            if let Some((keeps, busy)) = self.standing(size, start) {
                self.now.kept += 1;
                self.now.busy_kept += u8::from(busy);
                self.now.keeps[position] = keeps;
            }
            self.now.starts[position] = start;
            // Equal ones ascend: the others are the same arrangement.
            let equal = self.sizes.get(position + 1) == size;
            self.put(position + 1, if equal { (start + 1).min(15) } else { 0 }, taken | mask);
            self.now = before;
        }
    }

    /// The current compute instance of that size there, a busy one first, and whether it is busy.
    fn standing(&self, size: u8, start: u8) -> Option<(u8, bool)> {
        let here = |current: &CurrentCompute| (current.slices, current.start) == (size, start);
        let found = self.current.iter().position(|current| here(current) && current.busy);
        let found = found.or_else(|| self.current.iter().position(here))?;
        Some((found as u8, self.current[found].busy))
    }
}
