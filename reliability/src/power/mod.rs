//! Power loss: what was not synced is lost, and recovery finds the old state or the new one.
//!
//! `gpushare` changes a simulated node while each of its calls of the kernel is recorded. After each of them the
//! power fails: a model of a disk says what may be left. With each of that the machine starts again, with the
//! hardware as it was but for what a boot takes away, and recovers. What is there then is held against what is
//! promised:
//!
//! - recovery succeeds, by itself, and no journal is left;
//! - all GPUs are as the old state is after a boot, or all as the new one is; the new one if the change had returned;
//! - no journal is lost while hardware that outlives the boot is halfway;
//! - records, notes, stored specs and CDI specifications are whole: old or new; and after recovery each CDI
//!   specification says what the GPU is then, and is one that gpushare knows of;
//! - the audit and the counts have every line that was written when the next change of hardware began.

mod child;
mod disk;
mod record;
mod registers;
mod replay;
mod scenario;
mod trace;

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Mutex;

use gpushare_core::plan::state::GpuState;

use crate::dice::Dice;
use disk::{Disk, Loss, Operation, Tree};
use record::{Happened, Record};
use replay::{look, recover};
use scenario::{Place, Scenario, scenarios};
use trace::{NoRecord, Watched};

pub use child::child;

/// What is left out of the record, to see whether it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Directories are never synced.
    DirectorySyncs,
    /// Files are never synced.
    FileSyncs,
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
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands in {} scenarios; {} moments, {} of them sampled; {} ways to lose what was not synced; {} different states recovered from after a power loss, {} after a kill",
            self.commands,
            self.scenarios,
            self.moments,
            self.sampled,
            self.possible,
            self.started,
            self.killed
        )
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
    let moments = Moments::of(&place, scenario, &record).map_err(failed("the states to expect"))?;
    let record = match options.without {
        None => record,
        Some(Without::DirectorySyncs) => {
            record.without(|done| matches!(done, Operation::SyncDirectory(_)))
        }
        Some(Without::FileSyncs) => record.without(|done| matches!(done, Operation::SyncFile(_))),
    };
    let mut dice = Dice::stream(options.seed, number);
    moments.walk(&record, options.states, &mut dice).map_err(|why| {
        let seed = options.seed;
        Stopped::Broken(format!(
            "seed {seed}, scenario {}, {}\n{why}",
            scenario.name, scenario.fleet
        ))
    })
}

fn recorded(program: &Path, scenario: &Scenario, place: &Place) -> Result<Record, NoRecord> {
    let failed = |error: std::io::Error| error.to_string();
    place.prepare(&scenario.commands).map_err(failed)?;
    let errors = place.root.join("errors");
    let mut command = std::process::Command::new(program);
    command.arg("power-child").arg(&place.root).env_clear();
    command.stderr(std::fs::File::create(&errors).map_err(failed)?);
    let watched = Watched {
        disk: &place.disk(),
        volatile: &place.volatile(),
        hardware: &place.hardware(),
        marks: &place.marks(),
    };
    trace::record(&mut command, &watched).map_err(|no| match no {
        NoRecord::Failed(why) => {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            NoRecord::Failed(format!("{why}\n{said}"))
        }
        no => no,
    })
}

/// What a machine is when a command has returned.
#[derive(Clone, Debug)]
struct Settled {
    tree: Tree,
    /// As it is.
    states: Vec<GpuState>,
    /// After a boot.
    booted: Vec<GpuState>,
}

struct Moments<'a> {
    place: &'a Place,
    scenario: &'a Scenario,
    settled: Vec<Settled>,
}

/// One moment of a record.
struct Now<'a> {
    hardware: &'a [u8],
    old: &'a Settled,
    new: &'a Settled,
    /// What is appended to, as it was when the next change was about to begin.
    promised: &'a Tree,
}

