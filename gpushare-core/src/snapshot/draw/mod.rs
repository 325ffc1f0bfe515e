//! A snapshot for people: a block for each GPU. The command `gpushare status` adds colours.

#[cfg(feature = "cli")]
pub(crate) mod daemons;
pub(crate) mod leases;
pub(crate) mod mps;
pub(crate) mod page;
mod slots;
mod strays;

use std::fmt;

use self::page::{Page, Role, Table, gibibytes, memory};
use crate::id::{ComputeInstanceId, GpuInstanceId};
use crate::mig::fit::fits;
use crate::mode::SharingMode;
use crate::process::{Holder, HolderKind};
use crate::snapshot::{
    GpuProcess, GpuSnapshot, InstanceRecord, MigStatus, MpsStatus, Snapshot, Usage, Visibility,
};
use crate::terminal::count;

const INDENT: usize = 2;

/// Columns of what is drawn for nobody in particular: a string, a file, a pipe.
pub(crate) const WIDTH: usize = 80;

impl fmt::Display for Snapshot {
    /// The GPUs with their modes, instances, users and what would still fit, in lines of at most 80
    /// columns where names and commands allow it, without colours: what `gpushare status` writes to
    /// a file. It is for people and may change; programs read the document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut page = Page::new(WIDTH, None);
        draw(&mut page, self);
        f.write_str(&page.into_text())
    }
}

/// Draws the GPUs of a snapshot.
pub(crate) fn draw(page: &mut Page, snapshot: &Snapshot) {
    draw_some(page, snapshot, snapshot.gpus.len());
}

/// Draws the GPUs of a snapshot that are left of that many.
pub(crate) fn draw_some(page: &mut Page, snapshot: &Snapshot, of: usize) {
    if snapshot.simulated {
        page.line(Role::Alarm, "SIMULATED");
    }
    let driver = &snapshot.driver;
    let cuda = driver.cuda.as_ref().map(|cuda| format!(", CUDA {cuda}")).unwrap_or_default();
    let gpus = match snapshot.gpus.len() {
        shown if shown != of => format!("{shown} of {}", count(of, "GPU")),
        shown => count(shown, "GPU"),
    };
    page.line(Role::Faint, &format!("Driver {}{cuda}, {gpus}", driver.version));
    for gpu in &snapshot.gpus {
        page.end();
        block(page, snapshot, gpu);
    }
    strays::strays(page, snapshot);
    if !snapshot.void_leases.is_empty() {
        page.end();
    }
    for share in &snapshot.void_leases {
        page.line(Role::Alarm, &leases::void(share));
    }
}

fn block(page: &mut Page, snapshot: &Snapshot, gpu: &GpuSnapshot) {
    heading(page, gpu);
    page.line(mode_role(gpu.mode), &format!("{:INDENT$}{}", "", gpu.reason));
    if let Some(journal) = &gpu.unsettled {
        page.line(
            Role::Alarm,
            &format!("  an unfinished change lies here: settle it with `gpushare recover` (journal {journal})"),
        );
    }
    if let Some(line) = parameters(gpu) {
        page.line(Role::Plain, &format!("{:INDENT$}{line}", ""));
    }
    leases::of_gpu(page, gpu);
    let partial = match &gpu.visibility {
        Visibility::Partial { missing } => {
            page.line(
                Role::Alarm,
                &format!(
                    "  seen in part: who may not open {} sees no placements and no users",
                    missing.join(", ")
                ),
            );
            true
        }
        _ => false,
    };
    let mut shown = Vec::new();
    if let Some(mig) = gpu.mig.as_ref().filter(|mig| mig.enabled) {
        let record = gpu.current_record(&snapshot.epoch);
        let records = record.map(|record| &record.instances[..]).unwrap_or_default();
        if !partial {
            page.end();
            slots::draw(page, mig, records, INDENT);
        }
        devices(page, gpu, mig, records, partial, &mut shown);
        if !partial {
            room(page, mig);
        }
    }
    processes(page, gpu, &shown);
}

