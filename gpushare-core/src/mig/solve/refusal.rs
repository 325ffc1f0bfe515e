//! Why there is no solution, and what would fit.

use crate::error::{Error, ErrorCode};
use crate::mig::compute::ComputeProfile;
use crate::mig::fit::Room;
use crate::mig::geometry::{Geometry, Profile};
use crate::mig::solve::WantedInstance;
use crate::mig::solve::compute::{Sizes, arrange, legal_starts};

/// How many alternatives an error names.
const NAMED: usize = 5;

/// After how many steps the search for alternatives ends. A request on a known GPU takes some
/// thousands; what has been found by then is still true.
const STEPS: u32 = 1_000_000;

pub(super) fn no_profile(geometry: &Geometry, position: usize) -> Error {
    let names: Vec<_> =
        geometry.profiles().iter().map(|profile| profile.name.to_string()).collect();
    Error::new(
        ErrorCode::InvalidArgument,
        format!("no MIG profile stands at position {position}; this GPU has {}", names.join(", ")),
    )
    .with_fits(names)
}

pub(super) fn start(profile: &Profile, start: u8) -> Error {
    let starts: Vec<_> =
        profile.placements.iter().map(|placement| placement.start.to_string()).collect();
    Error::new(
        ErrorCode::InvalidArgument,
        format!("{} cannot start at slot {start}, only at {}", profile.name, starts.join(", ")),
    )
    .with_fits(starts)
}

/// The sizes that compute instances of a profile come in.
pub(super) fn compute_sizes(profile: &Profile) -> Vec<u8> {
    let assumed = ComputeProfile::assumed(profile.index, profile.slices);
    let mut sizes: Vec<_> = assumed.iter().map(|compute| compute.slices).collect();
    if !sizes.contains(&profile.slices) {
        sizes.push(profile.slices);
    }
    sizes
}

fn compute_name(profile: &Profile, size: u8) -> String {
    profile.name.with_compute(size).to_string()
}

pub(super) fn compute_size(profile: &Profile, size: u8) -> Error {
    let names: Vec<_> =
        compute_sizes(profile).iter().map(|&size| compute_name(profile, size)).collect();
    Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "{} is not cut into compute instances of {size} slices, only into {}",
            profile.name,
            names.join(", ")
        ),
    )
    .with_fits(names)
}

/// INSUFFICIENT: wanted compute instances do not fit in their GPU instance.
pub(super) fn compute(geometry: &Geometry, wanted: &WantedInstance) -> Error {
    let empty = Vec::new();
    let (Some(profile), asked) =
        (geometry.profiles().get(wanted.profile), wanted.compute.as_ref().unwrap_or(&empty))
    else {
        return no_profile(geometry, wanted.profile);
    };
    let mut sizes = compute_sizes(profile);
    sizes.extend(asked);
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    let counts: Vec<_> =
        sizes.iter().map(|size| asked.iter().filter(|asked| *asked == size).count()).collect();
    let spell = |chosen: &[usize]| {
        sum(sizes.iter().zip(chosen).map(|(&size, &n)| (compute_name(profile, size), n)))
    };
    let mut steps = STEPS;
    let mut found = maximal(&counts, |chosen| {
        steps = steps.saturating_sub(100);
        let most = usize::from(profile.slices);
        let list = sizes.iter().zip(chosen);
        let list: Vec<_> = list.flat_map(|(&size, &n)| vec![size; n.min(most + 1)]).collect();
        let Some(packed) = Sizes::of(&list, profile.slices) else { return false };
        steps > 0 && arrange(packed, &legal_starts(profile, packed), &[]).is_some()
    });
    found.sort_by_key(|chosen| {
        let slices: usize = sizes.iter().zip(chosen).map(|(&s, n)| usize::from(s) * n).sum();
        std::cmp::Reverse((slices, chosen.clone()))
    });
    let fits: Vec<_> = found.iter().take(NAMED).map(|chosen| spell(chosen)).collect();
    Error::new(
        ErrorCode::Insufficient,
        format!(
            "{} do not fit in one {} of {} compute slices; {} would",
            spell(&counts),
            profile.name,
            profile.slices,
            fits.join(", or ")
        ),
    )
    .with_fits(fits)
}

