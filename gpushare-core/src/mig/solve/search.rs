//! The search through all ways to place what is wanted.

use crate::error::Result;
use crate::mig::geometry::{Geometry, Placement};
use crate::mig::solve::compute::arrange;
use crate::mig::solve::demand::{Demand, Kind};
use crate::mig::solve::{
    Cost, CurrentInstance, MOST_COMPUTE, PlacedCompute, PlacedInstance, Solution, WantedInstance,
    refusal,
};

const LIMIT: usize = Geometry::LIMIT;
const NONE: u8 = u8::MAX;

/// How many instances the search places before it gives up, in some tenths of a second. No
/// transition of a known GPU places more than some thousands.
const STEPS: u32 = 20_000_000;

/// Evictions, GPU instances, compute instances and creates, a byte each, the first in the highest.
///
/// Compares like [`Cost`]. No byte overflows: there are at most 16 GPU instances and 64 compute
/// instances on either side.
fn pack(evictions: usize, gpu_instances: usize, compute_instances: usize, creates: usize) -> u32 {
    u32::from_be_bytes([evictions, gpu_instances, compute_instances, creates].map(|n| n as u8))
}

/// A profile of which instances are wanted.
#[derive(Clone, Copy, Default)]
struct Group {
    /// Its kinds: from that one until before this one.
    kinds: (usize, usize),
    /// How many placements it has, and the slots and the start of each.
    len: usize,
    masks: [u16; LIMIT],
    starts: [u8; LIMIT],
    /// Which current instance stands exactly there.
    standing: [u8; LIMIT],
    /// No more than this is saved from that placement on; in the last place: by later groups.
    bound: [u32; LIMIT + 1],
}

/// A complete way, as good as it is. Smaller is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// What is not saved, as a complement.
    lost: u32,
    /// What is left of the GPU.
    largest_left: u8,
    placements_taken: u8,
    /// The start of each instance, four bits each.
    starts: u64,
    /// The kind of each instance, four bits each.
    kinds: u64,
}

/// The part of a way that is decided.
#[derive(Clone, Copy, Default)]
struct Part {
    taken: u16,
    saved: u32,
    starts: u64,
    kinds: u64,
}

struct Search<'a> {
    kinds: &'a [Kind],
    groups: [Group; LIMIT],
    len: usize,
    /// What each kind saves at each placement, compared with a new instance there.
    savings: [[u32; LIMIT]; LIMIT],
    /// Where each kind may stand: a bit for each placement.
    allowed: [u16; LIMIT],
    /// How many of each kind are not placed yet.
    left: [u8; LIMIT],
    /// The placements of profiles of which the final layout may have one more instance, and the
    /// first of each profile.
    more: [u16; LIMIT * LIMIT],
    more_ends: [(u8, u16); LIMIT],
    more_len: usize,
    profiles: u8,
    /// How many more instances the search may place.
    steps: u32,
    best: Option<Way>,
}

/// The best way to what is wanted; none when it does not fit.
///
/// # Errors
/// UNSUPPORTED when there are more ways than any known GPU has.
pub(super) fn best(
    geometry: &Geometry,
    current: &[CurrentInstance],
    wanted: &[WantedInstance],
    demand: &Demand,
) -> Result<Option<Solution>> {
    if !demand.room.is_enough(geometry) {
        return Ok(None);
    }
    let compute = demand.kinds().iter().map(|kind| usize::from(kind.count * kind.sizes.len()));
    if compute.sum::<usize>() > MOST_COMPUTE {
        return Err(refusal::too_many(geometry));
    }
    let mut search = Search::new(geometry, current, demand);
    search.group(0, Part::default());
    if search.steps == 0 {
        return Err(refusal::too_many(geometry));
    }
    Ok(search.best.map(|way| search.solution(current, wanted, demand, way)))
}

