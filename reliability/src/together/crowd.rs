//! The processes of a round: started, killed, waited for; and looked at all the while.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use gpushare_core::hazard::HazardName;
use gpushare_core::{ApplyOptions, ErrorCode, Node};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
};

use super::events::{self, now};
use super::other::Means;
use super::place::{Asked, GPUS, Place, WANTED, simulator, spec};
use super::watch::Watch;
use super::{Figures, Options, mark};
use crate::dice::Dice;

/// The longest that anything may take that was told to stop: else it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// A holder that is being evicted may have gone on to something else by the time it is ended.
const EVICTED_LATE: i128 = 100_000_000;

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Worker,
    Other,
}

pub(super) struct Crowd<'a> {
    place: &'a Place,
    program: &'a Path,
    means: &'a Means,
    options: &'a Options,
    dice: Dice,
    figures: &'a mut Figures,
    alive: BTreeMap<u32, Kind>,
    /// Whom this process killed, and whose group.
    killed: BTreeSet<u32>,
    groups_killed: bool,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(
        place: &'a Place,
        program: &'a Path,
        means: &'a Means,
        options: &'a Options,
        dice: Dice,
        figures: &'a mut Figures,
    ) -> Self {
        let (alive, killed) = (BTreeMap::new(), BTreeSet::new());
        Self { place, program, means, options, dice, figures, alive, killed, groups_killed: false }
    }

    /// Begins with a state that is asked for, and lets them go.
    pub(super) fn round(&mut self, time: Duration) -> Result<(), String> {
        let said = |error: gpushare_core::Error| format!("{error:?}");
        let _ = std::fs::remove_file(self.place.stop());
        let node = self.place.node().map_err(said)?;
        self.begin(&node)?;
        let simulator = simulator(&node).map_err(said)?.clone();
        let file = self.place.file().map_err(said)?;
        let mut watch = Watch::new(file, self.place.roles);
        let end = Instant::now() + time;
        let (mut next_kill, mut next_list) = (Instant::now(), Instant::now());
        let result = loop {
            let now = Instant::now();
            if now >= end {
                break Ok(());
            }
            self.fill()?;
            self.reap()?;
            watch.look()?;
            if self.dice.once_in(8) {
                watch.stir(&simulator, &mut self.dice)?;
            }
            if now >= next_kill {
                self.kill_one();
                next_kill = now + Duration::from_millis(10 + self.dice.below(110) as u64);
            }
            if now >= next_list {
                self.compare_leases(&node)?;
                next_list = now + Duration::from_millis(150);
            }
            sleep(Duration::from_millis(2));
        };
        // By turns they are told to stop, or die all at once.
        if self.dice.once_in(2) {
            self.stop(&mut watch)?;
        } else {
            self.killed.extend(self.alive.keys());
            self.end_all()?;
        }
        watch.look()?;
        watch.end_all(&simulator)?;
        self.figures.states += watch.states;
        self.figures.came += watch.came;
        result
    }

    /// Whatever was left, it can be brought into what is asked for.
    fn begin(&mut self, node: &Node) -> Result<(), String> {
        let asked: Asked = (0..GPUS).map(|gpu| (gpu, self.dice.below(WANTED.len()))).collect();
        let note = |what: String| self.place.note().map(|mut events| events.note(&what));
        note(format!("asks {asked:?}")).map_err(|error| error.to_string())?;
        let spec = spec(&asked).map_err(|error| format!("{error:?}"))?;
        let options =
            ApplyOptions::new().allow_reset(true).allow_hazard(HazardName::BypassPossible);
        match node.apply(&spec, &options) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("nobody is there, and {asked:?} cannot be had: {error:?}")),
        }
    }

    /// As many as there should be.
    fn fill(&mut self) -> Result<(), String> {
        while self.alive.values().filter(|kind| **kind == Kind::Worker).count()
            < self.options.processes
        {
            self.start(Kind::Worker)?;
        }
        if !self.alive.values().any(|kind| *kind == Kind::Other) {
            self.start(Kind::Other)?;
        }
        Ok(())
    }

    fn start(&mut self, kind: Kind) -> Result<(), String> {
        let said =
            OpenOptions::new().create(true).append(true).open(self.place.folder.join("said"));
        let said = said.map_err(|error| error.to_string())?;
        let roles = self.place.roles;
        let mut command = Command::new(self.program);
        command
            .args(["together-work", "--folder"])
            .arg(&self.place.folder)
            .args(["--seed", &self.dice.next().to_string()])
            .args(["--consent", &roles.consent.to_string(), "--other", &roles.other.to_string()])
            .args(roles.person.then_some("--person"))
            .args(self.options.without_locks.then_some("--without-locks"))
            .stdin(Stdio::null())
            .stdout(said.try_clone().map_err(|error| error.to_string())?)
            .stderr(said)
            .process_group(0);
        match (kind, self.means) {
            (Kind::Worker, _) => {}
            (Kind::Other, Means::Port) => drop(command.args(["--interfere", "-"])),
            (Kind::Other, Means::NvidiaSmi(smi, library)) => {
                command.arg("--interfere").arg(smi).arg("--library").arg(library);
            }
        }
        let child = command.spawn().map_err(|error| format!("no process starts: {error}"))?;
        self.alive.insert(child.id(), kind);
        self.figures.started += 1;
        Ok(())
    }

    fn kill_one(&mut self) {
        let pids: Vec<(u32, Kind)> = self.alive.iter().map(|(pid, kind)| (*pid, *kind)).collect();
        let Some((pid, kind)) = self.dice.one_of(&pids).copied() else { return };
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
        self.killed.insert(pid);
        self.figures.killed += 1;
        // An agent is killed in the middle of what it started, or with it; a worker's tenants live on or not.
        let group = kind == Kind::Worker && self.dice.once_in(3);
        let _ = if group {
            self.groups_killed = true;
            self.figures.killed_in_groups += 1;
            kill_process_group(process, Signal::KILL)
        } else {
            kill_process(process, Signal::KILL)
        };
        if let Ok(mut events) = self.place.note() {
            events.note(&format!("kills {pid}{}", if group { " and its children" } else { "" }));
        }
    }

    /// Takes note of all that ended.
    fn reap(&mut self) -> Result<bool, String> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(None) => return Ok(true),
                Err(Errno::CHILD) => return Ok(false),
                Err(error) => return Err(error.to_string()),
                Ok(Some((pid, status))) => {
                    let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
                    self.ended(pid, status)?;
                }
            }
        }
    }

    fn ended(&mut self, pid: u32, status: WaitStatus) -> Result<(), String> {
        let kind = self.alive.remove(&pid);
        let ours = self.killed.remove(&pid);
        // An nvidia-smi whose parent is gone, or a tenant that had not begun.
        if kind.is_none() && self.events_of(pid).is_empty() {
            return Ok(());
        }
        match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => Ok(()),
            (_, Some(signal)) if signal == Signal::KILL.as_raw() => {
                // Of a group; or evicted, and it did not go.
                let known = ours || kind.is_none() && self.groups_killed;
                if known || self.may_be_evicted(pid) {
                    Ok(())
                } else {
                    Err(format!("{pid} was killed by nobody of us"))
                }
            }
            (_, Some(signal)) if signal == Signal::TERM.as_raw() => {
                if self.may_be_evicted(pid) {
                    Ok(())
                } else {
                    Err(format!(
                        "{pid} was ended without consent: {:?}",
                        self.events_of(pid).last()
                    ))
                }
            }
            _ => {
                let last = self.events_of(pid).pop();
                Err(format!(
                    "{pid} ended with {status:?}: {}",
                    last.map_or_else(String::new, |event| event.what)
                ))
            }
        }
    }

    fn events_of(&self, pid: u32) -> Vec<events::Event> {
        events::of(&self.place.events(), pid)
    }

    /// Whether it had something where appliers evict, or might have been about to, a moment ago.
    fn may_be_evicted(&self, pid: u32) -> bool {
        let consented = format!("gpu={} ", self.place.roles.consent);
        let (mut wants, mut has, mut until) = (false, false, None);
        for event in self.events_of(pid) {
            let there = event.what.contains(&consented);
            let (wanted, had) = (wants, has);
            match event.what.split(' ').next() {
                Some("wants") => wants = there,
                Some("holds" | "inherits" | "tenant") => (wants, has) = (false, has || there),
                Some("done") if event.what.starts_with("done lease") => {
                    (wants, has) = (false, false)
                }
                _ => {}
            }
            if (wanted || had) && !(wants || has) {
                until = Some(event.at);
            }
        }
        let late = now() - EVICTED_LATE;
        wants || has || until.is_some_and(|until| until > late)
    }

    /// Who has a share by its mark has it by the list.
    fn compare_leases(&mut self, node: &Node) -> Result<(), String> {
        let marks = self.place.marks();
        let failed = |error: std::io::Error| error.to_string();
        let before = mark::living(&marks).map_err(failed)?;
        let list = match node.leases() {
            Ok(list) => list,
            // Others change it this moment.
            Err(error) if matches!(error.code(), ErrorCode::Locked | ErrorCode::Stale) => {
                return Ok(());
            }
            Err(error) => return Err(format!("the list of leases: {error:?}")),
        };
        let after = mark::living(&marks).map_err(failed)?;
        self.figures.lists += 1;
        let listed = list.gpus.iter().flat_map(|gpu| &gpu.shares).chain(&list.void);
        let leased: BTreeSet<String> =
            listed.filter(|share| share.is_leased()).map(|share| share.id.to_string()).collect();
        match before.intersection(&after).find(|(share, _)| !leased.contains(share)) {
            None => Ok(()),
            Some((share, token)) => {
                Err(format!("{share} is held by {token:?}, and the list does not say so: {list:?}"))
            }
        }
    }

    /// They are told to stop, and do.
    fn stop(&mut self, watch: &mut Watch) -> Result<(), String> {
        std::fs::write(self.place.stop(), "").map_err(|error| error.to_string())?;
        let end = Instant::now() + PATIENCE;
        while self.reap()? {
            watch.look()?;
            if Instant::now() > end {
                return Err(format!("{:?} hang", self.alive));
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends whoever is still there, with all that they started.
    pub(super) fn end_all(&mut self) -> Result<(), String> {
        self.groups_killed = true;
        let groups: Vec<u32> = self.alive.keys().copied().collect();
        let end = Instant::now() + PATIENCE;
        self.killed.extend(&groups);
        let mut first = Ok(());
        loop {
            for pid in &groups {
                let process = i32::try_from(*pid).ok().and_then(Pid::from_raw);
                let _ = process.map(|group| kill_process_group(group, Signal::KILL));
            }
            match self.reap() {
                Ok(true) => {}
                Ok(false) => return first,
                // Nobody is left behind for that.
                Err(why) => first = first.and(Err(why)),
            }
            if Instant::now() > end {
                return Err("processes that were killed do not end".to_owned());
            }
            sleep(Duration::from_millis(2));
        }
    }
}
