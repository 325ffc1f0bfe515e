//! What must be true after a script, whatever went wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use gpushare_core::backend::sim::{CallRecord, Fault, Rules, Simulator};
use gpushare_core::mode::{ComputeMode, Interval};
use gpushare_core::mps::MpsDomain;
use gpushare_core::plan::Request;
use gpushare_core::plan::state::{GpuState, MpsState};
use gpushare_core::{Error, ErrorCode, Outcome};

use super::others;
use super::script::{After, Again, Goal, Place, Script, Wanted};
use super::world::{Base, Tenant, World, ids, process, willing};

/// What goes against a promise, in words.
pub(super) type Violation = String;

/// What is known of a script without faults.
#[derive(Debug)]
pub(super) struct Known {
    base: Base,
    request: Request,
    old: Vec<GpuState>,
    /// What is left of daemons that died before.
    dead: usize,
    /// None where the change is refused.
    new: Option<Vec<GpuState>>,
    refused_as: Option<ErrorCode>,
    /// What a machine comes back as, from the old state and the new.
    rebooted: Vec<Vec<GpuState>>,
    reloaded: Vec<Vec<GpuState>>,
    /// The calls of the change.
    pub(super) calls: Vec<CallRecord>,
}

/// A run that broke nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) ran: Ran,
    /// Whether the change had begun.
    pub(super) begun: bool,
    /// What the fault left, as a number.
    pub(super) left: u64,
}

/// What became of a run that broke nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// It went wrong as the script says, and all is well.
    Faulted,
    /// So too, and it was recovery that had the last word: nobody died, and the answer was indeterminate.
    Undecided,
    /// So too, and others came in between: it is for a person to decide.
    ForAPerson,
    /// The change is refused at once, and nothing went wrong or was touched.
    Refused,
    /// The call that was to go wrong was not made.
    Missed,
}

/// As what a machine goes down.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// As before the change.
    Old,
    /// So, without the changes of MIG mode that waited for a reset.
    CalledOff,
    /// Changed.
    New,
}

/// States as they are compared, a line for each GPU.
struct Lines<'a>(&'a [GpuState]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|state| {
            write!(f, "\n    {}", serde_json::to_string(state).unwrap_or_default())
        })
    }
}

pub(super) fn said(doing: &str) -> impl Fn(Error) -> Violation {
    move |error| format!("{doing}: {error:?}")
}

/// Whether two states of a node are the same, apart from what nothing brings back: a pending change that was
/// called off, and an MPS daemon that served nobody.
fn same(a: &[GpuState], b: &[GpuState]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| one_same(a, b))
}

fn one_same(a: &GpuState, b: &GpuState) -> bool {
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
    a.matches(b) || a.matches(&called_off(b)) || a.matches(&cleared(b))
}

fn refuses_once(rules: &Rules) -> bool {
    rules.insufficient_at_create.or(rules.in_use_at_destroy).is_some()
}

/// Recovers, once more where the driver refused the way back and the way on: it does so once.
fn recover_at_last(script: &Script, world: &World) -> gpushare_core::Result<()> {
    match world.recover() {
        Err(error)
            if error.code() == ErrorCode::RecoveryRequired
                && error.outcome() == Outcome::Indeterminate
                && refuses_once(&script.rules) =>
        {
            world.recover()
        }
        recovered => recovered,
    }
}

/// The node with a driver that refuses nothing.
fn willing_node(base: &Base, script: &Script) -> gpushare_core::Result<World> {
    let world = base.world()?;
    world.simulator.set_rules(willing(&script.rules))?;
    Ok(world)
}

