//! What the command line takes.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::apply::ApplyOptions;
use crate::error::{Error, ErrorCode};
use crate::export::Cdi;
use crate::hazard::HazardName;
use crate::id::{Pid, ShareId};
use crate::mode::{Interval, Priority};
use crate::parameters::MpsComputeMode;
use crate::plan::explain::Given;
use crate::terminal::Quoted;
use crate::units::{Bytes, ThreadPercentage};
use crate::visible::DeviceOrder;

use super::advise::Advise;
use super::handover::{Export, Import};
use super::new_instance::NewInstance;
use super::persist::Persist;
use super::restore::Restore;
use super::simulate::SimCommand;

/// Share NVIDIA GPUs by time-slicing, MPS and MIG, as transactions.
///
/// Everything that changes something is planned first, refused before anything is touched when it
/// cannot be done or was not allowed, and undone when it fails on the way.
#[derive(Debug, Parser)]
#[command(name = "gpushare", version, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: 0 done or yes, 1 error, 2 the answer is no (plan and --dry-run: changes are pending).\n\
    Environment: GPUSHARE_SIM, GPUSHARE_STATE_DIR, GPUSHARE_NVML_PATH, GPUSHARE_NVIDIA_SMI, GPUSHARE_MPS_CONTROL."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Simulate a node: 8xH100-80GB, or 2xA100-40GB,1xA30-24GB
    #[arg(long, global = true, value_name = "FLEET")]
    pub(super) sim: Option<String>,
    /// Keep records, journals and locks below DIR/lib and DIR/run
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the GPUs, how each is shared, and who uses it
    Status {
        /// Show it anew every second, until Ctrl-C
        #[arg(long, short)]
        watch: bool,
        #[command(flatten)]
        select: Select,
    },
    /// Show what apply would do; exit status 2 when that is something
    Plan {
        /// A file with a spec in YAML or JSON; - for standard input
        spec: PathBuf,
    },
    /// Bring the GPUs to the state of a spec
    Apply {
        /// A file with a spec in YAML or JSON; - for standard input
        spec: PathBuf,
        /// The digest that the plan must have, as plan printed it
        #[arg(long, value_name = "DIGEST")]
        expect: Option<String>,
        #[command(flatten)]
        consent: Consent,
    },
    /// One process at a time: compute mode EXCLUSIVE_PROCESS, MIG off
    ///
    /// Where MIG is on it is turned off, and its idle instances are destroyed (--allow-evict: those in
    /// use too). To have them back, apply `previous` of the report, which --json prints.
    Exclusive {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// Several processes take turns: compute mode DEFAULT, MIG off
    ///
    /// Where MIG is on it is turned off, and its idle instances are destroyed (--allow-evict: those in
    /// use too). To have them back, apply `previous` of the report, which --json prints.
    TimeSlice {
        /// How many leases a GPU admits
        #[arg(long, value_name = "N", default_value = "4", value_parser = replicas)]
        replicas: NonZeroU32,
        /// How long each turn is: default, short, medium or long
        #[arg(long, value_name = "I", default_value = "default")]
        interval: Interval,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// Several processes run at once, through an MPS daemon
    Mps {
        #[command(subcommand)]
        command: MpsCommand,
    },
    /// Cut GPUs into instances
    Mig {
        #[command(subcommand)]
        command: MigCommand,
    },
    /// Run a command as the tenant of a share, which it has until it and its children are gone
    Run {
        #[command(flatten)]
        lease: LeaseOptions,
        /// Stay its parent, and end it unless it proves to be inside its share
        #[arg(long)]
        verify: bool,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Lease a share for a process that runs: print what it needs, and leave a holder behind
    Lease {
        #[command(flatten)]
        lease: LeaseOptions,
        /// The process: the share is given back when it ends
        #[arg(long, value_name = "P", value_parser = pid, allow_negative_numbers = true)]
        pid: Pid,
    },
    /// Hold a share until a signal comes, or a process ends
    Hold {
        #[command(flatten)]
        lease: LeaseOptions,
        /// Give it back when this process ends
        #[arg(long, value_name = "P", value_parser = pid, allow_negative_numbers = true)]
        pid: Option<Pid>,
        /// Of `lease`: leave the caller's session once the share is held
        #[arg(long, hide = true, requires = "pid")]
        detach: bool,
        /// Hold it for a container, whose state an OCI runtime writes to standard input, until its first
        /// process ends
        #[arg(long, conflicts_with = "pid")]
        oci_hook: bool,
    },
    /// Give back a share that `lease` or `hold` holds
    Release {
        /// The id of the share, or the name of the lease
        id: String,
    },
    /// List the shares and who has them
    Leases,
    /// Give no new leases of GPUs
    Cordon {
        /// Why, for those who ask in vain
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        select: Select,
    },
    /// Give leases of GPUs again
    Uncordon {
        #[command(flatten)]
        select: Select,
    },
    /// Settle what an apply left that was killed on its way
    Recover {
        /// Set this journal aside and leave the GPUs as they are
        #[arg(long, value_name = "JOURNAL")]
        discard: Option<String>,
        /// Wait that long for another apply: seconds, or none for ever
        #[arg(long, value_name = "S", default_value = "0", value_parser = timeout)]
        timeout: Timeout,
    },
    /// Store what is in force, for `restore` to bring back after a reboot
    ///
    /// That is every GPU that gpushare manages and every one with MIG instances, by uuid. Hazards that
    /// are in force are stored with them, and are accepted again by `restore`.
    Persist(Persist),
    /// Bring the GPUs back to what `persist` stored: the layout, MPS, compute mode and interval, which a
    /// reboot or a reload of the driver takes
    ///
    /// Nobody is evicted, and a GPU that somebody uses stays as it is (BUSY). One that cannot be restored
    /// keeps no other back. A GPU that gpushare changed since the driver was loaded, or that was restored
    /// since then, is left alone. systemd/gpushare-restore.service does this at boot.
    Restore(Restore),
    /// Show what CUDA shows with a value of CUDA_VISIBLE_DEVICES; exit status 2 when that is nothing
    Resolve {
        /// The value, after -- if it begins with -; left out, the variable counts as unset, whatever it is here
        #[arg(allow_negative_numbers = true)]
        string: Option<String>,
        /// The value of CUDA_DEVICE_ORDER: FASTEST_FIRST or PCI_BUS_ID
        #[arg(long, value_name = "ORDER", default_value = "FASTEST_FIRST")]
        device_order: DeviceOrder,
    },
    /// What stands in the way of sharing GPUs here, and what mends it; exit status 2 when something does
    Doctor {
        #[command(flatten)]
        select: Select,
    },
    /// Which way to share suits a workload here, and the spec for it; exit status 2 when none does
    Advise(Advise),
    /// Say how the GPUs are shared in the words of another tool
    Export(Export),
    /// Print the node in Prometheus' text format
    Metrics {
        /// Write it to that file, whole or not at all, in the place of what is there
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the spec that was written for another tool
    ///
    /// To apply it: gpushare import mig-parted FILE --config NAME | gpushare apply -
    /// To ask whether it is so (exit status 2 when not): the same to gpushare plan -
    #[command(verbatim_doc_comment)]
    Import(Import),
    /// Make things happen on a simulated node
    Sim {
        #[command(subcommand)]
        command: SimCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MpsCommand {
    /// Start an MPS daemon on GPUs, or tell the one that runs; MIG devices get theirs by a spec
    ///
    /// Where MIG is on it is turned off, and its idle instances are destroyed (--allow-evict: those in
    /// use too). `mps disable` does not bring them back; to have them back, apply `previous` of the
    /// report, which --json prints.
    ///
    /// What is not given takes its default, whatever the daemon that runs has: without --user, --group or
    /// --any-user access is the caller's. A daemon serves those it was started for; where that
    /// changes, it is stopped and a new one started.
    Enable {
        #[command(flatten)]
        limits: MpsLimits,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// End the MPS daemon, and return to what was there before
    ///
    /// That is the compute mode and the interval of before gpushare's first change. MIG and instances
    /// that `mps enable` took away do not come back: apply `previous` of its report. Daemons of MIG
    /// devices stay: a spec takes them away.
    #[command(mut_arg("grace", |grace| {
        grace.help("Give clients that many seconds to go by themselves, then end them")
    }))]
    Disable {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// Show the MPS daemons, what they give, their clients, and who runs beside them
    Status {
        #[command(flatten)]
        select: Select,
    },
    /// Whether a process is a client of an MPS daemon of gpushare's; exit status 2 when it is not, or
    /// nobody can tell
    Verify {
        /// The process
        #[arg(value_parser = pid, allow_negative_numbers = true)]
        pid: Pid,
    },
    /// Equal parts for that many clients, which corrupt nothing
    Split {
        /// How many clients
        #[arg(value_name = "N", value_parser = count, allow_negative_numbers = true)]
        parts: NonZeroU32,
        #[command(flatten)]
        select: Select,
    },
}

/// What each client of an MPS daemon gets, and who may be one.
#[derive(Debug, Args)]
pub(super) struct MpsLimits {
    /// The share of threads that each client gets at most, in percent
    #[arg(long, value_name = "P", default_value = "100", value_parser = percentage, allow_negative_numbers = true)]
    pub(super) thread_percentage: ThreadPercentage,
    /// The device memory that each client gets at most, its CUDA context included: 2GiB
    #[arg(long, value_name = "SIZE", value_parser = limit, allow_negative_numbers = true)]
    pub(super) pinned_memory_limit: Option<Bytes>,
    /// How many leases the daemon admits
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(super) max_clients: Option<NonZeroU32>,
    /// The priority of its clients: normal or below_normal
    #[arg(long, value_name = "P", default_value = "normal")]
    pub(super) priority: Priority,
    /// Let in that user; by default the caller alone, under sudo the user behind it
    #[arg(long, value_name = "U", conflicts_with_all = ["group", "any_user"])]
    pub(super) user: Option<String>,
    /// Let in the members of that group
    #[arg(long, value_name = "G", conflicts_with = "any_user")]
    pub(super) group: Option<String>,
    /// Let in every user; up to driver 535 they can change the daemon's settings
    #[arg(long)]
    pub(super) any_user: bool,
    /// exclusive_process, or unchanged (hazard bypass-possible; needs no root)
    #[arg(long, value_name = "M", default_value = "exclusive_process", value_parser = compute_mode)]
    pub(super) compute_mode: MpsComputeMode,
}

#[derive(Debug, Subcommand)]
pub(super) enum MigCommand {
    /// Turn MIG on; instances that are there stay
    Enable {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// Turn MIG off, and return to what was there before
    Disable {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// List the MIG devices
    List {
        #[command(flatten)]
        select: Select,
    },
    /// List the profiles that the GPUs have
    Profiles {
        #[command(flatten)]
        select: Select,
    },
    /// Add instances beside those that are there
    Create {
        /// 1g.10gb, 3g, or with the first slot 3g.40gb@4; nvidia-smi's 19,9:4 and 3g.40gb:4 too
        #[arg(required = true, value_name = "PROFILE[@START]", value_delimiter = ',')]
        instances: Vec<NewInstance>,
        /// How many of each
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=16))]
        count: u8,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// Remove instances: MIG devices by uuid, or GPU instances by id
    Destroy {
        /// A MIG device's uuid or the beginning of one, or the id of a GPU instance; lists (1,2) too
        #[arg(required = true, value_name = "UUID|GI", value_delimiter = ',')]
        instances: Vec<Doomed>,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Which share, and what of it.
#[derive(Debug, Args)]
pub(super) struct LeaseOptions {
    /// That share, by its id
    #[arg(long, value_name = "ID", conflicts_with_all = ["gpu", "mig"])]
    pub(super) share: Option<ShareId>,
    /// A share of that GPU: an index, a uuid or the beginning of one, a PCI address, or all for any
    #[arg(long, short = 'i', value_name = "SEL", conflicts_with = "mig")]
    pub(super) gpu: Option<String>,
    /// A MIG device of that profile, or any for the smallest with enough
    #[arg(long, value_name = "PROFILE")]
    pub(super) mig: Option<String>,
    /// Several shares, all or none
    #[arg(long, value_name = "N", default_value = "1", value_parser = count, allow_negative_numbers = true)]
    pub(super) count: NonZeroU32,
    /// Devices with at least that much memory
    #[arg(long, value_name = "SIZE", value_parser = limit)]
    pub(super) min_memory: Option<Bytes>,
    /// Devices with at least that many multiprocessors
    #[arg(long, value_name = "N")]
    pub(super) min_sms: Option<u32>,
    /// Under MPS: the share of threads that the command is asked to take at most, in percent
    #[arg(long, value_name = "P", value_parser = percentage, allow_negative_numbers = true)]
    pub(super) thread_percentage: Option<ThreadPercentage>,
    /// Under MPS: the device memory that the command is asked to take at most: 2GiB
    #[arg(long, value_name = "SIZE", value_parser = limit, allow_negative_numbers = true)]
    pub(super) pinned_memory_limit: Option<Bytes>,
    /// Accept a hazard of these
    #[arg(long, value_name = "NAME", value_parser = hazard)]
    pub(super) allow_hazard: Vec<HazardName>,
    /// Wait that long for a share, first come first served: seconds, or none for ever
    #[arg(long, value_name = "S", default_value = "0", value_parser = timeout)]
    pub(super) timeout: Timeout,
    /// Create the MIG device where none is free
    #[arg(long, requires = "mig")]
    pub(super) create: bool,
}

/// Which GPUs.
#[derive(Debug, Args)]
pub(super) struct Select {
    /// An index, a list of them, a uuid or the beginning of one, a PCI address, or all
    #[arg(long, short = 'i', value_name = "SEL", value_delimiter = ',')]
    pub(super) gpu: Vec<String>,
}

/// What a change may do, and how long it may wait.
#[derive(Clone, Debug, Args)]
pub(super) struct Consent {
    /// Show what would be done; exit status 2 when that is something
    #[arg(long)]
    pub(super) dry_run: bool,
    /// End the processes that are in the way
    #[arg(long)]
    allow_evict: bool,
    /// Reset a GPU where that is the only way
    #[arg(long)]
    allow_reset: bool,
    /// Accept a hazard
    #[arg(long, value_name = "NAME", value_parser = hazard)]
    allow_hazard: Vec<HazardName>,
    /// Wait that many seconds for processes in the way to end by themselves
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    drain: Duration,
    /// Wait that long for another apply: seconds, or none for ever
    #[arg(long, value_name = "S", default_value = "0", value_parser = timeout)]
    timeout: Timeout,
    /// Seconds between SIGTERM and SIGKILL of an evicted process [default: 30]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(super) grace: Option<Duration>,
    /// Run the programs pre-apply, pre-mode, post-apply and failure of that directory around the change
    #[arg(long, value_name = "DIR")]
    pub(super) hooks: Option<PathBuf>,
    /// Seconds that each of them may take
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds, requires = "hooks")]
    pub(super) hook_timeout: Duration,
    #[command(flatten)]
    pub(super) specifications: Specifications,
}

/// What becomes of CDI specifications.
#[derive(Clone, Debug, Args)]
pub(super) struct Specifications {
    /// Keep CDI specifications of these GPUs for containers in that directory [default: /var/run/cdi]; from
    /// now on they follow every change
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = Cdi::DIRECTORY
    )]
    pub(super) cdi: Option<PathBuf>,
    /// Containers take no leases
    #[arg(long, requires = "cdi")]
    pub(super) no_lease: bool,
    /// Remove the CDI specifications of these GPUs, and keep none from now on
    #[arg(long, conflicts_with = "cdi")]
    pub(super) no_cdi: bool,
}

impl Consent {
    /// What it allows, for a plan to say so.
    pub(super) fn given(&self) -> Given {
        Given {
            evict: self.allow_evict,
            reset: self.allow_reset,
            hazards: self.allow_hazard.clone(),
        }
    }

    /// The same for apply.
    pub(super) fn options(&self) -> ApplyOptions {
        let options = ApplyOptions::new()
            .allow_evict(self.allow_evict)
            .allow_reset(self.allow_reset)
            .drain(self.drain)
            .timeout(self.timeout.0)
            .grace(self.grace.unwrap_or(GRACE));
        self.allow_hazard.iter().fold(options, |options, &hazard| options.allow_hazard(hazard))
    }
}

impl Consent {
    /// Of `mps disable`: the grace is that of clients, which are ended by their daemon after it.
    pub(super) fn of_mps_disable(&self) -> Self {
        let mut consent = self.clone();
        if let Some(grace) = consent.grace.take() {
            consent.allow_evict = true;
            consent.drain = consent.drain.max(grace);
            // For a daemon that is frozen and ends nobody.
            consent.grace = Some(grace.min(GRACE));
        }
        consent
    }
}

/// What an evicted process has between SIGTERM and SIGKILL where nobody says.
const GRACE: Duration = Duration::from_secs(30);

/// How long to wait; none for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeout(pub(super) Option<Duration>);

/// An instance to destroy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doomed {
    /// A MIG device by its uuid or the beginning of one.
    Device(String),
    /// A GPU instance by its id.
    GpuInstance(u32),
}

