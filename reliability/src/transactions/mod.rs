//! Model-checked transactions: transitions × calls × what may go wrong at each.
//!
//! A node of the simulator is brought into a state, something is asked for, and at one call something goes wrong:
//! the call fails in each way that is plausible, before its effect or after it; it hangs; the process is killed
//! before it or in it; the machine is rebooted there, or the driver loaded anew; somebody else changes the GPU before
//! anybody recovers; recovery dies, too. What is left is held against what is promised: the state of before or the one
//! that was asked for, busy instances untouched, no daemon, lock or journal left over; and where others came in
//! between, RECOVERY_REQUIRED with nothing touched.

mod fault;
mod others;
mod script;
mod shrink;
mod space;
mod verdict;
mod world;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use gpushare_core::backend::sim::{Death, Fault, Rules};
use gpushare_core::{ErrorCode, Outcome};

use crate::dice::Dice;
pub use script::Planted;
use script::{After, Again, Place, Script, Strike};
use verdict::{Known, Ran, Seen, Violation};

/// How much is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Of the small GPU's runs and those of modes, daemons and resets, one in so many. 1 is all of them, and each
    /// switch of the simulator's rules turned.
    pub one_in: usize,
    /// Runs of each pair of layouts of the seven-slice family.
    pub of_each_pair: usize,
    /// Of all transitions, one in so many.
    pub transitions_one_in: usize,
    /// A defect that is built in, to see whether it is seen.
    pub planted: Option<Planted>,
}

impl Budget {
    /// Everything that is walked through, and a sample of the rest: more than a million runs.
    pub const WHOLE: Self =
        Self { one_in: 1, of_each_pair: 40, transitions_one_in: 1, planted: None };
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Transitions that were begun from their own state.
    pub transitions: usize,
    /// Runs in which something went wrong as it was to.
    pub faulted: usize,
    /// Of these: with death, reboot or reload in the middle.
    pub deaths: usize,
    /// Runs in which somebody else came in between.
    pub beside: usize,
    /// Runs in which a rollback or a recovery met a fault of its own.
    pub recoveries: usize,
    /// Runs in which the change had begun: its journal was there.
    pub begun: usize,
    /// The states that faults left, without ids and uuids, each once.
    pub states: HashSet<u64>,
    /// Of the runs beside others, those that were left to a person.
    pub left: usize,
    /// Runs in which nobody died, and the change could say no more than that its outcome is indeterminate.
    pub undecided: usize,
    /// Transitions that are refused, and stay refused whatever goes wrong.
    pub refused: usize,
    /// Why they are: by the error's code.
    pub refused_as: BTreeMap<&'static str, usize>,
    /// Transitions that come off while somebody is there who has not said yes.
    pub around: usize,
    /// Runs in which something went wrong with those that are refused.
    pub faulted_refused: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes: Vec<_> =
            self.refused_as.iter().map(|(code, count)| format!("{code} {count}")).collect();
        write!(
            f,
            "{} transitions, {} of them refused ({}), {} done around a tenant; {} faulted runs, {} of them after the change had begun, {} of transitions that are refused; {} states left by faults; {} with a death, reboot or reload in them, {} with a fault in rollback or recovery, {} with others in between ({} left to a person), {} indeterminate though nobody died",
            self.transitions,
            self.refused,
            codes.join(", "),
            self.around,
            self.faulted,
            self.begun,
            self.faulted_refused,
            self.states.len(),
            self.deaths,
            self.recoveries,
            self.beside,
            self.left,
            self.undecided
        )
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The seed of the run.
    pub seed: u64,
    /// The shortest script that shows it, and what it shows.
    pub script: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}\n{}", self.seed, self.script)
    }
}

