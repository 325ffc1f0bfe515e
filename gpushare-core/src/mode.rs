//! The ways to share a GPU, one word each, the same on every surface.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::terminal::Quoted;

macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident, $what:literal;
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|word| word.as_str()).collect();
                    Error::new(
                        ErrorCode::InvalidArgument,
                        format!("unknown {} {}; one of {}", $what, Quoted(text), words.join(", ")),
                    )
                })
            }
        }
    };
}

words! {
    /// A mode that can be asked for.
    Mode, "mode";
    /// One process tree at a time: compute mode EXCLUSIVE_PROCESS, MIG off, no MPS daemon.
    Exclusive = "exclusive",
    /// Several processes take turns: compute mode DEFAULT, MIG off, no MPS daemon.
    TimeSliced = "time_sliced",
    /// Several processes run at once through an MPS daemon of ours.
    Mps = "mps",
    /// The GPU is cut into instances.
    Mig = "mig",
}

words! {
    /// A mode that was observed: what can be asked for, and five states that only happen.
    ///
    /// Where several apply, the first of `lost, pending, mig, closed, foreign, mps, degraded,
    /// exclusive, time_sliced` is the mode.
    SharingMode, "mode";
    /// The GPU does not answer, or is no longer there.
    Lost = "lost",
    /// A change of MIG mode waits for a reset.
    Pending = "pending",
    /// MIG is on.
    Mig = "mig",
    /// Compute mode PROHIBITED: nobody can use the GPU.
    Closed = "closed",
    /// An MPS daemon that is not ours serves the GPU.
    Foreign = "foreign",
    /// An MPS daemon of ours serves the GPU.
    Mps = "mps",
    /// Our MPS daemon is recorded, and dead.
    Degraded = "degraded",
    /// Compute mode EXCLUSIVE_PROCESS.
    Exclusive = "exclusive",
    /// Compute mode DEFAULT.
    TimeSliced = "time_sliced",
}

impl From<Mode> for SharingMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Exclusive => Self::Exclusive,
            Mode::TimeSliced => Self::TimeSliced,
            Mode::Mps => Self::Mps,
            Mode::Mig => Self::Mig,
        }
    }
}

words! {
    /// NVML's compute mode.
    ComputeMode, "compute mode";
    /// Any number of contexts.
    Default = "default",
    /// One context per thread: deprecated since CUDA 8, still readable.
    ExclusiveThread = "exclusive_thread",
    /// No contexts.
    Prohibited = "prohibited",
    /// One process.
    ExclusiveProcess = "exclusive_process",
}

words! {
    /// How long a process runs before the next one takes its turn. NVIDIA names the steps, not their milliseconds.
    Interval, "interval";
    /// What the driver starts with.
    Default = "default",
    /// The shortest.
    Short = "short",
    /// Between the two.
    Medium = "medium",
    /// The longest.
    Long = "long",
}

words! {
    /// How an MPS daemon of ours is.
    MpsHealth, "health";
    /// It answers.
    Answers = "answers",
    /// It is there, takes connections and says nothing: somebody holds it up, or it has stopped.
    Frozen = "frozen",
    /// It answers in a way that gpushare does not know.
    Unknown = "unknown",
    /// It is gone.
    Gone = "gone",
}

words! {
    /// Whether a process is a client of an MPS daemon of ours.
    Verdict, "verdict";
    /// A server of ours lists it.
    Attached = "attached",
    /// No server of ours lists it, and all could be asked.
    NotAttached = "not_attached",
    /// It cannot be told. It never counts as attached.
    Unknown = "unknown",
}

words! {
    /// The priority of MPS clients: a hint to the driver.
    Priority, "priority";
    /// As without MPS.
    Normal = "normal",
    /// Below that.
    BelowNormal = "below_normal",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_as_they_print() {
        for &mode in SharingMode::ALL {
            assert_eq!(mode.to_string().parse::<SharingMode>().unwrap(), mode);
        }
        let error = "mpss".parse::<Mode>().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.to_string().contains("exclusive, time_sliced, mps, mig"));
    }
}
