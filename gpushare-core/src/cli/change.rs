//! Commands that change something: all of them through a plan.

use std::path::Path;

use crate::apply::{ApplyOptions, Source};
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::node::Node;
use crate::plan::{self, Plan, Request};
use crate::snapshot::Snapshot;
use crate::spec::{Entry, Selector, Spec, Want};

use super::Answer;
use super::arguments::Consent;
use super::interrupt::Interrupt;
use super::output::Output;
use super::progress::Progress;

/// A spec is refused above 1 MiB; one byte more tells.
const MOST_SPEC_BYTES: u64 = (1 << 20) + 1;

/// How often a request that follows from the state of a GPU is made anew when others changed it.
const MOST_TRIES: usize = 10;

/// Something to do to a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) node: &'a Node,
    pub(super) output: &'a Output,
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
pub(super) fn show_plan(output: &Output, plan: &Plan) -> Result<Answer> {
    output.show(plan)?;
    Ok(if plan.noop { Answer::Yes } else { Answer::No })
}

impl Change<'_> {
    /// Brings GPUs to what is asked for.
    pub(super) fn request(&self, request: &Request, expect: Option<&str>) -> Result<Answer> {
        if self.consent.dry_run {
            let plan = self.node.plan_request(request)?;
            expected(&plan, expect)?;
            return show_plan(self.output, &plan);
        }
        self.apply(Source::Request(request), None, expect)
    }

    /// Brings the same to each of these GPUs.
    pub(super) fn want(
        &self,
        snapshot: &Snapshot,
        gpus: &[GpuUuid],
        want: &Want,
    ) -> Result<Answer> {
        let select = gpus.iter().map(|gpu| Selector::Uuid(gpu.to_string())).collect();
        let spec = Spec { gpus: vec![Entry::new(select, want.clone())] };
        let request = Request::Apply(spec);
        if self.consent.dry_run {
            return self.request(&request, None);
        }
        self.apply(Source::Request(&request), Some(snapshot), None)
    }

    /// Does what follows from the state of the GPUs: exactly that, or nothing.
    pub(super) fn derived<'r>(
        &self,
        derive: impl Fn(&Snapshot) -> Result<Derived<'r>>,
    ) -> Result<Answer> {
        for attempt in 1.. {
            let snapshot = self.node.snapshot()?;
            let derived = derive(&snapshot)?;
            let plan = plan::plan_request(&snapshot, &derived.request)?;
            (derived.guard)(&plan)?;
            if self.consent.dry_run {
                return show_plan(self.output, &plan);
            }
            let result = self.apply(Source::Plan(&plan), Some(&snapshot), None);
            match result {
                Err(error)
                    if error.code() == ErrorCode::Stale
                        && error.outcome() == Outcome::Untouched
                        && derived.lasting
                        && attempt < MOST_TRIES => {}
                other => return other,
            }
        }
        Err(Error::new(ErrorCode::Stale, "the GPUs change all the time"))
    }

    fn apply(
        &self,
        source: Source<'_>,
        snapshot: Option<&Snapshot>,
        expect: Option<&str>,
    ) -> Result<Answer> {
        let options = self.consent.options();
        let options = match expect {
            Some(digest) => options.expect(digest),
            None => options,
        };
        let interrupt = Interrupt::listen()?;
        let mut progress = Progress::new(snapshot);
        let report = self.node.apply_with(source, &options, |event| {
            progress.tell(event);
            interrupt.flow()
        })?;
        self.output.show(&report)?;
        Ok(Answer::Yes)
    }
}

fn expected(plan: &Plan, expect: Option<&str>) -> Result<()> {
    match expect {
        Some(digest) if plan.digest != digest => Err(Error::new(
            ErrorCode::Stale,
            format!(
                "the GPUs or the spec are no longer as they were planned for: expected digest {digest}, found {}; plan again",
                plan.digest
            ),
        )),
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
    let mut progress = Progress::new(None);
    let report = node.recover_with(options, |event| {
        progress.tell(event);
        interrupt.flow()
    })?;
    output.show(&report)?;
    Ok(Answer::Yes)
}

/// The spec in a file, or from standard input.
pub(super) fn read_spec(path: &Path) -> Result<Spec> {
    use std::io::Read as _;
    let (name, read) = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(MOST_SPEC_BYTES).read_to_end(&mut bytes);
        (Path::new("standard input"), read.map(|_| bytes))
    } else {
        let read = std::fs::File::open(path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(MOST_SPEC_BYTES).read_to_end(&mut bytes).map(|_| bytes)
        });
        (path, read)
    };
    let bytes = read.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorCode::InvalidArgument, format!("there is no file {}", name.display()))
        }
        _ => Error::io("read", name, error),
    })?;
    Spec::from_bytes(&bytes).map_err(|error| error.context(name.display().to_string()))
}
