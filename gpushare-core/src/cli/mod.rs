//! The `gpushare` command.
//!
//! It parses, asks the node, and prints: what is decided is decided below it. Everything that
//! changes something is a plan that is applied.

mod advise;
mod arguments;
mod audit;
mod change;
mod colour;
mod container;
mod doctor;
mod handover;
mod interrupt;
mod lease;
mod mig;
mod mps;
mod new_instance;
mod output;
mod persist;
mod progress;
mod resolve;
mod restore;
mod run;
mod selection;
mod simulate;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::apply::ApplyOptions;
use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::mode::Mode;
use crate::node::{Node, NodeBuilder};
use crate::observe::{Observer, Scope};
use crate::parameters::TimeSlicing;
use crate::plan::Request;
use crate::plan::explain::Given;
use crate::snapshot::Snapshot;
use crate::snapshot::draw::{draw_some, page::Page};
use crate::spec::Want;

use arguments::{Arguments, Command, Global, MigCommand, MpsCommand, Select};
use change::Change;
use interrupt::Interrupt;
use output::{Known, Output};

/// What a command answered, where it was no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Done, or yes.
    Yes,
    /// The answer is no: changes are pending.
    No,
    /// What a command that was run answered.
    Of(u8),
}

/// The exit status of an error, that of a usage error included.
const FAILED: u8 = 1;
/// The exit status when the answer is no.
const NO: u8 = 2;
/// The exit status of `run` when it is run itself that failed.
const RUN_FAILED: u8 = 125;

/// The command with the arguments of this process.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

/// The command with these arguments, the first of which is its name. Returns its exit status: 0
/// done or yes, 1 an error, 2 the answer is no.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> u8 {
    run_as(&[], arguments)
}

/// The same in a program that is not this command alone. `own` is the program, and its first arguments,
/// by which the command is started again, as `lease --pid` does; nothing is the program that runs.
pub fn run_as(own: &[OsString], arguments: impl IntoIterator<Item = impl Into<OsString>>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    // Where it is ignored, as whoever started us may have it, the kernel would not tell how what we
    // start has ended. A handler that does nothing is enough; what we start begins with the default.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::default());
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(refused) => return not_parsed(&arguments, &refused),
    };
    let output = Output::new(parsed.global.json);
    let mut known = Known {
        simulated: parsed.global.sim.is_some().then_some(true),
        recovering: matches!(parsed.command, Command::Recover { .. }),
    };
    let result = open(&parsed.global).and_then(|node| {
        known.simulated = Some(node.is_simulated());
        let ports = node.ports();
        let (store, clock) = (ports.store.clone(), ports.clock.clone());
        let (result, warnings) = audit::audited(store, clock, || {
            command(&node, &output, own, &parsed.global, &parsed.command)
        });
        let failure = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        // What it failed for need not be told twice.
        for warning in warnings.iter().filter(|text| !told(text, &failure)) {
            output::say(&format!("gpushare: warning: {warning}"));
        }
        result
    });
    match result {
        Ok(Answer::Yes) => 0,
        Ok(Answer::No) => NO,
        Ok(Answer::Of(status)) => status,
        Err(error) => {
            output.error(&error, known);
            if matches!(parsed.command, Command::Run { .. }) { RUN_FAILED } else { FAILED }
        }
    }
}

/// Whether a warning's reason is in the message of the error.
fn told(warning: &str, failure: &str) -> bool {
    warning.split_once(": ").is_some_and(|(_, why)| !why.is_empty() && failure.contains(why))
}

/// Help and version are answers; everything else that clap says is an error of usage.
fn not_parsed(arguments: &[OsString], refused: &clap::Error) -> u8 {
    let json = arguments.iter().take_while(|text| *text != "--").any(|text| text == "--json");
    let output = Output::new(json);
    let text = refused.render().to_string();
    if matches!(refused.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match output.text(&text) {
            Ok(_) => 0,
            Err(error) => {
                output.error(&error, Known::default());
                FAILED
            }
        };
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    let (message, line) = match refused.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let message = "a command is missing".to_owned();
            let line = format!("{message}\n\n{text}");
            (message, line)
        }
        _ => {
            // What follows the first empty line is how to use it.
            let first = text.split("\n\n").next().unwrap_or_default();
            let words: Vec<_> = first.lines().map(str::trim).collect();
            (words.join(" "), text.to_owned())
        }
    };
    let error = Error::new(ErrorCode::InvalidArgument, message);
    output.failure(&error, Known::default(), &format!("{}: {line}", error.code()));
    if is_run(arguments) { RUN_FAILED } else { FAILED }
}

