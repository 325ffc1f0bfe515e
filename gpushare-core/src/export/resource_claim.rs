//! Claims for NVIDIA's DRA driver for Kubernetes (resource.k8s.io/v1, resource.nvidia.com/v1beta1).
//!
//! A device for one tenant is a ResourceClaimTemplate: each pod that names it asks for the device
//! itself, and the scheduler gives it once. A device that is shared is a ResourceClaim: the pods that
//! name it share what was allocated to it, in the way that it says.

use super::Options;
use super::kubernetes::{expect_allowed, hazards};
use super::tenants::{of_gpu, unusable};
use crate::error::{Error, ErrorCode, Result};
use crate::hazard::MpsTarget;
use crate::mode::{Interval, Priority, SharingMode};
use crate::parameters::{MpsComputeMode, MpsConfig};
use crate::snapshot::{GpuSnapshot, MigDevice, Snapshot};
use crate::spec::tree::{Node, yaml_text};
use crate::units::ThreadPercentage;

/// The driver, and the domain of its attributes.
const DRIVER: &str = "gpu.nvidia.com";
const REQUEST: &str = "gpu";
const COMMENTS: [&str; 3] = [
    "Kubernetes 1.34 or newer, NVIDIA's DRA driver for GPUs.",
    "Its feature gates TimeSlicingSettings (turns) and MPSSupport (MPS) are off unless they are switched on.",
    "A pod names a ResourceClaimTemplate by resourceClaimTemplateName, a ResourceClaim, which pods share, by resourceClaimName.",
];

/// What the driver is told to do with a device.
struct Sharing {
    kind: &'static str,
    fields: Vec<(&'static str, Node)>,
}

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let (mut cannot_say, mut documents) = (Vec::new(), Vec::new());
    for gpu in &snapshot.gpus {
        let mut say = |what: &str| cannot_say.push(of_gpu(gpu, what));
        if let Some(why) = unusable(gpu) {
            say(why);
            continue;
        }
        if let Some(why) = &gpu.cordoned {
            say(&format!("that it is cordoned ({why}): its claims are written all the same"));
        }
        let name = match gpu.index {
            Some(index) => format!("gpushare-gpu{index}"),
            None => format!("gpushare-{}", gpu.uuid.to_string().to_ascii_lowercase()),
        };
        if gpu.mode != SharingMode::Mig {
            let sharing = whole(gpu, options, &mut say)?;
            let select = format!("device.attributes['{DRIVER}'].uuid == '{}'", gpu.uuid);
            documents.push(claim(&name, "gpu.nvidia.com", &select, sharing));
            continue;
        }
        if gpu.mig_devices.is_empty() {
            say("MIG is on and it has no MIG device");
        }
        for (number, device) in gpu.mig_devices.iter().enumerate() {
            let sharing = mig_device(gpu, device, options, &mut say)?;
            // By profile: uuids are new whenever instances are made anew.
            let select = format!(
                "device.attributes['{DRIVER}'].profile == '{}' && device.attributes['{DRIVER}'].parentUUID == '{}'",
                device.profile, gpu.uuid
            );
            documents.push(claim(
                &format!("{name}-mig{number}"),
                "mig.nvidia.com",
                &select,
                sharing,
            ));
        }
    }
    if documents.is_empty() {
        return Err(Error::new(
            ErrorCode::NotFound,
            "there is no device here that a pod could claim",
        ));
    }
    let mut text: String = COMMENTS.iter().map(|line| format!("# {line}\n")).collect();
    text.push_str(&documents.join("---\n"));
    Ok((text, cannot_say))
}

/// One document.
fn claim(name: &str, class: &str, select: &str, sharing: Option<Sharing>) -> String {
    let selector = Node::map([("cel", Node::map([("expression", Node::text(select))]))]);
    let exactly =
        Node::map([("deviceClassName", Node::text(class)), ("selectors", Node::list([selector]))]);
    let request = Node::map([("name", Node::text(REQUEST)), ("exactly", exactly)]);
    let mut devices = vec![("requests", Node::list([request]))];
    let shared = sharing.is_some();
    if let Some(sharing) = sharing {
        let parameters = Node::map([
            ("apiVersion", Node::text("resource.nvidia.com/v1beta1")),
            ("kind", Node::text(sharing.kind)),
            ("sharing", Node::map(sharing.fields)),
        ]);
        let opaque = Node::map([("driver", Node::text(DRIVER)), ("parameters", parameters)]);
        let requests = Node::list([Node::text(REQUEST)]);
        let config = Node::map([("requests", requests), ("opaque", opaque)]);
        devices.push(("config", Node::list([config])));
    }
    let spec = Node::map([("devices", Node::map(devices))]);
    let (kind, spec) = if shared {
        ("ResourceClaim", spec)
    } else {
        ("ResourceClaimTemplate", Node::map([("spec", spec)]))
    };
    yaml_text(&Node::map([
        ("apiVersion", Node::text("resource.k8s.io/v1")),
        ("kind", Node::text(kind)),
        ("metadata", Node::map([("name", Node::text(name))])),
        ("spec", spec),
    ]))
}

