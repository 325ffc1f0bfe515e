//! Commands that change something: all of them through a plan.

use std::ffi::OsString;
use std::path::Path;

use crate::apply::report::Recovered;
use crate::apply::{self, ApplyOptions, Event, Source};
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::node::Node;
use crate::plan::explain::Given;
use crate::plan::{self, Plan, Request, Step};
use crate::snapshot::Snapshot;
use crate::snapshot::draw::slices;
use crate::spec::{self, Entry, Selector, Spec, Want};
use crate::terminal::printable_lines;

use super::arguments::Consent;
use super::colour;
use super::container;
use super::interrupt::Interrupt;
use super::output::{Output, say};
use super::progress::Progress;
use super::{Answer, FAILED};

/// How often a request that follows from the state of a GPU is made anew when others changed it.
const MOST_TRIES: usize = 10;

/// Something to do to a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) node: &'a Node,
    pub(super) output: &'a Output,
    /// How this command is started again.
    pub(super) own: &'a [OsString],
    pub(super) consent: &'a Consent,
}

/// A request that follows from a snapshot, with what its plan must be.
pub(super) struct Derived<'a> {
    pub(super) request: Request,
    /// Refuses a plan that does another thing than was asked for.
    pub(super) guard: Guard<'a>,
    /// Whether it means the same when others have changed the GPUs meanwhile.
    pub(super) lasting: bool,
}

/// Says no to some plans.
pub(super) type Guard<'a> = Box<dyn Fn(&Plan) -> Result<()> + 'a>;

/// `plan`, and `--dry-run`.
pub(super) fn show_plan(node: &Node, output: &Output, plan: &Plan, given: Given) -> Result<Answer> {
    expect_startable(node, plan)?;
    if output.json {
        output.document(plan)?;
    } else {
        output.text(&printable_lines(&plan.told(given).to_string()))?;
    }
    Ok(if plan.noop { Answer::Yes } else { Answer::No })
}

/// Refuses a plan with MPS daemons for users and groups that are not there, or that cannot be started
/// here. What may be otherwise for who applies it, or later, is a warning.
fn expect_startable(node: &Node, plan: &Plan) -> Result<()> {
    let starts = |step: &Step| matches!(step, Step::StartMps { .. });
    if !plan.changed().any(|gpu| gpu.steps.iter().any(starts)) {
        return Ok(());
    }
    match apply::expect_startable(node.ports(), plan, &node.snapshot()?) {
        Err(error)
            if !matches!(
                error.code(),
                ErrorCode::NotFound | ErrorCode::InvalidArgument | ErrorCode::Unsupported
            ) =>
        {
            say(&format!("gpushare: warning: to apply this as it is now is refused: {error}"));
            Ok(())
        }
        other => other,
    }
}

