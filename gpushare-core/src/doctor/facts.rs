//! What is seen of a machine beside its GPUs: plain data, which the port of machines delivers.

use std::path::PathBuf;

use crate::id::Pid;

/// What is seen of a machine beside its GPUs.
///
/// What is there is in the lists; what could not be looked at is in [`hidden`](Self::hidden), so an
/// empty list means that nothing is there only where its part is not hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineFacts {
    /// The user who looks.
    pub uid: u32,
    /// The file of the driver's library, where it is in one of the usual places.
    pub library: Option<Library>,
    /// The driver's kernel module, where it is loaded: its version, as far as it says.
    pub module: Option<Option<String>>,
    /// Whether the kernel's own driver for NVIDIA's cards, nouveau, is loaded: it holds them.
    pub nouveau: bool,
    /// NVIDIA's display controllers on the PCI bus; none where the bus is not shown.
    pub pci_gpus: Option<u32>,
    /// How many GPUs the driver lists, be it that they do not answer; none where it was not asked.
    pub listed: Option<u32>,
    /// Nodes `/dev/nvidia*` and `/dev/nvidia-caps/*`.
    pub nodes: Vec<DeviceNode>,
    /// What `/proc/driver/nvidia-caps/mig-minors` says; none where there is no such file.
    pub mig_minors: Option<Vec<MigMinor>>,
    /// What runs containers here, and what it knows of GPUs.
    pub containers: Containers,
    /// NVIDIA's default pipe directory, where something of that name is there.
    pub default_pipe: Option<PipeDirectory>,
    /// `CUDA_MPS_*` of `/etc/environment`, which every login gets.
    pub variables: Vec<(String, String)>,
    /// MPS control daemons.
    pub daemons: Vec<DaemonProcess>,
    /// What the processes declare that were asked for: `CUDA_MPS_*` of their environments alone.
    pub declared: Vec<(Pid, Vec<(String, String)>)>,
    /// Directories that gpushare made for MPS daemons.
    pub directories: Vec<MpsDirectory>,
    /// Whether `nvidia-persistenced` runs.
    pub persistenced: bool,
    /// The file in which a spec is stored for the next boot; none where the node has no place for one, as
    /// a simulated one in memory. The node adds it.
    pub stored_spec: Option<SpecFile>,
    /// What could not be looked at.
    pub hidden: Vec<Hidden>,
}

/// A file of the driver's library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Library {
    /// Where.
    pub path: PathBuf,
    /// The version in the name of the file that it is a link to.
    pub version: Option<String>,
}

/// A node in `/dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where.
    pub path: PathBuf,
    /// Whether it is a character device.
    pub device: bool,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// The user whose it is.
    pub uid: u32,
    /// The group whose it is.
    pub gid: u32,
}

/// The minor number of a capability: `gpu0/gi1/ci0/access`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigMinor {
    /// Its name.
    pub name: String,
    /// The number: the node is `/dev/nvidia-caps/nvidia-capNUMBER`.
    pub minor: u32,
}

/// What runs containers here, and what it knows of GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Containers {
    /// `docker`, `podman`, `containerd`: those that are installed.
    pub engines: Vec<String>,
    /// Programs of the NVIDIA Container Toolkit.
    pub toolkit: Vec<PathBuf>,
    /// Whether Docker's `daemon.json` names a runtime `nvidia`.
    pub docker_runtime: bool,
    /// Specifications of NVIDIA's devices for containers (CDI): those whose kind is of vendor `nvidia.com`.
    pub cdi: Vec<CdiSpec>,
    /// Specifications of gpushare's shares: those whose kind is `gpushare.dev/share`.
    pub shares: Vec<CdiSpec>,
}

/// A CDI specification of devices of NVIDIA's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CdiSpec {
    /// The file.
    pub path: PathBuf,
    /// The uuids of GPUs and MIG devices that stand in it.
    pub uuids: Vec<String>,
}

/// What is at the place of a pipe directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeDirectory {
    /// Where.
    pub path: PathBuf,
    /// Whether it is a directory, and neither a link nor anything else. What it is a link to is never looked at.
    pub directory: bool,
    /// The user whose it is.
    pub uid: u32,
    /// Whether a control socket lies in it.
    pub socket: bool,
    /// Whether somebody listens at that socket.
    pub listens: bool,
}

/// An MPS control daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonProcess {
    /// Its process.
    pub pid: Pid,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// Its directory, where it could be seen; NVIDIA's default where it was told none.
    pub directory: Option<PathBuf>,
    /// Whether that directory is one of gpushare's.
    pub ours: bool,
    /// Its control group, as `/proc/PID/cgroup` names it: that of systemd, or the deepest.
    pub cgroup: Option<String>,
}

/// A directory that gpushare made for an MPS daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpsDirectory {
    /// Where.
    pub path: PathBuf,
    /// The uuid of the GPU or MIG device that it is for, a slash in it written as `_`.
    pub device: String,
    /// Whether somebody listens in it.
    pub listens: bool,
}

/// The file in which a spec is stored for the next boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecFile {
    /// Where.
    pub path: PathBuf,
    /// Whether it is there.
    pub there: bool,
}

/// A part of a machine that may be hidden from who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// `/proc/driver/nvidia-caps/mig-minors`.
    MigMinors,
    /// Docker's `daemon.json`.
    Docker,
    /// CDI specifications.
    Cdi,
    /// `/etc/environment`.
    Environment,
    /// The default pipe directory.
    DefaultPipe,
    /// Sockets at which somebody listens.
    Sockets,
    /// The directory or control group of an MPS daemon.
    Daemon(Pid),
    /// The environment of a process on a GPU.
    Process(Pid),
    /// The directories of gpushare's daemons.
    Directories,
    /// The spec that is stored for the next boot.
    StoredSpec,
}

/// What could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// What.
    pub part: Part,
    /// Why.
    pub why: String,
}

impl MachineFacts {
    /// Nothing seen yet, by that user.
    pub fn seen_by(uid: u32) -> Self {
        Self { uid, ..Self::default() }
    }

    /// Notes that a part could not be looked at.
    pub fn hide(&mut self, part: Part, why: impl Into<String>) {
        self.hidden.push(Hidden { part, why: why.into() });
    }

    /// Why a part could not be looked at, if so.
    pub fn hidden(&self, part: &Part) -> Option<&str> {
        let hidden = self.hidden.iter().find(|hidden| hidden.part == *part)?;
        Some(&hidden.why)
    }

    /// The node at that path.
    pub fn node(&self, path: &str) -> Option<&DeviceNode> {
        self.nodes.iter().find(|node| node.path.as_os_str() == path)
    }
}
