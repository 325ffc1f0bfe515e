//! Our MPS daemons: what there is of them, and what they say of themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, Pid};
use crate::mig::Placement;
use crate::mode::{MpsHealth, SharingMode};
use crate::mps::{Command, MpsDomain, MpsSettings, Reply, ServerLimits};
use crate::observe::{Failure, Observer, Scope};
use crate::parameters::{MpsComputeMode, MpsConfig, Parameters};
use crate::port::{Clock, MpsDaemon, MpsHost};
use crate::snapshot::{Epoch, GpuSnapshot, MpsServer, MpsStatus, MpsStray, Visibility};
use crate::spec::Sharing;

impl Observer {
    /// The daemons of a GPU and of its MIG devices.
    pub(super) fn look_at_mps(&self, gpu: &mut GpuSnapshot, epoch: &Epoch) -> Result<(), Failure> {
        let (mps, clock) = (self.ports.mps.as_ref(), self.ports.clock.as_ref());
        let record = gpu.current_record(epoch);
        let recorded = record.and_then(|record| match &record.parameters {
            Parameters::Mps(config) => Some(config.clone()),
            _ => None,
        });
        let instances = record.map(|record| record.instances.clone()).unwrap_or_default();
        gpu.mps = status(mps, clock, &gpu.uuid, &gpu.uuid.clone().into(), recorded)?;
        for device in &mut gpu.mig_devices {
            let of_device = |placement: &Placement| Some(placement.start) == device.start;
            let recorded =
                instances.iter().find(|record| of_device(&record.placement)).and_then(|record| {
                    match &record.sharing {
                        Some(Sharing::Mps(config)) => Some(config.clone()),
                        _ => None,
                    }
                });
            device.mps = status(mps, clock, &gpu.uuid, &device.uuid.clone().into(), recorded)?;
        }
        Ok(())
    }

    /// What there is of ours, where everything is looked at that it could belong to.
    pub(super) fn domains(&self, scope: &Scope) -> Result<Vec<MpsDomain>> {
        if scope.gpus.is_some() || scope.unnamed {
            return Ok(Vec::new());
        }
        match self.ports.mps.domains() {
            // Each GPU says so too.
            Err(error) if error.code() == ErrorCode::PermissionDenied => Ok(Vec::new()),
            domains => domains,
        }
    }

    /// The daemons of domains that are gone. One that cannot be looked at is shown as hidden: it does
    /// not keep anybody from seeing the GPUs.
    pub(super) fn look_at_strays(&self, domains: Vec<MpsDomain>) -> Vec<MpsStray> {
        let (mps, clock) = (self.ports.mps.as_ref(), self.ports.clock.as_ref());
        let strays = domains.into_iter().filter_map(|domain| {
            let found = look(mps, clock, &domain, None);
            let mps = found.unwrap_or_else(|error| Some(MpsStatus::hidden(None, error.message())));
            Some(MpsStray { domain, mps: mps? })
        });
        strays.collect()
    }
}

/// The domains whose devices are not on the node any more. A MIG device that may stand where nobody
/// could look, on a GPU that does not answer or shows only part of itself, is not among them.
pub(super) fn gone(
    domains: Vec<MpsDomain>,
    present: &BTreeSet<GpuUuid>,
    gpus: &[GpuSnapshot],
) -> Vec<MpsDomain> {
    let hides = gpus.iter().any(|gpu| {
        let parts =
            gpu.mig.as_ref().is_some_and(|mig| mig.enabled) && gpu.visibility != Visibility::Full;
        gpu.mode == SharingMode::Lost || parts
    });
    let mut domains = domains;
    domains.retain(|domain| match domain {
        MpsDomain::Gpu(gpu) => !present.contains(gpu),
        MpsDomain::MigDevice(device) => {
            let mut devices = gpus.iter().flat_map(|gpu| &gpu.mig_devices);
            !hides && !devices.any(|there| there.uuid == *device)
        }
    });
    domains
}

/// The daemon of a domain: what there is of it, else what our record says there should be.
fn status(
    mps: &dyn MpsHost,
    clock: &dyn Clock,
    gpu: &GpuUuid,
    domain: &MpsDomain,
    recorded: Option<MpsConfig>,
) -> Result<Option<MpsStatus>, Failure> {
    let found = look(mps, clock, domain, recorded.as_ref());
    let Some(status) = found.map_err(|error| Failure::Other(error.of_gpu(gpu)))? else {
        return Ok(recorded.map(MpsStatus::gone));
    };
    // A dead daemon that nothing remembers is no state of the GPU.
    let hidden = status.health.is_none();
    let nothing = recorded.is_none() && !hidden && !status.alive && !status.is_unready();
    Ok((!nothing).then_some(status))
}

