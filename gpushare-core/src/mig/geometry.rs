//! The geometry of a GPU: which profiles it has and where their instances may stand.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::id::{ProfileId, ProfileIndex};
use crate::mig::profile::{Attribute, ProfileName};
use crate::units::Bytes;

/// Where a GPU instance stands: slots of the memory axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Placement {
    /// The first slot.
    pub start: u8,
    /// How many slots.
    pub size: u8,
}

impl Placement {
    /// A placement at a start, of a size.
    pub const fn new(start: u8, size: u8) -> Self {
        Self { start, size }
    }

    /// Its slots as a bit mask.
    pub const fn mask(self) -> u16 {
        let bits = if self.size >= 16 { u16::MAX } else { (1 << self.size) - 1 };
        if self.start >= 16 { 0 } else { bits << self.start }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.size)
    }
}

/// Media and optical-flow engines: what an instance takes of a GPU beside slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Engines {
    /// Video decoders.
    pub decoders: u8,
    /// Video encoders.
    pub encoders: u8,
    /// JPEG decoders.
    pub jpeg: u8,
    /// Optical-flow accelerators.
    pub optical_flow: u8,
}

impl Engines {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            decoders: self.decoders.saturating_add(other.decoders),
            encoders: self.encoders.saturating_add(other.encoders),
            jpeg: self.jpeg.saturating_add(other.jpeg),
            optical_flow: self.optical_flow.saturating_add(other.optical_flow),
        }
    }

    /// Whether these are to be had from those.
    pub const fn within(self, total: Self) -> bool {
        self.decoders <= total.decoders
            && self.encoders <= total.encoders
            && self.jpeg <= total.jpeg
            && self.optical_flow <= total.optical_flow
    }
}

/// A GPU-instance profile of one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The name as this driver prints it.
    pub name: ProfileName,
    /// NVML's enum, which profile queries take.
    pub index: ProfileIndex,
    /// The id that placements, lists and creation take. The key.
    pub id: ProfileId,
    /// Compute slices.
    pub slices: u8,
    /// How many a GPU takes at most.
    pub max_instances: u8,
    /// Its memory.
    #[serde(rename = "memory_bytes")]
    pub memory: Bytes,
    /// Its streaming multiprocessors.
    pub sm_count: u32,
    /// Its engines.
    pub engines: Engines,
    /// Where it may stand, ascending.
    pub placements: Vec<Placement>,
}

/// The profiles of one GPU, and what its slots hold at most.
///
/// Built from what the driver says of that GPU; [the simulator](crate::backend::sim) builds it from a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Profile>", into = "Vec<Profile>")]
pub struct Geometry {
    profiles: Vec<Profile>,
    slots: u8,
    engines: Engines,
}

impl Geometry {
    /// The most slots and profiles that the planner takes. NVIDIA's largest has 12 and 11.
    pub const LIMIT: usize = 16;

    /// The geometry with these profiles, largest first: by slices, memory and, descending, id.
    ///
    /// The engines that instances share are those of the profile that covers all slots: its sums
    /// are what makes `+me` exclusive.
    ///
    /// # Errors
    /// UNSUPPORTED when the driver reports more slots, profiles or compute slices than any known GPU
    /// has, a placement of no size, or two placements of one profile at one start.
    pub fn new(mut profiles: Vec<Profile>) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::new(ErrorCode::Unsupported, why));
        profiles.retain(|profile| !profile.placements.is_empty());
        for profile in &mut profiles {
            profile.placements.sort_unstable();
            profile.placements.dedup();
        }
        profiles.sort_by_key(|profile| {
            std::cmp::Reverse((profile.slices, profile.memory, std::cmp::Reverse(profile.id)))
        });
        let ends = profiles.iter().flat_map(|profile| &profile.placements);
        let slots = ends.map(|p| u16::from(p.start) + u16::from(p.size)).max().unwrap_or(0);
        if usize::from(slots) > Self::LIMIT || profiles.len() > Self::LIMIT {
            return refuse(format!(
                "the driver reports {} MIG profiles over {slots} slots; gpushare plans for at most {} of each",
                profiles.len(),
                Self::LIMIT
            ));
        }
        if profiles.iter().any(|p| p.placements.iter().any(|placement| placement.size == 0)) {
            return refuse("the driver reports a MIG placement of no size".to_owned());
        }
        // Starts name placements, and the planner packs starts and slices into four bits.
        for profile in &profiles {
            let mut pairs = profile.placements.windows(2);
            if pairs.any(|pair| matches!(pair, [a, b] if a.start == b.start)) {
                let name = profile.name;
                return refuse(format!("the driver reports two placements of {name} at one start"));
            }
            if usize::from(profile.slices) >= Self::LIMIT {
                let (name, slices) = (profile.name, profile.slices);
                return refuse(format!("the driver reports {slices} compute slices for {name}"));
            }
        }
        let slots = slots as u8;
        let whole = profiles.iter().filter(|p| p.placements.iter().any(|p| p.size == slots));
        let engines = whole.map(|profile| profile.engines).reduce(|a, b| Engines {
            decoders: a.decoders.max(b.decoders),
            encoders: a.encoders.max(b.encoders),
            jpeg: a.jpeg.max(b.jpeg),
            optical_flow: a.optical_flow.max(b.optical_flow),
        });
        let unlimited = Engines { decoders: 255, encoders: 255, jpeg: 255, optical_flow: 255 };
        Ok(Self { profiles, slots, engines: engines.unwrap_or(unlimited) })
    }

    /// The profiles, largest first.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// How many slots the memory axis has.
    pub fn slots(&self) -> u8 {
        self.slots
    }

    /// The engines that instances share.
    pub fn engines(&self) -> Engines {
        self.engines
    }

    /// The profile with that id.
    pub fn by_id(&self, id: ProfileId) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// Where the profile with that id stands in [`profiles`](Self::profiles).
    pub fn position(&self, id: ProfileId) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.id == id)
    }

    /// The profile that a name means on this GPU. The short form is the smallest of its slices:
    /// `1g` is the plain one with the least memory.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the profiles that the GPU has.
    pub fn resolve(&self, name: ProfileName) -> Result<&Profile, Error> {
        let name = name.gpu_instance();
        let candidates = self.profiles.iter().filter(|profile| {
            profile.name.slices == name.slices
                && profile.name.attribute == name.attribute
                && (name.gigabytes.is_none() || profile.name.gigabytes == name.gigabytes)
        });
        candidates.min_by_key(|profile| (profile.memory, profile.id)).ok_or_else(|| {
            let names: Vec<_> =
                self.profiles.iter().map(|profile| profile.name.to_string()).collect();
            Error::new(
                ErrorCode::InvalidArgument,
                format!("this GPU has no profile {name}; it has {}", names.join(", ")),
            )
            .with_fits(names)
        })
    }

    /// The largest plain profile, which takes the whole GPU.
    pub fn whole(&self) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name.attribute == Attribute::Plain)
    }
}

impl TryFrom<Vec<Profile>> for Geometry {
    type Error = Error;

    fn try_from(profiles: Vec<Profile>) -> Result<Self, Error> {
        Self::new(profiles)
    }
}

impl From<Geometry> for Vec<Profile> {
    fn from(geometry: Geometry) -> Self {
        geometry.profiles
    }
}
