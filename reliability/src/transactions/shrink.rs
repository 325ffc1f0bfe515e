//! The shortest script that shows the same.

use gpushare_core::backend::sim::Rules;

use super::script::{After, Daemon, Goal, Script, Wanted};

/// Scripts that are simpler by one thing.
pub(super) fn simpler(script: &Script) -> Vec<Script> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut Script)| {
        let mut simpler = script.clone();
        change(&mut simpler);
        if simpler != *script {
            found.push(simpler);
        }
    };
    with(&|script| script.again = None);
    with(&|script| script.after = After::Nothing);
    with(&|script| script.tenant = None);
    with(&|script| script.rules = Rules::default());
    with(&|script| script.prior = false);
    with(&|script| script.pending = None);
    with(&|script| script.clients = 0);
    with(&|script| script.daemon = Daemon::Serves);
    with(&|script| script.from = Wanted::Nothing);
    if let Wanted::Placed(instances) = &script.from {
        for gone in 0..instances.len() {
            with(&|script| {
                if let Wanted::Placed(instances) = &mut script.from {
                    instances.remove(gone);
                }
            });
        }
    }
    if let Goal::Apply(Wanted::Counted(counts)) = &script.goal {
        for profile in counts.keys() {
            with(&|script| {
                if let Goal::Apply(Wanted::Counted(counts)) = &mut script.goal {
                    match counts.get_mut(profile) {
                        Some(count) if *count > 1 => *count -= 1,
                        _ => drop(counts.remove(profile)),
                    }
                }
            });
        }
    }
    if let Some(nth) = script.strike.as_ref().map(|strike| strike.nth) {
        for earlier in 1..nth {
            with(&|script| {
                if let Some(strike) = &mut script.strike {
                    strike.nth = earlier;
                }
            });
        }
    }
    found
}

/// The shortest that still shows it.
pub(super) fn shortest<T>(
    script: Script,
    found: T,
    shows: impl Fn(&Script) -> Option<T>,
) -> (Script, T) {
    let (mut script, mut found) = (script, found);
    while let Some((simpler, shown)) = simpler(&script)
        .into_iter()
        .find_map(|simpler| shows(&simpler).map(|shown| (simpler, shown)))
    {
        (script, found) = (simpler, shown);
    }
    (script, found)
}
