//! The result of a run that ended early, for people: how far it came.

use crate::client::outcome::Outcome;
use crate::errors::one_line;
use crate::event::Stage;
use crate::ui::rows::{moved_blocks, row, saved_wal, source, time, wire};
use crate::ui::{Ending, words};

/// What it says of one that had nothing to do.
#[must_use]
pub fn not_needed(outcome: &Outcome) -> String {
    let pgdata = one_line(&outcome.pgdata);
    let source = one_line(outcome.source_host.as_deref().unwrap_or_default());
    format!(
        "\"{pgdata}\" needs no rebuild: it streams from \"{source}\", and its WAL is the source's.\n"
    )
}

/// What the standard output of a run says that did not come to its end; nothing where it has done nothing worth telling,
/// since it ended before it touched anything of either side.
#[must_use]
pub fn summary(ending: &Ending, outcome: &Outcome) -> Option<String> {
    let stage = ending.stage.filter(|stage| *stage >= Stage::Bracket)?;
    let pgdata = one_line(&outcome.pgdata);
    let state = match ending.target {
        "half-way" => "is half-way between both",
        "standby" => "is rebuilt",
        "copy" | "closed-copy" => "is a copy",
        _ => "is as it was",
    };
    let doing = words::doing(stage);
    let source = source(outcome);
    let mut text = format!("\"{pgdata}\" {state}: the run ended while {doing}{source}.\n\n");
    if let (Some(planned), Some(left)) = (outcome.planned_bytes(), outcome.left_bytes) {
        let done = planned.saturating_sub(left);
        row(
            &mut text,
            "Done",
            format_args!(
                "{} of {} compared or fetched ({}), {} left",
                words::size(done),
                words::size(planned),
                words::percent(done, planned),
                words::size(left)
            ),
        );
        let blocks = moved_blocks(outcome);
        let moved = words::size(outcome.moved_bytes);
        row(&mut text, "Moved", format_args!("{moved} with {blocks}"));
        wire(&mut text, outcome);
    }
    saved_wal(&mut text, outcome);
    if let Some(start) = outcome.start_lsn {
        let end = match outcome.stop_lsn {
            Some(stop) => format!("{start} to {stop}"),
            None => format!("from {start} on; it has no end, and the next run begins a new one"),
        };
        row(&mut text, "Backup", format_args!("{end}"));
    }
    if let Some(slot) = &outcome.slot {
        // Of one that was made the agent lets go when the run fails.
        let becomes = match (outcome.slot_made, ending.target) {
            (true, "half-way" | "untouched") => "; this run made it, and it is dropped again",
            (false, "half-way") => "; it stays on the source and keeps WAL there",
            _ => "",
        };
        row(&mut text, "Slot", format_args!("{slot}{becomes}"));
    }
    time(&mut text, outcome);
    Some(text)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::ui::report::tests::rebuilt;

    fn ended(stage: Option<Stage>, target: &'static str) -> Ending {
        Ending {
            exit_status: 4,
            outcome: "failed",
            target,
            stage,
            refusals: vec![],
            errors: vec!["interrupted by a signal".to_owned()],
            details: vec![],
            hints: vec![],
        }
    }

    #[test]
    fn how_far_it_came_and_what_is_left() {
        let mut outcome = rebuilt();
        outcome.left_bytes = Some(9_000_000_000);
        outcome.stop_lsn = None;
        outcome.lost_streams = 2;
        let ending = ended(Some(Stage::Compare), "half-way");
        assert_snapshot!(summary(&ending, &outcome).unwrap(), @r#"
        "/srv/pg/15" is half-way between both: the run ended while comparing and moving (PostgreSQL 15.18, timeline 2).

          Done          4.02 GB of 12.4 GB compared or fetched (32 %), 8.38 GB left
          Moved         146 MB with 18,204 blocks and 7,310 patches
          On the wire   61.0 MB received, 2.00 MB sent, over 4 streams; 2 streams were lost on the way
          Saved WAL     48.0 MB in 3 files, from 0/5000000 on, in "/srv/lost"
          Backup        from 0/7000028 on; it has no end, and the next run begins a new one
          Slot          standby1; it stays on the source and keeps WAL there
          Time          45 s: looking at both sides 0.3 s, comparing and moving 42 s
        "#);
    }

    #[test]
    fn who_did_nothing_has_nothing_to_tell() {
        for stage in [None, Some(Stage::Look), Some(Stage::Judge)] {
            assert_eq!(summary(&ended(stage, "untouched"), &rebuilt()), None);
        }
    }
}
