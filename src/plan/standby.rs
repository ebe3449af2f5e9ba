//! The configuration that makes the target a standby: the new text of `postgresql.auto.conf`.
//!
//! PostgreSQL reads it after `postgresql.conf` and all that this includes; within it the last line
//! of a name wins (`ParseConfigFp` and `ProcessConfigFileInternal` in
//! `src/backend/utils/misc/guc-file.l` and `guc.c`). A rebuilt server has often been a standby
//! before, of another primary: whatever names of ours stand in the old text go, and each setting
//! comes back once at most. What the other files set against a standby is overridden here, since
//! they belong to the administrator and are not touched.
//!
//! While a rebuild is unfinished, a line that no server accepts stands in the file
//! ([`closed_auto_conf`]): configuration is read before the control file is looked for
//! (`PostmasterMain`), so that the message which people see names the remedy.

use std::collections::BTreeMap;

use crate::facts::clone::OwnLine;
use crate::pg::conf::{self, ConfError, QuoteError};
use crate::pg::conninfo::{Conninfo, ConninfoError};
use crate::plan::clone::{self, CloneSettings};
pub use crate::plan::role::Role;

/// The setting that no server knows. A name with a dot would be taken for an extension's.
pub const LOCK_SETTING: &str = "pg_reseed_rebuild_unfinished_run_the_same_command_again";

/// The comment above it.
const LOCK_COMMENT: &str =
    "# A rebuild of this data directory by pg_reseed is unfinished: run the same command again.";

/// Recovery stops at what these say, and a standby would stop following. Empty means unset.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// These only say how to stop there: without a target they mean nothing, and cannot be empty.
const TARGET_MANNERS: [&str; 2] = ["recovery_target_action", "recovery_target_inclusive"];

/// What belongs to the recovery of a former role and would harm this one: WAL of the abandoned timeline
/// from an archive, commands that clean one up, a standby that is late by order.
const OF_A_FORMER_ROLE: [&str; 4] = [
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
];

/// A file that promotes the standby as soon as it is there (13 to 15). It may be: the old primary's switchover left it.
const TRIGGER: &str = "promote_trigger_file";

const TIMELINE: &str = "recovery_target_timeline";
const FOLLOW_NEWEST: &str = "latest";

/// What the standby shall do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandbySettings {
    /// What of these is written: for a managed standby nothing but `raised`.
    pub role: Role,
    /// As [`primary_conninfo`] makes it.
    pub primary_conninfo: String,
    /// The slot to stream from; `None` for none at all, whatever other files say.
    pub slot: Option<String>,
    /// `None` leaves none in `postgresql.auto.conf`.
    pub restore_command: Option<String>,
    /// As `restore_command`.
    pub archive_cleanup_command: Option<String>,
    /// `None` follows the newest.
    pub recovery_target_timeline: Option<String>,
    /// Settings that must not be lower than the source's, with the source's values.
    pub raised: Vec<(&'static str, String)>,
    /// Settings that other files have the say in: no line of them is left.
    pub elsewhere: Vec<&'static str>,
    /// What a copy shall be.
    pub clone: CloneSettings,
}

/// Why there is no new text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AutoConfError {
    /// No server would start with the old text, nor with what is made of it.
    #[error("cannot read \"postgresql.auto.conf\"")]
    Unreadable(#[source] ConfError),
    #[error("cannot write setting \"{name}\" into \"postgresql.auto.conf\"")]
    Unwritable {
        name: &'static str,
        #[source]
        reason: QuoteError,
    },
}

/// Makes the text of `postgresql.auto.conf` of the standby.
///
/// `old` is the target's text, with or without the lines of [`closed_auto_conf`]. `base` is what
/// `postgresql.conf` and its includes set, and what `old` includes, names in lower case, without the lines of
/// `old` itself.
///
/// # Errors
/// [`AutoConfError`].
pub fn auto_conf(
    old: &[u8],
    base: &BTreeMap<String, String>,
    wanted: &StandbySettings,
) -> Result<Vec<u8>, AutoConfError> {
    let old = opened(old);
    conf::parse(&old).map_err(AutoConfError::Unreadable)?;
    let set = settings(&old, base, wanted);
    for (name, value) in &set {
        conf::quote_value(value).map_err(|reason| AutoConfError::Unwritable { name, reason })?;
    }
    let raised: Vec<_> = wanted.raised.iter().map(|(name, _)| *name).collect();
    let remove = [of_a_role(), wanted.elsewhere.clone(), raised].concat();
    Ok(conf::rewrite(&old, &remove, &set))
}

