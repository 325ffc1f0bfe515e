//! Which GPUs a command is about.

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::plan::select;
use crate::snapshot::Snapshot;

use super::arguments::Select;

impl Select {
    /// The GPUs to change: those that were selected, or the only one that there is.
    pub(super) fn to_change(&self, snapshot: &Snapshot) -> Result<Vec<GpuUuid>> {
        match &snapshot.gpus[..] {
            [only] if self.gpu.is_empty() => Ok(vec![only.uuid.clone()]),
            [] if self.gpu.is_empty() => {
                Err(Error::new(ErrorCode::NotFound, "this node has no GPU"))
            }
            gpus if self.gpu.is_empty() => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "this node has {} GPUs: say which with --gpu (an index, a list, a uuid, a PCI address, or all)",
                    gpus.len()
                ),
            )),
            _ => match self.selected(snapshot)? {
                none if none.is_empty() => {
                    Err(Error::new(ErrorCode::NotFound, "this node has no GPU that answers"))
                }
                gpus => Ok(gpus),
            },
        }
    }

    /// The GPUs to show: those that were selected, or all.
    pub(super) fn to_show(&self, snapshot: &mut Snapshot) -> Result<()> {
        if !self.gpu.is_empty() {
            let selected = self.selected(snapshot)?;
            snapshot.gpus.retain(|gpu| selected.contains(&gpu.uuid));
            snapshot.strays.clear();
        }
        Ok(())
    }

    /// Whether GPUs were selected.
    pub(super) fn is_given(&self) -> bool {
        !self.gpu.is_empty()
    }

    /// The GPUs, each once.
    fn selected(&self, snapshot: &Snapshot) -> Result<Vec<GpuUuid>> {
        let mut uuids: Vec<GpuUuid> = Vec::new();
        for selector in &self.gpu {
            for position in select::one(snapshot, &select::parse(selector.trim())?)? {
                let Some(gpu) = snapshot.gpus.get(position) else { continue };
                if !uuids.contains(&gpu.uuid) {
                    uuids.push(gpu.uuid.clone());
                }
            }
        }
        Ok(uuids)
    }
}
