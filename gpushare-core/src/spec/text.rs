//! Specs and selectors from text.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::document::{Node, Quoted, SIZE, refuse};
use super::tree::Aliases;
use super::{Selector, Spec, check, json, read};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuIndex, PciAddress};

impl Spec {
    /// Reads a spec from the bytes of a file: YAML or JSON, in UTF-8, 1 MiB at most.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, saying on which line and at which key; UNSUPPORTED for YAML without
    /// feature `yaml`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        text_of(bytes)?.parse()
    }

    /// Reads a spec written in JSON.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, saying on which line and at which key.
    pub fn from_json_str(text: &str) -> Result<Self> {
        check_size(text.len())?;
        read::spec(&json::parse(without_mark(text))?)
    }

    /// Reads a spec written in YAML.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, saying on which line and at which key.
    #[cfg(feature = "yaml")]
    pub fn from_yaml_str(text: &str) -> Result<Self> {
        check_size(text.len())?;
        read::spec(&super::yaml::parse(without_mark(text), Aliases::Refused)?)
    }
}

impl FromStr for Spec {
    type Err = Error;

    /// Takes JSON if the text begins with `{`, else YAML. A text that begins so and is YAML all
    /// the same (`{version: …}`, or with a comma too many) is taken too.
    fn from_str(text: &str) -> Result<Self> {
        check_size(text.len())?;
        let text = without_mark(text);
        if text.trim_start().starts_with('{') {
            return read::spec(&braced(text, Aliases::Refused)?);
        }
        #[cfg(feature = "yaml")]
        return Self::from_yaml_str(text);
        #[cfg(not(feature = "yaml"))]
        Err(Error::new(
            ErrorCode::Unsupported,
            "spec: it does not begin with {, so it is no JSON, and this build of gpushare-core \
             reads JSON alone; enable its feature `yaml`",
        ))
    }
}

/// The text in the bytes of a file.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str> {
    // The size first: a file that is too large is not worth looking through.
    check_size(bytes.len())?;
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        refuse(Some(line), "", "not UTF-8")
    })
}

/// The tree of a text that begins with `{`.
#[cfg_attr(not(feature = "yaml"), allow(unused_variables, reason = "JSON has no aliases"))]
pub(super) fn braced(text: &str, aliases: Aliases) -> Result<Node> {
    let parsed = json::parse(text);
    #[cfg(feature = "yaml")]
    let parsed = parsed.or_else(|error| super::yaml::parse(text, aliases).map_err(|_| error));
    parsed
}

/// The text without the byte-order mark that some editors put before it.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn check_size(size: usize) -> Result<()> {
    if size > SIZE {
        return Err(refuse(None, "", format_args!("{size} bytes; at most {SIZE} (1 MiB)")));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Spec {
    /// The same rules as for text; errors name the key, and no line.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read::spec(&Node::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl FromStr for Selector {
    type Err = Error;

    /// Takes `all`, an index, a PCI address, a uuid or the beginning of one.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorCode::InvalidArgument, format!("{} {why}", Quoted(text))))
        };
        if text == "all" {
            return Ok(Self::All);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(index) => Ok(Self::Index(GpuIndex::new(index))),
                Err(_) => refuse("is too large for an index"),
            };
        }
        if let Ok(address) = text.parse::<PciAddress>() {
            return Ok(Self::Pci { address, optional: false });
        }
        if check::uuid_prefix(text) {
            return Ok(Self::Uuid(text.to_owned()));
        }
        if text.starts_with("MIG-") {
            return refuse("is a MIG device; a spec selects GPUs");
        }
        refuse(
            "selects no GPU: write all, an index, a uuid (GPU-…) or a PCI address (0000:3b:00.0)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "yaml"))]
    #[test]
    fn yaml_without_its_feature_says_which_feature() {
        let error = "version: gpushare/v1\ngpus: []".parse::<Spec>().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.to_string().contains("feature `yaml`"), "{error}");
        assert_eq!(
            r#"{"version": "gpushare/v1", "gpus": []}"#.parse::<Spec>().unwrap(),
            Spec::new()
        );
    }

    #[test]
    fn a_selector_is_told_by_its_form() {
        let pci = PciAddress::new(0, 0x3b, 0, 0);
        for (text, selector) in [
            ("all", Selector::All),
            ("7", Selector::Index(GpuIndex::new(7))),
            ("3b:00.0", Selector::Pci { address: pci, optional: false }),
            ("00000000:3B:00.0", Selector::Pci { address: pci, optional: false }),
            ("GPU-8", Selector::Uuid("GPU-8".to_owned())),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap(), selector, "{text}");
        }
        for text in ["", "ALL", "-1", "4294967296", "GPU-", "MIG-1", "H100*", "1.0", "gpu-8"] {
            let error = text.parse::<Selector>().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{text}");
        }
    }
}
