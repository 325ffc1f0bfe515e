//! A podman of a test's own: its files, its CDI directories, its cgroup, its namespace of mounts.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::place::{Answer, PATIENCE, skipped};

/// What podman is given from the test's own environment: nothing but this.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The limits that podman would raise need a capability that a container of CI may lack.
const RUN: &[&str] = &[
    "run",
    "--rm",
    "--network=none",
    "--hostname=tenant",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
];

pub(crate) struct Runtime {
    directory: TempDir,
    /// Holds the namespace until its standard input ends, with this process at the latest.
    holder: Child,
    input: Option<ChildStdin>,
    /// As `/proc/PID/ns/mnt` says it.
    namespace: PathBuf,
    cgroup: String,
}

impl Runtime {
    /// None where no containers can be had here: the test is skipped aloud.
    pub(crate) fn new(what: &str) -> Option<Self> {
        static POSSIBLE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match POSSIBLE.get_or_init(possible) {
            Ok(podman) => Some(Self::start(podman).unwrap()),
            Err(why) => {
                skipped(what, why);
                None
            }
        }
    }

    fn start(podman: &Path) -> Result<Self, String> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        for name in ["cdi", "etc-cdi", "layers", "root", "runroot", "tmp"] {
            fs::create_dir(directory.path().join(name)).map_err(|error| error.to_string())?;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/enter.sh");
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--propagation", "private", "sh"]).arg(script);
        holder.arg(directory.path()).arg(podman).current_dir("/");
        holder.env_clear().env("PATH", PATH).env("HOME", directory.path().join("tmp"));
        holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = holder.spawn().map_err(|error| format!("unshare: {error}"))?;
        let input = holder.stdin.take();
        let mut said = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said);
        if said != "ready\n" {
            drop(input);
            let mut why = String::new();
            let _ = holder.stderr.take().unwrap().read_to_string(&mut why);
            let _ = holder.wait();
            return Err(format!("no namespace of mounts with a podman: {}", why.trim()));
        }
        let namespace = namespace_of(holder.id()).ok_or("the namespace is gone")?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("gpushare-test-{}-{number}", std::process::id());
        Ok(Self { directory, holder, input, namespace, cgroup })
    }

    /// A directory of the test's own that is in no container.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What podman has as `/`.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.id()))
    }

    /// What podman has as `/var/run/cdi`.
    pub(crate) fn cdi(&self) -> PathBuf {
        self.path().join("cdi")
    }

    /// What podman has as `/etc/cdi`.
    pub(crate) fn static_cdi(&self) -> PathBuf {
        self.path().join("etc-cdi")
    }

    /// Writes a CDI file of one device, `gpushare.dev/share=NAME`.
    pub(crate) fn device(&self, version: &str, name: &str, edits: &Value) {
        let document = serde_json::json!({
            "cdiVersion": version,
            "kind": "gpushare.dev/share",
            "devices": [{"name": name, "containerEdits": edits}],
        });
        let file = self.cdi().join(format!("gpushare.dev-share_{name}.json"));
        fs::write(file, document.to_string()).unwrap();
    }

    /// A command in podman's namespace of mounts, with podman's environment.
    pub(crate) fn inside(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.arg("--").arg(program).args(arguments).current_dir("/");
        command.env_clear().env("PATH", PATH).env("HOME", self.path().join("tmp"));
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn podman(&self, arguments: &[&str]) -> Command {
        self.inside(self.path().join("podman").to_str().unwrap(), arguments)
    }

    /// `podman run` of a shell's script with these devices, and more options.
    pub(crate) fn command(&self, options: &[&str], devices: &[&str], script: &str) -> Command {
        let mut command = self.podman(RUN);
        command.arg(format!("--cgroup-parent=/{}", self.cgroup)).args(options);
        command.args(devices.iter().map(|device| format!("--device={device}")));
        command.args(["tiny", "sh", "-c", script]);
        command
    }

    /// Runs a container to its end.
    pub(crate) fn run(&self, devices: &[&str], script: &str) -> Answer {
        Answer::of(self.command(&[], devices, script).output().unwrap())
    }

    /// Starts a container that stays, and returns when its first process runs.
    #[track_caller]
    pub(crate) fn start_named(&self, name: &str, devices: &[&str], script: &str) -> Answer {
        Answer::of(self.command(&["--detach", "--name", name], devices, script).output().unwrap())
    }

    /// Ends a container that was started by name.
    #[track_caller]
    pub(crate) fn end(&self, name: &str) {
        Answer::of(self.podman(&["rm", "--force", "--time=0", name]).output().unwrap()).expect(0);
    }

    /// The names of the containers that there are, running or not.
    #[track_caller]
    pub(crate) fn containers(&self) -> Vec<String> {
        let list = self.podman(&["ps", "--all", "--format={{.Names}}"]).output().unwrap();
        Answer::of(list).expect(0).stdout.lines().map(str::to_owned).collect()
    }

    /// The pids of this namespace's processes: podman's, conmon's and what hooks have left.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| {
            pid != self.holder.id() && namespace_of(pid).as_ref() == Some(&self.namespace)
        })
        .collect()
    }

    fn kill_what_is_left(&self) {
        for pid in self.processes() {
            let Some(number) = pid.try_into().ok().and_then(Pid::from_raw) else { continue };
            let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { continue };
            // Still the same one, now that it is held.
            if namespace_of(pid).as_ref() == Some(&self.namespace) {
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
        }
    }

    /// Of the first version of cgroups each controller has a tree of its own.
    fn remove_cgroups(&self) -> bool {
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        let below = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        roots.extend(below.map(|entry| entry.path()));
        // Each of them, whatever becomes of the first.
        roots.iter().filter(|root| !remove_tree(&root.join(&self.cgroup))).count() == 0
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "--force", "--all", "--time=0"]).output();
        let start = Instant::now();
        loop {
            // conmon ends by itself, soon.
            if start.elapsed() > Duration::from_secs(2) {
                self.kill_what_is_left();
            }
            let left = !self.processes().is_empty();
            if !left && self.remove_cgroups() || start.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.input.take());
        let _ = self.holder.wait();
    }
}

fn namespace_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

/// Removes the folders of a cgroup; whether it is gone.
fn remove_tree(cgroup: &Path) -> bool {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// The folder with podman, or why this machine runs no containers.
fn possible() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can start containers this way".to_owned());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/fetch-podman");
    let fetched = Command::new(&script).output().map_err(|error| error.to_string())?;
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).trim().to_owned());
    }
    let podman = PathBuf::from(String::from_utf8_lossy(&fetched.stdout).trim());
    // Cgroups, device nodes and the rest: a container shows best whether they can be had.
    let runtime = Runtime::start(&podman)?;
    let answer = runtime.run(&[], "echo alive");
    if answer.status != 0 || answer.stdout != "alive\n" {
        return Err(format!("podman starts no container here: {}", answer.stderr.trim()));
    }
    Ok(podman)
}
