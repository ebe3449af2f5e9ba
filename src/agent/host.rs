//! What of the source's data directory belongs to its host: what its configuration names.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::bracket::server_fault;
use super::configuration;
use crate::disk::conf;
use crate::disk::facts as disk;
use crate::disk::read::read_unless_null;
use crate::facts::SourceFacts;
use crate::path::RelPath;
use crate::pg::layout;
use crate::sql::Session;
use crate::wire::message::Fault;

/// The entries at the top of the data directory that the configuration names, or in which something lies that it
/// names. What cannot be read is left out: the settings that the server tells of are enough in most cases.
///
/// # Errors
/// A failing statement.
pub async fn entries(sql: &Session, facts: &SourceFacts) -> Result<Vec<RelPath>, Fault> {
    let named = sql
        .named_files()
        .await
        .map_err(|error| server_fault("could not ask the source which files it uses", &error))?;
    let pgdata = pgdata(facts);
    let resolved = disk::resolved(&pgdata);
    // Who may not ask where it is finds it in its usual place.
    let own = |name: &str, usual: &str| {
        let found = named.iter().find(|(setting, _)| setting == name);
        found.map_or_else(|| pgdata.join(usual), |(_, path)| pgdata.join(path))
    };
    let auto = pgdata.join("postgresql.auto.conf");
    let text = read_unless_null(&auto, conf::CONF_FILE_MAX);
    let text = text.ok().flatten().unwrap_or_default();
    let base = conf::read(&own("config_file", "postgresql.conf"), false).followed_by(&auto, &text);
    let (mut files, mut directories) = (base.files, base.directories);
    for main in [
        own("hba_file", "pg_hba.conf"),
        own("ident_file", "pg_ident.conf"),
    ] {
        // One that cannot be read names nothing that could be told.
        let _ = configuration::with_references(&main, &mut files, &mut directories);
    }
    let named = named.into_iter().map(|(_, path)| PathBuf::from(path));
    let all = named.chain(files.into_keys()).chain(directories);
    let entries: BTreeSet<RelPath> = all
        .filter_map(|path| {
            layout::named_entry(&pgdata, &path).or_else(|| layout::named_entry(&resolved, &path))
        })
        .collect();
    Ok(entries.into_iter().collect())
}

/// The log directory, if it is in the data directory: its path in there.
pub fn log_directory(facts: &SourceFacts) -> Option<RelPath> {
    let pgdata = pgdata(facts);
    let whole = pgdata.join(&facts.log_directory);
    let inside = whole.strip_prefix(&pgdata).ok()?;
    RelPath::parse(inside.as_os_str().as_bytes()).ok()
}

fn pgdata(facts: &SourceFacts) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(&facts.data_directory)).to_owned()
}
