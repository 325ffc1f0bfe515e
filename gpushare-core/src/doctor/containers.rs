//! Containers: the NVIDIA Container Toolkit, Docker's runtime, CDI specifications.

use super::{Found, Looked, Part, Seen};
use crate::snapshot::Snapshot;

const TOOLKIT: &str = "the NVIDIA Container Toolkit's installation guide";
const CDI: &str = "the NVIDIA Container Toolkit's documentation of CDI: a specification is not made anew when MIG devices change";

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
    .seen("no file in /etc/cdi and /var/run/cdi names nvidia.com")
    .mend("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    .into()
}

pub(super) fn cdi_stale(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let known = |uuid: &str| {
        snapshot.gpus.iter().any(|gpu| {
            gpu.uuid.as_str().eq_ignore_ascii_case(uuid)
                || gpu
                    .mig_devices
                    .iter()
                    .any(|device| device.uuid.as_str().eq_ignore_ascii_case(uuid))
        })
    };
    let stale = seen.machine.containers.cdi.iter().filter_map(|spec| {
        let gone: Vec<_> = spec.uuids.iter().filter(|uuid| !known(uuid)).collect();
        if gone.is_empty() {
            return None;
        }
        let path = spec.path.display();
        let found = Found::warning(
            format!("the CDI specification {path} names devices that do not exist: containers that ask for these do not start"),
            CDI,
        );
        let found = gone.iter().take(MOST).fold(found, |found, uuid| found.seen(format!("{uuid} is in it and not on this node")));
        let found = match gone.len().checked_sub(MOST) {
            Some(more) if more > 0 => found.seen(format!("and {more} more")),
            _ => found,
        };
        Some(found.mend(format!("nvidia-ctk cdi generate --output={path}")))
    });
    let looked: Looked = stale.collect();
    looked.without(seen.machine, &Part::Cdi, "CDI specifications")
}

/// How many uuids are shown.
const MOST: usize = 8;