impl<'a> Moments<'a> {
    /// Finds out what is to be expected: nothing is lost, and the power fails only between commands.
    fn of(place: &'a Place, scenario: &'a Scenario, record: &Record) -> Result<Self, String> {
        let (mut disk, mut hardware, mut settled) = (Disk::new(), &[][..], Vec::new());
        for happened in &record.happened {
            match happened {
                Happened::Disk(operation) => disk.perform(operation),
                Happened::Hardware(state) => hardware = state,
                Happened::Returned => {
                    let tree = disk.now();
                    let states = look(place, &tree, hardware)?;
                    let booted = recover(place, &tree, hardware, true)?;
                    settled.push(Settled { tree, states, booted });
                }
            }
        }
        if settled.len() != scenario.commands.len() + 1 {
            return Err(format!("{} commands returned", settled.len()));
        }
        Ok(Self { place, scenario, settled })
    }

    /// Lets the power fail at every moment.
    fn walk(&self, record: &Record, limit: usize, dice: &mut Dice) -> Result<Figures, String> {
        let mut figures =
            Figures { scenarios: 1, commands: self.scenario.commands.len(), ..Figures::default() };
        let (mut disk, mut hardware, mut returned) = (Disk::new(), &[][..], 0_usize);
        let mut promised = Tree::new();
        let mut seen = HashSet::new();
        for (number, happened) in record.happened.iter().enumerate() {
            match happened {
                Happened::Disk(operation) => disk.perform(operation),
                Happened::Hardware(state) => {
                    hardware = state;
                    promised = self.appended(disk.now());
                }
                Happened::Returned => {
                    returned += 1;
                    promised = self.appended(disk.now());
                }
            }
            let Some(old) = returned.checked_sub(1).and_then(|old| self.settled.get(old)) else {
                continue;
            };
            let now = Now {
                hardware,
                old,
                new: self.settled.get(returned).unwrap_or(old),
                promised: &promised,
            };
            let mut is_new = |tree: &Tree, reboots: bool| {
                let mut hasher = DefaultHasher::new();
                (tree, hardware, returned, &promised, reboots).hash(&mut hasher);
                seen.insert(hasher.finish())
            };
            let broken = |how: &str, what: &[String], why: String| {
                let command = self.scenario.commands.get(returned - 1);
                let command = command.map_or("the end".to_owned(), scenario::Command::name);
                let last = describe(happened);
                let what: String = what.iter().map(|what| format!("\n  {what}")).collect();
                format!("during {command}\n{how} after call {number}, {last}{what}\n  {why}")
            };
            figures.moments += 1;
            let tree = disk.now();
            if is_new(&tree, false) {
                figures.killed += 1;
                self.killed(&tree, &now).map_err(|why| broken("killed", &[], why))?;
            }
            let losses = disk.losses(limit, dice);
            figures.possible = figures.possible.saturating_add(losses.of);
            figures.sampled += usize::from(losses.sampled);
            for Loss { tree, what } in losses.all {
                if is_new(&tree, true) {
                    figures.started += 1;
                    self.lost(&tree, &now).map_err(|why| broken("power lost", &what, why))?;
                }
            }
        }
        Ok(figures)
    }

    /// The process was killed, and nothing is lost.
    fn killed(&self, tree: &Tree, now: &Now<'_>) -> Result<(), String> {
        let after = recover(self.place, tree, now.hardware, false)?;
        if same(&after, &now.old.states) || same(&after, &now.new.states) {
            return Ok(());
        }
        Err(neither(&after, &now.old.states, &now.new.states))
    }

