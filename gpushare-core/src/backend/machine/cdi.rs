//! CDI specifications: whose each is, by the kind that it says, and the devices in it.

use std::path::Path;

use serde::Deserialize;

use super::RealMachine;
use crate::doctor::{CdiSpec, MachineFacts, Part};
use crate::export::CDI_KIND;

/// Where runtimes look.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The most uuids of a specification.
const MOST_UUIDS: usize = 4096;

impl RealMachine {
    /// NVIDIA's specifications and gpushare's. Those of others are nobody's business here, whatever they mention.
    pub(super) fn specifications(&self, facts: &mut MachineFacts) {
        for directory in DIRECTORIES {
            let names = match self.names(directory) {
                Ok(names) => names,
                Err(error) => {
                    facts.hide(Part::Cdi, format!("{directory}: {error}"));
                    continue;
                }
            };
            let ends =
                |name: &&String| [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
            for name in names.iter().filter(ends) {
                let path = Path::new(directory).join(name);
                let shown = path.display().to_string();
                let Some(text) = self.text(&shown, facts, Part::Cdi) else { continue };
                let of_kind = match kind(&text) {
                    Some(kind) if kind == CDI_KIND => &mut facts.containers.shares,
                    Some(kind) if is_nvidias(&kind) => &mut facts.containers.cdi,
                    _ => continue,
                };
                of_kind.push(CdiSpec { path, uuids: uuids(&text) });
            }
        }
    }
}

/// Whether a kind is NVIDIA's: `nvidia.com/gpu`, and `k8s.device-plugin.nvidia.com/gpu`.
fn is_nvidias(kind: &str) -> bool {
    let Some((vendor, _)) = kind.split_once('/') else { return false };
    vendor == "nvidia.com" || vendor.ends_with(".nvidia.com")
}

/// The kind that a specification says at its top: in JSON, or in YAML in block style, as tools and people
/// write it. None where it says none, or in other words.
fn kind(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Top {
        kind: String,
    }
    let text = text.trim_start_matches('\u{feff}');
    if let Ok(top) = serde_json::from_str::<Top>(text) {
        return Some(top.kind);
    }
    let says = |line: &&str| {
        let rest = line.trim_start();
        !(rest.is_empty() || rest.starts_with(['#', '%']) || line.starts_with("---"))
    };
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut lines = text.lines().filter(says).peekable();
    // What stands deeper is below another key, or is a text of several lines.
    let top = indent(lines.peek()?);
    lines.filter(|line| indent(line) == top).find_map(|line| {
        let line = line.trim_start();
        let rest = ["kind", "\"kind\"", "'kind'"].iter().find_map(|key| line.strip_prefix(key))?;
        let value = rest.trim_start().strip_prefix(':')?;
        scalar(value.strip_prefix([' ', '\t'])?)
    })
}

/// A word of YAML on one line, in quotes or not, without the comment behind it.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    let quoted = ['"', '\''].iter().find_map(|quote| Some((text.strip_prefix(*quote)?, *quote)));
    let (word, rest) = match quoted {
        Some((text, quote)) => text.split_once(quote)?,
        None => text.split_once([' ', '\t']).unwrap_or((text, "")),
    };
    let rest = rest.trim_start();
    // A backslash in quotes would mean another character.
    let plain = !word.is_empty() && !word.contains('\\');
    (plain && (rest.is_empty() || rest.starts_with('#'))).then(|| word.to_owned())
}

