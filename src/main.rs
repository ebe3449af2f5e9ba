//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pg_reseed::cli::run(std::env::args_os())
}