impl<'a> Search<'a> {
    fn new(geometry: &Geometry, current: &[CurrentInstance], demand: &'a Demand) -> Self {
        let mut search = Self {
            kinds: demand.kinds(),
            groups: [Group::default(); LIMIT],
            len: 0,
            savings: [[0; LIMIT]; LIMIT],
            allowed: [0; LIMIT],
            left: [0; LIMIT],
            more: [0; LIMIT * LIMIT],
            more_ends: [(0, 0); LIMIT],
            more_len: 0,
            profiles: geometry.profiles().len() as u8,
            steps: STEPS,
            best: None,
        };
        let mut from = 0;
        for kinds in search.kinds.chunk_by(|a, b| a.profile == b.profile) {
            let until = from + kinds.len();
            search.add_group(geometry, current, from, until);
            from = until;
        }
        // From the last to the first: what later groups can save.
        let mut later = 0;
        for group in search.groups[..search.len].iter_mut().rev() {
            for bound in &mut group.bound[..=group.len] {
                *bound += later;
            }
            later = group.bound[0];
        }
        search.add_more(geometry, demand);
        search
    }

    fn add_group(
        &mut self,
        geometry: &Geometry,
        current: &[CurrentInstance],
        from: usize,
        until: usize,
    ) {
        let group = &mut self.groups[self.len];
        self.len += 1;
        let position = self.kinds[from].profile;
        let placements = &geometry.profiles()[position].placements;
        group.kinds = (from, until);
        group.len = placements.len();
        for (at, &placement) in placements.iter().enumerate() {
            group.masks[at] = placement.mask();
            group.starts[at] = placement.start;
        }
        group.standing = [NONE; LIMIT];
        for (number, instance) in current.iter().enumerate() {
            let here = placements.iter().position(|&placement| placement == instance.placement);
            if let (true, Some(at)) = (instance.profile == position, here) {
                group.standing[at] = number as u8;
            }
        }
        for k in from..until {
            let kind = &self.kinds[k];
            self.left[k] = kind.count;
            for at in 0..group.len {
                let mut allowed = kind.start.is_none_or(|start| start == group.starts[at]);
                match current.get(usize::from(group.standing[at])) {
                    None => allowed &= kind.fits_new,
                    Some(instance) => match arrange(kind.sizes, &kind.legal, &instance.compute) {
                        None => allowed = false,
                        Some(found) => {
                            let (busy, kept) =
                                (usize::from(found.busy_kept), usize::from(found.kept));
                            self.savings[k][at] =
                                pack(usize::from(instance.busy) + busy, 1, kept, 1 + kept);
                        }
                    },
                }
                self.allowed[k] |= u16::from(allowed) << at;
            }
        }
        for at in (0..group.len).rev() {
            let savings = (from..until).filter(|&k| self.allowed[k] >> at & 1 == 1);
            let most = savings.map(|k| self.savings[k][at]).max().unwrap_or(0);
            group.bound[at] = group.bound[at + 1] + most;
        }
    }

    fn add_more(&mut self, geometry: &Geometry, demand: &Demand) {
        let mut end = 0;
        for (position, profile) in geometry.profiles().iter().enumerate() {
            if !demand.room.has(geometry, position) {
                continue;
            }
            for placement in &profile.placements {
                self.more[end] = placement.mask();
                end += 1;
            }
            self.more_ends[self.more_len] = (position as u8, end as u16);
            self.more_len += 1;
        }
    }

    /// Places that group and all after it.
    fn group(&mut self, group: usize, part: Part) {
        if group == self.len {
            self.compare(part);
        } else {
            let (from, until) = self.groups[group].kinds;
            let left = self.left[from..until].iter().sum();
            self.place(group, left, 0, part);
        }
    }

    /// Places the `left` remaining instances of a group at placement `from` and above.
    fn place(&mut self, g: usize, left: u8, from: usize, part: Part) {
        if left == 0 {
            return self.group(g + 1, part);
        }
        let (len, (first, last)) = (self.groups[g].len, self.groups[g].kinds);
        for at in from..(len + 1).saturating_sub(left.into()) {
            let mask = self.groups[g].masks[at];
            if mask & part.taken != 0 {
                continue;
            }
            let bound = self.groups[g].bound[at + 1];
            for k in first..last {
                let saved = part.saved + self.savings[k][at];
                if self.left[k] == 0
                    || self.steps == 0
                    || self.allowed[k] >> at & 1 == 0
                    || self.best.is_some_and(|best| u32::MAX - (saved + bound) > best.lost)
                {
                    continue;
                }
                self.left[k] -= 1;
                self.steps -= 1;
                let part = Part {
                    taken: part.taken | mask,
                    saved,
                    starts: part.starts << 4 | u64::from(self.groups[g].starts[at]),
                    kinds: part.kinds << 4 | k as u64,
                };
                self.place(g, left - 1, at + 1, part);
                self.left[k] += 1;
            }
        }
    }