/// INSUFFICIENT: the wanted instances do not fit on the GPU, even when it is empty.
pub(super) fn insufficient(geometry: &Geometry, wanted: &[WantedInstance]) -> Error {
    let mut asked: Vec<Entry<'_>> = Vec::new();
    for wanted in wanted {
        let Some(of) = geometry.profiles().get(wanted.profile) else {
            return no_profile(geometry, wanted.profile);
        };
        let same = |entry: &&mut Entry<'_>| {
            (entry.position, entry.start) == (wanted.profile, wanted.start)
        };
        match asked.iter_mut().find(same) {
            Some(entry) => entry.count += 1,
            None => {
                let Some(masks) = masks(of, wanted.start) else {
                    return start(of, wanted.start.unwrap_or(0));
                };
                asked.push(Entry {
                    position: wanted.profile,
                    of,
                    start: wanted.start,
                    count: 1,
                    masks,
                });
            }
        }
    }
    asked.sort_by_key(|entry| (entry.position, entry.start));
    let counts: Vec<_> = asked.iter().map(|entry| entry.count).collect();
    let spell = |chosen: &[usize]| sum(asked.iter().zip(chosen).map(|(e, &n)| (e.name(), n)));
    let mut steps = STEPS;
    let mut found = maximal(&counts, |chosen| fits_together(geometry, &asked, chosen, &mut steps));
    // Then it is the compute instances.
    found.retain(|chosen| *chosen != counts);
    found.sort_by_key(|chosen| {
        let of = || asked.iter().zip(chosen);
        let slices: usize = of().map(|(e, n)| usize::from(e.of.slices) * n).sum();
        let memory: u64 = of().map(|(e, &n)| e.of.memory.get().saturating_mul(n as u64)).sum();
        std::cmp::Reverse((slices, memory, chosen.clone()))
    });
    let fits: Vec<_> = found.iter().take(NAMED).map(|chosen| spell(chosen)).collect();
    let instead = match fits.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} would fit"),
        all => format!("; of these would fit {}", all.join(", or ")),
    };
    Error::new(
        ErrorCode::Insufficient,
        format!(
            "{} do not fit on this GPU together: {}{instead}",
            spell(&counts),
            why(geometry, &asked)
        ),
    )
    .with_fits(fits)
}

/// Wanted instances of one profile and start.
struct Entry<'a> {
    position: usize,
    of: &'a Profile,
    start: Option<u8>,
    count: usize,
    /// The slots of each place where they may stand.
    masks: Vec<u16>,
}

impl Entry<'_> {
    fn name(&self) -> String {
        match self.start {
            Some(start) => format!("{} at {start}", self.of.name),
            None => self.of.name.to_string(),
        }
    }
}

fn masks(of: &Profile, start: Option<u8>) -> Option<Vec<u16>> {
    let here = of.placements.iter().filter(|p| start.is_none_or(|start| start == p.start));
    let masks: Vec<_> = here.map(|placement| placement.mask()).collect();
    (!masks.is_empty()).then_some(masks)
}

