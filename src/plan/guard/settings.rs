//! What the standby would have less of than the source.

use crate::plan::refusal::Refusal;
use crate::plan::settings::TooLow;

/// Judges what the target's configuration gives to the standby.
///
/// # Errors
/// It is less than the source has.
pub fn settings(settings: Vec<TooLow>) -> Result<(), Refusal> {
    if settings.is_empty() {
        Ok(())
    } else {
        Err(Refusal::SettingsTooLow { settings })
    }
}
