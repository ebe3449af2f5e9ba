//! The agent's side of one client's session: which requests are lawful now, and what they do.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use super::ahead::{Ahead, segments_of};
use super::answer::{Reader, Reply};
use super::bracket::{self, Bracket, OwnedSlot, server_fault};
use super::configuration;
use super::effort::{Effort, Limit};
use super::host;
use super::look;
use super::names;
use super::options::ServeOptions;
use super::replay::{self, Scan};
use super::tree::{self, Tree, WalkRules, list_fault, read_fault};
use crate::buffer::Buffer;
use crate::digest::SessionKey;
use crate::disk::facts as disk_facts;
use crate::disk::root::Roots;
use crate::disk::walk;
use crate::errors::chain;
use crate::facts::SourceFacts;
use crate::geometry::EntryId;
use crate::link::process::CLUSTER_LINE;
use crate::manifest::{EntryKind, Folder, Listing};
use crate::path::RelPath;
use crate::pg::lsn::{Lsn, segments};
use crate::pg::timeline::TimelineId;
use crate::sql::{Canceller, Session as Sql};
use crate::wire::listing;
use crate::wire::message::{
    Answer, Compression, Fault, FaultKind, ManifestEnd, NAMES_MAX, Notice, Purpose, Request,
    SlotWish, WalFile,
};
use crate::workers;

/// Most threads of the walk, whatever the client asks for.
const WALK_THREADS_MAX: usize = 32;

/// What the client chose at the beginning.
#[derive(Debug, Clone, Copy)]
struct Configuration {
    key: SessionKey,
    /// Threads for the walk.
    jobs: usize,
    purpose: Purpose,
}

/// A session's state. Requests that change it come here one after the other; the others go straight to
/// the [`Reader`] that it publishes.
pub struct Session {
    options: ServeOptions,
    effort: Arc<Effort>,
    configuration: Option<Configuration>,
    sql: Option<Sql>,
    facts: Option<SourceFacts>,
    /// What of its data directory the source's configuration names.
    host_entries: Vec<RelPath>,
    /// A backup was begun, or tried to.
    has_begun: bool,
    slot: Option<OwnedSlot>,
    bracket: Option<Bracket>,
    /// The backup's WAL that the client has before its end.
    ahead: Option<Ahead>,
    tree: Option<Tree>,
    reader: Option<Arc<Reader>>,
    /// The `application_name` that was set last.
    shown: String,
}

fn unlawful(what: &str) -> Fault {
    Fault::new(FaultKind::Protocol, format!("{what} is not allowed now"))
}

impl Session {
    /// A session that nothing was asked of yet.
    #[must_use]
    pub fn new(options: ServeOptions) -> Self {
        Self {
            options,
            effort: Arc::new(Effort::new(Compression::None, Arc::default())),
            configuration: None,
            sql: None,
            facts: None,
            host_entries: Vec::new(),
            has_begun: false,
            slot: None,
            bracket: None,
            ahead: None,
            tree: None,
            reader: None,
            shown: String::new(),
        }
    }

    /// The reader that data requests may use now.
    #[must_use]
    pub fn reader(&self) -> Option<Arc<Reader>> {
        self.reader.clone()
    }

    /// The limit on reading, which may be changed at any time.
    #[must_use]
    pub fn limit(&self) -> Arc<Limit> {
        self.effort.limit()
    }

    /// Something that cancels the statement in flight.
    #[must_use]
    pub fn canceller(&self) -> Option<Canceller> {
        self.sql.as_ref().map(Sql::canceller)
    }

