//! How apply goes, on standard error: a line for each thing that happens, on a terminal alone.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use crate::apply::Event;
use crate::id::GpuUuid;
use crate::process::Holder;
use crate::snapshot::Snapshot;

use super::output::say;

/// Tells how apply goes.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    indices: BTreeMap<GpuUuid, String>,
    last: String,
}

impl Progress {
    /// With the names of the GPUs, where they are known.
    pub(super) fn new(snapshot: Option<&Snapshot>) -> Self {
        let gpus = snapshot.iter().flat_map(|snapshot| &snapshot.gpus);
        let indices = gpus.filter_map(|gpu| Some((gpu.uuid.clone(), gpu.index?.to_string())));
        Self {
            shown: std::io::stderr().is_terminal(),
            indices: indices.collect(),
            last: String::new(),
        }
    }

    pub(super) fn tell(&mut self, event: &Event) {
        // The plan is an answer; it goes to standard output where it goes at all.
        if !self.shown || matches!(event, Event::Planned { .. }) {
            return;
        }
        let line = self.line(event);
        // Waiting is told every 100 ms.
        if line != self.last {
            say(&line);
            self.last = line;
        }
    }

    fn name<'a>(&'a self, gpu: &'a GpuUuid) -> &'a str {
        self.indices.get(gpu).map_or(gpu.as_str(), String::as_str)
    }

    fn line(&self, event: &Event) -> String {
        match event {
            Event::WaitingForLock { gpu } => {
                format!(
                    "waiting for another gpushare process to finish with GPU {}",
                    self.name(gpu)
                )
            }
            Event::Draining { holders } => format!("waiting for {} to end", names(holders)),
            Event::Evicting { holder } => format!("ending {holder}"),
            Event::Step { number, of, gpu, what } => {
                let digits = of.to_string().len();
                format!("[{number:>digits$}/{of}] GPU {}: {what}", self.name(gpu))
            }
            Event::Planned { plan } => format!("{} steps", plan.step_count()),
            Event::RollingBack => "rolling back".to_owned(),
            Event::Recovering { journal } => format!("settling the unfinished change {journal}"),
        }
    }
}

fn names(holders: &[Holder]) -> String {
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
