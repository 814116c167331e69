//! Signals of the operator, as messages.

use crossbeam::channel::{Receiver, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{StartError, start_error};
use corelog_runtime::blocking;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, SIGINT: stop.
    Stop,
    /// SIGHUP: read the configuration file again.
    Reload,
}

/// Has signals of the process arrive as messages, from now on.
pub fn watch() -> Result<Receiver<Asked>, StartError> {
    let wanted = [SIGTERM, SIGINT, SIGHUP];
    let mut signals = signal_hook::iterator::Signals::new(wanted).map_err(start_error)?;
    let (sender, receiver) = unbounded();
    blocking::spawn("signals", move || {
        for signal in signals.forever() {
            let asked = if signal == SIGHUP {
                Asked::Reload
            } else {
                Asked::Stop
            };
            if sender.send(asked).is_err() {
                return;
            }
        }
    })
    .map_err(start_error)?;
    Ok(receiver)
}
