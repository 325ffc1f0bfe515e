//! The machine of a simulated node: healthy, and as its GPUs are.

use std::path::PathBuf;

use super::devices::{CAPS, NVIDIA, UVM, capability};
use super::nvml::DRIVER;
use super::ports::SimulatedPorts;
use super::state::{NodeState, Presence};
use crate::doctor::{
    DaemonProcess, DeviceNode, Library, MachineFacts, MigMinor, MpsDirectory, Part,
};
use crate::id::Pid;
use crate::mode::MpsHealth;
use crate::mps::MpsDomain;
use crate::port::{Machine, MpsHost as _, Processes as _};

/// What processes may declare of MPS.
const DECLARED: [&str; 3] = [
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_PIPE_DIRECTORY",
];

fn node(path: String, major: u32, minor: u32) -> DeviceNode {
    DeviceNode { path: path.into(), device: true, major, minor, mode: 0o666, uid: 0, gid: 0 }
}

impl Machine for SimulatedPorts {
    fn facts(&self, processes: &[Pid]) -> MachineFacts {
        let mut facts = MachineFacts::seen_by(self.own_uid());
        let version = Some(DRIVER.to_owned());
        facts.library =
            Some(Library { path: "/usr/lib/libnvidia-ml.so.1".into(), version: version.clone() });
        facts.module = Some(version);
        facts.persistenced = true;
        facts.nodes.push(node("/dev/nvidiactl".to_owned(), NVIDIA, 255));
        facts.nodes.push(node("/dev/nvidia-uvm".to_owned(), UVM, 0));
        let looked = self.simulator.read(|state| {
            let present = state.gpus.iter().filter(|gpu| gpu.presence != Presence::Gone);
            facts.pci_gpus = u32::try_from(present.count()).ok();
            for gpu in state.gpus.iter().filter(|gpu| gpu.presence == Presence::Present) {
                let minor = state.minor(gpu);
                facts.nodes.push(node(format!("/dev/nvidia{minor}"), NVIDIA, minor));
            }
            capabilities(state, &mut facts);
            domains(state)
        });
        let mut daemons = Vec::new();
        for (domain, pid) in looked.unwrap_or_default() {
            let Ok(Some(daemon)) = self.probe(&domain) else { continue };
            let listens = daemon.health != MpsHealth::Gone;
            facts.directories.push(MpsDirectory {
                path: daemon.directory.clone(),
                device: domain.as_str().replace('/', "_"),
                listens,
            });
            if listens {
                let directory: Option<PathBuf> = Some(daemon.directory);
                let cgroup = Some("/system.slice/run-simulated.scope".to_owned());
                daemons.push(DaemonProcess { pid, uid: Some(0), directory, ours: true, cgroup });
            }
        }
        facts.daemons = daemons;
        for &pid in processes {
            match self.environment(pid, &DECLARED) {
                Some(variables) => facts.declared.push((pid, variables)),
                None => facts.hide(Part::Process(pid), "its user, or root"),
            }
        }
        facts
    }
}

/// Numbers and nodes for the capabilities of instances that are there.
fn capabilities(state: &NodeState, facts: &mut MachineFacts) {
    let mut minors = Vec::new();
    let mut add = |name: String, minor: u32| {
        facts.nodes.push(node(format!("/dev/nvidia-caps/nvidia-cap{minor}"), CAPS, minor));
        minors.push(MigMinor { name, minor });
    };
    for gpu in &state.gpus {
        let number = state.minor(gpu);
        for gi in &gpu.instances {
            let id = gi.id.get();
            add(format!("gpu{number}/gi{id}/access"), capability(number, id, None));
            for ci in gi.compute.iter().map(|ci| ci.id.get()) {
                add(format!("gpu{number}/gi{id}/ci{ci}/access"), capability(number, id, Some(ci)));
            }
        }
    }
    facts.mig_minors = Some(minors);
}

/// The domains that have a daemon of ours, or what is left of one.
fn domains(state: &NodeState) -> Vec<(MpsDomain, Pid)> {
    let whole = state.gpus.iter().filter_map(|gpu| {
        let domain = MpsDomain::Gpu(gpu.uuid.clone());
        Some((domain, gpu.mps.as_ref()?.daemon))
    });
    let parts = state
        .mig_mps
        .iter()
        .map(|(device, mps)| (MpsDomain::MigDevice(device.clone()), mps.daemon));
    whole.chain(parts).collect()
}
