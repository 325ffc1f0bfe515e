//! What a daemon limits: the part of an MPS configuration that the daemon itself holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::mode::Priority;
use crate::parameters::MpsConfig;
use crate::units::{Bytes, ThreadPercentage};

use super::command::Command;
use super::reply::Reply;

/// The only device of a daemon of ours.
const DEVICE: u32 = 0;
/// How much more a percentage can be than the one decimal that a daemon shows.
const SHOWN_PERCENT: f64 = 0.05;
/// A daemon shows percentages rounded to one decimal.
const ROUNDING: f64 = 0.051;

/// Who says a command to a daemon and reads the answer.
type Run<'a> = dyn FnMut(&Command) -> Result<Reply> + 'a;

/// What a daemon gives every client of the servers that it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MpsSettings {
    /// The share of threads that each client gets at most.
    pub thread_percentage: ThreadPercentage,
    /// The device memory that each client gets at most, its CUDA context included; none for no limit.
    #[serde(rename = "pinned_memory_limit_bytes")]
    pub pinned_memory_limit: Option<Bytes>,
    /// The priority of its clients.
    pub priority: Priority,
}

impl MpsSettings {
    /// What a daemon begins with: no limits, normal priority.
    pub const UNLIMITED: Self = Self {
        thread_percentage: ThreadPercentage::FULL,
        pinned_memory_limit: None,
        priority: Priority::Normal,
    };

    /// The settings that lead from these to those, in the order in which they are made.
    pub fn changes(&self, to: &Self) -> Vec<MpsSetting> {
        let mut changes = Vec::new();
        if self.thread_percentage != to.thread_percentage {
            changes.push(MpsSetting::ThreadPercentage {
                from: self.thread_percentage,
                to: to.thread_percentage,
            });
        }
        if self.pinned_memory_limit != to.pinned_memory_limit {
            changes.push(MpsSetting::PinnedMemoryLimit {
                from: self.pinned_memory_limit,
                to: to.pinned_memory_limit,
            });
        }
        if self.priority != to.priority {
            changes.push(MpsSetting::Priority { from: self.priority, to: to.priority });
        }
        changes
    }

    /// These with one setting changed.
    #[must_use]
    pub const fn with(mut self, change: &MpsSetting) -> Self {
        match *change {
            MpsSetting::ThreadPercentage { to, .. } => self.thread_percentage = to,
            MpsSetting::PinnedMemoryLimit { to, .. } => self.pinned_memory_limit = to,
            MpsSetting::Priority { to, .. } => self.priority = to,
        }
        self
    }

    /// What a daemon holds for servers and clients to come, as far as it shows it: a memory limit
    /// of 1 GiB or more is rounded down to whole GiB, a percentage to one decimal. Compare with
    /// [`is_shown_as`](Self::is_shown_as).
    ///
    /// # Errors
    /// Those of `run`; MPS for an answer of another kind. A daemon that has no memory limits or
    /// no priorities (driver 470) has none, and normal priority.
    pub fn read(run: &mut Run<'_>) -> Result<Self> {
        let thread_percentage = run(&Command::DefaultThreadPercentage)?.percentage()?;
        let limit = run(&Command::DefaultMemoryLimit { device: DEVICE });
        let pinned_memory_limit = supported(limit.and_then(Reply::memory_limit), None)?;
        let priority = run(&Command::DefaultPriority).and_then(Reply::priority);
        let priority = supported(priority, Priority::Normal)?;
        Ok(Self { thread_percentage, pinned_memory_limit, priority })
    }

    /// Whether a daemon with these settings shows those.
    pub fn is_shown_as(&self, found: &Self) -> bool {
        same_percentage(self.thread_percentage, found.thread_percentage)
            && same_limit(self.pinned_memory_limit, found.pinned_memory_limit)
            && self.priority == found.priority
    }

