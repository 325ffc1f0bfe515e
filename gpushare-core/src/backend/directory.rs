//! Directories that can be trusted, and the files in them.
//!
//! A state directory is named by a path. What stands above it is the word of whoever named it; the
//! directory itself and everything below are opened by descriptor, one after the other, without
//! following links, and must belong to root or to this user and be writable by nobody else: whoever
//! could write there could make root destroy instances.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, ErrorCode, Result};

/// What readers of records need, and what is made where nothing else is said.
const OPEN: u32 = 0o755;

/// For this user alone.
pub(super) const PRIVATE: u32 = 0o700;

/// A directory of ours by its name: one that somebody named, and names below it.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    named: PathBuf,
    private: bool,
    below: Vec<String>,
}

impl Directory {
    /// A directory that somebody named. A relative path counts from here and now.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for an empty path; IO when it is relative and there is no current directory.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::new(ErrorCode::InvalidArgument, "the state directory has no name"));
        }
        let absolute =
            std::path::absolute(path).map_err(|error| Error::io("look at", path, error))?;
        // A slash at the end would have the kernel follow a link.
        let named = absolute.components().collect();
        Ok(Self { named, private: false, below: Vec::new() })
    }

    /// The same, of this user alone: nobody else may even look into it.
    pub(crate) fn private(self) -> Self {
        Self { private: true, ..self }
    }

    /// A directory in it.
    pub(crate) fn join(&self, name: &str) -> Self {
        let mut directory = self.clone();
        directory.below.push(name.to_owned());
        directory
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.below.iter().fold(self.named.clone(), |path, name| path.join(name))
    }

    /// Opens it, and makes it where that is wanted. None when it is not there.
    ///
    /// # Errors
    /// PERMISSION_DENIED when it, or one between it and the directory that was named, can't be
    /// trusted; IO.
    pub(crate) fn open(&self, make: bool) -> Result<Option<OwnedFd>> {
        let mode = if self.private { PRIVATE } else { OPEN };
        let Some(mut directory) = open_named(&self.named, make, mode)? else { return Ok(None) };
        if self.private {
            expect_private(&directory, &self.named)?;
        }
        let mut path = self.named.clone();
        for name in &self.below {
            path.push(name);
            match open_below(&directory, name.as_ref(), &path, make, OPEN)? {
                Some(below) => directory = below,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }
}

/// Opens a directory by its path, and makes it and those above it where wanted.
fn open_named(path: &Path, make: bool, mode: u32) -> Result<Option<OwnedFd>> {
    if let Some(directory) = open_trusted(rustix::fs::CWD, path.as_os_str(), path)? {
        return Ok(Some(directory));
    }
    if !make {
        return Ok(None);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        open_named(parent, true, OPEN)?;
    }
    make_and_open(rustix::fs::CWD, path.as_os_str(), path, mode)
}

/// Opens a directory in another, and makes it where wanted.
pub(super) fn open_below(
    above: &OwnedFd,
    name: &OsStr,
    path: &Path,
    make: bool,
    mode: u32,
) -> Result<Option<OwnedFd>> {
    match open_trusted(above, name, path)? {
        None if make => make_and_open(above, name, path, mode),
        found => Ok(found),
    }
}

/// A directory that cannot be opened or made. Where that is another user's, it says what to give instead.
fn not_ours(doing: &str, path: &Path, errno: Errno) -> Error {
    let error = Error::io(doing, path, errno.into());
    if !matches!(errno, Errno::ACCESS | Errno::PERM) {
        return error;
    }
    // What is not there is of whom the directory above it is.
    let above = path.parent().unwrap_or(path);
    let there =
        [path, above].into_iter().find_map(|path| Some((path, rustix::fs::lstat(path).ok()?)));
    let Some((there, owner)) = there.map(|(there, stat)| (there, stat.st_uid)) else {
        return error;
    };
    if owner == rustix::process::geteuid().as_raw() {
        return error;
    }
    let owner = if owner == 0 { "root".to_owned() } else { format!("user {owner}") };
    let (path, there) = (path.display(), there.display());
    error.with_message(format!(
        "cannot {doing} {path}: {there} belongs to {owner}; give a state directory of your own (GPUSHARE_STATE_DIR)"
    ))
}

fn make_and_open(
    above: impl AsFd,
    name: &OsStr,
    path: &Path,
    mode: u32,
) -> Result<Option<OwnedFd>> {
    let mode = Mode::from_raw_mode(mode);
    let ours = match rustix::fs::mkdirat(&above, name, mode) {
        Ok(()) => true,
        // Somebody was quicker: it is looked at like one that was there before.
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(not_ours("make the directory", path, errno)),
    };
    let directory = open_trusted(&above, name, path)?;
    if let Some(directory) = &directory {
        if ours {
            // The umask may have taken rights that readers of records need.
            rustix::fs::fchmod(directory, mode)
                .map_err(|errno| Error::io("set the mode of", path, errno.into()))?;
        }
        // Whoever was quicker may not have come to it yet.
        keep(directory, above, name)
            .map_err(|errno| Error::io("sync the directory of", path, errno.into()))?;
    }
    Ok(directory)
}

/// Makes durable that a directory is there: a power loss would take it away, and with it all that was synced
/// in it since.
fn keep(directory: &OwnedFd, above: impl AsFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::fsync(directory)?;
    let parent = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = parent.unwrap_or(Path::new("."));
    match rustix::fs::openat(above, parent, flags, Mode::empty()) {
        Ok(parent) => rustix::fs::fsync(parent),
        // One may be made in a directory that may not be read.
        Err(Errno::ACCESS) => rustix::fs::syncfs(directory),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory in which other users have files of their own, and makes it where wanted. It must
/// belong to root or to this user, and nobody may touch the files of others there.
///
/// # Errors
/// PERMISSION_DENIED when it can't be trusted; IO.
pub(super) fn open_shared(
    above: &OwnedFd,
    name: &OsStr,
    path: &Path,
    make: Option<Shared>,
) -> Result<Option<OwnedFd>> {
    if let Some(Shared { mode, group }) = make {
        match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(PRIVATE)) {
            Ok(()) => {
                let failed = |errno: Errno| Error::io("make the directory", path, errno.into());
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(above, name, flags, Mode::empty());
                let directory = directory.map_err(failed)?;
                let group = group.map(rustix::fs::Gid::from_raw);
                rustix::fs::fchown(&directory, None, group).map_err(failed)?;
                // Last: until then it is for us alone.
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)).map_err(failed)?;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("make the directory", path, errno.into())),
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(distrusted(path, "it is a symbolic link or no directory"));
        }
        Err(errno) => return Err(Error::io("open", path, errno.into())),
    };
    let stat = look(&directory, path)?;
    let sticky = stat.st_mode & 0o1000 != 0;
    match others(&stat) {
        Some(why) if !sticky || why.starts_with("it belongs") => Err(distrusted(path, &why)),
        _ => Ok(Some(directory)),
    }
}

