//! All messages of the protocol.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, SessionKey};
use crate::errors::one_line;
use crate::event::Stage;
use crate::facts::{SlotClient, SlotFacts, SourceConfiguration, SourceFacts, Tablespace};
use crate::geometry::{BitSet, EntryId, Span};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;
use crate::pg::wal::{Doubt, Made};

/// Version of the protocol. Both sides must be equal: client and agent are one program, and a rebuild
/// is no place for guesses about an older peer.
pub const PROTOCOL: u16 = 9;

/// How often each side says something at least.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// How long a side may be silent before the link counts as lost.
pub const SILENT_AFTER: Duration = Duration::from_secs(60);

/// Most streams of one session.
pub const STREAMS_MAX: usize = 16;

/// What proves that a further stream belongs to a session: chosen by the client at random.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken(pub [u8; 16]);

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

impl JoinToken {
    /// What everybody on the agent's host may know of it.
    #[must_use]
    pub fn public(&self) -> Digest {
        SessionKey(*b"the name of a pg_reseed session.").digest(&self.0)
    }
}

/// Number of a request; the answer carries the same. 0 marks a [`Notice`], and requests that
/// have no answer.
pub type RequestId = u32;

/// How the agent compresses what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Body by body: zstd where the link is what the run waits for, or where it costs next to nothing.
    Auto,
    None,
    Lz4,
    /// zstd with a level from 1 to 19.
    Zstd(i32),
}

/// The text is no compression method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unrecognized compression method \"{0}\": use auto, none, lz4, zstd or zstd:LEVEL (1 to 19)"
)]
pub struct UnknownCompression(String);

/// Levels of zstd that are used: the higher ones take much memory.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

