//! MPS: daemons of ours, and what they and their clients are told.

use super::{Found, Looked, Part, Seen, Severity, selector};
use crate::hazard::{self, Hazard, HazardName, MpsTarget};
use crate::mode::{ComputeMode, MpsHealth, Priority, SharingMode};
use crate::mps::MpsSettings;
use crate::parameters::{Access, MpsComputeMode, MpsConfig, Parameters};
use crate::process::{Holder, HolderKind};
use crate::snapshot::{GpuProcess, GpuSnapshot, MigDevice, MpsStatus, Snapshot};
use crate::spec::Sharing;
use crate::terminal::shell_word;
use crate::units::ThreadPercentage;

pub(super) const DAEMONS: &str = "gpushare's look at its daemons (drivers 470 to 580 measured)";
pub(super) const GUIDE: &str = "NVIDIA's MPS guide";
const MEASURED: &str = "measured on an H200 with driver 580.159.04 and cuBLAS of CUDA 13.0; an independent report agrees";

/// The variable by which a client asks for less.
const PERCENTAGE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

/// The daemons of ours on a GPU and on its MIG devices.
fn ours(gpu: &GpuSnapshot) -> impl Iterator<Item = (Option<&MigDevice>, &MpsStatus)> {
    let whole = gpu.mps.iter().map(|mps| (None, mps));
    let parts =
        gpu.mig_devices.iter().filter_map(|device| Some((Some(device), device.mps.as_ref()?)));
    whole.chain(parts).filter(|(_, mps)| mps.ours)
}

fn on(device: Option<&MigDevice>) -> String {
    device.map_or_else(String::new, |device| format!(" of MIG device {}", device.uuid))
}

/// The command that starts a daemon with that configuration, with consent to these hazards.
pub(super) fn enable(config: &MpsConfig, name: &str, hazards: &[HazardName]) -> String {
    let mut command = "gpushare mps enable".to_owned();
    let mut add = |text: String| {
        command.push(' ');
        command.push_str(&text);
    };
    if config.thread_percentage < ThreadPercentage::FULL {
        add(format!("--thread-percentage {}", config.thread_percentage));
    }
    if let Some(limit) = config.pinned_memory_limit {
        add(format!("--pinned-memory-limit {limit}"));
    }
    if let Some(most) = config.max_clients {
        add(format!("--max-clients {most}"));
    }
    if config.priority != Priority::Normal {
        add(format!("--priority {}", config.priority));
    }
    match &config.access {
        Access::Caller => {}
        Access::User(user) => add(format!("--user {}", shell_word(user))),
        Access::Group(group) => add(format!("--group {}", shell_word(group))),
        Access::Any => add("--any-user".to_owned()),
    }
    if config.compute_mode == MpsComputeMode::Unchanged {
        add("--compute-mode unchanged".to_owned());
    }
    for hazard in hazards {
        add(format!("--allow-hazard {hazard}"));
    }
    add(format!("-i {name}"));
    command
}

/// What starts a daemon of ours again.
fn restart(gpu: &GpuSnapshot, device: Option<&MigDevice>, mps: &MpsStatus) -> String {
    let name = selector(gpu);
    match (device, &mps.config) {
        (Some(_), _) => "gpushare apply SPEC, with the spec that it had; to do without it, apply one without `mps`".to_owned(),
        (None, Some(config)) => {
            let hazards: Vec<_> = hazard::of_mps(gpu, config).iter().map(|h| h.name).collect();
            format!("{}, or to end it: gpushare mps disable -i {name}", enable(config, &name, &hazards))
        }
        (None, None) => format!("gpushare mps disable -i {name}"),
    }
}

