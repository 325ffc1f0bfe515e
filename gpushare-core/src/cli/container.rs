//! Containers: their CDI specifications, and leases for them.

use std::ffi::OsString;
use std::io::Read;

use serde::Deserialize;

use crate::apply::CdiSpecifications;
use crate::error::{Error, ErrorCode, Result};
use crate::export::{Cdi, LeaseHook};
use crate::id::Pid;
use crate::node::Node;
use crate::terminal::beginning;

use super::arguments::Specifications;

/// The state of a container is some hundred bytes, and its annotations.
const LONGEST: u64 = 1 << 20;

/// What becomes of CDI specifications, as the arguments say.
pub(super) fn specifications(
    node: &Node,
    own: &[OsString],
    arguments: &Specifications,
) -> Result<CdiSpecifications> {
    if arguments.no_cdi {
        return Ok(CdiSpecifications::Remove);
    }
    let Some(directory) = &arguments.cdi else { return Ok(CdiSpecifications::AsBefore) };
    let directory =
        std::path::absolute(directory).map_err(|error| Error::io("look at", directory, error))?;
    let cdi = Cdi::new(directory);
    Ok(CdiSpecifications::Keep(match arguments.no_lease {
        true => cdi,
        false => cdi.lease_hook(lease_hook(node, own)?),
    }))
}

/// This command, as a hook that takes leases of this node's shares.
pub(super) fn lease_hook(node: &Node, own: &[OsString]) -> Result<LeaseHook> {
    let unfit = |what: &OsString| {
        let why = format!("this command is {what:?}, which cannot stand in a CDI specification");
        Error::new(ErrorCode::InvalidArgument, why)
    };
    let (program, arguments) = match own.split_first() {
        Some((program, arguments)) => (program.into(), arguments),
        None => {
            let program = std::env::current_exe();
            let failed = |error| {
                Error::new(ErrorCode::Io, "cannot find this command's own program")
                    .with_source(error)
            };
            (program.map_err(failed)?, own)
        }
    };
    let mut hook = node.lease_hook(program)?;
    for argument in arguments {
        hook = hook.argument(argument.to_str().ok_or_else(|| unfit(argument))?);
    }
    Ok(hook)
}

/// What of the state of a container is wanted here; the OCI runtime specification has all of it.
#[derive(Deserialize)]
struct State {
    id: String,
    #[serde(default)]
    status: String,
    pid: Option<Pid>,
}

/// The first process of the container whose state is read.
pub(super) fn first_process(input: impl Read) -> Result<Pid> {
    let refused = |why: String| {
        Error::new(
            ErrorCode::InvalidArgument,
            format!(
                "standard input is not the state of a container that is being made: {}",
                beginning(&why)
            ),
        )
    };
    let mut text = Vec::new();
    input.take(LONGEST + 1).read_to_end(&mut text).map_err(|error| refused(error.to_string()))?;
    if text.len() as u64 > LONGEST {
        return Err(refused(format!("it is longer than {LONGEST} bytes")));
    }
    let state: State = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    if state.status == "stopped" {
        return Err(refused(format!("container {:?} has ended", state.id)));
    }
    state.pid.filter(|pid| pid.get() > 1).ok_or_else(|| {
        refused(format!("container {:?} has no process; the hook is for createRuntime", state.id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_container_is_in_its_state() {
        let state = r#"{"ociVersion": "1.0.2", "id": "a", "status": "creating", "pid": 4422, "bundle": "/b", "annotations": {"k": "v"}}"#;
        assert_eq!(first_process(state.as_bytes()).unwrap().get(), 4422);
        let long = format!(r#"{{"id": "a", "pid": 7, "x": "{}"}}"#, "x".repeat(2 << 20));
        for wrong in [
            "",
            "[]",
            "{}",
            "7",
            r#"{"id": "a"}"#,
            r#"{"id": "a", "pid": 0}"#,
            r#"{"id": "a", "pid": 1}"#,
            r#"{"id": "a", "pid": -4}"#,
            r#"{"id": "a", "pid": "4"}"#,
            r#"{"id": "a", "pid": 4} {"#,
            r#"{"id": "a", "pid": 4, "status": "stopped"}"#,
            &long,
        ] {
            let error = first_process(wrong.as_bytes()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong:.40}");
        }
    }
}
