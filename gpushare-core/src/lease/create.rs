//! A MIG device that is made for a lease, and given back with it.

use std::ops::ControlFlow;

use crate::apply::{ApplyOptions, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::id::MigUuid;
use crate::lease::request::{LeaseRequest, Of};
use crate::mode::SharingMode;
use crate::node::Node;
use crate::plan::{self, Plan, Request, Step, previous, select};
use crate::snapshot::{GpuSnapshot, MigStatus, Snapshot};
use crate::spec::{Entry, Instance, Selector, Spec, Want};

/// How often it is tried again when others changed the GPUs meanwhile.
const MOST_TRIES: usize = 5;

/// Creates one MIG device for a request on a GPU with MIG on, beside everything that is there.
///
/// # Errors
/// INSUFFICIENT when no GPU has room, with what fits; as [`Node::apply`].
pub(super) fn create(node: &Node, request: &LeaseRequest) -> Result<MigUuid> {
    let Of::Mig(profile) = request.of else {
        return Err(Error::new(ErrorCode::InvalidArgument, "a profile must be named"));
    };
    for _ in 0..MOST_TRIES {
        let snapshot = node.snapshot()?;
        let with_mig = |gpu: &&GpuSnapshot| gpu.mode == SharingMode::Mig && gpu.cordoned.is_none();
        let mut best: Option<(usize, Plan)> = None;
        let mut refused = None;
        for gpu in snapshot.gpus.iter().filter(with_mig) {
            let Some(mig) = &gpu.mig else { continue };
            let spec = beside(&snapshot, gpu, mig, profile);
            match plan::plan_request(&snapshot, &Request::Apply(spec)) {
                Ok(plan) if !destroys(&plan) && plan.needs.is_empty() => {
                    // Where the least stays free: large profiles fit elsewhere.
                    let left: usize = plan.gpus.iter().map(|gpu| gpu.fits_after.len()).sum();
                    if best.as_ref().is_none_or(|(least, _)| left < *least) {
                        best = Some((left, plan));
                    }
                }
                Ok(_) => {}
                Err(error) => refused = Some(error),
            }
        }
        let Some((_, plan)) = best else {
            return Err(refused.unwrap_or_else(|| {
                Error::new(
                    ErrorCode::Insufficient,
                    format!(
                        "{}: no GPU with MIG on has room for it beside what is there",
                        request.what()
                    ),
                )
            }));
        };
        match node
            .apply_with(Source::Plan(&plan), &ApplyOptions::new(), |_| ControlFlow::Continue(()))
        {
            Ok(_) => {
                let after = node.snapshot()?;
                let known: Vec<&MigUuid> = devices(&snapshot).collect();
                if let Some(new) = devices(&after).find(|uuid| !known.contains(uuid)) {
                    return Ok(new.clone());
                }
            }
            Err(error) if error.code() == ErrorCode::Stale => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        ErrorCode::Stale,
        "others changed the GPUs again and again while a MIG device was made",
    ))
}

fn devices(snapshot: &Snapshot) -> impl Iterator<Item = &MigUuid> {
    snapshot.gpus.iter().flat_map(|gpu| &gpu.mig_devices).map(|device| &device.uuid)
}

/// The instances that are there, and one more.
fn beside(
    snapshot: &Snapshot,
    gpu: &GpuSnapshot,
    mig: &MigStatus,
    profile: crate::mig::ProfileName,
) -> Spec {
    let mut layout: Vec<_> =
        mig.gpu_instances.iter().map(|gi| previous::instance(snapshot, gpu, gi)).collect();
    layout.push(Instance::new(profile));
    of(gpu, layout)
}

fn of(gpu: &GpuSnapshot, layout: Vec<Instance>) -> Spec {
    let select = vec![Selector::Uuid(gpu.uuid.to_string())];
    Spec { gpus: vec![Entry::new(select, Want::Mig(Some(layout)))] }
}

fn destroys(plan: &Plan) -> bool {
    let gone =
        |step: &Step| matches!(step, Step::DestroyGpuInstance(_) | Step::DestroyComputeInstance(_));
    plan.changed().any(|gpu| gpu.steps.iter().any(gone))
}

/// Destroys what was created for a lease that has just been given back. Somebody who was quicker to
/// lease it keeps it.
///
/// # Errors
/// As [`Node::apply`], but for BUSY.
pub(super) fn give_back(node: &Node, created: &[MigUuid]) -> Result<()> {
    for uuid in created {
        for tried in 0..MOST_TRIES {
            match destroy(node, uuid) {
                Err(error) if error.code() == ErrorCode::Busy => break,
                Err(error) if error.code() == ErrorCode::Stale && tried + 1 < MOST_TRIES => {}
                Err(error) => {
                    return Err(error.context(format!("the lease is given back, and {uuid} stays")));
                }
                Ok(()) => break,
            }
        }
    }
    Ok(())
}

fn destroy(node: &Node, uuid: &MigUuid) -> Result<()> {
    let snapshot = node.snapshot()?;
    let owner = snapshot.gpus.iter().find_map(|gpu| {
        let device = gpu.mig_devices.iter().find(|device| device.uuid == *uuid)?;
        Some((gpu, gpu.mig.as_ref()?, device))
    });
    // It is gone already.
    let Some((gpu, mig, device)) = owner else { return Ok(()) };
    let stays = mig.gpu_instances.iter().filter(|gi| gi.id != device.gi);
    let layout = stays.map(|gi| previous::instance(&snapshot, gpu, gi)).collect();
    let plan = plan::plan_request(&snapshot, &Request::Apply(of(gpu, layout)))?;
    let one = plan.changed().flat_map(|gpu| &gpu.steps);
    let count = one.filter(|step| matches!(step, Step::DestroyGpuInstance(_))).count();
    if count > 1 {
        return Err(Error::new(
            ErrorCode::InvalidState,
            format!("{uuid} cannot be destroyed alone on GPU {}", select::name(gpu)),
        ));
    }
    let options = ApplyOptions::new();
    node.apply_with(Source::Plan(&plan), &options, |_| ControlFlow::Continue(())).map(drop)
}