impl Known {
    /// Runs a script without faults, and notes what it comes to.
    pub(super) fn of(script: &Script) -> Result<Self, Violation> {
        let base = Base::of(script).map_err(said("the script does not begin"))?;
        let world = base.world().map_err(said("to copy"))?;
        let request = world.request(script).map_err(said("no request"))?;
        let old = world.states().map_err(said("to look"))?;
        let dead = daemons(&world)?.len().saturating_sub(known_daemons(&old));
        world.faults.revive();
        let result = world.change(&request, script.consent);
        let calls = world.faults.calls();
        let states = world.states().map_err(said("to look"))?;
        let refused_as = result.as_ref().err().map(Error::code);
        let new = match result {
            Ok(_) => {
                expect_no_journal(&world)?;
                expect_wanted(script, &world, &states)?;
                Some(states)
            }
            Err(error) if same(&states, &old) && error.outcome() != Outcome::Indeterminate => {
                expect_due(script, &base, &error)?;
                None
            }
            // The driver refused, and refused the way back as well: at another time it does not.
            Err(error)
                if error.outcome() == Outcome::Indeterminate && refuses_once(&script.rules) =>
            {
                world.recover().map_err(said("recover from two refusals"))?;
                let states = world.states().map_err(said("to look"))?;
                if !same(&states, &old) {
                    return Err(format!("recovered, and not as before:{}", Lines(&states)));
                }
                None
            }
            Err(error) => return Err(format!("without any fault, and not as before: {error:?}")),
        };
        if new.is_some() {
            let plan = world.node.plan_request(&request).map_err(said("a second plan"))?;
            if !plan.noop {
                return Err(format!("a second apply would do something: {plan}"));
            }
        }
        // What the driver refuses once, it does at another time.
        let new = match new {
            None if refuses_once(&script.rules) => {
                let world = willing_node(&base, script).map_err(said("to copy"))?;
                let done = world.change(&request, script.consent).is_ok();
                done.then(|| world.states()).transpose().map_err(said("to look"))?
            }
            new => new,
        };
        let known = Self {
            base,
            request,
            old,
            dead,
            refused_as: refused_as.filter(|_| new.is_none()),
            new,
            rebooted: Vec::new(),
            reloaded: Vec::new(),
            calls,
        };
        known.expect_tenants(script, &world)?;
        Ok(known)
    }

    /// Why the change is refused, if it is.
    pub(super) fn refused_as(&self) -> Option<ErrorCode> {
        self.refused_as
    }

    /// Whether it comes off though somebody is there who has not said yes.
    pub(super) fn is_around_a_tenant(&self, script: &Script) -> bool {
        self.new.is_some() && !self.base.tenants.is_empty() && !script.consent
    }

    /// The number of the call that strikes, in a change without faults.
    fn struck_at(&self, script: &Script) -> Option<usize> {
        let strike = script.strike.as_ref()?;
        let mut calls = self.calls.iter().filter(|call| call.name == strike.call);
        calls.nth(strike.nth - 1).map(|call| call.number)
    }

    /// Whether the journal is there when the strike comes.
    fn had_begun(&self, script: &Script) -> bool {
        let journal = self.calls.iter().find(|call| call.name == "store.append");
        let journal = journal.map(|call| call.number);
        self.struck_at(script).zip(journal).is_some_and(|(strike, journal)| strike >= journal)
    }

    /// The number of the call for the second fault, found by a rehearsal without it.
    fn again_at(&self, script: &Script, again: &Again) -> Result<Option<usize>, Violation> {
        let world = self.base.world().map_err(said("to copy"))?;
        set(&world, script);
        drop(world.change(&self.request, script.consent));
        let calls = world.faults.calls();
        let (died, struck) = end_life(&world)?;
        let (calls, from) = match again.place {
            Place::Rollback if died || !struck => return Ok(None),
            Place::Rollback => (calls, self.struck_at(script).unwrap_or_default()),
            Place::Recovery => {
                drop(world.recover());
                (world.faults.calls(), 0)
            }
        };
        let changing = calls.iter().filter(|call| call.mutating && call.number > from);
        let changing: Vec<usize> = changing.map(|call| call.number).collect();
        Ok(changing.get(again.number % changing.len().max(1)).copied())
    }

