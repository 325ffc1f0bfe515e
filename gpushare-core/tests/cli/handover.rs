//! `import`, `export`, and nvidia-smi's words in `mig create`.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Stdio;

use crate::place::{Answer, Place};
use crate::schema::Schema;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/mig-parted.yaml");
const FLEET: &str = "2xA100-40GB,1xH100-80GB";

fn import(config: &str) -> [&str; 5] {
    ["import", "mig-parted", EXAMPLE, "--config", config]
}

/// Runs a command with that on standard input.
fn fed(place: &Place, arguments: &[&str], text: &str) -> Answer {
    let mut command = place.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who refuses the arguments does not read it.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    Answer::of(child.wait_with_output().unwrap())
}

#[test]
fn a_config_is_piped_to_plan_and_apply() {
    let place = Place::new(FLEET);
    let spec = place.done(&import("notebooks")).stdout;
    fed(&place, &["plan", "-"], &spec).expect(2);
    fed(&place, &["apply", "-", "--allow-reset"], &spec).expect(0);
    fed(&place, &["plan", "-"], &spec).expect(0);
    let again = place.done(&import("notebooks")).stdout;
    assert_eq!(again, spec);
    let document = place.json(&import("notebooks"));
    Schema::named("spec").expect(&document);
    fed(&place, &["plan", "-"], &document.to_string()).expect(0);
    // One more is another answer.
    place.done(&["mig", "create", "1g.10gb", "-i", "2"]);
    fed(&place, &["plan", "-"], &spec).expect(2);
    // Off again, and then there is nothing left to ask.
    let off = place.done(&import("whole")).stdout;
    fed(&place, &["apply", "-", "--allow-reset"], &off).expect(0);
    assert_eq!(place.done(&import("whole")).stdout, "version: gpushare/v1\ngpus: []\n");
}

#[test]
fn notes_go_to_standard_error() {
    let place = Place::new(FLEET);
    let answer = place.done(&import("one-small"));
    assert!(answer.stdout.starts_with("version: gpushare/v1\n"), "{answer:?}");
    assert!(answer.stderr.starts_with("gpushare: SIMULATED\n"), "{answer:?}");
    assert!(answer.stderr.contains("gpushare: GPU 1 (GPU-"), "{answer:?}");
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let piped =
        fed(&place, &["import", "mig-parted", "-", "--config", "one-small"], &text).expect(0);
    assert_eq!(piped.stdout, answer.stdout);
}

#[test]
fn what_cannot_be_imported_prints_nothing() {
    let place = Place::new(FLEET);
    let missing = place.run(&["import", "mig-parted", EXAMPLE]).expect_error("INVALID_ARGUMENT");
    assert!(missing.stdout.is_empty() && missing.stderr.contains("\"one-small\""), "{missing:?}");
    place.run(&["import", "mig-parted", "/no/such/file"]).expect_error("INVALID_ARGUMENT");
    place.run(&["import", "nvidia-smi", EXAMPLE]).expect(1);
    place.run(&["import", "mig-parted"]).expect(1);
    let spec = place.spec("spec.yaml", "version: gpushare/v1\ngpus: []\n");
    let other = place.run(&["import", "mig-parted", &spec]).expect_error("INVALID_ARGUMENT");
    assert!(other.stderr.contains("spec.yaml: mig-parted file"), "{other:?}");
    let huge = fed(&place, &["import", "mig-parted", "-"], &"#".repeat(10 << 20));
    assert!(huge.expect_error("INVALID_ARGUMENT").stderr.contains("at most 1048576"));
    let error = place.run(&["import", "mig-parted", EXAMPLE, "--json"]).expect(1).document();
    Schema::named("error").expect(&error);
}

#[test]
fn an_export_is_text_or_a_document_or_a_file() {
    let place = Place::new(FLEET);
    let spec = place.done(&import("notebooks")).stdout;
    fed(&place, &["apply", "-", "--allow-reset"], &spec).expect(0);
    let answer = place.done(&["export", "mig-parted"]);
    assert!(answer.stderr.contains("gpushare: mig-parted cannot say: GPU 0 (GPU-"), "{answer:?}");
    assert!(answer.stdout.starts_with("# SIMULATED\nversion: v1\n"), "{answer:?}");
    let document = place.json(&["export", "mig-parted"]);
    Schema::of(&document).expect(&document);
    assert_eq!(document["text"].as_str().unwrap(), answer.stdout);
    assert_eq!(document["cannot_say"].as_array().unwrap().len(), 3);
    let named = place.done(&["export", "mig-parted", "--config", "no"]).stdout;
    assert_eq!(named, answer.stdout.replace("  current:", "  \"no\":"));
    place.run(&["export", "mig-parted", "--config", ""]).expect_error("INVALID_ARGUMENT");
    place.run(&["export", "mig"]).expect(1);
    // A file is replaced, not written into: who reads it reads one or the other.
    let path = place.spec(
        "exported.yaml",
        "what was there before, and longer than what comes: ".repeat(99).as_str(),
    );
    let before = std::fs::metadata(&path).unwrap().ino();
    let written = place.done(&["export", "mig-parted", "-o", &path]);
    assert!(written.stdout.is_empty() && written.stderr == answer.stderr, "{written:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), answer.stdout);
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), before);
    place.run(&["export", "mig-parted", "-o", "/no/such/directory/file"]).expect_error("IO");
    place.run(&["export", "mig-parted", "-o", "/"]).expect_error("IO");
    // A link leads where it led, permissions stay, and what is no file is written to.
    let (link, mode) = (place.path().join("link"), Permissions::from_mode(0o640));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, mode).unwrap();
    place.done(&["export", "mig-parted", "-o", link.to_str().unwrap()]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), answer.stdout);
    let to_pipe = place.done(&["export", "mig-parted", "-o", "/dev/stdout"]);
    assert_eq!(to_pipe.stdout, answer.stdout);
    let left = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_str().unwrap().contains("exported")).count(), 1);
}

#[test]
fn mig_create_takes_what_nvidia_smi_takes() {
    let place = Place::new("1xA100-40GB");
    place.done(&["mig", "enable", "--allow-reset"]);
    place.done(&["mig", "create", "9:4,14", "1g.5gb:3"]);
    let (_, layout) = place.layout(0);
    assert_eq!(layout, ["2g.10gb@0 2@0", "1g.5gb@3 1@0", "3g.20gb@4 3@0"]);
    let unknown = place.run(&["mig", "create", "47"]).expect_error("INVALID_ARGUMENT");
    assert!(
        unknown.stderr.contains("no profile with the id 47; it has 0 (7g.40gb), 5 (4g.20gb)"),
        "{unknown:?}"
    );
    for bad in ["19,", "9:9,", "19:1:1", "1c.3g.20gb", "19;14"] {
        place.run(&["mig", "create", bad]).expect(1);
    }
    assert_eq!(place.layout(0).1, layout);
}

#[test]
fn the_readme_shows_what_import_prints() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let command = "$ gpushare --sim 2xA100-40GB,1xH100-80GB import mig-parted examples/mig-parted.yaml --config notebooks\n";
    let shown = readme.split(command).nth(1).unwrap().split("```").next().unwrap();
    let answer = Place::new(FLEET).done(&import("notebooks"));
    assert_eq!(format!("{}{}", answer.stderr, answer.stdout), shown);
}
