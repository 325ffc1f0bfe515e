//! One GPU, with its mode as a type.
//!
//! ```text
//!                    into_exclusive / into_time_sliced / into_mps / into_mig
//!    Gpu<Exclusive>  <──────>  Gpu<TimeSliced>  <──────>  Gpu<Mps>  <──────>  Gpu<Mig>
//! ```
//!
//! A transition consumes the handle, makes a one-GPU spec and goes through plan and apply like
//! everything else. When it fails and nothing is changed or all is rolled back, the error hands an
//! observed handle back. What has no meaning in a mode does not compile there: a `Gpu<Exclusive>`
//! has no instances, and a handle that was consumed is gone.
//!
//! The type is a claim about a device that others can change: every method looks again, and
//! answers STALE when the claim no longer holds. Dropping a handle never touches hardware.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use gpushare_core::Node;
//! use gpushare_core::gpu::{AnyGpu, Layout};
//!
//! let node = Node::builder().sim("1xH100-80GB").open()?;
//! let AnyGpu::TimeSliced(gpu) = node.gpu("0")? else { return Ok(()) };
//! let gpu = gpu.into_mig(Layout::of(["3g.40gb", "1g.10gb"])?)?;
//! assert_eq!(gpu.devices()?.len(), 2);
//! let gpu = gpu.into_exclusive()?;
//! # let _ = gpu;
//! # }
//! # Ok::<(), gpushare_core::Error>(())
//! ```

mod layout;
mod other;

use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;

use crate::apply::{ApplyOptions, Source};
use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::id::GpuUuid;
use crate::mode::{Mode, SharingMode};
use crate::node::Node;
use crate::observe::Scope;
use crate::parameters::{MpsConfig, TimeSlicing};
use crate::plan::{Plan, Request, expect_visible};
use crate::snapshot::{GpuInstance, GpuSnapshot, MigDevice};
use crate::spec::{Entry, Selector, Spec, Want};

pub use layout::Layout;
pub use other::OtherGpu;

mod sealed {
    pub trait Sealed {}
}

/// A mode as a type. Sealed: there are four.
pub trait State: sealed::Sealed + fmt::Debug {
    /// The mode.
    const MODE: Mode;
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl sealed::Sealed for $name {}

            impl State for $name {
                const MODE: Mode = Mode::$name;
            }
        )*
    };
}

states! {
    /// One process tree at a time.
    Exclusive,
    /// Several processes take turns.
    TimeSliced,
    /// Several processes through an MPS daemon of ours.
    Mps,
    /// Cut into instances.
    Mig,
}

/// A GPU that was seen in mode `M`.
#[must_use = "dropping a handle changes nothing"]
pub struct Gpu<M: State> {
    node: Node,
    uuid: GpuUuid,
    options: ApplyOptions,
    mode: PhantomData<M>,
}

impl<M: State> fmt::Debug for Gpu<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu<{}>({})", M::MODE, self.uuid)
    }
}

/// A GPU in the mode that it was seen in.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "dropping a handle changes nothing"]
pub enum AnyGpu {
    /// In mode `exclusive`.
    Exclusive(Gpu<Exclusive>),
    /// In mode `time_sliced`.
    TimeSliced(Gpu<TimeSliced>),
    /// In mode `mps`.
    Mps(Gpu<Mps>),
    /// In mode `mig`.
    Mig(Gpu<Mig>),
    /// In a state that only happens: closed, pending, foreign, degraded, lost.
    Other(OtherGpu),
}

/// A transition that failed.
///
/// `?` turns it into its [`Error`]; [`into_gpu`](Self::into_gpu) gives the GPU back, as it is now.
#[derive(Debug)]
pub struct TransitionError {
    error: Error,
    gpu: Option<Box<AnyGpu>>,
}

impl TransitionError {
    /// Why it failed.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The GPU as it was seen after the failure; none when it could not be seen, or when it is not
    /// known what it is: then the error's outcome is indeterminate.
    pub fn into_gpu(self) -> Option<AnyGpu> {
        self.gpu.map(|gpu| *gpu)
    }
}

impl fmt::Display for TransitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for TransitionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<TransitionError> for Error {
    fn from(failed: TransitionError) -> Self {
        failed.error
    }
}

impl Node {
    /// The GPU that a selector means, in the mode that it is in now.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_ARGUMENT when it means several.
    pub fn gpu(&self, selector: &str) -> Result<AnyGpu> {
        let mut uuids = self.select(selector)?;
        match (uuids.pop(), uuids.len()) {
            (Some(uuid), 0) => AnyGpu::observe(self, &uuid),
            (None, _) => {
                Err(Error::new(ErrorCode::NotFound, format!("there is no GPU {selector}")))
            }
            (Some(_), more) => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{selector} means {} GPUs; name one", more + 1),
            )),
        }
    }
}

