//! Tablespaces that the source got while the run went on. The places of the others are judged in
//! `plan::tablespaces`.

use crate::plan::refusal::Refusal;
use crate::plan::tablespaces::{Placement, stale_links};

/// Judges the tablespaces of the manifest, which the source may have got since it was looked at.
///
/// # Errors
/// Some have no place yet.
pub fn new_tablespaces(
    placements: &[Placement],
    in_manifest: impl IntoIterator<Item = u32>,
) -> Result<(), Refusal> {
    let known = placements.iter().map(|placement| placement.oid);
    let oids = stale_links(in_manifest, known);
    if oids.is_empty() {
        Ok(())
    } else {
        Err(Refusal::NewTablespaces { oids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_without_a_place_are_refused() {
        let known = [Placement {
            oid: 16_400,
            location: None,
            create: false,
            relink: false,
            former: None,
        }];
        assert!(new_tablespaces(&known, [16_400]).is_ok());
        assert_eq!(
            new_tablespaces(&known, [16_401, 16_400, 16_401]).unwrap_err(),
            Refusal::NewTablespaces { oids: vec![16_401] }
        );
    }
}
