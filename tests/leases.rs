//! Leases as real processes on one node: they contend, die, inherit, and meet what is broken.
//!
//! `GPUSHARE_ACQUISITIONS=100000` makes the contention long.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

#[path = "leases/contention.rs"]
mod contention;
#[path = "leases/debris.rs"]
mod debris;
#[path = "leases/holders.rs"]
mod holders;
#[path = "leases/transitions.rs"]
mod transitions;
#[path = "leases/users.rs"]
mod users;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use gpushare_core::lease::{LeaseList, LeaseRequest};
use gpushare_core::{ApplyOptions, Lease, Node};
use serde_json::Value;

const SLICED: &str = r#"{"select": "all", "mode": "time_sliced", "time_sliced": {"replicas": 4}}"#;
const EXCLUSIVE: &str = r#"{"select": "all", "mode": "exclusive"}"#;

/// A simulated node that processes share.
struct Fleet {
    name: &'static str,
    state: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Fleet {
    fn new(name: &'static str, spec: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users look in, too.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let fleet = Self { name, state: folder.path().join("state"), _folder: Some(folder) };
        fleet.apply(spec);
        fleet
    }

    /// In a directory of somebody else's choice.
    fn within(name: &'static str, state: PathBuf) -> Self {
        Self { name, state, _folder: None }
    }

    fn node(&self) -> Node {
        Node::builder().sim(self.name).state_dir(&self.state).open().unwrap()
    }

    fn apply(&self, spec: &str) {
        let spec = format!(r#"{{"version": "gpushare/v1", "gpus": [{spec}]}}"#);
        let options = ApplyOptions::new().allow_reset(true);
        self.node().apply(&spec.parse().unwrap(), &options).unwrap();
    }

    fn run(&self) -> PathBuf {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.state.join("run"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.run().join(name)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder(folder)).unwrap();
        entries.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    fn leases(&self) -> LeaseList {
        self.node().leases().unwrap()
    }

    fn free(&self) -> usize {
        let list = self.leases();
        let shares = list.gpus.iter().flat_map(|gpu| &gpu.shares);
        shares.filter(|share| !share.is_leased()).count()
    }

    fn lease(&self) -> gpushare_core::Result<Lease> {
        self.node().lease(&LeaseRequest::any())
    }

    /// A lease of what is free in a moment: a child that another test of this process is just starting
    /// has our descriptors until it is another program.
    fn lease_soon(&self) -> Lease {
        let request = LeaseRequest::any().timeout(Some(Duration::from_secs(5)));
        self.node().lease(&request).unwrap()
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("GPUSHARE_SIM", self.name)
            .env("GPUSHARE_STATE_DIR", &self.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    fn leaser(&self, arguments: &[&str]) -> Leaser {
        Leaser::start(self.command(Path::new(env!("CARGO_BIN_EXE_leaser")), arguments))
    }
}

/// A process that leases. It is killed when it is dropped.
struct Leaser {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Leaser {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn says(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
    }

    /// Lets it come to its end, and returns what it still says.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let _ = self.child.wait();
        rest
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Leaser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
#[track_caller]
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        gpushare_tests::nvidia::skipped(what, "needs root");
    }
    root
}
