//! MPS: whom it serves, what running daemons are told, and who is ended.

use gpushare_core::backend::sim::{Failure, Fault, ProcessKind, ProcessSpec};
use gpushare_core::hazard::HazardName;
use gpushare_core::mode::{ComputeMode, Mode, MpsHealth, SharingMode};
use gpushare_core::mps::Command;
use gpushare_core::plan::{Plan, Request, Step};
use gpushare_core::process::HolderKind;
use gpushare_core::snapshot::MpsStatus;
use gpushare_core::units::ThreadPercentage;
use gpushare_core::{ApplyOptions, ErrorCode, Outcome, Spec};

use crate::scenario::{World, options, spec};

fn leave(world: &World) -> Request {
    Request::Leave { mode: Mode::Mps, gpus: world.simulator.gpus().unwrap() }
}

fn mps(world: &World) -> MpsStatus {
    world.snapshot().gpus.remove(0).mps.unwrap()
}

fn plan(world: &World, text: &str) -> Plan {
    world.node.plan(&text.parse::<Spec>().unwrap()).unwrap()
}

fn percentage(percent: f64) -> ThreadPercentage {
    ThreadPercentage::new(percent).unwrap()
}

#[test]
fn clients_are_ended_by_consent_alone_and_by_their_daemon() {
    let world = World::new("1xH200-141GB");
    let gpu = &world.simulator.gpus().unwrap()[0];
    world.apply(&spec("mps", r#"{"thread_percentage": 25}"#)).unwrap();
    let pids = world.serve(2);
    let before = world.states();
    world.faults.revive();

    let nothing = ApplyOptions::new();
    let go_on = |_: &gpushare_core::Event| std::ops::ControlFlow::Continue(());
    let source = leave(&world);
    let source = gpushare_core::apply::Source::Request(&source);
    let error = world.node.apply_with(source, &nothing, go_on).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::Untouched));
    assert_eq!(error.holders().iter().map(|holder| holder.pid).collect::<Vec<_>>(), pids);
    assert!(world.faults.calls().iter().all(|call| !call.mutating), "nothing was touched");
    assert_eq!(world.states(), before);

    // New ones come in as before.
    let third = world.serve(1)[0];
    world.faults.revive();
    let report = world.request(&leave(&world)).unwrap();
    let ended: Vec<_> = report.evicted.iter().map(|evicted| evicted.holder.pid).collect();
    assert_eq!(ended, [pids[0], pids[1], third]);
    assert!(report.evicted.iter().all(|e| !e.killed && e.holder.kind == HolderKind::MpsClient));
    let calls: Vec<_> = world.faults.calls().iter().map(|call| call.name).collect();
    assert_eq!(calls.iter().filter(|name| **name == "mps.terminate_client").count(), 3);
    assert!(!calls.contains(&"processes.signal"), "their processes are their own affair");
    // Nobody gets in any more before the first one is ended.
    let place = |name| calls.iter().position(|call| *call == name).unwrap();
    assert!(place("mps.admit") < place("mps.terminate_client"));
    let gpu = world.node.snapshot().unwrap().gpu(gpu).cloned().unwrap();
    assert_eq!((gpu.mode, gpu.mps), (SharingMode::TimeSliced, None));
    assert_eq!(gpu.compute_mode, Some(ComputeMode::Default));
}

#[test]
fn whoever_comes_in_while_a_daemon_is_stopped_is_not_ended_without_consent() {
    let world = World::new("1xH200-141GB");
    world.apply(&spec("mps", "{}")).unwrap();
    let before = world.states();
    let source = leave(&world);
    let source = gpushare_core::apply::Source::Request(&source);
    let mut late = Vec::new();
    let result = world.node.apply_with(source, &ApplyOptions::new(), |event| {
        if matches!(event, gpushare_core::Event::Step { number: 1, .. }) {
            late = world.serve(1);
        }
        std::ops::ControlFlow::Continue(())
    });
    let error = result.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::RolledBack));
    assert_eq!(error.holders()[0].pid, late[0]);
    let after = world.states();
    assert!(after[0].matches(&before[0]), "{after:#?}");
    assert!(mps(&world).admitted && mps(&world).server_of(late[0]).is_some());
    assert!(world.journals().is_empty());
}

