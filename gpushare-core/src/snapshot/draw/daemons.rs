//! The MPS daemons of a snapshot, their limits, servers and clients, for people.

use super::mps::{health, limits, role};
use super::page::{Page, Role, Table, memory};
use super::strays::strays;
use super::{INDENT, name, or_dash};
use crate::id::Pid;
use crate::mode::{ComputeMode, MpsHealth};
use crate::process::HolderKind;
use crate::snapshot::{GpuProcess, GpuSnapshot, MigDevice, MpsServer, MpsStatus, Snapshot};

/// Draws the daemons of each GPU: `gpushare mps status`.
pub(crate) fn daemons(page: &mut Page, snapshot: &Snapshot) {
    if snapshot.simulated {
        page.line(Role::Alarm, "SIMULATED");
    }
    for gpu in &snapshot.gpus {
        page.end();
        name(page, gpu);
        page.line(Role::Plain, &format!("{:INDENT$}{}", "", gpu.reason));
        if let Some(mps) = gpu.mps.as_ref().filter(|mps| mps.ours) {
            daemon(page, snapshot.simulated, gpu, mps, None);
        }
        for device in &gpu.mig_devices {
            let Some(mps) = &device.mps else { continue };
            page.end();
            page.line(Role::Plain, &format!("{:INDENT$}{}  {}", "", device.uuid, device.profile));
            daemon(page, snapshot.simulated, gpu, mps, Some(device));
        }
    }
    strays(page, snapshot);
}

/// One daemon: how it is, what it gives, whom it serves.
fn daemon(
    page: &mut Page,
    simulated: bool,
    gpu: &GpuSnapshot,
    mps: &MpsStatus,
    device: Option<&MigDevice>,
) {
    let pid = mps.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    page.line(role(mps), &format!("  daemon{pid} {}", health(mps)));
    if let Some(config) = &mps.config {
        let total = device.map_or(gpu.sm_count, |device| device.sm_count);
        page.line(Role::Plain, &format!("  for {}: {}", config.access, limits(config, total)));
    }
    if let Some(text) = bypass(gpu.compute_mode, device.is_some()) {
        page.line(Role::Plain, &format!("  {text}"));
    }
    if let Some(directory) = &mps.directory {
        let not_there = if simulated { NOT_THERE } else { "" };
        let directory = directory.display();
        page.line(Role::Faint, &format!("  CUDA_MPS_PIPE_DIRECTORY={directory}{not_there}"));
    }
    let mut table = Table::new(&[">PID", ">user", ">memory", "what", "command"]);
    for server in &mps.servers {
        table.row(
            Role::Plain,
            vec![
                server.pid.to_string(),
                "-".to_owned(),
                "-".to_owned(),
                "server".to_owned(),
                server_line(server),
            ],
        );
        for client in &server.clients {
            table.row(Role::Busy, process(gpu, *client, "client"));
        }
    }
    let mut alarms = Vec::new();
    for (pid, relation) in unlisted(gpu, mps, device) {
        table.row(Role::Alarm, process(gpu, pid, relation.word()));
        if !alarms.contains(&relation) {
            alarms.push(relation);
        }
    }
    if !table.is_empty() {
        page.end();
        table.print(page, INDENT);
    }
    for relation in alarms {
        page.line(Role::Alarm, &format!("  {}", relation.meaning()));
    }
}

/// Behind the directory of a simulated daemon, where a shell takes it for a comment.
pub(crate) const NOT_THERE: &str = "  # SIMULATED: it does not exist";

/// What becomes of a process that misses the daemon.
fn bypass(compute_mode: Option<ComputeMode>, on_device: bool) -> Option<String> {
    if on_device {
        let text = "no compute mode: a process that misses the daemon gets the whole MIG device";
        return Some(text.to_owned());
    }
    let mode = compute_mode?;
    let meaning = match mode {
        ComputeMode::Default => "a process that misses the daemon gets the whole GPU",
        ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread => {
            "a process that misses the daemon gets nothing while its server runs"
        }
        ComputeMode::Prohibited => "nobody gets the GPU, through the daemon neither",
    };
    Some(format!("compute mode {mode}: {meaning}"))
}

/// What a process is to a daemon that does not list it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// The driver says that it is a client of a daemon.
    DriverSays,
    /// It is none.
    Beside,
    /// The daemon is silent, and on a MIG device the driver is too.
    Unknown,
}

impl Relation {
    const fn word(self) -> &'static str {
        match self {
            Self::DriverSays => "client",
            Self::Beside => "beside",
            Self::Unknown => "unknown",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::DriverSays => "clients by the driver alone: the daemon does not list them",
            Self::Beside => {
                "beside the daemon: no limit holds for these; `gpushare mps verify PID` says why"
            }
            Self::Unknown => "unknown: the daemon does not say whether these are its clients",
        }
    }
}

/// The processes on a GPU or MIG device that its daemon does not list.
fn unlisted(
    gpu: &GpuSnapshot,
    mps: &MpsStatus,
    device: Option<&MigDevice>,
) -> Vec<(Pid, Relation)> {
    let on_device = |process: &&GpuProcess| {
        device.is_none_or(|device| {
            process.gi.is_none_or(|gi| gi == device.gi)
                && process.ci.is_none_or(|ci| ci == device.ci)
        })
    };
    let listed = |pid: Pid| mps.server_of(pid).is_some();
    let silent = !matches!(mps.health, Some(MpsHealth::Answers | MpsHealth::Gone));
    let relation = |process: &GpuProcess| match process.holder.kind {
        HolderKind::MpsClient => Some(Relation::DriverSays),
        HolderKind::Compute if silent && device.is_some() => Some(Relation::Unknown),
        HolderKind::Compute | HolderKind::ForeignMps => Some(Relation::Beside),
        HolderKind::Graphics | HolderKind::Service | HolderKind::Lease => None,
    };
    let processes = gpu.processes.iter().filter(on_device);
    processes
        .filter(|process| !listed(process.holder.pid))
        .filter_map(|process| Some((process.holder.pid, relation(process)?)))
        .collect()
}

fn server_line(server: &MpsServer) -> String {
    let status = server.status.map(|status| match serde_json::to_value(status) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    });
    let limits = server.thread_percentage.map(|percentage| {
        let memory = server.pinned_memory_limit;
        let memory = memory.map(|limit| format!(" and {limit}")).unwrap_or_default();
        format!("gives clients to come {percentage} %{memory}")
    });
    let parts: Vec<_> = status.into_iter().chain(limits).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn process(gpu: &GpuSnapshot, pid: Pid, what: &str) -> Vec<String> {
    let process = gpu.processes.iter().find(|process| process.holder.pid == pid);
    let command = process.map(|process| process.holder.command.as_str()).unwrap_or_default();
    vec![
        pid.to_string(),
        or_dash(process.and_then(|process| process.holder.uid)),
        process.and_then(|process| process.memory).map_or("-".to_owned(), memory),
        what.to_owned(),
        if command.is_empty() { "?".to_owned() } else { command.to_owned() },
    ]
}
