//! The state of each GPU: lost, pending, closed, left behind, not as it was set.

use super::{Found, Looked, Part, Seen, selector};
use crate::hazard;
use crate::mode::{ComputeMode, SharingMode};
use crate::parameters::Parameters;
use crate::snapshot::{GpuSnapshot, Snapshot, Visibility};

const LIFETIMES: &str = "nvml.h and NVIDIA's MIG guide: what lives as long as the driver is loaded";
const COMPUTE_MODE: &str = "nvml.h: compute modes";
const LOST: &str = "nvml.h: GPU_IS_LOST; gpushare's records";
const OWN: &str = "gpushare's records and journals";

pub(super) fn lost(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    const DMESG: &str = "`dmesg | grep -i xid` has why it was lost";
    let lost = seen.gpus(snapshot).filter(|gpu| gpu.mode == SharingMode::Lost);
    let mut found: Vec<_> = lost
        .map(|gpu| {
            let reset = gpu.index.map_or_else(String::new, |index| {
                format!("nvidia-smi -r -i {index} once nobody uses it; where that fails, ")
            });
            Found::error("the GPU does not answer", LOST)
                .of(gpu)
                .seen(gpu.reason.as_str())
                .mend(format!("{reset}reboot; {DMESG}"))
        })
        .collect();
    // One that is lost does not even say who it is.
    let named = snapshot.gpus.iter().filter(|gpu| gpu.index.is_some()).count();
    let listed = seen.machine.listed.and_then(|listed| usize::try_from(listed).ok());
    if let Some(listed) = listed.filter(|&listed| listed > named) {
        found.push(
            Found::error("the driver lists a GPU that does not even say who it is", LOST)
                .seen(format!("the driver lists {listed} GPUs, and {named} have a uuid"))
                .mend(format!("reboot; {DMESG}")),
        );
    }
    found.into_iter().collect()
}

pub(super) fn unfinished(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let found = gpu.unsettled.as_ref().map(|journal| {
        Found::error("a change of this GPU was not finished", OWN)
            .of(gpu)
            .seen(format!("the journal {journal} is there"))
            .mend("gpushare recover")
    });
    found.into()
}

pub(super) fn pending(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let Some(mig) = gpu.mig.as_ref().filter(|mig| mig.enabled != mig.pending) else {
        return Looked::default();
    };
    let (word, other) = if mig.pending { ("enable", "disable") } else { ("disable", "enable") };
    let gpu_name = selector(gpu);
    Found::warning("a change of MIG mode waits for a reset of the GPU", "nvml.h: nvmlDeviceSetMigMode")
        .of(gpu)
        .seen(gpu.reason.as_str())
        .mend(format!(
            "gpushare mig {word} -i {gpu_name} --allow-reset, or to call it off: gpushare mig {other} -i {gpu_name}"
        ))
        .into()
}

pub(super) fn closed(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    if gpu.compute_mode != Some(ComputeMode::Prohibited) {
        return Looked::default();
    }
    Found::warning("nobody can use the GPU: its compute mode is PROHIBITED", COMPUTE_MODE)
        .of(gpu)
        .seen("NVML says compute mode prohibited")
        .mend(format!("gpushare time-slice -i {}", selector(gpu)))
        .into()
}

fn exclusive(gpu: &GpuSnapshot) -> bool {
    matches!(gpu.compute_mode, Some(ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread))
}

pub(super) fn exclusive_left(snapshot: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let managed = gpu.current_record(&snapshot.epoch).is_some();
    if gpu.mode != SharingMode::Exclusive || !exclusive(gpu) || managed {
        return Looked::default();
    }
    let name = selector(gpu);
    let mode = gpu.compute_mode.map(ComputeMode::as_str).unwrap_or_default();
    Found::warning(
        "the GPU is left in an exclusive compute mode: a second process gets no context, and no MPS daemon of gpushare's is behind it",
        "users' reports: sharing by MPS ended and EXCLUSIVE_PROCESS stayed",
    )
    .of(gpu)
    .seen(format!("NVML says compute mode {mode}; gpushare has no record of having set it"))
    .mend(format!("gpushare time-slice -i {name}, or to have it so: gpushare exclusive -i {name}"))
    .into()
}

