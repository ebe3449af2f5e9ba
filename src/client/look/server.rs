//! The server that the target's configuration makes: where it works, whether it stays a standby, what of its
//! settings may surprise. Where the server's programs are, they say it; else our own reading of the files does.

use std::path::{Path, PathBuf};

use crate::client::failure::{Failure, TargetState};
use crate::client::look::conf;
use crate::client::look::settings;
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::disk::conf::{Base, CONF_FILE_MAX};
use crate::disk::facts as disk;
use crate::disk::read::read_if_there;
use crate::plan::guard::{self, ConfiguredDirectory, Location};
use crate::plan::in_force::{InForce, in_force};
use crate::plan::refusal::Refusal;
use crate::plan::standby::{Role, StandbySettings, role};
use crate::postmaster;
use crate::warning::Code;

/// Judges the server that the target's own configuration makes, and says what of it stays in force. Nothing to do
/// where the source's configuration comes.
///
/// # Errors
/// The refusals.
pub async fn judge_server(
    run: &Run<'_>,
    is_seed: bool,
    bindir: Option<&Path>,
) -> Result<(), Failure> {
    let options = run.options;
    if !settings::has_own_configuration(options, is_seed) {
        return Ok(());
    }
    let (pgdata, config_file) = (&options.pgdata, options.config_file.as_deref());
    // What is empty, whoever writes the standby's settings writes anew.
    let mut refusals: Vec<Refusal> = match options.role {
        Role::Managed => Vec::new(),
        Role::Standby | Role::Clone => without_content(pgdata, config_file)
            .err()
            .into_iter()
            .collect(),
    };
    let said = said(options, bindir).await;
    refusals.extend(serves(pgdata, config_file, said.as_deref()).err());
    if !refusals.is_empty() {
        return Err(Failure::refused(&refusals));
    }
    tell(run);
    Ok(())
}

/// The same without a server's programs and without words: for `inspect`.
#[must_use]
pub fn problems(pgdata: &Path, config_file: Option<&Path>) -> Vec<Refusal> {
    let content = without_content(pgdata, config_file).err();
    content
        .into_iter()
        .chain(serves(pgdata, config_file, None).err())
        .collect()
}

/// What the server itself says of its data directory; `None` where it cannot be asked.
async fn said(options: &RebuildOptions, bindir: Option<&Path>) -> Option<PathBuf> {
    let config_file = options.config_file.as_deref();
    let name = "data_directory";
    let said = postmaster::setting(bindir?, &options.pgdata, config_file, name).await;
    said.ok().map(PathBuf::from)
}

/// The main file of a configuration.
fn main_file(pgdata: &Path, config_file: Option<&Path>) -> PathBuf {
    config_file.map_or_else(|| pgdata.join("postgresql.conf"), |file| pgdata.join(file))
}

fn location(path: &Path) -> Location {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Location {
        identity: disk::directory(&path)
            .ok()
            .flatten()
            .map(|found| found.identity),
        path: if disk::exists(&path) {
            disk::resolved(&path).display().to_string()
        } else {
            disk::resolved_beginning(&path).display().to_string()
        },
    }
}

/// Judges where the server works; `said` is its own word, which outweighs our reading.
///
/// # Errors
/// The refusal.
pub fn serves(
    pgdata: &Path,
    config_file: Option<&Path>,
    said: Option<&Path>,
) -> Result<(), Refusal> {
    let base = conf::base(pgdata, config_file);
    let text = base.data_directory.clone();
    let place = match (said, &text) {
        (Some(said), _) => said.to_owned(),
        // A relative path begins where the server is started, an empty one is that very directory
        // (`miscinit.c:SetDataDir`, `path.c:make_absolute_path`).
        (None, Some(text)) if text.is_empty() => PathBuf::from("."),
        (None, Some(text)) => PathBuf::from(text),
        (None, None) => return Ok(()),
    };
    let file = base.origins.get("data_directory");
    let configured = ConfiguredDirectory {
        text: text.unwrap_or_else(|| place.display().to_string()),
        file: file.map_or_else(
            || main_file(pgdata, config_file).display().to_string(),
            |file| file.display().to_string(),
        ),
        location: location(&place),
    };
    let pgdata_text = pgdata.display().to_string();
    guard::serves(&pgdata_text, &location(pgdata), Some(&configured))
}

