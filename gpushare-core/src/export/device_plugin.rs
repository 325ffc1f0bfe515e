//! A config file of NVIDIA's device plugin for Kubernetes (k8s-device-plugin, config version v1).
//!
//! The plugin has one way of sharing for a node, and one number for all devices of a resource: `devices`
//! and `rename` are read and dropped. What it would make of GPUs that differ is not what they are, so
//! that is refused and not left out.

use std::collections::BTreeMap;

use super::Options;
use super::kubernetes::{expect_allowed, hazards};
use super::tenants::{of_gpu, unusable};
use crate::error::{Error, ErrorCode, Result};
use crate::hazard::MpsTarget;
use crate::mig::ProfileName;
use crate::mode::{Interval, Priority, SharingMode};
use crate::parameters::{MpsComputeMode, MpsConfig};
use crate::plan::select;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::spec::tree::{Node, yaml_text};
use crate::units::{Bytes, ThreadPercentage};

/// The prefix of its resources.
const PREFIX: &str = "nvidia.com/";
/// The most replicas that the plugin's MPS takes: its daemon's clients.
const MOST_CLIENTS: u32 = 48;

/// How all devices of a resource are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Alone,
    Turns(u32),
    Mps(u32),
}

impl How {
    fn words(self) -> String {
        match self {
            Self::Alone => "is not shared".to_owned(),
            Self::Turns(replicas) => format!("has {replicas} replicas that take turns"),
            Self::Mps(clients) => format!("has {clients} clients of MPS"),
        }
    }
}

/// What is known of one resource, and which device showed it first.
struct Resource {
    how: How,
    first: String,
}

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let mut cannot_say = Vec::new();
    let mut resources: BTreeMap<String, Resource> = BTreeMap::new();
    let mut mig = false;
    for gpu in &snapshot.gpus {
        let mut say = |what: &str| cannot_say.push(of_gpu(gpu, what));
        if let Some(why) = unusable(gpu) {
            say(why);
            continue;
        }
        if let Some(why) = &gpu.cordoned {
            say(&format!("that it is cordoned ({why}): the plugin advertises it all the same"));
        }
        if gpu.mode == SharingMode::Mig {
            mig = true;
            mig_devices(gpu, &mut resources, &mut say)?;
        } else {
            let how = whole(gpu, options, &mut say)?;
            let name = format!("{PREFIX}gpu");
            insert(&mut resources, gpu, name, how, format!("GPU {}", select::name(gpu)))?;
        }
    }
    expect_one_way(&resources)?;
    let flags = Node::map([("migStrategy", Node::text(if mig { "mixed" } else { "none" }))]);
    let mut file = vec![("version", Node::text("v1")), ("flags", flags)];
    file.extend(sharing(&resources).map(|sharing| ("sharing", sharing)));
    Ok((yaml_text(&Node::map(file)), cannot_say))
}

/// `sharing`, where something is shared.
fn sharing(resources: &BTreeMap<String, Resource>) -> Option<Node> {
    let replicated = |of: fn(How) -> Option<u32>| {
        let entries = resources.iter().filter_map(|(name, resource)| {
            let replicas = Node::integer(of(resource.how)?);
            Some(Node::map([("name", Node::text(name.as_str())), ("replicas", replicas)]))
        });
        let entries: Vec<_> = entries.collect();
        (!entries.is_empty()).then(|| Node::list(entries))
    };
    let turns = replicated(|how| if let How::Turns(count) = how { Some(count) } else { None });
    let clients = replicated(|how| if let How::Mps(count) = how { Some(count) } else { None });
    // Two of them in one request would be no more than one; under MPS the plugin refuses it by itself.
    let one_each = ("failRequestsGreaterThanOne", Node::boolean(true));
    match (turns, clients) {
        (Some(resources), _) => {
            let turns = Node::map([one_each, ("resources", resources)]);
            Some(Node::map([("timeSlicing", turns)]))
        }
        (None, Some(resources)) => {
            Some(Node::map([("mps", Node::map([("resources", resources)]))]))
        }
        (None, None) => None,
    }
}

/// How a whole GPU is shared, and what of it the plugin leaves to others.
fn whole(gpu: &GpuSnapshot, options: &Options, say: &mut impl FnMut(&str)) -> Result<How> {
    let shares = u32::try_from(gpu.shares.len()).unwrap_or(u32::MAX);
    if let Some(config) = gpu.mps.as_ref().and_then(|mps| mps.config.as_ref()) {
        mps(gpu, config, shares, options, say)?;
        return Ok(if shares < 2 { How::Alone } else { How::Mps(shares) });
    }
    let interval = gpu.time_sliced.as_ref().and_then(|status| status.interval);
    if let Some(interval) = interval.filter(|interval| *interval != Interval::Default) {
        say(&format!("the length of turns ({interval}): the plugin leaves it as it is"));
    }
    if gpu.mode == SharingMode::Exclusive {
        say("compute mode EXCLUSIVE_PROCESS: the plugin leaves it as it is");
    }
    Ok(if shares < 2 { How::Alone } else { How::Turns(shares) })
}

