//! `doctor`: what stands in the way, and what mends it.

use crate::doctor;
use crate::error::Result;
use crate::node::Node;

use super::Answer;
use super::arguments::Select;
use super::output::Output;

/// `doctor`. The answer is no where there is something to mend.
pub(super) fn doctor(node: &Node, output: &Output, select: &Select) -> Result<Answer> {
    let (observed, machine) = node.examine();
    let diagnosis = match &observed {
        Ok(snapshot) if select.is_given() => {
            let only = select.to_change(snapshot)?;
            doctor::diagnose_gpus(snapshot, &machine, &only)
        }
        // Without a driver there is nothing to select among, and that is what is to be said.
        observed => doctor::diagnose(observed.as_ref(), &machine),
    };
    let diagnosis = diagnosis.of_simulated(node.is_simulated());
    output.show(&diagnosis)?;
    Ok(if diagnosis.needs_mending() { Answer::No } else { Answer::Yes })
}
