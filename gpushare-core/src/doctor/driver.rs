//! Driver, library, device nodes.

use std::path::Path;

use super::{Found, Looked, Part, Seen};
use crate::error::Error;
use crate::snapshot::{GpuSnapshot, Snapshot};

const README: &str = "NVIDIA's driver README, \"Installed Components\"";
const NVML: &str = "nvml.h: what nvmlInit returns";
const CAPABILITIES: &str = "NVIDIA's MIG guide, \"Device Nodes and Capabilities\"";

/// The major number of NVIDIA's devices (the driver's README; the kernel's list of devices).
const MAJOR: u32 = 195;

/// The name of what NVML returned, where that is why nothing was observed.
fn returned<'e>(seen: &Seen<'e>) -> Option<(&'e Error, &'e str)> {
    let error = seen.node.err()?;
    Some((error, error.driver_call()?.name.as_str()))
}

fn failed_with(seen: &Seen<'_>, name: &str) -> bool {
    returned(seen).is_some_and(|(_, found)| found == name)
}

fn module(seen: &Seen<'_>) -> String {
    match &seen.machine.module {
        None => {
            "/proc/driver/nvidia/version is not there: the kernel module is not loaded".to_owned()
        }
        Some(None) => "/proc/driver/nvidia/version is there and names no version".to_owned(),
        Some(Some(version)) => format!("the kernel module is loaded: {version}"),
    }
}

pub(super) fn library_missing(seen: &Seen<'_>) -> Looked {
    let Some((error, _)) = returned(seen).filter(|_| failed_with(seen, "LIBRARY_NOT_FOUND")) else {
        return Looked::default();
    };
    let mut found = Found::error("the driver's library libnvidia-ml.so.1 cannot be loaded", README)
        .seen(error.message())
        .seen(module(seen));
    if let Some(library) = &seen.machine.library {
        found = found.seen(format!("{} is there", library.path.display()));
    }
    let of = match &seen.machine.module {
        Some(Some(version)) => format!(" of driver {version}"),
        _ => String::new(),
    };
    found
        .mend(format!(
            "install the library{of} (package libnvidia-ml1 on Debian, libnvidia-compute-VERSION on Ubuntu), or give its path in GPUSHARE_NVML_PATH; in a container, start it with `--gpus all`"
        ))
        .into()
}

pub(super) fn not_loaded(seen: &Seen<'_>) -> Looked {
    let Some((error, _)) = returned(seen).filter(|_| failed_with(seen, "DRIVER_NOT_LOADED")) else {
        return Looked::default();
    };
    let mut found = Found::error("the NVIDIA driver is not loaded", NVML)
        .seen(error.message())
        .seen(module(seen));
    let none = seen.machine.pci_gpus == Some(0);
    if let Some(count) = seen.machine.pci_gpus {
        found = found.seen(format!("{count} display controllers of NVIDIA's are on the PCI bus"));
    }
    if seen.machine.nouveau {
        found = found.seen("nouveau is loaded, and holds the cards");
    }
    let mend = if none {
        "this machine shows no NVIDIA GPU: look at its slots, its BIOS, or what passes devices to it"
    } else if seen.machine.nouveau {
        "keep nouveau from being loaded (`blacklist nouveau` in /etc/modprobe.d, a new initramfs, a reboot), then: modprobe nvidia"
    } else {
        "modprobe nvidia; where there is no such module, install the driver for this kernel"
    };
    found.mend(mend).into()
}

pub(super) fn mismatch(seen: &Seen<'_>) -> Looked {
    let Some((error, _)) = returned(seen).filter(|_| failed_with(seen, "LIB_RM_VERSION_MISMATCH"))
    else {
        return Looked::default();
    };
    let mut found = Found::error(
        "the driver's library and its kernel module are of different versions: the driver was updated while its module was loaded",
        NVML,
    )
    .seen(error.message())
    .seen(module(seen));
    if let Some(library) = &seen.machine.library {
        let version = library.version.as_deref().unwrap_or("of an unknown version");
        found = found.seen(format!("{} is {version}", library.path.display()));
    }
    found
        .mend("reboot; or end what uses the GPUs, then: modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia && modprobe nvidia")
        .into()
}

