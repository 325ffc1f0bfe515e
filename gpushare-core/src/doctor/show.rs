//! A diagnosis for people.

use std::fmt;

use super::{Diagnosis, Finding, Severity};
use crate::terminal::printable;

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if !self.unseen.is_empty() {
            writeln!(f, "Not looked at:")?;
            for unseen in &self.unseen {
                let what = printable(&unseen.what);
                writeln!(f, "  {what}; it takes: {}", printable(&unseen.needed))?;
            }
            writeln!(f)?;
        }
        let count = |severity: Severity| {
            let count = self.findings.iter().filter(|f| f.severity == severity).count();
            let s = if count == 1 { "" } else { "s" };
            format!("{count} {}{s}", severity.as_str())
        };
        let all = [Severity::Error, Severity::Warning, Severity::Notice].map(count).join(", ");
        let s = if self.checked.len() == 1 { "" } else { "s" };
        writeln!(f, "{all}; {} check{s} passed.", self.checked.len())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.severity.as_str(), printable(&self.id))?;
        match &self.gpu {
            Some(gpu) => writeln!(f, "  {gpu}")?,
            None => writeln!(f)?,
        }
        writeln!(f, "  {}", printable(&self.summary))?;
        for evidence in &self.evidence {
            writeln!(f, "    seen    {}", printable(evidence))?;
        }
        writeln!(f, "    mend    {}", printable(&self.mend))?;
        writeln!(f, "    source  {}", printable(&self.source))
    }
}
