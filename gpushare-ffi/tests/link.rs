//! C programs link with the library, shared and static, and it exports what it says and no more.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::{crate_dir, library, native, run};

fn compile(dialect: [&str; 3]) -> Command {
    let [compiler, standard, language] = dialect;
    let mut command = Command::new(compiler);
    command.args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]);
    command.arg(crate_dir().join("../include")).args(["-x", language]);
    command.arg(crate_dir().join("tests/c/status.c")).args(["-x", "none"]);
    command
}

const DIALECTS: [[&str; 3]; 2] = [["gcc", "-std=c99", "c"], ["g++", "-std=c++11", "c++"]];

#[test]
fn a_program_runs_with_the_shared_library() {
    for dialect in DIALECTS {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shared-{}", dialect[2]));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["libgpushare.so", "libgpushare.so.0"] {
            symlink(library("libgpushare.so"), dir.join(name)).unwrap();
        }
        let program = dir.join("status");
        run(compile(dialect).arg("-o").arg(&program).arg("-L").arg(&dir).arg("-lgpushare"));
        let needed = run(Command::new("readelf").arg("-d").arg(&program));
        assert!(needed.contains("[libgpushare.so.0]"), "{needed}");
        run(Command::new(&program).env("LD_LIBRARY_PATH", &dir));
    }
}

#[test]
fn a_program_runs_with_the_archive() {
    for dialect in DIALECTS {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("static-{}", dialect[2]));
        let archive = library("libgpushare.a");
        run(compile(dialect).arg("-o").arg(&program).arg(&archive).args(native()));
        run(&mut Command::new(&program));
        // With everything in it; what it says of the functions that want the same glibc is no error.
        run(compile(dialect).arg("-static").arg("-o").arg(&program).arg(&archive).args(native()));
        run(&mut Command::new(&program));
    }
}

#[test]
fn the_library_exports_the_functions_of_the_header_alone() {
    let listed =
        run(Command::new("nm").args(["-D", "--defined-only"]).arg(library("libgpushare.so")));
    let mut symbols: Vec<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().next_back()).collect();
    symbols.sort_unstable();
    let symbols = symbols.join("\n") + "\n";
    let path = crate_dir().join("abi/symbols.txt");
    if std::env::var_os("GPUSHARE_BLESS").is_some() {
        std::fs::write(&path, symbols).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(symbols, committed, "{path:?}: GPUSHARE_BLESS=1 writes it anew");
    let header = std::fs::read_to_string(crate_dir().join("../include/gpushare.h")).unwrap();
    for symbol in committed.lines() {
        assert!(header.contains(&format!("{symbol}(")), "{symbol} is not in the header");
    }
}
