//! What the tree of a spec means: every rule of the format, each refusal with its place.

use std::num::NonZeroU32;

use super::check::{self, MOST_INSTANCES, MOST_REPLICAS, MOST_START};
use super::cursor::{At, Fields, named, twice};
use super::document::{Node, Quoted, Value};
use super::{Entry, Instance, Selector, Sharing, Spec, VERSION, Want};
use crate::error::Result;
use crate::id::{GpuIndex, PciDeviceId};
use crate::mig::ProfileName;
use crate::mode::{Interval, Mode, Priority};
use crate::parameters::{Access, MpsComputeMode, MpsConfig, TimeSlicing};
use crate::units::{Bytes, ThreadPercentage};

/// The spec that a tree means.
pub(super) fn spec(root: &Node) -> Result<Spec> {
    let root = At::root(root).fields(&["version", "gpus"])?;
    let version = root.need("version")?;
    if version.text(VERSION)? != VERSION {
        return Err(version.wants(format_args!("{VERSION}, the one version of specs")));
    }
    let gpus = root.need("gpus")?;
    let Value::List(list) = &gpus.node.value else {
        return Err(gpus.wants("a list of entries with select and mode"));
    };
    let spec = Spec { gpus: gpus.items(list).map(entry).collect::<Result<_>>()? };
    spec.check()?;
    Ok(spec)
}

fn entry(at: At<'_>) -> Result<Entry> {
    let location = at.location();
    let fields = at.fields(&["select", "mode", "mig", "mps", "time_sliced"])?;
    let select = select(&fields.need("select")?)?;
    let mode = fields.need("mode")?;
    let mode: Mode = mode.place(mode.text("a mode")?.parse())?;
    for other in [Mode::Mig, Mode::Mps, Mode::TimeSliced] {
        if let Some(block) = fields.get(other.as_str()).filter(|_| other != mode) {
            let line = fields.line(other.as_str());
            let why = format_args!("goes with mode: {other} alone, and the mode here is {mode}");
            return Err(super::document::refuse(line, &block.key, why));
        }
    }
    let block = fields.get(mode.as_str());
    let want = match mode {
        Mode::Exclusive => Want::Exclusive,
        Mode::TimeSliced => {
            Want::TimeSliced(block.map(time_slicing).transpose()?.unwrap_or_default())
        }
        Mode::Mps => Want::Mps(block.map(mps).transpose()?.unwrap_or_default()),
        Mode::Mig => {
            let block = block.map(|block| block.fields(&["instances"])).transpose()?;
            let instances = block.and_then(|block| block.get("instances"));
            Want::Mig(instances.map(|at| instances_of(&at)).transpose()?)
        }
    };
    Ok(Entry { select, want, location })
}

fn select(at: &At<'_>) -> Result<Vec<Selector>> {
    match &at.node.value {
        Value::List(list) => at.items(list).map(selector).collect(),
        _ => Ok(vec![selector(At { node: at.node, key: at.key.clone() })?]),
    }
}

fn selector(at: At<'_>) -> Result<Selector> {
    const WHAT: &str =
        "all, an index, a uuid, a PCI address, or a map with model, device_id or pci";
    match &at.node.value {
        Value::Text(text) => at.place(text.parse()),
        Value::Integer(_) => {
            at.whole(0..=u32::MAX).map(|index| Selector::Index(GpuIndex::new(index)))
        }
        Value::Map(_) => {
            let map = at.fields(&["model", "device_id", "pci"])?;
            let Some(key) = map.only() else {
                return Err(map.at.refuse("wants one of model, device_id, pci, and one alone"));
            };
            let value = map.need(key)?;
            match key {
                "device_id" => device_id(&value).map(Selector::DeviceId),
                "pci" => {
                    let address = value.place(value.text("a PCI address")?.parse())?;
                    Ok(Selector::Pci { address, optional: true })
                }
                _ => {
                    let pattern = value.text("a model such as \"H100*\"")?;
                    value.place(check::model(pattern))?;
                    Ok(Selector::Model(pattern.to_owned()))
                }
            }
        }
        _ => Err(at.wants(WHAT)),
    }
}

/// Quoted, or as the number that YAML makes of `0x233010DE`. Only NVIDIA's ids are taken as
/// numbers: the short `0x2330` is one too, and would match nothing.
fn device_id(at: &At<'_>) -> Result<PciDeviceId> {
    const NVIDIA: u32 = 0x10DE;
    match at.node.value {
        Value::Integer(number) => u32::try_from(number)
            .ok()
            .filter(|id| id & 0xFFFF == NVIDIA)
            .map(PciDeviceId::new)
            .ok_or_else(|| at.wants("a PCI device id such as \"0x233010DE\"")),
        _ => at.place(at.text("a PCI device id such as \"0x233010DE\"")?.parse()),
    }
}

