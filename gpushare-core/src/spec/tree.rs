//! The tree of a spec, for what reads and writes the formats of others as strictly as ours.

pub(crate) use super::document::Node;
pub(crate) use super::write::yaml_text;
