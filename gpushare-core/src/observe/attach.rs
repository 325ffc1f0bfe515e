//! Whether a process is a client of an MPS daemon of ours: what is seen of both.

use crate::error::{Error, ErrorCode, Result};
use crate::id::{ComputeInstanceId, GpuInstanceId, Pid};
use crate::mode::MpsHealth;
use crate::mps::{
    Attachment, ContextFacts, DaemonFacts, Declared, DomainFacts, MpsDomain, ProcessFacts,
    ServerFacts, ServerLimits, anyone_may_set, attachment,
};
use crate::observe::{Observer, Scope};
use crate::port::{ContextKind, ProcessInfo};
use crate::process::HolderKind;
use crate::snapshot::{Driver, GpuSnapshot, MpsServer, MpsStatus, Snapshot};

/// What is read of another process's environment, and nothing else of it.
const VARIABLES: [&str; 5] = [
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MPS_CLIENT_PRIORITY",
];

impl Observer {
    /// Whether a process is a client of an MPS daemon of ours.
    ///
    /// # Errors
    /// NOT_FOUND when there is no such process, or when it ends meanwhile; as
    /// [`snapshot`](Self::snapshot).
    pub fn verify_mps(&mut self, pid: Pid) -> Result<Attachment> {
        let gone = || Error::new(ErrorCode::NotFound, format!("there is no process {pid}"));
        let processes = self.ports.processes.clone();
        let facts = processes.facts(pid).ok_or_else(gone)?;
        let environment = processes.environment(pid, &VARIABLES).map(declared);
        let snapshot = self.snapshot(&Scope::all())?;
        let mut contexts = Vec::new();
        for gpu in &snapshot.gpus {
            if gpu.processes.iter().any(|process| process.holder.pid == pid) {
                // Asked of the driver itself: what it says is held beside what our daemon says.
                let listed = self.nvml.processes(&gpu.uuid, ContextKind::MpsClient);
                contexts.extend(contexts_on(gpu, pid, listed.ok().as_deref()));
            }
        }
        let same_pid_namespace = self.sees_the_daemons_pids(&snapshot);
        // Its pid may have passed to another process while we looked.
        let still = processes.facts(pid).is_some_and(|now| now.start_time == facts.start_time);
        if !still {
            return Err(gone().context("it ended while it was looked at"));
        }
        let process = ProcessFacts {
            pid,
            start_time: Some(facts.start_time),
            command: facts.command,
            uid: Some(facts.uid),
            same_pid_namespace,
            environment,
            contexts,
            processes_hidden: snapshot.gpus.iter().any(|gpu| gpu.processes_hidden),
        };
        let domains: Vec<_> =
            snapshot.gpus.iter().flat_map(|gpu| domains(gpu, &snapshot.driver)).collect();
        Ok(attachment(snapshot.simulated, &process, &domains))
    }

    /// Whether the numbers that daemons give are those that this process sees. The kernel names us
    /// a daemon by its socket, in our numbers; a server is its child. Where no server runs, nobody
    /// is a client, and the driver's numbers are ours in the machine's first pid namespace.
    fn sees_the_daemons_pids(&self, snapshot: &Snapshot) -> bool {
        let daemons = snapshot.gpus.iter().flat_map(daemons);
        let mut servers = daemons
            .flat_map(|daemon| daemon.servers.iter().map(|server| (daemon.pid, server.pid)))
            .peekable();
        if servers.peek().is_none() {
            return self.ports.processes.in_first_pid_namespace();
        }
        servers.all(|(daemon, server)| {
            let parent = self.ports.processes.facts(server).and_then(|facts| facts.parent);
            parent.is_some() && parent == daemon
        })
    }
}

fn declared(variables: Vec<(String, String)>) -> Declared {
    let value = |name: &str| {
        variables.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.clone())
    };
    let [directory, percentage, limit, visible, priority] = VARIABLES;
    Declared {
        pipe_directory: value(directory),
        thread_percentage: value(percentage),
        pinned_memory_limit: value(limit),
        visible_devices: value(visible),
        priority: value(priority),
    }
}

fn contexts_on(gpu: &GpuSnapshot, pid: Pid, listed: Option<&[ProcessInfo]>) -> Vec<ContextFacts> {
    let on_gpu = gpu.processes.iter().filter(|process| process.holder.pid == pid);
    let contexts = on_gpu.map(|process| {
        let client = listed.and_then(|listed| listed.iter().find(|client| client.pid == pid));
        // Where the driver has no such list, nothing is held against what our daemon says.
        let by_daemon = listed.is_none() && process.holder.kind == HolderKind::MpsClient;
        ContextFacts {
            device: device(gpu, process.gi.zip(process.ci)),
            mps_client: client.is_some() || by_daemon,
            memory: client.and_then(|client| client.memory).or(process.memory),
        }
    });
    contexts.collect()
}

/// The MIG device; the GPU where it has none, or the driver does not say which.
fn device(gpu: &GpuSnapshot, instance: Option<(GpuInstanceId, ComputeInstanceId)>) -> MpsDomain {
    let device = instance.and_then(|(gi, ci)| {
        gpu.mig_devices.iter().find(|device| (device.gi, device.ci) == (gi, ci))
    });
    match device {
        Some(device) => device.uuid.clone().into(),
        None => gpu.uuid.clone().into(),
    }
}

fn daemons(gpu: &GpuSnapshot) -> impl Iterator<Item = &MpsStatus> {
    let on_devices = gpu.mig_devices.iter().filter_map(|device| device.mps.as_ref());
    on_devices.chain(&gpu.mps).filter(|mps| mps.ours)
}

fn domains(gpu: &GpuSnapshot, driver: &Driver) -> Vec<DomainFacts> {
    let daemon = |mps: &MpsStatus| daemon(mps, driver);
    let whole = DomainFacts {
        domain: gpu.uuid.clone().into(),
        gpu: gpu.uuid.clone(),
        sm_count: gpu.sm_count,
        memory: gpu.memory,
        daemon: gpu.mps.as_ref().and_then(daemon),
    };
    let devices = gpu.mig_devices.iter().map(|device| DomainFacts {
        domain: device.uuid.clone().into(),
        gpu: gpu.uuid.clone(),
        sm_count: device.sm_count,
        memory: device.memory,
        daemon: device.mps.as_ref().and_then(daemon),
    });
    [whole].into_iter().chain(devices).collect()
}

fn daemon(mps: &MpsStatus, driver: &Driver) -> Option<DaemonFacts> {
    if !mps.ours {
        return None;
    }
    let health = mps.health.unwrap_or(MpsHealth::Unknown);
    let answers = health == MpsHealth::Answers;
    Some(DaemonFacts {
        health,
        directory: mps.directory.clone().unwrap_or_default(),
        changed: mps.changed,
        anyone_may_set: mps
            .config
            .as_ref()
            .is_none_or(|config| anyone_may_set(&driver.version, &config.access).is_some()),
        servers: answers.then(|| mps.servers.iter().map(server).collect()),
    })
}

fn server(server: &MpsServer) -> ServerFacts {
    let limits = server.thread_percentage.map(|percentage| {
        let limits = ServerLimits::new(percentage, server.pinned_memory_limit);
        if server.exact { limits } else { limits.at_most() }
    });
    ServerFacts { pid: server.pid, clients: Some(server.clients.clone()), limits }
}
