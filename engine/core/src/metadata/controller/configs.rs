//! IncrementalAlterConfigs, and the rules for a topic's overrides as a whole.

use std::collections::BTreeSet;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use kacrab_protocol::generated::incremental_alter_configs_response::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsResponseData,
};

use super::{ControllerContext, Refusal};
use crate::config::{
    AlterError, AlterOp, ConfigError, ConfigKey, Layers, TopicConfig, alter_list, broker_key,
    topic_key, validate_broker_dynamic, validate_topic_override,
};
use crate::metadata::image::{ConfigMap, Image};
use crate::metadata::names::validate_topic_name;
use crate::metadata::record::{Record, ResourceType};

/// Decides IncrementalAlterConfigs for topics and brokers. Each resource stands or falls by
/// itself; with `validate_only` there are no records.
pub fn incremental_alter_configs(
    image: &Image,
    context: &ControllerContext<'_>,
    request: &IncrementalAlterConfigsRequestData,
) -> (Vec<Record>, IncrementalAlterConfigsResponseData) {
    let mut records = Vec::new();
    let mut seen: BTreeSet<(i8, &str)> = BTreeSet::new();
    let mut twice: BTreeSet<(i8, &str)> = BTreeSet::new();
    for resource in &request.resources {
        let id = (resource.resource_type, resource.resource_name.as_str());
        if !seen.insert(id) {
            twice.insert(id);
        }
    }
    let mut responses = Vec::with_capacity(request.resources.len());
    let mut answered: BTreeSet<(i8, &str)> = BTreeSet::new();
    for resource in &request.resources {
        let id = (resource.resource_type, resource.resource_name.as_str());
        if !answered.insert(id) {
            continue;
        }
        let outcome = if twice.contains(&id) {
            Err((
                ErrorCode::InvalidRequest,
                "Each resource must appear at most once.".to_owned(),
            ))
        } else {
            alter_resource(image, context, resource).map(|mut changes| records.append(&mut changes))
        };
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match outcome {
            Ok(()) => response,
            Err((code, message)) => response
                .with_error_code(code.code())
                .with_error_message(Some(crate::client_message(&message))),
        });
    }
    if request.validate_only {
        records.clear();
    }
    (
        records,
        IncrementalAlterConfigsResponseData::default().with_responses(responses),
    )
}

fn alter_resource(
    image: &Image,
    context: &ControllerContext<'_>,
    resource: &AlterConfigsResource,
) -> Result<Vec<Record>, Refusal> {
    let name = resource.resource_name.as_str();
    let Some(resource_type) = ResourceType::from_id(resource.resource_type) else {
        return Err((
            ErrorCode::InvalidRequest,
            format!("Unexpected resource type {}.", resource.resource_type),
        ));
    };
    let before = overrides_of(image, resource_type, name)?;
    let mut after = before.cloned().unwrap_or_default();
    let mut keys = BTreeSet::new();
    for config in &resource.configs {
        if !keys.insert(config.name.as_str()) {
            return Err((
                ErrorCode::InvalidRequest,
                format!(
                    "Error due to duplicate config keys: {}",
                    config.name.as_str()
                ),
            ));
        }
        alter_key(&mut after, resource_type, name.is_empty(), config)?;
    }
    if resource_type == ResourceType::Topic {
        check_overrides(image, context, &after)
            .map_err(|error| (ErrorCode::InvalidConfig, error.to_string()))?;
    }
    let changed = resource
        .configs
        .iter()
        .map(|config| config.name.as_str())
        .filter(|key| before.and_then(|map| map.get(*key)) != after.get(*key));
    let record = |key: &str| Record::Config {
        resource_type,
        resource_name: name.to_owned(),
        key: key.to_owned(),
        value: after.get(key).cloned(),
    };
    Ok(changed.map(record).collect())
}

/// The overrides a resource has; it must exist.
pub(super) fn overrides_of<'a>(
    image: &'a Image,
    resource_type: ResourceType,
    name: &str,
) -> Result<Option<&'a ConfigMap>, Refusal> {
    let found = match resource_type {
        ResourceType::Topic => {
            validate_topic_name(name).map_err(|e| (ErrorCode::InvalidTopicException, e))?;
            if image.topic(name).is_none() {
                let message = format!("The topic '{name}' does not exist.");
                return Err((ErrorCode::UnknownTopicOrPartition, message));
            }
            image.topic_config(name)
        }
        ResourceType::Broker => {
            check_broker_name(image, name)?;
            image.broker_config(name)
        }
    };
    Ok(found.map(|map| &**map))
}