/// Every other reason why nothing could be observed.
pub(super) fn fails(seen: &Seen<'_>) -> Looked {
    const KNOWN: [&str; 3] = ["LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH"];
    let Some(error) = seen.node.err() else { return Looked::default() };
    if returned(seen).is_some_and(|(_, name)| KNOWN.contains(&name)) {
        return Looked::default();
    }
    let mend = if error.needs().is_empty() {
        "`dmesg | grep -i nvrm` has what the driver says of it; `gpushare status` again once that is mended".to_owned()
    } else {
        format!("give the user who asks: {}; or ask as root", error.needs().join(", "))
    };
    Found::error("the GPUs could not be observed", "gpushare's own look at them")
        .seen(format!("{}: {error}", error.code()))
        .seen(module(seen))
        .mend(mend)
        .into()
}

pub(super) fn no_gpu(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    if !snapshot.gpus.is_empty() {
        return Looked::default();
    }
    let mut found = Found::error("the driver is loaded and shows no GPU", NVML)
        .seen(format!("driver {} lists no device", snapshot.driver.version));
    if let Some(count) = seen.machine.pci_gpus {
        found = found.seen(format!("{count} display controllers of NVIDIA's are on the PCI bus"));
    }
    found
        .mend("`dmesg | grep -i nvrm` says why the driver refused a card; in a container, start it with `--gpus all`")
        .into()
}

/// The nodes that CUDA opens, with the minor number each must have where it is fixed.
fn needed(seen: &Seen<'_>, snapshot: &Snapshot) -> Vec<(String, Option<u32>, Option<GpuSnapshot>)> {
    let mut nodes = vec![
        ("/dev/nvidiactl".to_owned(), Some(255), None),
        ("/dev/nvidia-uvm".to_owned(), None, None),
    ];
    for gpu in seen.gpus(snapshot) {
        if let Some(minor) = gpu.minor {
            nodes.push((format!("/dev/nvidia{minor}"), Some(minor.get()), Some(gpu.clone())));
        }
    }
    nodes
}

fn about(found: Found, gpu: Option<&GpuSnapshot>) -> Found {
    match gpu {
        Some(gpu) => found.of(gpu),
        None => found,
    }
}

pub(super) fn node_missing(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let needed = needed(seen, snapshot);
    let missing = needed.iter().filter(|(path, ..)| seen.machine.node(path).is_none());
    let found = missing.map(|(path, minor, gpu)| {
        let mend = match (path.as_str(), minor) {
            ("/dev/nvidia-uvm", _) => "nvidia-modprobe -u -c 0".to_owned(),
            (_, Some(minor)) => format!("nvidia-modprobe -c {minor}"),
            (_, None) => "nvidia-modprobe -c 0".to_owned(),
        };
        let found = Found::error(format!("{path} is missing: no CUDA process can use it"), README)
            .seen(format!("{path} does not exist"))
            .mend(format!("{mend}; in a container, give it the device"));
        about(found, gpu.as_ref())
    });
    found.collect()
}

pub(super) fn node_wrong(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let needed = needed(seen, snapshot);
    let found = needed.iter().filter_map(|(path, minor, gpu)| {
        let node = seen.machine.node(path)?;
        let wrong_number = minor.is_some_and(|minor| (node.major, node.minor) != (MAJOR, minor));
        if node.device && !wrong_number {
            return None;
        }
        let is = if node.device {
            format!("a character device {}:{}", node.major, node.minor)
        } else {
            "no character device".to_owned()
        };
        let expected = minor.map_or_else(
            || "a character device".to_owned(),
            |minor| format!("character device {MAJOR}:{minor}"),
        );
        let found = Found::error(format!("{path} is not the driver's device"), README)
            .seen(format!("it is {is}, and would be {expected}"))
            .mend(format!("rm {path} && nvidia-modprobe -c {}", minor.unwrap_or(0)));
        Some(about(found, gpu.as_ref()))
    });
    found.collect()
}

pub(super) fn node_closed(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let needed = needed(seen, snapshot);
    let found = needed.iter().filter_map(|(path, _, gpu)| {
        let node = seen.machine.node(path).filter(|node| node.device)?;
        if node.mode & 0o006 == 0o006 {
            return None;
        }
        let text = format!("{path} is not open to every user");
        // A group that may use it was chosen by somebody.
        let found = if node.mode & 0o060 == 0o060 && node.gid != 0 {
            Found::notice(text, README)
        } else {
            Found::warning(text, README)
        };
        let found = found
            .seen(format!("mode {:04o}, user {}, group {}", node.mode & 0o7777, node.uid, node.gid))
            .mend(format!(
                "chmod 0666 {path}; to keep it so, NVreg_DeviceFileMode=0666 for the module nvidia in /etc/modprobe.d"
            ));
        Some(about(found, gpu.as_ref()))
    });
    found.collect()
}

