//! What each selected GPU is to become.

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::{self, MpsTarget};
use crate::mode::{ComputeMode, Interval, Mode, SharingMode};
use crate::mps::anyone_may_set;
use crate::parameters::{Access, MpsComputeMode, MpsConfig, Parameters};
use crate::plan::{Request, select};
use crate::snapshot::{GpuSnapshot, Prior, Snapshot};
use crate::spec::{Instance, Sharing, Want};

/// What a GPU is to become, resolved as far as the hardware's parameters go.
#[derive(Debug)]
pub(super) struct Target {
    /// The mode that it will show.
    pub(super) mode: SharingMode,
    /// Its MIG instances; none where MIG is to be off.
    pub(super) mig: Option<MigTarget>,
    /// Its compute mode; none to leave it alone.
    pub(super) compute_mode: Option<ComputeMode>,
    /// Its interval; none to leave it alone.
    pub(super) interval: Option<Interval>,
    /// Its MPS daemon.
    pub(super) mps: Option<MpsConfig>,
    /// What its record will say; none to remove it.
    pub(super) parameters: Option<Parameters>,
    /// Whether everything stays as it is, the record included.
    pub(super) unchanged: bool,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// What becomes of the layout.
#[derive(Debug)]
pub(super) enum MigTarget {
    /// It stays.
    Keep,
    /// Exactly these.
    Instances(Vec<Instance>),
    /// MIG is not even looked at.
    Untouched,
}

/// The targets, with the position of their GPU in the snapshot.
pub(super) fn targets(snapshot: &Snapshot, request: &Request) -> Result<Vec<(usize, Target)>> {
    match request {
        Request::Apply(spec) => {
            let mut targets = Vec::new();
            for (entry, positions) in spec.gpus.iter().zip(select::entries(snapshot, spec)?) {
                for position in positions {
                    let Some(gpu) = snapshot.gpus.get(position) else { continue };
                    let target = wanted(snapshot, gpu, &entry.want).map_err(|error| {
                        let error =
                            error.of_gpu(&gpu.uuid).context(format!("GPU {}", select::name(gpu)));
                        match entry.location.to_string() {
                            place if place.is_empty() => error,
                            place => error.context(place),
                        }
                    })?;
                    targets.push((position, target));
                }
            }
            Ok(targets)
        }
        Request::Leave { mode, gpus } => {
            let mut targets = Vec::new();
            for uuid in gpus {
                let position = snapshot.gpus.iter().position(|gpu| &gpu.uuid == uuid);
                let Some((position, gpu)) = position.and_then(|p| Some((p, snapshot.gpus.get(p)?)))
                else {
                    return Err(Error::new(ErrorCode::NotFound, format!("there is no GPU {uuid}"))
                        .of_gpu(uuid));
                };
                targets.push((position, left(snapshot, gpu, *mode)?));
            }
            Ok(targets)
        }
    }
}

fn wanted(snapshot: &Snapshot, gpu: &GpuSnapshot, want: &Want) -> Result<Target> {
    let record = gpu.current_record(&snapshot.epoch);
    // Whoever leaves time slicing that we set up gets the interval back that was there before.
    let managed_interval = record.and_then(|record| match &record.parameters {
        Parameters::TimeSliced(_) => Some(record.prior.interval.unwrap_or(Interval::Default)),
        _ => None,
    });
    let mut target = Target {
        mode: want.mode().into(),
        mig: None,
        compute_mode: None,
        interval: managed_interval,
        mps: None,
        parameters: None,
        unchanged: false,
        notes: Vec::new(),
    };
    match want {
        Want::Exclusive => {
            target.compute_mode = Some(ComputeMode::ExclusiveProcess);
            target.parameters = Some(Parameters::Exclusive);
        }
        Want::TimeSliced(parameters) => {
            target.compute_mode = Some(ComputeMode::Default);
            target.interval = Some(parameters.interval);
            target.parameters = Some(Parameters::TimeSliced(parameters.clone()));
            if parameters.interval != Interval::Default && !snapshot.abilities.interval {
                return Err(Error::new(
                    ErrorCode::Unsupported,
                    format!(
                        "time-slice interval {} cannot be set here: NVML has no function for it, and nvidia-smi was not found",
                        parameters.interval
                    ),
                ));
            }
            // What cannot be read could not be set back, either.
            if parameters.interval != Interval::Default && known_interval(snapshot, gpu).is_none() {
                return Err(Error::new(
                    ErrorCode::Unsupported,
                    format!(
                        "time-slice interval {} cannot be set: the present one cannot be read; {} may have none",
                        parameters.interval, gpu.model
                    ),
                ));
            }
        }
        Want::Mps(config) => {
            expect_mps(snapshot)?;
            let on = MpsTarget::of_gpu(gpu);
            hazard::expect_possible(&on, &snapshot.driver, config)?;
            target.notes.extend(hazard::notes(&on, config));
            target.compute_mode = match config.compute_mode {
                MpsComputeMode::ExclusiveProcess => Some(ComputeMode::ExclusiveProcess),
                MpsComputeMode::Unchanged => None,
            };
            let config = for_caller(snapshot, config);
            if let Some(major) = anyone_may_set(&snapshot.driver.version, &config.access) {
                target.notes.push(format!(
                    "with driver {major} whoever may use the daemon can also change its limits; `gpushare status` shows when they are not as set"
                ));
            }
            target.mps = Some(config.clone());
            target.parameters = Some(Parameters::Mps(config));
        }
        Want::Mig(instances) => {
            target.mig = Some(match instances {
                None => MigTarget::Keep,
                Some(instances) => {
                    let mut instances = instances.clone();
                    for instance in &mut instances {
                        if let Some(Sharing::Mps(config)) = &mut instance.sharing {
                            expect_mps(snapshot)?;
                            *config = for_caller(snapshot, config);
                        }
                    }
                    MigTarget::Instances(instances)
                }
            });
            target.parameters = Some(Parameters::Mig);
        }
    }
    Ok(target)
}

fn expect_mps(snapshot: &Snapshot) -> Result<()> {
    if snapshot.abilities.mps {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Unsupported,
        "MPS daemons cannot be started here: nvidia-cuda-mps-control was not found (it comes with the driver; GPUSHARE_MPS_CONTROL names another place)",
    ))
}

