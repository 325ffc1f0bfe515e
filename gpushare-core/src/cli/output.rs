//! The one place that writes to standard output and standard error.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write};

use serde::Serialize;

use crate::error::{Error, ErrorCode, Outcome, Result};

/// Where answers go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    terminal: bool,
    /// Whether standard output is a terminal that shows colours.
    pub(super) colour: bool,
    /// Columns of standard output.
    pub(super) width: usize,
    /// Lines of the terminal.
    height: usize,
}

/// What a pipe or a file gets.
const WIDTH: usize = 80;
/// Lines longer than this are not read at a glance.
const WIDEST: usize = 120;

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|_| terminal);
        let columns = size.map(|size| size.ws_col.into()).filter(|&columns| columns > 0);
        let lines = size.map(|size| size.ws_row.into()).filter(|&lines| lines > 0);
        Self {
            json,
            terminal,
            colour: terminal && !plain,
            width: columns.unwrap_or(WIDTH).clamp(WIDTH, WIDEST),
            height: lines.unwrap_or(usize::MAX),
        }
    }

    /// Writes text that is ready: what came from outside went through [`printable`]. Returns
    /// whether somebody still reads.
    pub(super) fn text(&self, text: &str) -> Result<bool> {
        written(write(&mut std::io::stdout().lock(), text.as_bytes()))
    }

    /// Writes text in the place of what the terminal shows; elsewhere after an empty line.
    pub(super) fn redraw(&self, text: &str) -> Result<bool> {
        // Home; each line cleared to its end; the rest of the screen cleared: nothing flickers.
        let text = if self.terminal {
            let text = cut(text, self.height);
            format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
        } else {
            format!("{text}\n")
        };
        self.text(&text)
    }

    /// Writes a document on a line of its own.
    pub(super) fn document(&self, document: &impl Serialize) -> Result<bool> {
        let mut line = serde_json::to_vec(document).map_err(|error| {
            Error::new(ErrorCode::Io, format!("cannot write the document: {error}"))
        })?;
        line.push(b'\n');
        written(write(&mut std::io::stdout().lock(), &line))
    }

    /// A document, or the text for people.
    pub(super) fn show<D: Serialize + std::fmt::Display>(&self, document: &D) -> Result<bool> {
        if self.json {
            self.document(document)
        } else {
            self.text(&printable(&document.to_string()))
        }
    }

    /// The error, on standard error for people and on standard output for programs.
    pub(super) fn error(&self, error: &Error) {
        let message = error.to_string();
        let aftermath = aftermath(error.outcome(), &message);
        self.failure(error, &format!("{}: {message}{aftermath}", error.code()));
    }

    /// An error with its line for people.
    pub(super) fn failure(&self, error: &Error, line: &str) {
        say(&format!("gpushare: {line}"));
        if self.json {
            // Where the document cannot be written, the exit status says the rest.
            let _ = self.document(&error.to_document());
        }
    }
}

/// A line on standard error. Nothing can be done where it is closed.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line.trim_end()));
}

/// What people must know of an error beside its message.
fn aftermath(outcome: Outcome, message: &str) -> &'static str {
    match outcome {
        Outcome::Untouched => "",
        Outcome::RolledBack => "; rolled back",
        Outcome::Indeterminate if message.contains("gpushare recover") => "; indeterminate",
        Outcome::Indeterminate => "; indeterminate: run `gpushare recover`",
    }
}

/// The lines that a screen of that height has room for, with a word on the others.
fn cut(text: &str, height: usize) -> Cow<'_, str> {
    // The cursor stands on the line after the last.
    let count = text.lines().count();
    if count < height {
        return Cow::Borrowed(text);
    }
    let kept = height.saturating_sub(2);
    let mut short: String = text.split_inclusive('\n').take(kept).collect();
    short.push_str(&format!("... {} more lines; --gpu selects GPUs\n", count - kept));
    Cow::Owned(short)
}

fn write(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn written(result: std::io::Result<()>) -> Result<bool> {
    match result {
        // Whoever read it has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Error::new(ErrorCode::Io, format!("cannot write to standard output: {error}"))
                .with_source(error))
        }
        Ok(()) => Ok(true),
    }
}

/// The text with nothing in it that a terminal obeys.
///
/// Commands of other users' processes stand in status and errors, and root reads them.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().any(obeyed) {
        Cow::Owned(text.chars().map(|c| if obeyed(c) { '\u{FFFD}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_gets_no_more_than_it_has_room_for() {
        let text = "1\n2\n3\n4\n";
        assert_eq!(cut(text, 5), text);
        assert_eq!(cut(text, 4), "1\n2\n... 2 more lines; --gpu selects GPUs\n");
        for height in 0..4 {
            assert!(cut(text, height).lines().count() <= height.max(1));
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(
            printable("python\x1b[2J\r\u{9b}31m\u{202e}x"),
            "python\u{fffd}[2J\u{fffd}\u{fffd}31m\u{fffd}x"
        );
        assert!(matches!(printable("plain\ntext ü"), Cow::Borrowed(_)));
    }
}
