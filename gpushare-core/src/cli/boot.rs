//! `persist` and `restore`: what a reboot takes from the GPUs, kept in a file and brought back.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::apply::{ApplyOptions, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::hazard::HazardName;
use crate::id::{GpuIndex, GpuUuid};
use crate::mode::SharingMode;
use crate::node::Node;
use crate::plan::explain::Given;
use crate::plan::restore::{Stored, Verdict, apart, for_boot, judge};
use crate::plan::{self, Plan, select};
use crate::snapshot::Snapshot;
use crate::spec::Spec;
use crate::state::restored;
use crate::terminal::{count, printable, printable_lines};

use super::Answer;
use super::arguments::{Timeout, seconds, timeout};
use super::change;
use super::interrupt::Interrupt;
use super::output::{Output, say};
use super::progress::Progress;

const PERSIST_SCHEMA: &str = "gpushare.persist/v1";
const RESTORE_SCHEMA: &str = "gpushare.restore/v1";

/// How often a driver is looked for that is not there yet.
const EVERY: Duration = Duration::from_secs(1);

/// What is stored, and where.
#[derive(Debug, Args)]
pub(super) struct Persist {
    /// Store this spec, if it is in force; exit status 2 when it is not [default: what is in force]
    #[arg(conflicts_with = "remove")]
    spec: Option<PathBuf>,
    /// In that file [default: /etc/gpushare/node.yaml, with --state-dir DIR/etc/node.yaml]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take away what is stored
    #[arg(long)]
    remove: bool,
}

/// From where it is restored, and how.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// From that file [default: /etc/gpushare/node.yaml, with --state-dir DIR/etc/node.yaml]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Wait that many seconds for the driver and for GPUs that are not there yet
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    wait: Duration,
    /// Restore GPUs too that were changed since the driver was loaded
    #[arg(long)]
    force: bool,
    /// Show what would be done; exit status 2 when that is something
    #[arg(long)]
    dry_run: bool,
    /// Reset a GPU where that is the only way
    #[arg(long)]
    allow_reset: bool,
    /// Wait that long for another apply: seconds, or none for ever
    #[arg(long, value_name = "S", default_value = "0", value_parser = timeout)]
    timeout: Timeout,
}

/// `persist`.
pub(super) fn persist(node: &Node, output: &Output, arguments: &Persist) -> Result<Answer> {
    let file = node.stored_spec(arguments.file.as_deref())?;
    let place = file.path();
    if arguments.remove {
        file.remove()?;
        return stored(node, output, &place.display().to_string(), None, &[]);
    }
    let (spec, unsayable, snapshot) = match &arguments.spec {
        Some(path) => {
            let spec = change::read_spec(path)?;
            let snapshot = node.snapshot_for(&spec)?;
            if !in_force(node, &snapshot, &spec)? {
                say("gpushare: nothing is stored: this spec is not in force; apply it first");
                let plan = plan::plan(&snapshot, &spec)?;
                return change::show_plan(node, output, &plan, Given::default());
            }
            (for_boot(spec, snapshot.caller_uid)?, Vec::new(), snapshot)
        }
        None => {
            let (spec, unsayable) = node.spec_in_force()?;
            if spec.gpus.is_empty() {
                return Err(nothing_in_force(&unsayable));
            }
            (spec, unsayable, node.snapshot()?)
        }
    };
    let text = document(&snapshot, &spec, &unsayable, node.ports().clock.unix_time())?;
    // What cannot be read back would be found out at the next boot.
    match Spec::from_bytes(text.as_bytes()) {
        Ok(read) if read == spec => {}
        read => {
            let why = read.map_or_else(|error| error.to_string(), |_| "it changed".to_owned());
            let why = format!("the spec in force cannot be written as a file: {why}");
            return Err(Error::new(ErrorCode::InvalidState, why));
        }
    }
    file.write(text.as_bytes())?;
    stored(node, output, &place.display().to_string(), Some(&spec), &unsayable)
}

/// Whether each GPU that a spec means is as it says.
fn in_force(node: &Node, snapshot: &Snapshot, spec: &Spec) -> Result<bool> {
    let stored = apart(snapshot, spec)?;
    if let Some(missing) = stored.missing.into_iter().next() {
        return Err(missing);
    }
    for (_, spec) in stored.gpus {
        // As `restore` looks at it: by itself.
        if !node.plan(&spec)?.noop {
            return Ok(false);
        }
    }
    Ok(true)
}

fn nothing_in_force(unsayable: &[String]) -> Error {
    let mut why = "there is nothing to store: gpushare manages no GPU here, and none has MIG \
        instances; apply a spec first (`persist --remove` takes away what was stored before)"
        .to_owned();
    for what in unsayable {
        let _ = write!(why, "; no spec can say this: {what}");
    }
    Error::new(ErrorCode::InvalidState, why)
}