/// What there is of ours for a domain, and what it says.
fn look(
    mps: &dyn MpsHost,
    clock: &dyn Clock,
    domain: &MpsDomain,
    recorded: Option<&MpsConfig>,
) -> Result<Option<MpsStatus>> {
    let hidden = |error: Error| Ok(Some(MpsStatus::hidden(recorded.cloned(), error.message())));
    let daemon = match mps.probe(domain) {
        Ok(Some(daemon)) => daemon,
        Err(error) if error.code() == ErrorCode::PermissionDenied => return hidden(error),
        none => return none.map(|_| None),
    };
    let mut status = MpsStatus {
        ours: true,
        alive: false,
        config: recorded.cloned(),
        pid: daemon.pid,
        health: Some(daemon.health),
        directory: Some(daemon.directory.clone()),
        admitted: daemon.admitted,
        servers: Vec::new(),
        changed: daemon.changed,
    };
    if daemon.health == MpsHealth::Answers {
        match ask(mps, clock, domain, &daemon, recorded) {
            Ok((config, servers)) => {
                status.alive = daemon.admitted;
                status.config = Some(config);
                status.servers = servers;
            }
            // It went or froze between the two looks.
            Err(error) => {
                status.health = Some(match error.code() {
                    ErrorCode::NotFound => MpsHealth::Gone,
                    ErrorCode::Timeout => MpsHealth::Frozen,
                    ErrorCode::PermissionDenied => return hidden(error),
                    _ => MpsHealth::Unknown,
                });
            }
        }
    }
    Ok(Some(status))
}

/// How long one look at a daemon may take.
const LOOK: Duration = Duration::from_secs(3);

/// More servers than any daemon has.
const MOST_SERVERS: usize = 64;

/// What a daemon says of itself.
fn ask(
    mps: &dyn MpsHost,
    clock: &dyn Clock,
    domain: &MpsDomain,
    daemon: &MpsDaemon,
    recorded: Option<&MpsConfig>,
) -> Result<(MpsConfig, Vec<MpsServer>)> {
    // Each command has its own limit; one that always answers in the last moment is held up by this.
    let start = clock.now();
    let mut run = |command: &Command| {
        if clock.now().saturating_sub(start) > LOOK {
            return Err(Error::new(
                ErrorCode::Timeout,
                format!(
                    "the MPS daemon of {domain} takes more than {} s for one look",
                    LOOK.as_secs()
                ),
            ));
        }
        mps.command(domain, command)
    };
    let shown = MpsSettings::read(&mut run)?;
    // What it shows is rounded; where that is what we asked for, it is exactly that.
    let exact = recorded.map(MpsSettings::from).filter(|exact| exact.is_shown_as(&shown));
    let settings = exact.unwrap_or(shown);
    let config = MpsConfig {
        thread_percentage: settings.thread_percentage,
        pinned_memory_limit: settings.pinned_memory_limit,
        priority: settings.priority,
        access: daemon.access.clone(),
        max_clients: recorded.and_then(|config| config.max_clients),
        compute_mode: recorded.map_or(MpsComputeMode::Unchanged, |config| config.compute_mode),
    };
    let mut servers = Vec::new();
    let listed = run(&Command::Servers)?.pids()?;
    if listed.len() > MOST_SERVERS {
        return Err(Error::new(
            ErrorCode::Mps,
            format!(
                "an MPS daemon lists {} servers, and none has more than one for each user",
                listed.len()
            ),
        ));
    }
    for pid in listed {
        // A server may go at any time: then it is none.
        match server(pid, &settings, exact.is_some(), &mut run) {
            Ok(server) => servers.push(server),
            Err(error) if error.code() == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((config, servers))
}

fn server(
    pid: Pid,
    defaults: &MpsSettings,
    exact: bool,
    run: &mut dyn FnMut(&Command) -> Result<Reply>,
) -> Result<MpsServer> {
    let mut server = MpsServer::new(pid);
    server.status = optional(run(&Command::ServerStatus { server: pid }))?
        .map(|reply| reply.status())
        .transpose()?;
    match ServerLimits::read(pid, run) {
        Ok(shown) => {
            server.exact = exact && shown.are_of(defaults);
            let limits = if server.exact { ServerLimits::of(defaults) } else { shown };
            server.thread_percentage = Some(limits.thread_percentage);
            server.pinned_memory_limit = limits.pinned_memory_limit;
        }
        // A server that starts shows none.
        Err(error) if error.code() == ErrorCode::InvalidState => {}
        Err(error) => return Err(error),
    }
    server.clients = run(&Command::Clients { server: pid })?.pids()?;
    Ok(server)
}

/// What an old daemon does not have.
fn optional(reply: Result<Reply>) -> Result<Option<Reply>> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if error.code() == ErrorCode::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}