impl AnyGpu {
    fn observe(node: &Node, uuid: &GpuUuid) -> Result<Self> {
        let snapshot = node.observer()?.snapshot(&Scope::gpus([uuid.clone()]))?;
        let gpu = snapshot.gpu(uuid).ok_or_else(|| gone(uuid))?;
        Ok(match gpu.mode {
            SharingMode::Exclusive => Self::Exclusive(Gpu::claim(node, uuid)),
            SharingMode::TimeSliced => Self::TimeSliced(Gpu::claim(node, uuid)),
            SharingMode::Mps => Self::Mps(Gpu::claim(node, uuid)),
            SharingMode::Mig => Self::Mig(Gpu::claim(node, uuid)),
            mode => {
                let reason = gpu.reason.clone();
                Self::Other(OtherGpu { gpu: Gpu::claim(node, uuid), mode, reason })
            }
        })
    }

    /// Its uuid.
    pub fn uuid(&self) -> &GpuUuid {
        match self {
            Self::Exclusive(gpu) => &gpu.uuid,
            Self::TimeSliced(gpu) => &gpu.uuid,
            Self::Mps(gpu) => &gpu.uuid,
            Self::Mig(gpu) => &gpu.uuid,
            Self::Other(gpu) => &gpu.gpu.uuid,
        }
    }

    /// The mode that it was seen in.
    pub fn mode(&self) -> SharingMode {
        match self {
            Self::Exclusive(_) => SharingMode::Exclusive,
            Self::TimeSliced(_) => SharingMode::TimeSliced,
            Self::Mps(_) => SharingMode::Mps,
            Self::Mig(_) => SharingMode::Mig,
            Self::Other(gpu) => gpu.mode,
        }
    }
}

fn gone(uuid: &GpuUuid) -> Error {
    Error::new(ErrorCode::NotFound, format!("GPU {uuid} is no longer there")).of_gpu(uuid)
}

impl<M: State> Gpu<M> {
    fn claim(node: &Node, uuid: &GpuUuid) -> Self {
        Self {
            node: node.clone(),
            uuid: uuid.clone(),
            options: ApplyOptions::new(),
            mode: PhantomData,
        }
    }

    /// The same handle, whose transitions may do more: evict, reset, accept a hazard, wait.
    ///
    /// By default a transition does none of these, and fails with BUSY, RESET_REQUIRED, HAZARD or
    /// LOCKED before it touches anything. A handle that comes of a transition may do the same; an
    /// expected digest holds for the first transition alone.
    pub fn with_options(self, options: ApplyOptions) -> Self {
        Self { options, ..self }
    }

    /// Its uuid.
    pub fn uuid(&self) -> &GpuUuid {
        &self.uuid
    }

    /// Its state now.
    ///
    /// # Errors
    /// STALE when it is no longer in the mode of this handle; NOT_FOUND when it is gone.
    pub fn snapshot(&self) -> Result<GpuSnapshot> {
        let snapshot = self.node.observer()?.snapshot(&Scope::gpus([self.uuid.clone()]))?;
        let gpu = snapshot
            .gpus
            .into_iter()
            .find(|gpu| gpu.uuid == self.uuid)
            .ok_or_else(|| gone(&self.uuid))?;
        self.expect(gpu.mode, &gpu.reason)?;
        Ok(gpu)
    }

    fn expect(&self, mode: SharingMode, reason: &str) -> Result<()> {
        if mode == M::MODE.into() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Stale,
            format!(
                "GPU {} was in mode {} and is now {mode} ({reason}); observe it again",
                self.uuid,
                M::MODE
            ),
        )
        .of_gpu(&self.uuid))
    }

    fn request(&self, want: Want) -> Request {
        let select = vec![Selector::Uuid(self.uuid.to_string())];
        Request::Apply(Spec { gpus: vec![Entry::new(select, want)] })
    }

    /// Applies, if the GPU still is what this handle claims, and hands back a handle of the new mode.
    fn transition<N: State>(self, want: Want) -> Result<Gpu<N>, TransitionError> {
        self.carry_out(&self.request(want), true)?;
        Ok(self.become_other())
    }

    /// Applies, whatever the GPU is.
    fn unclaimed<N: State>(self, want: Want) -> Result<Gpu<N>, TransitionError> {
        self.carry_out(&self.request(want), false)?;
        Ok(self.become_other())
    }

    /// A handle of another mode that may do the same. A digest names one plan, which is done.
    fn become_other<N: State>(self) -> Gpu<N> {
        let options = ApplyOptions { expect: None, ..self.options };
        Gpu { node: self.node, uuid: self.uuid, options, mode: PhantomData }
    }

    fn carry_out(&self, request: &Request, claimed: bool) -> Result<(), TransitionError> {
        let applied = self.node.plan_request(request).and_then(|plan: Plan| {
            if let Some(gpu) = plan.gpu(&self.uuid).filter(|_| claimed) {
                self.expect(gpu.from, "somebody else changed it")?;
            }
            self.node.apply_with(Source::Plan(&plan), &self.options, |_| ControlFlow::Continue(()))
        });
        applied.map(drop).map_err(|error| {
            let known = error.outcome() != Outcome::Indeterminate;
            let gpu = if known { AnyGpu::observe(&self.node, &self.uuid).ok() } else { None };
            TransitionError { error, gpu: gpu.map(Box::new) }
        })
    }

    fn leave(self) -> Result<AnyGpu, TransitionError> {
        let request = Request::Leave { mode: M::MODE, gpus: vec![self.uuid.clone()] };
        self.carry_out(&request, true)?;
        AnyGpu::observe(&self.node, &self.uuid)
            .map_err(|error| TransitionError { error, gpu: None })
    }
}

