//! The device nodes of GPUs and MIG devices, with their numbers, and who makes those that are missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::port::Devices;
use crate::snapshot::{DeviceNode, GpuSnapshot, MigDevice};

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
    let mut nodes = driver_nodes(devices);
    nodes.extend(own_nodes(gpu, device, devices));
    nodes
}

/// The device nodes that every share needs.
pub(crate) fn driver_nodes(devices: &dyn Devices) -> Vec<DeviceNode> {
    COMMON.iter().map(|(path, makes)| look(devices, path, (*makes).to_owned())).collect()
}

fn look(devices: &dyn Devices, path: &str, makes: String) -> DeviceNode {
    let path = PathBuf::from(path);
    let numbers = devices.numbers(&path);
    DeviceNode {
        major: numbers.map(|(major, _)| major),
        minor: numbers.map(|(_, minor)| minor),
        missing: numbers.is_none().then_some(makes),
        path,
    }
}

/// The device nodes that are a GPU's or MIG device's own.
fn own_nodes(
    gpu: &GpuSnapshot,
    device: Option<&MigDevice>,
    devices: &dyn Devices,
) -> Vec<DeviceNode> {
    let Some(minor) = gpu.minor else { return Vec::new() };
    let makes = format!("nvidia-modprobe -c {minor}");
    let mut nodes = vec![look(devices, &format!("/dev/nvidia{minor}"), makes)];
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
                let node = look(devices, &path, makes);
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

/// The device nodes that are each GPU's and MIG device's own, by uuid.
pub(crate) fn device_nodes<'s>(
    gpus: impl IntoIterator<Item = &'s GpuSnapshot>,
    devices: &dyn Devices,
) -> BTreeMap<String, Vec<DeviceNode>> {
    let mut found = BTreeMap::new();
    for gpu in gpus {
        found.insert(gpu.uuid.to_string(), own_nodes(gpu, None, devices));
        for device in &gpu.mig_devices {
            found.insert(device.uuid.to_string(), own_nodes(gpu, Some(device), devices));
        }
    }
    found
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
