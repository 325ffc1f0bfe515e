//! Files that nobody expects, too many of them, and no room for more.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gpushare_core::ErrorCode;
use gpushare_core::lease::LeaseRequest;

use crate::{Fleet, SLICED, is_root};

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn ten_thousand_stale_files_hold_up_nobody_for_long_and_go() {
    let fleet = Fleet::new("1xH100-80GB", SLICED);
    drop(fleet.lease_soon());
    let (notes, queue) = (fleet.folder("leases"), fleet.folder("queue"));
    let ticket = fs::read_to_string("/proc/uptime").unwrap();
    let devices = fleet.leases().gpus[0].uuid.to_string();
    for number in 0..5_000 {
        // Tickets of the dead, which want the same GPU, and notes of shares that are no more.
        let name = format!("{:020}-dead-{number}", 1_000 + number);
        fs::write(queue.join(name), format!(r#"{{"devices": ["{devices}"]}}"#)).unwrap();
        let name = format!("MIG-{number:08x}-0000-0000-0000-000000000000~{}", number % 7);
        fs::write(notes.join(name), &ticket).unwrap();
    }
    for number in 0..100 {
        fs::write(fleet.folder("slots").join(format!(".new-1-{number}-2")), "").unwrap();
    }
    let begun = Instant::now();
    let lease = fleet.lease_soon();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let begun = Instant::now();
    let again = fleet.lease_soon();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(fleet.leases().waiting, 0);
    assert_eq!(fleet.names("queue").len(), 0);
    assert!(fleet.names("leases").len() <= 2, "{:?}", fleet.names("leases"));
    assert_eq!(fleet.names("slots").len(), 4);
    drop((lease, again));
}

#[test]
fn what_stands_in_the_place_of_a_file_of_ours_gives_nothing_twice() {
    let fleet = Fleet::new("1xH100-80GB", SLICED);
    let mut slots = fleet.names("slots");
    if slots.is_empty() {
        drop(fleet.lease_soon());
        slots = fleet.names("slots");
    }
    slots.sort();
    assert_eq!(slots.len(), 4);
    let folder = fleet.folder("slots");
    let path = |number: usize| folder.join(&slots[number]);
    // Three of four are spoilt; the fourth is leased all the same, once.
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::remove_file(path(0)).unwrap();
    symlink(outside.path(), path(0)).unwrap();
    fs::remove_file(path(1)).unwrap();
    fifo(&path(1));
    fs::remove_file(path(2)).unwrap();
    fs::create_dir(path(2)).unwrap();
    File::create(folder.join("rubbish")).unwrap();
    let lease = fleet.lease_soon();
    let error = fleet.lease().unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidState, "{error}");
    assert!(error.message().contains("remove it"), "{error}");
    drop(lease);
    // A second name of a slot is the same lock.
    fs::remove_file(path(0)).unwrap();
    fs::hard_link(path(3), path(0)).unwrap();
    let lease = fleet.lease_soon();
    assert!(fleet.lease().is_err());
    drop(lease);
    fs::remove_file(path(0)).unwrap();
    fs::remove_file(path(1)).unwrap();
    fs::remove_dir(path(2)).unwrap();

    // The others are for everybody to write in.
    for name in ["leases", "queue"] {
        let folder = fleet.folder(name);
        let id = slots[3].trim_end_matches(".slot");
        for (number, name) in [
            format!("{id}~7"),
            format!("{id}~7~8"),
            "~".to_owned(),
            "00000000000000000001-a".to_owned(),
            "00000000000000000002-b".to_owned(),
            "00000000000000000003-c".to_owned(),
            "-rf".to_owned(),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.join(name);
            match number % 4 {
                0 => fifo(&path),
                1 => symlink("/dev/zero", &path).unwrap(),
                2 => symlink("/proc/self/mem", &path).unwrap(),
                _ => fs::write(&path, vec![b'{'; 1 << 20]).unwrap(),
            }
        }
    }
    let all: Vec<_> = (0..4).map(|_| fleet.lease_soon()).collect();
    assert_eq!(fleet.lease().unwrap_err().code(), ErrorCode::Busy);
    assert_eq!(fleet.leases().waiting, 0);
    drop(all);
}

/// A small file system of its own, as long as it lives.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path.to_owned()))
    }

    fn again(&self, options: &str) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn without_room_nothing_is_leased_and_nothing_stays_held() {
    if !is_root("leases in a full directory") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(folder.path(), "size=2m,mode=0755") else {
        gpushare_tests::nvidia::skipped("leases in a full directory", "cannot mount a tmpfs");
        return;
    };
    let fleet = Fleet::within("1xH100-80GB", folder.path().join("state"));
    fleet.apply(SLICED);
    let held = fleet.lease_soon();
    let filler = folder.path().join("filler");
    fs::write(&filler, vec![0; 4 << 20]).unwrap_err();
    let inodes = fs::metadata(fleet.folder("slots")).unwrap().ino();
    for timeout in [0, 50] {
        let request = LeaseRequest::any().timeout(Some(Duration::from_millis(timeout)));
        let error = fleet.node().lease(&request).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Io, "{error}");
        assert!(error.to_string().contains("No space left"), "{error}");
    }
    assert_eq!(fleet.free(), 3);
    fs::remove_file(&filler).unwrap();
    let all: Vec<_> = (0..3).map(|_| fleet.lease_soon()).collect();
    assert!(fleet.lease().is_err());
    assert!(fleet.names("leases").iter().all(|name| !name.starts_with('.')));
    drop(all);

    mount.again("remount,ro");
    let error = fleet.lease().unwrap_err();
    assert_eq!(error.code(), ErrorCode::Io, "{error}");
    assert!(error.to_string().contains("Read-only"), "{error}");
    drop(held);
    mount.again("remount,rw");
    assert_eq!(fleet.free(), 4);
    assert_eq!(fs::metadata(fleet.folder("slots")).unwrap().ino(), inodes);
    drop(fleet.lease_soon());
}
