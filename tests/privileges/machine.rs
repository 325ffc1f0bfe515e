//! The command on a node behind NVIDIA's C ABI, with a real MPS daemon where one could be fetched: what
//! it leaves on a machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use gpushare_tests::nvidia::{drivers, skipped};
use gpushare_tests::nvml_sim::{Node, library, text};

const CONTROL: &str = "nvidia-cuda-mps-control";

pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) folder: tempfile::TempDir,
    umask: &'static str,
    /// What the command and its tenants find in their environment.
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) has_mps: bool,
}

impl Machine {
    pub(crate) fn new(fleet: &str, umask: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let newest = drivers().map(|drivers| drivers.last());
        let newest = newest.unwrap_or_else(|why| {
            skipped("what an MPS daemon leaves", why);
            None
        });
        if let Some((_, driver)) = newest {
            // By another process: one that is forked meanwhile would keep the program busy.
            let install = format!(
                "umask 022; cp \"$1/{CONTROL}\" \"$2\" && \
                 printf '#!/bin/sh\\nexec sleep 600\\n' >\"$2/nvidia-cuda-mps-server\" && \
                 chmod 755 \"$2\"/nvidia-*"
            );
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &install, "sh"]).arg(driver).arg(folder.path());
            assert!(command.status().unwrap().success());
        }
        let node = Node::new(fleet);
        Self { node, folder, umask, variables: Vec::new(), has_mps: newest.is_some() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        let script = format!("umask {} && exec \"$@\"", self.umask);
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_command"), "--state-dir"]);
        command.arg(self.state()).args(arguments).env_clear().stdin(Stdio::null());
        self.node.tell(&mut command).env("PATH", "/usr/bin:/bin");
        command.env("GPUSHARE_NVML_PATH", library());
        command.env("GPUSHARE_MPS_CONTROL", self.folder.path().join(CONTROL));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs a command that dies before its first change of the driver, and gives its journal.
    #[track_caller]
    pub(crate) fn dies(&self, arguments: &[&str]) -> PathBuf {
        let mut command = self.command(arguments);
        let output = command.env("GPUSHARE_NVML_KILL_AT", "1-").output().unwrap();
        assert!(output.status.code().is_none(), "{}", text(&output));
        let entries = fs::read_dir(self.state().join("lib/journal")).unwrap();
        let mut journals: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(journals.len(), 1, "{journals:?}");
        journals.remove(0)
    }

    pub(crate) fn spec(&self, gpus: &str) -> String {
        let path = self.folder.path().join("spec.json");
        fs::write(&path, format!(r#"{{"version": "gpushare/v1", "gpus": [{gpus}]}}"#)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.has_mps && Path::new(&self.state()).exists() {
            let _ = self.run(&["mps", "disable", "-i", "all", "--grace", "0", "--allow-evict"]);
        }
    }
}
