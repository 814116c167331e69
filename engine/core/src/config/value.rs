//! Values: from text to type, within bounds; and the list operations of IncrementalAlterConfigs.

use super::error::ConfigError;
use super::keys::{Bounds, ConfigKey, Dynamic, ValueType, broker_key, topic_key};
use crate::connection_limits::parse_overrides;

/// Longest value: what every version of DescribeConfigs can carry.
const MAX_VALUE_BYTES: usize = 32_767;

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Boolean.
    Boolean(bool),
    /// Int, short or long.
    Integer(i64),
    /// Double.
    Double(f64),
    /// String or password.
    Text(String),
    /// List; blank elements are left out.
    List(Vec<String>),
}

impl Value {
    /// The text that DescribeConfigs shows.
    pub fn canonical(&self) -> String {
        match self {
            Value::Boolean(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Double(value) => java_double(*value),
            Value::Text(value) => value.clone(),
            Value::List(values) => values.join(","),
        }
    }
}

/// As Java's `Double.toString` writes it, for the values that occur: clients show it as it is.
fn java_double(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e7).contains(&value.abs()) {
        let text = format!("{value:E}");
        return match text.split_once('E') {
            Some((mantissa, exponent)) if !mantissa.contains('.') => {
                format!("{mantissa}.0E{exponent}")
            }
            _ => text,
        };
    }
    format!("{value:?}")
}

impl ConfigKey {
    /// Reads a value and checks it.
    ///
    /// # Errors
    /// Names key, value (hidden if secret) and the bound it breaks.
    pub fn parse(&self, text: &str) -> Result<Value, ConfigError> {
        let shown = if self.sensitive() { "[hidden]" } else { text };
        let fail = |reason: String| ConfigError::new(self.name, shown, reason);
        let trimmed = text.trim();
        if trimmed.len() > MAX_VALUE_BYTES {
            let length = trimmed.len();
            let shown = "[too long]";
            return Err(ConfigError::new(
                self.name,
                shown,
                format!("Value has {length} bytes, it must have no more than {MAX_VALUE_BYTES}"),
            ));
        }
        let value = match self.value_type {
            ValueType::Boolean if trimmed.eq_ignore_ascii_case("true") => Value::Boolean(true),
            ValueType::Boolean if trimmed.eq_ignore_ascii_case("false") => Value::Boolean(false),
            ValueType::Boolean => {
                return Err(fail("Expected value to be either true or false".to_owned()));
            }
            ValueType::Short => Value::Integer(
                trimmed
                    .parse::<i16>()
                    .map_err(|_| fail(not_a("SHORT")))?
                    .into(),
            ),
            ValueType::Int => Value::Integer(
                trimmed
                    .parse::<i32>()
                    .map_err(|_| fail(not_a("INT")))?
                    .into(),
            ),
            ValueType::Long => {
                Value::Integer(trimmed.parse::<i64>().map_err(|_| fail(not_a("LONG")))?)
            }
            ValueType::Double => match trimmed.parse::<f64>() {
                Ok(value) if value.is_finite() => Value::Double(value),
                _ => return Err(fail(not_a("DOUBLE"))),
            },
            ValueType::String | ValueType::Password => Value::Text(trimmed.to_owned()),
            ValueType::List => Value::List(split_list(trimmed)),
        };
        check(self.name, &self.bounds, &value).map_err(fail)?;
        Ok(value)
    }
}

fn not_a(type_name: &str) -> String {
    format!("Not a number of type {type_name}")
}

/// The elements of a list as Kafka splits it: by commas, trimmed.
pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn check(name: &str, bounds: &Bounds, value: &Value) -> Result<(), String> {
    match (bounds, value) {
        (Bounds::Integer { min, .. }, Value::Integer(value)) if value < min => {
            Err(format!("Value must be at least {min}"))
        }
        (Bounds::Integer { max, .. }, Value::Integer(value)) if value > max => {
            Err(format!("Value must be no more than {max}"))
        }
        (Bounds::MinusOneOr { min, max }, Value::Integer(value))
            if *value != -1 && !(*min..=*max).contains(value) =>
        {
            Err(format!(
                "Value must be between {min} and {max} or equal to -1"
            ))
        }
        (Bounds::Float { min, .. }, Value::Double(value)) if value < min => {
            Err(format!("Value must be at least {min}"))
        }
        (Bounds::Float { max, .. }, Value::Double(value)) if value > max => {
            Err(format!("Value must be no more than {max}"))
        }
        (Bounds::OneOf(allowed), Value::Text(text)) if !allowed.contains(&text.as_str()) => {
            Err(format!("String must be one of: {}", allowed.join(", ")))
        }
        (Bounds::EachOf(allowed), Value::List(items)) => {
            for (at, item) in items.iter().enumerate() {
                if !allowed.contains(&item.as_str()) {
                    return Err(format!(
                        "{item}: String must be one of: {}",
                        allowed.join(", ")
                    ));
                }
                if items[..at].contains(item) {
                    return Err(format!("{item} is in the list twice"));
                }
            }
            Ok(())
        }
        (Bounds::NotEmpty, Value::Text(text)) if text.is_empty() => {
            Err("Value must not be empty".to_owned())
        }
        (Bounds::ThrottledReplicas, Value::List(items)) => check_throttled(name, items),
        (Bounds::AddressLimits, Value::Text(text)) => parse_overrides(text).map(drop),
        _ => Ok(()),
    }
}

