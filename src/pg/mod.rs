//! What PostgreSQL's files, names and texts mean: bytes or text in, values out; no file, no server.
//!
//! Each module holds one kind of fact for all supported majors (13 to 19) and says where PostgreSQL
//! states it. Nothing here opens a file, asks a clock or decides what a rebuild does. Numbers are
//! little endian, as on every platform that we build for; a control file of the other byte order is
//! refused by name. No input makes a function here panic.

pub mod canonical;
pub mod cluster_name;
pub mod conf;
pub mod conninfo;
pub mod control;
pub mod hba;
pub mod hints;
pub mod label;
pub mod layout;
pub mod lsn;
pub mod opts;
pub mod page;
pub mod relfile;
pub mod segment;
pub mod slot;
pub mod timeline;
pub mod version;
pub mod visibility;
pub mod wal;
