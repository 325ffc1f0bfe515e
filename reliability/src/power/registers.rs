//! Where the kernel finds the number of a call, its arguments, and its result.

use nix::sys::ptrace;
use nix::unistd::Pid;

/// A call that begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
}

#[cfg(target_arch = "x86_64")]
pub(super) fn call(pid: Pid) -> nix::Result<Call> {
    let registers = ptrace::getregs(pid)?;
    let number = registers.orig_rax as i64;
    let arguments =
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    Ok(Call { number, arguments })
}

#[cfg(target_arch = "x86_64")]
pub(super) fn result(pid: Pid) -> nix::Result<i64> {
    Ok(ptrace::getregs(pid)?.rax as i64)
}

#[cfg(target_arch = "aarch64")]
pub(super) fn call(pid: Pid) -> nix::Result<Call> {
    let registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(pid)?.regs;
    let [a, b, c, d, e, f, _, _, number, ..] = registers;
    Ok(Call { number: number as i64, arguments: [a, b, c, d, e, f] })
}

#[cfg(target_arch = "aarch64")]
pub(super) fn result(pid: Pid) -> nix::Result<i64> {
    let [result, ..] = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(pid)?.regs;
    Ok(result as i64)
}

/// Other machines have other registers, which we do not know.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn call(_: Pid) -> nix::Result<Call> {
    Err(nix::errno::Errno::ENOSYS)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn result(_: Pid) -> nix::Result<i64> {
    Err(nix::errno::Errno::ENOSYS)
}

/// Whether the registers of this machine are known.
pub(super) const KNOWN: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// `libc` has no names for these on aarch64, whose numbers are those of asm-generic/unistd.h.
pub(super) const RENAMEAT: i64 = if cfg!(target_arch = "x86_64") { 264 } else { 38 };
pub(super) const SYNC_FILE_RANGE: i64 = if cfg!(target_arch = "x86_64") { 277 } else { 84 };

#[cfg(target_arch = "x86_64")]
const _: () =
    assert!(RENAMEAT == libc::SYS_renameat && SYNC_FILE_RANGE == libc::SYS_sync_file_range);
