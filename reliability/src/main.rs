//! Gathers evidence for what gpushare-core promises.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use gpushare_reliability::power;
use gpushare_reliability::transactions::{self, Budget};

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

fn say(text: &str) {
    // Who does not listen misses nothing but words: the exit status tells.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    match Arguments::parse().part {
        Part::Transactions { seed, one_in, of_each_pair } => transactions(
            seeded(seed),
            Budget { one_in: one_in.max(1), of_each_pair, ..Budget::WHOLE },
        ),
        Part::Power { seed, states, only, without, recoveries } => {
            let without = without.map(|without| match without {
                Syncs::Directories => power::Without::DirectorySyncs,
                Syncs::Files => power::Without::FileSyncs,
                Syncs::Each => power::Without::Each,
            });
            power(&power::Options { seed: seeded(seed), states, only, without, recoveries })
        }
        Part::PowerChild { root } => power::child(&root),
    }
}

/// The seed that was given, or one of now.
fn seeded(seed: Option<u64>) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    seed.unwrap_or_else(|| now.map_or(1, |now| now.as_secs()))
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
            ExitCode::FAILURE
        }
    }
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