    /// Makes one setting for servers and clients to come, and reads it back.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a value that a daemon would misread; UNSUPPORTED where a value is
    /// asked for that the daemon has not; MPS where the daemon holds another value afterwards;
    /// those of `run`.
    pub fn set_default(setting: &MpsSetting, run: &mut Run<'_>) -> Result<()> {
        match *setting {
            MpsSetting::ThreadPercentage { to, .. } => set_percentage(
                to,
                &Command::SetDefaultThreadPercentage(to),
                &Command::DefaultThreadPercentage,
                run,
            ),
            MpsSetting::PinnedMemoryLimit { to, .. } => set_limit(
                to,
                &Command::SetDefaultMemoryLimit { device: DEVICE, limit: to },
                &Command::DefaultMemoryLimit { device: DEVICE },
                run,
            ),
            MpsSetting::Priority { to, .. } => {
                let set = Command::SetDefaultPriority(to);
                if lacking(run(&set).and_then(Reply::done), to == Priority::Normal)? {
                    return Ok(());
                }
                let found = run(&Command::DefaultPriority)?.priority()?;
                if found == to { Ok(()) } else { Err(differs(&set, &to, &found)) }
            }
        }
    }

    /// Makes one setting for the clients to come of a server that runs, and reads it back. The
    /// priority is the daemon's alone: there is nothing to do for a server.
    ///
    /// # Errors
    /// As [`set_default`](Self::set_default); MPS also while the server still starts.
    pub fn set_server(server: Pid, setting: &MpsSetting, run: &mut Run<'_>) -> Result<()> {
        match *setting {
            MpsSetting::ThreadPercentage { to: percentage, .. } => set_percentage(
                percentage,
                &Command::SetThreadPercentage { server, percentage },
                &Command::ThreadPercentage { server },
                run,
            ),
            MpsSetting::PinnedMemoryLimit { to: limit, .. } => set_limit(
                limit,
                &Command::SetMemoryLimit { server, device: DEVICE, limit },
                &Command::MemoryLimit { server, device: DEVICE },
                run,
            ),
            MpsSetting::Priority { .. } => Ok(()),
        }
    }
}

/// What a server that runs gives its clients to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerLimits {
    /// The share of threads that each client gets at most.
    pub thread_percentage: ThreadPercentage,
    /// The device memory that each client gets at most; none for no limit.
    #[serde(rename = "pinned_memory_limit_bytes")]
    pub pinned_memory_limit: Option<Bytes>,
}

impl ServerLimits {
    /// What a server holds, as far as its daemon shows it.
    ///
    /// # Errors
    /// Those of `run`; NOT_FOUND for a server that is gone; MPS for one that still starts.
    pub fn read(server: Pid, run: &mut Run<'_>) -> Result<Self> {
        let thread_percentage = run(&Command::ThreadPercentage { server })?.percentage()?;
        let limit = run(&Command::MemoryLimit { server, device: DEVICE });
        let pinned_memory_limit = supported(limit.and_then(Reply::memory_limit), None)?;
        Ok(Self { thread_percentage, pinned_memory_limit })
    }

    /// These limits.
    pub const fn new(
        thread_percentage: ThreadPercentage,
        pinned_memory_limit: Option<Bytes>,
    ) -> Self {
        Self { thread_percentage, pinned_memory_limit }
    }

    /// What a server with a daemon's defaults gives.
    pub const fn of(settings: &MpsSettings) -> Self {
        Self {
            thread_percentage: settings.thread_percentage,
            pinned_memory_limit: settings.pinned_memory_limit,
        }
    }

    /// These with one setting changed.
    #[must_use]
    pub const fn with(mut self, setting: &MpsSetting) -> Self {
        match *setting {
            MpsSetting::ThreadPercentage { to, .. } => self.thread_percentage = to,
            MpsSetting::PinnedMemoryLimit { to, .. } => self.pinned_memory_limit = to,
            // Priority is the daemon's alone.
            MpsSetting::Priority { .. } => {}
        }
        self
    }

