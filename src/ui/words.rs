//! How figures are written for people. Sizes are powers of 1024, as in PostgreSQL's
//! `pg_size_pretty`.

use std::time::Duration;

use crate::event::Stage;

const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// A size with three significant digits: `812 B`, `1.50 MB`, `10.2 TB`.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut scale = 1_u64;
    // Switch at 1000, so that a number never needs four digits: 0.98 GB rather than 1003 MB.
    while unit + 1 < UNITS.len() && bytes >= scale.saturating_mul(1000) {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Hundredths, rounded, in integers: exact for any u64.
    let hundredths = (u128::from(bytes) * 100 + u128::from(scale) / 2) / u128::from(scale);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    let number = match whole {
        0..10 => format!("{whole}.{rest:02}"),
        10..100 => format!("{whole}.{}", rest / 10),
        _ => format!("{whole}"),
    };
    format!("{number} {}", UNITS[unit])
}

/// A number with its thousands apart: `1,204,332`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun: `1 file`, `12 files`.
pub(super) fn counted(count: u64, singular: &str, plural: &str) -> String {
    let noun = if count == 1 { singular } else { plural };
    format!("{} {noun}", number(count))
}

/// Time on a clock: `0:12:30`, `51:10:02`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Time that something took: `0.4 s`, `42 s`, `12 min 30 s`, `51 h 10 min`.
pub(super) fn took(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "0.0 s".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = Duration::from_secs_f64(seconds.min(1e15) + 0.5).as_secs();
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// A share in percent, cut and never rounded up to 100: `38 %`, `99.9 %`.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part >= whole {
        return "100 %".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    if !(100..990).contains(&tenths) {
        format!("{}.{} %", tenths / 10, tenths % 10)
    } else {
        format!("{} %", tenths / 10)
    }
}

/// What a stage does, for people.
pub(super) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Look => "looking at both sides",
        Stage::Judge => "checking that the target may be rebuilt",
        Stage::Bracket => "reserving WAL and starting the backup on the source",
        Stage::Manifest => "listing the source's files",
        Stage::Close => "closing the target: it cannot start from here on",
        Stage::Compare => "comparing and moving what differs",
        Stage::Wal => "ending the backup and fetching its WAL",
        Stage::Finish => "configuring the target and syncing it to disk",
        Stage::Hooks => "running the hooks while nobody else can come in",
        Stage::Start => "starting the server",
        Stage::Watch => "waiting until the standby streams",
        Stage::Done => "done",
    }
}

/// What a stage does, short: goes on after "while", and before a time.
pub(super) fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Look => "looking at both sides",
        Stage::Judge => "checking",
        Stage::Bracket => "starting the backup",
        Stage::Manifest => "listing files",
        Stage::Close => "closing the target",
        Stage::Compare => "comparing and moving",
        Stage::Wal => "ending the backup",
        Stage::Finish => "configuring and syncing",
        Stage::Hooks => "running hooks",
        Stage::Start => "starting the server",
        Stage::Watch => "waiting for its stream",
        Stage::Done => "ending",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 kB"),
            (1024, "1.00 kB"),
            (10_239, "10.0 kB"),
            (102_400, "100 kB"),
            (1_023_000, "999 kB"),
            (1_572_864, "1.50 MB"),
            (10 << 30, "10.0 GB"),
            (10 << 40, "10.0 TB"),
            (u64::MAX, "16384 PB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_204_332, "1,204,332"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(0, "file", "files"), "0 files");
    }

    #[test]
    fn times_read_naturally() {
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 0 s"),
            (750.0, "12 min 30 s"),
            (184_200.0, "51 h 10 min"),
            (f64::NAN, "0.0 s"),
            (-1.0, "0.0 s"),
            (f64::MAX, "277777777777 h 46 min"),
        ] {
            assert_eq!(took(seconds), text);
        }
        assert_eq!(clock(Duration::from_secs(184_202)), "51:10:02");
    }

    #[test]
    fn only_everything_is_a_hundred_percent() {
        for (part, whole, text) in [
            (0, 0, "100 %"),
            (0, 1000, "0.0 %"),
            (99, 1000, "9.9 %"),
            (385, 1000, "38 %"),
            (9_999_999, 10_000_000, "99.9 %"),
            (1000, 1000, "100 %"),
            (1001, 1000, "100 %"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
    }
}
