//! A place to run the command in: a state directory of its own and a fleet.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const GPUSHARE: &str = env!("CARGO_BIN_EXE_gpushare");

/// An ordinary user, who has this user's and group's number.
pub(crate) const NOBODY: u32 = 65534;

/// Whether a test can run commands as [`NOBODY`]; where it cannot, it is skipped aloud.
pub(crate) fn can_be_nobody(what: &str) -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        skipped(what, "only root can run a command as another user");
    }
    can
}

/// Says that a test was skipped and why: past the test harness, which would keep it to itself.
pub(crate) fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

/// How long anything may take on a busy machine before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Place {
    directory: TempDir,
    fleet: String,
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The one document on standard output.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// An error of that code, on standard error alone.
    #[track_caller]
    pub(crate) fn expect_error(self, code: &str) -> Self {
        assert_eq!(self.status, 1, "{self:?}");
        assert!(self.stderr.starts_with(&format!("gpushare: {code}: ")), "{self:?}");
        self
    }
}

/// The command with an environment in which only its options count.
pub(crate) fn command() -> Command {
    let mut command = Command::new(GPUSHARE);
    command.stdin(Stdio::null()).env_clear();
    command
}

impl Place {
    /// The command as [`NOBODY`], who may read this place from now on.
    pub(crate) fn nobodys_command(&self) -> Command {
        // The build's own directory may not be open to others.
        let program = self.path().join("gpushare");
        if !program.exists() {
            std::fs::set_permissions(self.path(), Permissions::from_mode(0o755)).unwrap();
            // By another process: whatever this one starts meanwhile would have it open to write, and
            // it could not be run.
            let copied = Command::new("install").arg(GPUSHARE).arg(&program).status();
            assert!(copied.unwrap().success());
        }
        let mut command = Command::new(&program);
        command.env_clear().stdin(Stdio::null()).uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }

    pub(crate) fn new(fleet: &str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), fleet: fleet.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Where the durable files of its fleet are.
    pub(crate) fn lib(&self) -> PathBuf {
        let fleet = self.fleet.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        self.state().join("lib").join(format!("sim-{fleet}"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command();
        command.arg("--sim").arg(&self.fleet).arg("--state-dir").arg(self.state()).args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).output().unwrap())
    }

    /// Runs what must be done.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> Answer {
        self.run(arguments).expect(0)
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        self.done(&all).document()
    }

    /// Starts a command whose output is kept.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let plain = self.command(arguments);
        // Whoever runs the tests in the background ignores signals, and the command would go on to.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal").arg(plain.get_program()).args(plain.get_args());
        command.stdin(Stdio::null()).env_clear();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Writes a spec and gives its path.
    pub(crate) fn spec(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// One GPU's mode and layout, without uuids and ids.
    pub(crate) fn layout(&self, index: usize) -> (String, Vec<String>) {
        let status = self.json(&["status"]);
        let gpu = &status["gpus"][index];
        let instances = gpu["mig"]["gpu_instances"].as_array().cloned().unwrap_or_default();
        let instances = instances.iter().map(|gi| {
            let compute = gi["compute_instances"].as_array().unwrap().iter();
            let compute: Vec<_> =
                compute.map(|ci| format!("{}@{}", ci["slices"], ci["start"])).collect();
            format!(
                "{}@{} {}",
                gi["name"].as_str().unwrap(),
                gi["placement"]["start"],
                compute.join("+")
            )
        });
        (gpu["mode"].as_str().unwrap().to_owned(), instances.collect())
    }

    /// The uuids of one GPU's MIG devices.
    pub(crate) fn devices(&self, index: usize) -> Vec<String> {
        let status = self.json(&["status"]);
        let devices = status["gpus"][index]["mig_devices"].as_array().unwrap().iter();
        devices.map(|device| device["uuid"].as_str().unwrap().to_owned()).collect()
    }

    /// The text of the journals that are there.
    pub(crate) fn journals(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.lib().join("journal")) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        let journals = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
        journals.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }

    /// Waits until the journal says that that many steps have begun.
    #[track_caller]
    pub(crate) fn wait_for_steps(&self, count: usize) {
        let start = Instant::now();
        let begun = |text: &String| text.lines().filter(|line| line.contains("\"begin\"")).count();
        while !self.journals().iter().any(|journal| begun(journal) >= count) {
            assert!(start.elapsed() < PATIENCE, "no journal with {count} steps");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
