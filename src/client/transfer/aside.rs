//! What the agent is told beside the questions, while they go on: the rate that is in force by now.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::client::clock;
use crate::client::run::Run;
use crate::client::source::Source;
use crate::plan::words::Bytes;
use crate::wire::message::Request;

/// How often it is looked what there is to tell.
const EVERY: Duration = Duration::from_secs(1);

/// Tells the agent what has changed, and never returns. The table stays here, since it goes by the clock and the time zone
/// of this host, which the other may not share.
pub async fn tell<O>(run: &Run<'_, O>, source: &Source) -> Infallible {
    source.ready().await;
    if !run.reach.max_rate.changes() {
        return std::future::pending().await;
    }
    let words = |rate: Option<u64>| match rate {
        Some(rate) => format!("the source reads {} a second at most", Bytes(rate)),
        None => "there is no limit".to_owned(),
    };
    let told = run.told_rate.load(Ordering::Relaxed);
    run.events.note(format!(
        "By the timetable of --max-rate {} now ({}, {}).",
        words(Some(told).filter(|rate| *rate > 0)),
        clock::now(),
        clock::zone()
    ));
    let mut clock = tokio::time::interval(EVERY);
    loop {
        clock.tick().await;
        let rate = run.reach.max_rate.at(clock::now());
        if rate.unwrap_or(0) != run.told_rate.load(Ordering::Relaxed) {
            let max_rate = run.rate_now();
            source.say(&Request::Limit { max_rate }).await;
            run.events.note(format!(
                "By the timetable of --max-rate {} from now on.",
                words(max_rate)
            ));
        }
    }
}
