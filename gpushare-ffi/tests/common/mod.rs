//! Building and running programs in C.

// A test fails by a panic, in its helpers too; not every test uses all of them.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What a C program needs that links the archive: what the Makefile tells pkg-config and CMake.
pub(crate) fn native() -> Vec<String> {
    let makefile = std::fs::read_to_string(crate_dir().join("../Makefile")).unwrap();
    let line = makefile.lines().find_map(|line| line.strip_prefix("NATIVE := "));
    line.unwrap().split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo puts the library that it builds for this test.
pub(crate) fn library(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().with_file_name(name);
    assert!(path.exists(), "{path:?} is not there");
    path
}

/// The shared library with the names of its functions, and not their lines.
fn stripped() -> PathBuf {
    static STRIPPED: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let stripped = directory("stripped").join("libgpushare.so");
        let whole = library("libgpushare.so");
        run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(whole));
        stripped
    };
    STRIPPED.get_or_init(make).clone()
}

/// Standard output of a program that must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {:?}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Says that a test was skipped, past the capture of the harness.
pub(crate) fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {what}: {why}");
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Shared,
    Static,
    /// Shared, and the program with the address sanitizer, which watches the library's memory too.
    Sanitized,
}

/// An empty directory of this test's.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Builds a program, with all warnings as errors, into a directory.
pub(crate) fn build(source: &str, link: Link, into: &Path) -> PathBuf {
    let source = crate_dir().join(source);
    let program = into.join(source.file_stem().unwrap());
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]);
    command.arg(crate_dir().join("../include")).arg(source).arg("-o").arg(&program);
    match link {
        Link::Static => {
            command.arg(library("libgpushare.a")).args(native());
        }
        Link::Shared | Link::Sanitized => {
            // Valgrind reads all that it finds of a library, at every start.
            let shared = if link == Link::Shared { stripped() } else { library("libgpushare.so") };
            for name in ["libgpushare.so", "libgpushare.so.0"] {
                let _ = symlink(&shared, into.join(name));
            }
            command.arg("-L").arg(into).args(["-lgpushare", "-lpthread"]);
            command.arg(format!("-Wl,-rpath,{}", into.display()));
        }
    }
    if link == Link::Sanitized {
        command.args(["-fsanitize=address", "-fno-omit-frame-pointer"]);
    }
    run(&mut command);
    program
}

/// A program that sees nothing of gpushare's in our environment.
pub(crate) fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("GPUSHARE_") || name.starts_with("CUDA_") {
            command.env_remove(name);
        }
    }
    command.env("RUST_BACKTRACE", "0");
    command
}
