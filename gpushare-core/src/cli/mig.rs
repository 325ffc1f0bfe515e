//! `mig`: what follows from the instances that are there.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::mig::{Geometry, Placement};
use crate::plan::{Plan, Request, Step, expect_visible, previous, select};
use crate::snapshot::draw::mps::below;
use crate::snapshot::draw::page::{Page, Role, Table, gibibytes, memory};
use crate::snapshot::{GpuInstance, GpuSnapshot, MigStatus, Snapshot};
use crate::spec::{Entry, Instance, Selector, Spec, Want};

use super::arguments::{Doomed, Select};
use super::change::Derived;
use super::new_instance::NewInstance;

/// The instances that are there stay, and these come.
pub(super) fn create<'a>(
    snapshot: &Snapshot,
    select: &Select,
    instances: &[NewInstance],
    count: u8,
) -> Result<Derived<'a>> {
    if let Some(pinned) = instances.iter().find(|new| new.start.is_some() && count > 1) {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{count} instances of {} cannot all start at one slot", pinned.profile),
        ));
    }
    let mut spec = Spec::default();
    for uuid in select.to_change(snapshot)? {
        let (gpu, mig) = with_mig(snapshot, &uuid)?;
        let mut layout: Vec<_> =
            mig.gpu_instances.iter().map(|gi| previous::instance(snapshot, gpu, gi)).collect();
        for new in instances {
            let name = new.profile.on(&mig.geometry).map_err(|error| {
                error.of_gpu(&uuid).context(format!("GPU {}", select::name(gpu)))
            })?;
            let instance = Instance { start: new.start, ..Instance::new(name) };
            layout.extend(std::iter::repeat_n(instance, count.into()));
        }
        spec.gpus.push(entry(&uuid, layout));
    }
    spec.check()?;
    let guard = |plan: &Plan| {
        let destroys = |step: &Step| {
            matches!(step, Step::DestroyGpuInstance(_) | Step::DestroyComputeInstance(_))
        };
        match plan.changed().find(|gpu| gpu.steps.iter().any(destroys)) {
            None => Ok(()),
            Some(gpu) => Err(Error::new(
                ErrorCode::InvalidState,
                "the instances that are there cannot all be kept; apply a spec with the whole layout",
            )
            .of_gpu(&gpu.uuid)),
        }
    };
    Ok(Derived { request: Request::Apply(spec), guard: Box::new(guard), lasting: true })
}

/// What goes from one GPU.
#[derive(Debug, Default, PartialEq, Eq)]
struct Going {
    gpu_instances: BTreeSet<Placement>,
    compute_instances: BTreeSet<(Placement, u8)>,
}

/// The GPUs on which instances to destroy stand.
pub(super) fn gpus_of(
    snapshot: &Snapshot,
    select: &Select,
    instances: &[Doomed],
) -> Result<Vec<GpuUuid>> {
    let by_id = instances.iter().any(|one| matches!(one, Doomed::GpuInstance(_)));
    let gpus = searched(snapshot, select, by_id)?;
    if by_id || select.is_given() {
        return Ok(gpus);
    }
    let prefixes = instances.iter().filter_map(|one| match one {
        Doomed::Device(prefix) => Some(prefix),
        Doomed::GpuInstance(_) => None,
    });
    prefixes.map(|prefix| device(snapshot, &gpus, prefix).map(|(gpu, ..)| gpu)).collect()
}

/// The GPUs among which instances are looked for. A uuid says which one it is on.
fn searched(snapshot: &Snapshot, select: &Select, by_id: bool) -> Result<Vec<GpuUuid>> {
    if by_id || select.is_given() {
        select.to_change(snapshot)
    } else {
        Ok(snapshot.gpus.iter().map(|gpu| gpu.uuid.clone()).collect())
    }
}