    /// The most that a server can give that shows these.
    #[must_use]
    pub fn at_most(&self) -> Self {
        let percent = (self.thread_percentage.get() + SHOWN_PERCENT).min(100.0);
        let limit = self.pinned_memory_limit.map(|limit| match limit.get() {
            bytes if bytes < 1 << 30 => limit,
            bytes => Bytes::new(bytes.saturating_add((1 << 30) - (1 << 20))),
        });
        Self {
            thread_percentage: ThreadPercentage::new(percent).unwrap_or(ThreadPercentage::FULL),
            pinned_memory_limit: limit,
        }
    }

    /// Whether a server with these shows those.
    pub fn is_shown_as(&self, found: &Self) -> bool {
        same_percentage(self.thread_percentage, found.thread_percentage)
            && same_limit(self.pinned_memory_limit, found.pinned_memory_limit)
    }

    /// Whether a server with the limits of these settings shows those.
    pub fn are_of(&self, settings: &MpsSettings) -> bool {
        same_percentage(settings.thread_percentage, self.thread_percentage)
            && same_limit(settings.pinned_memory_limit, self.pinned_memory_limit)
    }
}

/// What was read, or what a daemon that can't be asked for it has.
fn supported<T>(read: Result<T>, otherwise: T) -> Result<T> {
    match read {
        Err(error) if error.code() == ErrorCode::Unsupported => Ok(otherwise),
        read => read,
    }
}

/// Whether the daemon lacks the setting while what is asked is what it does anyway.
fn lacking(set: Result<()>, usual: bool) -> Result<bool> {
    match set {
        Err(error) if usual && error.code() == ErrorCode::Unsupported => Ok(true),
        set => set.map(|()| false),
    }
}

fn set_percentage(
    to: ThreadPercentage,
    set: &Command,
    get: &Command,
    run: &mut Run<'_>,
) -> Result<()> {
    set.check()?;
    run(set)?.percentage()?;
    let found = run(get)?.percentage()?;
    if same_percentage(to, found) { Ok(()) } else { Err(differs(set, &to, &found)) }
}

fn set_limit(to: Option<Bytes>, set: &Command, get: &Command, run: &mut Run<'_>) -> Result<()> {
    set.check()?;
    if lacking(run(set).and_then(Reply::done), to.is_none())? {
        return Ok(());
    }
    let found = run(get)?.memory_limit()?;
    let word = |limit: Option<Bytes>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    if same_limit(to, found) { Ok(()) } else { Err(differs(set, &word(to), &word(found))) }
}

fn differs(set: &Command, asked: &dyn fmt::Display, found: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorCode::Mps,
        format!(
            "the MPS daemon took `{}` without a word and holds another value: asked {asked}, found \
             {found}; does somebody else change its settings too?",
            set.text()
        ),
    )
}

fn same_percentage(asked: ThreadPercentage, found: ThreadPercentage) -> bool {
    (asked.get() - found.get()).abs() < ROUNDING
}

fn same_limit(asked: Option<Bytes>, found: Option<Bytes>) -> bool {
    let shown = |limit: Bytes| match limit.get() {
        bytes if bytes < 1 << 30 => bytes,
        bytes => bytes >> 30 << 30,
    };
    asked == found || asked.map(shown) == found.map(Bytes::get)
}

impl From<MpsSettings> for ServerLimits {
    fn from(settings: MpsSettings) -> Self {
        Self::of(&settings)
    }
}

impl From<&MpsConfig> for MpsSettings {
    fn from(config: &MpsConfig) -> Self {
        Self {
            thread_percentage: config.thread_percentage,
            pinned_memory_limit: config.pinned_memory_limit,
            priority: config.priority,
        }
    }
}

/// A change of one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "setting", rename_all = "snake_case")]
#[non_exhaustive]
pub enum MpsSetting {
    /// The share of threads.
    ThreadPercentage {
        /// What it is.
        from: ThreadPercentage,
        /// What it becomes.
        to: ThreadPercentage,
    },
    /// The memory limit.
    PinnedMemoryLimit {
        /// What it is.
        from: Option<Bytes>,
        /// What it becomes.
        to: Option<Bytes>,
    },
    /// The priority.
    Priority {
        /// What it is.
        from: Priority,
        /// What it becomes.
        to: Priority,
    },
}

