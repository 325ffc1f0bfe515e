//! Hooks around a change: when they are called, and what their errors do.

use std::sync::{Arc, Mutex};

use gpushare_core::apply::{Hooks, Moment};
use gpushare_core::backend::sim::{Failure, Fault, ProcessSpec, Rules};
use gpushare_core::plan::Step;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Outcome, Spec};

use crate::scenario::{Scenario, World, entry, options, spec};

/// What was called, in order, by name and GPU.
type Calls = Arc<Mutex<Vec<String>>>;

/// Hooks that note each call and fail at these moments.
fn noting(failing: &'static [&'static str]) -> (Hooks, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let hooks = Hooks::new(move |moment, plan| {
        assert!(!plan.noop, "there is something to do");
        let gpu = match moment {
            Moment::PreMode(gpu) => format!(" {gpu}"),
            _ => String::new(),
        };
        noted.lock().unwrap().push(format!("{moment}{gpu}"));
        if failing.contains(&moment.as_str()) {
            return Err(Error::new(ErrorCode::Io, format!("{moment} says no")));
        }
        Ok(())
    });
    (hooks, calls)
}

fn take(calls: &Calls) -> Vec<String> {
    std::mem::take(&mut calls.lock().unwrap())
}

fn scenarios() -> Vec<Scenario> {
    let mig = |instances: &str| spec("mig", &format!(r#"{{"instances": {instances}}}"#));
    vec![
        Scenario::new("2xH100-80GB", spec("exclusive", ""), mig(r#"{"3g": 1, "1g": 2}"#)),
        Scenario::new(
            "2xH100-80GB",
            mig(r#"{"3g": 2}"#),
            spec("time_sliced", r#"{"replicas": 2}"#),
        ),
        Scenario::new("1xH100-80GB", mig(r#"{"3g": 2}"#), mig(r#"{"1g": 3}"#)),
        Scenario::new("1xA100-40GB", spec("exclusive", ""), mig(r#"{"7g": 1}"#))
            .rules(|rules: &mut Rules| rules.mode_change_stays_pending = true),
        Scenario::new(
            "1xH200-141GB",
            spec("exclusive", ""),
            spec("mps", r#"{"thread_percentage": 50}"#),
        ),
    ]
}

#[test]
fn each_apply_has_one_beginning_and_one_end_wherever_it_fails() {
    let mut ends = std::collections::BTreeMap::<String, usize>::new();
    for scenario in scenarios() {
        let world = scenario.start();
        let target: Spec = scenario.target();
        let plan = world.node.plan(&target).unwrap();
        let switches: Vec<_> = plan
            .changed()
            .filter(|gpu| {
                let changes = |step: &Step| {
                    matches!(
                        step,
                        Step::SetMigMode { .. } | Step::CallOffMigMode { .. } | Step::Reset { .. }
                    )
                };
                gpu.steps.iter().any(changes)
            })
            .map(|gpu| format!("pre-mode {}", gpu.uuid))
            .collect();
        let (hooks, calls) = noting(&[]);
        world.faults.revive();
        let report = world.node.apply(&target, &options().hooks(hooks.clone())).unwrap();
        assert_eq!(report.failed_hooks, [""; 0]);
        let made = world.faults.calls();
        let said = take(&calls);
        assert_eq!(
            (said.first().unwrap().as_str(), said.last().unwrap().as_str()),
            ("pre-apply", "post-apply")
        );
        assert_eq!(said[1..said.len() - 1], switches, "{scenario:?}");
        // Nothing to do is nothing to say.
        world.node.apply(&target, &options().hooks(hooks.clone())).unwrap();
        assert_eq!(take(&calls), [""; 0]);

        for call in &made {
            let world = scenario.start();
            let (hooks, calls) = noting(&[]);
            world.faults.at(call.number, Fault::Fail(Failure::default()));
            let result = world.node.apply(&target, &options().hooks(hooks));
            let said = take(&calls);
            let what =
                || format!("{result:?} after {said:?}, {} failing, in {scenario:?}", call.name);
            match said.first() {
                // It failed before there was a plan, and changed nothing.
                None => assert_eq!(
                    result.as_ref().unwrap_err().outcome(),
                    Outcome::Untouched,
                    "{}",
                    what()
                ),
                Some(first) => {
                    assert_eq!(first, "pre-apply", "{}", what());
                    let end = if result.is_ok() { "post-apply" } else { "failure" };
                    assert_eq!(said.last().unwrap(), end, "{}", what());
                    let middle = said.get(1..said.len() - 1).unwrap();
                    assert!(switches.starts_with(middle), "{}", what());
                    *ends.entry(end.to_owned()).or_default() += 1;
                }
            }
        }
    }
    assert!(ends["failure"] > 100 && ends["post-apply"] >= 5, "{ends:?}");
}

#[test]
fn a_hook_that_says_no_at_the_beginning_leaves_all_untouched() {
    for scenario in scenarios() {
        let world = scenario.start();
        let before = world.states();
        world.faults.revive();
        let (hooks, calls) = noting(&["pre-apply"]);
        let error = world.node.apply(&scenario.target(), &options().hooks(hooks)).unwrap_err();
        assert_eq!((error.code(), error.outcome()), (ErrorCode::Io, Outcome::Untouched), "{error}");
        assert!(error.to_string().contains("pre-apply says no"), "{error}");
        let changed: Vec<_> =
            world.faults.calls().into_iter().filter(|call| call.mutating).collect();
        assert!(changed.is_empty(), "{changed:?}");
        assert_eq!(world.states(), before);
        assert_eq!(take(&calls), ["pre-apply", "failure"]);
    }
}

#[test]
fn a_hook_that_says_no_before_a_mode_rolls_back() {
    // The second GPU's mode does not change, and the first one's is brought back.
    let world = World::new("2xH100-80GB");
    world.apply(&spec("exclusive", "")).unwrap();
    let before = world.states();
    let second = world.snapshot().gpus[1].uuid.clone();
    let failing = second.clone();
    let hooks = Hooks::new(move |moment, _| match moment {
        Moment::PreMode(gpu) if **gpu == failing => Err(Error::new(ErrorCode::Busy, "not now")),
        _ => Ok(()),
    });
    let target: Spec = spec("mig", r#"{"instances": {"1g": 7}}"#).parse().unwrap();
    let error = world.node.apply(&target, &options().hooks(hooks)).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Busy, Outcome::RolledBack), "{error}");
    assert_eq!(error.gpu(), Some(&second));
    assert_eq!(world.states(), before);
    assert!(world.node.recover().unwrap().recovered.is_empty());
}

#[test]
fn a_hook_that_fails_at_the_end_is_in_the_report_and_undoes_nothing() {
    let world = World::new("1xH100-80GB");
    let target: Spec = spec("mig", r#"{"instances": {"1g": 7}}"#).parse().unwrap();
    let (hooks, _) = noting(&["post-apply"]);
    let report = world.node.apply(&target, &options().hooks(hooks)).unwrap();
    assert_eq!(report.failed_hooks.len(), 1);
    assert!(report.to_string().contains("post-apply says no"), "{report}");
    assert!(world.node.plan(&target).unwrap().noop);
}

#[test]
fn what_a_hook_says_of_a_failure_is_added_to_it() {
    let world = World::new("1xH100-80GB");
    let (hooks, calls) = noting(&["pre-apply", "failure"]);
    let target: Spec = spec("exclusive", "").parse().unwrap();
    let error = world.node.apply(&target, &options().hooks(hooks)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("pre-apply says no") && text.contains("failure says no"), "{text}");
    assert_eq!(error.outcome(), Outcome::Untouched);
    assert_eq!(take(&calls), ["pre-apply", "failure"]);
}

#[test]
fn whom_a_hook_ends_is_in_the_way_no_more() {
    let world = World::new("1xH100-80GB");
    world.apply(&spec("mig", r#"{"instances": {"7g": 1}}"#)).unwrap();
    let device = world.snapshot().gpus[0].mig_devices[0].uuid.clone();
    let monitor = world.simulator.busy(&device, ProcessSpec::new("nv-hostengine")).unwrap();
    let target: Spec = spec("exclusive", "").parse().unwrap();
    // Nothing is allowed.
    let error = world.node.apply(&target, &ApplyOptions::new()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy, "{error}");
    let simulator = world.simulator.clone();
    let hooks = Hooks::new(move |moment, plan| {
        if matches!(moment, Moment::PreApply) {
            assert_eq!(plan.needs.evict.len(), 1, "the plan says who is there");
            simulator.idle(monitor)?;
        }
        Ok(())
    });
    // As a plan that was made before, too.
    let plan = world.node.plan(&target).unwrap();
    plan.apply(&world.node, ApplyOptions::new().hooks(hooks)).unwrap();
    assert!(world.node.plan(&target).unwrap().noop);
}

#[test]
fn somebody_who_changes_the_gpu_in_a_hook_makes_the_plan_stale() {
    let world = World::new("2xH100-80GB");
    let target: Spec = entry("0", "mig", r#"{"instances": {"3g": 1}}"#).parse().unwrap();
    let plan = world.node.plan(&target).unwrap();
    let simulator = world.simulator.clone();
    let gpu = world.snapshot().gpus[0].uuid.clone();
    let hooks = Hooks::new(move |moment, _| {
        if matches!(moment, Moment::PreApply) {
            let mut nvml = simulator.ports_in_memory().nvml.open().unwrap();
            nvml.set_mig_mode(&gpu, true).unwrap();
        }
        Ok(())
    });
    let error = plan.apply(&world.node, ApplyOptions::new().hooks(hooks)).unwrap_err();
    assert_eq!((error.code(), error.outcome()), (ErrorCode::Stale, Outcome::Untouched), "{error}");
}
