//! Steps of MPS daemons: each told, read back, and undone by the same means.

use std::time::Duration;

use crate::apply::POLL;
use crate::apply::execute::{Executor, read_back};
use crate::apply::report::Evicted;
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, Pid};
use crate::mode::MpsHealth;
use crate::mps::{Command, MpsDomain, MpsSetting, MpsSettings, Reply, ServerLimits};
use crate::observe::{Scope, lineage};
use crate::parameters::MpsConfig;
use crate::plan::step::MigPlace;
use crate::port::MpsDaemon;
use crate::process::{Holder, HolderKind};

/// A client, behind its server.
type Client = (Pid, Pid);

/// How long a server may take to come up: 0.2 s on an H200.
const SERVER_START: Duration = Duration::from_secs(3);

/// How often clients are looked for again while a daemon is ended.
const MOST_ROUNDS: usize = 5;

impl Executor<'_> {
    /// Starts a daemon in a closed directory, sets its limits, reads them back, and lets its clients in:
    /// nobody ever comes in without the limits.
    pub(super) fn start_mps(
        &mut self,
        gpu: &GpuUuid,
        on: Option<MigPlace>,
        config: &MpsConfig,
    ) -> Result<()> {
        let domain = self.domain(gpu, on)?;
        let mps = self.ports().mps.clone();
        let wanted = MpsSettings::from(config);
        // One that was closed and not ended is opened again.
        let there = mps.probe(&domain)?;
        let closed = there.as_ref().is_some_and(|daemon| {
            daemon.health == MpsHealth::Answers
                && !daemon.admitted
                && daemon.access == config.access
        });
        if !closed {
            if there.is_some() {
                self.tell(gpu, "end what is left of an MPS daemon", "", || mps.stop(&domain))?;
            }
            let argument = format!("for {}", config.access);
            self.tell(gpu, "nvidia-cuda-mps-control -d", &argument, || {
                mps.start(&domain, &config.access, &wanted)
            })?;
        }
        let found = MpsSettings::read(&mut |command| mps.command(&domain, command))?;
        if !wanted.is_shown_as(&found) {
            for setting in found.changes(&wanted) {
                self.set_mps_default(gpu, on, &setting)?;
            }
        }
        // A directory keeps neither root nor its owner out: whoever came in early has these limits too.
        for setting in MpsSettings::UNLIMITED.changes(&wanted) {
            self.set_mps_servers(gpu, on, &setting)?;
        }
        let found = MpsSettings::read(&mut |command| mps.command(&domain, command))?;
        read_back(wanted.is_shown_as(&found), || {
            format!("the MPS daemon gives {found:?} after it was set to {wanted:?}")
        })?;
        self.tell(gpu, "open the MPS directory", "", || mps.admit(&domain, true))?;
        let serves = |daemon: &MpsDaemon| daemon.health == MpsHealth::Answers && daemon.admitted;
        let found = mps.probe(&domain)?;
        if found.as_ref().is_some_and(serves) {
            return Ok(());
        }
        let log = mps.log(&domain);
        let log =
            if log.is_empty() { String::new() } else { format!("; its log ends with {log:?}") };
        Err(Error::new(
            ErrorCode::Mps,
            format!("the MPS daemon of {domain} was started and does not serve{log}"),
        ))
    }

    /// Closes the directory, ends the clients that may be ended, and then the daemon.
    pub(super) fn stop_mps(
        &mut self,
        gpu: &GpuUuid,
        on: Option<MigPlace>,
        serves: bool,
    ) -> Result<()> {
        let domain = self.domain(gpu, on)?;
        let mps = self.ports().mps.clone();
        let health = mps.probe(&domain)?.map(|daemon| daemon.health);
        if serves && health == Some(MpsHealth::Answers) {
            self.tell(gpu, "close the MPS directory", "", || mps.admit(&domain, false))?;
            if let Err(error) = self.end_clients(gpu, &domain) {
                // Whoever is in there goes on as before, and so does the daemon.
                let opened =
                    self.tell(gpu, "open the MPS directory", "", || mps.admit(&domain, true));
                return Err(match opened {
                    Ok(()) => error,
                    Err(also) => error.context(format!("its directory stays closed: {also}")),
                });
            }
        } else if serves && health.is_some_and(|health| health != MpsHealth::Gone) {
            // It froze since the plan was made: its clients end with it.
            self.expect_no_tenants(gpu, on, &domain)?;
        }
        self.tell(gpu, "quit -t 1", "", || mps.stop(&domain))?;
        let found = mps.probe(&domain)?;
        read_back(found.is_none_or(|daemon| daemon.health == MpsHealth::Gone), || {
            format!("the MPS daemon of {domain} is still there")
        })
    }

    /// Sets a default and reads it back.
    pub(super) fn set_mps_default(
        &mut self,
        gpu: &GpuUuid,
        on: Option<MigPlace>,
        setting: &MpsSetting,
    ) -> Result<()> {
        let domain = self.domain(gpu, on)?;
        let mps = self.ports().mps.clone();
        if setting.is_of_servers_too() {
            // One that can be told nothing now would have the limits of before: known before anything
            // is set.
            for server in mps.command(&domain, &Command::Servers)?.pids()? {
                self.wait_for_server(&domain, server)?;
            }
        }
        self.tell(gpu, "set MPS default", &setting.to_string(), || {
            MpsSettings::set_default(setting, &mut |command| mps.command(&domain, command))
        })
    }

    /// Sets it on every server that runs, and reads it back.
    pub(super) fn set_mps_servers(
        &mut self,
        gpu: &GpuUuid,
        on: Option<MigPlace>,
        setting: &MpsSetting,
    ) -> Result<()> {
        let domain = self.domain(gpu, on)?;
        let mps = self.ports().mps.clone();
        for server in mps.command(&domain, &Command::Servers)?.pids()? {
            if !self.wait_for_server(&domain, server)? {
                continue;
            }
            let argument = format!("server {server}: {setting}");
            let set = self.tell(gpu, "set MPS server", &argument, || {
                MpsSettings::set_server(server, setting, &mut |command| {
                    mps.command(&domain, command)
                })
            });
            match set {
                // A server without clients may go at any time; the next one has the defaults.
                Err(error) if error.code() == ErrorCode::NotFound => {}
                set => set?,
            }
        }
        Ok(())
    }

    /// What a daemon there serves, by its uuid.
    fn domain(&mut self, gpu: &GpuUuid, on: Option<MigPlace>) -> Result<MpsDomain> {
        let Some(place) = on else { return Ok(gpu.clone().into()) };
        self.mig_device(gpu, place)
            .map(Into::into)
            .ok_or_else(|| Error::new(ErrorCode::Stale, format!("there is no {place}")).of_gpu(gpu))
    }

    /// One call that changes something, with its line in the audit.
    fn tell<T>(
        &self,
        gpu: &GpuUuid,
        call: &'static str,
        argument: &str,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let clock = self.ports().clock.clone();
        let start = clock.now();
        let result = change();
        let micros = clock.now().saturating_sub(start).as_micros();
        let word = result.as_ref().err().map_or("SUCCESS", |error| error.code().name());
        self.audit(gpu, call, argument, word, micros);
        result
    }

    /// A server that still starts shows no limits and takes none. Waits until it has come up, or gone.
    /// Whether it can be told something: what is undone is not held up by one that still starts.
    fn wait_for_server(&self, domain: &MpsDomain, server: Pid) -> Result<bool> {
        let (mps, clock) = (self.ports().mps.clone(), self.ports().clock.clone());
        let start = clock.now();
        loop {
            let shown = ServerLimits::read(server, &mut |command| mps.command(domain, command));
            match shown {
                Err(error) if error.code() == ErrorCode::InvalidState => {
                    if self.is_undoing() {
                        return Ok(false);
                    }
                    if clock.now().saturating_sub(start) >= SERVER_START {
                        return Err(error.context(format!(
                            "the MPS server {server} of {domain} is still starting, and what it gives cannot be set"
                        )));
                    }
                    clock.sleep(POLL / 10);
                }
                Err(error) if error.code() != ErrorCode::NotFound => return Err(error),
                Err(_) => return Ok(false),
                Ok(_) => return Ok(true),
            }
        }
    }

    /// Refuses to end a daemon that names nobody, as long as somebody is there who may be its client;
    /// where that was allowed, notes who ends with it.
    fn expect_no_tenants(
        &mut self,
        gpu: &GpuUuid,
        on: Option<MigPlace>,
        domain: &MpsDomain,
    ) -> Result<()> {
        let snapshot = self.observer()?.snapshot(&Scope::gpus([gpu.clone()]))?;
        let Some(there) = snapshot.gpu(gpu) else { return Ok(()) };
        let device = on.and_then(|on| there.mig_device_at(on.gpu_instance, on.start));
        let tenants = there.mps_tenants(device);
        let holders = tenants.holders().to_vec();
        let protected = holders.iter().any(|holder| holder.protected.is_some());
        if tenants.is_busy() && (!self.may_evict() || protected || holders.is_empty()) {
            return Err(in_use(domain, holders));
        }
        for holder in holders {
            let holder = holder.without_arguments();
            self.note_evicted(Evicted { gpu: gpu.clone(), holder, killed: false });
        }
        Ok(())
    }

    /// Ends whoever is still a client, where that was allowed; asked again until nobody new is there.
    fn end_clients(&mut self, gpu: &GpuUuid, domain: &MpsDomain) -> Result<()> {
        let mps = self.ports().mps.clone();
        let mut run = |command: &Command| mps.command(domain, command);
        let mut ended: Vec<Pid> = Vec::new();
        // The directory is closed, and yet root and its owner can come in.
        for _ in 0..MOST_ROUNDS {
            let mut clients = clients(&mut run)?;
            clients.retain(|(_, pid)| !ended.contains(pid));
            if clients.is_empty() {
                return Ok(());
            }
            let holders: Vec<Holder> = clients.iter().map(|(_, pid)| self.client(*pid)).collect();
            let protected = holders.iter().any(|holder| holder.protected.is_some());
            if !self.may_evict() || protected {
                return Err(in_use(domain, holders));
            }
            for ((server, pid), holder) in clients.into_iter().zip(holders) {
                if self.end_client(gpu, (server, pid), &holder, &mut run)? {
                    let holder = holder.without_arguments();
                    self.note_evicted(Evicted { gpu: gpu.clone(), holder, killed: false });
                }
                ended.push(pid);
            }
        }
        Err(Error::new(
            ErrorCode::Busy,
            format!(
                "new clients come to the MPS daemon of {domain} as fast as they are ended; stop what starts them"
            ),
        ))
    }

    /// Ends one client. Whether it was there to be ended.
    fn end_client(
        &self,
        gpu: &GpuUuid,
        (server, client): Client,
        holder: &Holder,
        run: &mut dyn FnMut(&Command) -> Result<Reply>,
    ) -> Result<bool> {
        let command = Command::TerminateClient { server, client };
        let ended =
            self.tell(gpu, "terminate_client", &holder.without_arguments().to_string(), || {
                run(&command)
            });
        let ended = match ended {
            // Driver 470 ends all clients of a server or none.
            Err(error) if error.code() == ErrorCode::Unsupported => {
                let command = Command::ShutdownServer { server, force: true };
                self.tell(gpu, "shutdown_server -f", &server.to_string(), || run(&command))
            }
            ended => ended,
        };
        match ended {
            Ok(_) => Ok(true),
            // It has left by itself.
            Err(error) if error.code() == ErrorCode::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn client(&self, pid: Pid) -> Holder {
        let mut holder = Holder::new(pid, HolderKind::MpsClient);
        if let Some(facts) = self.ports().processes.facts(pid) {
            holder.start_time = Some(facts.start_time);
            holder.uid = Some(facts.uid);
            holder.command = facts.command;
        }
        let processes = self.ports().processes.as_ref();
        if pid == Pid::new(1) || lineage(processes).contains(&pid) {
            holder.protected = Some("it is pid 1, this process, or one that started it".to_owned());
        }
        holder
    }
}

fn in_use(domain: &MpsDomain, holders: Vec<Holder>) -> Error {
    let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let by = if names.is_empty() {
        "somebody who could not be seen".to_owned()
    } else {
        names.join(", ")
    };
    Error::new(ErrorCode::Busy, format!("the MPS daemon of {domain} is in use by {by}"))
        .with_holders(holders)
}

fn clients(run: &mut dyn FnMut(&Command) -> Result<Reply>) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for server in run(&Command::Servers)?.pids()? {
        match run(&Command::Clients { server }).and_then(|reply| reply.pids()) {
            Ok(pids) => clients.extend(pids.into_iter().map(|pid| (server, pid))),
            Err(error) if error.code() == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(clients)
}