fn time_slicing(at: At<'_>) -> Result<TimeSlicing> {
    let fields = at.fields(&["replicas", "interval"])?;
    let mut slicing = TimeSlicing::default();
    if let Some(replicas) = fields.get("replicas") {
        let number = replicas.whole(1..=MOST_REPLICAS)?;
        slicing.replicas = NonZeroU32::new(number).unwrap_or(slicing.replicas);
    }
    if let Some(interval) = fields.get("interval") {
        slicing.interval = interval.place(interval.text(words(Interval::ALL))?.parse())?;
    }
    Ok(slicing)
}

fn words<T: ToString>(all: &[T]) -> String {
    format!("one of {}", all.iter().map(T::to_string).collect::<Vec<_>>().join(", "))
}

fn mps(at: At<'_>) -> Result<MpsConfig> {
    let fields = at.fields(&[
        "thread_percentage",
        "pinned_memory_limit",
        "max_clients",
        "priority",
        "access",
        "compute_mode",
    ])?;
    let mut config = MpsConfig::default();
    if let Some(percentage) = fields.get("thread_percentage") {
        let number = match percentage.node.value {
            // Whole numbers that matter here are exact in a float; all others are out of range.
            Value::Integer(number) => number as f64,
            Value::Number(number) => number,
            _ => return Err(percentage.wants("a number above 0 and at most 100")),
        };
        config.thread_percentage = percentage.place(ThreadPercentage::new(number))?;
    }
    if let Some(limit) = fields.get("pinned_memory_limit") {
        config.pinned_memory_limit = Some(bytes(&limit)?);
    }
    if let Some(clients) = fields.get("max_clients") {
        config.max_clients = NonZeroU32::new(clients.whole(1..=u32::MAX)?);
    }
    if let Some(priority) = fields.get("priority") {
        config.priority = priority.place(priority.text(words(Priority::ALL))?.parse())?;
    }
    if let Some(who) = fields.get("access") {
        config.access = access(who)?;
    }
    if let Some(mode) = fields.get("compute_mode") {
        const WHAT: &str = "exclusive_process or unchanged";
        config.compute_mode = match mode.text(WHAT)? {
            "exclusive_process" => MpsComputeMode::ExclusiveProcess,
            "unchanged" => MpsComputeMode::Unchanged,
            _ => return Err(mode.wants(WHAT)),
        };
    }
    Ok(config)
}

fn bytes(at: &At<'_>) -> Result<Bytes> {
    const WHAT: &str = "a size such as 4GiB, or a number of bytes";
    let bytes = match &at.node.value {
        Value::Integer(number) => {
            u64::try_from(*number).map(Bytes::new).map_err(|_| at.wants(WHAT))?
        }
        _ => at.place(at.text(WHAT)?.parse())?,
    };
    at.place(check::limit(bytes))?;
    Ok(bytes)
}

fn access(at: At<'_>) -> Result<Access> {
    const WHAT: &str = "caller, any, {user: …} or {group: …}";
    match &at.node.value {
        Value::Text(word) if word == "caller" => Ok(Access::Caller),
        Value::Text(word) if word == "any" => Ok(Access::Any),
        Value::Map(_) => {
            let map = at.fields(&["user", "group"])?;
            let Some(key) = map.only() else {
                return Err(map.at.refuse("wants one of user, group, and one alone"));
            };
            let value = map.need(key)?;
            let name = match &value.node.value {
                Value::Integer(_) => value.whole(0..=u32::MAX)?.to_string(),
                _ => value.text("a name or a number")?.to_owned(),
            };
            value.place(check::account(&name))?;
            Ok(if key == "user" { Access::User(name) } else { Access::Group(name) })
        }
        _ => Err(at.wants(WHAT)),
    }
}

