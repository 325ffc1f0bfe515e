//! `gres.conf` of Slurm 22.05 and newer, with the lines that `slurm.conf` needs.
//!
//! Slurm counts GPUs, shards of a GPU (`shard`: jobs side by side, nothing else) and percent of a GPU
//! (`mps`: the same, and the job is told its percentage). What an MPS daemon of gpushare gives each
//! client is one shard; a daemon without a limit leaves the percentage to the job, and so to Slurm.

use std::collections::BTreeMap;
use std::path::Path;

use super::Options;
use super::kubernetes::{expect_allowed, hazards};
use super::tenants::{of_gpu, unusable};
use crate::error::{Error, ErrorCode, Result};
use crate::hazard::{HazardName, MpsTarget};
use crate::mode::{Interval, SharingMode};
use crate::snapshot::{DeviceNode, GpuSnapshot, MigDevice, MpsStatus, Snapshot};
use crate::units::ThreadPercentage;

/// The node where none is given.
const NODE: &str = "NODE";
/// What Slurm has of each GPU that it gives by percent.
const PERCENT: usize = 100;

/// What the shared GPUs of a node are made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    None,
    Shards,
    Percent,
}

/// One line of `gres.conf`, and what it adds to the node's `Gres`.
struct Line {
    name: &'static str,
    kind: Option<String>,
    count: usize,
    files: Vec<String>,
}

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let node = options.node.as_deref().map(expect_node).transpose()?;
    let (mut cannot_say, mut lines) = (Vec::new(), Vec::new());
    let parts = parts(snapshot);
    for gpu in &snapshot.gpus {
        let mut say = |what: &str| cannot_say.push(of_gpu(gpu, what));
        if let Some(why) = unusable(gpu) {
            say(why);
            continue;
        }
        if let Some(why) = &gpu.cordoned {
            say(&format!("that it is cordoned ({why}): drain the node, or leave out its lines"));
        }
        if gpu.mode == SharingMode::Mig {
            say(if gpu.mig_devices.is_empty() {
                "MIG is on and it has no MIG device; left out"
            } else {
                "the uuids of its MIG devices: Slurm numbers them and the GPUs beside them in one list, and CUDA takes these numbers for other devices; AutoDetect=nvml or gpushare's plugin for Slurm tells a job its uuid"
            });
            for device in &gpu.mig_devices {
                lines.extend(mig_device(gpu, device, options, &mut say));
            }
        } else {
            lines.extend(whole(gpu, parts, options, &mut say)?);
        }
    }
    // Slurm wants the GPUs before what is made of them.
    lines.sort_by_key(|line: &Line| ["gpu", "shard", "mps"].iter().position(|n| *n == line.name));
    Ok((text(node, &lines), cannot_say))
}

fn text(node: Option<&str>, lines: &[Line]) -> String {
    let mut names: Vec<&str> = lines.iter().map(|line| line.name).collect();
    names.dedup();
    let mut counts: BTreeMap<(usize, Option<&str>), usize> = BTreeMap::new();
    for line in lines {
        let place = names.iter().position(|name| *name == line.name).unwrap_or_default();
        *counts.entry((place, line.kind.as_deref())).or_default() += line.count;
    }
    let gres = counts.iter().filter_map(|((place, kind), count)| {
        let kind = kind.map_or_else(String::new, |kind| format!("{kind}:"));
        Some(format!("{}:{kind}{count}", names.get(*place)?))
    });
    let gres: Vec<_> = gres.collect();
    let mut text = String::new();
    if gres.is_empty() {
        text.push_str("# There is no GPU here that a job could have.\n");
    } else {
        text.push_str("# In slurm.conf, with what the node's line says beside:\n");
        text.push_str(&format!("#   GresTypes={}\n", names.join(",")));
        text.push_str(&format!("#   NodeName={} Gres={}\n", node.unwrap_or(NODE), gres.join(",")));
    }
    if names.iter().any(|name| *name != "gpu") {
        text.push_str("#   SelectType=select/cons_tres\n");
    }
    let before = node.map_or_else(String::new, |node| format!("NodeName={node} "));
    text.push_str(&format!("{before}AutoDetect=off\n"));
    for line in lines {
        text.push_str(&format!("{before}Name={}", line.name));
        if let Some(kind) = &line.kind {
            text.push_str(&format!(" Type={kind}"));
        }
        if line.name != "gpu" {
            text.push_str(&format!(" Count={}", line.count));
        }
        let word = if line.files.len() > 1 { "MultipleFiles" } else { "File" };
        text.push_str(&format!(" {word}={}\n", line.files.join(",")));
    }
    text
}

/// A whole GPU, and what is made of it.
fn whole(
    gpu: &GpuSnapshot,
    parts: Parts,
    options: &Options,
    say: &mut impl FnMut(&str),
) -> Result<Vec<Line>> {
    let files = match files(options, gpu.uuid.as_str()) {
        Ok(files) => files,
        Err(why) => {
            say(&why);
            return Ok(Vec::new());
        }
    };
    let line = |name, count| Line { name, kind: None, count, files: files.clone() };
    let mut lines = vec![Line { kind: word(&gpu.model), ..line("gpu", 1) }];
    let shares = gpu.shares.len();
    if let Some(mps) = gpu.mps.as_ref() {
        daemon(mps, say);
    }
    let interval = gpu.time_sliced.as_ref().and_then(|status| status.interval);
    if let Some(interval) = interval.filter(|interval| *interval != Interval::Default) {
        say(&format!("the length of turns ({interval})"));
    }
    match parts {
        _ if shares < 2 => {}
        Parts::None => say(&format!(
            "its {shares} shares: on a node with MIG devices Slurm would take every device node of one for a GPU; a job has all of it"
        )),
        Parts::Percent => {
            expect_every_percentage(gpu, &options.allow_hazards)?;
            lines.push(line("mps", PERCENT));
        }
        Parts::Shards => {
            if leaves_it_to_the_job(gpu) {
                say("that a job may ask for a percentage: a node has shards, or percent");
            }
            lines.push(line("shard", shares));
        }
    }
    Ok(lines)
}

