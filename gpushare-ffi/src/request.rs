//! What somebody asks for.

use std::ffi::{c_char, c_void};
use std::num::NonZeroU32;

use gpushare_core::lease::LeaseRequest;
use gpushare_core::units::{Bytes, ThreadPercentage};
use gpushare_core::{Error, ErrorCode, Result};

use crate::event::{Listener, gpushare_progress_fn};
use crate::mps::process;
use crate::options::{hazards, timeout};
use crate::structs::{Versioned, flag};
use crate::text::text;

/// A request for a lease: all zero asks for one share of any GPU and does not wait. At most one of
/// `share`, `gpu` and `mig_profile` is set.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_lease_request {
    /// sizeof(gpushare_lease_request)
    pub struct_size: u32,
    /// How many shares, all or none, of different devices where there are enough; 0 is 1.
    pub count: u32,
    /// That share, by its id.
    pub share: *const c_char,
    /// A share of that GPU: NVML's index, a uuid or the beginning of one, a PCI address.
    pub gpu: *const c_char,
    /// A MIG device of that profile, "1g.10gb"; "1g" for the smallest of a GPU, "any" for the smallest that
    /// has what is asked for.
    pub mig_profile: *const c_char,
    /// Only what a process with that CUDA_VISIBLE_DEVICES would see; NULL for all. The environment is
    /// not read: who wants its own counted passes getenv("CUDA_VISIBLE_DEVICES").
    pub visible: *const c_char,
    /// MPS: the share of threads in percent that the tenant is asked to take; 0 asks nothing.
    pub thread_percentage: f64,
    /// MPS: the device memory in bytes, whole MiB, that the tenant is asked to take; 0 asks nothing.
    pub pinned_memory_bytes: u64,
    /// Devices with at least that much memory, in bytes.
    pub min_memory_bytes: u64,
    /// Devices with at least that many multiprocessors.
    pub min_sm_count: u32,
    /// Whether a MIG device of `mig_profile` is created where none is free. Needs root; nothing that is
    /// there is destroyed for it.
    pub create: u32,
    /// How long to wait for a share, in seconds: 0 does not wait, below 0 is for ever. First come,
    /// first served.
    pub timeout_s: f64,
    /// Whether what was created is destroyed by gpushare_lease_release(). A holder that is killed gives
    /// nothing back: the MIG device stays.
    pub give_back: u32,
    /// The process that the share is held for, where that is another one; else 0.
    pub for_pid: i32,
    /// The hazards that are accepted, by name with commas between; NULL for none.
    pub allow_hazards: *const c_char,
    /// Hears every 100 ms of waiting who is in the way, and may stop it; NULL for nobody.
    pub progress: gpushare_progress_fn,
    /// What `progress` gets as its last argument.
    pub progress_user: *mut c_void,
}

// SAFETY: it is `repr(C)`, starts with its size, and zero is NULL and 0 everywhere.
unsafe impl Versioned for gpushare_lease_request {
    const NAME: &'static str = "gpushare_lease_request";
    const FIRST: usize = 112;
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::new(ErrorCode::InvalidArgument, why))
}

impl gpushare_lease_request {
    /// The same for the core.
    ///
    /// # Safety
    /// Its strings are NULL or end in NUL.
    pub(crate) unsafe fn request(&self) -> Result<LeaseRequest> {
        // SAFETY: the caller says so.
        let share = unsafe { text(self.share, "share") }?;
        // SAFETY: as above.
        let gpu = unsafe { text(self.gpu, "gpu") }?;
        // SAFETY: as above.
        let profile = unsafe { text(self.mig_profile, "mig_profile") }?;
        // SAFETY: as above.
        let visible = unsafe { text(self.visible, "visible") }?;
        // SAFETY: as above.
        let allowed = hazards(unsafe { text(self.allow_hazards, "allow_hazards") }?)?;
        let mut request = match (share, gpu, profile) {
            (None, None, None) => LeaseRequest::any(),
            (Some(share), None, None) => LeaseRequest::share(share.parse()?),
            (None, Some(gpu), None) => LeaseRequest::gpu(gpu),
            (None, None, Some("any")) => LeaseRequest::any_mig(),
            (None, None, Some(profile)) => LeaseRequest::mig(profile.parse()?),
            _ => return refuse("of share, gpu and mig_profile only one can be asked for"),
        };
        request = request
            .count(NonZeroU32::new(self.count).unwrap_or(NonZeroU32::MIN))
            .timeout(timeout(self.timeout_s)?)
            .create(flag(self.create))
            .give_back(flag(self.give_back));
        if let Some(visible) = visible {
            request = request.visible(visible);
        }
        if self.thread_percentage != 0.0 {
            request = request.thread_percentage(ThreadPercentage::new(self.thread_percentage)?);
        }
        if self.pinned_memory_bytes != 0 {
            request = request.pinned_memory_limit(Bytes::new(self.pinned_memory_bytes));
        }
        if self.min_memory_bytes != 0 {
            request = request.min_memory(Bytes::new(self.min_memory_bytes));
        }
        if self.min_sm_count != 0 {
            request = request.min_sm_count(self.min_sm_count);
        }
        if self.for_pid != 0 {
            request = request.for_pid(process(self.for_pid)?);
        }
        Ok(allowed.into_iter().fold(request, LeaseRequest::allow_hazard))
    }

    pub(crate) const fn listener(&self) -> Listener {
        Listener { function: self.progress, user: self.progress_user }
    }
}
