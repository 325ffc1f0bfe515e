//! A simulated node of one GPU in a directory of its own, for callers of several kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gpushare_core::backend::sim::{Fleet, Simulator};
use gpushare_tests::nvml_sim::text;
use serde_json::Value;
use tempfile::TempDir;

use crate::table::Caller;

/// An ordinary user, who has this user's and group's number.
pub(crate) const NOBODY: u32 = 65_534;

pub(crate) const FLEET: &str = "1xH100-80GB";

/// The command where any user can run it: the build's own directory may not be open to them.
#[derive(Debug)]
pub(crate) struct Program(TempDir);

impl Program {
    pub(crate) fn install() -> Self {
        let folder = open_folder();
        // By another process: whatever this one starts meanwhile would have it open to write, and it
        // could not be run.
        let (from, to) = (env!("CARGO_BIN_EXE_command"), folder.path().join("gpushare"));
        assert!(Command::new("install").arg(from).arg(to).status().unwrap().success());
        Self(folder)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.0.path().join("gpushare"));
        command.env_clear().stdin(Stdio::null()).current_dir("/");
        command
    }
}

fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

pub(crate) struct Place<'a> {
    pub(crate) folder: TempDir,
    program: &'a Program,
    caller: Caller,
}

impl<'a> Place<'a> {
    /// One that root has.
    pub(crate) fn new(program: &'a Program) -> Self {
        let folder = open_folder();
        Self { folder, program, caller: Caller::Root }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn spec(&self, gpu: &str) -> String {
        let path = self.folder.path().join("spec.json");
        let text = format!(r#"{{"version": "gpushare/v1", "gpus": [{{"select": 0, {gpu}}}]}}"#);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The file of the simulated node: the driver, as it were.
    pub(crate) fn node(&self) -> PathBuf {
        let fleet: Fleet = FLEET.parse().unwrap();
        self.state().join("run").join(format!("{}.json", fleet.file_name()))
    }

    pub(crate) fn simulator(&self) -> Simulator {
        Simulator::in_file(&self.node(), FLEET.parse().unwrap()).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program.command();
        command.args(["--sim", FLEET, "--state-dir"]).arg(self.state()).args(arguments);
        if self.caller != Caller::Root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[&["--json"], arguments].concat())).unwrap()
    }

    /// The uuids of the MIG devices that there are.
    pub(crate) fn devices(&self) -> BTreeSet<String> {
        let node = fs::read(self.node()).unwrap();
        let node: Value = serde_json::from_slice(&node).unwrap();
        let instances = node["gpus"][0]["instances"].as_array().unwrap();
        let compute = instances.iter().flat_map(|gi| gi["compute"].as_array().unwrap());
        compute.map(|ci| ci["uuid"].to_string()).collect()
    }

    /// Applies as one who dies when the journal is there and nothing has begun.
    pub(crate) fn die(&self, gpu: &str) {
        let spec = fs::read_to_string(self.spec(gpu)).unwrap();
        for call in 1..100 {
            let mut applier = Command::new(env!("CARGO_BIN_EXE_applier"));
            applier.env_clear().env("GPUSHARE_SIM", FLEET).env("GPUSHARE_STATE_DIR", self.state());
            let output =
                applier.args(["die", &call.to_string(), "before", &spec]).output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
            let journals = |path: &PathBuf| path.extension().is_some_and(|end| end == "jsonl");
            let left = tree(&self.state());
            if left.keys().filter(|path| !path.ends_with("audit.jsonl")).any(journals) {
                return;
            }
        }
        panic!("no journal was left");
    }

    /// From now on it is that one who runs commands here.
    pub(crate) fn hand_to(&mut self, caller: Caller) {
        self.caller = caller;
        let simulator = self.simulator();
        match caller {
            Caller::Anybody | Caller::Owner => simulator.act_as(NOBODY).unwrap(),
            Caller::Configurer => simulator.act_as_mig_configurer(NOBODY).unwrap(),
            Caller::Root => {}
        }
        if matches!(caller, Caller::Owner | Caller::Configurer) {
            for path in tree(&self.state()).keys() {
                lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
    }
}

impl Entry {
    pub(crate) fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// What a path is: mode, owner, group, content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) content: Vec<u8>,
}

/// Everything below a path, and that itself.
pub(crate) fn tree(path: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, Entry { mode: meta.mode(), owner: (meta.uid(), meta.gid()), content });
    }
    found
}