    /// Answers a request that is not for the [`Reader`].
    ///
    /// # Errors
    /// A fault: the request was out of order, or the source failed.
    pub async fn answer(&mut self, request: Request) -> Result<Reply, Fault> {
        let answer = match request {
            Request::Configure {
                key,
                compression,
                jobs,
                max_rate,
                purpose,
                ..
            } => {
                if self.configuration.is_some() || !compression.is_lawful() {
                    return Err(unlawful("this configuration"));
                }
                let limit = self.limit();
                limit.set(max_rate);
                self.effort = Arc::new(Effort::new(compression, limit));
                self.configuration = Some(Configuration {
                    key,
                    jobs: workers::jobs(jobs).min(WALK_THREADS_MAX),
                    purpose,
                });
                Answer::Ready {
                    agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                }
            }
            Request::Facts { .. } if self.facts.is_some() => {
                return Err(unlawful("a second question for the facts"));
            }
            Request::Facts { slot } => {
                let facts = self.look(slot.as_deref()).await?;
                self.facts = Some(facts.clone());
                Answer::Facts(Box::new(facts))
            }
            Request::OpenBracket {
                label,
                fast_checkpoint,
                slot,
            } => self.open_bracket(&label, fast_checkpoint, &slot).await?,
            // The walk reads many directories: other work goes on meanwhile.
            Request::Manifest { part } => return workers::in_place(|| self.manifest(part)),
            Request::CloseBracket => self.close_bracket().await?,
            Request::WalFiles { timeline, from, to } => self.wal_files(timeline, from, to).await?,
            Request::WalAhead { have, slot } => self.wal_ahead(have, slot).await?,
            Request::FileCopies { timeline, from, to } => {
                let timelines = self.wal_timelines(timeline, from, to).await?;
                let ahead = self.ahead.take();
                let (facts, wal) = self.wal_place()?;
                let known = ahead.map(|ahead| ahead.scan);
                let scan = known.filter(|scan| scan.from == from);
                let scan = scan.unwrap_or_else(|| Scan::new(facts, from));
                // All WAL of the backup is read: other work goes on meanwhile.
                workers::in_place(|| scan.finish(facts, &wal, timelines, to))?
            }
            Request::Configuration => {
                let facts = self
                    .facts
                    .as_ref()
                    .ok_or_else(|| unlawful("configuration"))?;
                let found = configuration::read(self.sql()?, &facts.rights.role).await?;
                Answer::Configuration(Box::new(found))
            }
            Request::Standbys => {
                let senders = self.sql()?.wal_senders().await.map_err(|error| {
                    server_fault("could not ask the source who streams from it", &error)
                })?;
                Answer::Standbys { senders }
            }
            Request::Position if self.options.is_stopped => {
                let facts = self.facts.as_ref().ok_or_else(|| unlawful("a position"))?;
                Answer::Position {
                    timeline: facts.timeline,
                    lsn: facts.current_lsn,
                }
            }
            Request::Names { files } => {
                if files.len() > NAMES_MAX || self.facts.is_none() {
                    return Err(unlawful("so many names"));
                }
                let names = match &self.sql {
                    Some(sql) => names::names(sql, &self.options, &files).await,
                    None => vec![None; files.len()],
                };
                Answer::Names { names }
            }
            Request::Position => {
                let now = self.sql()?.facts().await.map_err(|error| {
                    server_fault("could not ask the source where it stands", &error)
                })?;
                Answer::Position {
                    timeline: now.timeline,
                    lsn: now.current_lsn,
                }
            }
            Request::WalDigests { from, ends } => {
                let key = self.configuration()?.key;
                let (facts, wal) = self.wal_place()?;
                workers::in_place(|| replay::wal_digests(facts, &wal, key, from, &ends))?
            }
            Request::Bye => {
                // The slot that was asked for stays: the standby streams from it, or will.
                self.slot = None;
                Answer::Farewell
            }
            Request::Digests { .. }
            | Request::Blocks { .. }
            | Request::Delta { .. }
            | Request::Control => return Err(unlawful("reading")),
            Request::Join { .. } => return Err(unlawful("joining a session")),
            Request::Alive | Request::Limit { .. } | Request::Shown { .. } => {
                return Err(unlawful("a word without answer"));
            }
        };
        Ok((answer, Buffer::default()))
    }

    fn configuration(&self) -> Result<Configuration, Fault> {
        self.configuration
            .ok_or_else(|| unlawful("a request before the configuration"))
    }

    fn sql(&self) -> Result<&Sql, Fault> {
        self.sql
            .as_ref()
            .ok_or_else(|| unlawful("a request to the server before its facts"))
    }

