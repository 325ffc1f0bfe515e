//! The cards that the simulator knows, as a table.
//!
//! Where each value comes from, and which of them are hypotheses, is in RULES.md. The table serves
//! the simulator and tests alone: on hardware the driver is asked.

use crate::id::{PciDeviceId, ProfileId, ProfileIndex};
use crate::mig::geometry::Engines;
use crate::mig::{Attribute, Placement, Profile, ProfileName};
use crate::units::Bytes;

/// A card.
#[derive(Debug)]
#[non_exhaustive]
pub struct Product {
    /// Its name in a fleet: `H100-80GB`.
    pub name: &'static str,
    /// Other names that a fleet may use for it.
    pub aliases: &'static [&'static str],
    /// What NVML calls it.
    pub nvml_name: &'static str,
    /// Its memory in all.
    pub memory: Bytes,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Its streaming multiprocessors.
    pub sm_count: u32,
    /// Its PCI device id, with NVIDIA's vendor id.
    pub device_id: PciDeviceId,
    /// Its PCI subsystem id.
    pub subsystem_id: u32,
    /// Slots of its MIG axis; none where it has no MIG.
    pub slots: u8,
    /// Its GPU-instance profiles; none where it has no MIG.
    pub profiles: &'static [ProductProfile],
}

/// A GPU-instance profile of a card.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProductProfile {
    /// Its name.
    pub name: ProfileName,
    /// NVML's enum.
    pub index: ProfileIndex,
    /// Its id.
    pub id: ProfileId,
    /// How many the card takes at most.
    pub max_instances: u8,
    /// Its memory.
    pub memory: Bytes,
    /// Its streaming multiprocessors.
    pub sm_count: u32,
    /// Its copy engines.
    pub copy_engines: u32,
    /// Its media and optical-flow engines.
    pub engines: Engines,
    /// How many slots it takes.
    pub size: u8,
    /// Where it may start.
    pub starts: &'static [u8],
}

impl Product {
    /// The card of that name or alias, case ignored.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        PRODUCTS.iter().find(|product| {
            product.name.eq_ignore_ascii_case(name)
                || product.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }

    /// Whether it has MIG.
    pub const fn has_mig(&self) -> bool {
        !self.profiles.is_empty()
    }

    /// Whether a change of MIG mode takes effect without a reset: from compute capability 9.0 on.
    pub const fn changes_mig_without_reset(&self) -> bool {
        self.compute_capability.0 >= 9
    }

    /// CUDA cores: multiprocessors times the cores that its architecture has in each.
    pub const fn core_count(&self) -> u32 {
        let cores = match self.compute_capability {
            (6, 0) | (7, _) | (8, 0) => 64,
            _ => 128,
        };
        self.sm_count * cores
    }

    /// The profile with that id.
    pub fn profile(&self, id: ProfileId) -> Option<&'static ProductProfile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// The profile with that index.
    pub fn profile_at(&self, index: ProfileIndex) -> Option<&'static ProductProfile> {
        self.profiles.iter().find(|profile| profile.index == index)
    }

    /// The engines that instances share: those of the profile that covers the card.
    pub fn engines(&self) -> Engines {
        let whole = self.profiles.iter().find(|profile| profile.size == self.slots);
        whole.map(|profile| profile.engines).unwrap_or_default()
    }
}

impl ProductProfile {
    /// Where it may stand.
    pub fn placements(&self) -> impl Iterator<Item = Placement> + use<> {
        let size = self.size;
        self.starts.iter().map(move |&start| Placement::new(start, size))
    }

    /// The profile as the port describes it, without placements.
    pub const fn to_profile(&self) -> Profile {
        Profile {
            name: self.name,
            index: self.index,
            id: self.id,
            slices: self.name.slices,
            max_instances: self.max_instances,
            memory: self.memory,
            sm_count: self.sm_count,
            engines: self.engines,
            placements: Vec::new(),
        }
    }
}