    /// The same, with what machines come back as.
    pub(super) fn with_boots(mut self, script: &Script) -> Result<Self, Violation> {
        let come_back = |way: Way, boot: fn(&Simulator) -> gpushare_core::Result<()>| {
            let world = willing_node(&self.base, script)?;
            match way {
                Way::Old => {}
                Way::CalledOff => world.call_off()?,
                Way::New => world.change(&self.request, script.consent).map(drop)?,
            }
            boot(&world.simulator)?;
            world.recover()?;
            world.states()
        };
        // A pending change of MIG mode that was called off does not come true, and nothing makes it pending again.
        let pending =
            self.old.iter().any(|gpu| gpu.mig.is_some_and(|mig| mig.enabled != mig.pending));
        let mut ways = vec![Way::Old];
        ways.extend(pending.then_some(Way::CalledOff));
        ways.extend(self.new.is_some().then_some(Way::New));
        for way in ways {
            self.rebooted.push(come_back(way, Simulator::reboot).map_err(said("to reboot"))?);
            self.reloaded.push(come_back(way, reload).map_err(said("to reload"))?);
        }
        Ok(self)
    }

    /// Runs the script with its faults, and holds what is left against what was promised.
    pub(super) fn judge(&self, script: &Script, finish: bool) -> Result<Seen, Violation> {
        let world = self.base.world().map_err(said("to copy"))?;
        set(&world, script);
        let second = script.again.map(|again| self.again_at(script, &again)).transpose()?;
        if second == Some(None) {
            return Ok(Seen { ran: Ran::Missed, begun: false, left: 0 });
        }
        let second = script.again.zip(second.flatten());
        if let Some((Again { place: Place::Rollback, fault, .. }, number)) = second {
            world.faults.at(number, fault);
        }
        let result = world.change(&self.request, script.consent);
        let life = end_life(&world)?;
        let mut hash = DefaultHasher::new();
        let left = world.states().map_err(said("to look"))?;
        Lines(&left).to_string().hash(&mut hash);
        let ran = self.ran(script, finish, &world, &result, life, (&left, second))?;
        Ok(Seen { ran, begun: self.had_begun(script), left: hash.finish() })
    }

    /// What came of it, after what comes after it.
    fn ran(
        &self,
        script: &Script,
        finish: bool,
        world: &World,
        result: &gpushare_core::Result<gpushare_core::Report>,
        (died, struck): (bool, bool),
        (left, second): (&[GpuState], Option<(Again, usize)>),
    ) -> Result<Ran, Violation> {
        if let (Err(error), None) = (result, &self.new) {
            if error.outcome() == Outcome::Untouched && !died && !struck {
                return self.expect_old_or_new(script, world).map(|()| Ran::Refused);
            }
        }
        if !struck {
            return Ok(Ran::Missed);
        }
        if !died {
            self.expect_true(script, &result.as_ref().map(drop), world, left)?;
        }
        let undecided =
            !died && result.as_ref().is_err_and(|e| e.outcome() == Outcome::Indeterminate);
        if undecided && script.again.is_none() && !refuses_once(&script.rules) {
            self.expect_undecidable(script, result)?;
        }
        let journals = world.journals().map_err(said("to list journals"))?;
        match script.after {
            After::Nothing => {}
            After::Reboot => return self.come_back(world, Simulator::reboot, &self.rebooted),
            After::Reload => return self.come_back(world, reload, &self.reloaded),
            // Who comes after it is over is nobody's business.
            After::OthersCreate | After::OthersDestroy | After::OthersUse => {
                if journals.is_empty() {
                    return Ok(Ran::Missed);
                }
                return self.beside(script, world, left);
            }
        }
        if let Some((Again { place: Place::Recovery, fault, .. }, number)) = second {
            // Calls are counted from here, as in the rehearsal.
            world.faults.revive();
            world.faults.at(number, fault);
            drop(world.recover());
            if world.faults.pending() > 0 {
                return Err("the rehearsal came to a call that is not made".to_owned());
            }
            world.faults.revive();
        }
        recover_at_last(script, world).map_err(said("recover"))?;
        self.expect_old_or_new(script, world)?;
        if let (Some(new), true) = (&self.new, finish) {
            let rules = willing(&script.rules);
            world.simulator.set_rules(rules).map_err(said("to set rules"))?;
            world.change(&self.request, script.consent).map_err(said("apply after all"))?;
            let states = world.states().map_err(said("to look"))?;
            if !same(&states, new) {
                return Err(format!("applied after all, and it is not:{}", Lines(&states)));
            }
        }
        Ok(if undecided { Ran::Undecided } else { Ran::Faulted })
    }

