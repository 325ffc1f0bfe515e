//! What still fits on a layout.

use crate::mig::geometry::{Engines, Geometry, Placement};

/// A profile of which another instance fits, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fit {
    /// Position of the profile in [`Geometry::profiles`].
    pub profile: usize,
    /// Where an instance of it may be added, ascending.
    pub placements: Vec<Placement>,
}

/// What still fits on a layout, each profile by itself, largest first.
///
/// The layout is given as positions in [`Geometry::profiles`] and placements. Slots, the maximum
/// of each profile and the engines are looked at. A position that is no profile of this geometry
/// takes its slots and nothing else.
pub fn fits(geometry: &Geometry, placed: &[(usize, Placement)]) -> Vec<Fit> {
    let taken = placed.iter().fold(0, |mask, (_, placement)| mask | placement.mask());
    let room = Room::beside(geometry, placed.iter().map(|&(profile, _)| profile));
    let profiles = geometry.profiles().iter().enumerate();
    profiles
        .filter(|&(profile, _)| room.has(geometry, profile))
        .filter_map(|(profile, of)| {
            let free = of.placements.iter().filter(|placement| placement.mask() & taken == 0);
            let placements: Vec<_> = free.copied().collect();
            (!placements.is_empty()).then_some(Fit { profile, placements })
        })
        .collect()
}

/// What instances take of a GPU beside slots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    counts: [u8; Geometry::LIMIT],
    engines: Engines,
}

impl Room {
    /// What these instances take, given by the positions of their profiles.
    pub(crate) fn beside(geometry: &Geometry, profiles: impl Iterator<Item = usize>) -> Self {
        let mut room = Self::default();
        profiles.for_each(|profile| room.take(geometry, profile));
        room
    }

    /// Adds an instance.
    pub(crate) fn take(&mut self, geometry: &Geometry, profile: usize) {
        if let (Some(count), Some(of)) =
            (self.counts.get_mut(profile), geometry.profiles().get(profile))
        {
            *count = count.saturating_add(1);
            self.engines = self.engines.plus(of.engines);
        }
    }

    /// Whether one more instance is within the profile's maximum and the GPU's engines.
    pub(crate) fn has(&self, geometry: &Geometry, profile: usize) -> bool {
        match (self.counts.get(profile), geometry.profiles().get(profile)) {
            (Some(&count), Some(of)) => {
                count < of.max_instances && self.engines.plus(of.engines).within(geometry.engines())
            }
            _ => false,
        }
    }

    /// Whether what was added is within the maximum of each profile and the GPU's engines.
    pub(crate) fn is_enough(&self, geometry: &Geometry) -> bool {
        let within = |(&count, of): (&u8, &crate::mig::Profile)| count <= of.max_instances;
        self.counts.iter().zip(geometry.profiles()).all(within)
            && self.engines.within(geometry.engines())
    }

    /// The engines of what was added.
    pub(crate) fn engines(&self) -> Engines {
        self.engines
    }
}