macro_rules! products {
    ($(
        $name:literal [$($alias:literal),*] $nvml:literal $mib:literal MiB,
        ($major:literal, $minor:literal), $sms:literal SMs, $device:literal, $subsystem:literal,
        $slots:literal slots {$(
            $index:literal $id:literal $slices:literal $gb:literal $attribute:ident $max:literal
            $profile_mib:literal $profile_sms:literal $copy:literal
            [$dec:literal $enc:literal $jpeg:literal $ofa:literal] $size:literal $starts:tt;
        )*}
    )*) => {
        /// Every card.
        pub const PRODUCTS: &[Product] = &[$(Product {
            name: $name,
            aliases: &[$($alias),*],
            nvml_name: $nvml,
            memory: Bytes::from_mebibytes($mib),
            compute_capability: ($major, $minor),
            sm_count: $sms,
            device_id: PciDeviceId::new($device << 16 | 0x10de),
            subsystem_id: $subsystem,
            slots: $slots,
            profiles: &[$(ProductProfile {
                name: ProfileName {
                    compute: None,
                    slices: $slices,
                    gigabytes: Some($gb),
                    attribute: Attribute::$attribute,
                },
                index: ProfileIndex::new($index),
                id: ProfileId::new($id),
                max_instances: $max,
                memory: Bytes::from_mebibytes($profile_mib),
                sm_count: $profile_sms,
                copy_engines: $copy,
                engines: Engines {
                    decoders: $dec,
                    encoders: $enc,
                    jpeg: $jpeg,
                    optical_flow: $ofa,
                },
                size: $size,
                starts: &$starts,
            }),*],
        }),*];
    };
}

