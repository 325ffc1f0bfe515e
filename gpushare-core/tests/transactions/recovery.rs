//! Recovery, and where a person has to decide.

use gpushare_core::apply::report::{ReportOutcome, Settled};
use gpushare_core::backend::sim::{Death, Failure, Fault, ProcessSpec};
use gpushare_core::port::NvmlReturn;
use gpushare_core::{ApplyOptions, ErrorCode, Outcome, Spec};

use crate::scenario::{Scenario, World, options, spec};

fn mig(instances: &str) -> String {
    spec("mig", &format!(r#"{{"instances": {instances}}}"#))
}

/// A node whose applier died at a call of that name, on the way from one layout to another.
fn died(call: &str, nth: usize) -> World {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(r#"{"3g.40gb": 1, "2g.20gb": 1}"#)).unwrap();
    world.faults.on(call, nth, Fault::Die(Death::After));
    let target: Spec = mig(r#"{"3g.40gb": 1, "1g.10gb": 4}"#).parse().unwrap();
    let error = world.node.apply(&target, &options()).unwrap_err();
    assert!(world.faults.is_dead(), "{error:?}");
    world.faults.revive();
    assert_eq!(world.journals().len(), 1);
    assert!(world.snapshot().gpus[0].unsettled.is_some());
    world
}

#[test]
fn recover_says_what_it_did() {
    let world = died("nvml.create_compute_instance", 2);
    let report = world.node.recover().unwrap();
    assert_eq!(report.outcome, ReportOutcome::Recovered);
    assert_eq!(report.recovered[0].settled, Settled::RolledBack);
    assert_eq!(world.node.recover().unwrap().outcome, ReportOutcome::Unchanged);
}

#[test]
fn apply_recovers_first() {
    let world = died("nvml.create_compute_instance", 2);
    let target: Spec = mig(r#"{"7g": 1}"#).parse().unwrap();
    let report = world.node.apply(&target, &ApplyOptions::new()).unwrap();
    assert_eq!(report.recovered.len(), 1);
    assert!(world.node.plan(&target).unwrap().noop);
}

#[test]
fn uuids_that_changed_are_reported() {
    let world = died("nvml.create_gpu_instance", 4);
    let report = world.node.recover().unwrap();
    let new = &world.snapshot().gpus[0].mig_devices;
    for device in &report.recreated {
        assert!(new.iter().any(|there| there.uuid == device.new));
        assert!(!new.iter().any(|there| there.uuid == device.old));
    }
    assert!(!report.recreated.is_empty());
}

#[test]
fn what_is_in_use_since_is_not_touched() {
    let world = died("nvml.create_compute_instance", 1);
    let snapshot = world.snapshot();
    let created =
        snapshot.gpus[0].mig_devices.iter().find(|d| d.profile.to_string() == "1g.10gb").unwrap();
    let pid = world.simulator.busy(&created.uuid, ProcessSpec::new("quick")).unwrap();
    let before = world.states();
    for attempt in
        [world.node.recover().unwrap_err(), world.apply(&mig(r#"{"7g": 1}"#)).unwrap_err()]
    {
        assert_eq!(attempt.code(), ErrorCode::RecoveryRequired, "{attempt:?}");
        assert_eq!(attempt.holders()[0].pid, pid);
        assert!(attempt.to_string().contains("quick"), "{attempt}");
    }
    assert_eq!(world.states(), before);
    world.simulator.idle(pid).unwrap();
    world.node.recover().unwrap();
    assert!(world.journals().is_empty());
}

#[test]
fn what_others_changed_since_is_not_touched() {
    let world = died("nvml.create_compute_instance", 1);
    let snapshot = world.snapshot();
    let gpu = &snapshot.gpus[0];
    let kept =
        gpu.mig.as_ref().unwrap().gpu_instances.iter().find(|gi| gi.name.slices == 3).unwrap();
    let mut nvml = world.node.ports().nvml.open().unwrap();
    nvml.destroy_compute_instance(&gpu.uuid, kept.id, kept.compute_instances[0].id).unwrap();
    let before = world.states();
    let error = world.node.recover().unwrap_err();
    assert_eq!(error.code(), ErrorCode::RecoveryRequired);
    assert!(error.to_string().contains("--discard"), "{error}");
    assert_eq!(world.states(), before);

    let place = world.node.discard(&world.journals()[0]).unwrap();
    assert!(place.contains("discarded"), "{place}");
    world.apply(&mig(r#"{"7g": 1}"#)).unwrap();
}

#[test]
fn a_reboot_makes_it_void() {
    for reload in [false, true] {
        let world = died("nvml.create_compute_instance", 1);
        if reload {
            world.simulator.reload().unwrap()
        } else {
            world.simulator.reboot().unwrap()
        }
        let report = world.node.recover().unwrap();
        assert_eq!(report.recovered[0].settled, Settled::Void);
        assert!(world.journals().is_empty());
    }
}

#[test]
fn a_journal_that_is_none_is_refused_with_a_way_out() {
    let whole = {
        let world = died("nvml.create_compute_instance", 2);
        let name = world.journals()[0].clone();
        world.node.ports().store.read(&format!("journal/{name}")).unwrap().unwrap()
    };
    let text = String::from_utf8(whole.clone()).unwrap();
    let header = text.split_inclusive('\n').next().unwrap().len();
    let mut flipped = whole.clone();
    flipped[header + 20] ^= 1;
    let foreign = b"{\"something\": \"else\"}\n".to_vec();
    let spoiled = [whole[..header / 2].to_vec(), Vec::new(), flipped, foreign, vec![0xff; 64]];
    for content in spoiled {
        let world = World::new("1xH100-80GB");
        let store = world.node.ports().store.clone();
        store.replace("journal/1.jsonl", &content).unwrap();
        for error in
            [world.node.recover().unwrap_err(), world.apply(&mig(r#"{"7g": 1}"#)).unwrap_err()]
        {
            assert_eq!(
                (error.code(), error.outcome()),
                (ErrorCode::RecoveryRequired, Outcome::Untouched)
            );
            assert!(error.to_string().contains("recover --discard 1.jsonl"), "{error}");
        }
        // Who only looks is not held up.
        world.snapshot();
        world.node.discard("1.jsonl").unwrap();
        world.apply(&mig(r#"{"7g": 1}"#)).unwrap();
    }
    for name in ["", "..", "../../etc/passwd", ".hidden", "nothing.jsonl"] {
        let world = World::new("1xH100-80GB");
        assert_eq!(world.node.discard(name).unwrap_err().code(), ErrorCode::NotFound, "{name}");
    }
}

#[test]
fn a_line_that_was_cut_off_never_counted() {
    let world = died("nvml.create_compute_instance", 2);
    let name = format!("journal/{}", world.journals()[0]);
    let store = world.node.ports().store.clone();
    store.append(&name, b"0123456789abcdef {\"begin\":[0,").unwrap();
    assert_eq!(world.node.recover().unwrap().recovered[0].settled, Settled::RolledBack);
}

/// The sectors of a line reach the disk in any order, and the power fails in between.
#[test]
fn a_last_line_that_is_partly_zeros_never_counted() {
    for (last, follows, good) in [
        (&b"\0\0\0\0def {\"begin\":[0,2]}\n"[..], &b""[..], true),
        (b"0123456789abcdef {\"beg\0\0\0\0\0\0\0\0", b"", true),
        (b"\0\0\0\0", b"", true),
        // What follows was written when this was on disk.
        (b"\0\0\0\0def {\"begin\":[0,2]}\n", b"0123456789abcdef {\"begin\":[0,", false),
        (b"0123456789abcdef {\"begin\":[0,2]}\n", b"", false),
    ] {
        let world = died("nvml.create_compute_instance", 2);
        let name = format!("journal/{}", world.journals()[0]);
        let store = world.node.ports().store.clone();
        store.append(&name, &[last, follows].concat()).unwrap();
        match world.node.recover() {
            Ok(report) => assert!(good && report.recovered[0].settled == Settled::RolledBack),
            Err(error) => {
                assert!(!good && error.code() == ErrorCode::RecoveryRequired, "{error:?}");
            }
        }
    }
}

#[test]
fn where_back_is_barred_it_goes_forward() {
    let world = died("nvml.destroy_gpu_instance", 1);
    // The destroyed instance cannot be created again at once.
    let mut rules = world.simulator.rules().unwrap();
    rules.insufficient_at_create = Some(1);
    world.simulator.set_rules(rules).unwrap();
    let report = world.node.recover().unwrap();
    assert_eq!(report.recovered[0].settled, Settled::Finished);
    assert!(
        world.node.plan(&mig(r#"{"3g.40gb": 1, "1g.10gb": 4}"#).parse().unwrap()).unwrap().noop
    );
}

#[test]
fn mig_mode_that_outlives_a_reboot_is_set_back() {
    for fleet in ["1xA100-80GB", "1xA30-24GB"] {
        let world = World::new(fleet);
        world.apply(&spec("exclusive", "")).unwrap();
        world.faults.on("nvml.create_gpu_instance", 1, Fault::Die(Death::After));
        let target: Spec = mig(r#"{"1g": 2}"#).parse().unwrap();
        world.node.apply(&target, &options()).unwrap_err();
        world.faults.revive();
        world.simulator.reboot().unwrap();
        assert!(world.snapshot().gpus[0].mig.as_ref().unwrap().enabled);
        let report = world.node.recover().unwrap();
        assert_eq!(report.recovered[0].settled, Settled::Void);
        assert!(!world.snapshot().gpus[0].mig.as_ref().unwrap().enabled, "{fleet}");
    }
}

#[test]
fn mig_mode_that_a_reboot_turned_off_is_not_turned_on_again() {
    for (fleet, after) in [("1xA30-24GB", true), ("1xH100-80GB", false)] {
        for reload in [false, true] {
            let world = World::new(fleet);
            world.apply(&mig(r#"{"1g": 2}"#)).unwrap();
            world.faults.on("nvml.set_mig_mode", 1, Fault::Die(Death::After));
            world.apply(&spec("exclusive", "")).unwrap_err();
            world.faults.revive();
            if reload {
                world.simulator.reload().unwrap();
            } else {
                world.simulator.reboot().unwrap();
            }
            let report = world.node.recover().unwrap();
            assert_eq!(report.recovered[0].settled, Settled::Void);
            // As a node is after a boot whose change had not begun.
            assert_eq!(world.snapshot().gpus[0].mig.as_ref().unwrap().enabled, after, "{fleet}");
        }
    }
}

/// Two GPUs in one change, of which the second one's step fails while the first is lost.
#[test]
fn a_lost_gpu_does_not_keep_its_neighbour_from_going_back() {
    use gpushare_core::backend::sim::Loss;
    let world = World::new("2xH100-80GB");
    world.apply(&mig(r#"{"3g.40gb": 1, "2g.20gb": 1}"#)).unwrap();
    let before = world.states();
    let request = gpushare_core::plan::Request::Apply(
        mig(r#"{"3g.40gb": 1, "1g.10gb": 4}"#).parse().unwrap(),
    );
    let plan = world.node.plan_request(&request).unwrap();
    let (first, second) = (plan.gpus[0].uuid.clone(), plan.gpus[1].uuid.clone());
    let steps = plan.gpus[0].steps.len();
    let result = world.node.apply_with(
        gpushare_core::apply::Source::Request(&request),
        &options(),
        |event| match event {
            gpushare_core::Event::Step { number, .. } if *number == steps + 3 => {
                world.simulator.lose(&first, Loss::Lost).unwrap();
                std::ops::ControlFlow::Break(())
            }
            _ => std::ops::ControlFlow::Continue(()),
        },
    );
    assert_eq!(result.unwrap_err().outcome(), Outcome::Indeterminate);
    let position = world.snapshot().gpus.iter().position(|gpu| gpu.uuid == second).unwrap();
    assert!(world.states()[position].matches(&before[position]), "the healthy GPU is not back");
    let error = world.node.recover().unwrap_err();
    assert_eq!(error.code(), ErrorCode::RecoveryRequired);
    assert!(error.to_string().contains("does not answer"), "{error}");
    // The healthy one is free for other changes.
    world.apply(&crate::scenario::entry(&format!("\"{second}\""), "exclusive", "")).unwrap();
}

#[test]
fn a_journal_that_cannot_be_settled_does_not_bar_the_others() {
    use gpushare_core::backend::sim::Loss;
    let world = World::new("2xH100-80GB");
    for gpu in ["0", "1"] {
        world
            .apply(&crate::scenario::entry(gpu, "mig", r#"{"instances": {"3g": 1, "2g": 1}}"#))
            .unwrap();
        world.faults.on("nvml.create_compute_instance", 1, Fault::Die(Death::After));
        let target = crate::scenario::entry(gpu, "mig", r#"{"instances": {"3g": 1, "1g": 4}}"#);
        world.apply(&target).unwrap_err();
        world.faults.revive();
    }
    assert_eq!(world.journals().len(), 2);
    let gpu = world.simulator.gpus().unwrap()[0].clone();
    world.simulator.lose(&gpu, Loss::Lost).unwrap();
    let error = world.node.recover().unwrap_err();
    assert_eq!(error.code(), ErrorCode::RecoveryRequired);
    assert_ne!(error.outcome(), Outcome::Untouched, "one of them was settled: {error:?}");
    assert_eq!(world.journals().len(), 1);
}

#[test]
fn clients_of_a_half_made_daemon_are_not_ended_by_recovery() {
    use gpushare_core::backend::sim::ProcessKind;
    let world = World::new("2xH100-80GB");
    world.faults.on("mps.admit", 1, Fault::Die(Death::After));
    world.apply(&spec("mps", "{}")).unwrap_err();
    world.faults.revive();
    let served = world
        .snapshot()
        .gpus
        .iter()
        .position(|gpu| gpu.mps.is_some() || gpu.mode == gpushare_core::mode::SharingMode::Mps);
    let gpus = world.simulator.gpus().unwrap();
    // The daemon has no record yet, so only the simulator knows whom it serves.
    let pid = gpus.iter().find_map(|gpu| {
        world.simulator.busy(gpu, ProcessSpec::new("client").doing(ProcessKind::MpsClient)).ok()
    });
    let pid = pid.unwrap_or_else(|| panic!("nobody is served: {served:?}"));
    let error = world.node.recover().unwrap_err();
    assert_eq!(error.code(), ErrorCode::RecoveryRequired, "{error:?}");
    assert_eq!(error.holders()[0].pid, pid);
    world.simulator.idle(pid).unwrap();
    world.node.recover().unwrap();
}

#[test]
fn what_another_tool_put_in_our_place_is_not_destroyed_by_a_live_rollback() {
    let world = World::new("1xH100-80GB");
    world.apply(&mig(r#"{"3g.40gb": 1, "2g.20gb": 1}"#)).unwrap();
    let request = gpushare_core::plan::Request::Apply(
        mig(r#"{"3g.40gb": 1, "1g.10gb": 4}"#).parse().unwrap(),
    );
    let mut theirs = None;
    let result = world.node.apply_with(
        gpushare_core::apply::Source::Request(&request),
        &options(),
        |event| {
            let gpushare_core::Event::Step { number: 5, .. } = event else {
                return std::ops::ControlFlow::Continue(());
            };
            let snapshot = world.snapshot();
            let gpu = &snapshot.gpus[0];
            let gi = gpu
                .mig
                .as_ref()
                .unwrap()
                .gpu_instances
                .iter()
                .find(|gi| gi.name.slices == 1 && !gi.compute_instances.is_empty());
            let gi = gi.unwrap();
            let ci = &gi.compute_instances[0];
            let mut nvml = world.node.ports().nvml.open().unwrap();
            nvml.destroy_compute_instance(&gpu.uuid, gi.id, ci.id).unwrap();
            theirs = Some(
                nvml.create_compute_instance(&gpu.uuid, gi.id, ci.profile, None).unwrap().uuid,
            );
            std::ops::ControlFlow::Break(())
        },
    );
    let error = result.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate, "{error:?}");
    let theirs = theirs.unwrap();
    assert!(world.snapshot().gpus[0].mig_devices.iter().any(|device| device.uuid == theirs));
}

#[test]
fn the_way_back_gives_a_gpu_that_nobody_managed_its_shares() {
    let modes = [
        spec("exclusive", ""),
        spec("time_sliced", r#"{"replicas": 4}"#),
        spec("time_sliced", ""),
        spec("mps", r#"{"thread_percentage": 25, "max_clients": 3}"#),
        spec("mig", r#"{"instances": {"1g": 2}}"#),
    ];
    for mode in modes {
        let world = World::new("1xH100-80GB");
        let seen = |world: &World| {
            let gpu = &world.snapshot().gpus[0];
            let shares: Vec<_> = gpu.shares.iter().map(|share| share.id.clone()).collect();
            (gpu.mode, gpu.compute_mode, shares)
        };
        // Only that somebody manages it now is new.
        let hardware = |world: &World| {
            let mut states = world.states();
            states.iter_mut().for_each(|state| state.record = None);
            states
        };
        let (before, state) = (seen(&world), hardware(&world));
        let report = world.apply(&mode).unwrap();
        assert_eq!(report.not_in_previous, [""; 0]);
        assert_ne!(seen(&world), before, "{mode}");
        world.node.apply(&report.previous, &options()).unwrap();
        assert_eq!(seen(&world), before, "{mode}");
        assert_eq!(hardware(&world), state, "{mode}");
    }
}

/// A rollback over a reset calls off a change of MIG mode that had waited; where it stops after that, the next
/// recovery goes on from there.
#[test]
fn a_rollback_that_called_off_a_pending_change_is_gone_on_with() {
    let mut scenario = Scenario::new("1xA100-80GB", spec("exclusive", ""), mig(r#"{"1g": 3}"#))
        .rules(|rules| rules.insufficient_at_create = Some(1));
    scenario.pending = Some(true);
    let world = scenario.start();
    let refused = Failure { nvml: NvmlReturn::NOT_FOUND, ..Failure::default() };
    world.faults.on("nvml.set_compute_mode", 2, Fault::Fail(refused));
    let error = world.node.apply(&scenario.target(), &options()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate, "{error:?}");
    let report = world.node.recover().unwrap();
    assert_eq!(report.recovered[0].settled, Settled::RolledBack);
    assert_eq!(world.snapshot().gpus[0].mode.to_string(), "exclusive");
    assert!(world.journals().is_empty());
}

/// Where undoing a change of MIG mode stops before the reset that it needs, and the way on is taken, that change is
/// called off first.
#[test]
fn the_way_on_leaves_no_change_of_mig_mode_that_waits() {
    let scenario = Scenario::new("1xA100-80GB", spec("exclusive", ""), mig(r#"{"1g": 3}"#))
        .rules(|rules| rules.mode_change_stays_pending = true);
    let world = scenario.start();
    world.faults.on("nvml.create_gpu_instance", 1, Fault::Die(Death::Before));
    world.node.apply(&scenario.target(), &options()).unwrap_err();
    world.faults.revive();
    world.faults.on("reset.reset", 1, Fault::Fail(Failure::default()));
    let report = world.node.recover().unwrap();
    assert_eq!(world.faults.pending(), 0);
    assert_eq!(report.recovered[0].settled, Settled::Finished);
    assert!(world.node.plan(&scenario.target()).unwrap().noop);
    assert!(world.journals().is_empty());
}

/// One GPU that could not be rolled back with the others is not left in the new state because it is there.
#[test]
fn a_gpu_follows_the_others_back() {
    let to = r#"{"version": "gpushare/v1", "gpus": [
        {"select": 0, "mode": "mig", "mig": {"instances": {"3g": 2}}}, {"select": 1, "mode": "exclusive"}]}"#;
    let from = spec("time_sliced", r#"{"replicas": 2}"#);
    let mut stuck = 0;
    for call in 1..12 {
        let scenario = Scenario::new("2xH100-80GB", &*from, to)
            .rules(|rules| rules.insufficient_at_create = Some(2));
        let world = scenario.start();
        let before = world.states();
        world.faults.on("store.replace", call, Fault::Fail(Failure::default()));
        let error = world.node.apply(&scenario.target(), &options()).unwrap_err();
        stuck += usize::from(error.outcome() == Outcome::Indeterminate);
        world.faults.clear();
        world.node.recover().unwrap();
        assert_eq!(world.states(), before, "call {call}: {error:?}");
    }
    assert!(stuck > 0);
}

/// The way on makes again what the way back had taken away, under another uuid; a death before that is noted makes
/// nobody else's of it.
#[test]
fn what_the_way_on_made_is_known() {
    for nth in 1..=2 {
        let scenario = Scenario::new(
            "1xA30-24GB",
            spec("time_sliced", r#"{"interval": "long"}"#),
            mig(r#"{"1g.6gb": 1}"#),
        )
        .rules(|rules| (rules.same_uuid, rules.in_use_at_destroy) = (false, Some(2)));
        let world = scenario.start();
        world.faults.on("policy.set_interval", 1, Fault::Die(Death::After));
        world.node.apply(&scenario.target(), &options()).unwrap_err();
        world.faults.revive();
        world.faults.on("nvml.create_compute_instance", nth, Fault::Die(Death::After));
        drop(world.node.recover());
        world.faults.revive();
        let report = world.node.recover().unwrap();
        assert!(report.recovered.len() <= 1);
        assert!(world.journals().is_empty());
    }
}