/// These instances go, and no others.
pub(super) fn destroy<'a>(
    snapshot: &Snapshot,
    select: &Select,
    instances: &[Doomed],
) -> Result<Derived<'a>> {
    let by_id = instances.iter().any(|one| matches!(one, Doomed::GpuInstance(_)));
    let gpus = searched(snapshot, select, by_id)?;
    let mut named: Vec<(GpuUuid, Placement, u8)> = Vec::new();
    let mut going: Vec<(GpuUuid, Going)> = Vec::new();
    for one in instances {
        match one {
            Doomed::Device(prefix) => named.push(device(snapshot, &gpus, prefix)?),
            Doomed::GpuInstance(id) => {
                for uuid in &gpus {
                    let (gpu, mig) = with_mig(snapshot, uuid)?;
                    let found = mig.gpu_instances.iter().find(|gi| gi.id.get() == *id);
                    let gi = found.ok_or_else(|| {
                        let there: Vec<_> =
                            mig.gpu_instances.iter().map(|gi| gi.id.to_string()).collect();
                        Error::new(
                            ErrorCode::NotFound,
                            format!(
                                "GPU {} has no GPU instance {id}; it has {}",
                                select::name(gpu),
                                or_none(&there)
                            ),
                        )
                        .of_gpu(uuid)
                    })?;
                    going_of(&mut going, uuid).gpu_instances.insert(gi.placement);
                }
            }
        }
    }
    for (uuid, placement, start) in named {
        going_of(&mut going, &uuid).compute_instances.insert((placement, start));
    }
    let mut spec = Spec::default();
    for (uuid, going) in &mut going {
        let (gpu, mig) = with_mig(snapshot, uuid)?;
        let mut layout = Vec::new();
        for gi in &mig.gpu_instances {
            if let Some(left) = going.leave(gi) {
                let instance = previous::instance(snapshot, gpu, gi);
                layout.push(if left.len() == gi.compute_instances.len() {
                    instance
                } else {
                    instance.with_compute(left)
                });
            }
        }
        spec.gpus.push(entry(uuid, layout));
    }
    spec.check()?;
    let guard = move |plan: &Plan| {
        going.iter().try_for_each(|(uuid, going)| {
            if plan.gpu(uuid).is_some_and(|gpu| Going::of(&gpu.steps).as_ref() == Some(going)) {
                return Ok(());
            }
            Err(Error::new(
                ErrorCode::Unsupported,
                "a layout counts the compute instances of a GPU instance by size and does not name them: another of the same size would go; destroy the GPU instance, or that other one",
            )
            .of_gpu(uuid))
        })
    };
    // Ids of GPU instances are given again to others.
    Ok(Derived { request: Request::Apply(spec), guard: Box::new(guard), lasting: !by_id })
}

impl Going {
    /// The sizes of the compute instances that stay; none when the GPU instance goes, which then
    /// counts with all that it has.
    fn leave(&mut self, gi: &GpuInstance) -> Option<Vec<u8>> {
        let stays = |start: u8| !self.compute_instances.contains(&(gi.placement, start));
        let left: Vec<u8> =
            gi.compute_instances.iter().filter(|ci| stays(ci.start)).map(|ci| ci.slices).collect();
        let emptied = left.is_empty() && !gi.compute_instances.is_empty();
        if !emptied && !self.gpu_instances.contains(&gi.placement) {
            return Some(left);
        }
        self.gpu_instances.insert(gi.placement);
        let all = gi.compute_instances.iter().map(|ci| (gi.placement, ci.start));
        self.compute_instances.extend(all);
        None
    }

    /// What steps destroy; none when they create something too.
    fn of(steps: &[Step]) -> Option<Self> {
        let mut going = Self::default();
        for step in steps {
            match step {
                Step::DestroyGpuInstance(gi) => {
                    going.gpu_instances.insert(gi.placement);
                }
                Step::DestroyComputeInstance(ci) => {
                    going.compute_instances.insert((ci.gpu_instance, ci.placement.start));
                }
                Step::WriteRecord { .. } => {}
                _ => return None,
            }
        }
        Some(going)
    }
}

fn going_of<'g>(going: &'g mut Vec<(GpuUuid, Going)>, uuid: &GpuUuid) -> &'g mut Going {
    let position = going.iter().position(|(of, _)| of == uuid).unwrap_or_else(|| {
        going.push((uuid.clone(), Going::default()));
        going.len() - 1
    });
    &mut going[position].1
}

/// The compute instance that a MIG device is.
fn device(snapshot: &Snapshot, gpus: &[GpuUuid], prefix: &str) -> Result<(GpuUuid, Placement, u8)> {
    let mut found = Vec::new();
    for gpu in gpus.iter().filter_map(|uuid| snapshot.gpu(uuid)) {
        for gi in gpu.mig.iter().flat_map(|mig| &mig.gpu_instances) {
            for ci in &gi.compute_instances {
                let Some(uuid) = ci.uuid.as_ref().map(|uuid| uuid.as_str()) else { continue };
                if uuid.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix)) {
                    found.push((
                        uuid.len() == prefix.len(),
                        (gpu.uuid.clone(), gi.placement, ci.start),
                    ));
                }
            }
        }
    }
    if let Some(exact) = found.iter().position(|(exact, _)| *exact) {
        return Ok(found.swap_remove(exact).1);
    }
    match (found.pop(), found.len()) {
        (Some((_, only)), 0) => Ok(only),
        (Some(_), others) => Err(Error::new(
            ErrorCode::InvalidArgument,
            format!(
                "{} MIG devices have a uuid that begins with {prefix}; write more of it",
                others + 1
            ),
        )),
        (None, _) => {
            // Where nothing could be seen, that is the reason.
            gpus.iter().filter_map(|uuid| snapshot.gpu(uuid)).try_for_each(visible)?;
            Err(Error::new(
                ErrorCode::NotFound,
                format!(
                    "there is no MIG device {prefix} on the GPUs that were looked at; `gpushare mig list` shows them"
                ),
            ))
        }
    }
}

