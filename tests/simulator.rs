//! The simulator does what every NVML port does, in memory and in a file, with every rule that has
//! no source in either position.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use gpushare_core::backend::sim::{Rules, Simulator};
use gpushare_tests::conformance::{self, Case};

/// The default rules, and each switch that a case may meet turned over.
fn every_rule() -> Vec<Rules> {
    let turned: [fn(&mut Rules); 7] = [
        |_| (),
        |rules| rules.same_uuid = !rules.same_uuid,
        |rules| rules.id_follows_start = !rules.id_follows_start,
        |rules| rules.mode_change_stays_pending = !rules.mode_change_stays_pending,
        |rules| rules.disable_removes_instances = !rules.disable_removes_instances,
        |rules| rules.minor_follows_mig = !rules.minor_follows_mig,
        |rules| rules.latency_ms = 1,
    ];
    turned
        .iter()
        .map(|turn| {
            let mut rules = Rules::default();
            turn(&mut rules);
            rules
        })
        .collect()
}

fn try_it(case: &Case, simulator: &Simulator, rules: Rules) {
    // A panic names its thread, and so the case and the rules.
    let name = format!("{} with {rules:?}", case.name);
    simulator.set_rules(rules).unwrap();
    let (run, control) = (case.run, simulator.clone());
    let tried = std::thread::Builder::new().name(name).spawn(move || {
        run(&mut control.open().unwrap(), &control);
    });
    tried.unwrap().join().unwrap();
}

#[test]
fn in_memory() {
    for case in conformance::all() {
        for rules in every_rule() {
            let simulator = Simulator::new(case.fleet.parse().unwrap()).unwrap();
            try_it(&case, &simulator, rules);
        }
    }
}

#[test]
fn in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for case in conformance::all() {
        let path = folder.path().join(case.name);
        let simulator = Simulator::in_file(&path, case.fleet.parse().unwrap()).unwrap();
        try_it(&case, &simulator, Rules::default());
    }
}
