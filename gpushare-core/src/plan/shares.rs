//! Which shares a plan leaves alone, and which it destroys or alters.

use std::num::NonZeroU32;

use crate::id::ShareId;
use crate::mode::SharingMode;
use crate::parameters::Parameters;
use crate::plan::GpuPlan;
use crate::plan::step::{MigPlace, Step};
use crate::snapshot::shares::{MPS_CLIENTS, count_of, ids};
use crate::snapshot::{GpuSnapshot, MigDevice, Record, Share, Snapshot};

/// The shares of a GPU that are no longer what they were when a plan is done: nobody may have them
/// while it is applied.
pub(crate) fn doomed(gpu: &GpuSnapshot, plan: &GpuPlan) -> Vec<ShareId> {
    if plan.steps.is_empty() {
        return Vec::new();
    }
    let stay = staying(gpu, plan);
    let all = gpu.shares.iter().map(|share| share.id.clone());
    all.filter(|share| !stay.contains(share)).collect()
}

/// Leases of shares that the devices of a GPU no longer have: whoever has one still has the device.
pub(crate) fn void_leases<'a>(
    snapshot: &'a Snapshot,
    gpu: &'a GpuSnapshot,
) -> impl Iterator<Item = &'a Share> {
    snapshot.void_leases.iter().filter(|share| {
        share.id.device() == gpu.uuid.as_str() || gpu.mig_device(&share.id).is_some()
    })
}

fn staying(gpu: &GpuSnapshot, plan: &GpuPlan) -> Vec<ShareId> {
    let whole = plan.steps.iter().any(|step| {
        matches!(
            step,
            Step::SetMigMode { .. }
                | Step::Reset { .. }
                | Step::StopMps { on: None, .. }
                | Step::StartMps { on: None, .. }
        )
    });
    if whole || gpu.mode != plan.to {
        return Vec::new();
    }
    let record = record_after(gpu, plan);
    let count = match (gpu.mode, record.map(|record| &record.parameters)) {
        (SharingMode::Mig, _) => return staying_mig_devices(gpu, plan, record),
        (SharingMode::TimeSliced, Some(Parameters::TimeSliced(slicing))) => slicing.replicas.get(),
        (SharingMode::Mps, Some(Parameters::Mps(config))) => {
            config.max_clients.map_or(MPS_CLIENTS, NonZeroU32::get)
        }
        _ => 1,
    };
    ids(gpu.uuid.as_str(), count)
}

/// What the record says when the plan is done.
fn record_after<'a>(gpu: &'a GpuSnapshot, plan: &'a GpuPlan) -> Option<&'a Record> {
    let written = plan.steps.iter().find_map(|step| match step {
        Step::WriteRecord { to, .. } => Some(to.as_deref()),
        _ => None,
    });
    written.unwrap_or(gpu.record.as_ref())
}

fn staying_mig_devices(gpu: &GpuSnapshot, plan: &GpuPlan, record: Option<&Record>) -> Vec<ShareId> {
    let devices = gpu.mig_devices.iter().filter_map(|device| {
        let place = place(gpu, device)?;
        let touched = plan.steps.iter().any(|step| match step {
            Step::DestroyGpuInstance(gi) => gi.placement == place.gpu_instance,
            Step::DestroyComputeInstance(ci) => {
                (ci.gpu_instance, ci.placement.start) == (place.gpu_instance, place.start)
            }
            Step::StopMps { on, .. } | Step::StartMps { on, .. } => *on == Some(place),
            _ => false,
        });
        let records = record.map(|record| &record.instances[..]).unwrap_or_default();
        let sharing = records
            .iter()
            .find(|record| record.placement == place.gpu_instance)
            .and_then(|record| record.sharing.as_ref());
        (!touched).then(|| ids(device.uuid.as_str(), count_of(device, sharing)))
    });
    devices.flatten().collect()
}

/// Where a MIG device stands; none where that could not be seen.
fn place(gpu: &GpuSnapshot, device: &MigDevice) -> Option<MigPlace> {
    let gis = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
    let gi = gis.into_iter().find(|gi| gi.id == device.gi)?;
    let ci = gi.compute_instances.iter().find(|ci| ci.id == device.ci)?;
    Some(MigPlace::new(gi.placement, ci.start))
}
