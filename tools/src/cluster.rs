//! Connections to the brokers of one cluster, and what their errors mean to a person.

use anyhow::{Context, Result, anyhow, bail};
use corelog_net::client::{Client, ClientConfig};
use corelog_net::cold::messages::KafkaString;
use corelog_net::cold::messages::metadata_response::{MetadataResponseData, MetadataResponseTopic};
use corelog_net::error_code::ErrorCode;
use corelog_runtime::Rt;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};

/// How long a broker may take for an administrative request, milliseconds.
pub const ADMIN_TIMEOUT_MS: i32 = 20_000;

/// The cluster behind a bootstrap address.
pub struct Cluster {
    /// The shard everything runs on.
    pub rt: Rt,
    /// The connection to the bootstrap broker: any broker answers administrative requests.
    pub any: Client,
    leaders: RefCell<BTreeMap<SocketAddr, Client>>,
}

/// Where the partitions of a topic are led.
pub struct TopicLeaders {
    /// The topic.
    pub topic: String,
    /// Per partition, in their order.
    pub leaders: Vec<SocketAddr>,
}

impl Cluster {
    /// Connects to the bootstrap broker.
    pub async fn connect(rt: &Rt, bootstrap: &str) -> Result<Cluster> {
        let address = resolve(bootstrap)?;
        let any = Client::connect(rt, address, config())
            .await
            .with_context(|| format!("cannot reach a broker at {bootstrap}"))?;
        Ok(Cluster {
            rt: rt.clone(),
            any,
            leaders: RefCell::default(),
        })
    }

    /// Brokers and one topic; a topic that does not exist is an error.
    pub async fn topic(&self, name: &str) -> Result<(MetadataResponseData, MetadataResponseTopic)> {
        let mut metadata = self.any.metadata(Some(&[name])).await?;
        let topic = metadata
            .topics
            .pop()
            .context("the broker said nothing about the topic")?;
        check(topic.error_code, None).with_context(|| format!("topic {name}"))?;
        Ok((metadata, topic))
    }

    /// The leader of every partition of a topic.
    pub async fn leaders(&self, name: &str) -> Result<TopicLeaders> {
        let (metadata, mut topic) = self.topic(name).await?;
        topic
            .partitions
            .sort_by_key(|partition| partition.partition_index);
        let mut leaders = Vec::new();
        for (index, partition) in topic.partitions.iter().enumerate() {
            if usize::try_from(partition.partition_index) != Ok(index) {
                bail!("topic {name}: the broker left out partition {index}");
            }
            check(partition.error_code, None).with_context(|| format!("{name}-{index}"))?;
            let broker = metadata
                .brokers
                .iter()
                .find(|broker| broker.node_id == partition.leader_id);
            let broker = broker.with_context(|| format!("{name}-{index} has no leader"))?;
            leaders.push(resolve(&format!("{}:{}", broker.host, broker.port))?);
        }
        Ok(TopicLeaders {
            topic: name.to_owned(),
            leaders,
        })
    }

    /// The connection to a broker by its node id.
    pub async fn broker_by_id(&self, id: i32) -> Result<Client> {
        let metadata = self.any.metadata(Some(&[])).await?;
        let broker = metadata.brokers.iter().find(|broker| broker.node_id == id);
        let broker = broker.with_context(|| format!("there is no broker {id}"))?;
        self.broker_at(broker.host.as_str(), broker.port).await
    }

    /// The connection to a broker by what the cluster calls its address.
    pub async fn broker_at(&self, host: &str, port: i32) -> Result<Client> {
        self.broker(resolve(&format!("{host}:{port}"))?).await
    }

    /// The connection to a broker, made when first asked for.
    pub async fn broker(&self, address: SocketAddr) -> Result<Client> {
        let known = self.leaders.borrow().get(&address).cloned();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = Client::connect(&self.rt, address, config())
            .await
            .with_context(|| format!("cannot reach the broker at {address}"))?;
        self.leaders.borrow_mut().insert(address, client.clone());
        Ok(client)
    }
}

impl TopicLeaders {
    /// The leader of one partition.
    pub fn of(&self, partition: i32) -> Result<SocketAddr> {
        let found = usize::try_from(partition)
            .ok()
            .and_then(|index| self.leaders.get(index));
        let count = self.leaders.len();
        found.copied().ok_or_else(|| {
            anyhow!(
                "{} has {count} partitions, there is no partition {partition}",
                self.topic
            )
        })
    }
}

fn config() -> ClientConfig {
    ClientConfig {
        client_id: Some("corelog-cli".to_owned()),
        ..ClientConfig::default()
    }
}

fn resolve(host_port: &str) -> Result<SocketAddr> {
    let mut found = host_port
        .to_socket_addrs()
        .with_context(|| format!("`{host_port}` is no HOST:PORT"))?;
    found
        .next()
        .with_context(|| format!("`{host_port}` has no address"))
}

/// Kafka's error code as an error that says its name, what it means and what the broker added.
pub fn check(code: i16, message: Option<&KafkaString>) -> Result<()> {
    let error = ErrorCode::from_code(code);
    if error.is_none() {
        return Ok(());
    }
    let message = message.map_or(error.message(), KafkaString::as_str);
    Err(anyhow!("{}: {message}", error.name()))
}

/// `key=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no KEY=VALUE")),
    }
}