/// Judges the files that no server can do without. What is missing or unreadable has words of its own.
fn without_content(pgdata: &Path, config_file: Option<&Path>) -> Result<(), Refusal> {
    let main = main_file(pgdata, config_file);
    let base = conf::base(pgdata, config_file);
    let hba = base.settings.get("hba_file").map_or_else(
        || pgdata.join("pg_hba.conf"),
        // A relative one begins where the server is started.
        |file| pgdata.join(file),
    );
    // What is empty there is filled with the source's (`plan::action`): a pg_rewind that was killed leaves it so.
    let filled = pgdata.join("pg_hba.conf");
    let texts: Vec<(String, Vec<u8>)> = [main, hba]
        .into_iter()
        .filter_map(|file| {
            let text = read_if_there(&file, CONF_FILE_MAX).ok().flatten()?;
            let is_judged = file != filled || !text.is_empty();
            is_judged.then(|| (file.display().to_string(), text))
        })
        .collect();
    guard::empty_configuration(texts.iter().map(|(name, text)| (name.as_str(), &text[..])))
}

/// Says which settings of the standby's files are overridden, and which stay in force and may surprise. Nothing of a
/// managed standby, whose files are not yet what they will be, nor of a copy, where all of it is overridden.
pub fn tell(run: &Run<'_>) {
    let options = run.options;
    if !options.role.has_settings() {
        return;
    }
    let base = conf::base(&options.pgdata, options.config_file.as_deref());
    let auto_conf = conf::auto_conf(&options.pgdata).unwrap_or_default();
    let InForce { warnings, notes } = of(base, included(&options.pgdata, &auto_conf), options);
    for warning in warnings {
        run.warn(Code::SettingInForce, warning);
    }
    for note in notes {
        run.events.note(note);
    }
}

fn of(mut base: Base, included: Base, options: &RebuildOptions) -> InForce {
    base.settings.extend(included.settings);
    base.origins.extend(included.origins);
    let said: Vec<&str> = [
        ("restore_command", &options.restore_command),
        ("archive_cleanup_command", &options.archive_cleanup_command),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.is_some().then_some(name))
    .collect();
    let origin = |name: &str| {
        base.origins
            .get(name)
            .map(|file| file.display().to_string())
    };
    in_force(&base.settings, origin, &said)
}

/// What `postgresql.auto.conf` with this text includes: PostgreSQL follows includes there too.
#[must_use]
pub fn included(pgdata: &Path, auto_conf: &[u8]) -> Base {
    Base::included_by(&pgdata.join(conf::AUTO_CONF), auto_conf)
}

/// Asks the server's program what it will be, with the files as they lie now and before its control file is there:
/// the standby that was built. A program that cannot tell is a warning: then the server would not start either, and
/// its files belong to the administrator.
///
/// # Errors
/// It would be another server: the target stays half-way.
pub async fn prove(
    run: &Run<'_>,
    bindir: Option<&Path>,
    wanted: &StandbySettings,
    major: u32,
) -> Result<(), Failure> {
    let options = run.options;
    let (pgdata, config_file) = (&options.pgdata, options.config_file.as_deref());
    let main = main_file(pgdata, config_file);
    let (Some(bindir), true) = (bindir, disk::exists(&main)) else {
        // Where its configuration is, nobody has said.
        return serves(pgdata, config_file, None)
            .map_err(|refusal| half_way(&refusal.error()).detail(refusal.detail()));
    };
    let ask = |name: &'static str| postmaster::setting(bindir, pgdata, config_file, name);
    let role = role(wanted, major);
    // Each answer is a process of its own.
    let (place, answers) = futures_util::future::join(
        ask("data_directory"),
        futures_util::future::join_all(role.iter().map(|(name, _)| ask(name))),
    )
    .await;
    match place {
        Ok(place) => serves(pgdata, config_file, Some(Path::new(&place))).map_err(|refusal| {
            half_way(&refusal.error())
                .detail(refusal.detail())
                .hint(refusal.hint())
        })?,
        Err(words) => {
            run.warn(
                Code::ConfigurationRejected,
                format!("A server would not start with the target's configuration: {words}."),
            );
            return Ok(());
        }
    }
    for ((name, value), answer) in role.into_iter().zip(answers) {
        match answer {
            Ok(found) if found == value => {}
            Ok(found)
                if name == "recovery_target_timeline" && found.eq_ignore_ascii_case(&value) => {}
            Ok(found) => {
                return Err(half_way(&format!(
                    "the target's server would not be what was built: \"{name}\" would be \"{found}\""
                ))
                .detail(format!(
                    "\"postgresql.auto.conf\" sets it to \"{value}\", and the server has the last word: \"{}\" -C {name}.",
                    bindir.join("postgres").display()
                ))
                .hint("Find what overrides it.")
                .again());
            }
            Err(words) => run.warn(
                Code::SettingUnknown,
                format!("The server does not tell its {name}: {words}."),
            ),
        }
    }
    Ok(())
}

fn half_way(error: &str) -> Failure {
    Failure::new(TargetState::HalfWay, error)
}