/// What of a former role is removed, and never comes back.
fn of_a_role() -> Vec<&'static str> {
    [
        &["primary_conninfo", "primary_slot_name", TRIGGER, TIMELINE],
        &TARGETS[..],
        &TARGET_MANNERS[..],
        &OF_A_FORMER_ROLE[..],
    ]
    .concat()
}

/// The lines that [`auto_conf`] writes for a copy's sake, for its mark.
#[must_use]
pub fn own_lines(
    old: &[u8],
    base: &BTreeMap<String, String>,
    wanted: &StandbySettings,
) -> Vec<OwnLine> {
    let old = opened(old);
    let old = conf::rewrite(&old, &of_a_role(), &[]);
    clone::own_lines(&old, &settings(&old, base, wanted))
}

/// The lines that the text must end with, each name once.
fn settings<'a>(
    old: &[u8],
    base: &BTreeMap<String, String>,
    wanted: &'a StandbySettings,
) -> Vec<(&'static str, &'a str)> {
    let raised = wanted.raised.iter();
    let raised = raised.map(|(name, value)| (*name, value.as_str()));
    let is_set = |name: &str| base.get(name).is_some_and(|value| !value.is_empty());
    let mut set = match wanted.role {
        Role::Managed => return raised.collect(),
        Role::Clone => clone::settings(old, base, &wanted.clone),
        Role::Standby => vec![("primary_conninfo", wanted.primary_conninfo.as_str())],
    };
    if wanted.role == Role::Standby {
        match &wanted.slot {
            Some(slot) => set.push(("primary_slot_name", slot)),
            None if is_set("primary_slot_name") => set.push(("primary_slot_name", "")),
            None => {}
        }
        for (name, command) in [
            ("restore_command", &wanted.restore_command),
            ("archive_cleanup_command", &wanted.archive_cleanup_command),
        ] {
            if let Some(command) = command {
                set.push((name, command));
            }
        }
    }
    let targets = TARGETS.into_iter().filter(|name| is_set(name));
    set.extend(targets.map(|name| (name, "")));
    if is_set(TRIGGER) && wanted.role == Role::Standby {
        set.push((TRIGGER, ""));
    }
    // It is the default, so that nothing is needed where nobody says otherwise.
    let follows_newest = |value: &String| value.eq_ignore_ascii_case(FOLLOW_NEWEST);
    match &wanted.recovery_target_timeline {
        Some(timeline) => set.push((TIMELINE, timeline)),
        None if !base.get(TIMELINE).is_none_or(follows_newest) => {
            set.push((TIMELINE, FOLLOW_NEWEST));
        }
        None => {}
    }
    set.extend(raised);
    set
}

/// What a server of this major must say of its role with the new text: settings and values.
#[must_use]
pub fn role(wanted: &StandbySettings, major: u32) -> Vec<(&'static str, String)> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut role = match wanted.role {
        Role::Managed => return Vec::new(),
        Role::Clone | Role::Standby => vec![
            ("primary_conninfo", wanted.primary_conninfo.clone()),
            ("primary_slot_name", text(&wanted.slot)),
        ],
    };
    if wanted.role == Role::Clone {
        let own = clone::of_role(&wanted.clone).into_iter();
        role.extend(own.map(|(name, value)| (name, value.to_owned())));
    }
    role.extend(TARGETS.map(|name| (name, String::new())));
    if major < 16 {
        role.push((TRIGGER, String::new()));
    }
    let timeline = wanted.recovery_target_timeline.as_deref();
    role.push((TIMELINE, timeline.unwrap_or(FOLLOW_NEWEST).to_owned()));
    for (name, command) in [
        ("restore_command", &wanted.restore_command),
        ("archive_cleanup_command", &wanted.archive_cleanup_command),
    ] {
        role.extend(command.clone().map(|command| (name, command)));
    }
    role
}

/// Makes the `primary_conninfo` of the standby of how the client was told to reach the source.
///
/// As `pg_basebackup -R` (`GenerateRecoveryConfig` in `src/fe_utils/recovery_gen.c`): without what
/// walreceiver sets itself, and without empty options. The database stays if one was named, since
/// slot synchronisation (17 and later) asks for it. A password never goes in: it belongs in a
/// password file. What unlocks a key (`sslpassword`) stays where it was given, for there is no
/// other place for it.
///
/// # Errors
/// A value contains a line end or a NUL, which no configuration file can carry.
pub fn primary_conninfo(
    source: &Conninfo,
    application_name: Option<&str>,
) -> Result<String, ConninfoError> {
    let mut conninfo = source.clone();
    for keyword in ["password", "replication", "fallback_application_name"] {
        conninfo.remove(keyword);
    }
    if let Some(name) = application_name {
        conninfo.set("application_name", name)?;
    }
    let empty: Vec<&str> = conninfo
        .iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(keyword, _)| keyword)
        .collect();
    for keyword in empty {
        conninfo.remove(keyword);
    }
    conninfo.to_keyword_value()
}

