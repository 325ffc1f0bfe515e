//! `persist`: what a reboot would take from the GPUs, kept in a file.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::error::{Error, ErrorCode, Result};
use crate::node::Node;
use crate::plan;
use crate::plan::explain::Given;
use crate::plan::restore::{apart, for_boot};
use crate::snapshot::Snapshot;
use crate::spec::Spec;
use crate::terminal::{printable, printable_lines};

use super::Answer;
use super::change;
use super::output::{Output, say};

const SCHEMA: &str = "gpushare.persist/v1";

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
            "schema": SCHEMA,
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
