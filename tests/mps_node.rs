//! MPS as a mode of a node: simulated GPUs, and NVIDIA's own control daemons of several drivers. Their
//! servers need a GPU; a script takes their place.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

use std::fs::{Permissions, set_permissions};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpushare_core::apply::Source;
use gpushare_core::backend::files::FileStore;
use gpushare_core::backend::mps::{MpsControl, RealMps};
use gpushare_core::backend::sim::{Death, Failure, Fault, Faults, Simulator};
use gpushare_core::hazard::HazardName;
use gpushare_core::id::Pid;
use gpushare_core::lease::LeaseRequest;
use gpushare_core::mode::{ComputeMode, Mode, MpsHealth, Priority, SharingMode};
use gpushare_core::mps::{Command as Say, MpsSettings};
use gpushare_core::plan::Request;
use gpushare_core::plan::state::{GpuState, MpsState};
use gpushare_core::snapshot::GpuSnapshot;
use gpushare_core::units::{Bytes, ThreadPercentage};
use gpushare_core::{ApplyOptions, ErrorCode, Node, Outcome, Report, Result};
use gpushare_tests::mps::{each_driver, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

const CONTROL: &str = "nvidia-cuda-mps-control";

/// A node with simulated GPUs and the daemon of one driver.
struct Machine {
    folder: TempDir,
    simulator: Simulator,
    faults: Faults,
    node: Node,
}

impl Machine {
    /// The server is a shell script.
    fn new(driver: &Path, fleet: &str, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        // By another process: one that is forked meanwhile would keep the program busy.
        let script = format!("#!/bin/sh\n{server}\n");
        let install = format!(
            "cp \"$1\" \"$2/{CONTROL}\" && printf %s '{script}' > \"$2/nvidia-cuda-mps-server\" && \
             chmod 755 \"$2\"/nvidia-*"
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &install, "sh"]).arg(driver.join(CONTROL)).arg(folder.path());
        assert!(command.status().unwrap().success());
        let store = FileStore::below(&folder.path().join("state")).unwrap();
        let simulator = Simulator::new(fleet.parse().unwrap()).unwrap();
        let mut ports = simulator.ports_in_memory();
        ports.mps = Arc::new(RealMps::new(&store, Some(folder.path().join(CONTROL))));
        let (ports, faults) = Faults::wrap(ports);
        let node = Node::with_ports(ports, true);
        Self { folder, simulator, faults, node }
    }

    fn gpu(&self) -> GpuSnapshot {
        self.node.snapshot().unwrap().gpus.remove(0)
    }

    fn states(&self) -> Vec<GpuState> {
        self.node.snapshot().unwrap().gpus.iter().map(GpuState::of).collect()
    }

    /// `mps` with that block, for all GPUs.
    fn enable(&self, block: &str) -> Result<Report> {
        self.node.apply(&spec("mps", block).parse()?, &options())
    }

    fn disable(&self) -> Result<Report> {
        let gpus = self.simulator.gpus().unwrap();
        self.request(&Request::Leave { mode: Mode::Mps, gpus }, &options())
    }

    fn request(&self, request: &Request, options: &ApplyOptions) -> Result<Report> {
        self.node.apply_with(Source::Request(request), options, |_| ControlFlow::Continue(()))
    }

    fn directories(&self) -> Vec<PathBuf> {
        let run = self.folder.path().join("state/run/mps");
        let gpus = self.simulator.gpus().unwrap();
        let devices = self.node.snapshot().unwrap().gpus.into_iter().flat_map(|g| g.mig_devices);
        let names: Vec<String> = gpus
            .iter()
            .map(ToString::to_string)
            .chain(devices.map(|device| device.uuid.to_string()))
            .collect();
        names.iter().map(|name| run.join(name)).collect()
    }

    fn control(&self) -> MpsControl {
        MpsControl::in_directory(self.gpu().mps.unwrap().directory.unwrap()).native_only()
    }

    /// Whatever has a directory of ours in its environment.
    fn processes(&self) -> Vec<u32> {
        let state = self.folder.path().join("state");
        let marks = format!("CUDA_MPS_PIPE_DIRECTORY={}/", state.display());
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let environment = String::from_utf8_lossy(&environment).into_owned();
                environment.split('\0').any(|entry| entry.starts_with(&marks))
            })
            .collect()
    }

    /// Nothing of ours runs, or exactly one daemon for each that the GPUs say they have.
    #[track_caller]
    fn expect_an_owner_for_each(&self, what: &str) {
        let snapshot = self.node.snapshot().unwrap();
        let devices = snapshot.gpus.iter().flat_map(|gpu| &gpu.mig_devices);
        let on_devices = devices.filter_map(|device| device.mps.as_ref());
        let all = snapshot.gpus.iter().filter_map(|gpu| gpu.mps.as_ref()).chain(on_devices);
        let mut owned: Vec<u32> = all
            .flat_map(|mps| mps.pid.into_iter().chain(mps.servers.iter().map(|s| s.pid)))
            .map(Pid::get)
            .collect();
        owned.sort_unstable();
        let mut found = self.processes();
        found.sort_unstable();
        assert_eq!(found, owned, "{what}");
        for directory in self.directories().into_iter().filter(|_| owned.is_empty()) {
            assert!(!directory.exists(), "{what}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.faults.revive();
        for domain in self.directories() {
            let name = domain.file_name().unwrap().to_str().unwrap();
            let _ = self.node.ports().mps.stop(&name.parse().unwrap());
        }
    }
}

const LIVING: &str = "exec sleep 600";

fn spec(mode: &str, block: &str) -> String {
    format!(
        r#"{{"version": "gpushare/v1", "gpus": [{{"select": "all", "mode": "{mode}", "{mode}": {block}}}]}}"#
    )
}

fn options() -> ApplyOptions {
    ApplyOptions::new()
        .allow_evict(true)
        .allow_hazard(HazardName::BypassPossible)
        .allow_hazard(HazardName::HopperUnmeasured)
}

/// What a driver's daemon can be asked for.
fn limits(major: u32) -> &'static str {
    if major < 535 {
        r#"{"thread_percentage": 25}"#
    } else {
        r#"{"thread_percentage": 25, "pinned_memory_limit": "1536MiB", "priority": "below_normal"}"#
    }
}

