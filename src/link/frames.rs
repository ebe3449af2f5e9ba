//! Frames over byte streams: the loops that read and write them.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::mpsc;
use tokio_io_timeout::{TimeoutReader, TimeoutWriter};

use crate::buffer::Buffer;
use crate::wire::codec::{self, CodecError, HEADER_BYTES, Header, PREAMBLE_BYTES};
use crate::wire::message::RequestId;

/// Size of the buffers for small frames; bodies bypass them.
const BUFFER_BYTES: usize = 64 * 1024;

/// A frame as it came, its head not decoded yet.
#[derive(Debug)]
pub struct Frame {
    pub id: RequestId,
    pub head: Vec<u8>,
    pub body: Buffer,
}

impl Frame {
    /// Bytes that the frame took on the link.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        (HEADER_BYTES + self.head.len() + self.body.len()) as u64
    }
}

/// An encoded frame on its way out.
pub struct Outgoing {
    prefix: Vec<u8>,
    body: Buffer,
    /// Goes when the frame has been written.
    held: Option<Box<dyn Send>>,
}

impl Outgoing {
    /// Encodes a frame.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn new<M: Serialize>(
        id: RequestId,
        message: &M,
        body: impl Into<Buffer>,
    ) -> Result<Self, CodecError> {
        let body = body.into();
        let prefix = codec::encode(id, message, body.len())?;
        Ok(Self {
            prefix,
            body,
            held: None,
        })
    }

    /// Keeps a value until the frame is written: the room that its body takes.
    #[must_use]
    pub fn holding(mut self, held: impl Send + 'static) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// Bytes that the frame takes on the link.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        (self.prefix.len() + self.body.len()) as u64
    }
}

/// The stream broke, or the peer does not keep to the protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle of a message")]
    Truncated,
    #[error("the connection ended before the peer said anything")]
    Silent,
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl FrameError {
    /// Whether nothing came for too long.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

/// Reads the peer's preamble.
///
/// # Errors
/// [`FrameError`]; when something else stands there, with up to a line of it.
pub async fn read_preamble(reader: &mut (impl AsyncRead + Unpin)) -> Result<(), FrameError> {
    let mut preamble = [0; PREAMBLE_BYTES];
    let mut filled = 0;
    while filled < preamble.len() {
        match reader.read(&mut preamble[filled..]).await? {
            0 if filled == 0 => return Err(FrameError::Silent),
            0 => {
                let text = String::from_utf8_lossy(&preamble[..filled]);
                return Err(CodecError::NoPreamble(text.trim_end().to_owned()).into());
            }
            count => filled += count,
        }
    }
    match codec::check_preamble(&preamble) {
        Err(CodecError::NoPreamble(_)) => {
            // Whatever else is there already helps to recognise a login banner.
            let mut more = [0; 200];
            let wait = std::time::Duration::from_millis(200);
            let count = match tokio::time::timeout(wait, reader.read(&mut more)).await {
                Ok(Ok(count)) => count,
                _ => 0,
            };
            let mut noise = preamble.to_vec();
            noise.extend_from_slice(&more[..count]);
            let text = String::from_utf8_lossy(&noise);
            let line = text.trim_end().lines().next().unwrap_or_default();
            Err(CodecError::NoPreamble(line.to_owned()).into())
        }
        checked => Ok(checked?),
    }
}

/// A stream that gives up when nothing comes, once it was told for how long.
pub type Impatient<R> = BufReader<Pin<Box<TimeoutReader<R>>>>;

/// Buffers a stream for [`read_frame`]; [`limit_silence`] can make it impatient.
pub fn impatient<R: AsyncRead>(reader: R) -> Impatient<R> {
    BufReader::with_capacity(BUFFER_BYTES, Box::pin(TimeoutReader::new(reader)))
}

/// From here on the stream fails when nothing comes for `limit`.
pub fn limit_silence<R: AsyncRead>(reader: &mut Impatient<R>, limit: Duration) {
    reader.get_mut().as_mut().set_timeout_pinned(Some(limit));
}

/// A stream that fails when nothing of what is written to it is taken for `limit`.
pub fn unstuck<W: AsyncWrite>(writer: W, limit: Duration) -> Pin<Box<TimeoutWriter<W>>> {
    let mut writer = TimeoutWriter::new(writer);
    writer.set_timeout(Some(limit));
    Box::pin(writer)
}

/// Buffers a stream for [`read_frame`].
pub fn buffered<R: AsyncRead + Unpin>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER_BYTES, reader)
}

/// Reads the next frame; `None` at the end of the stream. Not cancellation safe.
///
/// # Errors
/// [`FrameError`]; lengths beyond the limits are refused before anything is allocated.
pub async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Frame>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < header.len() {
        match reader.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            count => filled += count,
        }
    }
    let header = Header::decode(&header)?;
    let mut head = vec![0; header.head_bytes as usize];
    fill(reader, &mut head).await?;
    let mut body = Buffer::with_length(header.body_bytes as usize);
    fill(reader, &mut body).await?;
    Ok(Some(Frame {
        id: header.id,
        head,
        body,
    }))
}

async fn fill(reader: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<(), FrameError> {
    match reader.read_exact(buffer).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::Truncated),
        filled => Ok(filled.map(drop)?),
    }
}

/// Writes the preamble.
///
/// # Errors
/// The stream's error.
pub async fn write_preamble(writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    writer.write_all(&codec::preamble()).await?;
    writer.flush().await
}

/// Writes whatever comes through the channel, until it closes or the stream breaks.
///
/// # Errors
/// The stream's error.
pub async fn write_frames(
    writer: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
    while let Some(frame) = outgoing.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            writer.write_all(&frame.prefix).await?;
            writer.write_all(&frame.body).await?;
            drop(frame.held);
            next = outgoing.try_recv().ok();
        }
        writer.flush().await?;
    }
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Request;

    #[tokio::test]
    async fn frames_cross_a_stream_in_order() {
        let (mut here, there) = tokio::io::duplex(100);
        let (sender, receiver) = mpsc::channel(4);
        write_preamble(&mut here).await.unwrap();
        let writing = tokio::spawn(write_frames(here, receiver));
        let reading = tokio::spawn(async move {
            let mut there = buffered(there);
            read_preamble(&mut there).await.unwrap();
            let mut seen = Vec::new();
            while let Some(frame) = read_frame(&mut there).await.unwrap() {
                seen.push((frame.id, frame.body.len()));
            }
            seen
        });
        for id in 1..=3 {
            let frame = Outgoing::new(id, &Request::Control, vec![7; id as usize * 1000]).unwrap();
            sender.send(frame).await.unwrap();
        }
        drop(sender);
        writing.await.unwrap().unwrap();
        assert_eq!(reading.await.unwrap(), [(1, 1000), (2, 2000), (3, 3000)]);
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let frame = codec::encode(1, &Request::Control, 10).unwrap();
        for cut in 1..frame.len() {
            let mut bytes = &frame[..cut];
            assert!(matches!(
                read_frame(&mut bytes).await,
                Err(FrameError::Truncated)
            ));
        }
    }

    #[tokio::test]
    async fn a_login_banner_is_shown() {
        let mut banner = &b"Welcome to db1, all activity is logged\nmore"[..];
        let error = read_preamble(&mut banner).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the peer does not speak pg_reseed's protocol; it sent \"Welcome to db1, all activity is logged\""
        );
    }
}