/// Looks at as much as the budget says. `progress` is told the figures now and then.
///
/// # Errors
/// The first promise that is broken.
pub fn check(
    seed: u64,
    budget: Budget,
    progress: &(dyn Fn(&Figures) + Sync),
) -> Result<Figures, Box<Broken>> {
    let broken = |why: String| Box::new(Broken { seed, script: why });
    let pairs = space::pairs(seed).map_err(|error| broken(format!("{error:?}")))?;
    let small = space::small().map_err(|error| broken(format!("{error:?}")))?;
    let mut work: Vec<(Script, Share)> = Vec::new();
    let turned = space::turned();
    for (number, script) in space::others().into_iter().chain(small).enumerate() {
        if script.rules == Rules::default() {
            // All switches in turn where everything is walked through, else one.
            let turns = if budget.one_in == 1 { turned.len() } else { 1 };
            for turn in 0..turns {
                let rules = turned.get((number + turn) % turned.len()).cloned().unwrap_or_default();
                let share = Share::OneIn(budget.one_in * 2 * turns);
                work.push((Script { rules, ..script.clone() }, share));
            }
        }
        work.push((script, Share::OneIn(budget.one_in)));
    }
    work.extend(pairs.into_iter().map(|script| (script, Share::Of(budget.of_each_pair))));
    let first = Dice::new(seed).below(budget.transitions_one_in);
    let mut work: Vec<_> =
        work.into_iter().skip(first).step_by(budget.transitions_one_in).collect();
    work.iter_mut().for_each(|(script, _)| script.planted = budget.planted);
    let run = Run {
        seed,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        figures: Mutex::default(),
        broken: Mutex::default(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run.walk(&work, progress));
        }
    });
    let figures = run.figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    match run.broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(broken) => Err(broken),
        None => Ok(figures),
    }
}

/// Which runs of a transition are made.
#[derive(Clone, Copy, Debug)]
enum Share {
    OneIn(usize),
    Of(usize),
}

struct Run {
    seed: u64,
    next: AtomicUsize,
    stop: AtomicBool,
    figures: Mutex<Figures>,
    broken: Mutex<Option<Box<Broken>>>,
}

impl Run {
    fn walk(&self, work: &[(Script, Share)], progress: &(dyn Fn(&Figures) + Sync)) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((script, share)) = work.get(number) else { return };
            let mut dice = Dice::stream(self.seed, number);
            match transition(script, *share, &mut dice) {
                Ok(figures) => {
                    let mut all = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
                    all.add(&figures);
                    progress(&all);
                }
                Err(broken) => {
                    let (script, why) = *broken;
                    self.stop.store(true, Ordering::Relaxed);
                    let kind = kind(&why).to_owned();
                    let same = |script: &Script| {
                        shown(script).err().filter(|shown| self::kind(shown) == kind)
                    };
                    let (script, why) = shrink::shortest(script, why, same);
                    let script = format!("transition {number}:\n{script}  {why}");
                    let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
                    broken.get_or_insert(Box::new(Broken { seed: self.seed, script }));
                }
            }
        }
    }
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.transitions += other.transitions;
        self.faulted += other.faulted;
        self.deaths += other.deaths;
        self.beside += other.beside;
        self.recoveries += other.recoveries;
        self.around += other.around;
        self.begun += other.begun;
        self.states.extend(&other.states);
        for (code, count) in &other.refused_as {
            *self.refused_as.entry(code).or_default() += count;
        }
        self.left += other.left;
        self.undecided += other.undecided;
        self.refused += other.refused;
        self.faulted_refused += other.faulted_refused;
    }

    fn count(&mut self, script: &Script, seen: &Seen) {
        let ran = seen.ran;
        if matches!(ran, Ran::Missed | Ran::Refused) {
            return;
        }
        self.faulted += 1;
        self.begun += usize::from(seen.begun);
        self.states.insert(seen.left);
        self.left += usize::from(ran == Ran::ForAPerson);
        self.undecided += usize::from(ran == Ran::Undecided);
        let died =
            script.strike.as_ref().is_some_and(|strike| matches!(strike.fault, Fault::Die(_)));
        self.deaths += usize::from(died);
        self.beside += usize::from(script.after.is_others());
        self.recoveries += usize::from(script.again.is_some());
    }
}

