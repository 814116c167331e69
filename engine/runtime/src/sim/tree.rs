//! The simulated file system's names: what is seen, what is durable, and the changes between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::config::FaultCounters;
use super::file::SimFile;
use super::page::{IN_FLIGHT, POISONED};
use super::rng::Rng;

pub(super) type Ino = u64;
/// An OS error number.
pub(super) type Errno = i32;

pub(super) const ROOT: Ino = 1;

pub(super) enum Node {
    File(Box<SimFile>),
    Dir {
        visible: BTreeMap<String, Ino>,
        durable: BTreeMap<String, Ino>,
    },
}

pub(super) struct Inode {
    pub(super) node: Node,
    visible_links: u32,
    durable_links: u32,
    /// Pending changes that would bring it back.
    pins: u32,
    pub(super) handles: u32,
    /// Its pages were given back to the file system's free space.
    released: bool,
}

struct Edit {
    dir: Ino,
    name: String,
    to: Option<Ino>,
}

/// A creation, rename or removal that is not durable yet.
struct NameChange {
    op: u64,
    completed: u64,
    edits: Vec<Edit>,
}

pub(super) struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    pending: Vec<NameChange>,
    next_ino: Ino,
    /// Pages allocated by files that are reachable or open.
    pub(super) used_pages: u64,
}

impl Inode {
    fn new(node: Node) -> Inode {
        Inode {
            node,
            visible_links: 0,
            durable_links: 0,
            pins: 0,
            handles: 0,
            released: false,
        }
    }
}

fn new_dir() -> Node {
    Node::Dir {
        visible: BTreeMap::new(),
        durable: BTreeMap::new(),
    }
}

