//! What both sides have, and the work that follows from it.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::client::failure::{Failure, TargetState};
use crate::client::look::settings;
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::client::transfer::here::{TargetWalk, Walked};
use crate::client::transfer::rights::Rights;
use crate::client::transfer::work::{self, Work};
use crate::disk::DiskError;
use crate::disk::facts as disk;
use crate::event::{Counters, Event};
use crate::facts::SourceFacts;
use crate::manifest::{self, EntryKind, Folder, Listing, Manifest};
use crate::path::RelPath;
use crate::pg::layout;
use crate::plan::access::Bar;
use crate::plan::guard::{self, Findings};
use crate::plan::tablespaces;
use crate::plan::words;
use crate::warning::Code;
use crate::wire::listing::{self, PARTS_MAX};
use crate::wire::message::{Answer, ManifestEnd, Request};
use crate::wire::payload;
use crate::workers;

/// Parts of the manifest that are asked for ahead, so that a link with a long delay stays busy.
const PARTS_AHEAD: usize = 8;

/// What both sides have.
pub struct Lists {
    manifest: Arc<Manifest>,
    end: ManifestEnd,
    walked: Walked,
}

/// Lists what both sides have, at the same time; the target only when it `has_content`.
///
/// # Errors
/// The source cannot be listed, or the target.
pub async fn lists(
    run: &Run<'_>,
    source: &Source,
    has_content: bool,
    facts: &SourceFacts,
    findings: &Findings,
) -> Result<Lists, Failure> {
    let walk = TargetWalk::new(run.options, has_content, facts, findings);
    let walked = run.workers.run(move || walk.walk());
    let (manifest, walked) = futures_util::future::join(manifest(run, source), walked).await;
    let (manifest, end) = manifest.map_err(|error| error.untouched())?;
    let walked = walked
        .map_err(|error| Failure::untouched(&error))?
        .map_err(|error| Failure::untouched(&error))?;
    judge_linked(run, source, facts, findings, &end).await?;
    Ok(Lists {
        manifest: Arc::new(manifest),
        end,
        walked,
    })
}

impl Lists {
    /// Lists the target once more: its server was stopped meanwhile.
    ///
    /// # Errors
    /// The target cannot be listed.
    pub async fn again(
        self,
        run: &Run<'_>,
        facts: &SourceFacts,
        findings: &Findings,
    ) -> Result<Self, Failure> {
        let walk = TargetWalk::new(run.options, true, facts, findings);
        let walked = run.workers.run(move || walk.walk()).await;
        let walked = walked
            .map_err(|error| Failure::untouched(&error))?
            .map_err(|error| Failure::untouched(&error))?;
        Ok(Self { walked, ..self })
    }
}

/// Refuses where the configuration that comes from the source includes what is a link there and does not come.
async fn judge_linked(
    run: &Run<'_>,
    source: &Source,
    facts: &SourceFacts,
    findings: &Findings,
    end: &ManifestEnd,
) -> Result<(), Failure> {
    let is_seed = findings.is_seed;
    let comes = run.options.target_config_dir.is_none()
        && !settings::has_own_configuration(run.options, is_seed);
    if !comes || end.skipped.is_empty() {
        return Ok(());
    }
    // A role that may not ask where the configuration is has no answer here, and a server that cannot read its own
    // would not run.
    let asked = source.ask(&Request::Configuration, Vec::new()).await;
    let Ok((Answer::Configuration(configuration), _)) = asked else {
        return Ok(());
    };
    guard::linked_configuration(
        &facts.host.name,
        &facts.data_directory,
        &configuration,
        &end.skipped,
    )
    .map_err(|refusal| Failure::refused(&[refusal]))
}

