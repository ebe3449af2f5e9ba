//! The standby's login: tried with what it will use, before anything is written.

use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;

/// What came of trying the standby's login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// The server let it in for replication.
    Reached { system_identifier: u64 },
    /// It did not, or was not there: the reason in its own words.
    Refused { reason: String },
}

/// Judges the login with the very `primary_conninfo` that will be written, given without password.
///
/// # Errors
/// The login was refused, or led to another cluster than `expected_identifier`.
pub fn login(
    result: &Login,
    expected_identifier: u64,
    primary_conninfo: &str,
    overrides: &Overrides,
) -> Result<(), Refusal> {
    if overrides.no_login_check {
        return Ok(());
    }
    match result {
        Login::Reached { system_identifier } if *system_identifier == expected_identifier => Ok(()),
        Login::Reached { system_identifier } => Err(Refusal::LoginElsewhere {
            primary_conninfo: primary_conninfo.to_owned(),
            expected: expected_identifier,
            actual: *system_identifier,
        }),
        Login::Refused { reason } => Err(Refusal::LoginRefused {
            primary_conninfo: primary_conninfo.to_owned(),
            reason: reason.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_fails_or_leads_elsewhere_is_refused() {
        let overrides = Overrides::default();
        let elsewhere = Login::Reached {
            system_identifier: 2,
        };
        let refused = Login::Refused {
            reason: "no pg_hba.conf entry".to_owned(),
        };
        let here = Login::Reached {
            system_identifier: 1,
        };
        assert!(login(&here, 1, "host=b", &overrides).is_ok());
        for (result, name) in [(&elsewhere, "login-elsewhere"), (&refused, "login-refused")] {
            let refusal = login(result, 1, "host=b", &overrides).unwrap_err();
            assert_eq!(refusal.name(), name);
            let overrides = Overrides {
                no_login_check: true,
                ..Overrides::default()
            };
            assert!(login(result, 1, "host=b", &overrides).is_ok());
        }
    }
}
