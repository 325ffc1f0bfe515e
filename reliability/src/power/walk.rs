//! Every moment of a record, and what must be true when the power fails then.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use gpushare_core::plan::state::GpuState;

use super::Figures;
use super::disk::{Disk, Loss, Operation, Tree};
use super::record::{Happened, Record};
use super::replay::{look, recover};
use super::scenario::{Command, Place, Scenario};
use crate::dice::Dice;

/// What a machine is when a command has returned.
#[derive(Clone, Debug)]
struct Settled {
    tree: Tree,
    /// As it is.
    states: Vec<GpuState>,
    /// After a boot.
    booted: Vec<GpuState>,
}

/// A scenario, and what is to be expected of it.
pub(super) struct Walk<'a> {
    pub(super) place: &'a Place,
    pub(super) scenario: &'a Scenario,
    settled: Vec<Settled>,
}

/// One moment of a record.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) number: usize,
    pub(super) happened: Happened,
    pub(super) disk: Disk,
    pub(super) hardware: Vec<u8>,
    /// How many commands have returned.
    pub(super) returned: usize,
    /// What is appended to, as it was when the next change was about to begin.
    promised: Tree,
    /// Whether this is a recovery: then CDI specifications may be of neither state, but of what a boot left.
    recovering: bool,
}

impl Moment {
    /// Before anything happened.
    pub(super) fn first() -> Self {
        Self {
            number: 0,
            happened: Happened::Returned,
            disk: Disk::new(),
            hardware: Vec::new(),
            returned: 0,
            promised: Tree::new(),
            recovering: false,
        }
    }

    /// Recovery begins, with that disk and hardware.
    pub(super) fn recovering(&self, disk: Disk, hardware: Vec<u8>) -> Self {
        Self { disk, hardware, promised: Tree::new(), recovering: true, ..self.clone() }
    }
}

/// How it is walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The most states for one moment.
    pub(super) states: usize,
    /// The moments before this are as they were.
    pub(super) from: usize,
}

impl<'a> Walk<'a> {
    /// Finds out what is to be expected: nothing is lost, and the power fails only between commands.
    pub(super) fn of(
        place: &'a Place,
        scenario: &'a Scenario,
        record: &Record,
    ) -> Result<Self, String> {
        let mut walk = Self { place, scenario, settled: Vec::new() };
        let mut settled = Vec::new();
        walk.each(record, Moment::first(), |moment| {
            if matches!(moment.happened, Happened::Returned) {
                let (tree, hardware) = (moment.disk.now(), &moment.hardware);
                let states = look(place, &tree, hardware)?;
                let booted = recover(place, &tree, hardware, true)?;
                settled.push(Settled { tree, states, booted });
            }
            Ok(())
        })?;
        if settled.len() != scenario.commands.len() + 1 {
            return Err(format!("{} commands returned", settled.len()));
        }
        walk.settled = settled;
        Ok(walk)
    }

    /// Every moment, one after the other.
    pub(super) fn each(
        &self,
        record: &Record,
        first: Moment,
        mut visit: impl FnMut(&Moment) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut moment = first;
        for (number, happened) in record.happened.iter().enumerate() {
            moment.number = number;
            moment.happened = happened.clone();
            match happened {
                Happened::Disk(operation) => moment.disk.perform(operation),
                Happened::Hardware(state) => {
                    moment.hardware.clone_from(state);
                    moment.promised = self.appended(moment.disk.now());
                }
                Happened::Returned if moment.recovering => {}
                Happened::Returned => {
                    moment.returned += 1;
                    moment.promised = self.appended(moment.disk.now());
                }
            }
            visit(&moment)?;
        }
        Ok(())
    }

