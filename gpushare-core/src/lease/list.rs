//! Who has which share: the document `gpushare.leases/v1`.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{GpuIndex, GpuUuid, ShareId};
use crate::lease::acquire::scope_note;
use crate::mode::SharingMode;
use crate::node::Node;
use crate::observe::Scope;
use crate::port::LeaseScope;
use crate::snapshot::draw::leases::{cordoned, leased, void};
use crate::snapshot::{GpuSnapshot, Share, Snapshot};
use crate::terminal::{count, printable};

/// The schema that it names.
const SCHEMA: &str = "gpushare.leases/v1";

/// Who has which share of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeaseList {
    /// `gpushare.leases/v1`.
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// For whom the leases hold.
    pub scope: LeaseScope,
    /// The GPUs and their shares.
    pub gpus: Vec<GpuLeases>,
    /// Leases of shares that are no more.
    pub void: Vec<Share>,
    /// How many wait for a share.
    pub waiting: usize,
}

/// The shares of one GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuLeases {
    /// The GPU.
    pub uuid: GpuUuid,
    /// NVML's index.
    pub index: Option<GpuIndex>,
    /// Its model.
    pub model: String,
    /// How it is shared.
    pub mode: SharingMode,
    /// Why no new leases of it are given, where somebody stopped that.
    pub cordoned: Option<String>,
    /// What can be leased, and who has it.
    pub shares: Vec<Share>,
}

impl Node {
    /// Who has which share. As root it also makes the slots that are missing, so that all users can
    /// lease what there is, and clears away those of shares that are no more and nobody's.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn leases(&self) -> Result<LeaseList> {
        self.call(|node, _| node.list())
    }

    fn list(&self) -> Result<LeaseList> {
        let ports = self.ports();
        let snapshot = self.observer()?.snapshot(&Scope::all())?;
        if ports.slots.scope() == LeaseScope::Node && ports.slots.may_prepare() {
            prepare(self, &snapshot)?;
        }
        // Seldom: it locks every GPU for a moment.
        if ports.slots.may_prepare() && ports.slots.has_litter(&shares_of(&snapshot))? {
            sweep(self, &snapshot)?;
        }
        let tickets = ports.slots.queue()?;
        let waiting = tickets.iter().filter(|ticket| ports.slots.still_waits(ticket)).count();
        Ok(LeaseList {
            schema: SCHEMA.to_owned(),
            simulated: snapshot.simulated,
            scope: ports.slots.scope(),
            void: snapshot.void_leases,
            waiting,
            gpus: snapshot
                .gpus
                .into_iter()
                .map(|gpu| GpuLeases {
                    uuid: gpu.uuid,
                    index: gpu.index,
                    model: gpu.model,
                    mode: gpu.mode,
                    cordoned: gpu.cordoned,
                    shares: gpu.shares,
                })
                .collect(),
        })
    }
}

/// Makes the slots that are missing, of GPUs that nobody changes now.
fn prepare(node: &Node, snapshot: &Snapshot) -> Result<()> {
    let ports = node.ports();
    let shares = |gpu: &GpuSnapshot| gpu.shares.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
    for gpu in &snapshot.gpus {
        if ports.slots.are_there(&shares(gpu))? {
            continue;
        }
        let Some(_lock) = ports.store.try_lock(&format!("lock/{}.lock", gpu.uuid))? else {
            continue;
        };
        let now = node.observer()?.snapshot(&Scope::gpus([gpu.uuid.clone()]))?;
        ports.slots.prepare(&now.gpus.iter().flat_map(shares).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Clears away what is of shares that are no more, unless somebody changes a GPU now.
fn sweep(node: &Node, snapshot: &Snapshot) -> Result<()> {
    let ports = node.ports();
    let mut locks = Vec::new();
    for gpu in &snapshot.gpus {
        match ports.store.try_lock(&format!("lock/{}.lock", gpu.uuid))? {
            Some(lock) => locks.push(lock),
            None => return Ok(()),
        }
    }
    let now = node.observer()?.snapshot(&Scope::all())?;
    // What was not seen may be there.
    let same = now.gpus.iter().map(|gpu| &gpu.uuid).eq(snapshot.gpus.iter().map(|gpu| &gpu.uuid));
    if !same || now.gpus.iter().any(|gpu| gpu.mode == SharingMode::Lost) {
        return Ok(());
    }
    ports.slots.sweep(&shares_of(&now))
}

fn shares_of(snapshot: &Snapshot) -> BTreeSet<ShareId> {
    snapshot.gpus.iter().flat_map(|gpu| &gpu.shares).map(|share| share.id.clone()).collect()
}

impl fmt::Display for LeaseList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        if let Some(note) = scope_note(self.scope) {
            writeln!(f, "{note}")?;
        }
        for gpu in &self.gpus {
            let name = match gpu.index {
                Some(index) => format!("GPU {index}"),
                None => format!("GPU {}", gpu.uuid),
            };
            let held = gpu.shares.iter().filter(|share| share.is_leased()).count();
            let shares = count(gpu.shares.len(), "share");
            let cordoned = cordoned(gpu.cordoned.as_deref());
            let cordoned = cordoned.map(|text| format!(", {text}")).unwrap_or_default();
            writeln!(
                f,
                "{name}  {}  {}: {held} of {shares} leased{cordoned}",
                printable(&gpu.model),
                gpu.mode
            )?;
            let few = gpu.shares.len() <= MOST_FREE;
            for share in gpu.shares.iter().filter(|share| few || share.is_leased()) {
                match leased(share) {
                    Some(by) => writeln!(f, "  {}  {by}", share.id)?,
                    None => writeln!(f, "  {}  free", share.id)?,
                }
            }
        }
        for share in &self.void {
            writeln!(f, "{}", void(share))?;
        }
        if self.waiting > 0 {
            writeln!(f, "{} waiting", count(self.waiting, "caller"))?;
        }
        Ok(())
    }
}

/// Free shares of a GPU that has more than these are not listed.
const MOST_FREE: usize = 8;