/// Whether arguments that could not be read were those of `run`.
fn is_run(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--sim" | "--state-dir") => drop(words.next()),
            Some(option) if option.starts_with('-') => {}
            word => return word == Some("run"),
        }
    }
    false
}

fn open(global: &Global) -> Result<Node> {
    // Consecutive commands on a simulated node see each other's work.
    let mut builder: NodeBuilder = Node::builder().shared_state();
    if let Some(fleet) = &global.sim {
        builder = builder.sim(fleet);
    }
    if let Some(directory) = &global.state_dir {
        builder = builder.state_dir(directory);
    }
    builder.open()
}

fn command(
    node: &Node,
    output: &Output,
    own: &[OsString],
    global: &Global,
    command: &Command,
) -> Result<Answer> {
    match command {
        Command::Status { watch: false, select } => show(node, output, select, draw_some),
        Command::Status { watch: true, select } => watch(node, output, select),
        Command::Plan { spec } => {
            let plan = node.plan(&change::read_spec(spec)?)?;
            change::show_plan(node, output, &plan, Given::default())
        }
        Command::Apply { spec, expect, consent } => {
            Change { node, output, own, consent }.spec(change::read_spec(spec)?, expect.as_deref())
        }
        Command::Exclusive { select, consent } => {
            want(Change { node, output, own, consent }, select, &Want::Exclusive)
        }
        Command::TimeSlice { replicas, interval, select, consent } => {
            let slicing = TimeSlicing::new(*replicas).with_interval(*interval);
            want(Change { node, output, own, consent }, select, &Want::TimeSliced(slicing))
        }
        Command::Mps { command } => mps_command(node, output, own, command),
        Command::Mig { command } => mig_command(node, output, own, command),
        Command::Recover { discard, timeout } => {
            let options = ApplyOptions::new().timeout(timeout.0);
            change::recover(node, output, discard.as_deref(), &options)
        }
        Command::Persist(arguments) => persist::persist(node, output, arguments),
        Command::Restore(arguments) => restore::restore(node, output, arguments),
        Command::Run { lease, verify, command } => run::run(node, output, lease, *verify, command),
        Command::Lease { lease, pid } => {
            lease::for_process(node, Some(output), own, global, lease, *pid)
        }
        Command::Hold { lease, oci_hook: true, .. } => {
            let pid = container::first_process(std::io::stdin().lock())?;
            // A runtime has no use for what a shell would read.
            lease::for_process(node, None, own, global, lease, pid)
        }
        Command::Hold { lease, pid, detach, .. } => lease::hold(node, output, lease, *pid, *detach),
        Command::Release { id } => lease::release(node, output, id),
        Command::Leases => {
            output.show(&node.leases()?)?;
            Ok(Answer::Yes)
        }
        Command::Cordon { reason, select } => lease::cordon(node, output, select, Some(reason)),
        Command::Uncordon { select } => lease::cordon(node, output, select, None),
        Command::Resolve { string, device_order } => {
            resolve::show(node, output, string.as_deref(), *device_order)
        }
        Command::Doctor { select } => doctor::doctor(node, output, select),
        Command::Advise(arguments) => advise::advise(node, output, arguments),
        Command::Metrics { output: file } => handover::metrics(node, output, file.as_deref()),
        Command::Export(arguments) => handover::export(node, output, own, arguments),
        Command::Import(arguments) => handover::import(node, output, arguments),
        Command::Sim { command } => simulate::run(node, output, command),
    }
}

/// A look at the GPUs that keeps them open: where nobody else does, opening them anew takes longer than
/// all the rest (25 ms each time on an H200).
fn held(node: &Node) -> Result<(Snapshot, Observer)> {
    let mut observer = node.observer()?;
    let snapshot = observer.snapshot(&Scope::all())?;
    Ok((snapshot, observer))
}

