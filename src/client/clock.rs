//! What the clock on the wall shows.

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::plan::timetable::WallTime;

/// The local time now. Where no zone is set, or it is not known, that is UTC.
#[must_use]
pub fn now() -> WallTime {
    let now = Zoned::now();
    let number = |part: i8| u32::try_from(part).unwrap_or(0);
    WallTime {
        weekday: u8::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0),
        second: number(now.hour()) * 3600 + number(now.minute()) * 60 + number(now.second()),
    }
}

/// The local time zone, for people.
#[must_use]
pub fn zone() -> String {
    match TimeZone::try_system() {
        Ok(zone) => match zone.iana_name() {
            Some(name) => name.to_owned(),
            None => "the local time zone".to_owned(),
        },
        Err(_) => "UTC, since the local time zone is not known".to_owned(),
    }
}
