//! Files that somebody made to hold us up: refused in a word, soon, and in little memory.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpushare_core::{Error, ErrorCode, Node, Spec};

use crate::place::{Answer, GPUSHARE, Place};

/// What a command may take of its address space, in KiB: of that its own text, the C library and the
/// stacks of its threads are most.
const MEMORY: u32 = 160 << 10;

/// How long a command may take on the busiest of machines. None here takes a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest text of an error.
const LONGEST: usize = 4096;

const HEAD: &str = "version: gpushare/v1\ngpus:\n";

/// The command, held to its memory.
fn held(place: &Place, arguments: &[&str]) -> Command {
    let plain = place.command(arguments);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit -v {MEMORY} && exec \"$@\""), "sh", GPUSHARE]);
    command.args(plain.get_args()).env_clear().stdin(Stdio::null());
    command
}

#[track_caller]
fn refused(place: &Place, arguments: &[&str], code: &str) -> Answer {
    answered(place, &mut held(place, arguments), code)
}

#[track_caller]
fn answered(place: &Place, command: &mut Command, code: &str) -> Answer {
    let began = Instant::now();
    let answer = Answer::of(command.output().unwrap()).expect_error(code);
    assert!(began.elapsed() < PATIENCE, "{:?} for {}", began.elapsed(), place.path().display());
    assert!(answer.stderr.len() < LONGEST, "{} bytes of error", answer.stderr.len());
    assert!(!answer.stderr.trim_end().contains(char::is_control), "{:?}", answer.stderr);
    answer
}

/// A text of a spec and what it is refused with: the error's code and a part of its message.
struct Hostile {
    what: &'static str,
    text: Vec<u8>,
    says: &'static str,
}