fn check_broker_name(image: &Image, name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Ok(());
    }
    match name.parse::<i32>() {
        Ok(id) if image.broker(id).is_some() && id.to_string() == name => Ok(()),
        Ok(_) => Err((
            ErrorCode::InvalidRequest,
            format!("No broker {name} is registered."),
        )),
        Err(_) => Err((
            ErrorCode::InvalidRequest,
            format!("Unable to parse broker name '{name}' as a base 10 number."),
        )),
    }
}

fn alter_key(
    overrides: &mut ConfigMap,
    resource_type: ResourceType,
    cluster_default: bool,
    config: &AlterableConfig,
) -> Result<(), Refusal> {
    let key = config.name.as_str();
    let Some(op) = AlterOp::from_id(config.config_operation) else {
        return Err((
            ErrorCode::InvalidRequest,
            format!(
                "Unknown operation type {} for {key}.",
                config.config_operation
            ),
        ));
    };
    if op == AlterOp::Delete {
        if resource_type == ResourceType::Broker && !overrides.contains_key(key) {
            check_value(resource_type, key, None, cluster_default)?;
        }
        overrides.remove(key);
        return Ok(());
    }
    let Some(operand) = &config.value else {
        return Err((
            ErrorCode::InvalidRequest,
            format!("Null value not supported for : {key}"),
        ));
    };
    let row: Option<&'static ConfigKey> = match resource_type {
        ResourceType::Topic => topic_key(key),
        ResourceType::Broker => broker_key(key),
    };
    let current = overrides.get(key).map(String::as_str);
    let value = match row {
        None => operand.as_str().to_owned(),
        Some(row) => alter_list(row, current, op, operand.as_str()).ok_or_else(|| {
            let verb = if op == AlterOp::Append {
                "APPEND"
            } else {
                "SUBTRACT"
            };
            let message = format!("Can't {verb} to key {key} because its type is not LIST.");
            (ErrorCode::InvalidConfig, message)
        })?,
    };
    check_value(resource_type, key, Some(&value), cluster_default)?;
    overrides.insert(key.to_owned(), value);
    Ok(())
}

/// Checks one override; `None` = it is taken away.
pub(super) fn check_value(
    resource_type: ResourceType,
    key: &str,
    value: Option<&str>,
    cluster_default: bool,
) -> Result<(), Refusal> {
    let invalid = |error: ConfigError| (ErrorCode::InvalidConfig, error.to_string());
    match (resource_type, value) {
        (ResourceType::Topic, Some(value)) => validate_topic_override(key, value).map_err(invalid),
        (ResourceType::Topic, None) => Ok(()),
        (ResourceType::Broker, value) => validate_broker_dynamic(key, value, cluster_default)
            .map_err(|error| match error {
                AlterError::NotDynamic(message) => (ErrorCode::InvalidRequest, message),
                AlterError::Invalid(error) => invalid(error),
            }),
    }
}

/// Checks a topic's overrides one by one and against each other.
pub(super) fn check_overrides(
    image: &Image,
    context: &ControllerContext<'_>,
    overrides: &ConfigMap,
) -> Result<(), ConfigError> {
    for (key, value) in overrides {
        validate_topic_override(key, value)?;
    }
    if let Some(value) = overrides.get("remote.storage.enable")
        && value.trim().eq_ignore_ascii_case("true")
    {
        return Err(ConfigError::refused(
            "remote.storage.enable",
            value,
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.",
        ));
    }
    let layers = Layers {
        topic: Some(overrides),
        ..Layers::of(image, context.broker, None)
    };
    let config = TopicConfig::resolve(&layers)?;
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
        return Err(ConfigError::refused(
            "min.compaction.lag.ms",
            &config.min_compaction_lag_ms.to_string(),
            &format!(
                "conflict with topic config setting max.compaction.lag.ms ({})",
                config.max_compaction_lag_ms
            ),
        ));
    }
    Ok(())
}