/// The uuids of GPUs and MIG devices in a text, each once.
fn uuids(text: &str) -> Vec<String> {
    let within = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '/';
    // GPU- and MIG- and 36 characters.
    let uuid = |word: &&str| {
        (word.starts_with("GPU-") || word.starts_with("MIG-"))
            && word.len() >= 40
            && word.len() <= 64
    };
    let mut found: Vec<String> = Vec::new();
    for word in text.split(|c: char| !within(c)).filter(uuid).take(MOST_UUIDS * 4) {
        if found.len() < MOST_UUIDS && !found.iter().any(|other| other == word) {
            found.push(word.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: &str = "devices: [{name: \"kind: other.example/x\"}]";

    #[test]
    fn the_kind_is_what_stands_at_the_top_and_nothing_that_is_mentioned() {
        let written = [
            "nvidia.com/gpu",
            "\"nvidia.com/gpu\"",
            "'nvidia.com/gpu'",
            "  nvidia.com/gpu  ",
            "\tnvidia.com/gpu",
            "nvidia.com/gpu # gpushare.dev/share",
            "\"nvidia.com/gpu\"   # gpushare.dev/share",
        ];
        for key in ["kind", "\"kind\"", "'kind'", "kind "] {
            for value in written {
                for before in [
                    "",
                    "---\n",
                    "\u{feff}",
                    "# kind: other.example/x\n%YAML 1.2\n--- # kind: other.example/x\n\n",
                    "cdiVersion: 0.5.0\n",
                    "containerEdits:\n  kind: other.example/x\n  note: |\n   kind: other.example/x\n",
                    "kindly: other.example/x\nkind-of: other.example/x\n",
                ] {
                    let text = format!("{before}{key}: {value}\n{OTHER}\n");
                    assert_eq!(kind(&text).as_deref(), Some("nvidia.com/gpu"), "{text}");
                    let text = text.replace('\n', "\r\n");
                    assert_eq!(kind(&text).as_deref(), Some("nvidia.com/gpu"), "{text}");
                }
            }
        }
        // All of it may stand deeper.
        let deeper =
            "  cdiVersion: 0.5.0\n  kind: a.example/b\n  devices:\n    kind: c.example/d\n";
        assert_eq!(kind(deeper).as_deref(), Some("a.example/b"));
    }

    #[test]
    fn the_kind_is_found_in_json_however_it_is_written() {
        let document = serde_json::json!({
            "annotations": {"kind": "other.example/x"},
            "kind": "nvidia.com/gpu",
            "devices": [{"name": "kind: other.example/x", "kind": "other.example/x"}],
        });
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        for text in [document.to_string(), pretty.clone(), pretty.replace('/', "\\/")] {
            assert_eq!(kind(&text).as_deref(), Some("nvidia.com/gpu"), "{text}");
        }
    }

    #[test]
    fn what_says_no_kind_has_none() {
        for text in [
            "",
            "\n\n",
            "# kind: nvidia.com/gpu",
            "nvidia.com/gpu",
            "kind",
            "kind:",
            "kind: ",
            "kind:nvidia.com/gpu",
            "kind: \"\"",
            "kind: \"nvidia.com/gpu",
            "kind: nvidia.com/gpu and more",
            "kind: \"nvidia.com\\/gpu\"",
            "a:\n  kind: nvidia.com/gpu",
            "- kind: nvidia.com/gpu",
            "{\"a\": {\"kind\": \"nvidia.com/gpu\"}}",
            "{\"kind\": 7}",
            "{\n\"kind\": \"nvidia.com/gpu\",\n",
            "[\"kind\", \"nvidia.com/gpu\"]",
            "\u{0}\u{1}kind: x",
        ] {
            assert_eq!(kind(text), None, "{text:?}");
        }
    }

    #[test]
    fn nvidias_kinds_are_those_of_its_domain() {
        for (kind, is) in [
            ("nvidia.com/gpu", true),
            ("nvidia.com/mig", true),
            ("management.nvidia.com/gpu", true),
            ("k8s.device-plugin.nvidia.com/gpu", true),
            ("notnvidia.com/gpu", false),
            ("nvidia.com", false),
            ("nvidia.com.example/gpu", false),
            ("gpushare.dev/share", false),
            ("gpushare.dev/nvidia.com/gpu", false),
        ] {
            assert_eq!(is_nvidias(kind), is, "{kind}");
        }
    }
}
