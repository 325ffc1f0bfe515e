//! Tests across the crates of gpushare, and what they share.

pub mod conformance;
