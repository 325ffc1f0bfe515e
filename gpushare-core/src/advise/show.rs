//! Advice for people: the recommended way with its spec, then for and against each.

use std::fmt;

use super::{Advice, Choice, Isolation, Kernels, Style, Workload};
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
        for option in &self.options {
            writeln!(f)?;
            option.fmt(f)?;
        }
        Ok(())
    }
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
        for figure in &self.figures {
            let what = printable(&figure.what);
            writeln!(
                f,
                "  =  {what}: {} ({})",
                printable(&figure.value),
                printable(&figure.machine)
            )?;
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