fn mps_command(
    node: &Node,
    output: &Output,
    own: &[OsString],
    command: &MpsCommand,
) -> Result<Answer> {
    match command {
        MpsCommand::Enable { limits, select, consent } => {
            let (snapshot, observer) = held(node)?;
            let gpus = select.to_change(&snapshot)?;
            let has_mig = |gpu: &GpuUuid| {
                let mig = snapshot.gpu(gpu).and_then(|gpu| gpu.mig.as_ref());
                mig.is_some_and(|mig| mig.enabled || mig.pending)
            };
            // Nobody can reset a GPU that is held.
            let observer = (!gpus.iter().any(has_mig)).then_some(observer);
            let change = Change { node, output, own, consent };
            let answer = change.want(&gpus, &Want::Mps(limits.config()))?;
            drop(observer);
            if !consent.dry_run {
                mps::show_how_to_use(node, output, &snapshot, &gpus)?;
            }
            Ok(answer)
        }
        MpsCommand::Disable { select, consent } => {
            let (snapshot, _observer) = held(node)?;
            let gpus = select.to_change(&snapshot)?;
            let request = Request::Leave { mode: Mode::Mps, gpus: gpus.clone() };
            let consent = &consent.of_mps_disable();
            let change = Change { node, output, own, consent };
            let answer = change.request(&request, None).map_err(mps::still_serves)?;
            mps::say_what_stays(&snapshot, &gpus);
            Ok(answer)
        }
        MpsCommand::Status { select } => mps::status(node, output, select),
        MpsCommand::Verify { pid } => mps::verify(node, output, *pid),
        MpsCommand::Split { parts, select } => {
            mps::split_into(&node.snapshot()?, output, select, parts.get())
        }
    }
}

fn mig_command(
    node: &Node,
    output: &Output,
    own: &[OsString],
    command: &MigCommand,
) -> Result<Answer> {
    match command {
        MigCommand::Enable { select, consent } => {
            want(Change { node, output, own, consent }, select, &Want::Mig(None))
        }
        MigCommand::Disable { select, consent } => {
            let gpus = select.to_change(&node.snapshot()?)?;
            let request = Request::Leave { mode: Mode::Mig, gpus };
            Change { node, output, own, consent }.request(&request, None)
        }
        MigCommand::List { select } => {
            show(node, output, select, |page, snapshot, _| mig::list(page, snapshot))
        }
        MigCommand::Profiles { select } => {
            show(node, output, select, |page, snapshot, _| mig::profiles(page, snapshot))
        }
        MigCommand::Create { instances, count, select, consent } => {
            let change = Change { node, output, own, consent };
            change.derived(
                |snapshot| select.to_change(snapshot),
                |snapshot| mig::create(snapshot, select, instances, *count),
            )
        }
        MigCommand::Destroy { instances, select, consent } => {
            let change = Change { node, output, own, consent };
            change.derived(
                |snapshot| mig::gpus_of(snapshot, select, instances),
                |snapshot| mig::destroy(snapshot, select, instances),
            )
        }
    }
}

fn want(change: Change<'_>, select: &Select, want: &Want) -> Result<Answer> {
    change.want(&select.to_change(&change.node.snapshot()?)?, want)
}

/// Shows the GPUs in one way or another. The document is the same for all: the status.
fn show(
    node: &Node,
    output: &Output,
    select: &Select,
    print: fn(&mut Page, &Snapshot, usize),
) -> Result<Answer> {
    let mut snapshot = node.snapshot()?;
    let all = snapshot.gpus.len();
    select.to_show(&mut snapshot)?;
    if output.json {
        output.document(&snapshot)?;
    } else {
        let mut page = colour::page(output);
        print(&mut page, &snapshot, all);
        output.text(&page.into_text())?;
    }
    Ok(Answer::Yes)
}

/// How often a watched status is drawn anew.
const EVERY: Duration = Duration::from_secs(1);

/// `status --watch`: with one observer, which holds the driver open meanwhile.
fn watch(node: &Node, output: &Output, select: &Select) -> Result<Answer> {
    let interrupt = Interrupt::listen()?;
    let mut observer = node.observer()?;
    while !interrupt.asked() {
        let next = Instant::now() + EVERY;
        let mut snapshot = observer.snapshot(&Scope::all())?;
        let all = snapshot.gpus.len();
        select.to_show(&mut snapshot)?;
        // A window may have got another size meanwhile.
        let output = Output::new(output.json);
        let read = if output.json {
            output.document(&snapshot)?
        } else {
            let mut page = colour::page(&output);
            draw_some(&mut page, &snapshot, all);
            output.redraw(&page.into_text())?
        };
        if !read {
            break;
        }
        while !interrupt.asked() && Instant::now() < next {
            std::thread::sleep(Duration::from_millis(50).min(next - Instant::now()));
        }
    }
    Ok(Answer::Yes)
}

#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) mod fuzzing {
    //! What arguments are taken for, for who feeds them.

    use crate::error::Result;

    pub(crate) fn new_instance(text: &str) -> Result<(String, Option<u8>)> {
        let instance: super::new_instance::NewInstance = text.parse()?;
        Ok((instance.profile.to_string(), instance.start))
    }

    pub(crate) fn doomed(text: &str) -> Result<()> {
        text.parse::<super::arguments::Doomed>().map(drop)
    }
}
