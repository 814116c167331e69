//! The checked configuration of one broker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::error::{ConfigError, Place, Warning};
use super::keys::{broker_key, broker_keys};
use super::listeners::{
    Endpoint, Listener, parse_endpoints, parse_protocol_map, resolve_advertised, resolve_listeners,
    split_host_port,
};
use super::properties::parse_properties;
use super::value::{Value, split_list};
use crate::connection_limits::parse_overrides;
use crate::group::GroupSettings;
use crate::metadata::ConfigMap;

/// A value of the file or the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As written, without white space around it.
    pub value: String,
    /// Where.
    pub place: Place,
}

/// `corelog.cores`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// All CPUs that are allowed to the process.
    All,
    /// These CPU numbers, ascending.
    List(Vec<usize>),
}

/// `corelog.storage.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageIo {
    /// Past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// `corelog.http.listener`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpListener {
    /// Host; empty is every interface.
    pub host: String,
    /// TCP port; 0 is any free one.
    pub port: u16,
}

/// The configuration of a broker: every field was checked. Fields whose key may change while
/// the broker runs are as of the dynamic settings the value was made with.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerConfig {
    settings: BTreeMap<&'static str, Setting>,
    dynamic: ConfigMap,
    /// `node.id`, or `broker.id`.
    pub node_id: i32,
    /// `process.roles` names broker.
    pub is_broker: bool,
    /// `process.roles` names controller.
    pub is_controller: bool,
    /// `controller.quorum.voters`, as written.
    pub quorum_voters: Vec<String>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Addresses for clients to bind: those of `listeners` that are not the controller's.
    pub listeners: Vec<Listener>,
    /// The controller's addresses; on a cluster of one they stay closed.
    pub controller_listeners: Vec<Listener>,
    /// What clients are told, one for each of `listeners`. Port 0: the port that was bound.
    pub advertised_listeners: Vec<Endpoint>,
    /// `corelog.http.listener`; `None` = off.
    pub http_listener: Option<HttpListener>,
    /// `corelog.cores`.
    pub cores: Cores,
    /// `corelog.shards`; `None` = one per core.
    pub shards: Option<u16>,
    /// `corelog.storage.io`.
    pub storage_io: StorageIo,
    /// `corelog.memory.bytes`; `None` = a quarter of the memory the process may have.
    pub memory_bytes: Option<u64>,
    /// `log.dirs`, or `log.dir`.
    pub log_dirs: Vec<String>,
    /// `metadata.log.dir`; `None` = the first of `log_dirs`.
    pub metadata_log_dir: Option<String>,
    /// `corelog.disk.reserve.bytes`; `None` = as the size of the disk suggests.
    pub disk_reserve_bytes: Option<u64>,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// `socket.request.max.bytes`.
    pub socket_request_max_bytes: usize,
    /// `socket.send.buffer.bytes`; `None` = the kernel's choice.
    pub socket_send_buffer_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`; `None` = the kernel's choice.
    pub socket_receive_buffer_bytes: Option<usize>,
    /// `socket.listen.backlog.size`.
    pub socket_listen_backlog_size: i32,
    /// `connections.max.idle.ms`; `None` = never.
    pub connections_max_idle_ms: Option<u64>,
    /// `max.connections`.
    pub max_connections: u32,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: u32,
    /// `max.connections.per.ip.overrides`.
    pub max_connections_per_ip_overrides: BTreeMap<IpAddr, u32>,
    /// `max.connection.creation.rate`; `None` = no limit.
    pub max_connection_creation_rate: Option<u32>,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`.
    pub max_fetch_sessions: usize,
    /// `max.request.partition.size.limit`.
    pub max_request_partition_size_limit: usize,
    /// `log.flush.offset.checkpoint.interval.ms`.
    pub log_flush_offset_checkpoint_interval_ms: u64,
    /// `corelog.scrub.bytes.per.second`; 0 = off.
    pub scrub_bytes_per_second: u64,
    /// `corelog.scrub.interval.ms`.
    pub scrub_interval_ms: u64,
    /// `log.retention.check.interval.ms`.
    pub log_retention_check_interval_ms: u64,
    /// `log.initial.task.delay.ms`.
    pub log_initial_task_delay_ms: u64,
    /// `log.flush.start.offset.checkpoint.interval.ms`.
    pub log_flush_start_offset_checkpoint_interval_ms: u64,
    /// `replica.high.watermark.checkpoint.interval.ms`.
    pub replica_high_watermark_checkpoint_interval_ms: u64,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: u64,
    /// `metadata.log.max.record.bytes.between.snapshots`.
    pub metadata_snapshot_bytes: u64,
    /// `group.*` of the classic protocol, `offset.metadata.max.bytes`, `offsets.retention.*`.
    pub groups: GroupSettings,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_num_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication_factor: i16,
    /// `offsets.topic.segment.bytes`.
    pub offsets_topic_segment_bytes: i32,
    /// `offsets.topic.compression.codec`: number of the codec in a batch's attributes.
    pub offsets_topic_compression_codec: i8,
}