/// What a directory is made as in which other users have files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    /// Its mode.
    pub(super) mode: u32,
    /// Its group, where not this user's.
    pub(super) group: Option<u32>,
}

/// Opens a directory that can be trusted; none when it is not there.
fn open_trusted(above: impl AsFd, name: &OsStr, path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(distrusted(path, "it is a symbolic link or no directory"));
        }
        Err(errno) => return Err(not_ours("open", path, errno)),
    };
    match others(&look(&directory, path)?) {
        Some(why) => Err(distrusted(path, &why)),
        None => Ok(Some(directory)),
    }
}

fn look(file: &OwnedFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(file).map_err(|errno| Error::io("look at", path, errno.into()))
}

/// Which others than root and this user could change it.
fn others(stat: &Stat) -> Option<String> {
    let user = rustix::process::geteuid();
    let owner = stat.st_uid;
    if owner != 0 && owner != user.as_raw() {
        return Some(format!("it belongs to user {owner}"));
    }
    // A user's own group is often theirs alone; what is root's has no such excuse.
    let writers = if user.is_root() { 0o022 } else { 0o002 };
    (stat.st_mode & writers != 0).then(|| "others may write to it".to_owned())
}

fn expect_private(directory: &OwnedFd, path: &Path) -> Result<()> {
    let stat = look(directory, path)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(distrusted(path, &format!("it belongs to user {}", stat.st_uid)));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(distrusted(path, "others may look into it, and its mode must be 0700"));
    }
    Ok(())
}

fn distrusted(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorCode::PermissionDenied,
        format!(
            "the state directory {} is not used: {why}; remove it, or give another state directory (GPUSHARE_STATE_DIR)",
            path.display()
        ),
    )
    .with_needs(vec![format!("{} owned by root or by this user, and writable by nobody else", path.display())])
}

/// Opens a file of ours in a directory that is trusted; none when it is not there.
///
/// # Errors
/// INVALID_STATE for what is no file of ours: a link, a pipe, a device, another user's, one to be
/// written that has a second name elsewhere; PERMISSION_DENIED and IO.
pub(super) fn open_file(
    directory: &OwnedFd,
    name: &str,
    path: &Path,
    flags: OFlags,
    mode: u32,
) -> Result<Option<OwnedFd>> {
    let write = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    // Without O_NONBLOCK a pipe would hold us up.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let refuse = |why: &str| {
        let path = path.display();
        Err(Error::new(
            ErrorCode::InvalidState,
            format!("{path} is not used: {why}; look who put it there, and remove it"),
        ))
    };
    let file = match rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode)) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return refuse("it is a symbolic link"),
        // A pipe without a reader, a socket, a directory.
        Err(Errno::NXIO | Errno::NODEV | Errno::ISDIR) => return refuse("it is no regular file"),
        Err(errno) => {
            let doing = if write { "write" } else { "read" };
            return Err(Error::io(doing, path, errno.into()));
        }
    };
    let stat = look(&file, path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("it is no regular file");
    }
    if let Some(why) = others(&stat) {
        return refuse(&why);
    }
    if write && stat.st_nlink != 1 {
        return refuse("it has another name elsewhere (a hard link)");
    }
    Ok(Some(file))
}

