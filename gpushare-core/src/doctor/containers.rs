//! Containers: the NVIDIA Container Toolkit, Docker's runtime, CDI specifications.

use super::{CdiSpec, Found, Looked, Part, Seen, selector};
use crate::snapshot::{GpuSnapshot, Snapshot, Visibility};
use crate::terminal::shell_word;

const TOOLKIT: &str = "the NVIDIA Container Toolkit's installation guide";
const CDI: &str = "the NVIDIA Container Toolkit's documentation of CDI: a specification is not made anew when MIG devices change";
const OWN: &str =
    "gpushare's own specifications, which follow what gpushare changes and nobody else";

fn has(seen: &Seen<'_>, engine: &str) -> bool {
    seen.machine.containers.engines.iter().any(|name| name == engine)
}

pub(super) fn toolkit(seen: &Seen<'_>) -> Looked {
    let containers = &seen.machine.containers;
    if containers.engines.is_empty() || !containers.toolkit.is_empty() {
        return Looked::default();
    }
    Found::warning("the NVIDIA Container Toolkit is not installed: containers get no GPU", TOOLKIT)
        .seen(format!("installed: {}", containers.engines.join(", ")))
        .seen("neither nvidia-ctk nor nvidia-container-runtime is in /usr/bin or /usr/local/bin")
        .mend("install the package nvidia-container-toolkit from NVIDIA's repository")
        .into()
}

pub(super) fn docker_runtime(seen: &Seen<'_>) -> Looked {
    let containers = &seen.machine.containers;
    if !has(seen, "docker") || containers.toolkit.is_empty() {
        return Looked::default();
    }
    if let Some(why) = seen.machine.hidden(&Part::Docker) {
        return Looked::default().unseen("Docker's /etc/docker/daemon.json", why);
    }
    // With a specification Docker can give devices without the runtime.
    if containers.docker_runtime || !containers.cdi.is_empty() {
        return Looked::default();
    }
    Found::warning("Docker does not know the runtime nvidia: `--gpus` and `--runtime nvidia` fail", TOOLKIT)
        .seen("/etc/docker/daemon.json names no runtime nvidia, and there is no CDI specification of NVIDIA's")
        .mend("nvidia-ctk runtime configure --runtime=docker && systemctl restart docker")
        .into()
}

pub(super) fn cdi_missing(seen: &Seen<'_>) -> Looked {
    let containers = &seen.machine.containers;
    if !has(seen, "podman") || containers.toolkit.is_empty() {
        return Looked::default();
    }
    if let Some(why) = seen.machine.hidden(&Part::Cdi) {
        return Looked::default().unseen("CDI specifications", why);
    }
    if !containers.cdi.is_empty() {
        return Looked::default();
    }
    Found::warning(
        "there is no CDI specification of NVIDIA's devices: podman gives containers no GPU",
        TOOLKIT,
    )
    .seen("no file in /etc/cdi and /var/run/cdi is of a kind of nvidia.com")
    .mend("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    .into()
}

pub(super) fn cdi_stale(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let summary = |path: &str| {
        format!(
            "the CDI specification {path} names devices that do not exist: containers that ask for these do not start"
        )
    };
    let mend = |path: &str| format!("nvidia-ctk cdi generate --output={path}");
    stale(seen, snapshot, &seen.machine.containers.cdi, |path| {
        Found::warning(summary(path), CDI).mend(mend(path))
    })
}

pub(super) fn share_stale(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let summary = |path: &str| {
        format!(
            "gpushare's CDI specification {path} names devices that do not exist (another tool changed them): containers that ask for these do not start"
        )
    };
    let mend = |path: &str| {
        format!(
            "gpushare recover; a file that stays as it is after that is none that gpushare keeps: rm {}",
            shell_word(path)
        )
    };
    stale(seen, snapshot, &seen.machine.containers.shares, |path| {
        Found::warning(summary(path), OWN).mend(mend(path))
    })
}

/// The specifications that name devices which are not on the node.
fn stale(
    seen: &Seen<'_>,
    snapshot: &Snapshot,
    specs: &[CdiSpec],
    say: impl Fn(&str) -> Found,
) -> Looked {
    let hidden: Vec<_> = snapshot.gpus.iter().filter_map(hidden_instances).collect();
    let mut looked = Looked::default();
    for spec in specs {
        let gone = spec.uuids.iter().filter(|uuid| !is_there(snapshot, uuid));
        let (unsure, gone): (Vec<_>, Vec<_>) =
            gone.partition(|uuid| uuid.starts_with("MIG-") && !hidden.is_empty());
        if !unsure.is_empty() {
            looked.unseen.extend(hidden.iter().cloned());
        }
        if gone.is_empty() {
            continue;
        }
        let found = say(&spec.path.display().to_string());
        let found = gone
            .iter()
            .take(MOST)
            .fold(found, |found, uuid| found.seen(format!("{uuid} is in it and not on this node")));
        looked.found.push(match gone.len().checked_sub(MOST) {
            Some(more) if more > 0 => found.seen(format!("and {more} more")),
            _ => found,
        });
    }
    looked.without(seen.machine, &Part::Cdi, "CDI specifications")
}

/// That the MIG devices of a GPU may be others than those that are shown, and what it takes to see them.
fn hidden_instances(gpu: &GpuSnapshot) -> Option<(String, String)> {
    let enabled = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
    match &gpu.visibility {
        Visibility::Partial { missing } if enabled => {
            Some((format!("the instances of GPU {}", selector(gpu)), missing.join(", ")))
        }
        _ => None,
    }
}

fn is_there(snapshot: &Snapshot, uuid: &str) -> bool {
    snapshot.gpus.iter().any(|gpu| {
        let devices = gpu.mig_devices.iter().map(|device| device.uuid.as_str());
        devices.chain([gpu.uuid.as_str()]).any(|there| there.eq_ignore_ascii_case(uuid))
    })
}

/// How many uuids are shown.
const MOST: usize = 8;
