//! GPU-instance profiles of a GPU and where their instances may stand.

use std::ffi::{c_char, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t,
    nvmlGpuInstanceProfileInfo_v2_t, nvmlGpuInstanceProfileInfo_v3_t, nvmlReturn_t,
};

use super::library::{
    ProfileVersion, Session, call, check, narrow, senseless, struct_version, text,
};
use crate::id::{GpuUuid, ProfileId, ProfileIndex};
use crate::mig::geometry::Engines;
use crate::mig::{Attribute, Placement, Profile, ProfileName};
use crate::port::{NvmlFailure, NvmlResult, NvmlReturn, ProfileAnswer};
use crate::units::Bytes;

/// Room for placements and instances of one profile. The axis of the largest GPU has 12 slots,
/// and `nvml.h` asks for "large enough": these functions don't read how large the buffer is.
pub(super) const ROOM: usize = 128;

/// What the three structs have in common.
struct Described {
    id: c_uint,
    slices: c_uint,
    instances: c_uint,
    multiprocessors: c_uint,
    decoders: c_uint,
    encoders: c_uint,
    jpeg: c_uint,
    optical_flow: c_uint,
    mebibytes: u64,
    name: Option<String>,
}

macro_rules! described {
    ($info:expr, $name:expr) => {
        Described {
            id: $info.id,
            slices: $info.sliceCount,
            instances: $info.instanceCount,
            multiprocessors: $info.multiprocessorCount,
            decoders: $info.decoderCount,
            encoders: $info.encoderCount,
            jpeg: $info.jpegCount,
            optical_flow: $info.ofaCount,
            mebibytes: $info.memorySizeMB,
            name: $name,
        }
    };
}

const NO_NAME: [c_char; 96] = [0; 96];

impl Session {
    pub(super) fn profile(
        &mut self,
        gpu: &GpuUuid,
        index: ProfileIndex,
    ) -> NvmlResult<ProfileAnswer> {
        let handle = self.handle(gpu)?;
        match self.describe(handle, index.get()) {
            Ok((call, described)) => {
                self.profile_of(gpu, index, call, described).map(ProfileAnswer::Profile)
            }
            Err(failure) => match failure.ret {
                NvmlReturn::INVALID_ARGUMENT => Ok(ProfileAnswer::End),
                NvmlReturn::NOT_SUPPORTED => Ok(ProfileAnswer::NotOnThisGpu),
                _ => Err(failure),
            },
        }
    }

    /// Asks with the newest struct that the driver is known to understand. Until one call has
    /// succeeded, an older struct is tried where the answer may speak of the struct's version:
    /// some drivers answer INVALID_ARGUMENT there, which is also how the list of profiles ends.
    fn describe(
        &mut self,
        handle: nvmlDevice_t,
        index: c_uint,
    ) -> NvmlResult<(&'static str, Described)> {
        use ProfileVersion::{V1, V2, V3};
        let versions = match self.profile_version {
            Some(V3) => &[V3][..],
            Some(V2) => &[V2],
            Some(V1) => &[V1],
            None => &[V3, V2, V1],
        };
        let mut end = None;
        for &version in versions {
            let answer = match version {
                V3 => self.describe_v3(handle, index),
                V2 => self.describe_v2(handle, index),
                V1 => self.describe_v1(handle, index),
            };
            match answer {
                Ok(described) => {
                    self.profile_version = Some(version);
                    return Ok(described);
                }
                Err(failure) => match failure.ret {
                    NvmlReturn::ARGUMENT_VERSION_MISMATCH
                    | NvmlReturn::INVALID_ARGUMENT
                    | NvmlReturn::FUNCTION_NOT_FOUND => end = Some(failure),
                    _ => return Err(failure),
                },
            }
        }
        Err(end.unwrap_or(NvmlFailure::new(
            "nvmlDeviceGetGpuInstanceProfileInfo",
            NvmlReturn::INVALID_ARGUMENT,
        )))
    }

