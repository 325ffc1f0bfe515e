//! `sim`: what happens to a simulated node from outside.

use std::fmt::Write as _;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::backend::sim::{FaultSpec, Loss, ProcessKind, ProcessSpec, Rules, Simulator, Target};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, MigUuid, Pid};
use crate::mps::MpsDomain;
use crate::node::Node;
use crate::plan::select;
use crate::port::NvmlReturn;
use crate::spec::Selector;
use crate::terminal::{printable, printable_lines};
use crate::units::Bytes;

use super::Answer;
use super::output::Output;

/// The schema of what these commands print.
const SCHEMA: &str = "gpushare.simulator/v1";

#[derive(Debug, Subcommand)]
pub(super) enum SimCommand {
    /// Show what only the simulator knows: unseen processes, faults to come, rules
    Status,
    /// Put a process on a GPU or an instance, and print its pid
    Busy(Busy),
    /// End processes, or all on a GPU
    Idle {
        /// Their pids
        #[arg(value_name = "PID", required_unless_present = "gpu")]
        pids: Vec<u32>,
        /// All on these GPUs
        #[arg(long, short = 'i', value_name = "SEL", value_delimiter = ',')]
        gpu: Vec<String>,
    },
    /// Let a driver call to come fail, once
    Fault(Fault),
    /// Reboot the machine
    Reboot,
    /// Unload the driver and load it again
    Reload,
    /// Reset a GPU, as nvidia-smi -r does
    Reset {
        /// An index, a uuid or the beginning of one
        #[arg(value_name = "GPU")]
        gpu: Option<String>,
    },
    /// Take a GPU away: it no longer answers
    Lose {
        /// An index, a uuid or the beginning of one
        #[arg(value_name = "GPU")]
        gpu: Option<String>,
        /// It is not even listed any more
        #[arg(long)]
        gone: bool,
    },
    /// Kill an MPS daemon
    KillMps {
        /// Of which GPU (index, uuid) or MIG device (uuid)
        #[arg(value_name = "GPU")]
        gpu: Option<String>,
    },
    /// Freeze an MPS daemon: it takes connections and says nothing
    FreezeMps {
        /// Of which GPU (index, uuid) or MIG device (uuid)
        #[arg(value_name = "GPU")]
        gpu: Option<String>,
        /// It answers again
        #[arg(long)]
        thaw: bool,
    },
    /// Show or set how the driver behaves where nothing says how a real one does
    Rules {
        /// latency_ms=50, same_uuid=true, insufficient_at_create=2 or =null
        #[arg(value_name = "RULE=VALUE")]
        rules: Vec<String>,
    },
    /// Let the driver take its caller for that user; it begins with root
    ActAs {
        /// A number; 0 is root
        uid: u32,
    },
}

#[derive(Debug, Args)]
pub(super) struct Busy {
    /// A GPU (index, uuid), a MIG device's uuid, or GPU/GI/CI
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Its command
    #[arg(long, default_value = "python train.py")]
    command: String,
    /// The user it runs as
    #[arg(long, default_value_t = 1000)]
    uid: u32,
    /// Its device memory
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = Bytes::parse_with_unit)]
    memory: Bytes,
    /// What it does
    #[arg(long, value_enum, default_value_t = Kind::Compute)]
    kind: Kind,
    /// It ignores SIGTERM
    #[arg(long)]
    stubborn: bool,
    /// It holds the GPU or instance and nobody can see it
    #[arg(long)]
    invisible: bool,
    /// It is a real process of this machine
    #[arg(long, value_name = "P", conflicts_with_all = ["command", "uid", "stubborn", "invisible"])]
    pid: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Compute,
    Graphics,
    MpsClient,
}

#[derive(Debug, Args)]
pub(super) struct Fault {
    /// The NVML function: nvmlGpuInstanceDestroy
    #[arg(value_name = "CALL", required_unless_present = "clear", requires = "returns")]
    call: Option<String>,
    /// What it returns: IN_USE, or the number
    #[arg(value_name = "RETURN", value_parser = nvml_return)]
    returns: Option<NvmlReturn>,
    /// Which of its calls from now on
    #[arg(long, value_name = "N", default_value_t = 1)]
    nth: u32,
    /// The call takes effect before it fails
    #[arg(long)]
    after_effect: bool,
    /// Forget the faults that have not struck yet
    #[arg(long, conflicts_with_all = ["call", "returns"])]
    clear: bool,
}

/// Codes that the driver can return, by name.
fn nvml_return(text: &str) -> Result<NvmlReturn> {
    let codes = || (0..=30).chain([999]).map(NvmlReturn);
    let name = text.strip_prefix("NVML_ERROR_").unwrap_or(text);
    if let Some(found) = codes().find(|code| code.name() == name) {
        return Ok(found);
    }
    text.parse().map(NvmlReturn).map_err(|_| {
        let names: Vec<_> = codes().map(NvmlReturn::name).collect();
        invalid(format!(
            "{text:?} is no return of NVML: give a number, or one of {}",
            names.join(", ")
        ))
    })
}

