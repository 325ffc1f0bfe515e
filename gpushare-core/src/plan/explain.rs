//! A plan for people: what stays, what goes, what comes, what it costs, what fits afterwards.

use std::fmt;

use crate::hazard::HazardName;
use crate::mode::Mode;
use crate::plan::step::Step;
use crate::plan::{GpuPlan, Plan, Request};
use crate::terminal::{count, printable};

/// What the caller has allowed already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// Evictions.
    pub(crate) evict: bool,
    /// Resets.
    pub(crate) reset: bool,
    /// Hazards.
    pub(crate) hazards: Vec<HazardName>,
}

/// A plan to a caller who has allowed something already.
pub(crate) struct Told<'a> {
    plan: &'a Plan,
    given: Given,
}

impl Plan {
    /// The same for a caller who has allowed that.
    #[cfg(feature = "cli")]
    pub(crate) fn told(&self, given: Given) -> Told<'_> {
        Told { plan: self, given }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Told { plan: self, given: Given::default() }.fmt(f)
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, given } = self;
        let mark = |given: bool| if given { " (given)" } else { "" };
        if plan.simulated {
            writeln!(f, "SIMULATED")?;
        }
        // They are locked in the order of uuids; people read them in the order of indices.
        let mut gpus: Vec<_> = plan.gpus.iter().collect();
        gpus.sort_by_key(|gpu| gpu.index);
        for gpu in gpus {
            gpu.fmt(f)?;
        }
        if plan.noop {
            return writeln!(f, "Nothing to do.");
        }
        let needs = &plan.needs;
        if !needs.is_empty() {
            writeln!(f, "Needs:")?;
        }
        // The grace of `mps disable` is its consent.
        let leaves_mps = matches!(plan.request, Request::Leave { mode: Mode::Mps, .. });
        let evict = if leaves_mps { "--grace S" } else { "--allow-evict" };
        for eviction in &needs.evict {
            // Who is protected or not seen is not ended, whatever was allowed.
            let possible = !eviction.holders.is_empty()
                && eviction.holders.iter().all(|holder| holder.protected.is_none());
            let mark = mark(given.evict && possible);
            let holders: Vec<_> = eviction.holders.iter().map(ToString::to_string).collect();
            let holders = if holders.is_empty() {
                String::new()
            } else {
                format!(": {}", holders.join(", "))
            };
            writeln!(f, "  {evict}{mark}  {}{holders}", printable(&eviction.what))?;
        }
        for gpu in &needs.reset {
            writeln!(f, "  --allow-reset{}  {gpu}", mark(given.reset))?;
        }
        for hazard in &needs.hazards {
            let safe = hazard.hazard.safe.join(", ");
            writeln!(
                f,
                "  --allow-hazard {}{}  {}; safe: {}",
                hazard.hazard.name,
                mark(given.hazards.contains(&hazard.hazard.name)),
                printable(&hazard.hazard.message),
                printable(&safe)
            )?;
        }
        writeln!(f, "Digest {}", printable(&plan.digest))
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