/// What the plugin's own MPS daemon would do: equal parts of everything, whatever ours does.
fn mps(
    gpu: &GpuSnapshot,
    config: &MpsConfig,
    shares: u32,
    options: &Options,
    say: &mut impl FnMut(&str),
) -> Result<()> {
    if shares < 2 {
        say("its MPS daemon, which has one client: the plugin shares from 2 on");
        return Ok(());
    }
    if shares > MOST_CLIENTS {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "{shares} clients of MPS: the plugin takes {MOST_CLIENTS} at most; enable MPS with --max-clients"
            ),
        )
        .of_gpu(&gpu.uuid));
    }
    let target = MpsTarget::of_gpu(gpu);
    let (percentage, limit) = equal_part(gpu, shares);
    let mut found = hazards(&target, percentage, limit);
    for hazard in &mut found {
        hazard.safe = safe_counts(gpu, &target, shares);
    }
    let what = format!("the plugin gives each of {shares} clients {percentage} %");
    expect_allowed(&target, found, &options.allow_hazards, &what)?;
    say(
        "its MPS daemon: the plugin starts its own, which finds the GPU taken until gpushare's is stopped (`gpushare mps disable`)",
    );
    if config.thread_percentage != percentage {
        say(&format!(
            "a thread percentage of {}: the plugin gives each of {shares} {percentage} %",
            config.thread_percentage
        ));
    }
    let word =
        |limit: Option<Bytes>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    if config.pinned_memory_limit != limit {
        say(&format!(
            "a memory limit of {}: the plugin gives each of {shares} {}",
            word(config.pinned_memory_limit),
            word(limit)
        ));
    }
    if config.priority != Priority::Normal {
        say(&format!("priority {}: the plugin sets none", config.priority));
    }
    say(&format!(
        "that its daemon is for {}: the plugin's is for every pod that asks",
        config.access
    ));
    if config.compute_mode == MpsComputeMode::Unchanged {
        say("that the compute mode stays as it is: the plugin sets EXCLUSIVE_PROCESS");
    }
    Ok(())
}

/// What the plugin gives each of so many clients: 100 / n in whole percent, memory / n in whole MiB.
fn equal_part(gpu: &GpuSnapshot, clients: u32) -> (ThreadPercentage, Option<Bytes>) {
    let whole = ThreadPercentage::new((100 / clients.max(1)).into());
    let memory = gpu.memory.map(|memory| (memory.get() >> 20) / u64::from(clients.max(1)));
    (whole.unwrap_or(ThreadPercentage::FULL), memory.map(Bytes::from_mebibytes))
}

/// The numbers of replicas without a hazard that are nearest below and above.
fn safe_counts(gpu: &GpuSnapshot, target: &MpsTarget, clients: u32) -> Vec<String> {
    let safe = |count: &u32| {
        let (percentage, limit) = equal_part(gpu, *count);
        hazards(target, percentage, limit).is_empty()
    };
    let below = (2..clients).rev().find(safe);
    let above = (clients..=MOST_CLIENTS).find(safe);
    below.into_iter().chain(above).map(|count| format!("{count} replicas")).collect()
}

/// MIG devices, each a resource of its profile.
fn mig_devices(
    gpu: &GpuSnapshot,
    resources: &mut BTreeMap<String, Resource>,
    say: &mut impl FnMut(&str),
) -> Result<()> {
    if gpu.mig_devices.is_empty() {
        say("MIG is on and it has no MIG device: the plugin does not advertise it");
    }
    for device in &gpu.mig_devices {
        let shares = gpu.shares.iter().filter(|share| share.id.device() == device.uuid.as_str());
        let shares = u32::try_from(shares.count()).unwrap_or(u32::MAX);
        let how = if device.mps.is_some() {
            say(&format!(
                "the MPS daemon of {} ({}): the plugin has no MPS on MIG devices, and gives it to one pod at a time",
                device.uuid, device.profile
            ));
            How::Alone
        } else if shares < 2 {
            How::Alone
        } else {
            How::Turns(shares)
        };
        if let Some(name) = &device.name {
            say(&format!("that {} ({}) is called {name}", device.uuid, device.profile));
        }
        let first = format!("{} of GPU {}", device.uuid, select::name(gpu));
        insert(resources, gpu, resource(device.profile), how, first)?;
    }
    Ok(())
}

/// The resource of a MIG profile; `+` is no letter of a resource's name.
fn resource(profile: ProfileName) -> String {
    format!("{PREFIX}mig-{}", profile.to_string().replace('+', "."))
}

/// Adds a device to its resource.
///
/// # Errors
/// UNSUPPORTED where the others of that resource are shared in another way.
fn insert(
    resources: &mut BTreeMap<String, Resource>,
    gpu: &GpuSnapshot,
    name: String,
    how: How,
    device: String,
) -> Result<()> {
    match resources.get(&name) {
        Some(known) if known.how != how => Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "the plugin shares all devices of {name} alike on a node: {} {}, and {device} {}; make them alike, or put them on nodes of their own",
                known.first,
                known.how.words(),
                how.words()
            ),
        )
        .of_gpu(&gpu.uuid)),
        Some(_) => Ok(()),
        None => {
            resources.insert(name, Resource { how, first: device });
            Ok(())
        }
    }
}

/// The plugin shares a node by turns or by MPS.
///
/// # Errors
/// UNSUPPORTED where it would have to do both.
fn expect_one_way(resources: &BTreeMap<String, Resource>) -> Result<()> {
    let find = |of: fn(&How) -> bool| resources.values().find(|resource| of(&resource.how));
    let turns = find(|how| matches!(how, How::Turns(_)));
    let mps = find(|how| matches!(how, How::Mps(_)));
    let (Some(turns), Some(mps)) = (turns, mps) else { return Ok(()) };
    Err(Error::new(
        ErrorCode::Unsupported,
        format!(
            "the plugin shares a node by turns or by MPS, not by both: {} {}, and {} {}",
            turns.first,
            turns.how.words(),
            mps.first,
            mps.how.words()
        ),
    ))
}
