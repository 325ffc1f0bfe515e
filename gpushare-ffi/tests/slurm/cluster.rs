//! A Slurm of one node, on loopback, in a directory of its own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gpushare_core::Node;
use gpushare_core::snapshot::Snapshot;

use crate::common::{self, build, crate_dir, library, program, run};

pub(crate) const FLEET: &str = "2xH100-80GB";

/// GPU 0 with an MPS daemon for two clients, GPU 1 with three MIG devices.
const SPEC: &str = "version: gpushare/v1
gpus:
  - {select: 0, mode: mps, mps: {thread_percentage: 50, max_clients: 2, access: any}}
  - {select: 1, mode: mig, mig: {instances: {1g.10gb: 2, 3g.40gb: 1}}}
";

/// munged, slurmctld and slurmd, a simulated node that they share, and the plugin. All ends with it.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    slurm: PathBuf,
    daemons: Vec<Child>,
}

/// Where Slurm was unpacked; why this machine cannot have it otherwise.
fn fetched() -> Result<PathBuf, String> {
    let script = crate_dir().join("tests/fetch-slurm");
    let output = Command::new(&script).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

pub(crate) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().split('.').next().unwrap().to_owned()
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that were started with this directory in their environment.
fn processes_of(directory: &Path) -> Vec<i32> {
    let wanted = directory.as_os_str().as_encoded_bytes();
    let of = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let ours = environment.windows(wanted.len()).any(|window| window == wanted);
        (ours && pid != std::process::id() as i32).then_some(pid)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

impl Cluster {
    /// With the plugin, and two GPUs that any two character devices stand for. None, said aloud, where
    /// this machine cannot have a Slurm.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let mut cluster = Self::prepare(test)?;
        let gres = "AutoDetect=off
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
Name=shard Count=4 File=/dev/null
Name=shard Count=4 File=/dev/zero
";
        cluster.configure("gpu,shard", "gpu:2,shard:8", gres);
        cluster.plugstack("required", "timeout=10");
        cluster.build();
        cluster.launch();
        Some(cluster)
    }

    /// With these generic resources, and without the plugin.
    pub(crate) fn with_gres(&mut self, types: &str, gres: &str, file: &str) {
        self.configure(types, gres, file);
        fs::write(self.path("plugstack.conf"), "").unwrap();
        self.launch();
    }

    /// A place for one. None, said aloud, where this machine cannot have a Slurm.
    pub(crate) fn prepare(test: &str) -> Option<Self> {
        let slurm = match fetched() {
            Ok(slurm) => slurm,
            Err(why) => {
                common::skipped(test, &why);
                return None;
            }
        };
        let directory = tempfile::Builder::new().prefix("gpushare-slurm-").tempdir().unwrap();
        // Steps of other users load the plugin.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { directory, slurm, daemons: Vec::new() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, types: &str, gres: &str, file: &str) {
        let [controller, daemon] = free_ports();
        let (host, directory) = (host(), self.directory.path().display());
        for (name, mode) in [("munge", 0o755), ("state", 0o700), ("spool", 0o755)] {
            fs::create_dir(self.path(name)).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut key = vec![0; 1024];
        let mut random = fs::File::open("/dev/urandom").unwrap();
        std::io::Read::read_exact(&mut random, &mut key).unwrap();
        fs::write(self.path("munge/key"), key).unwrap();
        fs::set_permissions(self.path("munge/key"), fs::Permissions::from_mode(0o600)).unwrap();
        let user = run(Command::new("id").arg("-un"));
        let user = user.trim();
        let plugins = self.libraries().join("slurm-wlm");
        // The CPUs are made up, so that steps need not wait for those of this machine.
        let slurm_conf = format!(
            "ClusterName=gpushare
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={directory}/munge/s
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
PluginDir={plugins}
PlugStackConfig={directory}/plugstack.conf
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MailProg=/bin/true
KillWait=1
InactiveLimit=0
GresTypes={types}
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 Gres={gres}
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP
",
            plugins = plugins.display(),
        );
        fs::write(self.path("slurm.conf"), slurm_conf).unwrap();
        fs::write(self.path("gres.conf"), file).unwrap();
    }

    /// Writes plugstack.conf, which is read at each step.
    pub(crate) fn plugstack(&self, required: &str, arguments: &str) {
        let line = format!(
            "{required} {} sim={FLEET} state_dir={} {arguments}\n",
            self.path("gpushare_spank.so").display(),
            self.path("gpushare").display(),
        );
        fs::write(self.path("plugstack.conf"), line).unwrap();
    }

    /// The plugin and what prepares the node.
    fn build(&self) {
        let path = self.directory.path().display();
        fs::copy(library("libgpushare.so"), self.path("libgpushare.so.0")).unwrap();
        symlink("libgpushare.so.0", self.path("libgpushare.so")).unwrap();
        let include = crate_dir().join("../include");
        let mut make = Command::new("make");
        make.arg("--silent").arg("-f").arg(crate_dir().join("examples/slurm/Makefile"));
        make.arg("CFLAGS=-O2 -g -Werror");
        make.arg(format!("OUT={path}/gpushare_spank.so"));
        make.arg(format!("SLURM_CFLAGS=-I{}", self.slurm.join("usr/include").display()));
        make.arg(format!("GPUSHARE_CFLAGS=-I{}", include.display()));
        make.arg(format!("GPUSHARE_LIBS=-L{path} -Wl,-rpath,{path} -lgpushare"));
        run(&mut make);
        for example in ["prolog", "epilog", "status_printer"] {
            let source = format!("examples/{example}.c");
            build(&source, common::Link::Shared, self.directory.path());
        }
        fs::write(self.path("spec.yaml"), SPEC).unwrap();
    }

    /// One of the other examples, on this node.
    pub(crate) fn example(&self, name: &str) -> Command {
        let mut command = program(&self.path(name));
        command.env("GPUSHARE_SIM", FLEET).env("GPUSHARE_STATE_DIR", self.path("gpushare"));
        command
    }

    pub(crate) fn prolog(&self) {
        let mut prolog = self.example("prolog");
        run(prolog.arg("-e").arg(self.path("spec.yaml")).arg(self.path("saved.json")));
    }

    fn libraries(&self) -> PathBuf {
        let entries = fs::read_dir(self.slurm.join("usr/lib")).unwrap().flatten();
        let mut folders = entries.map(|entry| entry.path());
        folders.find(|folder| folder.join("slurm-wlm").is_dir()).unwrap()
    }

    fn environment(&self, command: &mut Command) {
        let libraries = self.libraries();
        let path = format!("{0}:{0}/slurm-wlm", libraries.display());
        command.env("LD_LIBRARY_PATH", path).env("SLURM_CONF", self.path("slurm.conf"));
    }

    /// A command of Slurm's.
    pub(crate) fn slurm(&self, name: &str) -> Command {
        let folders = ["usr/bin", "usr/sbin"].map(|folder| self.slurm.join(folder).join(name));
        let mut command = program(folders.iter().find(|path| path.exists()).unwrap());
        self.environment(&mut command);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn launch(&mut self) {
        let file = |name: &str| self.path(name).display().to_string();
        let node = host();
        let munge = [
            "--foreground".to_owned(),
            "--force".to_owned(),
            format!("--key-file={}", file("munge/key")),
            format!("--socket={}", file("munge/s")),
            format!("--pid-file={}", file("munge/pid")),
            format!("--log-file={}", file("munge/log")),
            format!("--seed-file={}", file("munge/seed")),
        ];
        let stepd = self.slurm.join("usr/sbin/slurmstepd").display().to_string();
        let controller = ["-D", "-i", "-f", &file("slurm.conf")].map(str::to_owned);
        let daemon =
            ["-D", "-d", &stepd, "-N", &node, "-f", &file("slurm.conf")].map(str::to_owned);
        self.daemon("munged", &munge);
        until("a socket of munged's", || self.path("munge/s").exists());
        self.daemon("slurmctld", &controller);
        self.daemon("slurmd", &daemon);
        let idle = || {
            let output = self.slurm("sinfo").args(["-h", "-o", "%T"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim() == "idle"
        };
        until("an idle node", idle);
    }

    fn daemon(&mut self, name: &str, arguments: &[String]) {
        let log = fs::File::create(self.path(&format!("{name}.out"))).unwrap();
        let mut command = program(&self.slurm.join("usr/sbin").join(name));
        self.environment(&mut command);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Not to be stopped with the test's terminal before the steps are.
        command.process_group(0);
        self.daemons.push(command.spawn().unwrap());
    }

    /// The node, from outside Slurm.
    pub(crate) fn node(&self) -> Node {
        Node::builder().sim(FLEET).state_dir(self.path("gpushare")).open().unwrap()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.node().snapshot().unwrap()
    }

    /// How many shares are leased.
    pub(crate) fn leased(&self) -> usize {
        let snapshot = self.snapshot();
        snapshot
            .gpus
            .iter()
            .flat_map(|gpu| &gpu.shares)
            .filter(|share| share.holder.is_some())
            .count()
    }

    /// slurmd says that a step is over a moment before slurmstepd has cleaned up.
    pub(crate) fn until_free(&self) {
        until("all shares free", || self.leased() == 0);
    }
}

/// Standard output and standard error of what had to end with that status.
pub(crate) fn ended(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    (out, err)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["slurmctld.out", "slurmd.out"] {
                let log = fs::read_to_string(self.path(name)).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(15).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                common::skipped("(log of what failed)", &format!("{name}:\n{}", last.join("\n")));
            }
        }
        // slurmd first, which would look after its steps.
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Steps, their tasks, and commands of Slurm's that wait for them.
        let start = Instant::now();
        loop {
            let left = processes_of(self.directory.path());
            if left.is_empty() || start.elapsed() > Duration::from_secs(5) {
                break;
            }
            for pid in left {
                // SAFETY: it changes nothing of ours; the process has our directory in its environment.
                let _ = unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
