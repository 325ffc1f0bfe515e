//! A machine that starts again with what was left, and recovers.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use gpushare_core::Node;
use gpushare_core::apply::report::ReportOutcome;
use gpushare_core::export::{self, Kind};
use gpushare_core::observe::Scope;
use gpushare_core::plan::state::GpuState;

use super::disk::Tree;
use super::scenario::Place;

/// Makes the disk as it was left, and the hardware as it was.
pub(super) fn put(place: &Place, tree: &Tree, hardware: &[u8]) -> std::io::Result<()> {
    match fs::remove_dir_all(place.disk()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let make = |path: &Path| match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    make(&place.disk())?;
    for (name, content) in tree {
        let path = place.disk().join(name);
        match content {
            None => make(&path)?,
            Some(content) => fs::write(path, content)?,
        }
    }
    make(&place.state())?;
    make(&place.volatile())?;
    fs::write(place.hardware(), hardware)
}

/// Starts the machine that was made, and returns its hardware then.
pub(super) fn booted(place: &Place) -> Result<Vec<u8>, String> {
    let node = open(place).map_err(|error| error.to_string())?;
    let simulator = node.simulator().ok_or("it is not simulated")?;
    simulator.reboot().map_err(|error| error.to_string())?;
    fs::read(place.hardware()).map_err(|error| error.to_string())
}

fn open(place: &Place) -> gpushare_core::Result<Node> {
    Node::builder().sim(place.fleet).state_dir(place.state()).ignore_environment(true).open()
}

fn states(node: &Node) -> gpushare_core::Result<Vec<GpuState>> {
    let snapshot = node.observer()?.snapshot(&Scope::all().with_intervals())?;
    Ok(snapshot.gpus.iter().map(GpuState::of).collect())
}

/// The state of the GPUs as it is, without a reboot and without recovery.
pub(super) fn look(place: &Place, tree: &Tree, hardware: &[u8]) -> Result<Vec<GpuState>, String> {
    put(place, tree, hardware).map_err(|error| format!("cannot make the disk: {error}"))?;
    open(place).and_then(|node| states(&node)).map_err(|error| error.to_string())
}

/// Starts the machine with what was left, or only gpushare, and recovers.
///
/// # Errors
/// What recovery promises and does not hold.
pub(super) fn recover(
    place: &Place,
    tree: &Tree,
    hardware: &[u8],
    reboots: bool,
) -> Result<Vec<GpuState>, String> {
    put(place, tree, hardware).map_err(|error| format!("cannot make the disk: {error}"))?;
    let node = open(place).map_err(|error| format!("the node does not open: {error}"))?;
    if reboots {
        let simulator = node.simulator().ok_or("it is not simulated")?;
        simulator.reboot().map_err(|error| format!("the machine does not start: {error}"))?;
    }
    node.recover().map_err(|error| format!("recover fails: {} {error}", error.code().name()))?;
    let failed = |error: gpushare_core::Error| format!("after recovery: {error}");
    let journals = node.ports().store.list("journal").map_err(failed)?;
    if !journals.is_empty() {
        return Err(format!("recovery left a journal: {journals:?}"));
    }
    let again = node.recover().map_err(|error| format!("to recover again fails: {error}"))?;
    if again.outcome != ReportOutcome::Unchanged || !again.cdi_specifications.is_empty() {
        return Err("recovery was not done: to recover again changes something".to_owned());
    }
    let notes = node.ports().store.list("cdi").map_err(failed)?;
    let gpus = node.ports().nvml.open().and_then(|mut nvml| nvml.device_count());
    let alone = gpus.is_ok_and(|gpus| gpus == 1);
    for (name, content) in specifications(place) {
        let noted = notes.iter().any(|note| name.contains(note.trim_end_matches(".json")));
        if !noted {
            return Err(format!("the CDI specification {name} is there, and nobody knows of it"));
        }
        // Of several GPUs the export is one document.
        let truth = node.export(Kind::Cdi, &export::Options::default()).map_err(failed)?;
        if alone && content.as_deref() != Some(truth.text.as_bytes()) {
            return Err(format!("the CDI specification {name} is not as the GPU is"));
        }
    }
    let mut states = states(&node).map_err(failed)?;
    if reboots {
        // A record of another life of the machine says nothing.
        states.iter_mut().for_each(|state| state.record = None);
    }
    Ok(states)
}

fn specifications(place: &Place) -> Tree {
    let files = fs::read_dir(place.disk().join("cdi")).into_iter().flatten().flatten();
    let named = files.map(|file| (file.file_name().to_string_lossy().into_owned(), file.path()));
    let ours = named.filter(|(name, _)| name.ends_with(".yaml"));
    ours.map(|(name, path)| (name, fs::read(path).ok())).collect()
}
