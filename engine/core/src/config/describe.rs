//! Which value is in force, where it comes from, and what DescribeConfigs tells of it.

use super::broker::BrokerConfig;
use super::error::ConfigError;
use super::keys::{ConfigKey, Dynamic, Synonym, broker_key, broker_keys, topic_keys};
use super::value::Value;
use crate::metadata::{ConfigMap, Image};

/// Where a value comes from; numbers in [`ConfigSource::id`] are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Override of the topic.
    Topic,
    /// Dynamic, this broker.
    DynamicBroker,
    /// Dynamic, all brokers.
    DynamicDefaultBroker,
    /// Properties file or command line.
    StaticBroker,
    /// The table.
    Default,
}

impl ConfigSource {
    /// Kafka's `DescribeConfigsResponse.ConfigSource`.
    pub const fn id(self) -> i8 {
        match self {
            ConfigSource::Topic => 1,
            ConfigSource::DynamicBroker => 2,
            ConfigSource::DynamicDefaultBroker => 3,
            ConfigSource::StaticBroker => 4,
            ConfigSource::Default => 5,
        }
    }
}

/// Everything a value may come from, the topic's own overrides first.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// Overrides of the topic, for topic keys.
    pub topic: Option<&'a ConfigMap>,
    /// Dynamic settings of this broker.
    pub broker: Option<&'a ConfigMap>,
    /// Dynamic settings of all brokers.
    pub cluster: Option<&'a ConfigMap>,
    /// The properties file.
    pub file: &'a BrokerConfig,
}

impl<'a> Layers<'a> {
    /// The layers of a topic, or with `None` of the broker itself.
    pub fn of(image: &'a Image, file: &'a BrokerConfig, topic: Option<&str>) -> Self {
        Self {
            topic: topic
                .and_then(|name| image.topic_config(name))
                .map(|map| &**map),
            broker: image
                .broker_config(&file.node_id.to_string())
                .map(|map| &**map),
            cluster: image.broker_config("").map(|map| &**map),
            file,
        }
    }
}

/// A value with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedValue {
    /// Key it was found under.
    pub name: &'static str,
    /// As written there.
    pub value: String,
    /// Layer.
    pub source: ConfigSource,
}

/// A key as DescribeConfigs shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The row.
    pub key: &'static ConfigKey,
    /// Value in force, in its own unit; `None` = not set, or secret.
    pub value: Option<String>,
    /// Layer it comes from.
    pub source: ConfigSource,
    /// Whether it cannot change while the broker runs.
    pub read_only: bool,
    /// All layers that have it, the one in force first; values of secrets are left out.
    pub synonyms: Vec<(&'static str, Option<String>, ConfigSource)>,
}

