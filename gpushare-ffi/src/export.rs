//! The state of a node in the words of other tools.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;

use gpushare_core::export::Options;

use crate::call::{Call, answer, given};
use crate::error::gpushare_error;
use crate::node::{gpushare_node, json as document, state};
use crate::text::{needed_text, text};

/// The state of this node in the words of another tool, as a document of schema `gpushare.export/v1`:
/// `text`, and what it `cannot_say`, in sentences. Observes the node anew. Changes nothing and needs no
/// privilege.
///
/// `kind` is `mig-parted`, `docker-run`, `compose`, `device-plugin`, `gpu-operator`, `resource-claim`,
/// `gres` or `cdi`. `options` may be NULL, or an object of JSON: `config` (mig-parted, gpu-operator), `image`
/// and `cdi` (docker-run, compose), `node` (gpu-operator, gres), `allow_hazards`, a list of names
/// (device-plugin, gpu-operator, resource-claim, gres). To keep specifications of CDI, `cdi` of
/// gpushare_apply_options.
/// `*json` is the caller's, to be freed with gpushare_string_free().
///
/// Returns INVALID_ARGUMENT for a kind or options that are none, and options of another kind;
/// UNSUPPORTED where the other tool has one setting for what differs here; HAZARD, with safe values,
/// where its daemon would be told what harms; NOT_FOUND without a driver, and where there is nothing to
/// say; DRIVER; IO; INVALID_STATE in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpushare_node_export_json(
    node: Option<&gpushare_node>,
    kind: *const c_char,
    options: *const c_char,
    json: Option<&mut MaybeUninit<*mut c_char>>,
    err: Option<&mut MaybeUninit<*mut gpushare_error>>,
) -> i32 {
    Call::named("gpushare_node_export_json").of(state(node)).run(err, || {
        let place = answer(json, ptr::null_mut(), "json")?;
        let node = given(node, "node")?.state.own()?;
        // SAFETY: C's strings end in NUL.
        let kind = unsafe { needed_text(kind, "kind") }?.parse()?;
        // SAFETY: C's strings end in NUL.
        let options = unsafe { text(options, "options") }?;
        let options = options.map(Options::from_json).transpose()?.unwrap_or_default();
        *place = document(&node.export(kind, &options)?)?;
        Ok(())
    })
}