/// How a whole GPU is shared; none where it is not.
fn whole(
    gpu: &GpuSnapshot,
    options: &Options,
    say: &mut impl FnMut(&str),
) -> Result<Option<Sharing>> {
    let shares = gpu.shares.len();
    if let Some(config) = gpu.mps.as_ref().and_then(|mps| mps.config.as_ref()) {
        let fields = mps(&MpsTarget::of_gpu(gpu), config, options, say)?;
        bounded(shares, say);
        if config.compute_mode == MpsComputeMode::Unchanged {
            say("that the compute mode stays as it is: the driver sets EXCLUSIVE_PROCESS");
        }
        return Ok(Some(Sharing { kind: "GpuConfig", fields }));
    }
    if gpu.mode == SharingMode::Exclusive {
        say(
            "compute mode EXCLUSIVE_PROCESS: a claim gives the GPU to one pod, whatever that starts on it",
        );
    }
    if shares < 2 {
        return Ok(None);
    }
    bounded(shares, say);
    let interval = gpu.time_sliced.as_ref().and_then(|status| status.interval);
    let interval = match interval.unwrap_or(Interval::Default) {
        Interval::Default => "Default",
        Interval::Short => "Short",
        Interval::Medium => "Medium",
        Interval::Long => "Long",
    };
    let turns = Node::map([("interval", Node::text(interval))]);
    let fields = vec![("strategy", Node::text("TimeSlicing")), ("timeSlicingConfig", turns)];
    Ok(Some(Sharing { kind: "GpuConfig", fields }))
}

/// How a MIG device is shared further; none where it is not.
fn mig_device(
    gpu: &GpuSnapshot,
    device: &MigDevice,
    options: &Options,
    say: &mut impl FnMut(&str),
) -> Result<Option<Sharing>> {
    if let Some(name) = &device.name {
        say(&format!("that {} ({}) is called {name}", device.uuid, device.profile));
    }
    let shares = gpu.shares.iter().filter(|share| share.id.device() == device.uuid.as_str());
    let shares = shares.count();
    let mut say = |what: &str| say(&format!("{} ({}): {what}", device.uuid, device.profile));
    let fields = match device.mps.as_ref().and_then(|mps| mps.config.as_ref()) {
        Some(config) => {
            let target = MpsTarget::of_mig_device(gpu, device.sm_count, device.memory);
            let fields = mps(&target, config, options, &mut say)?;
            say(
                "that a process past the daemon would have all of it: a MIG device has no compute mode against that",
            );
            fields
        }
        None if shares < 2 => return Ok(None),
        None => vec![("strategy", Node::text("TimeSlicing"))],
    };
    bounded(shares, &mut say);
    Ok(Some(Sharing { kind: "MigDeviceConfig", fields }))
}

/// Nobody counts the pods that share a claim.
fn bounded(shares: usize, say: &mut impl FnMut(&str)) {
    say(&format!("that it is for {shares} and no more: any number of pods may name its claim"));
}

/// `strategy: MPS` with what the driver's own daemon is told.
fn mps(
    target: &MpsTarget,
    config: &MpsConfig,
    options: &Options,
    say: &mut impl FnMut(&str),
) -> Result<Vec<(&'static str, Node)>> {
    let asked = config.thread_percentage;
    // Whole percent alone; 0 would be no limit at all.
    let whole = (1..=100_u8).rev().find(|whole| f64::from(*whole) <= asked.get()).unwrap_or(1);
    let percentage = ThreadPercentage::new(whole.into()).unwrap_or(ThreadPercentage::FULL);
    if percentage != asked {
        say(&format!(
            "a thread percentage of {asked}: whole percent alone; written as {percentage}"
        ));
    }
    let found = hazards(target, percentage, config.pinned_memory_limit);
    expect_allowed(
        target,
        found,
        &options.allow_hazards,
        &format!("the claim says {percentage} %"),
    )?;
    say(
        "gpushare's MPS daemon: the driver starts its own for the claim, which finds the device taken until gpushare's is stopped",
    );
    if config.priority != Priority::Normal {
        say(&format!("priority {}: the driver sets none", config.priority));
    }
    say(&format!(
        "that the daemon is for {}: the driver's is for every pod that names the claim, one user at a time",
        config.access
    ));
    let mut settings = Vec::new();
    if percentage < ThreadPercentage::FULL {
        settings.push(("defaultActiveThreadPercentage", Node::integer(whole)));
    }
    if let Some(limit) = config.pinned_memory_limit {
        // Ours are whole MiB.
        let quantity = format!("{}Mi", (limit.get() >> 20).max(1));
        settings.push(("defaultPinnedDeviceMemoryLimit", Node::text(quantity)));
    }
    Ok(vec![("strategy", Node::text("MPS")), ("mpsConfig", Node::map(settings))])
}
