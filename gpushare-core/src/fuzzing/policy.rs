//! What `nvidia-smi compute-policy -l` and `nvidia-smi -r` print.

use super::{chosen, expect_error};
use crate::backend::nvidia_smi::fuzzing;
use crate::error::ErrorCode;

/// What a program's answer may be refused with.
const REFUSED: &[ErrorCode] = &[
    ErrorCode::Busy,
    ErrorCode::PermissionDenied,
    ErrorCode::Unsupported,
    ErrorCode::NotFound,
    ErrorCode::Driver,
];

pub(super) fn feed(data: &[u8]) {
    let (status, rest) = chosen(data);
    let output = String::from_utf8_lossy(rest);
    expect_error(&fuzzing::refused(status, &output), REFUSED);
    let found = fuzzing::interval(&output);
    let is_row = |line: &&str| {
        let lower = line.to_ascii_lowercase();
        line.trim().starts_with('|') && lower.split_whitespace().any(|word| word == "timeslice")
    };
    if let Some(interval) = found {
        let rows: Vec<&str> = output.lines().filter(is_row).collect();
        let says = |row: &&str| row.to_ascii_lowercase().contains(interval.as_str());
        assert!(rows.iter().any(says), "{interval} of {output:?}");
        // Twice is not once, and other lines do not matter.
        let row = "|  0  Timeslice  Default  |";
        assert_eq!(fuzzing::interval(&format!("{row}\n{output}")), None);
        assert_eq!(fuzzing::interval(&format!("+---+\n{output}\n\x1b[31m")), found);
    }
}
