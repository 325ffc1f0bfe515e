//! The machine around the GPUs, by its files: `/proc`, `/dev`, `/etc`, `/sys`.
//!
//! Everything is read, bounded, and nothing is followed in directories that anybody may write to.
//! Of environments only the named variables of MPS are kept.

mod cdi;

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::files::FileStore;
use super::mps::foreign::{DEFAULT, control_directories};
use super::mps::processes::{CONTROL, PIPE_DIRECTORY, SHORT, is_daemon_call, value_of};
use crate::doctor::{
    DaemonProcess, DeviceNode, Library, MachineFacts, MigMinor, MpsDirectory, Part, PipeDirectory,
};
use crate::id::Pid;
use crate::port::Machine;

/// The variables of MPS that are shown, wherever they are found.
const VARIABLES: [&str; 6] = [
    PIPE_DIRECTORY,
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_MPS_CLIENT_PRIORITY",
];

/// Where packages put the driver's library.
const LIBRARIES: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib64/nvidia",
    "/usr/lib/nvidia",
    "/usr/lib",
    "/lib/x86_64-linux-gnu",
];
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Where programs are.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// The most of a file that is read; what is longer is not judged by its beginning.
const MOST: u64 = 1 << 20;
/// The most of the kernel's list of sockets.
const MOST_SOCKETS: u64 = 64 << 20;
/// The most entries of a directory.
const MOST_ENTRIES: usize = 65_536;
/// The longest value of a variable that is kept.
const MOST_VALUE: usize = 200;

/// The machine by its files.
#[derive(Clone, Debug)]
pub struct RealMachine {
    /// `/`, or a made-up tree.
    root: PathBuf,
    /// Where the directories of gpushare's daemons are.
    daemons: PathBuf,
    library: Option<PathBuf>,
}

impl RealMachine {
    /// This machine, with the daemons of that store; and the driver's library at that path, where
    /// it is not where packages put it.
    pub fn new(store: &FileStore, library: Option<PathBuf>) -> Self {
        Self { root: "/".into(), daemons: store.run().path().join("mps"), library }
    }

    /// A path of the machine in the tree that stands for it.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// The whole of a file that may be longer than is good for us; none where it is not there.
    fn read(&self, path: impl AsRef<Path>) -> std::io::Result<Option<Vec<u8>>> {
        read(&self.at(path), MOST)
    }

