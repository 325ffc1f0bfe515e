//! NVIDIA's own programs and libraries, fetched for the tests that run them without a GPU.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folders of the drivers that could be fetched, each with `nvidia-smi`, `libnvidia-ml.so.1`,
/// `nvidia-cuda-mps-control` and `nvidia-cuda-mps-server`, by major version; or why there are none.
///
/// # Errors
/// Why this machine can't have them.
pub fn drivers() -> Result<&'static [(u32, PathBuf)], &'static str> {
    static DRIVERS: OnceLock<Result<Vec<(u32, PathBuf)>, String>> = OnceLock::new();
    let drivers = DRIVERS.get_or_init(fetch).as_ref();
    drivers.map(Vec::as_slice).map_err(String::as_str)
}

fn fetch() -> Result<Vec<(u32, PathBuf)>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fetch-nvidia");
    let fetched = Command::new(&script).output().map_err(|error| error.to_string())?;
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).trim().to_owned());
    }
    let folders = String::from_utf8_lossy(&fetched.stdout);
    let drivers: Vec<_> = folders
        .lines()
        .filter_map(|line| {
            let folder = PathBuf::from(line);
            let major = folder.file_name()?.to_str()?.parse().ok()?;
            Some((major, folder))
        })
        .collect();
    if drivers.is_empty() { Err("nothing was fetched".to_owned()) } else { Ok(drivers) }
}

/// The names that gpushare's backend calls, read from its source: every `call!`, and the fields
/// and names that it looks up by hand.
///
/// # Panics
/// When its source is not there.
#[must_use]
#[allow(clippy::unwrap_used, reason = "for tests, which fail by panics")]
pub fn called() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpushare-core/src/backend/nvml");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (place, _) in line.match_indices("nvml") {
                let name: String = line[place..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let is_function = name["nvml".len()..].starts_with(|c: char| c.is_uppercase())
                    && !name.ends_with("_t")
                    && !name.ends_with("_st");
                if is_function {
                    names.insert(name);
                }
            }
        }
    }
    names
}

/// Says that a test, or a part of one, was skipped and why: past the test harness, which would
/// keep what a passing test prints to itself.
pub fn skipped(what: &str, why: &str) {
    use std::io::Write as _;
    // Without a terminal or a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}