    async fn look(&mut self, slot: Option<&str>) -> Result<SourceFacts, Fault> {
        self.configuration()?;
        if disk_facts::is_root() {
            return Err(
                Fault::new(FaultKind::Unfit, "the agent runs as root").with_hint(
                    "Run it as the owner of the source's data directory, usually postgres.",
                ),
            );
        }
        if self.options.is_stopped {
            if self.configuration()?.purpose != Purpose::Verify {
                return Err(Fault::new(
                    FaultKind::Unfit,
                    "an agent without a server serves pg_reseed verify only",
                ));
            }
            return workers::in_place(|| look::stopped(&self.options));
        }
        let defaults = self.options.defaults();
        let sql = Sql::connect(&self.options.dbname, &defaults)
            .await
            .map_err(|error| {
                let hint = if error.is_refused_login() {
                    "The agent logs in from the source's own host; --source-dbname (or the agent's own --dbname) says \
                     as whom. With peer authentication a role is named like the operating system user, or mapped to it \
                     in pg_ident.conf: see \"The role of the agent\" in SECURITY.md."
                } else {
                    "The agent connects from the source's own host; --source-dbname (or the agent's own --dbname) says \
                     how."
                };
                Fault::new(FaultKind::Server, chain(&error)).with_hint(hint)
            })?;
        let slot_run = match slot {
            Some(name) => {
                let takes = self.configuration()?.purpose == Purpose::Rebuild;
                bracket::claim(&sql, name, takes).await?
            }
            None => None,
        };
        let facts = look::source(&sql, &self.options, slot, slot_run).await?;
        let pgdata = String::from_utf8_lossy(&facts.data_directory);
        let identifier = facts.control.system_identifier;
        tracing::info!("{CLUSTER_LINE}{identifier} in \"{pgdata}\"");
        self.host_entries = host::entries(&sql, &facts).await?;
        self.sql = Some(sql);
        Ok(facts)
    }

    async fn open_bracket(
        &mut self,
        label: &str,
        fast: bool,
        wish: &SlotWish,
    ) -> Result<Answer, Fault> {
        if self.configuration()?.purpose != Purpose::Rebuild
            || self.facts.is_none()
            || self.bracket.is_some()
        {
            return Err(unlawful("a backup"));
        }
        let slot = match (wish, &self.slot) {
            (SlotWish::Held, Some(slot)) => slot.clone(),
            // One for each session: each may make a slot, and only the last would be dropped.
            (SlotWish::Held, None) => return Err(unlawful("a further backup")),
            _ if self.has_begun => return Err(unlawful("a backup")),
            _ => {
                self.has_begun = true;
                let slot = bracket::reserve(self.sql()?, wish).await?;
                // Remembered before the backup starts: if that fails, the slot must go.
                self.slot = Some(slot.clone());
                slot
            }
        };
        // What was listed for the WAL of an earlier one.
        self.reader = None;
        self.ahead = None;
        let bracket = bracket::open(self.sql()?, slot, label, fast).await?;
        let answer = Answer::BracketOpened {
            start_lsn: bracket.start_lsn,
            slot: bracket.slot.name.clone(),
        };
        self.bracket = Some(bracket);
        Ok(answer)
    }

