//! Whether the client is still there, while an answer waits for something and nothing is received.
//!
//! A poll of the socket tells, beside which a receive may be in flight. It is armed by the first
//! wait and stays armed: the next waits cost nothing. Clients that never wait have none.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::Task;
use corelog_runtime::sync::Notify;

use super::Connection;
use crate::shard::Shard;

/// When a poll that the kernel had no memory for is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The watch over one connection's peer. Shard: the connection's.
#[derive(Default)]
pub struct PeerWatch {
    closed: Cell<bool>,
    changed: Notify,
    task: RefCell<Option<Task<()>>>,
}

impl PeerWatch {
    /// Ends the watch with its connection: it holds the socket.
    pub(super) fn end(&self) {
        let task = self.task.borrow_mut().take();
        if let Some(task) = task {
            task.cancel();
        }
    }
}

/// Resolves when the client has closed its end. Requests that it sent before may still be unread,
/// and an answer may still reach a client that closed one way only.
pub async fn closed(shard: &Rc<Shard>, connection: &Rc<Connection>) {
    let watch = &connection.peer;
    if watch.task.borrow().is_none() {
        let (shard, watched) = (Rc::clone(shard), Rc::clone(connection));
        let task = shard.rt.clone().spawn("peer_watch", async move {
            while let Err(error) = shard.rt.poll_closed(&watched.socket).await {
                if !is_shortage(&error) {
                    break; // it tells the same: nothing more comes from there
                }
                shard.rt.sleep(LOOK_AGAIN).await;
            }
            watched.peer.closed.set(true);
            watched.peer.changed.notify_all();
        });
        *watch.task.borrow_mut() = Some(task);
    }
    while !watch.closed.get() {
        let changed = watch.changed.notified();
        if !watch.closed.get() {
            changed.await;
        }
    }
}

/// The kernel had no memory for the poll: nothing is known of the client.
fn is_shortage(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
    matches!(error.kind(), OutOfMemory | WouldBlock | Interrupted)
}

/// Whether [`closed`] has resolved, or would.
pub fn is_closed(connection: &Connection) -> bool {
    connection.peer.closed.get()
}
