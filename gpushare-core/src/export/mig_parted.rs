//! A config file of mig-parted, from what the GPUs are.
//!
//! The file has one config, and every GPU stands in it once, by NVML's index: mig-parted's `assert`
//! says no to a node with a GPU that its config does not name.

use std::collections::BTreeMap;

use super::Options;
use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuIndex;
use crate::mig::ProfileName;
use crate::mode::SharingMode;
use crate::plan::{previous, select};
use crate::snapshot::{GpuSnapshot, MigStatus, Snapshot, Visibility};
use crate::spec::Sharing;
use crate::spec::tree::{Node, yaml_text};

/// The name of the config where none is given.
const CONFIG: &str = "current";

/// How many there are of each profile; none where MIG is off.
type Devices = Option<BTreeMap<ProfileName, u32>>;

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let config = options.config.as_deref().unwrap_or(CONFIG);
    if config.is_empty() || config.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{config:?} is no name of a config: give a word such as {CONFIG}"),
        ));
    }
    let mut cannot_say = Vec::new();
    let mut entries: Vec<(Vec<GpuIndex>, Devices)> = Vec::new();
    for gpu in &snapshot.gpus {
        let mut say = |what: &str| cannot_say.push(format!("GPU {}: {what}", select::name(gpu)));
        let Some(index) = gpu.index.filter(|_| gpu.mode != SharingMode::Lost) else {
            say("it does not answer, and mig-parted knows a GPU by its index alone; left out");
            continue;
        };
        let devices = match &gpu.mig {
            Some(mig) if mig.enabled => Some(devices(snapshot, gpu, mig, &mut say)),
            _ => None,
        };
        sharing(gpu, &mut say);
        // GPUs that are alike share an entry, as in mig-parted's own export.
        match entries.iter_mut().find(|(_, other)| *other == devices) {
            Some((gpus, _)) => gpus.push(index),
            None => entries.push((vec![index], devices)),
        }
    }
    if entries.is_empty() {
        return Err(Error::new(
            ErrorCode::NotFound,
            "there is no GPU here, and mig-parted refuses a config without an entry",
        ));
    }
    let entries = entries.into_iter().map(|(gpus, devices)| entry(&gpus, devices));
    let configs = Node::map([(config, Node::list(entries))]);
    let file = Node::map([("version", Node::text("v1")), ("mig-configs", configs)]);
    // Whoever finds the file later is told too.
    let simulated = if snapshot.simulated { "# SIMULATED\n" } else { "" };
    Ok((format!("{simulated}{}", yaml_text(&file)), cannot_say))
}

fn entry(gpus: &[GpuIndex], devices: Devices) -> Node {
    let indexes = Node::list(gpus.iter().map(|index| Node::integer(index.get())));
    let enabled = Node::boolean(devices.is_some());
    let mut fields = vec![("devices", indexes), ("mig-enabled", enabled)];
    if let Some(devices) = devices {
        let named: Vec<_> =
            devices.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        let counts = named.iter().map(|(name, count)| (name.as_str(), Node::integer(*count)));
        fields.push(("mig-devices", Node::map(counts)));
    }
    Node::map(fields)
}

/// The MIG devices by profile. mig-parted counts compute instances, as it sees no others.
fn devices(
    snapshot: &Snapshot,
    gpu: &GpuSnapshot,
    mig: &MigStatus,
    say: &mut impl FnMut(&str),
) -> BTreeMap<ProfileName, u32> {
    let mut counts = BTreeMap::new();
    let mut count = |name| *counts.entry(name).or_default() += 1;
    if let Visibility::Partial { missing } = &gpu.visibility {
        gpu.mig_devices.iter().for_each(|device| count(device.profile));
        say(&format!(
            "GPU instances without a compute instance could not be seen, and would be missing (that needs {})",
            missing.join(", ")
        ));
        return counts;
    }
    let mut starts = Vec::new();
    for gi in &mig.gpu_instances {
        let place = format!("{} at {}", gi.name, gi.placement.start);
        let as_spec = previous::instance(snapshot, gpu, gi);
        if let Some(name) = as_spec.name {
            say(&format!("that {place} is called {name}"));
        }
        match as_spec.sharing {
            Some(Sharing::Mps(_)) => say(&format!("the MPS daemon on {place}")),
            Some(Sharing::TimeSliced(slicing)) => {
                say(&format!("time slicing with {} replicas on {place}", slicing.replicas));
            }
            None => {}
        }
        let sizes: Vec<u8> = gi.compute_instances.iter().map(|ci| ci.slices).collect();
        sizes.iter().for_each(|&slices| count(gi.name.with_compute(slices)));
        match sizes.as_slice() {
            [] => say(&format!(
                "{place} has no compute instance: mig-parted does not see it and would remove it; left out"
            )),
            [one] if *one == gi.name.slices => {}
            _ => say(&format!(
                "which compute instances stand in one GPU instance ({place} has {}): mig-parted counts them",
                listed(&sizes)
            )),
        }
        starts.push(place);
    }
    if !starts.is_empty() {
        say(&format!(
            "where the instances stand ({}): mig-parted leaves that to the driver",
            starts.join(", ")
        ));
    }
    counts
}

fn listed(sizes: &[u8]) -> String {
    sizes.iter().map(|size| format!("{size}c")).collect::<Vec<_>>().join(" and ")
}

/// What a GPU is beside MIG.
fn sharing(gpu: &GpuSnapshot, say: &mut impl FnMut(&str)) {
    if gpu.mig.as_ref().is_some_and(|mig| mig.enabled != mig.pending) {
        say("its MIG mode changes with the next reset; what is written is how it is now");
    }
    let what = match gpu.mode {
        SharingMode::Exclusive => "compute mode EXCLUSIVE_PROCESS",
        SharingMode::Closed => "compute mode PROHIBITED",
        SharingMode::Mps | SharingMode::Degraded => "its MPS daemon, with limits and compute mode",
        SharingMode::Foreign => "an MPS daemon that is not gpushare's",
        SharingMode::TimeSliced => {
            let status = gpu.time_sliced.as_ref();
            if let Some(replicas) = status.and_then(|status| status.replicas) {
                say(&format!("time slicing with {replicas} replicas, and its interval"));
            }
            return;
        }
        SharingMode::Mig | SharingMode::Pending | SharingMode::Lost => return,
    };
    say(what);
}
