//! `pg_reseed verify` by all ways to a source, and of clusters of all shapes.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use pg_reseed::pg::canonical::kind;

use crate::cluster::{Pair, Scene, Stop, binary, clean, said};
use crate::oracle::settle;
use crate::tls::{Authority, Daemon};
use crate::transport::remote_shell;
use crate::verify::{BLOCK, file, page, pair, place, put, run, run_from, spoil, verify};

#[test]
fn what_lies_in_tablespaces_is_compared_and_named() {
    let scene = Scene::new();
    let [of_old, of_new] = ["of_old", "of_new"].map(|name| scene.folder(name));
    let mapping = format!(
        "--tablespace-mapping={}={}",
        of_old.display(),
        of_new.display()
    );
    let Pair {
        old: primary,
        new: mut standby,
    } = Pair::streaming_with(&scene, &[&mapping], |old| {
        old.sql(&format!(
            "CREATE TABLESPACE s LOCATION '{}'",
            of_old.display()
        ));
        old.sql("CREATE TABLE away TABLESPACE s AS SELECT i FROM generate_series(1, 3000) AS i");
    });
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
    standby.stop(Stop::Fast);
    let path = file(&primary, "away");
    assert!(path.starts_with("pg_tblspc/"), "{path}");
    let whole = spoil(&standby, &path, 2, 2);
    let found = verify(&standby, &primary, &[]);
    let fault = found.assert_one("content", 2);
    assert_eq!(
        (&fault["path"], &fault["relation"]),
        (&path.as_str().into(), &"public.away".into()),
    );
    put(&standby, &path, 2, whole);
    fs::remove_file(place(&standby, &path)).unwrap();
    let found = verify(&standby, &primary, &[]);
    assert_eq!(
        found.faults(),
        [("missing-file".to_owned(), None)],
        "{found:?}"
    );
}

/// A relation has a file for each GiB; most blocks of this one were never written.
#[test]
fn a_block_of_a_second_segment_is_found_by_its_number_in_the_relation() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE long AS SELECT i FROM generate_series(1, 1000) AS i");
    });
    settle(&primary, &standby);
    let path = file(&primary, "long");
    let second = format!("{path}.1");
    standby.stop(Stop::Fast);
    primary.stop(Stop::Fast);
    for cluster in [&primary, &standby] {
        let first = File::options().append(true).open(place(cluster, &path));
        first.unwrap().set_len(1 << 30).unwrap();
        let mut options = File::options();
        let more = options.write(true).create_new(true).mode(0o600);
        let more = more.open(place(cluster, &second));
        more.unwrap().set_len(16 * BLOCK as u64).unwrap();
    }
    primary.start();
    standby.start();
    primary.wait_caught_up(&standby);
    primary.sql("INSERT INTO long SELECT generate_series(2000, 20000)");
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
    standby.stop(Stop::Fast);
    let number = (1 << 17) + 15;
    let whole = page(&standby, &second, 15);
    assert_eq!(kind(&whole).name(), "heap", "new rows are at the end");
    spoil(&standby, &second, 15, number);
    let found = verify(&standby, &primary, &[]);
    let fault = found.assert_one("content", number as u64);
    assert_eq!(
        (&fault["path"], &fault["relation"]),
        (&second.as_str().into(), &"public.long".into()),
    );
}

#[test]
fn a_standby_of_a_standby_is_compared_with_the_one_before_it() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: middle,
    } = pair(&scene);
    let mut last = scene.standby("last", &middle, &[]);
    primary.sql("UPDATE plain SET f = 'new' WHERE i < 100");
    settle(&primary, &middle);
    middle.wait_caught_up(&last);
    last.sql("CHECKPOINT");
    let conninfo = format!("{} dbname=postgres", middle.conninfo());
    let options = ["--source-dbname", &conninfo];
    run(&last, &options).assert_equal();
    last.stop(Stop::Fast);
    let path = file(&primary, "plain");
    let whole = spoil(&last, &path, 3, 3);
    let found = run(&last, &options);
    let fault = found.assert_one("content", 3);
    assert_eq!(fault["relation"], "public.plain");
    // The primary is its source, too.
    verify(&last, &primary, &[]).assert_one("content", 3);
    put(&last, &path, 3, whole);
    verify(&last, &primary, &[]).assert_equal();
}

/// Where only --from says where the source is, nobody has said how the standby will reach it.
#[test]
fn by_ssh_the_remedy_has_the_standby_s_own_conninfo_and_works() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    let rsh = remote_shell(&scene).display().to_string();
    let conninfo = format!("{} dbname=postgres", primary.conninfo());
    let agent = binary().display().to_string();
    let options = [
        "--rsh",
        &rsh,
        "--agent-path",
        &agent,
        "--source-dbname",
        &conninfo,
    ];
    let from = "ssh://dba@db2.example:2222";
    let found = run_from(&standby, from, &options);
    found.assert_equal();
    assert!(found.found["command"].is_null());
    assert_eq!(found.found["warnings"].as_array().unwrap().len(), 0);
    standby.sql("SELECT pg_create_physical_replication_slot('of_standby', true)");
    standby.stop(Stop::Fast);
    spoil(&standby, &file(&primary, "plain"), 3, 3);
    let found = run_from(&standby, from, &options);
    found.assert_one("content", 3);
    let told = found.found["command"].as_str().unwrap();
    assert!(told.contains(" -d ") && told.contains(from), "{told}");
    let advice = found.found["advice"].to_string();
    assert!(advice.contains("own primary_conninfo"), "{advice}");
    // What that rebuild would take away beside the data.
    let warnings = found.found["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{found:?}");
    assert_eq!(warnings[0]["code"], "slots-removed");
    assert!(
        warnings[0]["message"]
            .as_str()
            .unwrap()
            .contains("of_standby")
    );
    // By a shell, as one pastes it.
    let command = told.replacen("pg_reseed", &agent, 1);
    let output = clean(Command::new("sh"))
        .args(["-c", &format!("{command} --progress none")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{told}\n{}", said(&output));
    standby.start();
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
    // Where the configuration does not tell, either, it is said what to add.
    standby.stop(Stop::Fast);
    standby.write("postgresql.auto.conf", "");
    spoil(&standby, &file(&primary, "plain"), 3, 3);
    let found = run_from(&standby, from, &options);
    let told = found.found["command"].as_str().unwrap();
    assert!(!told.contains(" -d "), "{told}");
    let advice = found.found["advice"].to_string();
    assert!(advice.contains("Add -h or -d to the command"), "{advice}");
}

#[test]
fn by_tls_and_several_streams_the_same_is_found() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    let authority = Authority::new(&scene, "ca");
    let daemon = Daemon::start(&scene, &primary, &authority, &[]);
    let options = authority.options(&authority, "client").into_iter();
    let options: Vec<String> = options.map(|word| word.into_string().unwrap()).collect();
    let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
    options.extend(["--streams", "3"]);
    run_from(&standby, &daemon.place(), &options).assert_equal();
    standby.stop(Stop::Fast);
    spoil(&standby, &file(&primary, "plain"), 3, 3);
    run_from(&standby, &daemon.place(), &options).assert_one("content", 3);
    daemon.wait_said("as a further stream of another session");
}
