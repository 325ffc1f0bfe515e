//! Power loss in the midst of recovery: after a power loss, or after a kill.

use super::disk::Disk;
use super::record::Happened;
use super::replay::{booted, put};
use super::trace::NoRecord;
use super::walk::{Moment, Pace, Walk};
use super::{Figures, Options, Record, follow};
use crate::dice::Dice;

/// Why it was not looked at to the end.
#[derive(Debug)]
pub(super) enum Ended {
    Broken(String),
    Failed(String),
}

/// Lets the change end after one change of hardware in so many, and the power fail at every moment of the recovery.
pub(super) fn walk(
    walk: &Walk<'_>,
    record: &Record,
    program: &std::path::Path,
    options: &Options,
    dice: &mut Dice,
) -> Result<Figures, Ended> {
    let mut ends = Vec::new();
    let mut number = 0;
    let collected = walk.each(record, Moment::first(), |moment| {
        if matches!(moment.happened, Happened::Hardware(_)) && moment.returned > 0 {
            if number % options.recoveries.max(1) == 0 {
                ends.push(moment.clone());
            }
            number += 1;
        }
        Ok(())
    });
    collected.map_err(Ended::Failed)?;
    let mut figures = Figures::default();
    for end in ends {
        // Killed: what was not synced is there, and can still be lost. And after a power loss, the most of it.
        let losses = end.disk.losses(options.states, dice).all;
        let lost = losses.last().map(|loss| (Disk::of(&loss.tree), true));
        for (disk, reboots) in [Some((end.disk.clone(), false)), lost].into_iter().flatten() {
            let place = walk.place;
            let failed = |error: std::io::Error| Ended::Failed(error.to_string());
            put(place, &disk.now(), &end.hardware).map_err(failed)?;
            let hardware =
                if reboots { booted(place).map_err(Ended::Failed)? } else { end.hardware.clone() };
            place.command(&["recover"]).map_err(failed)?;
            let recovery = follow(program, place, disk.clone()).map_err(|no| match no {
                NoRecord::NotHere(why) | NoRecord::Failed(why) => Ended::Failed(format!(
                    "recovery after call {}, {}: {why}",
                    end.number,
                    if reboots { "power lost" } else { "killed" }
                )),
            })?;
            let pace = Pace { states: options.states, from: 0 };
            let first = end.recovering(disk, hardware);
            let one = walk.walk(&recovery, first, pace, dice).map_err(|why| {
                let how = if reboots { "power loss" } else { "kill" };
                Ended::Broken(format!("after a {how} after call {}:\n{why}", end.number))
            })?;
            figures.recoveries += 1;
            figures.add(&one);
        }
    }
    Ok(figures)
}
