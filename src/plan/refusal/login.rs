//! Words for refusals: the standby's login.

use super::reason::Refusal;
use super::words::{Words, words};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::LoginRefused {
            primary_conninfo,
            reason,
        } => words(
            format!("could not connect to the source for replication: {reason}"),
            format!(
                "The rebuilt standby would connect with \"{primary_conninfo}\" and could not stream either."
            ),
            "Check -d, the passfile, and the line for \"replication\" in the source's pg_hba.conf. If the login cannot work yet, use --no-login-check.",
        ),
        Refusal::LoginElsewhere {
            primary_conninfo,
            expected,
            actual,
        } => words(
            "the server that the standby would follow is not the source",
            format!(
                "\"{primary_conninfo}\" leads to system identifier {actual}, the agent's server has {expected}: the rebuilt standby could not stream from it."
            ),
            "Check -d and --from. If -d leads to the source only later, use --no-login-check.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![
        Refusal::LoginRefused {
            primary_conninfo: s(),
            reason: s(),
        },
        Refusal::LoginElsewhere {
            primary_conninfo: s(),
            expected: 1,
            actual: 2,
        },
    ]
}
