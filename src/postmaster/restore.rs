//! A standby's restore_command, run as its server will run it (PostgreSQL `xlogarchive.c:RestoreArchivedFile`).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::pg::lsn::SegmentName;
use crate::pg::segment::{self, HEAD_BYTES, WrongSegment};

/// Where the server lets the command put the file, in its data directory.
const RESTORED: &str = "pg_wal/RECOVERYXLOG";

/// The oldest file that is still needed, as the server says before its recovery has begun: nothing may be cleaned up.
const OLDEST: &str = "000000000000000000000000";

/// Pause before a command that gave nothing is run again: an archive gets a segment when it is full.
const PAUSE: Duration = Duration::from_secs(1);

/// What of the command's words an error shows.
const SAID_MAX: usize = 500;

/// The command did not give the segment.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("could not run the restore_command: {0}")]
    Run(std::io::Error),
    #[error("the restore_command did not give WAL segment \"{name}\" within {waited} s: {seen}")]
    NotGiven {
        name: String,
        waited: u64,
        /// What the last try came to.
        seen: String,
    },
    #[error("what the restore_command gave as WAL segment \"{name}\" is something else")]
    Wrong { name: String, source: WrongSegment },
}

/// What a segment is known by.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub segment: SegmentName,
    pub segment_bytes: u32,
    pub system_identifier: u64,
}

impl Wanted {
    fn check(&self, head: &[u8; HEAD_BYTES], length: u64) -> Result<(), WrongSegment> {
        let Self {
            segment,
            segment_bytes,
            system_identifier,
        } = *self;
        segment::check(head, length, segment, segment_bytes, system_identifier)
    }
}

/// Lets `command` restore a segment, again and again for `wait`, and removes what it gave.
///
/// # Errors
/// [`RestoreError`].
pub async fn try_restore(
    pgdata: &Path,
    command: &str,
    wanted: &Wanted,
    wait: Duration,
) -> Result<(), RestoreError> {
    let name = wanted.segment.file_name(wanted.segment_bytes);
    let line = with_values(command, &name);
    let place = pgdata.join(RESTORED);
    let begin = Instant::now();
    loop {
        // The server, too, clears the place first.
        let _ = std::fs::remove_file(&place);
        let left = wait.saturating_sub(begin.elapsed());
        let seen = match tokio::time::timeout(left, run(pgdata, &line)).await {
            Err(_) => "it has not ended".to_owned(),
            Ok(ran) => match ran.map_err(RestoreError::Run)? {
                Some(failed) => failed,
                None => {
                    let found = found(&place);
                    let _ = std::fs::remove_file(&place);
                    match found.map(|(head, length)| wanted.check(&head, length)) {
                        Ok(Ok(())) => return Ok(()),
                        // One that is still being written to the archive (`xlogarchive.c` waits, too).
                        Ok(Err(WrongSegment::Length { found, expected }))
                            if found < u64::from(expected) =>
                        {
                            format!("it gave {found} bytes of {expected}")
                        }
                        Ok(Err(source)) => return Err(RestoreError::Wrong { name, source }),
                        Err(error) => format!("it ended well, but \"{RESTORED}\": {error}"),
                    }
                }
            },
        };
        if begin.elapsed() + PAUSE >= wait {
            let _ = std::fs::remove_file(&place);
            return Err(RestoreError::NotGiven {
                name,
                waited: wait.as_secs(),
                seen,
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs the command once; what went wrong, in words.
async fn run(pgdata: &Path, line: &str) -> std::io::Result<Option<String>> {
    let output = tokio::process::Command::new("/bin/sh")
        .args(["-c", line])
        .current_dir(pgdata)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(SAID_MAX).collect();
    let status = output.status;
    Ok(Some(match said.as_str() {
        "" => format!("it ended with {status}"),
        said => format!("it ended with {status} and said: {said}"),
    }))
}

fn found(place: &Path) -> std::io::Result<([u8; HEAD_BYTES], u64)> {
    let mut file = File::open(place)?;
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head)?;
    Ok((head, file.metadata()?.len()))
}

/// The command for a file: `%f` is its name, `%p` where it shall go, `%r` the oldest file that is still needed.
/// Anything else stays as it is (`percentrepl.c`).
fn with_values(command: &str, name: &str) -> String {
    let mut line = String::with_capacity(command.len());
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            line.push(c);
            continue;
        }
        match rest.next() {
            Some('f') => line.push_str(name),
            Some('r') => line.push_str(OLDEST),
            Some('p') => line.push_str(RESTORED),
            Some('%') => line.push('%'),
            Some(other) => line.extend(['%', other]),
            None => line.push('%'),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_the_server_puts_them() {
        assert_eq!(
            with_values("test 5 -gt 3%% && cp '/a b/%f' \"%p\" %r %x %", "0001"),
            "test 5 -gt 3% && cp '/a b/0001' \"pg_wal/RECOVERYXLOG\" 000000000000000000000000 %x %"
        );
    }
}
