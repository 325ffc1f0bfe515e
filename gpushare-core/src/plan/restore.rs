//! What a stored spec means after a boot: GPU by GPU, so that one that is not as it was keeps no other back.

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::mode::SharingMode;
use crate::parameters::{Access, MpsConfig};
use crate::plan::{self, Plan, Request, select};
use crate::snapshot::{Epoch, Snapshot};
use crate::spec::{Entry, Selector, Sharing, Spec, Want};

/// What a stored spec means on a node.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The GPUs that are there, each with the spec of it alone, by position in the snapshot.
    pub(crate) gpus: Vec<(GpuUuid, Spec)>,
    /// GPUs that it names and that are not there, or do not answer: why.
    pub(crate) missing: Vec<Error>,
}

/// Takes a stored spec apart.
///
/// # Errors
/// INVALID_ARGUMENT for a spec that selects a GPU twice, or by a uuid that several have.
pub(crate) fn apart(snapshot: &Snapshot, spec: &Spec) -> Result<Stored> {
    let mut stored = Stored::default();
    let mut there = spec.clone();
    for entry in &mut there.gpus {
        entry.select.retain(|selector| match select::one(snapshot, selector) {
            Err(error) if error.code() == ErrorCode::NotFound => {
                stored.missing.push(error);
                false
            }
            // What else is wrong with it is told below, with its place.
            _ => true,
        });
    }
    for (entry, positions) in there.gpus.iter().zip(select::entries(snapshot, &there)?) {
        for gpu in positions.into_iter().filter_map(|position| snapshot.gpus.get(position)) {
            if gpu.mode == SharingMode::Lost {
                let why = format!("GPU {} is lost: {}", select::name(gpu), gpu.reason);
                stored.missing.push(Error::new(ErrorCode::NotFound, why).of_gpu(&gpu.uuid));
                continue;
            }
            let select = vec![Selector::Uuid(gpu.uuid.to_string())];
            let spec = Spec { gpus: vec![Entry::new(select, entry.want.clone())] };
            stored.gpus.push((gpu.uuid.clone(), spec));
        }
    }
    let position = |uuid: &GpuUuid| snapshot.gpus.iter().position(|gpu| gpu.uuid == *uuid);
    stored.gpus.sort_by_key(|(uuid, _)| position(uuid));
    Ok(stored)
}

/// A spec in force as it must be stored to mean the same at boot, when root asks and no layout is there.
///
/// # Errors
/// INVALID_ARGUMENT for `mode: mig` without instances: it keeps a layout that is gone then.
pub(crate) fn for_boot(mut spec: Spec, caller: Option<u32>) -> Result<Spec> {
    let named = |config: &mut MpsConfig| {
        if let (Access::Caller, Some(uid)) = (&config.access, caller) {
            config.access = Access::User(uid.to_string());
        }
    };
    for entry in &mut spec.gpus {
        match &mut entry.want {
            Want::Mig(None) => {
                let why = "it keeps the layout that is there, and a reboot takes that away: list the \
                    instances, or run `gpushare persist` without a file";
                let error = Error::new(ErrorCode::InvalidArgument, why);
                return Err(error.context(format!("{}.mig", entry.location)));
            }
            Want::Mig(Some(instances)) => {
                for instance in instances {
                    if let Some(Sharing::Mps(config)) = &mut instance.sharing {
                        named(config);
                    }
                }
            }
            Want::Mps(config) => named(config),
            Want::Exclusive | Want::TimeSliced(_) => {}
        }
    }
    Ok(spec)
}

/// What is to be done about one GPU.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is as stored.
    AsStored,
    /// It is to be brought there.
    Restore(Box<Plan>),
    /// Somebody decided otherwise in this life of machine and driver: that counts.
    Left(&'static str),
}

/// Judges one GPU. `restored` is the life of machine and driver in which it was restored last.
///
/// # Errors
/// As [`plan::plan`].
pub(crate) fn judge(
    snapshot: &Snapshot,
    gpu: &GpuUuid,
    spec: &Spec,
    restored: Option<&Epoch>,
    force: bool,
) -> Result<Verdict> {
    let plan = plan::plan_request(snapshot, &Request::Apply(spec.clone()))?;
    if plan.noop {
        return Ok(Verdict::AsStored);
    }
    let record = snapshot.gpu(gpu).and_then(|gpu| gpu.current_record(&snapshot.epoch));
    let again = restored.is_some_and(|epoch| !epoch.differs(&snapshot.epoch));
    Ok(match (force, record.is_some(), again) {
        (false, true, _) => Verdict::Left("gpushare changed it since the driver was loaded"),
        (false, false, true) => Verdict::Left("it was restored before, and changed since"),
        _ => Verdict::Restore(Box::new(plan)),
    })
}
