//! Which scripts there are.

use std::collections::{BTreeMap, BTreeSet};

use gpushare_core::backend::sim::{Rules, Simulator};
use gpushare_core::mig::Geometry;
use gpushare_core::mode::Mode;
use gpushare_core::{Node, Result};

use super::script::{After, Daemon, Goal, Script, Wanted};
use crate::dice::Dice;

/// The GPU whose scripts are walked through: four slots, MIG mode that outlives the machine's life.
const SMALL: &str = "1xA30-24GB";

/// The families of seven slices, with both ways of changing MIG mode.
const SEVEN: [&str; 2] = ["1xA100-40GB", "1xH100-80GB"];

impl Script {
    pub(super) fn new(fleet: &'static str, from: Wanted, to: Wanted) -> Self {
        Self {
            fleet,
            rules: Rules::default(),
            prior: false,
            from,
            pending: None,
            clients: 0,
            daemon: Daemon::Serves,
            tenant: None,
            consent: true,
            goal: Goal::Apply(to),
            strike: None,
            after: After::Nothing,
            again: None,
            planted: None,
        }
    }

    fn leaving(self, mode: Mode) -> Self {
        Self { goal: Goal::Leave(mode), ..self }
    }

    fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// Whoever is there has not said yes.
    fn against_their_will(self) -> Self {
        Self { consent: false, ..self }
    }

    /// Somebody works there, and has not said yes.
    fn tenant(self, number: usize) -> Self {
        Self { tenant: Some(number), consent: false, ..self }
    }
}

/// Layouts of placed plain profiles of a fleet's first GPU.
fn layouts(fleet: &str) -> Result<Vec<Vec<(String, u8)>>> {
    let simulator = Simulator::new(fleet.parse()?)?;
    let snapshot = Node::with_ports(simulator.ports_in_memory(), true).snapshot()?;
    let geometry = snapshot.gpus.first().and_then(|gpu| gpu.mig.as_ref()).map(|mig| &mig.geometry);
    Ok(geometry.map_or_else(Vec::new, layouts_of))
}

fn layouts_of(geometry: &Geometry) -> Vec<Vec<(String, u8)>> {
    let plain =
        geometry.profiles().iter().filter(|profile| !profile.name.to_string().contains(['+', '-']));
    let places: Vec<(String, u16, u8)> = plain
        .flat_map(|profile| {
            profile
                .placements
                .iter()
                .map(|place| (profile.name.to_string(), place.mask(), place.start))
        })
        .collect();
    let mut found = vec![(Vec::new(), 0u16)];
    for (name, mask, start) in &places {
        for (layout, taken) in found.clone() {
            if taken & mask == 0 {
                let mut larger = layout.clone();
                larger.push((name.clone(), *start));
                found.push((larger, taken | mask));
            }
        }
    }
    found.into_iter().map(|(layout, _)| layout).collect()
}

fn counted(layout: &[(String, u8)]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for (profile, _) in layout {
        *counts.entry(profile.clone()).or_default() += 1;
    }
    counts
}

