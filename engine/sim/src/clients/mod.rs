//! Simulated clients, on `corelog_net`'s client over the simulated network. Each is a task that lives
//! as long as the history, over all restarts of the broker, and tells the oracle what it does and hears.

pub mod admin;
pub mod fetching;
pub mod member;
pub mod producer;
pub mod reader;
pub mod requests;
pub mod session;
pub mod verifier;

use std::rc::Rc;

use corelog_net::client::Client;

use crate::chance::Chance;
use crate::oracle::log::{Key, TopicId};
use crate::stage::{Lost, Stage};

/// Numbers of clients are below.
const LIFE: u64 = 100_000;

/// A client's name, chance and connection.
pub struct Actor {
    /// The stage it is on.
    pub stage: Rc<Stage>,
    /// Its name.
    pub name: String,
    /// Its own chance.
    pub chance: Chance,
    client: Option<Client>,
}

impl Actor {
    /// An actor; `number` differs from all others'.
    pub fn new(stage: &Rc<Stage>, name: String, number: u64) -> Actor {
        Actor {
            stage: Rc::clone(stage),
            name,
            chance: Chance::new(stage.plan.seed, 100 + number + LIFE * stage.life),
            client: None,
        }
    }

    /// Its connection, made when there is none.
    pub async fn client(&mut self) -> Result<Client, Lost> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = self.stage.connect(&self.name).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Drops the connection, whatever is in flight on it.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    /// After an error of the connection: it is dropped, and a pause is made.
    pub async fn lost(&mut self, lost: &Lost) {
        self.disconnect();
        if let Lost::Client(error) = lost {
            self.stage
                .say(format!("{} lost its connection: {error}", self.name));
            self.pause(20_000).await;
        }
    }

    /// A pause by chance, that ends with the gate.
    pub async fn pause(&mut self, max_us: u64) {
        let stage = Rc::clone(&self.stage);
        stage.pause(&mut self.chance, max_us).await;
    }

    /// A partition of a topic that lives, by chance.
    pub fn some_partition(&mut self) -> Option<Key> {
        let oracle = self.stage.oracle.borrow();
        let alive: Vec<(TopicId, i32)> = oracle
            .topics
            .iter()
            .filter(|(_, topic)| topic.known.exists && !topic.known.dying)
            .map(|(id, topic)| (*id, topic.known.partitions))
            .collect();
        drop(oracle);
        if alive.is_empty() {
            return None;
        }
        let (id, partitions) = self.chance.pick(&alive);
        Some((id, self.chance.below(partitions.max(1) as u64) as i32))
    }
}
