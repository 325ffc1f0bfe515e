//! What is noted of a lease beside its slot.
//!
//! A note proves nothing: the lock does. It is believed only where the kernel says that its author
//! holds the slot, and says who was the last to hold a slot that is free.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::{Pid, ShareId};
use crate::port::{Note, Slots};
use crate::snapshot::LeaseTerms;

const SCHEMA: &str = "gpushare.lease-note/v1";

/// What is noted of a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeaseNote {
    schema: String,
    /// The name of the lease.
    pub(crate) name: String,
    /// Who took it.
    pub(crate) pid: Pid,
    /// When that process started, in clock ticks since boot.
    pub(crate) start_time: Option<u64>,
    /// When it was taken, in clock ticks since boot.
    pub(crate) taken: u64,
    /// When it was taken, in seconds since 1970: for people.
    pub(crate) since: u64,
    /// What it asks of its tenant.
    #[serde(flatten)]
    pub(crate) terms: LeaseTerms,
    /// For which process it is held, where not for its taker.
    pub(crate) for_pid: Option<Pid>,
    /// Whether its taker has let go of it, and left it to those whom it was handed on to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) released: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A note and who wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Noted {
    pub(crate) share: ShareId,
    pub(crate) author: u32,
    pub(crate) note: LeaseNote,
}

impl LeaseNote {
    pub(crate) fn new(name: String, taker: (Pid, Option<u64>), taken: u64, since: u64) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            name,
            pid: taker.0,
            start_time: taker.1,
            taken,
            since,
            terms: LeaseTerms::default(),
            for_pid: None,
            released: false,
        }
    }

    /// Whether that process wrote it.
    pub(crate) fn is_by(&self, pid: Pid, start_time: Option<u64>) -> bool {
        self.pid == pid && self.start_time.is_some() && self.start_time == start_time
    }
}

/// Writes what is leased.
///
/// # Errors
/// PERMISSION_DENIED, IO.
pub(crate) fn write(slots: &dyn Slots, share: &ShareId, note: &LeaseNote) -> Result<()> {
    let content = serde_json::to_vec(note).map_err(|error| {
        Error::new(ErrorCode::Io, format!("cannot note the lease of {share}")).with_source(error)
    })?;
    slots.note(share, &content)
}

/// What is noted of a share, or of all. What is no note is passed over.
///
/// # Errors
/// IO.
pub(crate) fn read(slots: &dyn Slots, share: Option<&ShareId>) -> Result<Vec<Noted>> {
    let notes = slots.notes(share)?;
    let count = notes.len();
    let noted: Vec<Noted> = notes.into_iter().filter_map(parse).collect();
    if noted.len() == count {
        return Ok(noted);
    }
    // One that was just being written is whole the next time.
    Ok(slots.notes(share)?.into_iter().filter_map(parse).collect())
}

/// What a note says; none for what is no note.
pub(crate) fn parse(note: Note) -> Option<Noted> {
    let parsed: LeaseNote = serde_json::from_slice(&note.content).ok()?;
    let ours = parsed.schema == SCHEMA && parsed.name.len() <= LONGEST_NAME;
    ours.then_some(Noted { share: note.share, author: note.author, note: parsed })
}

/// The names of leases are ours and short.
const LONGEST_NAME: usize = 100;
