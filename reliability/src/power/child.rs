//! The process that is followed: `gpushare`, called once for each command.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};

use super::trace::NOT_PERMITTED;

/// Asks to be followed, and runs the commands that were prepared there.
pub fn child(root: &Path) -> ExitCode {
    if ptrace::traceme().is_err() || raise(Signal::SIGSTOP).is_err() {
        return ExitCode::from(u8::try_from(NOT_PERMITTED).unwrap_or(1));
    }
    let commands = std::fs::read(root.join("commands.json")).unwrap_or_default();
    let Ok(commands) = serde_json::from_slice::<Vec<Vec<String>>>(&commands) else {
        return ExitCode::FAILURE;
    };
    for (number, command) in commands.into_iter().enumerate() {
        let status = gpushare_core::cli::run(command);
        if status != 0 || File::create(root.join("marks").join(number.to_string())).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
