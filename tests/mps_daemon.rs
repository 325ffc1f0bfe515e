//! The life of NVIDIA's own MPS control daemons, of several drivers, without a GPU: how they are
//! started, found, opened to others and ended. Their servers need a GPU; a script takes their place.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

use std::fs::{self, Permissions, set_permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpushare_core::ErrorCode;
use gpushare_core::backend::files::FileStore;
use gpushare_core::backend::mps::RealMps;
use gpushare_core::id::Pid;
use gpushare_core::mode::MpsHealth;
use gpushare_core::mps::{Command as Say, MpsDomain, MpsSettings, Reply};
use gpushare_core::parameters::Access;
use gpushare_core::port::{MpsDaemon, MpsHost as _};
use gpushare_core::units::ThreadPercentage;
use gpushare_tests::nvidia::{drivers, skipped};
use tempfile::TempDir;

const NOBODY: u32 = 65534;
const CONTROL: &str = "nvidia-cuda-mps-control";

/// What a process of this program that is not the tests' own is to do.
const ROLE: &str = "GPUSHARE_TEST_ROLE";

/// Whether another user is to see the daemon that is there.
const SEEN: &str = "GPUSHARE_TEST_SEEN";

/// A machine with NVIDIA's daemon of one driver.
struct Machine {
    major: u32,
    folder: TempDir,
    mps: RealMps,
    domain: MpsDomain,
}

fn domain() -> MpsDomain {
    "GPU-5a2b0e4c-0000-1111-2222-000000000002".parse().unwrap()
}

fn opened(folder: &Path) -> RealMps {
    let store = FileStore::below(&folder.join("state")).unwrap();
    RealMps::new(&store, Some(folder.join(CONTROL)))
}

/// A machine for each driver that could be fetched.
fn machines(test: &str) -> Vec<Machine> {
    let drivers = match drivers() {
        Ok(drivers) => drivers,
        Err(why) => {
            skipped(test, why);
            return Vec::new();
        }
    };
    let found = drivers.iter().filter(|(_, driver)| driver.join(CONTROL).exists());
    let machines: Vec<_> = found.map(|(major, driver)| Machine::new(*major, driver)).collect();
    assert!(!machines.is_empty(), "drivers without a control daemon");
    machines
}

impl Machine {
    fn new(major: u32, driver: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let here = folder.path();
        // By another process: one that is forked meanwhile would keep the program busy.
        let script = "#!/bin/sh\nexec sleep 1000\n";
        let install = format!(
            "cp \"$1\" \"$2/{CONTROL}\" && printf %s '{script}' > \"$2/nvidia-cuda-mps-server\" && \
             chmod 755 \"$2\"/nvidia-*"
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &install, "sh"]).arg(driver.join(CONTROL)).arg(here);
        assert!(command.status().unwrap().success());
        let mps = opened(here);
        Self { major, folder, mps, domain: domain() }
    }

    fn leaf(&self) -> PathBuf {
        self.folder.path().join("state/run/mps").join(self.domain.as_str())
    }

    fn probe(&self) -> Option<MpsDaemon> {
        self.mps.probe(&self.domain).unwrap()
    }

    #[track_caller]
    fn running(&self) -> MpsDaemon {
        let daemon = self.probe().expect("a daemon");
        assert_eq!(daemon.health, MpsHealth::Answers, "{}", self.major);
        assert_eq!(daemon.directory, self.leaf());
        daemon
    }

    fn start(&self, access: &Access) {
        self.mps.expect_startable(&self.domain, access).unwrap();
        self.mps.start(&self.domain, access, &MpsSettings::UNLIMITED).unwrap();
    }

    #[track_caller]
    fn stop(&self) {
        let before = Instant::now();
        self.mps.stop(&self.domain).unwrap();
        assert!(before.elapsed() < Duration::from_secs(6), "{:?}", before.elapsed());
        self.expect_nothing();
    }

    #[track_caller]
    fn expect_nothing(&self) {
        assert_eq!(self.probe(), None);
        assert!(!self.leaf().exists());
        assert_eq!(self.processes(), Vec::<u32>::new(), "{}", self.major);
    }

    /// Whatever has our directory in its environment.
    fn processes(&self) -> Vec<u32> {
        let variable = format!("CUDA_MPS_PIPE_DIRECTORY={}", self.leaf().display());
        pids()
            .filter(|pid| read(*pid, "environ").split('\0').any(|entry| entry == variable))
            .collect()
    }

    /// Whether a user of a group is served, by NVIDIA's own program.
    fn serves(&self, uid: u32, gid: u32) -> bool {
        let mut client = Command::new("/bin/sh");
        let ask = format!("echo get_server_list | {}/{CONTROL}", self.folder.path().display());
        client.env("CUDA_MPS_PIPE_DIRECTORY", self.leaf()).uid(uid).gid(gid);
        client.args(["-c", &ask]).output().unwrap().status.success()
    }

    /// Another process that starts a daemon here, as this user or another, and then waits.
    fn starter(&self, uid: u32) -> Child {
        let mut starter = self.other(uid, uid);
        starter.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Another process of this program.
    fn other(&self, uid: u32, gid: u32) -> Command {
        // With a descriptor that is handed on, and signals that are ignored.
        const START: &str = r#"exec 9</etc/passwd; trap "" HUP TERM USR1; exec "$0" "$@""#;
        let mut other = Command::new("/bin/sh");
        other.args(["-c", START]).arg(std::env::current_exe().unwrap());
        other.args(["--exact", "role", "--nocapture"]).env(ROLE, self.folder.path());
        other.uid(uid).gid(gid);
        other
    }

    /// A user who is let in sees the daemon, and to another it is PERMISSION_DENIED.
    #[track_caller]
    fn expect_seen(&self, uid: u32, gid: u32, inside: bool) {
        let mut other = self.other(uid, gid);
        let output = other.env(SEEN, if inside { "in" } else { "out" }).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.mps.stop(&self.domain);
    }
}

/// Not a test: what the process does that [`Machine::starter`] makes.
#[test]
fn role() {
    let Some(folder) = std::env::var_os(ROLE) else { return };
    let folder = Path::new(&folder);
    let mps = opened(folder);
    if let Ok(expected) = std::env::var(SEEN) {
        let probe = mps.probe(&domain()).map(|daemon| daemon.map(|daemon| daemon.health));
        assert_eq!(
            probe.map_err(|error| error.code()),
            match expected.as_str() {
                "in" => Ok(Some(MpsHealth::Answers)),
                _ => Err(ErrorCode::PermissionDenied),
            }
        );
        return;
    }
    assert!(fs::read_link("/proc/self/fd/9").is_ok(), "there is something to hand on");
    mps.start(&domain(), &Access::Caller, &MpsSettings::UNLIMITED).unwrap();
    let uid = fs::metadata("/proc/self").unwrap().uid();
    if uid != 0 {
        as_somebody(&mps, uid);
    }
    fs::write(folder.join("state/started"), "").unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

/// What a user who is not root may.
fn as_somebody(mps: &RealMps, uid: u32) {
    let domain = domain();
    let found = mps.probe(&domain).unwrap().unwrap();
    assert_eq!((found.health, found.access), (MpsHealth::Answers, Access::User(uid.to_string())));
    mps.admit(&domain, true).unwrap();
    mps.admit(&domain, false).unwrap();
    assert_eq!(mps.command(&domain, &Say::Servers).unwrap(), Reply::Pids(Vec::new()));
    mps.stop(&domain).unwrap();
    for refused in [Access::User("0".into()), Access::Group("0".into())] {
        let error = mps.start(&domain, &refused, &MpsSettings::UNLIMITED).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PermissionDenied);
        assert!(mps.expect_startable(&domain, &refused).is_err());
    }
    for access in [Access::User(uid.to_string()), Access::Group(uid.to_string()), Access::Any] {
        mps.start(&domain, &access, &MpsSettings::UNLIMITED).unwrap();
        mps.admit(&domain, true).unwrap();
        assert_eq!(mps.probe(&domain).unwrap().unwrap().access, access);
        mps.stop(&domain).unwrap();
        assert_eq!(mps.probe(&domain).unwrap(), None);
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read(pid: u32, file: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn signal(name: &str, pid: Pid) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_daemon_serves_whom_it_is_opened_to_and_nobody_else() {
    const TEST: &str = "who is served by MPS daemons";
    if !is_root() {
        return skipped(TEST, "only root can let others in");
    }
    for machine in machines(TEST) {
        // Two users, each with its own group and with the other's; and root is always served.
        let who = [(1, 1), (1, 2), (2, 1), (2, 2)];
        for (access, inside) in [
            (Access::User("1".into()), [true, true, false, false]),
            (Access::Group("2".into()), [false, true, false, true]),
            (Access::User("0".into()), [false; 4]),
            (Access::Any, [true; 4]),
        ] {
            let served = || who.map(|(uid, gid)| machine.serves(uid, gid));
            machine.start(&access);
            let found = machine.running();
            assert_eq!((&found.access, found.admitted), (&access, false));
            assert_eq!(served(), [false; 4], "{} {access:?}", machine.major);
            machine.mps.admit(&machine.domain, true).unwrap();
            assert!(machine.running().admitted);
            assert_eq!(served(), inside, "{} {access:?}", machine.major);
            machine.expect_seen(1, 1, inside[0]);
            machine.mps.admit(&machine.domain, false).unwrap();
            assert!(!machine.running().admitted);
            assert_eq!(served(), [false; 4], "{} {access:?}", machine.major);
            assert!(machine.serves(0, 0));
            let group = read(found.pid.unwrap().get(), "status");
            let group = group.lines().find(|line| line.starts_with("Gid:")).unwrap();
            // Members of the group who is served could trace a server that had it.
            assert_eq!(group, "Gid:\t0\t0\t0\t0", "{access:?}");
            machine.stop();
        }
    }
}

#[test]
fn a_daemon_has_nothing_of_who_started_it_and_outlives_it() {
    for machine in machines("what MPS daemons inherit") {
        let mut starter = machine.starter(fs::metadata("/proc/self").unwrap().uid());
        let started = machine.folder.path().join("state/started");
        wait_until("the daemon is started", || started.exists());
        let pid = machine.running().pid.unwrap().get();
        // With its whole process group, as a terminal or a job ends.
        let group = format!("-{}", starter.id());
        assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
        starter.wait().unwrap();
        assert_eq!(machine.running().pid, Some(Pid::new(pid)));

        let environment = read(pid, "environ");
        let mut names: Vec<_> = environment.split('\0').filter(|entry| !entry.is_empty()).collect();
        names.sort_unstable();
        let names: Vec<_> = names.iter().filter_map(|entry| entry.split('=').next()).collect();
        let four =
            ["CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_VISIBLE_DEVICES", "PATH"];
        assert_eq!(names, four, "{}", machine.major);
        assert!(environment.contains(&format!("VISIBLE_DEVICES={}\0", machine.domain)));
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
        let status = read(pid, "status");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        // The daemon itself ignores SIGPIPE; 32 and 33 are the C library's.
        assert_eq!(ignored & !(1 << 12 | 3 << 31), 0, "{ignored:x}");
        assert!(status.contains("Umask:\t0022"), "{status}");
        let stat = read(pid, "stat");
        let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
        assert_ne!(session, starter.id().to_string());
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            // A connection of a moment ago may be closed by now.
            let Ok(file) = fs::read_link(entry.path()) else { continue };
            let own = file.starts_with(machine.folder.path())
                || file == Path::new("/dev/null")
                || ["socket:", "pipe:", "anon_inode:"]
                    .iter()
                    .any(|kind| file.to_string_lossy().starts_with(kind));
            assert!(own, "{}: {entry:?} is {}", machine.major, file.display());
        }
        assert!(machine.mps.log(&machine.domain).contains(&format!("Control {pid:>5}]")));
        machine.stop();
    }
}

#[test]
fn a_user_who_is_not_root_has_daemons_of_their_own() {
    const TEST: &str = "MPS daemons of a user";
    if !is_root() {
        return skipped(TEST, "only root can become another user");
    }
    for machine in machines(TEST) {
        let state = machine.folder.path().join("state");
        fs::create_dir(&state).unwrap();
        chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
        let mut user = machine.starter(NOBODY);
        let mut ended = None;
        wait_until("the user's part is done", || {
            ended = user.try_wait().unwrap();
            ended.is_some() || state.join("started").exists()
        });
        assert_eq!(ended, None, "{}: the user's part failed", machine.major);
        user.kill().unwrap();
        user.wait().unwrap();
    }
}

#[test]
fn a_daemon_that_was_killed_is_gone_and_another_takes_its_place() {
    for machine in machines("killed MPS daemons") {
        machine.start(&Access::Caller);
        machine.mps.admit(&machine.domain, true).unwrap();
        let first = machine.running().pid.unwrap();
        signal("-KILL", first);
        wait_until("it is gone", || machine.probe().unwrap().health == MpsHealth::Gone);
        assert_eq!(machine.probe().unwrap().pid, None);
        assert!(machine.leaf().join("control").exists(), "its socket stays");
        machine.start(&Access::Any);
        let second = machine.running();
        assert_eq!((second.admitted, second.access), (false, Access::Any));
        assert_ne!(second.pid, Some(first));
        let again =
            machine.mps.start(&machine.domain, &Access::Any, &MpsSettings::UNLIMITED).unwrap_err();
        assert_eq!(again.code(), ErrorCode::InvalidState);
        assert_eq!(machine.running().pid, second.pid);
        signal("-KILL", second.pid.unwrap());
        machine.stop();
        machine.stop();
    }
}

#[test]
fn a_frozen_daemon_is_known_and_ended() {
    for machine in machines("frozen MPS daemons") {
        machine.start(&Access::Caller);
        let pid = machine.running().pid.unwrap();
        signal("-STOP", pid);
        let before = Instant::now();
        let found = machine.probe().unwrap();
        assert_eq!((found.health, found.pid), (MpsHealth::Frozen, Some(pid)), "{}", machine.major);
        assert!(before.elapsed() < Duration::from_secs(2));
        let again =
            machine.mps.start(&machine.domain, &Access::Any, &MpsSettings::UNLIMITED).unwrap_err();
        assert_eq!(again.code(), ErrorCode::InvalidState);
        machine.stop();
    }
}

#[test]
fn a_daemon_with_a_server_is_ended_in_bounded_time() {
    for machine in machines("MPS daemons with a server") {
        machine.start(&Access::Caller);
        let uid = fs::metadata("/proc/self").unwrap().uid();
        machine.mps.command(&machine.domain, &Say::StartServer { uid }).unwrap();
        wait_until("the server runs", || machine.processes().len() > 1);
        let servers = machine.mps.command(&machine.domain, &Say::Servers).unwrap();
        assert!(matches!(&servers, Reply::Pids(pids) if pids.len() == 1), "{servers:?}");
        machine.stop();

        // One that hears nobody, and whose daemon was killed.
        let server = machine.folder.path().join("nvidia-cuda-mps-server");
        let deaf = "trap '' TERM INT HUP; echo deaf > \"${0%/*}/state/deaf\"; while :; do sleep 0.05; done";
        let write = format!("printf '%s\\n' '#!/bin/sh' \"$1\" > '{}'", server.display());
        assert!(
            Command::new("/bin/sh").args(["-c", &write, "sh", deaf]).status().unwrap().success()
        );
        // Either takes seconds: one for each driver.
        let kill = machine.major % 2 == 0;
        machine.start(&Access::Caller);
        let daemon = machine.running().pid.unwrap();
        machine.mps.command(&machine.domain, &Say::StartServer { uid }).unwrap();
        let heard = machine.folder.path().join("state/deaf");
        wait_until("the server is deaf", || heard.exists());
        fs::remove_file(heard).unwrap();
        if kill {
            signal("-KILL", daemon);
        }
        let before = Instant::now();
        machine.mps.stop(&machine.domain).unwrap();
        assert!(before.elapsed() < Duration::from_secs(6), "{:?}", before.elapsed());
        // Its last `sleep` is nobody's server.
        std::thread::sleep(Duration::from_millis(100));
        machine.expect_nothing();
    }
}

#[test]
fn the_last_change_of_a_limit_is_noted() {
    for machine in machines("changes of limits") {
        machine.start(&Access::Caller);
        let percentage = ThreadPercentage::new(25.0).unwrap();
        machine.mps.command(&machine.domain, &Say::DefaultThreadPercentage).unwrap();
        let started = machine.running().changed.expect("the time of its start");
        let set = Say::SetDefaultThreadPercentage(percentage);
        let reply = machine.mps.command(&machine.domain, &set).unwrap();
        assert_eq!(reply, Reply::Percentage(percentage));
        let first = machine.running().changed.expect("a time");
        std::thread::sleep(Duration::from_millis(20));
        machine.mps.command(&machine.domain, &set).unwrap();
        assert!(machine.running().changed.unwrap() > first && first >= started);
        machine.stop();
        let error = machine.mps.command(&machine.domain, &Say::Servers).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound);
    }
}

#[test]
fn of_those_who_start_at_once_one_wins() {
    for machine in machines("MPS daemons that are started at once") {
        let results: Vec<_> = std::thread::scope(|scope| {
            let start =
                || machine.mps.start(&machine.domain, &Access::Caller, &MpsSettings::UNLIMITED);
            let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let lost = results.iter().filter_map(|result| result.as_ref().err());
        let codes: Vec<_> = lost.map(|error| error.code()).collect();
        assert_eq!(codes, [ErrorCode::InvalidState; 7], "{results:?}");
        machine.running();
        assert_eq!(machine.processes().len(), 1);
        machine.stop();
    }
}

#[test]
fn a_starter_killed_at_any_moment_leaves_nothing_that_stop_does_not_end() {
    let uid = fs::metadata("/proc/self").unwrap().uid();
    for machine in machines("killed starters of MPS daemons") {
        for moment in 0..25 {
            let mut starter = machine.starter(uid);
            // It makes the directory some milliseconds after its own start.
            wait_until("it begins", || machine.leaf().exists());
            std::thread::sleep(Duration::from_micros(400 * moment));
            starter.kill().unwrap();
            starter.wait().unwrap();
            machine.stop();
            // Nor does anything come to life after that.
            std::thread::sleep(Duration::from_millis(20));
            machine.expect_nothing();
        }
        // And nothing is in the way of the next.
        machine.start(&Access::Caller);
        machine.stop();
    }
}

#[test]
fn daemons_of_others_are_seen_and_ours_are_not_among_them() {
    for machine in machines("foreign MPS daemons") {
        let theirs = tempfile::tempdir().unwrap();
        let mut daemon = Command::new(machine.folder.path().join(CONTROL));
        daemon.env("CUDA_MPS_PIPE_DIRECTORY", theirs.path()).env("CUDA_VISIBLE_DEVICES", "GPU-7,1");
        daemon.env("CUDA_MPS_LOG_DIRECTORY", theirs.path()).arg("-d");
        assert!(daemon.status().unwrap().success());
        machine.start(&Access::Caller);
        let all = machine.mps.foreign().unwrap();
        let found: Vec<_> = all.iter().filter(|found| found.directory == theirs.path()).collect();
        let [found] = found[..] else { panic!("{}: {all:?}", machine.major) };
        assert_eq!(found.visible.as_deref(), Some("GPU-7,1"));
        let own = machine.running().pid;
        assert!(all.iter().all(|found| found.pid != own && found.directory != machine.leaf()));
        let pid = found.pid.unwrap();
        assert!(read(pid.get(), "cmdline").contains(CONTROL));
        // One whose socket cannot be reached from here, as in a container, is known by its process.
        fs::remove_file(theirs.path().join("control")).unwrap();
        assert!(machine.mps.foreign().unwrap().contains(found), "{}", machine.major);
        signal("-TERM", pid);
        wait_until("it has ended", || {
            machine.mps.foreign().unwrap().iter().all(|found| found.directory != theirs.path())
        });
        machine.stop();
    }
}
