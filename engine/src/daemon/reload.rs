//! SIGHUP: the configuration file read again. What may change while the broker runs takes effect on
//! all shards; what may not is named.

use std::sync::Arc;

use corelog_core::config::{BrokerConfig, ChangedKey, Reload};
use corelog_runtime::{ShardId, blocking};
use crossbeam::channel::{Receiver, bounded, never};

use super::{Messages, Options, StartError, ask, notify, read_config};
use crate::shard::message::{Operation, Request};

/// Reloads, one after the other. Shards may take long to take a configuration up: a thread waits for
/// them, so that the main thread hears what else is asked of it.
pub struct Reloads {
    /// In force, without dynamic configs.
    config: Arc<BrokerConfig>,
    under_way: Option<Receiver<String>>,
    is_asked_again: bool,
}

impl Reloads {
    /// Of a broker that was started with `config`.
    pub fn new(config: Arc<BrokerConfig>) -> Reloads {
        Reloads {
            config,
            under_way: None,
            is_asked_again: false,
        }
    }

    /// Reads the file again and has its values given to all shards; after the reload under way, if
    /// there is one. A file that cannot be used changes nothing; the log says why.
    pub fn ask(&mut self, options: &Options, gateway: &Messages) {
        if self.under_way.is_some() {
            self.is_asked_again = true;
            return;
        }
        notify::reloading();
        let begun = read(options, &self.config).and_then(|(config, reload)| {
            let config = Arc::new(config);
            self.under_way = Some(give(gateway.clone(), Arc::clone(&config), reload)?);
            self.config = config;
            Ok(())
        });
        if let Err(error) = begun {
            tracing::error!(%error, "the configuration was not read again: nothing has changed");
            notify::ready(&format!("serving; the last reload failed: {error}"));
        }
    }

    /// Tells when the reload under way is done, and what to say of it.
    pub fn under_way(&self) -> Receiver<String> {
        self.under_way.clone().unwrap_or_else(never)
    }

    /// Takes what [`Reloads::under_way`] told.
    pub fn done(&mut self, said: Option<String>, options: &Options, gateway: &Messages) {
        self.under_way = None;
        notify::ready(said.as_deref().unwrap_or("serving"));
        if std::mem::take(&mut self.is_asked_again) {
            self.ask(options, gateway);
        }
    }
}

/// Has every shard take the values, in a thread of its own that waits until all have.
fn give(
    gateway: Messages,
    config: Arc<BrokerConfig>,
    reload: Reload,
) -> Result<Receiver<String>, StartError> {
    let (done, under_way) = bounded(1);
    let work = move || {
        for shard in 0..gateway.shards() {
            let request = || Request::Operate(Operation::Reload(Arc::clone(&config)));
            ask(&gateway, ShardId(shard as u16), request);
        }
        let _main_is_gone = done.send(tell(&reload));
    };
    let started = blocking::spawn("reload", work);
    started.map_err(|error| StartError(format!("no thread for it: {error}")))?;
    Ok(under_way)
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