fn hostile() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |what, text: Vec<u8>, says| all.push(Hostile { what, text, says });
    const LEVELS: usize = 1000;
    let spec = |rest: &str| format!("{HEAD}{rest}").into_bytes();
    let of_gpu = |rest: &str| spec(&format!("  - {{select: 0, {rest}}}\n"));
    let json = |rest: &str| format!(r#"{{"version": "gpushare/v1", "gpus": {rest}}}"#).into_bytes();

    add("10 MB of blanks", vec![b' '; 10 << 20], "bytes; at most 1048576 (1 MiB)");
    add("a scalar of 10 MB", spec(&"x".repeat(10 << 20)), "at most 1048576 (1 MiB)");
    add("flow, 1,000 levels", spec(&"[".repeat(LEVELS)), "recursion limit exceeded");
    add("maps, 1,000 levels", spec(&"{a: ".repeat(LEVELS)), "recursion limit exceeded");
    add("block, 1,000 levels", spec(&"- ".repeat(LEVELS)), "more than 64 lists and maps");
    let steps: String = (0..LEVELS).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    add("indented, 1,000 levels", format!("x-a:\n{steps}").into_bytes(), "more than 64 lists");
    let nested = "[".repeat(LEVELS) + &"]".repeat(LEVELS);
    add("JSON, 1,000 levels", json(&nested), "more than 64 lists and maps");
    add("JSON, 1,000 levels open", json(&"[".repeat(LEVELS)), "not valid JSON");
    let dotted = format!("{}a = 1\n", "a.".repeat(LEVELS));
    add("TOML, 1,000 levels", dotted.into_bytes(), "wants a map with version, gpus");
    let array = format!("a = {nested}\n").into_bytes();
    add("TOML, a list with 1,000 levels", array, "wants a map with version, gpus");
    add("TOML", b"version = \"gpushare/v1\"\n[[gpus]]\nselect = 0\n".to_vec(), "spec line 1");
    add("NULs", vec![0; 1000], "spec line 1");
    add("a NUL in YAML", of_gpu("mode: \"mig\0\""), "spec line 3");
    add("a NUL in JSON", json("[\0]"), "spec line 1");
    add("no UTF-8", b"version: gpushare/v1\n\xFF\xFE".to_vec(), "spec line 2: not UTF-8");
    add("a cut character", b"version: \xE2\x82".to_vec(), "spec line 1: not UTF-8");
    let mut laughs = "x-a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for (one, next) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        let nine = vec![format!("*{one}"); 9].join(", ");
        laughs.push_str(&format!("x-{next}: &{next} [{nine}]\n"));
    }
    add("aliases", laughs.into_bytes(), "anchors (&…) are not allowed");
    let entries =
        |entry: &dyn Fn(usize) -> String| spec(&(0..10_000).map(entry).collect::<String>());
    let same = entries(&|_| "  - {select: 0, mode: exclusive}\n".to_owned());
    add("10,000 entries for one GPU", same, "GPU 0");
    let all_of_them = entries(&|_| "  - {select: all, mode: exclusive}\n".to_owned());
    add("10,000 entries for all GPUs", all_of_them, "selects all, and an entry before it does too");
    let instances = "1g, ".repeat(200_000);
    add(
        "200,000 instances",
        of_gpu(&format!("mode: mig, mig: {{instances: [{instances}]}}")),
        "more than 64 instances",
    );

    // Each text that somebody writes, as long as a file may be.
    let long = "x".repeat(1_000_000);
    for (what, text, says) in [
        ("a long version", format!("version: {long}\ngpus: []\n"), "wants gpushare/v1"),
        ("a long key", format!("{HEAD}  - {{{long}: 0}}\n"), "unknown key"),
        ("a long selector", format!("{HEAD}  - {{select: {long}, mode: mig}}\n"), "selects no GPU"),
        ("a long uuid", format!("{HEAD}  - {{select: GPU-{long}, mode: mig}}\n"), "selects no GPU"),
        (
            "a long index",
            format!("{HEAD}  - {{select: \"{}\", mode: mig}}\n", "1".repeat(1_000_000)),
            "too large",
        ),
        (
            "a long address",
            format!("{HEAD}  - {{select: {{pci: {long}}}, mode: mig}}\n"),
            "PCI address",
        ),
        (
            "a long model",
            format!("{HEAD}  - {{select: {{model: {long}}}, mode: mig}}\n"),
            "is not a model",
        ),
        (
            "a long device id",
            format!("{HEAD}  - {{select: {{device_id: {long}}}, mode: mig}}\n"),
            "PCI device id",
        ),
        ("a long mode", format!("{HEAD}  - {{select: 0, mode: {long}}}\n"), "unknown mode"),
    ] {
        add(what, text.into_bytes(), says);
    }
    for (what, rest, says) in [
        (
            "a long interval",
            format!("mode: time_sliced, time_sliced: {{interval: {long}}}"),
            "unknown interval",
        ),
        (
            "a long limit",
            format!("mode: mps, mps: {{pinned_memory_limit: {long}}}"),
            "no whole number",
        ),
        (
            "a long number",
            format!("mode: mps, mps: {{pinned_memory_limit: \"{}\"}}", "9".repeat(1_000_000)),
            "too large",
        ),
        (
            "a long unit",
            format!("mode: mps, mps: {{pinned_memory_limit: 1{long}}}"),
            "unknown unit",
        ),
        ("a long priority", format!("mode: mps, mps: {{priority: {long}}}"), "unknown priority"),
        ("a long user", format!("mode: mps, mps: {{access: {{user: {long}}}}}"), "is not the name"),
        ("a long access", format!("mode: mps, mps: {{access: {long}}}"), "wants caller, any"),
        (
            "a long percentage",
            format!("mode: mps, mps: {{thread_percentage: {}}}", "9".repeat(1_000_000)),
            "thread_percentage",
        ),
        (
            "a long profile",
            format!("mode: mig, mig: {{instances: [{{profile: {long}}}]}}"),
            "unknown profile name",
        ),
        (
            "a long count",
            format!("mode: mig, mig: {{instances: {{{long}: 1}}}}"),
            "unknown profile name",
        ),
        (
            "a long name",
            format!("mode: mig, mig: {{instances: [{{profile: 1g, name: {long}}}]}}"),
            "is not a name",
        ),
        (
            "a long instance",
            format!("mode: mig, mig: {{instances: [{{profile: 1g, compute: [{long}]}}]}}"),
            "is no compute instance",
        ),
    ] {
        add(what, of_gpu(&rest), says);
    }
    add("escapes", of_gpu("mode: \"\\e[2J\\u202E\\r\""), "unknown mode");
    all
}

