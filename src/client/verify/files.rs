//! Files that only one side has: which of them are a fault.
//!
//! A file that came or went before an earlier look, and the WAL of which both sides have replayed and checkpointed
//! since, is there on both sides or on none.

use std::collections::BTreeSet;

use crate::client::verify::lists::Work;
use crate::path::RelPath;
use crate::pg::lsn::Lsn;

/// What only one side had, and what of it is wrong.
#[derive(Debug, Default)]
pub struct Files {
    earlier: Vec<Look>,
    pub missing: BTreeSet<RelPath>,
    pub superfluous: BTreeSet<RelPath>,
}

/// What only one side had at a look.
#[derive(Debug)]
struct Look {
    /// The source's end of WAL after it.
    end: Lsn,
    only_source: BTreeSet<RelPath>,
    only_standby: BTreeSet<RelPath>,
}

impl Files {
    /// Judges what only one side has now, and remembers it; `end` is the source's end of WAL after that was seen. For a
    /// source at rest, `source_end` is the end of all its WAL. `has_old` tells of files of which the source has pages
    /// that the standby must have. Returns those that cannot be judged yet.
    pub fn judge(
        &mut self,
        work: &Work,
        threshold: Lsn,
        end: Lsn,
        source_end: Option<Lsn>,
        has_old: impl Fn(&RelPath) -> bool,
    ) -> Vec<(RelPath, u64)> {
        let is_past = |end: Lsn| end <= threshold;
        let is_source_past = source_end.is_some_and(is_past);
        let mut pending = Vec::new();
        for (path, blocks) in &work.only_source {
            let was_missing = |look: &Look| is_past(look.end) && look.only_source.contains(path);
            if has_old(path) || is_source_past || self.earlier.iter().any(was_missing) {
                self.missing.insert(path.clone());
            } else if self.is_of_first(|look| look.only_source.contains(path)) {
                pending.push((path.clone(), *blocks));
            }
        }
        for (path, blocks) in &work.only_standby {
            let was_there = |look: &Look| is_past(look.end) && look.only_standby.contains(path);
            if is_source_past || self.earlier.iter().any(was_there) {
                self.superfluous.insert(path.clone());
            } else if self.is_of_first(|look| look.only_standby.contains(path)) {
                pending.push((path.clone(), *blocks));
            }
        }
        self.earlier.push(Look {
            end,
            only_source: work.only_source.keys().cloned().collect(),
            only_standby: work.only_standby.keys().cloned().collect(),
        });
        pending
    }

    /// What came after the first look is not compared at all.
    fn is_of_first(&self, was_there: impl Fn(&Look) -> bool) -> bool {
        self.earlier.first().is_none_or(was_there)
    }

    /// Whether a file is wrong as a whole.
    #[must_use]
    pub fn is_wrong(&self, path: &RelPath) -> bool {
        self.missing.contains(path) || self.superfluous.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> RelPath {
        RelPath::parse(name.as_bytes()).unwrap()
    }

    fn work(only_source: &[&str], only_standby: &[&str]) -> Work {
        let set = |names: &[&str]| names.iter().map(|name| (path(name), 3)).collect();
        Work {
            only_source: set(only_source),
            only_standby: set(only_standby),
            ..Work::default()
        }
    }

    const A: &str = "base/1/2";
    const B: &str = "base/1/3";
    const C: &str = "base/1/4";

    #[test]
    fn what_one_side_lacks_counts_once_both_have_come_so_far() {
        let mut files = Files::default();
        let mut judge = |work, threshold, end| {
            let pending = files.judge(&work, Lsn(threshold), Lsn(end), None, |_| false);
            let wrong = [A, B, C].map(|name| files.is_wrong(&path(name)));
            (pending.len(), wrong)
        };
        assert_eq!(judge(work(&[A], &[B]), 10, 20), (2, [false; 3]));
        // Not far enough; a new one is none of ours.
        assert_eq!(judge(work(&[A, C], &[B]), 19, 30), (2, [false; 3]));
        assert_eq!(judge(work(&[A, C], &[B]), 20, 40), (0, [true, true, false]));
    }

    #[test]
    fn what_came_meanwhile_is_no_fault() {
        let mut files = Files::default();
        files.judge(&work(&[A], &[B]), Lsn(10), Lsn(20), None, |_| false);
        let pending = files.judge(&work(&[], &[]), Lsn(50), Lsn(60), None, |_| false);
        assert!(pending.is_empty() && !files.is_wrong(&path(A)) && !files.is_wrong(&path(B)));
    }

    #[test]
    fn of_a_source_at_rest_or_with_old_pages_nothing_need_be_waited_for() {
        let mut files = Files::default();
        let pending = files.judge(
            &work(&[A, C], &[B]),
            Lsn(10),
            Lsn(10),
            Some(Lsn(11)),
            |at| *at == path(C),
        );
        assert_eq!(pending.len(), 2);
        assert!(files.is_wrong(&path(C)));
        let pending = files.judge(&work(&[A], &[B]), Lsn(11), Lsn(11), Some(Lsn(11)), |_| {
            false
        });
        assert!(pending.is_empty());
        assert!(files.is_wrong(&path(A)) && files.is_wrong(&path(B)));
    }
}
