//! Giving up rights that are not needed any more, by Landlock (`landlock(7)`, Linux 5.13 and later): whatever a
//! peer makes of this program then, it cannot write elsewhere.
//!
//! The rights are those of a thread and of all that it starts later.

use std::path::Path;

use landlock::{
    ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus,
};

/// The newest rules that this program knows; an older kernel keeps what it can.
const RULES: ABI = ABI::V5;

/// How far the kernel keeps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    Wholly,
    /// An older kernel: not every way of writing is barred.
    Partly,
    /// The kernel has no Landlock, or it is switched off.
    No,
}

/// From here on this thread, and all that it starts, can make, change and remove files beneath `places` only; what it
/// has open stays open. Places that do not exist are left out.
///
/// # Errors
/// What the kernel says against it, in words.
pub fn to_writing_beneath<P: AsRef<Path>>(
    places: impl IntoIterator<Item = P>,
) -> Result<Confined, String> {
    let confined = confine(places).map_err(|error| error.to_string())?;
    Ok(match confined {
        RulesetStatus::FullyEnforced => Confined::Wholly,
        RulesetStatus::PartiallyEnforced => Confined::Partly,
        RulesetStatus::NotEnforced => Confined::No,
    })
}

fn confine<P: AsRef<Path>>(
    places: impl IntoIterator<Item = P>,
) -> Result<RulesetStatus, RulesetError> {
    let writing = AccessFs::from_write(RULES);
    let mut rules = Ruleset::default().handle_access(writing)?.create()?;
    for place in places {
        if let Ok(place) = PathFd::new(place) {
            rules = rules.add_rule(PathBeneath::new(place, writing))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_writes_in_its_places_only() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        for place in [&inside, &outside] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("old"), "old").unwrap();
        }
        let confined = std::thread::spawn({
            let (inside, outside) = (inside.clone(), outside.clone());
            move || {
                let confined = to_writing_beneath([inside.as_path(), Path::new("/no/such/place")]);
                if confined == Ok(Confined::No) {
                    return false;
                }
                assert!(confined.is_ok(), "{confined:?}");
                std::fs::write(inside.join("new"), "new").unwrap();
                std::fs::remove_file(inside.join("old")).unwrap();
                assert!(std::fs::write(outside.join("new"), "new").is_err());
                assert!(std::fs::write(outside.join("old"), "new").is_err());
                assert!(std::fs::remove_file(outside.join("old")).is_err());
                assert!(std::fs::rename(inside.join("new"), outside.join("new")).is_err());
                assert_eq!(std::fs::read(outside.join("old")).unwrap(), b"old");
                true
            }
        });
        let is_confined = confined.join().unwrap();
        // This thread is as it was.
        std::fs::write(outside.join("old"), "new").unwrap();
        let has_landlock = std::fs::read_to_string("/sys/kernel/security/lsm")
            .is_ok_and(|modules| modules.contains("landlock"));
        assert!(is_confined || !has_landlock, "this kernel has Landlock");
    }
}
