//! The text of one entry.

/// What the entries of a list are: its beginning says it for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers of GPUs.
    Indices,
    /// Uuids of GPUs, or beginnings of them.
    Uuids,
    /// Names of MIG devices.
    Mig,
}

impl Kind {
    pub(super) fn of(string: &str) -> Self {
        if string.starts_with("GPU-") {
            Self::Uuids
        } else if string.starts_with("MIG-") {
            Self::Mig
        } else {
            Self::Indices
        }
    }
}

/// What C's `strtol` makes of it in base 10: white space, a sign, digits, and whatever follows. None
/// where there is no digit.
pub(super) fn number(text: &str) -> Option<i64> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let text = text.trim_start_matches(space);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let mut value = None;
    for digit in digits.bytes().take_while(u8::is_ascii_digit) {
        let digit = i64::from(digit - b'0');
        let digit = if negative { -digit } else { digit };
        value = Some(value.unwrap_or(0_i64).saturating_mul(10).saturating_add(digit));
    }
    value
}