#[test]
fn a_gpu_is_shared_through_the_daemon_and_left_again() {
    each_driver("MPS as a mode, with NVIDIA's daemons", |major, driver| {
        let machine = Machine::new(driver, "H200-141GB", LIVING);
        let before = machine.states();
        machine.enable(limits(major)).unwrap();
        let gpu = machine.gpu();
        assert_eq!(
            (gpu.mode, gpu.compute_mode),
            (SharingMode::Mps, Some(ComputeMode::ExclusiveProcess))
        );
        let mps = gpu.mps.unwrap();
        assert!(mps.alive && mps.admitted && mps.health == Some(MpsHealth::Answers), "{major}");
        // What NVIDIA's daemon says itself, rounded as it says it.
        let said = MpsSettings::read(&mut |command| machine.control().command(command)).unwrap();
        assert_eq!(said.thread_percentage, ThreadPercentage::new(25.0).unwrap());
        if major >= 535 {
            assert_eq!(said.pinned_memory_limit, Some(Bytes::from_mebibytes(1024)));
            assert_eq!(said.priority, Priority::BelowNormal);
            assert_eq!(
                mps.config.unwrap().pinned_memory_limit,
                Some(Bytes::from_mebibytes(1536)),
                "what was asked, not what is shown of it"
            );
        }
        machine.expect_an_owner_for_each("enabled");
        let again = machine.enable(limits(major)).unwrap();
        assert_eq!(again.steps, 0, "{major}");

        machine.disable().unwrap();
        assert_eq!(machine.states(), before);
        machine.expect_an_owner_for_each("disabled");
    });
}

