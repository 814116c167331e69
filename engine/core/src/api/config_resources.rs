//! ListConfigResources, versions 0 and 1.

use kacrab_protocol::generated::ErrorCode;
use kacrab_protocol::generated::list_config_resources_request::ListConfigResourcesRequestData;
use kacrab_protocol::generated::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponseData,
};

use super::{ApiContext, text};
use crate::metadata::{Image, ResourceType};

const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Answers ListConfigResources: topics, and brokers of the client's listener. Loggers, client
/// metrics and groups have no configs here: they may be asked for, and there are none.
///
/// Version 0 asks for client metrics only. A type that the version does not know makes the whole
/// answer UNSUPPORTED_VERSION, as in Kafka.
pub fn list_config_resources(
    image: &Image,
    context: &ApiContext<'_>,
    version: i16,
    request: &ListConfigResourcesRequestData,
) -> ListConfigResourcesResponseData {
    let (topic, broker) = (ResourceType::Topic.id(), ResourceType::Broker.id());
    let known: &[i8] = if version == 0 {
        &[CLIENT_METRICS]
    } else {
        &[topic, broker, BROKER_LOGGER, CLIENT_METRICS, GROUP]
    };
    let asked = match request.resource_types.as_slice() {
        [] => known,
        asked => asked,
    };
    let response = ListConfigResourcesResponseData::default();
    if !asked.iter().all(|id| known.contains(id)) {
        return response.with_error_code(ErrorCode::UnsupportedVersion.code());
    }
    let mut resources = Vec::new();
    if asked.contains(&broker) {
        let here = image
            .brokers()
            .filter(|broker| broker.endpoint(context.listener).is_some());
        resources.extend(here.map(|found| resource(broker, found.node_id.to_string())));
    }
    if asked.contains(&topic) {
        resources.extend(image.topics().map(|found| resource(topic, &*found.name)));
    }
    response.with_config_resources(resources)
}

fn resource(resource_type: i8, name: impl Into<String>) -> ConfigResource {
    ConfigResource::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
}
