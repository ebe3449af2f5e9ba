//! Words for refusals: what may not be read on the source, or changed in the target.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::access::Bar;
use crate::plan::words::{SHOWN, some_of};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::SourceUnreadable {
            host,
            user,
            paths,
            more,
        } => {
            let rest = match more {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            words(
                format!(
                    "user \"{user}\" may not read data of the source on host \"{host}\": {}{rest}",
                    some_of(paths)
                ),
                "The standby would lack it, or the run would end half-way.",
                format!(
                    "On host \"{host}\", make it readable for \"{user}\" (chown, chmod), or take away what is not PostgreSQL's."
                ),
            )
        }
        Refusal::TargetUnwritable { host, user, barred } => {
            let shown: Vec<String> = barred
                .iter()
                .take(SHOWN)
                .map(|(path, bar)| format!("\"{path}\" ({bar})"))
                .collect();
            let rest = match barred.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            words(
                format!(
                    "user \"{user}\" may not change what must change in the target on host \"{host}\": {}{rest}",
                    shown.join(", ")
                ),
                "The run would end half-way, and each rerun at the same place.",
                remedies(host, user, barred),
            )
        }
        _ => return None,
    })
}

fn remedies(host: &str, user: &str, barred: &[(String, Bar)]) -> String {
    let has = |wanted: &[Bar]| barred.iter().any(|(_, bar)| wanted.contains(bar));
    let mut ways = Vec::new();
    if has(&[Bar::Owner, Bar::Sticky]) {
        ways.push(format!("give it to \"{user}\" (chown)"));
    }
    if has(&[
        Bar::Closed,
        Bar::Mode { can_read: true },
        Bar::Mode { can_read: false },
    ]) {
        ways.push("let its owner in (chmod u+rwX)".to_owned());
    }
    if has(&[Bar::Pinned]) {
        ways.push("take the attribute away (chattr -i -a)".to_owned());
    }
    if has(&[Bar::ReadOnly]) {
        ways.push("mount it for writing".to_owned());
    }
    if has(&[Bar::Mounted]) {
        ways.push("unmount it".to_owned());
    }
    format!(
        "On host \"{host}\", {}; then run the same command again.",
        ways.join(", ")
    )
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![
        Refusal::SourceUnreadable {
            host: s(),
            user: s(),
            paths: vec![s()],
            more: 1,
        },
        Refusal::TargetUnwritable {
            host: s(),
            user: s(),
            barred: vec![(s(), Bar::Owner), (s(), Bar::Pinned)],
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bar_has_its_remedy() {
        for (bar, remedy) in [
            (Bar::Owner, "chown"),
            (Bar::Sticky, "chown"),
            (Bar::Closed, "chmod"),
            (Bar::Mode { can_read: true }, "chmod"),
            (Bar::Mode { can_read: false }, "chmod"),
            (Bar::Pinned, "chattr"),
            (Bar::ReadOnly, "mount it"),
            (Bar::Mounted, "unmount"),
        ] {
            let text = remedies("a", "postgres", &[("x".to_owned(), bar)]);
            assert!(text.contains(remedy), "{bar:?}: {text}");
        }
    }
}
