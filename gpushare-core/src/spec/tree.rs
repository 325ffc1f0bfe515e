//! The tree of a spec, for what reads and writes the formats of others as strictly as ours.

use std::collections::HashMap;

use super::cursor::twice;
use super::document::refuse;
use super::text::{braced, text_of, without_mark};
use crate::error::{Error, Result};

pub(crate) use super::cursor::{At, word};
pub(crate) use super::document::{Key, Node, Quoted, Value};
pub(crate) use super::write::yaml_text;

/// What becomes of YAML's aliases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "yaml"), allow(dead_code, reason = "JSON has no aliases"))]
pub(crate) enum Aliases {
    /// They are refused.
    Refused,
    /// They are written out, and so is the merge key `<<`, up to 1 MiB in all.
    WrittenOut,
}

/// The tree of a file in YAML or JSON with aliases: UTF-8, 1 MiB at most.
pub(crate) fn parse(bytes: &[u8]) -> Result<Node> {
    let text = without_mark(text_of(bytes)?);
    if let Some(at) = text.bytes().position(|byte| byte == 0) {
        let line = text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
        return Err(refuse(Some(line), "", "has a NUL character"));
    }
    if text.trim_start().starts_with('{') {
        return braced(text, Aliases::WrittenOut);
    }
    #[cfg(feature = "yaml")]
    return super::yaml::parse(text, Aliases::WrittenOut);
    #[cfg(not(feature = "yaml"))]
    Err(Error::new(
        crate::error::ErrorCode::Unsupported,
        "spec: it does not begin with {, so it is no JSON, and this build of gpushare-core reads \
         JSON alone; enable its feature `yaml`",
    ))
}

/// An error of the tree, which speaks of a spec, said of a file of another kind.
pub(crate) fn said_of(error: Error, what: &str) -> Error {
    match error.message().strip_prefix("spec") {
        Some(rest) => {
            let message = format!("{what}{rest}");
            error.with_message(message)
        }
        None => error,
    }
}

/// INVALID_ARGUMENT about a key, which stands on a line.
pub(crate) fn refuse_key(key: &Key, of: &At<'_>, why: impl std::fmt::Display) -> Error {
    refuse(key.line, &of.key, why)
}

/// Refuses a map in which a key stands twice, whatever its keys are.
pub(crate) fn refuse_twice(at: &At<'_>, entries: &[(Key, Node)]) -> Result<()> {
    let mut seen: HashMap<&str, Option<usize>> = HashMap::new();
    for (key, _) in entries {
        if let Some(first) = seen.insert(&key.text, key.line) {
            return Err(twice(at, &key.text, key.line, first));
        }
    }
    Ok(())
}