/// The findings about daemons of ours that are like that.
fn unwell(
    gpu: &GpuSnapshot,
    is: fn(&MpsStatus) -> bool,
    found: impl Fn(&MpsStatus, Option<&MigDevice>) -> Found,
) -> Looked {
    let unwell = ours(gpu).filter(|(_, mps)| !mps.alive && is(mps));
    let looked: Looked = unwell.map(|(device, mps)| {
        let mut found = found(mps, device).of(gpu);
        if let Some(directory) = &mps.directory {
            found = found.seen(format!("its directory is {}", directory.display()));
        }
        if let Some(pid) = mps.pid {
            found = found.seen(format!("its process is {pid}"));
        }
        if device.is_none() && gpu.compute_mode == Some(ComputeMode::ExclusiveProcess) {
            found = found.seen("compute mode is exclusive_process: without the daemon one process gets the GPU, and nobody else");
        }
        found.mend(restart(gpu, device, mps))
    }).collect();
    without_hidden(looked, gpu)
}

/// Without the daemons of ours that this user may not ask.
fn without_hidden(looked: Looked, gpu: &GpuSnapshot) -> Looked {
    let hidden = ours(gpu).any(|(_, mps)| mps.health.is_none());
    if !hidden {
        return looked;
    }
    looked.unseen(format!("gpushare's MPS daemons on GPU {}", selector(gpu)), "their user, or root")
}

pub(super) fn dead(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let is = |mps: &MpsStatus| matches!(mps.health, Some(MpsHealth::Gone));
    unwell(gpu, is, |_, device| {
        Found::error(format!("gpushare's MPS daemon{} is dead", on(device)), DAEMONS)
            .seen("it is on record, and nobody listens in its directory")
    })
}

pub(super) fn frozen(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let is = |mps: &MpsStatus| mps.health == Some(MpsHealth::Frozen);
    unwell(gpu, is, |_, device| {
        Found::error(format!("gpushare's MPS daemon{} is frozen", on(device)), DAEMONS)
            .seen("it takes connections and says nothing: a client that says nothing holds it up, or it has stopped")
    })
}

pub(super) fn strange(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let is = |mps: &MpsStatus| mps.health == Some(MpsHealth::Unknown);
    unwell(gpu, is, |_, device| {
        Found::error(
            format!(
                "gpushare's MPS daemon{} answers in a way that gpushare does not know",
                on(device)
            ),
            DAEMONS,
        )
        .seen("its first words are none that a daemon of drivers 470 to 580 says")
    })
}

pub(super) fn closed(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let is = |mps: &MpsStatus| mps.health == Some(MpsHealth::Answers);
    unwell(gpu, is, |_, device| {
        Found::error(format!("gpushare's MPS daemon{} is closed to its clients", on(device)), DAEMONS)
            .seen("it answers, and its directory is open to nobody: its start or its end was not finished")
    })
}

/// What our record says that a daemon gives.
fn recorded<'a>(gpu: &'a GpuSnapshot, device: Option<&MigDevice>) -> Option<&'a MpsConfig> {
    let record = gpu.record.as_ref()?;
    match device {
        None => match &record.parameters {
            Parameters::Mps(config) => Some(config),
            _ => None,
        },
        Some(device) => {
            let mut instances = record.instances.iter();
            let instance = instances.find(|of| Some(of.placement.start) == device.start)?;
            match instance.sharing.as_ref()? {
                Sharing::Mps(config) => Some(config),
                Sharing::TimeSliced(_) => None,
            }
        }
    }
}

pub(super) fn drift(snapshot: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let current = gpu.current_record(&snapshot.epoch).is_some();
    let serving = ours(gpu).filter(|(_, mps)| current && mps.alive && mps.health.is_some());
    let found = serving.filter_map(|(device, mps)| {
        let config = recorded(gpu, device)?;
        let was = MpsSettings::from(config);
        let now = mps.config.as_ref().map(MpsSettings::from)?;
        let mut evidence: Vec<_> = was.changes(&now).iter().map(ToString::to_string).collect();
        for server in &mps.servers {
            let Some(percentage) = server.thread_percentage else { continue };
            let limits = crate::mps::ServerLimits::new(percentage, server.pinned_memory_limit);
            if !limits.are_of(&now) {
                evidence.push(format!("server {} gives other limits than its daemon", server.pid));
            }
        }
        let exclusive = gpu.compute_mode == Some(ComputeMode::ExclusiveProcess);
        if device.is_none() && config.compute_mode == MpsComputeMode::ExclusiveProcess && !exclusive {
            let mode = gpu.compute_mode.map_or("unknown", ComputeMode::as_str);
            evidence.push(format!("compute mode is {mode}, and gpushare set exclusive_process: a process that misses the daemon gets the whole GPU"));
        }
        if evidence.is_empty() {
            return None;
        }
        let summary = format!("gpushare's MPS daemon{} no longer gives what it was told", on(device));
        let found = Found::warning(summary, "read back from the daemon; up to driver 535 whom it serves can change it").of(gpu);
        let found = evidence.into_iter().fold(found, Found::seen);
        let mend = match device {
            Some(_) => "gpushare apply SPEC, with the spec that it had".to_owned(),
            None => enable(config, &selector(gpu), &[]),
        };
        Some(found.mend(mend))
    });
    without_hidden(found.collect(), gpu)
}

