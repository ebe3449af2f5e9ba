//! What PostgreSQL's files, names and texts mean: bytes or text in, values out; no file, no server.