#[test]
fn a_changed_setting_keeps_the_daemon_and_reaches_it() {
    each_driver("settings of a running daemon", |major, driver| {
        let machine = Machine::new(driver, "H200-141GB", LIVING);
        machine.enable(limits(major)).unwrap();
        let daemon = machine.gpu().mps.unwrap().pid;
        machine.control().command(&Say::StartServer { uid: 0 }).unwrap();
        let server = wait_until("a server", || {
            machine.gpu().mps.unwrap().servers.first().map(|server| server.pid)
        });
        // Without a GPU it starts for ever, and nobody can tell it anything: then nothing is set at all.
        let wanted = r#"{"thread_percentage": 50, "max_clients": 3}"#;
        let error = machine.enable(wanted).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidState, "{error}");
        assert_eq!(error.outcome(), Outcome::RolledBack);
        let said = MpsSettings::read(&mut |command| machine.control().command(command)).unwrap();
        assert_eq!(said.thread_percentage, ThreadPercentage::new(25.0).unwrap());
        machine.control().command(&Say::ShutdownServer { server, force: true }).unwrap();
        wait_until("the server's end", || {
            machine.gpu().mps.unwrap().servers.is_empty().then_some(())
        });
        machine.enable(wanted).unwrap();
        assert_eq!(machine.gpu().mps.unwrap().pid, daemon, "{major}: nothing was restarted");
        let said = MpsSettings::read(&mut |command| machine.control().command(command)).unwrap();
        assert_eq!(said.thread_percentage, ThreadPercentage::new(50.0).unwrap());
        assert_eq!((said.pinned_memory_limit, said.priority), (None, Priority::Normal));

        // Somebody else changes it behind our back: the next apply sees and mends it.
        let theirs = Say::SetDefaultThreadPercentage(ThreadPercentage::new(75.0).unwrap());
        machine.control().command(&theirs).unwrap();
        let report = machine.enable(r#"{"thread_percentage": 50, "max_clients": 3}"#).unwrap();
        assert!(report.steps > 0);
        let said = MpsSettings::read(&mut |command| machine.control().command(command)).unwrap();
        assert_eq!(said.thread_percentage, ThreadPercentage::new(50.0).unwrap());
        // A server without clients stands in nobody's way.
        machine.control().command(&Say::StartServer { uid: 0 }).unwrap();
        let quit = Instant::now();
        machine.disable().unwrap();
        assert!(quit.elapsed() < Duration::from_secs(7), "{major}: {:?}", quit.elapsed());
        machine.expect_an_owner_for_each("disabled");
    });
}

