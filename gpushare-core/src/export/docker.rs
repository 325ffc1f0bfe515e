//! What `docker run` and Compose have in common.

use super::Options;
use super::tenants::{Client, Tenant, User, of_one_device};
use crate::error::{Error, ErrorCode, Result};
use crate::id::ShareId;
use crate::snapshot::Snapshot;
use crate::terminal::shell_word;

/// The image where none is given.
const IMAGE: &str = "IMAGE";
/// The kind of NVIDIA's devices in CDI.
pub(super) const CDI: &str = "nvidia.com/gpu";
/// A group that owns nothing. Without one Docker gives a user who is not in the image the group 0, which
/// is the host's root.
pub(super) const NO_GROUP: u32 = 65534;

/// The image.
///
/// # Errors
/// INVALID_ARGUMENT for what is no image's name.
pub(super) fn image(options: &Options) -> Result<&str> {
    let image = options.image.as_deref().unwrap_or(IMAGE);
    // distribution/reference: a name, a tag and a digest. What begins with a dash would be an option.
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    let begins = image.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && image.chars().all(plain) {
        return Ok(image);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!("{image:?} is no image's name: give one such as registry.example/train:1.0"),
    ))
}

/// User and group of a container.
pub(super) fn user(uid: u32) -> String {
    let group = if uid == 0 { 0 } else { NO_GROUP };
    format!("{uid}:{group}")
}

/// The variables of a client: those that a lease sets.
pub(super) fn variables(client: &Client<'_>, uuid: &str) -> [(&'static str, String); 2] {
    [
        ("CUDA_MPS_PIPE_DIRECTORY", client.directory.to_owned()),
        // By uuid: the daemon numbers its devices anew.
        ("CUDA_VISIBLE_DEVICES", uuid.to_owned()),
    ]
}

/// Comments at the beginning: what the lines rest on.
pub(super) fn head(snapshot: &Snapshot, tenants: &[Tenant<'_>], cdi: bool) -> String {
    let mut lines = Vec::new();
    if snapshot.simulated {
        lines.push("SIMULATED: these devices do not exist.".to_owned());
    }
    if cdi {
        lines.push(format!(
            "Devices by CDI ({CDI}): Docker 25 or newer with its feature cdi on, and a specification by nvidia-ctk 1.12 or newer."
        ));
        if tenants.iter().any(|tenant| tenant.device.is_some()) {
            lines.push("After a change of MIG devices the specification is made anew: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml".to_owned());
        }
    } else {
        lines.push("Devices by --gpus: Docker 19.03 or newer, and the NVIDIA Container Toolkit's runtime hook.".to_owned());
        lines.push(
            "Where the toolkit (1.12 or newer) is used through CDI: gpushare export with --cdi."
                .to_owned(),
        );
    }
    let clients: Vec<_> = tenants.iter().filter_map(|tenant| tenant.client.as_ref()).collect();
    if clients.iter().any(|client| client.shared_memory) {
        lines.push(format!(
            "Clients of MPS share /dev/shm with their daemon (ipc: host): this driver's CUDA ({}) needs it, 13.3 and newer do not.",
            snapshot.driver.cuda.as_deref().unwrap_or("unknown")
        ));
    }
    if !clients.is_empty() {
        lines.push("Their user is one whom the daemon lets in, by the host's numbers: with user namespaces (rootless, userns-remap) the container's are others.".to_owned());
        lines.push(
            "Limits are the daemon's: nothing about them has to be told to a container.".to_owned(),
        );
    }
    let several = |client: &&&Client<'_>| matches!(client.user, User::Group(_) | User::Any);
    if clients.iter().any(|client| several(&client)) {
        lines.push("A daemon serves one user at a time: give its clients the same.".to_owned());
    }
    if tenants.is_empty() {
        lines.push("There is no share that a container could have.".to_owned());
    }
    lines.iter().map(|line| format!("# {line}\n")).collect()
}

/// Comments at the end: how a container gets a lease.
pub(super) fn lease(tenants: &[Tenant<'_>]) -> String {
    let Some(tenant) = tenants.first() else { return String::new() };
    let share: &ShareId = tenant.share;
    let lines = [
        "A container started so holds no lease: gpushare may give its share to somebody else.".to_owned(),
        "To hold the share until the container ends, take a lease for its first process:".to_owned(),
        format!(
            "  gpushare lease --share {} --pid \"$(docker inspect --format '{{{{.State.Pid}}}}' CONTAINER)\"",
            shell_word(&share.to_string())
        ),
        "`gpushare run -- docker run …` holds it for the docker command alone: what that starts belongs to Docker's daemon, and goes on when the command ends.".to_owned(),
    ];
    lines.iter().map(|line| format!("# {line}\n")).collect()
}

/// A comment on those who would share one device.
pub(super) fn terms(tenants: &[Tenant<'_>]) -> String {
    let (Some(first), Some(last)) = (tenants.first(), tenants.last()) else { return String::new() };
    let names = match tenants.len() {
        1 => first.name(),
        _ => format!("{} to {}", first.name(), last.name()),
    };
    format!("# {names}: {}\n", first.terms())
}

/// What a container cannot be told.
pub(super) fn cannot_say(tenants: &[Tenant<'_>]) -> Vec<String> {
    let shared = of_one_device(tenants).filter_map(|tenants| tenants.first());
    let shared = shared.filter(|tenant| tenant.of > 1);
    let sentence = |tenant: &Tenant<'_>| {
        let (device, of) = (tenant.share.device(), tenant.of);
        format!("that {device} is for {of} and no more: Docker starts any number")
    };
    shared.map(sentence).collect()
}
