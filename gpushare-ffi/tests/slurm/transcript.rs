//! The transcript in the README of the example is what really comes out.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, FLEET, host};
use crate::common::crate_dir;

const BEGIN: &str = "```console\n";
const END: &str = "```\n";

/// What is different each time.
fn masked(text: &str) -> String {
    let words = text.replace(&host(), "node1");
    let mut out = String::new();
    for line in words.lines() {
        let line = match line.split_once("GPUSHARE_LEASE=") {
            Some((before, _)) => format!("{before}GPUSHARE_LEASE=3a6216-33e1-0"),
            None => line.to_owned(),
        };
        let mut after_pid = false;
        let line: Vec<String> = line
            .split(' ')
            .map(|word| {
                let number = word.trim_end_matches(|c: char| !c.is_ascii_digit());
                let pid =
                    after_pid && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
                after_pid = word == "pid";
                if pid { word.replacen(number, "4242", 1) } else { word.to_owned() }
            })
            .collect();
        out.push_str(&line.join(" "));
        out.push('\n');
    }
    out
}

fn shell(cluster: &Cluster, line: &str) -> String {
    let srun = cluster.slurm("srun");
    let bin = Path::new(srun.get_program()).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec 2>&1; {line}")).current_dir(cluster.path("work"));
    for (name, value) in srun.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("PATH", format!("{bin}:{}:{path}", cluster.path("").display()));
    command.env("GPUSHARE_SIM", FLEET).env("GPUSHARE_STATE_DIR", cluster.path("gpushare"));
    let output = command.output().unwrap();
    cluster.until_free();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    // What makes the node a simulated one is not the lease's; whether the job before is quite over when
    // the next one comes is a matter of luck; and a Slurm that is not root's sets up no node.
    let others =
        ["GPUSHARE_SIM=", "GPUSHARE_STATE_DIR=", "srun: job ", "gpushare: this node is not set"];
    let ours = |line: &&str| !others.iter().any(|other| line.starts_with(other));
    let mut lines: Vec<&str> = shown.lines().filter(ours).collect();
    // A task's own words and srun's about its end come on two ways.
    lines.sort_by_key(|line| line.starts_with("srun: error: "));
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// `GPUSHARE_BLESS=1` writes it anew.
#[test]
fn the_readme_shows_what_comes_out() {
    let Some(cluster) = Cluster::start("the transcript in the README of the plugin") else {
        return;
    };
    let readme = crate_dir().join("examples/slurm/README.md");
    let committed = std::fs::read_to_string(&readme).unwrap();
    let (head, rest) = committed.split_once(BEGIN).unwrap();
    let (block, tail) = rest.split_once(END).unwrap();
    std::fs::create_dir(cluster.path("work")).unwrap();
    std::fs::copy(cluster.path("spec.yaml"), cluster.path("work/spec.yaml")).unwrap();
    cluster.plugstack("required", "timeout=1");
    let mut now = String::new();
    for line in block.lines().filter(|line| line.starts_with("$ ")) {
        now.push_str(&format!("{line}\n{}", masked(&shell(&cluster, &line[2..]))));
    }
    if std::env::var_os("GPUSHARE_BLESS").is_some() {
        std::fs::write(&readme, format!("{head}{BEGIN}{now}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(now, block, "GPUSHARE_BLESS=1 writes the transcript in {readme:?} anew");
}