fn expect_short(what: &str, error: &Error, says: &str) {
    assert!(error.to_string().contains(says), "{what}: {error:.300}");
    assert!(error.to_string().len() < LONGEST, "{what}: {} bytes", error.to_string().len());
    assert!(error.to_document().to_string().len() < 2 * LONGEST, "{what}");
}

#[test]
fn a_hostile_spec_is_refused_in_a_word() {
    let node = Node::builder().ignore_environment(true).sim("2xA100-40GB").open().unwrap();
    for Hostile { what, text, says } in hostile() {
        let began = Instant::now();
        let read = Spec::from_bytes(&text).and_then(|spec| node.plan(&spec));
        let error = read.expect_err(what);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{what}: {error:.300}");
        expect_short(what, &error, says);
        assert!(began.elapsed() < PATIENCE, "{what}: {:?}", began.elapsed());
    }
}

#[test]
fn the_command_refuses_it_in_little_memory() {
    let place = Place::new("2xA100-40GB");
    for Hostile { what, text, says } in hostile() {
        let path = place.path().join("spec");
        std::fs::write(&path, text).unwrap();
        let answer = refused(&place, &["plan", path.to_str().unwrap()], "INVALID_ARGUMENT");
        assert!(answer.stderr.contains(says), "{what}: {:.300}", answer.stderr);
    }
}

#[test]
fn many_entries_that_mean_something_are_planned() {
    let place = Place::new("2xA100-40GB");
    let entries = |entry: &dyn Fn(usize) -> String| {
        let text = format!("{HEAD}{}", (0..10_000).map(entry).collect::<String>());
        place.spec("many", &text)
    };
    // The first that is not there is told.
    let indices = entries(&|index| format!("  - {{select: {index}, mode: exclusive}}\n"));
    let answer = refused(&place, &["plan", &indices], "NOT_FOUND");
    assert!(answer.stderr.contains("no GPU with index 2"), "{answer:?}");
    let models =
        entries(&|number| format!("  - {{select: {{model: \"H{number}*\"}}, mode: exclusive}}\n"));
    let began = Instant::now();
    Answer::of(held(&place, &["plan", &models]).output().unwrap()).expect(0);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let selectors = (0..100_000).map(|index| format!("{index},")).collect::<String>();
    let one = place.spec("one", &format!("{HEAD}  - {{select: [{selectors}], mode: exclusive}}\n"));
    refused(&place, &["plan", &one], "NOT_FOUND");
}

#[test]
fn what_is_no_file_is_refused_and_what_has_no_end_is_cut() {
    let place = Place::new("1xT4");
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(at("folder")).unwrap();
    symlink("/dev/zero", at("zeros")).unwrap();
    for (path, says) in [
        (at("folder"), "is a directory and no regular file"),
        ("/dev/zero".to_owned(), "is a terminal or another device"),
        (at("zeros"), "is a terminal or another device"),
        ("/proc/self/mem".to_owned(), ""),
    ] {
        for command in ["plan", "apply", "persist"] {
            let code = if says.is_empty() { "IO" } else { "INVALID_ARGUMENT" };
            let answer = refused(&place, &[command, &path], code);
            assert!(answer.stderr.contains(says), "{answer:?}");
        }
    }
    for kind in [&["import", "mig-parted"][..], &["plan"]] {
        let mut command = held(&place, &[kind, &["-"]].concat());
        command.stdin(std::fs::File::open("/dev/zero").unwrap());
        let answer = answered(&place, &mut command, "INVALID_ARGUMENT");
        assert!(answer.stderr.contains("1048577 bytes; at most 1048576"), "{answer:?}");
    }
    // A pipe is waited for, as every command does; one that never ends is read as far as a file may be.
    let pipe = at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (feed, says) in [(&b"x"[..], "1048577 bytes; at most 1048576"), (b"", "wants a map")] {
        let (writer, feed) = (pipe.clone(), feed.repeat(1 << 16));
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(writer).unwrap();
            // Until nobody listens.
            while !feed.is_empty() && pipe.write_all(&feed).is_ok() {}
        });
        let answer = refused(&place, &["plan", &pipe], "INVALID_ARGUMENT");
        assert!(answer.stderr.contains(says), "{answer:?}");
        writer.join().unwrap();
    }
}

