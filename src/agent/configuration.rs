//! The source's configuration files, for a standby on a host that has none.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::bracket::server_fault;
use super::tree::read_fault;
use crate::disk::conf;
use crate::disk::facts::host;
use crate::disk::read::read_if_there;
use crate::errors::one_line;
use crate::facts::SourceConfiguration;
use crate::pg::hba::{self, Kind};
use crate::sql::Session;
use crate::wire::message::{Fault, FaultKind};

/// Most bytes of all files together: they travel in one message.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// What else lies beside `postgresql.conf`: postgresql-common's own files, and from PostgreSQL 19 on the names that
/// clients call the host by, with their certificates.
const BESIDE: [&str; 4] = ["environment", "pg_ctl.conf", "pg_hosts.conf", "start.conf"];

/// Reads the configuration that the server names, with all that it includes.
///
/// # Errors
/// The role may not ask for it, or a file cannot be read.
pub async fn read(sql: &Session, role: &str) -> Result<SourceConfiguration, Fault> {
    let named = sql
        .configuration_files()
        .await
        .map_err(|error| server_fault("could not ask the source for its configuration", &error))?;
    let Some([config_file, hba_file, ident_file]) = named else {
        return Err(Fault::new(
            FaultKind::Unfit,
            format!("role \"{role}\" may not ask the source where its configuration is"),
        )
        .with_hint("Grant it pg_read_all_settings."));
    };
    let base = conf::read(Path::new(&config_file), true);
    if let Some(problem) = base.problems.first() {
        return Err(Fault::new(
            FaultKind::Read,
            format!(
                "the configuration of the source on host \"{}\" cannot be read as a whole: {}",
                one_line(&host().name),
                problem.trim_end_matches('.')
            ),
        ));
    }
    let (mut files, mut directories) = (base.files, base.directories);
    for main in [&hba_file, &ident_file] {
        with_references(Path::new(main), &mut files, &mut directories)?;
    }
    let beside = Path::new(&config_file).parent().unwrap_or(Path::new("/"));
    for name in BESIDE {
        add(&beside.join(name), &mut files)?;
    }
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let total: usize = files.values().map(Vec::len).sum();
    if total > BYTES_MAX {
        return Err(Fault::new(
            FaultKind::Unfit,
            format!("the source's configuration files have {total} bytes, more than {BYTES_MAX}"),
        ));
    }
    Ok(SourceConfiguration {
        config_file: config_file.into_bytes(),
        hba_file: hba_file.into_bytes(),
        ident_file: ident_file.into_bytes(),
        files: files
            .into_iter()
            .map(|(path, text)| (bytes(&path), text))
            .collect(),
        directories: directories.iter().map(|path| bytes(path)).collect(),
    })
}

/// Adds a file, if it is there, and all that it refers to.
pub(super) fn with_references(
    main: &Path,
    files: &mut BTreeMap<PathBuf, Vec<u8>>,
    directories: &mut Vec<PathBuf>,
) -> Result<(), Fault> {
    let mut open = VecDeque::from([main.to_owned()]);
    while let Some(path) = open.pop_front() {
        if files.contains_key(&path) || !add(&path, files)? {
            continue;
        }
        let text = files.get(&path).map(Vec::as_slice).unwrap_or_default();
        for reference in hba::references(text) {
            let named = path.parent().unwrap_or(Path::new("/")).join(reference.path);
            match reference.kind {
                Kind::File | Kind::Names => open.push_back(named),
                Kind::Directory => {
                    open.extend(conf::included(&named).map_err(|error| read_fault(&error))?);
                    directories.push(named);
                }
            }
        }
    }
    Ok(())
}

/// Adds a file, if it is there.
fn add(path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<bool, Fault> {
    let text = read_if_there(path, BYTES_MAX as u64).map_err(|error| read_fault(&error))?;
    let is_there = text.is_some();
    files.extend(text.map(|text| (path.to_owned(), text)));
    Ok(is_there)
}
