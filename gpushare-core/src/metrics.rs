//! Metrics: a node's GPUs, shares, tenants and transitions in Prometheus' text format.
//!
//! [`Node::metrics`](crate::Node::metrics) gathers what they are made of. A scraper of files
//! (node_exporter's textfile collector) reads what `gpushare metrics --output FILE` writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use crate::hazard::{self, MpsTarget};
use crate::id::{Pid, ShareId};
use crate::mode::SharingMode;
use crate::snapshot::{GpuProcess, GpuSnapshot, MpsStatus, Share, Snapshot};
use crate::terminal::obeyed;
use crate::units::Bytes;

/// How many transitions of this node came to what, since its state directory was made.
pub type Transitions = BTreeMap<&'static str, u64>;

/// The parents of processes: each with itself first, as far as they are seen.
pub type Ancestries = BTreeMap<Pid, Vec<Pid>>;

/// The metrics of a snapshot, in Prometheus' text format 0.0.4.
///
/// A process on a GPU counts for the lease of the nearest of its ancestors, itself included, that holds a
/// share of that device; what nobody leased has an empty `share`.
pub fn text(
    snapshot: &Snapshot,
    ancestries: &Ancestries,
    waiting: usize,
    transitions: &Transitions,
) -> String {
    let mut page = Page::default();
    let driver = &snapshot.driver;
    page.family("gpushare_info", "gauge", "The driver, and whether the node is simulated.");
    page.sample(
        &[
            ("driver", &driver.version),
            ("cuda", &driver.cuda.as_deref().unwrap_or_default()),
            ("simulated", &snapshot.simulated),
        ],
        1,
    );
    gpus(&mut page, &snapshot.gpus);
    mig(&mut page, &snapshot.gpus);
    shares(&mut page, &snapshot.gpus, waiting);
    page.family("gpushare_void_leases", "gauge", "Leases of shares that are no more.");
    page.sample(&[], snapshot.void_leases.len());
    tenants(&mut page, &snapshot.gpus, ancestries);
    daemons(&mut page, &snapshot.gpus);
    hazards(&mut page, &snapshot.gpus);
    page.family(
        "gpushare_transitions_total",
        "counter",
        "Changes of this node by gpushare, by what came of them.",
    );
    for (outcome, count) in transitions {
        page.sample(&[("outcome", outcome)], count);
    }
    page.0
}

/// The name of a metric, its help, and whether it is so.
type Flag = (&'static str, &'static str, fn(&GpuSnapshot) -> bool);

fn gpus(page: &mut Page, gpus: &[GpuSnapshot]) {
    page.family("gpushare_gpu_info", "gauge", "A GPU.");
    for gpu in gpus {
        let index = gpu.index.map(|index| index.to_string()).unwrap_or_default();
        let pci = gpu.pci.as_ref().map(ToString::to_string).unwrap_or_default();
        page.sample(
            &[("gpu", &gpu.uuid), ("index", &index), ("pci", &pci), ("model", &gpu.model)],
            1,
        );
    }
    page.family("gpushare_gpu_mode", "gauge", "How a GPU is shared: 1 for the mode that it is in.");
    for gpu in gpus {
        for mode in SharingMode::ALL {
            page.sample(&[("gpu", &gpu.uuid), ("mode", mode)], u8::from(*mode == gpu.mode));
        }
    }
    page.family("gpushare_gpu_memory_bytes", "gauge", "The memory of a GPU.");
    for (gpu, memory) in gpus.iter().filter_map(|gpu| Some((gpu, gpu.memory?))) {
        page.sample(&[("gpu", &gpu.uuid)], memory.get());
    }
    let flags: [Flag; 3] = [
        ("gpushare_gpu_cordoned", "Whether no new leases of a GPU are given.", |gpu| {
            gpu.cordoned.is_some()
        }),
        ("gpushare_gpu_unsettled", "Whether a change of a GPU was not finished.", |gpu| {
            gpu.unsettled.is_some()
        }),
        (
            "gpushare_gpu_processes_hidden",
            "Whether the driver did not show who uses a GPU.",
            |gpu| gpu.processes_hidden,
        ),
    ];
    for (name, help, is_so) in flags {
        page.family(name, "gauge", help);
        for gpu in gpus {
            page.sample(&[("gpu", &gpu.uuid)], u8::from(is_so(gpu)));
        }
    }
}