/// Splits `key=value` of the command line.
///
/// # Errors
/// No `=`, or nothing before it.
pub fn parse_override(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(
            ConfigError::new("", "", format!("'{text}': key=value is expected"))
                .at(Some(&command_line())),
        ),
    }
}

fn command_line() -> Place {
    Place {
        file: "command line".to_owned(),
        line: 0,
    }
}

impl Default for BrokerConfig {
    /// What an empty file gives: 127.0.0.1:9092, `./corelog-data`, HTTP on 127.0.0.1:9644.
    fn default() -> Self {
        Self::parse("defaults", "", &[])
            .expect("the table's defaults are legal")
            .0
    }
}

impl BrokerConfig {
    /// Reads a properties file; `overrides` (key, value) go before it. `file_name` is for
    /// messages only; an empty `text` gives the embedded default.
    ///
    /// # Errors
    /// The first bad value, with file, line, key, value and bound.
    pub fn parse(
        file_name: &str,
        text: &str,
        overrides: &[(String, String)],
    ) -> Result<(BrokerConfig, Vec<Warning>), ConfigError> {
        let mut warnings = Vec::new();
        let mut settings: BTreeMap<&'static str, Setting> = BTreeMap::new();
        let mut unknown: BTreeSet<String> = BTreeSet::new();
        let from_file = parse_properties(file_name, text)?
            .into_iter()
            .map(|property| {
                let place = Place {
                    file: file_name.to_owned(),
                    line: property.line,
                };
                (property.key, property.value, place)
            });
        let from_command_line = overrides
            .iter()
            .map(|(key, value)| (key.clone(), value.clone(), command_line()));
        for (key, value, place) in from_file.chain(from_command_line) {
            let Some(row) = broker_key(&key) else {
                if unknown.insert(key.clone()) {
                    warnings.push(Warning::UnknownKey { key, place });
                }
                continue;
            };
            row.parse(&value).map_err(|error| error.at(Some(&place)))?;
            let setting = Setting {
                value: value.trim().to_owned(),
                place: place.clone(),
            };
            let again = settings.insert(row.name, setting);
            if again.is_some_and(|before| before.place.file == place.file) {
                warnings.push(Warning::DuplicateKey { key, place });
            } else if !row.used {
                warnings.push(Warning::UnusedKey {
                    key: row.name,
                    place,
                });
            }
        }
        let config = Self::build(settings, ConfigMap::new())?;
        Ok((config, warnings))
    }

    /// The configuration with the dynamic settings of all brokers and of this one in force.
    ///
    /// # Errors
    /// A dynamic value that is no longer legal; the settings came through validation, so this
    /// tells of a log written by another version.
    pub fn with_dynamic(
        &self,
        cluster_default: Option<&ConfigMap>,
        this_broker: Option<&ConfigMap>,
    ) -> Result<BrokerConfig, ConfigError> {
        let mut dynamic = cluster_default.cloned().unwrap_or_default();
        dynamic.extend(
            this_broker
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        Self::build(self.settings.clone(), dynamic)
    }

    /// The file's or command line's value of a key, if it has one.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.get(key)
    }

