//! DescribeConfigs, versions 1 to 4.

use std::collections::BTreeSet;

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::describe_configs_request::{
    DescribeConfigsRequestData, DescribeConfigsResource,
};
use kacrab_protocol::generated::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponseData, DescribeConfigsResult,
    DescribeConfigsSynonym,
};

use super::{ApiContext, text};
use crate::config::{Described, Layers, describe_broker, describe_cluster_default, describe_topic};
use crate::metadata::names::validate_topic_name;
use crate::metadata::{Image, ResourceType};

/// Answers DescribeConfigs for topics, this broker, and the default of all brokers (empty name).
pub fn describe_configs(
    image: &Image,
    context: &ApiContext<'_>,
    version: i16,
    request: &DescribeConfigsRequestData,
) -> DescribeConfigsResponseData {
    let view = View {
        synonyms: request.include_synonyms,
        documentation: version >= 3 && request.include_documentation,
        types: version >= 3,
    };
    // Once each, however often it is named: an answer is much larger than its question.
    let mut seen = BTreeSet::new();
    let once = request
        .resources
        .iter()
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.as_str())));
    let results = once.map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe(image, context, resource) {
            Ok(keys) => result.with_configs(
                keys.into_iter()
                    .filter(|described| wanted(resource, described.key.name))
                    .map(|described| view.show(described))
                    .collect(),
            ),
            Err((code, message)) => result
                .with_error_code(code.code())
                .with_error_message(Some(crate::client_message(&message))),
        }
    });
    DescribeConfigsResponseData::default().with_results(results.collect())
}

/// Null and empty lists of keys both mean all keys, as in Kafka.
fn wanted(resource: &DescribeConfigsResource, key: &str) -> bool {
    match &resource.configuration_keys {
        None => true,
        Some(keys) => keys.is_empty() || keys.iter().any(|wanted| wanted.as_str() == key),
    }
}

fn describe(
    image: &Image,
    context: &ApiContext<'_>,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Described>, (ErrorCode, String)> {
    let name = resource.resource_name.as_str();
    match ResourceType::from_id(resource.resource_type) {
        Some(ResourceType::Topic) => {
            validate_topic_name(name).map_err(|e| (ErrorCode::InvalidTopicException, e))?;
            if image.topic(name).is_none() {
                let message = "This server does not host this topic-partition.".to_owned();
                return Err((ErrorCode::UnknownTopicOrPartition, message));
            }
            Ok(describe_topic(&Layers::of(
                image,
                context.broker,
                Some(name),
            )))
        }
        Some(ResourceType::Broker) if name.is_empty() => Ok(describe_cluster_default(&Layers::of(
            image,
            context.broker,
            None,
        ))),
        Some(ResourceType::Broker) if name.parse() == Ok(context.broker.node_id) => {
            Ok(describe_broker(&Layers::of(image, context.broker, None)))
        }
        Some(ResourceType::Broker) => Err((
            ErrorCode::InvalidRequest,
            format!(
                "Unexpected broker id, expected {} or empty string, but received {name}",
                context.broker.node_id
            ),
        )),
        None => Err((
            ErrorCode::InvalidRequest,
            format!("Unsupported resource type: {}", resource.resource_type),
        )),
    }
}

#[derive(Clone, Copy)]
struct View {
    synonyms: bool,
    documentation: bool,
    types: bool,
}

impl View {
    fn show(self, described: Described) -> DescribeConfigsResourceResult {
        let key = described.key;
        let synonyms = described.synonyms.into_iter().filter(|_| self.synonyms);
        let synonyms = synonyms.map(|(name, value, source)| {
            DescribeConfigsSynonym::default()
                .with_name(text(name))
                .with_value(value.map(text))
                .with_source(source.id())
        });
        DescribeConfigsResourceResult::default()
            .with_name(text(key.name))
            .with_value(described.value.map(text))
            .with_read_only(described.read_only)
            .with_config_source(described.source.id())
            .with_is_sensitive(key.sensitive())
            .with_synonyms(synonyms.collect())
            .with_config_type(if self.types {
                key.value_type.describe_id()
            } else {
                0
            })
            .with_documentation(self.documentation.then(|| text(key.doc)))
    }
}
