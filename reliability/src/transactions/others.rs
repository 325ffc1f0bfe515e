//! Who comes in between, before anybody recovers.

use gpushare_core::Snapshot;
use gpushare_core::backend::sim::ProcessSpec;
use gpushare_core::id::Pid;
use gpushare_core::port::Nvml;

use super::script::After;
use super::verdict::{Violation, said};
use super::world::{Device, Tenant, World, ids, tenant};

/// What somebody else did.
pub(super) struct Other {
    /// Who works now on what they made.
    pub(super) tenant: Option<Tenant>,
}

/// Does what others do; none where they find nothing to do it with.
pub(super) fn come(after: After, world: &World) -> Result<Option<Other>, Violation> {
    match after {
        After::OthersCreate => create(world),
        After::OthersDestroy => destroy(world),
        After::OthersUse => work(world),
        After::Nothing | After::Reboot | After::Reload => Ok(None),
    }
}

/// Somebody creates an instance where there is room, and works on it.
fn create(world: &World) -> Result<Option<Other>, Violation> {
    let (snapshot, mut nvml) = look(world)?;
    let Some((gpu, mig)) = snapshot.gpus.iter().find_map(|gpu| Some((gpu, gpu.mig.as_ref()?)))
    else {
        return Ok(None);
    };
    let places = mig.geometry.profiles().iter().flat_map(|profile| {
        profile.placements.iter().map(move |placement| (profile.id, *placement))
    });
    for (profile, placement) in places {
        let Ok(gi) = nvml.create_gpu_instance(&gpu.uuid, profile, placement) else { continue };
        let profiles = nvml.compute_profiles(&gpu.uuid, gi.id).unwrap_or_default();
        let whole = profiles.iter().max_by_key(|profile| profile.slices);
        let made =
            whole.map(|whole| nvml.create_compute_instance(&gpu.uuid, gi.id, whole.id, None));
        drop(nvml);
        let Some(Ok(ci)) = made else { return Ok(Some(Other { tenant: None })) };
        let spec = ProcessSpec::new("another agent's");
        let pid = world.simulator.busy((&gpu.uuid, gi.id, ci.id), spec).map_err(said("to work"))?;
        return works(world, pid, None);
    }
    Ok(None)
}

/// Somebody begins to work on what there is.
fn work(world: &World) -> Result<Option<Other>, Violation> {
    let snapshot = world.node.snapshot().map_err(said("to look"))?;
    let Some(gpu) = snapshot.gpus.first() else { return Ok(None) };
    let device = gpu.mig_devices.last();
    let spec = ProcessSpec::new("another tenant's");
    let busy = match device {
        Some(device) => world.simulator.busy(&device.uuid, spec),
        None => world.simulator.busy(&gpu.uuid, spec),
    };
    // The GPU may be closed to them.
    let Ok(pid) = busy else { return Ok(None) };
    works(world, pid, device.map(ids))
}

/// That one works there now.
fn works(world: &World, pid: Pid, device: Option<Device>) -> Result<Option<Other>, Violation> {
    let tenant = tenant(&world.simulator, pid, device).map_err(said("to look"))?;
    Ok(Some(Other { tenant: Some(tenant) }))
}

/// Somebody destroys a compute instance that nobody uses.
fn destroy(world: &World) -> Result<Option<Other>, Violation> {
    let (snapshot, mut nvml) = look(world)?;
    for gpu in &snapshot.gpus {
        let instances = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
        for gi in instances {
            for ci in &gi.compute_instances {
                if nvml.destroy_compute_instance(&gpu.uuid, gi.id, ci.id).is_ok() {
                    return Ok(Some(Other { tenant: None }));
                }
            }
        }
    }
    Ok(None)
}

fn look(world: &World) -> Result<(Snapshot, Box<dyn Nvml>), Violation> {
    let snapshot = world.node.snapshot().map_err(said("to look"))?;
    let nvml = world.node.ports().nvml.open().map_err(|failure| format!("{failure:?}"))?;
    Ok((snapshot, nvml))
}
