//! MPS control daemons of this machine: NVIDIA's own, started, asked and ended by us.

mod access;
mod control;
mod daemon;
pub(in crate::backend) mod foreign;
mod listener;
mod peer;
mod place;
pub(in crate::backend) mod processes;
mod spawn;
#[cfg(test)]
mod tests;
mod tool;
mod wire;

use std::path::PathBuf;

pub use self::control::MpsControl;

pub(crate) use self::access::group_number;
use self::access::{Served, shut};
use self::daemon::{Found, Scope, Start, TURN, find};
use self::place::{ACCESS, ADMITTED, CHANGED, Leaf, Place};
#[cfg(feature = "cli")]
pub(crate) use self::spawn::keep_no_descriptor;
#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) use self::wire::fuzzing;
use super::command::trust;
use super::directory::Directory;
use super::files::FileStore;
use super::system::{SystemClock, SystemProcesses};
use crate::error::{Error, ErrorCode, Result};
use crate::mode::MpsHealth;
use crate::mps::{Command, Dialect, MpsDomain, MpsSettings, Reply};
use crate::parameters::Access;
use crate::port::{Clock as _, Processes as _};
use crate::port::{ForeignDaemon, MpsDaemon, MpsHost};

/// Where the driver's packages put the program.
const PROGRAM: &str = "/usr/bin/nvidia-cuda-mps-control";

/// NVIDIA's MPS daemons on this machine.
///
/// The daemon of a domain listens in `mps/UUID` below the directory of what does not outlive this
/// life of the machine (`/run/gpushare`), and it and its servers log into `mps/UUID` below the
/// durable one (`/var/lib/gpushare`). Each look at a daemon adds lines to its log, so whoever looks also
/// gives back the disk that the beginning of a long log takes.
#[derive(Clone, Debug)]
pub struct RealMps {
    run: Directory,
    lib: Directory,
    program: PathBuf,
    scope: Scope,
}

impl RealMps {
    /// Daemons in the directories of a store, started with a program, or with
    /// `/usr/bin/nvidia-cuda-mps-control`.
    pub fn new(store: &FileStore, program: Option<PathBuf>) -> Self {
        Self {
            run: store.run().clone(),
            lib: store.lib().clone(),
            program: program.unwrap_or_else(|| PROGRAM.into()),
            scope: Scope::default(),
        }
    }

    fn place(&self, domain: &MpsDomain) -> Place {
        Place::of(&self.run, &self.lib, domain)
    }

    fn control(&self, place: &Place) -> MpsControl {
        MpsControl::in_directory(place.path()).with_tool(&self.program)
    }

    /// Whom an access names, if they can be let in here.
    fn served(&self, access: &Access) -> Result<Served> {
        let served = Served::resolve(access, SystemProcesses::new().caller_uid())?;
        served.expect_in_reach()?;
        Ok(served)
    }

    fn expect_program(&self) -> Result<()> {
        match std::fs::metadata(&self.program) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
                ErrorCode::Unsupported,
                format!(
                    "there is no {}: install the driver's MPS, or name the program with \
                     GPUSHARE_MPS_CONTROL",
                    self.program.display()
                ),
            )),
            _ => trust(&self.program),
        }
    }
}

/// Refuses an access whose user or group this machine does not know.
#[cfg(feature = "sim")]
pub(super) fn expect_known(access: &Access) -> Result<()> {
    Served::resolve(access, 0).map(|_| ())
}

/// What was noted of an access; none when it can't be read.
fn noted_access(leaf: &Leaf) -> Result<Option<Access>> {
    let text = leaf.read(ACCESS)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Clock ticks since boot, as in `/proc/PID/stat`. They are hundredths of a second on every Linux.
fn ticks() -> u64 {
    SystemClock.ticks()
}

/// Whether a command changes what clients get.
const fn changes_a_limit(command: &Command) -> bool {
    matches!(
        command,
        Command::SetDefaultThreadPercentage(_)
            | Command::SetThreadPercentage { .. }
            | Command::SetDefaultMemoryLimit { .. }
            | Command::SetMemoryLimit { .. }
            | Command::SetDefaultPriority(_)
    )
}

fn no_daemon(domain: &MpsDomain, place: &Place) -> Error {
    let path = place.path();
    Error::new(
        ErrorCode::NotFound,
        format!("there is no MPS daemon of {domain} in {}", path.display()),
    )
}

/// The same error, said of the GPU that the domain is.
fn of_domain(domain: &MpsDomain) -> impl Fn(Error) -> Error + '_ {
    move |error| match domain {
        MpsDomain::Gpu(gpu) => error.of_gpu(gpu),
        MpsDomain::MigDevice(_) => error,
    }
}

