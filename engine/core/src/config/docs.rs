//! docs/CONFIG.md, made from the table.

use std::fmt::Write as _;

use super::keys::{Bounds, ConfigKey, Dynamic, broker_keys, topic_keys};

/// The text of docs/CONFIG.md.
pub fn config_docs() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Made from the table in `engine/core/src/config` by `corelogd --config-docs`; do not edit.\n\n\
         A value of a topic is its own override, else the dynamic value of the broker, else the\n\
         dynamic default of all brokers, else the properties file, else the default. Keys marked\n\
         *stored* are read, checked and shown, but change nothing in this version.\n\n\
         ## Topic keys\n\n\
         | Key | Type | Default | Legal values | Broker keys | Used | Meaning |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut topic: Vec<&ConfigKey> = topic_keys().collect();
    topic.sort_by_key(|key| key.name);
    for key in topic {
        let synonyms: Vec<String> = key
            .synonyms
            .iter()
            .map(|s| format!("`{}`", s.name))
            .collect();
        row(&mut out, key, &synonyms.join(", "));
    }
    out.push_str(
        "\n## Broker keys\n\n\
         | Key | Type | Default | Legal values | Changes | Used | Meaning |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut broker: Vec<&ConfigKey> = broker_keys().collect();
    broker.sort_by_key(|key| key.name);
    for key in broker {
        let dynamic = match key.dynamic {
            Dynamic::ReadOnly => "at restart",
            Dynamic::PerBroker => "per broker",
            Dynamic::ClusterWide => "while running",
        };
        row(&mut out, key, dynamic);
    }
    out
}

fn row(out: &mut String, key: &ConfigKey, scope: &str) {
    let unit = key.unit.name();
    let type_name = match unit {
        "" => key.value_type.name().to_owned(),
        unit => format!("{}, {unit}", key.value_type.name()),
    };
    let default = match key.default {
        None => "not set".to_owned(),
        Some("") => "empty".to_owned(),
        Some(default) => format!("`{default}`"),
    };
    let used = if key.used { "yes" } else { "stored" };
    let bounds = bounds(&key.bounds);
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "| `{}` | {type_name} | {default} | {bounds} | {scope} | {used} | {} |",
        key.name, key.doc
    );
}

fn bounds(bounds: &Bounds) -> String {
    match bounds {
        Bounds::Any => String::new(),
        Bounds::Integer { min, max: i64::MAX } => format!(">= {min}"),
        Bounds::Integer { min, max } => format!("{min} to {max}"),
        Bounds::Float { min, max } => format!("{min} to {max}"),
        Bounds::OneOf(values) => format!("one of {}", values.join(", ")),
        Bounds::EachOf(values) => format!("any of {}", values.join(", ")),
        Bounds::NotEmpty => "not empty".to_owned(),
        Bounds::ThrottledReplicas => "`*` or partition:broker".to_owned(),
        Bounds::AddressLimits => "address:limit, ...".to_owned(),
        Bounds::MinusOneOr { min, max } => format!("-1, or {min} to {max}"),
    }
}
