//! Reading a control file that the server may be writing.

use std::time::Duration;

use crate::pg::control::{ControlError, ControlFile};
use crate::wire::message::{Fault, FaultKind};
use crate::workers;

/// How often it is read before it counts as changing without end.
const READS: usize = 10;

/// Time for the server to end a write.
const PAUSE: Duration = Duration::from_millis(10);

/// Reads again until the CRC holds or the same damage was seen twice (PostgreSQL `controldata_utils.c:
/// get_controlfile`); the control file with its bytes.
///
/// # Errors
/// Those of `read`; a fault when it is really damaged.
pub(super) fn settled(
    mut read: impl FnMut() -> Result<Vec<u8>, Fault>,
) -> Result<(ControlFile, Vec<u8>), Fault> {
    let mut before = Vec::new();
    for _ in 0..READS {
        let bytes = read()?;
        match ControlFile::decode(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            Err(error) if bytes == before => return Err(unreadable(&error)),
            Err(_) => before = bytes,
        }
        workers::pause(PAUSE);
    }
    Err(Fault::new(
        FaultKind::Read,
        "could not read a whole control file on the source",
    ))
}

fn unreadable(error: &ControlError) -> Fault {
    match error {
        // No override helps: what a rebuild decides by, and the file that it installs last, cannot be read.
        ControlError::UnknownVersion { control_version } => Fault::new(
            FaultKind::Unfit,
            format!(
                "the source's control file has version {control_version}, which this pg_reseed does not know"
            ),
        )
        .with_hint("Use a pg_reseed made for the source's major version."),
        _ => Fault::new(
            FaultKind::Read,
            format!("the source's control file is damaged: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_version_is_not_called_damaged() {
        let whole = include_bytes!("../../tests/it/data/pg/pg_control.18.production");
        let fault_of = |at: usize, value: u32| {
            let mut bytes = whole.to_vec();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            settled(|| Ok(bytes.clone())).unwrap_err()
        };
        let other = fault_of(8, 2005);
        assert_eq!(other.kind, FaultKind::Unfit);
        assert!(
            other.message.contains("has version 2005"),
            "{}",
            other.message
        );
        assert!(other.hint.is_some());
        let damaged = fault_of(100, 2005);
        assert_eq!(damaged.kind, FaultKind::Read);
        assert!(damaged.message.contains("damaged"), "{}", damaged.message);
    }
}