fn mig(page: &mut Page, gpus: &[GpuSnapshot]) {
    page.family("gpushare_mig_device_info", "gauge", "A MIG device.");
    for gpu in gpus {
        for device in &gpu.mig_devices {
            let start = device.start.map(|start| start.to_string()).unwrap_or_default();
            page.sample(
                &[
                    ("gpu", &gpu.uuid),
                    ("mig_device", &device.uuid),
                    ("profile", &device.profile),
                    ("start", &start),
                    ("name", &device.name.as_deref().unwrap_or_default()),
                ],
                1,
            );
        }
    }
    page.family("gpushare_mig_device_memory_bytes", "gauge", "The memory of a MIG device.");
    for gpu in gpus {
        for (device, memory) in gpu.mig_devices.iter().filter_map(|d| Some((d, d.memory?))) {
            page.sample(&[("gpu", &gpu.uuid), ("mig_device", &device.uuid)], memory.get());
        }
    }
}

fn shares(page: &mut Page, gpus: &[GpuSnapshot], waiting: usize) {
    let all = || gpus.iter().flat_map(|gpu| gpu.shares.iter().map(move |share| (gpu, share)));
    page.family("gpushare_share_leased", "gauge", "Whether a share is leased.");
    for (gpu, share) in all() {
        page.sample(
            &[("gpu", &gpu.uuid), ("device", &share.id.device()), ("share", &share.id)],
            u8::from(share.is_leased()),
        );
    }
    page.family(
        "gpushare_lease_start_time_seconds",
        "gauge",
        "When the lease of a share began, in seconds since 1970, as its taker said.",
    );
    let leases = || all().filter_map(|(_, share)| Some((share, share.lease.as_ref()?)));
    let name = |share: &Share| {
        share.lease.as_ref().and_then(|lease| lease.name.clone()).unwrap_or_default()
    };
    for (share, since) in leases().filter_map(|(share, lease)| Some((share, lease.since?))) {
        page.sample(&[("share", &share.id), ("lease", &name(share))], since);
    }
    page.family(
        "gpushare_lease_declared_memory_bytes",
        "gauge",
        "The device memory that a lease declared for its tenant.",
    );
    for (share, limit) in
        leases().filter_map(|(share, lease)| Some((share, lease.terms.pinned_memory_limit?)))
    {
        page.sample(&[("share", &share.id), ("lease", &name(share))], limit.get());
    }
    page.family("gpushare_waiting", "gauge", "How many wait for a share.");
    page.sample(&[], waiting);
}

/// The share by which a process is on a device.
fn share_of<'a>(gpu: &'a GpuSnapshot, process: &GpuProcess, ancestry: &[Pid]) -> Option<&'a Share> {
    let device =
        gpu.mig_devices.iter().find(|d| (Some(d.gi), Some(d.ci)) == (process.gi, process.ci));
    let device = device.map_or(gpu.uuid.as_str(), |device| device.uuid.as_str());
    let is_of = |share: &&Share, pid: Pid| {
        let holder = share.holder.as_ref().map(|holder| holder.pid);
        let other = share.lease.as_ref().and_then(|lease| lease.for_pid);
        share.id.device() == device && (holder == Some(pid) || other == Some(pid))
    };
    ancestry.iter().find_map(|&pid| gpu.shares.iter().find(|share| is_of(share, pid)))
}

fn tenants(page: &mut Page, gpus: &[GpuSnapshot], ancestries: &Ancestries) {
    page.family(
        "gpushare_process_memory_bytes",
        "gauge",
        "The device memory of a process, with the share and lease by which it is there.",
    );
    let mut by_share: BTreeMap<&ShareId, (&GpuSnapshot, BTreeSet<Pid>, u64)> = BTreeMap::new();
    for gpu in gpus {
        // A process with two contexts is listed twice.
        let mut seen = BTreeSet::new();
        for process in &gpu.processes {
            let pid = process.holder.pid;
            if !seen.insert((pid, process.gi, process.ci)) {
                continue;
            }
            let alone = [pid];
            let ancestry = ancestries.get(&pid).map_or(&alone[..], Vec::as_slice);
            let share = share_of(gpu, process, ancestry);
            let memory = process.memory.map_or(0, Bytes::get);
            if let Some(share) = share {
                let tenant = by_share.entry(&share.id).or_insert((gpu, BTreeSet::new(), 0));
                tenant.1.insert(pid);
                tenant.2 = tenant.2.saturating_add(memory);
            }
            let id = share.map(|share| share.id.to_string()).unwrap_or_default();
            let lease = share.and_then(|share| share.lease.as_ref()?.name.clone());
            let uid = process.holder.uid.map(|uid| uid.to_string()).unwrap_or_default();
            let instance = process.gi.map(|gi| gi.to_string()).unwrap_or_default();
            if process.memory.is_some() {
                page.sample(
                    &[
                        ("gpu", &gpu.uuid),
                        ("gpu_instance", &instance),
                        ("pid", &pid),
                        ("uid", &uid),
                        // Metrics are kept, and by others.
                        ("command", &process.holder.without_arguments().command),
                        ("share", &id),
                        ("lease", &lease.unwrap_or_default()),
                    ],
                    memory,
                );
            }
        }
    }
    page.family("gpushare_share_processes", "gauge", "Processes on a GPU by a share of it.");
    for (share, (gpu, pids, _)) in &by_share {
        page.sample(&[("gpu", &gpu.uuid), ("share", share)], pids.len());
    }
    page.family(
        "gpushare_share_memory_bytes",
        "gauge",
        "Their device memory, as far as it is known.",
    );
    for (share, (gpu, _, memory)) in &by_share {
        page.sample(&[("gpu", &gpu.uuid), ("share", share)], memory);
    }
}

