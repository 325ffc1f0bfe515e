//! Gathers evidence for what gpushare-core promises.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
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
}

fn say(text: &str) {
    // Who does not listen misses nothing but words: the exit status tells.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    match Arguments::parse().part {
        Part::Transactions { seed, one_in, of_each_pair } => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let seed = seed.unwrap_or_else(|| now.map_or(1, |now| now.as_secs()));
            transactions(seed, Budget { one_in: one_in.max(1), of_each_pair, ..Budget::WHOLE })
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
