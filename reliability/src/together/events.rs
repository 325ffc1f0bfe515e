//! What each process did and when: a file for each, with a clock that all share.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// The events of this process.
#[derive(Debug)]
pub(super) struct Events {
    file: File,
}

/// Nanoseconds that all processes count alike.
pub(super) fn now() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) at: i128,
    pub(super) pid: u32,
    pub(super) what: String,
}

impl Events {
    pub(super) fn of_this_process(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(std::process::id().to_string());
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// One line, written at once: who writes it may be killed the next moment.
    pub(super) fn note(&mut self, what: &str) {
        let line = format!("{} {}\n", now(), what.replace('\n', " / "));
        let _ = self.file.write_all(line.as_bytes());
    }
}

/// Those of one process.
pub(super) fn of(folder: &Path, pid: u32) -> Vec<Event> {
    let text = fs::read_to_string(folder.join(pid.to_string())).unwrap_or_default();
    let event = |line: &str| {
        let (at, what) = line.split_once(' ')?;
        Some(Event { at: at.parse().ok()?, pid, what: what.to_owned() })
    };
    text.lines().filter_map(event).collect()
}

/// Those of all processes, in their order.
pub(super) fn all(folder: &Path) -> Vec<Event> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut all: Vec<Event> = pids.flat_map(|pid| of(folder, pid)).collect();
    all.sort();
    all
}

/// The last of them, for people.
pub(super) fn last(events: &[Event], count: usize) -> String {
    let events = &events[events.len().saturating_sub(count)..];
    let start = events.first().map_or(0, |event| event.at);
    let line = |event: &Event| {
        format!("  {:>9.3} ms  {:>7}  {}\n", (event.at - start) as f64 / 1e6, event.pid, event.what)
    };
    events.iter().map(line).collect()
}

/// How often what ended how: the events `done WHAT HOW …`.
pub(super) fn count(events: &[Event], counts: &mut BTreeMap<(String, String), usize>) {
    for event in events {
        let mut words = event.what.split(' ');
        if let (Some("done"), Some(what), Some(how)) = (words.next(), words.next(), words.next()) {
            *counts.entry((what.to_owned(), how.to_owned())).or_default() += 1;
        }
    }
}
