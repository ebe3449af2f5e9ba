//! The bracket: the time between start and stop of the backup, and the slot that keeps its WAL.

use std::time::{Duration, Instant};

use crate::errors::chain;
use crate::facts::{SlotFacts, SlotHolder};
use crate::pg::lsn::Lsn;
use crate::sql::backup::Stopped;
use crate::sql::slot::SlotState;
use crate::sql::{Session, SqlError};
use crate::wire::message::{Fault, FaultKind, SlotWish};

/// How long the agent of a run that ends may still have the slot's name.
const CLAIM_WITHIN: Duration = Duration::from_secs(5);

/// How often it is tried.
const CLAIM_EVERY: Duration = Duration::from_millis(100);

/// A running backup. Only who holds one may make a reader of the data directory that counts.
#[derive(Debug)]
pub struct Bracket {
    pub start_lsn: Lsn,
    pub slot: OwnedSlot,
    /// The standby's slot where that is another one, because it kept nothing or was in use when the backup began, and
    /// has to be moved on as well.
    also: Option<String>,
    /// That a slot cannot be moved on was said.
    has_complained: bool,
}

/// A slot, and whether it is ours to drop.
#[derive(Debug, Clone)]
pub struct OwnedSlot {
    pub name: String,
    /// We made it and it outlives the session: a failed run must drop it.
    pub must_drop: bool,
}

/// Makes the slot, or checks the one that exists.
///
/// # Errors
/// The server's refusal, or a slot that cannot keep the WAL of a backup.
pub async fn reserve(sql: &Session, wish: &SlotWish) -> Result<OwnedSlot, Fault> {
    match wish {
        SlotWish::Temporary => {
            let name = format!("pg_reseed_{}", std::process::id());
            sql.create_slot(&name, true).await.map_err(|error| {
                server_fault("could not create a temporary replication slot", &error)
            })?;
            Ok(OwnedSlot {
                name,
                must_drop: false,
            })
        }
        SlotWish::Create(name) => {
            sql.create_slot(name, false).await.map_err(|error| {
                server_fault(
                    &format!("could not create replication slot \"{name}\""),
                    &error,
                )
            })?;
            Ok(OwnedSlot {
                name: name.clone(),
                must_drop: true,
            })
        }
        SlotWish::Held => Err(Fault::new(
            FaultKind::Protocol,
            "the session holds no replication slot",
        )),
        SlotWish::Existing(name) => Ok(OwnedSlot {
            name: name.clone(),
            must_drop: false,
        }),
    }
}

/// Starts the backup under a slot, and proves that the slot keeps WAL from its start on.
///
/// # Errors
/// The server's refusal.
pub async fn open(
    sql: &Session,
    slot: OwnedSlot,
    label: &str,
    fast: bool,
) -> Result<Bracket, Fault> {
    let start_lsn = sql
        .start_backup(label, fast)
        .await
        .map_err(|error| server_fault("could not start the backup", &error))?;
    let bracket = Bracket {
        start_lsn,
        slot,
        also: None,
        has_complained: false,
    };
    let facts = slot_facts(sql, &bracket.slot.name).await?;
    keeps(facts.as_ref(), &bracket.slot.name, start_lsn)?;
    Ok(bracket)
}

/// A slot as it is now; `None` when it does not exist.
///
/// # Errors
/// The server's refusal.
pub async fn slot_facts(sql: &Session, name: &str) -> Result<Option<SlotFacts>, Fault> {
    sql.slot(name)
        .await
        .map_err(|error| server_fault("could not look at the replication slot", &error))
}

/// Takes the name of the standby's slot among all runs of pg_reseed, or only looks. A run that was just killed may
/// take a moment to give it back.
///
/// # Errors
/// The server's refusal.
pub async fn claim(sql: &Session, name: &str, takes: bool) -> Result<Option<SlotHolder>, Fault> {
    let begin = Instant::now();
    loop {
        let other = sql.claim_slot(name, takes).await.map_err(|error| {
            server_fault("could not look who uses the replication slot", &error)
        })?;
        if other.is_none() || !takes || begin.elapsed() > CLAIM_WITHIN {
            return Ok(other);
        }
        tokio::time::sleep(CLAIM_EVERY).await;
    }
}

