//! A disk that loses what was not synced: what a file system may leave when the power fails.
//!
//! It is harsher than the file systems that we know. Each directory and each file is on its own: what was changed
//! in one says nothing of what was changed in another. Of what was not synced any part may be there, not only what
//! came first; and what was written to a file may be there in part, or be zeros of its length.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::dice::Dice;

/// A file or directory, by when it was made.
pub(super) type Id = usize;

/// The directory that was there before.
pub(super) const ROOT: Id = 0;

/// What a disk writes whole.
const SECTOR: usize = 512;

/// Up to so many changes that were not synced any part of them may be there; of more, those that came first.
const SUBSETS: usize = 6;

/// The same of one file, each change of which may be there in part, too.
const SUBSETS_OF_FILE: usize = 4;

/// What was done to the disk.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Create { directory: Id, name: String, file: Id },
    MakeDirectory { directory: Id, name: String, made: Id },
    Rename { directory: Id, from: String, to: String },
    Remove { directory: Id, name: String },
    Write { file: Id, offset: usize, data: Vec<u8> },
    Truncate { file: Id, length: usize },
    SyncFile(Id),
    SyncDirectory(Id),
    SyncAll,
}

/// What is below the root: directories are none, files their content.
pub(super) type Tree = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Entry {
    Link(String, Id),
    Rename(String, String, Id),
    Remove(String, Id),
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

type Names = BTreeMap<String, Id>;

#[derive(Clone, Debug)]
enum Node {
    Directory { synced: Names, since: Vec<Entry> },
    File { synced: Vec<u8>, since: Vec<Change> },
}

/// A disk, with what is on it for good and what was changed since.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    nodes: BTreeMap<Id, Node>,
}

/// What may be left of one file or directory.
#[derive(Clone, Debug)]
struct Choice<T> {
    left: T,
    /// How many changes are not there.
    lost: usize,
    /// In words, where something is not there.
    what: String,
}

/// What a power loss may leave.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) tree: Tree,
    pub(super) what: Vec<String>,
}

