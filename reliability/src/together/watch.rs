//! What is looked at all the time: the simulated node as a whole, and who works on it.

use std::path::PathBuf;

use gpushare_core::Result;
use gpushare_core::backend::sim::{ProcessKind, ProcessSpec, Simulator};
use gpushare_core::id::{GpuUuid, MigUuid, Pid};
use serde_json::Value;

use super::events::now;
use super::mark;
use super::place::Roles;
use crate::dice::Dice;

/// Above every pid that Linux gives: simulated.
const FIRST_PID: u64 = 5_000_001;

/// Work that nobody may end who has no consent: a simulated process.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) pid: Pid,
    pub(super) gpu: usize,
    /// Where it stands, as the node's file has it; null on a whole GPU.
    instance: Value,
    /// The uuid that the instance had when it came.
    device: Option<String>,
    until: i128,
}

/// The node's file, and what stands there.
pub(super) struct Watch {
    file: PathBuf,
    roles: Roles,
    last: Vec<u8>,
    pub(super) standing: Vec<Standing>,
    /// States that were looked at.
    pub(super) states: usize,
    /// Simulated processes that came.
    pub(super) came: usize,
}

impl Watch {
    pub(super) fn new(file: PathBuf, roles: Roles) -> Self {
        Self { file, roles, last: Vec::new(), standing: Vec::new(), states: 0, came: 0 }
    }

    /// The node as it is now, whole: it comes into its file by a rename.
    pub(super) fn state(&self) -> std::result::Result<Value, String> {
        let text = std::fs::read(&self.file).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| format!("the node's file: {error}"))
    }

    /// Looks at the node, if it is another than the last time.
    pub(super) fn look(&mut self) -> std::result::Result<(), String> {
        let text = std::fs::read(&self.file).map_err(|error| error.to_string())?;
        if text == self.last {
            return Ok(());
        }
        let state = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        self.last = text;
        self.states += 1;
        judge(&state, &self.standing, self.roles)
    }

    /// Lets somebody begin to work, or end.
    pub(super) fn stir(
        &mut self,
        simulator: &Simulator,
        dice: &mut Dice,
    ) -> std::result::Result<(), String> {
        let due = now();
        let (over, standing) =
            std::mem::take(&mut self.standing).into_iter().partition(|one| one.until <= due);
        self.standing = standing;
        self.end(simulator, over)?;
        if self.standing.len() < 4 {
            let gpus = simulator.gpus().map_err(|error| format!("{error:?}"))?;
            let gpu = dice.below(gpus.len());
            if let Some(uuid) = gpus.get(gpu) {
                let came = self.come(simulator, gpu, uuid, dice);
                self.standing.extend(came.map_err(|error| format!("{error:?}"))?);
            }
        }
        Ok(())
    }

    /// All of them go.
    pub(super) fn end_all(&mut self, simulator: &Simulator) -> std::result::Result<(), String> {
        let over = std::mem::take(&mut self.standing);
        self.end(simulator, over)
    }

    fn end(&self, simulator: &Simulator, over: Vec<Standing>) -> std::result::Result<(), String> {
        for one in over {
            match simulator.idle(one.pid) {
                Err(_) if one.gpu == self.roles.consent => {}
                Err(error) => return Err(format!("{one:?} was ended without consent: {error}")),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn come(
        &mut self,
        simulator: &Simulator,
        gpu: usize,
        uuid: &GpuUuid,
        dice: &mut Dice,
    ) -> Result<Option<Standing>> {
        let Ok(state) = self.state() else { return Ok(None) };
        let there = &state["gpus"][gpu];
        let device = there["instances"].as_array().and_then(|gis| dice.one_of(gis));
        let device = device.and_then(|gi| dice.one_of(gi["compute"].as_array()?));
        let device: Option<MigUuid> = device.and_then(|ci| ci["uuid"].as_str()?.parse().ok());
        let mps = match &device {
            Some(device) => !state["mig_mps"][device.as_str()].is_null(),
            None => !there["mps"].is_null(),
        };
        let kind = if mps { ProcessKind::MpsClient } else { ProcessKind::Compute };
        let work = ProcessSpec::new("python train.py").doing(kind);
        let came = match &device {
            Some(device) => simulator.busy(device, work),
            // With one process in EXCLUSIVE_PROCESS others could not work, which is no defect.
            None if there["mig"] == Value::Bool(false) => simulator.busy(uuid, work),
            None => return Ok(None),
        };
        // It went, or does not take one more.
        let Ok(pid) = came else { return Ok(None) };
        self.came += 1;
        let processes = simulator.processes()?;
        let instance = processes.iter().find(|process| process.pid == pid).map(|p| p.instance);
        Ok(instance.map(|instance| Standing {
            pid,
            gpu,
            instance: serde_json::json!(instance),
            device: device.map(|device| device.to_string()),
            until: now() + 1_000_000 * (20 + dice.below(300) as i128),
        }))
    }
}

/// Whether everybody has what they stand on.
pub(super) fn judge(
    state: &Value,
    standing: &[Standing],
    roles: Roles,
) -> std::result::Result<(), String> {
    let processes = state["processes"].as_array().cloned().unwrap_or_default();
    for process in &processes {
        let pid = process["pid"].as_u64().unwrap_or_default();
        // A real one that ended is cleared away later.
        let ended =
            || pid < FIRST_PID && mark::start_time(u32::try_from(pid).unwrap_or(0)).is_none();
        if !has_its_place(state, process) && !ended() {
            return Err(format!("what a process stands on is gone: {process} in {state}"));
        }
    }
    for one in standing.iter().filter(|one| one.gpu != roles.consent) {
        let here = processes.iter().find(|process| process["pid"] == one.pid.get());
        let same = here.is_some_and(|process| process["instance"] == one.instance);
        let device = ci(&state["gpus"][one.gpu], &one.instance).map(|ci| ci["uuid"].as_str());
        if !same || one.device.as_deref() != device.flatten() {
            return Err(format!("{one:?} was disturbed without consent: {here:?} in {state}"));
        }
    }
    Ok(())
}

fn ci<'a>(gpu: &'a Value, instance: &Value) -> Option<&'a Value> {
    let gi = gpu["instances"].as_array()?.iter().find(|gi| gi["id"] == instance[0])?;
    gi["compute"].as_array()?.iter().find(|ci| ci["id"] == instance[1])
}