impl Compression {
    /// Whether it can be what somebody asks for.
    #[must_use]
    pub fn is_lawful(self) -> bool {
        !matches!(self, Self::Zstd(level) if !ZSTD_LEVELS.contains(&level))
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownCompression(text.to_owned());
        match text.split_once(':') {
            None => match text {
                "auto" => Ok(Self::Auto),
                "none" => Ok(Self::None),
                "lz4" => Ok(Self::Lz4),
                "zstd" => Ok(Self::Zstd(1)),
                _ => Err(unknown()),
            },
            Some(("zstd", level)) => match level.parse() {
                Ok(level) if ZSTD_LEVELS.contains(&level) => Ok(Self::Zstd(level)),
                _ => Err(unknown()),
            },
            Some(_) => Err(unknown()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// How one body was really packed: what does not shrink travels as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    Raw,
    Lz4,
    Zstd,
}

/// Which replication slot shall keep the WAL during the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotWish {
    /// One that ends with the agent's SQL session.
    Temporary,
    /// One that the DBA made.
    Existing(String),
    /// A new permanent one, which stays when the run succeeds.
    Create(String),
    /// The one that this session has already: a further backup takes the place of one that was ended.
    Held,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To make a standby: content is read inside a bracket only.
    Rebuild,
    /// To learn what differs: read without a bracket, no content travels.
    Survey,
    /// To compare two clusters: content travels without a bracket, and the files may be listed again.
    Verify,
}

/// What the client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// The session's parameters. Body: none. Answer: [`Answer::Ready`].
    Configure {
        client_version: String,
        key: SessionKey,
        compression: Compression,
        /// How many threads of the agent compute at a time; without it the agent's host decides.
        jobs: Option<u16>,
        /// Most bytes that the agent may read in a second, if there is a limit.
        max_rate: Option<u64>,
        purpose: Purpose,
        /// With it further streams may join this session.
        join: Option<JoinToken>,
    },
    /// Answer: [`Answer::Facts`].
    Facts { slot: Option<String> },
    /// Answer: [`Answer::BracketOpened`], after the checkpoint.
    OpenBracket {
        label: String,
        fast_checkpoint: bool,
        slot: SlotWish,
    },
    /// A part of the manifest, by its number from 0; the first such request walks the tree, and with
    /// [`Purpose::Verify`] each for part 0 does. Many may be asked for ahead once the first has told how many there
    /// are. Answer: [`Answer::ManifestPart`].
    Manifest { part: u32 },
    /// Answer: [`Answer::Digests`]. `have` is the digest of the client's digests of every extent of every span
    /// in order. What lies beyond the end of a file counts as zero bytes.
    Digests { spans: Vec<Span>, have: Digest },
    /// Answer: [`Answer::Blocks`]. Body: the client's digests of all blocks of all spans in order, or
    /// nothing when the client has only zero bytes there; behind them those of the canonical forms of the blocks of
    /// `noisy`, counted over all spans (`compare::noise`). `hungry`: the client has nothing else to do.
    Blocks {
        spans: Vec<Span>,
        noisy: BitSet,
        hungry: bool,
    },
    /// A file as a whole, as it is now. Answer: [`Answer::Delta`]. Body: a signature of the client's file
    /// (`compare::rolling`), whose digest is `have`.
    Delta { entry: EntryId, have: Digest },
    /// Answer: [`Answer::Control`] with the control file as body, its CRC checked.
    Control,
    /// Answer: [`Answer::BracketClosed`].
    CloseBracket,
    /// Segments of `timeline` from the one holding `from` to the one holding `to - 1`, and all history
    /// files. Answer: [`Answer::WalFiles`], whose numbers replace those of the manifest.
    WalFiles {
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    },
    /// The next segments that are complete while the backup runs, from `have` on. The client has all before `have`:
    /// the source need not keep it for the run, nor, with `slot`, for the standby, whose slot
    /// [`Request::Facts`] has named. Answer: [`Answer::WalFiles`], whose numbers are beside those of the manifest;
    /// without files where none is complete yet.
    WalAhead { have: Lsn, slot: bool },
    /// The source's configuration files. Answer: [`Answer::Configuration`].
    Configuration,
    /// Who streams from the source. Answer: [`Answer::Standbys`].
    Standbys,
    /// The session ends well: a temporary slot may go. Answer: [`Answer::Farewell`].
    Bye,
    /// The first request on a further stream of a session, instead of [`Request::Configure`]. Nothing may
    /// follow it before its answer. Answer: [`Answer::Joined`].
    Join { token: JoinToken },
    /// The client is there, whatever else it is doing. There is no answer.
    Alive,
    /// What in the WAL of the backup that was ended is replayed from files. Answer: [`Answer::FileCopies`].
    FileCopies {
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    },
    /// Where the source stands now. Answer: [`Answer::Position`].
    Position,
    /// What the relations are called that these files belong to. Answer: [`Answer::Names`].
    Names { files: Vec<RelationNumber> },
    /// Digests of all records of the source's WAL from the first that begins at or behind `from` up to each of `ends`,
    /// which rise and are at most 1001 (`pg::wal::marks`). Answer: [`Answer::WalDigests`].
    WalDigests { from: Lsn, ends: Vec<Lsn> },
    /// Most bytes that the agent may read in a second from now on, if there is a limit. There is no answer.
    Limit { max_rate: Option<u64> },
    /// What the source's DBA shall see of the run: its target, what it does, and how much of the comparison is done.
    /// There is no answer.
    Shown {
        target: String,
        stage: Stage,
        percent: Option<u8>,
    },
}

/// What the agent answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Ready {
        agent_version: String,
    },
    Facts(Box<SourceFacts>),
    BracketOpened {
        start_lsn: Lsn,
        slot: String,
    },
    /// Body: the part's entries ([`super::listing`]), packed.
    ManifestPart {
        /// How many parts there are: at least one.
        parts: u32,
        packed: Packed,
        /// With the last part.
        end: Option<ManifestEnd>,
    },
    /// Body: the agent's digests of all extents, or nothing when they are the client's.
    Digests {
        /// Indices of spans whose file is gone.
        gone: Vec<u16>,
    },
    /// Body: the blocks of `present` in order, behind them the patches of `patched`, packed; nothing in a survey.
    Blocks {
        gone: Vec<u16>,
        /// Blocks, counted over all spans in order, that differ from what the client has.
        present: BitSet,
        /// Further blocks that differ, of which a patch is enough.
        patched: BitSet,
        /// Length of all patches.
        patch_bytes: u32,
        packed: Packed,
        damaged: Vec<DamagedBlock>,
    },
    /// Body: a delta that makes the source's content from the client's file, packed; nothing in a survey,
    /// or when both are the same.
    Delta {
        gone: bool,
        /// Length of the source's file, or the most of it that is read.
        bytes: u32,
        /// Digest of the source's content.
        digest: Digest,
        /// Length of the delta; 0 when the client's file is the same.
        delta_bytes: u32,
        packed: Packed,
    },
    Control,
    BracketClosed {
        stop_lsn: Lsn,
        backup_label: Vec<u8>,
        /// The slot that kept the WAL, as it is now.
        slot: Option<SlotFacts>,
        /// The tablespaces now: one made during the run is not in the manifest.
        tablespaces: Vec<Tablespace>,
    },
    WalFiles {
        files: Vec<WalFile>,
    },
    Configuration(Box<SourceConfiguration>),
    Standbys {
        senders: Vec<WalSender>,
    },
    Farewell,
    Fault(Fault),
    /// From here on the stream takes requests that read.
    Joined,
    FileCopies {
        /// Copies whose replay may copy something else than the source did.
        doubts: Vec<Doubt>,
        /// Tablespaces whose creation is replayed.
        made: Vec<Made>,
    },
    /// End of WAL, as [`SourceFacts::current_lsn`].
    Position {
        timeline: TimelineId,
        lsn: Lsn,
    },
    /// For each that was asked for: `None` where the source has no such relation, or its role may not ask.
    Names {
        names: Vec<Option<RelationName>>,
    },
    /// Fewer than were asked for where the source's WAL ends.
    WalDigests {
        digests: Vec<Digest>,
    },
}

