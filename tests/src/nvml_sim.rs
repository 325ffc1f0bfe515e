//! The simulator behind NVIDIA's C ABI, built and laid out for tests to load.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use gpushare_core::backend::nvml::RealNvml;
use gpushare_core::backend::sim::{Fleet, Simulator};

/// Set in a process that a test started to run itself again.
const CHILD: &str = "GPUSHARE_TESTS_CHILD";

/// The path of `libnvidia-ml.so.1`, the simulator's. It was built with this program, and is as optimised.
///
/// # Panics
/// When it is not beside this program: nothing that needs it can be tested then.
#[must_use]
#[allow(clippy::panic, clippy::unwrap_used, reason = "for tests, which fail by panics")]
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        // Programs lie beside the folder of what they are built of, tests in it.
        let beside = [program.with_file_name("deps"), program.with_file_name("")];
        let files = beside.map(|folder| folder.join("libnvml_sim.so"));
        let found = files.iter().find(|file| file.exists());
        let file = found.unwrap_or_else(|| panic!("none of {files:?} is there"));
        // The name that NVIDIA's programs look for, in a folder of its own. Tests of several
        // processes make the link at once: it appears by a rename, whole.
        let folder = file.with_file_name("nvml-sim");
        std::fs::create_dir_all(&folder).unwrap();
        let link = folder.join("libnvidia-ml.so.1");
        let new = folder.join(format!("new-{}", std::process::id()));
        std::os::unix::fs::symlink(file, &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
        link
    })
}

/// A simulated node in a folder, which every process that is told of it shares.
#[derive(Debug)]
pub struct Node {
    /// The fleet.
    pub fleet: String,
    folder: tempfile::TempDir,
}

impl Node {
    /// A new node.
    ///
    /// # Panics
    /// When there is no room for a temporary folder.
    #[must_use]
    #[allow(clippy::unwrap_used, reason = "for tests, which fail by panics")]
    pub fn new(fleet: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        Self { fleet: fleet.to_owned(), folder }
    }

    /// Where its state is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The node itself, to make things happen on it.
    ///
    /// # Panics
    /// When its file can't be made or read.
    #[must_use]
    pub fn simulator(&self) -> Simulator {
        simulator(self.folder(), &self.fleet)
    }

    /// Tells a program of the node, and makes it load the simulator as NVIDIA's library.
    pub fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_LIBRARY_PATH", library().parent().unwrap_or(Path::new("/")))
            .env("GPUSHARE_NVML_SIM", &self.fleet)
            .env("GPUSHARE_STATE_DIR", self.folder())
    }

    /// Runs a test of this program again in a process of its own, which has the node: the library
    /// reads the environment, which a test must not change for those beside it.
    ///
    /// # Panics
    /// When that process fails.
    #[allow(clippy::panic, clippy::unwrap_used, reason = "for tests, which fail by panics")]
    pub fn run_again(&self, test: &str, variables: &[(&str, &OsStr)]) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(CHILD, library());
        self.tell(&mut command).envs(variables.iter().copied());
        let output = command.output().unwrap();
        if !output.status.success() {
            panic!("{test} on {}, in its own process:\n{}", self.fleet, text(&output));
        }
    }
}

/// What a program printed on both streams.
#[must_use]
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[allow(clippy::unwrap_used, reason = "for tests, which fail by panics")]
fn simulator(folder: &Path, fleet: &str) -> Simulator {
    let fleet: Fleet = fleet.parse().unwrap();
    let file = format!("{}.json", fleet.file_name());
    Simulator::in_file(&folder.join("run").join(file), fleet).unwrap()
}

/// In a process that [`Node::run_again`] started: gpushare's own backend on the simulated library,
/// and the node behind it.
///
/// # Panics
/// When the node's file can't be read.
#[must_use]
#[allow(clippy::unwrap_used, reason = "for tests, which fail by panics")]
pub fn in_child() -> Option<(RealNvml, Simulator)> {
    let library = std::env::var_os(CHILD)?;
    let folder = PathBuf::from(std::env::var_os("GPUSHARE_STATE_DIR").unwrap());
    let fleet = std::env::var("GPUSHARE_NVML_SIM").unwrap();
    Some((RealNvml::new(Some(library.into())), simulator(&folder, &fleet)))
}
