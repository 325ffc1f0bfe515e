//! The life of daemons that do not do as they should. Real ones are in `tests/mps_daemon.rs`.

use std::fs::{self, Permissions, set_permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::processes::Process;
use super::*;
use crate::mode::MpsHealth;

const NOBODY: u32 = 65534;

/// A machine with a program of ours in place of NVIDIA's.
struct Machine {
    folder: tempfile::TempDir,
    mps: RealMps,
    domain: MpsDomain,
}

impl Machine {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("nvidia-cuda-mps-control");
        let mut mps = RealMps::new(&FileStore::below(folder.path()).unwrap(), Some(program));
        mps.scope.mark = folder.path().join("no-systemd");
        let domain = "GPU-5a2b0e4c-0000-1111-2222-000000000001".parse().unwrap();
        let machine = Self { folder, mps, domain };
        machine.script("nvidia-cuda-mps-control", script);
        machine
    }

    fn script(&self, name: &str, script: &str) {
        let path = self.path(name);
        // Not opened for writing in this process: a child of another test would keep it busy.
        let made = std::process::Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\"; chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn();
        let mut made = made.unwrap();
        let text = format!("#!/bin/sh\nhere=${{0%/*}}\n{script}\n");
        std::io::Write::write_all(&mut made.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(made.wait().unwrap().success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn leaf(&self) -> PathBuf {
        self.mps.place(&self.domain).path()
    }

    fn make_leaf(&self) -> PathBuf {
        drop(self.mps.place(&self.domain).make().unwrap());
        self.leaf()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn start(&self) -> Error {
        self.mps.start(&self.domain, &Access::Caller, &MpsSettings::UNLIMITED).unwrap_err()
    }

    fn health(&self) -> MpsHealth {
        self.mps.probe(&self.domain).unwrap().unwrap().health
    }

    /// Nothing runs and nothing is there.
    #[track_caller]
    fn expect_nothing(&self) {
        assert!(!self.leaf().exists(), "the directory is left");
        assert_eq!(self.mps.probe(&self.domain).unwrap(), None);
        assert!(processes::of_directory(&self.leaf()).is_empty(), "a process is left");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Past the test harness, which would keep what a passing test prints to itself.
fn skipped(what: &str) {
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("SKIPPED: {what}: needs root\n").as_bytes(),
    );
}

fn is_alive(pid: &str) -> bool {
    Process::now(pid.trim().parse().map(crate::id::Pid::new).unwrap()).is_some()
}

/// Listens at a path, as this user or another.
fn listen(path: &Path, uid: Option<u32>) -> OwnedFd {
    let address = SocketAddrUnix::new(path).unwrap();
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    std::thread::scope(|scope| {
        // The kernel notes the user who begins to listen. Threads have users of their own.
        let listen = || {
            if let Some(uid) = uid.map(rustix::process::Uid::from_raw) {
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            }
            rustix::net::listen(&socket, 8).unwrap();
        };
        scope.spawn(listen).join().unwrap();
    });
    socket
}

#[test]
fn a_program_that_fails_leaves_nothing_but_its_log() {
    let machine = Machine::new(
        r#"echo "[1] Cannot $1
open: \033[31mdevice" > $CUDA_MPS_LOG_DIRECTORY/control.log; echo no device here >&2; exit 3"#,
    );
    let error = machine.start();
    assert_eq!(error.code(), ErrorCode::Mps);
    for part in ["exit status: 3", "no device here", "[1] Cannot -d", "device"] {
        assert!(error.message().contains(part), "{error}");
    }
    assert!(!error.message().contains('\x1b'), "{error}");
    assert_eq!(error.gpu().map(|gpu| gpu.as_str()), Some(machine.domain.as_str()));
    machine.expect_nothing();
    assert!(machine.mps.log(&machine.domain).contains("[1] Cannot -d"));
    machine.mps.stop(&machine.domain).unwrap();
    assert!(machine.mps.log(&machine.domain).contains("[1] Cannot -d"), "the logs stay");
}

#[test]
fn a_program_that_ends_well_without_a_daemon_is_soon_found_out() {
    let machine = Machine::new("echo usage: nvidia-cuda-mps-control; exit 0");
    let error = machine.start();
    assert_eq!(error.code(), ErrorCode::Mps);
    assert!(error.message().contains("left no daemon"), "{error}");
    assert!(error.message().contains("usage: nvidia"), "{error}");
    machine.expect_nothing();
}

#[test]
fn a_program_that_hangs_is_ended_with_what_it_started() {
    let machine = Machine::new("sleep 1000 & echo $! > $here/pids; echo $$ >> $here/pids; wait");
    let before = Instant::now();
    let error = machine.start();
    assert!(error.message().contains("did not return within"), "{error}");
    assert!(before.elapsed() < Duration::from_secs(6));
    machine.expect_nothing();
    let pids = machine.read("pids");
    assert_eq!(pids.lines().count(), 2);
    assert!(!pids.lines().any(is_alive));
}

/// A daemon that runs and does not listen. It heeds nobody who asks.
const DEAF: &str = r#"[ "$1" = -d ] && { "$0" -f & exit 0; }
trap '' TERM; echo $$ > $here/pid; while :; do sleep 0.05; done"#;

#[test]
fn a_daemon_that_never_listens_is_ended() {
    let machine = Machine::new(DEAF);
    let error = machine.start();
    assert!(error.message().contains("gone after"), "{error}");
    assert!(!is_alive(&machine.read("pid")));
    machine.expect_nothing();
}

#[test]
fn what_a_killed_applier_spawned_is_ended_by_stop_and_nobody_else_is() {
    let machine = Machine::new(DEAF);
    for leaf in [true, false] {
        if leaf {
            machine.make_leaf();
        }
        let spawn = |directory: &Path| {
            let mut command = std::process::Command::new(&machine.mps.program);
            command.arg("-f").env("CUDA_MPS_PIPE_DIRECTORY", directory).spawn().unwrap()
        };
        let mut ours = spawn(&machine.leaf());
        // Whose directory only begins like ours, and a client in ours.
        let mut others = spawn(&machine.leaf().join(""));
        let mut client = std::process::Command::new("sleep");
        let mut client =
            client.arg("1000").env("CUDA_MPS_PIPE_DIRECTORY", machine.leaf()).spawn().unwrap();
        while processes::of_directory(&machine.leaf()).is_empty() || machine.read("pid").is_empty()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        machine.mps.stop(&machine.domain).unwrap();
        assert!(ours.try_wait().unwrap().is_some());
        assert!(client.try_wait().unwrap().is_none() && others.try_wait().unwrap().is_none());
        for child in [&mut client, &mut others] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        ours.wait().unwrap();
        machine.expect_nothing();
    }
}

#[test]
fn who_only_says_that_it_is_of_our_daemon_is_left_alone() {
    if !is_root() {
        return skipped("processes of others that take the name of ours");
    }
    let machine = Machine::new(DEAF);
    let folder = machine.path("theirs");
    fs::create_dir(&folder).unwrap();
    let server = folder.join("nvidia-cuda-mps-server");
    fs::copy("/bin/sleep", &server).unwrap();
    let start = |program: &Path, uid: u32| {
        let mut command = std::process::Command::new(program);
        command.arg("1000").uid(uid).gid(uid).env("CUDA_MPS_PIPE_DIRECTORY", machine.leaf());
        command.spawn().unwrap()
    };
    let mut theirs = start(&server, NOBODY);
    // One with set-id, which has root's rights by now.
    let set_id = folder.join("nvidia-cuda-mps-control");
    fs::copy("/bin/sleep", &set_id).unwrap();
    set_permissions(&set_id, Permissions::from_mode(0o6755)).unwrap();
    let mut risen = start(&set_id, 0);
    for leaf in [true, false] {
        if leaf {
            machine.make_leaf();
        }
        assert_eq!(processes::claims(&machine.leaf()).pretenders.len(), 2);
        let before = Instant::now();
        machine.mps.stop(&machine.domain).unwrap();
        assert!(before.elapsed() < Duration::from_secs(2));
        machine.expect_nothing();
    }
    for child in [&mut theirs, &mut risen] {
        assert_eq!(child.try_wait().unwrap(), None, "it was signalled");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // The server of a daemon of root's that was killed.
    let mut orphan = std::process::Command::new(&server);
    orphan.arg("1000").uid(NOBODY).gid(0).env("CUDA_MPS_PIPE_DIRECTORY", machine.leaf());
    let mut orphan = orphan.spawn().unwrap();
    machine.mps.stop(&machine.domain).unwrap();
    assert!(orphan.wait().unwrap().code().is_none(), "it was signalled");
}

#[test]
fn the_program_gets_nothing_of_ours() {
    // The shell itself reads its status: while it starts another program, all signals are blocked.
    let machine = Machine::new(
        r#"exec > $here/seen 2>&1
env | sort; echo cwd $(pwd) umask $(umask); ls -l /proc/$$/fd; while IFS= read -r line; do echo "$line"; done < /proc/$$/status; cat /proc/$$/limits
cat /proc/$$/stat; exit 1"#,
    );
    // Without CLOEXEC: exec keeps it.
    let kept =
        rustix::fs::open("/etc/passwd", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let kept = kept.unwrap();
    assert!(!rustix::io::fcntl_getfd(&kept).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(std::env::vars().count() > 3, "there is something to keep to ourselves");
    machine.start();
    let seen = machine.read("seen");
    let variables: Vec<_> = seen.lines().take_while(|line| !line.starts_with("cwd")).collect();
    let names: Vec<_> = variables.iter().filter_map(|line| line.split('=').next()).collect();
    // The shell's own are PWD and, where it is bash, `_` and SHLVL.
    let ours = |name: &&&str| !["PWD", "OLDPWD", "_", "SHLVL"].contains(*name);
    let names: Vec<_> = names.iter().filter(ours).copied().collect();
    assert_eq!(
        names,
        ["CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_VISIBLE_DEVICES", "PATH"]
    );
    let line = |start: &str| {
        let line = seen.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        line.strip_prefix(start).unwrap_or_default().trim().to_owned()
    };
    assert_eq!(line("CUDA_VISIBLE_DEVICES="), machine.domain.as_str());
    assert_eq!(line("CUDA_MPS_PIPE_DIRECTORY="), machine.leaf().display().to_string());
    assert!(line("PATH=").starts_with(machine.folder.path().to_str().unwrap()));
    assert_eq!(line("cwd"), "/ umask 0022");
    assert!(!seen.contains("/etc/passwd"), "{seen}");
    let descriptors = seen.lines().filter(|line| line.contains(" -> ")).count();
    // The shell keeps its script open, at 10 or 255.
    assert!((3..=4).contains(&descriptors), "{seen}");
    // 32 and 33 are the C library's own, which it lets nobody set.
    let signals = |name| u64::from_str_radix(&line(name), 16).unwrap() & !(3 << 31);
    assert_eq!((signals("SigBlk:"), signals("SigIgn:")), (0, 0));
    if is_root() {
        assert_eq!((line("Groups:").as_str(), line("Gid:").as_str()), ("", "0\t0\t0\t0"));
    }
    // Values are soft, hard, unit.
    let limit = |name| line(name).split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    let files: Vec<u64> = limit("Max open files").iter().map(|n| n.parse().unwrap()).collect();
    assert!(files[0] >= files[1].min(65_536), "{files:?}");
    let cpu = limit("Max cpu time");
    assert_eq!(cpu[0], if is_root() { "unlimited" } else { &cpu[1] });
    let stat = seen.lines().last().unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(stat.split(' ').next(), fields.get(3).copied(), "it leads a session of its own");
}

#[test]
fn a_daemon_is_started_in_a_scope_where_systemd_runs() {
    if !is_root() {
        return skipped("scopes of systemd");
    }
    let mut machine = Machine::new("echo \"daemon $@\" >> $here/seen; exit 1");
    machine.mps.scope.mark = machine.folder.path().to_owned();
    machine.mps.scope.program = machine.path("systemd-run");
    let all = "--scope --quiet --collect --slice=system.slice --";
    let program = machine.mps.program.display().to_string();
    for (script, seen) in [
        // It fails by itself: the daemon is started without it.
        ("exit 1", format!("run {all} {program} -d\ndaemon -d\n")),
        ("shift 5; exec \"$@\"", format!("run {all} {program} -d\ndaemon -d\ndaemon -d\n")),
    ] {
        fs::write(machine.path("seen"), "").unwrap();
        machine.script("systemd-run", &format!("echo run \"$@\" >> $here/seen; {script}"));
        machine.start();
        assert_eq!(machine.read("seen"), seen);
        machine.expect_nothing();
    }
    // One that others could have written is not run.
    set_permissions(&machine.mps.scope.program, Permissions::from_mode(0o777)).unwrap();
    fs::write(machine.path("seen"), "").unwrap();
    machine.start();
    assert_eq!(machine.read("seen"), "daemon -d\n");
}

#[test]
fn a_program_that_is_not_there_or_not_to_be_trusted_is_not_run() {
    let machine = Machine::new("touch $here/ran");
    let check = |mps: &RealMps, code| {
        assert!(!mps.able());
        let refused = [
            mps.start(&machine.domain, &Access::Caller, &MpsSettings::UNLIMITED),
            mps.expect_startable(&machine.domain, &Access::Caller),
            mps.dialect().map(|_| ()),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().code(), code);
        }
        assert!(!machine.leaf().exists() && !machine.path("ran").exists());
    };
    let with = |program: PathBuf| RealMps { program, ..machine.mps.clone() };
    check(&with(machine.path("missing")), ErrorCode::Unsupported);
    check(&with(machine.folder.path().to_owned()), ErrorCode::PermissionDenied);
    assert!(machine.mps.able());
    if is_root() {
        set_permissions(&machine.mps.program, Permissions::from_mode(0o777)).unwrap();
        check(&machine.mps, ErrorCode::PermissionDenied);
    }
}

#[test]
fn a_path_that_daemons_do_not_take_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let domain: MpsDomain = "GPU-5a2b0e4c-0000-1111-2222-000000000001".parse().unwrap();
    let base = folder.path().join("x");
    let rest = "/run/mps/".len() + domain.as_str().len();
    for length in [87, 88] {
        let fill = length - rest - base.as_os_str().len();
        let state = folder.path().join(format!("x{}", "y".repeat(fill)));
        let store = FileStore::below(&state).unwrap();
        let mut mps = RealMps::new(&store, Some("/bin/false".into()));
        mps.scope.mark = folder.path().join("no-systemd");
        assert_eq!(mps.place(&domain).path().as_os_str().len(), length);
        let may = mps.expect_startable(&domain, &Access::Caller);
        let start = mps.start(&domain, &Access::Caller, &MpsSettings::UNLIMITED).unwrap_err();
        if length == 87 {
            may.unwrap();
            assert_eq!(start.code(), ErrorCode::Mps);
            continue;
        }
        for error in [may.unwrap_err(), start] {
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains("has 88 bytes"), "{error}");
            assert!(error.message().contains("give a shorter state directory"), "{error}");
        }
        assert!(!state.exists());
        assert_eq!(mps.probe(&domain).unwrap(), None);
    }
}

#[test]
fn every_domain_that_has_a_directory_is_listed() {
    let machine = Machine::new("exit 1");
    assert_eq!(machine.mps.domains().unwrap(), []);
    let old = "MIG-GPU-5a2b0e4c-0000-1111-2222-000000000001/1/0";
    let mut domains: Vec<MpsDomain> =
        [machine.domain.as_str(), "MIG-c7885312-0000-1111-2222-000000000001", old]
            .map(|uuid| uuid.parse().unwrap())
            .into();
    domains.sort();
    for domain in &domains {
        let place = machine.mps.place(domain);
        drop((place.make().unwrap(), place.lock(TURN).unwrap()));
    }
    // Neither a lock, nor what is no name of ours.
    let above = machine.leaf().parent().unwrap().to_owned();
    for name in ["notes", "GPU-1_2", "MIG-", "GPU-1 2"] {
        fs::create_dir(above.join(name)).unwrap();
    }
    fs::write(above.join("GPU-1"), "").unwrap();
    assert_eq!(machine.mps.domains().unwrap(), domains);
    for domain in &domains {
        assert_eq!(machine.mps.probe(domain).unwrap().unwrap().health, MpsHealth::Gone);
        machine.mps.stop(domain).unwrap();
    }
    assert_eq!(machine.mps.domains().unwrap(), []);
}

#[test]
fn a_program_in_a_folder_of_somebody_elses_is_not_run_by_root() {
    if !is_root() {
        return skipped("a program in a folder of somebody else's");
    }
    let machine = Machine::new("touch $here/ran; exit 1");
    assert!(machine.mps.able());
    chown(machine.folder.path(), Some(NOBODY), None).unwrap();
    assert!(!machine.mps.able());
    let error = machine.mps.dialect().unwrap_err();
    assert_eq!(error.code(), ErrorCode::PermissionDenied);
    assert!(error.message().contains("belongs to user 65534; make it root's"), "{error}");
    chown(machine.folder.path(), Some(0), None).unwrap();
    assert!(!machine.path("ran").exists());
}

#[test]
fn a_directory_that_somebody_else_made_is_refused_and_left_alone() {
    let machine = Machine::new("touch $here/ran; exit 1");
    let refused = |why: &str| {
        let results = [
            machine.mps.start(&machine.domain, &Access::Caller, &MpsSettings::UNLIMITED),
            machine.mps.expect_startable(&machine.domain, &Access::Caller),
            machine.mps.probe(&machine.domain).map(|_| ()),
            machine.mps.admit(&machine.domain, true),
            machine.mps.stop(&machine.domain),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied, "{error}");
            assert!(error.message().contains(why), "{error}");
        }
        assert!(!machine.path("ran").exists());
    };
    let elsewhere = machine.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir_all(machine.leaf().parent().unwrap()).unwrap();
    symlink(&elsewhere, machine.leaf()).unwrap();
    refused("symbolic link");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(machine.leaf()).unwrap();
    fs::create_dir(machine.leaf()).unwrap();
    set_permissions(machine.leaf(), Permissions::from_mode(0o777)).unwrap();
    refused("others may write");
    if is_root() {
        set_permissions(machine.leaf(), Permissions::from_mode(0o755)).unwrap();
        chown(machine.leaf(), Some(NOBODY), None).unwrap();
        refused("belongs to user");
    }
}

#[test]
fn what_is_left_of_a_daemon_says_nothing_and_is_cleared_away() {
    let machine = Machine::new("exit 1");
    let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for end in [true, false] {
        let leaf = machine.make_leaf();
        drop(listen(&leaf.join("control"), None));
        drop(listen(&leaf.join("control_privileged"), None));
        drop(listen(&leaf.join("of-a-server"), None));
        for name in ["control_lock", "admitted", ".gpushare-new.changed.1"] {
            fs::write(leaf.join(name), "").unwrap();
        }
        fs::write(leaf.join("nvidia-cuda-mps-control.pid"), sleeper.id().to_string()).unwrap();
        fs::write(leaf.join("changed"), "4242\n").unwrap();
        let found = machine.mps.probe(&machine.domain).unwrap().unwrap();
        assert_eq!((found.health, found.pid), (MpsHealth::Gone, None));
        assert_eq!(found.changed, Some(4242));
        assert!(!found.admitted, "nobody knows for whom it was");
        if end {
            machine.mps.stop(&machine.domain).unwrap();
        } else {
            machine.start();
        }
        machine.expect_nothing();
    }
    assert_eq!(sleeper.try_wait().unwrap(), None, "the pid file is not believed");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn what_no_daemon_leaves_is_not_removed() {
    let machine = Machine::new("exit 1");
    let leaf = machine.make_leaf();
    fs::create_dir(leaf.join("control")).unwrap();
    fs::write(leaf.join("thesis.tex"), "").unwrap();
    fs::write(leaf.join("admitted"), "").unwrap();
    let error = machine.mps.stop(&machine.domain).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidState);
    assert!(leaf.join("thesis.tex").exists() && leaf.join("control").is_dir());
    assert!(!leaf.join("admitted").exists());
    fs::remove_file(leaf.join("thesis.tex")).unwrap();
    fs::remove_dir(leaf.join("control")).unwrap();
    machine.mps.stop(&machine.domain).unwrap();
    machine.mps.stop(&machine.domain).unwrap();
    machine.expect_nothing();
}

#[test]
fn health_is_what_the_socket_says() {
    let machine = Machine::new("exit 1");
    let leaf = machine.make_leaf();
    let socket = listen(&leaf.join("control"), None);
    let before = Instant::now();
    let found = machine.mps.probe(&machine.domain).unwrap().unwrap();
    assert_eq!(found.health, MpsHealth::Frozen);
    assert_eq!(found.pid, Some(crate::id::Pid::new(std::process::id())));
    assert!(before.elapsed() < Duration::from_secs(2));
    // Never two: one that is frozen is there.
    assert_eq!(machine.start().code(), ErrorCode::InvalidState);
    assert!(leaf.join("control").exists());
    let known = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let greets = known.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        loop {
            let client = rustix::net::accept(&socket).unwrap();
            let known = greets.load(std::sync::atomic::Ordering::SeqCst);
            let greeting = if known { &b"OUTBHELL\0"[..] } else { b"HELLO, I AM V9" };
            // Those who gave up are still in the queue.
            let _ = rustix::net::send(&client, greeting, SendFlags::NOSIGNAL);
            kept.push(client);
        }
    });
    assert_eq!(machine.health(), MpsHealth::Answers);
    known.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(machine.health(), MpsHealth::Unknown);
    // This process listens and is no daemon: it lives on.
    machine.mps.stop(&machine.domain).unwrap();
    machine.expect_nothing();
}

#[test]
fn somebody_elses_daemon_is_never_believed() {
    if !is_root() {
        return skipped("somebody else's daemon");
    }
    let machine = Machine::new("touch $here/ran; exit 1");
    let leaf = machine.make_leaf();
    let _socket = listen(&leaf.join("control"), Some(NOBODY));
    let results = [
        machine.mps.probe(&machine.domain).map(|_| ()),
        machine.mps.start(&machine.domain, &Access::Caller, &MpsSettings::UNLIMITED),
        machine.mps.stop(&machine.domain),
    ];
    for result in results {
        assert_eq!(result.unwrap_err().code(), ErrorCode::PermissionDenied);
    }
    assert!(leaf.join("control").exists() && !machine.path("ran").exists());
}

/// Whether a user of a group can read what is in a directory.
fn may_enter(path: &Path, uid: u32, gid: u32) -> bool {
    let mut command = std::process::Command::new("/bin/cat");
    command.arg(path.join(ACCESS)).uid(uid).gid(gid).stderr(Stdio::null()).stdout(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn exactly_those_are_let_in_whom_the_access_names() {
    if !is_root() {
        return skipped("who is let in");
    }
    let machine = Machine::new("exit 1");
    let leaf = machine.make_leaf();
    // The users 1 and 2, each with its own group and with the other's.
    let who = [(1, 1), (1, 2), (2, 1), (2, 2)];
    for (access, inside) in [
        (Access::User("1".into()), [true, true, false, false]),
        (Access::Group("2".into()), [false, true, false, true]),
        (Access::User("0".into()), [false; 4]),
        (Access::Any, [true; 4]),
        (Access::User("2".into()), [false, false, true, true]),
    ] {
        fs::write(leaf.join(ACCESS), serde_json::to_string(&access).unwrap()).unwrap();
        for _ in 0..2 {
            machine.mps.admit(&machine.domain, true).unwrap();
            let found = machine.mps.probe(&machine.domain).unwrap().unwrap();
            assert_eq!((&found.access, found.admitted), (&access, true));
            assert_eq!(who.map(|(uid, gid)| may_enter(&leaf, uid, gid)), inside, "{access:?}");
            // The server of a member has root's group, and nobody gets the group of another.
            let server = who.iter().zip(inside).find(|(_, inside)| *inside).map(|(who, _)| who.0);
            assert!(server.is_none_or(|uid| may_enter(&leaf, uid, 0)), "{access:?}");
            assert_eq!(fs::metadata(&leaf).unwrap().gid(), 0, "{access:?}");
        }
        for _ in 0..2 {
            machine.mps.admit(&machine.domain, false).unwrap();
            assert!(!machine.mps.probe(&machine.domain).unwrap().unwrap().admitted);
            assert!(!who.into_iter().any(|(uid, gid)| may_enter(&leaf, uid, gid)), "{access:?}");
            assert_eq!(mode(&leaf), 0o700);
        }
    }
    fs::write(leaf.join(ACCESS), "{").unwrap();
    assert_eq!(
        machine.mps.admit(&machine.domain, true).unwrap_err().code(),
        ErrorCode::InvalidState
    );
    machine.mps.stop(&machine.domain).unwrap();
    assert_eq!(machine.mps.admit(&machine.domain, true).unwrap_err().code(), ErrorCode::NotFound);
}

#[test]
fn an_access_that_names_nobody_is_refused_up_front() {
    let machine = Machine::new("touch $here/ran; exit 1");
    for (access, code) in [
        (Access::User("no-such-user-here".into()), ErrorCode::NotFound),
        (Access::Group("no-such-group-here".into()), ErrorCode::NotFound),
        (Access::User("-1".into()), ErrorCode::InvalidArgument),
    ] {
        for refused in [
            machine.mps.expect_startable(&machine.domain, &access),
            machine.mps.start(&machine.domain, &access, &MpsSettings::UNLIMITED),
        ] {
            assert_eq!(refused.unwrap_err().code(), code, "{access:?}");
        }
    }
    assert!(!machine.leaf().exists() && !machine.path("ran").exists());
}

#[test]
fn a_program_of_another_protocol_is_refused_up_front() {
    let machine = Machine::new("[ \"$1\" = -h ] && echo ' -p <version>'; exit 1");
    let error = machine.mps.expect_startable(&machine.domain, &Access::Caller).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.message().contains("MPS protocol 3"), "{error}");
    assert!(!machine.leaf().exists());
}

#[test]
fn long_logs_are_set_aside_and_the_end_of_the_others_is_shown() {
    let machine = Machine::new("exit 1");
    let place = machine.mps.place(&machine.domain);
    place.make_logs().unwrap();
    let logs = place.logs();
    let mut lines: String = (0..100_000).map(|number| format!("line {number}\n")).collect();
    lines.push_str(
        &"[1] User did not send valid credentials\n\n[1] Accepting connection...\n".repeat(99),
    );
    fs::write(logs.join("control.log"), &lines).unwrap();
    fs::write(logs.join("server.log"), "short\x1b[2J\n").unwrap();
    let shown = place.log();
    assert_eq!(shown.lines().count(), 7, "{shown}");
    assert!(shown.starts_with("line 99994\n") && shown.ends_with("short\u{fffd}[2J"), "{shown}");
    machine.start();
    assert_eq!(fs::read_to_string(logs.join("control.log.old")).unwrap(), lines);
    assert!(!logs.join("control.log").exists() && logs.join("server.log").exists());
}

#[test]
fn ticks_are_those_of_process_start_times() {
    use crate::port::Processes as _;
    let before = ticks();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let facts = SystemProcesses::new().facts(crate::id::Pid::new(child.id()));
    let after = ticks();
    child.wait().unwrap();
    if let Some(facts) = facts {
        assert!((before..=after).contains(&facts.start_time), "{before} {facts:?} {after}");
    }
}
