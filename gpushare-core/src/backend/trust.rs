//! Whether root may run what stands at a path: nobody else may have put it there.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Why somebody else than root could change what stands at a path, and what to do; none where only root
/// could, or where this process is not root: what it runs has no more rights than its user.
///
/// Each folder on the way and each link is looked at, as the kernel goes it: who may write to a folder
/// may put another file in the place of one that is root's. In a sticky folder, like `/tmp`, that can
/// be done only by the owner of what is there.
///
/// # Errors
/// What the kernel says of a path that does not lead anywhere.
pub(crate) fn distrusted(path: &Path) -> io::Result<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let Some((changeable, why)) = changeable(path)? else { return Ok(None) };
    let changeable = changeable.display();
    Ok(Some(format!(
        "this process is root, and {changeable} {why}; make it root's and writable by nobody else \
         (`chown root {changeable}; chmod go-w {changeable}`), or use a copy in a place that is"
    )))
}

/// The first thing on the way to an absolute path that others than root could change, and how.
fn changeable(path: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let mut here = PathBuf::from("/");
    let mut way = steps(path);
    let mut links = 0;
    if let Some(why) = others(&here.symlink_metadata()?) {
        return Ok(Some((here, why)));
    }
    while let Some(step) = way.pop() {
        if step == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&step);
        let found = next.symlink_metadata()?;
        if let Some(why) = others(&found) {
            return Ok(Some((next, why)));
        }
        if !found.is_symlink() {
            here = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = next.read_link()?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        way.extend(steps(&target));
    }
    Ok(None)
}

/// The names on the way, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

fn others(found: &Metadata) -> Option<String> {
    if found.uid() != 0 {
        return Some(format!("belongs to user {}", found.uid()));
    }
    let mode = found.mode();
    let sticky = found.is_dir() && mode & 0o1000 != 0;
    let written = mode & 0o002 != 0 || (mode & 0o020 != 0 && found.gid() != 0);
    // A link has no rights of its own.
    (written && !sticky && !found.is_symlink()).then(|| "may be written by others".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    /// `outer/inner/program` and `links/program`, which leads there.
    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["outer", "outer/inner", "links"] {
            create_dir(at(name)).unwrap();
            set_permissions(at(name), Permissions::from_mode(0o755)).unwrap();
        }
        write(at("outer/inner/program"), "").unwrap();
        set_permissions(at("outer/inner/program"), Permissions::from_mode(0o755)).unwrap();
        symlink("../outer/./inner", at("links/inner")).unwrap();
        symlink(at("links/inner/program"), at("links/program")).unwrap();
        folder
    }

    const EACH: [&str; 5] = ["outer", "outer/inner", "outer/inner/program", "links", "links/inner"];

    #[test]
    fn each_folder_and_link_on_the_way_must_be_roots() {
        if !rustix::process::geteuid().is_root() {
            let text = b"SKIPPED: what root may run: needs root\n";
            let _ = io::Write::write_all(&mut io::stderr(), text);
            return;
        }
        let folder = tree();
        let ways = [folder.path().join("outer/inner/program"), folder.path().join("links/program")];
        for way in &ways {
            assert_eq!(changeable(way).unwrap(), None);
        }
        for name in EACH {
            let folder = tree();
            let spoiled = folder.path().join(name);
            let way = folder.path().join("links/program");
            std::os::unix::fs::lchown(&spoiled, Some(65534), None).unwrap();
            let (path, why) = changeable(&way).unwrap().unwrap();
            assert_eq!(
                (path.file_name(), why.as_str()),
                (spoiled.file_name(), "belongs to user 65534")
            );
            if spoiled.is_symlink() {
                continue;
            }
            // Of root, with rights for others.
            for (mode, group, trusted) in [
                (0o757, 0, false),
                (0o775, 7, false),
                (0o775, 0, true),
                (0o1777, 0, spoiled.is_dir()),
                (0o1775, 7, spoiled.is_dir()),
                (0o755, 7, true),
            ] {
                chown(&spoiled, Some(0), Some(group)).unwrap();
                set_permissions(&spoiled, Permissions::from_mode(mode)).unwrap();
                let found = changeable(&way).unwrap();
                assert_eq!(found.is_none(), trusted, "{name} {mode:o} {group} {found:?}");
                let text = distrusted(&way).unwrap();
                assert!(text.is_none_or(|text| text.contains("chmod go-w") && text.contains(name)));
            }
        }
    }

    #[test]
    fn a_way_that_leads_nowhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(changeable(&folder.path().join("loop")).is_err());
            let missing = changeable(&folder.path().join("missing")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
    }
}
