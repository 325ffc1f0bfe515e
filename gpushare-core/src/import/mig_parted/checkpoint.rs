//! A checkpoint: the state that `nvidia-mig-parted checkpoint` wrote, with placements.
//!
//! mig-parted writes it with the names of its Go structs (`MigState`, `GpuInstances`) and reads keys
//! in any case. Here hyphens and underscores do not matter either: `mig-state` is `MigState`.
//! Profiles are NVML's enums. Where a compute instance stands in its GPU instance is not in it.

use std::collections::HashMap;

use super::super::Options;
use super::{Imported, Wanted, about, expect_fit, has_key, instance, without_mig};
use crate::error::{Error, ErrorCode, Result};
use crate::id::ProfileIndex;
use crate::plan::{expect_visible, select};
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::spec::tree::{At, Node, Value};
use crate::spec::{Instance, Location, Selector, Want};

/// A GPU in a checkpoint.
#[derive(Debug)]
pub(super) struct Device {
    uuid: String,
    /// Its GPU instances; none where MIG was off.
    gpu_instances: Option<Vec<GpuInstance>>,
    location: Location,
}

#[derive(Debug)]
struct GpuInstance {
    profile: ProfileIndex,
    start: u8,
    size: u8,
    /// The slices of its compute instances.
    compute: Vec<u8>,
    location: Location,
}

/// Whether a file is a checkpoint.
pub(super) fn is_one(root: &Node) -> bool {
    has_key(root, |key| plain(key) == "migstate")
}

fn plain(key: &str) -> String {
    key.to_ascii_lowercase().replace(['-', '_'], "")
}

/// The same tree with keys that are spelt in one way.
fn plainly(mut node: Node) -> Node {
    node.value = match node.value {
        Value::Map(entries) => {
            let respelt = entries.into_iter().map(|(mut key, node)| {
                key.text = plain(&key.text);
                (key, plainly(node))
            });
            Value::Map(respelt.collect())
        }
        Value::List(items) => Value::List(items.into_iter().map(plainly).collect()),
        other => other,
    };
    node
}

/// The GPUs in a checkpoint.
pub(super) fn read(root: Node) -> Result<Vec<Device>> {
    let root = plainly(root);
    let root = At::root(&root).fields(&["version", "migstate"])?;
    let version = root.need("version")?;
    if version.text("v1")? != "v1" {
        return Err(version.wants("v1, the one version of checkpoints"));
    }
    let state = root.need("migstate")?.fields(&["devices"])?;
    let devices = list(&state.need("devices")?, device)?;
    // A file has room for tens of thousands.
    let mut seen: HashMap<String, &Device> = HashMap::new();
    for device in &devices {
        if let Some(first) = seen.insert(device.uuid.to_ascii_lowercase(), device) {
            let why = format!(
                "spec, {}: {} stands at {} too",
                device.location, device.uuid, first.location
            );
            return Err(Error::new(ErrorCode::InvalidArgument, why));
        }
    }
    Ok(devices)
}

/// A list; in Go an empty one is written as null.
fn list<T>(at: &At<'_>, read: impl Fn(At<'_>) -> Result<T>) -> Result<Vec<T>> {
    match &at.node.value {
        Value::Null => Ok(Vec::new()),
        Value::List(items) => at.items(items).map(read).collect(),
        _ => Err(at.wants("a list")),
    }
}

fn device(at: At<'_>) -> Result<Device> {
    let location = at.location();
    let fields = at.fields(&["uuid", "migmode", "gpuinstances"])?;
    let uuid = fields.need("uuid")?;
    let text = uuid.text("the uuid of a GPU")?;
    uuid.place(text.parse::<crate::id::GpuUuid>())?;
    let mode = fields.need("migmode")?;
    let on = match &mode.node.value {
        Value::Bool(on) => *on,
        Value::Text(text) if text.eq_ignore_ascii_case("enabled") => true,
        Value::Text(text) if text.eq_ignore_ascii_case("disabled") => false,
        _ => mode.whole(0..=1)? == 1,
    };
    let instances = fields.get("gpuinstances");
    let instances = instances.map_or(Ok(Vec::new()), |at| {
        let instances = list(&at, gpu_instance)?;
        match instances.is_empty() || on {
            true => Ok(instances),
            false => Err(at.refuse("lists GPU instances, and the MIG mode is off")),
        }
    })?;
    Ok(Device { uuid: text.to_owned(), gpu_instances: on.then_some(instances), location })
}

