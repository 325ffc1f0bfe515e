//! Beside others: processes that apply, lease, recover and cordon on one node, killed at random, while another agent
//! creates and destroys instances.
//!
//! Work goes in rounds of a few seconds. While one lasts, nobody gets what another has, and nobody loses what they
//! stand on without consent. After it one process recovers, and what is left is what somebody asked for.
//!
//! Of the three GPUs one is where appliers may evict, one is where the other agent works, and on the third nothing
//! may go wrong at all; the roles turn with the rounds.

mod crowd;
mod events;
mod mark;
mod other;
mod place;
mod verdict;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use gpushare_tests::nvml_sim;

use crate::dice::Dice;
use crowd::Crowd;
use other::Means;
use place::{GPUS, Place, Roles};
use worker::Ended;

/// How many work together, and for how long.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// For how long.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
    /// How many processes of gpushare's, beside the other agent's.
    #[arg(long, default_value_t = 6)]
    pub processes: usize,
    /// What each process does and who is killed follows from it; what meets what does not.
    #[arg(long)]
    pub seed: Option<u64>,
    /// A file for what all of them did.
    #[arg(long)]
    pub events: Option<PathBuf>,
    /// Takes a promise out of them, for who wants to see it missed: the lock of a GPU keeps nobody out.
    #[arg(long)]
    pub without_locks: bool,
}

/// How one of the processes is started: by [`run`], with the program's own name.
#[derive(Clone, Debug, Args)]
pub struct Work {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    consent: usize,
    #[arg(long)]
    other: usize,
    #[arg(long)]
    person: bool,
    #[arg(long)]
    without_locks: bool,
    /// It is the other agent, with this nvidia-smi, or without one: `-`.
    #[arg(long)]
    interfere: Option<PathBuf>,
    /// The folder of the library for nvidia-smi.
    #[arg(long)]
    library: Option<PathBuf>,
}

/// How a tenant is started, by one of the processes.
#[derive(Clone, Debug, Args)]
pub struct Hold {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    mark: PathBuf,
    #[arg(long)]
    from: String,
    #[arg(long)]
    gpu: usize,
    #[arg(long)]
    hold_ms: u64,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    rounds: usize,
    started: usize,
    killed: usize,
    killed_in_groups: usize,
    states: usize,
    lists: usize,
    came: usize,
    journals: usize,
    recovered: usize,
    decided: usize,
    judged: usize,
    nvidia_smi: bool,
    took: Duration,
    counts: BTreeMap<(String, String), usize>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", worker::shown(&self.counts))?;
        write!(
            f,
            "{} rounds in {:.0} s beside {}: {} processes, {} killed, {} of them with their children; {} states and {} lists of leases looked at, {} tenants of no lease; {} journals left at the ends of rounds, {} settled, {} left to a person; {} GPUs as somebody had asked",
            self.rounds,
            self.took.as_secs_f64(),
            if self.nvidia_smi { "nvidia-smi" } else { "a program on NVML's port" },
            self.started,
            self.killed,
            self.killed_in_groups,
            self.states,
            self.lists,
            self.came,
            self.journals,
            self.recovered,
            self.decided,
            self.judged,
        )
    }
}

