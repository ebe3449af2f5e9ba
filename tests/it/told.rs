//! What the DBA must hear: which files went, on which side an error was, where the same command helps, and which link
//! leads nowhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::cluster::{Pair, Rebuild, Scene, children_of};
use crate::early::{refused, start_and_compare, table};
use crate::oracle::assert_untouched;

/// How often a text has a word.
fn count(text: &str, word: &str) -> usize {
    text.matches(word).count()
}

// ------------------------------------------------------------------------------------------------- files that went

#[test]
fn files_that_go_are_named_in_the_summary_the_report_and_the_log() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let database = table(&pair.new);
    let database = Path::new(&database).parent().unwrap().to_owned();
    let names: Vec<String> = (0..14)
        .map(|number| {
            database
                .join(format!("{}", 900_000 + number))
                .display()
                .to_string()
        })
        .collect();
    for name in &names {
        pair.old.write(name, "only here");
    }
    let dry = pair.rebuild().arg("--dry-run").succeed();
    let said = pair.rebuild().arg("-v").succeed();
    for (said, title) in [(&dry, "To remove"), (&said, "Removed")] {
        let listed = said.report()["removed"].as_array().unwrap();
        assert_eq!(listed.len() as u64, said.number("removed_files"), "{said}");
        for name in &names {
            assert!(listed.iter().any(|path| path == name), "no {name}: {said}");
        }
        let rest = listed.len() - 10;
        let summary = &said.stdout;
        assert!(
            summary.contains(&format!("  {title:<14}{} files\n", listed.len())),
            "{said}"
        );
        assert!(
            summary.contains(&format!("and {rest} more (see --report)")),
            "{said}"
        );
        assert!(summary.contains(listed[0].as_str().unwrap()), "{said}");
    }
    for name in &names {
        assert!(
            said.stderr.contains(&format!("removed \"{name}\"")),
            "no {name}: {said}"
        );
        assert!(!pair.old.exists(name));
    }
    start_and_compare(&mut pair);
}

// ----------------------------------------------------------------------------------------- sides, and what to do next

#[test]
fn an_error_of_the_target_says_so_and_what_to_do_before_the_command_is_run_again() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    // No file may grow beyond that; the system's reason is as for a disk that is full.
    let said = pair.rebuild().after("trap '' XFSZ; ulimit -f 1024").fail(4);
    let messages = said.messages();
    assert!(
        messages.contains("\" on the target: File too large"),
        "{said}"
    );
    assert!(
        messages.contains("hint: Raise the limit on the size of files"),
        "{said}"
    );
    assert!(
        messages.contains("hint: Then run the same command again"),
        "{said}"
    );
    assert_eq!(count(&messages, "same command again"), 1, "{said}");
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}

#[test]
fn an_error_of_the_source_names_its_host_and_what_to_do_there() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let closed = pair.new.pgdata().join("pg_hba.conf");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    let place = scene.path().join("configuration");
    let said = pair
        .rebuild()
        .arg("--target-config-dir")
        .arg(&place)
        .fail(1);
    let host = rustix::system::uname();
    let host = host.nodename().to_str().unwrap();
    let error = format!(
        "\"{}\" on the source \"{host}\": Permission denied",
        closed.display()
    );
    assert!(said.messages().contains(&error), "{said}");
    assert!(
        said.messages()
            .contains("hint: Give the user that runs pg_reseed the right"),
        "{said}"
    );
    assert_eq!(count(&said.messages(), "same command again"), 0, "{said}");
}

#[test]
fn a_lost_agent_is_no_more_than_a_reason_to_run_the_same_command_again() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let mut running = pair.rebuild().args(["--max-rate", "1M"]).spawn();
    running.wait_closed(&pair.old);
    for agent in children_of(running.pid()) {
        rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
    }
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert_eq!(count(&said.messages(), "hint: "), 1, "{said}");
    assert!(
        said.messages()
            .contains("hint: Run the same command again: "),
        "{said}"
    );
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}

// ------------------------------------------------------------------------------------------------- links to nowhere

#[test]
fn links_of_the_target_that_lead_nowhere_are_refused_by_name() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let gone = scene.path().join("not-mounted/place");
    for name in ["pg_wal", "pg_stat_tmp", "pg_replslot"] {
        let place = pair.old.pgdata().join(name);
        let aside = scene.path().join(format!("aside-{name}"));
        fs::rename(&place, &aside).unwrap();
        symlink(&gone, &place).unwrap();
        let error = format!(
            "\"{name}\" is a link to \"{}\", which does not exist",
            gone.display()
        );
        let said = refused(&pair.old, || pair.rebuild(), &[&error, "Mount"]);
        assert!(!said.messages().contains("File exists"), "{said}");
        fs::remove_file(&place).unwrap();
        fs::rename(&aside, &place).unwrap();
    }
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}

#[test]
fn links_to_nowhere_among_the_places_that_options_name_are_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let gone = scene.path().join("not-mounted");
    let link = scene.path().join("link");
    symlink(&gone, &link).unwrap();
    let error = format!(
        "\"{}\" is a link to \"{}\", which does not exist",
        link.display(),
        gone.display()
    );
    let place = link.join("place");
    for option in ["--keep-diverged-wal", "--target-config-dir"] {
        refused(
            &pair.old,
            || pair.rebuild().arg(option).arg(&place),
            &[&error],
        );
    }
    // The data directory itself, and the WAL's of a seed.
    let mut target = scene.vacant("seeded");
    let waldir = || {
        Rebuild::new(&target, &pair.new)
            .args(["--seed", "--waldir"])
            .arg(&place)
    };
    for rebuild in [waldir().arg("--dry-run"), waldir()] {
        let said = rebuild.fail(3);
        assert!(said.messages().contains(&error), "{said}");
    }
    assert!(!target.pgdata().exists());
    for pgdata in [link.clone(), place.clone()] {
        target.place(&pgdata);
        for rebuild in [
            Rebuild::new(&target, &pair.new).arg("--dry-run"),
            Rebuild::new(&target, &pair.new).arg("--seed"),
        ] {
            let said = rebuild.fail(3);
            assert!(said.messages().contains(&error), "{said}");
            assert!(!said.messages().contains("--seed"), "{said}");
        }
    }
    assert!(!gone.exists());
    let before = crate::oracle::tree(pair.old.pgdata());
    assert_untouched(&before, pair.old.pgdata());
}