/// The same for whom it means: the record outlives the call, and another caller is another user.
fn for_caller(snapshot: &Snapshot, config: &MpsConfig) -> MpsConfig {
    let mut config = config.clone();
    if let (Access::Caller, Some(uid)) = (&config.access, snapshot.caller_uid) {
        config.access = Access::User(uid.to_string());
    }
    config
}

/// `mps disable` and `mig disable`: what was there before the first managed change.
fn left(snapshot: &Snapshot, gpu: &GpuSnapshot, mode: Mode) -> Result<Target> {
    let in_mode = match mode {
        Mode::Mps => gpu.mps.as_ref().is_some_and(|mps| mps.ours),
        Mode::Mig => gpu.mig.as_ref().is_some_and(|mig| mig.enabled || mig.pending),
        _ => {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{mode} is not a mode that one leaves: apply the mode that you want instead"
                ),
            ));
        }
    };
    if !in_mode {
        return Ok(Target {
            mode: gpu.mode,
            mig: None,
            compute_mode: None,
            interval: None,
            mps: None,
            parameters: None,
            unchanged: true,
            notes: vec![format!("the GPU is not in mode {mode}: nothing to leave")],
        });
    }
    let record = gpu.current_record(&snapshot.epoch);
    let mut notes = Vec::new();
    let mig = gpu.mig.as_ref().is_some_and(|mig| mig.enabled || mig.pending);
    if mode == Mode::Mps && mig {
        // Somebody turned MIG on since: that is theirs, and with it the compute mode.
        return Ok(Target {
            mode: gpu.mode,
            mig: Some(MigTarget::Untouched),
            compute_mode: None,
            interval: None,
            mps: None,
            parameters: None,
            unchanged: false,
            notes: vec!["MIG, which gpushare did not turn on, stays as it is".to_owned()],
        });
    }
    let prior = record.map_or_else(Prior::default, |record| record.prior.clone());
    if record.is_none() {
        notes.push(
            "what was there before is not on record: compute mode and interval become default"
                .to_owned(),
        );
    }
    // A record without a compute mode is of changes that left it alone: so does this one.
    let to = match record {
        Some(_) => prior.compute_mode,
        None => Some(ComputeMode::Default),
    };
    let compute_mode = to.or(gpu.compute_mode).unwrap_or(ComputeMode::Default);
    let unknown = record.is_none() && snapshot.abilities.interval && gpu.interval.is_some();
    Ok(Target {
        mode: match compute_mode {
            ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread => SharingMode::Exclusive,
            ComputeMode::Prohibited => SharingMode::Closed,
            ComputeMode::Default => SharingMode::TimeSliced,
        },
        mig: None,
        compute_mode: to,
        interval: prior.interval.or(unknown.then_some(Interval::Default)),
        mps: None,
        parameters: None,
        unchanged: false,
        notes,
    })
}

/// The interval as it is, or as we set it.
pub(super) fn known_interval(snapshot: &Snapshot, gpu: &GpuSnapshot) -> Option<Interval> {
    gpu.interval.or_else(|| match &gpu.current_record(&snapshot.epoch)?.parameters {
        Parameters::TimeSliced(parameters) => Some(parameters.interval),
        _ => None,
    })
}
