//! MPS: where daemons listen, those of others, and what will end a daemon.

use std::path::Path;

use super::mps::{DAEMONS, GUIDE};
use super::{DaemonProcess, Found, Looked, Part, Seen};
use crate::mode::SharingMode;
use crate::snapshot::Snapshot;
use crate::terminal::shell_word;

const CGROUPS: &str =
    "systemd.kill(5) and how job systems end a job: what stands in its control group ends with it";

fn quit(directory: &Path) -> String {
    format!(
        "end it by its own means, as its user: echo quit | CUDA_MPS_PIPE_DIRECTORY={} nvidia-cuda-mps-control",
        quoted_path(directory)
    )
}

fn quoted_path(path: &Path) -> String {
    shell_word(&path.display().to_string()).into_owned()
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
