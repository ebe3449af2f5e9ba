//! Directories that options name, and those that links lead to: what is there would go, so nothing may be there,
//! or nothing of anybody else.

use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;
use crate::plan::saved::{Coverage, Stretch};
use crate::plan::tablespaces::{PlaceState, SharedLink, TargetPlaces, canonical, is_inside};
use crate::plan::words::text;

/// Whether pg_wal can be made where it shall be: everything there would go.
pub(super) fn judge(places: &TargetPlaces) -> Option<Refusal> {
    let (waldir, place) = places.new_waldir.as_ref()?;
    let problem = match &place.state {
        PlaceState::Missing | PlaceState::Empty => None,
        PlaceState::NotDirectory => Some("it is not a directory".to_owned()),
        PlaceState::ForeignContent { example } => Some(format!("it holds \"{example}\"")),
        PlaceState::Free | PlaceState::OurVersion => Some("it holds a tablespace".to_owned()),
    };
    let pgdata = canonical(&places.pgdata);
    let is_inside_pgdata = is_inside(&canonical(waldir), &pgdata);
    let problem = if is_inside_pgdata {
        Some("it is in the data directory".to_owned())
    } else {
        problem
    };
    problem.map(|problem| Refusal::WaldirUnfit {
        waldir: text(waldir),
        problem,
    })
}

/// Whether a directory that every rebuild empties is another data directory's too.
pub(super) fn judge_links(places: &TargetPlaces) -> Vec<Refusal> {
    let shared = places.shared_links.iter();
    let refuse = |shared: &SharedLink| Refusal::DirectoryShared {
        link: shared.link.clone(),
        location: shared.location.clone(),
        other: shared.sharer.clone(),
    };
    shared.map(refuse).collect()
}

/// Whether a directory that the run needs is behind a link that leads nowhere: most often something is not mounted,
/// and what is made in its place would fill another file system.
pub(super) fn judge_dangling(places: &TargetPlaces) -> Option<Refusal> {
    let links = places.dangling.iter();
    let links: Vec<_> = links
        .map(|found| (found.link.clone(), found.leads_to.clone()))
        .collect();
    (!links.is_empty()).then_some(Refusal::DanglingLinks { links })
}

/// Judges whether all WAL that only the target has is still there to be saved.
///
/// # Errors
/// Parts are gone, and that may not be.
pub fn diverged_wal(coverage: &Coverage, overrides: &Overrides) -> Result<(), Refusal> {
    match coverage.lack() {
        Some(lack) if !overrides.keep_incomplete_wal => Err(Refusal::DivergedWalIncomplete {
            missing: coverage.gone.iter().map(Stretch::segments).collect(),
            lack,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::TimelineId;
    use crate::plan::tablespaces::{Dangling, Sharer};

    #[test]
    fn emptied_directories_of_two_are_refused() {
        let mut places = TargetPlaces::default();
        assert_eq!(judge_links(&places), []);
        places.shared_links.push(SharedLink {
            link: "pg_wal".to_owned(),
            location: b"/wal".to_vec(),
            sharer: Sharer {
                pgdata: "/srv/c".to_owned(),
                server_pid: None,
            },
        });
        assert_eq!(judge_links(&places)[0].name(), "directory-shared");
    }

    #[test]
    fn links_that_lead_nowhere_are_refused_together() {
        let mut places = TargetPlaces::default();
        assert_eq!(judge_dangling(&places), None);
        for link in ["pg_wal", "/srv/pg"] {
            places.dangling.push(Dangling {
                link: link.to_owned(),
                leads_to: "/mnt/x".to_owned(),
                is_above: link == "/srv/pg",
            });
        }
        let refusal = judge_dangling(&places).unwrap();
        assert!(
            refusal.error().contains(
                "\"pg_wal\" is a link to \"/mnt/x\", \"/srv/pg\" is a link to \"/mnt/x\""
            )
        );
    }

    #[test]
    fn less_than_all_is_saved_only_when_told() {
        let whole = Coverage::default();
        let partly = Coverage {
            there: Vec::new(),
            gone: vec![Stretch {
                timeline: TimelineId(1),
                first: "000000010000000000000003".to_owned(),
                last: "000000010000000000000004".to_owned(),
                from: Lsn(0x300_0060),
                until: Some(Lsn(0x500_0000)),
            }],
        };
        let accepted = Overrides {
            keep_incomplete_wal: true,
            ..Overrides::default()
        };
        assert!(diverged_wal(&whole, &Overrides::default()).is_ok());
        assert!(diverged_wal(&partly, &accepted).is_ok());
        let refusal = diverged_wal(&partly, &Overrides::default()).unwrap_err();
        assert!(
            refusal
                .error()
                .contains("000000010000000000000003 to 000000010000000000000004")
        );
    }
}