/// The slices of GPUs with MIG on; of others the mode.
#[cfg(feature = "cli")]
pub(crate) fn slices(page: &mut Page, snapshot: &Snapshot) {
    let mut apart = true;
    for gpu in &snapshot.gpus {
        let mig = gpu.mig.as_ref().filter(|mig| mig.enabled);
        if apart || mig.is_some() {
            page.end();
        }
        apart = mig.is_some();
        name(page, gpu);
        if let Some(line) = parameters(gpu) {
            page.line(Role::Plain, &format!("{:INDENT$}{line}", ""));
        }
        if let Some(mig) = mig {
            let record = gpu.current_record(&snapshot.epoch);
            let records = record.map(|record| &record.instances[..]).unwrap_or_default();
            slots::draw(page, mig, records, INDENT);
            devices(page, gpu, mig, records, false, &mut Vec::new());
        }
    }
}

fn heading(page: &mut Page, gpu: &GpuSnapshot) {
    name(page, gpu);
    let mut facts = vec![gpu.uuid.to_string()];
    facts.extend(gpu.pci.map(|pci| pci.to_string()));
    facts.extend(gpu.memory.map(memory));
    facts.extend(gpu.sm_count.map(|count| format!("{count} SMs")));
    page.line(Role::Faint, &format!("{:INDENT$}{}", "", facts.join("  ")));
}

fn name(page: &mut Page, gpu: &GpuSnapshot) {
    let name = gpu.index.map_or("GPU ?".to_owned(), |index| format!("GPU {index}"));
    page.put(Role::Heading, &name);
    if !gpu.model.is_empty() {
        page.put(Role::Plain, "  ").put(Role::Plain, &gpu.model);
    }
    page.put(Role::Plain, "  ").put(mode_role(gpu.mode), gpu.mode.as_str());
    page.end();
}

const fn mode_role(mode: SharingMode) -> Role {
    match mode {
        SharingMode::Lost
        | SharingMode::Pending
        | SharingMode::Closed
        | SharingMode::Foreign
        | SharingMode::Degraded => Role::Alarm,
        _ => Role::Plain,
    }
}

/// The parameters of the mode that somebody set.
fn parameters(gpu: &GpuSnapshot) -> Option<String> {
    if let Some(MpsStatus { config: Some(config), .. }) = &gpu.mps {
        return Some(mps::limits(config, gpu.sm_count));
    }
    let slicing = gpu.time_sliced.as_ref()?;
    let replicas = count(slicing.replicas?, "replica");
    let interval =
        slicing.interval.map(|interval| format!(", {interval} interval")).unwrap_or_default();
    Some(replicas + &interval)
}