    /// Lets the power fail at every moment, and the process be killed.
    pub(super) fn walk(
        &self,
        record: &Record,
        first: Moment,
        pace: Pace,
        dice: &mut Dice,
    ) -> Result<Figures, String> {
        let mut figures = Figures::default();
        let mut seen = HashSet::new();
        self.each(record, first, |moment| {
            if moment.returned == 0 || moment.number < pace.from {
                return Ok(());
            }
            let mut is_new = |tree: &Tree, reboots: bool| {
                let Moment { hardware, returned, promised, .. } = moment;
                let mut hasher = DefaultHasher::new();
                (tree, hardware, returned, promised, reboots).hash(&mut hasher);
                seen.insert(hasher.finish())
            };
            figures.moments += 1;
            let tree = moment.disk.now();
            if is_new(&tree, false) {
                figures.killed += 1;
                self.killed(&tree, moment)
                    .map_err(|why| self.script(moment, "killed", &[], &why))?;
            }
            let losses = moment.disk.losses(pace.states, dice);
            figures.possible = figures.possible.saturating_add(losses.of);
            figures.sampled += usize::from(losses.sampled);
            for Loss { tree, what } in losses.all {
                if is_new(&tree, true) {
                    figures.started += 1;
                    self.lost(&tree, moment)
                        .map_err(|why| self.script(moment, "power lost", &what, &why))?;
                }
            }
            Ok(())
        })?;
        Ok(figures)
    }

    /// What shows a broken promise.
    fn script(&self, moment: &Moment, how: &str, what: &[String], why: &str) -> String {
        let command = moment.returned.checked_sub(1).and_then(|at| self.scenario.commands.get(at));
        let command = command.map_or("the end".to_owned(), Command::name);
        let recovering =
            if moment.recovering { "recovery from its end in the midst of " } else { "" };
        let (number, last) = (moment.number, describe(&moment.happened));
        let what: String = what.iter().map(|what| format!("\n  {what}")).collect();
        format!("during {recovering}{command}\n{how} after call {number}, {last}{what}\n  {why}")
    }

    /// The states between which a moment lies.
    fn between(&self, moment: &Moment) -> Result<(&Settled, &Settled), String> {
        let old = moment.returned.checked_sub(1).and_then(|old| self.settled.get(old));
        let old = old.ok_or("nothing is known of that moment")?;
        Ok((old, self.settled.get(moment.returned).unwrap_or(old)))
    }

    /// The process was killed, and nothing is lost.
    fn killed(&self, tree: &Tree, moment: &Moment) -> Result<(), String> {
        let (old, new) = self.between(moment)?;
        let mut after = recover(self.place, tree, &moment.hardware, false)?;
        if moment.recovering {
            // It may have been booted before, or not.
            after.iter_mut().for_each(|state| state.record = None);
            if same(&after, &old.booted) || same(&after, &new.booted) {
                return Ok(());
            }
            after = recover(self.place, tree, &moment.hardware, false)?;
        }
        if same(&after, &old.states) || same(&after, &new.states) {
            return Ok(());
        }
        Err(neither(&after, &old.states, &new.states))
    }

    /// The machine lost power.
    fn lost(&self, tree: &Tree, moment: &Moment) -> Result<(), String> {
        let (old, new) = self.between(moment)?;
        self.expect_whole(tree, moment)?;
        for (path, promised) in &moment.promised {
            let promised = promised.as_deref().unwrap_or_default();
            let there = tree.get(path).and_then(Option::as_deref).unwrap_or_default();
            if !there.starts_with(promised) {
                let (there, promised) = (there.len(), promised.len());
                return Err(format!(
                    "{path} has lost what was durable: {there} bytes of {promised}"
                ));
            }
        }
        let after = recover(self.place, tree, &moment.hardware, true)?;
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
        // The new state without the new records is a change that is halfway: what outlives a boot was changed.
        if !is_old && of(tree) != of(&new.tree) {
            let why = if no_journal { "the journal is lost" } else { "the journal was settled" };
            return Err(format!(
                "{why} while the change is halfway: the hardware is as the new state is after a boot, and the records are not"
            ));
        }
        Ok(())
    }

    /// What is replaced as a whole is old or new.
    fn expect_whole(&self, tree: &Tree, moment: &Moment) -> Result<(), String> {
        let (old, new) = self.between(moment)?;
        let mut folders: Vec<_> =
            ["records/", "cdi/", "restored/"].iter().map(|folder| self.below(folder)).collect();
        folders.push("state/etc/".to_owned());
        if !moment.recovering {
            folders.push("cdi/".to_owned());
        }
        let all = tree.keys().chain(old.tree.keys()).chain(new.tree.keys());
        let files = all.filter(|path| {
            let file = [".json", ".yaml"].iter().any(|end| path.ends_with(end));
            file && folders.iter().any(|folder| path.starts_with(folder)) && !hidden(path)
        });
        for path in files {
            let (there, old, new) = (tree.get(path), old.tree.get(path), new.tree.get(path));
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

pub(super) fn describe(happened: &Happened) -> String {
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