impl MpsSetting {
    /// Whether servers have it of their own.
    pub const fn is_of_servers_too(&self) -> bool {
        !matches!(self, Self::Priority { .. })
    }

    /// Whether both change the same thing.
    pub fn is_same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The change back.
    #[must_use]
    pub const fn inverse(self) -> Self {
        match self {
            Self::ThreadPercentage { from, to } => Self::ThreadPercentage { from: to, to: from },
            Self::PinnedMemoryLimit { from, to } => Self::PinnedMemoryLimit { from: to, to: from },
            Self::Priority { from, to } => Self::Priority { from: to, to: from },
        }
    }
}

impl fmt::Display for MpsSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |limit: &Option<Bytes>| limit.map_or("none".to_owned(), |l| l.to_string());
        match self {
            Self::ThreadPercentage { from, to } => {
                write!(f, "thread percentage {to} (was {from})")
            }
            Self::PinnedMemoryLimit { from, to } => {
                write!(f, "pinned memory limit {} (was {})", limit(to), limit(from))
            }
            Self::Priority { from, to } => write!(f, "client priority {to} (was {from})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::{self, Daemon, SERVER};
    use super::*;

    fn settings(percent: f64, mebibytes: Option<u64>, priority: Priority) -> MpsSettings {
        MpsSettings {
            thread_percentage: ThreadPercentage::new(percent).unwrap(),
            pinned_memory_limit: mebibytes.map(Bytes::from_mebibytes),
            priority,
        }
    }

    fn read(daemon: &mut Daemon) -> MpsSettings {
        MpsSettings::read(&mut |command| daemon.run(command)).unwrap()
    }

    fn set(daemon: &mut Daemon, setting: &MpsSetting) -> Result<()> {
        MpsSettings::set_default(setting, &mut |command| daemon.run(command))?;
        MpsSettings::set_server(SERVER, setting, &mut |command| daemon.run(command))
    }

    fn any_settings() -> impl Strategy<Value = MpsSettings> {
        let percent = prop_oneof![
            (1..=1000_u32).prop_map(|tenths| f64::from(tenths) / 10.0),
            0.05..=100.0_f64,
        ];
        let limit = prop_oneof![Just(None), (1..300_000_u64).prop_map(Some)];
        let priority = prop_oneof![Just(Priority::Normal), Just(Priority::BelowNormal)];
        (percent, limit, priority).prop_map(|(p, l, priority)| settings(p, l, priority))
    }

    proptest! {
        #[test]
        fn settings_are_made_confirmed_and_undone(from in any_settings(), to in any_settings()) {
            let mut daemon = Daemon::new();
            for change in MpsSettings::UNLIMITED.changes(&from).into_iter().chain(from.changes(&to)) {
                set(&mut daemon, &change).unwrap();
            }
            prop_assert!(to.is_shown_as(&read(&mut daemon)));
            let limits = ServerLimits::read(SERVER, &mut |command| daemon.run(command)).unwrap();
            prop_assert!(limits.are_of(&to));
            for change in from.changes(&to).into_iter().rev() {
                set(&mut daemon, &change.inverse()).unwrap();
            }
            prop_assert!(from.is_shown_as(&read(&mut daemon)));
        }

        #[test]
        fn a_daemon_that_does_not_listen_is_found_out(from in any_settings(), to in any_settings()) {
            let mut daemon = Daemon::new();
            for change in MpsSettings::UNLIMITED.changes(&from) {
                set(&mut daemon, &change).unwrap();
            }
            daemon.deaf = true;
            for change in from.changes(&to) {
                // What is shown alike cannot be told apart.
                let visible = !from.with(&change).is_shown_as(&read(&mut daemon));
                let answer = MpsSettings::set_default(&change, &mut |command| daemon.run(command));
                match answer {
                    Ok(()) => prop_assert!(!visible, "{change}"),
                    Err(error) => {
                        prop_assert!(visible);
                        prop_assert_eq!(error.code(), ErrorCode::Mps);
                        let text = error.to_string();
                        prop_assert!(text.contains("asked") && text.contains("found"), "{text}");
                    }
                }
            }
        }
    }

    /// What driver 580 makes of values on a real GPU, and that none of it gets through.
    #[test]
    fn no_lie_gets_through() {
        for (value, made) in [
            ("1.5G", Some(1)),
            ("1T", Some(1)),
            ("4K", Some(4)),
            ("4X", Some(4)),
            ("-1", Some(17_179_869_183 << 10)),
            ("0", None),
            ("abc", None),
        ] {
            let made: Option<u64> = made;
            let found = Daemon::new().default_limit(value);
            assert_eq!(found, made.map(Bytes::from_mebibytes), "the fake lies otherwise: {value}");
            let Ok(limit) = Bytes::parse_with_unit(value) else { continue };
            // What is a size to us means the same to the daemon, in our words.
            let mut daemon = Daemon::new();
            let setting = MpsSetting::PinnedMemoryLimit { from: None, to: Some(limit) };
            match set(&mut daemon, &setting) {
                Ok(()) => {
                    assert_eq!(read(&mut daemon).pinned_memory_limit, Some(limit), "{value}");
                    assert_ne!(found, Some(limit), "{value} is no lie");
                }
                Err(error) => assert_eq!(error.code(), ErrorCode::InvalidArgument, "{value}"),
            }
        }
        let zero = MpsSetting::PinnedMemoryLimit { from: None, to: Some(Bytes::new(0)) };
        let error = set(&mut Daemon::new(), &zero).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        for percent in [101.0, -5.0, 0.0, 100.0001, f64::NAN] {
            assert!(ThreadPercentage::new(percent).is_err());
            let mut daemon = Daemon::new();
            assert_eq!(
                daemon.say(&format!("set_default_active_thread_percentage {percent}")),
                ["100.0"],
                "the fake lies otherwise"
            );
        }
    }

    #[test]
    fn a_limit_of_an_absent_device_is_found_out() {
        let mut daemon = Daemon::new();
        let limit = Some(Bytes::from_mebibytes(512));
        let error = set_limit(
            limit,
            &Command::SetDefaultMemoryLimit { device: 9, limit },
            &Command::DefaultMemoryLimit { device: 9 },
            &mut |command| daemon.run(command),
        )
        .unwrap_err();
        assert_eq!(error.code(), ErrorCode::Mps);
        assert!(error.to_string().contains("asked 512MiB, found none"), "{error}");
    }

    #[test]
    fn what_an_old_daemon_lacks_is_said_only_when_it_is_asked_for() {
        let mut daemon = Daemon::new();
        daemon.old = true;
        assert_eq!(read(&mut daemon), MpsSettings::UNLIMITED);
        let to = settings(25.0, Some(512), Priority::BelowNormal);
        for change in MpsSettings::UNLIMITED.changes(&to) {
            let made = set(&mut daemon, &change);
            match change {
                MpsSetting::ThreadPercentage { .. } => made.unwrap(),
                _ => assert_eq!(made.unwrap_err().code(), ErrorCode::Unsupported, "{change}"),
            }
            set(&mut daemon, &change.inverse()).unwrap();
        }
        let limits = ServerLimits::read(SERVER, &mut |command| daemon.run(command)).unwrap();
        assert_eq!(limits.pinned_memory_limit, None);
    }

    #[test]
    fn a_daemon_that_dies_between_set_and_get_is_an_error() {
        let to = settings(25.0, Some(512), Priority::BelowNormal);
        for change in MpsSettings::UNLIMITED.changes(&to) {
            let mut daemon = Daemon::new();
            let mut said = 0;
            let made = MpsSettings::set_default(&change, &mut |command| {
                said += 1;
                if said == 1 { daemon.run(command) } else { Err(fake::failure()) }
            });
            assert_eq!(made.unwrap_err().code(), ErrorCode::Timeout, "{change}");
        }
        let gone = Pid::new(1);
        let mut daemon = Daemon::new();
        let limits = ServerLimits::read(gone, &mut |command| daemon.run(command));
        assert_eq!(limits.unwrap_err().code(), ErrorCode::NotFound);
    }
}
