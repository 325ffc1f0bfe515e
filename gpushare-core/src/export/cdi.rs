//! Specifications of the Container Device Interface: one device of `gpushare.dev/share` for each share.
//!
//! A container runtime (Podman 4.1, Docker 25, containerd 1.7, CRI-O 1.23 and newer) reads them when it
//! starts a container. They name device nodes, environment and mounts of a share and nothing else: the
//! driver's libraries come with NVIDIA's own specification or with the image.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Options;
use super::tenants::{Client, Tenant, User, of_one_device, tenants};
use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::snapshot::{DeviceNode, SHARES_VARIABLE, Snapshot};
use crate::spec::tree::{Node, yaml_text};
use crate::terminal::printable;

/// The kind of our devices. NVIDIA's own is another: two specifications that define the same device make
/// both unusable.
pub(crate) const KIND: &str = "gpushare.dev/share";

/// The lowest version that has all that is used here. Newer ones are refused by runtimes that are in use:
/// Podman 4.3 takes 0.3.0 to 0.5.0. Names that begin with a letter, no host paths of device nodes, no
/// types of mounts, no annotations, no groups: any of these would take a newer one.
const VERSION: &str = "0.3.0";

/// What a hook has of environment beside what it is given.
const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a container waits for its lease, in seconds: the one before it on that share may be about to go,
/// and who only stands in line gives way within a second.
const WAIT: u32 = 5;

/// When a runtime ends a hook that does not come back, in seconds.
const HOOK_TIMEOUT: i128 = 30;

/// NVIDIA's default directory, which is never handed to a container: whatever daemon is there would serve
/// it, with whatever limits.
const DEFAULT_DIRECTORY: &str = "/tmp/nvidia-mps";

/// Where CDI specifications are kept, one file for each GPU, and how a container gets its lease.
///
/// ```
/// use gpushare_core::export::{Cdi, LeaseHook};
///
/// let cdi = Cdi::new("/var/run/cdi").lease_hook(LeaseHook::new("/usr/local/bin/gpushare"));
/// assert_eq!(cdi.directory(), std::path::Path::new("/var/run/cdi"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cdi {
    directory: PathBuf,
    lease_hook: Option<LeaseHook>,
}

impl Cdi {
    /// Where runtimes look for specifications that do not outlive the machine's life.
    pub const DIRECTORY: &'static str = "/var/run/cdi";

    /// Specifications in that directory, [`DIRECTORY`](Self::DIRECTORY) or one that a runtime was told of.
    /// A container takes no lease.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), lease_hook: None }
    }

    /// The same, and each container takes a lease of its share, which ends with it. A share that is leased
    /// keeps a second container from starting.
    #[must_use]
    pub fn lease_hook(self, hook: LeaseHook) -> Self {
        Self { lease_hook: Some(hook), ..self }
    }

    /// Where the specifications are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn hook(&self) -> Option<&LeaseHook> {
        self.lease_hook.as_ref()
    }
}

/// What becomes of the CDI specifications of the GPUs that an apply names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CdiSpecifications {
    /// Those that are there follow the GPUs; there are no new ones.
    #[default]
    AsBefore,
    /// Each of the GPUs has one there, and from now on it follows every change of that GPU, also one
    /// that does not ask for it. A rollback takes it away again.
    Keep(Cdi),
    /// They are removed, and there are none from now on.
    Remove,
}

impl CdiSpecifications {
    pub(crate) fn is_as_before(&self) -> bool {
        *self == Self::AsBefore
    }
}

/// The `gpushare` program as the runtime starts it, as a createRuntime hook, to take a container's lease:
/// `PROGRAM [ARGUMENTS] hold --share ID --oci-hook`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseHook {
    program: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    environment: Vec<String>,
}

impl LeaseHook {
    /// That program, by its absolute path. The runtime starts it as the user that it runs as itself.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// With global options before the command, such as `--state-dir DIR`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a variable, such as `GPUSHARE_NVML_PATH`: a hook has these and a `PATH`, and nothing of the runtime's.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Its program, where it can be a hook.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub(crate) fn usable(&self) -> Result<&str> {
        let plain = |text: &str| !text.chars().any(char::is_control);
        let program = self.program.to_str().filter(|text| text.starts_with('/') && plain(text));
        let words = self.arguments.iter().chain(&self.environment);
        program.filter(|_| words.into_iter().all(|word| plain(word))).ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{:?} cannot be the hook that takes leases: an absolute path, and arguments and variables without control characters",
                    self.program
                ),
            )
        })
    }

    /// The words of a hook that takes a lease of that share.
    fn node(&self, tenant: &Tenant<'_>) -> Result<Node> {
        let program = self.usable()?;
        let own = ["hold".to_owned(), format!("--share={}", tenant.share)];
        let own = own.into_iter().chain([format!("--timeout={WAIT}"), "--oci-hook".to_owned()]);
        let name = self.program.file_name().and_then(|name| name.to_str()).unwrap_or(program);
        let arguments = [name.to_owned()].into_iter().chain(self.arguments.clone()).chain(own);
        let mut fields = vec![
            ("hookName", Node::text("createRuntime")),
            ("path", Node::text(program)),
            ("args", Node::list(arguments.map(Node::text))),
        ];
        // With none a runtime gives it its own.
        let environment = [PATH].into_iter().chain(self.environment.iter().map(String::as_str));
        fields.push(("env", Node::list(environment.map(Node::text))));
        fields.push(("timeout", Node::integer(HOOK_TIMEOUT)));
        Ok(Node::map(fields))
    }
}

