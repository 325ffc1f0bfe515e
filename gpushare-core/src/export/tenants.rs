//! Who would have which device, for tools that start a container for each share.

use crate::id::ShareId;
use crate::mode::SharingMode;
use crate::parameters::Access;
use crate::plan::select;
use crate::snapshot::{Driver, GpuSnapshot, MigDevice, MpsStatus, Snapshot};
use crate::terminal::{count, printable};

/// From this version of CUDA on the driver's MPS needs no shared `/dev/shm` (NVIDIA's MPS guide).
const WITHOUT_SHARED_MEMORY: (u32, u32) = (13, 3);

/// Who would have one share.
#[derive(Debug)]
pub(super) struct Tenant<'s> {
    /// The GPU.
    pub gpu: &'s GpuSnapshot,
    /// The MIG device, and which one of its GPU it is.
    pub device: Option<(usize, &'s MigDevice)>,
    /// The share.
    pub share: &'s ShareId,
    /// How many shares its device has.
    pub of: usize,
    /// What it needs to be the client of an MPS daemon, where it is to be one.
    pub client: Option<Client<'s>>,
}

/// What the client of an MPS daemon needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'s> {
    /// Where the daemon listens.
    pub directory: &'s str,
    /// Whom it lets in.
    pub user: User<'s>,
    /// Whether it must share `/dev/shm` with the daemon.
    pub shared_memory: bool,
}

/// Whom a daemon lets in, as far as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User<'s> {
    /// That user, by number.
    Number(u32),
    /// That user, by name.
    Name(&'s str),
    /// The members of that group, by number or name.
    Group(&'s str),
    /// Every user.
    Any,
}

impl Tenant<'_> {
    /// A name of its own: `gpu0`, `gpu0-2`, `gpu0-mig1`, `gpu0-mig1-2`.
    pub(super) fn name(&self) -> String {
        let mut name = match self.gpu.index {
            Some(index) => format!("gpu{index}"),
            None => self.gpu.uuid.to_string(),
        };
        if let Some((number, _)) = self.device {
            name.push_str(&format!("-mig{number}"));
        }
        if let Some(number) = self.share.number() {
            name.push_str(&format!("-{number}"));
        }
        name
    }

    /// What holds it to its share, in one line without a line feed.
    pub(super) fn terms(&self) -> String {
        let what = match self.device {
            Some((_, device)) => format!("{} of GPU {}", device.profile, select::name(self.gpu)),
            None => format!("GPU {}", select::name(self.gpu)),
        };
        let of = self.of;
        let terms = match &self.client {
            Some(_) => {
                format!(
                    "a client of gpushare's MPS daemon, one of {of}: the daemon holds it to its limits"
                )
            }
            None if of > 1 => {
                format!("one of {of} that take turns: nothing holds them apart, in memory or time")
            }
            None if self.device.is_some() => "alone".to_owned(),
            None if self.gpu.mode == SharingMode::Exclusive => {
                "alone: the driver lets one process in at a time".to_owned()
            }
            None => "alone, as long as nobody else is started on it".to_owned(),
        };
        printable(&format!("{what}, {}: {terms}", self.gpu.model)).into_owned()
    }
}

/// Those who share one device, together.
pub(super) fn of_one_device<'t, 's>(
    tenants: &'t [Tenant<'s>],
) -> impl Iterator<Item = &'t [Tenant<'s>]> {
    tenants.chunk_by(|one, other| one.share.device() == other.share.device())
}