fn check_throttled(name: &str, items: &[String]) -> Result<(), String> {
    let pair = |item: &String| {
        item.split_once(':').is_some_and(|(partition, broker)| {
            partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
        })
    };
    if items.iter().map(String::as_str).eq(["*"]) || items.iter().all(pair) {
        return Ok(());
    }
    Err(format!(
        "{name} must be the literal '*' or a list of replicas in the following format: \
         [partitionId]:[brokerId],[partitionId]:[brokerId],..."
    ))
}

/// Checks an override of a topic.
///
/// # Errors
/// No such key, or a value that names key, value and bound.
pub fn validate_topic_override(key: &str, value: &str) -> Result<(), ConfigError> {
    match topic_key(key) {
        Some(row) => row.parse(value).map(drop),
        None => Err(ConfigError::new(
            key,
            value,
            format!("Unknown topic config name: {key}"),
        )),
    }
}

/// Checks a dynamic setting of a broker, or of all brokers (`cluster_default`).
///
/// # Errors
/// No such key, a key that may not change while running or not for all brokers, or a bad value.
pub fn validate_broker_dynamic(
    key: &str,
    value: Option<&str>,
    cluster_default: bool,
) -> Result<(), AlterError> {
    let shown = value.unwrap_or("null");
    let Some(row) = broker_key(key) else {
        return Err(AlterError::Invalid(ConfigError::new(
            key,
            shown,
            "Unknown broker config name",
        )));
    };
    match row.dynamic {
        Dynamic::ReadOnly => Err(AlterError::NotDynamic(format!(
            "Cannot update these configs dynamically: {key}"
        ))),
        Dynamic::PerBroker if cluster_default => Err(AlterError::NotDynamic(format!(
            "Cannot update these configs at default cluster level: {key}"
        ))),
        _ if row.sensitive() && value.is_some() => Err(AlterError::NotDynamic(format!(
            "{key} is secret and may only be set in the properties file"
        ))),
        _ => match value {
            Some(value) => row.parse(value).map(drop).map_err(AlterError::Invalid),
            None => Ok(()),
        },
    }
}

/// Why a dynamic change is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterError {
    /// The key may not change this way (INVALID_REQUEST).
    NotDynamic(String),
    /// The key is unknown or the value is bad (INVALID_CONFIG).
    Invalid(ConfigError),
}

/// `AlterConfigOp.OpType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlterOp {
    /// Replace the value.
    Set,
    /// Back to the default.
    Delete,
    /// Add elements to a list.
    Append,
    /// Take elements out of a list.
    Subtract,
}

impl AlterOp {
    /// The operation of Kafka's number.
    pub const fn from_id(id: i8) -> Option<Self> {
        match id {
            0 => Some(AlterOp::Set),
            1 => Some(AlterOp::Delete),
            2 => Some(AlterOp::Append),
            3 => Some(AlterOp::Subtract),
            _ => None,
        }
    }
}

/// The list after adding or taking out elements; `None`: the key is no list.
///
/// `current` is the override that is in force; without one the key's default is the start, as in
/// Kafka. For `Set` and `Delete` the operand is the answer.
pub fn alter_list(
    key: &ConfigKey,
    current: Option<&str>,
    op: AlterOp,
    operand: &str,
) -> Option<String> {
    if matches!(op, AlterOp::Set | AlterOp::Delete) {
        return Some(operand.to_owned());
    }
    if key.value_type != ValueType::List {
        return None;
    }
    let mut items = split_list(current.or(key.default).unwrap_or(""));
    for item in split_list(operand) {
        match op {
            AlterOp::Append if !items.contains(&item) => items.push(item),
            AlterOp::Subtract => items.retain(|have| *have != item),
            _ => {}
        }
    }
    Some(items.join(","))
}
