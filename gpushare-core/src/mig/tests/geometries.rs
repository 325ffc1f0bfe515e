//! What some GPUs report, as `nvidia-smi mig -lgip` and `-lgipp` print it.

use crate::id::{ProfileId, ProfileIndex};
use crate::mig::geometry::{Engines, Geometry, Placement, Profile};
use crate::units::Bytes;

/// Name, index, id, slices, maximum, MiB, engines (decoders, encoders, JPEG, optical flow),
/// size and starts of the placements.
type Row = (&'static str, u32, u32, u8, u8, u64, [u8; 4], u8, &'static [u8]);

const H100: [Row; 7] = [
    ("1g.10gb", 0, 19, 1, 7, 9_984, [1, 0, 1, 0], 1, &[0, 1, 2, 3, 4, 5, 6]),
    ("1g.10gb+me", 7, 20, 1, 1, 9_984, [1, 0, 1, 1], 1, &[0, 1, 2, 3, 4, 5, 6]),
    ("1g.20gb", 9, 15, 1, 4, 20_096, [1, 0, 1, 0], 2, &[0, 2, 4, 6]),
    ("2g.20gb", 1, 14, 2, 3, 20_096, [2, 0, 2, 0], 2, &[0, 2, 4]),
    ("3g.40gb", 2, 9, 3, 2, 40_448, [3, 0, 3, 0], 4, &[0, 4]),
    ("4g.40gb", 3, 5, 4, 1, 40_448, [4, 0, 4, 0], 4, &[0]),
    ("7g.80gb", 4, 0, 7, 1, 81_152, [7, 0, 7, 1], 8, &[0]),
];

const A100: [Row; 7] = [
    ("1g.10gb", 0, 19, 1, 7, 9_728, [0, 0, 0, 0], 1, &[0, 1, 2, 3, 4, 5, 6]),
    ("1g.10gb+me", 7, 20, 1, 1, 9_728, [1, 0, 1, 1], 1, &[0, 1, 2, 3, 4, 5, 6]),
    ("1g.20gb", 9, 15, 1, 4, 19_968, [1, 0, 0, 0], 2, &[0, 2, 4, 6]),
    ("2g.20gb", 1, 14, 2, 3, 19_968, [1, 0, 0, 0], 2, &[0, 2, 4]),
    ("3g.40gb", 2, 9, 3, 2, 40_192, [2, 0, 0, 0], 4, &[0, 4]),
    ("4g.40gb", 3, 5, 4, 1, 40_192, [2, 0, 0, 0], 4, &[0]),
    ("7g.80gb", 4, 0, 7, 1, 80_640, [5, 0, 1, 1], 8, &[0]),
];

const A30: [Row; 5] = [
    ("1g.6gb", 0, 14, 1, 4, 5_952, [1, 0, 0, 0], 1, &[0, 1, 2, 3]),
    ("1g.6gb+me", 7, 21, 1, 1, 5_952, [1, 0, 1, 1], 1, &[0, 1, 2, 3]),
    ("2g.12gb", 1, 5, 2, 2, 11_968, [2, 0, 0, 0], 2, &[0, 2]),
    ("2g.12gb+me", 8, 6, 2, 1, 11_968, [2, 0, 1, 1], 2, &[0, 2]),
    ("4g.24gb", 3, 0, 4, 1, 24_000, [4, 0, 1, 1], 4, &[0]),
];

const RTX_PRO_6000: [Row; 11] = [
    ("1g.24gb", 0, 14, 1, 4, 24_192, [1, 1, 1, 0], 3, &[0, 3, 6, 9]),
    ("1g.24gb+me", 7, 21, 1, 1, 24_192, [1, 1, 1, 1], 3, &[0, 3, 6, 9]),
    ("1g.24gb+gfx", 10, 47, 1, 4, 24_192, [1, 1, 1, 0], 3, &[0, 3, 6, 9]),
    ("1g.24gb+me.all", 15, 65, 1, 1, 24_192, [4, 4, 4, 1], 3, &[0, 3, 6, 9]),
    ("1g.24gb-me", 13, 67, 1, 4, 24_192, [0, 0, 0, 0], 3, &[0, 3, 6, 9]),
    ("2g.48gb", 1, 5, 2, 2, 48_512, [2, 2, 2, 0], 6, &[0, 6]),
    ("2g.48gb+gfx", 11, 35, 2, 2, 48_512, [2, 2, 2, 0], 6, &[0, 6]),
    ("2g.48gb+me.all", 16, 64, 2, 1, 48_512, [4, 4, 4, 1], 6, &[0, 6]),
    ("2g.48gb-me", 14, 66, 2, 2, 48_512, [0, 0, 0, 0], 6, &[0, 6]),
    ("4g.96gb", 3, 0, 4, 1, 97_408, [4, 4, 4, 1], 12, &[0]),
    ("4g.96gb+gfx", 12, 32, 4, 1, 97_408, [4, 4, 4, 1], 12, &[0]),
];

fn geometry(rows: &[Row], without: &[u32]) -> Geometry {
    let rows = rows.iter().filter(|row| !without.contains(&row.2));
    let profile =
        |&(name, index, id, slices, max_instances, mebibytes, engines, size, starts): &Row| {
            let [decoders, encoders, jpeg, optical_flow] = engines;
            Profile {
                name: name.parse().unwrap(),
                index: ProfileIndex::new(index),
                id: ProfileId::new(id),
                slices,
                max_instances,
                memory: Bytes::from_mebibytes(mebibytes),
                sm_count: 0,
                engines: Engines { decoders, encoders, jpeg, optical_flow },
                placements: starts.iter().map(|&start| Placement::new(start, size)).collect(),
            }
        };
    Geometry::new(rows.map(profile).collect()).unwrap()
}

/// An H100 of 80 GB without `+me`: the 7-slice family of 18 placements.
pub(super) fn h100() -> Geometry {
    geometry(&H100, &[20])
}

/// An H100 of 80 GB with `+me`.
pub(super) fn h100_with_media() -> Geometry {
    geometry(&H100, &[])
}

/// The same without the one-slice profile of double memory, as an A100 of 40 GB with an early driver.
pub(super) fn h100_classic() -> Geometry {
    geometry(&H100, &[20, 15])
}

/// An A100 of 80 GB: the same placements, other engines.
pub(super) fn a100() -> Geometry {
    geometry(&A100, &[])
}

/// An A30 without `+me`.
pub(super) fn a30() -> Geometry {
    geometry(&A30, &[21, 6])
}

/// An A30 with `+me`.
pub(super) fn a30_with_media() -> Geometry {
    geometry(&A30, &[])
}

/// An RTX PRO 6000 Blackwell: twelve slots, eleven profiles.
pub(super) fn rtx_pro_6000() -> Geometry {
    geometry(&RTX_PRO_6000, &[])
}

/// No GPU that exists: an H100 with lower maxima, which on real GPUs follow from slots and engines.
pub(super) fn scarce() -> Geometry {
    let mut rows = H100;
    for (row, max_instances) in rows.iter_mut().zip([3, 1, 2, 1, 1, 1, 1]) {
        row.4 = max_instances;
    }
    geometry(&rows, &[])
}
