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
    // Of other programs and other builds: none of it is ours.
    for name in [
        "PREFIX",
        "BIN",
        "LIB",
        "INCLUDE",
        "TARGET",
        "INSTALL",
        "prefix",
        "exec_prefix",
        "bindir",
        "libdir",
        "includedir",
        "unitdir",
        "VERSION",
        "SO",
        "NATIVE",
        "to_lib",
        "to_unit",
        "class",
        "way",
        "fill",
    ] {
        make.env(name, "/no/such;nothing");
    }
    make.env_remove("DESTDIR");
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

fn source() -> PathBuf {
    crate_dir().join("examples/status_printer.c")
}

/// What pkg-config says of an installation whose libraries are there.
fn pkg_config(lib: &Path, options: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).args(options).arg("gpushare");
    run(&mut command).split_whitespace().map(str::to_owned).collect()
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
        "usr/lib/systemd/system/gpushare-restore.service".to_owned(),
        format!("{lib}/libgpushare.a"),
        format!("{lib}/libgpushare.so"),
        format!("{lib}/libgpushare.so.0"),
        format!("{lib}/libgpushare.so.{version}"),
        format!("{lib}/pkgconfig/gpushare.pc"),
        format!("{lib}/cmake/gpushare/gpushareConfig.cmake"),
        format!("{lib}/cmake/gpushare/gpushareConfigVersion.cmake"),
    ];
    assert_eq!(files(&stage), BTreeSet::from(expected));
    let unit = stage.join("usr/lib/systemd/system/gpushare-restore.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/gpushare restore "), "{unit}");
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

/// Below a root, by GNU's names, each somewhere else.
#[test]
fn every_directory_can_be_chosen() {
    let target = built("install-gnu-target");
    let stage = directory("install-gnu");
    let prefix = stage.join("usr");
    let (bin, lib) = (stage.join("opt/tools"), stage.join("srv/deep/lib64"));
    let include = stage.join("headers/gpushare");
    let units = stage.join("etc/units");
    let variables = [
        ("TARGET", target.as_path()),
        ("prefix", &prefix),
        ("bindir", &bin),
        ("libdir", &lib),
        ("includedir", &include),
        ("unitdir", &units),
    ];
    make("install", &variables);
    for path in [
        bin.join("gpushare"),
        lib.join("libgpushare.so"),
        lib.join("pkgconfig/gpushare.pc"),
        include.join("gpushare.h"),
        units.join("gpushare-restore.service"),
    ] {
        assert!(path.exists(), "{path:?}");
    }
    assert!(!prefix.exists(), "nothing is there");
    if Command::new("pkg-config").arg("--version").output().is_ok() {
        let program = stage.join("status_printer");
        let flags = pkg_config(&lib, &["--cflags", "--libs"]);
        run(Command::new("gcc").arg(source()).arg("-o").arg(&program).args(flags));
        prints_a_status(&program, Some(&lib));
    }
    make("uninstall", &variables);
    for emptied in ["srv", "etc"] {
        assert_eq!(files(&stage.join(emptied)), BTreeSet::new());
    }
    let relative = [("TARGET", target.as_path()), ("libdir", Path::new("lib64"))];
    let mut install = Command::new("make");
    install.arg("-s").arg("-C").arg(crate_dir().join("..")).arg("install");
    install.args(relative.map(|(name, value)| format!("{name}={}", value.display())));
    install.arg(format!("DESTDIR={}", stage.join("relative").display()));
    assert!(!install.env_remove("MAKEFLAGS").output().unwrap().status.success());
    assert!(!stage.join("relative").exists());
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
    let flags = |options: &[&str]| pkg_config(&lib, options);
    assert_eq!(flags(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let compile = |name: &str, flags: Vec<String>| {
        let built = prefix.join(name);
        run(Command::new("gcc").arg("-std=c99").arg(source()).arg("-o").arg(&built).args(flags));
        built
    };
    prints_a_status(&compile("shared", flags(&["--cflags", "--libs"])), Some(&lib));
    // An archive is linked by its own name, so that the shared library beside it is not taken.
    let mut archive = flags(&["--static", "--cflags", "--libs"]);
    for flag in archive.iter_mut().filter(|flag| *flag == "-lgpushare") {
        *flag = "-l:libgpushare.a".to_owned();
    }
    prints_a_status(&compile("static", archive), None);
    // With all else in it, too, glibc included.
    let mut all = flags(&["--static", "--cflags", "--libs"]);
    all.push("-static".to_owned());
    prints_a_status(&compile("wholly_static", all), None);
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
    // What works with that version, and what does not: a newer one, or one of another ABI.
    let next = |number: &str| number.parse::<u32>().unwrap() + 1;
    let (later, above) = (format!("{major}.{}", next(minor)), format!("{}.0", next(major)));
    let whole = env!("CARGO_PKG_VERSION");
    let mut asked = vec![
        (String::new(), true),
        (format!("{major}.0"), true),
        (format!("{whole} EXACT"), true),
        (format!("{major}.0 EXACT"), false),
        (later.clone(), false),
        (above.clone(), false),
    ];
    // CMake knows ranges since 3.19.
    asked.extend([
        (format!("{major}.0...<{above}"), true),
        (format!("{major}.0...{whole}"), true),
        (format!("{major}.0...<{whole}"), false),
        (format!("{later}...<{above}"), false),
        (format!("{above}...{above}"), false),
    ]);
    for (wanted, found) in asked {
        list(&wanted);
        assert_eq!(configure().output().unwrap().status.success(), found, "{wanted}");
    }
    // By a link: the headers are where the library is, not beside the link.
    let linked = directory("cmake-linked");
    std::os::unix::fs::symlink(prefix.join("lib"), linked.join("lib")).unwrap();
    let _ = std::fs::remove_dir_all(&build);
    list("");
    let mut command = Command::new(&cmake);
    command.arg("-S").arg(&project).arg("-B").arg(&build);
    run(command.arg(format!("-DCMAKE_PREFIX_PATH={}", linked.display())));
    run(Command::new(&cmake).arg("--build").arg(&build));
    // A program of 32 bits is told so, before it fails to link.
    let version = prefix.join("lib/cmake/gpushare/gpushareConfigVersion.cmake");
    let script = project.join("pointer.cmake");
    let text = format!(
        "set(CMAKE_SIZEOF_VOID_P ${{POINTER}})\ninclude({})\nif(PACKAGE_VERSION_UNSUITABLE)\nmessage(FATAL_ERROR unsuitable)\nendif()\n",
        version.display()
    );
    std::fs::write(&script, text).unwrap();
    let suits = |pointer: usize| {
        let mut command = Command::new(&cmake);
        command.arg(format!("-DPOINTER={pointer}")).arg("-P").arg(&script);
        command.output().unwrap().status.success()
    };
    assert!(suits(size_of::<usize>()) && !suits(12 - size_of::<usize>()));
}
