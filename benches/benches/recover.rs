//! Recovering a change of eight H100 that was killed, through the real backend and NVIDIA's C ABI, behind which the
//! simulator stands: the time of `recover`, the driver's own of it, and what is beside that.
//!
//! It runs itself again twice a round: once to apply and be killed at a call of the driver, once to recover.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gpushare_benches::Times;
use gpushare_core::apply::report::Settled;
use gpushare_core::{ApplyOptions, Node, Spec};
use gpushare_tests::nvml_sim;

const FOUR: &str = r#"{"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}"#;
const FIVE: &str = r#"{"3g.40gb": 1, "1g.10gb": 4}"#;
/// On each GPU an instance and its compute instance go, and two with one each come.
const CHANGES: usize = 8 * 6;
const ROUNDS: usize = 20;
/// Set in the processes that apply and recover: which of the two.
const CHILD: &str = "GPUSHARE_BENCH_CHILD";
/// Set there too: the path of the library, which is built once.
const LIBRARY: &str = "GPUSHARE_BENCH_LIBRARY";

fn main() {
    match std::env::var(CHILD).as_deref() {
        Ok("apply") => return drop(open().apply(&layout(FIVE), &ApplyOptions::new())),
        Ok(_) => return recover(),
        Err(_) => {}
    }
    for (where_to, what) in [
        (format!("{}+", CHANGES / 2), "in the middle"),
        (format!("{CHANGES}-"), "before the last call"),
        (format!("{CHANGES}+"), "after the last call"),
    ] {
        let (mut all, mut driver, mut beside) =
            (Times::default(), Times::default(), Times::default());
        for _ in 0..ROUNDS {
            let [whole, drivers] = round(&where_to);
            all.add(whole);
            driver.add(drivers);
            beside.add(whole.saturating_sub(drivers));
        }
        println!("eight GPUs, killed {what}: recover");
        println!("    wall time           {all}");
        println!("    the driver's own    {driver}");
        println!("    beside the driver's {beside}");
    }
}

fn layout(instances: &str) -> Spec {
    let text = format!(
        r#"{{"version": "gpushare/v1", "gpus": [
            {{"select": "all", "mode": "mig", "mig": {{"instances": {instances}}}}}]}}"#
    );
    text.parse().expect("a spec")
}

fn state_dir() -> PathBuf {
    PathBuf::from(std::env::var_os("GPUSHARE_STATE_DIR").expect("the node's folder"))
}

fn open() -> Node {
    Node::builder()
        .nvml_path(std::env::var_os(LIBRARY).expect("the library's path"))
        .nvidia_smi("/nonexistent/nvidia-smi")
        .state_dir(state_dir())
        .open()
        .expect("a node")
}

fn time_file(folder: &Path) -> PathBuf {
    folder.join("time")
}

/// What the library says that its calls took, since it was asked last.
fn take(folder: &Path) -> Duration {
    let text = std::fs::read_to_string(time_file(folder)).unwrap_or_default();
    drop(std::fs::remove_file(time_file(folder)));
    Duration::from_nanos(text.lines().map(|line| line.parse::<u64>().expect("a time")).sum())
}

/// One apply that is killed, and its recovery: how long that took, and how long the driver had of it.
fn round(where_to: &str) -> [Duration; 2] {
    let node = nvml_sim::Node::new("8xH100-80GB");
    let again = |role: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        node.tell(&mut command).env("GPUSHARE_NVML_TIME", time_file(node.folder()));
        command.env(CHILD, role).env(LIBRARY, nvml_sim::library());
        command
    };
    let prepared = again("prepare").output().expect("this program");
    assert!(prepared.status.success(), "{prepared:?}");
    let killed = again("apply").env("GPUSHARE_NVML_KILL_AT", where_to).status().expect("to apply");
    assert!(!killed.success(), "it was to be killed at {where_to}");
    let recovered = again("recover").output().expect("to recover");
    assert!(recovered.status.success(), "{recovered:?}");
    let text = String::from_utf8(recovered.stdout).expect("two numbers");
    let mut times = text.split_whitespace().map(|time| time.parse().expect("nanoseconds"));
    std::array::from_fn(|_| Duration::from_nanos(times.next().expect("two numbers")))
}

fn recover() {
    let node = open();
    if std::env::var(CHILD).as_deref() == Ok("prepare") {
        node.apply(&layout(FOUR), &ApplyOptions::new()).expect("it fits");
        return;
    }
    let folder = state_dir();
    take(&folder);
    let start = Instant::now();
    let report = node.recover().expect("it can be undone");
    let time = start.elapsed();
    let driver = take(&folder);
    let recovered = report.recovered.first().expect("the change that was killed");
    assert!(matches!(recovered.settled, Settled::RolledBack | Settled::Finished));
    println!("{} {}", time.as_nanos(), driver.as_nanos());
}
