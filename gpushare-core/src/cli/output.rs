//! The one place that writes to standard output and standard error.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write};

use serde::Serialize;

use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::snapshot::draw::WIDTH;
use crate::terminal::{printable, printable_lines};

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

    /// Writes text that is ready: what came from outside went through
    /// [`printable`](crate::terminal::printable). Returns whether somebody still reads.
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
            self.text(&printable_lines(&document.to_string()))
        }
    }

    /// The error, on standard error for people and on standard output for programs.
    pub(super) fn error(&self, error: &Error, known: Known) {
        let text = error.to_string();
        let after = aftermath(error.outcome(), &text, known);
        let option = option(&text);
        self.failure(error, known, &format!("{}: {text}{option}{after}", error.code()));
    }

    /// An error with its lines for people.
    pub(super) fn failure(&self, error: &Error, known: Known, lines: &str) {
        let lines = format!("gpushare: {}", lines.trim_end());
        let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(&lines));
        if self.json {
            let mut document = error.to_document();
            if let Some(fields) = document.as_object_mut() {
                fields.insert("simulated".to_owned(), known.simulated.into());
            }
            // Where the document cannot be written, the exit status says the rest.
            let _ = self.document(&document);
        }
    }
}

/// What is known of a command that failed, beside its error.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Whether its node is simulated; unknown where it could not tell what node to open.
    pub(super) simulated: Option<bool>,
    /// Whether it was `recover`.
    pub(super) recovering: bool,
}

/// A line on standard error. Nothing can be done where it is closed.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line.trim_end()));
}

/// The option for what an error advises: the library has other callers, and names none.
fn option(text: &str) -> &'static str {
    if text.contains("state directory") && text.contains("(GPUSHARE_STATE_DIR)") {
        "; --state-dir DIR names one, too"
    } else if text.contains("allow the reset") {
        "; --allow-reset does"
    } else if text.contains("allow its eviction") {
        "; --drain S waits, --allow-evict evicts"
    } else {
        ""
    }
}

/// What people must know of an error beside its text.
fn aftermath(outcome: Outcome, text: &str, known: Known) -> &'static str {
    match outcome {
        Outcome::Untouched => "",
        Outcome::RolledBack => "; rolled back",
        // The text says what to do, or it has just been done and failed.
        Outcome::Indeterminate if known.recovering || text.contains("`gpushare recover") => {
            "; indeterminate"
        }
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
    fn what_to_do_is_said_once_and_not_after_it_was_done() {
        let known = |recovering| Known { simulated: None, recovering };
        let advised = "; indeterminate: run `gpushare recover`";
        let said = "rolling back failed too; run `gpushare recover`: 1g.10gb is in use";
        for (outcome, text, recovering, after) in [
            (Outcome::Untouched, "no", false, ""),
            (Outcome::RolledBack, "no", false, "; rolled back"),
            (Outcome::Indeterminate, "no", false, advised),
            (Outcome::Indeterminate, said, false, "; indeterminate"),
            (Outcome::Indeterminate, "no", true, "; indeterminate"),
        ] {
            assert_eq!(aftermath(outcome, text, known(recovering)), after, "{text}");
        }
    }
}