/// What sort of violation it is: its first words.
fn kind(why: &str) -> &str {
    why.split([':', '\n']).next().unwrap_or_default()
}

/// What one script shows by itself.
fn shown(script: &Script) -> Result<(), Violation> {
    std::panic::catch_unwind(|| {
        let known = Known::of(&Script { strike: None, ..script.clone() })?.with_boots(script)?;
        known.judge(script, true).map(drop)
    })
    .unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Whether the node lacks what the first state needs, and says so.
fn begins_unable(script: &Script) -> bool {
    let Err(error) = world::Base::of(script) else { return false };
    error.code() == ErrorCode::Unsupported && error.outcome() == Outcome::Untouched
}

/// Lets everything that may go wrong go wrong, as far as the share allows.
fn transition(
    script: &Script,
    share: Share,
    dice: &mut Dice,
) -> Result<Figures, Box<(Script, Violation)>> {
    if begins_unable(script) {
        return Ok(Figures { transitions: 1, refused: 1, ..Figures::default() });
    }
    let known = Known::of(script)
        .and_then(|known| known.with_boots(script))
        .map_err(|why| Box::new((script.clone(), why)))?;
    let mut figures = Figures { transitions: 1, ..Figures::default() };
    figures.around += usize::from(known.is_around_a_tenant(script));
    if let Some(code) = known.refused_as() {
        figures.refused += 1;
        *figures.refused_as.entry(code.name()).or_default() += 1;
    }
    let scripts = scripts(script, &known);
    let judge = |script: Script, dice: &mut Dice, figures: &mut Figures| {
        let finish = dice.once_in(7);
        let judged = std::panic::catch_unwind(|| known.judge(&script, finish));
        match judged.unwrap_or_else(|_| Err("it panicked".to_owned())) {
            Ok(seen) => {
                figures.count(&script, &seen);
                Ok(())
            }
            Err(why) => Err(Box::new((script, why))),
        }
    };
    match share {
        Share::OneIn(sides) => {
            for script in scripts {
                if dice.once_in(sides) {
                    judge(script, dice, &mut figures)?;
                }
            }
        }
        Share::Of(runs) => {
            let mut scripts: Vec<_> = scripts.collect();
            for _ in 0..runs.min(scripts.len()) {
                let script = scripts.swap_remove(dice.below(scripts.len()));
                judge(script, dice, &mut figures)?;
            }
        }
    }
    if known.refused_as().is_some() {
        figures.faulted_refused = figures.faulted;
    }
    Ok(figures)
}

/// Everything that may go wrong in a transition, once.
fn scripts<'a>(script: &'a Script, known: &'a Known) -> impl Iterator<Item = Script> + 'a {
    let at = move |call: &'a gpushare_core::backend::sim::CallRecord| {
        let nth = fault::nth(&known.calls, call);
        let with = move |fault: Fault, after: After, again: Option<Again>| {
            let strike = Some(Strike { call: call.name, nth, fault });
            Script { strike, after, again, ..script.clone() }
        };
        let single =
            fault::faults(call).into_iter().map(move |fault| with(fault, After::Nothing, None));
        let death = Fault::Die(Death::After);
        let fails = Fault::Fail(gpushare_core::backend::sim::Failure::default());
        let afters = [
            After::Reboot,
            After::Reload,
            After::OthersCreate,
            After::OthersDestroy,
            After::OthersUse,
        ];
        let others =
            afters.into_iter().filter(|_| call.mutating).map(move |after| with(death, after, None));
        // What makes it good is struck at a call that follows from where the first one was.
        let again = [
            (death, Place::Recovery, 7, death),
            (death, Place::Recovery, 11, fails),
            (fails, Place::Rollback, 5, death),
            (fails, Place::Rollback, 3, fails),
        ];
        let again = again.into_iter().filter(|_| call.mutating);
        let again = again.map(move |(first, place, times, fault)| {
            let again = Again { place, number: 1 + call.number * times, fault };
            with(first, After::Nothing, Some(again))
        });
        single.chain(others).chain(again)
    };
    known.calls.iter().flat_map(at)
}
