//! What of the work this user may do: what it must mend first, what comes anew instead of in place, and what bars the
//! way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::client::options::RebuildOptions;
use crate::disk::DiskError;
use crate::disk::access;
use crate::disk::facts as disk;
use crate::manifest::{Entry, EntryKind, Listing};
use crate::path::RelPath;
use crate::pg::layout;
use crate::plan::access::{Act, Bar, Way, way};
use crate::plan::action::{Action, Removal, TargetEntry};
use crate::plan::guard::Findings;

/// What keeps this user from changing something of the target; `None` is the data directory itself. Mostly empty.
pub type Bars = HashMap<Option<RelPath>, Bar>;

/// Judges work by what bars it.
pub struct Rights<'a> {
    bars: &'a Bars,
    mend: BTreeSet<RelPath>,
    barred: BTreeMap<String, Bar>,
}

impl<'a> Rights<'a> {
    pub fn new(bars: &'a Bars) -> Self {
        Self {
            bars,
            mend: BTreeSet::new(),
            barred: BTreeMap::new(),
        }
    }

    /// What becomes of an action on what the target has: a file that cannot be written in place comes as a whole in
    /// its place; then nothing of the target's is left of it. One that `is_shared` has another hard link, whose
    /// permission bits stay: it is copied, not mended. In a dry run nothing is mended, and what cannot be read counts
    /// as nothing.
    pub fn settle(
        &mut self,
        entry: &Entry,
        action: Action,
        here: Option<TargetEntry>,
        is_shared: bool,
        is_dry_run: bool,
    ) -> (Action, Option<TargetEntry>) {
        if self.bars.is_empty() {
            return (action, here);
        }
        let path = &entry.path;
        let is_file = here.is_some_and(|here| here.kind == layout::Kind::File);
        match action {
            Action::Keep if entry.kind == EntryKind::Directory && layout::is_managed(path) => {
                // The server has to work in it.
                self.check(Some(path), Act::ChangeWithin);
            }
            Action::Keep | Action::KeepWhole | Action::Skip => {}
            Action::MakeDirectory { obstacle }
            | Action::Fetch { obstacle, .. }
            | Action::Whole {
                obstacle: obstacle @ Some(_),
            } => {
                self.check(path.parent().as_ref(), Act::ChangeWithin);
                if obstacle.is_some() {
                    self.remove_with_content(path);
                }
            }
            Action::Compare { .. } | Action::Whole { obstacle: None } if is_file => {
                let act = if is_shared {
                    self.check(path.parent().as_ref(), Act::ChangeWithin);
                    Act::Unshare
                } else {
                    Act::Write
                };
                if self.check(Some(path), act) == Way::Replace {
                    return self.replaced(entry, action);
                }
                let bar = self.bars.get(&Some(path.clone()));
                if is_dry_run && bar == Some(&Bar::Mode { can_read: false }) {
                    let fetch = Action::Compare {
                        compare_bytes: 0,
                        fetch_bytes: entry.size,
                    };
                    return (fetch, here);
                }
            }
            Action::Compare { .. } | Action::Whole { obstacle: None } => {
                self.check(path.parent().as_ref(), Act::ChangeWithin);
            }
        }
        (action, here)
    }

    fn replaced(&mut self, entry: &Entry, action: Action) -> (Action, Option<TargetEntry>) {
        self.check(entry.path.parent().as_ref(), Act::ChangeWithin);
        self.check(Some(&entry.path), Act::Remove);
        let obstacle = Some(layout::Kind::File);
        let action = match action {
            Action::Whole { .. } => Action::Whole { obstacle },
            _ => Action::Fetch {
                bytes: entry.size,
                obstacle,
            },
        };
        (action, None)
    }

    /// Checks that the directories in which a server keeps data can be changed.
    pub fn manage(&mut self, tree: &Listing<layout::Kind>) {
        if self.bars.is_empty() {
            return;
        }
        let directories = tree
            .iter()
            .filter(|item| item.kind == layout::Kind::Directory);
        for path in directories.map(|item| item.path()) {
            if layout::is_managed(&path) {
                self.check(Some(&path), Act::ChangeWithin);
            }
        }
    }

    /// Checks what is removed.
    pub fn remove_all(&mut self, removals: &Listing<Removal>) {
        if self.bars.is_empty() {
            return;
        }
        for item in removals.iter() {
            let path = item.path();
            self.check(item.directory, Act::ChangeWithin);
            self.remove(&path, item.kind.kind == layout::Kind::Directory);
        }
    }

