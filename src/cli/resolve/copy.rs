//! What makes no sense together with `--role clone`, and what needs it.

use std::path::PathBuf;

use super::{Surroundings, UsageError, absolute, first_given, of_a_standby};
use crate::cli::args::RebuildArguments;
use crate::cli::values::WalMethod;
use crate::client::options::{Hook, HookOptions};

/// Refuses what only a standby has.
///
/// # Errors
/// One of the options was given.
pub fn judge(typed: &RebuildArguments) -> Result<(), UsageError> {
    let has_no_effect = of_a_standby(typed).into_iter().chain([
        ("-X none", typed.wal_method == WalMethod::None),
        ("--no-login-check", typed.overrides.no_login_check),
    ]);
    match first_given(has_no_effect) {
        None => Ok(()),
        Some(option) => Err(UsageError::new(format_args!(
            "option \"{option}\" makes no sense with \"--role clone\""
        ))
        .hint("A copy has no slot, never connects to the source, and recovers from what the run brings.")),
    }
}

/// Refuses what only a copy has.
///
/// # Errors
/// One of the options was given.
pub fn judge_others(typed: &RebuildArguments) -> Result<(), UsageError> {
    let copy = &typed.copy;
    let given = [
        ("--before-start", !copy.before_start.is_empty()),
        ("--after-start", !copy.after_start.is_empty()),
        ("--hook-user", copy.hook_user.is_some()),
        ("--keep-archive-mode", copy.keep_archive_mode),
    ];
    match first_given(given) {
        None => Ok(()),
        Some(option) => Err(UsageError::new(format_args!(
            "option \"{option}\" needs \"--role clone\""
        ))),
    }
}

/// The hooks.
///
/// # Errors
/// There is nothing to run in, or nobody to run it.
pub fn hooks(
    typed: &RebuildArguments,
    starts: bool,
    around: &Surroundings,
) -> Result<HookOptions, UsageError> {
    let copy = &typed.copy;
    if !copy.after_start.is_empty() && !starts {
        return Err(UsageError::new(
            "option \"--after-start\" needs \"--start\"",
        ));
    }
    let is_lawful = |name: &String| !name.is_empty() && !name.contains(char::is_control);
    if !copy.hook_user.iter().all(is_lawful) {
        return Err(UsageError::new(
            "the value of \"--hook-user\" is empty or contains control characters",
        ));
    }
    let hook = |option: &'static str| {
        move |text: &String| match text.strip_prefix('@') {
            Some(file) => absolute(option, PathBuf::from(file), around).map(Hook::File),
            None => Ok(Hook::Text(text.clone())),
        }
    };
    let each = |option, texts: &[String]| texts.iter().map(hook(option)).collect();
    let before_start: Result<Vec<_>, _> = each("--before-start", &copy.before_start);
    let after_start: Result<Vec<_>, _> = each("--after-start", &copy.after_start);
    Ok(HookOptions {
        before_start: before_start?,
        after_start: after_start?,
        user: copy.hook_user.clone(),
    })
}
