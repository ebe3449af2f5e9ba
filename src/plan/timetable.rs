//! A rate by the time of day: what `--max-rate` allows now.

use std::fmt;

/// A moment of a week, as a clock on the wall shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime {
    /// From Monday, 0, to Sunday, 6.
    pub weekday: u8,
    /// Seconds since midnight.
    pub second: u32,
}

const DAY: u32 = 24 * 60 * 60;

/// Most entries.
const ENTRIES_MAX: usize = 100;

const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// One rate, or several that take turns. Bytes a second; without one there is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rates {
    Always(Option<u64>),
    /// In the order of the week; each is in force until the next one, the last one until the first.
    ByTime(Vec<(WallTime, Option<u64>)>),
}

impl Default for Rates {
    fn default() -> Self {
        Rates::Always(None)
    }
}

impl Rates {
    /// What is in force now.
    #[must_use]
    pub fn at(&self, now: WallTime) -> Option<u64> {
        match self {
            Rates::Always(rate) => *rate,
            Rates::ByTime(entries) => {
                let before = entries.iter().rev().find(|(from, _)| *from <= now);
                before.or(entries.last()).and_then(|(_, rate)| *rate)
            }
        }
    }

    /// Whether it may change while a run lasts.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(self, Rates::ByTime(_))
    }
}

/// A table that cannot be meant, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoRates(String);

/// Reads one rate, or entries with blanks between: `08:00,50M 23:00,off`, also `Sat-08:00,off` and with seconds. An entry
/// without a weekday is for all of them. `rate` reads a rate.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse(text: &str, rate: impl Fn(&str) -> Result<u64, String>) -> Result<Rates, NoRates> {
    let rate = |text: &str| match text {
        "off" => Ok(None),
        text => rate(text).map(Some).map_err(NoRates),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [one] = words[..]
        && !one.contains([',', ':'])
    {
        return rate(one).map(Rates::Always);
    }
    if words.len() > ENTRIES_MAX {
        return Err(NoRates(format!("use {ENTRIES_MAX} entries at most")));
    }
    let mut entries: Vec<(WallTime, Option<u64>)> = Vec::new();
    // One for a certain day counts before one for all days at the same time.
    let mut certain = Vec::new();
    for word in words {
        let Some((time, value)) = word.split_once(',') else {
            return Err(NoRates(format!(
                "\"{word}\" is no entry of a timetable: use TIME,RATE entries with blanks between, as in \"08:00,50M \
                 23:00,off\""
            )));
        };
        let value =
            rate(value).map_err(|NoRates(problem)| NoRates(format!("\"{word}\": {problem}")))?;
        let (days, second) = moment(time).ok_or_else(|| {
            NoRates(format!(
                "\"{time}\" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00"
            ))
        })?;
        let twice = || {
            NoRates(format!(
                "the timetable says twice what happens at \"{time}\""
            ))
        };
        match days {
            Some(weekday) => {
                let at = WallTime { weekday, second };
                if certain.iter().any(|(other, _)| *other == at) {
                    return Err(twice());
                }
                certain.push((at, value));
            }
            None => {
                if entries.iter().any(|(other, _)| other.second == second) {
                    return Err(twice());
                }
                let days = (0..7).map(|weekday| (WallTime { weekday, second }, value));
                entries.extend(days);
            }
        }
    }
    entries.retain(|(at, _)| certain.iter().all(|(other, _)| other != at));
    entries.extend(certain);
    entries.sort_by_key(|(at, _)| *at);
    if entries.is_empty() {
        return Err(NoRates("the timetable is empty".to_owned()));
    }
    Ok(Rates::ByTime(entries))
}

