//! Nodes, and what was seen of them.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock, TryLockError};

use gpushare_core::log::{Dispatch, of_call};
use gpushare_core::{Error, ErrorCode, Node, Result, Snapshot};
use serde::Serialize;

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::fork::Opener;
use crate::gpu_info::{self, gpushare_gpu_info};
use crate::log::dispatch;
use crate::options::gpushare_node_options;
use crate::share::{self, gpushare_share_info};
use crate::structs::read;
use crate::text::{give, needed_text};

/// The GPUs of one machine. Any thread may use it, several at once; plans and leases keep what they
/// need of it, so that all can be freed in any order. It holds no device open.
#[derive(Debug)]
pub struct gpushare_node {
    pub(crate) state: Arc<State>,
}

/// What a node's handle, its plans and its leases have in common.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) node: Node,
    pub(crate) opener: Opener,
    log: Option<Dispatch>,
    view: RwLock<Option<Arc<View>>>,
}

/// One observed snapshot, and the parts of it that are asked for often.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: Snapshot,
    pub(crate) gpus: Vec<gpushare_gpu_info>,
    pub(crate) shares: Vec<gpushare_share_info>,
}

impl State {
    pub(crate) const fn log(&self) -> Option<&Dispatch> {
        self.log.as_ref()
    }

    pub(crate) fn is_simulated(&self) -> bool {
        self.node.is_simulated()
    }

    /// The node, for who may do more than read what was read.
    pub(crate) fn own(&self) -> Result<&Node> {
        self.opener.expect_this()?;
        Ok(&self.node)
    }

    /// What was seen, or is seen now for the first time.
    pub(crate) fn view(&self) -> Result<Arc<View>> {
        match self.seen()? {
            Some(view) => Ok(view),
            None => self.look(false),
        }
    }

    fn seen(&self) -> Result<Option<Arc<View>>> {
        match self.view.try_read() {
            Ok(view) => return Ok(view.clone()),
            Err(TryLockError::Poisoned(view)) => return Ok(view.into_inner().clone()),
            Err(TryLockError::WouldBlock) => {}
        }
        // In a forked child a thread that held it may be no more, and nobody lets go.
        self.opener.expect_this()?;
        Ok(self.view.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Looks, and keeps what is seen: in the place of what was seen before, or only where nothing was.
    fn look(&self, anew: bool) -> Result<Arc<View>> {
        let snapshot = self.own()?.snapshot()?;
        let view = Arc::new(View {
            gpus: gpu_info::of(&snapshot),
            shares: share::of(&snapshot),
            snapshot,
        });
        let mut place = self.view.write().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Some(first) if !anew => Ok(first.clone()),
            _ => {
                *place = Some(view.clone());
                Ok(view)
            }
        }
    }

    /// What was seen is no longer so.
    pub(crate) fn forget(&self) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A document.
pub(crate) fn json(document: &impl Serialize) -> Result<*mut c_char> {
    let text = serde_json::to_string(document).map_err(|error| {
        Error::new(ErrorCode::Io, format!("cannot write the document: {error}")).with_source(error)
    })?;
    Ok(give(text))
}

/// The state of a node that was given.
pub(crate) fn state(node: Option<&gpushare_node>) -> Option<&State> {
    node.map(|node| &*node.state)
}

/// Opens a node: of this machine, or what the options say. `options` may be NULL.
///
/// The driver is not opened: that is done by what needs it, and where there is none, that answers
/// NOT_FOUND. `*node` is the caller's, to be freed with gpushare_node_free().
///
/// Returns INVALID_ARGUMENT for a fleet that cannot be read or a path that is not absolute;
/// PERMISSION_DENIED as root for a library or program that others could have written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_open(
    options: *const gpushare_node_options,
    node: Option<&mut MaybeUninit<*mut gpushare_node>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_open").run(err, || {
        let place = answer(node, ptr::null_mut(), "node")?;
        // SAFETY: C says how large it is.
        let options = unsafe { read(options) }?;
        let log = dispatch(options.log, options.log_user, options.log_level)?;
        // SAFETY: C's strings end in NUL.
        let open = || unsafe { options.open() };
        let node = of_call(log.as_ref(), open)?;
        let state = State { node, opener: Opener::this(), log, view: RwLock::new(None) };
        *place = Box::into_raw(Box::new(gpushare_node { state: Arc::new(state) }));
        Ok(())
    })
}

