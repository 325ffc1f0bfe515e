//! The device nodes that a share needs, with their numbers, and who makes those that are missing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::port::Devices;
use crate::snapshot::{GpuSnapshot, MigDevice};

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceNode {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Its major number, where the kernel says.
    pub major: Option<u32>,
    /// Its minor number, where it is known.
    pub minor: Option<u32>,
    /// Where it is not there: what makes it.
    pub missing: Option<String>,
}

/// The driver's own, the same for every share: control, and unified memory.
const COMMON: [(&str, &str); 3] = [
    ("/dev/nvidiactl", "nvidia-modprobe"),
    ("/dev/nvidia-uvm", "nvidia-modprobe -u -c 0"),
    ("/dev/nvidia-uvm-tools", "nvidia-modprobe -u -c 0"),
];

/// The device nodes of a GPU or of a MIG device of it. For a MIG device the GPU's own comes with it, and
/// two capabilities without which it cannot be opened.
pub(crate) fn nodes(
    gpu: &GpuSnapshot,
    device: Option<&MigDevice>,
    devices: &dyn Devices,
) -> Vec<DeviceNode> {
    let there = |path: &str, makes: String| {
        let path = PathBuf::from(path);
        let numbers = devices.numbers(&path);
        DeviceNode {
            major: numbers.map(|(major, _)| major),
            minor: numbers.map(|(_, minor)| minor),
            missing: numbers.is_none().then_some(makes),
            path,
        }
    };
    let mut nodes: Vec<_> =
        COMMON.iter().map(|(path, makes)| there(path, (*makes).to_owned())).collect();
    let Some(minor) = gpu.minor else { return nodes };
    nodes.push(there(&format!("/dev/nvidia{minor}"), format!("nvidia-modprobe -c {minor}")));
    let Some(device) = device else { return nodes };
    let minors = devices.mig_minors();
    let major = devices.majors().as_deref().and_then(|text| major(text, "nvidia-caps"));
    let gi = format!("gpu{minor}/gi{}", device.gi);
    let ci = format!("{gi}/ci{}", device.ci);
    for name in [gi, ci] {
        let capability =
            minors.as_deref().and_then(|text| minor_of(text, &format!("{name}/access")));
        nodes.push(match capability {
            Some(number) => {
                let path = format!("/dev/nvidia-caps/nvidia-cap{number}");
                let makes = format!("nvidia-modprobe -f {}", proc(&name).display());
                let node = there(&path, makes);
                DeviceNode { major: node.major.or(major), minor: Some(number), ..node }
            }
            None => DeviceNode {
                path: proc(&name),
                major,
                minor: None,
                missing: Some(
                    "/proc/driver/nvidia-caps/mig-minors does not list it: load the driver's module with nvidia-modprobe".to_owned(),
                ),
            },
        });
    }
    nodes
}

/// The device nodes that are a GPU's or MIG device's own, where all of them are there.
pub(crate) fn own_nodes(
    gpu: &GpuSnapshot,
    device: Option<&MigDevice>,
    devices: &dyn Devices,
) -> Option<Vec<PathBuf>> {
    let nodes = nodes(gpu, device, devices).into_iter().skip(COMMON.len());
    nodes.map(|node| node.missing.is_none().then_some(node.path)).collect()
}

/// Where the kernel has a capability, by `gpu0/gi1` or `gpu0/gi1/ci0`.
fn proc(name: &str) -> PathBuf {
    let mut path = PathBuf::from("/proc/driver/nvidia/capabilities");
    let mut parts = name.split('/');
    path.push(parts.next().unwrap_or_default());
    path.push("mig");
    path.extend(parts.map(Path::new));
    path.push("access");
    path
}

/// The number of a driver in `/proc/devices`, among character devices.
fn major(text: &str, name: &str) -> Option<u32> {
    let characters = text.split("Block devices").next()?;
    characters.lines().find_map(|line| {
        let (number, driver) = line.trim().split_once(' ')?;
        (driver.trim() == name).then(|| number.parse().ok())?
    })
}

/// The number of a capability in `mig-minors`.
fn minor_of(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let (capability, number) = line.split_once(' ')?;
        (capability == name).then(|| number.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_the_kernels_lists() {
        let devices = "Character devices:\n  1 mem\n195 nvidia\n235 nvidia-caps\n236 nvidia-caps-imex-channels\n\nBlock devices:\n  7 nvidia-caps\n";
        assert_eq!(major(devices, "nvidia-caps"), Some(235));
        assert_eq!(major(devices, "nvidia-uvm"), None);
        let minors = "config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\ngpu0/gi11/access 102\nrubbish\n";
        assert_eq!(minor_of(minors, "gpu0/gi1/access"), Some(12));
        assert_eq!(minor_of(minors, "gpu0/gi1/ci0/access"), Some(13));
        assert_eq!(minor_of(minors, "gpu0/gi2/access"), None);
        assert_eq!(
            proc("gpu0/gi1/ci0"),
            Path::new("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access")
        );
    }
}