/// Does it.
pub(super) fn run(node: &Node, output: &Output, command: &SimCommand) -> Result<Answer> {
    let Some(simulator) = node.simulator() else {
        return Err(invalid(
            "this node is real; `sim` acts on simulated ones alone: give --sim FLEET, such as --sim 8xH100-80GB".to_owned(),
        ));
    };
    let mut pid = None;
    match command {
        SimCommand::Status => {}
        SimCommand::Busy(busy) => pid = Some(put(simulator, busy)?),
        SimCommand::Idle { pids, gpu } => {
            for pid in pids {
                simulator.idle(Pid::new(*pid))?;
            }
            for selector in gpu {
                for gpu in several(simulator, selector)? {
                    simulator.idle_all(&gpu)?;
                }
            }
        }
        SimCommand::Fault(fault) => {
            if fault.clear {
                simulator.clear_faults()?;
            } else if let (Some(call), Some(returns)) = (&fault.call, fault.returns) {
                let spec = FaultSpec::next(call, returns).at(fault.nth);
                simulator.fault(if fault.after_effect { spec.after_effect() } else { spec })?;
            }
        }
        SimCommand::Reboot => simulator.reboot()?,
        SimCommand::Reload => simulator.reload()?,
        SimCommand::Reset { gpu } => node.ports().reset.reset(&one(simulator, gpu.as_deref())?)?,
        SimCommand::Lose { gpu, gone } => {
            let loss = if *gone { Loss::Gone } else { Loss::Lost };
            simulator.lose(&one(simulator, gpu.as_deref())?, loss)?;
        }
        SimCommand::KillMps { gpu } => {
            simulator.kill_mps_daemon(domain(simulator, gpu.as_deref())?)?;
        }
        SimCommand::FreezeMps { gpu, thaw } => {
            simulator.freeze_mps_daemon(domain(simulator, gpu.as_deref())?, !thaw)?;
        }
        SimCommand::Rules { rules } if !rules.is_empty() => {
            simulator.set_rules(changed(&simulator.rules()?, rules)?)?;
        }
        SimCommand::Rules { .. } => {}
        SimCommand::ActAs { uid } => simulator.act_as(*uid)?,
    }
    if output.json {
        let mut document = document(simulator)?;
        if let (Some(pid), Value::Object(fields)) = (pid, &mut document) {
            fields.insert("pid".to_owned(), json!(pid));
        }
        output.document(&document)?;
    } else {
        let text = match (command, pid) {
            (_, Some(pid)) => format!("{pid}\n"),
            (SimCommand::Status, _) => status(simulator)?,
            (SimCommand::Rules { .. }, _) => rules_text(&simulator.rules()?),
            _ => String::new(),
        };
        output.text(&printable_lines(&text))?;
    }
    Ok(Answer::Yes)
}

fn put(simulator: &Simulator, busy: &Busy) -> Result<Pid> {
    let kind = match busy.kind {
        Kind::Compute => ProcessKind::Compute,
        Kind::Graphics => ProcessKind::Graphics,
        Kind::MpsClient => ProcessKind::MpsClient,
    };
    let mut process =
        ProcessSpec::new(&busy.command).by(busy.uid).doing(kind).with_memory(busy.memory);
    if busy.stubborn {
        process = process.stubborn();
    }
    if busy.invisible {
        process = process.invisible();
    }
    if let Some(pid) = busy.pid {
        process = process.being(Pid::new(pid));
    }
    simulator.busy(target(simulator, busy.target.as_deref())?, process)
}

fn target(simulator: &Simulator, text: Option<&str>) -> Result<Target> {
    let Some(text) = text else { return Ok(Target::Gpu(one(simulator, None)?)) };
    if let Ok(device) = text.parse::<MigUuid>() {
        return Ok(Target::MigDevice(device));
    }
    match text.split('/').collect::<Vec<_>>()[..] {
        [gpu] => Ok(Target::Gpu(one(simulator, Some(gpu))?)),
        [gpu, gi, ci] => {
            let number = |text: &str| {
                text.parse::<u32>()
                    .map_err(|_| invalid(format!("{text:?} is no id of an instance")))
            };
            let (gi, ci) = (GpuInstanceId::new(number(gi)?), ComputeInstanceId::new(number(ci)?));
            Ok(Target::Instance(one(simulator, Some(gpu))?, gi, ci))
        }
        _ => Err(invalid(format!(
            "{text:?} is no place for a process: give a GPU, the uuid of a MIG device, or GPU/GI/CI"
        ))),
    }
}