// A card: name, aliases, NVML's name, memory, compute capability, SMs, PCI device and subsystem, slots.
// A profile: index, id, slices, gigabytes in its name, variant, most instances, MiB, SMs,
// copy engines, [decoders encoders JPEG optical flow], slots, starts.
products! {
    "A30-24GB" [] "NVIDIA A30" 24576 MiB, (8, 0), 56 SMs, 0x20b7, 0x000010de, 4 slots {
         0 14  1   6 Plain           4   5952  14  1 [1 0 0 0]  1 [0, 1, 2, 3];
         7 21  1   6 MediaEngines    1   5952  14  1 [1 0 1 1]  1 [0, 1, 2, 3];
         1  5  2  12 Plain           2  11968  28  2 [2 0 0 0]  2 [0, 2];
         8  6  2  12 MediaEngines    1  11968  28  2 [2 0 1 1]  2 [0, 2];
         3  0  4  24 Plain           1  24000  56  4 [4 0 1 1]  4 [0];
    }
    "A100-40GB" [] "NVIDIA A100-SXM4-40GB" 40960 MiB, (8, 0), 108 SMs, 0x20b0, 0x000010de, 8 slots {
         0 19  1   5 Plain           7   4864  14  1 [0 0 0 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1   5 MediaEngines    1   4864  14  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  10 Plain           4   9856  14  1 [1 0 0 0]  2 [0, 2, 4, 6];
         1 14  2  10 Plain           3   9856  28  2 [1 0 0 0]  2 [0, 2, 4];
         2  9  3  20 Plain           2  19968  42  3 [2 0 0 0]  4 [0, 4];
         3  5  4  20 Plain           1  19968  56  4 [2 0 0 0]  4 [0];
         4  0  7  40 Plain           1  40192  98  7 [5 0 1 1]  8 [0];
    }
    "A100-80GB" [] "NVIDIA A100-SXM4-80GB" 81920 MiB, (8, 0), 108 SMs, 0x20b2, 0x000010de, 8 slots {
         0 19  1  10 Plain           7   9728  14  1 [0 0 0 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  10 MediaEngines    1   9728  14  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  20 Plain           4  19968  14  1 [1 0 0 0]  2 [0, 2, 4, 6];
         1 14  2  20 Plain           3  19968  28  2 [1 0 0 0]  2 [0, 2, 4];
         2  9  3  40 Plain           2  40192  42  3 [2 0 0 0]  4 [0, 4];
         3  5  4  40 Plain           1  40192  56  4 [2 0 0 0]  4 [0];
         4  0  7  80 Plain           1  80640  98  7 [5 0 1 1]  8 [0];
    }
    "H100-80GB" [] "NVIDIA H100 80GB HBM3" 81559 MiB, (9, 0), 132 SMs, 0x2330, 0x000010de, 8 slots {
         0 19  1  10 Plain           7   9984  16  1 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  10 MediaEngines    1   9984  16  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  20 Plain           4  20096  26  1 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  20 Plain           3  20096  32  2 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  40 Plain           2  40448  60  3 [3 0 3 0]  4 [0, 4];
         3  5  4  40 Plain           1  40448  64  4 [4 0 4 0]  4 [0];
         4  0  7  80 Plain           1  81152 132  8 [7 0 7 1]  8 [0];
    }
    "H100-NVL-94GB" [] "NVIDIA H100 NVL" 95830 MiB, (9, 0), 132 SMs, 0x2321, 0x000010de, 8 slots {
         0 19  1  12 Plain           7  11008  16  1 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  12 MediaEngines    1  11008  16  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  24 Plain           4  22144  26  1 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  24 Plain           3  22144  32  2 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  47 Plain           2  47488  60  3 [3 0 3 0]  4 [0, 4];
         3  5  4  47 Plain           1  47488  64  4 [4 0 4 0]  4 [0];
         4  0  7  94 Plain           1  95360 132  8 [7 0 7 1]  8 [0];
    }
    "GH200-96GB" ["H100-96GB"] "NVIDIA GH200 480GB" 97871 MiB, (9, 0), 132 SMs, 0x2342, 0x000010de, 8 slots {
         0 19  1  12 Plain           7  11264  16  1 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  12 MediaEngines    1  11264  16  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  24 Plain           4  23552  26  1 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  24 Plain           3  23552  32  2 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  48 Plain           2  47616  60  3 [3 0 3 0]  4 [0, 4];
         3  5  4  48 Plain           1  47616  64  4 [4 0 4 0]  4 [0];
         4  0  7  96 Plain           1  95232 132  8 [7 0 7 1]  8 [0];
    }
    "GH200-144GB" [] "NVIDIA GH200 144G HBM3e" 146831 MiB, (9, 0), 132 SMs, 0x2348, 0x000010de, 8 slots {
         0 19  1  18 Plain           7  17920  16  1 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  18 MediaEngines    1  17920  16  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  36 Plain           4  36096  26  1 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  36 Plain           3  36096  32  2 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  72 Plain           2  73216  60  3 [3 0 3 0]  4 [0, 4];
         3  5  4  72 Plain           1  73216  64  4 [4 0 4 0]  4 [0];
         4  0  7 144 Plain           1 146432 132  8 [7 0 7 1]  8 [0];
    }
    "H200-141GB" ["H200"] "NVIDIA H200" 143771 MiB, (9, 0), 132 SMs, 0x2335, 0x18bf10de, 8 slots {
         0 19  1  18 Plain           7  16384  16  1 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  18 MediaEngines    1  16384  16  1 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  35 Plain           4  33280  26  1 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  35 Plain           3  33280  32  2 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  71 Plain           2  71424  60  3 [3 0 3 0]  4 [0, 4];
         3  5  4  71 Plain           1  71424  64  4 [4 0 4 0]  4 [0];
         4  0  7 141 Plain           1 143360 132  8 [7 0 7 1]  8 [0];
    }
    "B200-180GB" ["B200"] "NVIDIA B200" 183359 MiB, (10, 0), 148 SMs, 0x2901, 0x000010de, 8 slots {
         0 19  1  23 Plain           7  22528  18  2 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  23 MediaEngines    1  22528  18  2 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  45 Plain           4  45312  30  2 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  45 Plain           3  45312  36  4 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  90 Plain           2  91648  66  6 [3 0 3 0]  4 [0, 4];
         3  5  4  90 Plain           1  91648  72  8 [4 0 4 0]  4 [0];
         4  0  7 180 Plain           1 183296 148 16 [7 0 7 1]  8 [0];
    }
    "GB200" [] "NVIDIA GB200" 189471 MiB, (10, 0), 152 SMs, 0x2941, 0x000010de, 8 slots {
         0 19  1  23 Plain           7  22528  18  2 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  23 MediaEngines    1  22528  18  2 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  47 Plain           4  46592  32  2 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  47 Plain           3  46592  38  4 [2 0 2 0]  2 [0, 2, 4];
         2  9  3  93 Plain           2  94720  68  6 [3 0 3 0]  4 [0, 4];
         3  5  4  93 Plain           1  94720  76  8 [4 0 4 0]  4 [0];
         4  0  7 186 Plain           1 189440 152 16 [7 0 7 1]  8 [0];
    }
    "B300" [] "NVIDIA B300 SXM6 AC" 275040 MiB, (10, 3), 148 SMs, 0x3182, 0x000010de, 8 slots {
         0 19  1  34 Plain           7  34368  18  2 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  34 MediaEngines    1  34368  18  2 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  67 Plain           4  68736  30  2 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  67 Plain           3  68736  36  4 [2 0 2 0]  2 [0, 2, 4];
         2  9  3 135 Plain           2 137472  66  6 [3 0 3 0]  4 [0, 4];
         3  5  4 135 Plain           1 137472  72  8 [4 0 4 0]  4 [0];
         4  0  7 269 Plain           1 274944 148 16 [7 0 7 1]  8 [0];
    }
    "GB300" [] "NVIDIA GB300" 284208 MiB, (10, 3), 152 SMs, 0x31c2, 0x000010de, 8 slots {
         0 19  1  35 Plain           7  35520  18  2 [1 0 1 0]  1 [0, 1, 2, 3, 4, 5, 6];
         7 20  1  35 MediaEngines    1  35520  18  2 [1 0 1 1]  1 [0, 1, 2, 3, 4, 5, 6];
         9 15  1  70 Plain           4  71040  32  2 [1 0 1 0]  2 [0, 2, 4, 6];
         1 14  2  70 Plain           3  71040  38  4 [2 0 2 0]  2 [0, 2, 4];
         2  9  3 139 Plain           2 142080  68  6 [3 0 3 0]  4 [0, 4];
         3  5  4 139 Plain           1 142080  76  8 [4 0 4 0]  4 [0];
         4  0  7 278 Plain           1 284160 152 16 [7 0 7 1]  8 [0];
    }
    "RTX-PRO-6000-Blackwell-96GB" ["RTX-PRO-6000"] "NVIDIA RTX PRO 6000 Blackwell Server Edition" 97887 MiB, (12, 0), 188 SMs, 0x2bb5, 0x000010de, 12 slots {
         0 14  1  24 Plain           4  24192  46  1 [1 1 1 0]  3 [0, 3, 6, 9];
         7 21  1  24 MediaEngines    1  24192  46  1 [1 1 1 1]  3 [0, 3, 6, 9];
        10 47  1  24 Graphics        4  24192  46  1 [1 1 1 0]  3 [0, 3, 6, 9];
        15 65  1  24 AllMediaEngines 1  24192  46  1 [4 4 4 1]  3 [0, 3, 6, 9];
        13 67  1  24 NoMediaEngines  4  24192  46  1 [0 0 0 0]  3 [0, 3, 6, 9];
         1  5  2  48 Plain           2  48512  94  2 [2 2 2 0]  6 [0, 6];
        11 35  2  48 Graphics        2  48512  94  2 [2 2 2 0]  6 [0, 6];
        16 64  2  48 AllMediaEngines 1  48512  94  2 [4 4 4 1]  6 [0, 6];
        14 66  2  48 NoMediaEngines  2  48512  94  2 [0 0 0 0]  6 [0, 6];
         3  0  4  96 Plain           1  97408 188  4 [4 4 4 1] 12 [0];
        12 32  4  96 Graphics        1  97408 188  4 [4 4 4 1] 12 [0];
    }
    "P100" [] "Tesla P100-PCIE-16GB" 16384 MiB, (6, 0), 56 SMs, 0x15f8, 0x000010de, 0 slots {}
    "V100" [] "Tesla V100-SXM2-16GB" 16384 MiB, (7, 0), 80 SMs, 0x1db1, 0x000010de, 0 slots {}
    "T4" [] "Tesla T4" 15360 MiB, (7, 5), 40 SMs, 0x1eb8, 0x000010de, 0 slots {}
    "L4" [] "NVIDIA L4" 23034 MiB, (8, 9), 58 SMs, 0x27b8, 0x000010de, 0 slots {}
    "L40S" [] "NVIDIA L40S" 46068 MiB, (8, 9), 142 SMs, 0x26b9, 0x000010de, 0 slots {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mig::Geometry;

    #[test]
    fn names_are_unique_and_every_table_is_a_geometry() {
        let mut names: Vec<&str> =
            PRODUCTS.iter().flat_map(|p| p.aliases.iter().copied().chain([p.name])).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(PRODUCTS.iter().filter(|product| product.has_mig()).count(), 13);
        for product in PRODUCTS.iter().filter(|product| product.has_mig()) {
            let profiles = product.profiles.iter().map(|profile| Profile {
                placements: profile.placements().collect(),
                ..profile.to_profile()
            });
            let geometry = Geometry::new(profiles.collect()).unwrap();
            assert_eq!(geometry.slots(), product.slots, "{}", product.name);
            assert_eq!(geometry.engines(), product.engines(), "{}", product.name);
            assert_eq!(geometry.profiles().len(), product.profiles.len(), "{}", product.name);
            for profile in product.profiles {
                assert!(profile.memory <= product.memory, "{} {}", product.name, profile.name);
                assert!(profile.sm_count <= product.sm_count);
                assert!(profile.max_instances as usize <= profile.starts.len());
                let slots = product.slots;
                assert!(profile.starts.iter().all(|start| start + profile.size <= slots));
            }
        }
    }

    #[test]
    fn the_measured_card_is_as_measured() {
        let h200 = Product::by_name("h200").unwrap();
        assert_eq!(h200.memory.get(), 150_754_820_096);
        assert_eq!(h200.core_count(), 16_896);
        assert_eq!(h200.device_id.get(), 590_680_286);
        assert_eq!(h200.subsystem_id, 415_174_878);
    }
}