pub(super) fn capability_missing(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let cut = |gpu: &&GpuSnapshot| !gpu.mig_devices.is_empty();
    if seen.gpus(snapshot).find(cut).is_none() {
        return Looked::default();
    }
    let what = "the capability nodes of MIG devices";
    if let Some(why) = seen.machine.hidden(&Part::MigMinors) {
        return Looked::default().unseen(what, why);
    }
    let Some(minors) = &seen.machine.mig_minors else {
        return Looked::default()
            .unseen(what, "/proc/driver/nvidia-caps/mig-minors, which this driver does not have");
    };
    let found = seen.gpus(snapshot).filter_map(|gpu| {
        let number = gpu.minor?;
        let mut missing: Vec<(String, String)> = Vec::new();
        for device in &gpu.mig_devices {
            let gi = format!("gpu{number}/gi{}", device.gi);
            for (name, file) in [
                (format!("{gi}/access"), format!("gpu{number}/mig/gi{}/access", device.gi)),
                (
                    format!("{gi}/ci{}/access", device.ci),
                    format!("gpu{number}/mig/gi{}/ci{}/access", device.gi, device.ci),
                ),
            ] {
                let Some(minor) = minors.iter().find(|minor| minor.name == name) else { continue };
                let path = format!("/dev/nvidia-caps/nvidia-cap{}", minor.minor);
                let right = seen
                    .machine
                    .node(&path)
                    .is_some_and(|node| node.device && node.minor == minor.minor);
                let text = format!("{path} of {name}");
                if !right && !missing.iter().any(|(other, _)| *other == text) {
                    missing.push((text, file));
                }
            }
        }
        if missing.is_empty() {
            return None;
        }
        let commands = missing
            .iter()
            .map(|(_, file)| format!("nvidia-modprobe -f /proc/driver/nvidia/capabilities/{file}"));
        let mend = commands.collect::<Vec<_>>().join(" && ");
        let found = Found::warning(
            "capability nodes of its MIG devices are missing: ordinary users and containers cannot open these",
            CAPABILITIES,
        );
        let found = missing.iter().fold(found.of(gpu), |found, (text, _)| found.seen(text.as_str()));
        Some(found.mend(mend))
    });
    found.collect()
}

pub(super) fn persistence(seen: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    if snapshot.gpus.is_empty() || seen.machine.persistenced {
        return Looked::default();
    }
    Found::notice(
        "nvidia-persistenced does not run: where no process holds a GPU the driver may let it go, and opening it takes longer",
        "NVIDIA's documentation of driver persistence; opening and closing an H200 that nobody held took 31 ms (measured, driver 580.159.04)",
    )
    .seen("/run/nvidia-persistenced/socket is not there; whether persistence mode is on by `nvidia-smi -pm 1` was not asked")
    .mend("systemctl enable --now nvidia-persistenced")
    .into()
}

pub(super) fn tool_missing(_: &Seen<'_>, snapshot: &Snapshot) -> Looked {
    let able = snapshot.abilities;
    let tools = [
        (
            able.mps,
            "nvidia-cuda-mps-control",
            "mode mps cannot be had",
            "nvidia-cuda-mps",
            "GPUSHARE_MPS_CONTROL",
        ),
        (
            able.interval && able.reset,
            "nvidia-smi",
            "the time-slice interval cannot be set, and no GPU can be reset",
            "nvidia-smi",
            "GPUSHARE_NVIDIA_SMI",
        ),
    ];
    let missing = tools.iter().filter(|(there, ..)| !there);
    missing
        .map(|(_, program, lost, package, variable)| {
            Found::notice(format!("{program} cannot be used: {lost}"), README)
                .seen(format!("{} was not found, or is not to be trusted", Path::new("/usr/bin").join(program).display()))
                .mend(format!("install it (package {package} on Debian; on other systems it comes with the driver), or give its path in {variable}"))
        })
        .collect()
}
