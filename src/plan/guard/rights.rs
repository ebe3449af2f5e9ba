//! Whether both sides may read and write all that the run will: asked of every file before anything changes.

use crate::plan::access::Bar;
use crate::plan::refusal::Refusal;

/// What the agent may not read of its data directory.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub host: &'a str,
    /// The user that the agent is.
    pub user: &'a str,
    pub unreadable: &'a [String],
    /// How many more there are.
    pub more: u64,
}

/// What the client may not change in the target.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub host: &'a str,
    /// The user that the client is.
    pub user: &'a str,
    pub barred: &'a [(String, Bar)],
}

/// Judges what must be read on the source and changed in the target.
///
/// # Errors
/// Something may not be.
pub fn rights(source: &Reader<'_>, target: &Writer<'_>) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if !source.unreadable.is_empty() {
        refusals.push(Refusal::SourceUnreadable {
            host: source.host.to_owned(),
            user: source.user.to_owned(),
            paths: source.unreadable.to_vec(),
            more: source.more,
        });
    }
    if !target.barred.is_empty() {
        refusals.push(Refusal::TargetUnwritable {
            host: target.host.to_owned(),
            user: target.user.to_owned(),
            barred: target.barred.to_vec(),
        });
    }
    if refusals.is_empty() {
        return Ok(());
    }
    Err(refusals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_or_written_is_refused_at_once() {
        let judged = |unreadable: &[String], barred: &[(String, Bar)]| {
            let reader = Reader {
                host: "b",
                user: "postgres",
                unreadable,
                more: 0,
            };
            let writer = Writer {
                host: "a",
                user: "postgres",
                barred,
            };
            let refusals = rights(&reader, &writer).err().unwrap_or_default();
            let names: Vec<_> = refusals.iter().map(Refusal::name).collect();
            names
        };
        let unreadable = ["base/5/1".to_owned()];
        let barred = [("base/5/2".to_owned(), Bar::Pinned)];
        assert_eq!(judged(&[], &[]), [""; 0]);
        assert_eq!(judged(&unreadable, &[]), ["source-unreadable"]);
        assert_eq!(judged(&[], &barred), ["target-unwritable"]);
        assert_eq!(
            judged(&unreadable, &barred),
            ["source-unreadable", "target-unwritable"]
        );
    }
}
