//! `make install` puts things where programs find them: with pkg-config and with CMake, shared and
//! static, wherever the installation is moved to.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{crate_dir, directory, library, program, run, skipped};

/// What `make build` would have made, from what cargo made for this test. The command is another
/// package's: a file in its place is installed.
fn built(name: &str) -> PathBuf {
    let release = directory(name).join("release");
    std::fs::create_dir_all(&release).unwrap();
    for name in ["libgpushare.so", "libgpushare.a"] {
        std::os::unix::fs::symlink(library(name), release.join(name)).unwrap();
    }
    std::fs::write(release.join("gpushare"), "#!/bin/sh\n").unwrap();
    release.parent().unwrap().to_owned()
}

fn make(target: &str, variables: &[(&str, &Path)]) {
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(crate_dir().join("..")).arg(target);
    for (name, value) in variables {
        make.arg(format!("{name}={}", value.display()));
    }
    // Our own make, if one runs this test, is none of its business.
    run(make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"));
}

fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// Where a program was installed, and the status printer that was built with it.
fn prints_a_status(built: &Path, libraries: Option<&Path>) {
    let mut command = program(built);
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    let state = built.with_extension("state");
    command.env("GPUSHARE_SIM", "1xT4").env("GPUSHARE_STATE_DIR", state);
    let said = run(&mut command);
    assert!(said.starts_with("SIMULATED\n"), "{said}");
}

#[test]
fn everything_is_where_distributions_look_and_goes_again() {
    let target = built("install-target");
    let stage = directory("install-stage");
    let variables = [
        ("TARGET", target.as_path()),
        ("DESTDIR", &stage),
        ("PREFIX", Path::new("/usr")),
        ("LIB", Path::new("lib/x86_64-linux-gnu")),
    ];
    make("install", &variables);
    let version = env!("CARGO_PKG_VERSION");
    let lib = "usr/lib/x86_64-linux-gnu";
    let expected = [
        "usr/bin/gpushare".to_owned(),
        "usr/include/gpushare.h".to_owned(),
        format!("{lib}/libgpushare.a"),
        format!("{lib}/libgpushare.so"),
        format!("{lib}/libgpushare.so.0"),
        format!("{lib}/libgpushare.so.{version}"),
        format!("{lib}/pkgconfig/gpushare.pc"),
        format!("{lib}/cmake/gpushare/gpushareConfig.cmake"),
        format!("{lib}/cmake/gpushare/gpushareConfigVersion.cmake"),
    ];
    assert_eq!(files(&stage), BTreeSet::from(expected));
    let soname = stage.join(lib).join("libgpushare.so.0");
    let points_at = std::fs::read_link(&soname).unwrap();
    assert_eq!(points_at, Path::new(&format!("libgpushare.so.{version}")));
    let dynamic = run(Command::new("readelf").arg("-d").arg(soname));
    assert!(dynamic.contains("Library soname: [libgpushare.so.0]"), "{dynamic}");
    for name in ["pkgconfig/gpushare.pc", "cmake/gpushare/gpushareConfig.cmake"] {
        let text = std::fs::read_to_string(stage.join(lib).join(name)).unwrap();
        assert!(!text.contains('@') && !text.contains(stage.to_str().unwrap()), "{text}");
    }
    // A file that somebody else put there stays.
    std::fs::write(stage.join(lib).join("libother.so"), "").unwrap();
    make("uninstall", &variables);
    assert_eq!(files(&stage), BTreeSet::from([format!("{lib}/libother.so")]));
}

#[test]
fn pkg_config_finds_it_wherever_it_was_moved() {
    if Command::new("pkg-config").arg("--version").output().is_err() {
        skipped("a program built with pkg-config", "it is not installed");
        return;
    }
    let target = built("pkg-config-target");
    let first = directory("pkg-config-first");
    make("install", &[("TARGET", &target), ("PREFIX", &first)]);
    let prefix = directory("pkg-config-moved").join("opt");
    std::fs::rename(&first, &prefix).unwrap();
    let lib = prefix.join("lib");
    let flags = |options: &[&str]| -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).args(options).arg("gpushare");
        run(&mut command).split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(flags(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let source = crate_dir().join("examples/status_printer.c");
    let compile = |name: &str, flags: Vec<String>| {
        let built = prefix.join(name);
        run(Command::new("gcc").arg("-std=c99").arg(&source).arg("-o").arg(&built).args(flags));
        built
    };
    prints_a_status(&compile("shared", flags(&["--cflags", "--libs"])), Some(&lib));
    // An archive is linked by its own name, so that the shared library beside it is not taken.
    let mut archive = flags(&["--static", "--cflags", "--libs"]);
    for flag in archive.iter_mut().filter(|flag| *flag == "-lgpushare") {
        *flag = "-l:libgpushare.a".to_owned();
    }
    prints_a_status(&compile("static", archive), None);
}

/// CMake of the machine, or of a virtual environment below target/.
fn cmake() -> Result<PathBuf, String> {
    if Command::new("cmake").arg("--version").output().is_ok() {
        return Ok("cmake".into());
    }
    let venv = library("libgpushare.so").with_file_name("../../cmake-venv");
    let cmake = venv.join("bin/cmake");
    if !cmake.exists() {
        let fetch = |command: &mut Command| {
            let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or("it failed");
            let why = format!("it is not installed, and cannot be fetched: {last}");
            output.status.success().then_some(()).ok_or(why)
        };
        fetch(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = ["-q", "--disable-pip-version-check", "install", "cmake>=3.20"];
        fetch(Command::new(venv.join("bin/pip")).args(pip))?;
    }
    Ok(cmake)
}

#[test]
fn cmake_finds_it() {
    let cmake = match cmake() {
        Ok(cmake) => cmake,
        Err(why) => return skipped("a program built with CMake", &why),
    };
    let target = built("cmake-target");
    let prefix = directory("cmake-prefix");
    make("install", &[("TARGET", &target), ("PREFIX", &prefix)]);
    let project = directory("cmake-project");
    let source = crate_dir().join("examples/status_printer.c");
    let list = |wanted: &str| {
        let text = format!(
            "cmake_minimum_required(VERSION 3.13)
project(status C)
find_package(gpushare {wanted} REQUIRED)
add_executable(shared {source})
target_link_libraries(shared PRIVATE gpushare::gpushare)
add_executable(static {source})
target_link_libraries(static PRIVATE gpushare::gpushare_static)
",
            source = source.display()
        );
        std::fs::write(project.join("CMakeLists.txt"), text).unwrap();
    };
    let build = project.join("build");
    let configure = || {
        let mut command = Command::new(&cmake);
        command.arg("-S").arg(&project).arg("-B").arg(&build);
        command.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()));
        command
    };
    let [major, minor] = [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")];
    list(&format!("{major}.{minor}"));
    run(&mut configure());
    run(Command::new(&cmake).arg("--build").arg(&build));
    // It builds with where the library is.
    prints_a_status(&build.join("shared"), None);
    prints_a_status(&build.join("static"), None);
    // A minor version that is another is not this one.
    let next: u32 = minor.parse::<u32>().unwrap() + 1;
    list(&format!("{major}.{next}"));
    let refused = configure().output().unwrap();
    assert!(!refused.status.success());
}