    /// Takes a complete way if it is better than the best so far.
    fn compare(&mut self, part: Part) {
        let lost = u32::MAX - part.saved;
        if self.best.is_some_and(|best| best.lost < lost) {
            return;
        }
        let (mut largest_left, mut placements_left) = (self.profiles, 0u16);
        let mut from = 0;
        for &(position, end) in &self.more_ends[..self.more_len] {
            let end = usize::from(end);
            let free = self.more[from..end].iter().map(|mask| u16::from(mask & part.taken == 0));
            let free: u16 = free.sum();
            if free > 0 && largest_left == self.profiles {
                largest_left = position;
            }
            placements_left += free;
            from = end;
        }
        let way = Way {
            lost,
            largest_left,
            placements_taken: 255u16.saturating_sub(placements_left) as u8,
            starts: part.starts,
            kinds: part.kinds,
        };
        if self.best.is_none_or(|best| way < best) {
            self.best = Some(way);
        }
    }

    /// Spells a way out.
    fn solution(
        &self,
        current: &[CurrentInstance],
        wanted: &[WantedInstance],
        demand: &Demand,
        way: Way,
    ) -> Solution {
        let nothing = PlacedInstance {
            placement: Placement::new(0, 0),
            keeps: None,
            compute: Vec::new(),
            destroyed_compute: Vec::new(),
        };
        let mut instances = vec![nothing; wanted.len()];
        let mut kept = 0u16;
        let mut placed = [0u8; LIMIT];
        for instance in 0..wanted.len() {
            let shift = 4 * (wanted.len() - 1 - instance);
            let start = (way.starts >> shift) as u8 & 15;
            let k = (way.kinds >> shift) as usize & 15;
            let kind = &self.kinds[k];
            // Equal ones in the order asked for.
            let position = usize::from(demand.order[usize::from(kind.first + placed[k])]);
            placed[k] += 1;
            let Some(group) =
                self.groups[..self.len].iter().find(|g| (g.kinds.0..g.kinds.1).contains(&k))
            else {
                continue;
            };
            let Some(at) = group.starts[..group.len].iter().position(|&s| s == start) else {
                continue;
            };
            let size = group.masks[at].count_ones() as u8;
            let keeps = current.get(usize::from(group.standing[at]));
            let standing = keeps.map_or(&[][..], |instance| &instance.compute);
            let Some(mut arranged) = arrange(kind.sizes, &kind.legal, standing) else { continue };
            let mut place = |slices| {
                let (start, keeps) = arranged.take(kind.sizes, slices);
                PlacedCompute { slices, start, keeps }
            };
            let compute: Vec<_> = match &wanted[position].compute {
                Some(sizes) => sizes.iter().map(|&slices| place(slices)).collect(),
                None => kind.sizes.first().map(|slices| vec![place(slices)]).unwrap_or_default(),
            };
            let goes = |other: &usize| compute.iter().all(|compute| compute.keeps != Some(*other));
            let destroyed_compute = (0..standing.len()).filter(goes).collect();
            if keeps.is_some() {
                kept |= 1 << group.standing[at];
            }
            instances[position] = PlacedInstance {
                placement: Placement::new(start, size),
                keeps: keeps.map(|_| group.standing[at].into()),
                compute,
                destroyed_compute,
            };
        }
        Solution {
            instances,
            destroyed: (0..current.len()).filter(|&position| kept >> position & 1 == 0).collect(),
            cost: self.cost(current, way),
        }
    }

    fn cost(&self, current: &[CurrentInstance], way: Way) -> Cost {
        let compute = current.iter().flat_map(|instance| &instance.compute);
        let busy = compute.clone().filter(|compute| compute.busy).count()
            + current.iter().filter(|instance| instance.busy).count();
        let creates = self.kinds.iter();
        let creates: u8 = creates.map(|kind| kind.count * (1 + kind.sizes.len())).sum();
        let all = pack(busy, current.len(), compute.count(), creates.into());
        // Each byte of what is saved is at most that of all.
        let [evictions, gpu_instance_destroys, compute_instance_destroys, creates] =
            (all - (u32::MAX - way.lost)).to_be_bytes();
        Cost {
            evictions,
            gpu_instance_destroys,
            compute_instance_destroys,
            creates,
            largest_left: way.largest_left,
            placements_taken: way.placements_taken,
        }
    }
}
