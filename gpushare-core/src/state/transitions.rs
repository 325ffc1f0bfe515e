//! How many transitions came to what: a file for each outcome, with a byte for each transition, so that
//! several processes can count without a lock.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::port::Store;

/// What a transition can come to. What was refused before anything was touched is none, and writes nothing.
const OUTCOMES: [&str; 4] = ["applied", "rolled_back", "indeterminate", "recovered"];

fn file(outcome: &str) -> String {
    format!("transitions/{outcome}")
}

/// Counts one. That it cannot be counted is no error of the transition.
pub(crate) fn count(store: &dyn Store, outcome: &str) {
    debug_assert!(OUTCOMES.contains(&outcome), "{outcome}");
    if let Err(error) = store.append(&file(outcome), b".") {
        tracing::warn!(target: "gpushare::state", %error, outcome, "a transition is not counted");
    }
}

/// How many there were of each.
///
/// # Errors
/// As [`Store::read`].
pub(crate) fn counted(store: &dyn Store) -> Result<BTreeMap<&'static str, u64>> {
    let count = |outcome: &'static str| {
        let bytes = store.read(&file(outcome))?.unwrap_or_default();
        Ok((outcome, u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
    };
    OUTCOMES.into_iter().map(count).collect()
}