/// Makes the text of `postgresql.auto.conf` while the rebuild is unfinished: no server starts with
/// it, nor does `postgres -C` read anything.
#[must_use]
pub fn closed_auto_conf(old: &[u8]) -> Vec<u8> {
    let mut text = opened(old);
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("{LOCK_COMMENT}\n{LOCK_SETTING} = on\n").as_bytes());
    text
}

/// Whether the text is that of an unfinished rebuild.
#[must_use]
pub fn is_closed(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .any(|line| sets_lock(line.trim_ascii()))
}

/// The text without the lines of [`closed_auto_conf`], wherever they are.
#[must_use]
pub fn opened(text: &[u8]) -> Vec<u8> {
    text.split_inclusive(|byte| *byte == b'\n')
        .filter(|line| {
            let line = line.trim_ascii();
            line != LOCK_COMMENT.as_bytes() && !sets_lock(line)
        })
        .collect::<Vec<_>>()
        .concat()
}

/// Whether a line sets the lock, in whatever way: `ALTER SYSTEM` writes quotes.
fn sets_lock(line: &[u8]) -> bool {
    line.get(..LOCK_SETTING.len())
        .is_some_and(|name| name.eq_ignore_ascii_case(LOCK_SETTING.as_bytes()))
        && line
            .get(LOCK_SETTING.len())
            .is_none_or(|next| next.is_ascii_whitespace() || *next == b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted() -> StandbySettings {
        StandbySettings {
            primary_conninfo: "host=b user=repli passfile='/home/it\\'s/pass' application_name=a"
                .to_owned(),
            ..StandbySettings::default()
        }
    }

    fn base(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn made(old: &str, settings: &[(&str, &str)], wanted: &StandbySettings) -> String {
        String::from_utf8(auto_conf(old.as_bytes(), &base(settings), wanted).unwrap()).unwrap()
    }

    /// What the server would have: the base and, over it, the text.
    fn effective(text: &[u8], base: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all = base.clone();
        all.extend(conf::effective(&conf::parse(text).unwrap()));
        all
    }

    #[test]
    fn a_rebuilt_standby_has_one_line_of_each() {
        let old = "\
# Do not edit this file manually!
# It will be overwritten by the ALTER SYSTEM command.
primary_conninfo = 'host=a'
work_mem = '64MB'
PRIMARY_CONNINFO 'host=c'
primary_slot_name = 'old'
recovery_target_lsn = '0/3000000'
recovery_target_action = 'promote'
recovery_target_timeline = 'current'
restore_command = 'cp /archive/%f %p'
primary_conninfo = 'host=d'";
        let text = made(old, &[], &wanted());
        assert_eq!(
            text,
            "\
# Do not edit this file manually!
# It will be overwritten by the ALTER SYSTEM command.
work_mem = '64MB'
primary_conninfo = 'host=b user=repli passfile=''/home/it\\\\''s/pass'' application_name=a'
"
        );
    }

    #[test]
    fn of_a_managed_standby_only_what_was_of_a_former_role_goes() {
        let wanted = StandbySettings {
            role: Role::Managed,
            slot: Some("s".to_owned()),
            ..wanted()
        };
        let old = "primary_conninfo = 'host=a'\nprimary_slot_name = 'old'\nwork_mem = '64MB'\n\
                   restore_command = 'false'\nrecovery_target_time = '2020-01-01'\n";
        let others = [
            ("primary_slot_name", "of_another"),
            ("recovery_target_timeline", "current"),
        ];
        assert_eq!(made(old, &others, &wanted), "work_mem = '64MB'\n");
        assert_eq!(role(&wanted, 15), []);
    }

    #[test]
    fn what_was_asked_for_is_set_once() {
        let wanted = StandbySettings {
            archive_cleanup_command: Some("pg_archivecleanup /archive %r".to_owned()),
            recovery_target_timeline: Some("3".to_owned()),
            raised: vec![("max_connections", "200".to_owned())],
            ..wanted()
        };
        let text = made(
            "max_connections = 100\narchive_cleanup_command = 'rm'\n",
            &[
                ("recovery_target_timeline", "current"),
                ("max_connections", "50"),
            ],
            &wanted,
        );
        let set = effective(text.as_bytes(), &BTreeMap::new());
        for (name, value) in [
            ("max_connections", "200"),
            ("archive_cleanup_command", "pg_archivecleanup /archive %r"),
            ("recovery_target_timeline", "3"),
        ] {
            assert_eq!(set[name], value);
            assert_eq!(text.matches(name).count(), 1, "{text}");
        }
    }

    #[test]
    fn what_other_files_set_is_overridden() {
        let settings = [
            ("primary_slot_name", "of_another"),
            ("recovery_target_time", "2020-01-01"),
            ("recovery_target", "immediate"),
            ("recovery_target_action", "promote"),
            ("recovery_target_timeline", "current"),
            ("recovery_target_name", ""),
            ("promote_trigger_file", "/tmp/trigger"),
        ];
        let text = made("promote_trigger_file = 'x'\n", &settings, &wanted());
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "primary_slot_name = ''",
                "recovery_target = ''",
                "recovery_target_time = ''",
                "promote_trigger_file = ''",
                "recovery_target_timeline = 'latest'"
            ]
        );
        let text = made("", &[("recovery_target_timeline", "Latest")], &wanted());
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_wanted_slot_and_command_are_written() {
        let wanted = StandbySettings {
            slot: Some("s".to_owned()),
            restore_command: Some("cp '/my archive/%f' %p".to_owned()),
            ..wanted()
        };
        let old = "restore_command = 'false'\nrestore_command = 'true'\n";
        let text = made(old, &[("primary_slot_name", "of_another")], &wanted);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "primary_slot_name = 's'",
                "restore_command = 'cp ''/my archive/%f'' %p'"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_or_written_is_an_error() {
        assert!(matches!(
            auto_conf(b"work_mem = 'x\n", &base(&[]), &wanted()),
            Err(AutoConfError::Unreadable(_))
        ));
        let wanted = StandbySettings {
            primary_conninfo: "host='a\nb'".to_owned(),
            ..wanted()
        };
        assert_eq!(
            auto_conf(b"", &base(&[]), &wanted),
            Err(AutoConfError::Unwritable {
                name: "primary_conninfo",
                reason: QuoteError::Newline
            })
        );
    }

    #[test]
    fn the_lock_is_on_once_and_off_without_a_trace() {
        for old in ["", "work_mem = '64MB'\n", "# x\n\nwork_mem = '64MB'\n"] {
            let closed = closed_auto_conf(old.as_bytes());
            assert_eq!(closed_auto_conf(&closed), closed);
            assert_eq!(opened(&closed), old.as_bytes());
            assert!(is_closed(&closed) && !is_closed(old.as_bytes()));
            let names = effective(&closed, &base(&[]));
            assert_eq!(names.get(LOCK_SETTING).map(String::as_str), Some("on"));
            assert_eq!(
                auto_conf(&closed, &base(&[]), &wanted()),
                auto_conf(old.as_bytes(), &base(&[]), &wanted())
            );
        }
        // Without a line end at the end, and as ALTER SYSTEM would write it.
        assert!(closed_auto_conf(b"work_mem = '1MB'").starts_with(b"work_mem = '1MB'\n# "));
        assert!(opened(format!("{LOCK_SETTING} = 'on'\r\n").as_bytes()).is_empty());
        assert!(!LOCK_SETTING.contains('.'));
    }

    /// Lines as they are found in such files; one of a kind that the server reads oddly.
    const LINES: &[&str] = &[
        "# primary_conninfo = 'comment'",
        "",
        "primary_conninfo = 'host=a'",
        "Primary_Conninfo 'host=b' # old",
        "primary_conninfo='it''s \\'odd\\''",
        "primary_slot_name = x",
        "recovery_target_xid = 7",
        "recovery_target_timeline = 3",
        "recovery_target_inclusive = off",
        "restore_command = 'false'",
        "work_mem = '64MB'",
        "my.primary_conninfo = 'not ours'",
        LOCK_COMMENT,
        "pg_reseed_rebuild_unfinished_run_the_same_command_again = on",
        "pg_reseed_rebuild_unfinished_run_the_same_command_again_not = 1",
    ];

    fn auto_conf_holds(old: &[u8], base: &BTreeMap<String, String>, wanted: &StandbySettings) {
        let text = auto_conf(old, base, wanted).unwrap();
        assert_eq!(
            auto_conf(&text, base, wanted).unwrap(),
            text,
            "not idempotent"
        );
        let lines = conf::parse(&text).unwrap();
        let count = |wanted_name: &str| {
            lines
                .iter()
                .filter(|line| {
                    matches!(&line.directive, conf::Directive::Setting { name, .. } if name == wanted_name)
                })
                .count()
        };
        assert_eq!(count("primary_conninfo"), 1);
        for name in TARGETS
            .iter()
            .chain(&["primary_slot_name", "recovery_target_timeline"])
        {
            assert!(count(name) <= 1, "{name}");
        }
        assert_eq!(count(LOCK_SETTING), 0);
        let now = effective(&text, base);
        assert_eq!(now["primary_conninfo"], wanted.primary_conninfo);
        let slot = now.get("primary_slot_name").map_or("", String::as_str);
        assert_eq!(slot, wanted.slot.as_deref().unwrap_or_default());
        for name in TARGETS {
            assert_eq!(now.get(name).map_or("", String::as_str), "", "{name}");
        }
        let timeline = now.get(TIMELINE).map_or("latest", String::as_str);
        assert!(timeline.eq_ignore_ascii_case("latest"));
        // What is not ours stays.
        let before = effective(&opened(old), base);
        for name in ["work_mem", "my.primary_conninfo"] {
            assert_eq!(now.get(name), before.get(name));
        }
    }

    proptest! {
        #[test]
        fn auto_conf_random(
            old in proptest::collection::vec(proptest::sample::select(LINES), 0..20),
            ends in any::<bool>(),
            in_base in proptest::collection::btree_map(
                proptest::sample::select(&[
                    "primary_slot_name", "primary_conninfo", "recovery_target_lsn",
                    "recovery_target", "recovery_target_timeline", "restore_command",
                ][..]),
                proptest::sample::select(&["", "latest", "current", "x"][..]),
                0..5,
            ),
            primary_conninfo in "[ -~é]{0,40}",
            slot in proptest::option::of("[a-z0-9_]{1,10}"),
            restore_command in proptest::option::of("[ -~]{0,20}"),
        ) {
            let mut text = old.join("\n");
            if ends {
                text.push('\n');
            }
            let in_base: Vec<(&str, &str)> = in_base.into_iter().collect();
            let wanted = StandbySettings { primary_conninfo, slot, restore_command, ..StandbySettings::default() };
            auto_conf_holds(text.as_bytes(), &base(&in_base), &wanted);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(old in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = auto_conf(&old, &base(&[]), &wanted());
            let closed = closed_auto_conf(&old);
            prop_assert_eq!(closed_auto_conf(&closed), closed);
        }

        /// Any values come back out of both quotings.
        #[test]
        fn primary_conninfo_comes_back_random(user in "[ -~é]{1,20}", host in "[ -~]{1,20}") {
            let mut conninfo = Conninfo::default();
            conninfo.set("user", &user).unwrap();
            conninfo.set("host", &host).unwrap();
            let settings = StandbySettings {
                primary_conninfo: primary_conninfo(&conninfo, None).unwrap(),
                ..StandbySettings::default()
            };
            let text = auto_conf(b"", &base(&[]), &settings).unwrap();
            let read = effective(&text, &base(&[]));
            let read = Conninfo::parse(&read["primary_conninfo"]).unwrap();
            prop_assert_eq!(read.get("user"), Some(user.as_str()));
            prop_assert_eq!(read.get("host"), Some(host.as_str()));
        }
    }

    #[test]
    fn primary_conninfo_holds_what_a_standby_needs() {
        let made =
            |text: &str, name| primary_conninfo(&Conninfo::parse(text).unwrap(), name).unwrap();
        assert_eq!(
            made(
                "host=b port=5433 user=repli password=secret replication=1 \
                 fallback_application_name=x options='' passfile='/home/p g/.pgpass'",
                None
            ),
            "host=b port=5433 user=repli passfile='/home/p g/.pgpass'"
        );
        assert_eq!(
            made("postgresql://repli:secret@b:5433/db", Some("it's")),
            "user=repli host=b port=5433 dbname=db application_name='it\\'s'"
        );
        assert_eq!(
            made("host=b application_name=a", Some("c")),
            "host=b application_name=c"
        );
        let mut broken = Conninfo::default();
        broken.set("host", "a\nb").unwrap();
        assert!(primary_conninfo(&broken, None).is_err());
    }
}
