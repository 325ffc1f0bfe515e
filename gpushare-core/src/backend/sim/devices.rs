//! Device nodes of a simulated node: as a machine has them on which everything is set up.

use std::fmt::Write as _;
use std::path::Path;

use super::ports::SimulatedPorts;
use super::state::Presence;
use crate::port::Devices;

/// NVIDIA's own major number, the same on every machine.
pub(super) const NVIDIA: u32 = 195;
/// Given out by the kernel at boot: these are what one H200 machine has.
pub(super) const UVM: u32 = 510;
pub(super) const CAPS: u32 = 235;

/// Capabilities of each GPU instance: its own, and those of 8 compute instances.
const OF_GPU_INSTANCE: u32 = 9;
/// GPU instances of each GPU.
const GPU_INSTANCES: u32 = 15;
/// The first two are `config` and `monitor`, from number 1 on.
const FIRST: u32 = 3;

pub(super) fn capability(gpu: u32, gi: u32, ci: Option<u32>) -> u32 {
    FIRST + (gpu * GPU_INSTANCES + gi) * OF_GPU_INSTANCE + ci.map_or(0, |ci| ci + 1)
}

impl Devices for SimulatedPorts {
    fn numbers(&self, path: &Path) -> Option<(u32, u32)> {
        let name = path.strip_prefix("/dev").ok()?.to_str()?;
        match name {
            "nvidiactl" => return Some((NVIDIA, 255)),
            "nvidia-uvm" => return Some((UVM, 0)),
            "nvidia-uvm-tools" => return Some((UVM, 1)),
            _ => {}
        }
        self.simulator
            .read(|node| {
                let gpus = node.gpus.iter().filter(|gpu| gpu.presence == Presence::Present);
                if let Some(cap) = name.strip_prefix("nvidia-caps/nvidia-cap") {
                    let cap = cap.parse::<u32>().ok()?;
                    let mut made = gpus.filter(|gpu| gpu.mig).flat_map(|gpu| {
                        gpu.instances.iter().flat_map(|gi| {
                            let minor = node.minor(gpu);
                            let own = capability(minor, gi.id.get(), None);
                            let cis = gi.compute.iter();
                            let cis =
                                cis.map(|ci| capability(minor, gi.id.get(), Some(ci.id.get())));
                            cis.chain([own]).collect::<Vec<_>>()
                        })
                    });
                    return (cap < FIRST || made.any(|known| known == cap)).then_some((CAPS, cap));
                }
                let minor = name.strip_prefix("nvidia")?.parse::<u32>().ok()?;
                let mut there = gpus.map(|gpu| node.minor(gpu));
                there.any(|known| known == minor).then_some((NVIDIA, minor))
            })
            .ok()?
    }

    fn majors(&self) -> Option<String> {
        Some(format!(
            "Character devices:\n  1 mem\n{NVIDIA} nvidia-frontend\n{NVIDIA} nvidia\n{CAPS} nvidia-caps\n{UVM} nvidia-uvm\n\nBlock devices:\n  7 loop\n"
        ))
    }

    fn mig_minors(&self) -> Option<String> {
        let count = self.simulator.read(|node| node.gpus.len()).ok()?;
        let mut text = "config 1\nmonitor 2\n".to_owned();
        for gpu in (0_u32..).take(2 * count) {
            for gi in 0..GPU_INSTANCES {
                // Writing to a string does not fail.
                let _ = writeln!(text, "gpu{gpu}/gi{gi}/access {}", capability(gpu, gi, None));
                for ci in 0..OF_GPU_INSTANCE - 1 {
                    let _ = writeln!(
                        text,
                        "gpu{gpu}/gi{gi}/ci{ci}/access {}",
                        capability(gpu, gi, Some(ci))
                    );
                }
            }
        }
        Some(text)
    }
}
