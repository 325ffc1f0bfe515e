//! `resolve`: what CUDA shows with a value of `CUDA_VISIBLE_DEVICES`.

use crate::error::Result;
use crate::node::Node;
use crate::visible::{DeviceOrder, ResolveOptions, resolve_with};

use super::Answer;
use super::output::Output;

/// The devices, or that there are none.
pub(super) fn show(
    node: &Node,
    output: &Output,
    string: Option<&str>,
    device_order: DeviceOrder,
) -> Result<Answer> {
    let options = ResolveOptions::new().device_order(device_order);
    let resolution = resolve_with(&node.snapshot()?, string, options);
    output.show(&resolution)?;
    Ok(if resolution.shows_devices() { Answer::Yes } else { Answer::No })
}
