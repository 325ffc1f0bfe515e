//! `restore`: what a reboot took from the GPUs, brought back from where `persist` put it.

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
use crate::plan::restore::{Stored, Verdict, apart, judge};
use crate::plan::{self, Plan, select};
use crate::snapshot::Snapshot;
use crate::spec::Spec;
use crate::state::restored;
use crate::terminal::{count, printable_lines};

use super::Answer;
use super::arguments::{Timeout, seconds, timeout};
use super::change;
use super::interrupt::Interrupt;
use super::output::{Output, say};
use super::progress::Progress;

const SCHEMA: &str = "gpushare.restore/v1";

/// How often a driver is looked for that is not there yet.
const EVERY: Duration = Duration::from_secs(1);

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
    let spec = match file.read()? {
        Some(text) => Spec::from_bytes(&text).map_err(|error| error.context(place.clone()))?,
        // Their directory does not outlive the machine's life, whether a spec is stored or not.
        None if arguments.file.is_none() && node.keeps_specifications()? => Spec::default(),
        None => {
            let why = format!("there is no {place}: nothing was stored with `gpushare persist`");
            return Err(Error::new(ErrorCode::NotFound, why));
        }
    };
    let mut restoring = Restoring {
        node,
        arguments,
        interrupt: Interrupt::listen()?,
        progress: Progress::new(node),
        errors: Vec::new(),
        done: Vec::new(),
        written: Vec::new(),
    };
    let (snapshot, stored) =
        restoring.wait_for(&spec).map_err(|error| error.context(place.clone()))?;
    restoring.errors.extend(stored.missing.iter().cloned());
    if arguments.dry_run {
        return restoring.show(output, &snapshot, &stored);
    }
    restoring.bring_back(&snapshot, stored)?;
    // Those of GPUs that were left alone too: their directory did not outlive the machine's life.
    match node.refresh_specifications() {
        Ok(written) => restoring.written = written,
        Err(error) => restoring.errors.push(error),
    }
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
    /// CDI specifications.
    written: Vec<PathBuf>,
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
                "schema": SCHEMA,
                "simulated": simulated,
                "file": place,
                "gpus": self.done,
                "cdi_specifications": self.written,
            }))?;
            return Ok(Answer::Yes);
        }
        let mut text = if simulated { "SIMULATED\n".to_owned() } else { String::new() };
        if self.done.is_empty() && !self.errors.is_empty() {
            self.tell_errors()?;
        }
        let as_stored = self.done.iter().all(|done| done.result == "as_stored");
        if as_stored && self.errors.is_empty() && self.written.is_empty() {
            text.push_str("Nothing to do.\n");
        } else {
            self.done.iter().for_each(|done| text.push_str(&done.line()));
        }
        for path in &self.written {
            text.push_str(&format!("CDI specification {}: written\n", path.display()));
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