    fn describe_v3(
        &self,
        handle: nvmlDevice_t,
        index: c_uint,
    ) -> NvmlResult<(&'static str, Described)> {
        const CALL: &str = "nvmlDeviceGetGpuInstanceProfileInfoV";
        let mut info = nvmlGpuInstanceProfileInfo_v3_t {
            version: struct_version::<nvmlGpuInstanceProfileInfo_v3_t>(3),
            id: 0,
            sliceCount: 0,
            instanceCount: 0,
            multiprocessorCount: 0,
            copyEngineCount: 0,
            decoderCount: 0,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: 0,
            name: NO_NAME,
            capabilities: 0,
        };
        // The bindings name the second version in the signature; the struct's own version word
        // says which it is.
        call!(
            self.lib(),
            nvmlDeviceGetGpuInstanceProfileInfoV(handle, index, (&raw mut info).cast())
        )?;
        Ok((CALL, described!(info, Some(text(&info.name)))))
    }

    fn describe_v2(
        &self,
        handle: nvmlDevice_t,
        index: c_uint,
    ) -> NvmlResult<(&'static str, Described)> {
        const CALL: &str = "nvmlDeviceGetGpuInstanceProfileInfoV";
        let mut info = nvmlGpuInstanceProfileInfo_v2_t {
            version: struct_version::<nvmlGpuInstanceProfileInfo_v2_t>(2),
            id: 0,
            isP2pSupported: 0,
            sliceCount: 0,
            instanceCount: 0,
            multiprocessorCount: 0,
            copyEngineCount: 0,
            decoderCount: 0,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: 0,
            name: NO_NAME,
        };
        call!(self.lib(), nvmlDeviceGetGpuInstanceProfileInfoV(handle, index, &mut info))?;
        Ok((CALL, described!(info, Some(text(&info.name)))))
    }

    fn describe_v1(
        &self,
        handle: nvmlDevice_t,
        index: c_uint,
    ) -> NvmlResult<(&'static str, Described)> {
        const CALL: &str = "nvmlDeviceGetGpuInstanceProfileInfo";
        let mut info = nvmlGpuInstanceProfileInfo_t {
            id: 0,
            isP2pSupported: 0,
            sliceCount: 0,
            instanceCount: 0,
            multiprocessorCount: 0,
            copyEngineCount: 0,
            decoderCount: 0,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: 0,
        };
        call!(self.lib(), nvmlDeviceGetGpuInstanceProfileInfo(handle, index, &mut info))?;
        Ok((CALL, described!(info, None)))
    }

    fn profile_of(
        &mut self,
        gpu: &GpuUuid,
        index: ProfileIndex,
        call: &'static str,
        described: Described,
    ) -> NvmlResult<Profile> {
        let small = |what: &str, number| narrow(call, &format!("profile {index}: {what}"), number);
        let slices = small("the number of compute slices", described.slices)?;
        let memory = Bytes::from_mebibytes(described.mebibytes);
        let engines = Engines {
            decoders: small("the number of decoders", described.decoders)?,
            encoders: small("the number of encoders", described.encoders)?,
            jpeg: small("the number of JPEG decoders", described.jpeg)?,
            optical_flow: small("the number of optical-flow engines", described.optical_flow)?,
        };
        let max_instances = small("the number of instances", described.instances)?;
        let name = match described.name.and_then(|name| name.parse::<ProfileName>().ok()) {
            Some(name) => name,
            None => computed_name(index, slices, memory, self.memory_total(gpu)?),
        };
        Ok(Profile {
            name,
            index,
            id: ProfileId::new(described.id),
            slices,
            max_instances,
            memory,
            sm_count: described.multiprocessors,
            engines,
            placements: Vec::new(),
        })
    }

