//! The source's configuration that comes with its data directory: whether any does, and what must change in it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::client::look::{conf, settings};
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::client::source::Source;
use crate::disk::DiskError;
use crate::disk::facts as disk;
use crate::disk::target::ClosedTarget;
use crate::facts::{HostIdentity, SourceFacts};
use crate::path::RelPath;
use crate::plan::adoption::{Adopted, Home};
use crate::warning::Code;
use crate::wire::message::{Answer, Request};

/// How often files are looked at again after others were changed: a changed include brings more of them.
const ROUNDS_MAX: usize = 10;

/// From where to where the source's `postgresql.conf` comes, if the target gets it.
#[must_use]
pub fn home(
    options: &RebuildOptions,
    facts: &SourceFacts,
    host: &HostIdentity,
    is_seed: bool,
) -> Option<Home> {
    let main = options.pgdata.join("postgresql.conf");
    let comes = is_seed || options.config_from_source || !disk::exists(&main);
    if options.target_config_dir.is_some() || !comes {
        return None;
    }
    let source = PathBuf::from(std::ffi::OsStr::from_bytes(&facts.data_directory));
    let shares_host = host.is_same_kernel(&facts.host);
    let mut sources = vec![source.clone()];
    if shares_host {
        sources.push(disk::resolved(&source));
    }
    sources.dedup();
    Some(Home {
        sources,
        pgdata: disk::resolved_beginning(&options.pgdata),
        shares_host,
    })
}

/// Changes the files that have come, and returns the source's `postgresql.auto.conf` as it must be.
///
/// # Errors
/// The system's error.
pub fn adopt(
    run: &Run<'_>,
    target: &ClosedTarget,
    home: &Home,
    auto_conf: &[u8],
) -> Result<Vec<u8>, DiskError> {
    let pgdata = &run.options.pgdata;
    let Adopted { text, mut remarks } = home.adopted(auto_conf);
    for _ in 0..ROUNDS_MAX {
        let inside = run.options.config_file.as_deref();
        let inside = inside.filter(|_| !settings::is_outside(run.options));
        let base = conf::base(pgdata, inside).followed_by(&pgdata.join(conf::AUTO_CONF), &text);
        let mut is_changed = false;
        for (path, old) in &base.files {
            let inside = path.strip_prefix(pgdata).ok();
            let inside = inside.and_then(|path| RelPath::parse(path.as_os_str().as_bytes()).ok());
            let Some(inside) = inside.filter(|_| !is_auto_conf(path, pgdata)) else {
                continue;
            };
            // What is behind a link belongs to others.
            if disk::link(path).is_some() {
                continue;
            }
            let adopted = home.adopted(old);
            remarks.extend(adopted.remarks);
            if adopted.text != *old {
                target.rewrite(&inside, &adopted.text)?;
                is_changed = true;
            }
        }
        if !is_changed {
            break;
        }
    }
    tell(run, remarks);
    Ok(text)
}

fn is_auto_conf(path: &Path, pgdata: &Path) -> bool {
    path == pgdata.join(conf::AUTO_CONF)
}

fn tell(run: &Run<'_>, mut remarks: Vec<String>) {
    remarks.sort();
    remarks.dedup();
    for remark in remarks {
        run.warn(Code::ConfigurationChanged, remark);
    }
}

/// Says what [`adopt`] would, for a dry run. Where the agent's role may not read the configuration nothing is said.
pub async fn foretell(run: &Run<'_>, source: &Source, home: &Home) {
    let asked = source.ask(&Request::Configuration, Vec::new()).await;
    let Ok((Answer::Configuration(found), _)) = asked else {
        tracing::info!("the source's configuration files cannot be read beforehand");
        return;
    };
    let comes = |path: &[u8]| {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        home.sources.iter().any(|source| path.starts_with(source))
    };
    let files = found.files.iter().filter(|(path, _)| comes(path));
    let remarks = files.flat_map(|(_, text)| home.adopted(text).remarks);
    tell(run, remarks.collect());
}