/// Frees a node. Its plans and leases stay valid. Does nothing for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_free(node: Option<Box<gpushare_node>>) {
    drop(node);
}

/// 1 for a simulated node, 0 for a real one and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_is_simulated(node: Option<&gpushare_node>) -> i32 {
    state(node).is_some_and(State::is_simulated).into()
}

/// Looks at the GPUs anew.
///
/// gpushare_node_gpu_count(), _gpu_info(), _share_count(), _share_info() and _status_json() speak of one
/// snapshot, taken when the first of them is called. After this, and after what changes GPUs through this
/// node, they look anew: gpushare_plan_apply(), gpushare_node_recover(), gpushare_node_discard(),
/// gpushare_node_cordon(), gpushare_node_uncordon(), a gpushare_lease_acquire() with `create`, a
/// gpushare_lease_release() with `give_back`. Leases that create nothing, and what others do, are not seen
/// before. Where another thread refreshes meanwhile, their indices may mean other GPUs: take the uuid.
///
/// Returns NOT_FOUND without a driver; DRIVER; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_refresh(
    node: Option<&gpushare_node>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_refresh").of(state(node)).run(err, || {
        given(node, "node")?.state.look(true)?;
        Ok(())
    })
}

/// The node as a document of schema `gpushare.status/v1`: GPUs, how each is shared and why, MIG devices,
/// MPS daemons, shares and who has them, processes. What is unknown is null.
///
/// `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns NOT_FOUND without a driver; DRIVER; IO.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_status_json(
    node: Option<&gpushare_node>,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_status_json").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        *place = self::json(&given(node, "node")?.state.view()?.snapshot)?;
        Ok(())
    })
}

/// Settles what a process left that was killed while it changed GPUs: rolls it back, or else finishes
/// it. Then ends MPS daemons of gpushare's whose devices are gone. Needs root.
///
/// `*report_json`, a document of schema `gpushare.report/v1`, is the caller's, to be freed with
/// gpushare_string_free(); `report_json` may be NULL.
///
/// Returns RECOVERY_REQUIRED where a person has to decide, with the journal; LOCKED where whoever changes a
/// GPU is alive; NOT_FOUND without a driver; PERMISSION_DENIED; BUSY; DRIVER; MPS; IO; INVALID_STATE in a
/// forked child.
#[unsafe(no_mangle)]
pub extern "C" fn gpushare_node_recover(
    node: Option<&gpushare_node>,
    report_json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_recover").of(state(node)).changes().run(err, || {
        let place = report_json.map(|place| place.write(ptr::null_mut()));
        let state = &given(node, "node")?.state;
        let report = state.own()?.recover();
        state.forget();
        let report = report?;
        if let Some(place) = place {
            *place = give(report.to_json());
        }
        Ok(())
    })
}

/// Sets the journal of an unfinished change aside that a person has decided about, after
/// gpushare_node_recover() answered RECOVERY_REQUIRED and named it: the GPUs stay as they are now, and can be
/// changed again. Needs root.
///
/// `journal` is the name in that error's message. `*place`, the file that has it now, is the caller's,
/// to be freed with gpushare_string_free(); `place` may be NULL.
///
/// Returns NOT_FOUND for a journal that is not there; LOCKED; PERMISSION_DENIED; IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_discard(
    node: Option<&gpushare_node>,
    journal: *const c_char,
    place: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_discard").of(state(node)).changes().run(err, || {
        let place = place.map(|place| place.write(ptr::null_mut()));
        let state = &given(node, "node")?.state;
        // SAFETY: C's strings end in NUL.
        let journal = unsafe { needed_text(journal, "journal") }?;
        let moved = state.own()?.discard(journal);
        state.forget();
        let moved = moved?;
        if let Some(place) = place {
            *place = give(moved);
        }
        Ok(())
    })
}
