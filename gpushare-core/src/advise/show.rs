//! Advice for people: the recommended way with its spec, then for and against each.

use std::fmt;

use super::{Advice, Choice, Isolation, Kernels, Style, Workload};
use crate::plan::Needs;
use crate::terminal::printable;

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let es = if self.count.get() == 1 { "" } else { "es" };
        write!(f, "{} process{es}", self.count)?;
        if let Some(memory) = self.memory {
            write!(f, ", {memory} each")?;
        }
        match self.kernels {
            Kernels::Small => f.write_str(", small kernels")?,
            Kernels::Large => f.write_str(", large kernels")?,
            Kernels::Unknown => {}
        }
        f.write_str(match self.isolation {
            Isolation::None => ", no isolation",
            Isolation::Limits => ", enforced limits",
            Isolation::Strict => ", strict isolation",
        })?;
        f.write_str(match self.style {
            Style::Interactive => ", interactive",
            Style::Batch => ", batch",
            Style::Unknown => "",
        })
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        writeln!(f, "For {}:", self.workload)?;
        match self.best() {
            None => writeln!(f, "nothing fits on these GPUs.")?,
            Some(best) => {
                writeln!(f, "{}", best.way.as_str())?;
                if let Some(spec) = &best.spec {
                    writeln!(f)?;
                    for line in spec.to_string().lines() {
                        writeln!(f, "    {}", printable(line))?;
                    }
                }
            }
        }
        writeln!(f)?;
        self.table(f)?;
        for option in &self.options {
            writeln!(f)?;
            option.fmt(f)?;
        }
        Ok(())
    }
}

impl Advice {
    /// A line for each way.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:12}  {:4}  {:>4}  needs", "way", "fits", "GPUs")?;
        for option in &self.options {
            let fits = if option.fits { "yes" } else { "no" };
            let gpus = if option.fits { option.gpus.len().to_string() } else { "-".to_owned() };
            let needs = option.needs.as_ref().map_or_else(|| "-".to_owned(), consent);
            writeln!(f, "  {:12}  {fits:4}  {gpus:>4}  {needs}", option.way.as_str())?;
        }
        Ok(())
    }
}

/// What apply must be allowed to do, as options.
fn consent(needs: &Needs) -> String {
    let mut options = Vec::new();
    if !needs.evict.is_empty() {
        options.push("--allow-evict".to_owned());
    }
    if !needs.reset.is_empty() {
        options.push("--allow-reset".to_owned());
    }
    for hazard in &needs.hazards {
        let option = format!("--allow-hazard {}", hazard.hazard.name);
        if !options.contains(&option) {
            options.push(option);
        }
    }
    if options.is_empty() { "nothing".to_owned() } else { options.join(" ") }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why_not {
            None => writeln!(f, "{}  fits", self.way.as_str())?,
            Some(why) => writeln!(f, "{}  does not fit: {}", self.way.as_str(), printable(why))?,
        }
        for reason in &self.reasons {
            writeln!(f, "  +  {}", printable(reason))?;
        }
        for lack in &self.lacks {
            writeln!(f, "  -  {}", printable(lack))?;
        }
        let mut machine = None;
        for figure in self.figures.iter().filter(|_| self.fits) {
            if machine != Some(&figure.machine) {
                machine = Some(&figure.machine);
                writeln!(f, "  {}:", printable(&figure.machine))?;
            }
            writeln!(f, "  =  {}: {}", printable(&figure.what), printable(&figure.value))?;
        }
        let Some(needs) = self.needs.as_ref().filter(|needs| !needs.is_empty()) else {
            return Ok(());
        };
        for eviction in &needs.evict {
            let holders: Vec<_> = eviction.holders.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "  !  needs --allow-evict: {} {}",
                printable(&eviction.what),
                holders.join(", ")
            )?;
        }
        for gpu in &needs.reset {
            writeln!(f, "  !  needs --allow-reset: {gpu}")?;
        }
        let mut names = Vec::new();
        for hazard in &needs.hazards {
            if !names.contains(&hazard.hazard.name) {
                names.push(hazard.hazard.name);
                writeln!(
                    f,
                    "  !  needs --allow-hazard {}: {}",
                    hazard.hazard.name,
                    printable(&hazard.hazard.message)
                )?;
            }
        }
        Ok(())
    }
}