/// The name of the file of a GPU: vendor, class, and what tells it from the others of that class.
pub(crate) fn file_name(gpu: &GpuUuid) -> String {
    format!("{}_{gpu}.yaml", KIND.replace('/', "-"))
}

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let (tenants, mut cannot_say) = tenants(snapshot);
    match text(snapshot, &tenants, options, &mut cannot_say)? {
        Some(text) => Ok((text, cannot_say)),
        None => Err(Error::new(
            ErrorCode::NotFound,
            cannot_say.iter().fold(
                "no share that a container could have, and CDI takes no file without devices"
                    .to_owned(),
                |text, why| format!("{text}; {why}"),
            ),
        )),
    }
}

/// The specification of one GPU's shares; none where it has no share that a container could have.
///
/// # Errors
/// INVALID_ARGUMENT for a hook that cannot be one.
pub(crate) fn specification(
    snapshot: &Snapshot,
    gpu: &GpuUuid,
    options: &Options,
) -> Result<Option<String>> {
    let (mut tenants, _) = tenants(snapshot);
    tenants.retain(|tenant| tenant.gpu.uuid == *gpu);
    text(snapshot, &tenants, options, &mut Vec::new())
}

fn text(
    snapshot: &Snapshot,
    tenants: &[Tenant<'_>],
    options: &Options,
    cannot_say: &mut Vec<String>,
) -> Result<Option<String>> {
    let simulated = snapshot.simulated;
    let mut driver = Vec::new();
    // Each by itself: without unified memory a container can still look.
    for node in &options.driver_nodes {
        match device_node(node, simulated) {
            Ok(node) => driver.push(node),
            Err(why) => cannot_say.push(format!("every share: {why}")),
        }
    }
    let mut comments = String::new();
    let mut devices = Vec::new();
    for of_device in of_one_device(tenants) {
        let Some(first) = of_device.first() else { continue };
        let own = options.device_nodes.get(first.share.device()).map_or(&[][..], Vec::as_slice);
        let left_out = format!("{}, left out", first.share.device());
        let own: Result<Vec<_>, _> = own.iter().map(|node| device_node(node, simulated)).collect();
        let own = match own {
            Ok(own) => own,
            Err(why) => {
                cannot_say.push(format!("{left_out}: {why}"));
                continue;
            }
        };
        if own.is_empty() {
            cannot_say.push(format!("{left_out}: its device nodes are not known"));
            continue;
        }
        if first
            .client
            .is_some_and(|client| Path::new(client.directory) == Path::new(DEFAULT_DIRECTORY))
        {
            cannot_say.push(format!(
                "{left_out}: its daemon listens in {DEFAULT_DIRECTORY}, where every client looks that is told nothing; give gpushare another state directory"
            ));
            continue;
        }
        comments.push_str(&terms(of_device));
        for tenant in of_device {
            let edits = edits(tenant, &own, options)?;
            for name in names(tenant) {
                let fields = [("name", Node::text(name)), ("containerEdits", edits.clone())];
                devices.push(Node::map(fields));
            }
        }
    }
    if devices.is_empty() {
        return Ok(None);
    }
    cannot_say.push(
        "several shares for one container: each sets CUDA_VISIBLE_DEVICES, and the last one stays"
            .to_owned(),
    );
    if tenants.iter().any(|tenant| tenant.client.is_some()) {
        cannot_say.push(
            "that a variable of an image goes: one such as CUDA_MPS_ACTIVE_THREAD_PERCENTAGE still counts"
                .to_owned(),
        );
    }
    if options.lease_hook.is_none() {
        cannot_say.push("leases: a container started so holds none, and gpushare may give its share to somebody else".to_owned());
    }
    // Without it NVIDIA's runtime hook, where that is the default, adds what an image asks for: every GPU.
    let void = Node::text("NVIDIA_VISIBLE_DEVICES=void");
    let mut common = vec![("env", Node::list([void]))];
    if !driver.is_empty() {
        common.push(("deviceNodes", Node::list(driver)));
    }
    let document = Node::map([
        ("cdiVersion", Node::text(VERSION)),
        ("kind", Node::text(KIND)),
        ("containerEdits", Node::map(common)),
        ("devices", Node::list(devices)),
    ]);
    Ok(Some(format!("{}{comments}{}", head(snapshot), yaml_text(&document))))
}

fn head(snapshot: &Snapshot) -> String {
    let simulated =
        if snapshot.simulated { "# SIMULATED: these devices do not exist.\n" } else { "" };
    format!(
        "{simulated}# Written by gpushare. A container gets a share by --device {KIND}=NAME, and the driver's libraries\n# from its image or by NVIDIA's own specification (nvidia-ctk) beside it: --device nvidia.com/gpu=UUID.\n"
    )
}

/// What holds those who share a device, and whom its daemon lets in.
fn terms(tenants: &[Tenant<'_>]) -> String {
    let Some(first) = tenants.first() else { return String::new() };
    let names = match tenants {
        [.., last] if tenants.len() > 1 => format!("{} to {}", first.name(), last.name()),
        _ => first.name(),
    };
    let mut lines = vec![format!("{names}: {}", first.terms())];
    if let Some(client) = &first.client {
        lines.push(format!("{names}: the container runs as {}", user(client)));
        if client.shared_memory {
            lines.push(format!(
                "{names}: the container has the host's /dev/shm, which this driver's MPS needs"
            ));
        }
    }
    lines.iter().map(|line| format!("# {}\n", printable(line))).collect()
}

/// The rule for the user of a container: the daemon goes by the host's numbers.
fn user(client: &Client<'_>) -> String {
    let whom = match client.user {
        User::Number(uid) => format!("uid {uid}"),
        User::Name(name) => format!("user {name}"),
        User::Group(group) => {
            format!("a user of group {group}, one user for all containers at a time")
        }
        User::Any => "any user, one for all containers at a time".to_owned(),
    };
    format!("{whom}, by the host's numbers: the daemon lets nobody else in")
}

/// The names of a share: its id, and one for people, by index. Old ids of MIG devices have characters in
/// them that CDI does not take.
fn names(tenant: &Tenant<'_>) -> Vec<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    let mut names = vec![tenant.share.to_string(), tenant.name()];
    names.retain(|name| {
        name.chars().all(good)
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
    });
    names.dedup();
    names
}

/// What a container of that share gets.
fn edits(tenant: &Tenant<'_>, own: &[Node], options: &Options) -> Result<Node> {
    let uuid = tenant.share.device();
    let mut variables =
        vec![format!("CUDA_VISIBLE_DEVICES={uuid}"), format!("{SHARES_VARIABLE}={}", tenant.share)];
    let mut mounts = Vec::new();
    if let Some(client) = &tenant.client {
        variables.push(format!("CUDA_MPS_PIPE_DIRECTORY={}", client.directory));
        // To connect writes nothing there (a client on an H200 with driver 580.159.04), and a container that
        // runs as root would be the directory's owner.
        mounts.push(mount(client.directory, "ro"));
        if client.shared_memory {
            mounts.push(mount("/dev/shm", "rw"));
        }
    }
    let mut fields = vec![("env", Node::list(variables.into_iter().map(Node::text)))];
    if !own.is_empty() {
        fields.push(("deviceNodes", Node::list(own.iter().cloned())));
    }
    if !mounts.is_empty() {
        fields.push(("mounts", Node::list(mounts)));
    }
    if let Some(hook) = &options.lease_hook {
        fields.push(("hooks", Node::list([hook.node(tenant)?])));
    }
    Ok(Node::map(fields))
}

/// A directory of the host in the same place.
fn mount(directory: &str, access: &str) -> Node {
    let options = [access, "nosuid", "nodev", "noexec", "rbind", "rprivate"];
    Node::map([
        ("hostPath", Node::text(directory)),
        ("containerPath", Node::text(directory)),
        ("options", Node::list(options.map(Node::text))),
    ])
}

/// A device node as a specification has it. One that is there goes by its path, so that the runtime looks at
/// its numbers when a container starts: those of a driver that was loaded since may be others.
///
/// # Errors
/// That it is not there, and what makes it.
fn device_node(node: &DeviceNode, simulated: bool) -> Result<Node, String> {
    let path = node.path.to_str().filter(|path| !path.chars().any(char::is_control));
    let path = path.ok_or_else(|| "the name of a device node is not plain text".to_owned())?;
    let mut fields = vec![("path", Node::text(path))];
    match (&node.missing, node.major, node.minor) {
        (None, _, _) if !simulated => {}
        (_, Some(major), Some(minor)) => fields.extend([
            ("type", Node::text("c")),
            ("major", Node::integer(major)),
            ("minor", Node::integer(minor)),
        ]),
        (missing, ..) => {
            let makes = missing.as_deref().unwrap_or("its numbers are not known");
            return Err(format!("{path} is not there ({makes})"));
        }
    }
    fields.push(("permissions", Node::text("rw")));
    Ok(Node::map(fields))
}
