//! A node: the GPUs of one machine, real or simulated.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::apply::{self, ApplyOptions, Event, Hooks, Moment, Report, Source};
use crate::backend::cdi::SystemCdiFiles;
use crate::backend::devices::SystemDevices;
use crate::backend::directory::{self, Directory};
use crate::backend::files::FileStore;
use crate::backend::hooks::HookDirectory;
use crate::backend::machine::RealMachine;
use crate::backend::mps::RealMps;
use crate::backend::nvidia_smi::NvidiaSmi;
use crate::backend::nvml::RealNvml;
#[cfg(feature = "sim")]
use crate::backend::sim::Simulator;
use crate::backend::slots::FileSlots;
use crate::backend::stored::StoredSpec;
use crate::backend::system::{SystemClock, SystemProcesses, environment};
use crate::backend::trust::distrusted;
use crate::doctor::{self, Diagnosis, MachineFacts};
use crate::error::{Error, ErrorCode, Result};
use crate::export::LeaseHook;
use crate::fork::Caller;
use crate::hazard::{self, MpsTarget};
use crate::id::Pid;
use crate::metrics;
use crate::mps::Attachment;
use crate::observe::{Observer, Scope};
use crate::parameters::MpsConfig;
use crate::plan::{self, GpuHazard, Plan, Request, previous, select};
use crate::port::{Ports, ancestry, expect_this};
use crate::snapshot::Snapshot;
use crate::spec::Spec;
use crate::state::transitions;
use crate::visible::{self, Resolution};

/// The GPUs of one machine.
///
/// A handle: clones are the same node, from any thread. Calls block. An idle node holds no device
/// open; an [`Observer`] does.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use gpushare_core::{ApplyOptions, Node, Spec};
///
/// let node = Node::builder().sim("2xH100-80GB").open()?;
/// let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [
///     {"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 4}}}]}"#.parse()?;
/// let plan = node.plan(&spec)?;
/// println!("{plan}");
/// plan.apply(&node, ApplyOptions::new())?;
/// assert!(node.plan(&spec)?.noop);
/// # }
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ports: Ports,
    simulated: bool,
    /// Variables by which another process opens the same node; none where it cannot.
    reached_by: Option<Vec<(&'static str, OsString)>>,
    /// Where a spec is stored for the next boot.
    etc: Option<Directory>,
    #[cfg(feature = "sim")]
    simulator: Option<Simulator>,
}

/// How a node is opened.
#[derive(Clone, Debug, Default)]
pub struct NodeBuilder {
    sim: Option<String>,
    state_dir: Option<PathBuf>,
    shared_state: bool,
    nvml_path: Option<PathBuf>,
    nvidia_smi: Option<PathBuf>,
    mps_control: Option<PathBuf>,
    ignores_environment: bool,
}

impl NodeBuilder {
    /// A simulated node: `8xH100-80GB`, `2xA100-40GB,1xA30-24GB`. Needs feature `sim`.
    ///
    /// Without a state directory it is in memory and this handle's own.
    #[must_use]
    pub fn sim(mut self, fleet: impl Into<String>) -> Self {
        self.sim = Some(fleet.into());
        self
    }

    /// Where records, journals and locks are, instead of `/var/lib/gpushare` and `/run/gpushare`:
    /// below `lib` and `run` of this directory. A simulated node has them below `lib/sim-FLEET` and
    /// `run/sim-FLEET`, and itself in `run/sim-FLEET.json`.
    ///
    /// It must be no symbolic link, belong to root or to this user, and be writable by nobody else;
    /// who could change what is above it is not looked at. It is made where it is not there. A relative path
    /// counts from the directory that the process is in when it opens the node, and no other later.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// A simulated node without a state directory keeps its state in a directory of this user's,
    /// where the next process finds it.
    #[must_use]
    pub fn shared_state(mut self) -> Self {
        self.shared_state = true;
        self
    }