    /// Whether it is as before. A daemon that did not answer when it was looked at counts as one that serves
    /// nobody: it is stopped as such, and not brought back.
    fn is_old(&self, script: &Script, states: &[GpuState]) -> bool {
        let unheard = script.strike.as_ref().is_some_and(|strike| {
            matches!(strike.call, "mps.get" | "mps.probe")
                && !matches!(strike.fault, Fault::Die(_))
                && !self.had_begun(script)
        });
        let silent = |now: &GpuState, old: &GpuState| {
            let mut old = old.clone();
            old.mps = old.mps.filter(|_| now.mps.is_some());
            for (gi, now) in old.gpu_instances.iter_mut().zip(&now.gpu_instances) {
                for (ci, now) in gi.compute.iter_mut().zip(&now.compute) {
                    ci.mps = ci.mps.take().filter(|_| now.mps.is_some());
                }
            }
            old
        };
        let one = |(now, old)| one_same(now, old) || (unheard && one_same(now, &silent(now, old)));
        states.len() == self.old.len() && states.iter().zip(&self.old).all(one)
    }

    /// What was said must be so.
    fn expect_true(
        &self,
        script: &Script,
        result: &Result<(), &Error>,
        world: &World,
        states: &[GpuState],
    ) -> Result<(), Violation> {
        match result {
            Ok(()) if self.new.as_ref().is_some_and(|new| same(states, new)) => {
                expect_no_journal(world)
            }
            Ok(()) => Err(format!(
                "said done, and it is not:{}\n  new{}",
                Lines(states),
                Lines(self.new.as_deref().unwrap_or_default())
            )),
            Err(error) if error.outcome() == Outcome::Indeterminate => Ok(()),
            Err(error) if !self.is_old(script, states) => Err(format!(
                "said {}, and it is not: {error:?}\n  old{}\n  now{}",
                error.outcome(),
                Lines(&self.old),
                Lines(states)
            )),
            Err(error) if !world.journals().map_err(said("to list"))?.is_empty() => {
                Err(format!("said {}, and a journal is left: {error:?}", error.outcome()))
            }
            Err(_) => Ok(()),
        }
    }

    /// Where nobody died and nothing else went wrong, a change undoes itself, but for what it cannot.
    fn expect_undecidable(
        &self,
        script: &Script,
        result: &gpushare_core::Result<gpushare_core::Report>,
    ) -> Result<(), Violation> {
        let call = script.strike.as_ref().map_or("", |strike| strike.call);
        // As long as the journal is there recovery decides, though the change is done.
        if call == "store.remove" {
            return Ok(());
        }
        Err(format!("indeterminate by one fault at {call}: {result:?}"))
    }

    fn expect_old_or_new(&self, script: &Script, world: &World) -> Result<(), Violation> {
        let states = world.states().map_err(said("to look"))?;
        if !self.is_old(script, &states) && !self.new.as_ref().is_some_and(|new| same(&states, new))
        {
            return Err(format!(
                "a third state\n  old{}\n  new{}\n  now{}",
                Lines(&self.old),
                Lines(self.new.as_deref().unwrap_or_default()),
                Lines(&states)
            ));
        }
        // What was dead before may be there still, where nothing came of the change.
        let dead = if same(&states, &self.old) { self.dead } else { 0 };
        expect_clean(world, &states, dead)?;
        self.expect_tenants(script, world)
    }

    fn expect_tenants(&self, script: &Script, world: &World) -> Result<(), Violation> {
        if script.consent {
            return Ok(());
        }
        self.base.tenants.iter().try_for_each(|tenant| expect_undisturbed(tenant, world))
    }

    /// The machine comes back, as the old state or the new.
    fn come_back(
        &self,
        world: &World,
        boot: fn(&Simulator) -> gpushare_core::Result<()>,
        expected: &[Vec<GpuState>],
    ) -> Result<Ran, Violation> {
        boot(&world.simulator).map_err(said("to boot"))?;
        world.recover().map_err(said("recover after a boot"))?;
        let states = world.states().map_err(said("to look"))?;
        if !expected.iter().any(|expected| same(&states, expected)) {
            return Err(format!(
                "a third state after a boot\n  expected{}\n  now{}",
                expected.iter().map(|one| Lines(one).to_string()).collect::<String>(),
                Lines(&states)
            ));
        }
        expect_clean(world, &states, 0).map(|()| Ran::Faulted)
    }