/// Whoever would have a share of this node, and what is left out, with the reason.
pub(super) fn tenants(snapshot: &Snapshot) -> (Vec<Tenant<'_>>, Vec<String>) {
    let (mut tenants, mut left_out) = (Vec::new(), Vec::new());
    for gpu in &snapshot.gpus {
        let mut say = |what: &str| left_out.push(of_gpu(gpu, what));
        if let Some(why) = unusable(gpu) {
            say(why);
            continue;
        }
        if let Some(why) = &gpu.cordoned {
            say(&format!(
                "that it is cordoned ({why}): a container started by hand is not kept out"
            ));
        }
        if gpu.shares.is_empty() {
            say("it has no share that somebody could have; left out");
        }
        let held = gpu.shares.iter().filter(|share| share.is_leased()).count();
        if held > 0 {
            say(&format!(
                "that {} leased now: `gpushare leases` says to whom",
                match held {
                    1 => "a share of it is".to_owned(),
                    held => format!("{} of it are", count(held, "share")),
                }
            ));
        }
        let mut before: Option<&str> = None;
        for share in &gpu.shares {
            let device = gpu.mig_devices.iter().enumerate();
            let device =
                device.into_iter().find(|(_, device)| device.uuid.as_str() == share.id.device());
            let mps = match device {
                Some((_, device)) => device.mps.as_ref(),
                None => gpu.mps.as_ref(),
            };
            match mps.map(|mps| client(snapshot, mps)).transpose() {
                Ok(client) => {
                    let same =
                        |other: &&crate::snapshot::Share| other.id.device() == share.id.device();
                    let of = gpu.shares.iter().filter(same).count();
                    tenants.push(Tenant { gpu, device, share: &share.id, of, client });
                }
                // Once for each device.
                Err(why) if before != Some(share.id.device()) => {
                    say(&format!("{}: {why}; left out", share.id.device()));
                }
                Err(_) => {}
            }
            before = Some(share.id.device());
        }
        if let Some(mig) = gpu.mig.as_ref().filter(|mig| mig.enabled) {
            let empty = mig.gpu_instances.iter().filter(|gi| gi.compute_instances.is_empty());
            for gi in empty {
                say(&format!(
                    "{} at {} has no compute instance: nobody can use it; left out",
                    gi.name, gi.placement.start
                ));
            }
        }
    }
    (tenants, left_out)
}

/// What is said of a GPU, for the terminal: names on a node may come from anybody.
pub(super) fn of_gpu(gpu: &GpuSnapshot, what: &str) -> String {
    printable(&format!("GPU {}: {what}", select::name(gpu))).into_owned()
}

/// Why no container is to be started on a GPU.
pub(super) fn unusable(gpu: &GpuSnapshot) -> Option<&'static str> {
    match gpu.mode {
        SharingMode::Lost => Some("it does not answer; left out"),
        SharingMode::Pending => {
            Some("its MIG mode changes with the next reset, and its devices with it; left out")
        }
        SharingMode::Closed => {
            Some("its compute mode is PROHIBITED: no process can use it; left out")
        }
        SharingMode::Foreign => Some(
            "an MPS daemon that is not gpushare's serves it: where it listens, and what it limits, is its owner's to say; left out",
        ),
        SharingMode::Degraded => Some(
            "its MPS daemon does not serve (`gpushare status` says why); a process would get all of it, or nothing; left out",
        ),
        SharingMode::Mps | SharingMode::Mig | SharingMode::Exclusive | SharingMode::TimeSliced => {
            None
        }
    }
}

/// What a client of that daemon needs.
///
/// # Errors
/// Why nobody can be told how to become one.
fn client<'s>(snapshot: &'s Snapshot, mps: &'s MpsStatus) -> Result<Client<'s>, &'static str> {
    if !mps.ours || !mps.alive {
        return Err("its MPS daemon does not serve");
    }
    let (Some(config), Some(directory)) = (&mps.config, &mps.directory) else {
        return Err("its MPS daemon does not show this user where it listens");
    };
    let directory = directory.to_str().filter(|text| !text.chars().any(char::is_control));
    let Some(directory) = directory else {
        return Err("its MPS daemon listens in a directory whose name is not plain text");
    };
    let user = match &config.access {
        Access::Caller => match snapshot.caller_uid {
            Some(uid) => User::Number(uid),
            None => return Err("it is not known whom its MPS daemon lets in"),
        },
        Access::User(user) => user.parse().map_or(User::Name(user), User::Number),
        Access::Group(group) => User::Group(group),
        Access::Any => User::Any,
    };
    Ok(Client { directory, user, shared_memory: needs_shared_memory(&snapshot.driver) })
}

/// Whether daemon and clients must share `/dev/shm`: where the version is not known, they do.
pub(super) fn needs_shared_memory(driver: &Driver) -> bool {
    let version = driver.cuda.as_deref().and_then(|version| {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    version.is_none_or(|version| version < WITHOUT_SHARED_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_before_cuda_13_3_need_a_shared_memory() {
        for (cuda, needs) in [
            (None, true),
            (Some(""), true),
            (Some("13"), true),
            (Some("9.10"), true),
            (Some("12.9"), true),
            (Some("13.0"), true),
            (Some("13.2"), true),
            (Some("13.3"), false),
            (Some("13.10"), false),
            (Some("14.0"), false),
        ] {
            let driver = Driver { version: String::new(), cuda: cuda.map(str::to_owned) };
            assert_eq!(needs_shared_memory(&driver), needs, "{cuda:?}");
        }
    }
}
