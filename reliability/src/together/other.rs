//! Another agent, which knows nothing of gpushare: NVIDIA's nvidia-smi on the same node, or where it is missing a
//! program that creates and destroys through NVML.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use gpushare_core::id::{GpuInstanceId, GpuUuid, ProfileId};
use gpushare_core::port::Nvml;
use gpushare_core::{Error, Node, Result};

use super::events::Events;
use super::place::{FLEET, OTHERS_PROFILE, Place, simulator};
use super::worker::Ended;
use crate::dice::Dice;

/// By which means it works.
#[derive(Clone, Debug)]
pub(super) enum Means {
    /// The program, and the folder of the library that it loads.
    NvidiaSmi(std::path::PathBuf, std::path::PathBuf),
    /// NVML's port.
    Port,
}

/// Creates and destroys until it is told to stop.
pub(super) fn interfere(place: &Place, means: &Means, seed: u64) -> std::result::Result<(), Ended> {
    let parent = rustix::process::getppid();
    let node = place.node()?;
    let mut events = place.note().map_err(|error| Ended::Violation(error.to_string()))?;
    let mut dice = Dice::new(seed);
    let gpus = simulator(&node)?.gpus()?;
    let Some(gpu) = gpus.get(place.roles.other) else { return Ok(()) };
    let mut own: Vec<GpuInstanceId> = Vec::new();
    while place.goes_on(parent) {
        match means {
            Means::NvidiaSmi(smi, library) => {
                let agent = Smi { smi, library, place };
                agent.step(&mut dice, &mut own, &mut events)?;
            }
            Means::Port => port(&node, gpu, &mut dice, &mut own, &mut events)?,
        }
        sleep(Duration::from_millis(dice.below(25) as u64));
    }
    Ok(())
}

struct Smi<'a> {
    smi: &'a Path,
    library: &'a Path,
    place: &'a Place,
}

impl Smi<'_> {
    fn step(
        &self,
        dice: &mut Dice,
        own: &mut Vec<GpuInstanceId>,
        events: &mut Events,
    ) -> std::result::Result<(), Ended> {
        match (dice.below(8), own.pop()) {
            (0, last) => {
                own.extend(last);
                events.note("other destroys any");
                self.run(&["-dci"], events)?;
                self.run(&["-dgi"], events)?;
            }
            (1..=3, Some(gi)) => {
                let gi = gi.to_string();
                self.run(&["-gi", &gi, "-dci"], events)?;
                self.run(&["-gi", &gi, "-dgi"], events)?;
            }
            (_, last) => {
                own.extend(last);
                let profile = OTHERS_PROFILE.to_string();
                let said = self.run(&["-cgi", &profile, "-C"], events)?;
                // Successfully created GPU instance ID  3 on GPU  1 using profile MIG 1g.20gb (ID 15)
                let id = said.split("created GPU instance ID").nth(1);
                let id = id.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                own.extend(id.map(GpuInstanceId::new));
            }
        }
        Ok(())
    }

    fn run(&self, what: &[&str], events: &mut Events) -> std::result::Result<String, Ended> {
        let output = Command::new(self.smi)
            .args(["mig", "-i", &self.place.roles.other.to_string()])
            .args(what)
            .env("LD_LIBRARY_PATH", self.library)
            .env("GPUSHARE_NVML_SIM", FLEET)
            .env("GPUSHARE_STATE_DIR", self.place.state())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Ended::Violation(format!("nvidia-smi does not run: {error}")))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let how = if output.status.success() { "OK" } else { "refused" };
        events.note(&format!("done other {how} mig {}: {}", what.join(" "), said.trim()));
        Ok(said)
    }
}

fn port(
    node: &Node,
    gpu: &GpuUuid,
    dice: &mut Dice,
    own: &mut Vec<GpuInstanceId>,
    events: &mut Events,
) -> std::result::Result<(), Ended> {
    let mut nvml = node.ports().nvml.open().map_err(Error::from)?;
    let (what, done) = match (dice.below(8), own.pop()) {
        (0, last) => {
            own.extend(last);
            events.note("other destroys any");
            let snapshot = node.snapshot()?;
            let instances = snapshot.gpu(gpu).and_then(|gpu| gpu.mig.as_ref());
            let gis = instances.iter().flat_map(|mig| &mig.gpu_instances).map(|gi| gi.id);
            for gi in gis {
                let _ = destroy(nvml.as_mut(), node, gpu, gi);
            }
            ("destroy all", Ok(()))
        }
        (1..=3, Some(gi)) => ("destroy", destroy(nvml.as_mut(), node, gpu, gi)),
        (_, last) => {
            own.extend(last);
            ("create", create(nvml.as_mut(), gpu).map(|gi| own.push(gi)))
        }
    };
    match done {
        Ok(()) => events.note(&format!("done other OK {what}")),
        Err(error) => events.note(&format!("done other refused {what}: {error}")),
    }
    Ok(())
}

fn create(nvml: &mut dyn Nvml, gpu: &GpuUuid) -> Result<GpuInstanceId> {
    let profile = ProfileId::new(OTHERS_PROFILE);
    let mut refused = None;
    for placement in nvml.placements(gpu, profile)? {
        match nvml.create_gpu_instance(gpu, profile, placement) {
            Ok(gi) => {
                let profiles = nvml.compute_profiles(gpu, gi.id)?;
                let whole = profiles.iter().max_by_key(|profile| profile.slices);
                if let Some(whole) = whole {
                    nvml.create_compute_instance(gpu, gi.id, whole.id, None)?;
                }
                return Ok(gi.id);
            }
            Err(failure) => refused = Some(failure),
        }
    }
    let none = || Error::new(gpushare_core::ErrorCode::NotFound, "the profile has no place");
    Err(refused.map_or_else(none, Error::from))
}

fn destroy(nvml: &mut dyn Nvml, node: &Node, gpu: &GpuUuid, gi: GpuInstanceId) -> Result<()> {
    let snapshot = node.snapshot()?;
    let mig = snapshot.gpu(gpu).and_then(|gpu| gpu.mig.as_ref());
    let instance = mig.and_then(|mig| mig.gpu_instances.iter().find(|there| there.id == gi));
    for ci in instance.iter().flat_map(|gi| &gi.compute_instances) {
        nvml.destroy_compute_instance(gpu, gi, ci.id)?;
    }
    Ok(nvml.destroy_gpu_instance(gpu, gi)?)
}
