//! One run, told as what somebody would type.

use std::collections::BTreeMap;
use std::fmt;

use gpushare_core::backend::sim::{Death, Failure, Fault, Rules};
use gpushare_core::mode::Mode;

/// A node, who is on it, what is asked for, what goes wrong, and what comes after.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Script {
    pub(super) fleet: &'static str,
    pub(super) rules: Rules,
    /// Somebody set compute mode and interval before gpushare came.
    pub(super) prior: bool,
    pub(super) from: Wanted,
    /// A change of MIG mode that somebody else made and that waits for a reset.
    pub(super) pending: Option<bool>,
    /// Clients of each MPS daemon.
    pub(super) clients: usize,
    pub(super) daemon: Daemon,
    /// The MIG device that somebody works on, by number; the GPU where there is none.
    pub(super) tenant: Option<usize>,
    /// Whether tenants may be ended.
    pub(super) consent: bool,
    pub(super) goal: Goal,
    pub(super) strike: Option<Strike>,
    pub(super) after: After,
    /// What goes wrong while the first fault is made good.
    pub(super) again: Option<Again>,
    /// What is built in wrongly, to see whether it is seen.
    pub(super) planted: Option<Planted>,
}

/// A defect that a gpushare could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// What is appended to a journal is not on disk when a process dies.
    JournalNotSynced,
    /// Recovery takes the journal away and undoes nothing.
    NothingUndone,
}

