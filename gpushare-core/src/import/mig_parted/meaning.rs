//! What a config asks of the GPUs of a node.
//!
//! mig-parted goes through the entries in their order and does to each GPU that an entry matches what
//! the entry says. So the last entry that matches a GPU decides. Where the entries before it differ in
//! `mig-enabled`, mig-parted has set the mode of the last when it comes to the instances of the first, and
//! fails: that is refused here.

use super::document::{Config, Counted, Devices, Entry, Filter, some};
use super::{Imported, Wanted, about, expect_fit, instance, without_mig};
use crate::error::{Error, ErrorCode, Result};
use crate::id::ProfileId;
use crate::mig::{Geometry, Profile};
use crate::mode::SharingMode;
use crate::plan::{expect_visible, select};
use crate::snapshot::{GpuSnapshot, MigStatus, Snapshot};
use crate::spec::tree::word;
use crate::spec::{Instance, Location, Selector, Want};

/// More MIG devices than any GPU has by far.
const MOST: u32 = 64;

/// The spec that a config means.
pub(super) fn of(config: &Config, snapshot: &Snapshot) -> Result<Imported> {
    let mut notes = Vec::new();
    let mut wanted = Wanted::default();
    absent(config, snapshot, &mut notes);
    for gpu in snapshot.gpus.iter().filter(|gpu| gpu.mode != SharingMode::Lost) {
        let Some(index) = gpu.index else { continue };
        let matching: Vec<&Entry> =
            config.entries.iter().filter(|entry| matches(entry, gpu)).collect();
        let Some((last, before)) = matching.split_last() else {
            notes.push(format!(
                "GPU {}: no entry of {} speaks of it; it is left alone (mig-parted's assert would say no)",
                select::name(gpu),
                word(&config.name)
            ));
            continue;
        };
        if let Some(other) = before.iter().find(|other| other.mig.is_some() != last.mig.is_some()) {
            if gpu.mig.is_some() {
                let error = Error::new(
                    ErrorCode::InvalidArgument,
                    format!(
                        "{} speaks of it too and differs in mig-enabled: mig-parted would change it and then fail",
                        other.location
                    ),
                );
                return Err(about(gpu, &last.location)(error));
            }
        }
        if let Some(first) = before.first() {
            notes.push(format!(
                "GPU {}: {} speaks of it too; the last entry counts, as with mig-parted: {}",
                select::name(gpu),
                first.location,
                last.location
            ));
        }
        let want = match &last.mig {
            None => without_mig(snapshot, gpu, &mut notes),
            Some(counted) => with_mig(gpu, last, counted, &mut notes)?,
        };
        if let Some(want) = want {
            wanted.add(Selector::Index(index), want, last.location.clone());
        }
    }
    let spec = wanted.into_spec();
    spec.check()?;
    Ok(Imported { spec, notes })
}

/// Says which indexes no GPU has: mig-parted passes over them in silence.
fn absent(config: &Config, snapshot: &Snapshot, notes: &mut Vec<String>) {
    for entry in &config.entries {
        let Devices::Indexes(indexes) = &entry.devices else { continue };
        let known = |index| snapshot.gpus.iter().any(|gpu| gpu.index == Some(index));
        let absent = indexes.iter().filter(|&&index| !known(index)).map(ToString::to_string);
        if let Some(absent) = some(absent) {
            let place = &entry.location;
            notes.push(format!("{place} names GPUs that this node does not have: {absent}"));
        }
    }
}

fn matches(entry: &Entry, gpu: &GpuSnapshot) -> bool {
    let passes = |filter: &Filter| {
        gpu.device_id == Some(filter.device)
            && (filter.subsystem.is_none() || gpu.subsystem_id == filter.subsystem)
    };
    let named = match &entry.devices {
        Devices::All => true,
        Devices::Indexes(indexes) => gpu.index.is_some_and(|index| indexes.contains(&index)),
    };
    named && (entry.filter.is_empty() || entry.filter.iter().any(passes))
}

