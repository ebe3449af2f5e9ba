//! The protocol between client and agent, independent of what carries its bytes.
//!
//! **Parties.** The client asks, the agent answers; the agent holds the SQL session and reads, the
//! client decides and writes. The agent has no verb that writes.
//!
//! **Opening.** Each side sends a preamble of [`codec::PREAMBLE_BYTES`] bytes: a magic word and the
//! protocol version. A side that reads another version says so and hangs up. Then frames follow: a
//! fixed header with two lengths, a head (postcard) and a body (raw bytes, digests or data).
//!
//! **Order.** `Configure`, then `Facts`, then `OpenBracket` (or a survey or verification, agreed in
//! `Configure`, that read without one), then `Manifest`, part by part, many in flight. From there `Digests`, `Blocks`, `Delta` and `Control` may be
//! asked in any number, in any order, many in flight: each is stateless and idempotent given the
//! manifest. `CloseBracket` must come when none of them is in flight; after it only `WalFiles`, reads
//! of the files that it named, `Standbys` and `Bye` are allowed. The agent may send a [`message::Notice`] at
//! any time.
//!
//! **Further streams.** A session may have up to [`message::STREAMS_MAX`] streams. A further one goes to an
//! agent of its own on the same host; its preamble is followed by `Join` with the token that `Configure` named,
//! and nothing more before the answer. That agent hands the stream to the first one, which answers, and reads
//! and writes it from there on. It takes `Digests`, `Blocks`, `Delta` and `Control`; each answer comes on the
//! stream of its request. Everything else stays on the first stream, whose end is that of the session.
//!
//! **Names.** A request names a file by its number in the agent's manifest, never by a path. Paths go
//! from the agent to the client only, in the parts of the manifest ([`listing`]), and decode only as names that
//! can make a [`crate::path::RelPath`].
//!
//! **Limits.** [`codec::HEAD_MAX`] and [`codec::BODY_MAX`] bytes, [`crate::geometry::SPANS_MAX`] spans
//! of [`crate::geometry::RANGE_BYTES`] in all. Whoever breaks a rule gets a fault and the connection
//! ends; nothing that was already proven is lost by it.

pub mod codec;
pub mod listing;
pub mod message;
pub mod payload;
