//! Power loss: what was not synced is lost, and recovery finds the old state or the new one.
//!
//! `gpushare` changes a simulated node while each of its calls of the kernel is recorded. After each of them the
//! power fails: a model of a disk says what may be left. With each of that the machine starts again, with the
//! hardware as it was but for what a boot takes away, and recovers. What is there then is held against what is
//! promised:
//!
//! - recovery succeeds, by itself, and no journal is left;
//! - all GPUs are as the old state is after a boot, or all as the new one is; the new one if the change had returned;
//! - no journal is lost, or settled, while hardware that outlives the boot is halfway;
//! - records, notes, stored specs and CDI specifications are whole: old or new; and after recovery each CDI
//!   specification says what the GPU is then, and is one that gpushare knows of;
//! - the audit and the counts have every line that was written when the next change of hardware began.

mod again;
mod child;
mod disk;
mod record;
mod registers;
mod replay;
mod scenario;
mod trace;
mod walk;

use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use crate::dice::Dice;
use again::Ended;
use disk::{Disk, Operation};
use record::{Happened, Record};
use scenario::{Place, Scenario, scenarios};
use trace::{NoRecord, Watched};
use walk::{Moment, Pace, Walk, describe};

pub use child::child;

/// What is left out of the record, to see whether it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Directories are never synced.
    DirectorySyncs,
    /// Files are never synced.
    FileSyncs,
    /// One sync after the other is left out, each alone.
    Each,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is sampled follows from it.
    pub seed: u64,
    /// The most states for one moment; of more, a sample.
    pub states: usize,
    /// Only the scenario of that name.
    pub only: Option<String>,
    /// What is left out of the record.
    pub without: Option<Without>,
    /// After one change of hardware in so many the change ends, and the power fails while it is recovered from;
    /// 0 is never.
    pub recoveries: usize,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Scenarios.
    pub scenarios: usize,
    /// Commands that changed something.
    pub commands: usize,
    /// Calls that changed or synced the disk, or changed the hardware: after each the power failed.
    pub moments: usize,
    /// What the power losses could leave, all moments together.
    pub possible: u64,
    /// Moments of which only a sample was looked at.
    pub sampled: usize,
    /// States of disk and hardware from which a machine started and recovered.
    pub started: usize,
    /// States from which a process recovered whose forerunner was killed.
    pub killed: usize,
    /// Recoveries during which the power failed, too.
    pub recoveries: usize,
    /// Syncs that were left out, each alone, and missed.
    pub missed: usize,
    /// Syncs that were left out, each alone, and not missed.
    pub not_missed: Vec<String>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands in {} scenarios; {} moments, {} of them sampled; {} ways to lose what was not synced; {} different states recovered from after a power loss, {} after a kill; of the moments those of {} recoveries",
            self.commands,
            self.scenarios,
            self.moments,
            self.sampled,
            self.possible,
            self.started,
            self.killed,
            self.recoveries
        )?;
        if self.missed > 0 || !self.not_missed.is_empty() {
            let (missed, not) = (self.missed, self.not_missed.len());
            write!(
                f,
                "\n{} syncs left out, each alone: {missed} missed, {not} not:",
                missed + not
            )?;
            self.not_missed.iter().try_for_each(|sync| write!(f, "\n  {sync}"))?;
        }
        Ok(())
    }
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.scenarios += other.scenarios;
        self.commands += other.commands;
        self.moments += other.moments;
        self.possible = self.possible.saturating_add(other.possible);
        self.sampled += other.sampled;
        self.started += other.started;
        self.killed += other.killed;
        self.recoveries += other.recoveries;
        self.missed += other.missed;
        self.not_missed.extend(other.not_missed.iter().cloned());
    }
}

/// Why there are no figures.
#[derive(Clone, Debug)]
pub enum Stopped {
    /// Processes cannot be followed here: nothing was looked at.
    NotHere(String),
    /// A promise was broken: the seed and the shortest script that shows it.
    Broken(String),
    /// Something else went wrong.
    Failed(String),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere(why) => write!(f, "not looked at: {why}"),
            Self::Broken(why) => write!(f, "VIOLATION: {why}"),
            Self::Failed(why) => write!(f, "it could not be found out: {why}"),
        }
    }
}