    /// The driver's library, instead of the one that the system's loader finds.
    #[must_use]
    pub fn nvml_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.nvml_path = Some(path.into());
        self
    }

    /// `nvidia-smi`, instead of `/usr/bin/nvidia-smi`.
    #[must_use]
    pub fn nvidia_smi(mut self, path: impl Into<PathBuf>) -> Self {
        self.nvidia_smi = Some(path.into());
        self
    }

    /// `nvidia-cuda-mps-control`, which starts MPS daemons, instead of
    /// `/usr/bin/nvidia-cuda-mps-control`. The daemon looks for `nvidia-cuda-mps-server` beside it first.
    #[must_use]
    pub fn mps_control(mut self, path: impl Into<PathBuf>) -> Self {
        self.mps_control = Some(path.into());
        self
    }

    /// Takes nothing from the `GPUSHARE_` variables of the environment: for a daemon that changes GPUs,
    /// whose environment may be another's. What was not set is as if no variable were there.
    #[must_use]
    pub fn ignore_environment(mut self, ignore: bool) -> Self {
        self.ignores_environment = ignore;
        self
    }

    /// Opens the node. What was not set is taken from the environment: `GPUSHARE_SIM`,
    /// `GPUSHARE_STATE_DIR`, `GPUSHARE_NVML_PATH`, `GPUSHARE_NVIDIA_SMI`, `GPUSHARE_MPS_CONTROL`. A
    /// program that runs with more rights than its caller (set-id) ignores them, and so does who
    /// [asked for it](Self::ignore_environment).
    ///
    /// The driver is not opened: that is done by what needs it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a fleet that cannot be read, a state directory without a name, or a
    /// library or program whose path is not absolute or leads to no regular file; PERMISSION_DENIED as root for a library or
    /// program that others could have written, or put another in its place;
    /// UNSUPPORTED for a simulated node without feature `sim`.
    pub fn open(self) -> Result<Node> {
        let ignored = self.ignores_environment;
        let environment = |name: &str| if ignored { None } else { environment(name) };
        let sim = match self.sim {
            Some(sim) => Some(sim),
            None => environment("GPUSHARE_SIM").map(text).transpose()?,
        };
        let state_dir =
            self.state_dir.or_else(|| environment("GPUSHARE_STATE_DIR").map(PathBuf::from));
        let state_dir = state_dir.map(|directory| Directory::new(&directory)).transpose()?;
        if let Some(fleet) = sim {
            return simulated(&fleet, state_dir, self.shared_state);
        }
        let nvml_path =
            self.nvml_path.or_else(|| environment("GPUSHARE_NVML_PATH").map(PathBuf::from));
        let nvidia_smi =
            self.nvidia_smi.or_else(|| environment("GPUSHARE_NVIDIA_SMI").map(PathBuf::from));
        let mps_control =
            self.mps_control.or_else(|| environment("GPUSHARE_MPS_CONTROL").map(PathBuf::from));
        for path in [&nvml_path, &nvidia_smi, &mps_control].into_iter().flatten() {
            expect_trusted(path)?;
        }
        let etc = Some(match &state_dir {
            Some(directory) => directory.join("etc"),
            None => Directory::new(Path::new(ETC))?,
        });
        let state_dir = match state_dir {
            Some(directory) => Some(directory),
            None => default_directory()?,
        };
        let place = state_dir.as_ref().map(Directory::path);
        let reached_by = [
            ("GPUSHARE_STATE_DIR", &place),
            ("GPUSHARE_NVML_PATH", &nvml_path),
            ("GPUSHARE_NVIDIA_SMI", &nvidia_smi),
            ("GPUSHARE_MPS_CONTROL", &mps_control),
        ];
        let reached_by = reached_by.into_iter().filter_map(|(name, path)| {
            path.as_ref().map(|path| (name, path.clone().into_os_string()))
        });
        let reached_by = Some(reached_by.collect());
        let store = match &state_dir {
            Some(directory) => FileStore::in_directory(directory),
            None => FileStore::system()?,
        };
        let tool = Arc::new(NvidiaSmi::new(nvidia_smi));
        let ports = Ports {
            machine: Arc::new(RealMachine::new(&store, nvml_path.clone())),
            nvml: Arc::new(RealNvml::new(nvml_path)),
            mps: Arc::new(RealMps::new(&store, mps_control)),
            policy: tool.clone(),
            reset: tool,
            processes: Arc::new(SystemProcesses::new()),
            slots: Arc::new(FileSlots::below(store.run())),
            store: Arc::new(store),
            devices: Arc::new(SystemDevices::new()),
            cdi: Arc::new(SystemCdiFiles),
            clock: Arc::new(SystemClock::new()),
        };
        Ok(Node {
            inner: Arc::new(Inner {
                ports,
                simulated: false,
                reached_by,
                etc,
                #[cfg(feature = "sim")]
                simulator: None,
            }),
        })
    }
}

