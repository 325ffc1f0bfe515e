//! MPS: daemons of ours and of others, where they listen, and what they and their clients are told.

use std::path::Path;

use super::{DaemonProcess, Found, Looked, Part, Seen, Severity, selector};
use crate::hazard::{self, Hazard, HazardName, MpsTarget};
use crate::mode::{ComputeMode, MpsHealth, Priority, SharingMode};
use crate::mps::MpsSettings;
use crate::parameters::{Access, MpsComputeMode, MpsConfig, Parameters};
use crate::process::{Holder, HolderKind};
use crate::snapshot::{GpuProcess, GpuSnapshot, MigDevice, MpsStatus, Snapshot};
use crate::spec::Sharing;
use crate::units::ThreadPercentage;

const DAEMONS: &str = "gpushare's look at its daemons (drivers 470 to 580 measured)";
const GUIDE: &str = "NVIDIA's MPS guide";
const MEASURED: &str = "measured on an H200 with driver 580.159.04 and cuBLAS of CUDA 13.0; an independent report agrees";
const CGROUPS: &str =
    "systemd.kill(5) and how job systems end a job: what stands in its control group ends with it";

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
        Access::User(user) => add(format!("--user {}", quoted(user))),
        Access::Group(group) => add(format!("--group {}", quoted(group))),
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

/// A word as a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
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

fn quit(directory: &Path) -> String {
    format!(
        "end it by its own means, as its user: echo quit | CUDA_MPS_PIPE_DIRECTORY={} nvidia-cuda-mps-control",
        quoted_path(directory)
    )
}

fn quoted_path(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    if text.chars().all(plain) { text } else { quoted(&text) }
}

fn describe(daemon: &DaemonProcess) -> String {
    let user = daemon.uid.map_or_else(String::new, |uid| format!(" of user {uid}"));
    let place = match &daemon.directory {
        Some(directory) => format!("listens in {}", directory.display()),
        None => "listens where this user may not look".to_owned(),
    };
    format!("process {}{user} {place}", daemon.pid)
}

pub(super) fn foreign(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    // Whose a daemon is shows in its directory alone.
    let known = |daemon: &&DaemonProcess| !daemon.ours && daemon.directory.is_some();
    let others: Vec<_> = seen.machine.daemons.iter().filter(known).collect();
    let served: Vec<_> =
        seen.gpus(snapshot).filter(|gpu| gpu.mode == SharingMode::Foreign).collect();
    let mend = || match others.iter().find_map(|daemon| daemon.directory.as_deref()) {
        Some(directory) => quit(directory),
        None => "end it by its own means; `gpushare mps status` as root says where it listens"
            .to_owned(),
    };
    let mut found: Vec<_> = served
        .iter()
        .map(|gpu| {
            let found = Found::warning("an MPS daemon that is not gpushare's serves the GPU: gpushare changes nothing there while it runs", DAEMONS)
                .of(gpu)
                .seen(gpu.reason.as_str());
            others.iter().fold(found, |found, daemon| found.seen(describe(daemon))).mend(mend())
        })
        .collect();
    if served.is_empty() && !others.is_empty() {
        let one = Found::notice(
            "an MPS daemon that is not gpushare's runs, and has no server on these GPUs yet",
            DAEMONS,
        );
        found.push(
            others.iter().fold(one, |found, daemon| found.seen(describe(daemon))).mend(mend()),
        );
    }
    let looked: Looked = found.into_iter().collect();
    without_others(looked, seen)
}

/// Without the daemons that show nothing of themselves to this user.
fn without_others(looked: Looked, seen: &Seen<'_>) -> Looked {
    let daemons = seen.machine.daemons.iter();
    daemons.fold(looked, |looked, daemon| {
        let what = format!("MPS daemon {}", daemon.pid);
        looked.without(seen.machine, &Part::Daemon(daemon.pid), &what)
    })
}

/// What ends a process by the control group that it stands in, in words.
fn ended_by(group: &str, ours: bool) -> Option<&'static str> {
    let parts = || group.split('/').filter(|part| !part.is_empty());
    let any = |is: &dyn Fn(&str) -> bool| parts().any(is);
    let last = parts().next_back().unwrap_or_default();
    if any(&|part| part.starts_with("slurmstepd") || part == "slurm")
        || (any(&|part| part.starts_with("job_")) && any(&|part| part.starts_with("step_")))
    {
        return Some("the Slurm job");
    }
    if any(&|part| {
        part.starts_with("docker-")
            || part.starts_with("libpod-")
            || part.starts_with("kubepods")
            || part.starts_with("cri-containerd")
            || part == "docker"
            || part.starts_with("lxc")
    }) {
        return Some("the container");
    }
    if any(&|part| part.starts_with("session-") && part.ends_with(".scope")) {
        return Some(
            "the login session, where logind ends what is left of one (KillUserProcesses)",
        );
    }
    if any(&|part| part.starts_with("user@") && part.ends_with(".service")) {
        return Some("the last login of its user, without lingering");
    }
    // A service may be a daemon's own. Ours are never started as one: somebody's unit called gpushare.
    (ours && last.ends_with(".service")).then_some("the unit that called gpushare")
}