impl MpsHost for RealMps {
    fn able(&self) -> bool {
        trust(&self.program).is_ok()
    }

    fn dialect(&self) -> Result<Dialect> {
        self.expect_program()?;
        tool::dialect(&self.program)
    }

    fn probe(&self, domain: &MpsDomain) -> Result<Option<MpsDaemon>> {
        let place = self.place(domain);
        let look = || -> Result<Option<MpsDaemon>> {
            let Some(leaf) = place.open()? else { return Ok(None) };
            let access = noted_access(&leaf)?;
            // Whoever was let in of whom nothing is known was not let in by us.
            let admitted = access.is_some() && leaf.read(ADMITTED)?.is_some();
            let changed = leaf.read(CHANGED)?.and_then(|text| text.trim().parse().ok());
            let Found { mut health, pid } = find(&place)?;
            // What its socket speaks is unknown, and NVIDIA's program may know it.
            if health == MpsHealth::Unknown
                && self.control(&place).command(&Command::Servers).is_ok()
            {
                health = MpsHealth::Answers;
            }
            place.bound_logs();
            Ok(Some(MpsDaemon {
                access: access.unwrap_or_default(),
                admitted,
                health,
                pid,
                directory: place.path(),
                changed,
            }))
        };
        look().map_err(of_domain(domain))
    }

    fn expect_startable(&self, domain: &MpsDomain, access: &Access) -> Result<()> {
        let place = self.place(domain);
        let check = || {
            place.expect_short()?;
            self.expect_program()?;
            let served = self.served(access)?;
            self.lib.open(false)?;
            place.open()?;
            if let Some(run) = self.run.open(false)? {
                served.expect_kept(run, &self.run.path())?;
            }
            if tool::dialect(&self.program)? == Dialect::V3 {
                let program = self.program.display();
                return Err(Error::new(
                    ErrorCode::Unsupported,
                    format!("{program} speaks MPS protocol 3, which this version does not"),
                ));
            }
            Ok(())
        };
        check().map_err(of_domain(domain))
    }

    fn start(&self, domain: &MpsDomain, access: &Access, settings: &MpsSettings) -> Result<()> {
        let start = || {
            self.expect_program()?;
            let served = self.served(access)?;
            let place = self.place(domain);
            // As it was asked for, to be known again; the caller is another one the next time.
            let access = &match access {
                Access::Caller => served.access(),
                access => access.clone(),
            };
            let program = &self.program;
            let start = Start { place: &place, domain, access, settings, program };
            start.start(&self.scope)
        };
        start().map_err(of_domain(domain))
    }

    fn command(&self, domain: &MpsDomain, command: &Command) -> Result<Reply> {
        let place = self.place(domain);
        let tell = || {
            let leaf = place.open()?.ok_or_else(|| no_daemon(domain, &place))?;
            if changes_a_limit(command) {
                // Before it: who came after that moment may have got either.
                leaf.write(CHANGED, &ticks().to_string())?;
            }
            let control = self.control(&place);
            match command {
                Command::StartServer { uid } => daemon::start_server(&place, &control, *uid),
                command => control.command(command),
            }
        };
        tell().map_err(of_domain(domain))
    }

    fn admit(&self, domain: &MpsDomain, admit: bool) -> Result<()> {
        let place = self.place(domain);
        let change = || {
            let _turn = place.lock(TURN)?;
            let leaf = place.open()?.ok_or_else(|| no_daemon(domain, &place))?;
            if !admit {
                leaf.forget(ADMITTED)?;
                return shut(&leaf);
            }
            let access = noted_access(&leaf)?.ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidState,
                    format!(
                        "nobody noted whom the MPS daemon in {} is for",
                        place.path().display()
                    ),
                )
            })?;
            let served = self.served(&access)?;
            served.open(&leaf)?;
            leaf.write(ADMITTED, "")
        };
        change().map_err(of_domain(domain))
    }

    fn stop(&self, domain: &MpsDomain) -> Result<()> {
        let place = self.place(domain);
        daemon::stop(&place, &self.control(&place)).map_err(of_domain(domain))
    }

    fn log(&self, domain: &MpsDomain) -> String {
        self.place(domain).log()
    }

    fn domains(&self) -> Result<Vec<MpsDomain>> {
        place::domains(&self.run)
    }

    fn foreign(&self) -> Result<Vec<ForeignDaemon>> {
        foreign::foreign(&own_place(&self.run))
    }
}

fn own_place(run: &Directory) -> PathBuf {
    place::above(run).path()
}
