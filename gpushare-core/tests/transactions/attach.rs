//! Whether a process is a client of an MPS daemon of ours, as a node finds it.

use gpushare_core::ErrorCode;
use gpushare_core::backend::sim::{FaultSpec, ProcessKind, ProcessSpec, Target};
use gpushare_core::id::{GpuUuid, MigUuid, Pid};
use gpushare_core::mode::Verdict;
use gpushare_core::mps::{Attachment, Command, MpsDomain};
use gpushare_core::port::NvmlReturn;
use gpushare_core::units::ThreadPercentage;

use crate::scenario::{World, spec};

const SHARED: &str =
    r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB", "compute_mode": "unchanged"}"#;

fn world(fleet: &str, block: &str) -> (World, Vec<GpuUuid>) {
    let world = World::new(fleet);
    world.apply(&spec("mps", block)).unwrap();
    let gpus = world.simulator.gpus().unwrap();
    (world, gpus)
}

fn client(world: &World, target: impl Into<Target>) -> Pid {
    let client = ProcessSpec::new("python serve.py").doing(ProcessKind::MpsClient);
    world.simulator.busy(target, client).unwrap()
}

fn compute(world: &World, target: impl Into<Target>) -> Pid {
    world.simulator.busy(target, ProcessSpec::new("python train.py")).unwrap()
}

fn verify(world: &World, pid: Pid) -> Attachment {
    world.node.verify_mps(pid).unwrap()
}

fn said(attachment: &Attachment) -> String {
    attachment.reasons.join("; ")
}

/// Asks of every process of the node: attached is who a server of ours lists, there, and nobody else.
#[track_caller]
fn expect_listings_to_decide(world: &World) -> [usize; 3] {
    let snapshot = world.snapshot();
    let mut daemons: Vec<(MpsDomain, _)> = Vec::new();
    for gpu in &snapshot.gpus {
        daemons.extend(gpu.mps.iter().map(|mps| ((&gpu.uuid).into(), mps)));
        for device in &gpu.mig_devices {
            daemons.extend(device.mps.iter().map(|mps| ((&device.uuid).into(), mps)));
        }
    }
    let processes = world.simulator.processes().unwrap();
    let mut pids: Vec<Pid> = processes.iter().map(|process| process.pid).collect();
    pids.extend(daemons.iter().filter_map(|(_, mps)| mps.pid));
    pids.push(world.node.ports().processes.own_pid());
    let mut counts = [0; 3];
    for pid in pids {
        let found = verify(world, pid);
        let listing = daemons.iter().find_map(|(domain, mps)| {
            Some((domain.clone(), mps.server_of(pid).filter(|_| mps.ours)?.pid))
        });
        assert_eq!(found.verdict == Verdict::Attached, listing.is_some(), "{found}");
        assert_eq!(found.domain.clone().zip(found.server), listing, "{found}");
        assert!(found.simulated && !found.reasons.is_empty(), "{found}");
        counts[match found.verdict {
            Verdict::Attached => 0,
            Verdict::NotAttached => 1,
            _ => 2,
        }] += 1;
    }
    counts
}