macro_rules! transitions {
    ($($from:ident: $($to:ident)*;)*) => {
        $(impl Gpu<$from> { $(transitions!(@ $to);)* })*
    };
    (@ exclusive) => {
        /// Gives the GPU to one process tree at a time.
        ///
        /// # Errors
        /// Every code of apply; the error hands the GPU back.
        pub fn into_exclusive(self) -> Result<Gpu<Exclusive>, TransitionError> {
            self.transition(Want::Exclusive)
        }
    };
    (@ time_sliced) => {
        /// Lets several processes take turns.
        ///
        /// # Errors
        /// Every code of apply; the error hands the GPU back.
        pub fn into_time_sliced(self, parameters: TimeSlicing) -> Result<Gpu<TimeSliced>, TransitionError> {
            self.transition(Want::TimeSliced(parameters))
        }
    };
    (@ mps) => {
        /// Starts an MPS daemon of ours for the GPU, and lets clients in when its limits are set and
        /// read back. Setting the compute mode, and letting in others than the caller, takes root.
        ///
        /// # Errors
        /// Every code of apply; the error hands the GPU back. HAZARD for limits that harm, with safe
        /// ones; UNSUPPORTED without `nvidia-cuda-mps-control`, and for limits that the card or driver
        /// does not have.
        pub fn into_mps(self, config: MpsConfig) -> Result<Gpu<Mps>, TransitionError> {
            self.transition(Want::Mps(config))
        }
    };
    (@ mig) => {
        /// Cuts the GPU into exactly these instances.
        ///
        /// # Errors
        /// Every code of apply; the error hands the GPU back.
        pub fn into_mig(self, layout: Layout) -> Result<Gpu<Mig>, TransitionError> {
            self.transition(Want::Mig(Some(layout.instances)))
        }
    };
}

transitions! {
    Exclusive: time_sliced mps mig;
    TimeSliced: exclusive mps mig;
    Mps: exclusive time_sliced mig;
    Mig: exclusive time_sliced mps;
}

impl Gpu<TimeSliced> {
    /// How many leases it admits; none where gpushare does not manage it.
    ///
    /// # Errors
    /// STALE, NOT_FOUND.
    pub fn replicas(&self) -> Result<Option<u32>> {
        Ok(self.snapshot()?.time_sliced.and_then(|status| status.replicas))
    }

    /// Changes the parameters.
    ///
    /// # Errors
    /// Every code of apply; the error hands the GPU back.
    pub fn set(self, parameters: TimeSlicing) -> Result<Self, TransitionError> {
        self.transition(Want::TimeSliced(parameters))
    }
}

impl Gpu<Mps> {
    /// The parameters of the daemon.
    ///
    /// # Errors
    /// STALE, NOT_FOUND.
    pub fn config(&self) -> Result<Option<MpsConfig>> {
        Ok(self.snapshot()?.mps.and_then(|mps| mps.config))
    }

    /// Ends the daemon and returns to what was there before the first managed change. Clients are
    /// ended by the daemon where eviction is allowed, once nobody new can come in.
    ///
    /// # Errors
    /// Every code of apply; the error hands the GPU back. BUSY while it has clients.
    pub fn disable(self) -> Result<AnyGpu, TransitionError> {
        self.leave()
    }
}

impl Gpu<Mig> {
    /// Its MIG devices.
    ///
    /// # Errors
    /// STALE, NOT_FOUND.
    pub fn devices(&self) -> Result<Vec<MigDevice>> {
        Ok(self.snapshot()?.mig_devices)
    }

    /// Its GPU instances with their placements. Needs the privilege to see them.
    ///
    /// # Errors
    /// STALE, NOT_FOUND; PERMISSION_DENIED where they are hidden from the caller.
    pub fn gpu_instances(&self) -> Result<Vec<GpuInstance>> {
        let gpu = self.snapshot()?;
        expect_visible(&gpu).map_err(|error| error.of_gpu(&self.uuid))?;
        Ok(gpu.mig.map(|mig| mig.gpu_instances).unwrap_or_default())
    }

    /// Changes the layout to exactly these instances, with the fewest disruptions.
    ///
    /// # Errors
    /// Every code of apply; the error hands the GPU back.
    pub fn set_layout(self, layout: Layout) -> Result<Self, TransitionError> {
        self.transition(Want::Mig(Some(layout.instances)))
    }

    /// Destroys all instances, turns MIG off, and returns to what was there before the first
    /// managed change.
    ///
    /// # Errors
    /// Every code of apply; the error hands the GPU back.
    pub fn disable(self) -> Result<AnyGpu, TransitionError> {
        self.leave()
    }
}