/// Looks at every scenario. `program` is this command: it is started as the process that is followed.
///
/// # Errors
/// The first promise of a scenario that is broken, of the first scenario; what else keeps it from an answer.
pub fn check(program: &Path, options: &Options) -> Result<Figures, Stopped> {
    let wanted =
        |scenario: &Scenario| options.only.as_deref().is_none_or(|only| only == scenario.name);
    let todo: Vec<Scenario> = scenarios().into_iter().filter(wanted).collect();
    if todo.is_empty() {
        let names: Vec<_> = scenarios().iter().map(|scenario| scenario.name).collect();
        return Err(Stopped::Failed(format!("the scenarios are {}", names.join(", "))));
    }
    let next = Mutex::new(todo.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(todo.len()) {
            scope.spawn(|| {
                loop {
                    let one = next.lock().ok().and_then(|mut next| next.next());
                    let Some((number, scenario)) = one else { return };
                    let result = one_scenario(program, scenario, number, options);
                    if let Ok(mut results) = results.lock() {
                        results.push((number, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(number, _)| *number);
    let mut figures = Figures::default();
    for (_, result) in results {
        figures.add(&result?);
    }
    if figures.scenarios < todo.len() {
        return Err(Stopped::Failed("a scenario has no result".to_owned()));
    }
    Ok(figures)
}

fn one_scenario(
    program: &Path,
    scenario: &Scenario,
    number: usize,
    options: &Options,
) -> Result<Figures, Stopped> {
    let failed = |what: &str| {
        let what = format!("{}: {what}", scenario.name);
        move |why: String| Stopped::Failed(format!("{what}: {why}"))
    };
    // In memory, where it can be: it is written to some thousand times.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.map_err(|error| failed("a place")(error.to_string()))?;
    let root =
        folder.path().canonicalize().map_err(|error| failed("a place")(error.to_string()))?;
    let place = Place { root, fleet: scenario.fleet };
    let record = match recorded(program, scenario, &place) {
        Ok(record) => record,
        Err(NoRecord::NotHere(why)) => return Err(Stopped::NotHere(why)),
        Err(NoRecord::Failed(why)) => return Err(failed("the record")(why)),
    };
    let walk = Walk::of(&place, scenario, &record).map_err(failed("the states to expect"))?;
    let mut dice = Dice::stream(options.seed, number);
    let broken = |why: String| {
        let seed = options.seed;
        Stopped::Broken(format!(
            "seed {seed}, scenario {}, {}\n{why}",
            scenario.name, scenario.fleet
        ))
    };
    let whole = Pace { states: options.states, from: 0 };
    let mut figures =
        Figures { scenarios: 1, commands: scenario.commands.len(), ..Figures::default() };
    let record = match options.without {
        None => record,
        Some(Without::DirectorySyncs) => {
            record.without(|done| matches!(done, Operation::SyncDirectory(_)))
        }
        Some(Without::FileSyncs) => record.without(|done| matches!(done, Operation::SyncFile(_))),
        Some(Without::Each) => {
            without_each(&walk, &record, whole, &mut dice, &mut figures);
            return Ok(figures);
        }
    };
    figures.add(&walk.walk(&record, Moment::first(), whole, &mut dice).map_err(broken)?);
    if options.recoveries > 0 {
        let again = again::walk(&walk, &record, program, options, &mut dice);
        figures.add(&again.map_err(|ended| match ended {
            Ended::Broken(why) => broken(why),
            Ended::Failed(why) => failed("recovery")(why),
        })?);
    }
    Ok(figures)
}

/// Leaves out each sync alone.
fn without_each(
    walk: &Walk<'_>,
    record: &Record,
    pace: Pace,
    dice: &mut Dice,
    figures: &mut Figures,
) {
    for (number, happened) in record.happened.iter().enumerate() {
        let Happened::Disk(Operation::SyncDirectory(id) | Operation::SyncFile(id)) = happened
        else {
            continue;
        };
        let mut without = record.clone();
        without.happened.remove(number);
        match walk.walk(&without, Moment::first(), Pace { from: number, ..pace }, dice) {
            Err(_) => figures.missed += 1,
            Ok(_) => {
                let before = number.checked_sub(1).and_then(|before| record.happened.get(before));
                let before = before.map(describe).unwrap_or_default();
                let (what, name) = (describe(happened), walk.scenario.name);
                figures
                    .not_missed
                    .push(format!("{name}: call {number}, {what} (number {id}), after {before}"));
            }
        }
    }
}

fn recorded(program: &Path, scenario: &Scenario, place: &Place) -> Result<Record, NoRecord> {
    place.prepare(&scenario.commands).map_err(|error| error.to_string())?;
    follow(program, place, Disk::new())
}

/// Runs the commands that were prepared, with what is on the disk, and records them.
fn follow(program: &Path, place: &Place, disk: Disk) -> Result<Record, NoRecord> {
    let errors = place.root.join("errors");
    let mut command = std::process::Command::new(program);
    command.arg("power-child").arg(&place.root).env_clear();
    command.stderr(std::fs::File::create(&errors).map_err(|error| error.to_string())?);
    let watched = Watched {
        disk: &place.disk(),
        volatile: &place.volatile(),
        hardware: &place.hardware(),
        marks: &place.marks(),
    };
    trace::record(&mut command, &watched, disk).map_err(|no| match no {
        NoRecord::Failed(why) => {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            NoRecord::Failed(format!("{why}\n{said}"))
        }
        no => no,
    })
}
