//! `corelog topic`.

use crate::cluster::{ADMIN_TIMEOUT_MS, Cluster, check, pair};
use crate::configs::{Resource, describe};
use anyhow::{Context, Result};
use clap::Subcommand;
use corelog_net::api::ApiKey;
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::create_partitions_request::{
    CreatePartitionsRequestData, CreatePartitionsTopic,
};
use corelog_net::cold::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use corelog_net::cold::messages::delete_topics_request::{
    DeleteTopicState, DeleteTopicsRequestData,
};

/// What can be done with topics.
#[derive(Subcommand)]
pub enum Command {
    /// Prints the names of all topics.
    List,
    /// Creates a topic.
    Create {
        /// Its name.
        name: String,
        /// Number of partitions; the broker's default without it.
        #[arg(long)]
        partitions: Option<i32>,
        /// Replicas of each partition; the broker's default without it.
        #[arg(long)]
        replication_factor: Option<i16>,
        /// A configuration value of the topic; may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        config: Vec<(String, String)>,
    },
    /// Prints partitions, leaders, offsets and the configuration that was set.
    Describe {
        /// The topic.
        name: String,
    },
    /// Raises the number of partitions.
    Alter {
        /// The topic.
        name: String,
        /// The new number; it can only grow.
        #[arg(long)]
        partitions: i32,
    },
    /// Deletes a topic and its records.
    Delete {
        /// The topic.
        name: String,
    },
}

/// Runs the command.
pub async fn run(cluster: &Cluster, command: Command) -> Result<()> {
    match command {
        Command::List => list(cluster).await,
        Command::Create {
            name,
            partitions,
            replication_factor,
            config,
        } => create(cluster, &name, partitions, replication_factor, &config).await,
        Command::Describe { name } => describe_topic(cluster, &name).await,
        Command::Alter { name, partitions } => alter(cluster, &name, partitions).await,
        Command::Delete { name } => delete(cluster, &name).await,
    }
}

async fn list(cluster: &Cluster) -> Result<()> {
    let metadata = cluster.any.metadata(None).await?;
    let mut names: Vec<_> = metadata
        .topics
        .iter()
        .filter_map(|topic| topic.name.as_ref())
        .collect();
    names.sort_by_key(|name| name.as_str());
    for name in names {
        crate::say!("{name}");
    }
    Ok(())
}

async fn create(
    cluster: &Cluster,
    name: &str,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    config: &[(String, String)],
) -> Result<()> {
    let configs = config.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(KafkaString::from(key.clone()))
            .with_value(Some(KafkaString::from(value.clone())))
    });
    let topic = CreatableTopic::default()
        .with_name(KafkaString::from(name.to_owned()))
        .with_num_partitions(partitions.unwrap_or(-1))
        .with_replication_factor(replication_factor.unwrap_or(-1))
        .with_configs(configs.collect());
    let request = CreateTopicsRequestData::default()
        .with_topics(vec![topic])
        .with_timeout_ms(ADMIN_TIMEOUT_MS);
    let response = cluster.any.call(&request).await?;
    let result = response
        .topics
        .first()
        .context("the broker said nothing about the topic")?;
    check(result.error_code, result.error_message.as_ref())
        .with_context(|| format!("topic {name}"))?;
    crate::say!(
        "created {name}: {} partitions, replication factor {}",
        result.num_partitions,
        result.replication_factor
    );
    Ok(())
}

async fn describe_topic(cluster: &Cluster, name: &str) -> Result<()> {
    let (_, mut topic) = cluster.topic(name).await?;
    let internal = if topic.is_internal { " (internal)" } else { "" };
    crate::say!("{name}{internal}: {} partitions", topic.partitions.len());
    topic
        .partitions
        .sort_by_key(|partition| partition.partition_index);
    let leaders = cluster.leaders(name).await;
    for partition in &topic.partitions {
        let index = partition.partition_index;
        let mut offsets = String::new();
        if let Ok(leaders) = &leaders {
            let leader = cluster.broker(leaders.of(index)?).await?;
            let first = leader.list_offset(name, index, -2, 0).await?;
            let end = leader.list_offset(name, index, -1, 0).await?;
            if first.error_code == 0 && end.error_code == 0 {
                offsets = format!(" offsets={}..{}", first.offset, end.offset);
            }
        }
        crate::say!(
            "  partition={index} leader={} epoch={} replicas={:?} isr={:?}{offsets}",
            partition.leader_id,
            partition.leader_epoch,
            partition.replica_nodes,
            partition.isr_nodes
        );
    }
    for entry in describe(cluster, Resource::Topic, name, None)
        .await?
        .iter()
        .filter(|entry| entry.is_set_here())
    {
        crate::say!("  {entry}");
    }
    Ok(())
}

async fn alter(cluster: &Cluster, name: &str, partitions: i32) -> Result<()> {
    let topic = CreatePartitionsTopic::default()
        .with_name(KafkaString::from(name.to_owned()))
        .with_count(partitions)
        .with_assignments(None);
    let request = CreatePartitionsRequestData::default()
        .with_topics(vec![topic])
        .with_timeout_ms(ADMIN_TIMEOUT_MS);
    let response = cluster.any.call(&request).await?;
    let result = response
        .results
        .first()
        .context("the broker said nothing about the topic")?;
    check(result.error_code, result.error_message.as_ref())
        .with_context(|| format!("topic {name}"))?;
    crate::say!("{name} has {partitions} partitions");
    Ok(())
}

async fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    let mut request = DeleteTopicsRequestData::default().with_timeout_ms(ADMIN_TIMEOUT_MS);
    let named = KafkaString::from(name.to_owned());
    // Before version 6 topics could only be named.
    request = if cluster.any.version(ApiKey::DeleteTopics)? >= 6 {
        request.with_topics(vec![DeleteTopicState::default().with_name(Some(named))])
    } else {
        request.with_topic_names(vec![named])
    };
    let response = cluster.any.call(&request).await?;
    let result = response
        .responses
        .first()
        .context("the broker said nothing about the topic")?;
    check(result.error_code, result.error_message.as_ref())
        .with_context(|| format!("topic {name}"))?;
    crate::say!("deleted {name}");
    Ok(())
}
