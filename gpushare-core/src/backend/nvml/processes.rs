//! Processes on a GPU.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_t};

use super::library::{Session, check, missing};
use crate::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, Pid};
use crate::port::{ContextKind, NvmlFailure, NvmlResult, NvmlReturn, ProcessInfo};
use crate::units::Bytes;

/// How many processes the first call has room for. Few GPUs have more, so one call is normal.
const ROOM: usize = 64;
/// How often the list may grow between the driver's saying how long it is and our asking again.
const TRIES: usize = 8;
/// Words of the largest entry that any driver writes.
const WORDS: usize = 4;
/// What the buffer holds before the call, so that it shows how much of it was written.
const UNWRITTEN: u64 = 0xA5A5_A5A5_A5A5_A5A5;
/// What the driver writes for an instance on a GPU without MIG.
const NO_INSTANCE: u32 = u32::MAX;
/// What the driver writes for memory that it cannot tell.
const NO_MEMORY: u64 = u64::MAX;

type List = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut nvmlProcessInfo_t) -> nvmlReturn_t;

impl Session {
    pub(super) fn processes(
        &mut self,
        gpu: &GpuUuid,
        kind: ContextKind,
    ) -> NvmlResult<Vec<ProcessInfo>> {
        let handle = self.handle(gpu)?;
        let (call, list) = self.list(kind)?;
        let mut room = ROOM;
        for _ in 0..TRIES {
            let mut buffer = vec![UNWRITTEN; room * WORDS];
            let mut count = room as c_uint;
            // SAFETY: the handle is of this session, and the buffer has room for that many of the
            // largest entries that any driver writes, aligned for them.
            let code = unsafe { list(handle, &mut count, buffer.as_mut_ptr().cast()) };
            let count = count as usize;
            if NvmlReturn(code) == NvmlReturn::INSUFFICIENT_SIZE {
                room = count.clamp(room, 1 << 20) + ROOM;
                continue;
            }
            check(call, code)?;
            return Ok(entries(buffer.get(..count * WORDS).unwrap_or(&buffer), count.min(room)));
        }
        Err(NvmlFailure::new(call, NvmlReturn::INSUFFICIENT_SIZE))
    }

    /// The function that lists processes with a context of that kind. R470 has the second version.
    fn list(&self, kind: ContextKind) -> NvmlResult<(&'static str, List)> {
        let lib = self.lib();
        let (newest, name, older) = match kind {
            ContextKind::Compute => (
                &lib.nvmlDeviceGetComputeRunningProcesses_v3,
                "nvmlDeviceGetComputeRunningProcesses_v3",
                "nvmlDeviceGetComputeRunningProcesses_v2",
            ),
            ContextKind::Graphics => (
                &lib.nvmlDeviceGetGraphicsRunningProcesses_v3,
                "nvmlDeviceGetGraphicsRunningProcesses_v3",
                "nvmlDeviceGetGraphicsRunningProcesses_v2",
            ),
            ContextKind::MpsClient => (
                &lib.nvmlDeviceGetMPSComputeRunningProcesses_v3,
                "nvmlDeviceGetMPSComputeRunningProcesses_v3",
                "nvmlDeviceGetMPSComputeRunningProcesses_v2",
            ),
        };
        if let Ok(function) = newest {
            return Ok((name, *function));
        }
        // SAFETY: nvml.h declares all three of these with one and the same signature.
        let older_function = unsafe { self.outdated::<List>(older) };
        older_function.map(|function| (older, function)).map_err(|_| missing(name))
    }
}

/// The entries in a buffer of which the driver says that it wrote so many.
///
/// Their size is not what the function's name says: drivers 535.43 to 535.86 write 32 bytes each
/// through `_v3`, those before and after 24 (nvitop pull requests 79, 89 and 94), and 16 were
/// seen too (nvitop 226). How far the buffer was written tells which.
fn entries(buffer: &[u64], count: usize) -> Vec<ProcessInfo> {
    let written = |words: usize| {
        let end = buffer.get((words - 1) * count..words * count);
        end.is_some_and(|end| end.iter().any(|&word| word != UNWRITTEN))
    };
    let words = if written(4) {
        4
    } else if written(3) {
        3
    } else {
        2
    };
    let halves = |word: u64| {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
    };
    let entry = |entry: &[u64]| {
        let (pid, _padding) = halves(*entry.first()?);
        let memory = *entry.get(1)?;
        let (gi, ci) = entry.get(2).map_or((NO_INSTANCE, NO_INSTANCE), |&word| halves(word));
        let instance = (gi != NO_INSTANCE && ci != NO_INSTANCE)
            .then(|| (GpuInstanceId::new(gi), ComputeInstanceId::new(ci)));
        let memory = (memory != NO_MEMORY).then(|| Bytes::new(memory));
        Some(ProcessInfo { pid: Pid::new(pid), instance, memory })
    };
    buffer.chunks_exact(words).take(count).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a driver that writes entries of so many words leaves in the buffer.
    fn written(processes: &[ProcessInfo], words: usize) -> Vec<u64> {
        let pair = |a: u32, b: u32| {
            let ([a, b, c, d], [e, f, g, h]) = (a.to_ne_bytes(), b.to_ne_bytes());
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        let mut buffer = vec![UNWRITTEN; ROOM * WORDS];
        for (process, entry) in processes.iter().zip(buffer.chunks_exact_mut(words)) {
            let instance = process.instance.map(|(gi, ci)| (gi.get(), ci.get()));
            let (gi, ci) = instance.unwrap_or((NO_INSTANCE, NO_INSTANCE));
            let memory = process.memory.map_or(NO_MEMORY, Bytes::get);
            let full = [pair(process.pid.get(), 0xA5A5_A5A5), memory, pair(gi, ci), 0];
            entry.copy_from_slice(&full[..words]);
        }
        buffer
    }

    #[test]
    fn every_size_of_entry_that_drivers_write_is_read() {
        let process = |pid, instance, memory| ProcessInfo {
            pid: Pid::new(pid),
            instance,
            memory: Option::map(memory, Bytes::new),
        };
        let mig = Some((GpuInstanceId::new(7), ComputeInstanceId::new(0)));
        for count in 0..6 {
            let all: Vec<_> = (0..count)
                .map(|n| process(100 + n, mig.filter(|_| n % 2 == 0), Some(u64::from(n) << 20)))
                .collect();
            let count = count as usize;
            for words in [3, 4] {
                assert_eq!(entries(&written(&all, words)[..count * WORDS], count), all, "{words}");
            }
            let plain: Vec<_> = all.iter().map(|p| ProcessInfo { instance: None, ..*p }).collect();
            assert_eq!(entries(&written(&plain, 2)[..count * WORDS], count), plain);
        }
        let unknown = [process(1, None, None)];
        assert_eq!(entries(&written(&unknown, 3)[..WORDS], 1), unknown);
    }
}