/// What an MPS daemon serves.
fn domain(simulator: &Simulator, text: Option<&str>) -> Result<MpsDomain> {
    match text.and_then(|text| text.parse::<MigUuid>().ok()) {
        Some(device) => Ok(device.into()),
        None => Ok(one(simulator, text)?.into()),
    }
}

/// A GPU of the fleet, by its place in it or by uuid: found without a call of the driver, which
/// might be the one that is to fail.
fn one(simulator: &Simulator, selector: Option<&str>) -> Result<GpuUuid> {
    let mut found = match selector {
        Some(selector) => several(simulator, selector)?,
        None => simulator.gpus()?,
    };
    match (found.pop(), found.is_empty()) {
        (Some(gpu), true) => Ok(gpu),
        (_, _) => Err(invalid("say which GPU: an index or a uuid".to_owned())),
    }
}

fn several(simulator: &Simulator, selector: &str) -> Result<Vec<GpuUuid>> {
    let gpus = simulator.gpus()?;
    let found: Vec<_> = match select::parse(selector)? {
        Selector::All => return Ok(gpus),
        Selector::Index(index) => {
            let position = usize::try_from(index.get()).unwrap_or(usize::MAX);
            gpus.into_iter().nth(position).into_iter().collect()
        }
        Selector::Uuid(prefix) => {
            let begins = |gpu: &GpuUuid| {
                let head = gpu.as_str().get(..prefix.len());
                head.is_some_and(|head| head.eq_ignore_ascii_case(&prefix))
            };
            gpus.into_iter().filter(begins).collect()
        }
        _ => {
            return Err(invalid(
                "give an index, a uuid or the beginning of one, or all".to_owned(),
            ));
        }
    };
    match found.len() {
        1 => Ok(found),
        0 => Err(Error::new(ErrorCode::NotFound, format!("the fleet has no GPU {selector}"))),
        several => Err(invalid(format!("{several} GPUs have a uuid that begins with {selector}"))),
    }
}

/// The rules with some of them set anew.
fn changed(rules: &Rules, changes: &[String]) -> Result<Rules> {
    let mut fields = fields(rules);
    for change in changes {
        let known = || fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some((name, value)) =
            change.split_once('=').filter(|(name, _)| fields.contains_key(*name))
        else {
            return Err(invalid(format!(
                "{change:?} sets no rule: write RULE=VALUE with one of {}",
                known()
            )));
        };
        let value = serde_json::from_str(value)
            .map_err(|_| invalid(format!("{value:?}: rules are true, false, a number or null")))?;
        fields.insert(name.to_owned(), value);
    }
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| invalid(format!("a rule cannot be that: {error}")))
}

fn fields(rules: &Rules) -> Map<String, Value> {
    match serde_json::to_value(rules) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn rules_text(rules: &Rules) -> String {
    fields(rules).iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

fn document(simulator: &Simulator) -> Result<Value> {
    Ok(json!({
        "schema": SCHEMA,
        "simulated": true,
        "fleet": simulator.fleet()?,
        "gpus": simulator.gpus()?,
        "processes": simulator.processes()?,
        "faults": simulator.faults()?,
        "rules": simulator.rules()?,
        "acting_uid": simulator.acting_uid()?,
    }))
}

fn status(simulator: &Simulator) -> Result<String> {
    let mut text = String::from("SIMULATED\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "fleet {}", simulator.fleet()?);
    for (index, gpu) in simulator.gpus()?.iter().enumerate() {
        let _ = writeln!(text, "gpu {index} {gpu}");
    }
    for process in simulator.processes()? {
        let place = match process.instance {
            Some((gi, ci)) => format!("{}/{gi}/{ci}", process.gpu),
            None => process.gpu.to_string(),
        };
        let stubborn = if process.stubborn { " stubborn" } else { "" };
        let invisible = if process.invisible { " invisible" } else { "" };
        let _ = writeln!(
            text,
            "process {} on {place} uid {} {}{stubborn}{invisible}: {}",
            process.pid,
            process.uid,
            process.memory,
            printable(&process.command)
        );
    }
    for fault in simulator.faults()? {
        let after = if fault.after_effect { ", after its effect" } else { "" };
        let name = NvmlReturn(fault.nvml_return).name();
        let _ = writeln!(
            text,
            "fault {} call {} returns {name}{after}",
            printable(&fault.call),
            fault.nth
        );
    }
    let _ = writeln!(text, "caller uid {}", simulator.acting_uid()?);
    for (name, value) in fields(&simulator.rules()?) {
        let _ = writeln!(text, "rule {name}={value}");
    }
    Ok(text)
}

fn invalid(why: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, why)
}
