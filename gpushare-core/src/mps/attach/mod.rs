//! The judgement whether a process is a client of an MPS daemon of ours.
//!
//! Only a server of ours that lists the process makes it attached. That is no formality: a process
//! that misses the daemon by a letter in `CUDA_MPS_PIPE_DIRECTORY` runs with the whole GPU, without an error.

mod document;
mod facts;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::id::Pid;
use crate::mode::{MpsHealth, Verdict};
use crate::mps::{MpsDomain, sm_count};
use crate::units::{Bytes, ThreadPercentage};

pub use document::{ATTACHMENT_SCHEMA, AtMost, Attachment, Declared};
pub use facts::{ContextFacts, DaemonFacts, DomainFacts, ProcessFacts, ServerFacts};

/// Where CUDA looks for a daemon when `CUDA_MPS_PIPE_DIRECTORY` is not set (NVIDIA's MPS guide).
const DEFAULT_DIRECTORY: &str = "/tmp/nvidia-mps";

impl DaemonFacts {
    /// The servers of a daemon that answers; what another says is not believed.
    fn servers(&self) -> &[ServerFacts] {
        let answers = self.health == MpsHealth::Answers;
        self.servers.as_deref().filter(|_| answers).unwrap_or_default()
    }

    /// Why its clients are not known, if they are not.
    fn silence(&self) -> Option<&'static str> {
        let told = |servers: &Vec<ServerFacts>| servers.iter().all(|one| one.clients.is_some());
        match self.health {
            MpsHealth::Gone => None,
            MpsHealth::Frozen => Some("is frozen"),
            MpsHealth::Unknown => Some("answers in a way that gpushare does not know"),
            MpsHealth::Answers if self.servers.as_ref().is_some_and(told) => None,
            MpsHealth::Answers => Some("did not say who its clients are"),
        }
    }
}

impl DomainFacts {
    /// Whether a context on that device may be one of this domain's.
    fn covers(&self, device: &MpsDomain) -> bool {
        // A MIG device that cannot be told is named by its GPU.
        *device == self.domain || matches!(device, MpsDomain::Gpu(gpu) if *gpu == self.gpu)
    }

    fn lists(&self, pid: Pid) -> Option<(&DaemonFacts, &ServerFacts)> {
        let daemon = self.daemon.as_ref()?;
        let server = daemon
            .servers()
            .iter()
            .find(|server| server.clients.as_ref().is_some_and(|clients| clients.contains(&pid)));
        Some((daemon, server?))
    }
}

/// Whether a process is a client of an MPS daemon of ours, and what holds it there.
///
/// [`Verdict::Attached`] only if a server of ours lists it, the caller sees the process ids that the
/// server speaks of, and the driver shows no context of it there that goes past the daemon.
pub fn attachment(simulated: bool, process: &ProcessFacts, domains: &[DomainFacts]) -> Attachment {
    let judged = Attachment {
        schema: ATTACHMENT_SCHEMA.to_owned(),
        simulated,
        pid: process.pid,
        start_time: process.start_time,
        command: process.command.clone(),
        uid: process.uid,
        verdict: Verdict::Unknown,
        domain: None,
        server: None,
        memory: None,
        at_most: AtMost::unknown("it is not known to be a client of a server of ours"),
        declared: process.environment.clone(),
        reasons: Vec::new(),
    };
    if !process.same_pid_namespace {
        let reason = "it is seen from another pid namespace than that of the daemons and the driver, where its number may be another process: look from the host";
        return Attachment { reasons: vec![reason.to_owned()], ..judged };
    }
    let listed = domains.iter().find_map(|domain| {
        domain.lists(process.pid).map(|(daemon, server)| (domain, daemon, server))
    });
    if let Some((domain, daemon, server)) = listed {
        if let Some(doubt) = doubt(process, domain, server) {
            return Attachment { reasons: vec![doubt], ..judged };
        }
        return Attachment {
            verdict: Verdict::Attached,
            domain: Some(domain.domain.clone()),
            server: Some(server.pid),
            memory: memory(process, domain),
            at_most: at_most(process, domain, daemon, server),
            reasons: beside_attached(process, domain, server),
            ..judged
        };
    }
    let unknown = unknowable(process, domains);
    if !unknown.is_empty() {
        return Attachment { reasons: unknown, ..judged };
    }
    Attachment { verdict: Verdict::NotAttached, reasons: missed(process, domains), ..judged }
}

