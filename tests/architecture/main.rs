//! Dependencies run one way, `unsafe` stands in few places, and nobody but the node names a backend.
//!
//! DESIGN.md, section 4, has the order. A module that is not in it fails here until it gets its place.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod source;

use std::path::{Path, PathBuf};

use source::{Source, code_of, sources, without_tests};

/// The modules of gpushare-core, from the ground up. A module may use those of the layers below its own.
const LAYERS: &[&[&str]] = &[
    &["units", "id", "process", "error", "terminal", "fork", "log"],
    &["mode", "parameters"],
    &["mig", "mps"],
    &["spec"],
    &["snapshot"],
    &["hazard", "visible", "plan", "doctor", "advise", "metrics", "export", "import"],
    &["port"],
    &["state", "backend", "observe", "apply"],
    &["node"],
    &["gpu", "lease"],
    &["handover"],
    &["cli"],
];

/// What a module may use in its own layer.
const BESIDE: &[(&str, &[&str])] = &[
    ("units", &["error", "terminal"]),
    ("id", &["error", "terminal"]),
    ("process", &["id", "terminal"]),
    ("error", &["id", "process", "terminal"]),
    ("parameters", &["mode"]),
    ("plan", &["hazard", "visible"]),
    ("doctor", &["hazard"]),
    ("metrics", &["hazard"]),
    ("advise", &["hazard", "plan"]),
    ("export", &["hazard", "plan"]),
    ("import", &["plan"]),
    ("observe", &["state"]),
    ("apply", &["state", "observe"]),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Why a module may not use a path, if it may not.
fn objection(from: &str, path: &[String]) -> Option<String> {
    let to = path.first()?.as_str();
    if from == to {
        return None;
    }
    let (Some(own), Some(other)) = (layer(from), layer(to)) else {
        return Some("is in no layer; give it its place in LAYERS".to_owned());
    };
    if to == "backend" {
        let sim = path.get(1).is_some_and(|module| module == "sim");
        return match from {
            "node" => None,
            "cli" if sim => None,
            _ => Some("names a backend, which the node alone does".to_owned()),
        };
    }
    let beside = || BESIDE.iter().any(|(module, used)| *module == from && used.contains(&to));
    match own.cmp(&other) {
        std::cmp::Ordering::Greater => None,
        std::cmp::Ordering::Equal if beside() => None,
        std::cmp::Ordering::Equal => Some("is beside it, not below".to_owned()),
        std::cmp::Ordering::Less => Some("is above it".to_owned()),
    }
}

/// The module of a root path: `Error` is `error`'s, which lib.rs says.
fn resolve(lib: &Source, mut path: Vec<String>) -> Vec<String> {
    let name = &path[0];
    if layer(name).is_none() {
        let mut statements =
            lib.code.split(';').filter_map(|part| part.trim().strip_prefix("pub use "));
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
        };
        if let Some(statement) = statements.find(|statement| words(statement).contains(name)) {
            let module =
                words(statement).into_iter().find(|word| word != "crate" && word != "self");
            path.insert(0, module.unwrap_or_default());
        }
    }
    path
}

fn objections(lib: &Source, source: &Source) -> Vec<String> {
    let modules = source.modules();
    // main.rs is the command's; lib.rs says what there is.
    let from = match (source.path.to_string_lossy().as_ref(), modules.first()) {
        ("main.rs", _) => "cli",
        (_, Some(module)) => module.as_str(),
        (_, None) => return Vec::new(),
    };
    let paths = source.root_paths().into_iter().map(|path| resolve(lib, path));
    let found = paths.filter_map(|path| {
        let why = objection(from, &path)?;
        Some(format!("{}: crate::{} {why}", source.path.display(), path.join("::")))
    });
    found.collect()
}

fn crate_src(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src")
}

fn core() -> Vec<Source> {
    let sources = sources(&crate_src("gpushare-core"));
    assert!(sources.len() > 20, "gpushare-core's sources were not found");
    sources
}

#[test]
fn dependencies_run_one_way() {
    let core = core();
    let lib = core.iter().find(|source| source.path == Path::new("lib.rs")).unwrap();
    let mut bad: Vec<String> = core.iter().flat_map(|source| objections(lib, source)).collect();
    let tops = core.iter().filter_map(|source| source.modules().first().cloned());
    for module in tops.filter(|module| layer(module).is_none()) {
        bad.push(format!("{module} is in no layer; give it its place in LAYERS"));
    }
    bad.sort();
    bad.dedup();
    assert!(bad.is_empty(), "\n{}\n", bad.join("\n"));
}

