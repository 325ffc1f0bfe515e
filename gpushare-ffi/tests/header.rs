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

/// What C++ wants otherwise than cbindgen writes it: constants of a type that is a number, so that
/// `gpushare_status status = gpushare_...()` compiles, and the types of callbacks with C's linkage.
fn for_cpp(generated: &str) -> String {
    const OPEN: &str = "#ifdef __cplusplus\nextern \"C\" {\n#endif // __cplusplus\n\n";
    const INCLUDES: &str = "#include <stdint.h>\n\n";
    assert!(generated.matches(OPEN).count() == 1 && generated.matches(INCLUDES).count() == 1);
    let mut text = generated.replace(OPEN, "").replace(INCLUDES, &format!("{INCLUDES}{OPEN}"));
    let names: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("enum "))
        .map(|name| name.to_owned())
        .collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        let number = |of: &str| {
            format!(
                "#ifndef __cplusplus\n#if __STDC_VERSION__ >= 202311L\ntypedef enum {name} {name};\n#else\ntypedef {of} {name};\n#endif // __STDC_VERSION__ >= 202311L\n#endif // __cplusplus\n"
            )
        };
        let of = if text.contains(&number("int32_t")) { "int32_t" } else { "uint32_t" };
        assert!(text.contains(&number(of)), "{name}");
        text = text.replace(&number(of), &format!("typedef {of} {name};\n"));
        text = text.replace(&format!("\nenum {name}\n"), "\nenum\n");
    }
    text
}

#[test]
fn the_header_is_what_the_sources_say() {
    let config = cbindgen::Config::from_file(crate_dir().join("cbindgen.toml")).unwrap();
    let bindings =
        cbindgen::Builder::new().with_crate(crate_dir()).with_config(config).generate().unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = for_cpp(&String::from_utf8(generated).unwrap()) + "\n";
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
    let dialects: [&[&str]; 5] = [
        &["gcc", "-std=c99", "-xc"],
        &["gcc", "-std=c11", "-xc"],
        &["g++", "-std=c++11", "-xc++"],
        &["g++", "-std=c++20", "-xc++"],
        // A field that is appended must not lie where an older caller has padding, which it need not
        // have set: then it would be read as set.
        &["gcc", "-std=c99", "-Wpadded", "-xc"],
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