fn target(gpu: &GpuSnapshot, device: Option<&MigDevice>) -> MpsTarget {
    match device {
        Some(device) => MpsTarget::of_mig_device(gpu, device.sm_count, device.memory),
        None => MpsTarget::of_gpu(gpu),
    }
}

fn severity(name: HazardName) -> Severity {
    match name {
        HazardName::HopperPartialSm => Severity::Error,
        HazardName::HopperUnmeasured => Severity::Warning,
        HazardName::BypassPossible | HazardName::MinimumSm | HazardName::SmallLimit => {
            Severity::Notice
        }
    }
}

fn source(name: HazardName) -> &'static str {
    match name {
        HazardName::BypassPossible => GUIDE,
        _ => MEASURED,
    }
}

pub(super) fn hazard_in_force(_: &Snapshot, gpu: &GpuSnapshot) -> Looked {
    let mut all = Looked::default();
    for (device, mps) in ours(gpu).filter(|(_, mps)| mps.alive) {
        let Some(config) = &mps.config else { continue };
        let target = target(gpu, device);
        let mut hazards: Vec<(Hazard, String)> = Vec::new();
        let given = std::iter::once((config.clone(), "the daemon".to_owned()));
        let servers = mps.servers.iter().filter_map(|server| {
            let thread_percentage = server.thread_percentage?;
            let pinned_memory_limit = server.pinned_memory_limit;
            let config = MpsConfig { thread_percentage, pinned_memory_limit, ..config.clone() };
            Some((config, format!("server {}", server.pid)))
        });
        for (config, who) in given.chain(servers) {
            for hazard in hazard::of_mps_on(&target, &config) {
                if !hazards.iter().any(|(other, _)| other.name == hazard.name) {
                    let limit = config
                        .pinned_memory_limit
                        .map_or("no limit".to_owned(), |limit| limit.to_string());
                    let gives = format!("{who} gives {} % and {limit}", config.thread_percentage);
                    hazards.push((hazard, gives));
                }
            }
        }
        let name = selector(gpu);
        for (hazard, gives) in hazards {
            let safe = hazard.safe.join(", ");
            let text =
                format!("hazard {} is in force{}: {}", hazard.name, on(device), hazard.message);
            let mend = match (hazard.name, device) {
                (HazardName::BypassPossible, Some(_)) => format!(
                    "nothing keeps a process from going past a daemon on a MIG device; safe: {safe}"
                ),
                (_, Some(_)) => format!("gpushare apply SPEC with a safe value: {safe}"),
                (HazardName::BypassPossible, None) => enable(
                    &MpsConfig { compute_mode: MpsComputeMode::ExclusiveProcess, ..config.clone() },
                    &name,
                    &[],
                ),
                (_, None) => {
                    let percentage = hazard.safe.first().and_then(|safe| safe.parse().ok());
                    let percentage = percentage.and_then(|safe| ThreadPercentage::new(safe).ok());
                    let better = percentage
                        .map(|thread_percentage| MpsConfig { thread_percentage, ..config.clone() });
                    match better {
                        Some(better) => format!("{} (safe: {safe})", enable(&better, &name, &[])),
                        None => format!("gpushare mps enable -i {name} with a safe value: {safe}"),
                    }
                }
            };
            let found = Found::new(severity(hazard.name), text, source(hazard.name))
                .of(gpu)
                .seen(gives)
                .mend(mend);
            all.found.push(found);
        }
    }
    without_hidden(all, gpu)
}

