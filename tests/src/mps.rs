//! NVIDIA's own MPS control daemons, run without a GPU: the daemon is real, and the server that it starts
//! is a script of ours, found first in its `PATH`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpushare_core::backend::mps::MpsControl;

use crate::nvidia::{drivers, skipped};

/// How long anything may take that a daemon does on its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What stands in for `nvidia-cuda-mps-server`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Lives until it is told to end, and says nothing: its daemon has it as INITIALIZING.
    Living,
    /// Ends at once with status 1, as without a GPU.
    Failing,
    /// Lives and does not hear SIGTERM.
    Hanging,
}

impl Server {
    const fn script(self) -> &'static str {
        match self {
            Self::Living => "exec sleep 600",
            Self::Failing => "exit 1",
            Self::Hanging => "trap '' TERM INT HUP; while :; do sleep 0.1; done",
        }
    }
}

/// A real control daemon in a directory of its own. It ends with this value, and its servers too.
#[derive(Debug)]
pub struct Daemon {
    /// The driver that it is of.
    pub major: u32,
    /// Its program.
    pub tool: PathBuf,
    folder: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts that of a driver and waits until it answers.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn start(major: u32, driver: &Path, server: Server) -> Self {
        Self::start_as(major, driver, server, None)
    }

    /// The same as another user, which only root can.
    ///
    /// # Panics
    /// If it doesn't start.
    #[allow(clippy::unwrap_used, reason = "a test that cannot start its daemon fails")]
    pub fn start_as(major: u32, driver: &Path, server: Server, uid: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["pipe", "log", "bin"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let stub = path("bin/nvidia-cuda-mps-server");
        let servers = path("log/servers");
        let mut script = String::from("#!/bin/sh\n");
        let _ = writeln!(script, "echo $$ >>'{}'\n{}", servers.display(), server.script());
        std::fs::write(&stub, script).unwrap();
        std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(uid) = uid {
            for name in ["", "pipe", "log", "bin"] {
                std::os::unix::fs::chown(path(name), Some(uid), None).unwrap();
            }
        }
        let tool = driver.join("nvidia-cuda-mps-control");
        let bins = format!("{}:/usr/bin:/bin", path("bin").display());
        // Whoever runs the tests in the background ignores signals, and a daemon that did would not
        // end its servers.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal").arg(&tool);
        let log = std::fs::File::create(path("log/control.log")).unwrap();
        // In the foreground it is our child: one that ended is waited for and no zombie. What would
        // go to its log it prints.
        command
            .arg("-f")
            .env_clear()
            .env("PATH", bins)
            .env("CUDA_MPS_PIPE_DIRECTORY", path("pipe"))
            .env("CUDA_MPS_LOG_DIRECTORY", path("log"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let child = command.spawn().unwrap();
        let daemon = Self { major, tool, folder, child };
        let socket = daemon.directory().join("control_privileged");
        wait_for("the daemon's socket", || socket.exists());
        if uid.is_none() {
            let pid = wait_until("the daemon's greeting", || daemon.control().pid().ok());
            assert_eq!(pid.get(), daemon.child.id());
        }
        daemon
    }

    /// Where it listens.
    pub fn directory(&self) -> PathBuf {
        self.folder.path().join("pipe")
    }

    /// It, over its socket alone.
    pub fn control(&self) -> MpsControl {
        MpsControl::in_directory(self.directory()).with_tool(&self.tool).native_only()
    }

    /// It, through NVIDIA's program alone.
    pub fn through_tool(&self) -> MpsControl {
        MpsControl::in_directory(self.directory()).with_tool(&self.tool).tool_only()
    }

    /// What it wrote down.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log/control.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Ends it by SIGKILL, so that it leaves its sockets behind.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let servers = std::fs::read_to_string(self.folder.path().join("log/servers"));
        let script = self.folder.path().join("bin/nvidia-cuda-mps-server");
        for pid in servers.unwrap_or_default().lines() {
            // Only what is still a server of ours: numbers are used again.
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command == "sleep 600 " || command.contains(&*script.to_string_lossy()) {
                let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
                let kill = |pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                let _ = pid.map(kill);
            }
        }
    }
}

/// Runs a test with a daemon of every driver that can be had; says that it was skipped otherwise.
pub fn each_daemon(test: &str, server: Server, mut run: impl FnMut(Daemon)) {
    each_driver(test, |major, folder| run(Daemon::start(major, folder, server)));
}

/// The same with the drivers alone.
pub fn each_driver(test: &str, mut run: impl FnMut(u32, &Path)) {
    match drivers() {
        Ok(drivers) => drivers.iter().for_each(|(major, folder)| run(*major, folder)),
        Err(why) => skipped(test, why),
    }
}

/// Waits for something that a daemon does on its own.
///
/// # Panics
/// When it does not come.
pub fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    wait_until(what, || come().then_some(()));
}

/// Waits for a value.
///
/// # Panics
/// When it does not come.
#[allow(clippy::panic, reason = "a test fails by a panic")]
pub fn wait_until<T>(what: &str, mut come: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match come() {
            Some(value) => return value,
            None if start.elapsed() > PATIENCE => panic!("{what} did not come"),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