impl FromStr for Doomed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return refuse(
                "an element of the list is empty: give the uuid of a MIG device or the id of a GPU instance"
                    .to_owned(),
            );
        }
        if text.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("MIG-")) && text.len() > 4 {
            return Ok(Self::Device(text.to_owned()));
        }
        match text.parse() {
            Ok(id) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self::GpuInstance(id)),
            _ => refuse(format!(
                "{} names no instance: give the uuid of a MIG device or the id of a GPU instance",
                Quoted(text)
            )),
        }
    }
}

fn refuse<T>(why: String) -> Result<T, Error> {
    Err(Error::new(ErrorCode::InvalidArgument, why))
}

/// Within what a spec takes.
fn replicas(text: &str) -> Result<NonZeroU32, Error> {
    match text.parse::<NonZeroU32>() {
        Ok(number) if number.get() <= 1024 && !text.starts_with('+') => Ok(number),
        _ => refuse("a whole number from 1 to 1024".to_owned()),
    }
}

pub(super) fn hazard(text: &str) -> Result<HazardName, Error> {
    HazardName::ALL.iter().copied().find(|name| name.as_str() == text).ok_or_else(|| {
        let names: Vec<_> = HazardName::ALL.iter().map(|name| name.as_str()).collect();
        Error::new(ErrorCode::InvalidArgument, format!("one of {}", names.join(", ")))
    })
}