/// Asks for the source's list.
///
/// # Errors
/// The agent's fault, or an answer that cannot be.
pub async fn manifest<O>(
    run: &Run<'_, O>,
    source: &Source,
) -> Result<(Manifest, ManifestEnd), SourceError> {
    let first = manifest_part(run, source, 0).await?;
    let parts = first.parts;
    if parts > PARTS_MAX {
        return Err(SourceError::Unfitting("manifest"));
    }
    let rest = (1..parts).map(|number| manifest_part(run, source, number));
    let rest = stream::iter(rest).buffered(PARTS_AHEAD);
    let mut all = std::pin::pin!(stream::iter([Ok(first)]).chain(rest));
    let mut manifest = Manifest::default();
    let (mut end, mut packed_bytes) = (None, 0);
    while let Some(part) = all.try_next().await? {
        for folder in part.folders {
            manifest
                .append(folder)
                .map_err(|_| SourceError::Unfitting("manifest"))?;
        }
        packed_bytes += part.packed_bytes;
        end = part.end;
    }
    let end = end.ok_or(SourceError::Unfitting("manifest"))?;
    if let Some(path) = manifest.orphan() {
        tracing::warn!("the manifest has entries in \"{path}\", which is no directory of it");
        return Err(SourceError::Unfitting("manifest"));
    }
    let entries = manifest.len();
    tracing::debug!("manifest: {entries} entries in {packed_bytes} bytes, {parts} parts");
    Ok((manifest, end))
}

/// A part of the manifest.
struct Part {
    folders: Vec<Folder<EntryKind>>,
    /// Bytes that it took on the link.
    packed_bytes: usize,
    /// How many parts there are.
    parts: u32,
    /// With the last one.
    end: Option<ManifestEnd>,
}

async fn manifest_part<O>(
    run: &Run<'_, O>,
    source: &Source,
    part: u32,
) -> Result<Part, SourceError> {
    let unfitting = || SourceError::Unfitting("manifest");
    let request = Request::Manifest { part };
    let (answer, body) = source.ask(&request, Vec::new()).await?;
    let Answer::ManifestPart { parts, packed, end } = answer else {
        return Err(unfitting());
    };
    let packed_bytes = body.len();
    let bytes =
        payload::unpack(&packed, body, &run.key, listing::PART_BYTES).map_err(|_| unfitting())?;
    Ok(Part {
        folders: listing::decode(bytes.bytes()).map_err(|_| unfitting())?,
        packed_bytes,
        parts,
        end,
    })
}

/// Judges names that are one where a file system does not tell upper from lower case.
fn judge_names(
    options: &RebuildOptions,
    manifest: &Manifest,
    tree: &Listing<layout::Kind>,
) -> Result<(), Failure> {
    let is_special = |directory: Option<&RelPath>| {
        directory.is_none_or(|directory| directory.as_bytes() == b"global")
    };
    let mut special = manifest.iter().filter(|item| is_special(item.directory));
    if let Some(item) = special.find(|item| layout::is_disguised(&item.path())) {
        let error = format!(
            "\"{}\" on the source has a name of PostgreSQL's own but for upper and lower case",
            item.path()
        );
        return Err(Failure::new(TargetState::Untouched, error).hint("Rename or remove it."));
    }
    if disk::folds_case(&options.pgdata)
        && let Some((theirs, ours)) = workers::in_place(|| manifest::twins(manifest, tree))
    {
        let error = format!(
            "the target's file system takes \"{theirs}\", which is on the source, for \"{ours}\""
        );
        return Err(Failure::new(TargetState::Untouched, error)
            .hint("Rename one of them, or use a file system that tells upper from lower case."));
    }
    Ok(())
}

/// Judges whether both sides may do what must be done there, and tells what is changed for it.
fn judge_rights(
    facts: &SourceFacts,
    end: &ManifestEnd,
    barred: &[(String, Bar)],
) -> Result<(), Failure> {
    let source = guard::Reader {
        host: &facts.host.name,
        user: &facts.user,
        unreadable: &end.unreadable,
        more: end.unreadable_more,
    };
    let (host, user) = (disk::host(), disk::user());
    let writer = guard::Writer {
        host: &host.name,
        user: &user,
        barred,
    };
    guard::rights(&source, &writer).map_err(|refusals| Failure::refused(&refusals))
}

