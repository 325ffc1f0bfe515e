//! The spec of each way on a node, or why there is none.

use std::num::NonZeroU32;

use super::{Isolation, Way, Workload};
use crate::error::ErrorCode;
use crate::hazard::{MpsTarget, most_clients, split};
use crate::id::GpuUuid;
use crate::mig::solve::{WantedInstance, solve};
use crate::mig::{Attribute, Geometry, Profile};
use crate::mode::SharingMode;
use crate::parameters::{MpsConfig, TimeSlicing};
use crate::snapshot::{Driver, GpuSnapshot, Snapshot};
use crate::spec::{Instance, Selector, Sharing, Spec, Want};
use crate::units::{Bytes, ThreadPercentage};

/// What a spec takes at most of replicas.
const MOST_REPLICAS: u32 = 1024;
/// Below that a memory limit is a hazard.
const LEAST_LIMIT: Bytes = Bytes::from_mebibytes(1024);

/// The GPUs of a node that may be used, those first whose use disturbs nobody.
pub(super) struct Node<'a> {
    gpus: Vec<&'a GpuSnapshot>,
    driver: &'a Driver,
}

/// A spec, the GPUs that it takes, and what is to be said of it.
pub(super) struct Layout {
    pub(super) spec: Spec,
    pub(super) gpus: Vec<GpuUuid>,
    pub(super) says: Vec<String>,
}

/// Why a way does not give what was asked for.
type Tried<T> = Result<T, String>;