    fn manifest(&mut self, part: u32) -> Result<Reply, Fault> {
        let configuration = self.configuration()?;
        let facts = self.facts.as_ref().ok_or_else(|| unlawful("a manifest"))?;
        let is_asked_again = configuration.purpose == Purpose::Verify && part == 0;
        if self.tree.is_none() || is_asked_again {
            let start = match (&self.bracket, configuration.purpose) {
                (Some(bracket), _) => bracket.start_lsn,
                (None, Purpose::Survey | Purpose::Verify) => facts.current_lsn,
                (None, Purpose::Rebuild) => return Err(unlawful("a manifest before the backup")),
            };
            let pgdata = PathBuf::from(std::ffi::OsStr::from_bytes(&facts.data_directory));
            let tablespaces = look::tablespaces(&pgdata)?;
            let located: Vec<_> = tablespaces
                .iter()
                .filter_map(|space| {
                    let location = space.location.as_deref()?;
                    let path = PathBuf::from(std::ffi::OsStr::from_bytes(location));
                    Some((space.oid, path))
                })
                .collect();
            let roots = Roots::open(
                &pgdata,
                located.iter().map(|(oid, path)| (*oid, path.as_path())),
            )
            .map_err(|error| read_fault(&error))?;
            let rules = WalkRules {
                version_directory: format!(
                    "PG_{}_{}",
                    facts.version.major(),
                    facts.control.catalog_version
                ),
                log_directory: host::log_directory(facts),
                tablespaces,
            };
            let mut tree = tree::walk(&roots, &rules, configuration.jobs)?;
            self.reader = Some(Arc::new(Reader {
                roots,
                linked: std::mem::take(&mut tree.linked),
                files: Arc::clone(&tree.manifest),
                wal: RwLock::default(),
                key: configuration.key,
                effort: Arc::clone(&self.effort),
                block_bytes: facts.control.block_bytes,
                segment_blocks: facts.control.segment_blocks,
                checksums_before: facts.settings.data_checksums.then_some(start),
                is_survey: configuration.purpose == Purpose::Survey,
            }));
            self.tree = Some(tree);
        }
        let tree = self.tree.as_ref().expect("it was just made");
        let place = part as usize;
        let from = *tree.parts.get(place).ok_or_else(|| {
            Fault::new(
                FaultKind::Protocol,
                format!("the manifest has no part {part}"),
            )
        })?;
        let next = tree.parts.get(place + 1);
        let to = next.map_or(tree.manifest.len(), |next| next.0);
        let items = tree.manifest.iter_from(from).take((to - from.0) as usize);
        let encoded = listing::encode(items);
        let (packed, body) = self.effort.pack(encoded.into(), &configuration.key, true);
        let answer = Answer::ManifestPart {
            parts: u32::try_from(tree.parts.len()).unwrap_or(u32::MAX),
            packed,
            end: next.is_none().then(|| ManifestEnd {
                tablespaces: tree.tablespaces.clone(),
                skipped: tree.skipped.clone(),
                unreadable: tree.unreadable.clone(),
                unreadable_more: tree.unreadable_more,
                host_entries: self
                    .host_entries
                    .iter()
                    .map(|path| path.as_bytes().to_vec())
                    .collect(),
            }),
        };
        Ok((answer, body))
    }

    async fn close_bracket(&mut self) -> Result<Answer, Fault> {
        let bracket = self
            .bracket
            .take()
            .ok_or_else(|| unlawful("an end of the backup"))?;
        // Whatever is read from here on does not belong to the backup.
        self.reader = None;
        self.tree = None;
        let stopped = bracket.close(self.sql()?).await?;
        let slot = bracket::slot_facts(self.sql()?, &bracket.slot.name).await?;
        let facts = self.facts.as_ref().ok_or_else(|| unlawful("an end"))?;
        let pgdata = PathBuf::from(std::ffi::OsStr::from_bytes(&facts.data_directory));
        Ok(Answer::BracketClosed {
            stop_lsn: stopped.lsn,
            backup_label: stopped.label.into_bytes(),
            slot,
            tablespaces: look::tablespaces(&pgdata)?,
        })
    }

    /// The timelines that the WAL of the backup, which was ended, may be on.
    async fn wal_timelines(
        &self,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    ) -> Result<RangeInclusive<TimelineId>, Fault> {
        let now = self.sql()?.facts().await;
        let newest = now
            .map_err(|error| server_fault("could not ask the source for its timeline", &error))?
            .timeline;
        if self.bracket.is_some() || to < from {
            return Err(unlawful("WAL before the end of the backup"));
        }
        Ok(timeline..=newest.max(timeline))
    }

    /// Where the source's WAL is.
    fn wal_place(&self) -> Result<(&SourceFacts, PathBuf), Fault> {
        let facts = self.facts.as_ref().ok_or_else(|| unlawful("WAL"))?;
        let pgdata = Path::new(std::ffi::OsStr::from_bytes(&facts.data_directory));
        Ok((facts, pgdata.join("pg_wal")))
    }

    /// Lets the source remove the WAL that the client has, and names what is complete behind it.
    async fn wal_ahead(&mut self, have: Lsn, slot: bool) -> Result<Answer, Fault> {
        let (Some(bracket), Some(reader), Some(sql), Some(facts)) =
            (&mut self.bracket, &self.reader, &self.sql, &self.facts)
        else {
            return Err(unlawful("WAL ahead of the end of the backup"));
        };
        let pgdata = Path::new(std::ffi::OsStr::from_bytes(&facts.data_directory));
        let wal = pgdata.join("pg_wal");
        let ahead = self
            .ahead
            .get_or_insert_with(|| Ahead::new(facts, bracket.start_lsn));
        // What has come is read once more here: other work goes on meanwhile.
        let spare = workers::in_place(|| ahead.has_come(facts, &wal, have))?;
        if spare > bracket.start_lsn {
            let own = facts.slot.as_ref().filter(|_| slot);
            bracket.spare(sql, spare, own).await;
        }
        let settled = sql.settled_lsn().await.map_err(|error| {
            server_fault("could not ask the source for the end of its WAL", &error)
        })?;
        let named = workers::in_place(|| ahead.name_next(facts, &wal, reader, (have, settled)));
        Ok(Answer::WalFiles { files: named? })
    }

