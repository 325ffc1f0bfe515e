//! What gpushare keeps on disk: records, journals, locks, notes of leases. All through the store port.

pub(crate) mod cdi;
pub(crate) mod journal;
pub(crate) mod lock;
pub(crate) mod record;
#[cfg(feature = "cli")]
pub(crate) mod restored;
pub(crate) mod slot;
pub(crate) mod transitions;