/// The MPS daemons with what they serve.
fn served(gpus: &[GpuSnapshot]) -> impl Iterator<Item = (String, &GpuSnapshot, &MpsStatus)> {
    gpus.iter().flat_map(|gpu| {
        let whole = gpu.mps.iter().map(move |mps| (gpu.uuid.to_string(), gpu, mps));
        let parts = gpu.mig_devices.iter();
        whole.chain(parts.filter_map(move |d| Some((d.uuid.to_string(), gpu, d.mps.as_ref()?))))
    })
}

fn daemons(page: &mut Page, gpus: &[GpuSnapshot]) {
    page.family(
        "gpushare_mps_up",
        "gauge",
        "Whether an MPS daemon answers and lets its clients in.",
    );
    for (device, gpu, mps) in served(gpus) {
        page.sample(
            &[("gpu", &gpu.uuid), ("device", &device), ("ours", &mps.ours)],
            u8::from(mps.alive),
        );
    }
    page.family("gpushare_mps_clients", "gauge", "The clients of an MPS daemon of gpushare's.");
    for (device, gpu, mps) in served(gpus).filter(|(.., mps)| mps.ours && mps.alive) {
        let clients: usize = mps.servers.iter().map(|server| server.clients.len()).sum();
        page.sample(&[("gpu", &gpu.uuid), ("device", &device)], clients);
    }
    page.family(
        "gpushare_mps_thread_percentage",
        "gauge",
        "The share of threads that each client of an MPS daemon gets at most.",
    );
    for (device, gpu, mps) in served(gpus) {
        if let Some(config) = &mps.config {
            page.sample(&[("gpu", &gpu.uuid), ("device", &device)], config.thread_percentage);
        }
    }
}

fn hazards(page: &mut Page, gpus: &[GpuSnapshot]) {
    page.family(
        "gpushare_hazard_in_force",
        "gauge",
        "A setting that is in force on a GPU, works, and harms.",
    );
    // Daemons of several MIG devices of a GPU may have the same.
    let mut said = BTreeSet::new();
    for (_, gpu, mps) in served(gpus).filter(|(.., mps)| mps.ours) {
        let Some(config) = &mps.config else { continue };
        let device = gpu.mig_devices.iter().find(|device| device.mps.as_ref() == Some(mps));
        let target = match device {
            Some(device) => MpsTarget::of_mig_device(gpu, device.sm_count, device.memory),
            None => MpsTarget::of_gpu(gpu),
        };
        for hazard in hazard::of_mps_on(&target, config) {
            if said.insert((&gpu.uuid, hazard.name)) {
                page.sample(&[("gpu", &gpu.uuid), ("hazard", &hazard.name)], 1);
            }
        }
    }
}

/// The text, family after family: each has a type, a help and its samples.
#[derive(Debug, Default)]
struct Page(String, &'static str);

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        // A string takes all that is written.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &dyn fmt::Display)], value: impl fmt::Display) {
        self.0.push_str(self.1);
        for (position, (name, value)) in labels.iter().enumerate() {
            self.0.push_str(if position == 0 { "{" } else { "," });
            let _ = write!(self.0, "{name}=\"{}\"", escaped(&value.to_string()));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// A label's value: commands are named by anybody.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter if obeyed(letter) => text.push('\u{fffd}'),
            letter => text.push(letter),
        }
    }
    text
}