impl<'a> Node<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, only: Option<&[GpuUuid]>) -> Self {
        let wanted = |gpu: &&GpuSnapshot| {
            gpu.mode != SharingMode::Lost && only.is_none_or(|only| only.contains(&gpu.uuid))
        };
        let mut gpus: Vec<_> = snapshot.gpus.iter().filter(wanted).collect();
        gpus.sort_by_key(|gpu| {
            let foreign = gpu.mode == SharingMode::Foreign;
            let leased = gpu.shares.iter().filter(|share| share.is_leased()).count();
            (
                foreign || gpu.unsettled.is_some() || gpu.cordoned.is_some(),
                gpu.processes_hidden,
                gpu.processes.len() + leased,
                gpu.index,
            )
        });
        Self { gpus, driver: &snapshot.driver }
    }

    pub(super) fn way(&self, workload: &Workload, way: Way) -> Tried<Layout> {
        if self.gpus.is_empty() {
            return Err("this node has no GPU that answers".to_owned());
        }
        match way {
            Way::Exclusive => self.exclusive(workload),
            Way::TimeSliced => self.time_sliced(workload),
            Way::Mps => self.mps(workload),
            Way::Mig => self.mig(workload),
            Way::MigWithMps => self.mig_with_mps(workload),
        }
    }

    /// How many processes go on each GPU: as few GPUs as it takes, and evenly. `most` says how many a GPU takes.
    fn spread(
        &self,
        count: u32,
        most: impl Fn(&GpuSnapshot) -> u32,
    ) -> Result<Vec<(&'a GpuSnapshot, u32)>, u32> {
        let room: Vec<_> =
            self.gpus.iter().map(|&gpu| (gpu, most(gpu))).filter(|r| r.1 > 0).collect();
        let mut sum = 0_u32;
        let mut taken = 0;
        for (_, most) in &room {
            if sum >= count {
                break;
            }
            sum = sum.saturating_add(*most);
            taken += 1;
        }
        if sum < count {
            return Err(sum);
        }
        let room = room.get(..taken).unwrap_or_default();
        let mut placed: Vec<_> = room.iter().map(|&(gpu, _)| (gpu, 0)).collect();
        let mut left = count;
        // A round gives each GPU with room the same, so it ends after as many rounds as there are GPUs.
        while left > 0 {
            let open: Vec<_> = (0..taken).filter(|&at| placed[at].1 < room[at].1).collect();
            let each = (left / u32::try_from(open.len()).unwrap_or(1).max(1)).max(1);
            for at in open {
                let more = each.min(room[at].1 - placed[at].1).min(left);
                placed[at].1 += more;
                left -= more;
            }
        }
        placed.retain(|(_, number)| *number > 0);
        Ok(placed)
    }

    fn exclusive(&self, workload: &Workload) -> Tried<Layout> {
        let takes = |gpu: &GpuSnapshot| u32::from(has_memory(gpu, workload.memory));
        let placed = self.spread(workload.count.get(), takes).map_err(|room| {
            format!(
                "{} GPUs{} are needed, one for each process, and there are {room}",
                workload.count,
                each_with(workload)
            )
        })?;
        let says = vec!["each process has a GPU to itself".to_owned()];
        self.layout(placed, says, |_, _| Ok(Want::Exclusive))
    }

    fn time_sliced(&self, workload: &Workload) -> Tried<Layout> {
        match workload.isolation {
            Isolation::None => {}
            Isolation::Limits => {
                return Err(
                    "nothing limits what a process takes: each has the whole memory in reach"
                        .to_owned(),
                );
            }
            Isolation::Strict => return Err(
                "the processes share memory and its bandwidth, and nothing limits what one takes"
                    .to_owned(),
            ),
        }
        let placed = self
            .spread(workload.count.get(), |gpu| {
                by_memory(gpu.memory, workload.memory).min(MOST_REPLICAS)
            })
            .map_err(|room| too_few(workload, room))?;
        let says = self.says(&placed);
        self.layout(placed, says, |_, number| {
            Ok(Want::TimeSliced(TimeSlicing::new(nonzero(number))))
        })
    }

    fn mps(&self, workload: &Workload) -> Tried<Layout> {
        if workload.isolation == Isolation::Strict {
            return Err("a fatal fault of one client ends every client of that daemon, and nothing divides memory bandwidth and caches".to_owned());
        }
        let limits = workload.isolation == Isolation::Limits;
        let takes = |gpu: &GpuSnapshot| {
            let target = MpsTarget::of_gpu(gpu);
            let most =
                most_clients(&target, self.driver).min(by_memory(gpu.memory, workload.memory));
            let fits = |parts: u32| !limits || self.limits(gpu, workload, parts).is_ok();
            (1..=most).rev().find(|&parts| fits(parts)).unwrap_or(0)
        };
        let placed = self.spread(workload.count.get(), takes).map_err(|room| {
            let limited = |gpu: &&&GpuSnapshot| self.limits(gpu, workload, 2).is_err();
            let why = self.gpus.iter().find(limited).filter(|_| limits);
            match why.and_then(|gpu| self.limits(gpu, workload, 2).err()) {
                Some(why) => format!("{}: {why}", too_few(workload, room)),
                None => too_few(workload, room),
            }
        })?;
        let mut says = self.says(&placed);
        let old = |gpu: &GpuSnapshot| gpu.compute_capability.is_some_and(|found| found < (7, 0));
        if placed.iter().any(|(gpu, _)| old(gpu)) {
            says.push("before Volta the clients share one address space: one can read and write the memory of another".to_owned());
        }
        if limits {
            for (gpu, number) in placed.iter().take(1) {
                let config = self.limits(gpu, workload, *number)?;
                let memory = config
                    .pinned_memory_limit
                    .map_or_else(String::new, |limit| format!(" and {limit}"));
                says.push(format!(
                    "each client gets at most {} % of the SMs{memory}, held by the daemon",
                    config.thread_percentage
                ));
                if config.thread_percentage < ThreadPercentage::FULL
                    && gpu.compute_capability.is_some_and(|c| c.0 == 9)
                {
                    says.push(if workload.half_precision {
                        "that percentage is outside the bands in which half-precision products were wrong (measured on H200)".to_owned()
                    } else {
                        "that percentage is one of those at which half-precision products are right too, though it was said that there are none (measured on H200)".to_owned()
                    });
                }
            }
        } else {
            says.push(
                "no thread percentage is set: at 100 % every result was right (measured on H200)"
                    .to_owned(),
            );
        }
        self.layout(placed, says, |gpu, number| {
            if limits {
                return Ok(Want::Mps(self.limits(gpu, workload, number)?));
            }
            Ok(Want::Mps(MpsConfig {
                max_clients: NonZeroU32::new(number),
                ..MpsConfig::default()
            }))
        })
    }

    /// What each of that many clients gets.
    fn limits(&self, gpu: &GpuSnapshot, workload: &Workload, parts: u32) -> Tried<MpsConfig> {
        let split =
            split(&MpsTarget::of_gpu(gpu), self.driver, parts).map_err(|error| {
                match error.code() {
                    ErrorCode::Unsupported => error.message().to_owned(),
                    _ => error.to_string(),
                }
            })?;
        let part =
            split.memory.ok_or("the driver has no limits of memory, or the memory is not known")?;
        let limit = match workload.memory {
            Some(memory) => whole_mebibytes(memory).max(LEAST_LIMIT),
            None => part,
        };
        if limit > part {
            return Err(format!("{limit} each is more than the {part} of one of {parts} parts"));
        }
        Ok(MpsConfig {
            thread_percentage: split.thread_percentage,
            pinned_memory_limit: Some(limit),
            max_clients: NonZeroU32::new(parts),
            ..MpsConfig::default()
        })
    }

    fn mig(&self, workload: &Workload) -> Tried<Layout> {
        let mut names = Vec::new();
        let mut most = 0;
        let mut best: Option<Vec<(&GpuSnapshot, u32, Profile)>> = None;
        // The plain profiles of all cards, by what they mean on each: the smallest that suffices, or where
        // no size was asked for the largest with which all fit on the fewest GPUs.
        for slices in self.sizes(workload) {
            let profile = |gpu: &GpuSnapshot| self.profile(gpu, workload, slices);
            let takes = |gpu: &GpuSnapshot| profile(gpu).map_or(0, |p| capacity(gpu, &p));
            match self.spread(workload.count.get(), takes) {
                Ok(placed) => {
                    let placed: Vec<_> = placed
                        .into_iter()
                        .filter_map(|(gpu, number)| Some((gpu, number, profile(gpu)?)))
                        .collect();
                    if best.as_ref().is_none_or(|best| placed.len() < best.len()) {
                        best = Some(placed);
                    }
                }
                Err(room) => most = most.max(room),
            }
        }
        let Some(placed) = best else {
            return Err(self.no_mig(workload, most));
        };
        for (_, _, profile) in &placed {
            let text = format!(
                "{} ({} GiB, {} SMs)",
                profile.name,
                gibibytes(profile.memory),
                profile.sm_count
            );
            if !names.contains(&text) {
                names.push(text);
            }
        }
        let of = |gpu: &GpuSnapshot| placed.iter().find(|(other, ..)| other.uuid == gpu.uuid);
        let mut says =
            vec![format!("each process has a MIG device of its own: {}", names.join(", "))];
        let numbers: Vec<_> = placed.iter().map(|(gpu, number, _)| (*gpu, *number)).collect();
        says.extend(self.says(&numbers));
        self.layout(numbers.clone(), says, |gpu, number| {
            let (_, _, profile) = of(gpu).ok_or("the GPU has no such profile")?;
            let instances = (0..number).map(|_| Instance::new(profile.name)).collect();
            Ok(Want::Mig(Some(instances)))
        })
    }

    /// The sizes to try, by slices, the preferred first.
    fn sizes(&self, workload: &Workload) -> Vec<u8> {
        if workload.memory.is_some() {
            // The smallest that has the memory, whatever its slices.
            return vec![0];
        }
        let plain = self.gpus.iter().flat_map(|gpu| plain_profiles(gpu));
        let mut sizes: Vec<_> = plain.map(|profile| profile.slices).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        sizes
    }

    /// The profile of a GPU for one process: by memory where that was said, else of that many slices.
    fn profile(&self, gpu: &GpuSnapshot, workload: &Workload, slices: u8) -> Option<Profile> {
        let mut plain: Vec<_> = plain_profiles(gpu).collect();
        plain.sort_by_key(|profile| (profile.memory, profile.slices));
        let found = match workload.memory {
            Some(memory) => plain.into_iter().find(|profile| profile.memory >= memory),
            // The one with the most memory of that many slices.
            None => plain.into_iter().rfind(|profile| profile.slices == slices),
        };
        found.cloned()
    }

    fn no_mig(&self, workload: &Workload, room: u32) -> String {
        let with = self.gpus.iter().any(|gpu| gpu.mig.is_some());
        if !with {
            let mut models: Vec<_> = self.gpus.iter().map(|gpu| gpu.model.as_str()).collect();
            models.dedup();
            return format!("{} has no MIG", models.join(", "));
        }
        if room == 0 && workload.memory.is_some() {
            return format!(
                "no MIG profile has memory{}",
                each_with(workload).replace(" with", " of")
            );
        }
        format!("{} MIG devices{} are needed, and {room} fit", workload.count, each_with(workload))
    }

    fn mig_with_mps(&self, workload: &Workload) -> Tried<Layout> {
        if workload.isolation != Isolation::None {
            return Err("the clients of one MIG device share it as with MPS, and nothing keeps a process from going past the daemon: a MIG device has no compute mode".to_owned());
        }
        if workload.count.get() == 1 {
            return Err("one process needs nobody beside it".to_owned());
        }
        let mut most = 0;
        // The smallest devices first: the fewer share one, the fewer a fault ends.
        let mut sizes = self.sizes(&Workload { memory: None, ..workload.clone() });
        sizes.reverse();
        let blank = Workload { memory: None, ..workload.clone() };
        for slices in sizes {
            let profile = |gpu: &GpuSnapshot| self.profile(gpu, &blank, slices);
            let each = |profile: &Profile| {
                by_memory(Some(profile.memory), workload.memory).min(clients_of(profile))
            };
            let takes = |gpu: &GpuSnapshot| {
                let room = |p: Profile| capacity(gpu, &p).saturating_mul(each(&p));
                profile(gpu).map_or(0, room)
            };
            let placed = match self.spread(workload.count.get(), takes) {
                Ok(placed) => placed,
                Err(room) => {
                    most = most.max(room);
                    continue;
                }
            };
            // With a device for each nobody shares one: that is plain MIG.
            let shared = placed.iter().any(|(gpu, number)| {
                profile(gpu).is_some_and(|profile| *number > capacity(gpu, &profile))
            });
            if !shared {
                continue;
            }
            let mut says = self.says(&placed);
            says.push(
                "a fatal fault ends the clients of one MIG device, and not those of the others"
                    .to_owned(),
            );
            return self.layout(placed, says, |gpu, number| {
                let profile = profile(gpu).ok_or("the GPU has no such profile")?;
                let devices = capacity(gpu, &profile).min(number).max(1);
                let instances = (0..devices).map(|at| {
                    let clients = number / devices + u32::from(at < number % devices);
                    let config =
                        MpsConfig { max_clients: NonZeroU32::new(clients), ..MpsConfig::default() };
                    Instance::new(profile.name).shared(Sharing::Mps(config))
                });
                Ok(Want::Mig(Some(instances.collect())))
            });
        }
        if most == 0 {
            return Err(self.no_mig(workload, most));
        }
        if most >= workload.count.get() {
            return Err("a MIG device for each process is possible".to_owned());
        }
        Err(too_few(workload, most))
    }

    /// The spec that gives each of these GPUs what it is to be, GPUs of one want in one entry.
    fn layout(
        &self,
        placed: Vec<(&GpuSnapshot, u32)>,
        says: Vec<String>,
        want: impl Fn(&GpuSnapshot, u32) -> Tried<Want>,
    ) -> Tried<Layout> {
        let mut entries: Vec<(Want, Vec<Selector>)> = Vec::new();
        for (gpu, number) in &placed {
            let want = want(gpu, *number)?;
            let selector = Selector::Uuid(gpu.uuid.to_string());
            match entries.iter_mut().find(|(other, _)| *other == want) {
                Some((_, selectors)) => selectors.push(selector),
                None => entries.push((want, vec![selector])),
            }
        }
        let spec =
            entries.into_iter().fold(Spec::new(), |spec, (want, select)| spec.gpu(select, want));
        let gpus = placed.into_iter().map(|(gpu, _)| gpu.uuid.clone()).collect();
        Ok(Layout { spec, gpus, says })
    }

    fn says(&self, placed: &[(&GpuSnapshot, u32)]) -> Vec<String> {
        let on: Vec<_> =
            placed.iter().map(|(gpu, number)| format!("{number} on GPU {}", name(gpu))).collect();
        let rest = self.gpus.len() - placed.len();
        let rest = match rest {
            0 => String::new(),
            1 => "; 1 GPU stays as it is".to_owned(),
            rest => format!("; {rest} GPUs stay as they are"),
        };
        vec![format!("{}{rest}", on.join(", "))]
    }
}