/// Every layer's value of a broker key or of a topic key's synonyms, strongest first.
fn chain(names: &[&'static str], layers: &Layers<'_>) -> Vec<SourcedValue> {
    let mut found = Vec::new();
    for (map, source) in [
        (layers.broker, ConfigSource::DynamicBroker),
        (layers.cluster, ConfigSource::DynamicDefaultBroker),
    ] {
        let Some(map) = map else { continue };
        for &name in names {
            if let Some(value) = map.get(name) {
                found.push(SourcedValue {
                    name,
                    value: value.clone(),
                    source,
                });
            }
        }
    }
    for &name in names {
        if let Some(setting) = layers.file.setting(name) {
            let value = setting.value.clone();
            found.push(SourcedValue {
                name,
                value,
                source: ConfigSource::StaticBroker,
            });
        }
    }
    for &name in names {
        if let Some(default) = broker_key(name).and_then(|row| row.default) {
            let value = default.to_owned();
            found.push(SourcedValue {
                name,
                value,
                source: ConfigSource::Default,
            });
        }
    }
    found
}

fn topic_chain(key: &'static ConfigKey, layers: &Layers<'_>) -> Vec<SourcedValue> {
    let own = layers
        .topic
        .and_then(|map| map.get(key.name))
        .map(|value| SourcedValue {
            name: key.name,
            value: value.clone(),
            source: ConfigSource::Topic,
        });
    let names: Vec<&'static str> = key.synonyms.iter().map(|synonym| synonym.name).collect();
    let mut found: Vec<SourcedValue> = own.into_iter().chain(chain(&names, layers)).collect();
    if key.synonyms.is_empty()
        && let Some(default) = key.default
    {
        let value = default.to_owned();
        found.push(SourcedValue {
            name: key.name,
            value,
            source: ConfigSource::Default,
        });
    }
    found
}

/// A topic key's value in force, in its own unit. `None` = not set anywhere.
pub(super) fn resolve_topic_key(
    key: &'static ConfigKey,
    layers: &Layers<'_>,
) -> Result<Option<Value>, ConfigError> {
    match topic_chain(key, layers).first() {
        None => Ok(None),
        Some(found) => in_own_unit(key, found).map(Some),
    }
}

/// A value in the unit of the topic key: hours of a broker key become milliseconds.
fn in_own_unit(key: &'static ConfigKey, found: &SourcedValue) -> Result<Value, ConfigError> {
    let synonym = key
        .synonyms
        .iter()
        .find(|synonym| synonym.name == found.name);
    match (found.source, synonym) {
        (ConfigSource::Topic, _) | (_, None) => key.parse(&found.value),
        (_, Some(Synonym { name, factor })) => {
            let row = broker_key(name).ok_or_else(|| {
                ConfigError::new(name, &found.value, "Unknown broker config name")
            })?;
            Ok(match row.parse(&found.value)? {
                // Kafka reads every negative retention as "no limit".
                Value::Integer(value) if value < 0 && *factor > 1 => Value::Integer(-1),
                Value::Integer(value) => Value::Integer(value.saturating_mul(*factor)),
                other => other,
            })
        }
    }
}

fn shown(key: &'static ConfigKey, value: String) -> Option<String> {
    (!key.sensitive()).then_some(value)
}

fn described(
    key: &'static ConfigKey,
    value: Option<String>,
    read_only: bool,
    found: Vec<SourcedValue>,
) -> Described {
    Described {
        key,
        value: value.and_then(|value| shown(key, value)),
        source: found
            .first()
            .map_or(ConfigSource::Default, |first| first.source),
        read_only,
        synonyms: found
            .into_iter()
            .map(|f| (f.name, shown(key, f.value), f.source))
            .collect(),
    }
}

/// All keys of a topic. A stored override that is no longer legal is shown as it is.
pub fn describe_topic(layers: &Layers<'_>) -> Vec<Described> {
    let overridden = |key: &str| layers.topic.is_some_and(|map| map.contains_key(key));
    topic_keys()
        // Kafka's internal keys are shown only where somebody set them.
        .filter(|key| !key.name.starts_with("internal.") || overridden(key.name))
        .map(|key| {
            let found = topic_chain(key, layers);
            let value = found.first().map(|first| match in_own_unit(key, first) {
                Ok(value) => value.canonical(),
                Err(_) => first.value.clone(),
            });
            described(key, value, false, found)
        })
        .collect()
}

/// All keys of this broker.
pub fn describe_broker(layers: &Layers<'_>) -> Vec<Described> {
    broker_keys()
        .map(|key| {
            let found = chain(&[key.name], layers);
            let value = found.first().map(|first| match key.parse(&first.value) {
                Ok(value) => value.canonical(),
                Err(_) => first.value.clone(),
            });
            described(key, value, key.dynamic == Dynamic::ReadOnly, found)
        })
        .collect()
}

/// The dynamic settings of all brokers: only those that are set.
pub fn describe_cluster_default(layers: &Layers<'_>) -> Vec<Described> {
    layers
        .cluster
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let key = broker_key(name)?;
            let source = ConfigSource::DynamicDefaultBroker;
            let found = vec![SourcedValue {
                name: key.name,
                value: value.clone(),
                source,
            }];
            Some(described(
                key,
                Some(value.clone()),
                key.dynamic == Dynamic::ReadOnly,
                found,
            ))
        })
        .collect()
}
