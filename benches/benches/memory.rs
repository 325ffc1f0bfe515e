//! The most memory that the command has in use on 16 GPUs with four GPU instances each, through
//! the real backend over the simulated driver.
//!
//! It is the high-water mark that the kernel keeps (`VmHWM`, which `ru_maxrss` is too), read until
//! the process ends. The simulated driver is in it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use gpushare_tests::nvml_sim::{Node, library};

const FLEET: &str = "16xH100-80GB";
const TURNS: usize = 20;

fn main() {
    let program = command();
    let node = Node::new(FLEET);
    let layout = |instances: &str| {
        format!(
            r#"{{"version": "gpushare/v1", "gpus": [
                {{"select": "all", "mode": "mig", "mig": {{"instances": {instances}}}}}]}}"#
        )
    };
    let file = |name: &str, instances: &str| {
        let path = node.folder().join(name);
        std::fs::write(&path, layout(instances)).expect("a temporary file");
        path.display().to_string()
    };
    let four = file("four.json", r#"{"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}"#);
    let five = file("five.json", r#"{"3g.40gb": 1, "1g.10gb": 4}"#);
    let commands: [&[&str]; 5] = [
        &["apply", &four],
        &["status"],
        &["status", "--json"],
        &["plan", &five],
        &["apply", &five],
    ];
    println!("most memory in use on {FLEET}, 4 GPU instances each");
    for arguments in commands {
        // A change is made once; looking is the same every time.
        let turns = if arguments.contains(&"apply") { 1 } else { TURNS };
        let most = (0..turns).map(|_| peak(&node, &program, arguments)).max().unwrap_or_default();
        let name: Vec<_> = arguments.iter().filter(|word| !word.contains('/')).copied().collect();
        println!("    gpushare {:<20} {:.1} MB", name.join(" "), most as f64 * 1024.0 / 1e6);
    }
}

/// Builds the command, as it is released.
fn command() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "-p", "gpushare-core", "--features", "cli"]);
    build.args(["--bin", "gpushare"]);
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo");
    assert!(built.success(), "the command does not build");
    // This program is in target/release/deps.
    let this = std::env::current_exe().expect("this program");
    this.ancestors().nth(2).expect("its folder").join("gpushare")
}

/// Runs the command and returns its high-water mark in KiB.
fn peak(node: &Node, program: &PathBuf, arguments: &[&str]) -> u64 {
    let mut command = Command::new(program);
    node.tell(command.args(arguments))
        .env("GPUSHARE_NVML_PATH", library())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.spawn().expect("the command");
    let path = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let ended = loop {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        // Before its exec the process is a copy of this one.
        if status.starts_with("Name:\tgpushare\n") {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let number = line.and_then(|line| line.split_whitespace().next());
            most = most.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
        if let Some(ended) = child.try_wait().expect("the command") {
            break ended;
        }
    };
    // plan says by 2 that there is something to do.
    let expected = if arguments.contains(&"plan") { 2 } else { 0 };
    assert_eq!(ended.code(), Some(expected), "gpushare {arguments:?}: {ended}");
    assert!(most > 0, "gpushare {arguments:?} ended before it was seen");
    most
}
