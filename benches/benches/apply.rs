//! Applying to eight H100 with four GPU instances each, through the real backend and NVIDIA's C
//! ABI, behind which the simulator stands: the calls of the driver, and the time beside them.
//!
//! It runs itself again, with the environment that the simulated library reads.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gpushare_benches::Times;
use gpushare_core::apply::Source;
use gpushare_core::{ApplyOptions, Node, Spec};
use gpushare_tests::nvml_sim;

const FOUR: &str = r#"{"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}"#;
const FIVE: &str = r#"{"3g.40gb": 1, "1g.10gb": 4}"#;
const ROUNDS: usize = 200;
/// Set in the process that applies: the path of the library.
const CHILD: &str = "GPUSHARE_BENCH_CHILD";

fn main() {
    if let Some(library) = std::env::var_os(CHILD) {
        return measure(Path::new(&library));
    }
    let node = nvml_sim::Node::new("8xH100-80GB");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    node.tell(&mut command)
        .env("GPUSHARE_NVML_CALLS", node.folder().join("calls"))
        .env("GPUSHARE_NVML_TIME", node.folder().join("time"))
        .env(CHILD, nvml_sim::library());
    let status = command.status().expect("this program again");
    assert!(status.success(), "the process that applies failed");
}

/// What the library says of one session.
struct Session {
    calls: BTreeMap<String, u64>,
    time: Duration,
}

impl Session {
    /// Reads what the library wrote, and removes it.
    fn take(folder: &Path) -> Self {
        let take = |name: &str| {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).expect("the library's file");
            std::fs::remove_file(path).expect("the library's file");
            text
        };
        let mut calls = BTreeMap::new();
        for (name, count) in take("calls").lines().filter_map(|line| line.split_once(' ')) {
            *calls.entry(name.to_owned()).or_default() += count.parse::<u64>().expect("a count");
        }
        let nanoseconds =
            take("time").lines().map(|line| line.parse::<u64>().expect("a time")).sum();
        Self { calls, time: Duration::from_nanos(nanoseconds) }
    }

    fn of(&self, part: &str) -> u64 {
        self.calls.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| count).sum()
    }

    fn print(&self, what: &str) {
        let all: u64 = self.calls.values().sum();
        let (destroyed, created) = (self.of("Destroy"), self.of("Create"));
        println!(
            "{what}: {all} driver calls, {} init, {destroyed} destroyed, {created} created, {} modes set",
            self.of("nvmlInit"),
            self.of("nvmlDeviceSet"),
        );
        for (name, count) in &self.calls {
            println!("    {count:4} {name}");
        }
    }
}

fn layout(select: &str, instances: &str) -> Spec {
    let text = format!(
        r#"{{"version": "gpushare/v1", "gpus": [
            {{"select": {select}, "mode": "mig", "mig": {{"instances": {instances}}}}}]}}"#
    );
    text.parse().expect("a spec")
}

fn measure(library: &Path) {
    let folder = PathBuf::from(std::env::var_os("GPUSHARE_STATE_DIR").expect("the node's folder"));
    let node = Node::builder()
        .nvml_path(library)
        .nvidia_smi("/nonexistent/nvidia-smi")
        .state_dir(&folder)
        .open()
        .expect("a node");
    let four = layout(r#""all""#, FOUR);
    let options = ApplyOptions::new();
    node.apply(&four, &options).expect("it fits");
    Session::take(&folder).print("four instances on each of 8 GPUs, from MIG off");

    let (mut all, mut driver, mut beside) = (Times::default(), Times::default(), Times::default());
    for round in 0..ROUNDS {
        let start = Instant::now();
        let report = node.apply(&four, &options).expect("nothing to do");
        let time = start.elapsed();
        assert_eq!(report.steps, 0);
        let session = Session::take(&folder);
        if round == 0 {
            session.print("the same again: nothing to do");
        }
        all.add(time);
        driver.add(session.time);
        beside.add(time.saturating_sub(session.time));
    }
    println!("    wall time           {all}");
    println!("    the driver's own    {driver}");
    println!("    beside the driver's {beside}");

    let plan = node.plan(&four).expect("nothing to do");
    Session::take(&folder);
    let source = Source::Plan(&plan);
    let go_on = |_: &_| ControlFlow::Continue(());
    node.apply_with(source, &options, go_on).expect("nothing to do");
    Session::take(&folder).print("a plan with nothing to do, whose digest is compared");

    let (mut all, mut driver) = (Times::default(), Times::default());
    for round in 0..ROUNDS / 10 {
        let there = layout("5", FIVE);
        all.time(|| node.apply(&there, &options)).expect("it fits");
        let session = Session::take(&folder);
        if round == 0 {
            session.print("one 2g.20gb of GPU 5 becomes two 1g.10gb");
        }
        driver.add(session.time);
        node.apply(&layout("5", FOUR), &options).expect("it fits");
        Session::take(&folder);
    }
    println!("    wall time           {all}");
    println!("    the driver's own    {driver}");
}
