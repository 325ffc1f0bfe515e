//! What a shell makes of a text.

use std::io::Write as _;
use std::process::{Command, Stdio};

fn sh(arguments: &[&str], script: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}:\n{script}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands of a script, each as the words that the shell gives it. Every command there must be
/// one of these programs; they are not run.
pub(crate) fn commands(script: &str, programs: &[&str]) -> Vec<Vec<String>> {
    sh(&["-n"], script);
    // Nothing else is run: neither what is on the path, nor what a hostile name would start.
    let mut stand_ins = "PATH=/nonexistent\nset -eu\n".to_owned();
    for program in programs {
        stand_ins.push_str(&format!(
            "{program}() {{ printf '%s\\0' {program} \"$@\"; printf '\\1'; }}\n"
        ));
    }
    stand_ins
        .push_str("id() { printf 1234; }\ngetent() { printf 'x:x:77:'; }\ncut() { printf 77; }\n");
    let printed = sh(&[], &format!("{stand_ins}{script}"));
    let commands = printed.split_terminator('\u{1}');
    commands.map(|words| words.split_terminator('\0').map(str::to_owned).collect()).collect()
}
