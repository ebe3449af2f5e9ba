//! What a list must not hold, whoever made it.

use std::collections::HashMap;

use super::{EntryKind, Folder, Listing, Manifest};
use crate::path::RelPath;
use crate::pg::layout;

impl Listing<EntryKind> {
    /// A directory that has entries and is none itself. The links of tablespaces are in no list.
    #[must_use]
    pub fn orphan(&self) -> Option<&RelPath> {
        let is_listed = |path: &RelPath| {
            let found = self.find(path);
            found.map(|item| item.kind == EntryKind::Directory)
        };
        let is_link = |path: &RelPath| {
            let above = path.parent().and_then(|above| is_listed(&above));
            layout::tablespace_oid(path).is_some() && above == Some(true)
        };
        let mut directories = self.folders.iter().filter_map(Folder::directory);
        directories.find(|path| !is_listed(path).unwrap_or_else(|| is_link(path)))
    }
}

/// A path of the manifest and another one, of it or of `here`, that are the same where upper and lower case are not
/// told apart. Takes room for all paths of the manifest.
#[must_use]
pub fn twins<K: Copy>(manifest: &Manifest, here: &Listing<K>) -> Option<(RelPath, RelPath)> {
    let fold = |path: &RelPath| String::from_utf8_lossy(path.as_bytes()).to_lowercase();
    let mut known: HashMap<String, RelPath> = HashMap::new();
    for item in manifest.iter() {
        let path = item.path();
        if let Some(twin) = known.insert(fold(&path), path.clone()) {
            return Some((path, twin));
        }
    }
    here.iter().find_map(|item| {
        let path = item.path();
        let twin = known.get(&fold(&path)).filter(|twin| **twin != path)?;
        Some((twin.clone(), path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_need_their_directory() {
        let list = |entries: &[(&str, EntryKind)]| {
            let folders = entries.iter().map(|(path, kind)| {
                let path = RelPath::parse(path.as_bytes()).unwrap();
                let mut folder = Folder::new(path.parent());
                folder.push(path.name(), *kind, 0).unwrap();
                folder
            });
            Listing::from_folders(folders.collect()).unwrap()
        };
        let (file, directory) = (EntryKind::File, EntryKind::Directory);
        let orphan =
            |entries: &[(&str, EntryKind)]| list(entries).orphan().map(ToString::to_string);
        assert_eq!(orphan(&[]), None);
        assert_eq!(orphan(&[("PG_VERSION", file)]), None);
        assert_eq!(orphan(&[("base", directory), ("base/1", file)]), None);
        assert_eq!(
            orphan(&[("base", file), ("base/1", file)]).as_deref(),
            Some("base")
        );
        assert_eq!(
            orphan(&[("base", directory), ("base/1/2", file)]).as_deref(),
            Some("base/1")
        );
        // The link is in no list.
        let tablespace = [
            ("pg_tblspc", directory),
            ("pg_tblspc/7/PG_15_1", directory),
            ("pg_tblspc/7/PG_15_1/2", directory),
        ];
        assert_eq!(orphan(&tablespace), None);
        assert_eq!(orphan(&tablespace[1..]).as_deref(), Some("pg_tblspc/7"));
        assert_eq!(
            orphan(&tablespace[2..]).as_deref(),
            Some("pg_tblspc/7/PG_15_1")
        );
    }

    #[test]
    fn twins_differ_by_case_only() {
        let manifest = |names: &[&str]| {
            let mut top = Folder::new(None);
            for name in names {
                top.push(name.as_bytes(), EntryKind::File, 0).unwrap();
            }
            Listing::from_folders(vec![top]).unwrap()
        };
        let found = |theirs: &[&str], ours: &[&str]| {
            let twins = twins(&manifest(theirs), &manifest(ours))?;
            Some((twins.0.to_string(), twins.1.to_string()))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(found(&["A", "b"], &["A", "c"]), None);
        assert_eq!(found(&["A", "a"], &[]), pair("a", "A"));
        assert_eq!(
            found(&["More.conf"], &["more.conf"]),
            pair("More.conf", "more.conf")
        );
        assert_eq!(found(&["\u{c4}"], &["\u{e4}"]), pair("\u{c4}", "\u{e4}"));
        // What only the target has goes or stays as it is.
        assert_eq!(found(&["x"], &["A", "a"]), None);
    }
}
