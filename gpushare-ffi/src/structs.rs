//! Structs that grow at their end: each says how large it is where it was compiled.
//!
//! Any size from the first version's on is taken. What an older caller does not have is zero, which
//! is the default; what a newer caller has and we do not know must be zero; answers fill what there is.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;

use gpushare_core::{Error, ErrorCode, Result};

use crate::call::given;

/// The size of an id: the uuid of a GPU or MIG device, or that of a share, and its NUL.
pub const GPUSHARE_ID_SIZE: usize = 128;
/// The size of a name, a model's for one, and its NUL.
pub const GPUSHARE_NAME_SIZE: usize = 128;
/// The size of the name of a MIG profile and its NUL.
pub const GPUSHARE_PROFILE_SIZE: usize = 32;
/// The size of a PCI address and its NUL.
pub const GPUSHARE_PCI_SIZE: usize = 32;
/// The size of the path of a device node and its NUL.
pub const GPUSHARE_PATH_SIZE: usize = 256;
/// The size of a reason and its NUL: what is longer is cut, and whole in the JSON.
pub const GPUSHARE_REASON_SIZE: usize = 512;

/// No struct of any version is larger: a size above it was never set.
const LARGEST: usize = 4096;

/// A struct that C sees.
///
/// # Safety
/// It is `repr(C)`, starts with `uint32_t struct_size`, and is a value when all its bytes are zero.
pub(crate) unsafe trait Versioned: Copy {
    /// Its name.
    const NAME: &'static str;
    /// Its size when it was first published. Never changed.
    const FIRST: usize;

    /// All zero.
    fn zero() -> Self {
        // SAFETY: the trait says so.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

/// What `struct_size` says.
///
/// # Safety
/// It is NULL, or four bytes can be read there.
unsafe fn size_of_theirs<T: Versioned>(pointer: *const T) -> Result<usize> {
    let pointer = given((!pointer.is_null()).then_some(pointer), T::NAME)?;
    // SAFETY: the caller says so.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    if (T::FIRST..=LARGEST).contains(&size) {
        return Ok(size);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!(
            "struct_size of {name} is {size}: set it to sizeof({name}), which is {} here and never below {}",
            size_of::<T>(),
            T::FIRST,
            name = T::NAME,
        ),
    ))
}

/// What C filled in; all zero for NULL.
///
/// # Safety
/// It is NULL, or as many bytes as its `struct_size` says can be read there.
pub(crate) unsafe fn read<T: Versioned>(pointer: *const T) -> Result<T> {
    if pointer.is_null() {
        return Ok(T::zero());
    }
    // SAFETY: the caller says so.
    let size = unsafe { size_of_theirs(pointer) }?;
    let known = size.min(size_of::<T>());
    let mut value = T::zero();
    // SAFETY: both have that many bytes, and the value is no part of what C has.
    unsafe {
        ptr::copy_nonoverlapping(
            pointer.cast::<u8>(),
            ptr::from_mut(&mut value).cast::<u8>(),
            known,
        )
    };
    for offset in known..size {
        let byte = pointer.cast::<u8>().wrapping_add(offset);
        // SAFETY: it is below the size that the caller says.
        if unsafe { byte.read() } != 0 {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} has something set at byte {offset} that this libgpushare, of version {}, does not know",
                    T::NAME,
                    env!("CARGO_PKG_VERSION")
                ),
            ));
        }
    }
    Ok(value)
}

/// A struct that is to be filled.
#[derive(Debug)]
pub(crate) struct Output<T> {
    pointer: *mut T,
    size: usize,
}

/// Where the caller's size stands, which answers leave as it is.
const HEAD: usize = size_of::<u32>();

impl<T: Versioned> Output<T> {
    /// Empties what C wants filled.
    ///
    /// # Safety
    /// It is NULL, or as many bytes as its `struct_size` says can be written there while this lives.
    pub(crate) unsafe fn new(pointer: *mut T) -> Result<Self> {
        // SAFETY: the caller says so.
        let size = unsafe { size_of_theirs(pointer) }?;
        let rest = pointer.cast::<u8>().wrapping_add(HEAD);
        // SAFETY: the caller says so, and the first version is larger than its head.
        unsafe { ptr::write_bytes(rest, 0, size - HEAD) };
        Ok(Self { pointer, size })
    }

    /// Fills as much of it as there is.
    pub(crate) fn fill(self, value: &T) {
        let known = self.size.min(size_of::<T>());
        let from = ptr::from_ref(value).cast::<u8>().wrapping_add(HEAD);
        let to = self.pointer.cast::<u8>().wrapping_add(HEAD);
        // SAFETY: both have that many bytes; the value is ours, and C's is as `new` was told.
        unsafe { ptr::copy_nonoverlapping(from, to, known - HEAD) };
    }
}

