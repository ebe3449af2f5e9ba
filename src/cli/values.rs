//! Values of options that are more than a number or a text.

use clap::ValueEnum;

use crate::plan::standby::Role;
use crate::plan::timetable::{self, Rates};

/// Whose configuration files the standby has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConfigSide {
    Target,
    Source,
}

/// What the result of a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResultRole {
    Standby,
    Managed,
    Clone,
}

impl From<ResultRole> for Role {
    fn from(role: ResultRole) -> Self {
        match role {
            ResultRole::Standby => Role::Standby,
            ResultRole::Managed => Role::Managed,
            ResultRole::Clone => Role::Clone,
        }
    }
}

/// How the source makes its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Checkpoint {
    Fast,
    Spread,
}

/// How the WAL of the backup comes to the standby; the short names are `pg_basebackup`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WalMethod {
    #[value(alias = "f")]
    Fetch,
    #[value(alias = "s")]
    Stream,
    #[value(alias = "n")]
    None,
}

/// What is done with jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JobsAction {
    Check,
}

/// Least rate that can be asked for, as `pg_basebackup --max-rate` has it (PostgreSQL
/// `src/include/backup/basebackup.h:MAX_RATE_LOWER`).
const RATE_MIN_KB: u64 = 32;

/// A rate in bytes a second: kilobytes, or with the suffix k, M or G.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        None => (text, 1),
        Some(digits) if text.ends_with('k') => (digits, 1),
        Some(digits) if text.ends_with('M') => (digits, 1024),
        Some(digits) => (digits, 1024 * 1024),
    };
    let kilobytes = digits
        .parse::<u64>()
        .ok()
        .filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|number| number.checked_mul(unit))
        .filter(|kilobytes| kilobytes.checked_mul(1024).is_some())
        .ok_or_else(|| "use a number of kilobytes, or one with suffix k, M or G".to_owned())?;
    if kilobytes < RATE_MIN_KB {
        return Err(format!("the least rate is {RATE_MIN_KB} kB a second"));
    }
    Ok(kilobytes * 1024)
}

/// One rate, or a timetable of them.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_rates(text: &str) -> Result<Rates, String> {
    timetable::parse(text, parse_rate).map_err(|error| error.to_string())
}

/// A size in bytes, or with the suffix k, M, G or T, each 1024 times the one before.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units = ['k', 'M', 'G', 'T'];
    let (digits, power) = match text.char_indices().last() {
        Some((at, suffix)) if units.contains(&suffix) => {
            let place = units.iter().position(|unit| *unit == suffix).unwrap_or(0);
            (&text[..at], place + 1)
        }
        _ => (text, 0),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let bytes = digits.parse::<u64>().ok().filter(|_| is_number);
    (0..power)
        .try_fold(bytes.unwrap_or(0), |bytes, _| bytes.checked_mul(1024))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "use a number of bytes, or one with suffix k, M, G or T".to_owned())
}

/// What `recovery_target_timeline` may be.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_timeline(text: &str) -> Result<String, String> {
    let is_number = text.parse::<u32>().is_ok_and(|timeline| timeline > 0)
        && text.bytes().all(|digit| digit.is_ascii_digit());
    if is_number || matches!(text, "latest" | "current") {
        Ok(text.to_owned())
    } else {
        Err("use latest, current or the number of a timeline".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_are_words_or_numbers() {
        for text in ["latest", "current", "1", "42"] {
            assert_eq!(parse_timeline(text), Ok(text.to_owned()));
        }
        for text in ["", "0", "-1", "+1", "newest", "0x2"] {
            assert!(parse_timeline(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1", 1),
            ("64k", 64 << 10),
            ("16M", 16 << 20),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "0", "M", "-1", "+1", "1.5G", "1GB", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_kilobytes_unless_they_say_otherwise() {
        for (text, bytes) in [
            ("32", 32 * 1024),
            ("100k", 100 * 1024),
            ("200M", 200 << 20),
            ("3G", 3 << 30),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "31",
            "0",
            "M",
            "1.5M",
            "-5M",
            "+5M",
            "10T",
            "99999999999999999G",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
