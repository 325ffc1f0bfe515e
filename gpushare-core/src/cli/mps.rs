//! `mps`: what a client needs, and what is known of one.

use std::fmt::Write as _;

use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::hazard::split_gpus;
use crate::id::{GpuUuid, Pid};
use crate::mode::Verdict;
use crate::node::Node;
use crate::parameters::{Access, MpsConfig};
use crate::plan::select::name;
use crate::process::{Holder, HolderKind};
use crate::snapshot::draw::daemons::{NOT_THERE, daemons};
use crate::snapshot::{MigDevice, Snapshot};

use super::arguments::{MpsLimits, Select};
use super::output::{Output, say};
use super::{Answer, colour};

impl MpsLimits {
    /// The same as a configuration.
    pub(super) fn config(&self) -> MpsConfig {
        let access = match (&self.user, &self.group) {
            (Some(user), _) => Access::User(user.clone()),
            (_, Some(group)) => Access::Group(group.clone()),
            _ if self.any_user => Access::Any,
            _ => Access::Caller,
        };
        MpsConfig {
            thread_percentage: self.thread_percentage,
            pinned_memory_limit: self.pinned_memory_limit,
            max_clients: self.max_clients,
            priority: self.priority,
            access,
            compute_mode: self.compute_mode,
        }
    }
}

/// After `mps enable`: what a client needs, ready to paste. The change is done: that a daemon cannot
/// be shown is no error.
pub(super) fn show_how_to_use(
    node: &Node,
    output: &Output,
    snapshot: &Snapshot,
    gpus: &[GpuUuid],
) -> Result<()> {
    if output.json {
        return Ok(());
    }
    let mut text = String::new();
    for gpu in gpus.iter().filter_map(|uuid| snapshot.gpu(uuid)) {
        let daemon = match node.ports().mps.probe(&gpu.uuid.clone().into()) {
            Ok(Some(daemon)) => daemon,
            Ok(None) => continue,
            Err(error) => {
                say(&format!("gpushare: warning: the daemon cannot be shown: {error}"));
                continue;
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\nClients of GPU {}, of {}{}, need\n  export CUDA_MPS_PIPE_DIRECTORY={}{}\n  export CUDA_VISIBLE_DEVICES={}\n",
            gpu.index.map_or_else(|| "?".to_owned(), |index| index.to_string()),
            daemon.access,
            if daemon.access == Access::Any { "" } else { " alone" },
            daemon.directory.display(),
            if node.is_simulated() { NOT_THERE } else { "" },
            gpu.uuid,
        );
    }
    output.text(&text)?;
    Ok(())
}

/// After `mps disable`: daemons of MIG devices are not its matter.
pub(super) fn say_what_stays(snapshot: &Snapshot, gpus: &[GpuUuid]) {
    for gpu in gpus.iter().filter_map(|uuid| snapshot.gpu(uuid)) {
        let ours = |device: &&MigDevice| device.mps.as_ref().is_some_and(|mps| mps.ours);
        let devices = gpu.mig_devices.iter().filter(ours);
        let devices: Vec<_> = devices.map(|device| device.uuid.as_str()).collect();
        if !devices.is_empty() {
            say(&format!(
                "gpushare: note: GPU {}: the MPS daemons of MIG devices stay ({}); a spec whose instances have no `mps` takes them away",
                name(gpu),
                devices.join(", ")
            ));
        }
    }
}

/// Of `mps disable`: that clients are served is said in the words of this command.
pub(super) fn still_serves(error: Error) -> Error {
    let client =
        |holder: &Holder| holder.kind == HolderKind::MpsClient && holder.protected.is_none();
    let holders = error.holders();
    let untouched = error.outcome() == Outcome::Untouched;
    if error.code() != ErrorCode::Busy || !untouched || !holders.iter().all(client) {
        return error;
    }
    let (Some(gpu), false) = (error.gpu(), holders.is_empty()) else { return error };
    let clients: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let message = format!(
        "the MPS daemon of {gpu} still serves {}, and was left as it is; with --grace S clients have S seconds to go by themselves and are then ended",
        clients.join(", ")
    );
    error.with_message(message)
}

/// `mps status`.
pub(super) fn status(node: &Node, output: &Output, select: &Select) -> Result<Answer> {
    let mut snapshot = node.snapshot()?;
    select.to_show(&mut snapshot)?;
    if output.json {
        output.document(&snapshot)?;
        return Ok(Answer::Yes);
    }
    let mut page = colour::page(output);
    daemons(&mut page, &snapshot);
    let mut text = page.into_text();
    for foreign in node.ports().mps.foreign()? {
        let pid = foreign.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let sees = foreign.visible.map_or("every GPU".to_owned(), |visible| {
            crate::terminal::printable(&visible).into_owned()
        });
        let _ = writeln!(
            text,
            "\nAn MPS daemon{pid} that is not gpushare's listens in {}; it sees {sees}. It is never told anything.",
            crate::terminal::printable(&foreign.directory.display().to_string())
        );
    }
    output.text(&text)?;
    Ok(Answer::Yes)
}

/// `mps verify`.
pub(super) fn verify(node: &Node, output: &Output, pid: Pid) -> Result<Answer> {
    let attachment = node.verify_mps(pid)?;
    output.show(&attachment)?;
    Ok(match attachment.verdict {
        Verdict::Attached => Answer::Yes,
        _ => Answer::No,
    })
}

/// `mps split`: of GPUs that give one answer.
pub(super) fn split_into(
    snapshot: &Snapshot,
    output: &Output,
    select: &Select,
    parts: u32,
) -> Result<Answer> {
    let mut shown = snapshot.clone();
    select.to_show(&mut shown)?;
    for gpu in shown.gpus.iter().filter(|gpu| gpu.mig.as_ref().is_some_and(|mig| mig.enabled)) {
        say(&format!(
            "gpushare: note: GPU {}: MIG is on; the parts are those of the whole GPU, where `mps enable` turns MIG off, and not of a MIG device",
            name(gpu)
        ));
    }
    let split = split_gpus(snapshot, &shown.gpus, parts)?;
    output.show(&split)?;
    if let (false, [_, _, ..]) = (output.json, &shown.gpus[..]) {
        let names: Vec<_> = shown.gpus.iter().map(|gpu| format!("GPU {}", name(gpu))).collect();
        output.text(&format!("  the same for each: {}\n", names.join(", ")))?;
    }
    Ok(Answer::Yes)
}