fn names_of(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(names.pop()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names
}

impl Tree {
    pub(super) fn new() -> Tree {
        let mut root = Inode::new(new_dir());
        (root.visible_links, root.durable_links) = (1, 1);
        Tree {
            inodes: BTreeMap::from([(ROOT, root)]),
            pending: Vec::new(),
            next_ino: ROOT + 1,
            used_pages: 0,
        }
    }

    pub(super) fn inode(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(libc::EBADF)
    }

    pub(super) fn file(&mut self, ino: Ino) -> Result<&mut SimFile, Errno> {
        match &mut self.inode(ino)?.node {
            Node::File(file) => Ok(file),
            Node::Dir { .. } => Err(libc::EISDIR),
        }
    }

    pub(super) fn files_by_ino(&mut self) -> impl Iterator<Item = (Ino, &mut SimFile)> {
        self.inodes
            .iter_mut()
            .filter_map(|(ino, inode)| match &mut inode.node {
                Node::File(file) => Some((*ino, &mut **file)),
                Node::Dir { .. } => None,
            })
    }

    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut SimFile> {
        self.files_by_ino().map(|(_, file)| file)
    }

    fn entries(&self, dir: Ino) -> Result<&BTreeMap<String, Ino>, Errno> {
        match self.inodes.get(&dir).map(|inode| &inode.node) {
            Some(Node::Dir { visible, .. }) => Ok(visible),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ENOENT),
        }
    }

    fn walk(&self, names: &[String]) -> Result<Ino, Errno> {
        names.iter().try_fold(ROOT, |dir, name| {
            self.entries(dir)?.get(name).copied().ok_or(libc::ENOENT)
        })
    }

    pub(super) fn resolve(&self, path: &Path) -> Result<Ino, Errno> {
        self.walk(&names_of(path))
    }

    fn parent(&self, path: &Path) -> Result<(Ino, String), Errno> {
        let mut names = names_of(path);
        let name = names.pop().ok_or(libc::EBUSY)?;
        if name.len() > 255 {
            return Err(libc::ENAMETOOLONG);
        }
        let dir = self.walk(&names)?;
        self.entries(dir)?;
        Ok((dir, name))
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.entries(ino).is_ok()
    }

    /// Finds or makes a file. Returns it and whether it is new.
    pub(super) fn open(
        &mut self,
        op: u64,
        path: &Path,
        create: bool,
        exclusive: bool,
    ) -> Result<(Ino, bool), Errno> {
        match self.resolve(path) {
            Ok(_) if exclusive => return Err(libc::EEXIST),
            Ok(ino) => return Ok((ino, false)),
            Err(libc::ENOENT) if create || exclusive => {}
            Err(errno) => return Err(errno),
        }
        let (dir, name) = self.parent(path)?;
        let ino = self.add(Node::File(Box::default()));
        self.change(
            op,
            vec![Edit {
                dir,
                name,
                to: Some(ino),
            }],
        );
        Ok((ino, true))
    }

    fn add(&mut self, node: Node) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, Inode::new(node));
        ino
    }

    pub(super) fn mkdir(&mut self, op: u64, path: &Path) -> Result<(), Errno> {
        if self.resolve(path).is_ok() {
            return Err(libc::EEXIST);
        }
        let (dir, name) = self.parent(path)?;
        let ino = self.add(new_dir());
        self.change(
            op,
            vec![Edit {
                dir,
                name,
                to: Some(ino),
            }],
        );
        Ok(())
    }

    pub(super) fn unlink(&mut self, op: u64, path: &Path) -> Result<(), Errno> {
        if self.is_dir(self.resolve(path)?) {
            return Err(libc::EISDIR);
        }
        let (dir, name) = self.parent(path)?;
        self.change(
            op,
            vec![Edit {
                dir,
                name,
                to: None,
            }],
        );
        Ok(())
    }

    pub(super) fn rmdir(&mut self, op: u64, path: &Path) -> Result<(), Errno> {
        if !self.entries(self.resolve(path)?)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        let (dir, name) = self.parent(path)?;
        self.change(
            op,
            vec![Edit {
                dir,
                name,
                to: None,
            }],
        );
        Ok(())
    }

    pub(super) fn rename(&mut self, op: u64, from: &Path, to: &Path) -> Result<(), Errno> {
        let ino = self.resolve(from)?;
        let (from_names, to_names) = (names_of(from), names_of(to));
        if from_names == to_names {
            return Ok(());
        }
        if to_names.starts_with(&from_names) {
            return Err(libc::EINVAL);
        }
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if let Some(&target) = self.entries(to_dir)?.get(&to_name) {
            match (self.is_dir(ino), self.is_dir(target)) {
                (false, true) => return Err(libc::EISDIR),
                (true, false) => return Err(libc::ENOTDIR),
                (true, true) if !self.entries(target)?.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        let away = Edit {
            dir: from_dir,
            name: from_name,
            to: None,
        };
        let here = Edit {
            dir: to_dir,
            name: to_name,
            to: Some(ino),
        };
        self.change(op, vec![away, here]);
        Ok(())
    }

    pub(super) fn read_dir(&self, path: &Path) -> Result<Vec<(String, bool)>, Errno> {
        let entries = self.entries(self.resolve(path)?)?;
        Ok(entries
            .iter()
            .map(|(name, ino)| (name.clone(), self.is_dir(*ino)))
            .collect())
    }

    fn change(&mut self, op: u64, edits: Vec<Edit>) {
        for edit in &edits {
            if let Some(inode) = edit.to.and_then(|ino| self.inodes.get_mut(&ino)) {
                inode.pins += 1;
            }
        }
        for edit in &edits {
            self.set_name(edit, true);
        }
        self.pending.push(NameChange {
            op,
            completed: IN_FLIGHT,
            edits,
        });
    }

    fn set_name(&mut self, edit: &Edit, visible_side: bool) {
        let Some(Inode {
            node: Node::Dir { visible, durable },
            ..
        }) = self.inodes.get_mut(&edit.dir)
        else {
            return; // The directory itself is gone.
        };
        let map = if visible_side { visible } else { durable };
        let old = match edit.to {
            Some(ino) => map.insert(edit.name.clone(), ino),
            None => map.remove(&edit.name),
        };
        for (ino, delta) in edit
            .to
            .map(|ino| (ino, 1))
            .into_iter()
            .chain(old.map(|ino| (ino, -1)))
        {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                let links = if visible_side {
                    &mut inode.visible_links
                } else {
                    &mut inode.durable_links
                };
                *links = links.saturating_add_signed(delta);
            }
            if delta < 0 {
                self.release(ino);
            }
        }
    }

    /// Gives back the space of a file that nobody can reach, and forgets it when nothing can
    /// bring it back.
    pub(super) fn release(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        if inode.visible_links > 0 || inode.handles > 0 {
            return;
        }
        if let Node::File(file) = &inode.node
            && !inode.released
        {
            inode.released = true;
            self.used_pages -= file.allocated_pages().min(self.used_pages);
        }
        if inode.durable_links == 0 && inode.pins == 0 {
            self.inodes.remove(&ino);
        }
    }

    pub(super) fn complete(&mut self, op: u64, seq: u64) {
        for change in self
            .pending
            .iter_mut()
            .rev()
            .filter(|change| change.op == op)
        {
            change.completed = seq;
        }
    }

    /// The process is gone: what has happened is there for the next one to flush.
    pub(super) fn complete_all(&mut self, seq: u64) {
        for change in &mut self.pending {
            if change.completed == IN_FLIGHT || change.completed == POISONED {
                change.completed = seq;
            }
        }
        for file in self.files() {
            file.complete_all(seq);
        }
    }

    /// fsync(2) of a directory: changes of its names completed at or before `covered_seq`, and the
    /// earlier ones they rest on. `keep` may leave out the rest (a crash in the middle).
    pub(super) fn sync_dir(&mut self, dir: Ino, covered_seq: u64, mut keep: impl FnMut() -> bool) {
        let mut needed: BTreeSet<(Ino, String)> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate().rev() {
            let asked =
                change.completed <= covered_seq && change.edits.iter().any(|edit| edit.dir == dir);
            let rested_on = change
                .edits
                .iter()
                .any(|edit| needed.contains(&(edit.dir, edit.name.clone())));
            if rested_on || (asked && keep()) {
                chosen[index] = true;
                needed.extend(
                    change
                        .edits
                        .iter()
                        .map(|edit| (edit.dir, edit.name.clone())),
                );
            }
        }
        let mut chosen = chosen.into_iter();
        let (durable, rest) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|_| chosen.next().unwrap_or(false));
        self.pending = rest;
        self.make_durable(durable);
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for change in changes {
            for edit in &change.edits {
                self.set_name(edit, false);
            }
            self.unpin(&change);
        }
    }

    fn unpin(&mut self, change: &NameChange) {
        for ino in change.edits.iter().filter_map(|edit| edit.to) {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.pins -= 1;
            }
            self.release(ino);
        }
    }

    /// A failed fsync of a directory.
    pub(super) fn poison_dir(&mut self, dir: Ino, covered_seq: u64) {
        for change in &mut self.pending {
            if change.completed <= covered_seq && change.edits.iter().any(|edit| edit.dir == dir) {
                change.completed = POISONED;
            }
        }
    }

    /// All handles are void. Frees what only they kept.
    pub(super) fn void_handles(&mut self) {
        let held: Vec<Ino> = self
            .inodes
            .iter()
            .filter(|(_, i)| i.handles > 0)
            .map(|(ino, _)| *ino)
            .collect();
        for ino in held {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.handles = 0;
            }
            self.release(ino);
        }
    }

    pub(super) fn lose_power(
        &mut self,
        ordered: bool,
        rng: &mut Rng,
        counters: &mut FaultCounters,
    ) {
        let survival = rng.survival();
        let mut lost: BTreeSet<(Ino, String)> = BTreeSet::new();
        let mut kept = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            let rests_on_lost = change
                .edits
                .iter()
                .any(|edit| lost.contains(&(edit.dir, edit.name.clone())));
            if rests_on_lost || (ordered && !lost.is_empty()) || !rng.of_256(survival) {
                counters.names_lost += 1;
                self.unpin(&change);
                lost.extend(change.edits.into_iter().map(|edit| (edit.dir, edit.name)));
            } else {
                kept.push(change);
            }
        }
        self.make_durable(kept);
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
            inode.released = false;
            inode.visible_links = inode.durable_links;
            if let Node::Dir { visible, durable } = &mut inode.node {
                visible.clone_from(durable);
            }
        }
        self.forget_unreachable();
        for file in self.files() {
            let survival = if rng.of_256(128) {
                survival
            } else {
                rng.survival()
            };
            file.lose_power(survival, rng, counters);
        }
        self.used_pages = self.files().map(|file| file.allocated_pages()).sum();
    }

    fn forget_unreachable(&mut self) {
        let (mut reachable, mut open) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(dir) = open.pop() {
            for ino in self.entries(dir).into_iter().flat_map(BTreeMap::values) {
                if reachable.insert(*ino) {
                    open.push(*ino);
                }
            }
        }
        self.inodes.retain(|ino, _| reachable.contains(ino));
    }

    /// All paths, sorted; directories end with a slash.
    pub(super) fn paths(&self) -> Vec<String> {
        let (mut out, mut open) = (Vec::new(), vec![(String::from("/"), ROOT)]);
        while let Some((path, dir)) = open.pop() {
            for (name, ino) in self.entries(dir).into_iter().flatten() {
                if self.is_dir(*ino) {
                    out.push(format!("{path}{name}/"));
                    open.push((format!("{path}{name}/"), *ino));
                } else {
                    out.push(format!("{path}{name}"));
                }
            }
        }
        out.sort();
        out
    }
}
