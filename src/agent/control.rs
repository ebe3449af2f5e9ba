//! Reading a control file that the server may be writing.

use std::time::Duration;

use crate::pg::control::ControlFile;
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
            Err(error) if bytes == before => {
                return Err(Fault::new(
                    FaultKind::Read,
                    format!("the source's control file is damaged: {error}"),
                ));
            }
            Err(_) => before = bytes,
        }
        workers::pause(PAUSE);
    }
    Err(Fault::new(
        FaultKind::Read,
        "could not read a whole control file on the source",
    ))
}