pub(super) fn cgroup(seen: &Seen<'_>) -> Looked {
    let mut all = Looked::default();
    for daemon in &seen.machine.daemons {
        let Some(group) = daemon.cgroup.as_deref() else { continue };
        let Some(by) = ended_by(group, daemon.ours) else { continue };
        let whose = if daemon.ours { "gpushare's MPS daemon" } else { "an MPS daemon" };
        let mend = if daemon.ours {
            "start it as root on a machine with systemd, where gpushare gives it a scope of its own; or from a service of the system: gpushare mps disable, then gpushare mps enable"
        } else {
            "start it in a scope or service of its own: systemd-run --scope --slice=system.slice nvidia-cuda-mps-control -d"
        };
        all.found.push(
            Found::warning(format!("{whose} ends together with {by}"), CGROUPS)
                .seen(describe(daemon))
                .seen(format!("its control group is {group}"))
                .mend(mend),
        );
    }
    without_others(all, seen)
}

pub(super) fn default_in_use(seen: &Seen<'_>) -> Looked {
    let looked: Looked = seen
        .machine
        .default_pipe
        .as_ref()
        .filter(|pipe| pipe.listens)
        .map(|pipe| {
            Found::warning(
                format!("an MPS daemon listens in NVIDIA's default directory {}: every CUDA process that is told nothing becomes its client", pipe.path.display()),
                GUIDE,
            )
            .seen(format!("somebody listens at {}; the directory is user {}'s", pipe.path.join("control").display(), pipe.uid))
            .mend(quit(&pipe.path))
        })
        .into();
    looked.without(seen.machine, &Part::Sockets, "the sockets at which somebody listens").without(
        seen.machine,
        &Part::DefaultPipe,
        "NVIDIA's default pipe directory",
    )
}

pub(super) fn default_left(seen: &Seen<'_>) -> Looked {
    let left = seen
        .machine
        .default_pipe
        .as_ref()
        .filter(|pipe| pipe.directory && pipe.socket && !pipe.listens);
    if seen.machine.hidden(&Part::Sockets).is_some() {
        return Looked::default().without(
            seen.machine,
            &Part::Sockets,
            "the sockets at which somebody listens",
        );
    }
    let looked: Looked = left
        .map(|pipe| {
            Found::notice(
                format!("an MPS daemon that is gone left its socket in {}", pipe.path.display()),
                "measured with daemons of drivers 470 to 580: sockets stay after the daemon's end",
            )
            .seen(format!("{} is there and nobody listens", pipe.path.join("control").display()))
            .mend(format!("rm -r {}", pipe.path.display()))
        })
        .into();
    looked.without(seen.machine, &Part::DefaultPipe, "NVIDIA's default pipe directory")
}

pub(super) fn default_strange(seen: &Seen<'_>) -> Looked {
    let pipe = seen.machine.default_pipe.as_ref().filter(|pipe| !pipe.directory);
    let looked: Looked = pipe
        .map(|pipe| {
            Found::warning(
                format!("{} is no directory: who made it chooses where CUDA processes look for MPS that are told nothing", pipe.path.display()),
                GUIDE,
            )
            .seen(format!("it is a link or a file, and user {}'s; what it leads to was not looked at", pipe.uid))
            .mend(format!("rm {}", pipe.path.display()))
        })
        .into();
    looked.without(seen.machine, &Part::DefaultPipe, "NVIDIA's default pipe directory")
}

pub(super) fn environment(seen: &Seen<'_>) -> Looked {
    let variables = &seen.machine.variables;
    let found = (!variables.is_empty()).then(|| {
        let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
        let found = Found::warning(
            "settings of MPS are in /etc/environment: every login gets them, whichever GPU and daemon it is to use",
            "pam_env(8); NVIDIA's MPS guide",
        );
        let found = variables.iter().fold(found, |found, (name, value)| found.seen(format!("{name}={value}")));
        found.mend(format!("remove {} from /etc/environment, and give them to the programs that need them", names.join(", ")))
    });
    Looked::from(found).without(seen.machine, &Part::Environment, "/etc/environment")
}

pub(super) fn directory_left(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let known = |name: &str| {
        snapshot.gpus.iter().any(|gpu| {
            gpu.uuid.as_str() == name
                // Which MIG devices there are is hidden from some.
                || (gpu.mig.as_ref().is_some_and(|mig| mig.enabled) && gpu.visibility != crate::snapshot::Visibility::Full)
                || gpu.mig_devices.iter().any(|device| device.uuid.as_str().replace('/', "_") == name)
        })
    };
    let left = seen.machine.directories.iter().filter(|directory| !known(&directory.device));
    let looked: Looked = left
        .map(|directory| {
            let path = directory.path.display();
            let text = format!("{path} is for a device that this node does not have (any more)");
            if directory.listens {
                Found::warning(text, DAEMONS).seen("an MPS daemon listens in it").mend(format!(
                    "{}; then: rm -r {}",
                    quit(&directory.path),
                    quoted_path(&directory.path)
                ))
            } else {
                Found::notice(text, DAEMONS)
                    .seen("nobody listens in it")
                    .mend(format!("rm -r {}", quoted_path(&directory.path)))
            }
        })
        .collect();
    looked.without(seen.machine, &Part::Directories, "the directories of gpushare's MPS daemons")
}
