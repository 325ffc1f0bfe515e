//! MPS daemons of ours whose devices are gone: recovery ends those that serve nobody.

use crate::apply::report::Stray;
use crate::apply::{ApplyOptions, Event, Progress};
use crate::error::{ErrorCode, Result};
use crate::id::GpuUuid;
use crate::observe::{Observer, Scope};
use crate::port::Ports;
use crate::snapshot::{MpsStray, Snapshot};
use crate::state::lock;

/// Ends the strays of this node that serve nobody, with what they left, and says which are left.
///
/// # Errors
/// LOCKED and TIMEOUT while somebody changes a GPU; those of a look at the node.
pub(super) fn end_strays(
    ports: &Ports,
    simulated: bool,
    options: &ApplyOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<Stray>> {
    let Some(seen) = look(ports, simulated)? else { return Ok(Vec::new()) };
    if seen.strays.iter().all(|stray| stray.is_left().is_some()) {
        return Ok(seen.strays.iter().map(|stray| left(stray, stray.is_left())).collect());
    }
    // Nobody knows of which GPU they were, and who changes one may be about to make the device again:
    // it may get the same uuid.
    let mut gpus: Vec<GpuUuid> = seen.gpus.into_iter().map(|gpu| gpu.uuid).collect();
    gpus.sort();
    let (store, clock) = (ports.store.as_ref(), ports.clock.as_ref());
    let _locks = lock::acquire(store, clock, &gpus, options.timeout, &mut |gpu| {
        progress(&Event::WaitingForLock { gpu: gpu.clone() })
    })?;
    let Some(seen) = look(ports, simulated)? else { return Ok(Vec::new()) };
    let strays = seen.strays.iter().map(|stray| {
        let why = stray.is_left().or_else(|| {
            let failed = ports.mps.stop(&stray.domain).err()?;
            Some(failed.to_string())
        });
        left(stray, why)
    });
    Ok(strays.collect())
}

fn left(stray: &MpsStray, why: Option<String>) -> Stray {
    Stray { domain: stray.domain.clone(), left: why }
}

/// The node with its strays; none where nothing of ours is there, or no driver says what is.
fn look(ports: &Ports, simulated: bool) -> Result<Option<Snapshot>> {
    match ports.mps.domains() {
        Ok(domains) if domains.is_empty() => return Ok(None),
        // Of another user, whose affair it is.
        Err(error) if error.code() == ErrorCode::PermissionDenied => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    match Observer::open(ports, simulated) {
        Ok(mut observer) => observer.snapshot(&Scope::all()).map(Some),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
