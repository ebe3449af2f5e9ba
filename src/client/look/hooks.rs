//! The SQL of a copy's hooks, read before anything else happens.

use std::path::Path;

use crate::client::failure::{Failure, TargetState};
use crate::client::options::{Hook, RebuildOptions};
use crate::disk::read::read_if_there;

/// Longest file of a hook.
const SCRIPT_MAX: u64 = 256 * 1024 * 1024;

/// A script and the name by which messages call it.
pub struct Script {
    pub name: String,
    pub sql: Vec<u8>,
}

/// All scripts, in their order.
#[derive(Default)]
pub struct Hooks {
    pub before_start: Vec<Script>,
    pub after_start: Vec<Script>,
}

/// Reads the scripts.
///
/// # Errors
/// A file that is not there or cannot be read.
pub fn read(options: &RebuildOptions) -> Result<Hooks, Failure> {
    let hooks = &options.hooks;
    Ok(Hooks {
        before_start: scripts("--before-start", &hooks.before_start)?,
        after_start: scripts("--after-start", &hooks.after_start)?,
    })
}

fn scripts(option: &str, hooks: &[Hook]) -> Result<Vec<Script>, Failure> {
    let numbered = hooks.iter().enumerate();
    numbered
        .map(|(number, hook)| match hook {
            Hook::Text(text) => Ok(Script {
                name: match hooks.len() {
                    1 => option.to_owned(),
                    _ => format!("{option} number {}", number + 1),
                },
                sql: text.clone().into_bytes(),
            }),
            Hook::File(path) => Ok(Script {
                name: format!("{option} \"@{}\"", path.display()),
                sql: file(option, path)?,
            }),
        })
        .collect()
}

fn file(option: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let read = read_if_there(path, SCRIPT_MAX);
    let read = read.map_err(|error| Failure::untouched(&error))?;
    read.ok_or_else(|| {
        let path = path.display();
        Failure::new(
            TargetState::Untouched,
            format!("the file \"{path}\" of {option} does not exist"),
        )
    })
}
