//! Specs from files.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Spec;
use super::document::SIZE;
use crate::error::{Error, ErrorCode, Result};

impl Spec {
    /// Reads a spec from a file: YAML or JSON, in UTF-8, 1 MiB at most. It never waits: what is no regular
    /// file, a pipe say, is refused. Who has one reads it, and gives [`from_bytes`](Self::from_bytes) that.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes), naming the file; INVALID_ARGUMENT for a file that is not there
    /// or is no regular one; PERMISSION_DENIED; IO.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&read_file(path)?)
            .map_err(|error| error.context(path.display().to_string()))
    }
}

/// What stands in a regular file; of more than a spec may have, a byte more. It never waits.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let (file, kind) = open(path)?;
    if kind != FileType::RegularFile {
        return Err(no_file(path, kind, "give its text instead"));
    }
    read(path, File::from(file))
}

/// For a command: what stands in a file, or also comes from a pipe, as `<(...)` of a shell is one. It waits
/// for who writes there, as every command does, and can be stopped by Ctrl-C.
#[cfg(feature = "cli")]
pub(crate) fn read_file_or_pipe(path: &Path) -> Result<Vec<u8>> {
    let (file, kind) = open(path)?;
    match kind {
        FileType::RegularFile => read(path, File::from(file)),
        FileType::Fifo => {
            wait_for_writer(&file).map_err(|errno| Error::io("read", path, errno.into()))?;
            read(path, File::from(file))
        }
        kind => Err(no_file(path, kind, "give a file, a pipe, or - for standard input")),
    }
}

/// Reads what is open, under the name that errors say; of more than a spec may have, a byte more.
pub(crate) fn read(name: &Path, reader: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = reader.take(SIZE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io("read", name, error))?;
    Ok(bytes)
}

/// Opens without waiting, and says what it is.
fn open(path: &Path) -> Result<(OwnedFd, FileType)> {
    let failed = |errno: Errno| Error::io("read", path, errno.into());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(errno @ Errno::NOENT) => {
            let message = format!("there is no file {}", path.display());
            let error = Error::new(ErrorCode::InvalidArgument, message);
            return Err(error.with_source(std::io::Error::from(errno)));
        }
        // A socket, or a device that nothing stands behind.
        Err(Errno::NXIO | Errno::NODEV) => {
            return Err(no_file(path, FileType::Unknown, "give a file"));
        }
        Err(errno) => return Err(failed(errno)),
    };
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    Ok((file, FileType::from_raw_mode(stat.st_mode)))
}

fn no_file(path: &Path, kind: FileType, instead: &str) -> Error {
    let what = match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a terminal or another device",
        FileType::BlockDevice => "a block device",
        _ => "a socket or the like",
    };
    let path = path.display();
    Error::new(
        ErrorCode::InvalidArgument,
        format!("{path} is {what} and no regular file, and no spec is read from it; {instead}"),
    )
}

/// Waits until somebody writes to a pipe, or has written; from then on it is read as any file is.
#[cfg(feature = "cli")]
fn wait_for_writer(pipe: &OwnedFd) -> rustix::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    rustix::fs::fcntl_setfl(pipe, flags - OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    const TEXT: &str =
        r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}"#;

    #[cfg(feature = "cli")]
    fn as_command(path: &Path) -> Result<Spec> {
        Spec::from_bytes(&read_file_or_pipe(path)?)
    }

    fn fifo(path: &Path) {
        let kind = FileType::Fifo;
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    }

    #[test]
    fn a_file_is_read_by_any_way_that_leads_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("spec"), folder.path().join("link"));
        std::fs::write(&file, TEXT).unwrap();
        symlink(&file, &link).unwrap();
        let expected: Spec = TEXT.parse().unwrap();
        for path in [&file, &link] {
            assert_eq!(Spec::from_file(path).unwrap(), expected);
            #[cfg(feature = "cli")]
            assert_eq!(as_command(path).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_name_and_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fifo(&at("pipe"));
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("long"), vec![b' '; SIZE + 1]).unwrap();
        std::fs::write(at("bytes"), [0xFF]).unwrap();
        std::fs::write(at("wrong"), "{}").unwrap();
        let mut paths =
            ["pipe", "socket", "folder", "long", "bytes", "wrong", "nowhere"].map(at).to_vec();
        paths.extend(["/dev/null", "/dev/zero", "/proc/self/fd"].map(Into::into));
        for path in paths {
            let error = Spec::from_file(&path).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            #[cfg(feature = "cli")]
            if !path.ends_with("pipe") {
                let error = as_command(&path).unwrap_err();
                assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
            }
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_command_waits_for_who_writes_to_a_pipe() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        fifo(&path);
        let writer = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(writer).unwrap();
            // In pieces, and each late.
            for piece in TEXT.as_bytes().chunks(30) {
                std::thread::sleep(std::time::Duration::from_millis(20));
                pipe.write_all(piece).unwrap();
            }
        });
        assert_eq!(as_command(&path).unwrap(), TEXT.parse().unwrap());
        writer.join().unwrap();
    }
}
