//! What is wanted, checked and in canonical order.

use crate::error::Result;
use crate::mig::fit::Room;
use crate::mig::geometry::Geometry;
use crate::mig::solve::compute::{Sizes, Starts, arrange, legal_starts};
use crate::mig::solve::{CurrentInstance, WantedInstance, refusal};

/// Wanted instances that are equal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    /// Position of the profile.
    pub(super) profile: usize,
    /// Where it must start.
    pub(super) start: Option<u8>,
    /// Its compute instances.
    pub(super) sizes: Sizes,
    /// Where new compute instances may start.
    pub(super) legal: Starts,
    /// Whether they fit in a new GPU instance. If not, they stand in one that exists.
    pub(super) fits_new: bool,
    /// How many are wanted.
    pub(super) count: u8,
    /// Where they begin in [`Demand::order`].
    pub(super) first: u8,
}

/// All that is wanted.
#[derive(Debug)]
pub(super) struct Demand {
    kinds: [Kind; Geometry::LIMIT],
    len: usize,
    /// The positions of the wanted instances, sorted by kind and position.
    pub(super) order: [u8; Geometry::LIMIT],
    /// What they take beside slots.
    pub(super) room: Room,
}

impl Demand {
    /// The kinds, ascending.
    pub(super) fn kinds(&self) -> &[Kind] {
        &self.kinds[..self.len]
    }

    /// Checks and sorts what is wanted.
    pub(super) fn new(
        geometry: &Geometry,
        current: &[CurrentInstance],
        wanted: &[WantedInstance],
    ) -> Result<Self> {
        // What makes no sense is said before what does not fit.
        wanted.iter().try_for_each(|wanted| check(geometry, current, wanted))?;
        if wanted.len() > Geometry::LIMIT {
            // There are no more slots, so this cannot fit.
            return Err(refusal::insufficient(geometry, wanted));
        }
        let mut keys = [u128::MAX; Geometry::LIMIT];
        for (position, (key, wanted)) in keys.iter_mut().zip(wanted).enumerate() {
            let sizes = sizes(geometry, wanted)?;
            let start = wanted.start.map_or(0, |start| u128::from(start) + 1);
            *key = (wanted.profile as u128) << 88
                | start << 72
                | u128::from(sizes.0) << 8
                | position as u128;
        }
        let keys = &mut keys[..wanted.len()];
        keys.sort_unstable();
        let mut demand = Self {
            kinds: [Kind::default(); Geometry::LIMIT],
            len: 0,
            order: [0; Geometry::LIMIT],
            room: Room::default(),
        };
        let mut last = None;
        for (at, &key) in keys.iter().enumerate() {
            let position = key as u8;
            demand.order[at] = position;
            let wanted = &wanted[usize::from(position)];
            demand.room.take(geometry, wanted.profile);
            if last == Some(key >> 8) {
                demand.kinds[demand.len - 1].count += 1;
                continue;
            }
            last = Some(key >> 8);
            let sizes = Sizes((key >> 8) as u64);
            let profile = &geometry.profiles()[wanted.profile];
            let legal = legal_starts(profile, sizes);
            let fits_new =
                sizes == Sizes::one(profile.slices) || arrange(sizes, &legal, &[]).is_some();
            let fits_one_that_exists = || {
                let same = current.iter().filter(|current| current.profile == wanted.profile);
                same.clone().any(|current| arrange(sizes, &legal, &current.compute).is_some())
            };
            if !fits_new && !fits_one_that_exists() {
                return Err(refusal::compute(geometry, wanted));
            }
            demand.kinds[demand.len] = Kind {
                profile: wanted.profile,
                start: wanted.start,
                sizes,
                legal,
                fits_new,
                count: 1,
                first: at as u8,
            };
            demand.len += 1;
        }
        Ok(demand)
    }
}

/// Refuses what makes no sense: no such profile, start or size of compute instances.
fn check(geometry: &Geometry, current: &[CurrentInstance], wanted: &WantedInstance) -> Result<()> {
    let Some(profile) = geometry.profiles().get(wanted.profile) else {
        return Err(refusal::no_profile(geometry, wanted.profile));
    };
    if let Some(start) = wanted.start {
        if profile.placements.iter().all(|placement| placement.start != start) {
            return Err(refusal::start(profile, start));
        }
    }
    let Some(asked) = &wanted.compute else { return Ok(()) };
    if asked.as_slice() == [profile.slices] {
        return Ok(());
    }
    let assumed = refusal::compute_sizes(profile);
    let exists = |size: u8| {
        let same = current.iter().filter(|current| current.profile == wanted.profile);
        same.flat_map(|current| &current.compute).any(|compute| compute.slices == size)
    };
    let known = |size: u8| size != 0 && (assumed.contains(&size) || exists(size));
    match asked.iter().find(|&&size| !known(size)) {
        Some(&size) => Err(refusal::compute_size(profile, size)),
        None => Ok(()),
    }
}

/// The sizes of the compute instances of a wanted GPU instance.
fn sizes(geometry: &Geometry, wanted: &WantedInstance) -> Result<Sizes> {
    let slices = geometry.profiles()[wanted.profile].slices;
    match &wanted.compute {
        None => Ok(Sizes::one(slices)),
        Some(asked) => Sizes::of(asked, slices).ok_or_else(|| refusal::compute(geometry, wanted)),
    }
}