    /// The same as text, and what it says where it cannot be read.
    fn text(&self, path: &str, facts: &mut MachineFacts, part: Part) -> Option<String> {
        match self.read(path) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes?).into_owned()),
            Err(error) => {
                facts.hide(part, format!("{path}: {error}"));
                None
            }
        }
    }

    /// The names in a directory, sorted.
    fn names(&self, path: impl AsRef<Path>) -> std::io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.at(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.flatten().take(MOST_ENTRIES);
        let mut names: Vec<_> =
            names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    fn find_library(&self) -> Option<Library> {
        let usual = LIBRARIES.iter().map(|directory| Path::new(directory).join(LIBRARY));
        let path = match &self.library {
            Some(path) => Some(path.clone()).filter(|path| self.exists(path)),
            None => usual.into_iter().find(|path| self.exists(path)),
        }?;
        let link = std::fs::read_link(self.at(&path)).ok();
        let version = link.and_then(|link| {
            let name = link.file_name()?.to_str()?;
            Some(name.strip_prefix("libnvidia-ml.so.")?.to_owned())
        });
        Some(Library { path, version: version.filter(|version| version.contains('.')) })
    }

    fn driver(&self, facts: &mut MachineFacts) {
        facts.library = self.find_library();
        facts.module = match self.read("/proc/driver/nvidia/version") {
            Ok(None) => None,
            Ok(Some(text)) => Some(module_version(&String::from_utf8_lossy(&text))),
            Err(_) => Some(None),
        };
        facts.nouveau = self.exists("/sys/module/nouveau");
        facts.persistenced = self.exists("/run/nvidia-persistenced/socket")
            || self.exists("/var/run/nvidia-persistenced/socket");
        facts.pci_gpus = self.pci_gpus();
    }

    fn pci_gpus(&self) -> Option<u32> {
        let bus = Path::new("/sys/bus/pci/devices");
        if !self.exists(bus) {
            return None;
        }
        let is = |name: &&String, file: &str, begin: &[u8]| {
            let text = self.read(bus.join(name).join(file)).ok().flatten();
            text.is_some_and(|text| text.starts_with(begin))
        };
        let names = self.names(bus).ok()?;
        let displays =
            names.iter().filter(|name| is(name, "vendor", b"0x10de") && is(name, "class", b"0x03"));
        u32::try_from(displays.count()).ok()
    }

    fn nodes(&self, facts: &mut MachineFacts) {
        for directory in ["/dev", "/dev/nvidia-caps"] {
            let names = self.names(directory).unwrap_or_default();
            for name in names.iter().filter(|name| name.starts_with("nvidia")) {
                let path = Path::new(directory).join(name);
                facts.nodes.extend(node(&self.at(&path), path));
            }
        }
        let minors = "/proc/driver/nvidia-caps/mig-minors";
        let text = self.text(minors, facts, Part::MigMinors);
        facts.mig_minors = text.map(|text| text.lines().filter_map(mig_minor).collect());
    }

    fn containers(&self, facts: &mut MachineFacts) {
        let installed = |name: &str| {
            let paths = PROGRAMS.iter().map(|directory| Path::new(directory).join(name));
            paths.into_iter().find(|path| self.exists(path))
        };
        for engine in ["docker", "podman", "containerd"] {
            if installed(engine).is_some() {
                facts.containers.engines.push(engine.to_owned());
            }
        }
        let toolkit = ["nvidia-ctk", "nvidia-container-runtime"];
        facts.containers.toolkit = toolkit.into_iter().filter_map(installed).collect();
        let docker = "/etc/docker/daemon.json";
        if let Some(text) = self.text(docker, facts, Part::Docker) {
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(settings) => {
                    let runtime = settings.get("runtimes").and_then(|all| all.get("nvidia"));
                    facts.containers.docker_runtime = runtime.is_some();
                }
                Err(error) => facts.hide(Part::Docker, format!("{docker} is no JSON: {error}")),
            }
        }
        self.specifications(facts);
    }

    /// The directories in which somebody listens as MPS daemons do.
    fn listening(&self, facts: &mut MachineFacts) -> Vec<PathBuf> {
        match read(&self.at("/proc/net/unix"), MOST_SOCKETS) {
            Ok(list) => control_directories(&list.unwrap_or_default()).into_values().collect(),
            Err(error) => {
                facts.hide(Part::Sockets, format!("/proc/net/unix: {error}"));
                Vec::new()
            }
        }
    }

    /// NVIDIA's default directory. Whoever came first made it, so nothing of it is followed.
    fn default_pipe(&self, facts: &mut MachineFacts, listening: &[PathBuf]) {
        let path = PathBuf::from(DEFAULT);
        let there = self.at(&path);
        let meta = match there.symlink_metadata() {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return facts.hide(Part::DefaultPipe, format!("{DEFAULT}: {error}")),
        };
        let mut pipe = PipeDirectory {
            listens: listening.contains(&path),
            directory: meta.is_dir(),
            uid: meta.uid(),
            socket: false,
            path,
        };
        if pipe.directory {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&there, flags, Mode::empty());
            let control = opened.and_then(|directory| {
                rustix::fs::statat(directory, "control", AtFlags::SYMLINK_NOFOLLOW)
            });
            match control {
                Ok(stat) => pipe.socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket,
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => facts.hide(Part::DefaultPipe, format!("{DEFAULT}: {errno}")),
            }
        }
        facts.default_pipe = Some(pipe);
    }

    fn environment(&self, facts: &mut MachineFacts) {
        let text = self.text("/etc/environment", facts, Part::Environment).unwrap_or_default();
        facts.variables = text.lines().filter_map(setting).collect();
    }

    /// A file of `/proc/PID`; none where it cannot be read.
    fn of_process(&self, pid: Pid, file: &str, most: u64) -> Option<Vec<u8>> {
        read(&self.at(format!("/proc/{pid}/{file}")), most).ok().flatten()
    }

    fn is_daemon(&self, pid: Pid) -> bool {
        let name = self.of_process(pid, "comm", MOST).unwrap_or_default();
        if name.trim_ascii_end() != SHORT.as_bytes() {
            return false;
        }
        let arguments = self.of_process(pid, "cmdline", MOST).unwrap_or_default();
        let file = std::fs::read_link(self.at(format!("/proc/{pid}/exe"))).ok();
        let file = file.iter().map(|file| file.as_os_str());
        // A script has its interpreter before it.
        let words = arguments.split(|&byte| byte == 0).take(2).map(OsStr::from_bytes);
        let is = |path: &OsStr| {
            let name = Path::new(path).file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.trim_end_matches(" (deleted)") == CONTROL
        };
        file.chain(words).any(is) && is_daemon_call(&arguments)
    }

    fn daemons(&self, facts: &mut MachineFacts) {
        let true_own = self.daemons.canonicalize().unwrap_or_else(|_| self.daemons.clone());
        let pids = self.names("/proc").unwrap_or_default();
        for pid in pids.iter().filter_map(|name| name.parse().ok()).map(Pid::new) {
            if !self.is_daemon(pid) {
                continue;
            }
            let directory = match self.of_process(pid, "environ", MOST) {
                Some(environment) => {
                    let told = value_of(&environment, PIPE_DIRECTORY);
                    Some(told.map_or(DEFAULT.into(), |told| PathBuf::from(OsStr::from_bytes(told))))
                }
                None => {
                    facts.hide(Part::Daemon(pid), "its user, or root");
                    None
                }
            };
            let ours = directory.as_ref().is_some_and(|directory| {
                directory.starts_with(&self.daemons) || directory.starts_with(&true_own)
            });
            let status = self.of_process(pid, "status", MOST).unwrap_or_default();
            let groups = self.of_process(pid, "cgroup", MOST).unwrap_or_default();
            facts.daemons.push(DaemonProcess {
                pid,
                uid: uid(&String::from_utf8_lossy(&status)),
                directory,
                ours,
                cgroup: control_group(&String::from_utf8_lossy(&groups)),
            });
        }
    }

    /// What gpushare's daemons left and have.
    fn directories(&self, facts: &mut MachineFacts, listening: &[PathBuf]) {
        let names = match self.names(&self.daemons) {
            Ok(names) => names,
            Err(error) => {
                return facts
                    .hide(Part::Directories, format!("{}: {error}", self.daemons.display()));
            }
        };
        let true_own = self.daemons.canonicalize().unwrap_or_else(|_| self.daemons.clone());
        for device in names {
            let path = self.daemons.join(&device);
            if self.at(&path).symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                let listens =
                    listening.contains(&path) || listening.contains(&true_own.join(&device));
                facts.directories.push(MpsDirectory { path, device, listens });
            }
        }
    }

    fn declared(&self, facts: &mut MachineFacts, processes: &[Pid]) {
        for &pid in processes {
            match self.of_process(pid, "environ", MOST) {
                Some(environment) => {
                    let named = VARIABLES.iter().filter_map(|name| {
                        let value = value_of(&environment, name)?;
                        Some(((*name).to_owned(), short(&String::from_utf8_lossy(value))))
                    });
                    facts.declared.push((pid, named.collect()));
                }
                None => facts.hide(Part::Process(pid), "its user, or root"),
            }
        }
    }
}

