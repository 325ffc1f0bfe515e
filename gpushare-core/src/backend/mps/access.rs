//! Who may use a daemon: users and groups as numbers, and the rights of a directory.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, XattrFlags};
use rustix::io::Errno;

use super::place::Leaf;
use crate::backend::command;
use crate::error::{Error, ErrorCode, Result};
use crate::parameters::Access;

/// The attribute in which the kernel keeps the rights of single users and groups: acl(5).
const ACL: &str = "system.posix_acl_access";

/// How long a directory service may take to say who a name is.
const LOOK_UP: Duration = Duration::from_secs(5);

/// No user and no group: the kernel takes it for "leave as it is".
const NOBODY_AT_ALL: u32 = u32::MAX;

/// Whom a daemon serves, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// One user.
    User(u32),
    /// The members of a group.
    Group(u32),
    /// Every local user.
    Any,
}

impl Served {
    /// Whom an access names.
    ///
    /// # Errors
    /// NOT_FOUND for a name that this machine does not know; INVALID_ARGUMENT for what is no name;
    /// TIMEOUT and IO of a directory service.
    pub(super) fn resolve(access: &Access, caller: u32) -> Result<Self> {
        Ok(match access {
            Access::Caller => Self::User(caller),
            Access::User(user) => Self::User(look_up(Kind::User, user)?),
            Access::Group(group) => Self::Group(look_up(Kind::Group, group)?),
            Access::Any => Self::Any,
        })
    }

    /// The same as an access in numbers.
    pub(super) fn access(self) -> Access {
        match self {
            Self::User(uid) => Access::User(uid.to_string()),
            Self::Group(gid) => Access::Group(gid.to_string()),
            Self::Any => Access::Any,
        }
    }

    /// Refuses whom this process cannot let in.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub(super) fn expect_in_reach(self) -> Result<()> {
        let own = rustix::process::geteuid();
        let reachable = own.is_root()
            || match self {
                Self::User(uid) => uid == own.as_raw(),
                Self::Group(gid) => {
                    let others = rustix::process::getgroups().unwrap_or_default();
                    let own = rustix::process::getegid();
                    others.into_iter().chain([own]).any(|group| group.as_raw() == gid)
                }
                Self::Any => true,
            };
        if reachable {
            return Ok(());
        }
        let whom = match self {
            Self::User(uid) => format!("user {uid}"),
            Self::Group(gid) => format!("group {gid}, which this user is not in,"),
            Self::Any => "everybody".to_owned(),
        };
        Err(Error::new(
            ErrorCode::PermissionDenied,
            format!(
                "only root can give {whom} access to an MPS daemon; this is user {}",
                own.as_raw()
            ),
        )
        .with_needs(vec!["root".to_owned()]))
    }

    /// Whom the directory's list of rights must name; none where its mode says enough.
    fn listed(self) -> Option<Entry> {
        match self {
            Self::User(uid) if uid == rustix::process::geteuid().as_raw() => None,
            Self::User(uid) => Some(Entry { tag: USER, id: uid }),
            Self::Group(gid) => Some(Entry { tag: GROUP, id: gid }),
            Self::Any => None,
        }
    }

    /// Refuses a single user or group where the file system keeps no rights of single ones.
    ///
    /// # Errors
    /// UNSUPPORTED.
    pub(super) fn expect_kept(self, directory: impl AsFd, path: &Path) -> Result<()> {
        if self.listed().is_none() {
            return Ok(());
        }
        match rustix::fs::fgetxattr(directory, ACL, &mut [0_u8; 256][..]) {
            Err(Errno::OPNOTSUPP) => Err(no_single_ones(path)),
            _ => Ok(()),
        }
    }

    /// Gives those their way into a directory, and takes it from all others.
    ///
    /// The daemon and its servers keep root's group, whomever they serve: with the group of those whom
    /// they serve, its members could trace the server that holds them to their limits. A server gets in
    /// as its user, or by root's group.
    ///
    /// # Errors
    /// UNSUPPORTED for a single user or group where the file system keeps no such rights; IO.
    pub(super) fn open(self, leaf: &Leaf) -> Result<()> {
        shut(leaf)?;
        let failed = |errno: Errno| Error::io("set who may enter", leaf.path(), errno.into());
        let root = rustix::process::geteuid().is_root();
        if root {
            let gid = Some(rustix::fs::Gid::from_raw(0));
            rustix::fs::fchown(leaf, None, gid).map_err(failed)?;
        }
        match self.listed() {
            Some(entry) => {
                match rustix::fs::fsetxattr(leaf, ACL, &acl(entry, root), XattrFlags::empty()) {
                    Err(Errno::OPNOTSUPP) => Err(no_single_ones(leaf.path())),
                    set => set.map_err(failed),
                }
            }
            None if self == Self::Any => {
                rustix::fs::fchmod(leaf, Mode::from_raw_mode(0o755)).map_err(failed)
            }
            None => Ok(()),
        }
    }
}

