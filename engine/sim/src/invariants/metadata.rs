//! Acknowledged changes of metadata survive everything: topics that were made are there with their
//! partitions, topics that were deleted are not.

use super::Broken;

/// What the clients know of a topic.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its creation was acknowledged, or it was seen.
    pub exists: bool,
    /// Its deletion was asked for.
    pub dying: bool,
    /// Its deletion was acknowledged.
    pub dead: bool,
    /// Partitions acknowledged or seen.
    pub partitions: i32,
}

/// Compares with what Metadata says after a start: the number of partitions, `None` = no such topic.
pub fn check(name: &str, known: &Known, told: Option<i32>) -> Result<(), Broken> {
    match told {
        Some(_) if known.dead => Err(format!("metadata: topic {name} was deleted and is back")),
        Some(count) if count < known.partitions => Err(format!(
            "metadata: topic {name} has {count} partitions, {} were acknowledged",
            known.partitions
        )),
        None if known.exists && !known.dying => Err(format!("metadata: topic {name} is gone")),
        _ => Ok(()),
    }
}