impl Machine for RealMachine {
    fn facts(&self, processes: &[Pid]) -> MachineFacts {
        let mut facts = MachineFacts::seen_by(rustix::process::geteuid().as_raw());
        self.driver(&mut facts);
        self.nodes(&mut facts);
        self.containers(&mut facts);
        self.environment(&mut facts);
        let listening = self.listening(&mut facts);
        self.default_pipe(&mut facts, &listening);
        self.daemons(&mut facts);
        self.directories(&mut facts, &listening);
        self.declared(&mut facts, processes);
        facts
    }
}

/// The whole of a regular file; none where it is not there. It never waits, as for a pipe it would.
fn read(path: &Path, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let refuse = |why: &str| Err(std::io::Error::new(ErrorKind::InvalidData, why));
    if !file.metadata()?.is_file() {
        return refuse("it is no file");
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return refuse("it is longer than gpushare reads");
    }
    Ok(Some(bytes))
}

/// The node at a path, which is shown as another; none for a directory.
fn node(there: &Path, path: PathBuf) -> Option<DeviceNode> {
    let meta: Metadata = there.symlink_metadata().ok()?;
    if meta.is_dir() {
        return None;
    }
    Some(DeviceNode {
        path,
        device: meta.file_type().is_char_device(),
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  …`: the first word of numbers and dots.
fn module_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM"))?;
    let version = |word: &&str| {
        word.contains('.')
            && word
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    line.split_ascii_whitespace().find(version).map(str::to_owned)
}

/// A line of `mig-minors`: `gpu0/gi1/access 12`.
fn mig_minor(line: &str) -> Option<MigMinor> {
    let (name, minor) = line.trim().rsplit_once(' ')?;
    Some(MigMinor { name: name.trim().to_owned(), minor: minor.parse().ok()? })
}

/// A line of `/etc/environment`, where it is one of MPS.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=')?;
    let value = value.trim().trim_matches(|c| c == '"' || c == '\'');
    VARIABLES.contains(&name).then(|| (name.to_owned(), short(value)))
}

fn short(value: &str) -> String {
    value.chars().take(MOST_VALUE).collect()
}

fn uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The group of `/proc/PID/cgroup` that says most about who ends the process: a job's where there is one,
/// else systemd's, else the deepest.
fn control_group(text: &str) -> Option<String> {
    let groups = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let rank = |&(controllers, path): &(&str, &str)| {
        let job = ["/slurm/", "/slurm_", "/job_"].iter().any(|part| path.contains(part));
        let systemd = controllers.is_empty() || controllers == "name=systemd";
        (job, path != "/" && systemd, path.matches('/').count(), path.len())
    };
    groups.max_by_key(rank).map(|(_, path)| path.to_owned())
}

#[cfg(test)]
mod tests;