/// What the driver shows that a client would not have. A server's word alone is not enough: a process
/// can be a client and work beside the daemon at once.
fn doubt(process: &ProcessFacts, domain: &DomainFacts, server: &ServerFacts) -> Option<String> {
    let mut there = process.contexts.iter().filter(|c| domain.covers(&c.device)).peekable();
    let listed =
        format!("the MPS server {} of {} lists it as its client", server.pid, name(domain));
    if there.peek().is_none() {
        return (!process.processes_hidden).then(|| {
            format!("{listed}, and the driver shows no context of it there: it has just come, or it is about to go; look again")
        });
    }
    there.any(|context| !context.mps_client).then(|| {
        format!("{listed}, and the driver shows a context of it there that is no MPS client's: no limit holds for that one")
    })
}

/// The memory that NVML says the process uses in a domain.
fn memory(process: &ProcessFacts, domain: &DomainFacts) -> Option<Bytes> {
    let contexts = process.contexts.iter().filter(|context| context.device == domain.domain);
    let used: Option<Vec<u64>> = contexts.map(|context| Some(context.memory?.get())).collect();
    used.filter(|used| !used.is_empty())
        .map(|used| Bytes::new(used.into_iter().fold(0, u64::saturating_add)))
}

/// What the server enforces on the process. A limit is for clients to come: one that came before the last
/// change has what was in force then.
fn at_most(
    process: &ProcessFacts,
    domain: &DomainFacts,
    daemon: &DaemonFacts,
    server: &ServerFacts,
) -> AtMost {
    let Some(limits) = server.limits else {
        return AtMost::unknown("the server did not say what its limits are");
    };
    if daemon.anyone_may_set {
        return AtMost::unknown(
            "with drivers up to 535 whoever the daemon serves can change what it gives",
        );
    }
    match (process.start_time, daemon.changed) {
        (Some(started), Some(changed)) if started > changed => {}
        (_, None) => {
            return AtMost::unknown("it is not known when the server's limits were last changed");
        }
        (None, _) => return AtMost::unknown("it is not known when the process started"),
        _ => {
            return AtMost::unknown(
                "the process started before the server's limits were last changed, and clients keep what was in force when they came",
            );
        }
    }
    let whole = ThreadPercentage::new(limits.thread_percentage.get().ceil());
    let sm_count = domain.sm_count.zip(whole.ok()).map(|(total, whole)| sm_count(whole, total));
    let memory = match (limits.pinned_memory_limit, domain.memory) {
        (Some(limit), Some(memory)) => Some(limit.min(memory)),
        (limit, memory) => limit.or(memory),
    };
    let reason = match (sm_count, memory) {
        (None, None) => Some("the SMs and the memory of the device are not known"),
        (None, _) => Some("the SMs of the device are not known"),
        (_, None) => Some("there is no memory limit, and the memory of the device is not known"),
        _ => None,
    };
    AtMost {
        sm_count,
        thread_percentage: Some(limits.thread_percentage),
        memory,
        reason: reason.map(str::to_owned),
    }
}

/// What is to be said of an attached process.
fn beside_attached(
    process: &ProcessFacts,
    domain: &DomainFacts,
    server: &ServerFacts,
) -> Vec<String> {
    let mut reasons =
        vec![format!("the MPS server {} of {} lists it as its client", server.pid, name(domain))];
    for context in &process.contexts {
        if !domain.covers(&context.device) {
            reasons.push(format!(
                "it also has a context on {}, where this daemon limits nothing",
                device(&context.device)
            ));
        }
    }
    reasons
}

/// Why nobody can tell, if nobody can.
fn unknowable(process: &ProcessFacts, domains: &[DomainFacts]) -> Vec<String> {
    let mut reasons = Vec::new();
    for domain in domains {
        let Some(why) = domain.daemon.as_ref().and_then(DaemonFacts::silence) else { continue };
        // CUDA in a process uses one daemon or none, so a process that is seen elsewhere and not here is not its client.
        let contexts = &process.contexts;
        let elsewhere = !process.processes_hidden
            && !contexts.is_empty()
            && !contexts.iter().any(|context| domain.covers(&context.device));
        if !elsewhere {
            reasons.push(format!(
                "the MPS daemon of {} {why}, so nobody can tell who its clients are",
                name(domain)
            ));
        }
    }
    if process.processes_hidden {
        reasons.push(
            "the driver does not show every process on the GPUs to this user: look as root, from the host"
                .to_owned(),
        );
    }
    for context in process.contexts.iter().filter(|context| context.mps_client) {
        let ours = domains.iter().any(|domain| {
            let answers = |daemon: &DaemonFacts| {
                daemon.health != MpsHealth::Gone && daemon.silence().is_none()
            };
            domain.covers(&context.device) && domain.daemon.as_ref().is_some_and(answers)
        });
        if ours {
            reasons.push(format!(
                "the driver lists it as an MPS client on {}, and no server of ours does: it may be coming or going; look again",
                device(&context.device)
            ));
        }
    }
    reasons
}