/// Tells what is stored now.
fn stored(
    node: &Node,
    output: &Output,
    place: &str,
    spec: Option<&Spec>,
    unsayable: &[String],
) -> Result<Answer> {
    if output.json {
        output.document(&json!({
            "schema": PERSIST_SCHEMA,
            "simulated": node.is_simulated(),
            "file": place,
            "spec": spec,
            "cannot_say": unsayable,
        }))?;
        return Ok(Answer::Yes);
    }
    for what in unsayable {
        say(&format!("gpushare: not stored, no spec can say this: {what}"));
    }
    let mut text = if node.is_simulated() { "SIMULATED\n".to_owned() } else { String::new() };
    let _ = match spec {
        Some(spec) => write!(text, "Stored in {place} for `gpushare restore`:\n\n{spec}"),
        None => writeln!(text, "Nothing is stored in {place}."),
    };
    output.text(&printable_lines(&text))?;
    Ok(Answer::Yes)
}

/// The file: a head for people, and the spec.
fn document(snapshot: &Snapshot, spec: &Spec, unsayable: &[String], now: u64) -> Result<String> {
    let mut head = format!("# Stored by gpushare persist, {}", utc(now));
    if let Some(uid) = snapshot.caller_uid {
        let _ = write!(head, ", by user {uid}");
    }
    head.push_str(". gpushare restore brings these GPUs to it:\n");
    for (gpu, _) in apart(snapshot, spec)?.gpus {
        let Some(gpu) = snapshot.gpu(&gpu) else { continue };
        let index = gpu.index.map_or_else(|| "-".to_owned(), |index| index.to_string());
        let _ = writeln!(head, "#   {index}  {}  {}", gpu.uuid, printable(&gpu.model));
    }
    for what in unsayable {
        let line = what.replace('\n', " ");
        let _ = writeln!(head, "# Not said here: {}", printable(&line));
    }
    Ok(format!("{head}{spec}"))
}

/// Seconds since 1970 as people read them: `2026-01-31 13:05 UTC`.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here: then the leap day is the last one.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year}-{month:02}-{of_month:02} {:02}:{:02} UTC", rest / 3_600, rest / 60 % 60)
}

/// What became of a GPU.
#[derive(Debug, Serialize)]
struct Done {
    gpu: GpuUuid,
    index: Option<GpuIndex>,
    result: &'static str,
    why: Option<&'static str>,
    from: Option<SharingMode>,
    to: Option<SharingMode>,
    steps: usize,
    hazards: Vec<HazardName>,
}

/// `restore`.
pub(super) fn restore(node: &Node, output: &Output, arguments: &Restore) -> Result<Answer> {
    let file = node.stored_spec(arguments.file.as_deref())?;
    let place = file.path().display().to_string();
    let text = file.read()?.ok_or_else(|| {
        let why = format!("there is no {place}: nothing was stored with `gpushare persist`");
        Error::new(ErrorCode::NotFound, why)
    })?;
    let spec = Spec::from_bytes(&text).map_err(|error| error.context(place.clone()))?;
    let mut restoring = Restoring {
        node,
        arguments,
        interrupt: Interrupt::listen()?,
        progress: Progress::new(node),
        errors: Vec::new(),
        done: Vec::new(),
    };
    let (snapshot, stored) =
        restoring.wait_for(&spec).map_err(|error| error.context(place.clone()))?;
    restoring.errors.extend(stored.missing.iter().cloned());
    if arguments.dry_run {
        return restoring.show(output, &snapshot, &stored);
    }
    restoring.bring_back(&snapshot, stored)?;
    restoring.answer(output, &place)
}

struct Restoring<'a> {
    node: &'a Node,
    arguments: &'a Restore,
    interrupt: Interrupt,
    progress: Progress,
    /// What went wrong with single GPUs: it keeps no other back.
    errors: Vec<Error>,
    done: Vec<Done>,
}