    /// Somebody came in between: it is for a person to decide, or makes no difference.
    fn beside(
        &self,
        script: &Script,
        world: &World,
        halfway: &[GpuState],
    ) -> Result<Ran, Violation> {
        let Some(other) = others::come(script.after, world)? else { return Ok(Ran::Missed) };
        let before = world.states().map_err(said("to look"))?;
        let devices = world.devices().map_err(said("to look"))?;
        let recovered = recover_at_last(script, world);
        if let Some(tenant) = &other.tenant {
            expect_undisturbed(tenant, world)?;
        }
        self.expect_tenants(script, world)?;
        let states = world.states().map_err(said("to look"))?;
        match recovered {
            Ok(_) => {
                // Where nothing of ours had begun, what they did is theirs, and stays.
                let theirs = |expected: &[GpuState]| -> Vec<GpuState> {
                    let gpus = before.iter().zip(halfway).zip(&self.old).zip(expected);
                    let stays = |(((before, halfway), old), expected)| {
                        let untouched = halfway == old && before != halfway;
                        GpuState::clone(if untouched { before } else { expected })
                    };
                    gpus.map(stays).collect()
                };
                let mut allowed = [Some(&self.old), self.new.as_ref()].into_iter().flatten();
                if !allowed.any(|state| same(&states, state) || same(&states, &theirs(state))) {
                    let (old, now) = (Lines(&self.old), Lines(&states));
                    return Err(format!("a third state beside others\n  old{old}\n  now{now}"));
                }
                expect_clean(world, &states, self.dead)?;
            }
            Err(error) if error.code() == ErrorCode::RecoveryRequired => {
                // What others changed stays as it is; the other GPUs of the change may be back.
                let mut gpus = states.iter().zip(&before).zip(halfway).zip(&self.old);
                let stays = gpus.all(|(((now, before), halfway), old)| {
                    now == before || (before == halfway && one_same(now, old))
                });
                if !stays {
                    return Err(format!(
                        "RECOVERY_REQUIRED, and touched: {error:?}\n  before{}\n  now{}",
                        Lines(&before),
                        Lines(&states)
                    ));
                }
                let now = world.devices().map_err(said("to look"))?;
                let mut gpus = before.iter().zip(halfway).zip(devices.iter().zip(&now));
                if gpus.any(|((before, halfway), (then, now))| before != halfway && then != now) {
                    return Err(format!(
                        "RECOVERY_REQUIRED, and other instances: {error:?}\n  {devices:?}\n  {now:?}"
                    ));
                }
                if world.journals().map_err(said("to list"))?.is_empty() {
                    return Err(format!("RECOVERY_REQUIRED, and no journal: {error:?}"));
                }
                return Ok(Ran::ForAPerson);
            }
            Err(error) => return Err(format!("recover beside others: {error:?}")),
        }
        Ok(Ran::Faulted)
    }
}

/// Sets the first fault.
fn set(world: &World, script: &Script) {
    if let Some(strike) = &script.strike {
        world.faults.on(strike.call, strike.nth, strike.fault);
    }
}

/// The process is over, one way or the other. Whether it died, and whether all that was to go wrong did.
fn end_life(world: &World) -> Result<(bool, bool), Violation> {
    let ended = (world.faults.is_dead(), world.faults.pending() == 0);
    world.faults.revive();
    if ended.0 {
        world.forget().map_err(said("to forget"))?;
    }
    Ok(ended)
}

fn expect_no_journal(world: &World) -> Result<(), Violation> {
    let journals = world.journals().map_err(said("to list journals"))?;
    if journals.is_empty() { Ok(()) } else { Err(format!("done, and {journals:?} are left")) }
}