/// What becomes of a GPU with `mig-enabled: true`; nothing where `all` means a GPU without MIG.
fn with_mig(
    gpu: &GpuSnapshot,
    entry: &Entry,
    counted: &[Counted],
    notes: &mut Vec<String>,
) -> Result<Option<Want>> {
    let Some(mig) = &gpu.mig else {
        if entry.devices == Devices::All {
            let name = select::name(gpu);
            notes.push(format!("GPU {name}: {} has no MIG; it is left alone", gpu.model));
            return Ok(None);
        }
        let error = Error::new(ErrorCode::Unsupported, "this GPU has no MIG");
        return Err(about(gpu, &entry.location)(error));
    };
    expect_visible(gpu).map_err(about(gpu, &entry.location))?;
    let geometry = &mig.geometry;
    let mut devices = Vec::new();
    for one in counted.iter().filter(|one| one.count > 0) {
        let profile = geometry.resolve(one.profile).map_err(about(gpu, &one.location))?;
        if one.count > MOST || devices.len() > MOST as usize {
            return Err(about(gpu, &one.location)(too_many(one, profile)));
        }
        let size = one.profile.compute.unwrap_or(profile.slices);
        let device = Device { profile, size, location: &one.location };
        devices.extend(std::iter::repeat_n(device, one.count as usize));
    }
    let instances = instances(geometry, mig, &devices);
    expect_fit(geometry, &instances).map_err(about(gpu, &entry.location))?;
    Ok(Some(Want::Mig(Some(instances))))
}

fn too_many(one: &Counted, profile: &Profile) -> Error {
    let fits = format!("{}: {}", profile.name, profile.max_instances);
    Error::new(
        ErrorCode::Insufficient,
        format!("{} of {} do not fit; at most {fits}", one.count, one.profile),
    )
    .with_fits(vec![fits])
}

/// A MIG device that is wanted: a compute instance in a GPU instance.
#[derive(Clone, Copy)]
struct Device<'a> {
    profile: &'a Profile,
    size: u8,
    location: &'a Location,
}

/// The GPU instances that hold these MIG devices.
///
/// A config counts compute instances and does not say which of them share a GPU instance. mig-parted
/// is content with a GPU that has as many of each, however they stand: then they stay so. Else it puts
/// one into the GPU instance that it created last for as long as the driver lets it, largest
/// first, and tries other orders where that does not fit. Put into the first that has room, largest
/// first, they take the fewest GPU instances.
fn instances(geometry: &Geometry, mig: &MigStatus, devices: &[Device<'_>]) -> Vec<Instance> {
    let whole = |device: &&Device<'_>| device.size == device.profile.slices;
    if devices.iter().all(|device| whole(&device)) {
        let whole = devices.iter();
        return whole.map(|d| instance(d.profile.name, vec![d.size], d.location)).collect();
    }
    if let Some(same) = present(geometry, mig, devices) {
        return same;
    }
    let mut sorted = devices.to_vec();
    sorted.sort_by_key(|device| std::cmp::Reverse(device.size));
    let mut bins: Vec<(Device<'_>, Vec<u8>)> = Vec::new();
    for device in sorted {
        let room = |(of, sizes): &&mut (Device<'_>, Vec<u8>)| {
            let taken: u32 = sizes.iter().copied().map(u32::from).sum();
            of.profile.id == device.profile.id
                && taken + u32::from(device.size) <= u32::from(of.profile.slices)
        };
        match bins.iter_mut().find(room) {
            Some((_, sizes)) => sizes.push(device.size),
            None => bins.push((device, vec![device.size])),
        }
    }
    bins.into_iter().map(|(of, sizes)| instance(of.profile.name, sizes, of.location)).collect()
}

/// The GPU instances that are there, where their compute instances are those that are wanted.
fn present(geometry: &Geometry, mig: &MigStatus, devices: &[Device<'_>]) -> Option<Vec<Instance>> {
    let mut wanted: Vec<(ProfileId, u8)> =
        devices.iter().map(|device| (device.profile.id, device.size)).collect();
    let there = mig.gpu_instances.iter();
    let mut found: Vec<(ProfileId, u8)> = there
        .flat_map(|gi| gi.compute_instances.iter().map(|ci| (gi.profile, ci.slices)))
        .collect();
    wanted.sort_unstable();
    found.sort_unstable();
    if !mig.enabled || wanted != found {
        return None;
    }
    let place = devices.first()?.location;
    let used = mig.gpu_instances.iter().filter(|gi| !gi.compute_instances.is_empty());
    used.map(|gi| {
        let profile = geometry.by_id(gi.profile)?;
        let sizes = gi.compute_instances.iter().map(|ci| ci.slices).collect();
        Some(instance(profile.name, sizes, place))
    })
    .collect()
}