/// All that a power loss may leave, or a sample.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Those with the fewest losses first; no two have the same tree.
    pub(super) all: Vec<Loss>,
    /// How many there were to choose from, the same ones included.
    pub(super) of: u64,
    /// Whether this is a sample.
    pub(super) sampled: bool,
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = Node::Directory { synced: Names::new(), since: Vec::new() };
        Self { nodes: BTreeMap::from([(ROOT, root)]) }
    }

    /// One on which that is, for good.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut disk = Self::new();
        let mut ids = BTreeMap::from([(String::new(), ROOT)]);
        for (number, (path, content)) in tree.iter().enumerate() {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let (id, name) = (number + 1, name.to_owned());
            // What is above it comes before it.
            let directory = ids.get(above).copied().unwrap_or(ROOT);
            ids.insert(path.clone(), id);
            match content {
                None => disk.perform(&Operation::MakeDirectory { directory, name, made: id }),
                Some(content) => {
                    disk.perform(&Operation::Create { directory, name, file: id });
                    let data = content.clone();
                    disk.perform(&Operation::Write { file: id, offset: 0, data });
                }
            }
        }
        disk.perform(&Operation::SyncAll);
        disk
    }

    /// The number of what was made last.
    pub(super) fn last(&self) -> Id {
        self.nodes.keys().next_back().copied().unwrap_or(ROOT)
    }

    /// Does it, without losing anything yet.
    pub(super) fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { directory, name, file } => {
                let node = Node::File { synced: Vec::new(), since: Vec::new() };
                self.nodes.insert(*file, node);
                self.enter(*directory, Entry::Link(name.clone(), *file));
            }
            Operation::MakeDirectory { directory, name, made } => {
                let node = Node::Directory { synced: Names::new(), since: Vec::new() };
                self.nodes.insert(*made, node);
                self.enter(*directory, Entry::Link(name.clone(), *made));
            }
            Operation::Rename { directory, from, to } => {
                if let Some(id) = self.find(*directory, from) {
                    self.enter(*directory, Entry::Rename(from.clone(), to.clone(), id));
                }
            }
            Operation::Remove { directory, name } => {
                if let Some(id) = self.find(*directory, name) {
                    self.enter(*directory, Entry::Remove(name.clone(), id));
                }
            }
            Operation::Write { file, offset, data } => {
                self.change(*file, Change::Write(*offset, data.clone()));
            }
            Operation::Truncate { file, length } => self.change(*file, Change::Truncate(*length)),
            Operation::SyncFile(id) | Operation::SyncDirectory(id) => {
                self.nodes.get_mut(id).into_iter().for_each(Node::sync);
            }
            Operation::SyncAll => self.nodes.values_mut().for_each(Node::sync),
        }
    }

    fn enter(&mut self, directory: Id, entry: Entry) {
        if let Some(Node::Directory { since, .. }) = self.nodes.get_mut(&directory) {
            since.push(entry);
        }
    }

    fn change(&mut self, file: Id, change: Change) {
        if let Some(Node::File { since, .. }) = self.nodes.get_mut(&file) {
            since.push(change);
        }
    }

    /// What has that name now.
    pub(super) fn find(&self, directory: Id, name: &str) -> Option<Id> {
        match self.nodes.get(&directory)? {
            Node::Directory { synced, since } => names(synced, since).get(name).copied(),
            Node::File { .. } => None,
        }
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self, id: Id) -> bool {
        matches!(self.nodes.get(&id), Some(Node::Directory { .. }))
    }

    /// Everything that is there now, synced or not.
    pub(super) fn now(&self) -> Tree {
        let mut directories = BTreeMap::new();
        let mut files = BTreeMap::new();
        for (id, node) in &self.nodes {
            match node {
                Node::Directory { synced, since } => {
                    directories.insert(*id, names(synced, since));
                }
                Node::File { synced, since } => {
                    files.insert(*id, content(synced, since));
                }
            }
        }
        tree(&directories, &files)
    }

    /// What may be left if the power fails now: all of it, or that many by the dice.
    pub(super) fn losses(&self, limit: usize, dice: &mut Dice) -> Losses {
        let paths = self.paths();
        let path = |id: &Id| paths.get(id).map_or("(no name any more)", String::as_str);
        let mut directories: Vec<(Id, Vec<Choice<Names>>)> = Vec::new();
        let mut files: Vec<(Id, Vec<Choice<Vec<u8>>>)> = Vec::new();
        // Nobody finds what has no name, now or after any loss.
        let named = self.named();
        for (id, node) in self.nodes.iter().filter(|(id, _)| named.contains(id)) {
            match node {
                Node::Directory { synced, since } => {
                    directories.push((*id, directory_choices(path(id), synced, since)));
                }
                Node::File { synced, since } => {
                    files.push((*id, file_choices(path(id), synced, since)));
                }
            }
        }
        let sizes: Vec<usize> = directories
            .iter()
            .map(|(_, choices)| choices.len())
            .chain(files.iter().map(|(_, choices)| choices.len()))
            .collect();
        let of = sizes.iter().fold(1_u64, |of, size| of.saturating_mul(*size as u64));
        let sampled = of > limit as u64;
        let picks: Vec<Vec<usize>> = if sampled {
            // Nothing lost, everything lost, one thing lost or there, and then the dice.
            let none: Vec<usize> = vec![0; sizes.len()];
            let last: Vec<usize> = sizes.iter().map(|size| size - 1).collect();
            let mut picks = vec![none.clone(), last.clone()];
            for (place, size) in sizes.iter().enumerate() {
                for choice in 1..*size {
                    for base in [&none, &last] {
                        let mut pick: Vec<usize> = base.clone();
                        pick.iter_mut().skip(place).take(1).for_each(|one| *one = choice);
                        picks.push(pick);
                    }
                }
            }
            picks.extend(
                (0..limit).map(|_| sizes.iter().map(|size| dice.below(*size)).collect::<Vec<_>>()),
            );
            picks
        } else {
            product(&sizes)
        };
        let mut found: Vec<(usize, Loss)> = picks
            .iter()
            .map(|pick| {
                let (mut names, mut contents) = (BTreeMap::new(), BTreeMap::new());
                let (mut lost, mut what) = (0, Vec::new());
                let mut pick = pick.iter();
                for (id, choices) in &directories {
                    let Some(choice) = pick.next().and_then(|pick| choices.get(*pick)) else {
                        continue;
                    };
                    names.insert(*id, choice.left.clone());
                    lost += choice.lost;
                    what.extend(Some(&choice.what).filter(|what| !what.is_empty()).cloned());
                }
                for (id, choices) in &files {
                    let Some(choice) = pick.next().and_then(|pick| choices.get(*pick)) else {
                        continue;
                    };
                    contents.insert(*id, choice.left.clone());
                    lost += choice.lost;
                    what.extend(Some(&choice.what).filter(|what| !what.is_empty()).cloned());
                }
                (lost, Loss { tree: tree(&names, &contents), what })
            })
            .collect();
        found.sort_by_key(|(lost, _)| *lost);
        let mut seen = BTreeSet::new();
        let all = found.into_iter().map(|(_, loss)| loss);
        let all = all.filter(|loss| seen.insert(loss.tree.clone())).collect();
        Losses { all, of, sampled }
    }

    /// What has a name, or may have one again.
    fn named(&self) -> BTreeSet<Id> {
        let mut named = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            let Node::Directory { synced, since } = node else { continue };
            named.extend(synced.values());
            named.extend(since.iter().map(|entry| match entry {
                Entry::Link(_, id) | Entry::Rename(_, _, id) | Entry::Remove(_, id) => *id,
            }));
        }
        named
    }

    /// The names that things have now.
    fn paths(&self) -> BTreeMap<Id, String> {
        let mut paths = BTreeMap::from([(ROOT, String::new())]);
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            let above = paths.get(&id).cloned().unwrap_or_default();
            let Some(Node::Directory { synced, since }) = self.nodes.get(&id) else { continue };
            for (name, below) in names(synced, since) {
                paths.insert(below, join(&above, &name));
                todo.push(below);
            }
        }
        paths
    }
}