#[cfg(feature = "sim")]
fn simulated(fleet: &str, state_dir: Option<Directory>, shared: bool) -> Result<Node> {
    let fleet = fleet.parse::<crate::backend::sim::Fleet>()?;
    let directory = match state_dir {
        None if shared => Some(simulated_directory()?),
        given => given,
    };
    let etc = directory.as_ref().map(|above| above.join("etc").join(&fleet.file_name()));
    let reached_by = directory.as_ref().map(|directory| {
        let place = directory.path().into_os_string();
        vec![("GPUSHARE_SIM", fleet.to_string().into()), ("GPUSHARE_STATE_DIR", place)]
    });
    let (simulator, ports) = match directory {
        None => {
            let simulator = Simulator::new(fleet)?;
            let ports = simulator.ports_in_memory();
            (simulator, ports)
        }
        Some(directory) => {
            let store = FileStore::in_directory(&directory);
            let name = fleet.file_name();
            // The cards of all fleets have the same uuids: each has records and journals of its own.
            let own = Arc::new(store.within(&name));
            let file = format!("{name}.json");
            let simulator = Simulator::in_directory(store.run(), &file, true, fleet)?;
            let slots = FileSlots::below(own.run());
            let mut ports = simulator.ports(own);
            ports.slots = Arc::new(slots);
            let machine = Arc::new(SystemProcesses::new());
            ports.processes = simulator.processes_over(machine.clone());
            ports.mps = simulator.mps_over(machine);
            (simulator, ports)
        }
    };
    Ok(Node {
        inner: Arc::new(Inner {
            ports,
            simulated: true,
            reached_by,
            etc,
            simulator: Some(simulator),
        }),
    })
}

#[cfg(not(feature = "sim"))]
fn simulated(fleet: &str, _: Option<Directory>, _: bool) -> Result<Node> {
    Err(Error::new(
        ErrorCode::Unsupported,
        format!(
            "the simulated node {fleet} was asked for, and gpushare-core was built without feature `sim`"
        ),
    ))
}

/// Where simulated nodes live that nobody gave a directory: never where a real node's state is.
#[cfg(feature = "sim")]
fn simulated_directory() -> Result<Directory> {
    let user = rustix::process::geteuid();
    let above = if user.is_root() {
        Directory::new(Path::new(RUN))?
    } else {
        users_directory(user.as_raw())?
    };
    Ok(above.join("simulated"))
}

/// A directory of this user alone.
fn users_directory(uid: u32) -> Result<Directory> {
    let runtime = environment("XDG_RUNTIME_DIR").map(PathBuf::from);
    let path = match runtime.filter(|path| directory::is_users_own(path)) {
        Some(runtime) => runtime.join("gpushare"),
        // Not set, or another user's, as it is after `su`.
        None => PathBuf::from(format!("/tmp/gpushare-{uid}")),
    };
    Ok(Directory::new(&path)?.private())
}

/// Where the spec of this machine is stored: root's, as what is restored at boot is.
const ETC: &str = "/etc/gpushare";

/// Where locks are on a machine whose root uses gpushare.
const RUN: &str = "/run/gpushare";

/// Where durable files and locks are where nobody gave a directory: none on a machine whose root uses
/// gpushare, which has places of its own.
fn default_directory() -> Result<Option<Directory>> {
    let user = rustix::process::geteuid();
    if user.is_root() || Path::new(RUN).exists() {
        return Ok(None);
    }
    users_directory(user.as_raw()).map(Some)
}

fn text(value: OsString) -> Result<String> {
    value.into_string().map_err(|value| {
        Error::new(ErrorCode::InvalidArgument, format!("{value:?} in the environment is not text"))
    })
}