#[test]
fn a_changed_limit_reaches_daemon_and_server_and_clients_are_told_what_they_keep() {
    let world = World::new("1xH200-141GB");
    world
        .apply(&spec("mps", r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB"}"#))
        .unwrap();
    let wanted = spec("mps", r#"{"thread_percentage": 50, "pinned_memory_limit": "4GiB"}"#);
    world.serve(1);
    let notes = &plan(&world, &wanted).gpus[0].notes;
    assert!(notes.iter().any(|note| note.starts_with("1 MPS client that is there keeps")));
    world.serve(1);
    let there = mps(&world);
    let planned = plan(&world, &wanted);
    let gpu = &planned.gpus[0];
    assert!(planned.needs.is_empty(), "nobody is in the way: {:?}", planned.needs);
    assert!(gpu.notes.iter().any(|note| note.contains("2 MPS clients") && note.contains("keep")));
    let names: Vec<_> = gpu.steps.iter().map(|step| step.to_string()).collect();
    assert_eq!(
        names[..4],
        [
            "set the MPS daemon's default thread percentage 50 (was 25)",
            "set the MPS daemon's default pinned memory limit 4GiB (was 2GiB)",
            "set the MPS servers' thread percentage 50 (was 25) for clients to come",
            "set the MPS servers' pinned memory limit 4GiB (was 2GiB) for clients to come",
        ]
    );
    world.apply(&wanted).unwrap();
    let now = mps(&world);
    assert_eq!((now.pid, &now.servers[0].clients), (there.pid, &there.servers[0].clients));
    assert_eq!(now.servers[0].thread_percentage, Some(percentage(50.0)));
    assert!(now.changed > there.changed);
    assert!(plan(&world, &wanted).noop);
}

#[test]
fn what_others_set_on_a_daemon_of_ours_is_seen_and_mended() {
    let world = World::new("1xH200-141GB");
    let gpu = world.simulator.gpus().unwrap().remove(0);
    let wanted = spec("mps", r#"{"thread_percentage": 25}"#);
    world.apply(&wanted).unwrap();
    world.serve(1);
    let server = mps(&world).servers[0].pid;
    for (theirs, step) in [
        (Command::SetDefaultThreadPercentage(percentage(90.0)), "set_mps_default"),
        (Command::SetThreadPercentage { server, percentage: percentage(90.0) }, "set_mps_servers"),
    ] {
        let digest = world.snapshot().digest();
        world.simulator.tell_mps_daemon(&gpu.clone().into(), &theirs).unwrap();
        assert_ne!(world.snapshot().digest(), digest, "a plan made before is stale");
        let steps = serde_json::to_value(&plan(&world, &wanted).gpus[0].steps).unwrap();
        assert_eq!(steps[0]["step"], step);
        world.apply(&wanted).unwrap();
        assert!(plan(&world, &wanted).noop);
    }
}

#[test]
fn a_daemon_is_for_whom_it_was_started() {
    let world = World::new("1xH200-141GB");
    world.apply(&spec("mps", r#"{"max_clients": 3}"#)).unwrap();
    let there = mps(&world).pid;
    assert_eq!(world.snapshot().gpus[0].shares.len(), 3);
    // How many leases there are is no affair of the daemon's.
    world.apply(&spec("mps", r#"{"max_clients": 5}"#)).unwrap();
    assert_eq!((mps(&world).pid, world.snapshot().gpus[0].shares.len()), (there, 5));
    world.serve(1);
    let planned = plan(&world, &spec("mps", r#"{"access": {"group": "ml"}}"#));
    assert!(matches!(planned.gpus[0].steps[0], Step::StopMps { .. }));
    assert_eq!(planned.needs.evict[0].holders.len(), 1, "its clients must go for that");
    let error = world.apply(&spec("mps", r#"{"access": {"user": "nobody-here"}}"#)).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::NotFound, Outcome::Untouched));
    assert_eq!(mps(&world).pid, there);
}

#[test]
fn a_frozen_daemon_is_told_apart_and_replaced() {
    let world = World::new("1xH200-141GB");
    let gpu = world.simulator.gpus().unwrap().remove(0);
    world.apply(&spec("mps", "{}")).unwrap();
    let client = world.serve(1)[0];
    world.simulator.freeze_mps_daemon(&gpu, true).unwrap();
    let seen = world.snapshot().gpus.remove(0);
    assert_eq!(seen.mode, SharingMode::Degraded);
    assert!(seen.reason.contains("frozen"), "{}", seen.reason);
    assert_eq!(seen.mps.unwrap().health, Some(MpsHealth::Frozen));
    // Whoever uses it would be ended with it.
    let planned = plan(&world, &spec("mps", "{}"));
    assert_eq!(planned.needs.evict[0].holders[0].pid, client);
    let source: Spec = spec("mps", "{}").parse().unwrap();
    let error = world.node.apply(&source, &ApplyOptions::new()).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::Untouched));
    world.apply(&spec("mps", "{}")).unwrap();
    assert_eq!(world.snapshot().gpus[0].mode, SharingMode::Mps);
}

#[test]
fn a_daemon_that_is_not_ours_is_seen_beside_ours() {
    let world = World::new("1xH200-141GB");
    let gpu = world.simulator.gpus().unwrap().remove(0);
    world.apply(&spec("mps", r#"{"compute_mode": "unchanged"}"#)).unwrap();
    world.serve(1);
    assert_eq!(world.snapshot().gpus[0].mode, SharingMode::Mps);
    let server = ProcessSpec::new("nvidia-cuda-mps-server");
    let foreign = world.simulator.busy(&gpu, server).unwrap();
    let seen = world.snapshot().gpus.remove(0);
    assert_eq!(seen.mode, SharingMode::Foreign);
    let holder = seen.processes.iter().find(|process| process.holder.pid == foreign).unwrap();
    assert!(holder.holder.kind == HolderKind::ForeignMps && holder.holder.protected.is_some());
    assert!(seen.mps.unwrap().ours, "ours is still there, and known");
}

#[test]
fn a_half_set_daemon_lets_nobody_in() {
    // Each call of a start fails in turn: afterwards nothing of it is there, compute mode included.
    let calls =
        [("mps.start", 1), ("mps.get", 1), ("mps.set", 1), ("mps.get", 5), ("mps.admit", 1)];
    for (name, number) in calls {
        let world = World::new("1xH200-141GB");
        let before = world.states();
        world.faults.on(name, number, Fault::Fail(Failure::default()));
        let limits = r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB", "priority": "below_normal"}"#;
        let error = world.apply(&spec("mps", limits)).unwrap_err();
        assert_eq!(error.outcome(), Outcome::RolledBack, "{error:?}");
        assert_eq!(world.states(), before);
        let gpu = &world.simulator.gpus().unwrap()[0];
        let client = ProcessSpec::new("client").doing(ProcessKind::MpsClient);
        assert_eq!(world.simulator.busy(gpu, client).unwrap_err().code(), ErrorCode::Mps);
    }
}

#[test]
fn mig_devices_are_shared_with_a_hazard_that_has_a_name() {
    let world = World::new("1xA100-40GB");
    let text = spec(
        "mig",
        r#"{"instances": [{"profile": "3g", "mps": {"thread_percentage": 50, "max_clients": 4}}, {"profile": "1g"}]}"#,
    );
    let planned = plan(&world, &text);
    let names: Vec<_> = planned.needs.hazards.iter().map(|hazard| hazard.hazard.name).collect();
    assert_eq!(names, [HazardName::BypassPossible]);
    let spec_: Spec = text.parse().unwrap();
    let refused = ApplyOptions::new().allow_reset(true);
    assert_eq!(world.node.apply(&spec_, &refused).unwrap_err().code(), ErrorCode::Hazard);
    world.node.apply(&spec_, &options()).unwrap();
    let gpu = world.snapshot().gpus.remove(0);
    assert_eq!((gpu.mode, gpu.shares.len()), (SharingMode::Mig, 5));
    let shared = gpu.mig_devices.iter().find(|device| device.mps.is_some()).unwrap();
    let mps = shared.mps.as_ref().unwrap();
    assert!(mps.alive && mps.directory.as_ref().unwrap().ends_with(shared.uuid.as_str()));
    world.serve(2);
    assert!(plan(&world, &text).noop);
    // The way back says it too.
    let report = world.apply(&spec("mig", r#"{"instances": {}}"#)).unwrap();
    assert_eq!(report.evicted.len(), 2);
    world.node.apply(&report.previous, &options()).unwrap();
    assert!(plan(&world, &text).noop);
}

#[test]
fn instances_that_are_alike_stay_where_their_daemons_are() {
    let world = World::new("1xA100-40GB");
    let mps = r#"{"profile": "1g", "mps": {"thread_percentage": 75}}"#;
    let list = |items: &[&str]| spec("mig", &format!(r#"{{"instances": [{}]}}"#, items.join(", ")));
    let plain = r#"{"profile": "1g"}"#;
    world.apply(&list(&[plain, mps, plain])).unwrap();
    world.serve(1);
    // The same in another order, and one fewer of those that have none.
    for items in [&[mps, plain, plain][..], &[plain, plain, mps], &[mps, plain]] {
        let planned = plan(&world, &list(items));
        assert!(planned.needs.evict.is_empty(), "{planned}");
        world.apply(&list(items)).unwrap();
        let devices = world.snapshot().gpus.remove(0).mig_devices;
        let served: Vec<_> = devices.iter().filter_map(|device| device.mps.as_ref()).collect();
        assert_eq!((served.len(), served[0].servers[0].clients.len()), (1, 1));
    }
}
