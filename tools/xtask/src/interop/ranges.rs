//! `ranges`: the API versions the broker advertises are those of Apache Kafka 4.3.1, as Kafka's own tool reads them.

use super::clients::CALL_LIMIT;
use super::subject::{Broker, Spec, Subject};
use super::{Setting, Suite};
use crate::process;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let peer = Setting {
        subject: Subject::Kafka,
        ..clone_of(setting)
    };
    let kafka = Broker::start(&peer, &Spec::new(&setting.dir("kafka")?))?;
    let theirs = ranges(setting, &kafka.kafka)?;
    drop(kafka);
    let broker = Broker::start(setting, &Spec::new(&setting.dir("data")?))?;
    let ours = ranges(setting, &broker.kafka)?;

    let mut differences = 0;
    for (api, range) in &ours {
        match theirs.get(api) {
            Some(other) if other == range => {}
            Some(other) => {
                differences += 1;
                println!("  {api}: {range}, Kafka has {other}");
            }
            None => {
                differences += 1;
                println!("  {api}: {range}, Kafka does not have it");
            }
        }
    }
    let missing: Vec<&str> = theirs
        .keys()
        .filter(|api| !ours.contains_key(*api))
        .map(String::as_str)
        .collect();
    println!(
        "  not served: {}",
        if missing.is_empty() {
            "none".to_owned()
        } else {
            missing.join(", ")
        }
    );
    suite.check(ours.len() >= 15, format!("{} APIs advertised", ours.len()));
    suite.check(differences == 0, format!("differences={differences}"));
    Ok(())
}

/// `Produce(0): 0 to 13 [usable: 13]` per API, to name and range.
fn ranges(setting: &Setting, bootstrap: &str) -> Result<BTreeMap<String, String>> {
    let mut tool = setting.clients.kafka("kafka-broker-api-versions");
    tool.args(["--bootstrap-server", bootstrap]);
    let text =
        process::run(&mut tool, &setting.scratch, CALL_LIMIT)?.ok("kafka-broker-api-versions")?;
    let found = parse(&text);
    ensure!(
        !found.is_empty(),
        "kafka-broker-api-versions printed no range:\n{text}"
    );
    Ok(found)
}

fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (api, rest) = line.trim().split_once("): ")?;
            let range = rest.split(" [").next()?.trim_end_matches(',');
            (!range.starts_with("UNSUPPORTED")).then(|| (format!("{api})"), range.to_owned()))
        })
        .collect()
}

fn clone_of(setting: &Setting) -> Setting {
    Setting {
        subject: setting.subject.clone(),
        clients: setting.clients.clone(),
        scratch: setting.scratch.clone(),
        planted: setting.planted.clone(),
        part: setting.part.clone(),
        ..*setting
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ranges_are_read_and_unsupported_apis_are_left_out() {
        let text = "127.0.0.1:9092 (id: 1 rack: null isFenced: false) -> (\n\tProduce(0): 0 to 13 [usable: 13],\n\
                    \tAddRaftVoter(80): UNSUPPORTED,\n\tListClientMetrics(74): 0 [usable: 0]\n)\n";
        let found = parse(text);
        assert_eq!(found.get("Produce(0)").map(String::as_str), Some("0 to 13"));
        assert_eq!(
            found.get("ListClientMetrics(74)").map(String::as_str),
            Some("0")
        );
        assert_eq!(found.len(), 2);
    }
}
