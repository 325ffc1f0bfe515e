//! What gpushare keeps on disk: records, journals, locks. All through the store port.

pub mod journal;
pub mod lock;
pub mod record;
