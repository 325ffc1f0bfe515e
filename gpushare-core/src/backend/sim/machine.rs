//! The machine of a simulated node: healthy, and as its GPUs are.

use std::path::PathBuf;

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

/// The driver's own numbers for MIG capabilities: after `config` and `monitor` (1 and 2), 15 GPU
/// instances of a GPU with 8 compute instances each.
const FIRST_CAPABILITY: u32 = 3;
const OF_INSTANCE: u32 = 9;
const OF_GPU: u32 = 15 * OF_INSTANCE;

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
        facts.nodes.push(node("/dev/nvidiactl".to_owned(), 195, 255));
        facts.nodes.push(node("/dev/nvidia-uvm".to_owned(), 510, 0));
        let looked = self.simulator.read(|state| {
            let present = state.gpus.iter().filter(|gpu| gpu.presence != Presence::Gone);
            facts.pci_gpus = u32::try_from(present.count()).ok();
            for gpu in state.gpus.iter().filter(|gpu| gpu.presence == Presence::Present) {
                let minor = state.minor(gpu);
                facts.nodes.push(node(format!("/dev/nvidia{minor}"), 195, minor));
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
        facts.nodes.push(node(format!("/dev/nvidia-caps/nvidia-cap{minor}"), 511, minor));
        minors.push(MigMinor { name, minor });
    };
    for gpu in &state.gpus {
        let number = state.minor(gpu);
        for gi in &gpu.instances {
            let first = FIRST_CAPABILITY + number * OF_GPU + gi.id.get() * OF_INSTANCE;
            add(format!("gpu{number}/gi{}/access", gi.id), first);
            for ci in &gi.compute {
                add(format!("gpu{number}/gi{}/ci{}/access", gi.id, ci.id), first + 1 + ci.id.get());
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
    let gis = state.gpus.iter().flat_map(|gpu| &gpu.instances);
    let parts = gis.flat_map(|gi| &gi.compute).filter_map(|ci| {
        let domain = MpsDomain::MigDevice(ci.uuid.clone());
        Some((domain, ci.mps.as_ref()?.daemon))
    });
    whole.chain(parts).collect()
}