#[test]
fn the_faces_name_no_backend() {
    for name in ["gpushare-ffi", "gpushare-py"] {
        for source in sources(&crate_src(name)) {
            let paths = source.root_paths();
            let named =
                paths.iter().any(|path| path.first().is_some_and(|first| first == "backend"));
            assert!(
                !named,
                "{name}/{} names a backend; use the node's builder",
                source.path.display()
            );
        }
    }
}

/// Where a program is started that is to keep nothing of ours, by system calls between fork and exec;
/// and where a process outside this pid namespace has the pid 0, which rustix cannot hold.
const SYSTEM_CALLS: [&str; 2] = ["backend/mps/spawn.rs", "backend/mps/peer.rs"];

#[test]
fn unsafe_and_foreign_crates_stay_in_their_rooms() {
    for source in core() {
        if source.path.starts_with("backend/nvml") || source.path == Path::new("backend/nvml.rs") {
            continue;
        }
        let calls = SYSTEM_CALLS.iter().any(|path| source.path == Path::new(path));
        let own: &[&str] = if calls { &["unsafe", "libc"] } else { &[] };
        let words = ["unsafe", "nvml_wrapper", "nvml_wrapper_sys", "libc"];
        for word in words.into_iter().filter(|word| !own.contains(word)) {
            assert!(!source.has_word(word), "{} has {word}", source.path.display());
        }
    }
}

#[test]
fn the_reader_sees_code_and_nothing_else() {
    let text = r##"
        //! crate::node
        /* crate::node /* crate::node */ crate::node */
        use crate::{error::{Error, self}, backend::{sim, nvml as n}, port as p};
        use super::super::mig::*;
        use super::beside;
        const A: &str = "crate::node \" crate::node";
        const B: &str = r#"crate::node" "#;
        const C: [char; 2] = ['"', '\''];
        pub(crate) fn f<'a>(x: &'a crate::units::Bytes) -> crate::Result<()> { }
        #[cfg(test)]
        #[allow(dead_code)]
        mod tests { use crate::node; fn g() { { crate::node::x } } }
        #[cfg(test)]
        mod properties;
        #[cfg(all(any(test, fuzzing), feature = "cli"))]
        #[doc(hidden)]
        pub mod fuzzing;
        fn h() { crate::id::GpuUuid::parse() }
    "##;
    let (code, modules) = without_tests(&code_of(text));
    assert_eq!(modules, ["properties", "fuzzing"]);
    let source = Source { path: "plan/step.rs".into(), code };
    let paths: Vec<String> = source.root_paths().iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        [
            "error::Error",
            "error::self",
            "backend::sim",
            "backend::nvml",
            "port",
            "mig::*",
            "units::Bytes",
            "Result",
            "id::GpuUuid"
        ]
    );
    assert!(!source.has_word("node") && source.has_word("GpuUuid"));
}

#[test]
fn what_runs_the_wrong_way_is_found() {
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
    for (from, to) in [
        ("units", "id"),
        ("mode", "mig"),
        ("mig", "spec::Spec"),
        ("spec", "snapshot"),
        ("hazard", "plan"),
        ("plan", "port"),
        ("port", "state"),
        ("state", "observe"),
        ("observe", "apply"),
        ("backend", "state"),
        ("backend", "node"),
        ("apply", "backend::sim"),
        ("lease", "backend::sim"),
        ("cli", "backend::nvml"),
        ("cli", "backend"),
        ("node", "lease"),
        ("plan", "novelty"),
        ("novelty", "plan"),
    ] {
        assert!(objection(from, &path(to)).is_some(), "{from} uses {to}");
    }
    for (from, to) in [
        ("id", "error::Error"),
        ("spec", "mig::ProfileName"),
        ("plan", "hazard"),
        ("plan", "plan::step"),
        ("backend", "port::Nvml"),
        ("backend", "backend::nvml"),
        ("apply", "observe"),
        ("node", "backend::nvml"),
        ("cli", "backend::sim::Fleet"),
        ("cli", "lease"),
    ] {
        assert_eq!(objection(from, &path(to)), None, "{from} uses {to}");
    }
}
