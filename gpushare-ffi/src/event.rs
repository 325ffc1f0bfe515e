//! What happens while a call waits or works.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;

use gpushare_core::Event;
use gpushare_core::lease::Wait;
use gpushare_core::process::Holder;

use crate::gpu_info::count;
use crate::text::nul_terminated;

/// What happens. A newer library may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum gpushare_event_kind {
    /// Something that this library has no number for.
    Other = 0,
    /// The GPUs are locked, the plan is consented to, and nothing is changed yet.
    Planned = 1,
    /// Another process has the lock of a GPU.
    WaitingForLock = 2,
    /// Holders have time to go by themselves.
    Draining = 3,
    /// A holder is being ended.
    Evicting = 4,
    /// A step begins.
    Step = 5,
    /// Something failed, or the caller asked to stop: what was done is being undone.
    RollingBack = 6,
    /// What a dead applier left is being settled.
    Recovering = 7,
    /// A lease waits for a share.
    WaitingForShare = 8,
}

/// What happens while a call waits or works. Everything in it is valid during the callback alone.
///
/// See gpushare_progress_fn.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_event {
    /// How much of this struct the library knows, in bytes: read what lies within it.
    pub struct_size: u32,
    /// What happens: a gpushare_event_kind.
    pub kind: u32,
    /// STEP: its number over all GPUs, from 1; else 0.
    pub step: u32,
    /// STEP: how many there are. PLANNED: how many there will be.
    pub steps: u32,
    /// The uuid of the GPU that it is about; NULL where it is about none or several.
    pub gpu: *const c_char,
    /// It in words, one line of UTF-8; never NULL.
    pub text: *const c_char,
    /// WAITING_FOR_SHARE: the seconds waited so far; else 0.
    pub waited_s: f64,
}

/// A function that hears what happens, and says whether to go on.
///
/// It runs on the thread that made the call, at each step and every 100 ms of waiting. It returns 0 to go
/// on; anything else stops: what was done is rolled back, and the call returns INTERRUPTED. It may call
/// the library, of the same node too: a GPU that the call has locked is LOCKED to it then, so that
/// it must not wait for ever (`timeout_s`) for that. It may fork: the call goes on in the parent alone, and
/// in a child that returns from it the call is INVALID_STATE, changes nothing more and undoes nothing. No
/// exception and no longjmp may leave it.
pub type gpushare_progress_fn =
    Option<unsafe extern "C" fn(event: *const gpushare_event, user: *mut c_void) -> i32>;

/// A function that hears it, with what it wants to be called with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    pub(crate) function: gpushare_progress_fn,
    pub(crate) user: *mut c_void,
}

struct Told {
    kind: gpushare_event_kind,
    step: (usize, usize),
    gpu: Option<CString>,
    text: String,
    waited_s: f64,
}

fn names(holders: &[Holder]) -> String {
    let names: Vec<_> = holders.iter().take(8).map(ToString::to_string).collect();
    if names.is_empty() { "somebody who cannot be seen".to_owned() } else { names.join(", ") }
}

impl Told {
    fn new(kind: gpushare_event_kind, text: String) -> Self {
        Self { kind, step: (0, 0), gpu: None, text, waited_s: 0.0 }
    }

    fn of(event: &Event) -> Self {
        use gpushare_event_kind as Kind;
        match event {
            Event::Planned { plan } => Self {
                step: (0, plan.step_count()),
                ..Self::new(Kind::Planned, format!("{} steps are planned", plan.step_count()))
            },
            Event::WaitingForLock { gpu } => Self {
                gpu: Some(nul_terminated(gpu.as_str())),
                ..Self::new(Kind::WaitingForLock, format!("waiting for the lock of {gpu}"))
            },
            Event::Draining { holders } => {
                Self::new(Kind::Draining, format!("waiting for {} to go", names(holders)))
            }
            Event::Evicting { holder } => Self::new(Kind::Evicting, format!("ending {holder}")),
            Event::Step { number, of, gpu, what } => Self {
                step: (*number, *of),
                gpu: Some(nul_terminated(gpu.as_str())),
                ..Self::new(Kind::Step, what.clone())
            },
            Event::RollingBack => Self::new(Kind::RollingBack, "rolling back".to_owned()),
            Event::Recovering { journal } => {
                Self::new(Kind::Recovering, format!("settling the unfinished change {journal}"))
            }
            other => Self::new(Kind::Other, format!("{other:?}")),
        }
    }

    fn of_wait(wait: &Wait) -> Self {
        let text = format!("waiting for {}: held by {}", wait.what, names(&wait.holders));
        Self {
            waited_s: wait.waited.as_secs_f64(),
            ..Self::new(gpushare_event_kind::WaitingForShare, text)
        }
    }
}

impl Listener {
    pub(crate) fn hear(self, event: &Event) -> ControlFlow<()> {
        self.tell(|| Told::of(event))
    }

    pub(crate) fn hear_wait(self, wait: &Wait) -> ControlFlow<()> {
        self.tell(|| Told::of_wait(wait))
    }

    fn tell(self, told: impl FnOnce() -> Told) -> ControlFlow<()> {
        let Some(function) = self.function else { return ControlFlow::Continue(()) };
        let told = told();
        let text = nul_terminated(told.text);
        let event = gpushare_event {
            struct_size: count(size_of::<gpushare_event>()),
            kind: told.kind as u32,
            step: count(told.step.0),
            steps: count(told.step.1),
            gpu: told.gpu.as_ref().map_or(ptr::null(), |gpu| gpu.as_ptr()),
            text: text.as_ptr(),
            waited_s: told.waited_s,
        };
        // SAFETY: the caller gave it for this, with what it points to.
        match unsafe { function(&raw const event, self.user) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}
