//! Whether each file system has room for what must come.

use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;

/// What one file system must take, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomNeed {
    /// A directory on it, for people.
    pub place: String,
    pub needed_bytes: u64,
    pub available_bytes: u64,
}

/// Judges whether all that must come has room, given one need for each file system.
///
/// # Errors
/// One refusal for each file system that is too small.
pub fn room(needs: &[RoomNeed], overrides: &Overrides) -> Result<(), Vec<Refusal>> {
    let refusals: Vec<Refusal> = needs
        .iter()
        .filter(|need| need.needed_bytes > need.available_bytes && !overrides.ignore_free_space)
        .map(|need| Refusal::NoRoom {
            place: need.place.clone(),
            needed_bytes: need.needed_bytes,
            available_bytes: need.available_bytes,
        })
        .collect();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_room_is_refused() {
        let overrides = Overrides::default();
        let need = |needed_bytes| RoomNeed {
            place: "/srv".to_owned(),
            needed_bytes,
            available_bytes: 100,
        };
        assert!(room(&[need(100)], &overrides).is_ok());
        assert_eq!(
            room(&[need(100), need(101)], &overrides).unwrap_err().len(),
            1
        );
        let ignore = Overrides {
            ignore_free_space: true,
            ..Overrides::default()
        };
        assert!(room(&[need(101)], &ignore).is_ok());
    }
}
