//! How many files of the target a run may remove.

use crate::plan::refusal::Refusal;

/// Judges how many files the run would remove from the target, of which `examples` names some; `None` is no limit.
///
/// # Errors
/// More than the limit.
pub fn max_delete(
    limit: Option<u64>,
    files: u64,
    examples: impl FnOnce() -> Vec<String>,
) -> Result<(), Refusal> {
    match limit {
        Some(limit) if files > limit => Err(Refusal::TooManyRemovals {
            limit,
            files,
            examples: examples(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_removals_than_the_limit_are_refused() {
        assert!(max_delete(None, u64::MAX, Vec::new).is_ok());
        assert!(max_delete(Some(3), 3, Vec::new).is_ok());
        assert!(max_delete(Some(3), 4, Vec::new).is_err());
    }
}
