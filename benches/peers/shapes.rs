//! The shapes of work: what the target holds when a tool starts, how far away the source is, and which
//! tools are held against each other.

use std::time::Duration;

use crate::Result;
use crate::args::ShapeName;
use crate::cluster::Site;
use crate::link;
use crate::scene::{Pair, touch_every, touch_many};
use crate::tools::Tool;

/// 100 Mbit/s and 50 ms: another continent.
const FAR: link::Shape = link::Shape {
    bits_per_second: 100_000_000,
    round_trip: Duration::from_millis(50),
};
/// 1 Gbit/s and the next rack. The threads of the proxy take their time as well, so that a round trip comes
/// out at about half a millisecond.
const GIGABIT: link::Shape = link::Shape {
    bits_per_second: 1_000_000_000,
    round_trip: Duration::from_micros(200),
};

/// Links that shapes use, for their proof.
pub const LINKS: [(&str, link::Shape); 2] = [("far", FAR), ("1 Gbit/s", GIGABIT)];

/// What the target holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The same as the source.
    Twin,
    /// An old primary that wrote to one in so many blocks of the big table.
    EveryBlock(u64),
    /// An old primary that wrote to one in a hundred of its many tables.
    EveryTable,
    /// The old primary as its crash has left it.
    Crashed,
    Empty,
}

/// One shape.
pub struct Shape {
    pub name: ShapeName,
    /// A sentence for the table.
    pub about: &'static str,
    state: State,
    pub link: Option<link::Shape>,
    pub tools: Vec<Tool>,
    /// Whether a cold cache would only measure the link.
    pub is_warm_only: bool,
}

impl Shape {
    /// Makes `site` the state in which every run begins.
    pub fn make(&self, pair: &Pair, site: &Site) -> Result<()> {
        match self.state {
            State::Twin => pair.twin(site),
            State::EveryBlock(step) => pair.diverge(site, |server| touch_every(server, step)),
            State::EveryTable => pair.diverge(site, touch_many),
            State::Crashed => pair.crashed(site),
            State::Empty => site.clear(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }
}

/// The tools of most shapes.
fn standard(rewind: bool) -> Vec<Tool> {
    let mut tools = vec![Tool::reseed(), Tool::basebackup(), Tool::rsync_whole()];
    tools.extend([Tool::rsync_delta(), Tool::pgbackrest()]);
    if rewind {
        // First, so that it sees the source without the WAL of the other tools' backups.
        tools.insert(0, Tool::rewind());
    }
    tools.push(Tool::roofline());
    tools
}

/// The shapes of pgbench's cluster, in their order.
pub fn of_pgbench() -> Vec<Shape> {
    let mut sparse = standard(true);
    sparse.extend([
        Tool::reseed_with(&["-Z", "none"]),
        Tool::reseed_with(&["-Z", "lz4"]),
        Tool::reseed_with(&["-Z", "zstd"]),
        Tool::reseed_by_ssh(),
        Tool::rsync_delta_by_ssh(),
    ]);
    let shape = |name, about, state, tools| Shape {
        name,
        about,
        state,
        link: None,
        tools,
        is_warm_only: false,
    };
    let over = |link, shape: Shape| Shape {
        link: Some(link),
        is_warm_only: true,
        ..shape
    };
    vec![
        shape(
            ShapeName::None,
            "nothing differs",
            State::Twin,
            standard(false),
        ),
        shape(
            ShapeName::Sparse,
            "1 % of the blocks of the big table differ, spread over it",
            State::EveryBlock(100),
            sparse,
        ),
        shape(
            ShapeName::Hot,
            "10 % of the blocks of the big table differ",
            State::EveryBlock(10),
            standard(true),
        ),
        shape(
            ShapeName::Heavy,
            "50 % of the blocks of the big table differ",
            State::EveryBlock(2),
            standard(true),
        ),
        shape(
            ShapeName::Empty,
            "the target is empty",
            State::Empty,
            vec![
                Tool::reseed(),
                Tool::reseed_with(&["-Z", "none"]),
                Tool::basebackup(),
                Tool::rsync_whole(),
                Tool::pgbackrest(),
                Tool::roofline(),
            ],
        ),
        over(
            FAR,
            shape(
                ShapeName::Far,
                "sparse, over 100 Mbit/s with a round trip of 50 ms",
                State::EveryBlock(100),
                vec![
                    Tool::rewind(),
                    Tool::reseed(),
                    Tool::rsync_delta(),
                    Tool::roofline(),
                ],
            ),
        ),
        over(
            GIGABIT,
            shape(
                ShapeName::SparseGbit,
                "sparse, over 1 Gbit/s",
                State::EveryBlock(100),
                vec![
                    Tool::rewind(),
                    Tool::reseed(),
                    Tool::basebackup(),
                    Tool::basebackup_with(&["--compress=server-lz4"]),
                    Tool::rsync_delta(),
                    Tool::roofline(),
                ],
            ),
        ),
        over(
            GIGABIT,
            shape(
                ShapeName::EmptyGbit,
                "the target is empty, over 1 Gbit/s",
                State::Empty,
                vec![
                    Tool::reseed(),
                    Tool::basebackup(),
                    Tool::basebackup_with(&["--compress=server-lz4"]),
                    Tool::rsync_whole(),
                    Tool::roofline(),
                ],
            ),
        ),
    ]
}

/// The shape of the clusters that a failover under load has left.
pub fn of_failover() -> Shape {
    let mut tools = standard(true);
    tools.push(Tool::reseed_with(&["--no-noise-patch"]));
    Shape {
        name: ShapeName::Failover,
        about: "an old primary that was killed under load; the new one was written to and read since",
        state: State::Crashed,
        link: None,
        tools,
        is_warm_only: false,
    }
}

/// The shape of the cluster with many files.
pub fn of_many() -> Shape {
    Shape {
        name: ShapeName::Many,
        about: "many small relations, 1 % of the tables differ in a row",
        state: State::EveryTable,
        link: None,
        tools: vec![
            Tool::reseed(),
            Tool::basebackup(),
            Tool::rsync_whole(),
            Tool::rsync_equal_times(),
            Tool::rsync_delta(),
            Tool::roofline(),
        ],
        is_warm_only: false,
    }
}
