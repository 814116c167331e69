//! The configuration file, read again while the broker runs: R60.

use corelog_core::config::{BrokerConfig, Reload};

fn config(text: &str, overrides: &[(&str, &str)]) -> BrokerConfig {
    let overrides: Vec<_> = overrides
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let parsed = BrokerConfig::parse("server.properties", text, &overrides);
    parsed.expect("legal").0
}

fn keys(reload: &Reload) -> (Vec<&str>, Vec<&str>) {
    (
        reload.applied.iter().map(|c| c.key).collect(),
        reload.at_restart.iter().map(|c| c.key).collect(),
    )
}

#[test]
fn r60_dynamic_keys_of_a_file_take_effect_and_others_keep_their_values() {
    let running = config(
        "message.max.bytes=5000\nnum.partitions=3\nlog.flush.interval.messages=10",
        &[],
    );
    let file = config(
        "message.max.bytes=6000\nnum.partitions=7\nlog.segment.bytes=2000000\nnode.id=5",
        &[],
    );
    let (now, reload) = running.reloaded(&file).expect("legal together");
    let (mut applied, mut at_restart) = keys(&reload);
    applied.sort_unstable();
    at_restart.sort_unstable();
    assert_eq!(
        applied,
        [
            "log.flush.interval.messages",
            "log.segment.bytes",
            "message.max.bytes"
        ]
    );
    assert_eq!(at_restart, ["node.id", "num.partitions"]);
    assert_eq!(now.value("message.max.bytes"), Some("6000"));
    assert_eq!(now.value("log.segment.bytes"), Some("2000000"));
    // Gone from the file: the default again.
    assert!(now.setting("log.flush.interval.messages").is_none());
    assert_eq!((now.num_partitions, now.node_id), (3, 1));
    let change = reload.applied.iter().find(|c| c.key == "message.max.bytes");
    let change = change.expect("told");
    assert_eq!(change.before.as_deref(), Some("5000"));
    assert_eq!(change.after.as_deref(), Some("6000"));
}

#[test]
fn r60_the_same_file_changes_nothing_however_it_is_written() {
    let running = config("message.max.bytes=5000\nnum.partitions=3", &[]);
    let file = config(
        "# more\n\nnum.partitions : 3\nmessage.max.bytes =  5000",
        &[],
    );
    let (now, reload) = running.reloaded(&file).expect("legal");
    assert_eq!(reload, Reload::default());
    assert_eq!(now.num_partitions, 3);
    // Again and again: what waits for a restart is told each time.
    let other = config("num.partitions=4", &[]);
    let (now, first) = running.reloaded(&other).expect("legal");
    let (_, second) = now.reloaded(&other).expect("legal");
    assert_eq!(keys(&first).1, ["num.partitions"]);
    assert_eq!(keys(&second), (vec![], vec!["num.partitions"]));
}

#[test]
fn r60_the_command_line_still_comes_before_the_file() {
    let overrides = [("message.max.bytes", "9000")];
    let running = config("message.max.bytes=5000", &overrides);
    let file = config("message.max.bytes=6000", &overrides);
    let (now, reload) = running.reloaded(&file).expect("legal");
    assert_eq!(reload, Reload::default());
    assert_eq!(now.value("message.max.bytes"), Some("9000"));
}

#[test]
fn r60_secrets_are_not_told() {
    let running = config("", &[]);
    let file = config("ssl.key.password=hush", &[]);
    let (_, reload) = running.reloaded(&file).expect("legal");
    let mut all = reload.applied.iter().chain(&reload.at_restart);
    let change = all.find(|c| c.key == "ssl.key.password");
    let change = change.expect("it is another one now");
    assert_eq!((&change.before, &change.after), (&None, &None));
}
