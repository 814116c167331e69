//! SIGHUP: the configuration file read again. What may change while the broker runs takes effect on
//! all shards; what may not is named.

use std::sync::Arc;

use corelog_core::config::{BrokerConfig, ChangedKey, Reload};
use corelog_runtime::ShardId;

use super::{Options, Running, StartError, notify, read_config};
use crate::shard::message::{Operation, Request};

/// Reads the file again and gives its values to all shards. A file that cannot be used changes
/// nothing; the log says why. Returns the configuration in force, without dynamic configs.
pub fn reload(
    options: &Options,
    running: &Running,
    current: &Arc<BrokerConfig>,
) -> Arc<BrokerConfig> {
    notify::reloading();
    let outcome = read(options, current);
    let (now, said) = match outcome {
        Ok((config, reload)) => {
            let config = Arc::new(config);
            running.give_all(|| Request::Operate(Operation::Reload(Arc::clone(&config))));
            (config, tell(&reload))
        }
        Err(error) => {
            tracing::error!(%error, "the configuration was not read again: nothing has changed");
            let said = format!("serving; the last reload failed: {error}");
            (Arc::clone(current), said)
        }
    };
    notify::ready(&said);
    now
}

fn read(options: &Options, current: &BrokerConfig) -> Result<(BrokerConfig, Reload), StartError> {
    if options.server_properties.is_none() {
        let why = "corelogd was started without a configuration file";
        return Err(StartError(why.to_owned()));
    }
    let file = read_config(options)?;
    current
        .reloaded(&file)
        .map_err(|error| StartError(error.to_string()))
}

/// Logs what changed; returns it in short.
fn tell(reload: &Reload) -> String {
    for ChangedKey { key, before, after } in &reload.applied {
        let (before, after) = (shown(before.as_deref()), shown(after.as_deref()));
        tracing::info!(key, before, after, "configuration changed");
    }
    for ChangedKey { key, before, after } in &reload.at_restart {
        let (in_force, in_file) = (shown(before.as_deref()), shown(after.as_deref()));
        tracing::warn!(
            key,
            in_force,
            in_file,
            "this key cannot change while the broker runs: restart it for the new value"
        );
    }
    let applied = reload.applied.len();
    let waiting: Vec<_> = reload.at_restart.iter().map(|c| c.key).collect();
    tracing::info!(
        applied,
        at_restart = waiting.len(),
        "the configuration was read again"
    );
    if waiting.is_empty() {
        "serving".to_owned()
    } else {
        format!("serving; a restart is needed for {}", waiting.join(", "))
    }
}

fn shown(value: Option<&str>) -> &str {
    value.unwrap_or("(not shown or not set)")
}

impl Running {
    /// Asks every shard and waits until all have answered.
    fn give_all(&self, request: impl Fn() -> Request) {
        for shard in 0..self.shared.load.len() {
            self.ask(ShardId(shard as u16), &request);
        }
    }
}