impl Node {
    fn sync(&mut self) {
        match self {
            Self::Directory { synced, since } => {
                *synced = names(synced, &*since);
                since.clear();
            }
            Self::File { synced, since } => {
                *synced = content(synced, &*since);
                since.clear();
            }
        }
    }
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") }
}

fn names<'a>(synced: &Names, since: impl IntoIterator<Item = &'a Entry>) -> Names {
    let mut names = synced.clone();
    for entry in since {
        match entry {
            Entry::Link(name, id) => drop(names.insert(name.clone(), *id)),
            Entry::Rename(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
            Entry::Remove(name, id) => {
                if names.get(name) == Some(id) {
                    names.remove(name);
                }
            }
        }
    }
    names
}

fn content<'a>(synced: &[u8], since: impl IntoIterator<Item = &'a Change>) -> Vec<u8> {
    let mut content = synced.to_vec();
    since.into_iter().for_each(|change| change.perform(&mut content));
    content
}

impl Change {
    fn perform(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(length) => content.resize(*length, 0),
            Self::Write(offset, data) => put(content, *offset, data),
        }
    }

    /// What may be there of it instead.
    fn torn(&self, before: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let Self::Write(offset, data) = self else { return Vec::new() };
        let zeros = || {
            let mut content = before.to_vec();
            content.resize(content.len().max(offset + data.len()), 0);
            content
        };
        let mut half = before.to_vec();
        put(&mut half, *offset, data.get(..data.len() / 2).unwrap_or_default());
        let mut torn = vec![("half of", half), ("only the length of", zeros())];
        // The sectors of a write are written in any order.
        let border = (offset / SECTOR + 1) * SECTOR;
        if let Some((first, rest)) =
            border.checked_sub(*offset).and_then(|at| data.split_at_checked(at))
        {
            if !rest.is_empty() {
                let mut without_first = zeros();
                put(&mut without_first, border, rest);
                let mut without_rest = zeros();
                put(&mut without_rest, *offset, first);
                torn.push(("all but the first sector of", without_first));
                torn.push(("only the first sector of", without_rest));
            }
        }
        torn
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    content.resize(content.len().max(offset + data.len()), 0);
    let place = content.get_mut(offset..offset + data.len());
    place.into_iter().for_each(|place| place.copy_from_slice(data));
}