/// The worst of what a percentage does to results.
fn corrupts(target: &MpsTarget, thread_percentage: ThreadPercentage) -> Option<Hazard> {
    let config = MpsConfig { thread_percentage, ..MpsConfig::default() };
    let mut hazards = hazard::of_mps_on(target, &config).into_iter();
    hazards.find(|h| matches!(h.name, HazardName::HopperPartialSm | HazardName::HopperUnmeasured))
}

fn percentage_of(variables: &[(String, String)]) -> Option<ThreadPercentage> {
    let (_, value) = variables.iter().find(|(name, _)| name == PERCENTAGE)?;
    ThreadPercentage::new(value.trim().parse().ok()?).ok()
}

fn device_of<'a>(gpu: &'a GpuSnapshot, process: &GpuProcess) -> Option<&'a MigDevice> {
    let (gi, ci) = process.gi.zip(process.ci)?;
    gpu.mig_devices.iter().find(|device| device.gi == gi && device.ci == ci)
}

/// Who is a client of an MPS daemon, ours or another's, as far as that shows.
fn is_client(gpu: &GpuSnapshot, holder: &Holder) -> bool {
    match holder.kind {
        HolderKind::MpsClient => true,
        HolderKind::Compute => gpu.mode == SharingMode::Foreign,
        HolderKind::Graphics | HolderKind::ForeignMps | HolderKind::Service | HolderKind::Lease => {
            false
        }
    }
}

pub(super) fn declared(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let mut all = Looked::default();
    let for_all = percentage_of(&seen.machine.variables);
    for gpu in seen.gpus(snapshot) {
        let hazard = for_all
            .and_then(|percentage| Some((percentage, corrupts(&target(gpu, None), percentage)?)));
        if let Some((percentage, hazard)) = hazard {
            all.found.push(
                told(gpu, &hazard, "every login is told a thread percentage that makes wrong results as soon as it is a client of MPS")
                    .seen(format!("/etc/environment has {PERCENTAGE}={percentage}"))
                    .mend(format!("remove {PERCENTAGE} from /etc/environment; safe on this GPU: {}", hazard.safe.join(", "))),
            );
        }
        if gpu.processes_hidden {
            let what = format!("who uses GPU {}", selector(gpu));
            all = all.unseen(what, "a driver that shows it to this user");
        }
        for process in gpu.processes.iter().filter(|process| is_client(gpu, &process.holder)) {
            let pid = process.holder.pid;
            if let Some(why) = seen.machine.hidden(&Part::Process(pid)) {
                all = all.unseen(format!("what process {pid} declares in its environment"), why);
                continue;
            }
            let variables = seen.machine.declared.iter().find(|(other, _)| *other == pid);
            let Some(asked) = variables.and_then(|(_, variables)| percentage_of(variables)) else {
                continue;
            };
            let device = device_of(gpu, process);
            let daemon = device.map_or(gpu.mps.as_ref(), |device| device.mps.as_ref());
            let most =
                daemon.and_then(|mps| mps.config.as_ref()).map(|config| config.thread_percentage);
            // A client gets the lesser of the two. What the daemon gives has a finding of its own.
            if most.is_some_and(|most| most <= asked) {
                continue;
            }
            let Some(hazard) = corrupts(&target(gpu, device), asked) else { continue };
            all.found.push(
                told(
                    gpu,
                    &hazard,
                    &format!(
                        "{} asks for a thread percentage that makes wrong results",
                        process.holder
                    ),
                )
                .seen(format!("its environment has {PERCENTAGE}={asked}"))
                .mend(format!(
                    "start it again without {PERCENTAGE}, or with a safe one: {}",
                    hazard.safe.join(", ")
                )),
            );
        }
    }
    all.without(seen.machine, &Part::Environment, "/etc/environment")
}

fn told(gpu: &GpuSnapshot, hazard: &Hazard, summary: &str) -> Found {
    Found::new(severity(hazard.name), summary, MEASURED).of(gpu).seen(hazard.message.as_str())
}