/// What was asked for, in the words of who asked and not of the planner.
fn expect_wanted(script: &Script, world: &World, states: &[GpuState]) -> Result<(), Violation> {
    let snapshot = world.node.snapshot().map_err(said("to look"))?;
    let not = |why: String| Err(format!("not what was asked for: {why}: {}", Lines(states)));
    for (gpu, state) in snapshot.gpus.iter().zip(states) {
        let mode = gpu.mode.to_string();
        match &script.goal {
            Goal::Apply(Wanted::Mode(wanted, block)) => {
                if mode != *wanted {
                    return not(format!("{mode} for {wanted}"));
                }
                if block.contains(r#""interval": "long""#) && state.interval != Some(Interval::Long)
                {
                    return not("another interval".to_owned());
                }
            }
            Goal::Apply(Wanted::Counted(counts)) => {
                let mut found: BTreeMap<String, u32> = BTreeMap::new();
                for device in &gpu.mig_devices {
                    *found.entry(device.profile.to_string()).or_default() += 1;
                }
                if mode != "mig" || found != *counts {
                    return not(format!("{mode} with {found:?} for {counts:?}"));
                }
            }
            Goal::Leave(_) if script.prior => {
                let before = (Some(ComputeMode::ExclusiveProcess), Some(Interval::Long));
                if (state.compute_mode, state.interval) != before {
                    return not("compute mode and interval of before are not back".to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A change is refused for a reason, and before anything is touched.
fn expect_due(script: &Script, base: &Base, error: &Error) -> Result<(), Violation> {
    let undue = |why: &str| Err(format!("refused, {why}: {error:?}"));
    if error.outcome() != Outcome::Untouched && !refuses_once(&script.rules) {
        return undue("and it had begun");
    }
    let in_the_way = !base.tenants.is_empty() && !script.consent;
    match error.code() {
        ErrorCode::Busy | ErrorCode::Insufficient
            if !in_the_way && !refuses_once(&script.rules) =>
        {
            undue("and nobody is in the way")
        }
        _ => Ok(()),
    }
}

/// No journal, no lock, and no daemon that is not in the state, but for so many that were dead before.
fn expect_clean(world: &World, states: &[GpuState], dead: usize) -> Result<(), Violation> {
    let journals = world.journals().map_err(said("to list"))?;
    if !journals.is_empty() {
        return Err(format!("a journal is left: {journals:?}"));
    }
    let locked = world.locked().map_err(said("to lock"))?;
    if !locked.is_empty() {
        return Err(format!("locks are left: {locked:?}"));
    }
    let daemons = daemons(world)?;
    if daemons.len() > known_daemons(states) + dead {
        return Err(format!("a daemon is left: {daemons:?} of {}", Lines(states)));
    }
    Ok(())
}

fn daemons(world: &World) -> Result<Vec<MpsDomain>, Violation> {
    world.node.ports().mps.domains().map_err(said("to list daemons"))
}

/// How many daemons are in a state.
fn known_daemons(states: &[GpuState]) -> usize {
    let known = states.iter().map(|state| {
        let devices = state.gpu_instances.iter().flat_map(|gi| &gi.compute);
        devices.filter(|ci| ci.mps.is_some()).count() + usize::from(state.mps.is_some())
    });
    known.sum()
}

/// They are there, on the instance where they were, under its name.
fn expect_undisturbed(tenant: &Tenant, world: &World) -> Result<(), Violation> {
    let now = process(&world.simulator, tenant.process.pid).map_err(said("to look"))?;
    if now.as_ref() != Some(&tenant.process) {
        return Err(format!("a tenant was disturbed: {tenant:?}, now {now:?}"));
    }
    let Some(device) = &tenant.device else { return Ok(()) };
    let snapshot = world.node.snapshot().map_err(said("to look"))?;
    let mut there = snapshot.gpus.iter().flat_map(|gpu| &gpu.mig_devices);
    if there.any(|there| ids(there) == *device) {
        return Ok(());
    }
    Err(format!("the instance of a tenant is another one: {tenant:?}"))
}

/// An administrator ends who is there, and loads the driver anew.
fn reload(simulator: &Simulator) -> gpushare_core::Result<()> {
    for gpu in simulator.gpus()? {
        simulator.idle_all(&gpu)?;
    }
    simulator.reload()
}