pub(super) fn drift(snapshot: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let Some(record) = gpu.current_record(&snapshot.epoch) else { return Looked::default() };
    let recorded = record.parameters.mode();
    let as_set = match gpu.mode {
        // These have findings of their own.
        SharingMode::Lost | SharingMode::Pending | SharingMode::Closed | SharingMode::Foreign => {
            true
        }
        SharingMode::Degraded => recorded == crate::mode::Mode::Mps,
        mode => mode == recorded.into(),
    };
    let interval = match (&record.parameters, gpu.interval) {
        (Parameters::TimeSliced(slicing), Some(found)) if found != slicing.interval => Some(
            format!("its time-slice interval is {found}, and gpushare set {}", slicing.interval),
        ),
        _ => None,
    };
    if as_set && interval.is_none() {
        return Looked::default();
    }
    let name = selector(gpu);
    let mut found = Found::warning("the GPU is no longer as gpushare set it", OWN).of(gpu);
    if !as_set {
        found = found
            .seen(format!("gpushare set mode {recorded}, and it is {}: {}", gpu.mode, gpu.reason));
    }
    if let Some(interval) = interval {
        found = found.seen(interval);
    }
    found.mend(again(gpu, &record.parameters, &name)).into()
}

pub(super) fn record_stale(snapshot: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let Some(record) = &gpu.record else { return Looked::default() };
    if gpu.mode == SharingMode::Lost || !record.epoch.differs(&snapshot.epoch) {
        return Looked::default();
    }
    let recorded = record.parameters.mode();
    let name = selector(gpu);
    let kept = gpu.mode == recorded.into();
    let found = if kept {
        Found::notice(
            "gpushare's record of the GPU is of an earlier boot or load of the driver",
            LIFETIMES,
        )
    } else {
        Found::warning(
            "what gpushare had set is lost: the machine was rebooted, or the driver loaded anew",
            LIFETIMES,
        )
    };
    found
        .of(gpu)
        .seen(format!("gpushare had set mode {recorded}; it is {} now", gpu.mode))
        .mend(format!(
            "gpushare restore where it was stored for the next boot, else {}",
            again(gpu, &record.parameters, &name)
        ))
        .into()
}

/// Nothing brings back at the next boot what gpushare set.
pub(super) fn not_stored(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    // A spec has no word for the others, and they have findings of their own.
    let sayable = |gpu: &&GpuSnapshot| {
        !matches!(
            gpu.mode,
            SharingMode::Lost | SharingMode::Pending | SharingMode::Closed | SharingMode::Foreign
        )
    };
    let managed = seen.gpus(snapshot).filter(|gpu| gpu.current_record(&snapshot.epoch).is_some());
    let mut managed = managed.filter(sayable).peekable();
    if managed.peek().is_none() {
        return Looked::default();
    }
    if let Some(why) = seen.machine.hidden(&Part::StoredSpec) {
        return Looked::default().unseen("the spec that is stored for the next boot", why);
    }
    let Some(file) = seen.machine.stored_spec.as_ref().filter(|file| !file.there) else {
        return Looked::default();
    };
    let found = Found::notice(
        "how the GPUs are shared is lost at the next reboot: no spec is stored that would bring it back",
        LIFETIMES,
    )
    .seen(format!("{} is not there", file.path.display()));
    let found = managed.fold(found, |found, gpu| {
        found.seen(format!("GPU {} ({}) is {}, by gpushare", selector(gpu), gpu.uuid, gpu.mode))
    });
    found.mend("gpushare persist && systemctl enable gpushare-restore.service").into()
}

/// The command that leads to what is on record.
fn again(gpu: &GpuSnapshot, parameters: &Parameters, name: &str) -> String {
    match parameters {
        Parameters::Exclusive => format!("gpushare exclusive -i {name}"),
        Parameters::TimeSliced(slicing) => format!(
            "gpushare time-slice --replicas {} --interval {} -i {name}",
            slicing.replicas, slicing.interval
        ),
        Parameters::Mps(config) => {
            // They were allowed by name when it was set.
            let hazards: Vec<_> =
                hazard::of_mps(gpu, config).into_iter().map(|hazard| hazard.name).collect();
            super::mps::enable(config, name, &hazards)
        }
        Parameters::Mig => "gpushare apply SPEC, with the spec that it had".to_owned(),
    }
}

pub(super) fn without_compute(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let enabled = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
    if let (Visibility::Partial { missing }, true) = (&gpu.visibility, enabled) {
        return Looked::default()
            .unseen(format!("the instances of GPU {}", selector(gpu)), missing.join(", "));
    }
    let gis = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
    let name = selector(gpu);
    let found = gis.filter(|gi| gi.compute_instances.is_empty()).map(|gi| {
        Found::notice(
            "a GPU instance has no compute instance: no program can use it",
            "NVIDIA's MIG guide",
        )
        .of(gpu)
        .seen(format!("GPU instance {} ({} at {})", gi.id, gi.name, gi.placement))
        .mend(format!("gpushare mig destroy {} -i {name}", gi.id))
    });
    found.collect()
}
