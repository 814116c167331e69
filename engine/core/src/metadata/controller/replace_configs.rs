//! AlterConfigs: all overrides of a resource in place of those it had.

use std::collections::BTreeSet;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::alter_configs_request::{
    AlterConfigsRequestData, AlterConfigsResource,
};
use kacrab_protocol::generated::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponseData,
};

use super::configs::{check_overrides, check_value, overrides_of};
use super::{ControllerContext, Refusal};
use crate::metadata::image::{ConfigMap, Image};
use crate::metadata::record::{Record, ResourceType};

/// Decides AlterConfigs for topics and brokers: keys that are not named lose their overrides. Each
/// resource stands or falls by itself; with `validate_only` there are no records.
pub fn alter_configs(
    image: &Image,
    context: &ControllerContext<'_>,
    request: &AlterConfigsRequestData,
) -> (Vec<Record>, AlterConfigsResponseData) {
    let mut seen: BTreeSet<(i8, &str)> = BTreeSet::new();
    let mut twice: BTreeSet<(i8, &str)> = BTreeSet::new();
    for resource in &request.resources {
        if !seen.insert(id(resource)) {
            twice.insert(id(resource));
        }
    }
    let mut records = Vec::new();
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        // Once each, however often it is named.
        if !seen.remove(&id(resource)) {
            continue;
        }
        let outcome = if twice.contains(&id(resource)) {
            let said = "Each resource must appear at most once.".to_owned();
            Err((ErrorCode::InvalidRequest, said))
        } else {
            replace(image, context, resource).map(|mut changes| records.append(&mut changes))
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
        AlterConfigsResponseData::default().with_responses(responses),
    )
}

fn id(resource: &AlterConfigsResource) -> (i8, &str) {
    (resource.resource_type, resource.resource_name.as_str())
}

fn replace(
    image: &Image,
    context: &ControllerContext<'_>,
    resource: &AlterConfigsResource,
) -> Result<Vec<Record>, Refusal> {
    let name = resource.resource_name.as_str();
    let Some(resource_type) = ResourceType::from_id(resource.resource_type) else {
        let said = format!("Unknown resource type {}", resource.resource_type);
        return Err((ErrorCode::InvalidRequest, said));
    };
    let before = overrides_of(image, resource_type, name)?;
    let after = wanted(resource)?;
    for (key, value) in &after {
        check_value(resource_type, key, Some(value), name.is_empty())?;
    }
    if resource_type == ResourceType::Topic {
        check_overrides(image, context, &after)
            .map_err(|error| (ErrorCode::InvalidConfig, error.to_string()))?;
    }
    let empty = ConfigMap::new();
    let before = before.unwrap_or(&empty);
    let set = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value))
        .map(|(key, value)| (key, Some(value.clone())));
    let gone = before
        .keys()
        .filter(|key| !after.contains_key(*key))
        .map(|key| (key, None));
    let record = |(key, value): (&String, _)| Record::Config {
        resource_type,
        resource_name: name.to_owned(),
        key: key.clone(),
        value,
    };
    Ok(set.chain(gone).map(record).collect())
}

/// The overrides a request asks for; a key named twice, or without a value, is an error.
fn wanted(resource: &AlterConfigsResource) -> Result<ConfigMap, Refusal> {
    let mut after = ConfigMap::new();
    let invalid = |said: String| (ErrorCode::InvalidRequest, said);
    for config in &resource.configs {
        let key = config.name.as_str();
        let Some(value) = &config.value else {
            return Err(invalid(format!("Null value not supported for : {key}")));
        };
        let value = value.as_str().to_owned();
        if after.insert(key.to_owned(), value).is_some() {
            let said = format!("Error due to duplicate config keys: {key}");
            return Err(invalid(said));
        }
    }
    Ok(after)
}
