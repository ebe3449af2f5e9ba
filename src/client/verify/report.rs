//! What is told of a verification.

use std::collections::BTreeMap;

use crate::client::command;
use crate::client::failure::Failure;
use crate::client::look::leaving;
use crate::client::options::RebuildWords;
use crate::client::outcome::{
    FaultReport, PENDING_NAMED, PendingFile, Verification, VerifyVerdict,
};
use crate::client::transfer::judge::FAULTS_MAX;
use crate::client::transfer::places::Places;
use crate::client::verify::passes::{Scene, Sum, counted};
use crate::compare::verdict::Fault;
use crate::errors::one_line;
use crate::path::RelPath;
use crate::pg::canonical::PageKind;
use crate::pg::conninfo::Conninfo;
use crate::pg::relfile;
use crate::plan::words;
use crate::wire::message::{Answer, NAMES_MAX, RelationName, RelationNumber, Request};

/// Names of relations, by the numbers of their files.
type Names = BTreeMap<RelationNumber, RelationName>;

/// Puts together what was found.
///
/// # Errors
/// The source is lost.
pub async fn report(scene: &Scene<'_>, sum: Sum) -> Result<Verification, Failure> {
    let names = names(scene, &sum).await;
    let mut faults: Vec<FaultReport> = Vec::new();
    for (code, words, paths) in [
        (
            "missing-file",
            "is missing on the standby",
            &sum.of_files.missing,
        ),
        (
            "superfluous-file",
            "is there on the standby and not on the source",
            &sum.of_files.superfluous,
        ),
        (
            "file-content",
            "has another content on the standby than on the source",
            &sum.others.wrong,
        ),
    ] {
        let of_file = |path| FaultReport {
            words: words.to_owned(),
            ..named(code, path, &names)
        };
        faults.extend(paths.iter().map(of_file));
    }
    let is_on_source =
        |fault: &Fault| matches!(fault, Fault::DamagedOnSource | Fault::LostOnSource);
    let is_source_wrong = sum.wrong.iter().any(|wrong| is_on_source(&wrong.fault));
    let is_untold =
        |fault: &Fault| matches!(fault, Fault::Content { .. } | Fault::TransactionStatus(_));
    let is_either = sum.wrong.iter().any(|wrong| is_untold(&wrong.fault));
    faults.extend(sum.wrong.iter().map(|wrong| FaultReport {
        block: Some(wrong.block),
        page: wrong.kind.map(PageKind::name),
        source_lsn: wrong.source_lsn,
        standby_lsn: wrong.standby_lsn,
        xid: wrong.fault.xid(),
        words: wrong.fault.to_string(),
        ..named(wrong.fault.code(), &wrong.path, &names)
    }));
    let faults_more = faults.len().saturating_sub(FAULTS_MAX) as u64;
    faults.truncate(FAULTS_MAX);
    let pending_blocks = sum.pending.len();
    let unknown_blocks = sum.unknown.len();
    let verdict = if !faults.is_empty() {
        VerifyVerdict::Wrong
    } else if pending_blocks + unknown_blocks > 0 || sum.others.is_waiting() {
        VerifyVerdict::Incomplete
    } else {
        VerifyVerdict::Equal
    };
    let unequal = [&sum.noise, &sum.pending, &sum.unknown, &sum.all_visible].map(Places::len);
    let unequal = unequal.iter().sum::<u64>() + sum.wrong.len() as u64;
    let (compared_bytes, wire_received_bytes) = counted(scene.run);
    let facts = scene.facts;
    let mut advice = Vec::new();
    if is_source_wrong {
        advice.push(
            "What is wrong on the source is not mended by a rebuild, which would copy it: look at the source's disk and \
             memory, and consider the standby, or a backup, as the better copy."
                .to_owned(),
        );
    }
    if is_either {
        advice.push(
            "Which side is right cannot be told where content differs under one LSN, or how a transaction ended: look \
             at these rows on both before anything is overwritten."
                .to_owned(),
        );
    }
    if !faults.is_empty() {
        advice.push(
            "To make the standby equal to the source again, stop its server and run pg_reseed rebuild from the running \
             source; only what differs is moved."
                .to_owned(),
        );
    }
    if verdict == VerifyVerdict::Incomplete && pending_blocks > 0 {
        advice.push(
            "What was not compared was changed after the last checkpoint of one side: --passes and --wait give \
             checkpoints more time, and so does running it again later."
                .to_owned(),
        );
    }
    let mut warnings = scene.run.record.warnings();
    let remedy = scene.run.options.rebuild.as_ref();
    let remedy = remedy.filter(|_| !faults.is_empty());
    let command = remedy.map(|words| {
        let own = scene.cluster.standing.primary_conninfo.as_deref();
        let (command, remark) = remedy_of(words, own);
        advice.extend(remark);
        warnings.extend(leaving::warnings(
            scene.cluster,
            Some((facts, scene.relation)),
            false,
        ));
        command
    });
    Ok(Verification {
        pg_reseed_version: env!("CARGO_PKG_VERSION"),
        verdict,
        pgdata: scene.run.options.pgdata.display().to_string(),
        source_host: one_line(&facts.host.name),
        source_data_directory: one_line(&words::text(&facts.data_directory)),
        system_identifier: facts.control.system_identifier.to_string(),
        timeline: facts.timeline,
        standby_runs: scene.standby_runs(),
        source_runs: !facts.is_stopped,
        threshold: sum.threshold,
        passes: sum.passes,
        files: sum.files,
        blocks: sum.blocks,
        equal_blocks: sum.blocks.saturating_sub(unequal),
        noise_blocks: sum.noise.len(),
        pending_blocks,
        unknown_blocks,
        pending: pending(&sum),
        all_visible_blocks: sum.all_visible.len(),
        map_doubts: sum.map_doubts,
        faults,
        faults_more,
        warnings,
        advice,
        command,
        compared_bytes,
        wire_received_bytes,
        seconds: sum.seconds,
    })
}