/// Lets them work together.
///
/// # Errors
/// The first promise that is broken, with the last events of all processes.
pub fn run(options: &Options, seed: u64, say: &dyn Fn(&str)) -> Result<Figures, String> {
    let begun = Instant::now();
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let means = means(say);
    // Orphans are ours to wait for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut figures =
        Figures { nvidia_smi: matches!(means, Means::NvidiaSmi(..)), ..Figures::default() };
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let turn = figures.rounds % GPUS;
        let roles =
            Roles { consent: turn, other: (turn + 1) % GPUS, person: figures.rounds % 2 == 1 };
        let place = place::make(folder.path(), roles).map_err(|error| error.to_string())?;
        let dice = Dice::stream(seed, figures.rounds);
        let left = end.saturating_duration_since(Instant::now());
        let time = left.min(Duration::from_millis(3000));
        let mut crowd = Crowd::new(&place, &program, &means, options, dice, &mut figures);
        let result = crowd.round(time);
        let at_large = crowd.end_all();
        let result = result.and(at_large).and_then(|()| verdict::settle(&place, &mut figures));
        let events = events::all(&place.events());
        if let Some(file) = &options.events {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
            let text = events::last(&events, events.len());
            let kept =
                file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
            kept.map_err(|error| error.to_string())?;
        }
        if let Err(why) = result {
            let said = std::fs::read_to_string(folder.path().join("said")).unwrap_or_default();
            let kept = folder.keep();
            return Err(format!(
                "round {} of {} processes, {roles:?}: {why}\nseed {seed}; all of it is in {}\nthe last events:\n{}{said}",
                figures.rounds,
                options.processes,
                kept.display(),
                events::last(&events, 120),
            ));
        }
        events::count(&events, &mut figures.counts);
        figures.rounds += 1;
        for folder in [place.events(), place.marks()] {
            std::fs::remove_dir_all(folder).map_err(|error| error.to_string())?;
        }
        figures.took = begun.elapsed();
        if figures.rounds % 10 == 0 {
            say(&format!("{:>5} s: {} rounds", begun.elapsed().as_secs(), figures.rounds));
        }
    }
    figures.took = begun.elapsed();
    // A run in which everybody fails shows nothing.
    for what in ["apply", "lease", "recover", "other"] {
        if !figures.counts.contains_key(&(what.to_owned(), "OK".to_owned())) {
            return Err(format!("nothing was seen: {what} never came off\n{figures}"));
        }
    }
    Ok(figures)
}

/// The newest nvidia-smi that can be had here, over the simulator's library.
fn means(say: &dyn Fn(&str)) -> Means {
    let library = nvml_sim::library().parent().unwrap_or(Path::new("/")).to_owned();
    match gpushare_tests::nvidia::drivers() {
        Ok([.., (_, folder)]) => Means::NvidiaSmi(folder.join("nvidia-smi"), library),
        Ok([]) => Means::Port,
        Err(why) => {
            say(&format!("SKIPPED: nvidia-smi beside gpushare: {why}; a program of ours plays it"));
            Means::Port
        }
    }
}

fn ended(result: Result<(), Ended>) -> Result<(), String> {
    result.map_err(|ended| match ended {
        Ended::Violation(why) => why,
        Ended::Failed(error) => format!("{error:?}"),
    })
}

/// What one of the processes does.
///
/// # Errors
/// A promise that it saw broken.
pub fn work(work: &Work) -> Result<(), String> {
    let roles = Roles { consent: work.consent, other: work.other, person: work.person };
    let place = Place { folder: work.folder.clone(), roles };
    let result = match &work.interfere {
        None => worker::work(&place, work.seed, work.without_locks),
        Some(smi) if smi.as_os_str() == "-" => other::interfere(&place, &Means::Port, work.seed),
        Some(smi) => {
            let means = Means::NvidiaSmi(smi.clone(), work.library.clone().unwrap_or_default());
            other::interfere(&place, &means, work.seed)
        }
    };
    noted(&place, ended(result))
}

/// What a tenant does.
///
/// # Errors
/// A promise that it saw broken.
pub fn hold(hold: &Hold) -> Result<(), String> {
    let roles = Roles { consent: GPUS, other: GPUS, person: false };
    let place = Place { folder: hold.folder.clone(), roles };
    let time = Duration::from_millis(hold.hold_ms);
    noted(&place, ended(worker::hold(&place, &hold.mark, &hold.from, hold.gpu, time)))
}

fn noted(place: &Place, result: Result<(), String>) -> Result<(), String> {
    if let (Err(why), Ok(mut events)) = (&result, place.note()) {
        events.note(&format!("VIOLATION {why}"));
    }
    result
}