/// Which changes may be there: everything first, nothing last.
fn kept(count: usize, subsets: usize) -> Vec<Vec<bool>> {
    let mut all: Vec<Vec<bool>> = if count <= subsets {
        (0..1_u32 << count).map(|set| (0..count).map(|bit| set >> bit & 1 == 1).collect()).collect()
    } else {
        (0..=count).map(|first| (0..count).map(|place| place < first).collect()).collect()
    };
    all.sort_by_key(|kept| kept.iter().filter(|kept| !**kept).count());
    all
}

fn chosen<'a, T>(all: &'a [T], kept: &'a [bool]) -> impl Iterator<Item = &'a T> {
    all.iter().zip(kept).filter_map(|(one, kept)| kept.then_some(one))
}

fn lost<T: fmt::Display>(path: &str, all: &[T], kept: &[bool]) -> String {
    let lost = all.iter().zip(kept).filter(|(_, kept)| !**kept);
    let lost: Vec<_> = lost.map(|(one, _)| one.to_string()).collect();
    if lost.is_empty() {
        return String::new();
    }
    format!("{}: lost: {}", if path.is_empty() { "." } else { path }, lost.join(", "))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name, _) => write!(f, "the making of {name}"),
            Self::Rename(from, to, _) => write!(f, "the renaming of {from} to {to}"),
            Self::Remove(name, _) => write!(f, "the removal of {name}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(offset, data) => write!(f, "{} bytes at {offset}", data.len()),
            Self::Truncate(length) => write!(f, "the cut to {length} bytes"),
        }
    }
}

fn directory_choices(path: &str, synced: &Names, since: &[Entry]) -> Vec<Choice<Names>> {
    let all = kept(since.len(), SUBSETS).into_iter().map(|kept| Choice {
        left: names(synced, chosen(since, &kept)),
        lost: kept.iter().filter(|kept| !**kept).count(),
        what: lost(path, since, &kept),
    });
    unlike(all.collect())
}

fn file_choices(path: &str, synced: &[u8], since: &[Change]) -> Vec<Choice<Vec<u8>>> {
    let mut all = Vec::new();
    for kept in kept(since.len(), SUBSETS_OF_FILE) {
        let count = kept.iter().filter(|kept| !**kept).count();
        all.push(Choice {
            left: content(synced, chosen(since, &kept)),
            lost: count,
            what: lost(path, since, &kept),
        });
        // The last that is there may be there in part.
        let there: Vec<&Change> = chosen(since, &kept).collect();
        if let Some((last, before)) = there.split_last() {
            let before = content(synced, before.iter().copied());
            for (part, left) in last.torn(&before) {
                let also = lost(path, since, &kept);
                all.push(Choice {
                    left,
                    lost: count + 1,
                    what: format!("{path}: {part} {last}; {also}"),
                });
            }
        }
    }
    // Nothing last: what is picked from the ends means something.
    all.sort_by_key(|choice| choice.lost);
    unlike(all)
}

fn unlike<T: PartialEq>(all: Vec<Choice<T>>) -> Vec<Choice<T>> {
    let mut unlike: Vec<Choice<T>> = Vec::new();
    for choice in all {
        if !unlike.iter().any(|other| other.left == choice.left) {
            unlike.push(choice);
        }
    }
    unlike
}

fn product(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for size in sizes {
        all = all
            .into_iter()
            .flat_map(|pick: Vec<usize>| (0..*size).map(move |one| [&pick[..], &[one]].concat()))
            .collect();
    }
    all
}

