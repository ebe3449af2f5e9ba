//! What becomes of tablespaces that only the target has.

use super::places::TargetPlaces;
use super::stale_links;
use crate::facts::Tablespace;
use crate::plan::words::text;

/// A tablespace that only the target has: its link goes, and mostly the cluster's version directory behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleTablespace {
    pub oid: u32,
    /// Where its link leads; `None` for one in the data directory.
    pub location: Option<Vec<u8>>,
    /// Why what is behind the link stays: a clause.
    pub left: Option<String>,
}

/// Decides about the tablespaces that the target has and the source has not. What is behind a link goes only when
/// it is this target's: a copied data directory leads to the tablespaces of its original.
#[must_use]
pub fn stale(places: &TargetPlaces, source: &[Tablespace]) -> Vec<StaleTablespace> {
    let oids = stale_links(
        places.existing.iter().map(|here| here.oid),
        source.iter().map(|there| there.oid),
    );
    let decide = |oid| {
        let here = places.existing.iter().find(|here| here.oid == oid)?;
        let left = here.location.as_ref().and_then(|_| {
            let behind = places.behind.get(&oid)?;
            match &behind.sharer {
                Some(sharer) => Some(match sharer.server_pid {
                    Some(pid) => {
                        format!("the server with pid {pid} in \"{}\" uses it", sharer.pgdata)
                    }
                    None => format!("\"{}\" leads there too", sharer.pgdata),
                }),
                None => (!behind.is_owner).then(|| "it belongs to another user".to_owned()),
            }
        });
        Some(StaleTablespace {
            oid,
            location: here.location.clone(),
            left,
        })
    };
    oids.into_iter().filter_map(decide).collect()
}

impl StaleTablespace {
    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.location {
            Some(location) => text(location),
            None => format!("pg_tblspc/{}", self.oid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::{Behind, Sharer};
    use super::super::samples::{OTHER_HOST, target_at};
    use super::*;
    use crate::plan::samples::tablespace;

    #[test]
    fn what_another_data_directory_uses_stays() {
        let mut places = target_at(OTHER_HOST, &[]);
        let sharer = |server_pid| {
            Some(Sharer {
                pgdata: "/srv/c".to_owned(),
                server_pid,
            })
        };
        let in_place = Tablespace {
            oid: 5,
            location: None,
            identity: None,
        };
        places.existing = vec![
            tablespace(1, "/one", 1),
            tablespace(2, "/two", 2),
            tablespace(3, "/three", 3),
            tablespace(4, "/four", 4),
            in_place,
            tablespace(6, "/six", 6),
        ];
        for (oid, sharer, is_owner) in [
            (1, sharer(Some(7)), true),
            (2, sharer(None), true),
            (3, None, false),
            (4, None, true),
        ] {
            places.behind.insert(oid, Behind { sharer, is_owner });
        }
        let found = stale(&places, &[tablespace(6, "/six", 9)]);
        let left: Vec<_> = found
            .iter()
            .map(|stale| (stale.oid, stale.left.as_deref().unwrap_or("")))
            .collect();
        assert_eq!(
            left,
            [
                (1, "the server with pid 7 in \"/srv/c\" uses it"),
                (2, "\"/srv/c\" leads there too"),
                (3, "it belongs to another user"),
                (4, ""),
                (5, ""),
            ]
        );
    }
}
