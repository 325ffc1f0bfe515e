//! The colours of a page, where the terminal has them.

use anstyle::{AnsiColor, Style};

use crate::snapshot::draw::page::{Page, Role};

use super::output::Output;

/// An empty page for this output.
pub(super) fn page(output: &Output) -> Page {
    Page::new(output.width, output.colour.then_some(paint))
}

fn paint(role: Role, text: &str) -> String {
    let style = match role {
        Role::Plain => return text.to_owned(),
        Role::Heading => Style::new().bold(),
        Role::Faint => Style::new().dimmed(),
        Role::Busy => AnsiColor::Yellow.on_default(),
        Role::Idle => AnsiColor::Green.on_default(),
        Role::Alarm => AnsiColor::Red.on_default().bold(),
    };
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::draw::draw;
    use crate::snapshot::{GpuSnapshot, Snapshot};

    #[test]
    fn colours_are_all_that_the_command_adds() {
        let mut snapshot = Snapshot::empty(true);
        let mut gpu = GpuSnapshot::new("GPU-1".parse().unwrap());
        gpu.model = "H100\x1b[2J\nGPU 7".to_owned();
        gpu.reason = "gone".to_owned();
        snapshot.gpus.push(gpu);
        let mut page = Page::new(80, Some(paint));
        draw(&mut page, &snapshot);
        let coloured = page.into_text();
        let styles = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];
        assert!(coloured.contains("\x1b[1m\x1b[31mSIMULATED\x1b[0m"), "{coloured:?}");
        let plain = styles.iter().fold(coloured, |text, style| text.replace(style, ""));
        assert_eq!(plain, snapshot.to_string());
        assert!(plain.contains("H100\u{fffd}[2J\u{fffd}GPU 7") && !plain.contains('\x1b'));
    }
}