#[test]
fn a_lease_leads_its_tenant_to_the_daemon_and_plans_leave_it_alone() {
    each_driver("leases of an MPS daemon's shares", |major, driver| {
        let machine = Machine::new(driver, "H200-141GB", LIVING);
        machine.enable(r#"{"thread_percentage": 25, "max_clients": 2}"#).unwrap();
        let directory = machine.gpu().mps.unwrap().directory.unwrap();
        let small = LeaseRequest::gpu("0").thread_percentage(10.0.try_into().unwrap());
        let lease = machine.node.lease(&small).unwrap();
        assert_eq!(lease.variables()["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "10", "{major}");
        let grant = &lease.grants()[0];
        let enforced: Vec<_> = grant.enforced.iter().map(|bound| bound.what.as_str()).collect();
        assert_eq!(enforced, ["threads"], "the server's 25 %");
        assert!(grant.declared.iter().any(|bound| bound.what == "threads"), "the tenant's 10 %");
        // A process with these variables reaches NVIDIA's daemon, whatever it had before.
        let mut tenant = Command::new(driver.join(CONTROL));
        tenant.env("CUDA_MPS_PIPE_DIRECTORY", "/nobody-is-here");
        lease.apply_to(&mut tenant).unwrap();
        tenant.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tenant = tenant.spawn().unwrap();
        let mut stdin = tenant.stdin.take().unwrap();
        stdin.write_all(b"get_default_active_thread_percentage\n").unwrap();
        drop(stdin);
        let said = tenant.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "25.0", "{major}: {said:?}");
        assert_eq!(lease.variables()["CUDA_MPS_PIPE_DIRECTORY"], directory.display().to_string());

        // Two are admitted, and no third; more than the server gives is refused.
        let second = machine.node.lease(&LeaseRequest::gpu("0")).unwrap();
        let code = |request: &LeaseRequest| machine.node.lease(request).unwrap_err().code();
        assert_eq!(code(&LeaseRequest::gpu("0")), ErrorCode::Busy);
        let half = LeaseRequest::gpu("0").thread_percentage(50.0.try_into().unwrap());
        assert_eq!(code(&half), ErrorCode::Insufficient);
        // The daemon is not ended under its tenants; what it gives may change.
        let pid = machine.gpu().mps.unwrap().pid;
        let error = machine.disable().unwrap_err();
        assert_eq!(
            (error.code(), error.outcome()),
            (ErrorCode::Busy, Outcome::Untouched),
            "{error}"
        );
        machine.enable(r#"{"thread_percentage": 23, "max_clients": 2}"#).unwrap();
        assert_eq!(machine.gpu().mps.unwrap().pid, pid);
        lease.check().unwrap();
        // When it dies, there is nothing to lease.
        let raw = i32::try_from(pid.unwrap().get()).unwrap();
        let raw = rustix::process::Pid::from_raw(raw).unwrap();
        rustix::process::kill_process(raw, Signal::KILL).unwrap();
        wait_until("degraded", || {
            Some(machine.gpu()).filter(|gpu| gpu.mode == SharingMode::Degraded)
        });
        drop(second);
        assert_eq!(code(&LeaseRequest::gpu("0")), ErrorCode::InvalidState);
        assert_eq!(lease.check().unwrap_err().code(), ErrorCode::InvalidState);
        lease.release().unwrap();
        machine.disable().unwrap();
        machine.expect_an_owner_for_each("disabled");
    });
}

#[test]
fn a_daemon_that_died_or_froze_is_degraded_and_started_again() {
    each_driver("dead and frozen daemons", |major, driver| {
        for signal in [Signal::KILL, Signal::STOP] {
            let machine = Machine::new(driver, "H200-141GB", LIVING);
            machine.enable(limits(major)).unwrap();
            let pid = machine.gpu().mps.unwrap().pid.unwrap();
            let raw = rustix::process::Pid::from_raw(i32::try_from(pid.get()).unwrap()).unwrap();
            rustix::process::kill_process(raw, signal).unwrap();
            let seen = Instant::now();
            let gpu = wait_until("degraded", || {
                Some(machine.gpu()).filter(|gpu| gpu.mode == SharingMode::Degraded)
            });
            assert!(seen.elapsed() < Duration::from_secs(3), "{major}: {:?}", seen.elapsed());
            let frozen = gpu.mps.unwrap().health == Some(MpsHealth::Frozen);
            assert_eq!(frozen, signal == Signal::STOP);
            machine.enable(limits(major)).unwrap();
            let gpu = machine.gpu();
            assert_eq!(gpu.mode, SharingMode::Mps, "{major}: {}", gpu.reason);
            assert_ne!(gpu.mps.unwrap().pid, Some(pid));
            machine.expect_an_owner_for_each("started again");
            machine.disable().unwrap();
            machine.expect_an_owner_for_each("disabled");
        }
    });
}

#[test]
fn mig_devices_have_daemons_of_their_own() {
    each_driver("MPS on MIG devices", |major, driver| {
        let machine = Machine::new(driver, "A100-40GB", LIVING);
        let layout = |sharing: &str| {
            let text = format!(
                r#"{{"instances": [{{"profile": "3g", "start": 4{sharing}}}, {{"profile": "2g", "mps": {{"thread_percentage": 50}}}}]}}"#
            );
            let options = options().allow_reset(true);
            machine.node.apply(&spec("mig", &text).parse().unwrap(), &options).unwrap()
        };
        layout(r#", "mps": {"thread_percentage": 25}"#);
        let devices = machine.gpu().mig_devices;
        let pids: Vec<_> = devices.iter().map(|d| d.mps.as_ref().unwrap().pid.unwrap()).collect();
        assert_ne!(pids[0], pids[1]);
        for device in &devices {
            let directory = device.mps.as_ref().unwrap().directory.clone().unwrap();
            assert!(directory.ends_with(device.uuid.as_str()), "{}", directory.display());
        }
        assert_eq!(layout(r#", "mps": {"thread_percentage": 25}"#).steps, 0);
        machine.expect_an_owner_for_each("two daemons");
        layout("");
        let left: Vec<_> =
            machine.gpu().mig_devices.iter().map(|d| d.mps.as_ref().map(|mps| mps.pid)).collect();
        assert_eq!(left.iter().flatten().count(), 1, "{major}");
        machine.expect_an_owner_for_each("one daemon");
        // Another tool destroys the device of it.
        let shared = machine.gpu().mig_devices.into_iter().find(|d| d.mps.is_some()).unwrap();
        let gpu = machine.gpu().uuid;
        let mut nvml = machine.node.ports().nvml.open().unwrap();
        nvml.destroy_compute_instance(&gpu, shared.gi, shared.ci).unwrap();
        drop(nvml);
        let strays = machine.node.snapshot().unwrap().strays;
        assert_eq!((strays.len(), strays[0].mps.pid), (1, shared.mps.unwrap().pid), "{major}");
        assert_eq!(strays[0].domain.as_str(), shared.uuid.as_str());
        let report = machine.node.recover().unwrap();
        assert_eq!(report.strays[0].left, None, "{major}");
        assert_eq!(machine.processes(), Vec::<u32>::new(), "{major}");
        assert!(!strays[0].mps.directory.as_ref().unwrap().exists());
        let gpus = machine.simulator.gpus().unwrap();
        let leave = Request::Leave { mode: Mode::Mig, gpus };
        machine.request(&leave, &options().allow_reset(true)).unwrap();
        assert_eq!(machine.processes(), Vec::<u32>::new());
    });
}

/// Each call fails once and is the last of its process once, beside a real daemon.
#[test]
fn every_call_may_be_the_last_and_no_daemon_is_left_without_an_owner() {
    let mut tried = 0;
    each_driver("deaths at each call beside NVIDIA's daemons", |major, driver| {
        // One driver for all calls; the others share the port.
        if major != 550 {
            return;
        }
        let enable: Request = Request::Apply(spec("mps", limits(major)).parse().unwrap());
        let change: Request =
            Request::Apply(spec("mps", r#"{"thread_percentage": 50}"#).parse().unwrap());
        for (from, to) in
            [(None, Some(&enable)), (Some(&enable), None), (Some(&enable), Some(&change))]
        {
            let begin = || {
                let machine = Machine::new(driver, "H200-141GB", LIVING);
                if let Some(from) = from {
                    machine.request(from, &options()).unwrap();
                }
                machine.faults.revive();
                machine
            };
            let run = |machine: &Machine| match to {
                Some(to) => machine.request(to, &options()),
                None => machine.disable(),
            };
            let machine = begin();
            let old = machine.states();
            machine.faults.revive();
            run(&machine).unwrap();
            let calls = machine.faults.calls();
            let new = machine.states();
            drop(machine);
            for call in calls.iter().filter(|call| call.mutating) {
                for fault in [
                    Fault::Die(Death::Before),
                    Fault::Die(Death::After),
                    Fault::Fail(Failure::default()),
                    Fault::FailAfter(Failure::default()),
                ] {
                    tried += 1;
                    let what = format!("{} (call {}), {fault:?}", call.name, call.number);
                    let machine = begin();
                    machine.faults.at(call.number, fault);
                    let result = run(&machine);
                    let died = machine.faults.is_dead();
                    machine.faults.revive();
                    let settled =
                        matches!(&result, Err(e) if e.outcome() != Outcome::Indeterminate);
                    if !died && settled {
                        assert!(same(&machine.states(), &old), "{what}: {result:?}");
                    }
                    machine.node.recover().unwrap_or_else(|error| panic!("{what}: {error}"));
                    let found = machine.states();
                    let third = !same(&found, &old) && !same(&found, &new);
                    assert!(!third, "{what}: {found:#?}");
                    machine.expect_an_owner_for_each(&what);
                }
            }
        }
        assert!(tried > 100, "{tried}");
    });
}

fn same(a: &[GpuState], b: &[GpuState]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.matches(b))
}

#[test]
fn what_fails_to_start_leaves_the_state_before() {
    each_driver("daemons that do not start", |major, driver| {
        let machine = Machine::new(driver, "H200-141GB", LIVING);
        let before = machine.states();
        let program = machine.folder.path().join(CONTROL);
        let good = machine.folder.path().join("good");
        std::fs::rename(&program, &good).unwrap();
        for script in ["exit 1", "exit 0", "echo no; kill -9 $$"] {
            let text = format!("printf '#!/bin/sh\\n%s\\n' '{script}' > \"$1\"; chmod 755 \"$1\"");
            let mut write = Command::new("/bin/sh");
            assert!(write.args(["-c", &text, "sh"]).arg(&program).status().unwrap().success());
            let error = machine.enable(limits(major)).unwrap_err();
            assert_eq!((error.code(), error.outcome()), (ErrorCode::Mps, Outcome::RolledBack));
            assert_eq!(machine.states(), before, "{script}");
            machine.expect_an_owner_for_each(script);
        }
        std::fs::remove_file(&program).unwrap();
        let error = machine.enable(limits(major)).unwrap_err();
        assert_eq!((error.code(), error.outcome()), (ErrorCode::Unsupported, Outcome::Untouched));
        std::fs::rename(&good, &program).unwrap();
        machine.enable(limits(major)).unwrap();
        assert!(matches!(machine.states()[0].mps, Some(MpsState::Serving { .. })));
    });
}