    pub(super) fn placements(
        &mut self,
        gpu: &GpuUuid,
        profile: ProfileId,
    ) -> NvmlResult<Vec<Placement>> {
        const CALL: &str = "nvmlDeviceGetGpuInstancePossiblePlacements_v2";
        const OLDER: &str = "nvmlDeviceGetGpuInstancePossiblePlacements";
        type Ask = unsafe extern "C" fn(
            nvmlDevice_t,
            c_uint,
            *mut nvmlGpuInstancePlacement_t,
            *mut c_uint,
        ) -> nvmlReturn_t;

        let handle = self.handle(gpu)?;
        let (name, ask): (_, Ask) = match &self.lib().nvmlDeviceGetGpuInstancePossiblePlacements_v2
        {
            Ok(function) => (CALL, *function),
            // SAFETY: nvml.h declares both versions with one and the same signature.
            Err(_) => (OLDER, unsafe { self.outdated(OLDER) }?),
        };
        let mut places = [nvmlGpuInstancePlacement_t { start: 0, size: 0 }; ROOM];
        let mut count = ROOM as c_uint;
        // SAFETY: the handle is of this session, and the buffer has ten times the room of the
        // largest answer that any GPU gives.
        let code = unsafe { ask(handle, profile.get(), places.as_mut_ptr(), &mut count) };
        check(name, code)?;
        filled(name, &places, count)?
            .iter()
            .map(|place| {
                Ok(Placement {
                    start: narrow(name, "the start of a placement", place.start)?,
                    size: narrow(name, "the size of a placement", place.size)?,
                })
            })
            .collect()
    }
}

/// The part of a buffer that the driver says it filled.
pub(super) fn filled<'a, T>(
    call: &'static str,
    buffer: &'a [T],
    count: c_uint,
) -> NvmlResult<&'a [T]> {
    buffer
        .get(..count as usize)
        .ok_or_else(|| senseless(call, format!("it says that it filled in {count} entries")))
}

/// The name that NVIDIA's tools give a profile where the driver does not tell it: the rule of
/// go-nvlib, which gives all seven names that an H200's driver prints.
///
/// `gb = round(ceil(8 * memory / total) / 8 * ceil(total / GiB))`
fn computed_name(index: ProfileIndex, slices: u8, memory: Bytes, total: Bytes) -> ProfileName {
    let (memory, total) = (u128::from(memory.get()), u128::from(total.get()));
    let eighths = if total == 0 { 0 } else { (8 * memory).div_ceil(total) };
    let gigabytes = (eighths * total.div_ceil(1 << 30) + 4) / 8;
    let attribute = match index.get() {
        7 | 8 => Attribute::MediaEngines,
        10..=12 | 17 => Attribute::Graphics,
        13 | 14 => Attribute::NoMediaEngines,
        15 | 16 => Attribute::AllMediaEngines,
        _ => Attribute::Plain,
    };
    ProfileName { compute: None, slices, gigabytes: u16::try_from(gigabytes).ok(), attribute }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_names_are_those_that_an_h200_prints() {
        let total = Bytes::new(150_754_820_096);
        for (index, slices, mebibytes, name) in [
            (0, 1, 16_384, "1g.18gb"),
            (1, 2, 33_280, "2g.35gb"),
            (2, 3, 71_424, "3g.71gb"),
            (3, 4, 71_424, "4g.71gb"),
            (4, 7, 143_360, "7g.141gb"),
            (7, 1, 16_384, "1g.18gb+me"),
            (9, 1, 33_280, "1g.35gb"),
        ] {
            let memory = Bytes::from_mebibytes(mebibytes);
            let computed = computed_name(ProfileIndex::new(index), slices, memory, total);
            assert_eq!(computed.to_string(), name);
        }
    }

    #[test]
    fn a_count_beyond_the_buffer_is_an_error() {
        assert_eq!(filled("f", &[1, 2, 3], 2).unwrap(), [1, 2]);
        assert_eq!(filled("f", &[1, 2, 3], 4).unwrap_err().ret, NvmlReturn::UNKNOWN);
    }
}
