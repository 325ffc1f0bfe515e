//! Processes on GPUs and instances, and MPS.

use super::*;
use crate::mode::MpsHealth;
use crate::mps::{Command, MpsDomain, MpsSettings, Reply};
use crate::parameters::Access;
use crate::port::Signal;

fn pids(nvml: &mut SimulatedNvml, gpu: &GpuUuid, kind: ContextKind) -> Vec<Pid> {
    nvml.processes(gpu, kind).unwrap().iter().map(|process| process.pid).collect()
}

#[test]
fn compute_mode_decides_who_comes_in() {
    for (mode, admitted) in [
        (ComputeMode::Default, [true, true]),
        (ComputeMode::ExclusiveProcess, [true, false]),
        (ComputeMode::Prohibited, [false, false]),
    ] {
        let (simulator, mut nvml, gpu) = node("L40S");
        nvml.set_compute_mode(&gpu, mode).unwrap();
        for admitted in admitted {
            let came = simulator.busy(&gpu, ProcessSpec::new("a"));
            assert_eq!(came.is_ok(), admitted, "{mode}");
        }
        let graphics = ProcessSpec::new("X").doing(ProcessKind::Graphics);
        let graphics = simulator.busy(&gpu, graphics).unwrap();
        assert_eq!(pids(&mut nvml, &gpu, ContextKind::Graphics), [graphics]);
        assert_eq!(pids(&mut nvml, &gpu, ContextKind::MpsClient), []);
    }
}

