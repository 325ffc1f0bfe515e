//! Gathers evidence for what gpushare-core promises.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use gpushare_core::Node;
use gpushare_reliability::power;
use gpushare_reliability::transactions::{self, Budget};
use gpushare_reliability::{soak, together};
use gpushare_tests::nvml_sim;

/// Gathers evidence for what gpushare promises: RELIABILITY.md says which.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Lets every call of every transition of simulated GPUs fail, hang, and be the last, and looks what is left.
    Transactions {
        /// What is sampled, and in which order, follows from it.
        #[arg(long)]
        seed: Option<u64>,
        /// Of what is walked through, one run in so many.
        #[arg(long, default_value_t = Budget::WHOLE.one_in)]
        one_in: usize,
        /// Runs of each pair of layouts of the seven-slice family.
        #[arg(long, default_value_t = Budget::WHOLE.of_each_pair)]
        of_each_pair: usize,
    },
    /// Lets the power fail after every call that a change makes: what was not synced is lost.
    Power {
        /// What is sampled follows from it.
        #[arg(long)]
        seed: Option<u64>,
        /// The most states for one moment; of more, a sample.
        #[arg(long, default_value_t = 2000)]
        states: usize,
        /// Only that scenario.
        #[arg(long)]
        only: Option<String>,
        /// As if nobody synced these: it must be found.
        #[arg(long)]
        without: Option<Syncs>,
        /// Of the changes of hardware one in so many is the last one, and the power fails while that is recovered
        /// from; 0 is none.
        #[arg(long, default_value_t = 1)]
        recoveries: usize,
    },
    /// What `power` follows.
    #[command(hide = true)]
    PowerChild { root: PathBuf },
    /// Lets processes work on one node at once, kills them at random, and looks that none hurts another.
    Together(together::Options),
    #[command(hide = true)]
    TogetherWork(together::Work),
    #[command(hide = true)]
    TogetherTenant(together::Hold),
    /// Goes on for thousands of transitions in one process, and looks that it keeps nothing open.
    Soak {
        /// What is done follows from it.
        #[arg(long)]
        seed: Option<u64>,
        /// Transitions through NVIDIA's C ABI, as the simulator has it.
        #[arg(long, default_value_t = 10_000)]
        transitions: usize,
        /// Transitions of a node in memory: ten times what a day has, at one each ten seconds.
        #[arg(long, default_value_t = 86_400)]
        in_memory: usize,
        /// This process is the one that is measured, and notes the library's calls there.
        #[arg(long, hide = true)]
        calls: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Syncs {
    /// All those of directories.
    Directories,
    /// All those of files.
    Files,
    /// One after the other, each alone: how many are missed is counted.
    Each,
}

/// The exit status where nothing could be looked at.
const UNSEEN: u8 = 2;

fn say(text: &str) {
    // Who does not listen misses nothing but words: the exit status tells.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    match Arguments::parse().part {
        Part::Transactions { seed, one_in, of_each_pair } => transactions(
            seed.unwrap_or_else(any_seed),
            Budget { one_in: one_in.max(1), of_each_pair, ..Budget::WHOLE },
        ),
        Part::Power { seed, states, only, without, recoveries } => {
            let without = without.map(|without| match without {
                Syncs::Directories => power::Without::DirectorySyncs,
                Syncs::Files => power::Without::FileSyncs,
                Syncs::Each => power::Without::Each,
            });
            power(&power::Options {
                seed: seed.unwrap_or_else(any_seed),
                states,
                only,
                without,
                recoveries,
            })
        }
        Part::PowerChild { root } => power::child(&root),
        Part::Together(options) => verdict(beside_others(options)),
        Part::TogetherWork(work) => verdict(together::work(&work)),
        Part::TogetherTenant(hold) => verdict(together::hold(&hold)),
        Part::Soak { seed, transitions, in_memory, calls } => {
            let seed = seed.unwrap_or_else(any_seed);
            if transitions == 0 && in_memory == 0 {
                say("nothing was looked at");
                return ExitCode::from(UNSEEN);
            }
            verdict(match calls {
                Some(calls) => soaked(transitions, seed, &calls),
                None => soak(transitions, in_memory, seed),
            })
        }
    }
}