fn name(gpu: &GpuSnapshot) -> String {
    gpu.index.map_or_else(|| gpu.uuid.to_string(), |index| index.to_string())
}

fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

fn has_memory(gpu: &GpuSnapshot, memory: Option<Bytes>) -> bool {
    by_memory(gpu.memory, memory) > 0
}

/// How many processes of that memory fit. What is not known limits nothing.
fn by_memory(total: Option<Bytes>, each: Option<Bytes>) -> u32 {
    match (total, each) {
        (Some(total), Some(each)) if each.get() > 0 => {
            u32::try_from(total.get() / each.get()).unwrap_or(u32::MAX)
        }
        (None, Some(_)) => 0,
        _ => u32::MAX,
    }
}

fn whole_mebibytes(bytes: Bytes) -> Bytes {
    Bytes::from_mebibytes(bytes.get().div_ceil(1 << 20))
}

fn each_with(workload: &Workload) -> String {
    workload.memory.map_or_else(String::new, |memory| format!(" with {memory}"))
}

fn too_few(workload: &Workload, room: u32) -> String {
    let with = each_with(workload);
    format!("{} processes{with} are asked for, and {room} fit", workload.count)
}

fn gibibytes(bytes: Bytes) -> String {
    // One decimal, downwards.
    let tenths = (u128::from(bytes.get()) * 10) >> 30;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn plain_profiles(gpu: &GpuSnapshot) -> impl Iterator<Item = &Profile> {
    let profiles = gpu.mig.iter().flat_map(|mig| mig.geometry.profiles());
    profiles.filter(|profile| profile.name.attribute == Attribute::Plain)
}

/// How many instances of a profile an empty GPU takes.
fn capacity(gpu: &GpuSnapshot, profile: &Profile) -> u32 {
    let Some(geometry) = gpu.mig.as_ref().map(|mig| &mig.geometry) else { return 0 };
    let Some(position) = geometry.position(profile.id) else { return 0 };
    let fits = |number: usize| {
        let one = WantedInstance { profile: position, start: None, compute: None };
        solve(geometry, &[], &vec![one; number]).is_ok()
    };
    let most = usize::from(profile.max_instances).min(Geometry::LIMIT);
    let most = (1..=most).rev().find(|&number| fits(number)).unwrap_or(0);
    u32::try_from(most).unwrap_or(0)
}

/// Clients of a MIG device: those of a whole GPU, scaled down with the slices (NVIDIA's MPS guide says that it
/// is scaled, not how).
fn clients_of(profile: &Profile) -> u32 {
    (48 * u32::from(profile.slices) / 7).max(1)
}

/// Why one would choose a way, wherever it is.
pub(super) fn reasons(way: Way) -> &'static [&'static str] {
    match way {
        Way::Exclusive => &["nobody shares anything: full speed, and no fault reaches another"],
        Way::TimeSliced => &[
            "every NVIDIA GPU has it, and any process can come and go",
            "a process that fails ends nobody else",
        ],
        Way::Mps => &[
            "processes run at the same time, which fills a GPU with small kernels",
            "from Volta on, limits of SMs and memory are held by the daemon's server",
        ],
        Way::Mig => &[
            "compute, memory and memory bandwidth are separate, and faults stay inside",
            "instances come and go beside those that run",
        ],
        Way::MigWithMps => {
            &["more processes than there can be MIG devices, with walls between groups of them"]
        }
    }
}

