//! Which GPUs a command is about.

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::plan::select;
use crate::snapshot::{GpuSnapshot, Snapshot};

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
            let parsed = select::parse(selector.trim())
                .map_err(|error| of_mig_device(snapshot, selector.trim()).unwrap_or(error))?;
            for position in select::one(snapshot, &parsed)? {
                let Some(gpu) = snapshot.gpus.get(position) else { continue };
                if !uuids.contains(&gpu.uuid) {
                    uuids.push(gpu.uuid.clone());
                }
            }
        }
        Ok(uuids)
    }
}

/// What to do instead where a MIG device was named and GPUs are selected.
fn of_mig_device(snapshot: &Snapshot, selector: &str) -> Option<Error> {
    let head = selector.get(..4).filter(|head| head.eq_ignore_ascii_case("MIG-"))?;
    let begins = |uuid: &str| {
        let start = uuid.get(..selector.len());
        selector.len() > head.len() && start.is_some_and(|it| it.eq_ignore_ascii_case(selector))
    };
    let on = |gpu: &&GpuSnapshot| gpu.mig_devices.iter().any(|device| begins(device.uuid.as_str()));
    let on: Vec<_> = snapshot.gpus.iter().filter(on).map(select::name).collect();
    let of = match &on[..] {
        [] => "none that this node has".to_owned(),
        on => format!("of GPU {}", on.join(", ")),
    };
    Some(Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "{selector:?} names a MIG device, {of}, and GPUs are selected here: give the GPU; a spec gives a MIG device an MPS daemon and takes it away, `gpushare mig destroy` takes the device itself"
        ),
    ))
}
