//! MPS with NVIDIA's own control daemon: a command over its socket beside the same through NVIDIA's
//! program, eight threads at once, and how long a GPU takes into mode `mps` and out of it.
//!
//! The daemon is `GPUSHARE_MPS_CONTROL`, else that of the driver that is installed, else the newest
//! that the tests fetch. It runs in a directory of its own. On a machine with a GPU its first one is
//! used, with its compute mode unchanged; elsewhere the GPU is simulated.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gpushare_benches::Times;
use gpushare_core::apply::Source;
use gpushare_core::backend::files::FileStore;
use gpushare_core::backend::mps::{MpsControl, RealMps};
use gpushare_core::backend::sim::Simulator;
use gpushare_core::hazard::HazardName;
use gpushare_core::id::GpuUuid;
use gpushare_core::mode::Mode;
use gpushare_core::mps::{Command, MpsDomain, MpsSettings};
use gpushare_core::parameters::Access;
use gpushare_core::plan::Request;
use gpushare_core::port::MpsHost as _;
use gpushare_core::units::ThreadPercentage;
use gpushare_core::{ApplyOptions, Node, Spec};
use gpushare_tests::nvidia;

const PROGRAM: &str = "nvidia-cuda-mps-control";
const NATIVE: usize = 2_000;
const TOOL: usize = 200;
const ROUNDS: usize = 20;

fn main() {
    let Some(program) = program() else { return };
    println!("daemon: {}", program.display());
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::below(&folder.path().join("state")).expect("a store");
    let mps = RealMps::new(&store, Some(program.clone()));
    let node = node(folder.path(), &store, &program);
    let snapshot = node.snapshot().expect("a node");
    let gpu = snapshot.gpus.first().expect("a GPU");
    println!("GPU: {}{}", gpu.model, if snapshot.simulated { ", simulated" } else { "" });
    let domain: MpsDomain = gpu.uuid.clone().into();
    mps.start(&domain, &Access::Caller, &MpsSettings::UNLIMITED).expect("a daemon");
    let directory = mps.probe(&domain).expect("it answers").expect("a daemon").directory;
    commands(&directory, &program);
    threads(&directory);
    mps.stop(&domain).expect("it ends");
    modes(&node, &gpu.uuid);
    // As an agent does that looks often. To open a GPU that nobody holds open takes the driver longer
    // than all the rest.
    let held = node.observer().expect("a driver");
    println!("the same while the driver is held open");
    modes(&node, &gpu.uuid);
    drop(held);
}

/// The GPUs of this machine, or a simulated one.
fn node(folder: &Path, store: &FileStore, program: &Path) -> Node {
    let real = Node::builder().state_dir(folder.join("state")).mps_control(program).open();
    if let Ok(node) = real {
        if node.snapshot().is_ok_and(|snapshot| !snapshot.gpus.is_empty()) {
            return node;
        }
    }
    let simulator = Simulator::new("H200-141GB".parse().expect("a fleet")).expect("a node");
    let mut ports = simulator.ports(Arc::new(store.clone()));
    ports.mps = Arc::new(RealMps::new(store, Some(program.to_owned())));
    Node::with_ports(ports, true)
}

fn program() -> Option<PathBuf> {
    let given = std::env::var_os("GPUSHARE_MPS_CONTROL").map(PathBuf::from);
    let installed = Some(Path::new("/usr/bin").join(PROGRAM)).filter(|path| path.exists());
    if let Some(program) = given.or(installed) {
        return Some(program);
    }
    let fetched =
        nvidia::drivers().map(|drivers| drivers.last().map(|(_, folder)| folder.join(PROGRAM)));
    match fetched {
        Ok(program) => program,
        Err(why) => {
            println!("SKIPPED: no {PROGRAM} here: {why}");
            None
        }
    }
}

/// One command after the other, native and through the program in turns.
fn commands(directory: &Path, program: &Path) {
    let control = MpsControl::in_directory(directory).with_tool(program);
    let (native, tool) = (control.clone().native_only(), control.tool_only());
    let percentage = ThreadPercentage::new(50.0).expect("a percentage");
    for (what, command) in [
        ("get_default_active_thread_percentage", Command::DefaultThreadPercentage),
        ("get_server_list", Command::Servers),
        ("set_default_active_thread_percentage", Command::SetDefaultThreadPercentage(percentage)),
    ] {
        let (mut by_socket, mut by_tool) = (Times::default(), Times::default());
        for _ in 0..TOOL {
            for _ in 0..NATIVE / TOOL {
                by_socket.time(|| native.command(&command)).expect("an answer");
            }
            by_tool.time(|| tool.command(&command)).expect("an answer");
        }
        let ratio = by_tool.median().as_secs_f64() / by_socket.median().as_secs_f64();
        println!("{what}");
        println!("    over the socket       {by_socket}");
        println!("    through the program   {by_tool}");
        println!("    {ratio:.1} times");
    }
}

/// Eight threads at one daemon, which takes one session at a time.
fn threads(directory: &Path) {
    let control = MpsControl::in_directory(directory).native_only();
    let all: Vec<Times> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Times::default();
                    for _ in 0..200 {
                        let asked =
                            times.time(|| control.command(&Command::DefaultThreadPercentage));
                        asked.and_then(|reply| reply.percentage()).expect("an answer");
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let mut times = Times::default();
    all.into_iter().for_each(|one| times.append(one));
    println!("8 threads, 1,600 commands, every one answered");
    println!("    {times}");
}

/// A GPU into mode `mps`, limits read back, and out of it again.
fn modes(node: &Node, gpu: &GpuUuid) {
    let spec = format!(
        r#"{{"version": "gpushare/v1", "gpus": [{{"select": "{gpu}", "mode": "mps",
            "mps": {{"thread_percentage": 25, "compute_mode": "unchanged"}}}}]}}"#
    );
    let spec: Spec = spec.parse().expect("a spec");
    let options = ApplyOptions::new().allow_hazard(HazardName::BypassPossible);
    let leave = Request::Leave { mode: Mode::Mps, gpus: vec![gpu.clone()] };
    let (mut enable, mut again, mut disable) =
        (Times::default(), Times::default(), Times::default());
    for _ in 0..ROUNDS {
        enable.time(|| node.apply(&spec, &options)).expect("enabled");
        again.time(|| node.apply(&spec, &options)).expect("nothing to do");
        let go_on = |_: &_| ControlFlow::Continue(());
        let left = disable.time(|| node.apply_with(Source::Request(&leave), &options, go_on));
        left.expect("disabled");
    }
    println!("mode mps: journal, daemon, limits set and read back, directory opened, record");
    println!("    enable until verified {enable}");
    println!("    nothing to do         {again}");
    println!("    disable               {disable}");
}