/// Text in an array, cut where a character ends.
pub(crate) fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    let mut end = text.len().min(N.saturating_sub(1));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (place, byte) in array.iter_mut().zip(text.bytes().take(end).take_while(|byte| *byte != 0))
    {
        *place = byte as c_char;
    }
    array
}

/// Whether C's flag is set.
pub(crate) const fn flag(value: u32) -> bool {
    value != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Sample {
        struct_size: u32,
        old: u32,
        new: u64,
    }

    // SAFETY: it is what the trait wants.
    unsafe impl Versioned for Sample {
        const NAME: &'static str = "sample";
        const FIRST: usize = 8;
    }

    /// Bytes of C, with that `struct_size` and the rest set to one value.
    fn bytes(size: u32, rest: u8) -> Vec<u8> {
        let mut bytes = vec![rest; (size as usize).max(4)];
        bytes[..4].copy_from_slice(&size.to_ne_bytes());
        bytes
    }

    #[test]
    fn every_size_is_taken_or_refused() {
        for size in 0..=5000u32 {
            let taken = (8..=4096).contains(&size);
            let mut empty = bytes(size, 0);
            // SAFETY: there are that many bytes.
            assert_eq!(unsafe { read::<Sample>(empty.as_ptr().cast()) }.is_ok(), taken, "{size}");
            let full = bytes(size, 1);
            // SAFETY: there are that many bytes.
            let read = unsafe { read::<Sample>(full.as_ptr().cast()) };
            // Half a field is what the caller has of it.
            assert_eq!(read.is_ok(), taken && size <= 16, "{size}");
            if let Ok(read) = read {
                assert_eq!(read.old, 0x0101_0101);
                assert_eq!(
                    read.new.to_ne_bytes().iter().filter(|b| **b == 1).count() as u32,
                    size - 8
                );
            }
            empty.iter_mut().skip(4).for_each(|byte| *byte = 9);
            // SAFETY: there are that many bytes.
            match unsafe { Output::<Sample>::new(empty.as_mut_ptr().cast()) } {
                Err(_) => assert!(!taken && empty.iter().skip(4).all(|byte| *byte == 9)),
                Ok(output) => {
                    assert!(taken);
                    output.fill(&Sample { struct_size: 77, old: u32::MAX, new: u64::MAX });
                    let filled = empty.iter().skip(4).filter(|byte| **byte == 255).count();
                    assert_eq!(filled, (size as usize).min(16) - 4);
                    assert!(empty.iter().skip(16).all(|byte| *byte == 0));
                    assert_eq!(empty[..4], size.to_ne_bytes());
                }
            }
        }
    }

    /// On 64 bits, where the sizes are those that were published.
    #[test]
    fn structs_are_as_large_as_when_they_were_published_or_larger() {
        fn sizes<T: Versioned>() -> (&'static str, usize, usize) {
            assert!(size_of::<T>() >= T::FIRST && size_of::<T>() <= LARGEST, "{}", T::NAME);
            (T::NAME, T::FIRST, size_of::<T>())
        }
        // Whoever adds a field raises the last number of its line, and never the first.
        assert_eq!(
            [
                sizes::<crate::gpushare_node_options>(),
                sizes::<crate::gpushare_gpu_info>(),
                sizes::<crate::gpushare_share_info>(),
                sizes::<crate::gpushare_apply_options>(),
                sizes::<crate::gpushare_mps_attachment>(),
                sizes::<crate::gpushare_lease_request>(),
                sizes::<crate::gpushare_lease_share>(),
                sizes::<crate::gpushare_device_node>(),
            ],
            [
                ("gpushare_node_options", 64, 72),
                ("gpushare_gpu_info", 360, 360),
                ("gpushare_share_info", 328, 464),
                ("gpushare_apply_options", 56, 112),
                ("gpushare_mps_attachment", 696, 696),
                ("gpushare_lease_request", 112, 112),
                ("gpushare_lease_share", 576, 576),
                ("gpushare_device_node", 400, 400),
            ]
        );
    }

    #[test]
    fn text_is_cut_between_characters() {
        let text = |array: &[c_char]| -> Vec<u8> {
            array.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect()
        };
        assert_eq!(text(&array::<8>("abc")), b"abc");
        assert_eq!(text(&array::<4>("abcd")), b"abc");
        assert_eq!(text(&array::<4>("aéé")), "aé".as_bytes());
        assert_eq!(text(&array::<3>("aéé")), b"a");
        assert_eq!(text(&array::<8>("a\0b")), b"a");
        assert_eq!(text(&array::<1>("abc")), b"");
    }
}