fn visible(gpu: &GpuSnapshot) -> Result<()> {
    expect_visible(gpu)
        .map_err(|error| error.of_gpu(&gpu.uuid).context(format!("GPU {}", select::name(gpu))))
}

/// A GPU with MIG on of which all can be seen.
fn with_mig<'s>(
    snapshot: &'s Snapshot,
    uuid: &GpuUuid,
) -> Result<(&'s GpuSnapshot, &'s MigStatus)> {
    let gpu = snapshot
        .gpu(uuid)
        .ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no GPU {uuid}")))?;
    visible(gpu)?;
    let name = select::name(gpu);
    let (code, why) = match &gpu.mig {
        Some(mig) if mig.enabled && mig.pending => return Ok((gpu, mig)),
        Some(mig) if mig.enabled => (
            ErrorCode::InvalidState,
            format!("MIG of GPU {name} goes off with the next reset: `gpushare mig enable` first"),
        ),
        Some(_) => (
            ErrorCode::InvalidState,
            format!("MIG of GPU {name} is off: `gpushare mig enable` first"),
        ),
        None => (ErrorCode::Unsupported, format!("GPU {name} ({}) has no MIG", gpu.model)),
    };
    Err(Error::new(code, why).of_gpu(uuid))
}

fn entry(uuid: &GpuUuid, layout: Vec<Instance>) -> Entry {
    Entry::new(vec![Selector::Uuid(uuid.to_string())], Want::Mig(Some(layout)))
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// `mig list`.
pub(super) fn list(page: &mut Page, snapshot: &Snapshot) {
    simulated(page, snapshot);
    let mut table =
        Table::new(&[">GPU", "MIG device", "profile", "GI/CI", ">at", ">GiB", ">SMs", "name"]);
    let dash = || "-".to_owned();
    for gpu in &snapshot.gpus {
        for device in &gpu.mig_devices {
            let role = if device.usage.is_busy() { Role::Busy } else { Role::Plain };
            table.row(
                role,
                vec![
                    gpu.index.map_or_else(dash, |index| index.to_string()),
                    device.uuid.to_string(),
                    device.profile.to_string(),
                    format!("{}/{}", device.gi, device.ci),
                    device.start.map_or_else(dash, |start| start.to_string()),
                    device.memory.map_or_else(dash, gibibytes),
                    device.sm_count.map_or_else(dash, |count| count.to_string()),
                    device.name.clone().unwrap_or_default(),
                ],
            );
            below(&mut table, device);
        }
    }
    if table.is_empty() {
        page.line(Role::Plain, "No MIG devices.");
    } else {
        table.print(page, 0);
    }
}

/// `mig profiles`: a table for the GPUs that have the same.
pub(super) fn profiles(page: &mut Page, snapshot: &Snapshot) {
    simulated(page, snapshot);
    let mut groups: Vec<(&GpuSnapshot, &Geometry, Vec<String>)> = Vec::new();
    let mut without = Vec::new();
    for gpu in &snapshot.gpus {
        let name = gpu.index.map_or_else(|| gpu.uuid.to_string(), |index| index.to_string());
        let Some(mig) = &gpu.mig else {
            without.push(format!("{name} ({})", gpu.model));
            continue;
        };
        let same = |(other, geometry, _): &&mut (&GpuSnapshot, &Geometry, Vec<String>)| {
            other.model == gpu.model && **geometry == mig.geometry
        };
        match groups.iter_mut().find(same) {
            Some((_, _, names)) => names.push(name),
            None => groups.push((gpu, &mig.geometry, vec![name])),
        }
    }
    for (number, (gpu, geometry, names)) in groups.iter().enumerate() {
        if number > 0 {
            page.end();
        }
        page.put(Role::Heading, &gpu.model);
        page.line(Role::Faint, &format!("  GPU {}", names.join(", ")));
        let mut table = Table::new(&[
            "profile",
            ">id",
            ">compute",
            ">SMs",
            ">memory",
            ">at most",
            "starts, size",
        ]);
        for profile in geometry.profiles() {
            let starts: Vec<_> =
                profile.placements.iter().map(|placement| placement.start.to_string()).collect();
            let size = profile.placements.first().map_or(0, |placement| placement.size);
            table.row(
                Role::Plain,
                vec![
                    profile.name.to_string(),
                    profile.id.to_string(),
                    profile.slices.to_string(),
                    profile.sm_count.to_string(),
                    memory(profile.memory),
                    profile.max_instances.to_string(),
                    format!("{} :{size}", starts.join("/")),
                ],
            );
        }
        table.print(page, 2);
    }
    if !without.is_empty() {
        page.list("Without MIG: GPU ", &without);
    }
}

fn simulated(page: &mut Page, snapshot: &Snapshot) {
    if snapshot.simulated {
        page.line(Role::Alarm, "SIMULATED");
    }
}
