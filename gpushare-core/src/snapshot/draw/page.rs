//! A page of text for people: lines and columns, of which a painter can colour the pieces.

use std::fmt::Write as _;

use crate::terminal::printable;
use crate::units::Bytes;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    Heading,
    /// What one need not read.
    Faint,
    /// In use.
    Busy,
    /// Free to use.
    Idle,
    /// What somebody should look at.
    Alarm,
}

/// Colours a piece of text for what it is. The text is printable and not empty.
pub(crate) type Painter = fn(Role, &str) -> String;

/// Text that grows.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    painter: Option<Painter>,
    width: usize,
}

impl Page {
    /// An empty page, that many columns wide.
    pub(crate) fn new(width: usize, painter: Option<Painter>) -> Self {
        Self { text: String::new(), painter, width }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Adds a piece to the line.
    pub(crate) fn put(&mut self, role: Role, text: &str) -> &mut Self {
        let text = printable(text);
        match self.painter {
            Some(paint) if !text.is_empty() => self.text.push_str(&paint(role, &text)),
            _ => self.text.push_str(&text),
        }
        self
    }

    /// Ends the line; blanks at its end go.
    pub(crate) fn end(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    pub(crate) fn line(&mut self, role: Role, text: &str) {
        // Blanks that are coloured would stay.
        self.put(role, text.trim_end_matches(' ')).end();
    }

    /// Items after a label, over as many lines as they need.
    pub(crate) fn list(&mut self, label: &str, items: &[String]) {
        let indent = label.chars().count();
        let mut column = indent;
        self.put(Role::Faint, label);
        for (number, item) in items.iter().enumerate() {
            let comma = if number + 1 < items.len() { "," } else { "" };
            let length = item.chars().count() + comma.len();
            if number > 0 {
                if column + 1 + length > self.width {
                    self.end();
                    self.put(Role::Plain, &" ".repeat(indent));
                    column = indent;
                } else {
                    self.put(Role::Plain, " ");
                    column += 1;
                }
            }
            self.put(Role::Plain, &format!("{item}{comma}"));
            column += length;
        }
        self.end();
    }
}

/// Rows of which the columns line up.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    role: Role,
    cells: Vec<String>,
    /// Lines below it.
    below: Vec<(Role, String)>,
}

impl Table {
    /// A table with these headings; one that begins with `>` stands over numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(Role::Faint, headings.iter().map(|&heading| heading.to_owned()).collect());
        table
    }

    pub(crate) fn row(&mut self, role: Role, cells: Vec<String>) {
        self.rows.push(Row { role, cells, below: Vec::new() });
    }

    /// A line below the last row.
    pub(crate) fn below(&mut self, role: Role, text: String) {
        if let Some(row) = self.rows.last_mut() {
            row.below.push((role, text));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    pub(crate) fn print(&self, page: &mut Page, indent: usize) {
        let headings: Vec<&str> = self
            .rows
            .first()
            .map(|row| row.cells.iter().map(String::as_str).collect())
            .unwrap_or_default();
        let right = |column: usize| headings.get(column).is_some_and(|text| text.starts_with('>'));
        let shown = |cell: &str, row: usize| {
            let text = if row == 0 { cell.strip_prefix('>').unwrap_or(cell) } else { cell };
            printable(text).into_owned()
        };
        let mut widths = vec![0; headings.len()];
        for (number, row) in self.rows.iter().enumerate() {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(shown(cell, number).chars().count());
            }
        }
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = " ".repeat(indent);
            for (column, (cell, width)) in row.cells.iter().zip(&widths).enumerate() {
                let text = shown(cell, number);
                if column > 0 {
                    line.push_str("  ");
                }
                // Writing to a string cannot fail.
                let _ = if right(column) {
                    write!(line, "{text:>width$}")
                } else {
                    write!(line, "{text:width$}")
                };
            }
            page.line(row.role, line.trim_end());
            for (role, text) in &row.below {
                page.line(*role, &format!("{:indent$}  {text}", ""));
            }
        }
    }
}

/// An amount of memory as people read it: `79.6 GiB`.
pub(crate) fn memory(bytes: Bytes) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.iter().find(|(shift, _)| bytes.get() >= 1 << shift) {
        Some((shift, unit)) => format!("{} {unit}", tenths(bytes, *shift)),
        None => format!("{} B", bytes.get()),
    }
}

/// The same in GiB, for a column that says so.
pub(crate) fn gibibytes(bytes: Bytes) -> String {
    tenths(bytes, 30)
}

/// In units of that power of two, rounded to tenths.
fn tenths(bytes: Bytes, shift: u32) -> String {
    let tenths = (u128::from(bytes.get()) * 10 + (1 << (shift - 1))) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => whole.to_string(),
        (whole, tenth) => format!("{whole}.{tenth}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_rounded_to_tenths() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (66 << 20, "66 MiB"),
            (80 << 30, "80 GiB"),
            ((81559 << 20), "79.6 GiB"),
            (u64::MAX, "17179869184 GiB"),
        ] {
            assert_eq!(memory(Bytes::new(bytes)), text);
        }
    }
}