fn tree(directories: &BTreeMap<Id, Names>, files: &BTreeMap<Id, Vec<u8>>) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![(ROOT, String::new())];
    while let Some((id, above)) = todo.pop() {
        for (name, below) in directories.get(&id).into_iter().flatten() {
            let path = join(&above, name);
            match files.get(below) {
                Some(content) => drop(tree.insert(path, Some(content.clone()))),
                None => {
                    tree.insert(path.clone(), None);
                    todo.push((*below, path));
                }
            }
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(operations: &[Operation]) -> Disk {
        let mut disk = Disk::new();
        operations.iter().for_each(|operation| disk.perform(operation));
        disk
    }

    fn left(operations: &[Operation]) -> Vec<Tree> {
        let losses = disk(operations).losses(1000, &mut Dice::new(1));
        assert!(!losses.sampled);
        losses.all.into_iter().map(|loss| loss.tree).collect()
    }

    fn create(name: &str, file: Id) -> Operation {
        Operation::Create { directory: ROOT, name: name.to_owned(), file }
    }

    fn write(file: Id, offset: usize, data: &[u8]) -> Operation {
        Operation::Write { file, offset, data: data.to_vec() }
    }

    fn rename(from: &str, to: &str) -> Operation {
        Operation::Rename { directory: ROOT, from: from.to_owned(), to: to.to_owned() }
    }

    fn file(name: &str, content: &[u8]) -> Tree {
        Tree::from([(name.to_owned(), Some(content.to_vec()))])
    }

    #[test]
    fn what_is_synced_is_there_and_nothing_else_need_be() {
        let mut operations = vec![create("a", 1), write(1, 0, b"four")];
        let left_now = left(&operations);
        // No name; a name and nothing, half, zeros, or all of it.
        for tree in [Tree::new(), file("a", b""), file("a", b"fo"), file("a", &[0; 4])] {
            assert!(left_now.contains(&tree), "{left_now:?}");
        }
        assert_eq!(left_now.first(), Some(&file("a", b"four")));
        operations.push(Operation::SyncFile(1));
        assert_eq!(left(&operations), [file("a", b"four"), Tree::new()]);
        operations.push(Operation::SyncDirectory(ROOT));
        assert_eq!(left(&operations), [file("a", b"four")]);
    }

    #[test]
    fn a_name_can_come_before_its_content() {
        let before = [create("a", 1), write(1, 0, b"old"), Operation::SyncAll];
        let replaced = [create(".a", 2), write(2, 0, b"new"), rename(".a", "a")];
        let all = left(&[&before[..], &replaced].concat());
        assert!(all.contains(&file("a", b"")), "{all:?}");
        assert!(all.contains(&file("a", b"old")), "{all:?}");
        // With the content synced in between it is the one or the other.
        let synced =
            [&before[..], &replaced[..2], &[Operation::SyncFile(2)], &replaced[2..]].concat();
        for tree in left(&synced) {
            let content = tree.get("a").cloned().flatten();
            assert!([Some(b"old".to_vec()), Some(b"new".to_vec())].contains(&content), "{tree:?}");
        }
    }

    #[test]
    fn a_directory_that_is_lost_takes_with_it_what_was_synced_in_it() {
        let operations = [
            Operation::MakeDirectory { directory: ROOT, name: "d".to_owned(), made: 1 },
            Operation::Create { directory: 1, name: "a".to_owned(), file: 2 },
            write(2, 0, b"a"),
            Operation::SyncFile(2),
            Operation::SyncDirectory(1),
        ];
        assert!(left(&operations).contains(&Tree::new()));
        let whole = [&operations[..], &[Operation::SyncDirectory(ROOT)]].concat();
        assert_eq!(left(&whole).len(), 1);
    }

    #[test]
    fn a_later_write_can_be_there_without_an_earlier_one() {
        let all =
            left(&[create("a", 1), Operation::SyncAll, write(1, 0, b"ab"), write(1, 2, b"cd")]);
        assert!(all.contains(&file("a", b"\0\0cd")), "{all:?}");
        let all = left(&[create("a", 1), Operation::SyncAll, write(1, 500, &[1; 24])]);
        let mut hole = vec![0; 512];
        hole.extend([1; 12]);
        assert!(all.contains(&file("a", &hole)), "{all:?}");
    }

    #[test]
    fn what_is_too_much_is_sampled_with_its_ends() {
        let mut operations = Vec::new();
        for file in 1..6 {
            operations.extend([create(&file.to_string(), file), write(file, 0, b"abcd")]);
        }
        let disk = disk(&operations);
        let losses = disk.losses(50, &mut Dice::new(1));
        assert!(losses.sampled && losses.of > 1000 && losses.all.len() > 40, "{}", losses.of);
        assert_eq!(losses.all.first().map(|loss| &loss.tree), Some(&disk.now()));
        assert!(losses.all.iter().any(|loss| loss.tree.is_empty()));
    }
}
