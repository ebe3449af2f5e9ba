//! Attends to those who ask how far a run is while it lasts: `pg_reseed status`, and SIGUSR1.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;

use super::signals::Question;
use crate::client::record::Record;
use crate::client::status::names;
use crate::link::inquiry::{Asker, Desk};
use crate::ui::status::{Board, Particulars, Standing};
use crate::ui::{Ui, clock};

/// Distance of the samples that rates are made of, and how often it is looked whether the target is there.
const EVERY: Duration = Duration::from_secs(1);

/// What a run is, for those who ask.
pub(super) struct What {
    pub(super) kind: &'static str,
    pub(super) pgdata: PathBuf,
    /// What was typed, without secrets.
    pub(super) command: String,
}

/// What answers.
struct Clerk {
    what: What,
    started_at: String,
    board: Arc<Board>,
    record: Arc<Record>,
}

/// Attends to them on a task of its own: the run itself may be busy.
pub(super) fn attend(runtime: &Runtime, ui: &Ui, record: &Arc<Record>, what: What) {
    let clerk = Arc::new(Clerk {
        what,
        started_at: clock::rfc3339(SystemTime::now()),
        board: Arc::clone(ui.board()),
        record: Arc::clone(record),
    });
    let show = ui.shows_status();
    runtime.spawn(at_desk(Arc::clone(&clerk)));
    runtime.spawn(async move {
        let mut question = Question::listen();
        loop {
            question.next().await;
            show(clerk.standing());
        }
    });
}

/// Answers other processes.
async fn at_desk(clerk: Arc<Clerk>) {
    let mut clock = tokio::time::interval(EVERY);
    // Of the directory as it is, and as it was to be made.
    let (mut own, mut beforehand) = (None, None);
    loop {
        tokio::select! {
            _ = clock.tick() => {
                clerk.board.sample();
                if own.is_none() {
                    (own, beforehand) = clerk.open(beforehand);
                }
            }
            asker = next(own.as_ref()) => answer(&clerk, asker),
            asker = next(beforehand.as_ref()) => answer(&clerk, asker),
        }
    }
}

async fn next(desk: Option<&Desk>) -> Asker {
    match desk {
        Some(desk) => desk.next().await,
        None => std::future::pending().await,
    }
}

fn answer(clerk: &Clerk, asker: Asker) {
    if let Ok(line) = clerk.standing().line() {
        tokio::spawn(async move { asker.tell(&line).await });
    }
}

impl Clerk {
    fn standing(&self) -> Standing {
        let known = self.record.particulars();
        self.board.standing(Particulars {
            pg_reseed_version: env!("CARGO_PKG_VERSION").to_owned(),
            kind: self.what.kind.to_owned(),
            started_at: self.started_at.clone(),
            pgdata: self.what.pgdata.display().to_string(),
            command: self.what.command.clone(),
            source_host: known.source_host,
            source_data_directory: known.source_data_directory,
            slot: known.slot,
        })
    }

    /// Opens what can be opened by now. That it cannot be asked is no reason for a run to end.
    fn open(&self, beforehand: Option<Desk>) -> (Option<Desk>, Option<Desk>) {
        let Ok(names) = names(&self.what.pgdata) else {
            return (None, beforehand);
        };
        let open = |name| match Desk::open(name) {
            Ok(desk) => {
                if desk.is_none() {
                    tracing::info!("this run cannot be asked how far it is: its names are taken");
                }
                desk
            }
            Err(error) => {
                tracing::info!("this run cannot be asked how far it is: {error}");
                None
            }
        };
        match (names.own, beforehand) {
            (Some(own), beforehand) => (open(&own), beforehand),
            (None, Some(desk)) => (None, Some(desk)),
            (None, None) => (None, names.beforehand.as_ref().and_then(open)),
        }
    }
}