#[test]
fn with_mig_on_a_process_stands_on_an_instance() {
    let (simulator, mut nvml, gpu) = mig_node("H100-80GB");
    let on_parent = simulator.busy(&gpu, ProcessSpec::new("a")).unwrap_err();
    assert_eq!(on_parent.code(), ErrorCode::InvalidState);
    let gi = nvml.create_gpu_instance_anywhere(&gpu, ProfileId::new(9)).unwrap().id;
    let make = |nvml: &mut SimulatedNvml| {
        nvml.create_compute_instance(&gpu, gi, ComputeProfileId::new(0), None).unwrap()
    };
    let (a, b) = (make(&mut nvml), make(&mut nvml));
    let missing = (&gpu, gi, crate::id::ComputeInstanceId::new(2));
    let missing = simulator.busy(missing, ProcessSpec::new("a")).unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    let seen = simulator.busy((&gpu, gi, a.id), ProcessSpec::new("seen")).unwrap();
    let unseen = simulator.busy(&b.uuid, ProcessSpec::new("unseen").invisible()).unwrap();
    assert_eq!(pids(&mut nvml, &gpu, ContextKind::Compute), [seen]);
    assert_eq!(nvml.processes(&gpu, ContextKind::Compute).unwrap()[0].instance, Some((gi, a.id)));
    assert_eq!(nvml.visible_processes(&gpu, Some((gi, b.id))).unwrap(), []);
    for ci in [a.id, b.id] {
        let destroyed = nvml.destroy_compute_instance(&gpu, gi, ci);
        assert_eq!(refused(destroyed), NvmlReturn::IN_USE);
    }
    simulator.idle(unseen).unwrap();
    nvml.destroy_compute_instance(&gpu, gi, b.id).unwrap();
    assert_eq!(simulator.idle(unseen).unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(simulator.idle_all(&gpu).unwrap(), 1);
    nvml.destroy_compute_instance(&gpu, gi, a.id).unwrap();
    nvml.destroy_gpu_instance(&gpu, gi).unwrap();
}

#[test]
fn signals_reach_exactly_their_process() {
    let (simulator, _, gpu) = node("T4");
    let processes = simulator.ports_in_memory().processes;
    let soft = simulator.busy(&gpu, ProcessSpec::new("soft")).unwrap();
    let hard = simulator.busy(&gpu, ProcessSpec::new("hard").stubborn()).unwrap();
    let started = |pid| processes.facts(pid).map(|facts| facts.start_time);
    let (soft_start, hard_start) = (started(soft).unwrap(), started(hard).unwrap());
    // Another process that had this pid is left alone.
    processes.signal(soft, soft_start + 1, Signal::Kill).unwrap();
    assert_eq!(started(soft), Some(soft_start));
    simulator.act_as(1001).unwrap();
    let denied = processes.signal(soft, soft_start, Signal::Kill).unwrap_err();
    assert_eq!(denied.code(), ErrorCode::PermissionDenied);
    simulator.act_as(1000).unwrap();
    processes.signal(soft, soft_start, Signal::Terminate).unwrap();
    processes.signal(hard, hard_start, Signal::Terminate).unwrap();
    assert_eq!((started(soft), started(hard)), (None, Some(hard_start)));
    processes.signal(hard, hard_start, Signal::Kill).unwrap();
    assert_eq!(started(hard), None);
    let unseen = simulator.busy(&gpu, ProcessSpec::new("unseen").invisible()).unwrap();
    assert_eq!(started(unseen), None);
    assert!(started(processes.own_pid()).is_some());
    assert_eq!(started(Pid::new(1)), None);
}

#[test]
fn real_pids_are_answered_from_beneath() {
    #[derive(Debug)]
    struct Beneath;
    impl Processes for Beneath {
        fn facts(&self, pid: Pid) -> Option<crate::port::ProcessFacts> {
            Some(crate::port::ProcessFacts {
                start_time: u64::from(pid.get()),
                command: "real".to_owned(),
                program: None,
                uid: 1,
                parent: None,
            })
        }
        fn own_pid(&self) -> Pid {
            Pid::new(7)
        }
        fn own_uid(&self) -> u32 {
            1
        }
        fn environment(&self, _: Pid, _: &[&str]) -> Option<Vec<(String, String)>> {
            None
        }
        fn in_first_pid_namespace(&self) -> bool {
            false
        }
        fn signal(&self, _: Pid, _: u64, _: Signal) -> Result<()> {
            Ok(())
        }
    }
    let (simulator, _, gpu) = node("T4");
    let pid = simulator.busy(&gpu, ProcessSpec::new("simulated")).unwrap();
    let processes = simulator.processes_over(Arc::new(Beneath));
    assert_eq!(processes.facts(Pid::new(42)).unwrap().command, "real");
    assert_eq!(processes.facts(pid).unwrap().command, "simulated");
    processes.signal(Pid::new(42), 0, Signal::Kill).unwrap();
    let start_time = processes.facts(pid).unwrap().start_time;
    processes.signal(pid, start_time, Signal::Kill).unwrap();
    assert_eq!(processes.facts(pid), None);
}

#[test]
fn an_mps_daemon_serves_clients_through_its_server() {
    let (simulator, mut nvml, gpu) = node("H100-80GB");
    let ports = simulator.ports_in_memory();
    let client = ProcessSpec::new("client").doing(ProcessKind::MpsClient);
    let without = simulator.busy(&gpu, client.clone()).unwrap_err();
    assert_eq!(without.code(), ErrorCode::Mps);
    let domain: MpsDomain = gpu.clone().into();
    ports.mps.stop(&domain).unwrap();
    ports.mps.start(&domain, &Access::Any, &MpsSettings::UNLIMITED).unwrap();
    let again = ports.mps.start(&domain, &Access::Any, &MpsSettings::UNLIMITED).unwrap_err();
    assert_eq!(again.code(), ErrorCode::InvalidState);
    let closed = simulator.busy(&gpu, client.clone()).unwrap_err();
    assert_eq!(closed.code(), ErrorCode::Mps);
    ports.mps.admit(&domain, true).unwrap();
    let daemon = ports.mps.probe(&domain).unwrap().unwrap();
    assert!(daemon.health == MpsHealth::Answers && daemon.access == Access::Any);
    let daemon = daemon.pid.unwrap();
    assert_eq!(ports.processes.facts(daemon).unwrap().command, "nvidia-cuda-mps-control");
    nvml.set_compute_mode(&gpu, ComputeMode::ExclusiveProcess).unwrap();
    assert_eq!(pids(&mut nvml, &gpu, ContextKind::Compute), []);

    let first = simulator.busy(&gpu, client.clone()).unwrap();
    let second = simulator.busy(&gpu, client.clone()).unwrap();
    assert_eq!(pids(&mut nvml, &gpu, ContextKind::MpsClient), [first, second]);
    let all = pids(&mut nvml, &gpu, ContextKind::Compute);
    let server = *all.iter().find(|pid| **pid != first && **pid != second).unwrap();
    assert_eq!(all.len(), 3);
    let facts = ports.processes.facts(server).unwrap();
    assert_eq!((facts.command.as_str(), facts.parent), ("nvidia-cuda-mps-server", Some(daemon)));
    let direct = simulator.busy(&gpu, ProcessSpec::new("direct")).unwrap_err();
    assert_eq!(direct.code(), ErrorCode::Busy);
    assert_eq!(direct.holders()[0].pid, server);
    for _ in 2..48 {
        simulator.busy(&gpu, client.clone()).unwrap();
    }
    assert_eq!(simulator.busy(&gpu, client.clone()).unwrap_err().code(), ErrorCode::Mps);

    let run = |command: &Command| ports.mps.command(&domain, command);
    assert_eq!(run(&Command::Servers).unwrap(), Reply::Pids(vec![server]));
    let clients = run(&Command::Clients { server }).unwrap();
    assert!(matches!(clients, Reply::Pids(pids) if pids.len() == 48 && pids[0] == first));
    run(&Command::TerminateClient { server, client: first }).unwrap();
    let again = run(&Command::TerminateClient { server, client: first }).unwrap_err();
    assert_eq!(again.code(), ErrorCode::NotFound);
    assert_eq!(ports.processes.facts(first), None);

    ports.mps.stop(&domain).unwrap();
    assert_eq!(pids(&mut nvml, &gpu, ContextKind::Compute), []);
    assert_eq!(ports.mps.probe(&domain).unwrap(), None);
}

#[test]
fn a_killed_daemon_is_seen_as_dead_and_can_be_replaced() {
    let (simulator, mut nvml, gpu) = node("2xH100-80GB");
    let ports = simulator.ports_in_memory();
    let client = ProcessSpec::new("client").doing(ProcessKind::MpsClient);
    assert!(simulator.kill_mps_daemon(&gpu).is_err());
    let domain: MpsDomain = gpu.clone().into();
    let start = || {
        ports.mps.start(&domain, &Access::Any, &MpsSettings::UNLIMITED).unwrap();
        ports.mps.admit(&domain, true).unwrap();
    };
    start();
    simulator.busy(&gpu, client.clone()).unwrap();
    let other = simulator.busy(&gpu, ProcessSpec::new("not of MPS")).unwrap();
    simulator.kill_mps_daemon(&gpu).unwrap();
    let dead = ports.mps.probe(&domain).unwrap().unwrap();
    assert_eq!((dead.health, dead.pid), (MpsHealth::Gone, None));
    assert_eq!(pids(&mut nvml, &gpu, ContextKind::Compute), [other]);
    assert_eq!(simulator.busy(&gpu, client.clone()).unwrap_err().code(), ErrorCode::Mps);
    start();
    let client = simulator.busy(&gpu, client).unwrap();
    // The server's end is its clients' too.
    let server = simulator.processes().unwrap().iter().find(|p| p.parent.is_some()).unwrap().pid;
    simulator.idle(server).unwrap();
    assert!(simulator.processes().unwrap().iter().all(|p| p.pid != client));
    simulator.freeze_mps_daemon(&gpu, true).unwrap();
    let frozen = ports.mps.command(&domain, &Command::Servers).unwrap_err();
    assert_eq!(frozen.code(), ErrorCode::Timeout);
    ports.mps.stop(&domain).unwrap();
}

#[test]
fn an_exclusive_gpu_that_is_taken_has_no_room_for_an_mps_server() {
    let (simulator, mut nvml, gpu) = node("H100-80GB");
    let ports = simulator.ports_in_memory();
    simulator.busy(&gpu, ProcessSpec::new("direct")).unwrap();
    nvml.set_compute_mode(&gpu, ComputeMode::ExclusiveProcess).unwrap();
    ports.mps.start(&gpu.clone().into(), &Access::Any, &MpsSettings::UNLIMITED).unwrap();
    ports.mps.admit(&gpu.clone().into(), true).unwrap();
    let client = ProcessSpec::new("client").doing(ProcessKind::MpsClient);
    assert_eq!(simulator.busy(&gpu, client).unwrap_err().code(), ErrorCode::Busy);
}

#[test]
fn a_set_fault_strikes_its_call_once() {
    let (simulator, mut nvml, gpu) = node("H100-80GB");
    for bad in
        [FaultSpec::next("x", NvmlReturn::UNKNOWN).at(0), FaultSpec::next("x", NvmlReturn::SUCCESS)]
    {
        assert_eq!(simulator.fault(bad).unwrap_err().code(), ErrorCode::InvalidArgument);
    }
    let set = "nvmlDeviceSetMigMode";
    simulator.fault(FaultSpec::next(set, NvmlReturn::TIMEOUT).at(2)).unwrap();
    simulator.fault(FaultSpec::next(set, NvmlReturn::UNKNOWN).at(3).after_effect()).unwrap();
    simulator.fault(FaultSpec::next("nvmlDeviceGetName", NvmlReturn::GPU_IS_LOST)).unwrap();
    nvml.set_mig_mode(&gpu, true).unwrap();
    assert_eq!(refused(nvml.set_mig_mode(&gpu, false)), NvmlReturn::TIMEOUT);
    assert!(nvml.mig_mode(&gpu).unwrap().current);
    assert_eq!(refused(nvml.set_mig_mode(&gpu, false)), NvmlReturn::UNKNOWN);
    assert!(!nvml.mig_mode(&gpu).unwrap().current);
    assert_eq!(refused(nvml.name(&gpu)), NvmlReturn::GPU_IS_LOST);
    nvml.name(&gpu).unwrap();
    assert_eq!(simulator.faults().unwrap(), []);
    simulator.fault(FaultSpec::next("nvmlInit_v2", NvmlReturn::DRIVER_NOT_LOADED)).unwrap();
    assert_eq!(simulator.open().unwrap_err().ret, NvmlReturn::DRIVER_NOT_LOADED);
    simulator.fault(FaultSpec::next(set, NvmlReturn::TIMEOUT)).unwrap();
    simulator.clear_faults().unwrap();
    nvml.set_mig_mode(&gpu, true).unwrap();
}