#[test]
fn only_a_listing_by_a_server_of_ours_attaches() {
    let (world, gpus) = world("3xH200-141GB", SHARED);
    // Us and three daemons: nobody is a client yet.
    assert_eq!(expect_listings_to_decide(&world), [0, 4, 0]);
    let first = client(&world, &gpus[0]);
    client(&world, &gpus[0]);
    let second = client(&world, &gpus[1]);
    let beside = compute(&world, &gpus[0]);
    let drawing = ProcessSpec::new("Xorg").doing(ProcessKind::Graphics);
    world.simulator.busy(&gpus[0], drawing).unwrap();
    // Their two servers are no clients either.
    assert_eq!(expect_listings_to_decide(&world), [3, 8, 0]);
    assert_eq!(verify(&world, first).domain, Some((&gpus[0]).into()));
    assert_eq!(verify(&world, second).domain, Some((&gpus[1]).into()));
    assert!(said(&verify(&world, beside)).contains("runs beside the daemon"));

    // A frozen daemon takes nobody's word: only who is seen elsewhere is known not to be its client.
    world.simulator.freeze_mps_daemon(&gpus[0], true).unwrap();
    let counts = expect_listings_to_decide(&world);
    assert_eq!(counts[0], 1, "{counts:?}");
    for pid in [first, beside] {
        let found = verify(&world, pid);
        assert_eq!(found.verdict, Verdict::Unknown);
        assert!(said(&found).contains("is frozen"), "{found}");
        assert!(found.at_most.sm_count.is_none() && found.at_most.memory.is_none());
    }
    let elsewhere = compute(&world, &gpus[2]);
    assert_eq!(verify(&world, elsewhere).verdict, Verdict::NotAttached);
    world.simulator.freeze_mps_daemon(&gpus[0], false).unwrap();
    assert_eq!(expect_listings_to_decide(&world), [3, 9, 0]);

    world.simulator.kill_mps_daemon(&gpus[0]).unwrap();
    expect_listings_to_decide(&world);
    assert_eq!(world.node.verify_mps(first).unwrap_err().code(), ErrorCode::NotFound);
    assert!(said(&verify(&world, beside)).contains("is gone"));
    world.simulator.idle(second).unwrap();
    assert_eq!(world.node.verify_mps(second).unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(world.node.verify_mps(Pid::new(4_000_000)).unwrap_err().code(), ErrorCode::NotFound);
}

#[test]
fn a_server_that_is_not_ours_attaches_nobody() {
    let (world, gpus) = world("2xH200-141GB", SHARED);
    let ours = client(&world, &gpus[0]);
    let server = ProcessSpec::new("nvidia-cuda-mps-server");
    let foreign: Vec<Pid> =
        gpus.iter().map(|gpu| world.simulator.busy(gpu, server.clone()).unwrap()).collect();
    expect_listings_to_decide(&world);
    assert_eq!(verify(&world, ours).verdict, Verdict::Attached);
    for pid in foreign {
        assert_eq!(verify(&world, pid).verdict, Verdict::NotAttached);
    }
}

fn devices(world: &World) -> Vec<MigUuid> {
    let gpus = world.snapshot().gpus;
    gpus.iter().flat_map(|gpu| &gpu.mig_devices).map(|device| device.uuid.clone()).collect()
}

#[test]
fn each_mig_device_has_clients_of_its_own() {
    let world = World::new("1xA100-40GB");
    let layout = r#"{"instances": [{"profile": "3g.20gb", "start": 4, "mps": {"thread_percentage": 50}},
        {"profile": "2g.10gb", "start": 0, "mps": {}}, {"profile": "1g.5gb", "start": 2}]}"#;
    world.apply(&spec("mig", layout)).unwrap();
    let devices = devices(&world);
    let snapshot = world.snapshot();
    let served: Vec<_> =
        snapshot.gpus[0].mig_devices.iter().filter(|device| device.mps.is_some()).collect();
    assert_eq!((devices.len(), served.len()), (3, 2));
    let mut clients = Vec::new();
    for device in &served {
        clients.push(client(&world, &device.uuid));
        let found = verify(&world, *clients.last().unwrap());
        assert_eq!((found.verdict, found.domain), (Verdict::Attached, Some((&device.uuid).into())));
        let full = device.mps.as_ref().unwrap().config.as_ref().unwrap().thread_percentage
            == ThreadPercentage::FULL;
        let sm_count = device.sm_count.map(|count| if full { count } else { count / 4 * 2 });
        assert_eq!(found.at_most.sm_count, sm_count);
        assert_eq!(found.at_most.memory, device.memory);
    }
    let beside: Vec<Pid> = devices.iter().map(|device| compute(&world, device)).collect();
    let counts = expect_listings_to_decide(&world);
    assert_eq!((counts[0], counts[2]), (2, 0));
    for (pid, device) in beside.iter().zip(&devices) {
        let reasons = said(&verify(&world, *pid));
        let daemon = served.iter().any(|served| served.uuid == *device);
        let why =
            if daemon { "runs beside the daemon" } else { "where no MPS daemon of ours runs" };
        assert!(reasons.contains(why) && reasons.contains(device.as_str()), "{reasons}");
    }
    // One that is frozen hides its own clients and no others.
    let frozen = &served[0].uuid;
    world.simulator.freeze_mps_daemon(frozen, true).unwrap();
    expect_listings_to_decide(&world);
    assert_eq!(verify(&world, clients[0]).verdict, Verdict::Unknown);
    assert_eq!(verify(&world, clients[1]).verdict, Verdict::Attached);
    for (pid, device) in beside.iter().zip(&devices) {
        let there = device == frozen;
        assert_eq!(verify(&world, *pid).verdict == Verdict::Unknown, there);
    }
}