impl Change<'_> {
    /// `--dry-run`: the plan, and whether CDI specifications would change where no GPU does.
    fn show(&self, plan: &Plan) -> Result<Answer> {
        let wanted = container::specifications(self.node, self.own, &self.consent.specifications)?;
        let settled = self.node.has_specifications(&wanted, plan)?;
        let answer = show_plan(self.node, self.output, plan, self.consent.given())?;
        if settled {
            return Ok(answer);
        }
        say("gpushare: CDI specifications of these GPUs would be written or removed");
        Ok(Answer::No)
    }

    /// Brings GPUs to what is asked for.
    pub(super) fn request(&self, request: &Request, expect: Option<&str>) -> Result<Answer> {
        if self.consent.dry_run {
            let plan = self.node.plan_request(request)?;
            expected(&plan, expect)?;
            return self.show(&plan);
        }
        self.apply(Source::Request(request), expect)
    }

    /// Brings GPUs to a spec, and shows the plan, what came of it, and the GPUs as they are then.
    pub(super) fn spec(&self, spec: Spec, expect: Option<&str>) -> Result<Answer> {
        let request = Request::Apply(spec);
        if self.consent.dry_run {
            return self.request(&request, expect);
        }
        let mut running = Running::begin(self)?;
        running.shows = !self.output.json;
        running.expect(expect);
        running.apply(Source::Request(&request))
    }

    /// Brings the same to each of these GPUs.
    pub(super) fn want(&self, gpus: &[GpuUuid], want: &Want) -> Result<Answer> {
        let select = gpus.iter().map(|gpu| Selector::Uuid(gpu.to_string())).collect();
        let spec = Spec { gpus: vec![Entry::new(select, want.clone())] };
        self.request(&Request::Apply(spec), None)
    }

    /// Does what follows from the state of the GPUs: exactly that, or nothing.
    ///
    /// `gpus` says whose state that is. What a dead applier left there is settled first: nothing
    /// follows from a state that is none.
    pub(super) fn derived<'r>(
        &self,
        gpus: impl Fn(&Snapshot) -> Result<Vec<GpuUuid>>,
        derive: impl Fn(&Snapshot) -> Result<Derived<'r>>,
    ) -> Result<Answer> {
        let mut running = Running::begin(self)?;
        for _ in 0..MOST_TRIES {
            let mut snapshot = self.node.snapshot()?;
            let unsettled =
                |gpu: &GpuUuid| snapshot.gpu(gpu).is_some_and(|gpu| gpu.unsettled.is_some());
            let left: Vec<_> = gpus(&snapshot)?.into_iter().filter(unsettled).collect();
            if !left.is_empty() && !self.consent.dry_run {
                running.settle(left)?;
                snapshot = self.node.snapshot()?;
            }
            let derived = derive(&snapshot)?;
            let plan = plan::plan_request(&snapshot, &derived.request)?;
            (derived.guard)(&plan)?;
            if self.consent.dry_run {
                return self.show(&plan);
            }
            match running.apply(Source::Plan(&plan)) {
                Err(error)
                    if error.code() == ErrorCode::Stale
                        && error.outcome() == Outcome::Untouched
                        && derived.lasting => {}
                other => return other,
            }
        }
        Err(Error::new(
            ErrorCode::Stale,
            "others change the GPUs again and again; ask again when they are done",
        ))
    }

    fn apply(&self, source: Source<'_>, expect: Option<&str>) -> Result<Answer> {
        let mut running = Running::begin(self)?;
        running.expect(expect);
        running.apply(source)
    }
}

/// A change that is being carried out, until Ctrl-C.
struct Running<'a> {
    change: &'a Change<'a>,
    options: ApplyOptions,
    interrupt: Interrupt,
    progress: Progress,
    /// What was settled before.
    recovered: Vec<Recovered>,
    /// Whether the plan and the GPUs afterwards are shown too.
    shows: bool,
}

impl<'a> Running<'a> {
    fn begin(change: &'a Change<'a>) -> Result<Self> {
        let consent = change.consent;
        let mut options = consent.options();
        if let Some(directory) = &consent.hooks {
            options = options.hooks(change.node.hooks(directory, consent.hook_timeout)?);
        }
        options = options.cdi(container::specifications(
            change.node,
            change.own,
            &consent.specifications,
        )?);
        Ok(Self {
            change,
            options,
            interrupt: Interrupt::listen()?,
            progress: Progress::new(change.node),
            recovered: Vec::new(),
            shows: false,
        })
    }

    fn expect(&mut self, digest: Option<&str>) {
        if let Some(digest) = digest {
            self.options = self.options.clone().expect(digest);
        }
    }

    fn settle(&mut self, gpus: Vec<GpuUuid>) -> Result<()> {
        let recovered = self.change.node.settle(gpus, &self.options, |event| {
            self.progress.tell(event);
            self.interrupt.flow()
        })?;
        self.recovered.extend(recovered);
        Ok(())
    }

    fn apply(&mut self, source: Source<'_>) -> Result<Answer> {
        let output = self.change.output;
        let (mut planned, mut notes) = (None, Vec::new());
        let mut report = self.change.node.apply_with(source, &self.options, |event| {
            if let Event::Planned { plan } = event {
                planned = self.shows.then(|| output.show(plan));
                notes = noted(plan);
            }
            self.progress.tell(event);
            self.interrupt.flow()
        })?;
        report.recovered.splice(0..0, self.recovered.drain(..));
        if self.shows {
            let text = report.to_string();
            match planned {
                // The plan has said already that the node is simulated.
                Some(_) => output.text(&text.replacen("SIMULATED\n", "\n", 1))?,
                None => output.text(&text)?,
            };
            self.show_gpus(source)?;
        } else {
            output.show(&report)?;
            if !output.json {
                output.text(&printable_lines(&notes.concat()))?;
            }
        }
        // What a hook was to start again may stand still.
        Ok(if report.failed_hooks.is_empty() { Answer::Yes } else { Answer::Of(FAILED) })
    }