/// A state of all GPUs that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nobody asked for any: as delivered.
    Nothing,
    /// One entry of a spec: the mode and its block.
    Mode(&'static str, String),
    /// MIG instances, and where they start.
    Placed(Vec<(String, u8)>),
    /// MIG instances, wherever there is room.
    Counted(BTreeMap<String, u32>),
    /// A whole spec.
    Spec(&'static str),
}

impl Wanted {
    pub(super) fn mode(mode: &'static str) -> Self {
        Self::Mode(mode, String::new())
    }

    /// The spec that says so; none where nothing is wanted.
    pub(super) fn spec(&self) -> Option<String> {
        let entry = |mode: &str, block: &str| {
            let block =
                if block.is_empty() { String::new() } else { format!(r#", "{mode}": {block}"#) };
            format!(
                r#"{{"version": "gpushare/v1", "gpus": [{{"select": "all", "mode": "{mode}"{block}}}]}}"#
            )
        };
        Some(match self {
            Self::Nothing => return None,
            Self::Mode(mode, block) => entry(mode, block),
            Self::Placed(instances) => {
                let instances: Vec<_> = instances
                    .iter()
                    .map(|(profile, start)| {
                        format!(r#"{{"profile": "{profile}", "start": {start}}}"#)
                    })
                    .collect();
                entry("mig", &format!(r#"{{"instances": [{}]}}"#, instances.join(", ")))
            }
            Self::Counted(counts) => {
                let counts: Vec<_> = counts
                    .iter()
                    .map(|(profile, count)| format!(r#""{profile}": {count}"#))
                    .collect();
                entry("mig", &format!(r#"{{"instances": {{{}}}}}"#, counts.join(", ")))
            }
            Self::Spec(spec) => (*spec).to_owned(),
        })
    }
}

/// What is asked of gpushare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Apply(Wanted),
    /// A mode is left: `mps disable`, `mig disable`.
    Leave(Mode),
}

/// What became of the MPS daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Daemon {
    Serves,
    Frozen,
    Killed,
}

/// What goes wrong, at which call of that name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strike {
    pub(super) call: &'static str,
    pub(super) nth: usize,
    pub(super) fault: Fault,
}

/// A second fault, at one of the calls that change something there: at that number of them, counted around.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Again {
    pub(super) place: Place,
    pub(super) number: usize,
    pub(super) fault: Fault,
}

/// Where a second fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the change itself, after the first fault.
    Rollback,
    Recovery,
}

/// What comes after the change, before `recover`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// The machine is rebooted.
    Reboot,
    /// The driver is unloaded and loaded again.
    Reload,
    /// Somebody creates an instance, and works on it.
    OthersCreate,
    /// Somebody destroys an instance that nobody uses.
    OthersDestroy,
    /// Somebody begins to work on the first GPU, or on its last MIG device.
    OthersUse,
}

impl After {
    pub(super) const fn is_others(self) -> bool {
        matches!(self, Self::OthersCreate | Self::OthersDestroy | Self::OthersUse)
    }
}

struct Failing(Fault);

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |failure: Failure| {
            format!("{} ({} where it is NVML's)", failure.code, failure.nvml.name())
        };
        match self.0 {
            Fault::Fail(failure) => write!(f, "fails with {}", with(failure)),
            Fault::FailAfter(failure) => {
                write!(f, "takes effect, and fails with {}", with(failure))
            }
            Fault::Hang(time) => write!(f, "hangs for {} s", time.as_secs()),
            Fault::Die(Death::Before) => {
                f.write_str("is not made: the process is killed before it")
            }
            Fault::Die(Death::After) => f.write_str("is the last: the process is killed in it"),
            Fault::Die(Death::Torn(percent)) => {
                write!(f, "is the last, and {percent} % of it are written")
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    fleet {}", self.fleet)?;
        if self.rules != Rules::default() {
            writeln!(f, "    {:?}", self.rules)?;
        }
        if self.prior {
            writeln!(f, "    somebody sets EXCLUSIVE_PROCESS and the interval long")?;
        }
        if let Some(spec) = self.from.spec() {
            writeln!(f, "    gpushare apply '{spec}'")?;
        }
        if let Some(pending) = self.pending {
            writeln!(f, "    somebody sets MIG mode {pending}, which waits for a reset")?;
        }
        if self.clients > 0 {
            writeln!(f, "    {} clients come to each MPS daemon", self.clients)?;
        }
        if self.daemon != Daemon::Serves {
            writeln!(f, "    MPS daemons: {:?}", self.daemon)?;
        }
        if let Some(tenant) = self.tenant {
            writeln!(f, "    a process works on MIG device {tenant}, or on the GPU")?;
        }
        let consent = if self.consent { " --allow-evict" } else { "" };
        match &self.goal {
            Goal::Apply(wanted) => {
                writeln!(
                    f,
                    "    gpushare apply '{}'{consent} --allow-reset",
                    wanted.spec().unwrap_or_default()
                )?;
            }
            Goal::Leave(mode) => writeln!(f, "    gpushare {mode} disable{consent} --allow-reset")?,
        }
        if let Some(Strike { call, nth, fault }) = &self.strike {
            writeln!(f, "        number {nth} of {call} {}", Failing(*fault))?;
        }
        if let Some(Again { place: Place::Rollback, number, fault }) = self.again {
            let fault = Failing(fault);
            writeln!(
                f,
                "        while it is rolled back call {number} of those that change something {fault}"
            )?;
        }
        match self.after {
            After::Nothing => {}
            After::Reboot => writeln!(f, "    the machine is rebooted")?,
            After::Reload => writeln!(f, "    the driver is loaded anew")?,
            After::OthersCreate => writeln!(f, "    somebody creates an instance and works on it")?,
            After::OthersDestroy => writeln!(f, "    somebody destroys an instance")?,
            After::OthersUse => {
                writeln!(f, "    somebody works on the last MIG device, or the GPU")?
            }
        }
        if let Some(planted) = self.planted {
            writeln!(f, "    (planted: {planted:?})")?;
        }
        f.write_str("    gpushare recover\n")?;
        if let Some(Again { place: Place::Recovery, number, fault }) = self.again {
            let fault = Failing(fault);
            writeln!(
                f,
                "        call {number} of those that change something {fault}\n    gpushare recover"
            )?;
        }
        Ok(())
    }
}
