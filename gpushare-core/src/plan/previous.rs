//! Specs of what is there: the way back from a plan, and what is in force on a node.

use std::num::NonZeroU32;

use crate::error::{Error, ErrorCode};
use crate::mode::SharingMode;
use crate::parameters::{Parameters, TimeSlicing};
use crate::plan::{Plan, expect_visible, select};
use crate::snapshot::{GpuInstance, GpuSnapshot, Snapshot};
use crate::spec::{Entry, Instance, Selector, Spec, Want};

/// A spec of the GPUs that a plan changes as the snapshot shows them, and what no spec can say.
pub(crate) fn of(snapshot: &Snapshot, plan: &Plan) -> (Spec, Vec<String>) {
    let mut spec = Spec::default();
    let mut unsayable = Vec::new();
    for gpu in plan.changed().filter_map(|gpu| snapshot.gpu(&gpu.uuid)) {
        match want(snapshot, gpu) {
            Ok(want) => {
                let select = vec![Selector::Uuid(gpu.uuid.to_string())];
                spec.gpus.push(Entry::new(select, want));
            }
            Err(state) => {
                unsayable.push(format!("GPU {}: its state before was {state}", select::name(gpu)))
            }
        }
    }
    (spec, unsayable)
}

/// A spec of what a reboot would take from a node, and what no spec can say: the GPUs that gpushare
/// manages and those with MIG instances, each by its uuid. The others are nobody's to bring back.
///
/// # Errors
/// PERMISSION_DENIED where instances could not be seen; RECOVERY_REQUIRED where a change was not finished.
pub(crate) fn in_force(snapshot: &Snapshot) -> Result<(Spec, Vec<String>), Error> {
    let mut spec = Spec::default();
    let mut unsayable = Vec::new();
    for gpu in &snapshot.gpus {
        let of_it =
            |error: Error| error.of_gpu(&gpu.uuid).context(format!("GPU {}", select::name(gpu)));
        if let Some(journal) = &gpu.unsettled {
            let why = format!(
                "an unfinished change lies here (journal {journal}); `gpushare recover` settles it"
            );
            return Err(of_it(Error::new(ErrorCode::RecoveryRequired, why)));
        }
        expect_visible(gpu).map_err(of_it)?;
        let managed = gpu.current_record(&snapshot.epoch).is_some();
        let cut = gpu.mig.as_ref().is_some_and(|mig| !mig.gpu_instances.is_empty());
        if !managed && !cut {
            continue;
        }
        match want(snapshot, gpu) {
            Ok(want) => {
                let select = vec![Selector::Uuid(gpu.uuid.to_string())];
                spec.gpus.push(Entry::new(select, want));
            }
            Err(state) => unsayable.push(format!("GPU {}: it is {state}", select::name(gpu))),
        }
    }
    Ok((spec, unsayable))
}

/// What a GPU is, or the state that no spec has a word for.
fn want(snapshot: &Snapshot, gpu: &GpuSnapshot) -> Result<Want, String> {
    let record = gpu.current_record(&snapshot.epoch);
    match gpu.mode {
        SharingMode::Exclusive => Ok(Want::Exclusive),
        SharingMode::TimeSliced => {
            let mut parameters = match record.map(|record| &record.parameters) {
                Some(Parameters::TimeSliced(parameters)) => parameters.clone(),
                // Nobody said how many take turns: that is one share, and not the four of a spec that
                // does not say either.
                _ => TimeSlicing::new(NonZeroU32::MIN),
            };
            parameters.interval = gpu.interval.unwrap_or(parameters.interval);
            Ok(Want::TimeSliced(parameters))
        }
        SharingMode::Mps | SharingMode::Degraded => {
            let config = gpu.mps.as_ref().and_then(|mps| mps.config.clone());
            Ok(Want::Mps(config.unwrap_or_default()))
        }
        SharingMode::Mig => {
            let instances = gpu.mig.as_ref().map(|mig| &mig.gpu_instances[..]).unwrap_or_default();
            Ok(Want::Mig(Some(instances.iter().map(|gi| instance(snapshot, gpu, gi)).collect())))
        }
        SharingMode::Lost | SharingMode::Pending | SharingMode::Closed | SharingMode::Foreign => {
            Err(format!("{} ({})", gpu.mode, gpu.reason))
        }
    }
}

/// A GPU instance as a spec says it: where it stands, how it is cut, and what our record adds.
pub(crate) fn instance(snapshot: &Snapshot, gpu: &GpuSnapshot, gi: &GpuInstance) -> Instance {
    let mut instance = Instance::new(gi.name).at(gi.placement.start);
    let slices: Vec<u8> = gi.compute_instances.iter().map(|ci| ci.slices).collect();
    let bare = slices.is_empty();
    if slices != [gi.name.slices] {
        instance.compute = Some(slices);
    }
    // A record of an earlier boot speaks of instances that are gone.
    let records = gpu.current_record(&snapshot.epoch).map(|record| &record.instances);
    let record = records.into_iter().flatten().find(|record| record.placement == gi.placement);
    if let Some(record) = record {
        instance.name.clone_from(&record.name);
        instance.sharing = record.sharing.clone().filter(|_| !bare);
    }
    instance
}