/// Code from this path runs with all rights of this process.
fn expect_trusted(path: &Path) -> Result<()> {
    if !path.is_absolute() {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{}: give an absolute path", path.display()),
        ));
    }
    let why = match distrusted(path) {
        Ok(None) => return expect_file(path),
        Ok(Some(why)) => why,
        // Whoever needs it will say that it is not there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("look at", path, error)),
    };
    let path = path.display();
    Err(Error::new(ErrorCode::PermissionDenied, format!("{path} is not used: {why}"))
        .with_needs(vec![format!("{path} and the folders above it writable by root alone")]))
}

/// A pipe in the place of a library would be waited for, for ever.
fn expect_file(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            let message = format!("{}: it is no regular file", path.display());
            Err(Error::new(ErrorCode::InvalidArgument, message))
        }
        // Whoever needs it will say what it is.
        _ => Ok(()),
    }
}

/// Has no child of this process have what this process has open, beyond the three of every program. For
/// a process of one thread.
#[cfg(feature = "cli")]
pub(crate) fn keep_descriptors_from_children() -> std::io::Result<()> {
    crate::backend::mps::keep_no_descriptor()
}

impl Node {
    /// The node of this machine, or the one that the environment names.
    ///
    /// # Errors
    /// As [`NodeBuilder::open`].
    pub fn open() -> Result<Self> {
        Self::builder().open()
    }

    /// A node that is to be opened in another way.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// A node over ports of your own: for tests with faults, or another backend.
    pub fn with_ports(ports: Ports, simulated: bool) -> Self {
        Self {
            inner: Arc::new(Inner {
                ports,
                simulated,
                reached_by: None,
                etc: None,
                #[cfg(feature = "sim")]
                simulator: None,
            }),
        }
    }

    /// Whether the node is simulated.
    pub fn is_simulated(&self) -> bool {
        self.inner.simulated
    }

    /// What makes things happen on a simulated node.
    #[cfg(feature = "sim")]
    pub fn simulator(&self) -> Option<&Simulator> {
        self.inner.simulator.as_ref()
    }

    /// The ports that the node stands on: to decorate them with faults, or to count calls.
    pub fn ports(&self) -> &Ports {
        &self.inner.ports
    }

    /// Makes a call that changes something, or takes something: with this node as this process alone
    /// has it. A callback or a log's receiver may fork, and its child would go on with the call.
    ///
    /// # Errors
    /// Those of the call; INVALID_STATE in such a child, whatever the call says.
    pub(crate) fn call<R>(&self, call: impl FnOnce(&Self, Caller) -> Result<R>) -> Result<R> {
        let caller = Caller::this();
        let inner = Inner {
            ports: self.inner.ports.of(caller),
            simulated: self.inner.simulated,
            reached_by: self.inner.reached_by.clone(),
            etc: self.inner.etc.clone(),
            #[cfg(feature = "sim")]
            simulator: self.inner.simulator.clone(),
        };
        let done = call(&Self { inner: Arc::new(inner) }, caller);
        expect_this(caller)?;
        done
    }

    /// Opens the driver to look often: a snapshot of an observer takes less than a millisecond on a
    /// real GPU, while opening and closing the driver takes five. It holds the devices open, and
    /// nobody can reset them meanwhile.
    ///
    /// # Errors
    /// NOT_FOUND without a driver.
    pub fn observer(&self) -> Result<Observer> {
        Observer::open(&self.inner.ports, self.inner.simulated)
    }