/// Why the process is no client of ours.
fn missed(process: &ProcessFacts, domains: &[DomainFacts]) -> Vec<String> {
    let mut reasons = Vec::new();
    let servers = domains.iter().filter(|domain| {
        let daemon = domain.daemon.as_ref();
        daemon.is_some_and(|daemon| daemon.servers().iter().any(|one| one.pid == process.pid))
    });
    for domain in servers {
        reasons.push(format!("it is the MPS server of {} itself", name(domain)));
    }
    if !reasons.is_empty() {
        return reasons;
    }
    if process.contexts.is_empty() {
        reasons.push(
            "it has no context on any GPU: it does not use CUDA yet, or no longer, or not at all"
                .to_owned(),
        );
    }
    for context in &process.contexts {
        reasons.push(missed_on(context, domains));
    }
    let near = |domain: &&DomainFacts| {
        let contexts = &process.contexts;
        contexts.is_empty() || contexts.iter().any(|context| domain.covers(&context.device))
    };
    let near: Vec<_> = domains.iter().filter(near).collect();
    let listening = near.iter().filter_map(|domain| {
        let daemon = domain.daemon.as_ref()?;
        (daemon.health != MpsHealth::Gone).then_some((*domain, daemon))
    });
    reasons.extend(directory(process, &listening.collect::<Vec<_>>()));
    if domains.iter().all(|domain| domain.daemon.is_none()) {
        reasons.push("no MPS daemon of ours runs on this node".to_owned());
    }
    reasons
}

/// Why a context is none of ours.
fn missed_on(context: &ContextFacts, domains: &[DomainFacts]) -> String {
    let device = device(&context.device);
    let here = domains.iter().filter(|domain| domain.covers(&context.device));
    let daemons: Vec<_> = here.filter_map(|domain| domain.daemon.as_ref()).collect();
    let alive = daemons.iter().any(|daemon| daemon.health != MpsHealth::Gone);
    if context.mps_client {
        format!("it is the client of an MPS daemon on {device} that is not ours")
    } else if alive {
        format!(
            "it runs beside the daemon: it has a context on {device} and is not among the daemon's clients"
        )
    } else if daemons.is_empty() {
        format!("it has a context on {device}, where no MPS daemon of ours runs")
    } else {
        format!("it has a context on {device}, where the MPS daemon of ours is gone")
    }
}

/// What its `CUDA_MPS_PIPE_DIRECTORY` has to do with it.
fn directory(process: &ProcessFacts, listening: &[(&DomainFacts, &DaemonFacts)]) -> Option<String> {
    if listening.is_empty() {
        return None;
    }
    let Some(environment) = &process.environment else {
        return Some(
            "its environment cannot be read, so where it looks for a daemon is not known"
                .to_owned(),
        );
    };
    let looks = environment.pipe_directory.as_deref();
    // A trailing slash makes no other directory.
    let path = Path::new(looks.unwrap_or(DEFAULT_DIRECTORY));
    if listening.iter().any(|(_, daemon)| daemon.directory == path) {
        return None;
    }
    let listens: Vec<_> = listening
        .iter()
        .map(|(domain, daemon)| {
            format!("the daemon of {} listens in {}", name(domain), daemon.directory.display())
        })
        .collect();
    let listens = listens.join(", ");
    Some(match looks {
        Some(looks) => format!("its CUDA_MPS_PIPE_DIRECTORY is {looks}, and {listens}"),
        None => format!(
            "it has no CUDA_MPS_PIPE_DIRECTORY, so it looks in {DEFAULT_DIRECTORY}, and {listens}"
        ),
    })
}

fn name(domain: &DomainFacts) -> String {
    device(&domain.domain)
}

fn device(device: &MpsDomain) -> String {
    match device {
        MpsDomain::Gpu(uuid) => format!("GPU {uuid}"),
        MpsDomain::MigDevice(uuid) => format!("MIG device {uuid}"),
    }
}
