//! Real death: an applier that dies by SIGKILL at a call of the driver, before the call takes
//! effect or after, and the next process that recovers. And two appliers at once.
//!
//! The model check (reliability/src/transactions) lets a process die in memory at every call of every port.
//! Here a sample of it dies for real, and both must leave the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use gpushare_core::plan::state::GpuState;
use gpushare_tests::nvml_sim::{Node, library, text};
use serde_json::Value;

const SIGKILL: i32 = 9;

/// A transition of a node.
struct Transition {
    fleet: &'static str,
    from: String,
    to: String,
}

fn spec(select: &str, mode: &str, block: &str) -> String {
    let block = if block.is_empty() { String::new() } else { format!(r#", "{mode}": {block}"#) };
    format!(
        r#"{{"version": "gpushare/v1", "gpus": [{{"select": {select}, "mode": "{mode}"{block}}}]}}"#
    )
}

fn counts(instances: &str) -> String {
    spec(r#""all""#, "mig", &format!(r#"{{"instances": {{{instances}}}}}"#))
}

fn placed(instances: &str) -> String {
    spec(r#""all""#, "mig", &format!(r#"{{"instances": [{instances}]}}"#))
}

/// Layouts, compute instances, modes, and two GPUs at once. None of them needs a reset.
fn sample() -> Vec<Transition> {
    let (exclusive, time_sliced) =
        (spec(r#""all""#, "exclusive", ""), spec(r#""all""#, "time_sliced", r#"{"replicas": 3}"#));
    let both = r#"{"version": "gpushare/v1", "gpus": [
        {"select": 0, "mode": "mig", "mig": {"instances": {"1g": 2}}},
        {"select": 1, "mode": "exclusive"}]}"#;
    let at = |profile: &str, start: u8| format!(r#"{{"profile": "{profile}", "start": {start}}}"#);
    let h100 = [
        (counts(r#""2g.20gb": 1"#), counts(r#""1g.10gb": 2"#)),
        (counts(r#""1g.10gb": 2"#), counts(r#""2g.20gb": 1"#)),
        (counts(r#""3g.40gb": 1, "2g.20gb": 1"#), counts(r#""3g.40gb": 1, "1g.20gb": 1"#)),
        (counts(r#""7g.80gb": 1"#), counts(r#""3g.40gb": 2"#)),
        (counts(""), counts(r#""4g.40gb": 1"#)),
        (counts(r#""1g.10gb": 3"#), counts("")),
        (
            placed(&[at("1g.10gb", 0), at("1g.10gb", 5)].join(", ")),
            counts(r#""4g.40gb": 1, "1g.10gb": 1"#),
        ),
        (
            placed(r#"{"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"]}"#),
            placed(r#"{"profile": "3g.40gb", "start": 4}"#),
        ),
        (
            placed(r#"{"profile": "4g.40gb"}"#),
            placed(r#"{"profile": "4g.40gb", "compute": ["2c", "2c"]}"#),
        ),
        (exclusive.clone(), counts(r#""1g.10gb": 1"#)),
        (counts(r#""1g.10gb": 1"#), exclusive.clone()),
        (time_sliced.clone(), exclusive.clone()),
        (exclusive.clone(), time_sliced.clone()),
        (counts(r#""2g.20gb": 1"#), time_sliced.clone()),
    ];
    let mut all: Vec<_> =
        h100.into_iter().map(|(from, to)| Transition { fleet: "1xH100-80GB", from, to }).collect();
    all.push(Transition { fleet: "2xH100-80GB", from: time_sliced, to: both.to_owned() });
    all
}

/// A command of the applier on a node.
fn applier(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_applier"));
    node.tell(command.args(arguments))
        .env("GPUSHARE_NVML_PATH", library())
        .env("GPUSHARE_NVIDIA_SMI", "/nonexistent/nvidia-smi")
        .stdin(Stdio::piped());
    command
}

/// What the applier says; it must succeed.
fn run(node: &Node, arguments: &[&str]) -> String {
    let output = applier(node, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn states(document: &Value) -> Vec<GpuState> {
    serde_json::from_value(document.clone()).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Whether two nodes are in the same state.
fn same(a: &[GpuState], b: &[GpuState]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.matches(b))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
            std::fs::set_permissions(to, entry.metadata().unwrap().permissions()).unwrap();
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A node in the same state as another, files and all.
fn twin(of: &Node) -> Node {
    let node = Node::new(&of.fleet);
    copy(of.folder(), node.folder());
    node
}

/// What a death left, and what recovery made of it.
#[derive(Debug)]
struct Left {
    entries: Value,
    settled: Value,
    states: Vec<GpuState>,
}

fn recover(node: &Node) -> Left {
    let found = json(&run(node, &["recover"]));
    assert_eq!(found["journals"], json("[]"), "recovery left a journal");
    Left {
        entries: found["entries"].clone(),
        settled: found["settled"].clone(),
        states: states(&found["states"]),
    }
}

/// Lets the applier die at each change, for real and in memory. Returns how many deaths it took.
fn torment(transition: &Transition) -> usize {
    let Transition { fleet, from, to } = transition;
    let start = Node::new(fleet);
    run(&start, &["apply", from]);
    let old = states(&json(&run(&start, &["states"])));
    let done = twin(&start);
    // The calls that change something, as the ports count them.
    let calls: Vec<u32> = serde_json::from_str(&run(&done, &["calls", to])).unwrap();
    let new = states(&json(&run(&done, &["states"])));
    assert!(!same(&old, &new) && !calls.is_empty(), "{from} to {to} is no change");

    let mut deaths = 0;
    for (number, call) in calls.iter().enumerate() {
        for (sign, place) in [("-", "before"), ("+", "after")] {
            let what = format!("change {} of {from} to {to}, {place}", number + 1);
            let killed = twin(&start);
            let mut command = applier(&killed, &["apply", to]);
            let at = format!("{}{sign}", number + 1);
            let output = command.env("GPUSHARE_NVML_KILL_AT", at).output().unwrap();
            assert_eq!(output.status.signal(), Some(SIGKILL), "{what}: {}", text(&output));
            let real = recover(&killed);

            let stopped = twin(&start);
            run(&stopped, &["die", &call.to_string(), place, to]);
            let simulated = recover(&stopped);

            assert!(same(&real.states, &old) || same(&real.states, &new), "{what}: {real:#?}");
            assert_eq!(real.entries, simulated.entries, "{what}");
            assert_eq!(real.settled, simulated.settled, "{what}");
            assert!(same(&real.states, &simulated.states), "{what}: {real:#?} {simulated:#?}");
            // It died before its journal was settled, so there was something to recover.
            assert_eq!(real.settled.as_array().unwrap().len(), 1, "{what}");
            deaths += 1;
        }
    }
    deaths
}

#[test]
fn an_applier_that_is_killed_leaves_the_old_state_or_the_new_one() {
    let sample = sample();
    assert!(sample.len() >= 12);
    // Built before any clock of a thread's runs.
    let _ = library();
    // More threads than cores: a journal waits for the disk most of the time.
    let part = sample.len().div_ceil(4);
    let deaths: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = sample
            .chunks(part)
            .map(|part| scope.spawn(|| part.iter().map(torment).sum::<usize>()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum()
    });
    assert!(deaths > 80, "{deaths}");
}

/// Starts an applier and waits until it is ready.
fn ready(node: &Node, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = applier(node, arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, said)
}

/// Lets two appliers go at once. Returns what each said.
fn race(node: &Node, arguments: [[&str; 2]; 2]) -> [(bool, String); 2] {
    let mut children = arguments.map(|arguments| ready(node, &arguments));
    for (child, _) in &mut children {
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }
    children.map(|(mut child, mut said)| {
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        (child.wait().unwrap().success(), text)
    })
}

#[test]
fn of_two_appliers_at_once_one_wins_or_both_take_turns() {
    let node = Node::new("1xH100-80GB");
    let specs = [counts(r#""2g.20gb": 1, "1g.10gb": 2"#), counts(r#""3g.40gb": 2"#)];
    let ends = specs.each_ref().map(|spec| {
        run(&node, &["apply", spec]);
        states(&json(&run(&node, &["states"])))
    });
    let other = counts(r#""7g.80gb": 1"#);
    for round in 0..20 {
        run(&node, &["apply", &other]);
        // Each with a plan that it made beforehand, or each planning when its turn comes.
        let waits = round % 2 == 1;
        let how = if waits { "wait" } else { "planned" };
        let said = race(&node, specs.each_ref().map(|spec| [how, spec.as_str()]));
        let winners = said.iter().filter(|(won, _)| *won).count();
        for (_, text) in said.iter().filter(|(won, _)| !won) {
            let refused = text.starts_with("LOCKED ") || text.starts_with("STALE ");
            assert!(refused && text.contains("untouched"), "round {round}: {text}");
        }
        assert_eq!(winners, if waits { 2 } else { 1 }, "round {round}: {said:?}");
        let found = states(&json(&run(&node, &["states"])));
        let end = ends.iter().position(|end| same(end, &found));
        let end = end.unwrap_or_else(|| panic!("round {round}: a third layout: {found:#?}"));
        assert!(said[end].0, "round {round}: the loser's layout is there: {said:?}");
        assert_eq!(run(&node, &["recover"]).matches("\"settled\":[]").count(), 1);
    }
}