/// Whether a slot keeps all WAL from `start` on.
fn keeps(slot: Option<&SlotFacts>, name: &str, start: Lsn) -> Result<(), Fault> {
    let unfit = |text: String| Err(Fault::new(FaultKind::Unfit, text));
    let Some(slot) = slot else {
        return unfit(format!("replication slot \"{name}\" does not exist"));
    };
    match slot.restart_lsn {
        None => {
            unfit(format!("replication slot \"{name}\" keeps no WAL")).map_err(|fault: Fault| {
                fault.with_hint(
                "It was made without reserving WAL and never used: drop it and use --create-slot.",
            )
            })
        }
        Some(restart) if restart > start => unfit(format!(
            "replication slot \"{name}\" keeps WAL from {restart} on, but the backup starts at {start}"
        )),
        Some(_) if !slot.is_kept() => unfit(format!(
            "replication slot \"{name}\" does not keep its WAL: its status is \"{}\"",
            slot.wal_status
        )),
        Some(_) => Ok(()),
    }
}

impl Bracket {
    /// Asks how much WAL the slot holds back; also proves that the session lives.
    ///
    /// # Errors
    /// The slot or the session is lost: so is the bracket.
    pub async fn watch(&self, sql: &Session) -> Result<SlotState, String> {
        match sql.slot_state(&self.slot.name).await {
            // The server ends the session that holds a slot before it gives the slot up (`slot.c:
            // InvalidatePossiblyObsoleteSlot`).
            Err(error) if error.is_terminated() => Err(format!(
                "the source's server ended the session ({error}); it does so when it stops, when it is told to, \
                 and when max_slot_wal_keep_size makes it give up the slot"
            )),
            Err(error) => Err(format!("the source's session failed: {error}")),
            Ok(None) => Err(format!(
                "replication slot \"{}\" was dropped",
                self.slot.name
            )),
            Ok(Some(state)) if state.wal_status == "lost" => Err(format!(
                "replication slot \"{}\" lost its WAL: max_slot_wal_keep_size of the source is too \
                 small for this run",
                self.slot.name
            )),
            Ok(Some(mut state)) => {
                if let Some(also) = &self.also
                    && let Ok(Some(own)) = sql.slot_state(also).await
                {
                    state.retained_bytes = state.retained_bytes.max(own.retained_bytes);
                }
                Ok(state)
            }
        }
    }

    /// Lets the server remove the WAL before `to`, as far as the run's slot and that of the standby, `own`, keep it. A
    /// slot that cannot be moved on keeps more than it must, which [`Bracket::watch`] tells.
    pub async fn spare(&mut self, sql: &Session, to: Lsn, own: Option<&SlotFacts>) {
        let own = own.filter(|own| own.name != self.slot.name);
        self.also = own.map(|own| own.name.clone());
        for name in [Some(&self.slot.name), self.also.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Err(error) = sql.advance_slot(name, to).await
                && !self.has_complained
            {
                self.has_complained = true;
                tracing::warn!("could not move replication slot \"{name}\" on: {error}");
            }
        }
    }

    /// Stops the backup.
    ///
    /// # Errors
    /// The server's refusal: the bracket is worthless.
    pub async fn close(&self, sql: &Session) -> Result<Stopped, Fault> {
        sql.stop_backup()
            .await
            .map_err(|error| server_fault("could not stop the backup", &error))
    }
}

/// A fault for a statement that failed.
pub(super) fn server_fault(act: &str, error: &SqlError) -> Fault {
    Fault::new(FaultKind::Server, format!("{act}: {}", chain(error)))
}