/// Takes everybody's way into a directory but ours. Who is in stays in.
///
/// # Errors
/// IO.
pub(super) fn shut(leaf: &Leaf) -> Result<()> {
    let failed = |errno: Errno| Error::io("set who may enter", leaf.path(), errno.into());
    // First the mode: it masks what the attribute says. Without the attribute the mask would
    // become the rights of the group.
    rustix::fs::fchmod(leaf, Mode::from_raw_mode(0o700)).map_err(failed)?;
    match rustix::fs::fremovexattr(leaf, ACL) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// A single user or group in a list of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    id: u32,
}

const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

/// The rights of a directory that its owner and one other user or group may enter, as the kernel keeps
/// them (linux/posix_acl_xattr.h): a version, then tag, rights and id of each entry, in the order of the
/// tags, little-endian. Its own group may enter for a group: the servers of root's daemons have it.
fn acl(entry: Entry, root: bool) -> Vec<u8> {
    const VERSION: u32 = 2;
    const NO_ID: u32 = u32::MAX;
    const ALL: u16 = 7;
    const READ_AND_ENTER: u16 = 5;
    let own_group = if root && entry.tag == GROUP { READ_AND_ENTER } else { 0 };
    let mut entries: [(u16, u16, u32); 5] = [
        (0x01, ALL, NO_ID),                    // the owner
        (entry.tag, READ_AND_ENTER, entry.id), // that user or group
        (0x04, own_group, NO_ID),              // the group
        (0x10, READ_AND_ENTER, NO_ID), // the most that users and groups other than the owner get
        (0x20, 0, NO_ID),              // everybody else
    ];
    entries.sort_unstable_by_key(|entry| entry.0);
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn no_single_ones(path: &Path) -> Error {
    Error::new(
        ErrorCode::Unsupported,
        format!(
            "the file system of {} keeps no rights of single users and groups (ACLs), so others \
             cannot be let in alone; let in every user, or give a state \
             directory on another file system (GPUSHARE_STATE_DIR)",
            path.display()
        ),
    )
}

#[derive(Clone, Copy)]
enum Kind {
    User,
    Group,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }

    const fn database(self) -> &'static str {
        match self {
            Self::User => "passwd",
            Self::Group => "group",
        }
    }
}

/// The number of a user or group: by its number, by the files of this machine, by its directory
/// services.
fn look_up(kind: Kind, name: &str) -> Result<u32> {
    let refuse =
        |code, why: &str| Error::new(code, format!("{:?} names no {}: {why}", name, kind.word()));
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return match name.parse() {
            Ok(number) if number != NOBODY_AT_ALL => Ok(number),
            _ => Err(refuse(ErrorCode::InvalidArgument, "the number is too large")),
        };
    }
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/');
    if name.is_empty() || name.starts_with('-') || name.contains(odd) || name.len() > 256 {
        return Err(refuse(ErrorCode::InvalidArgument, "it is no name at all"));
    }
    let file = Path::new("/etc").join(kind.database());
    // Without the file there are directory services at most.
    let known = std::fs::read(&file).unwrap_or_default();
    if let Some(number) = number_of(&String::from_utf8_lossy(&known), name) {
        return Ok(number);
    }
    let getent = Path::new("/usr/bin/getent");
    if getent.exists() {
        let answer = command::run(getent, &[kind.database(), "--", name], LOOK_UP, None)?;
        if let Some(number) = number_of(&answer.output, name) {
            return Ok(number);
        }
    }
    Err(refuse(ErrorCode::NotFound, "this machine does not know it"))
}

/// The number of a group of this machine's files; none where there is no such group.
pub(crate) fn group_number(name: &str) -> Option<u32> {
    let known = std::fs::read("/etc/group").ok()?;
    number_of(&String::from_utf8_lossy(&known), name)
}

/// The number of a name in lines `NAME:PASSWORD:NUMBER:…`.
fn number_of(lines: &str, name: &str) -> Option<u32> {
    let number = lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    number.filter(|&number| number != NOBODY_AT_ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_files_and_numbers_need_none() {
        let file =
            "root:x:0:0:root:/root:/bin/sh\n# comment\nml:x:1007:\nbad:x:no:\nmax:x:4294967295:\n";
        assert_eq!(number_of(file, "root"), Some(0));
        assert_eq!(number_of(file, "ml"), Some(1007));
        for name in ["roo", "", "x", "bad", "max", "# comment"] {
            assert_eq!(number_of(file, name), None, "{name}");
        }
        assert_eq!(look_up(Kind::User, "root").unwrap(), 0);
        assert_eq!(look_up(Kind::Group, "root").unwrap(), 0);
        assert_eq!(look_up(Kind::User, "4000000000").unwrap(), 4_000_000_000);
        let code = |name| look_up(Kind::Group, name).unwrap_err().code();
        assert_eq!(code("no-such-group-here"), ErrorCode::NotFound);
        for name in ["", "-s", "a:b", "a b", "a\nb", "../x", "4294967295", "99999999999"] {
            assert_eq!(code(name), ErrorCode::InvalidArgument, "{name:?}");
        }
    }

    #[test]
    fn an_access_in_numbers_names_the_same() {
        for served in [Served::User(0), Served::User(1000), Served::Group(7), Served::Any] {
            assert_eq!(Served::resolve(&served.access(), 5).unwrap(), served);
        }
        assert_eq!(Served::resolve(&Access::Caller, 5).unwrap(), Served::User(5));
    }
}
