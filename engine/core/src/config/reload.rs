//! Reading the configuration file again while the broker runs.

use super::broker::BrokerConfig;
use super::error::ConfigError;
use super::keys::{ConfigKey, Dynamic, broker_keys};

/// A key whose value in the file (or on the command line, or by default) is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedKey {
    /// The row.
    pub key: &'static str,
    /// Value before; `None` = not set, or secret.
    pub before: Option<String>,
    /// Value now; `None` = not set, or secret.
    pub after: Option<String>,
}

/// What reading the file again found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reload {
    /// In force at once. Dynamic configs of the metadata still come before them.
    pub applied: Vec<ChangedKey>,
    /// In force after a restart; until then the old values are.
    pub at_restart: Vec<ChangedKey>,
}

impl BrokerConfig {
    /// This configuration with those values of `file` that may change while the broker runs, and
    /// what is different. Neither side's dynamic settings play a part; the outcome has none.
    ///
    /// # Errors
    /// Values that are legal each and not together: nothing of `file` is to be used then.
    pub fn reloaded(&self, file: &BrokerConfig) -> Result<(BrokerConfig, Reload), ConfigError> {
        let mut settings = self.settings().clone();
        let mut reload = Reload::default();
        for row in broker_keys() {
            let (before, after) = (self.of_file(row), file.of_file(row));
            let changed = canonical(row, before) != canonical(row, after);
            let may_change = row.dynamic != Dynamic::ReadOnly;
            if may_change {
                match file.settings().get(row.name) {
                    Some(setting) => settings.insert(row.name, setting.clone()),
                    None => settings.remove(row.name),
                };
            }
            if changed {
                let shown =
                    |value: Option<&str>| value.filter(|_| !row.sensitive()).map(str::to_owned);
                let changed = ChangedKey {
                    key: row.name,
                    before: shown(before),
                    after: shown(after),
                };
                if may_change {
                    reload.applied.push(changed);
                } else {
                    reload.at_restart.push(changed);
                }
            }
        }
        Ok((BrokerConfig::of_settings(settings)?, reload))
    }

    fn of_file(&self, row: &'static ConfigKey) -> Option<&str> {
        self.setting(row.name)
            .map(|setting| setting.value.as_str())
            .or(row.default)
    }
}

/// A value in one form, however it is written.
fn canonical(row: &ConfigKey, value: Option<&str>) -> Option<String> {
    let value = value?;
    Some(match row.parse(value) {
        Ok(parsed) => parsed.canonical(),
        Err(_) => value.to_owned(),
    })
}