    /// The machine lost power.
    fn lost(&self, tree: &Tree, now: &Now<'_>) -> Result<(), String> {
        let Now { old, new, .. } = now;
        self.expect_whole(tree, now)?;
        for (path, promised) in now.promised {
            let promised = promised.as_deref().unwrap_or_default();
            let there = tree.get(path).and_then(Option::as_deref).unwrap_or_default();
            if !there.starts_with(promised) {
                let (there, promised) = (there.len(), promised.len());
                return Err(format!(
                    "{path} has lost what was durable: {there} bytes of {promised}"
                ));
            }
        }
        let after = recover(self.place, tree, now.hardware, true)?;
        let (is_old, is_new) = (same(&after, &old.booted), same(&after, &new.booted));
        if !is_old && !is_new {
            return Err(neither(&after, &old.booted, &new.booted));
        }
        let journal = self.below("journal/");
        let no_journal = !tree.keys().any(|path| is_in(path, &journal));
        let records = self.below("records/");
        let of = |tree: &Tree| {
            let ours = tree.iter().filter(|(path, _)| is_in(path, &records));
            ours.map(|(path, content)| (path.clone(), content.clone())).collect::<Tree>()
        };
        if no_journal && !is_old && of(tree) != of(&new.tree) {
            return Err("the journal is lost while the change is halfway: the hardware is as the new state is after a boot, and the records are not".to_owned());
        }
        Ok(())
    }

    /// What is replaced as a whole is old or new.
    fn expect_whole(&self, tree: &Tree, now: &Now<'_>) -> Result<(), String> {
        let folders = [
            self.below("records/"),
            self.below("cdi/"),
            "state/etc/".to_owned(),
            "cdi/".to_owned(),
        ];
        let all = tree.keys().chain(now.old.tree.keys()).chain(now.new.tree.keys());
        let files = all.filter(|path| {
            let file = [".json", ".yaml"].iter().any(|end| path.ends_with(end));
            file && folders.iter().any(|folder| path.starts_with(folder)) && !hidden(path)
        });
        for path in files {
            let (there, old, new) =
                (tree.get(path), now.old.tree.get(path), now.new.tree.get(path));
            // Specifications are taken away while a GPU changes.
            let withdrawn = there.is_none() && path.starts_with("cdi/");
            if there != old && there != new && !withdrawn {
                let how = match there.and_then(Option::as_ref) {
                    Some(there) => format!("{} bytes that are neither", there.len()),
                    None => "missing".to_owned(),
                };
                return Err(format!("{path} is neither the old file nor the new one: {how}"));
            }
        }
        Ok(())
    }

    /// What is appended to and promised to be durable then.
    fn appended(&self, tree: Tree) -> Tree {
        let (audit, counts) = (self.below("audit.jsonl"), self.below("transitions/"));
        let ours = |path: &str| path == audit || path.starts_with(&counts);
        tree.into_iter().filter(|(path, _)| ours(path)).collect()
    }

    /// The path of what is durable of ours.
    fn below(&self, name: &str) -> String {
        format!("state/lib/sim-{}/{name}", self.scenario.fleet)
    }
}

fn same(a: &[GpuState], b: &[GpuState]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.matches(b))
}

fn neither(found: &[GpuState], old: &[GpuState], new: &[GpuState]) -> String {
    format!(
        "the GPUs are neither in the old state nor in the new one\n  found {found:?}\n  old {old:?}\n  new {new:?}"
    )
}

/// Names that begin with a dot are being written.
fn hidden(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with('.'))
}

fn is_in(path: &str, folder: &str) -> bool {
    path.starts_with(folder) && !hidden(path)
}

fn describe(happened: &Happened) -> String {
    match happened {
        Happened::Hardware(_) => "a change of the hardware".to_owned(),
        Happened::Returned => "the end of a command".to_owned(),
        Happened::Disk(operation) => match operation {
            Operation::Create { name, .. } => format!("the making of {name}"),
            Operation::MakeDirectory { name, .. } => format!("the making of the directory {name}"),
            Operation::Rename { from, to, .. } => format!("the renaming of {from} to {to}"),
            Operation::Remove { name, .. } => format!("the removal of {name}"),
            Operation::Write { data, .. } => format!("{} bytes written", data.len()),
            Operation::Truncate { length, .. } => format!("a cut to {length} bytes"),
            Operation::SyncFile(_) => "the syncing of a file".to_owned(),
            Operation::SyncDirectory(_) => "the syncing of a directory".to_owned(),
            Operation::SyncAll => "the syncing of everything".to_owned(),
        },
    }
}
