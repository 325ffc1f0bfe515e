//! How apply goes, on standard error: a line for each thing that happens, on a terminal alone.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use crate::apply::Event;
use crate::id::{GpuIndex, GpuUuid};
use crate::node::Node;
use crate::process::Holder;
use crate::terminal::count;

use super::output::say;

/// Tells how apply goes.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    indices: BTreeMap<GpuUuid, GpuIndex>,
    last: String,
}

impl Progress {
    pub(super) fn new(node: &Node) -> Self {
        let shown = std::io::stderr().is_terminal();
        // For people, GPUs have numbers. Where they cannot be had, apply says why.
        let snapshot = if shown { node.snapshot().ok() } else { None };
        let gpus = snapshot.into_iter().flat_map(|snapshot| snapshot.gpus);
        let indices = gpus.filter_map(|gpu| Some((gpu.uuid, gpu.index?)));
        Self { shown, indices: indices.collect(), last: String::new() }
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

    fn name(&self, gpu: &GpuUuid) -> String {
        self.indices.get(gpu).map_or_else(|| gpu.to_string(), |index| format!("GPU {index}"))
    }

    fn line(&self, event: &Event) -> String {
        match event {
            Event::WaitingForLock { gpu } => {
                format!("waiting for another gpushare process to finish with {}", self.name(gpu))
            }
            Event::Draining { holders } => format!("waiting for {} to end", names(holders)),
            Event::Evicting { holder } => format!("ending {holder}"),
            Event::Step { number, of, gpu, what } => {
                let digits = of.to_string().len();
                format!("[{number:>digits$}/{of}] {}: {what}", self.name(gpu))
            }
            Event::Planned { plan } => count(plan.step_count(), "step"),
            Event::RollingBack => "rolling back".to_owned(),
            Event::Recovering { journal } => format!("settling the unfinished change {journal}"),
        }
    }
}

fn names(holders: &[Holder]) -> String {
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