fn has_its_place(state: &Value, process: &Value) -> bool {
    let gpus = state["gpus"].as_array();
    let gpu = gpus.and_then(|gpus| gpus.iter().find(|gpu| gpu["uuid"] == process["gpu"]));
    gpu.is_some_and(|gpu| match &process["instance"] {
        Value::Null => gpu["mig"] == Value::Bool(false),
        instance => ci(gpu, instance).is_some(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panics")]
mod tests {
    use gpushare_core::{ApplyOptions, Node};

    use super::*;
    use crate::together::place::{FLEET, simulator, spec};

    /// What no driver does is planted in the file's content.
    #[test]
    fn who_loses_what_it_stands_on_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::builder().ignore_environment(true).sim(FLEET).state_dir(folder.path());
        let node = node.open().unwrap();
        node.apply(&spec(&vec![(0, 5), (1, 0)]).unwrap(), &ApplyOptions::new()).unwrap();
        let file = folder.path().join("run").join("sim-3xH100-80GB.json");
        let roles = Roles { consent: 2, other: 1, person: false };
        let mut watch = Watch::new(file, roles);
        let gpu = simulator(&node).unwrap().gpus().unwrap().remove(0);
        let came = watch.come(simulator(&node).unwrap(), 0, &gpu, &mut Dice::new(1));
        watch.standing.push(came.unwrap().unwrap());
        watch.look().unwrap();
        let state = watch.state().unwrap();
        let judge = |state: &Value, roles| judge(state, &watch.standing, roles);

        let mut gone = state.clone();
        gone["gpus"][0]["instances"] = serde_json::json!([]);
        assert!(judge(&gone, roles).unwrap_err().contains("is gone"));
        let mut ended = state.clone();
        ended["processes"] = serde_json::json!([]);
        assert!(judge(&ended, roles).unwrap_err().contains("disturbed"));
        judge(&ended, Roles { consent: 0, other: 1, person: false }).unwrap();
        let mut another = state.clone();
        for gi in another["gpus"][0]["instances"].as_array_mut().unwrap() {
            gi["compute"][0]["uuid"] = "MIG-1".into();
        }
        assert!(judge(&another, roles).unwrap_err().contains("disturbed"));
        let mut whole = state;
        whole["processes"][0]["instance"] = Value::Null;
        assert!(judge(&whole, roles).is_err());
    }
}
