//! The conclusion in words.

use super::{Advice, Keeper};
use crate::pg::lsn::Lsn;
use crate::plan::words::Bytes;

impl Advice {
    /// What it means, one sentence each.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |text: &str| vec![text.to_owned()];
        match self {
            Advice::Seed => sentence("Nothing is there: a rebuild seeds it with everything."),
            Advice::Unusable { problem } => vec![format!("It cannot be judged: {problem}.")],
            Advice::RunAgain => sentence(
                "It cannot start until a rebuild has finished: run the interrupted command again.",
            ),
            Advice::Wait { state } => vec![format!(
                "It is {state}: nothing can be said until that is over. Look again later."
            )],
            Advice::Start { needs, kept_by } => {
                let has = match kept_by {
                    Some(_) => format!("The source has all WAL that it needs, from {needs} on."),
                    None => format!(
                        "It needs WAL from {needs} on of the server that it follows: with -d, that is asked whether \
                         it still has it."
                    ),
                };
                let start = "It is ready: start it, and it follows on its own. No rebuild is needed.";
                [start.to_owned(), has]
                    .into_iter()
                    .chain(kept_by.as_ref().map(|keeper| keeper.sentence().to_owned()))
                    .collect()
            }
            Advice::Broken => sentence(
                "No server can start in it, since its backup_label was removed after a rebuild had finished: rebuild \
                 it again, and start it with that file in its place.",
            ),
            Advice::Healthy {
                lag_bytes, slot, ..
            } => {
                let lag = match lag_bytes {
                    Some(_) => "It is a healthy standby: nothing is to be done.".to_owned(),
                    None => "It streams: nothing is to be done. How far it is behind, its server would say to a user \
                             whom it lets in."
                        .to_owned(),
                };
                let slot = match slot {
                    Some(_) => None,
                    None => Some(
                        "It has no replication slot: when it is down for long, the source may remove WAL that it \
                         needs."
                            .to_owned(),
                    ),
                };
                [lag].into_iter().chain(slot).collect()
            }
            Advice::Paused { .. } => sentence(
                "It streams, but somebody has paused its replay: what it receives is not seen in it until replay is \
                 resumed. No rebuild is needed.",
            ),
            Advice::NotStreaming { reasons } => {
                let mut text =
                    vec!["It runs as a standby and does not stream. No rebuild is known to be needed.".to_owned()];
                text.extend(reasons.iter().cloned());
                if reasons.is_empty() {
                    text.push(
                        "Nothing on both sides shows why: see its log, and try its primary_conninfo with psql."
                            .to_owned(),
                    );
                }
                text
            }
            Advice::OfAnother { server } => vec![format!(
                "It is a standby of another server, {server}. Look at it beside that server, or rebuild it from this \
                 source with --stop if it shall follow this one."
            )],
            Advice::Reattach { needs, kept_by } => {
                let mut text = vec![format!(
                    "No rebuild is needed: the source has all WAL from {needs} on. Start it as a standby of \
                     the source."
                )];
                text.push(kept_by.sentence().to_owned());
                text
            }
            Advice::ReattachFromArchive { needs, oldest } => vec![
                format!("It needs WAL from {needs} on. {}", begins(*oldest)),
                "The source archives its WAL: with a restore_command that reaches the archive, no rebuild is \
                 needed. Without one it needs a rebuild."
                    .to_owned(),
            ],
            Advice::WalGone { needs, oldest } => vec![format!(
                "It needs a rebuild: it would ask for WAL from {needs} on. {}",
                begins(*oldest)
            )],
            Advice::Rebuild { is_sure: true } => sentence(
                "It needs a rebuild, or pg_rewind. WAL that only it has is lost then.",
            ),
            Advice::Rebuild { is_sure: false } => sentence(
                "It was not shut down cleanly, so it may have writes of its own: it needs a rebuild.",
            ),
            Advice::CannotTell => sentence(
                "Their histories do not show whether it has writes of its own: only a rebuild, which \
                 compares everything, makes it equal.",
            ),
            Advice::HistoryUntold { oldest } => vec![
                format!(
                    "Whether it has writes of its own cannot be told: another server may have gone on from the same \
                     position under the same timeline, and the WAL that would show it is not on both sides any more. {}",
                    begins(*oldest)
                ),
                "Only if you know that it never was a primary and never followed another one, start it as a standby \
                 with a restore_command that reaches the source's archive; otherwise rebuild it, which compares \
                 everything."
                    .to_owned(),
            ],
            Advice::SwitchoverReady { checkpoint } => vec![format!(
                "The source, a standby, has replayed everything up to the shutdown checkpoint at {checkpoint}: \
                 it can be promoted without losing anything."
            )],
            Advice::SwitchoverTooEarly { missing_bytes } => vec![format!(
                "The source, a standby, has not replayed the last {} of WAL: a promotion now would lose them.",
                Bytes(*missing_bytes)
            )],
            Advice::SourceIsBehind { bytes } => vec![format!(
                "The source, a standby, is {} of WAL behind it: wait until the source has caught up, or take \
                 another source.",
                Bytes(*bytes)
            )],
            Advice::LookTwice => sentence(
                "It may be the real primary. Make sure which of the two holds the data that you want before \
                 anything is rebuilt.",
            ),
            Advice::SourceFollowsTarget => sentence(
                "Neither start it as a standby of the source nor rebuild it from there.",
            ),
            Advice::Foreign => sentence(
                "It never was the same cluster as the source. Check the data directory and the source.",
            ),
        }
    }
}

impl Keeper {
    fn sentence(self) -> &'static str {
        match self {
            Keeper::Slot => "Its replication slot keeps that WAL.",
            Keeper::WalKeepSize => "The source's wal_keep_size keeps that WAL for now.",
            Keeper::Nothing => {
                "Nothing keeps that WAL: start it before the source's next checkpoint, or make a replication slot."
            }
        }
    }
}

fn begins(oldest: Option<Lsn>) -> String {
    match oldest {
        Some(oldest) => format!("The source's pg_wal begins at {oldest}."),
        None => "The source's pg_wal does not have its newest WAL.".to_owned(),
    }
}