/// A MIG device: the GPU's node and its two capabilities are one thing.
fn mig_device(
    gpu: &GpuSnapshot,
    device: &MigDevice,
    options: &Options,
    say: &mut impl FnMut(&str),
) -> Option<Line> {
    let mut say = |what: &str| say(&format!("{} ({}): {what}", device.uuid, device.profile));
    let files = match files(options, device.uuid.as_str()) {
        Ok(files) if files.len() == 3 => files,
        Ok(_) => {
            say("its capabilities' nodes are not known; left out");
            return None;
        }
        Err(why) => {
            say(&why);
            return None;
        }
    };
    let shares = gpu.shares.iter().filter(|share| share.id.device() == device.uuid.as_str());
    let shares = shares.count();
    if device.mps.is_some() {
        say("its MPS daemon: Slurm shares no MIG device; a job has all of it");
    } else if shares > 1 {
        say(&format!("its {shares} replicas: Slurm shares no MIG device; a job has all of it"));
    }
    let kind = word(&device.profile.to_string());
    Some(Line { name: "gpu", kind, count: 1, files })
}

/// Where a daemon listens is not among what Slurm tells a job.
fn daemon(mps: &MpsStatus, say: &mut impl FnMut(&str)) {
    let place = match &mps.directory {
        Some(directory) => format!(" ({})", directory.display()),
        None => String::new(),
    };
    say(&format!(
        "where its MPS daemon listens{place}: a job needs CUDA_MPS_PIPE_DIRECTORY and CUDA_VISIBLE_DEVICES with the uuid, from gpushare's plugin for Slurm or a TaskProlog"
    ));
}

/// Whether the daemon of a GPU gives every client what it asks for, to as many as the driver takes.
fn leaves_it_to_the_job(gpu: &GpuSnapshot) -> bool {
    let config = gpu.mps.as_ref().and_then(|mps| mps.config.as_ref());
    config.is_some_and(|config| {
        config.thread_percentage == ThreadPercentage::FULL && config.max_clients.is_none()
    })
}

/// What of a node comes in parts. Slurm 22.05.8 was seen to mix things up elsewhere: with shards beside
/// MIG devices every device node of these is a GPU, and with shards beside percent a job is told 0 %.
fn parts(snapshot: &Snapshot) -> Parts {
    if snapshot.gpus.iter().any(|gpu| !gpu.mig_devices.is_empty()) {
        return Parts::None;
    }
    let mut shared = snapshot.gpus.iter().filter(|gpu| gpu.shares.len() > 1);
    if shared.all(leaves_it_to_the_job) { Parts::Percent } else { Parts::Shards }
}

/// Slurm tells a job whatever percentage it asked for.
///
/// # Errors
/// HAZARD where results are wrong at some of them.
fn expect_every_percentage(gpu: &GpuSnapshot, allowed: &[HazardName]) -> Result<()> {
    let target = MpsTarget::of_gpu(gpu);
    for whole in 1..PERCENT as u32 {
        let Ok(percentage) = ThreadPercentage::new(whole.into()) else { continue };
        let mut found = hazards(&target, percentage, None);
        // A job that asks for less than there is to give gets more: no result is wrong.
        found.retain(|hazard| hazard.name != HazardName::MinimumSm);
        for hazard in &mut found {
            hazard.safe = vec![
                "a daemon with a thread percentage or --max-clients, which is exported as shards"
                    .to_owned(),
            ];
        }
        let what = format!("a job may ask for mps:{whole}, and is told {whole} %");
        expect_allowed(&target, found, allowed, &what)?;
    }
    Ok(())
}

/// The device nodes of a device, as words of a line.
///
/// # Errors
/// Why it cannot be written down.
fn files(options: &Options, uuid: &str) -> Result<Vec<String>, String> {
    let nodes = options.device_nodes.get(uuid).map(Vec::as_slice).unwrap_or_default();
    if nodes.is_empty() {
        return Err("its device node is not known; left out".to_owned());
    }
    if let Some(makes) = nodes.iter().find_map(|node| node.missing.as_ref()) {
        return Err(format!("a device node of it is not there ({makes}); left out"));
    }
    let plain = |node: &DeviceNode| Some(plain(&node.path)?.to_owned());
    let files: Option<Vec<String>> = nodes.iter().map(plain).collect();
    files.ok_or_else(|| {
        "its device nodes have names that Slurm would read otherwise; left out".to_owned()
    })
}

/// A path in which nothing means something to Slurm: blanks, commas, comments, ranges.
fn plain(path: &Path) -> Option<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    path.to_str().filter(|text| text.starts_with('/') && text.chars().all(good))
}

/// A word for a type of GPU: what its name has, in small letters. Slurm's own names of GPUs have it in them.
fn word(name: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let word: String =
        name.chars().map(|c| if good(c) { c.to_ascii_lowercase() } else { '_' }).collect();
    let word = word.trim_matches(['_', '.', '-']);
    (!word.is_empty()).then(|| word.to_owned())
}

/// The name of a node.
///
/// # Errors
/// INVALID_ARGUMENT.
fn expect_node(text: &str) -> Result<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good) {
        return Ok(text);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "{text:?} is no node's name: letters, digits, -, _ and ., as NodeName in slurm.conf"
        ),
    ))
}