    async fn wal_files(
        &mut self,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    ) -> Result<Answer, Fault> {
        let configuration = self.configuration()?;
        let timelines = self.wal_timelines(timeline, from, to).await?;
        let (facts, wal) = self.wal_place()?;
        let listed = walk::list(&wal).map_err(|error| read_fault(&error))?;
        let segment_bytes = facts.control.wal_segment_bytes;
        let is_one = |timeline| timelines.contains(&timeline);
        let mut there = segments_of(&listed, segment_bytes, is_one);
        let mut wanted = Vec::new();
        for segment in segments(timeline, from, to, segment_bytes) {
            let Some(names) = there.remove(&segment.number) else {
                let name = segment.file_name(segment_bytes);
                return Err(Fault::new(
                    FaultKind::Unfit,
                    format!("WAL segment \"{name}\" is not on the source any more"),
                ));
            };
            wanted.extend(names);
        }
        for found in &listed {
            let name = String::from_utf8_lossy(&found.name);
            if name.ends_with(".history") && found.kind == walk::Kind::File {
                wanted.push((name.into_owned(), found.size));
            }
        }
        wanted.sort();
        let mut folder = Folder::new(None);
        let mut files = Vec::new();
        for (number, (name, bytes)) in (0..).zip(wanted) {
            folder
                .push(name.as_bytes(), EntryKind::File, bytes)
                .map_err(|error| list_fault(&error))?;
            files.push(WalFile {
                entry: EntryId(number),
                name,
                bytes,
            });
        }
        let listing = Listing::from_folders(vec![folder]).map_err(|error| list_fault(&error))?;
        let roots = Roots::open(&wal, []).map_err(|error| read_fault(&error))?;
        self.reader = Some(Arc::new(Reader {
            roots,
            linked: BTreeMap::new(),
            files: Arc::new(listing),
            wal: RwLock::default(),
            key: configuration.key,
            effort: Arc::clone(&self.effort),
            block_bytes: facts.control.block_bytes,
            segment_blocks: facts.control.segment_blocks,
            checksums_before: None,
            is_survey: false,
        }));
        Ok(Answer::WalFiles { files })
    }

    /// Looks whether bracket and slot still live, and how much WAL they hold back. To be called now and
    /// then.
    pub async fn watch(&mut self) -> Option<Notice> {
        let bracket = self.bracket.as_ref()?;
        let sql = self.sql.as_ref()?;
        match bracket.watch(sql).await {
            Ok(state) => Some(Notice::RetainedWal {
                bytes: state.retained_bytes,
                status: state.wal_status,
            }),
            Err(reason) => {
                self.bracket = None;
                self.reader = None;
                Some(Notice::BracketLost { reason })
            }
        }
    }

    /// Shows the run in the source's `pg_stat_activity` under this name. A name that the agent's own connection string
    /// gives stays.
    pub async fn show(&mut self, name: &str) {
        if self.options.dbname.get("application_name").is_some() || self.shown == name {
            return;
        }
        if let Some(sql) = &self.sql {
            name.clone_into(&mut self.shown);
            // What is wrong with the session, its next statement tells.
            if let Err(error) = sql.show_as(name).await {
                tracing::info!("could not set application_name: {error}");
            }
        }
    }

    /// Ends the session: drops the slot that a failed run made. The rest ends with the SQL session.
    pub async fn end(&mut self) {
        self.reader = None;
        self.bracket = None;
        if let (Some(sql), Some(slot)) = (&self.sql, self.slot.take())
            && slot.must_drop
            && let Err(error) = sql.drop_slot(&slot.name).await
        {
            tracing::error!("could not drop replication slot \"{}\": {error}", slot.name);
        }
        self.sql = None;
    }
}
