//! What control daemons are told through NVIDIA's program, `nvidia-cuda-mps-control`: for daemons whose
//! socket speaks what `wire` does not know. 2 to 4 ms a command instead of 0.1.
//!
//! Its exit status says nothing: it is 0 for an unknown command, a missing server and a refusal. Beside
//! another session it loses commands and answers: of 100 calls in 4 threads some 40 succeed, 45 say that
//! they cannot send, and 10 say nothing with status 0 or 1 (drivers 470 to 555). So each command is
//! followed by a question whose answer is known to come: what stands before that answer is the
//! command's, also where it is nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use super::wire::Failure;
use crate::backend::command::{self, Input};
use crate::error::{Error, ErrorCode, Result};
use crate::mps::{Command, Dialect};

/// The question that every daemon of every version answers with a number and a point.
const SENTINEL: Command = Command::DefaultThreadPercentage;
const ABSENT: &str = "Cannot find MPS control daemon process";
const UNSENT: &str = "Cannot send command to MPS control daemon process";
/// How long the program may take to print its help.
const HELP_LIMIT: Duration = Duration::from_secs(10);
/// The pause before a command is said again.
const PAUSE: Duration = Duration::from_millis(2);

/// What the program speaks.
///
/// # Errors
/// UNSUPPORTED where it is not there, PERMISSION_DENIED where it is not to be trusted, IO, TIMEOUT.
pub(super) fn dialect(program: &Path) -> Result<Dialect> {
    if !program.exists() {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "there is no {}, which starts MPS daemons; it comes with NVIDIA's driver",
                program.display()
            ),
        ));
    }
    let help = command::run(program, &["-h"], HELP_LIMIT, None)?;
    Ok(Dialect::of_help(&help.output))
}

/// Says one command and gives the lines of the answer.
pub(super) fn ask(
    program: &Path,
    directory: &Path,
    command: &Command,
    within: Duration,
) -> Result<Vec<String>, Failure> {
    let deadline = Instant::now() + within;
    let mut said = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Frozen);
        }
        match attempt(program, directory, command, left) {
            Ok(Said::Answered(lines)) => return Ok(lines),
            Ok(Said::Unsent) => {}
            Ok(Said::Unknown) if command.repeatable() => said = true,
            Ok(Said::Unknown) => return Err(Failure::Died),
            Err(Failure::Absent) if said => return Err(Failure::Died),
            Err(failure) => return Err(failure),
        }
        std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// What came of one call of the program.
enum Said {
    /// These lines.
    Answered(Vec<String>),
    /// The daemon was busy with another session and did not hear it.
    Unsent,
    /// It may have been heard.
    Unknown,
}

fn attempt(
    program: &Path,
    directory: &Path,
    command: &Command,
    limit: Duration,
) -> Result<Said, Failure> {
    let last = matches!(command, Command::Quit { .. });
    let mut text = command.text() + "\n";
    if !last {
        text.push_str(&SENTINEL.text());
        text.push('\n');
    }
    let environment = [("CUDA_MPS_PIPE_DIRECTORY", directory.as_os_str())];
    let input = Input::Text(&text);
    let answer = match command::run_with(program, &[], &environment, limit, input) {
        Ok(answer) => answer,
        // It waits for the clients of a daemon that has heard it.
        Err(error) if error.code() == ErrorCode::Timeout && last => {
            return Ok(Said::Answered(vec![]));
        }
        Err(error) if error.code() == ErrorCode::Timeout => return Err(Failure::Frozen),
        Err(error) => return Err(Failure::Other(error)),
    };
    let mut lines: Vec<String> = answer.output.lines().map(str::to_owned).collect();
    if lines.iter().any(|line| line.starts_with(ABSENT)) {
        return Err(Failure::Absent);
    }
    if lines.iter().any(|line| line.starts_with(UNSENT)) {
        return Ok(if lines.len() == 1 { Said::Unsent } else { Said::Unknown });
    }
    if last {
        return Ok(Said::Answered(lines));
    }
    match lines.pop() {
        Some(line) if is_number(&line) => Ok(Said::Answered(lines)),
        Some(line) if line.starts_with("Unknown command") => {
            Err(Failure::Handshake(answer.brief()))
        }
        _ => Ok(Said::Unknown),
    }
}

