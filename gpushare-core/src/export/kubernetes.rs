//! What the kinds for Kubernetes have in common: names, and percentages that harm.

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::{self, Hazard, HazardName, MpsTarget};
use crate::parameters::MpsConfig;
use crate::units::{Bytes, ThreadPercentage};

/// The longest value of a label.
const LONGEST_LABEL: usize = 63;
/// The longest name of a node.
const LONGEST_NAME: usize = 253;

/// A word that is both a key of a ConfigMap and the value of a label.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn expect_label(text: &str) -> Result<&str> {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let good = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && text.starts_with(ends)
        && text.ends_with(ends)
        && text.len() <= LONGEST_LABEL;
    if good {
        return Ok(text);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "{text:?} cannot be the name of a config: it is the value of a label, so letters, digits, -, _ and ., {LONGEST_LABEL} at most"
        ),
    ))
}

/// The name of a node: a DNS name in small letters.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn expect_node(text: &str) -> Result<&str> {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(ends)
            && label.ends_with(ends)
            && label.chars().all(|c| ends(c) || c == '-')
    };
    if text.len() <= LONGEST_NAME && text.split('.').all(label) {
        return Ok(text);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "{text:?} is no node's name: small letters, digits, - and ., as `kubectl get nodes` shows it"
        ),
    ))
}

/// The hazards of what another tool's daemon would be told. That a process may get past the daemon is
/// that tool's to prevent.
pub(super) fn hazards(
    target: &MpsTarget,
    percentage: ThreadPercentage,
    limit: Option<Bytes>,
) -> Vec<Hazard> {
    let config = MpsConfig {
        thread_percentage: percentage,
        pinned_memory_limit: limit,
        ..MpsConfig::default()
    };
    let mut hazards = hazard::of_mps_on(target, &config);
    hazards.retain(|hazard| hazard.name != HazardName::BypassPossible);
    hazards
}

/// Refuses a hazard that was not allowed.
///
/// # Errors
/// HAZARD, with the values that do no harm.
pub(super) fn expect_allowed(
    target: &MpsTarget,
    hazards: Vec<Hazard>,
    allowed: &[HazardName],
    what: &str,
) -> Result<()> {
    let Some(hazard) = hazards.into_iter().find(|hazard| !allowed.contains(&hazard.name)) else {
        return Ok(());
    };
    let name = hazard.name;
    let safe = match hazard.safe.as_slice() {
        [] => "none".to_owned(),
        safe => safe.join(", "),
    };
    Err(Error::new(
        ErrorCode::Hazard,
        format!(
            "{name}: {what}: {}; safe: {safe}. To export it all the same, allow the hazard {name} by name",
            hazard.message
        ),
    )
    .of_gpu(&target.gpu)
    .with_safe(hazard.safe))
}
