//! The broker's program, for what only the broker knows: its configuration and its metadata log.

use std::path::{Path, PathBuf};

/// The one named, else the one beside this program, else whatever the search path has.
pub fn path(named: Option<&Path>) -> PathBuf {
    if let Some(named) = named {
        return named.to_owned();
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|this| Some(this.parent()?.join("corelogd")));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("corelogd"))
}
