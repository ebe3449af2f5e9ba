//! What the source's DBA sees of a run: the agent's `application_name` in `pg_stat_activity`.

use crate::event::Stage;

/// The longest name that PostgreSQL takes (`NAMEDATALEN` - 1).
const NAME_MAX: usize = 63;

const PROGRAM: &str = "pg_reseed ";

/// What is left out of a name that is too long.
const GAP: &str = "..";

/// The name of the agent's session while a run for `target` is in this stage. The client's words are not trusted: what
/// PostgreSQL would replace, and what a terminal or a log would not take as a letter, becomes a question mark.
#[must_use]
pub fn application_name(target: &str, stage: Stage, percent: Option<u8>) -> String {
    let place = match percent {
        Some(percent) if stage == Stage::Compare => format!(" {}%", percent.min(100)),
        _ => format!(" {}", stage.name()),
    };
    let is_plain = |letter: &char| letter.is_ascii_graphic() && !"'\"`\\$;".contains(*letter);
    let room = NAME_MAX - PROGRAM.len() - place.len();
    // Of a path that is far too long only its ends are looked at.
    let letters = |text: &str| -> String {
        let plain = text
            .chars()
            .map(|letter| Some(letter).filter(is_plain).unwrap_or('?'));
        plain.take(2 * NAME_MAX).collect()
    };
    let length = target.chars().count();
    let target = if length <= room {
        letters(target)
    } else {
        // The host is in front, and what tells one directory from another at the end.
        let head = room / 3;
        let tail = room - GAP.len() - head;
        let rest: String = target.chars().skip(length - tail).collect();
        let first: String = target.chars().take(head).collect();
        format!("{}{GAP}{}", letters(&first), letters(&rest))
    };
    format!("{PROGRAM}{target}{place}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_names_the_target_and_how_far_the_run_is() {
        for (target, stage, percent, name) in [
            (
                "db1:/srv/pg/15",
                Stage::Compare,
                Some(43),
                "pg_reseed db1:/srv/pg/15 43%",
            ),
            (
                "db1:/srv/pg/15",
                Stage::Compare,
                None,
                "pg_reseed db1:/srv/pg/15 compare",
            ),
            (
                "db1:/srv/pg/15",
                Stage::Wal,
                Some(100),
                "pg_reseed db1:/srv/pg/15 wal",
            ),
            (
                "db1:/srv/b\u{f6}se'; DROP",
                Stage::Compare,
                Some(255),
                "pg_reseed db1:/srv/b?se???DROP 100%",
            ),
            (
                "db1.example.com:/var/lib/postgresql/clusters/production/15/main",
                Stage::Manifest,
                None,
                "pg_reseed db1.example.co../clusters/production/15/main manifest",
            ),
        ] {
            assert_eq!(application_name(target, stage, percent), name);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_it_fits_and_is_plain(target in ".{0,200}", percent: Option<u8>) {
            for stage in [Stage::Compare, Stage::Manifest] {
                let name = application_name(&target, stage, percent);
                prop_assert!(name.len() <= NAME_MAX, "{name}");
                prop_assert!(name.chars().all(|letter| letter == ' ' || letter.is_ascii_graphic()));
                prop_assert!(!name.contains(['\'', '"', '\\', ';', '$']));
                prop_assert!(name.starts_with(PROGRAM));
            }
        }
    }
}
