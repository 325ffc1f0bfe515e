//! Instances that are alike: which of them stands where.

use crate::mig::solve::{PlacedInstance, Solution, WantedInstance};
use crate::plan::layout::Planner;
use crate::snapshot::MigStatus;
use crate::spec::{Instance, Sharing};

impl Planner<'_> {
    /// Instances that are alike in the layout may change places: each gets the place where what it is
    /// to have beside, an MPS daemon and a name, is already.
    pub(super) fn settle_in(
        &self,
        mig: &MigStatus,
        wanted: &[WantedInstance],
        instances: &[Instance],
        solution: &mut Solution,
    ) {
        let gpu = self.gpu;
        let record = gpu.current_record(&self.snapshot.epoch);
        let trouble = |instance: &Instance, placed: &PlacedInstance| -> u32 {
            let records = record.into_iter().flat_map(|record| &record.instances);
            let named = records.into_iter().find(|record| record.placement == placed.placement);
            let renamed = named.and_then(|record| record.name.as_ref()) != instance.name.as_ref();
            let there = placed.keeps.and_then(|position| mig.gpu_instances.get(position));
            let there = there.into_iter().flat_map(|gi| &gi.compute_instances);
            let served = there.filter_map(|ci| {
                let device = gpu.mig_device_of(ci)?;
                device.mps.as_ref().filter(|mps| mps.ours && mps.alive)?.config.as_ref()
            });
            let served = served.map(|config| &config.access).next();
            let wanted = match &instance.sharing {
                Some(Sharing::Mps(config)) => Some(&config.access),
                _ => None,
            };
            u32::from(renamed) + 2 * u32::from(served != wanted)
        };
        let count = instances.len().min(solution.instances.len());
        let mut changed = true;
        while changed {
            changed = false;
            for a in 0..count {
                for b in a + 1..count {
                    let (Some(one), Some(other)) = (instances.get(a), instances.get(b)) else {
                        continue;
                    };
                    if wanted.get(a) != wanted.get(b) {
                        continue;
                    }
                    let (Some(here), Some(there)) =
                        (solution.instances.get(a), solution.instances.get(b))
                    else {
                        continue;
                    };
                    // It gets less with every exchange, so this ends.
                    if trouble(one, there) + trouble(other, here)
                        < trouble(one, here) + trouble(other, there)
                    {
                        solution.instances.swap(a, b);
                        changed = true;
                    }
                }
            }
        }
    }
}
