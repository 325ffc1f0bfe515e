//! The text of one entry, as CUDA was seen to read it (H200, driver 580.159.04).

/// What the entries of a list are: its beginning says it for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers of GPUs.
    Indices,
    /// Uuids, or beginnings of them.
    Uuids,
}

impl Kind {
    pub(super) fn of(string: &str) -> Self {
        match prefix(string) {
            Some(_) => Self::Uuids,
            None => Self::Indices,
        }
    }
}

/// What stands before the digits of a uuid. CUDA was seen to take the one for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Gpu,
    Mig,
}

/// The prefix of an entry that is a uuid, and what follows.
pub(super) fn prefix(text: &str) -> Option<(Prefix, &str)> {
    let gpu = text.strip_prefix("GPU-").map(|rest| (Prefix::Gpu, rest));
    gpu.or_else(|| text.strip_prefix("MIG-").map(|rest| (Prefix::Mig, rest)))
}

/// What C's `strtoul` makes of it in base 10, of which CUDA keeps the low 32 bits: white space, a sign
/// that negates without a limit, digits up to 64 bits, and whatever follows. None where there is no digit.
pub(super) fn number(text: &str) -> Option<u32> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let text = text.trim_start_matches(space);
    let unsigned = text.strip_prefix(['-', '+']);
    let mut value = None;
    let mut overflow = false;
    for digit in unsigned.unwrap_or(text).bytes().take_while(u8::is_ascii_digit) {
        let before: u64 = value.unwrap_or(0);
        let next = before.checked_mul(10).and_then(|tens| tens.checked_add((digit - b'0').into()));
        overflow |= next.is_none();
        value = Some(next.unwrap_or(u64::MAX));
    }
    let value = match value? {
        _ if overflow => u64::MAX,
        value if text.starts_with('-') => value.wrapping_neg(),
        value => value,
    };
    // Only these bits are looked at.
    Some((value & u64::from(u32::MAX)) as u32)
}

/// Digits of a uuid.
const DIGITS: usize = 32;

/// The digits of a uuid or of the beginning of one: in either case, with hyphens anywhere. What follows
/// all 32 is not looked at; before that anything else spoils them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digits {
    digits: [u8; DIGITS],
    length: usize,
}

impl Digits {
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut found = Self { digits: [0; DIGITS], length: 0 };
        for byte in text.bytes().filter(|byte| *byte != b'-') {
            let Some(place) = found.digits.get_mut(found.length) else { break };
            if !byte.is_ascii_hexdigit() {
                return None;
            }
            *place = byte.to_ascii_lowercase();
            found.length += 1;
        }
        Some(found)
    }

    pub(super) fn are_all(&self) -> bool {
        self.length == DIGITS
    }

    pub(super) fn are_none(&self) -> bool {
        self.length == 0
    }

    /// Whether a uuid, without its prefix, begins with them.
    pub(super) fn begin(&self, uuid: &str) -> bool {
        let mut digits = uuid.bytes().filter(|byte| *byte != b'-');
        let mut own = self.digits.iter().take(self.length);
        own.all(|digit| digits.next().is_some_and(|other| other.to_ascii_lowercase() == *digit))
    }
}
