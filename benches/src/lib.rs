//! What the benchmarks share: a GPU and all layouts that it can have.
//!
//! `cargo bench -p gpushare-benches` runs them all, on one core each.

mod times;

pub use times::Times;

use gpushare_core::Result;
use gpushare_core::id::{ProfileId, ProfileIndex};
use gpushare_core::mig::geometry::Engines;
use gpushare_core::mig::solve::{CurrentCompute, CurrentInstance, WantedInstance};
use gpushare_core::mig::{Geometry, Placement, Profile};
use gpushare_core::units::Bytes;

/// Name, index, id, slices, maximum, MiB, size and starts of the placements.
type Row = (&'static str, u32, u32, u8, u8, u64, u8, &'static [u8]);

/// The 7-slice family without `+me`, with the numbers of an H100 of 80 GB, as `nvidia-smi mig -lgip`
/// and `-lgipp` print them: 18 placements, 723 layouts, 78 multisets of profiles.
///
/// # Errors
/// None that this table can cause.
pub fn seven_slices() -> Result<Geometry> {
    let rows: [Row; 6] = [
        ("1g.10gb", 0, 19, 1, 7, 9_984, 1, &[0, 1, 2, 3, 4, 5, 6]),
        ("1g.20gb", 9, 15, 1, 4, 20_096, 2, &[0, 2, 4, 6]),
        ("2g.20gb", 1, 14, 2, 3, 20_096, 2, &[0, 2, 4]),
        ("3g.40gb", 2, 9, 3, 2, 40_448, 4, &[0, 4]),
        ("4g.40gb", 3, 5, 4, 1, 40_448, 4, &[0]),
        ("7g.80gb", 4, 0, 7, 1, 81_152, 8, &[0]),
    ];
    let profile = |(name, index, id, slices, max_instances, mebibytes, size, starts): Row| {
        let engines = Engines { decoders: slices, encoders: 0, jpeg: slices, optical_flow: 0 };
        Ok(Profile {
            name: name.parse()?,
            index: ProfileIndex::new(index),
            id: ProfileId::new(id),
            slices,
            max_instances,
            memory: Bytes::from_mebibytes(mebibytes),
            sm_count: 0,
            engines,
            placements: starts.iter().map(|&start| Placement::new(start, size)).collect(),
        })
    };
    Geometry::new(rows.into_iter().map(profile).collect::<Result<_>>()?)
}

/// All layouts of a GPU whose slots alone decide, the empty one first, each GPU instance with one
/// full compute instance.
pub fn layouts(geometry: &Geometry) -> Vec<Vec<CurrentInstance>> {
    let profiles = geometry.profiles().iter().enumerate();
    let instances: Vec<_> = profiles
        .flat_map(|(profile, of)| {
            of.placements.iter().map(move |&placement| CurrentInstance {
                profile,
                placement,
                busy: false,
                compute: vec![CurrentCompute { slices: of.slices, start: 0, busy: false }],
            })
        })
        .collect();
    let mut layouts = vec![(Vec::new(), 0)];
    for instance in &instances {
        let mask = instance.placement.mask();
        let apart = layouts.iter().filter(|(_, taken)| taken & mask == 0);
        let with = apart.map(|(layout, taken)| {
            let mut layout: Vec<CurrentInstance> = layout.clone();
            layout.push(instance.clone());
            (layout, taken | mask)
        });
        let with: Vec<_> = with.collect();
        layouts.extend(with);
    }
    layouts.into_iter().map(|(layout, _)| layout).collect()
}

/// What asks for a layout's profiles, wherever they stand.
pub fn wanted(layout: &[CurrentInstance]) -> Vec<WantedInstance> {
    let mut wanted: Vec<_> = layout
        .iter()
        .map(|instance| WantedInstance { profile: instance.profile, start: None, compute: None })
        .collect();
    wanted.sort();
    wanted
}

/// The multisets of profiles that some layout has.
pub fn multisets(layouts: &[Vec<CurrentInstance>]) -> Vec<Vec<WantedInstance>> {
    let mut multisets: Vec<_> = layouts.iter().map(|layout| wanted(layout)).collect();
    multisets.sort();
    multisets.dedup();
    multisets
}
