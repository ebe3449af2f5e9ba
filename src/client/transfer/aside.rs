//! What the agent is told beside the questions, while they go on: the rate that is in force by now, and how far the run is,
//! for the source's DBA.

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::clock;
use crate::client::run::Run;
use crate::client::source::Source;
use crate::disk::facts::host;
use crate::event::Stage;
use crate::plan::words::Bytes;
use crate::wire::message::Request;

/// How often it is looked what there is to tell.
const EVERY: Duration = Duration::from_secs(1);

/// How often the agent is told the percentage; a new stage it is told at once.
const SHOW_EVERY: Duration = Duration::from_secs(10);

/// Tells the agent what has changed, and never returns.
pub async fn tell<O>(run: &Run<'_, O>, source: &Source, pgdata: &Path) -> Infallible {
    source.ready().await;
    if run.reach.max_rate.changes() {
        tell_rate(run);
    }
    let mut shown = Shown {
        target: format!("{}:{}", host().name, pgdata.display()),
        last: None,
    };
    let mut clock = tokio::time::interval(EVERY);
    loop {
        clock.tick().await;
        keep_rate(run, source).await;
        shown.tell(run, source).await;
    }
}

/// What the agent shows.
struct Shown {
    target: String,
    /// What it was told last, and when.
    last: Option<(Instant, Stage, Option<u8>)>,
}

impl Shown {
    async fn tell<O>(&mut self, run: &Run<'_, O>, source: &Source) {
        let (Some(stage), percent) = run.record.progress(run.events.counters()) else {
            return;
        };
        let percent = percent.filter(|_| stage == Stage::Compare);
        let is_due = match self.last {
            Some((at, last, before)) => {
                last != stage || before != percent && at.elapsed() >= SHOW_EVERY
            }
            None => true,
        };
        if is_due {
            self.last = Some((Instant::now(), stage, percent));
            let target = self.target.clone();
            source
                .say(&Request::Shown {
                    target,
                    stage,
                    percent,
                })
                .await;
        }
    }
}

fn rate_in_words(rate: Option<u64>) -> String {
    match rate {
        Some(rate) => format!("the source reads {} a second at most", Bytes(rate)),
        None => "there is no limit".to_owned(),
    }
}

/// Tells people which rate the timetable begins with.
fn tell_rate<O>(run: &Run<'_, O>) {
    let told = run.told_rate.load(Ordering::Relaxed);
    run.events.note(format!(
        "By the timetable of --max-rate {} now ({}, {}).",
        rate_in_words(Some(told).filter(|rate| *rate > 0)),
        clock::now(),
        clock::zone()
    ));
}

/// Tells the agent the rate that is in force by now, where that is another one. The table stays here, since it goes by the
/// clock and the time zone of this host, which the other may not share.
async fn keep_rate<O>(run: &Run<'_, O>, source: &Source) {
    let rate = run.reach.max_rate.at(clock::now());
    if rate.unwrap_or(0) != run.told_rate.load(Ordering::Relaxed) {
        let max_rate = run.rate_now();
        source.say(&Request::Limit { max_rate }).await;
        run.events.note(format!(
            "By the timetable of --max-rate {} from now on.",
            rate_in_words(max_rate)
        ));
    }
}
