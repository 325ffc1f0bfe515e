//! Import: a spec, from what was written for another tool.
//!
//! The other tool's rules decide what a file means on this node, its strict ones and its quiet ones;
//! what it would do in silence is told in [`Imported::notes`] or refused. Everything here is a
//! function of a text and a [`Snapshot`]: nothing is asked and nothing is changed.
//!
//! The spec speaks of this node: selectors and profiles are resolved against the snapshot.

mod mig_parted;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorCode, Result};
use crate::snapshot::Snapshot;
use crate::spec::Spec;
use crate::terminal::Quoted;

/// For which tool the text was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// NVIDIA's mig-parted: a config file of version v1, or a checkpoint.
    MigParted,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::MigParted];

    /// The word for it on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MigParted => "mig-parted",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            let why =
                format!("{} is nothing to import from; there is {}", Quoted(text), all.join(", "));
            Error::new(ErrorCode::InvalidArgument, why)
        })
    }
}

/// What an import may be told beside its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// mig-parted: the name of the config; needed unless the file has one alone. A checkpoint has none.
    pub config: Option<String>,
}

/// What came of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// What the text asks of this node's GPUs.
    pub spec: Spec,
    /// What a person should know, in sentences.
    pub notes: Vec<String>,
}

/// The spec that a text means on this node. YAML or JSON in UTF-8, 1 MiB at most.
///
/// # Errors
/// - INVALID_ARGUMENT, with line and key, for a text that is none of that kind, a config that is not
///   there, and a profile that a selected GPU does not have, with those that it has.
/// - INSUFFICIENT where what is asked for does not fit on a GPU, with what does.
/// - UNSUPPORTED where MIG is asked of a GPU that has none, and for YAML without feature `yaml`.
/// - NOT_FOUND for a GPU, named by uuid, that is not there.
/// - PERMISSION_DENIED where the observer could not see what a GPU with MIG on has.
pub fn import(
    bytes: &[u8],
    kind: Kind,
    options: &Options,
    snapshot: &Snapshot,
) -> Result<Imported> {
    match kind {
        Kind::MigParted => mig_parted::import(bytes, options, snapshot),
    }
}