fn percentage(text: &str) -> Result<ThreadPercentage, Error> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse().ok().filter(|_| plain) {
        Some(percent) => ThreadPercentage::new(percent),
        None => refuse("a number above 0 and at most 100, such as 25 or 12.5".to_owned()),
    }
}

fn count(text: &str) -> Result<NonZeroU32, Error> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse().ok().filter(|_| digits) {
        Some(number) => Ok(number),
        None => refuse("a whole number from 1 on, such as 4".to_owned()),
    }
}

fn limit(text: &str) -> Result<Bytes, Error> {
    let limit = Bytes::parse_with_unit(text)?;
    if limit.get() == 0 || limit.get() % (1 << 20) != 0 {
        return refuse(format!(
            "{limit} is no whole number of MiB above 0; leave the option out for no limit"
        ));
    }
    Ok(limit)
}

fn compute_mode(text: &str) -> Result<MpsComputeMode, Error> {
    match text {
        "exclusive_process" => Ok(MpsComputeMode::ExclusiveProcess),
        "unchanged" => Ok(MpsComputeMode::Unchanged),
        _ => refuse("exclusive_process or unchanged".to_owned()),
    }
}

fn pid(text: &str) -> Result<Pid, Error> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>().ok().filter(|&pid| digits && pid > 0) {
        Some(pid) => Ok(Pid::new(pid)),
        None => refuse("the number of a process".to_owned()),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, Error> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = text.parse().ok().filter(|_| plain);
    match number.and_then(|number| Duration::try_from_secs_f64(number).ok()) {
        Some(duration) => Ok(duration),
        None => refuse("seconds, such as 30 or 0.5".to_owned()),
    }
}

pub(super) fn timeout(text: &str) -> Result<Timeout, Error> {
    match text {
        "none" => Ok(Timeout(None)),
        _ => seconds(text)
            .map(|duration| Timeout(Some(duration)))
            .or_else(|_| refuse("seconds, such as 30 or 0.5, or none to wait for ever".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn instances_to_destroy_are_named_by_uuid_or_id() {
        assert_eq!("7".parse::<Doomed>().unwrap(), Doomed::GpuInstance(7));
        for text in ["", "MIG-", "GPU-1", "+7", "7 ", "99999999999"] {
            assert!(text.parse::<Doomed>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds("0.25").unwrap(), Duration::from_millis(250));
        assert!(timeout("none").unwrap().0.is_none());
        for text in ["", "-1", "1e3", "inf", "NaN", "1s", "99999999999999999999999"] {
            assert!(seconds(text).is_err() && timeout(text).is_err(), "{text}");
        }
    }
}