fn modes() -> [Wanted; 5] {
    [
        Wanted::Nothing,
        Wanted::mode("exclusive"),
        Wanted::Mode("time_sliced", r#"{"replicas": 3, "interval": "long"}"#.to_owned()),
        Wanted::Mode("mps", r#"{"thread_percentage": 25, "max_clients": 4}"#.to_owned()),
        Wanted::Mode(
            "mps",
            r#"{"thread_percentage": 50, "pinned_memory_limit": "2GiB"}"#.to_owned(),
        ),
    ]
}

/// Every transition of a small GPU: from every layout and mode to every multiset and mode, nobody there, and
/// each instance in use by somebody who has not said yes.
pub(super) fn small() -> Result<Vec<Script>> {
    let layouts = layouts(SMALL)?;
    let multisets: BTreeSet<_> = layouts.iter().map(|layout| counted(layout)).collect();
    let from: Vec<_> = modes().into_iter().chain(layouts.into_iter().map(Wanted::Placed)).collect();
    let to: Vec<_> =
        modes().into_iter().skip(1).chain(multisets.into_iter().map(Wanted::Counted)).collect();
    let mut scripts = Vec::new();
    for from in &from {
        for to in to.iter().filter(|to| *to != from) {
            let script = Script::new(SMALL, from.clone(), to.clone());
            let places = match from {
                Wanted::Placed(layout) => layout.len(),
                _ => 1,
            };
            scripts.extend((0..places).map(|number| script.clone().tenant(number)));
            let script = Script { prior: *from == Wanted::Nothing, ..script };
            scripts.push(script.clone().clients(2));
            if matches!(from, Wanted::Mode("mps", _)) {
                scripts.push(script.clients(2).against_their_will());
            }
        }
    }
    Ok(scripts)
}

/// Every pair of the multisets of the seven-slice family, with one busy tenant somewhere, or nobody.
pub(super) fn pairs(seed: u64) -> Result<Vec<Script>> {
    let mut scripts = Vec::new();
    for fleet in SEVEN {
        let mut by_counts = BTreeMap::<_, Vec<_>>::new();
        for layout in layouts(fleet)? {
            by_counts.entry(counted(&layout)).or_default().push(layout);
        }
        for (from, layouts) in &by_counts {
            for to in by_counts.keys().filter(|to| *to != from) {
                let mut dice = Dice::stream(seed, scripts.len());
                let layout = dice.one_of(layouts).cloned().unwrap_or_default();
                let instances = layout.len();
                let script =
                    Script::new(fleet, Wanted::Placed(layout), Wanted::Counted(to.clone()));
                let script = match instances {
                    0 => script,
                    _ if dice.once_in(4) => script,
                    // Who is in the way is ended where that is allowed.
                    _ => {
                        Script { consent: dice.once_in(4), ..script.tenant(dice.below(instances)) }
                    }
                };
                scripts.push(Script { rules: rules(&mut dice), ..script });
            }
        }
    }
    Ok(scripts)
}

/// Modes, daemons, compute instances, resets that wait, several GPUs: what layouts alone do not show.
pub(super) fn others() -> Vec<Script> {
    let mut scripts = Vec::new();
    let modes = modes();
    let cut = Wanted::Mode("mig", r#"{"instances": {"1g": 2, "2g": 1}}"#.to_owned());
    let all: Vec<_> = modes.iter().chain([&cut]).collect();
    for from in &all {
        for to in all.iter().filter(|to| ***to != Wanted::Nothing && *to != from) {
            for fleet in ["1xH200-141GB", "1xA100-80GB", "1xV100"] {
                let mig = fleet != "1xV100";
                if mig || (**from != cut && **to != cut) {
                    let script = Script::new(fleet, (*from).clone(), (*to).clone());
                    let ended = Script { consent: true, ..script.clone().tenant(0) };
                    scripts.push(Script { prior: **from == Wanted::Nothing, ..script });
                    if !matches!(from, Wanted::Mode("mps", _)) {
                        scripts.push(ended);
                    }
                }
            }
        }
    }
    scripts.extend(daemons());
    scripts.extend(daemons_of_mig_devices());
    scripts.extend(compute_instances());
    scripts.extend(resets());
    scripts.extend(several());
    scripts
}

fn daemons() -> Vec<Script> {
    let mps = |block: &str| Wanted::Mode("mps", block.to_owned());
    let small = mps(r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB"}"#);
    let large = mps(
        r#"{"thread_percentage": 50, "pinned_memory_limit": "1536MiB", "priority": "below_normal"}"#,
    );
    let for_others = mps(r#"{"thread_percentage": 25, "access": {"group": "ml"}}"#);
    let unchanged = mps(r#"{"thread_percentage": 25, "compute_mode": "unchanged"}"#);
    let few = mps(r#"{"thread_percentage": 25, "pinned_memory_limit": "2GiB", "max_clients": 3}"#);
    let sliced = Wanted::mode("time_sliced");
    let cut = Wanted::Mode("mig", r#"{"instances": {"1g": 2}}"#.to_owned());
    let h200 = |from: &Wanted, to: &Wanted| Script::new("1xH200-141GB", from.clone(), to.clone());
    let mut scripts = Vec::new();
    for clients in [0, 2] {
        for (from, to) in [
            (&small, &large),
            (&large, &small),
            (&small, &for_others),
            (&small, &few),
            (&unchanged, &small),
            (&for_others, &unchanged),
            (&small, &sliced),
            (&large, &Wanted::mode("exclusive")),
            (&small, &cut),
        ] {
            let script = h200(from, to).clients(clients);
            scripts.push(script.clone());
            if clients > 0 {
                scripts.push(script.against_their_will());
            }
        }
        for from in [&small, &unchanged] {
            let script = h200(from, &sliced).clients(clients).leaving(Mode::Mps);
            scripts.push(Script { prior: true, ..script.clone() });
            scripts.push(script);
        }
    }
    for daemon in [Daemon::Frozen, Daemon::Killed] {
        let script = |to: &Wanted| Script { daemon, ..h200(&small, to).clients(1) };
        scripts.extend([&small, &large, &for_others, &sliced].map(script));
        scripts.push(script(&sliced).leaving(Mode::Mps));
    }
    scripts
}

fn instances(list: &str) -> Wanted {
    Wanted::Mode("mig", format!(r#"{{"instances": [{list}]}}"#))
}

fn daemons_of_mig_devices() -> Vec<Script> {
    let mps = r#""mps": {"thread_percentage": 50}"#;
    let layouts = [
        instances(r#"{"profile": "3g", "start": 4}, {"profile": "2g"}"#),
        instances(&format!(r#"{{"profile": "3g", "start": 4, {mps}}}, {{"profile": "2g"}}"#)),
        instances(&format!(
            r#"{{"profile": "3g", "start": 4, "mps": {{"thread_percentage": 25, "pinned_memory_limit": "4GiB"}}}}, {{"profile": "2g", {mps}}}"#
        )),
        instances(&format!(r#"{{"profile": "4g", {mps}}}"#)),
    ];
    let mut scripts = Vec::new();
    for (number, from) in layouts.iter().enumerate() {
        for to in layouts.iter().filter(|to| *to != from) {
            let script = Script::new("1xA100-40GB", from.clone(), to.clone()).clients(number % 2);
            if script.clients > 0 {
                scripts.push(script.clone().against_their_will());
            }
            scripts.push(script);
        }
        let off = Script::new("1xH100-80GB", from.clone(), Wanted::mode("exclusive")).clients(1);
        let left = off.clone().leaving(Mode::Mig);
        scripts.extend([Script { prior: true, ..left.clone() }, left, off]);
    }
    scripts
}

fn compute_instances() -> Vec<Script> {
    let layouts = [
        instances(
            r#"{"profile": "3g", "start": 4, "compute": ["1c", "2c"]}, {"profile": "2g", "compute": ["1c", "1c"]}"#,
        ),
        instances(r#"{"profile": "3g", "start": 4}, {"profile": "2g"}"#),
        instances(r#"{"profile": "7g", "compute": ["3c", "1c", "2c"]}"#),
        instances(
            r#"{"profile": "4g", "compute": ["2c", "2c"]}, {"profile": "3g", "compute": ["1c", "1c", "1c"]}"#,
        ),
    ];
    let mut scripts = Vec::new();
    for from in &layouts {
        for to in layouts.iter().filter(|to| *to != from) {
            let script = Script::new("1xA100-40GB", from.clone(), to.clone());
            scripts.extend([script.clone().tenant(0), script.clone().tenant(1), script]);
        }
    }
    scripts
}

fn resets() -> Vec<Script> {
    let empty = Wanted::Placed(Vec::new());
    let cut = Wanted::Mode("mig", r#"{"instances": {"1g": 2, "2g": 1}}"#.to_owned());
    let small = Wanted::Mode("mig", r#"{"instances": {"1g": 3}}"#.to_owned());
    let mut scripts = Vec::new();
    for fleet in ["1xA100-80GB", SMALL] {
        for stays_pending in [false, true] {
            for (from, enable) in
                [(&Wanted::mode("exclusive"), true), (&cut, false), (&empty, false)]
            {
                for to in [Wanted::mode("time_sliced"), small.clone()] {
                    let script = Script::new(fleet, from.clone(), to);
                    let mut script = Script { pending: Some(enable), ..script };
                    script.rules.mode_change_stays_pending = stays_pending;
                    scripts.push(script);
                }
            }
        }
    }
    scripts
}

fn several() -> Vec<Script> {
    let to = Wanted::Spec(
        r#"{"version": "gpushare/v1", "gpus": [
        {"select": 0, "mode": "mig", "mig": {"instances": {"3g": 2}}},
        {"select": 1, "mode": "exclusive"},
        {"select": 2, "mode": "mps", "mps": {"thread_percentage": 50}}]}"#,
    );
    let sliced = Wanted::Mode("time_sliced", r#"{"replicas": 2}"#.to_owned());
    let three = Wanted::Mode("mig", r#"{"instances": {"1g": 3}}"#.to_owned());
    let four = Wanted::Mode("mig", r#"{"instances": {"1g": 3, "3g": 1}}"#.to_owned());
    let nobody = [("3xH100-80GB", sliced), ("3xH100-80GB", three), ("3xA100-40GB", four)];
    nobody.into_iter().map(|(fleet, from)| Script::new(fleet, from, to.clone())).collect()
}

/// Each switch of RULES.md in the other position, one at a time.
pub(super) fn turned() -> Vec<Rules> {
    let turns: [fn(&mut Rules); 14] = [
        |rules| rules.same_uuid ^= true,
        |rules| rules.id_follows_start ^= true,
        |rules| rules.insufficient_at_create = Some(1),
        |rules| rules.insufficient_at_create = Some(2),
        |rules| rules.in_use_at_destroy = Some(1),
        |rules| rules.in_use_at_destroy = Some(2),
        |rules| rules.mode_change_stays_pending ^= true,
        |rules| rules.disable_removes_instances ^= true,
        |rules| rules.reset_clears_compute_mode ^= true,
        |rules| rules.minor_follows_mig ^= true,
        |rules| rules.interval_on_volta ^= true,
        |rules| rules.mps_able ^= true,
        |rules| rules.interval_able ^= true,
        |rules| rules.reset_able ^= true,
    ];
    turns
        .map(|turn| {
            let mut rules = Rules::default();
            turn(&mut rules);
            rules
        })
        .to_vec()
}

/// Any combination of the switches that every script can begin with.
fn rules(dice: &mut Dice) -> Rules {
    let mut rules = Rules::default();
    rules.same_uuid = dice.once_in(2);
    rules.id_follows_start = dice.once_in(2);
    rules.minor_follows_mig = dice.once_in(2);
    rules.disable_removes_instances = dice.once_in(2);
    rules.reset_clears_compute_mode = dice.once_in(2);
    if dice.once_in(8) {
        rules.insufficient_at_create = Some(1 + u32::from(dice.once_in(2)));
    }
    if dice.once_in(8) {
        rules.in_use_at_destroy = Some(1 + u32::from(dice.once_in(2)));
    }
    rules
}
