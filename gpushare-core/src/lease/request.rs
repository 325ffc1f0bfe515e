//! What somebody asks for.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::HazardName;
use crate::id::{Pid, ShareId};
use crate::mig::ProfileName;
use crate::snapshot::LeaseTerms;
use crate::units::{Bytes, ThreadPercentage};

/// What a lease is to be of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Of {
    /// Any share.
    #[default]
    Any,
    /// That share.
    Share(ShareId),
    /// A share of these GPUs: an index, a uuid or the beginning of one, a PCI address, `all`.
    Gpu(String),
    /// A MIG device of that profile.
    Mig(ProfileName),
    /// The smallest MIG device that has what is asked for.
    AnyMig,
}

/// A request for a lease.
///
/// ```
/// use gpushare_core::lease::LeaseRequest;
///
/// let small = LeaseRequest::mig("1g.10gb".parse()?);
/// let part = LeaseRequest::gpu("0").thread_percentage(25.0.try_into()?).timeout(None);
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LeaseRequest {
    pub(crate) of: Of,
    pub(crate) count: NonZeroU32,
    pub(crate) visible: Option<String>,
    pub(crate) terms: LeaseTerms,
    pub(crate) min_memory: Option<Bytes>,
    pub(crate) min_sm_count: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) create: bool,
    pub(crate) give_back: bool,
    pub(crate) for_pid: Option<Pid>,
    pub(crate) allow_hazards: Vec<HazardName>,
}

impl Default for LeaseRequest {
    fn default() -> Self {
        Self::any()
    }
}

impl LeaseRequest {
    /// Any share of any GPU.
    pub fn any() -> Self {
        Self::of(Of::Any)
    }

    /// That share, by the id that `gpushare leases` shows.
    pub fn share(share: ShareId) -> Self {
        Self::of(Of::Share(share))
    }

    /// A share of a GPU: its NVML index, a uuid or the beginning of one, a PCI address, or `all` for
    /// any. Never of a GPU with MIG on: its MIG devices are asked for by profile.
    pub fn gpu(selector: impl Into<String>) -> Self {
        Self::of(Of::Gpu(selector.into()))
    }

    /// A MIG device of that profile; `1g` is the smallest plain one of each GPU.
    pub fn mig(profile: ProfileName) -> Self {
        Self::of(Of::Mig(profile))
    }

    /// The smallest MIG device with that much memory and that many multiprocessors, as far as they
    /// are asked for.
    pub fn any_mig() -> Self {
        Self::of(Of::AnyMig)
    }

    fn of(of: Of) -> Self {
        Self {
            of,
            count: NonZeroU32::MIN,
            visible: None,
            terms: LeaseTerms::default(),
            min_memory: None,
            min_sm_count: None,
            timeout: Some(Duration::ZERO),
            create: false,
            give_back: false,
            for_pid: None,
            allow_hazards: Vec::new(),
        }
    }

    /// Several shares, all or none: of different devices where there are enough.
    #[must_use]
    pub fn count(self, count: NonZeroU32) -> Self {
        Self { count, ..self }
    }

    /// Only what a process with that `CUDA_VISIBLE_DEVICES` would see.
    #[must_use]
    pub fn visible(self, string: impl Into<String>) -> Self {
        Self { visible: Some(string.into()), ..self }
    }

    /// The share of threads that the tenant is asked to take of an MPS daemon's; above the server's own
    /// ceiling it is refused.
    #[must_use]
    pub fn thread_percentage(self, percentage: ThreadPercentage) -> Self {
        let terms = LeaseTerms { thread_percentage: Some(percentage), ..self.terms };
        Self { terms, ..self }
    }

    /// The device memory that the tenant is asked to take of an MPS daemon's, its CUDA context
    /// included.
    #[must_use]
    pub fn pinned_memory_limit(self, limit: Bytes) -> Self {
        let terms = LeaseTerms { pinned_memory_limit: Some(limit), ..self.terms };
        Self { terms, ..self }
    }

    /// Devices with at least that much memory.
    #[must_use]
    pub fn min_memory(self, memory: Bytes) -> Self {
        Self { min_memory: Some(memory), ..self }
    }

    /// Devices with at least that many multiprocessors.
    #[must_use]
    pub fn min_sm_count(self, count: u32) -> Self {
        Self { min_sm_count: Some(count), ..self }
    }

    /// How long to wait for a share: zero, the default, does not wait; none waits for ever. First
    /// come, first served.
    #[must_use]
    pub fn timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    /// Creates the MIG device where there is none that is free. Needs root; nothing that is there is
    /// destroyed for it.
    #[must_use]
    pub fn create(self, create: bool) -> Self {
        Self { create, ..self }
    }

    /// Destroys what was created when the lease is [released](crate::Lease::release). A holder that
    /// is killed gives nothing back, and what a child still has stays.
    #[must_use]
    pub fn give_back(self, give_back: bool) -> Self {
        Self { give_back, ..self }
    }

    /// Notes that the share is held for that process, which is another one.
    #[must_use]
    pub fn for_pid(self, pid: Pid) -> Self {
        Self { for_pid: Some(pid), ..self }
    }

    /// Accepts a hazard of the terms.
    #[must_use]
    pub fn allow_hazard(mut self, name: HazardName) -> Self {
        self.allow_hazards.push(name);
        self
    }

    /// What asks for MPS cannot ask for MIG's own profiles, and the like.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidArgument, why));
        if matches!(self.of, Of::Share(_)) && self.count.get() > 1 {
            return refuse("a share by its id is one share; ask for its GPU to get several");
        }
        if self.create && !matches!(self.of, Of::Mig(_)) {
            return refuse("only a MIG device of a profile that is named can be created");
        }
        if self.give_back && !self.create {
            return refuse("only what the lease created can be given back");
        }
        if let Some(limit) = self.terms.pinned_memory_limit {
            if limit.get() == 0 || limit.get() % (1 << 20) != 0 {
                return refuse("a memory limit is a whole number of MiB above 0");
            }
        }
        Ok(())
    }

    /// What is asked for, for messages.
    pub(crate) fn what(&self) -> String {
        let mut what = match &self.of {
            Of::Any => "any share".to_owned(),
            Of::Share(share) => format!("share {share}"),
            Of::Gpu(selector) => format!("a share of GPU {selector}"),
            Of::Mig(profile) => format!("a MIG device {profile}"),
            Of::AnyMig => "a MIG device".to_owned(),
        };
        if self.count.get() > 1 {
            what.push_str(&format!(", {} times", self.count));
        }
        let mut with = Vec::new();
        with.extend(self.min_memory.map(|memory| format!("at least {memory}")));
        with.extend(self.min_sm_count.map(|count| format!("at least {count} SMs")));
        with.extend(self.terms.thread_percentage.map(|p| format!("{p} % of the threads")));
        with.extend(self.terms.pinned_memory_limit.map(|limit| format!("{limit} under MPS")));
        with.extend(self.visible.as_ref().map(|list| format!("visible in {list:?}")));
        if !with.is_empty() {
            what.push_str(&format!(" with {}", with.join(", ")));
        }
        what
    }
}
