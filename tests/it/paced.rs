//! What the agent is told while it works: another rate by the time of day, and how far the run is, for the source's DBA.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::cluster::{DEADLINE, Pair, Scene, eventually};

const DAY: u64 = 24 * 60 * 60;

/// The time of day so many seconds from now, in UTC as the tests' environment has it.
fn time_in(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let second = (now.as_secs() + seconds) % DAY;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{hour:02}:{minute:02}:{:02}", second % 60)
}

fn rates(events: &[Value]) -> Vec<Value> {
    let rates = events.iter().filter(|event| event["event"] == "max_rate");
    rates
        .map(|event| event["bytes_per_second"].clone())
        .collect()
}

/// The run would take minutes by the rate that it begins with.
#[test]
fn a_timetable_is_kept_while_the_run_goes_on() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    // In force since a minute ago, and until some seconds from now.
    let table = format!("{},off {},32k", time_in(20), time_in(DAY - 60));
    let mut running = pair
        .rebuild()
        .args(["--progress", "json", "--max-rate", &table])
        .spawn();
    running.wait_for("there is no limit", |running| {
        rates(&running.events()).last() == Some(&Value::Null)
    });
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    let events: Vec<Value> = said
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let slow = Value::from(32 * 1024);
    assert_eq!(rates(&events), [slow.clone(), Value::Null], "{said}");
    let told = "By the timetable of --max-rate there is no limit from now on.";
    assert!(said.stderr.contains(told), "{said}");
    // It was slow, and then it was not.
    let at = |rate: &Value| {
        let mut events = events.iter().filter(|event| event["event"] == "progress");
        let last = events.rfind(|event| event["max_rate"] == *rate);
        last.and_then(|event| event["compared_bytes"].as_u64())
            .unwrap()
    };
    let (before, after) = (at(&slow), at(&Value::Null));
    assert!(before < after / 2, "{before} {after}: {said}");
    pair.old.start();
    pair.check_equal();
}

#[test]
fn the_sources_dba_sees_the_target_and_how_far_the_run_is() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let xmax = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let before = pair.new.sql(xmax);
    let mut running = pair.rebuild().args(["--max-rate", "64k"]).spawn();
    running.wait_closed(&pair.old);
    let shown = "SELECT application_name FROM pg_stat_activity \
                 WHERE application_name ~ '^pg_reseed .*:.*/old/data [0-9]+%$'";
    let name = eventually("its percentage is shown", DEADLINE, || {
        Some(pair.new.sql(shown)).filter(|name| !name.is_empty())
    });
    assert!(name.len() <= 63, "{name}");
    assert_eq!(pair.new.sql(xmax), before);
    running.kill();
    running.wait();
    // A name that the DBA has chosen stays.
    let own = format!(
        "{} dbname=postgres application_name=chosen",
        pair.new.conninfo()
    );
    let mut running = pair
        .rebuild()
        .args(["--max-rate", "64k", "--source-dbname", &own])
        .spawn();
    running.wait_closed(&pair.old);
    pair.new.wait_sql(
        "SELECT string_agg(DISTINCT application_name, ',') FROM pg_stat_activity \
         WHERE application_name ~ 'reseed|chosen' AND pid <> pg_backend_pid()",
        "chosen",
    );
}