/// The directory where this session of the user keeps what is of no other, if the system gave one:
/// `XDG_RUNTIME_DIR`, which may be another user's after `su`.
pub(crate) fn is_users_own(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let stat = path
        .is_absolute()
        .then(|| rustix::fs::open(path, flags, Mode::empty()))
        .and_then(std::result::Result::ok)
        .and_then(|directory| rustix::fs::fstat(directory).ok());
    let user = rustix::process::geteuid().as_raw();
    stat.is_some_and(|stat| stat.st_uid == user && stat.st_mode & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn at(path: &Path) -> Directory {
        Directory::new(path).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[track_caller]
    fn refused(directory: &Directory, why: &str) {
        for make in [false, true] {
            let error = directory.open(make).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied);
            assert!(error.message().contains(why), "{error}");
            assert!(!error.needs().is_empty());
        }
    }

    #[test]
    fn what_is_missing_is_made_only_where_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/state");
        let lib = at(&path).join("lib");
        assert!(lib.open(false).unwrap().is_none());
        assert!(!folder.path().join("a").exists());
        assert!(lib.open(true).unwrap().is_some());
        assert_eq!(lib.path(), path.join("lib"));
        assert_eq!((mode(&path), mode(&path.join("lib"))), (0o755, 0o755));
        assert_eq!(Directory::new(Path::new("")).unwrap_err().code(), ErrorCode::InvalidArgument);
        assert!(at(Path::new("state")).path().is_absolute());
    }

    #[test]
    fn a_directory_that_others_could_change_is_refused_wherever_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        // The directory that was named, one in it, and one in that.
        for depth in 0..3 {
            let state = folder.path().join(format!("state-{depth}"));
            let names = &["lib", "sim-a"];
            let all = names.iter().fold(at(&state), |directory, name| directory.join(name));
            let path = names.iter().take(depth).fold(state.clone(), |path, name| path.join(name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();

            let elsewhere = folder.path().join(format!("elsewhere-{depth}"));
            create_dir(&elsewhere).unwrap();
            symlink(&elsewhere, &path).unwrap();
            refused(&all, "symbolic link");
            if depth == 0 {
                // The kernel follows a link with a slash behind it.
                refused(&at(&state.join("")), "symbolic link");
                refused(&at(&state.join(".")), "symbolic link");
            }
            assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing was made");
            std::fs::remove_file(&path).unwrap();

            std::fs::write(&path, "").unwrap();
            refused(&all, "no directory");
            std::fs::remove_file(&path).unwrap();

            create_dir(&path).unwrap();
            let root = rustix::process::geteuid().is_root();
            for bad in if root { &[0o777, 0o1777, 0o775][..] } else { &[0o777, 0o1777] } {
                set_permissions(&path, Permissions::from_mode(*bad)).unwrap();
                refused(&all, "others may write");
            }
            set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            if root {
                chown(&path, Some(65534), None).unwrap();
                refused(&all, "belongs to user 65534");
                assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "nothing was made");
                chown(&path, Some(0), None).unwrap();
            }
            assert!(all.open(true).unwrap().is_some());
        }
    }

    #[test]
    fn what_stands_above_is_the_word_of_who_named_it() {
        let folder = tempfile::tempdir().unwrap();
        let above = folder.path().join("above");
        create_dir(&above).unwrap();
        set_permissions(&above, Permissions::from_mode(0o1777)).unwrap();
        let link = folder.path().join("link");
        symlink(&above, &link).unwrap();
        assert!(at(&link.join("state")).join("lib").open(true).unwrap().is_some());
    }

    #[test]
    fn a_private_directory_is_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpushare-0");
        let lib = at(&path).private().join("lib");
        assert!(lib.open(true).unwrap().is_some());
        assert_eq!(mode(&path), 0o700);
        set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        refused(&lib, "0700");
    }

    #[test]
    fn who_makes_a_directory_at_once_with_others_gets_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let lib = at(&folder.path().join("a/state")).join("lib");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(lib.open(true).unwrap().is_some()));
            }
        });
    }

    #[test]
    fn a_session_directory_must_be_the_users_own() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_users_own(folder.path()));
        assert!(!is_users_own(Path::new("relative")));
        assert!(!is_users_own(&folder.path().join("missing")));
        set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(!is_users_own(folder.path()));
        set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(65534), None).unwrap();
            assert!(!is_users_own(folder.path()));
        }
    }
}