/// Whether it is the answer to the sentinel: `100.0`.
fn is_number(line: &str) -> bool {
    let line = line.trim();
    line.contains('.') && line.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use crate::id::Pid;

    /// An `nvidia-cuda-mps-control` that is a shell script of ours. `$STATE` in it is a file.
    struct Fake {
        folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Fake {
        fn new(script: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("nvidia-cuda-mps-control");
            let state = folder.path().join("state");
            let text = format!("#!/bin/sh\nSTATE={}\n{script}\n", state.display());
            // Written under another name and copied: see the tests of nvidia-smi.
            let written = folder.path().join("written");
            std::fs::write(&written, text).unwrap();
            std::fs::set_permissions(&written, std::fs::Permissions::from_mode(0o755)).unwrap();
            let copied = std::process::Command::new("cp").args([&written, &path]).status().unwrap();
            assert!(copied.success());
            Self { folder, path }
        }

        fn ask(&self, command: &Command) -> Result<Vec<String>, Failure> {
            ask(&self.path, Path::new("/somewhere"), command, Duration::from_secs(2))
        }

        fn calls(&self) -> usize {
            let state = self.folder.path().join("state");
            std::fs::read_to_string(state).map_or(0, |state| state.lines().count())
        }
    }

    fn terminate() -> Command {
        Command::TerminateClient { server: Pid::new(5), client: Pid::new(6) }
    }

    #[test]
    fn an_answer_is_what_stands_before_the_known_one() {
        let script = r#"[ "$CUDA_MPS_PIPE_DIRECTORY" = /somewhere ] && [ -z "$HOME" ] || exit 9
read -r line; read -r sentinel
[ "$sentinel" = get_default_active_thread_percentage ] || exit 9
[ "$line" = get_server_list ] && echo 12 && echo 13
echo 50.0"#;
        let fake = Fake::new(script);
        assert_eq!(fake.ask(&Command::Servers).unwrap(), ["12", "13"]);
        assert_eq!(fake.ask(&terminate()).unwrap(), [""; 0]);
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_where_that_does_no_harm() {
        for lost in [
            "true",
            "false",
            "echo 12",
            "echo 'Cannot send command to MPS control daemon process'; false",
        ] {
            let script = format!(
                "echo x >>$STATE; [ $(wc -l <$STATE) -lt 3 ] && {{ {lost}; exit; }}; echo 12; echo 50.0"
            );
            let fake = Fake::new(&script);
            assert_eq!(fake.ask(&Command::Servers).unwrap(), ["12"], "{lost}");
            assert_eq!(fake.calls(), 3);
            let fake = Fake::new(&script);
            let once = fake.ask(&terminate());
            if lost.contains("send") {
                assert_eq!(once.unwrap(), ["12"]);
            } else {
                assert!(matches!(once, Err(Failure::Died)), "{lost}: {once:?}");
                assert_eq!(fake.calls(), 1);
            }
        }
    }

    #[test]
    fn no_daemon_a_frozen_one_and_a_strange_one_are_told_apart() {
        let absent = Fake::new("echo 'Cannot find MPS control daemon process' >&2; exit 1");
        assert!(matches!(absent.ask(&Command::Servers), Err(Failure::Absent)));
        let strange = Fake::new("echo 'Unknown command \"a\"'; echo 'Unknown command \"b\"'");
        assert!(matches!(strange.ask(&Command::Servers), Err(Failure::Handshake(_))));
        // One that says nothing, and one that does not end.
        for never_done in ["exec sleep 100", "exec yes 100.0"] {
            let fake = Fake::new(never_done);
            let start = Instant::now();
            let answer =
                ask(&fake.path, Path::new("/"), &Command::Servers, Duration::from_millis(200));
            assert!(matches!(answer, Err(Failure::Frozen)), "{never_done}");
            assert!(start.elapsed() < Duration::from_secs(2), "{never_done}");
        }
        let missing = ask(Path::new("/nonexistent"), Path::new("/"), &Command::Servers, HELP_LIMIT);
        assert!(matches!(missing, Err(Failure::Other(_))));
        assert_eq!(dialect(Path::new("/nonexistent")).unwrap_err().code(), ErrorCode::Unsupported);
    }

    #[test]
    fn quit_ends_by_itself() {
        let quit = Command::Quit { timeout: Some(1) };
        let fake = Fake::new("read -r line; [ \"$line\" = 'quit -t 1' ] && ! read -r more");
        assert_eq!(fake.ask(&quit).unwrap(), [""; 0]);
        let waits = Fake::new("exec sleep 100");
        let answer = ask(&waits.path, Path::new("/"), &quit, Duration::from_millis(100));
        assert_eq!(answer.unwrap(), [""; 0]);
        let refused = Fake::new("echo 'Not enough privilege to execute quit command'");
        assert_eq!(refused.ask(&quit).unwrap(), ["Not enough privilege to execute quit command"]);
    }

    #[test]
    fn the_dialect_is_told_by_the_help() {
        let fake = Fake::new("[ \"$*\" = -h ] && echo ' -S,--static-partitioning  divide SMs'");
        assert_eq!(dialect(&fake.path).unwrap(), Dialect::V2StaticPartitioning);
        assert_eq!(dialect(&Fake::new("exit 1").path).unwrap(), Dialect::V2);
    }
}
