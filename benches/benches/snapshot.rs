//! Looking at the GPUs of this machine, or of the node that the environment names: with the driver
//! open, with the driver opened and closed each time, while this process has it open already and
//! without that, and by nvidia-smi where it is found.
//!
//! It needs nothing but itself at run time: build it with `cargo build --release -p
//! gpushare-benches --bench snapshot` and copy `target/release/deps/snapshot-*` to a machine with
//! GPUs. It changes nothing.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::process::{Command, ExitCode, Stdio};

use gpushare_benches::Times;
use gpushare_core::observe::Scope;
use gpushare_core::{ErrorCode, Node, Result};

const ROUNDS: usize = 200;
/// nvidia-smi takes long: it runs once in so many rounds.
const SELDOM: usize = 10;

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        // Without a driver there is nothing to measure, which is no failure of all benchmarks.
        Err(error) if error.code() == ErrorCode::NotFound => {
            println!("not measured: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let node = Node::open()?;
    let first = node.snapshot()?;
    println!(
        "{} GPUs, driver {}{}",
        first.gpus.len(),
        first.driver.version,
        if node.is_simulated() { ", simulated" } else { "" }
    );
    for gpu in &first.gpus {
        println!("    {}: {} ({})", gpu.model, gpu.mode, gpu.reason);
    }
    let mut closed = Times::default();
    for _ in 0..ROUNDS {
        closed.time(|| node.snapshot())?;
    }
    let mut observer = node.observer()?;
    let (mut warm, mut cold) = (Times::default(), Times::default());
    let (mut list, mut query) = (Times::default(), Times::default());
    for round in 0..ROUNDS {
        warm.time(|| observer.snapshot(&Scope::all()))?;
        cold.time(|| node.snapshot())?;
        if round % SELDOM == 0 {
            smi(&mut list, "-L");
            smi(&mut query, "-q");
        }
    }
    println!("snapshot, driver open       {warm}");
    println!("open, snapshot, close       {cold}");
    println!("the same, driver closed     {closed}");
    println!("nvidia-smi -L, a process    {list}");
    println!("nvidia-smi -q, a process    {query}");
    Ok(())
}

/// Runs nvidia-smi where there is one, and takes its time if it succeeds.
fn smi(times: &mut Times, argument: &str) {
    let program = std::env::var_os("GPUSHARE_NVIDIA_SMI").unwrap_or_else(|| "nvidia-smi".into());
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = std::time::Instant::now();
    if command.status().is_ok_and(|status| status.success()) {
        times.add(start.elapsed());
    }
}