/// Judges before the target's server is stopped whether what a rebuild has to change there can be: what is not certain
/// without the source's list is judged with it.
///
/// # Errors
/// A refusal, or a directory that cannot be looked at.
pub async fn judge_rights_before_stop(
    run: &Run<'_>,
    facts: &SourceFacts,
    findings: &Findings,
) -> Result<(), Failure> {
    let walk = TargetWalk::new(run.options, true, facts, findings);
    let options = run.options.clone();
    let (findings, version) = (findings.clone(), tablespaces::version_directory(facts));
    let judged = run.workers.run(move || {
        let walked = walk.walk()?;
        let mut rights = Rights::new(&walked.bars);
        rights.manage(&walked.tree);
        rights.around(&options, &findings, &[], &version)?;
        Ok::<_, DiskError>(rights.into_parts().1)
    });
    let barred = judged
        .await
        .map_err(|error| Failure::untouched(&error))?
        .map_err(|error| Failure::untouched(&error))?;
    judge_rights(facts, &ManifestEnd::default(), &barred)
}

/// Turns the manifest into work, and lets the guards judge that need sizes.
pub fn plan(
    run: &Run<'_>,
    facts: &SourceFacts,
    findings: &Findings,
    lists: &Lists,
) -> Result<Work, Failure> {
    let Lists {
        manifest,
        end,
        walked,
    } = lists;
    let options = run.options;
    judge_names(options, manifest, &walked.tree)?;
    let oids = end.tablespaces.iter().map(|space| space.oid);
    guard::new_tablespaces(&findings.placements, oids)
        .map_err(|refusal| Failure::refused(&[refusal]))?;
    let base = settings::own_base(options);
    for problem in &base.problems {
        run.warn(Code::ConfigurationUnread, problem);
    }
    let host_local = work::host_local(options, facts, &base, &end.host_entries)
        .map_err(|error| Failure::untouched(&error))?;
    let make = || {
        work::make(
            options,
            facts,
            findings,
            &host_local,
            manifest,
            walked,
            &end.skipped,
        )
    };
    let work = workers::in_place(make).map_err(|error| Failure::untouched(&error))?;
    judge_rights(facts, end, &work.barred)?;
    guard::max_delete(options.max_delete, work.removed_files, || {
        work.removed.iter().take(words::SHOWN).cloned().collect()
    })
    .map_err(|refusal| Failure::refused(&[refusal]))?;
    guard::room(&work.room, &options.overrides).map_err(|refusals| Failure::refused(&refusals))?;
    if !work.filled.is_empty() {
        run.warn(
            Code::EmptyConfigurationFilled,
            format!(
            "The target has {} without content, as an interrupted pg_rewind leaves it: the source's is taken.",
            words::some_of(&work.filled)
        ),
        );
    }
    if !end.skipped.is_empty() {
        run.warn(
            Code::SourceFilesLeftOut,
            format!(
                "What is a link, a special file or not readable on the source is left out: {}.",
                words::some_of(&end.skipped)
            ),
        );
    }
    if !work.not_brought.is_empty() {
        run.warn(
            Code::HostFilesNotBrought,
            format!(
            "What belongs to the source's host, and the target does not have, is not brought: {}.",
            words::some_of(&work.not_brought)
        ),
        );
    }
    // What an earlier backup of this run has done is done.
    let counters = run.events.counters();
    let before = |counter| Counters::read(counter);
    let files = work.files.len() as u64;
    let compare_bytes = before(&counters.compared_bytes) + work.files.compare_bytes();
    let fetch_bytes = before(&counters.fetched_bytes) + work.files.fetch_bytes();
    run.record.note(|outcome| {
        outcome.files = files;
        outcome.full_copy_bytes = work.full_copy_bytes;
        outcome.compare_bytes = Some(compare_bytes);
        outcome.fetch_bytes = Some(fetch_bytes);
        outcome.kept.clone_from(&work.kept);
    });
    run.events.tell(&Event::Planned {
        files,
        compare_bytes,
        fetch_bytes,
    });
    Ok(work)
}