impl Restoring<'_> {
    /// The GPUs, once all are there that the spec names, or when the time is over those that are.
    fn wait_for(&self, spec: &Spec) -> Result<(Snapshot, Stored)> {
        let deadline = Instant::now() + self.arguments.wait;
        let mut told = false;
        loop {
            let late = Instant::now() >= deadline;
            let found = self.node.snapshot_for(spec).and_then(|snapshot| {
                let stored = apart(&snapshot, spec)?;
                let any = snapshot.gpus.iter().any(|gpu| gpu.mode != SharingMode::Lost);
                if any || !stored.missing.is_empty() {
                    return Ok((snapshot, stored));
                }
                Err(Error::new(ErrorCode::NotFound, "the driver has no GPU"))
            });
            let why = match found {
                Ok((snapshot, stored)) => match stored.missing.first() {
                    Some(missing) if !late => missing.to_string(),
                    _ => return Ok((snapshot, stored)),
                },
                Err(error)
                    if !late && matches!(error.code(), ErrorCode::NotFound | ErrorCode::Driver) =>
                {
                    error.to_string()
                }
                Err(error) => return Err(error),
            };
            if !std::mem::replace(&mut told, true) {
                let seconds = self.arguments.wait.as_secs_f64();
                say(&format!("gpushare: waiting up to {seconds} s: {why}"));
            }
            let next = (Instant::now() + EVERY).min(deadline);
            while Instant::now() < next {
                if self.interrupt.asked() {
                    let why = "stopped while waiting for the GPUs";
                    return Err(Error::new(ErrorCode::Interrupted, why));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn options(&self) -> ApplyOptions {
        ApplyOptions::new()
            .allow_reset(self.arguments.allow_reset)
            .timeout(self.arguments.timeout.0)
    }

    fn judge(&self, snapshot: &Snapshot, gpu: &GpuUuid, spec: &Spec) -> Result<Verdict> {
        let restored = restored::of(self.node.ports().store.as_ref(), gpu)?;
        judge(snapshot, gpu, spec, restored.as_ref(), self.arguments.force)
    }

    /// `--dry-run`.
    fn show(mut self, output: &Output, snapshot: &Snapshot, stored: &Stored) -> Result<Answer> {
        let mut pending = Spec::default();
        for (gpu, spec) in &stored.gpus {
            match self.judge(snapshot, gpu, spec) {
                Ok(Verdict::Restore(_)) => pending.gpus.extend(spec.gpus.iter().cloned()),
                Ok(Verdict::AsStored) => {}
                Ok(Verdict::Left(why)) => say(&left(snapshot, gpu, why)),
                Err(error) => self.errors.push(error),
            }
        }
        self.tell_errors()?;
        let plan = plan::plan(snapshot, &pending)?;
        let (reset, hazards) = (self.arguments.allow_reset, hazards(&plan));
        let given = Given { reset, hazards, ..Given::default() };
        change::show_plan(self.node, output, &plan, given)
    }

    /// Each GPU by itself: one that cannot be restored keeps no other back.
    fn bring_back(&mut self, snapshot: &Snapshot, mut stored: Stored) -> Result<()> {
        // What a dead applier left says nothing of what somebody decided.
        let unsettled: Vec<_> = stored
            .gpus
            .iter()
            .filter(|(gpu, _)| snapshot.gpu(gpu).is_some_and(|gpu| gpu.unsettled.is_some()))
            .map(|(gpu, _)| gpu.clone())
            .collect();
        let options = self.options();
        for gpu in &unsettled {
            let (progress, interrupt) = (&mut self.progress, &self.interrupt);
            let settled = self.node.settle(vec![gpu.clone()], &options, |event| {
                progress.tell(event);
                interrupt.flow()
            });
            if let Err(error) = settled {
                self.failed(snapshot, gpu, error)?;
                stored.gpus.retain(|(other, _)| other != gpu);
            }
        }
        for (gpu, spec) in &stored.gpus {
            // As the plan of this one alone sees it; it took a while to come to it.
            let judged = self.node.snapshot_for(spec).and_then(|snapshot| {
                let verdict = self.judge(&snapshot, gpu, spec)?;
                Ok((snapshot, verdict))
            });
            match judged {
                Ok((snapshot, Verdict::Restore(plan))) => self.apply(&snapshot, gpu, &plan)?,
                Ok((snapshot, Verdict::AsStored)) => {
                    // Where it may not be noted, nothing was changed that would need it.
                    let _ = self.note(&snapshot, gpu);
                    self.done.push(Done::unchanged(&snapshot, gpu, "as_stored", None));
                }
                Ok((snapshot, Verdict::Left(why))) => {
                    self.done.push(Done::unchanged(&snapshot, gpu, "left_alone", Some(why)));
                }
                Err(error) => self.failed(snapshot, gpu, error)?,
            }
        }
        Ok(())
    }

    fn apply(&mut self, snapshot: &Snapshot, gpu: &GpuUuid, plan: &Plan) -> Result<()> {
        let hazards = hazards(plan);
        let options =
            hazards.iter().fold(self.options(), |options, &hazard| options.allow_hazard(hazard));
        let (progress, interrupt) = (&mut self.progress, &self.interrupt);
        let applied = self.node.apply_with(Source::Plan(plan), &options, |event| {
            progress.tell(event);
            interrupt.flow()
        });
        if let Err(error) = applied {
            return self.failed(snapshot, gpu, error);
        }
        if let Err(error) = self.note(snapshot, gpu) {
            say(&format!(
                "gpushare: warning: that GPU {gpu} was restored cannot be noted: {error}"
            ));
        }
        let planned = plan.gpu(gpu);
        self.done.push(Done {
            from: planned.map(|planned| planned.from),
            to: planned.map(|planned| planned.to),
            steps: plan.step_count(),
            hazards,
            ..Done::unchanged(snapshot, gpu, "restored", None)
        });
        Ok(())
    }

    /// Notes that a GPU is as stored in this life of machine and driver.
    fn note(&self, snapshot: &Snapshot, gpu: &GpuUuid) -> Result<()> {
        let store = self.node.ports().store.as_ref();
        if restored::of(store, gpu)?.as_ref() == Some(&snapshot.epoch) {
            return Ok(());
        }
        restored::note(store, gpu, &snapshot.epoch)
    }

    /// Keeps what went wrong with one GPU. Who asked to stop is obeyed at once.
    fn failed(&mut self, snapshot: &Snapshot, gpu: &GpuUuid, error: Error) -> Result<()> {
        if error.code() == ErrorCode::Interrupted {
            return Err(error);
        }
        let error = error.of_gpu(gpu);
        let named = error.to_string().contains(gpu.as_str());
        let name = snapshot.gpu(gpu).map_or_else(|| gpu.to_string(), select::name);
        self.errors.push(if named { error } else { error.context(format!("GPU {name}")) });
        Ok(())
    }

    /// The last error is the answer; those before it are said.
    fn tell_errors(&mut self) -> Result<()> {
        let last = self.errors.pop();
        for error in self.errors.drain(..) {
            say(&format!("gpushare: {}: {error}", error.code()));
        }
        last.map_or(Ok(()), Err)
    }

    fn answer(mut self, output: &Output, place: &str) -> Result<Answer> {
        let simulated = self.node.is_simulated();
        if output.json {
            self.tell_errors()?;
            output.document(&json!({
                "schema": RESTORE_SCHEMA,
                "simulated": simulated,
                "file": place,
                "gpus": self.done,
            }))?;
            return Ok(Answer::Yes);
        }
        let mut text = if simulated { "SIMULATED\n".to_owned() } else { String::new() };
        if self.done.is_empty() && !self.errors.is_empty() {
            self.tell_errors()?;
        }
        if self.done.iter().all(|done| done.result == "as_stored") && self.errors.is_empty() {
            text.push_str("Nothing to do.\n");
        } else {
            self.done.iter().for_each(|done| text.push_str(&done.line()));
        }
        output.text(&printable_lines(&text))?;
        self.tell_errors()?;
        Ok(Answer::Yes)
    }
}

/// The hazards that a stored spec needs: who stored it had accepted them by name, for they were in force.
fn hazards(plan: &Plan) -> Vec<HazardName> {
    let mut names: Vec<_> = plan.needs.hazards.iter().map(|hazard| hazard.hazard.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn named(index: Option<GpuIndex>, gpu: &GpuUuid) -> String {
    index.map_or_else(|| gpu.to_string(), |index| index.to_string())
}

fn left(snapshot: &Snapshot, gpu: &GpuUuid, why: &str) -> String {
    let index = snapshot.gpu(gpu).and_then(|gpu| gpu.index);
    format!("GPU {}: left alone: {why} (--force restores it)", named(index, gpu))
}

impl Done {
    fn unchanged(
        snapshot: &Snapshot,
        gpu: &GpuUuid,
        result: &'static str,
        why: Option<&'static str>,
    ) -> Self {
        let index = snapshot.gpu(gpu).and_then(|gpu| gpu.index);
        let (from, to, steps, hazards) = (None, None, 0, Vec::new());
        Self { gpu: gpu.clone(), index, result, why, from, to, steps, hazards }
    }

    fn line(&self) -> String {
        let mut line = format!("GPU {}: ", named(self.index, &self.gpu));
        match (self.why, self.from, self.to) {
            (Some(why), ..) => {
                let _ = write!(line, "left alone: {why} (--force restores it)");
            }
            (None, Some(from), Some(to)) => {
                let modes = if from == to { to.to_string() } else { format!("{from} -> {to}") };
                let _ = write!(line, "restored: {modes}, {}", count(self.steps, "step"));
            }
            _ => line.push_str("as stored"),
        }
        for hazard in &self.hazards {
            let _ = write!(line, ", hazard {hazard} accepted since it was in force when stored");
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
