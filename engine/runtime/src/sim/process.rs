//! The processes of a world: who lives, and in which of its lives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A simulated process. Each has a machine of its own in the network; only [`ProcessId::MAIN`]'s has
/// a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// The process that has the disk: the broker.
    pub const MAIN: ProcessId = ProcessId(MAIN);
}

pub(super) const MAIN: u32 = 0;

/// Ports that connects take.
const PORTS: std::ops::Range<u16> = 32_768..60_000;

struct Process {
    name: String,
    /// Grows with every death; drivers of older incarnations are dead.
    incarnation: u64,
    is_alive: bool,
    /// It died and was not started since (it may also have ended in peace).
    has_crashed: bool,
    next_port: u16,
}

pub(super) struct Processes(Vec<Process>);

impl Processes {
    pub(super) fn new() -> Processes {
        let mut processes = Processes(Vec::new());
        processes.add("main");
        processes
    }

    pub(super) fn add(&mut self, name: &str) -> u32 {
        self.0.push(Process {
            name: name.to_owned(),
            incarnation: 1,
            is_alive: true,
            has_crashed: false,
            next_port: PORTS.start,
        });
        (self.0.len() - 1) as u32
    }

    fn get(&self, process: u32) -> &Process {
        self.0
            .get(process as usize)
            .expect("a process of this world")
    }

    fn get_mut(&mut self, process: u32) -> &mut Process {
        self.0
            .get_mut(process as usize)
            .expect("a process of this world")
    }

    pub(super) fn name(&self, process: u32) -> &str {
        &self.get(process).name
    }

    pub(super) fn incarnation(&self, process: u32) -> u64 {
        self.get(process).incarnation
    }

    pub(super) fn is_alive(&self, process: u32) -> bool {
        self.get(process).is_alive
    }

    pub(super) fn has_crashed(&self, process: u32) -> bool {
        self.get(process).has_crashed
    }

    pub(super) fn start(&mut self, process: u32) {
        let process = self.get_mut(process);
        process.is_alive = true;
        process.has_crashed = false;
    }

    pub(super) fn end(&mut self, process: u32, has_crashed: bool) {
        let process = self.get_mut(process);
        process.incarnation += 1;
        process.is_alive = false;
        process.has_crashed = has_crashed;
    }

    /// Its machine's address.
    pub(super) fn ip(process: u32) -> IpAddr {
        let [_, high, middle, low] = (process + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, high, middle, low))
    }

    /// Whose machine has this address.
    pub(super) fn at_ip(&self, ip: IpAddr) -> Option<u32> {
        (0..self.0.len() as u32).find(|process| Self::ip(*process) == ip)
    }

    /// An address for one end of a connection.
    pub(super) fn next_addr(&mut self, process: u32) -> SocketAddr {
        let entry = self.get_mut(process);
        let port = entry.next_port;
        entry.next_port = if port + 1 == PORTS.end {
            PORTS.start
        } else {
            port + 1
        };
        SocketAddr::new(Self::ip(process), port)
    }
}
