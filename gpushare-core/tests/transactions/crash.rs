//! The crash matrix: transitions × calls × faults.

use gpushare_core::Outcome;
use gpushare_core::backend::sim::{Death, Failure, Fault};
use gpushare_core::mode::Mode;
use gpushare_core::plan::state::{GpuState, MpsState};

use crate::scenario::{Daemon, Scenario, counted, layouts, placed, spec};

/// Whether two states of a node are the same, apart from what nothing brings back: a pending change
/// that was called off, and an MPS daemon that served nobody.
fn same(a: &[GpuState], b: &[GpuState]) -> bool {
    let called_off = |state: &GpuState| {
        let mut state = state.clone();
        if let Some(mig) = &mut state.mig {
            mig.pending = mig.enabled;
        }
        state
    };
    let cleared = |state: &GpuState| match state.mps {
        Some(MpsState::Unready) => state.clone().with_mps(None, None),
        _ => state.clone(),
    };
    let same = |a: &GpuState, b: &GpuState| {
        a.matches(b) || a.matches(&called_off(b)) || a.matches(&cleared(b))
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// Lets each call fail once and be the last of its process once. Returns how many runs it took.
fn torment(scenario: &Scenario) -> usize {
    // Without faults: the old state, the new one, and the calls on the way.
    let world = scenario.start();
    let target = scenario.request(&world);
    let old = world.states();
    world.faults.revive();
    let report = world.request(&target);
    let calls = world.faults.calls();
    report.unwrap_or_else(|error| panic!("{error:?} without a fault: {scenario:?}"));
    let new = world.states();
    assert!(
        world.node.plan_request(&target).unwrap().noop,
        "a second apply would do something: {scenario:?}"
    );

    let mut runs = 0;
    for call in &calls {
        let mut faults = vec![Fault::Fail(Failure::default()), Fault::Die(Death::After)];
        if call.mutating {
            faults.push(Fault::FailAfter(Failure::default()));
            faults.push(Fault::Die(Death::Before));
        }
        if call.name == "store.append" {
            faults.push(Fault::Die(Death::Torn(40)));
        }
        for fault in faults {
            runs += 1;
            let what =
                || format!("{} (call {}), {fault:?}, in {scenario:?}", call.name, call.number);
            let world = scenario.start();
            world.faults.at(call.number, fault);
            let result = world.request(&target);
            let died = world.faults.is_dead();
            world.faults.revive();
            match &result {
                Ok(_) if !died => {
                    assert!(same(&world.states(), &new), "said done, and it is not: {}", what())
                }
                Err(error) if !died && error.outcome() != Outcome::Indeterminate => {
                    assert!(
                        same(&world.states(), &old),
                        "said {}: {error:?}: {}",
                        error.outcome(),
                        what()
                    );
                    assert!(
                        world.journals().is_empty(),
                        "a journal is left: {error:?}: {}",
                        what()
                    );
                }
                _ => {}
            }
            let recovered = world.node.recover();
            if let Err(error) = recovered {
                panic!("recover: {error:?} after {result:?}: {}", what());
            }
            let states = world.states();
            assert!(
                same(&states, &old) || same(&states, &new),
                "a third state: {}\nold {old:#?}\nnew {new:#?}\nfound {states:#?}",
                what()
            );
            assert!(world.journals().is_empty(), "recover left a journal: {}", what());
            if runs % 7 == 0 {
                world
                    .request(&target)
                    .unwrap_or_else(|error| panic!("apply after all: {error:?}: {}", what()));
                assert!(same(&world.states(), &new), "{}", what());
            }
        }
    }
    runs
}

fn torment_all(scenarios: Vec<Scenario>) -> usize {
    let half = scenarios.len().div_ceil(2);
    std::thread::scope(|scope| {
        let threads: Vec<_> = scenarios
            .chunks(half.max(1))
            .map(|part| scope.spawn(|| part.iter().map(torment).sum::<usize>()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum()
    })
}

#[test]
fn layouts_are_old_or_new() {
    let world = Scenario::new("1xH100-80GB", spec("exclusive", ""), "").start();
    let snapshot = world.snapshot();
    let all = layouts(&snapshot.gpus[0].mig.as_ref().unwrap().geometry);
    assert_eq!(all.len(), 723);
    // A prime stride goes through layouts of every kind.
    let scenarios: Vec<Scenario> = (0..200)
        .map(|n| (&all[1 + n * 101 % 722], &all[(n * 211 + 17) % 723]))
        .filter(|(from, to)| counted(from) != counted(to))
        .enumerate()
        .map(|(n, (from, to))| {
            Scenario::new("1xH100-80GB", placed(from), counted(to))
                .rules(|rules| rules.same_uuid = n % 2 == 0)
        })
        .collect();
    assert!(scenarios.len() >= 190, "{}", scenarios.len());
    let runs = torment_all(scenarios);
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn modes_are_old_or_new() {
    let modes = [
        spec("exclusive", ""),
        spec("time_sliced", r#"{"replicas": 3, "interval": "long"}"#),
        spec("mps", r#"{"thread_percentage": 25, "max_clients": 4}"#),
        spec("mig", r#"{"instances": {"1g": 2, "2g": 1}}"#),
    ];
    let mut scenarios = Vec::new();
    for from in &modes {
        for to in &modes {
            if from == to {
                continue;
            }
            scenarios.push(Scenario::new("1xH200-141GB", from, to));
            scenarios.push(Scenario::new("1xA100-80GB", from, to));
            scenarios.push(
                Scenario::new("1xA30-24GB", from, to)
                    .rules(|rules| rules.mode_change_stays_pending = true),
            );
        }
    }
    let runs = torment_all(scenarios);
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn mps_daemons_are_old_or_new() {
    let mps = |block: &str| spec("mps", block);
    let small = mps(r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB"}"#);
    let large = mps(
        r#"{"thread_percentage": 50, "pinned_memory_limit": "1536MiB", "priority": "below_normal"}"#,
    );
    let for_others = mps(r#"{"thread_percentage": 25, "access": {"group": "ml"}}"#);
    let unchanged = mps(r#"{"thread_percentage": 25, "compute_mode": "unchanged"}"#);
    let few = mps(r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB", "max_clients": 3}"#);
    let sliced = spec("time_sliced", "");
    let mut scenarios = Vec::new();
    let h200 = |from: &String, to: &String| Scenario::new("1xH200-141GB", from, to);
    for clients in [0, 2] {
        for (from, to) in [
            (&small, &large),
            (&large, &small),
            (&small, &for_others),
            (&small, &few),
            (&unchanged, &small),
            (&for_others, &unchanged),
            (&small, &sliced),
            (&large, &spec("exclusive", "")),
            (&small, &spec("mig", r#"{"instances": {"1g": 2}}"#)),
        ] {
            scenarios.push(h200(from, to).clients(clients));
        }
        for from in [&small, &unchanged] {
            scenarios.push(h200(from, &sliced).clients(clients).leaving(Mode::Mps));
        }
    }
    for daemon in [Daemon::Frozen, Daemon::Killed] {
        for to in [&small, &large, &for_others, &sliced] {
            scenarios.push(h200(&small, to).clients(1).daemon(daemon));
        }
        scenarios.push(h200(&small, &sliced).clients(1).daemon(daemon).leaving(Mode::Mps));
    }
    let runs = torment_all(scenarios);
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn mps_daemons_of_mig_devices_are_old_or_new() {
    let list = |text: &str| spec("mig", &format!(r#"{{"instances": [{text}]}}"#));
    let mps = r#""mps": {"thread_percentage": 50}"#;
    let layouts = [
        list(r#"{"profile": "3g", "start": 4}, {"profile": "2g"}"#),
        list(&format!(r#"{{"profile": "3g", "start": 4, {mps}}}, {{"profile": "2g"}}"#)),
        list(&format!(
            r#"{{"profile": "3g", "start": 4, "mps": {{"thread_percentage": 25, "pinned_memory_limit": "4GiB"}}}}, {{"profile": "2g", {mps}}}"#
        )),
        list(&format!(r#"{{"profile": "4g", {mps}}}"#)),
    ];
    let mut scenarios = Vec::new();
    for (number, from) in layouts.iter().enumerate() {
        for to in layouts.iter().filter(|to| *to != from) {
            scenarios.push(Scenario::new("1xA100-40GB", from, to).clients(number % 2));
        }
        scenarios.push(Scenario::new("1xH100-80GB", from, spec("exclusive", "")).clients(1));
        scenarios.push(Scenario::new("1xH100-80GB", from, "").clients(1).leaving(Mode::Mig));
    }
    let runs = torment_all(scenarios);
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn several_gpus_are_old_or_new_together() {
    let to = r#"{"version": "gpushare/v1", "gpus": [
        {"select": 0, "mode": "mig", "mig": {"instances": {"3g": 2}}},
        {"select": 1, "mode": "exclusive"},
        {"select": 2, "mode": "mps", "mps": {"thread_percentage": 50}}]}"#;
    let scenarios = vec![
        Scenario::new("3xH100-80GB", spec("time_sliced", r#"{"replicas": 2}"#), to),
        Scenario::new("3xH100-80GB", spec("mig", r#"{"instances": {"1g": 3}}"#), to),
        Scenario::new("3xA100-40GB", spec("mig", r#"{"instances": {"1g": 3, "3g": 1}}"#), to),
    ];
    torment_all(scenarios);
}

#[test]
fn compute_instances_are_old_or_new() {
    let list = |text: &str| spec("mig", &format!(r#"{{"instances": [{text}]}}"#));
    let layouts = [
        list(
            r#"{"profile": "3g", "start": 4, "compute": ["1c", "2c"]}, {"profile": "2g", "compute": ["1c", "1c"]}"#,
        ),
        list(r#"{"profile": "3g", "start": 4}, {"profile": "2g"}"#),
        list(r#"{"profile": "7g", "compute": ["3c", "1c", "2c"]}"#),
        list(
            r#"{"profile": "4g", "compute": ["2c", "2c"]}, {"profile": "3g", "compute": ["1c", "1c", "1c"]}"#,
        ),
    ];
    let mut scenarios = Vec::new();
    for from in &layouts {
        for to in layouts.iter().filter(|to| *to != from) {
            scenarios.push(Scenario::new("1xA100-40GB", from, to));
        }
    }
    torment_all(scenarios);
}

#[test]
fn a_gpu_that_waits_for_a_reset_gets_there_or_stays() {
    let empty = spec("mig", r#"{"instances": {}}"#);
    let cut = spec("mig", r#"{"instances": {"1g": 2, "2g": 1}}"#);
    let mut scenarios = Vec::new();
    for fleet in ["1xA100-80GB", "1xA30-24GB"] {
        for stays_pending in [false, true] {
            for (from, enable) in [(&spec("exclusive", ""), true), (&cut, false), (&empty, false)] {
                let small = spec("mig", r#"{"instances": {"1g": 3}}"#);
                for to in [spec("time_sliced", ""), small] {
                    let mut scenario = Scenario::new(fleet, from, to);
                    scenario.pending = Some(enable);
                    scenarios.push(
                        scenario.rules(|rules| rules.mode_change_stays_pending = stays_pending),
                    );
                }
            }
        }
    }
    torment_all(scenarios);
}

/// Who recovers may die too, and whoever recovers after that.
#[test]
fn recovery_may_die_as_often_as_it_likes() {
    let scenarios = [
        Scenario::new(
            "1xH100-80GB",
            spec("mig", r#"{"instances": {"3g": 1, "2g": 1}}"#),
            spec("mig", r#"{"instances": {"3g": 1, "1g": 4}}"#),
        ),
        Scenario::new(
            "1xA100-80GB",
            spec("exclusive", ""),
            spec("mig", r#"{"instances": {"3g": 1}}"#),
        )
        .rules(|rules| rules.mode_change_stays_pending = true),
        Scenario::new(
            "1xH200-141GB",
            spec("mps", r#"{"thread_percentage": 25}"#),
            spec("mps", r#"{"thread_percentage": 50, "access": "any"}"#),
        )
        .clients(1),
        Scenario::new("1xH200-141GB", spec("mps", "{}"), "").clients(1).leaving(Mode::Mps),
    ];
    for scenario in &scenarios {
        let world = scenario.start();
        let old = world.states();
        world.faults.revive();
        let target = scenario.request(&world);
        world.request(&target).unwrap();
        let calls = world.faults.calls();
        let new = world.states();
        for call in calls.iter().filter(|call| call.mutating) {
            for second in 1.. {
                let world = scenario.start();
                world.faults.at(call.number, Fault::Die(Death::After));
                let _ = world.request(&target);
                world.faults.revive();
                world.faults.at(second, Fault::Die(Death::After));
                let _ = world.node.recover();
                let died = world.faults.is_dead();
                world.faults.revive();
                let what = format!("{} then call {second} of recovery, {scenario:?}", call.name);
                world.node.recover().unwrap_or_else(|error| panic!("{error:?}: {what}"));
                let states = world.states();
                assert!(same(&states, &old) || same(&states, &new), "a third state: {what}");
                assert!(world.journals().is_empty(), "{what}");
                if !died {
                    break;
                }
            }
        }
    }
}
