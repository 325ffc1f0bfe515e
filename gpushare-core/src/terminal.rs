//! Text from outside, made safe to show, and words for numbers.
//!
//! Commands of other users' processes, names in specs and paths stand in what root reads on a
//! terminal. A terminal obeys some characters instead of showing them: with those a name could
//! clear a line, or write one that nobody said.

use std::borrow::Cow;
use std::fmt;

/// Whether a terminal obeys it, another line could begin with it, or it shows nothing.
pub(crate) const fn obeyed(c: char) -> bool {
    matches!(c,
        // C0, DEL and C1: ESC, CR, LF and CSI among them.
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        // Line and paragraph separator; what changes the direction of writing.
        | '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
        // What nobody sees: with it two names look the same.
        | '\u{200B}'..='\u{200D}' | '\u{FEFF}')
}

/// A piece of one line with nothing in it that a terminal obeys. Each such character becomes
/// U+FFFD, line feeds and tabs too.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(obeyed) {
        Cow::Owned(text.chars().map(|c| if obeyed(c) { '\u{FFFD}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// The same for text of several lines, which end where they did. What came from outside must have
/// gone through [`printable`] before it was put into them.
#[cfg(feature = "cli")]
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| c != '\n' && obeyed(c)) {
        Cow::Owned(text.split('\n').map(printable).collect::<Vec<_>>().join("\n"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A word as a POSIX shell reads it, as an argument of a command: plain where nothing in it means
/// something to a shell, else in single quotes.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-@/:=,+%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', "'\\''")))
}

/// A text of the user's in an error: quoted, escaped, and cut where it is long.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 60;
        match self.0.char_indices().nth(MOST) {
            Some((end, _)) => write!(f, "{:?}…", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// The beginning of a text that is long. What a parser says of a file may have all of a word in it.
pub(crate) fn beginning(text: &str) -> Cow<'_, str> {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

/// So many things: `1 step`, `2 steps`. Of things whose plural ends with an s.
pub(crate) fn count<N: From<bool> + PartialEq + fmt::Display>(number: N, one: &str) -> String {
    let s = if number == N::from(true) { "" } else { "s" };
    format!("{number} {one}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_things() {
        for (number, text) in [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (11, "11 steps")] {
            assert_eq!(count(number, "step"), text);
        }
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(Quoted("a\x1b\"b").to_string(), "\"a\\u{1b}\\\"b\"");
        assert_eq!(Quoted(&"ü".repeat(60)).to_string(), format!("\"{}\"", "ü".repeat(60)));
        assert_eq!(Quoted(&"ü".repeat(61)).to_string(), format!("\"{}\"…", "ü".repeat(60)));
        assert_eq!(beginning("short"), "short");
        assert_eq!(beginning(&"é".repeat(301)), format!("{}…", "é".repeat(300)));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(
            printable("python\x1b[2J\r\n\t\u{9b}31m\u{202e}x"),
            "python\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}31m\u{fffd}x"
        );
        assert!(matches!(printable("plain text ü 中"), Cow::Borrowed(_)));
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let shown = printable(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(!shown.contains(char::is_control), "{c:?}");
        }
        let unseen = "\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}";
        assert_eq!(printable(unseen), "\u{fffd}".repeat(unseen.chars().count()));
    }

    #[test]
    fn a_shell_reads_words_as_they_are() {
        // Every ASCII character a shell can be given, alone and between others, and what is beyond.
        let mut words: Vec<String> =
            (1..=127_u8).map(|byte| char::from(byte).to_string()).collect();
        words.extend((1..=127_u8).map(|byte| format!("a{}b", char::from(byte))));
        words.extend(
            ["", "a'b''c", "$(touch x)", "`id`", "\\", "-n", "GPU-1::2", "ü 中"].map(str::to_owned),
        );
        let quoted: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
        let script = format!("printf '%s\\0' {}", quoted.join(" "));
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        let read: Vec<_> = read.split_terminator('\0').collect();
        assert_eq!(read, words);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn lines_stay_lines() {
        assert_eq!(printable_lines("a\r\nb\x1b\n"), "a\u{fffd}\nb\u{fffd}\n");
        assert!(matches!(printable_lines("a\nb\n"), Cow::Borrowed(_)));
    }
}
