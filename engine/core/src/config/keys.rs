//! The table of configuration keys: what a row says, and how to find one.

use super::broker_keys::BROKER_KEYS;
use super::more_keys::{CLUSTER_KEYS, SECURITY_KEYS};
use super::topic_keys::TOPIC_KEYS;

/// Type of a value; numbers in [`ValueType::describe_id`] are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// 32 bits, signed.
    Int,
    /// 16 bits, signed.
    Short,
    /// 64 bits, signed.
    Long,
    /// Floating point.
    Double,
    /// Comma-separated texts.
    List,
    /// A secret text: never shown.
    Password,
}

impl ValueType {
    /// Kafka's `DescribeConfigsResponse.ConfigType`.
    pub const fn describe_id(self) -> i8 {
        match self {
            ValueType::Boolean => 1,
            ValueType::String => 2,
            ValueType::Int => 3,
            ValueType::Short => 4,
            ValueType::Long => 5,
            ValueType::Double => 6,
            ValueType::List => 7,
            ValueType::Password => 9,
        }
    }

    /// Name in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            ValueType::Boolean => "boolean",
            ValueType::String => "string",
            ValueType::Int => "int",
            ValueType::Short => "short",
            ValueType::Long => "long",
            ValueType::Double => "double",
            ValueType::List => "list",
            ValueType::Password => "password",
        }
    }
}

/// Unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A count, a name, or nothing.
    None,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
    /// Records.
    Records,
}

impl Unit {
    /// Short form for the documentation; empty for none.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Bytes => "bytes",
            Unit::BytesPerSecond => "bytes/s",
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
            Unit::Minutes => "min",
            Unit::Hours => "h",
            Unit::Records => "records",
        }
    }
}

/// What values are legal beyond their type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bounds {
    /// All of the type.
    Any,
    /// Whole numbers from `min` to `max`, both included.
    Integer {
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// Fractions from `min` to `max`, both included.
    Float {
        /// Least.
        min: f64,
        /// Greatest.
        max: f64,
    },
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Every element of the list is one of these.
    EachOf(&'static [&'static str]),
    /// Anything but nothing.
    NotEmpty,
    /// `*`, or elements `partition:broker`.
    ThrottledReplicas,
    /// Elements `address:limit`.
    AddressLimits,
    /// -1 or a range: compression levels that keep a default at -1.
    MinusOneOr {
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
}

/// A broker key that gives a topic key its value where the topic has no override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synonym {
    /// Broker key.
    pub name: &'static str,
    /// Units of the topic key in one unit of the broker key.
    pub factor: i64,
}

/// When a broker key may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dynamic {
    /// At a restart only.
    ReadOnly,
    /// While running, for one broker only.
    PerBroker,
    /// While running, for one broker or for all.
    ClusterWide,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigKey {
    /// Kafka's name of it, or ours, beginning with `corelog.`.
    pub name: &'static str,
    /// Type.
    pub value_type: ValueType,
    /// Unit.
    pub unit: Unit,
    /// Default as it would be written; `None` = not set.
    pub default: Option<&'static str>,
    /// Legal values.
    pub bounds: Bounds,
    /// For topic keys: the broker keys behind it, the first that is set counts.
    pub synonyms: &'static [Synonym],
    /// When it may change. Topic keys always may.
    pub dynamic: Dynamic,
    /// Whether it changes anything; a key that does not is kept and shown.
    pub used: bool,
    /// One sentence.
    pub doc: &'static str,
}

impl ConfigKey {
    /// Whether the value is secret.
    pub const fn sensitive(&self) -> bool {
        matches!(self.value_type, ValueType::Password)
    }

    const fn new(
        name: &'static str,
        value_type: ValueType,
        default: Option<&'static str>,
    ) -> ConfigKey {
        ConfigKey {
            name,
            value_type,
            unit: Unit::None,
            default,
            bounds: Bounds::Any,
            synonyms: &[],
            dynamic: Dynamic::ReadOnly,
            used: false,
            doc: "",
        }
    }

    pub(super) const fn unset(mut self) -> Self {
        self.default = None;
        self
    }

    pub(super) const fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    pub(super) const fn bytes(self) -> Self {
        self.unit(Unit::Bytes)
    }

    pub(super) const fn ms(self) -> Self {
        self.unit(Unit::Milliseconds)
    }

    pub(super) const fn min(self, min: i64) -> Self {
        self.range(min, i64::MAX)
    }

    pub(super) const fn range(self, min: i64, max: i64) -> Self {
        self.bounds(Bounds::Integer { min, max })
    }

    pub(super) const fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    pub(super) const fn one_of(self, values: &'static [&'static str]) -> Self {
        self.bounds(Bounds::OneOf(values))
    }

    pub(super) const fn from(mut self, synonyms: &'static [Synonym]) -> Self {
        self.synonyms = synonyms;
        self
    }

    pub(super) const fn per_broker(mut self) -> Self {
        self.dynamic = Dynamic::PerBroker;
        self
    }

    pub(super) const fn cluster_wide(mut self) -> Self {
        self.dynamic = Dynamic::ClusterWide;
        self
    }

    pub(super) const fn used(mut self) -> Self {
        self.used = true;
        self
    }

    pub(super) const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
}

pub(super) const fn boolean(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::Boolean, Some(default))
}

pub(super) const fn string(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::String, Some(default))
}

pub(super) const fn int(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::Int, Some(default))
}

pub(super) const fn short(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::Short, Some(default))
}

pub(super) const fn long(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::Long, Some(default))
}

pub(super) const fn double(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::Double, Some(default))
}

pub(super) const fn list(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::List, Some(default))
}

pub(super) const fn password(name: &'static str) -> ConfigKey {
    ConfigKey::new(name, ValueType::Password, None)
}

/// `i64::MAX`, as Kafka writes "never" or "no limit".
pub(super) const LONG_MAX: &str = "9223372036854775807";

/// `i32::MAX`.
pub(super) const INT_MAX: &str = "2147483647";

/// All broker keys, by subject.
pub fn broker_keys() -> impl Iterator<Item = &'static ConfigKey> {
    BROKER_KEYS.iter().chain(CLUSTER_KEYS).chain(SECURITY_KEYS)
}

/// All topic keys.
pub fn topic_keys() -> impl Iterator<Item = &'static ConfigKey> {
    TOPIC_KEYS.iter()
}

/// A broker key by name.
pub fn broker_key(name: &str) -> Option<&'static ConfigKey> {
    broker_keys().find(|key| key.name == name)
}

/// A topic key by name.
pub fn topic_key(name: &str) -> Option<&'static ConfigKey> {
    TOPIC_KEYS.iter().find(|key| key.name == name)
}
