//! Rules without a source, each a switch: what a real driver may do either way.

use serde::{Deserialize, Serialize};

/// How the simulated driver behaves where nothing says how a real one does.
///
/// The default of each is the harsher one, or the one that is seen more often. RULES.md has the
/// reasons. Code that is right is right with every switch in either position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Rules {
    /// A compute instance that is created again at the same placement has the uuid it had.
    /// Off: a new one each time.
    pub same_uuid: bool,
    /// The id of a GPU instance follows where it stands. Off: the lowest free id of its size.
    pub id_follows_start: bool,
    /// From now on, the creation of an instance with this number (1 is the next) answers
    /// INSUFFICIENT_RESOURCES once.
    pub insufficient_at_create: Option<u32>,
    /// From now on, the destruction of an instance with this number (1 is the next) answers IN_USE
    /// once, though nobody can be seen on it.
    pub in_use_at_destroy: Option<u32>,
    /// Before compute capability 9.0 a change of MIG mode waits for a reset, as under passthrough.
    /// Off: the driver resets an idle GPU within the call.
    pub mode_change_stays_pending: bool,
    /// Turning MIG off removes idle instances. Off: instances count as in use.
    pub disable_removes_instances: bool,
    /// A reset sets the compute mode back to DEFAULT.
    pub reset_clears_compute_mode: bool,
    /// The minor number of a GPU is another one while MIG is on.
    pub minor_follows_mig: bool,
    /// Volta cards have the time-slice interval.
    pub interval_on_volta: bool,
    /// MPS daemons can be started on this node.
    pub mps_able: bool,
    /// The time-slice interval can be read and set on this node.
    pub interval_able: bool,
    /// GPUs of this node can be reset.
    pub reset_able: bool,
    /// How long each call that changes something takes, in milliseconds.
    pub latency_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            same_uuid: false,
            id_follows_start: false,
            insufficient_at_create: None,
            in_use_at_destroy: None,
            mode_change_stays_pending: false,
            disable_removes_instances: false,
            reset_clears_compute_mode: true,
            minor_follows_mig: false,
            interval_on_volta: true,
            mps_able: true,
            interval_able: true,
            reset_able: true,
            latency_ms: 0,
        }
    }
}
