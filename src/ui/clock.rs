//! The time of day, always UTC: lines of two hosts can be held against each other, and no summer time repeats an hour.

use std::time::{SystemTime, UNIX_EPOCH};

/// Before a line of a log, as in PostgreSQL's logs: `2026-11-29 08:29:27.123 UTC `; nothing where lines are not dated.
#[must_use]
pub fn before(is_dated: bool) -> String {
    if is_dated {
        stamp(SystemTime::now()) + " "
    } else {
        String::new()
    }
}

/// As PostgreSQL's logs have it: `2026-11-29 08:29:27.123 UTC`.
#[must_use]
pub fn stamp(time: SystemTime) -> String {
    let ([year, month, day], [hour, minute, second], millis) = parts(time);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03} UTC")
}

/// As programs read it, by RFC 3339: `2026-11-29T08:29:27Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let ([year, month, day], [hour, minute, second], _) = parts(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Date, time of day and thousandths of a second; the beginning of 1970 for what is before it.
fn parts(time: SystemTime) -> ([u64; 3], [u64; 3], u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let time = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    (date(seconds / 86_400), time, since.subsec_millis())
}

/// The date so many days after the beginning of 1970, by the Gregorian calendar.
fn date(days: u64) -> [u64; 3] {
    // Years that begin in March have the day that is there or not at their end. Day 0 is the first of March of 1600.
    const DAYS_FROM_1600: u64 = 135_080;
    let days = days + DAYS_FROM_1600;
    let (ages, days) = (days / 146_097, days % 146_097);
    let centuries = (days / 36_524).min(3);
    let days = days - centuries * 36_524;
    let (fours, days) = (days / 1461, days % 1461);
    let years = (days / 365).min(3);
    let mut day = days - years * 365;
    let mut year = 1600 + 400 * ages + 100 * centuries + 4 * fours + years;
    let mut month = 3;
    for length in [31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    if month > 12 {
        month -= 12;
        year += 1;
    }
    [year, month, day + 1]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // By date(1).
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_940_967, "2026-11-29T08:29:27Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
        }
        let time = UNIX_EPOCH + Duration::from_millis(1_795_940_967_045);
        assert_eq!(stamp(time), "2026-11-29 08:29:27.045 UTC");
    }
}