/// What a way does not give.
pub(super) fn lacks(way: Way) -> &'static [&'static str] {
    match way {
        Way::Exclusive => &[
            "whatever a process leaves idle is idle",
            "the compute mode was never changed on hardware by gpushare's tests: simulator alone",
        ],
        Way::TimeSliced => &[
            "only one process runs at any moment",
            "no limit of memory: one can starve the others",
            "the number of replicas is declared: the driver admits any number",
        ],
        Way::Mps => &[
            "one faulting client ends its neighbours",
            "percentages are ceilings: nothing reserves SMs, memory bandwidth or caches",
            "EXCLUSIVE_PROCESS, which keeps processes from going past the daemon, is set by root and was never run on hardware by gpushare's tests",
            "a client needs two environment variables, and must be let in: `access` in the spec",
        ],
        Way::Mig => &[
            "the parts are of fixed sizes, and together less than the card",
            "switching MIG disturbs everyone on the GPU; before Hopper it takes a reset",
            "never run on hardware by gpushare's tests: simulator and NVIDIA's documentation alone",
        ],
        Way::MigWithMps => &[
            "one faulting client ends its neighbours on the same MIG device",
            "a process that misses the daemon gets the whole MIG device: hazard bypass-possible",
            "never run on hardware by gpushare's tests: simulator and NVIDIA's documentation alone",
        ],
    }
}