    /// The value in force: dynamic, else of the file, else the default.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.dynamic
            .get(key)
            .map(String::as_str)
            .or_else(|| self.settings.get(key).map(|setting| setting.value.as_str()))
            .or_else(|| broker_key(key)?.default)
    }

    pub(super) fn settings(&self) -> &BTreeMap<&'static str, Setting> {
        &self.settings
    }

    /// The configuration of checked settings, with nothing dynamic.
    pub(super) fn of_settings(
        settings: BTreeMap<&'static str, Setting>,
    ) -> Result<BrokerConfig, ConfigError> {
        Self::build(settings, ConfigMap::new())
    }

    fn typed(&self, key: &str) -> Result<Option<Value>, ConfigError> {
        let row = broker_key(key)
            .ok_or_else(|| ConfigError::new(key, "", "Unknown broker config name"))?;
        let place = self.settings.get(key).map(|setting| &setting.place);
        self.value(key)
            .map(|text| row.parse(text).map_err(|e| e.at(place)))
            .transpose()
    }

    fn integer<T: TryFrom<i64>>(&self, key: &str) -> Result<T, ConfigError> {
        self.optional_integer(key)?
            .ok_or_else(|| self.error(key, "out of range"))
    }

    /// `None` where the key is unset, or its value does not fit `T`: -1 of an unsigned field.
    fn optional_integer<T: TryFrom<i64>>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        match self.typed(key)? {
            Some(Value::Integer(value)) => Ok(T::try_from(value).ok()),
            _ => Ok(None),
        }
    }

    fn boolean(&self, key: &str) -> Result<bool, ConfigError> {
        Ok(matches!(self.typed(key)?, Some(Value::Boolean(true))))
    }

    fn list(&self, key: &str) -> Vec<String> {
        split_list(self.value(key).unwrap_or(""))
    }

    fn error(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        let value = self.value(key).unwrap_or("");
        ConfigError::new(key, value, reason).at(self.settings.get(key).map(|s| &s.place))
    }

    fn build(
        settings: BTreeMap<&'static str, Setting>,
        dynamic: ConfigMap,
    ) -> Result<BrokerConfig, ConfigError> {
        let mut config = Self::blank(settings, dynamic);
        for row in broker_keys() {
            config.typed(row.name)?;
        }
        config.read_identity()?;
        config.read_listeners()?;
        config.read_own_keys()?;
        config.read_limits()?;
        config.read_groups()?;
        Ok(config)
    }

    fn blank(settings: BTreeMap<&'static str, Setting>, dynamic: ConfigMap) -> BrokerConfig {
        BrokerConfig {
            settings,
            dynamic,
            node_id: 0,
            is_broker: false,
            is_controller: false,
            quorum_voters: Vec::new(),
            rack: None,
            listeners: Vec::new(),
            controller_listeners: Vec::new(),
            advertised_listeners: Vec::new(),
            http_listener: None,
            cores: Cores::All,
            shards: None,
            storage_io: StorageIo::Direct,
            memory_bytes: None,
            log_dirs: Vec::new(),
            metadata_log_dir: None,
            disk_reserve_bytes: None,
            num_partitions: 0,
            default_replication_factor: 0,
            auto_create_topics_enable: false,
            delete_topic_enable: false,
            socket_request_max_bytes: 0,
            socket_send_buffer_bytes: None,
            socket_receive_buffer_bytes: None,
            socket_listen_backlog_size: 0,
            connections_max_idle_ms: None,
            max_connections: 0,
            max_connections_per_ip: 0,
            max_connections_per_ip_overrides: BTreeMap::new(),
            max_connection_creation_rate: None,
            fetch_max_bytes: 0,
            max_fetch_sessions: 0,
            max_request_partition_size_limit: 0,
            log_flush_offset_checkpoint_interval_ms: 0,
            scrub_bytes_per_second: 0,
            scrub_interval_ms: 0,
            log_retention_check_interval_ms: 0,
            log_initial_task_delay_ms: 0,
            log_flush_start_offset_checkpoint_interval_ms: 0,
            replica_high_watermark_checkpoint_interval_ms: 0,
            producer_id_expiration_ms: 0,
            metadata_snapshot_bytes: 0,
            groups: GroupSettings::default(),
            offsets_topic_num_partitions: 0,
            offsets_topic_replication_factor: 0,
            offsets_topic_segment_bytes: 0,
            offsets_topic_compression_codec: 0,
        }
    }

    fn read_identity(&mut self) -> Result<(), ConfigError> {
        self.node_id = self.integer("node.id")?;
        if let Some(broker_id) = self.optional_integer::<i32>("broker.id")? {
            if self.settings.contains_key("node.id") && broker_id != self.node_id {
                let node_id = self.node_id;
                return Err(self.error(
                    "broker.id",
                    format!("node.id is {node_id}: they must be equal"),
                ));
            }
            self.node_id = broker_id;
        }
        let roles = self.list("process.roles");
        // A file of the time before roles has none: it means a broker that is its own controller.
        self.is_broker = roles.is_empty() || roles.iter().any(|role| role == "broker");
        self.is_controller = roles.is_empty() || roles.iter().any(|role| role == "controller");
        self.quorum_voters = self.list("controller.quorum.voters");
        for voter in &self.quorum_voters {
            let legal = voter.split_once('@').is_some_and(|(id, address)| {
                id.parse::<u32>().is_ok() && split_host_port(address).is_ok()
            });
            if !legal {
                return Err(self.error(
                    "controller.quorum.voters",
                    format!("'{voter}': id@host:port is expected"),
                ));
            }
        }
        self.rack = self
            .value("broker.rack")
            .map(str::to_owned)
            .filter(|rack| !rack.is_empty());
        let dirs = self
            .value("log.dirs")
            .or_else(|| self.value("log.dir"))
            .unwrap_or("");
        self.log_dirs = split_list(dirs);
        if self.log_dirs.is_empty() {
            return Err(self.error("log.dirs", "names no directory"));
        }
        let twice = |(at, dir): &(usize, &String)| self.log_dirs[..*at].contains(dir);
        if let Some((_, dir)) = self.log_dirs.iter().enumerate().find(twice) {
            return Err(self.error("log.dirs", format!("names {dir} twice")));
        }
        self.metadata_log_dir = self
            .value("metadata.log.dir")
            .map(str::to_owned)
            .filter(|dir| !dir.is_empty());
        Ok(())
    }

    fn read_listeners(&mut self) -> Result<(), ConfigError> {
        let bound = parse_endpoints(self.value("listeners").unwrap_or(""))
            .map_err(|reason| self.error("listeners", reason))?;
        let protocols =
            parse_protocol_map(self.value("listener.security.protocol.map").unwrap_or(""))
                .map_err(|reason| self.error("listener.security.protocol.map", reason))?;
        let controller_names = self.list("controller.listener.names");
        let listeners = resolve_listeners(bound, &protocols, &controller_names)
            .map_err(|reason| self.error("listeners", reason))?;
        let advertised = self
            .value("advertised.listeners")
            .filter(|text| !text.is_empty());
        let at = if advertised.is_some() {
            "advertised.listeners"
        } else {
            "listeners"
        };
        self.advertised_listeners =
            resolve_advertised(&listeners, advertised).map_err(|reason| self.error(at, reason))?;
        (self.controller_listeners, self.listeners) = listeners
            .into_iter()
            .partition(|listener| listener.controller);
        if self.is_broker && self.listeners.is_empty() {
            return Err(self.error("listeners", "there is no listener for clients"));
        }
        if let Some(name) = self.value("inter.broker.listener.name")
            && self.is_broker
            && !name.is_empty()
            && !self
                .listeners
                .iter()
                .any(|listener| listener.name.eq_ignore_ascii_case(name))
        {
            return Err(self.error(
                "inter.broker.listener.name",
                "listeners has no listener for clients of that name",
            ));
        }
        Ok(())
    }

    fn read_own_keys(&mut self) -> Result<(), ConfigError> {
        let http = self.value("corelog.http.listener").unwrap_or("");
        self.http_listener = if http.is_empty() {
            None
        } else {
            let (host, port) =
                split_host_port(http).map_err(|e| self.error("corelog.http.listener", e))?;
            Some(HttpListener { host, port })
        };
        self.cores = parse_cores(self.value("corelog.cores").unwrap_or("all"))
            .map_err(|reason| self.error("corelog.cores", reason))?;
        self.shards = self.optional_integer("corelog.shards")?;
        self.memory_bytes = self.optional_integer("corelog.memory.bytes")?;
        self.disk_reserve_bytes = self.optional_integer("corelog.disk.reserve.bytes")?;
        self.storage_io = match self.value("corelog.storage.io") {
            Some("buffered") => StorageIo::Buffered,
            _ => StorageIo::Direct,
        };
        Ok(())
    }

    fn read_limits(&mut self) -> Result<(), ConfigError> {
        self.num_partitions = self.integer("num.partitions")?;
        self.default_replication_factor = self.integer("default.replication.factor")?;
        self.auto_create_topics_enable = self.boolean("auto.create.topics.enable")?;
        self.delete_topic_enable = self.boolean("delete.topic.enable")?;
        self.socket_request_max_bytes = self.integer("socket.request.max.bytes")?;
        self.socket_send_buffer_bytes = self.optional_integer("socket.send.buffer.bytes")?;
        self.socket_receive_buffer_bytes = self.optional_integer("socket.receive.buffer.bytes")?;
        self.socket_listen_backlog_size = self.integer("socket.listen.backlog.size")?;
        self.connections_max_idle_ms = self.optional_integer("connections.max.idle.ms")?;
        self.max_connections = self.integer("max.connections")?;
        self.max_connections_per_ip = self.integer("max.connections.per.ip")?;
        let overrides = "max.connections.per.ip.overrides";
        self.max_connections_per_ip_overrides =
            parse_overrides(self.value(overrides).unwrap_or(""))
                .map_err(|reason| self.error(overrides, reason))?;
        let rate: u32 = self.integer("max.connection.creation.rate")?;
        self.max_connection_creation_rate = Some(rate).filter(|rate| *rate < i32::MAX as u32);
        self.fetch_max_bytes = self.integer("fetch.max.bytes")?;
        self.max_fetch_sessions = self.integer("max.incremental.fetch.session.cache.slots")?;
        self.max_request_partition_size_limit = self.integer("max.request.partition.size.limit")?;
        self.log_flush_offset_checkpoint_interval_ms =
            self.integer("log.flush.offset.checkpoint.interval.ms")?;
        self.scrub_bytes_per_second = self.integer("corelog.scrub.bytes.per.second")?;
        self.scrub_interval_ms = self.integer("corelog.scrub.interval.ms")?;
        self.log_retention_check_interval_ms = self.integer("log.retention.check.interval.ms")?;
        self.log_initial_task_delay_ms = self.integer("log.initial.task.delay.ms")?;
        self.log_flush_start_offset_checkpoint_interval_ms =
            self.integer("log.flush.start.offset.checkpoint.interval.ms")?;
        self.replica_high_watermark_checkpoint_interval_ms =
            self.integer("replica.high.watermark.checkpoint.interval.ms")?;
        self.producer_id_expiration_ms = self.integer("producer.id.expiration.ms")?;
        self.metadata_snapshot_bytes =
            self.integer("metadata.log.max.record.bytes.between.snapshots")?;
        Ok(())
    }

    fn read_groups(&mut self) -> Result<(), ConfigError> {
        let retention_minutes: i64 = self.integer("offsets.retention.minutes")?;
        self.groups = GroupSettings {
            initial_rebalance_delay_ms: self.integer("group.initial.rebalance.delay.ms")?,
            min_session_timeout_ms: self.integer("group.min.session.timeout.ms")?,
            max_session_timeout_ms: self.integer("group.max.session.timeout.ms")?,
            max_size: self.integer("group.max.size")?,
            offset_metadata_max_bytes: self.integer("offset.metadata.max.bytes")?,
            offsets_retention_ms: retention_minutes * 60_000,
            offsets_retention_check_interval_ms: self
                .integer("offsets.retention.check.interval.ms")?,
        };
        self.offsets_topic_num_partitions = self.integer("offsets.topic.num.partitions")?;
        self.offsets_topic_replication_factor = self.integer("offsets.topic.replication.factor")?;
        self.offsets_topic_segment_bytes = self.integer("offsets.topic.segment.bytes")?;
        self.offsets_topic_compression_codec = self.integer("offsets.topic.compression.codec")?;
        Ok(())
    }
}

/// Reads `all` or a CPU list as `0-3,6`.
fn parse_cores(text: &str) -> Result<Cores, String> {
    /// Above what Linux can be built for; bounds a hostile `0-4000000000`.
    const MAX_CPU: usize = 8191;
    if text.eq_ignore_ascii_case("all") {
        return Ok(Cores::All);
    }
    let number = |text: &str| {
        let cpu = text
            .trim()
            .parse::<usize>()
            .ok()
            .filter(|cpu| *cpu <= MAX_CPU);
        cpu.ok_or_else(|| {
            format!("'{text}' is no CPU number: all, or a list as 0-3,6, is expected")
        })
    };
    let mut cpus = BTreeSet::new();
    for item in split_list(text) {
        match item.split_once('-') {
            None => {
                cpus.insert(number(&item)?);
            }
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                if from > to {
                    return Err(format!("'{item}' runs backwards"));
                }
                cpus.extend(from..=to);
            }
        }
    }
    if cpus.is_empty() {
        return Err("names no CPU: all, or a list as 0-3,6, is expected".to_owned());
    }
    Ok(Cores::List(cpus.into_iter().collect()))
}