/// The MIG devices, with who uses each; GPU instances that nobody can use among them.
fn devices(
    page: &mut Page,
    gpu: &GpuSnapshot,
    mig: &MigStatus,
    records: &[InstanceRecord],
    partial: bool,
    shown: &mut Vec<(GpuInstanceId, ComputeInstanceId)>,
) {
    let named = gpu.mig_devices.iter().any(|device| device.name.is_some())
        || records.iter().any(|record| record.name.is_some());
    let mut headings = vec!["MIG device", "profile", "GI/CI", ">at", ">GiB", ">SMs"];
    headings.extend(named.then_some("name"));
    let mut table = Table::new(&headings);
    for device in &gpu.mig_devices {
        let role = match &device.usage {
            Usage::Busy(_) => Role::Busy,
            _ => Role::Plain,
        };
        let mut cells = vec![
            device.uuid.to_string(),
            device.profile.to_string(),
            format!("{}/{}", device.gi, device.ci),
            or_dash(device.start),
            device.memory.map_or("-".to_owned(), gibibytes),
            or_dash(device.sm_count),
        ];
        cells.extend(named.then(|| device.name.clone().unwrap_or_default()));
        table.row(role, cells);
        mps::below(&mut table, device);
        for line in leases::of_device(gpu, device.uuid.as_str()) {
            table.below(Role::Busy, line);
        }
        let at_work = |holder: &&Holder| holder.kind != HolderKind::Lease;
        for holder in device.usage.holders().iter().filter(at_work) {
            let process = gpu.processes.iter().find(|process| process.holder.pid == holder.pid);
            let memory = process.and_then(|process| process.memory).map(memory);
            let memory = memory.map(|memory| format!(", {memory}")).unwrap_or_default();
            table.below(Role::Busy, format!("in use by {holder}{memory}"));
        }
        if device.usage == Usage::Unknown && !partial {
            table.below(Role::Plain, "who uses it could not be seen".to_owned());
        }
        if !device.usage.holders().is_empty() {
            shown.push((device.gi, device.ci));
        }
    }
    for instance in mig.gpu_instances.iter().filter(|gi| gi.compute_instances.is_empty()) {
        let mut cells = vec![
            "no compute instance: nobody can use it".to_owned(),
            instance.name.to_string(),
            format!("{}/-", instance.id),
            instance.placement.start.to_string(),
            "-".to_owned(),
            "-".to_owned(),
        ];
        let record = records.iter().find(|record| record.placement == instance.placement);
        let name = record.and_then(|record| record.name.clone());
        cells.extend(named.then(|| name.unwrap_or_default()));
        table.row(Role::Alarm, cells);
    }
    for instance in &mig.gpu_instances {
        for holder in instance.usage.holders() {
            table.below(
                Role::Busy,
                format!("GPU instance {} itself is in use by {holder}", instance.id),
            );
        }
    }
    if !table.is_empty() {
        page.end();
        table.print(page, INDENT);
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// What would still fit beside the instances.
fn room(page: &mut Page, mig: &MigStatus) {
    let placed: Vec<_> = mig
        .gpu_instances
        .iter()
        .filter_map(|gi| Some((mig.geometry.position(gi.profile)?, gi.placement)))
        .collect();
    let items: Vec<_> = fits(&mig.geometry, &placed)
        .iter()
        .filter_map(|fit| {
            let starts: Vec<_> =
                fit.placements.iter().map(|placement| placement.start.to_string()).collect();
            let name = mig.geometry.profiles().get(fit.profile)?.name;
            Some(format!("{name} at {}", starts.join("/")))
        })
        .collect();
    page.end();
    if items.is_empty() {
        page.line(Role::Faint, "  nothing more fits");
    } else {
        page.list("  still fits  ", &items);
    }
}

/// Processes that stand under no MIG device.
fn processes(page: &mut Page, gpu: &GpuSnapshot, shown: &[(GpuInstanceId, ComputeInstanceId)]) {
    let under = |process: &&GpuProcess| match (process.gi, process.ci) {
        (Some(gi), Some(ci)) => shown.contains(&(gi, ci)),
        _ => false,
    };
    let mut table = Table::new(&[">PID", ">user", ">memory", "what", "command"]);
    for process in gpu.processes.iter().filter(|process| !under(process)) {
        let holder = &process.holder;
        let what = match serde_json::to_value(holder.kind) {
            Ok(serde_json::Value::String(word)) => word,
            _ => String::new(),
        };
        let command = if holder.command.is_empty() { "?" } else { &holder.command };
        let protected = holder
            .protected
            .as_ref()
            .map(|why| format!("  [never evicted: {why}]"))
            .unwrap_or_default();
        table.row(
            Role::Busy,
            vec![
                holder.pid.to_string(),
                or_dash(holder.uid),
                process.memory.map_or("-".to_owned(), memory),
                what,
                format!("{command}{protected}"),
            ],
        );
    }
    if !table.is_empty() {
        page.end();
        table.print(page, INDENT);
    }
}