#[test]
fn a_driver_without_a_list_of_clients_is_not_held_against_them() {
    let world = World::new("1xA100-40GB");
    world.apply(&spec("mig", r#"{"instances": [{"profile": "3g.20gb", "mps": {}}]}"#)).unwrap();
    let pid = client(&world, &devices(&world)[0]);
    // With MIG on nothing but this asks for it.
    let call = "nvmlDeviceGetMPSComputeRunningProcesses_v3";
    for code in [NvmlReturn::NOT_SUPPORTED, NvmlReturn::UNKNOWN] {
        world.simulator.fault(FaultSpec::next(call, code)).unwrap();
        let found = verify(&world, pid);
        assert!(world.simulator.faults().unwrap().is_empty(), "it was asked");
        assert_eq!(found.verdict, Verdict::Attached);
        assert!(!said(&found).contains("does not list it"), "{found}");
    }
}

#[test]
fn what_holds_is_unknown_for_those_who_came_before_a_change() {
    let (world, gpus) = world("1xH200-141GB", SHARED);
    let old = client(&world, &gpus[0]);
    let found = verify(&world, old);
    assert_eq!(found.at_most.sm_count, Some(32));
    assert_eq!(found.at_most.memory.unwrap().to_string(), "2GiB");
    let half = ThreadPercentage::new(50.0).unwrap();
    world
        .simulator
        .tell_mps_daemon(&(&gpus[0]).into(), &Command::SetDefaultThreadPercentage(half))
        .unwrap();
    world.apply(&spec("mps", SHARED)).unwrap();
    let found = verify(&world, old);
    assert_eq!(found.verdict, Verdict::Attached);
    assert!(found.at_most.sm_count.is_none() && found.at_most.memory.is_none(), "{found}");
    assert!(found.at_most.reason.unwrap().contains("keep what was in force"));
    let new = verify(&world, client(&world, &gpus[0]));
    assert_eq!((new.at_most.sm_count, new.at_most.reason), (Some(32), None));
}

#[test]
fn what_an_environment_asks_for_is_declared_and_decides_nothing() {
    let (world, gpus) = world("1xH200-141GB", SHARED);
    let directory = world.snapshot().gpus[0].mps.clone().unwrap().directory.unwrap();
    let right = directory.to_str().unwrap();
    let run = |kind, variables: &[(&str, &str)]| {
        let process = ProcessSpec::new("python").doing(kind).with_environment(variables);
        verify(&world, world.simulator.busy(&gpus[0], process).unwrap())
    };
    let variables = [
        ("CUDA_MPS_PIPE_DIRECTORY", right),
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    let inside = run(ProcessKind::MpsClient, &variables);
    assert_eq!((inside.verdict, inside.at_most.sm_count), (Verdict::Attached, Some(32)));
    let declared = inside.declared.clone().unwrap();
    assert_eq!(declared.thread_percentage.as_deref(), Some("10"));
    let text = inside.to_string();
    assert!(text.contains("\n  declared, not enforced: CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=10\n"));
    assert!(text.contains("\n  enforced: at most 32 SMs, 25 % of the threads, 2GiB of memory\n"));
    let document = serde_json::to_string(&inside).unwrap();
    assert!(!(text + &document).contains("hunter2"), "what is not asked for is not read");

    // It says the right thing and is not there all the same.
    let liar = run(ProcessKind::Compute, &variables);
    assert_eq!((liar.verdict, liar.at_most.sm_count), (Verdict::NotAttached, None));
    assert!(!said(&liar).contains("CUDA_MPS_PIPE_DIRECTORY"), "{liar}");
    let missed = run(ProcessKind::Compute, &[("CUDA_MPS_PIPE_DIRECTORY", "/tmp/mps")]);
    let reasons = said(&missed);
    assert!(reasons.contains("its CUDA_MPS_PIPE_DIRECTORY is /tmp/mps, and"), "{reasons}");
    assert!(reasons.contains(right), "{reasons}");
    let bare = run(ProcessKind::Compute, &[]);
    assert!(
        said(&bare).contains("it has no CUDA_MPS_PIPE_DIRECTORY, so it looks in /tmp/nvidia-mps")
    );
    let hidden = verify(&world, compute(&world, &gpus[0]));
    assert_eq!(hidden.declared, None);
    assert!(said(&hidden).contains("its environment cannot be read"), "{hidden}");
}