    /// The state of all GPUs now. Needs no privilege, and says what it could not see.
    ///
    /// # Errors
    /// NOT_FOUND without a driver; DRIVER; IO.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.observer()?.snapshot(&Scope::all())
    }

    /// Whether a process is a client of an MPS daemon of ours, and what holds it there: judged by what
    /// the daemon and the driver say, never by what the process was told.
    ///
    /// Needs no privilege to say `unknown`; to see daemons of others and their clients, root.
    ///
    /// # Errors
    /// NOT_FOUND when there is no such process; as [`snapshot`](Self::snapshot).
    pub fn verify_mps(&self, pid: Pid) -> Result<Attachment> {
        self.observer()?.verify_mps(pid)
    }

    /// What CUDA shows a process with that value of `CUDA_VISIBLE_DEVICES`, without CUDA; none is the
    /// variable unset. Reads no environment and needs no privilege.
    ///
    /// That CUDA shows no device is an answer, not an error. For more than one value, or another
    /// `CUDA_DEVICE_ORDER`, take a [`snapshot`](Self::snapshot) and [`visible::resolve_with`].
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn resolve_visible_devices(&self, string: Option<&str>) -> Result<Resolution> {
        Ok(visible::resolve(&self.snapshot()?, string))
    }

    /// A spec of what is in force here and a reboot or a reload of the driver would take away, and what
    /// no spec can say: the GPUs that gpushare manages and those with MIG instances, each by its uuid, with
    /// placements and names. GPUs that nobody manages are left out.
    ///
    /// Applied after a reboot it brings them back; `gpushare persist` stores it for that. MIG devices may
    /// get other uuids then, and hazards must be accepted again.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot); PERMISSION_DENIED where MIG is on and its instances cannot be
    /// seen; RECOVERY_REQUIRED where a change was not finished.
    pub fn spec_in_force(&self) -> Result<(Spec, Vec<String>)> {
        previous::in_force(&self.observer()?.snapshot(&Scope::all().with_intervals_on_record())?)
    }

    /// The GPUs as a plan to that spec needs to see them.
    #[cfg(feature = "cli")]
    pub(crate) fn snapshot_for(&self, spec: &Spec) -> Result<Snapshot> {
        self.observer()?.snapshot(&apply::scope_of(&Request::Apply(spec.clone())))
    }

    /// Where a spec is stored for the next boot: that file, or this node's.
    #[cfg(feature = "cli")]
    pub(crate) fn stored_spec(&self, file: Option<&Path>) -> Result<StoredSpec> {
        match (file, &self.inner.etc) {
            (Some(file), _) => StoredSpec::at(file),
            (None, Some(directory)) => Ok(StoredSpec::of_node(directory.clone())),
            (None, None) => {
                let why = "this node has no directory of its own; say which file is meant";
                Err(Error::new(ErrorCode::InvalidArgument, why))
            }
        }
    }

    /// What stands in the way of sharing GPUs here, and what mends it. Needs no privilege, and says
    /// what it could not see; without a driver that is the first finding.
    pub fn doctor(&self) -> Diagnosis {
        let (observed, machine) = self.examine();
        let diagnosis = doctor::diagnose(observed.as_ref(), &machine);
        diagnosis.of_simulated(self.inner.simulated)
    }

    /// What a diagnosis rests on.
    pub(crate) fn examine(&self) -> (Result<Snapshot>, MachineFacts) {
        let ports = &self.inner.ports;
        let scope = Scope::all().with_intervals_on_record();
        let mut listed = None;
        let observed = self.observer().and_then(|mut observer| {
            listed = observer.nvml().device_count().ok();
            observer.snapshot(&scope)
        });
        let mut pids = Vec::new();
        for process in
            observed.iter().flat_map(|snapshot| &snapshot.gpus).flat_map(|gpu| &gpu.processes)
        {
            pids.push(process.holder.pid);
        }
        pids.sort_unstable();
        pids.dedup();
        // The driver's pids are none of ours in another namespace.
        let shown = ports.processes.in_first_pid_namespace();
        let mut machine = ports.machine.facts(if shown { &pids } else { &[] });
        machine.listed = listed;
        self.look_for_stored_spec(&mut machine);
        for pid in pids.into_iter().filter(|_| !shown) {
            machine.hide(doctor::Part::Process(pid), "the machine's first pid namespace");
        }
        (observed, machine)
    }

    /// Whether a spec is stored for the next boot, where this node has a place for one.
    fn look_for_stored_spec(&self, machine: &mut MachineFacts) {
        let Some(directory) = &self.inner.etc else { return };
        let file = StoredSpec::of_node(directory.clone());
        let path = file.path();
        match file.read() {
            Ok(content) => {
                machine.stored_spec = Some(doctor::SpecFile { path, there: content.is_some() });
            }
            Err(error) => machine.hide(doctor::Part::StoredSpec, error.message()),
        }
    }

    /// Plans the way to a spec. Changes nothing and needs no privilege, except on a GPU with MIG on.
    ///
    /// # Errors
    /// As [`plan::plan`].
    pub fn plan(&self, spec: &Spec) -> Result<Plan> {
        self.plan_request(&Request::Apply(spec.clone()))
    }

    /// Plans the way to what is asked for.
    ///
    /// # Errors
    /// As [`plan::plan`].
    pub fn plan_request(&self, request: &Request) -> Result<Plan> {
        let snapshot = self.observer()?.snapshot(&apply::scope_of(request))?;
        plan::plan_request(&snapshot, request)
    }

    /// As [`plan`](Self::plan), and a spec of the GPUs that the plan changes as they are now: what the
    /// report of its apply will have as [`previous`](Report::previous). Who keeps it before they apply
    /// the plan has the way back even where they are killed meanwhile.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_and_way_back(&self, spec: &Spec) -> Result<(Plan, Spec)> {
        let request = Request::Apply(spec.clone());
        let snapshot = self.observer()?.snapshot(&apply::scope_of(&request))?;
        let plan = plan::plan_request(&snapshot, &request)?;
        let (back, _) = previous::of(&snapshot, &plan);
        Ok((plan, back))
    }

    /// Brings the GPUs to a spec, planned under the lock. Needs root.
    ///
    /// # Errors
    /// Every code but PANIC; the [outcome](Error::outcome) says what is left on the hardware.
    pub fn apply(&self, spec: &Spec, options: &ApplyOptions) -> Result<Report> {
        self.apply_with(Source::Request(&Request::Apply(spec.clone())), options, |_| {
            ControlFlow::Continue(())
        })
    }

    /// Applies a plan or a request, and hears how it goes. `progress` is called at each step and
    /// every 100 ms of waiting; when it asks to stop, what was done is rolled back: INTERRUPTED.
    ///
    /// It may fork, and so may hooks. A child that comes back from them does nothing of the call, which goes
    /// on in the parent alone, and undoes nothing.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); INVALID_STATE in a forked child.
    pub fn apply_with(
        &self,
        source: Source<'_>,
        options: &ApplyOptions,
        mut progress: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Report> {
        self.call(|node, caller| {
            let mut progress = |event: &Event| caller.ask(|| progress(event));
            let options = options.of(caller);
            apply::apply(node.ports(), node.is_simulated(), source, &options, &mut progress)
        })
    }

    /// Hooks that are programs in a directory, for [`ApplyOptions::hooks`]: `pre-apply`, `pre-mode`,
    /// `post-apply` and `failure`, as far as they are there; see [`Moment`].
    ///
    /// Each reads the plan as JSON ([`Plan::to_json`]) and is given that long, after which it is killed
    /// with all that it started, and has failed. It stands in `/` with `PATH`, `LC_ALL=C` and what
    /// [`Moment::environment`] says. What it prints is in the error where it fails. For root all of
    /// them, and the folders above, must be root's and writable by nobody else.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where there is no such directory, none of them in it, or a program of another
    /// name, which would never be called; PERMISSION_DENIED where root should not run one of them.
    pub fn hooks(&self, directory: impl AsRef<Path>, limit: Duration) -> Result<Hooks> {
        let directory = HookDirectory::open(directory.as_ref(), &Moment::WORDS, limit)?;
        Ok(Hooks::new(move |moment, plan| {
            directory.call(moment.as_str(), &moment.environment(plan), &plan.to_json())
        }))
    }

    /// That program, `gpushare` of the same version, as the hook by which each container takes a lease of its
    /// share on this node, for [`Cdi::lease_hook`](crate::export::Cdi::lease_hook).
    ///
    /// # Errors
    /// UNSUPPORTED for a simulated node in memory, which no other process sees; PERMISSION_DENIED as root for a
    /// program that others could change; INVALID_ARGUMENT for a path that is not absolute, and where that of
    /// the state directory is not text.
    pub fn lease_hook(&self, program: impl Into<PathBuf>) -> Result<LeaseHook> {
        let reached_by = self.inner.reached_by.as_ref().ok_or_else(|| {
            Error::new(
                ErrorCode::Unsupported,
                "no other process can open this node as it is here, and so no container can take a lease: it is simulated in memory (give it a state directory), or stands on ports of its own",
            )
        })?;
        let program = program.into();
        // A runtime runs it as root for every container.
        expect_trusted(&program)?;
        reached_by.iter().try_fold(LeaseHook::new(program), |hook, (name, value)| {
            let value = value.to_str().ok_or_else(|| {
                let why = format!("{name} is {value:?}, which cannot stand in a CDI specification");
                Error::new(ErrorCode::InvalidArgument, why)
            })?;
            Ok(hook.variable(name, value))
        })
    }

    /// Writes CDI specifications that are kept and are not as their GPUs are.
    #[cfg(feature = "cli")]
    pub(crate) fn refresh_specifications(&self) -> Result<Vec<PathBuf>> {
        self.call(|node, _| apply::refresh_all(node.ports(), node.is_simulated()))
    }

    /// Whether the GPUs of a plan have their CDI specifications as they are wanted, where the GPUs stay.
    #[cfg(feature = "cli")]
    pub(crate) fn has_specifications(
        &self,
        wanted: &apply::CdiSpecifications,
        plan: &Plan,
    ) -> Result<bool> {
        apply::has_specifications(self.ports(), self.is_simulated(), wanted, plan)
    }

    /// Whether CDI specifications are kept of any GPU.
    #[cfg(feature = "cli")]
    pub(crate) fn keeps_specifications(&self) -> Result<bool> {
        Ok(!crate::state::cdi::gpus(self.ports().store.as_ref())?.is_empty())
    }

    /// Settles what dead appliers left on these GPUs alone.
    #[cfg(feature = "cli")]
    pub(crate) fn settle(
        &self,
        gpus: Vec<crate::id::GpuUuid>,
        options: &ApplyOptions,
        mut progress: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Vec<apply::report::Recovered>> {
        self.call(|node, caller| {
            let mut progress = |event: &Event| caller.ask(|| progress(event));
            apply::settle_gpus(node.ports(), node.is_simulated(), gpus, options, &mut progress)
        })
    }

    /// Settles what dead appliers left: rolls it back, or else finishes it. Then ends the MPS daemons of
    /// ours whose devices are gone, unless somebody may be their client. Needs root.
    ///
    /// Run it where all GPUs can be seen: in a container that has some of them, daemons of the others
    /// look like strays, and those whose processes it can see are ended when they have no clients.
    ///
    /// # Errors
    /// RECOVERY_REQUIRED where a person has to decide; LOCKED where an applier is alive.
    pub fn recover(&self) -> Result<Report> {
        self.recover_with(&ApplyOptions::new(), |_| ControlFlow::Continue(()))
    }

    /// Settles what dead appliers left, and hears how it goes.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub fn recover_with(
        &self,
        options: &ApplyOptions,
        mut progress: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Report> {
        self.call(|node, caller| {
            let mut progress = |event: &Event| caller.ask(|| progress(event));
            apply::recover(node.ports(), node.is_simulated(), options, &mut progress)
        })
    }

    /// Sets a journal aside that a person has decided about. Returns where it is now.
    ///
    /// # Errors
    /// NOT_FOUND, LOCKED, IO.
    pub fn discard(&self, journal: &str) -> Result<String> {
        self.call(|node, _| apply::discard(node.ports(), node.is_simulated(), journal))
    }

    /// The node in Prometheus' text format: modes, MIG devices, shares and leases, who computes with how
    /// much memory by which lease, MPS daemons, hazards in force, and transitions by what came of them.
    /// Changes nothing.
    ///
    /// What this user may not see is missing: run it as root for all of it.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot); IO.
    pub fn metrics(&self) -> Result<String> {
        let snapshot = self.snapshot()?;
        let ports = self.ports();
        let pids = snapshot.gpus.iter().flat_map(|gpu| &gpu.processes);
        let ancestries = pids
            .map(|process| process.holder.pid)
            .map(|pid| (pid, ancestry(ports.processes.as_ref(), pid).collect()));
        let ancestries = ancestries.collect();
        let tickets = ports.slots.queue()?;
        let waiting = tickets.iter().filter(|ticket| ports.slots.still_waits(ticket)).count();
        let transitions = transitions::counted(ports.store.as_ref())?;
        Ok(metrics::text(&snapshot, &ancestries, waiting, &transitions))
    }

    /// What an MPS configuration would harm on the GPUs that a selector means, whether it is in force
    /// there or not. Changes nothing.
    ///
    /// # Errors
    /// As [`select`](Self::select); INVALID_ARGUMENT, INSUFFICIENT and UNSUPPORTED for a configuration
    /// that is not possible there.
    pub fn mps_hazards(&self, selector: &str, config: &MpsConfig) -> Result<Vec<GpuHazard>> {
        let snapshot = self.snapshot()?;
        let mut found = Vec::new();
        for position in select::one(&snapshot, &select::parse(selector)?)? {
            let Some(gpu) = snapshot.gpus.get(position) else { continue };
            let target = MpsTarget::of_gpu(gpu);
            hazard::expect_possible(&target, &snapshot.driver, config)
                .map_err(|error| error.of_gpu(&gpu.uuid))?;
            let hazards = hazard::of_mps_on(&target, config).into_iter();
            found.extend(hazards.map(|hazard| GpuHazard { gpu: gpu.uuid.clone(), hazard }));
        }
        Ok(found)
    }

    /// The uuids of the GPUs that a selector means on this node: an index, `all`, a uuid or the
    /// beginning of one, a PCI address.
    ///
    /// # Errors
    /// NOT_FOUND, INVALID_ARGUMENT.
    pub fn select(&self, selector: &str) -> Result<Vec<crate::id::GpuUuid>> {
        let snapshot = self.snapshot()?;
        let positions = select::one(&snapshot, &select::parse(selector)?)?;
        Ok(positions.into_iter().filter_map(|p| Some(snapshot.gpus.get(p)?.uuid.clone())).collect())
    }
}

impl Plan {
    /// Applies the plan, if the GPUs are still as it was made for. Needs root.
    ///
    /// The steps of a plan that was deserialised are not executed: it is planned again, and must
    /// come out the same.
    ///
    /// # Errors
    /// As [`Node::apply`].
    pub fn apply(&self, node: &Node, options: ApplyOptions) -> Result<Report> {
        node.apply_with(Source::Plan(self), &options, |_| ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn a_node_stays_where_it_was_opened_when_its_process_goes_elsewhere() {
        let here = std::env::current_dir().unwrap();
        for name in ["state", "./state", "a/../state"] {
            let builder = Node::builder().ignore_environment(true).state_dir(name);
            let place = builder.open().unwrap().ports().store.place().to_owned();
            assert!(place.starts_with(&here) && place.ends_with("state/lib"), "{place:?}");
        }
        let nameless = Node::builder().ignore_environment(true).state_dir("").open();
        assert_eq!(nameless.unwrap_err().code(), ErrorCode::InvalidArgument);
    }

    #[test]
    fn what_is_no_file_is_neither_loaded_nor_run() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o700);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [pipe.as_path(), folder.path()] {
            let new = || Node::builder().state_dir(folder.path().join("state"));
            for builder in [new().nvml_path(path), new().nvidia_smi(path), new().mps_control(path)]
            {
                let error = builder.open().unwrap_err();
                assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
                assert!(error.message().contains("no regular file"), "{error}");
            }
        }
    }

    #[test]
    fn root_uses_nothing_from_a_folder_of_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let state = folder.path().join("state");
        let builders = || {
            let new = || Node::builder().state_dir(&state);
            [new().nvml_path(&path), new().nvidia_smi(&path), new().mps_control(&path)]
        };
        assert!(builders().into_iter().all(|builder| builder.open().is_ok()));
        if !rustix::process::geteuid().is_root() {
            let text = b"SKIPPED: what root may use: needs root\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text);
            return;
        }
        chown(folder.path(), Some(65534), None).unwrap();
        for builder in builders() {
            let error = builder.open().unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied);
            assert!(error.message().contains("belongs to user 65534; make it root's"), "{error}");
        }
    }
}
