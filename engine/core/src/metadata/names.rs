//! Rules for topic names, as Kafka's `Topic` class has them.

/// Longest legal topic name, in bytes.
pub const MAX_TOPIC_NAME_BYTES: usize = 249;

/// Kafka's own metadata topic: it cannot be created.
pub const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";

/// What consumer groups commit, and the groups themselves.
pub const CONSUMER_OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Topics that hold the coordinators' state.
pub const INTERNAL_TOPICS: [&str; 3] = [
    CONSUMER_OFFSETS_TOPIC,
    "__share_group_state",
    "__transaction_state",
];

/// Whether Metadata flags this topic as internal.
pub fn is_internal(name: &str) -> bool {
    INTERNAL_TOPICS.contains(&name)
}

/// Checks a name's length and characters (`[a-zA-Z0-9._-]`).
///
/// # Errors
/// The sentence for the client.
pub fn validate_topic_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("Topic name is invalid: the empty string is not allowed".to_owned());
    }
    if name == "." || name == ".." {
        return Err(format!("Topic name is invalid: '{name}' is not allowed"));
    }
    if name.len() > MAX_TOPIC_NAME_BYTES {
        return Err(format!(
            "Topic name is invalid: the length of '{}' is {}, longer than the max allowed length {MAX_TOPIC_NAME_BYTES}",
            shorten(name),
            name.len()
        ));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.chars().all(legal) {
        return Err(format!(
            "Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ));
    }
    Ok(())
}

/// The name under which metrics would see the topic: `.` and `_` are one there, so two topics
/// that differ only in them may not both exist.
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

fn shorten(name: &str) -> String {
    name.chars().take(32).chain("...".chars()).collect()
}