/// The weekday, if one is named, and the second of the day.
fn moment(text: &str) -> Option<(Option<u8>, u32)> {
    let (day, time) = match text.split_once('-') {
        Some((day, time)) => {
            let day = day.to_ascii_lowercase();
            let is_it = |name: &&str| **name == day || name[..3] == day;
            let number = WEEKDAYS.iter().position(is_it)?;
            (Some(u8::try_from(number).ok()?), time)
        }
        None => (None, text),
    };
    let parts: Vec<&str> = time.split(':').collect();
    let number = |text: &str, below: u32| {
        let is_number =
            matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: u32 = text.parse().ok().filter(|_| is_number)?;
        (number < below).then_some(number)
    };
    let second = match parts[..] {
        [hour, minute] => number(hour, 24)? * 3600 + number(minute, 60)? * 60,
        [hour, minute, second] => {
            number(hour, 24)? * 3600 + number(minute, 60)? * 60 + number(second, 60)?
        }
        _ => return None,
    };
    (second < DAY).then_some((day, second))
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hour, minute) = (self.second / 3600, self.second / 60 % 60);
        write!(f, "{hour:02}:{minute:02}:{:02}", self.second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str, time: &str) -> WallTime {
        let (weekday, second) = moment(&format!("{day}-{time}")).unwrap();
        WallTime {
            weekday: weekday.unwrap(),
            second,
        }
    }

    fn read(text: &str) -> Result<Rates, String> {
        let rate = |text: &str| text.parse::<u64>().map_err(|_| "no rate".to_owned());
        parse(text, rate).map_err(|error| error.to_string())
    }

    #[test]
    fn each_entry_is_in_force_until_the_next_one_over_midnight_and_over_the_week() {
        for (table, moments) in [
            (
                "7",
                &[("mon", "0:00", Some(7)), ("sun", "23:59:59", Some(7))][..],
            ),
            ("off", &[("mon", "0:00", None)]),
            // One entry is in force always.
            (
                "08:00,5",
                &[("mon", "07:59", Some(5)), ("mon", "08:00", Some(5))],
            ),
            (
                "08:00,5 23:00,off",
                &[
                    ("mon", "00:00", None),
                    ("mon", "07:59:59", None),
                    ("mon", "08:00", Some(5)),
                    ("fri", "22:59:59", Some(5)),
                    ("sun", "23:00", None),
                ],
            ),
            // In any order, with seconds.
            (
                "23:00:01,off 8:00,5",
                &[("tue", "23:00:00", Some(5)), ("tue", "23:00:01", None)],
            ),
            (
                "Sat-08:00,off Monday-06:30,3",
                &[
                    ("sat", "07:59", Some(3)),
                    ("sat", "08:00", None),
                    ("sun", "12:00", None),
                    ("mon", "06:29", None),
                    ("mon", "06:30", Some(3)),
                    ("fri", "12:00", Some(3)),
                ],
            ),
            // A certain day counts before all of them.
            (
                "08:00,5 20:00,off SUN-08:00,1",
                &[
                    ("sat", "08:00", Some(5)),
                    ("sun", "07:00", None),
                    ("sun", "08:00", Some(1)),
                    ("sun", "20:00", None),
                ],
            ),
        ] {
            let rates = read(table).unwrap();
            for (day, time, rate) in moments {
                assert_eq!(rates.at(at(day, time)), *rate, "{table}: {day} {time}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_said_in_words() {
        let told = [
            "",
            "x",
            "08:00",
            "08:00,",
            "08:00,x",
            "24:00,5",
            "08:60,5",
            "8,5",
            "008:00,5",
            "+8:00,5",
            "Xyz-08:00,5",
            "S-08:00,5",
            "08:00,5 23:00",
            "08:00,5 8:00:00,6",
            "sat-08:00,5 Saturday-08:00,6",
        ]
        .map(|text| format!("{text}: {}\n", read(text).unwrap_err()))
        .concat();
        insta::assert_snapshot!(told, @r#"
        : the timetable is empty
        x: no rate
        08:00: "08:00" is no entry of a timetable: use TIME,RATE entries with blanks between, as in "08:00,50M 23:00,off"
        08:00,: "08:00,": no rate
        08:00,x: "08:00,x": no rate
        24:00,5: "24:00" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        08:60,5: "08:60" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        8,5: "8" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        008:00,5: "008:00" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        +8:00,5: "+8:00" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        Xyz-08:00,5: "Xyz-08:00" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        S-08:00,5: "S-08:00" is no time: use HH:MM, HH:MM:SS or a weekday before it, as in Sat-08:00
        08:00,5 23:00: "23:00" is no entry of a timetable: use TIME,RATE entries with blanks between, as in "08:00,50M 23:00,off"
        08:00,5 8:00:00,6: the timetable says twice what happens at "8:00:00"
        sat-08:00,5 Saturday-08:00,6: the timetable says twice what happens at "Saturday-08:00"
        "#);
    }
}
