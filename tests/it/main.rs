//! The tests that need the real thing: servers, the binary, signals. One binary, one link.
//!
//! Servers run on Unix sockets in temporary folders, as the user who runs the tests; PostgreSQL refuses
//! root, so root runs them through `tests/run-as-unprivileged` (`make test` does). The oracles of
//! `oracle.rs` are naive on purpose and share no code with what they judge.
//!
//! `PG_RESEED_TEST_KEEP=1` keeps the folders of the tests, `PG_RESEED_TEST_SEED=n` repeats a random run,
//! `PG_RESEED_TEST_BINDIR` chooses the PostgreSQL, `PG_RESEED_TEST_LARGE=1` adds what needs 8 GB of room.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on panics, and says on standard error what it saw"
)]

mod between;
mod chaos;
mod clone;
mod cluster;
mod contact;
mod crash;
mod daemon;
mod early;
mod edges;
mod foreign;
mod frames;
mod guards;
mod heard;
mod histories;
mod hostile_agent;
mod hostile_client;
mod inspect;
mod jobs;
mod lab;
mod layouts;
mod links;
mod managers;
mod moves;
mod neighbour;
mod noise;
mod oracle;
mod owner;
mod paced;
mod patches;
mod rebuild;
mod reports;
mod rewind;
mod seed;
mod slot_users;
mod slots;
mod standby;
mod starts;
mod states;
mod status;
mod syncrep;
mod tls;
mod told;
mod torn;
mod transport;
mod traps;
mod twins;
mod verify;
mod verify_exceptions;
mod verify_hostile;
mod verify_more;
mod verify_ways;
mod verify_xacts;
mod wal;
mod wal_stream;
mod wrong_side;

/// The folders of modules and what declares their modules.
const FOLDERS: [(&str, &str); 2] = [
    ("", include_str!("main.rs")),
    ("cluster/", include_str!("cluster/mod.rs")),
];

/// Every file of this folder, and of the folders in it, is a module here: a forgotten one would be tests that
/// never run.
#[test]
fn every_file_of_this_folder_is_part_of_the_binary() {
    let listing = std::env::var("PG_RESEED_IT_FILES").unwrap_or_else(|_| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
        let mut files = Vec::new();
        list(&folder, "", &mut files);
        files.join(" ")
    });
    let modules = listing
        .split_whitespace()
        .filter_map(|path| path.strip_suffix(".rs"))
        .filter(|path| *path != "main")
        .collect::<Vec<_>>();
    assert!(
        modules.len() >= 3 && modules.contains(&"cluster/mod"),
        "the listing is not that of this folder: {listing}"
    );
    for path in modules {
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let (folder, module) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        let declares = FOLDERS
            .iter()
            .find(|(name, _)| *name == folder)
            .map_or("", |(_, source)| source);
        assert!(
            declares.contains(&format!("\nmod {module};\n")),
            "tests/it/{path}.rs is not part of the test binary, or its folder is none of FOLDERS"
        );
    }
}

fn list(folder: &std::path::Path, prefix: &str, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push(name);
        }
    }
}
