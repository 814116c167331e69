//! `corelog config`.

use crate::cluster::{Cluster, check, pair};
use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};
use corelog_net::client::Client;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::describe_configs_request::{
    DescribeConfigsRequestData, DescribeConfigsResource,
};
use corelog_net::cold::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use std::fmt;

const SET: i8 = 0;
const DELETE: i8 = 1;

/// What has a configuration.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Resource {
    /// A topic, by name.
    Topic,
    /// A broker, by node id; `default` is what holds for all of them.
    Broker,
}

impl Resource {
    /// Kafka's number of the resource type.
    fn number(self) -> i8 {
        match self {
            Resource::Topic => 2,
            Resource::Broker => 4,
        }
    }

    /// Kafka's name of the cluster-wide default is the empty one.
    fn name(self, given: &str) -> KafkaString {
        let name = if self == Resource::Broker && given == "default" {
            ""
        } else {
            given
        };
        KafkaString::from(name.to_owned())
    }
}

/// What can be done with configuration.
#[derive(Subcommand)]
pub enum Command {
    /// Prints values and where they come from.
    Get {
        /// Of a topic or a broker.
        resource: Resource,
        /// Topic name, node id or `default`.
        name: String,
        /// Only this key.
        key: Option<String>,
    },
    /// Sets and removes values; all of them or none.
    Set {
        /// Of a topic or a broker.
        resource: Resource,
        /// Topic name, node id or `default`.
        name: String,
        /// New values.
        #[arg(value_name = "KEY=VALUE", value_parser = pair)]
        values: Vec<(String, String)>,
        /// A key that goes back to its default; may be repeated.
        #[arg(long, value_name = "KEY")]
        delete: Vec<String>,
    },
}

/// One configuration value.
pub struct Entry {
    key: String,
    value: Option<String>,
    source: i8,
    read_only: bool,
}

impl Entry {
    /// Set on the resource itself, not inherited.
    pub fn is_set_here(&self) -> bool {
        matches!(self.source, 1 | 2)
    }

    fn source_name(&self) -> &'static str {
        match self.source {
            1 => "topic",
            2 => "this broker, dynamic",
            3 => "all brokers, dynamic",
            4 => "server.properties",
            5 => "default",
            _ => "elsewhere",
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref().unwrap_or("(not shown)");
        let read_only = if self.read_only { ", read-only" } else { "" };
        write!(
            f,
            "{}={value}  ({}{read_only})",
            self.key,
            self.source_name()
        )
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, command: Command) -> Result<()> {
    match command {
        Command::Get {
            resource,
            name,
            key,
        } => {
            let entries = describe(cluster, resource, &name, key.as_deref()).await?;
            ensure!(
                !entries.is_empty() || key.is_none(),
                "there is no key {}",
                key.unwrap_or_default()
            );
            for entry in entries {
                crate::say!("{entry}");
            }
            Ok(())
        }
        Command::Set {
            resource,
            name,
            values,
            delete,
        } => set(cluster, resource, &name, &values, &delete).await,
    }
}

/// Values of a resource, by key.
pub async fn describe(
    cluster: &Cluster,
    resource: Resource,
    name: &str,
    key: Option<&str>,
) -> Result<Vec<Entry>> {
    let keys = key.map(|key| vec![KafkaString::from(key.to_owned())]);
    let asked = DescribeConfigsResource::default()
        .with_resource_type(resource.number())
        .with_resource_name(resource.name(name))
        .with_configuration_keys(keys);
    let request = DescribeConfigsRequestData::default().with_resources(vec![asked]);
    let response = client_for(cluster, resource, name)
        .await?
        .call(&request)
        .await?;
    let result = response
        .results
        .into_iter()
        .next()
        .context("the broker said nothing about it")?;
    check(result.error_code, result.error_message.as_ref()).with_context(|| name.to_owned())?;
    let mut entries: Vec<Entry> = result
        .configs
        .into_iter()
        .map(|config| Entry {
            key: config.name.to_string(),
            value: config.value.map(|value| value.to_string()),
            source: config.config_source,
            read_only: config.read_only,
        })
        .collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

async fn set(
    cluster: &Cluster,
    resource: Resource,
    name: &str,
    values: &[(String, String)],
    delete: &[String],
) -> Result<()> {
    ensure!(
        !values.is_empty() || !delete.is_empty(),
        "nothing to set: give KEY=VALUE or --delete KEY"
    );
    let set = values
        .iter()
        .map(|(key, value)| change(key, SET, Some(value)));
    let deleted = delete.iter().map(|key| change(key, DELETE, None));
    let asked = AlterConfigsResource::default()
        .with_resource_type(resource.number())
        .with_resource_name(resource.name(name))
        .with_configs(set.chain(deleted).collect());
    let request = IncrementalAlterConfigsRequestData::default().with_resources(vec![asked]);
    let response = client_for(cluster, resource, name)
        .await?
        .call(&request)
        .await?;
    let result = response
        .responses
        .first()
        .context("the broker said nothing about it")?;
    check(result.error_code, result.error_message.as_ref()).with_context(|| name.to_owned())
}

fn change(key: &str, operation: i8, value: Option<&String>) -> AlterableConfig {
    AlterableConfig::default()
        .with_name(KafkaString::from(key.to_owned()))
        .with_config_operation(operation)
        .with_value(value.map(|value| KafkaString::from(value.clone())))
}

/// A broker's own configuration is known to that broker alone.
async fn client_for(cluster: &Cluster, resource: Resource, name: &str) -> Result<Client> {
    let Ok(id) = name.parse::<i32>() else {
        return Ok(cluster.any.clone());
    };
    if resource == Resource::Topic {
        return Ok(cluster.any.clone());
    }
    cluster.broker_by_id(id).await
}
