//! The protocol from outside of the program: frames by hand, and an agent to talk to.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pg_reseed::wire::codec::{HEADER_BYTES, Header};
use pg_reseed::wire::message::RequestId;

use crate::cluster::{Cluster, binary, clean};

/// A frame as it travels.
pub struct Raw {
    pub id: RequestId,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

/// Reads a frame.
pub fn read_frame(stream: &mut impl Read) -> io::Result<Raw> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = Header::decode(&header).unwrap();
    let mut head = vec![0; header.head_bytes as usize];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; header.body_bytes as usize];
    stream.read_exact(&mut body)?;
    Ok(Raw {
        id: header.id,
        head,
        body,
    })
}

/// Writes a frame.
pub fn write_frame(stream: &mut impl Write, frame: &Raw) -> io::Result<()> {
    for part in [
        &frame.id.to_le_bytes()[..],
        &u32::try_from(frame.head.len()).unwrap().to_le_bytes(),
        &u32::try_from(frame.body.len()).unwrap().to_le_bytes(),
        &frame.head,
        &frame.body,
    ] {
        stream.write_all(part)?;
    }
    stream.flush()
}

/// Starts an agent of `source`.
pub fn agent(source: &Cluster) -> (Child, ChildStdin, ChildStdout) {
    let mut agent = clean(Command::new(binary()))
        .args(["serve", "--stdio", "-d"])
        .arg(format!("{} dbname=postgres", source.conninfo()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (input, output) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
    (agent, input, output)
}
