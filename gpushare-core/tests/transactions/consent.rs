//! What apply asks for before it touches anything, and what it refuses.

use std::ops::ControlFlow;
use std::time::Duration;

use gpushare_core::apply::{Event, Source};
use gpushare_core::backend::sim::{Failure, Fault, ProcessKind, ProcessSpec};
use gpushare_core::hazard::HazardName;
use gpushare_core::plan::Request;
use gpushare_core::port::NvmlReturn;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Node, Outcome, Plan, Spec};

use crate::scenario::{World, counted, entry, spec};

fn mig(instances: &str) -> String {
    spec("mig", &format!(r#"{{"instances": {instances}}}"#))
}

fn nothing() -> ApplyOptions {
    ApplyOptions::new()
}

fn parse(text: &str) -> Spec {
    text.parse().unwrap()
}

/// A node with MIG instances, and a process on the first device of that profile.
fn tenant(instances: &str, profile: &str, process: ProcessSpec) -> (World, gpushare_core::id::Pid) {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(instances)).unwrap();
    let snapshot = world.snapshot();
    let device =
        snapshot.gpus[0].mig_devices.iter().find(|d| d.profile.to_string() == profile).unwrap();
    let pid = world.simulator.busy(&device.uuid, process).unwrap();
    world.faults.revive();
    (world, pid)
}

/// Applies without any consent: the error, with the proof that nothing was touched.
fn refused(world: &World, text: &str) -> Error {
    let before = world.states();
    world.faults.revive();
    let error = world.node.apply(&parse(text), &nothing()).unwrap_err();
    let changed: Vec<_> = world.faults.calls().into_iter().filter(|call| call.mutating).collect();
    assert!(changed.is_empty(), "{error:?} came after {changed:?}");
    assert_eq!(error.outcome(), Outcome::Untouched, "{error:?}");
    assert_eq!(world.states(), before);
    error
}

#[test]
fn a_busy_tenant_is_named_and_not_touched() {
    let (world, pid) =
        tenant(r#"{"3g.40gb": 1, "4g.40gb": 1}"#, "4g.40gb", ProcessSpec::new("python train.py"));
    let error = refused(&world, &mig(r#"{"7g": 1}"#));
    assert_eq!(error.code(), ErrorCode::Busy);
    assert_eq!(error.holders()[0].pid, pid);
    let text = error.to_string();
    for part in
        [pid.to_string().as_str(), "python train.py", "4g.40gb", "allow its eviction", "wait until"]
    {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(error.fits().contains(&"3g.40gb".to_owned()), "{:?}", error.fits());
    let plan = world.node.plan(&parse(&mig(r#"{"7g": 1}"#))).unwrap();
    assert_eq!(plan.needs.evict[0].holders[0].pid, pid);
    assert!(plan.to_string().contains("python train.py"));
}

#[test]
fn a_way_around_the_tenant_is_taken() {
    let (world, pid) = tenant(r#"{"1g.10gb": 3}"#, "1g.10gb", ProcessSpec::new("serve"));
    world.node.apply(&parse(&mig(r#"{"1g.10gb": 1, "3g.40gb": 1}"#)), &nothing()).unwrap();
    assert!(world.simulator.processes().unwrap().iter().any(|process| process.pid == pid));
}

#[test]
fn with_consent_the_tenant_goes() {
    for stubborn in [false, true] {
        let process = ProcessSpec::new("serve");
        let process = if stubborn { process.stubborn() } else { process };
        let (world, pid) = tenant(r#"{"3g.40gb": 2}"#, "3g.40gb", process);
        let options = nothing().allow_evict(true).grace(Duration::from_secs(2));
        let report = world.node.apply(&parse(&mig(r#"{"7g": 1}"#)), &options).unwrap();
        assert_eq!(report.evicted.len(), 1);
        assert_eq!((report.evicted[0].holder.pid, report.evicted[0].killed), (pid, stubborn));
        assert!(world.simulator.processes().unwrap().is_empty());
    }
}

#[test]
fn a_protected_holder_never_goes() {
    for command in
        ["nv-hostengine -n", "/usr/bin/nvidia-persistenced --verbose", "nvidia-cuda-mps-server"]
    {
        let (world, pid) = tenant(r#"{"7g": 1}"#, "7g.80gb", ProcessSpec::new(command).by(0));
        let target = mig(r#"{"1g": 7}"#);
        let error = world.node.apply(&parse(&target), &nothing().allow_evict(true)).unwrap_err();
        assert_eq!(
            (error.code(), error.outcome()),
            (ErrorCode::Busy, Outcome::Untouched),
            "{error:?}"
        );
        assert!(error.holders()[0].protected.is_some(), "{error:?}");
        assert!(world.simulator.processes().unwrap().iter().any(|process| process.pid == pid));
    }
}

#[test]
fn a_display_is_never_evicted() {
    let world = World::new("1xL40S");
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    world.simulator.busy(&gpu, ProcessSpec::new("Xorg").doing(ProcessKind::Graphics)).unwrap();
    world.simulator.busy(&gpu, ProcessSpec::new("a")).unwrap();
    world.simulator.busy(&gpu, ProcessSpec::new("b")).unwrap();
    // Exclusive needs the compute processes gone, not the display.
    let report =
        world.node.apply(&parse(&spec("exclusive", "")), &nothing().allow_evict(true)).unwrap();
    assert_eq!(report.evicted.len(), 2);
    assert_eq!(world.simulator.processes().unwrap().len(), 1);
}

#[test]
fn drain_waits_until_the_tenant_is_gone() {
    let (world, pid) = tenant(r#"{"3g.40gb": 2}"#, "3g.40gb", ProcessSpec::new("serve"));
    let request = Request::Apply(parse(&mig(r#"{"7g": 1}"#)));
    let mut rounds = 0;
    let options = nothing().drain(Duration::from_secs(5));
    let report = world.node.apply_with(Source::Request(&request), &options, |event| {
        if let Event::Draining { holders } = event {
            assert_eq!(holders[0].pid, pid);
            rounds += 1;
            if rounds == 3 {
                world.simulator.idle(pid).unwrap();
            }
        }
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().evicted.is_empty());
    assert_eq!(rounds, 3);
}

#[test]
fn drain_ends_and_the_tenant_stays() {
    let (world, _) = tenant(r#"{"3g.40gb": 2}"#, "3g.40gb", ProcessSpec::new("serve"));
    let options = nothing().drain(Duration::from_millis(300));
    let error = world.node.apply(&parse(&mig(r#"{"7g": 1}"#)), &options).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::Untouched));
}

#[test]
fn a_holder_that_nobody_sees_rolls_back() {
    let (world, _) = tenant(r#"{"3g.40gb": 2}"#, "3g.40gb", ProcessSpec::new("leak").invisible());
    let before = world.states();
    let error = world.node.apply(&parse(&mig(r#"{"7g": 1}"#)), &nothing()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy);
    assert!(error.to_string().contains("DCGM"), "{error}");
    assert_eq!(world.states(), before);
}

#[test]
fn a_reset_and_a_hazard_want_consent() {
    let world = World::new("1xA100-80GB");
    let error = refused(&world, &mig(r#"{"1g": 7}"#));
    assert_eq!(error.code(), ErrorCode::ResetRequired);
    world.node.apply(&parse(&mig(r#"{"1g": 7}"#)), &nothing().allow_reset(true)).unwrap();

    let world = World::new("1xH100-80GB");
    let mps = spec("mps", r#"{"thread_percentage": 40}"#);
    let error = refused(&world, &mps);
    assert_eq!(error.code(), ErrorCode::Hazard);
    assert!(error.safe().contains(&"27".to_owned()), "{:?}", error.safe());
    world.node.apply(&parse(&mps), &nothing().allow_hazard(HazardName::HopperPartialSm)).unwrap();
    let again = world.node.apply(&parse(&mps), &nothing()).unwrap();
    assert_eq!(again.steps, 0);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything() {
    let world = World::new("2xH100-80GB,1xL40S");
    let cases = [
        (entry("0", "mig", r#"{"instances": {"1g.99gb": 1}}"#), ErrorCode::InvalidArgument, "1g.10gb"),
        (entry("0", "mig", r#"{"instances": {"3g.40gb": 3}}"#), ErrorCode::Insufficient, "3g.40gb"),
        (entry("0", "mig", r#"{"instances": [{"profile": "3g", "start": 1}]}"#), ErrorCode::InvalidArgument, "4"),
        (entry("0", "mig", r#"{"instances": [{"profile": "3g", "start": 0}, {"profile": "2g", "start": 2}]}"#), ErrorCode::Insufficient, "3g.40gb"),
        (entry("2", "mig", r#"{"instances": {"1g": 1}}"#), ErrorCode::Unsupported, "L40S"),
        (entry("7", "exclusive", ""), ErrorCode::NotFound, "7"),
        (entry("\"GPU-ffffffff\"", "exclusive", ""), ErrorCode::NotFound, "GPU-ffffffff"),
        (
            r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}, {"select": [0, 1], "mode": "time_sliced"}]}"#.to_owned(),
            ErrorCode::InvalidArgument,
            "select",
        ),
        (entry("0", "mps", r#"{"max_clients": 100}"#), ErrorCode::Insufficient, "48"),
    ];
    for (text, code, part) in cases {
        let error = refused(&world, &text);
        assert_eq!(error.code(), code, "{error:?} for {text}");
        assert!(error.to_string().contains(part), "{part:?} is missing: {error}");
    }
    let error = refused(&world, &entry("0", "mig", r#"{"instances": {"4g": 2}}"#));
    assert!(error.fits().iter().any(|fit| fit.contains("4g.40gb")), "{:?}", error.fits());
}

#[test]
fn a_plan_that_is_no_longer_true_is_stale() {
    let world = World::new("2xH100-80GB");
    let plan = world.node.plan(&parse(&mig(r#"{"3g": 1}"#))).unwrap();
    let other = world.node.plan(&parse(&entry("1", "exclusive", ""))).unwrap();
    world.apply(&entry("0", "exclusive", "")).unwrap();
    let error = plan.apply(&world.node, nothing()).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Stale, Outcome::Untouched));
    // A change of another GPU is none of this plan's business.
    other.apply(&world.node, nothing()).unwrap();
}

#[test]
fn a_shipped_plan_is_planned_again() {
    let world = World::new("1xH100-80GB");
    let plan = world.node.plan(&parse(&mig(r#"{"3g": 1}"#))).unwrap();
    let mut shipped = Plan::from_json(&plan.to_json()).unwrap();
    assert_eq!(shipped.digest, plan.digest);
    // Steps that somebody wrote into it are not executed.
    shipped.gpus[0].steps.clear();
    shipped.apply(&world.node, nothing()).unwrap();
    assert_eq!(world.snapshot().gpus[0].mig_devices.len(), 1);

    let mut forged =
        Plan::from_json(&world.node.plan(&parse(&mig(r#"{"7g": 1}"#))).unwrap().to_json()).unwrap();
    forged.digest = plan.digest.clone();
    let error = forged.apply(&world.node, nothing()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Stale);
}

#[test]
fn an_expected_digest_holds() {
    let world = World::new("1xH100-80GB");
    let target = parse(&mig(r#"{"3g": 1}"#));
    let digest = world.node.plan(&target).unwrap().digest;
    let error = world.node.apply(&target, &nothing().expect("0000")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Stale);
    // Another spec does not have that digest either.
    let error =
        world.node.apply(&parse(&mig(r#"{"7g": 1}"#)), &nothing().expect(&digest)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Stale);
    world.node.apply(&target, &nothing().expect(digest)).unwrap();
}

#[test]
fn what_became_busy_since_the_plan_is_busy() {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(r#"{"1g.10gb": 3}"#)).unwrap();
    let plan = world.node.plan(&parse(&mig(r#"{"1g.10gb": 2, "3g.40gb": 1}"#))).unwrap();
    let snapshot = world.snapshot();
    // The process comes to whatever the plan would destroy.
    let doomed = snapshot.gpus[0]
        .mig_devices
        .iter()
        .find(|device| !plan.gpus[0].keep.iter().any(|kept| kept.uuids.contains(&device.uuid)));
    let doomed = doomed.unwrap();
    let pid = world.simulator.busy(&doomed.uuid, ProcessSpec::new("late")).unwrap();
    let before = world.states();
    let error = plan.apply(&world.node, nothing()).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::Untouched), "{error:?}");
    assert_eq!(error.holders().iter().map(|holder| holder.pid).collect::<Vec<_>>(), [pid]);
    assert_eq!(world.states(), before);
}

#[test]
fn who_may_not_is_told_what_is_missing() {
    let world = World::new("1xH100-80GB");
    world.simulator.act_as(1000).unwrap();
    // With MIG off everybody may plan.
    let plan = world.node.plan(&parse(&mig(r#"{"1g": 2}"#))).unwrap();
    let error = plan.apply(&world.node, nothing()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::PermissionDenied, "{error:?}");
    assert_eq!(error.needs(), ["root"], "the driver said so");

    world.simulator.act_as(0).unwrap();
    plan.apply(&world.node, nothing()).unwrap();
    world.simulator.act_as(1000).unwrap();
    let snapshot = world.snapshot();
    assert_eq!(snapshot.gpus[0].mig_devices.len(), 2, "MIG devices are for everybody to see");
    assert_eq!(snapshot.gpus[0].mig_devices[0].start, None);
    let error = world.node.plan(&parse(&mig(r#"{"1g": 3}"#))).unwrap_err();
    assert_eq!(error.code(), ErrorCode::PermissionDenied);
    assert!(error.needs()[0].ends_with("mig/config"), "{:?}", error.needs());
}

#[test]
fn who_may_not_ends_nobody_on_the_way_there() {
    let world = World::new("1xH100-80GB");
    let gpu = world.snapshot().gpus[0].uuid.clone();
    // Their own processes, which they may end.
    for name in ["first", "second"] {
        world.simulator.busy(&gpu, ProcessSpec::new(name)).unwrap();
    }
    world.simulator.act_as(1000).unwrap();
    let processes = || world.snapshot().gpus[0].processes.len();
    let exclusive =
        r#"{"version": "gpushare/v1", "gpus": [{"select": "all", "mode": "exclusive"}]}"#;
    for spec in [&*mig(r#"{"1g": 2}"#), exclusive] {
        let plan = world.node.plan(&parse(spec)).unwrap();
        assert!(!plan.needs.evict.is_empty(), "{plan}");
        let error = plan.apply(&world.node, nothing().allow_evict(true)).unwrap_err();
        let said = (error.code(), error.outcome());
        assert_eq!(said, (ErrorCode::PermissionDenied, Outcome::Untouched), "{error:?}");
        assert_eq!((error.needs(), error.holders().len()), (&["root".to_owned()][..], 2));
        assert_eq!(processes(), 2);
    }
    world.simulator.act_as(0).unwrap();
    let plan = world.node.plan(&parse(exclusive)).unwrap();
    plan.apply(&world.node, nothing().allow_evict(true)).unwrap();
    assert_eq!(processes(), 0);
}

#[test]
fn a_lock_is_not_waited_for_unless_asked() {
    let world = World::new("1xH100-80GB");
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    let lock = world.node.ports().store.try_lock(&format!("lock/{gpu}.lock")).unwrap();
    let target = mig(r#"{"1g": 1}"#);
    let error = refused(&world, &target);
    assert_eq!(error.code(), ErrorCode::Locked);
    let options = nothing().timeout(Some(Duration::from_millis(250)));
    let error = world.node.apply(&parse(&target), &options).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);

    let request = Request::Apply(parse(&target));
    let options = nothing().timeout(None);
    let error = world
        .node
        .apply_with(Source::Request(&request), &options, |event| match event {
            Event::WaitingForLock { .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Interrupted, Outcome::Untouched));
    let mut lock = lock;
    let report = world.node.apply_with(Source::Request(&request), &options, |event| {
        if let Event::WaitingForLock { .. } = event {
            lock = None;
        }
        ControlFlow::Continue(())
    });
    report.unwrap();
}

#[test]
fn asking_to_stop_rolls_back_at_every_step() {
    let from = vec![("3g.40gb".to_owned(), 4u8), ("2g.20gb".to_owned(), 0)];
    let to = parse(&mig(r#"{"3g.40gb": 1, "1g.10gb": 4}"#));
    for stop_at in 1.. {
        let world = World::new("1xH100-80GB");
        world.apply(&counted(&from)).unwrap();
        let before = world.states();
        let request = Request::Apply(to.clone());
        let mut stopped = false;
        let result =
            world.node.apply_with(Source::Request(&request), &nothing(), |event| match event {
                Event::Step { number, .. } if *number == stop_at => {
                    stopped = true;
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            });
        if !stopped {
            assert!(result.is_ok() && stop_at > 6);
            return;
        }
        let error = result.unwrap_err();
        let outcome = if stop_at == 1 { Outcome::Untouched } else { Outcome::RolledBack };
        assert_eq!(
            (error.code(), error.outcome()),
            (ErrorCode::Interrupted, outcome),
            "step {stop_at}"
        );
        assert_eq!(world.states(), before);
        assert!(world.journals().is_empty());
    }
}

#[test]
fn a_failing_driver_is_named_with_its_return() {
    let world = World::new("1xH100-80GB");
    let fail = Failure { nvml: NvmlReturn::CORRUPTED_INFOROM, ..Failure::default() };
    world.faults.on("nvml.create_gpu_instance", 1, Fault::Fail(fail));
    let before = world.states();
    let error = world.node.apply(&parse(&mig(r#"{"1g": 1}"#)), &nothing()).unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        (ErrorCode::Driver, Outcome::RolledBack),
        "{error:?}"
    );
    let call = error.driver_call().unwrap();
    assert_eq!((call.nvml_return, call.name.as_str()), (14, "CORRUPTED_INFOROM"));
    assert!(error.to_string().contains("create GPU instance"), "{error}");
    assert_eq!(world.states(), before);
}

#[test]
fn without_a_driver_it_is_not_found() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("libnvidia-ml.so.1");
    let node = Node::builder().nvml_path(&missing).state_dir(directory.path()).open().unwrap();
    let error = node.snapshot().unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error:?}");
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}

#[test]
fn the_report_leads_back() {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(r#"{"3g.40gb": 1, "2g.20gb": 1}"#)).unwrap();
    let before = world.states();
    let report = world.apply(&spec("time_sliced", r#"{"replicas": 2}"#)).unwrap();
    let shipped = serde_json::to_string(&report).unwrap();
    let report: gpushare_core::Report = serde_json::from_str(&shipped).unwrap();
    world.node.apply(&report.previous, &nothing()).unwrap();
    assert_eq!(world.states()[0].gpu_instances, before[0].gpu_instances);
    let parameters = |states: &[gpushare_core::plan::state::GpuState]| {
        states[0].record.as_ref().map(|record| record.parameters.clone())
    };
    assert_eq!(parameters(&world.states()), parameters(&before));
}

#[test]
fn a_name_alone_protects_nobody() {
    let process = ProcessSpec::new("dcgmi").by(1000);
    let (world, _) = tenant(r#"{"7g": 1}"#, "7g.80gb", process);
    let report =
        world.node.apply(&parse(&mig(r#"{"1g": 7}"#)), &nothing().allow_evict(true)).unwrap();
    assert_eq!(report.evicted.len(), 1);
}

#[test]
fn drain_takes_the_way_that_a_leaving_tenant_opens() {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(r#"{"3g.40gb": 2}"#)).unwrap();
    let devices = world.snapshot().gpus[0].mig_devices.clone();
    let tenants: Vec<_> = devices
        .iter()
        .map(|device| world.simulator.busy(&device.uuid, ProcessSpec::new("serve")).unwrap())
        .collect();
    let target = parse(&mig(r#"{"3g.40gb": 1, "1g.10gb": 3}"#));
    let doomed = world.node.plan(&target).unwrap().needs.evict[0].holders[0].pid;
    let other = *tenants.iter().find(|pid| **pid != doomed).unwrap();
    let request = Request::Apply(target);
    let options = nothing().drain(Duration::from_secs(5));
    let report = world.node.apply_with(Source::Request(&request), &options, |event| {
        if let Event::Draining { .. } = event {
            // Not the one that the plan named: now nobody need go.
            let _ = world.simulator.idle(other);
        }
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().evicted.is_empty());
    assert!(world.simulator.processes().unwrap().iter().any(|process| process.pid == doomed));
}

#[test]
fn who_was_ended_is_named_when_it_fails_after_that() {
    let (world, pid) = tenant(r#"{"3g.40gb": 2}"#, "3g.40gb", ProcessSpec::new("serve"));
    world.faults.on("nvml.create_gpu_instance", 1, Fault::Fail(Failure::default()));
    let options = nothing().allow_evict(true);
    let error = world.node.apply(&parse(&mig(r#"{"7g": 1}"#)), &options).unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(error.evicted()[0].pid, pid);
    assert!(error.to_string().contains("serve"), "{error}");

    // The caller stops while a stubborn one is waited for: another is gone by then.
    let world = World::new("1xH100-80GB");
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    world.simulator.busy(&gpu, ProcessSpec::new("meek")).unwrap();
    world.simulator.busy(&gpu, ProcessSpec::new("stubborn").stubborn()).unwrap();
    let request = Request::Apply(parse(&mig(r#"{"7g": 1}"#)));
    let error = world.node.apply_with(Source::Request(&request), &options, |event| match event {
        Event::Draining { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let error = error.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Interrupted);
    assert_ne!(error.outcome(), Outcome::Untouched);
    assert!(error.evicted().iter().any(|holder| holder.command == "meek"), "{error:?}");
}

#[test]
fn the_driver_says_in_use_and_we_say_by_whom() {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(r#"{"3g.40gb": 2}"#)).unwrap();
    let request = Request::Apply(parse(&mig(r#"{"7g": 1}"#)));
    let mut late = None;
    let error = world.node.apply_with(Source::Request(&request), &nothing(), |event| {
        // Somebody comes between the look and the destroy.
        if let (Event::Step { number: 1, .. }, None) = (event, late) {
            let device = world.snapshot().gpus[0].mig_devices[0].uuid.clone();
            late = Some(world.simulator.busy(&device, ProcessSpec::new("late")).unwrap());
        }
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy, "{error:?}");
    assert_eq!(error.holders()[0].pid, late.unwrap());
}

#[test]
fn the_interval_of_before_comes_back_in_every_order() {
    use gpushare_core::mode::{Interval, Mode};
    let long = spec("time_sliced", r#"{"interval": "long"}"#);
    let steps: [&[&str]; 3] = [
        &[&spec("exclusive", ""), &long, &mig(r#"{"1g": 1}"#)],
        &[&long, &mig(r#"{"1g": 1}"#)],
        &[&long, &spec("exclusive", ""), &long, &mig("{}")],
    ];
    for specs in steps {
        let world = World::new("1xH100-80GB");
        let gpu = world.simulator.gpus().unwrap()[0].clone();
        let policy = world.node.ports().policy.clone();
        policy.set_interval(&gpu, Interval::Short).unwrap();
        for spec in specs {
            let plan = world.node.plan(&parse(spec)).unwrap();
            assert!(!plan.to_string().contains("not observed"), "{plan}");
            world.apply(spec).unwrap();
        }
        let leave = Request::Leave { mode: Mode::Mig, gpus: vec![gpu.clone()] };
        world
            .node
            .apply_with(Source::Request(&leave), &nothing(), |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(policy.interval(&gpu).unwrap(), Interval::Short, "{specs:?}");
    }
}

/// A client may come to a daemon between the look and its end: that would be an eviction too.
#[test]
fn who_may_not_stops_no_daemon_on_the_way_there() {
    let world = World::new("1xH100-80GB");
    let spec = |mode: &str| {
        parse(&format!(
            r#"{{"version": "gpushare/v1", "gpus": [{{"select": "all", "mode": {mode}}}]}}"#
        ))
    };
    world.simulator.act_as(1000).unwrap();
    let own = spec(r#""mps", "mps": {"compute_mode": "unchanged"}"#);
    let bypass = HazardName::BypassPossible;
    world.node.apply(&own, &nothing().allow_hazard(bypass)).unwrap();
    let exclusive = spec(r#""exclusive""#);
    let error = world.node.apply(&exclusive, &nothing().allow_evict(true)).unwrap_err();
    let said = (error.code(), error.outcome());
    assert_eq!(said, (ErrorCode::PermissionDenied, Outcome::Untouched), "{error:?}");
    assert!(world.node.plan(&own).unwrap().noop);
}