/// What the agent says without being asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Notice {
    /// WAL that the run's slot holds back behind the current end, and the slot's `wal_status`.
    RetainedWal { bytes: u64, status: String },
    /// The agent is there: a silent link is a lost one.
    Alive,
    /// The bracket is gone: what was read is worthless for finishing.
    BracketLost { reason: String },
}

/// Most relations whose names are asked for at a time.
pub const NAMES_MAX: usize = 1000;

/// The number by which a relation's files are called, and where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationNumber {
    pub tablespace: u32,
    /// 0 for those that all databases share.
    pub database: u32,
    pub relfilenode: u32,
}

/// What a relation is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationName {
    pub database: String,
    /// With its schema where that is not on the search path.
    pub relation: String,
}

/// How a body was packed and how to prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    pub codec: Codec,
    /// Length after unpacking.
    pub bytes: u32,
    /// Digest after unpacking.
    pub digest: Digest,
}

/// What the walk saw beside files and directories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEnd {
    pub tablespaces: Vec<Tablespace>,
    /// Foreign links and special files, which a base backup leaves out too, and what may not be read.
    pub skipped: Vec<String>,
    /// Data that the agent may not read: the copy would lack it.
    pub unreadable: Vec<String>,
    /// How many more there are.
    pub unreadable_more: u64,
    /// Names at the top of the data directory that the source's configuration names, or in which something lies that
    /// it names: certificates, included files, logs. They are its host's, not data.
    pub host_entries: Vec<Vec<u8>>,
}

/// A page of the source that fails PostgreSQL's checksum although it was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBlock {
    pub entry: EntryId,
    /// Block number within the relation fork.
    pub block: u32,
    pub expected_checksum: u16,
    pub actual_checksum: u16,
}

/// A file in the source's pg_wal, which can be read under its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFile {
    pub entry: EntryId,
    pub name: String,
    pub bytes: u64,
}

/// A row of pg_stat_replication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSender {
    pub pid: i32,
    pub application_name: String,
    pub state: String,
    /// The slot that it uses.
    pub slot: Option<String>,
    pub flush_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    /// Whom it serves; `None` where the role may not see it.
    pub client: Option<SlotClient>,
    /// Microseconds since 1970 by the source's clock.
    pub began: Option<i64>,
}

/// What kind of trouble the agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The client broke a rule of the protocol, or asked for what the agent does not offer.
    Protocol,
    /// The source's server refused or failed.
    Server,
    /// A file of the source could not be read.
    Read,
    /// The source cannot be used as it is.
    Unfit,
}

/// An error that crosses the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: FaultKind,
    /// In PostgreSQL's style: lower case, no full stop.
    pub message: String,
    /// A sentence, where there is more to say.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without a hint.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// The fault of a peer that is not trusted: its texts have one line each and nothing that a terminal obeys.
    #[must_use]
    pub fn in_one_line(mut self) -> Self {
        self.message = one_line(&self.message);
        self.hint = self.hint.map(|hint| one_line(&hint));
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