fn gpu_instance(at: At<'_>) -> Result<GpuInstance> {
    let location = at.location();
    let fields = at.fields(&["profileid", "placement", "computeinstances"])?;
    let profile = ProfileIndex::new(fields.need("profileid")?.whole(0..=255)?);
    let placement = fields.need("placement")?.fields(&["start", "size"])?;
    let start = placement.need("start")?.whole(0..=15)? as u8;
    let size = placement.need("size")?.whole(1..=16)? as u8;
    let compute = fields.get("computeinstances");
    let compute = compute.map_or(Ok(Vec::new()), |at| list(&at, compute_instance))?;
    Ok(GpuInstance { profile, start, size, compute, location })
}

/// The slices of a compute instance: NVML's `NVML_COMPUTE_INSTANCE_PROFILE_*`.
fn compute_instance(at: At<'_>) -> Result<u8> {
    let fields = at.fields(&["profileid", "engprofileid"])?;
    if let Some(engines) = fields.get("engprofileid") {
        // NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED is the only one that there is.
        engines.whole(0..=0)?;
    }
    let profile = fields.need("profileid")?;
    match profile.whole(0..=7)? {
        number @ 0..=3 => Ok(number as u8 + 1),
        4 => Ok(7),
        5 => Ok(8),
        6 => Ok(6),
        _ => Ok(1),
    }
}

/// The spec that brings the node back to a checkpoint.
pub(super) fn meaning(
    devices: &[Device],
    options: &Options,
    snapshot: &Snapshot,
) -> Result<Imported> {
    if let Some(config) = &options.config {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("the file is a checkpoint, which has no configs: leave --config {config} out"),
        ));
    }
    let mut notes = Vec::new();
    let mut wanted = Wanted::default();
    for device in devices {
        let selector = Selector::Uuid(device.uuid.clone());
        let found = select::one(snapshot, &selector);
        let found = found
            .map_err(|error| error.context(format!("{}, {}", super::FILE, device.location)))?;
        let Some(gpu) = found.first().and_then(|&position| snapshot.gpus.get(position)) else {
            continue;
        };
        let want = match &device.gpu_instances {
            None => without_mig(snapshot, gpu, &mut notes),
            Some(list) => Some(with_mig(gpu, list).map_err(about(gpu, &device.location))?),
        };
        if let Some(want) = want {
            // In full and as the driver spells it.
            let selector = Selector::Uuid(gpu.uuid.to_string());
            wanted.add(selector, want, device.location.clone());
        }
    }
    for gpu in &snapshot.gpus {
        let named = |device: &Device| device.uuid.eq_ignore_ascii_case(gpu.uuid.as_str());
        if gpu.mig.is_some() && !devices.iter().any(named) {
            let name = select::name(gpu);
            notes
                .push(format!("GPU {name}: the checkpoint does not speak of it; it is left alone"));
        }
    }
    let spec = wanted.into_spec();
    spec.check()?;
    Ok(Imported { spec, notes })
}

fn with_mig(gpu: &GpuSnapshot, list: &[GpuInstance]) -> Result<Want> {
    let Some(mig) = &gpu.mig else {
        return Err(Error::new(ErrorCode::Unsupported, "this GPU has no MIG"));
    };
    expect_visible(gpu)?;
    let profiles = mig.geometry.profiles();
    let instances = list.iter().map(|gi| {
        let refuse = |why: String| {
            Err(Error::new(ErrorCode::InvalidArgument, why).context(gi.location.to_string()))
        };
        let Some(profile) = profiles.iter().find(|profile| profile.index == gi.profile) else {
            let known: Vec<_> =
                profiles.iter().map(|p| format!("{} ({})", p.index, p.name)).collect();
            return refuse(format!(
                "this GPU has no profile with NVML's number {}; it has {}",
                gi.profile,
                known.join(", ")
            ));
        };
        let stands = |placement: &&crate::mig::Placement| {
            (placement.start, placement.size) == (gi.start, gi.size)
        };
        if profile.placements.iter().find(stands).is_none() {
            let known: Vec<_> = profile.placements.iter().map(ToString::to_string).collect();
            return refuse(format!(
                "{} cannot stand at {}:{}, only at {}",
                profile.name,
                gi.start,
                gi.size,
                known.join(", ")
            ));
        }
        let instance = instance(profile.name, gi.compute.clone(), &gi.location);
        Ok(instance.at(gi.start))
    });
    let instances: Vec<Instance> = instances.collect::<Result<_>>()?;
    expect_fit(&mig.geometry, &instances)?;
    Ok(Want::Mig(Some(instances)))
}
