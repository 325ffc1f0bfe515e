//! Where processes work together: one simulated node in a folder, which all of them share.

use std::path::{Path, PathBuf};

use gpushare_core::backend::sim::{Fleet, Simulator};
use gpushare_core::id::GpuUuid;
use gpushare_core::{Error, Node, Result, Snapshot, Spec};

use super::events::Events;

/// The fleet that is shared.
pub(super) const FLEET: &str = "3xH100-80GB";
/// Its GPUs.
pub(super) const GPUS: usize = 3;
/// The profile that the other agent alone creates: 1g.20gb.
pub(super) const OTHERS_PROFILE: u32 = 15;

/// What appliers ask of a GPU.
pub(super) const WANTED: [&str; 9] = [
    r#""mode": "exclusive""#,
    r#""mode": "time_sliced", "time_sliced": {"replicas": 4}"#,
    r#""mode": "time_sliced", "time_sliced": {"replicas": 2}"#,
    r#""mode": "mps", "mps": {"max_clients": 4}"#,
    r#""mode": "mig", "mig": {"instances": {"1g.10gb": 2, "3g.40gb": 1}}"#,
    r#""mode": "mig", "mig": {"instances": {"2g.20gb": 2}}"#,
    r#""mode": "mig", "mig": {"instances": {"1g.10gb": 7}}"#,
    r#""mode": "mig", "mig": {"instances": [{"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"]}, {"profile": "1g.10gb", "start": 0, "time_sliced": {"replicas": 2}}]}"#,
    r#""mode": "mig", "mig": {"instances": [{"profile": "4g.40gb", "start": 0, "mps": {"max_clients": 2}}]}"#,
];

/// What is asked: which of these of which GPU.
pub(super) type Asked = Vec<(usize, usize)>;

pub(super) fn spec(asked: &Asked) -> Result<Spec> {
    let entries = asked
        .iter()
        .filter_map(|(gpu, want)| Some(format!(r#"{{"select": {gpu}, {}}}"#, WANTED.get(*want)?)));
    let entries: Vec<_> = entries.collect();
    format!(r#"{{"version": "gpushare/v1", "gpus": [{}]}}"#, entries.join(", ")).parse()
}

/// Who may do what to which GPU, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roles {
    /// Where appliers may end whoever is in the way. Everywhere else nobody's work may end.
    pub(super) consent: usize,
    /// Where another agent creates and destroys instances.
    pub(super) other: usize,
    /// Whether a person decides at once what the other agent left undecidable, and not after the round.
    pub(super) person: bool,
}

/// The folder and who may do what in it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) roles: Roles,
}

impl Place {
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(super) fn marks(&self) -> PathBuf {
        self.folder.join("marks")
    }

    pub(super) fn events(&self) -> PathBuf {
        self.folder.join("events")
    }

    /// What makes every process of ours stop.
    pub(super) fn stop(&self) -> PathBuf {
        self.folder.join("stop")
    }

    /// Whether nobody told them to stop, and who would is there.
    pub(super) fn goes_on(&self, parent: Option<rustix::process::Pid>) -> bool {
        !self.stop().exists() && rustix::process::getppid() == parent
    }

    /// The file of the simulated node.
    pub(super) fn file(&self) -> Result<PathBuf> {
        let fleet: Fleet = FLEET.parse()?;
        Ok(self.state().join("run").join(format!("{}.json", fleet.file_name())))
    }

    pub(super) fn node(&self) -> Result<Node> {
        Node::builder().ignore_environment(true).sim(FLEET).state_dir(self.state()).open()
    }

    pub(super) fn note(&self) -> std::io::Result<Events> {
        Events::of_this_process(&self.events())
    }
}

pub(super) fn simulator(node: &Node) -> Result<&Simulator> {
    node.simulator().ok_or_else(|| {
        Error::new(gpushare_core::ErrorCode::Unsupported, "the node is not simulated")
    })
}

/// The place of a GPU in the fleet.
pub(super) fn index(snapshot: &Snapshot, uuid: &GpuUuid) -> Option<usize> {
    let gpu = snapshot.gpu(uuid)?;
    gpu.index.and_then(|index| usize::try_from(index.get()).ok())
}

/// The events file's folder and others, made.
pub(super) fn make(folder: &Path, roles: Roles) -> std::io::Result<Place> {
    let place = Place { folder: folder.to_owned(), roles };
    for folder in [place.marks(), place.events()] {
        std::fs::create_dir_all(folder)?;
    }
    Ok(place)
}
