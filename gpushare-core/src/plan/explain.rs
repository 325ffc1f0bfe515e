//! A plan for people: what stays, what goes, what comes, what it costs, what fits afterwards.

use std::fmt;

use crate::plan::step::Step;
use crate::plan::{GpuPlan, Plan};
use crate::terminal::{count, printable};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        // They are locked in the order of uuids; people read them in the order of indices.
        let mut gpus: Vec<_> = self.gpus.iter().collect();
        gpus.sort_by_key(|gpu| gpu.index);
        for gpu in gpus {
            gpu.fmt(f)?;
        }
        if self.noop {
            return writeln!(f, "Nothing to do.");
        }
        let needs = &self.needs;
        if !needs.is_empty() {
            writeln!(f, "Needs:")?;
        }
        for eviction in &needs.evict {
            let holders: Vec<_> = eviction.holders.iter().map(ToString::to_string).collect();
            let holders = if holders.is_empty() {
                String::new()
            } else {
                format!(": {}", holders.join(", "))
            };
            writeln!(f, "  --allow-evict  {}{holders}", printable(&eviction.what))?;
        }
        for gpu in &needs.reset {
            writeln!(f, "  --allow-reset  {gpu}")?;
        }
        for hazard in &needs.hazards {
            let safe = hazard.hazard.safe.join(", ");
            writeln!(
                f,
                "  --allow-hazard {}  {}; safe: {}",
                hazard.hazard.name,
                printable(&hazard.hazard.message),
                printable(&safe)
            )?;
        }
        writeln!(f, "Digest {}", printable(&self.digest))
    }
}

impl fmt::Display for GpuPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "GPU {index}  {}  {}: ", printable(&self.model), self.uuid)?,
            None => write!(f, "{}: ", self.uuid)?,
        }
        match (self.steps.is_empty(), self.from == self.to) {
            (true, _) => writeln!(f, "stays {}", self.from)?,
            (false, true) => writeln!(f, "{}", self.from)?,
            (false, false) => writeln!(f, "{} -> {}", self.from, self.to)?,
        }
        for kept in &self.keep {
            write!(f, "    keep     {:14} at {}", kept.profile, kept.placement)?;
            if !kept.uuids.is_empty() {
                let uuids: Vec<_> = kept.uuids.iter().map(|uuid| uuid.as_str()).collect();
                write!(f, "  {}", uuids.join(" "))?;
            }
            writeln!(f, "{}", if kept.busy { "  in use" } else { "" })?;
        }
        for step in &self.steps {
            let sign = match step {
                Step::DestroyComputeInstance(_)
                | Step::DestroyGpuInstance(_)
                | Step::StopMps { .. } => '-',
                Step::CreateComputeInstance(_)
                | Step::CreateGpuInstance(_)
                | Step::StartMps { .. } => '+',
                _ => '~',
            };
            let assumed = match step {
                Step::CreateComputeInstance(ci) if ci.assumed => {
                    "  (assumed; checked when its GPU instance exists)"
                }
                _ => "",
            };
            writeln!(f, "  {sign} {step}{assumed}")?;
        }
        if !self.steps.is_empty() {
            let number =
                |which: fn(&Step) -> bool| self.steps.iter().filter(|step| which(step)).count();
            let destroys = number(|step| {
                matches!(step, Step::DestroyComputeInstance(_) | Step::DestroyGpuInstance(_))
            });
            let creates = number(|step| {
                matches!(step, Step::CreateComputeInstance(_) | Step::CreateGpuInstance(_))
            });
            if destroys + creates > 0 {
                let (destroys, creates) = (count(destroys, "destroy"), count(creates, "create"));
                writeln!(f, "    costs    {destroys}, {creates}")?;
            }
        }
        if !self.fits_after.is_empty() {
            let fits: Vec<_> = self
                .fits_after
                .iter()
                .map(|fit| {
                    let starts: Vec<_> = fit.starts.iter().map(ToString::to_string).collect();
                    format!("{} at {}", fit.profile, starts.join("/"))
                })
                .collect();
            writeln!(f, "    then fits  {}", fits.join(", "))?;
        }
        for note in &self.notes {
            writeln!(f, "    note     {}", printable(note))?;
        }
        Ok(())
    }
}