    fn remove(&mut self, path: &RelPath, is_directory: bool) {
        if is_directory {
            self.check(Some(path), Act::ChangeWithin);
        }
        self.check(Some(path), Act::Remove);
    }

    /// Something goes with all that is in it.
    fn remove_with_content(&mut self, path: &RelPath) {
        let beneath = self.bars.keys().flatten();
        let beneath: Vec<RelPath> = beneath.filter(|at| at.starts_with(path)).cloned().collect();
        for at in beneath {
            // Of a file this asks more than is needed only where nothing can be changed anyway.
            let is_directory = matches!(self.bars.get(&Some(at.clone())), Some(Bar::Closed));
            self.remove(&at, is_directory);
        }
    }

    fn check(&mut self, path: Option<&RelPath>, act: Act) -> Way {
        let Some(bar) = self.bars.get(&path.cloned()).copied() else {
            return Way::Free;
        };
        let way = way(bar, act);
        // The data directory itself has its own check.
        if let Some(path) = path {
            match way {
                Way::Mend => {
                    self.mend.insert(path.clone());
                }
                Way::Barred => {
                    self.barred.insert(path.to_string(), bar);
                }
                Way::Free | Way::Replace => {}
            }
        }
        way
    }

    /// Checks what no entry of a list stands for: what closing the target changes, directories that are emptied, and
    /// places of WAL and tablespaces.
    ///
    /// # Errors
    /// A place that cannot be looked at.
    pub fn around(
        &mut self,
        options: &RebuildOptions,
        findings: &Findings,
        emptied: &[RelPath],
        version_directory: &str,
    ) -> Result<(), DiskError> {
        let pgdata = &options.pgdata;
        let parsed = |name: &str| RelPath::parse(name.as_bytes()).ok();
        for name in layout::REPLACED_BY_CLOSING {
            self.check(parsed(name).as_ref(), Act::Remove);
        }
        self.making(pgdata)?;
        let wal = pgdata.join("pg_wal");
        if let Some(waldir) = options.waldir.as_ref().filter(|_| !disk::exists(&wal)) {
            self.making(waldir)?;
        }
        for placement in &findings.placements {
            if let Some(location) = placement.location_path() {
                self.making(&location)?;
            }
        }
        for path in emptied.iter().cloned().chain(parsed("pg_wal")) {
            let place = pgdata.join(path.as_path());
            let is_link = disk::link(&place).is_some() && path.as_bytes() != b"pg_wal";
            for (at, bar) in access::bars_of_emptying(&place)? {
                let beneath = at.strip_prefix(pgdata).ok().and_then(Path::to_str);
                let beneath = beneath.filter(|_| !is_link).and_then(parsed);
                self.emptying(&at, beneath, bar);
            }
        }
        // Of those that are not the target's own only the link goes.
        let stale = findings.stale_tablespaces.iter();
        for stale in stale.filter(|stale| stale.left.is_none()) {
            let link = pgdata.join("pg_tblspc").join(stale.oid.to_string());
            let ours = link.join(version_directory);
            if disk::link(&link).is_some() && disk::directory(&ours)?.is_some() {
                self.making(&link)?;
                for (at, bar) in access::bars_of_emptying(&ours)? {
                    self.emptying(&at, None, bar);
                }
            }
        }
        Ok(())
    }

    fn making(&mut self, path: &Path) -> Result<(), DiskError> {
        if let Some((at, bar)) = access::bar_of_making(path)? {
            self.barred.insert(at.display().to_string(), bar);
        }
        Ok(())
    }

    /// Something in a directory that is emptied: a directory that is not empty, or a file.
    fn emptying(&mut self, at: &Path, beneath: Option<RelPath>, bar: Bar) {
        let is_directory = disk::link(at).is_none() && !disk::is_something_else(at);
        let act = if is_directory {
            Act::ChangeWithin
        } else {
            Act::Remove
        };
        match (way(bar, act), beneath) {
            (Way::Mend, Some(beneath)) => {
                self.mend.insert(beneath);
            }
            (Way::Mend | Way::Barred, _) => {
                self.barred.insert(at.display().to_string(), bar);
            }
            (Way::Free | Way::Replace, _) => {}
        }
    }

    /// What must be mended, and what bars the way.
    pub fn into_parts(self) -> (Vec<RelPath>, Vec<(String, Bar)>) {
        (
            self.mend.into_iter().collect(),
            self.barred.into_iter().collect(),
        )
    }
}