fn verdict(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(broken) => {
            say(&format!("VIOLATION: {broken}"));
            ExitCode::FAILURE
        }
    }
}

fn beside_others(options: together::Options) -> Result<(), String> {
    let seed = options.seed.unwrap_or_else(any_seed);
    say(&format!("seed {seed}"));
    let figures = together::run(&options, seed, &say)?;
    say(&format!("{figures}\n0 violations"));
    Ok(())
}

/// Both soaks: the first in a process of its own, whose environment names the node to the library.
fn soak(transitions: usize, in_memory: usize, seed: u64) -> Result<(), String> {
    say(&format!("seed {seed}"));
    if transitions > 0 {
        let node = nvml_sim::Node::new(soak::FLEET);
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let calls = node.folder().join("calls");
        let mut command = Command::new(program);
        command.args(["soak", "--seed", &seed.to_string()]);
        command.args(["--transitions", &transitions.to_string()]);
        command.arg("--calls").arg(&calls);
        node.tell(&mut command)
            .env("GPUSHARE_NVML_PATH", nvml_sim::library())
            .env("GPUSHARE_NVIDIA_SMI", "/nonexistent/nvidia-smi")
            .env("GPUSHARE_NVML_CALLS", &calls);
        let status = command.status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the process over the library ended with {status}"));
        }
    }
    if in_memory > 0 {
        let node = Node::builder().ignore_environment(true).sim(soak::FLEET).open();
        let node = node.map_err(|error| format!("{error:?}"))?;
        let figures = soak::run(&node, soak::Budget::of(in_memory), seed, None, &mut |_| {})?;
        say(&format!("in memory: {figures}"));
    }
    say("0 violations");
    Ok(())
}

fn soaked(transitions: usize, seed: u64, calls: &Path) -> Result<(), String> {
    let node = Node::open().map_err(|error| format!("{error:?}"))?;
    let figures = soak::run(&node, soak::Budget::of(transitions), seed, Some(calls), &mut |_| {})?;
    say(&format!("over the library: {figures}"));
    Ok(())
}

fn power(options: &power::Options) -> ExitCode {
    let start = Instant::now();
    say(&format!("seed {}", options.seed));
    let done = match std::env::current_exe() {
        Ok(program) => power::check(&program, options),
        Err(error) => Err(power::Stopped::Failed(error.to_string())),
    };
    match done {
        Ok(figures) => {
            say(&format!("{figures}\n0 violations, {:.1} s", start.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(stopped) => {
            say(&stopped.to_string());
            match stopped {
                power::Stopped::Broken(_) => ExitCode::FAILURE,
                _ => ExitCode::from(UNSEEN),
            }
        }
    }
}

fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs())
}

fn transactions(seed: u64, budget: Budget) -> ExitCode {
    let start = Instant::now();
    say(&format!("seed {seed}"));
    let told = Mutex::new(start);
    let progress = |figures: &transactions::Figures| {
        if let Ok(mut told) = told.lock() {
            if told.elapsed() > Duration::from_secs(10) {
                *told = Instant::now();
                say(&format!("{:>5} s: {figures}", start.elapsed().as_secs()));
            }
        }
    };
    match transactions::check(seed, budget, &progress) {
        Ok(figures) if figures.faulted == 0 => {
            say(&format!("{figures}\nnothing was looked at"));
            ExitCode::from(UNSEEN)
        }
        Ok(figures) => {
            say(&format!("{figures}\n0 violations, {:.0} s", start.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(broken) => {
            say(&format!("VIOLATION: {broken}"));
            ExitCode::FAILURE
        }
    }
}