/// The command that mends the standby, and what is to be known of it: where nobody has said how the standby will reach the
/// source, it is as it does now by its `own` configuration, or must be added.
fn remedy_of(words: &RebuildWords, own: Option<&str>) -> (String, Option<String>) {
    let said = words.conninfo.clone();
    let own = || {
        let own = Conninfo::parse(own?).ok()?.without_secrets();
        own.to_keyword_value().ok().filter(|text| !text.is_empty())
    };
    let (conninfo, remark) = match said {
        Some(said) => (Some(said), None),
        None => match own() {
            Some(own) => (
                Some(own),
                Some(
                    "The -d of the command is the standby's own primary_conninfo: check that it leads to the source."
                        .to_owned(),
                ),
            ),
            None => (
                None,
                Some(
                    "Add -h or -d to the command, by which the standby will reach the source: it was not said, and the \
                     standby's configuration does not tell."
                        .to_owned(),
                ),
            ),
        },
    };
    let conninfo = conninfo
        .into_iter()
        .flat_map(|text| ["-d".to_owned(), text]);
    let agent = words.agent.iter().cloned();
    let all = words.directory.iter().cloned().chain(conninfo).chain(agent);
    let all: Vec<String> = all.map(|word| command::word(&word)).collect();
    (all.join(" "), remark)
}

fn pending(sum: &Sum) -> Vec<PendingFile> {
    let all = [&sum.pending, &sum.unknown];
    let files = all.into_iter().flat_map(Places::iter);
    files
        .take(PENDING_NAMED)
        .map(|(path, blocks)| PendingFile {
            path: path.to_string(),
            blocks: blocks.len() as u64,
        })
        .collect()
}

/// A fault of a file, without what is wrong.
fn named(code: &'static str, path: &RelPath, names: &Names) -> FaultReport {
    let name = number(path).and_then(|number| names.get(&number));
    FaultReport {
        code,
        path: path.to_string(),
        fork: relfile::location_of(path).map(|(.., file)| file.fork),
        block: None,
        database: name.map(|name| name.database.clone()),
        relation: name.map(|name| name.relation.clone()),
        page: None,
        source_lsn: None,
        standby_lsn: None,
        xid: None,
        words: String::new(),
    }
}

fn number(path: &RelPath) -> Option<RelationNumber> {
    let (tablespace, database, file) = relfile::location_of(path)?;
    Some(RelationNumber {
        tablespace,
        database,
        relfilenode: file.relfilenode,
    })
}

/// Asks what the relations are called of which something is wrong. Names are a courtesy: without them the paths tell.
async fn names(scene: &Scene<'_>, sum: &Sum) -> Names {
    let files = [&sum.of_files.missing, &sum.of_files.superfluous];
    let files = files.into_iter().flatten();
    let blocks = sum.wrong.iter().map(|wrong| &wrong.path);
    let mut numbers: Vec<RelationNumber> = files.chain(blocks).filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(NAMES_MAX);
    if numbers.is_empty() {
        return Names::new();
    }
    let request = Request::Names {
        files: numbers.clone(),
    };
    let asked = scene.soon(scene.source.ask(&request, Vec::new()));
    match asked.await {
        Ok((Answer::Names { names }, _)) => numbers
            .into_iter()
            .zip(names)
            .filter_map(|(number, name)| Some((number, name?)))
            .map(|(number, name)| (number, in_one_line(&name)))
            .collect(),
        _ => Names::new(),
    }
}

/// A name of a peer that is not trusted.
fn in_one_line(name: &RelationName) -> RelationName {
    RelationName {
        database: one_line(&name.database),
        relation: one_line(&name.relation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(conninfo: Option<&str>) -> RebuildWords {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        RebuildWords {
            directory: owned(&["pg_reseed", "rebuild", "-D", "/srv/my pg"]),
            conninfo: conninfo.map(str::to_owned),
            agent: owned(&["--from", "ssh://db2"]),
        }
    }

    #[test]
    fn the_remedy_says_how_the_standby_reaches_the_source() {
        let own = Some("host=db1 user=rep password=secret");
        let (command, remark) = remedy_of(&words(Some("host=db2")), own);
        assert_eq!(
            command,
            "pg_reseed rebuild -D '/srv/my pg' -d host=db2 --from ssh://db2"
        );
        assert_eq!(remark, None);
        // Nobody has said it: as now, and a password stays where it is.
        let (command, remark) = remedy_of(&words(None), own);
        assert_eq!(
            command,
            "pg_reseed rebuild -D '/srv/my pg' -d 'host=db1 user=rep' --from ssh://db2"
        );
        assert!(remark.is_some_and(|remark| remark.contains("check")));
        for own in [None, Some(""), Some("no conninfo")] {
            let (command, remark) = remedy_of(&words(None), own);
            assert_eq!(
                command,
                "pg_reseed rebuild -D '/srv/my pg' --from ssh://db2"
            );
            assert!(remark.is_some_and(|remark| remark.starts_with("Add -h or -d")));
        }
    }
}
