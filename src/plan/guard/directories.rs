//! Directories that options name: what is there would go, so nothing may be there.

use crate::plan::refusal::Refusal;
use crate::plan::tablespaces::{PlaceState, TargetPlaces, canonical, is_inside};
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
