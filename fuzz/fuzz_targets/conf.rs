//! Configuration files: rewriting says what it was asked to say, once, and keeps the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::pg::{conf, hba};
use pg_reseed::plan::standby::{self, StandbySettings};

fuzz_target!(|data: &[u8]| {
    for reference in hba::references(data) {
        assert!(data.get(reference.place).is_some());
    }
    let closed = standby::closed_auto_conf(data);
    assert!(standby::is_closed(&closed));
    assert_eq!(standby::closed_auto_conf(&closed), closed);
    let Ok(lines) = conf::parse(data) else {
        return;
    };
    let before = conf::effective(&lines);
    let text = conf::rewrite(data, &["port"], &[("work_mem", "4MB")]);
    let after = conf::effective(&conf::parse(&text).expect("it parsed before"));
    assert_eq!(after.get("work_mem").map(String::as_str), Some("4MB"));
    assert!(!after.contains_key("port"));
    for (name, value) in &before {
        if name != "port" && name != "work_mem" {
            assert_eq!(after.get(name), Some(value));
        }
    }
    let wanted = StandbySettings {
        primary_conninfo: "host=b".to_owned(),
        ..StandbySettings::default()
    };
    if let Ok(text) = standby::auto_conf(data, &before, &wanted) {
        let set = conf::effective(&conf::parse(&text).expect("a server can read it"));
        assert_eq!(
            set.get("primary_conninfo").map(String::as_str),
            Some("host=b")
        );
    }
});
