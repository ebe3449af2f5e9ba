//! What happens during a run, told to whoever listens: counters for figures, events for moments.
//!
//! The library counts and reports; `ui` draws. Nobody who counts knows who listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::warning::Warning;

/// The steps of a run, in order. Their names are stable: they stand in `--progress json` and in the
/// report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Learn about both sides.
    Look,
    /// Decide whether the run may go on.
    Judge,
    /// Slot, checkpoint, `pg_backup_start`.
    Bracket,
    /// The list of what the target shall hold, and what to do with each entry.
    Manifest,
    /// Make the target unstartable: the point of no return.
    Close,
    /// Compare, fetch, write, remove.
    Compare,
    /// `pg_backup_stop` and the WAL from start to stop.
    Wal,
    /// Configuration, sync to disk, control file.
    Finish,
    /// The hooks of a copy, while nobody else can come in.
    Hooks,
    /// Start the server.
    Start,
    /// Wait until it streams.
    Watch,
    /// The run is over.
    Done,
}

impl Stage {
    /// The stage's stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Look => "look",
            Stage::Judge => "judge",
            Stage::Bracket => "bracket",
            Stage::Manifest => "manifest",
            Stage::Close => "close",
            Stage::Compare => "compare",
            Stage::Wal => "wal",
            Stage::Finish => "finish",
            Stage::Hooks => "hooks",
            Stage::Start => "start",
            Stage::Watch => "watch",
            Stage::Done => "done",
        }
    }
}

/// A moment worth telling.
#[derive(Debug, Clone)]
pub enum Event {
    /// A stage begins.
    Stage(Stage),
    /// Whether another program may ask a question at the terminal from here on, as ssh and sudo do. It may until the
    /// agent has answered.
    MayAsk(bool),
    /// What is known about the work once the plan is made.
    Planned {
        files: u64,
        compare_bytes: u64,
        fetch_bytes: u64,
    },
    /// Something unexpected that does not stop the run.
    Warning(Warning),
    /// A fact that the user wants to know, as a sentence.
    Note(String),
    /// WAL that the source keeps for this run, in bytes behind its current end.
    RetainedWal { bytes: u64 },
    /// What the source may read a second from now on; `None` is no limit.
    MaxRate(Option<u64>),
}

/// Figures that grow during a run. Bytes unless the name says blocks or files.
#[derive(Debug, Default)]
pub struct Counters {
    /// Compared against the source.
    pub compared_bytes: AtomicU64,
    /// Fetched because the target lacked them (missing files, missing ends of files).
    pub fetched_bytes: AtomicU64,
    /// Blocks that existed on both sides and differed.
    pub differing_blocks: AtomicU64,
    /// Blocks that were sent by the agent, before compression.
    pub moved_blocks: AtomicU64,
    /// Of the blocks that differed those that were not sent, because they differed in noise only: patches of them were.
    pub patched_blocks: AtomicU64,
    /// Bytes that were sent by the agent to replace or add content, patches too, before compression.
    pub moved_bytes: AtomicU64,
    /// Everything received from the agent, as it came over the link.
    pub wire_received_bytes: AtomicU64,
    /// Everything sent to the agent, as it went over the link.
    pub wire_sent_bytes: AtomicU64,
    /// Byte streams between both sides that came up, without those that came in the place of a lost one.
    pub streams: AtomicU64,
    /// Further streams that were lost while the run went on.
    pub lost_streams: AtomicU64,
    /// Written to the target.
    pub written_bytes: AtomicU64,
    /// Files removed from the target.
    pub removed_files: AtomicU64,
    /// WAL placed in the target.
    pub wal_bytes: AtomicU64,
}

impl Counters {
    /// Adds to one of the counters.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Reads one of the counters.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Whoever wants to know what happens.
pub trait Listener: Send + Sync {
    /// Called at each event, from any thread; must not block.
    fn hear(&self, event: &Event);
}

/// The handle that the steps of a run tell their events to.
#[derive(Clone)]
pub struct Events {
    counters: Arc<Counters>,
    listener: Arc<dyn Listener>,
}

impl Events {
    /// Events that `listener` hears.
    #[must_use]
    pub fn new(counters: Arc<Counters>, listener: Arc<dyn Listener>) -> Self {
        Self { counters, listener }
    }

    /// The run's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Tells an event.
    pub fn tell(&self, event: &Event) {
        self.listener.hear(event);
    }

    /// Tells that a stage begins.
    pub fn stage(&self, stage: Stage) {
        self.tell(&Event::Stage(stage));
    }

    /// Tells a warning.
    pub fn warn(&self, warning: Warning) {
        self.tell(&Event::Warning(warning));
    }

    /// Tells a note.
    pub fn note(&self, sentence: impl Into<String>) {
        self.tell(&Event::Note(sentence.into()));
    }
}