/// What stands where journals and records are.
#[test]
fn hostile_files_of_ours_hold_up_changes_and_nobody_who_looks() {
    let place = Place::new("1xA100-40GB");
    place.done(&["time-slice", "--interval", "long"]);
    let gpu = place.json(&["status"])["gpus"][0]["uuid"].as_str().unwrap().to_owned();
    let journals = place.lib().join("journal");
    std::fs::create_dir_all(&journals).unwrap();
    let line = |json: &str| format!("0123456789abcdef {json}\n");
    let ten = 10 << 20;
    type Make<'a> = &'a dyn Fn(&Path);
    let make: [(&str, Make<'_>); 8] = [
        ("one line", &|path| std::fs::write(path, vec![b'x'; ten]).unwrap()),
        ("zeros", &|path| std::fs::write(path, vec![0; ten]).unwrap()),
        ("lines", &|path| std::fs::write(path, vec![b'\n'; ten]).unwrap()),
        ("levels", &|path| std::fs::write(path, line(&"[".repeat(ten))).unwrap()),
        ("bytes", &|path| std::fs::write(path, vec![0xFF; ten]).unwrap()),
        ("without end", &|path| {
            std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
        }),
        ("a pipe", &|path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a link", &|path| symlink("/dev/zero", path).unwrap()),
    ];
    for (what, make) in make {
        let journal = journals.join("1.jsonl");
        make(&journal);
        for change in [&["recover"][..], &["exclusive", "-i", "0"]] {
            let answer = refused(&place, change, "RECOVERY_REQUIRED");
            assert!(answer.stderr.contains("recover --discard 1.jsonl"), "{what}: {answer:?}");
        }
        let status = Answer::of(held(&place, &["status"]).output().unwrap()).expect(0);
        assert!(status.stdout.contains("time_sliced"), "{what}: {status:?}");
        Answer::of(held(&place, &["recover", "--discard", "1.jsonl"]).output().unwrap()).expect(0);
        Answer::of(held(&place, &["recover"]).output().unwrap()).expect(0);

        let record = place.lib().join(format!("records/{gpu}.json"));
        let kept = std::fs::read(&record).unwrap();
        std::fs::remove_file(&record).unwrap();
        make(&record);
        let status = Answer::of(held(&place, &["status"]).output().unwrap()).expect(0);
        assert!(status.stdout.contains("time_sliced"), "{what}: {status:?}");
        let answer =
            Answer::of(held(&place, &["exclusive", "-i", "0"]).output().unwrap()).expect(1);
        // A warning says so first, and then the error.
        let said = format!("records/{gpu}.json is not a record of gpushare");
        assert!(answer.stderr.contains("gpushare: INVALID_STATE: "), "{what}: {answer:?}");
        assert!(answer.stderr.contains(&said), "{what}: {answer:?}");
        assert!(answer.stderr.len() < 2 * LONGEST, "{what}: {} bytes", answer.stderr.len());
        std::fs::remove_file(&record).unwrap();
        std::fs::write(&record, kept).unwrap();
    }
    // A number of shares that nobody could count.
    let record = place.lib().join(format!("records/{gpu}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    let (before, after) = text.split_once("\"replicas\":").unwrap();
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    std::fs::write(&record, format!("{before}\"replicas\":{}{after}", u32::MAX)).unwrap();
    for command in [&["status"][..], &["leases"], &["--json", "status"]] {
        Answer::of(held(&place, command).output().unwrap()).expect(0);
    }
}