/// `{3g.40gb: 1, 1g.10gb: 4}`, or a list of instances.
fn instances_of(at: &At<'_>) -> Result<Vec<Instance>> {
    let mut instances = Vec::new();
    let too_many = |at: &At<'_>| at.refuse(check::too_many_instances());
    match &at.node.value {
        Value::List(list) if list.len() > MOST_INSTANCES => return Err(too_many(at)),
        Value::List(list) => return at.items(list).map(instance).collect(),
        Value::Map(entries) => {
            let mut seen: Vec<(ProfileName, Option<usize>)> = Vec::new();
            for (key, node) in named(entries) {
                let count = at.child(&key.text, node);
                let profile = profile(&key.text)
                    .map_err(|why| super::document::refuse(key.line, &at.key, why))?;
                if let Some(&(_, first)) = seen.iter().find(|(other, _)| *other == profile) {
                    return Err(twice(at, &key.text, key.line, first));
                }
                seen.push((profile, key.line));
                let number = count.whole(0..=MOST_INSTANCES as u32)?;
                let location = count.location();
                instances.extend(
                    (0..number)
                        .map(|_| Instance { location: location.clone(), ..Instance::new(profile) }),
                );
                if instances.len() > MOST_INSTANCES || seen.len() > MOST_INSTANCES {
                    return Err(too_many(at));
                }
            }
        }
        Value::Null => {
            return Err(at.refuse(
                "is empty; write {} to remove every instance, or leave the key out to keep them",
            ));
        }
        _ => return Err(at.wants("a map {profile: count} or a list of instances")),
    }
    Ok(instances)
}

/// The profile of a GPU instance, or why a text is none.
fn profile(text: &str) -> Result<ProfileName, String> {
    let name: ProfileName = text.parse().map_err(|_| {
        let found = Quoted(text);
        format!("unknown profile name {found}: names look like 3g.40gb, 1g or 1g.10gb+me")
    })?;
    check::whole_profile(name)?;
    Ok(name)
}

fn instance(at: At<'_>) -> Result<Instance> {
    let location = at.location();
    let fields = at.fields(&["profile", "start", "compute", "mps", "time_sliced", "name"])?;
    let profile_at = fields.need("profile")?;
    let profile = profile(profile_at.text("a profile name such as 3g.40gb")?)
        .map_err(|why| profile_at.refuse(why))?;
    let mut instance = Instance { location, ..Instance::new(profile) };
    if let Some(start) = fields.get("start") {
        instance.start = Some(start.whole(0..=u32::from(MOST_START))? as u8);
    }
    if let Some(at) = fields.get("compute") {
        let Value::List(list) = &at.node.value else {
            return Err(at.wants("a list of compute instances such as [1c, 2c]"));
        };
        if list.len() > usize::from(profile.slices) {
            let why = format_args!("{} compute instances in {} slices", list.len(), profile.slices);
            return Err(at.refuse(why));
        }
        let slices = at.items(list).map(|item| compute(&item, profile)).collect::<Result<_>>()?;
        instance.compute = Some(slices);
    }
    if let Some(name) = fields.get("name") {
        let text = name.text("a name")?;
        name.place(check::name(text))?;
        instance.name = Some(text.to_owned());
    }
    instance.sharing = sharing(&fields)?;
    Ok(instance)
}

fn sharing(fields: &Fields<'_>) -> Result<Option<Sharing>> {
    match (fields.get("mps"), fields.get("time_sliced")) {
        (Some(_), Some(second)) => {
            Err(second.refuse("an instance is shared by mps or by time_sliced, not by both"))
        }
        (Some(block), None) => mps(block).map(Sharing::Mps).map(Some),
        (None, Some(block)) => time_slicing(block).map(Sharing::TimeSliced).map(Some),
        (None, None) => Ok(None),
    }
}

/// The slices of a compute instance: `1c`, or its full name `1c.3g.40gb`, whose GPU instance must
/// be the one it stands in.
fn compute(at: &At<'_>, profile: ProfileName) -> Result<u8> {
    let text = at.text("a compute instance such as 1c")?;
    let unknown = || {
        at.refuse(format_args!(
            "{} is no compute instance of {profile}: write 1c, 2c or 1c.{profile}",
            Quoted(text)
        ))
    };
    let name: ProfileName = match text.strip_suffix('c') {
        // The rule for numbers is the one of full names.
        Some(_) if !text.contains('.') => format!("{text}.{}g", profile.slices).parse(),
        _ => text.parse(),
    }
    .map_err(|_| unknown())?;
    let short = text.ends_with('c') && !text.contains('.');
    let agrees = name.slices == profile.slices
        && (short
            || (name.attribute == profile.attribute
                && (name.gigabytes.is_none() || name.gigabytes == profile.gigabytes)));
    if !agrees {
        return Err(at.refuse(format_args!("{} is not of the profile {profile}", Quoted(text))));
    }
    Ok(name.compute.unwrap_or(name.slices))
}