    /// The GPUs of what was applied. The change is done: that they cannot be shown is no error.
    fn show_gpus(&self, source: Source<'_>) -> Result<()> {
        let shown = self.change.node.snapshot().and_then(|mut snapshot| {
            let plan = plan::plan_request(&snapshot, source.request())?;
            snapshot.gpus.retain(|gpu| plan.gpu(&gpu.uuid).is_some());
            Ok(snapshot)
        });
        match shown {
            Ok(snapshot) => {
                let mut page = colour::page(self.change.output);
                slices(&mut page, &snapshot);
                self.change.output.text(&page.into_text())?;
            }
            Err(error) => say(&format!("gpushare: warning: the GPUs cannot be shown: {error}")),
        }
        Ok(())
    }
}

/// From which mode to which each GPU went, and what the plan says of it beside its steps, in lines.
fn noted(plan: &Plan) -> Vec<String> {
    let mut gpus: Vec<_> = plan.changed().collect();
    gpus.sort_by_key(|gpu| gpu.index);
    let lines = gpus.into_iter().flat_map(|gpu| {
        let name = gpu.index.map_or_else(|| gpu.uuid.to_string(), |index| index.to_string());
        let modes = if gpu.from == gpu.to {
            gpu.to.to_string()
        } else {
            format!("{} -> {}", gpu.from, gpu.to)
        };
        let steps = match gpu.steps.len() {
            1 => "1 step".to_owned(),
            count => format!("{count} steps"),
        };
        let done = format!("GPU {name}: {modes}, {steps}\n");
        let notes = gpu.notes.iter().map(move |note| format!("GPU {name}: {note}\n"));
        std::iter::once(done).chain(notes)
    });
    lines.collect()
}

fn expected(plan: &Plan, expect: Option<&str>) -> Result<()> {
    match expect {
        Some(digest) if plan.digest != digest => Err(apply::stale(digest, &plan.digest)),
        _ => Ok(()),
    }
}

/// `recover`.
pub(super) fn recover(
    node: &Node,
    output: &Output,
    discard: Option<&str>,
    options: &ApplyOptions,
) -> Result<Answer> {
    if let Some(journal) = discard {
        let place = node.discard(journal)?;
        if output.json {
            output.document(&serde_json::json!({
                "schema": "gpushare.discard/v1",
                "simulated": node.is_simulated(),
                "journal": journal,
                "place": place,
            }))?;
        } else {
            let simulated = if node.is_simulated() { "SIMULATED\n" } else { "" };
            output.text(&format!(
                "{simulated}Set aside as {place}; the GPUs were left as they are.\n"
            ))?;
        }
        return Ok(Answer::Yes);
    }
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new(node);
    let report = node.recover_with(options, |event| {
        progress.tell(event);
        interrupt.flow()
    })?;
    output.show(&report)?;
    Ok(Answer::Yes)
}

/// The spec in a file or a pipe, or from standard input.
pub(super) fn read_spec(path: &Path) -> Result<Spec> {
    let (name, bytes) = read(path)?;
    Spec::from_bytes(&bytes).map_err(|error| error.context(name))
}

/// What stands in a file or a pipe, or comes from standard input, and what errors call it. Of more than a
/// spec may have, a byte more is read.
pub(super) fn read(path: &Path) -> Result<(String, Vec<u8>)> {
    if path.as_os_str() == "-" {
        let name = Path::new("standard input");
        let bytes = spec::file::read(name, std::io::stdin().lock())?;
        return Ok((name.display().to_string(), bytes));
    }
    Ok((path.display().to_string(), spec::file::read_file_or_pipe(path)?))
}
