//! Which shares a device has.

use crate::id::ShareId;
use crate::snapshot::MigDevice;
use crate::spec::Sharing;

/// Clients that every MPS server of Volta and later takes (measured on an H200: 48).
pub(crate) const MPS_CLIENTS: u32 = 48;

/// The most shares of a device: a spec asks for no more, and what a file says does not fill the memory.
const MOST: u32 = 1024;

/// The shares of a device that has that many, as far as there can be so many.
pub(crate) fn ids(device: &str, count: u32) -> Vec<ShareId> {
    if count == 1 {
        return vec![ShareId::whole(device)];
    }
    (0..count.min(MOST)).map(|number| ShareId::part(device, number)).collect()
}

/// How many shares a MIG device has that is shared further in that way.
pub(crate) fn count_of(device: &MigDevice, sharing: Option<&Sharing>) -> u32 {
    match sharing {
        Some(Sharing::TimeSliced(parameters)) => parameters.replicas.get(),
        Some(Sharing::Mps(config)) => {
            config.max_clients.map_or_else(|| clients_of(device), std::num::NonZeroU32::get)
        }
        _ => 1,
    }
}

/// Clients of a MIG device: the GPU's number, scaled down with the compute slices (NVIDIA's MPS guide
/// says that it is scaled, not how; never measured).
pub(crate) fn clients_of(device: &MigDevice) -> u32 {
    let slices = device.profile.compute.unwrap_or(device.profile.slices);
    (MPS_CLIENTS * u32::from(slices) / 7).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_fills_the_memory() {
        for (count, shares) in [(0, 0), (1, 1), (2, 2), (1024, 1024), (u32::MAX, 1024)] {
            assert_eq!(ids("GPU-1", count).len(), shares, "{count}");
        }
    }
}
