//! A program that applies specs through the real backend, for tests that need it in a process of
//! its own: to count its driver calls, to kill it, to let two of them race.
//!
//! `applier apply SPEC`, `applier planned SPEC` (plans, waits for a line of input, applies the
//! plan), `applier wait SPEC` (waits for another applier), `applier calls SPEC` (applies, and
//! prints the numbers of the calls of NVML's port that change something), `applier die NUMBER
//! before|after SPEC` (applies, and is as if dead at that call), `applier recover`, `applier
//! states`. The node is the one that the environment names. An error is a line that begins with
//! its code.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;

use gpushare_core::apply::Source;
use gpushare_core::backend::sim::{Death, Fault, Faults};
use gpushare_core::observe::Scope;
use gpushare_core::plan::state::GpuState;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Node, Outcome, Report, Result, Spec};
use serde_json::json;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (text, status) = match run(&arguments) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => {
            (format!("{} {}: {error}", error.code().name(), error.outcome()), ExitCode::FAILURE)
        }
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: &[&str]) -> Result<String> {
    let node = Node::open()?;
    let options = ApplyOptions::new();
    match *arguments {
        ["apply", spec] => node.apply(&spec.parse()?, &options).map(said),
        ["wait", spec] => {
            expect_line()?;
            node.apply(&spec.parse()?, &options.timeout(None)).map(said)
        }
        ["planned", spec] => {
            let plan = node.plan(&spec.parse()?)?;
            expect_line()?;
            node.apply_with(Source::Plan(&plan), &options, |_| ControlFlow::Continue(())).map(said)
        }
        ["calls", spec] => {
            let (ports, faults) = Faults::wrap(node.ports().clone());
            Node::with_ports(ports, false).apply(&spec.parse()?, &options)?;
            let calls = faults.calls();
            let changes =
                calls.iter().filter(|call| call.mutating && call.name.starts_with("nvml."));
            Ok(json!(changes.map(|call| call.number).collect::<Vec<_>>()).to_string())
        }
        ["die", number, place, spec] => die(&node, number, place, &spec.parse()?),
        ["recover"] => {
            let store = node.ports().store.as_ref();
            // One line each, after the first, which says what was to be done.
            let mut entries = Vec::new();
            for name in store.list("journal")? {
                let journal = store.read(&format!("journal/{name}"))?.unwrap_or_default();
                entries
                    .push(journal.iter().filter(|&&byte| byte == b'\n').count().saturating_sub(1));
            }
            let report = node.recover()?;
            let settled: Vec<_> = report.recovered.iter().map(|found| found.settled).collect();
            let journals = store.list("journal")?;
            Ok(json!({
                "entries": entries,
                "settled": settled,
                "journals": journals,
                "states": states(&node)?,
            })
            .to_string())
        }
        ["states"] => Ok(json!(states(&node)?).to_string()),
        _ => Err(Error::new(ErrorCode::InvalidArgument, "see the first lines of applier.rs")),
    }
}

fn said(report: Report) -> String {
    format!("{} {}", json!(report.outcome), report.steps)
}

fn states(node: &Node) -> Result<Vec<GpuState>> {
    let snapshot = node.observer()?.snapshot(&Scope::all())?;
    Ok(snapshot.gpus.iter().map(GpuState::of).collect())
}

/// Applies with ports that die at a call: what the process was about to do it does no more.
fn die(node: &Node, number: &str, place: &str, spec: &Spec) -> Result<String> {
    let invalid = |what: &str| Error::new(ErrorCode::InvalidArgument, what.to_owned());
    let number = number.parse().map_err(|_| invalid("the call is no number"))?;
    let death = match place {
        "before" => Death::Before,
        "after" => Death::After,
        _ => return Err(invalid("it dies before or after the call")),
    };
    let (ports, faults) = Faults::wrap(node.ports().clone());
    faults.at(number, Fault::Die(death));
    let result = Node::with_ports(ports, false).apply(spec, &ApplyOptions::new());
    match result {
        Err(error) if faults.is_dead() => Ok(format!("dead: {error}")),
        Err(error) => Err(error),
        Ok(_) => {
            Err(Error::new(ErrorCode::InvalidState, "it is alive")
                .with_outcome(Outcome::Indeterminate))
        }
    }
}

/// Says that it is ready, and waits until it is told to go.
fn expect_line() -> Result<()> {
    let failed =
        |error| Error::new(ErrorCode::Io, "nobody tells the applier to go on").with_source(error);
    writeln!(std::io::stdout(), "ready").map_err(failed)?;
    let mut byte = [0];
    std::io::stdin().read_exact(&mut byte).map_err(failed)
}