/// What stands in the way.
fn why(geometry: &Geometry, asked: &[Entry<'_>]) -> String {
    for (position, of) in geometry.profiles().iter().enumerate() {
        let same = asked.iter().filter(|entry| entry.position == position);
        if same.map(|entry| entry.count).sum::<usize>() > usize::from(of.max_instances) {
            return format!("it takes at most {} of {}", of.max_instances, of.name);
        }
    }
    // No maximum is exceeded, so the counts are small.
    let all: Vec<_> = asked.iter().map(|entry| (entry.count, entry)).collect();
    let (mut steps, slots) = (STEPS, geometry.slots());
    if !place(&all, 0, 0, &mut steps) {
        return match steps {
            0 => format!("no room was found for all of them in its {slots} slots"),
            _ => format!("no arrangement has room for all of them in its {slots} slots"),
        };
    }
    let each = asked.iter().flat_map(|entry| std::iter::repeat_n(entry.position, entry.count));
    let (take, have) = (Room::beside(geometry, each).engines(), geometry.engines());
    for (name, take, have) in [
        ("video decoders", take.decoders, have.decoders),
        ("video encoders", take.encoders, have.encoders),
        ("JPEG decoders", take.jpeg, have.jpeg),
        ("optical-flow accelerators", take.optical_flow, have.optical_flow),
    ] {
        if take > have {
            return format!("they take {take} {name} and it has {have}");
        }
    }
    "some of their compute instances fit only in GPU instances that exist, which are too few"
        .to_owned()
}

fn fits_together(
    geometry: &Geometry,
    asked: &[Entry<'_>],
    chosen: &[usize],
    steps: &mut u32,
) -> bool {
    if chosen.iter().sum::<usize>() > Geometry::LIMIT {
        return false;
    }
    let each = || asked.iter().zip(chosen);
    let positions = each().flat_map(|(entry, &n)| std::iter::repeat_n(entry.position, n));
    let left: Vec<_> = each().map(|(entry, &n)| (n, entry)).collect();
    Room::beside(geometry, positions).is_enough(geometry) && place(&left, 0, 0, steps)
}

/// Whether there are slots for so many of each, the first of them at `from` and above; false when
/// no steps are left.
fn place(left: &[(usize, &Entry<'_>)], from: usize, taken: u16, steps: &mut u32) -> bool {
    *steps = steps.saturating_sub(1);
    let Some((&(count, entry), rest)) = left.split_first() else { return true };
    if *steps == 0 || count > entry.masks.len().saturating_sub(from) {
        return false;
    }
    if count == 0 {
        return place(rest, 0, taken, steps);
    }
    let mut less = left.to_vec();
    less[0].0 = count - 1;
    let mut masks = entry.masks.iter().enumerate().skip(from);
    masks.any(|(at, mask)| mask & taken == 0 && place(&less, at + 1, taken | mask, steps))
}

/// The largest choices of at most that many of each that fit: with one more they would not.
fn maximal(most: &[usize], mut fits: impl FnMut(&[usize]) -> bool) -> Vec<Vec<usize>> {
    fn grow(
        at: usize,
        most: &[usize],
        chosen: &mut Vec<usize>,
        fits: &mut dyn FnMut(&[usize]) -> bool,
        found: &mut Vec<Vec<usize>>,
    ) {
        let Some(&limit) = most.get(at) else {
            let more = (0..most.len()).any(|other| {
                let mut more = chosen.clone();
                more[other] += 1;
                more[other] <= most[other] && fits(&more)
            });
            if !more && chosen.iter().any(|&n| n > 0) {
                found.push(chosen.clone());
            }
            return;
        };
        for n in (0..=limit.min(Geometry::LIMIT)).rev() {
            chosen[at] = n;
            if fits(chosen) {
                grow(at + 1, most, chosen, fits, found);
            }
        }
        chosen[at] = 0;
    }
    let mut found = Vec::new();
    grow(0, most, &mut vec![0; most.len()], &mut fits, &mut found);
    found
}

/// `3g.40gb + 2 x 1g.10gb`.
fn sum(parts: impl Iterator<Item = (String, usize)>) -> String {
    let parts = parts.filter(|&(_, n)| n > 0);
    let parts: Vec<_> =
        parts.map(|(name, n)| if n == 1 { name } else { format!("{n} x {name}") }).collect();
    parts.join(" + ")
}

/// UNSUPPORTED: on no known GPU are there so many ways.
pub(super) fn too_many(geometry: &Geometry) -> Error {
    Error::new(
        ErrorCode::Unsupported,
        format!(
            "the {} MIG profiles that the driver reports can be laid out in more ways than gpushare looks at",
            geometry.profiles().len()
        ),
    )
}
