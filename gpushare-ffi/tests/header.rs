//! `include/gpushare.h` is what the sources say, and compilers take it.
//!
//! `GPUSHARE_BLESS=1 cargo test -p gpushare-ffi` writes it anew.

use std::path::{Path, PathBuf};
use std::process::Command;

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn include_dir() -> PathBuf {
    crate_dir().join("../include")
}

#[test]
fn the_header_is_what_the_sources_say() {
    let config = cbindgen::Config::from_file(crate_dir().join("cbindgen.toml")).unwrap();
    let bindings =
        cbindgen::Builder::new().with_crate(crate_dir()).with_config(config).generate().unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let mut generated = String::from_utf8(generated).unwrap();
    generated.push('\n');
    let path = include_dir().join("gpushare.h");
    if std::env::var_os("GPUSHARE_BLESS").is_some() {
        std::fs::write(&path, generated).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == generated, "{path:?} is old: GPUSHARE_BLESS=1 writes it anew");
}

#[test]
fn compilers_take_the_header_without_a_warning() {
    let dialects: [&[&str]; 4] = [
        &["gcc", "-std=c99", "-xc"],
        &["gcc", "-std=c11", "-xc"],
        &["g++", "-std=c++11", "-xc++"],
        &["g++", "-std=c++20", "-xc++"],
    ];
    for dialect in dialects {
        let output = Command::new(dialect[0])
            .args(&dialect[1..])
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
            .arg(include_dir().join("gpushare.h"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{dialect:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
