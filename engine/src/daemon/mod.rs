//! How a broker starts, says that it is ready, and stops.
//!
//! Order: configuration, the machine's abilities, listening sockets, shards, the log directory and
//! the metadata log (on shard 0), the logs, HTTP, the ready line. SIGHUP reads the configuration file
//! again. Stop: SIGTERM or SIGINT stops cleanly, a second one at once.

pub mod background;
pub mod boot;
mod crash;
mod descriptors;
mod logging;
mod memory;
mod notify;
mod reload;
pub mod shutdown;
mod signals;
pub mod start_state;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use corelog_core::config::keys::broker_keys;
use corelog_core::config::{BrokerConfig, Cores, StorageIo, parse_override};
use corelog_core::metadata::BrokerEndpoint;
use corelog_maintenance::Maintenance;
use corelog_runtime::doctor::{self, Examined, Verdict};
use corelog_runtime::{EnvError, Gateway, ShardId, SocketHandle, blocking, cpus, mesh, shards};
use corelog_storage::log_dir::{TakeLock, process_lock};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use self::boot::{Bound, advertise, shard_main};
use self::descriptors::Descriptors;
use self::memory::ShardMemory;
use self::notify::Watchdog;
use self::reload::Reloads;
use self::signals::Asked;
use crate::control_plane::{self, ControlPlane, HttpServer};
use crate::log_dirs;
use crate::shard::message::{Operation, Request, Response};

/// Messages a shard's inbox holds before senders keep theirs.
const INBOX_MESSAGES: usize = 4096;
/// Tries for an address that is in use, and the time between them.
const LISTEN_TRIES: u32 = 20;
const LISTEN_RETRY: Duration = Duration::from_millis(100);
/// Longest wait for the maintenance thread at the stop.
const MAINTENANCE_END_MAX: Duration = Duration::from_secs(2);
/// How often a foreign thread tries an inbox that is full.
const FULL_INBOX_RETRY: Duration = Duration::from_millis(1);

/// What the command line asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// Configuration file.
    pub server_properties: Option<PathBuf>,
    /// `KEY=VALUE`, over the file.
    pub overrides: Vec<String>,
    /// A known bug to plant; only builds for tests can.
    pub planted: Option<String>,
}

/// Why the broker did not start. The text is for a person at a terminal.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

fn start_error(error: impl fmt::Display) -> StartError {
    StartError(error.to_string())
}

/// Shard 0 is ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Partitions in the metadata.
    pub partitions: usize,
}

/// What all shards are started with.
pub struct Shared {
    /// Configuration.
    pub config: Arc<BrokerConfig>,
    /// Bound listeners.
    pub listeners: Vec<Bound>,
    /// What clients are told.
    pub advertised: Vec<BrokerEndpoint>,
    /// Memory of one shard.
    pub memory: ShardMemory,
    /// Descriptors of segment files one shard keeps open.
    pub open_segments: usize,
    /// Connections for which there are descriptors.
    pub connections_max: usize,
    /// Open connections of every shard.
    pub load: Arc<[AtomicUsize]>,
    /// A bug to plant.
    pub planted: Option<String>,
    /// Keeps other processes out of the log directory; `None` where there are none (the twin).
    pub take_lock: Option<TakeLock>,
    /// Log directories that cannot be used, by their place, and why.
    pub unusable_dirs: BTreeMap<usize, String>,
    /// The way to the maintenance thread, set before the shards start; the twin has none.
    pub maintenance: OnceLock<corelog_maintenance::Handle>,
    ready: Sender<Result<Ready, String>>,
}

/// What a broker is made from, besides its configuration and its listeners.
#[derive(Debug, Clone)]
pub struct Means {
    /// Number of shards.
    pub shards: usize,
    /// Bytes all shards may use together.
    pub memory_bytes: u64,
    /// Files the process may have open.
    pub open_files_max: u64,
    /// A bug to plant.
    pub planted: Option<String>,
    /// See [`Shared::take_lock`].
    pub take_lock: Option<TakeLock>,
    /// See [`Shared::unusable_dirs`].
    pub unusable_dirs: BTreeMap<usize, String>,
}

impl Shared {
    /// What [`boot::shard_main`] of every shard is given, and where shard 0 says how the start went.
    /// The way in for whoever brings listeners and shards of its own, such as the seeded twin.
    pub fn new(
        config: Arc<BrokerConfig>,
        listeners: Vec<Bound>,
        ports: &BoundPorts,
        means: Means,
    ) -> (Arc<Shared>, Receiver<Result<Ready, String>>) {
        let shards = means.shards.max(1);
        let files = Descriptors::of(means.open_files_max, shards, config.max_connections);
        tracing::info!("{files}");
        // Few are sent; none may be lost because nobody listens just now.
        let (ready, on_ready) = unbounded();
        let shared = Arc::new(Shared {
            advertised: advertise(&config.advertised_listeners, ports),
            listeners,
            memory: memory::share(means.memory_bytes, shards),
            open_segments: files.segments_per_shard,
            // max.connections may change while the broker runs, this bound may not.
            connections_max: Descriptors::of(means.open_files_max, shards, u32::MAX).connections,
            load: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            planted: means.planted,
            take_lock: means.take_lock,
            unusable_dirs: means.unusable_dirs,
            maintenance: OnceLock::new(),
            ready,
            config,
        });
        (shared, on_ready)
    }

    /// Tells the main thread how the start went; an error after it ends the process.
    pub fn tell(&self, outcome: Result<Ready, String>) {
        // The main thread may have been told to stop meanwhile.
        let _ = self.ready.send(outcome);
    }
}

type Messages = Gateway<Request, Response>;

/// Runs a broker until a signal stops it.
pub fn run(options: Options) -> Result<(), StartError> {
    crash::keep_log(logging::start());
    let outcome = run_logged(&options);
    crash::close_log();
    outcome
}

/// Reads the configuration as [`run`] does and prints the keys in use with their values in force;
/// warnings go to standard error.
///
/// # Errors
/// The broker would not start with it.
pub fn check_config(options: &Options) -> Result<(), StartError> {
    crash::keep_log(logging::start());
    let config = read_config(options);
    crash::close_log();
    let config = config?;
    let mut out = std::io::stdout().lock();
    for key in broker_keys().filter(|key| key.used && !key.sensitive()) {
        if let Some(value) = config.value(key.name) {
            // The reader may have seen enough.
            let _ = writeln!(out, "{}={value}", key.name);
        }
    }
    Ok(())
}

fn run_logged(options: &Options) -> Result<(), StartError> {
    let began = blocking::now();
    let config = read_config(options)?;
    crash::describe(&config);
    let env = corelog_runtime::check_environment().map_err(start_error)?;
    let unusable_dirs = check_log_dirs(&config)?;
    warn_of_machine(&config);
    let cpus = match &config.cores {
        Cores::All => cpus::allowed(),
        Cores::List(list) => {
            let text: Vec<String> = list.iter().map(usize::to_string).collect();
            cpus::parse_cpu_list(&text.join(","), &cpus::allowed()).map_err(start_error)?
        }
    };
    let signals = signals::watch()?;
    notify::status("opening the logs");
    let config = Arc::new(config);
    let of_shards = Arc::clone(&config);
    let running = start_shards(options, of_shards, unusable_dirs, &cpus, env.open_files_max)?;
    let Some((ready, is_reload_asked)) = running.wait_ready(&signals)? else {
        // As safe as kill -9, of which a start is to make the same.
        tracing::warn!("stopped by a signal before it was ready; the next start begins anew");
        notify::stopping();
        return Ok(());
    };
    let mut http = running.start_http()?;
    announce(&running, http.as_ref(), ready, began.elapsed());
    let watchdog = Watchdog::start(running.gateway.clone());
    notify::ready("serving");

    let mut reloads = Reloads::new(config);
    if is_reload_asked {
        reloads.ask(options, &running.gateway);
    }
    loop {
        let reloaded = reloads.under_way();
        crossbeam::channel::select! {
            recv(signals) -> asked => match asked {
                Ok(Asked::Reload) => reloads.ask(options, &running.gateway),
                _ => break,
            },
            recv(reloaded) -> said => reloads.done(said.ok(), options, &running.gateway),
            recv(running.ready) -> told => {
                if let Ok(Err(why)) = told {
                    tracing::error!("the broker stops: {why}");
                    return Err(StartError(format!("stopped: {why}")));
                }
            }
        }
    }
    tracing::info!("stopping");
    notify::stopping();
    running.stop(&signals);
    drop(watchdog);
    if let Some(http) = &mut http {
        http.stop();
    }
    Ok(())
}

fn read_config(options: &Options) -> Result<BrokerConfig, StartError> {
    let (name, text) = match &options.server_properties {
        Some(path) => {
            let name = path.display().to_string();
            let text = blocking::read_to_string(path)
                .map_err(|e| StartError(format!("cannot read {name}: {e}")))?;
            (name, text)
        }
        None => ("built-in defaults".to_owned(), String::new()),
    };
    let mut overrides = Vec::with_capacity(options.overrides.len());
    for text in &options.overrides {
        overrides.push(parse_override(text).map_err(start_error)?);
    }
    let (config, warnings) = BrokerConfig::parse(&name, &text, &overrides).map_err(start_error)?;
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    Ok(config)
}

/// Makes the log directories where they are missing. Gives those that cannot be made, by their place
/// among all directories, and why: the broker starts without them while others are left.
fn check_log_dirs(config: &BrokerConfig) -> Result<BTreeMap<usize, String>, StartError> {
    let metadata_log_dir = config.metadata_log_dir.as_deref();
    let (paths, metadata) = log_dirs::open::paths(&config.log_dirs, metadata_log_dir);
    let mut unusable = BTreeMap::new();
    for (at, path) in paths.iter().enumerate() {
        if let Err(error) = blocking::create_dir_all(path).and_then(|()| probe(path)) {
            let dir = path.display();
            unusable.insert(at, format!("cannot use the log directory {dir}: {error}"));
            continue;
        }
        if config.storage_io == StorageIo::Buffered {
            let system = corelog_runtime::file_system_of(path);
            tracing::warn!(
                "corelog.storage.io=buffered: segments of {} ({}) go through the page cache; direct I/O is faster where it works",
                path.display(),
                system.as_deref().unwrap_or("unknown file system")
            );
            continue;
        }
        match corelog_runtime::check_direct_io(path) {
            Ok(_) => {}
            Err(error @ EnvError::DirUnusable(..)) => {
                unusable.insert(at, error.to_string());
            }
            Err(error) => return Err(start_error(error)),
        }
    }
    let is_enough = (0..config.log_dirs.len()).any(|at| !unusable.contains_key(&at));
    let lacking = unusable.get(&metadata);
    match lacking.or(unusable.values().next().filter(|_| !is_enough)) {
        Some(why) => Err(StartError(why.clone())),
        None => Ok(unusable),
    }
}

/// Makes a file and removes it: a broken or read-only file system shows. A full one is no fault.
fn probe(path: &Path) -> std::io::Result<()> {
    let file = path.join(".corelog-probe");
    match blocking::write_file(&file, "") {
        Err(error) if is_full(&error) => return Ok(()),
        made => made?,
    }
    blocking::remove_file(&file)
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Logs what of the machine is not as it should be: the checks of `corelog doctor` that take no time.
fn warn_of_machine(config: &BrokerConfig) {
    let examined = Examined {
        log_dirs: config.log_dirs.iter().map(PathBuf::from).collect(),
        direct: config.storage_io == StorageIo::Direct,
        cpus: match &config.cores {
            Cores::All => Vec::new(),
            Cores::List(list) => list.clone(),
        },
        listen_backlog: u32::try_from(config.socket_listen_backlog_size).unwrap_or(0),
        measure: false,
    };
    for check in doctor::examine(&examined) {
        if check.verdict != Verdict::Ok {
            let (found, advice) = (check.found, check.advice);
            tracing::warn!(found, advice, "{}", check.name);
        }
    }
}

/// A broker whose shards run.
struct Running {
    shared: Arc<Shared>,
    gateway: Messages,
    threads: Vec<JoinHandle<()>>,
    maintenance: Maintenance,
    ready: Receiver<Result<Ready, String>>,
    kafka: SocketAddr,
}

fn start_shards(
    options: &Options,
    config: Arc<BrokerConfig>,
    unusable_dirs: BTreeMap<usize, String>,
    cpus: &[usize],
    open_files_max: u64,
) -> Result<Running, StartError> {
    let (listeners, addresses) = bind(&config)?;
    let ports = addresses
        .iter()
        .map(|(name, address)| (name.clone(), address.port()))
        .collect();
    let total = config.memory_bytes.unwrap_or_else(memory::default_bytes);
    let shards = shards::specs(cpus, config.shards, 0).len();
    let memory = memory::share(total, shards);
    let specs = shards::specs(cpus, config.shards, memory.pool_bytes);
    let means = Means {
        shards,
        memory_bytes: total,
        open_files_max,
        planted: options.planted.clone(),
        take_lock: Some(process_lock),
        unusable_dirs,
    };
    let (shared, on_ready) = Shared::new(config, listeners, &ports, means);
    let maintenance = Maintenance::start();
    shared.maintenance.get_or_init(|| maintenance.handle());
    let mut seeds = mesh::<Request, Response>(specs.len(), INBOX_MESSAGES);
    let gateway = seeds[0].gateway();
    seeds.reverse();
    let threads = shards::start_shards(specs, |_| {
        let seed = seeds.pop().expect("one seed per shard");
        let shared = Arc::clone(&shared);
        move |rt| shard_main(rt, seed, shared)
    });
    let threads = threads.map_err(|e| StartError(format!("cannot start the shards: {e}")))?;
    let kafka = addresses[0].1;
    Ok(Running {
        shared,
        gateway,
        threads,
        maintenance,
        ready: on_ready,
        kafka,
    })
}

/// A listener's name and where it listens.
type NamedAddress = (String, SocketAddr);

/// Binds every listener that is not the controller's.
fn bind(config: &BrokerConfig) -> Result<(Vec<Bound>, Vec<NamedAddress>), StartError> {
    let mut bound = Vec::new();
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let address = resolve("listeners", &listener.host, listener.port)?;
        let backlog = u32::try_from(config.socket_listen_backlog_size)
            .unwrap_or(50)
            .max(1);
        let opened = listen_patiently(address, backlog);
        let (socket, address) = opened.map_err(|e| cannot_listen("listeners", address, &e))?;
        // Connections have those of the socket they come in by.
        let send = config.socket_send_buffer_bytes.unwrap_or(0);
        let receive = config.socket_receive_buffer_bytes.unwrap_or(0);
        corelog_runtime::sockets::set_buffer_bytes(&socket, send, receive)
            .map_err(|e| cannot_listen("listeners", address, &e))?;
        bound.push(Bound {
            name: Arc::from(listener.name.as_str()),
            socket,
        });
        addresses.push((listener.name.clone(), address));
    }
    if bound.is_empty() {
        return Err(StartError(
            "listeners: names no address for clients".to_owned(),
        ));
    }
    Ok((bound, addresses))
}

/// The ring of a process that was just killed may hold its listener for a moment longer.
fn listen_patiently(
    address: SocketAddr,
    backlog: u32,
) -> std::io::Result<(SocketHandle, SocketAddr)> {
    for _ in 0..LISTEN_TRIES {
        match corelog_runtime::listen(address, backlog) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                blocking::sleep(LISTEN_RETRY);
            }
            opened => return opened,
        }
    }
    corelog_runtime::listen(address, backlog)
}

fn resolve(key: &str, host: &str, port: u16) -> Result<SocketAddr, StartError> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let unknown = |why: String| StartError(format!("{key}: cannot resolve {host}: {why}"));
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|e| unknown(e.to_string()))?;
    found.next().ok_or_else(|| unknown("no address".to_owned()))
}

fn cannot_listen(key: &str, address: SocketAddr, error: &std::io::Error) -> StartError {
    StartError(if error.kind() == std::io::ErrorKind::AddrInUse {
        format!(
            "{key}: {address} is in use by another process; stop it, or set {key} to another port"
        )
    } else {
        format!("{key}: cannot listen on {address}: {error}")
    })
}

fn announce(running: &Running, http: Option<&HttpServer>, ready: Ready, took: Duration) {
    let http = http.map_or_else(|| "off".to_owned(), |http| http.address.to_string());
    let line = format!(
        "ready kafka={} http={http} shards={} partitions={} start_ms={}",
        running.kafka,
        running.shared.load.len(),
        ready.partitions,
        took.as_millis()
    );
    tracing::info!("{line}");
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason to stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

impl Running {
    /// Waits until it is ready; also says whether SIGHUP came meanwhile. `None`: it is to stop.
    fn wait_ready(&self, signals: &Receiver<Asked>) -> Result<Option<(Ready, bool)>, StartError> {
        let mut is_reload_asked = false;
        loop {
            crossbeam::channel::select! {
                recv(self.ready) -> told => {
                    let gone = || StartError("shard 0 ended before it was ready".to_owned());
                    let ready = told.map_err(|_| gone())?.map_err(StartError)?;
                    return Ok(Some((ready, is_reload_asked)));
                }
                recv(signals) -> asked => match asked {
                    Ok(Asked::Reload) => is_reload_asked = true,
                    _ => return Ok(None),
                }
            }
        }
    }

    fn start_http(&self) -> Result<Option<HttpServer>, StartError> {
        let Some(listener) = &self.shared.config.http_listener else {
            return Ok(None);
        };
        let key = "corelog.http.listener";
        let address = resolve(key, &listener.host, listener.port)?;
        let plane = ControlPlane {
            shards: self.shared.load.len(),
            ask: Arc::new(control_plane::ask_through(self.gateway.clone())),
        };
        match control_plane::start(address, plane) {
            Ok(server) => Ok(Some(server)),
            Err(error) => {
                self.ask(ShardId(0), || Request::Operate(Operation::Shutdown));
                Err(cannot_listen(key, address, &error))
            }
        }
    }

    fn ask(&self, to: ShardId, request: impl Fn() -> Request) -> Option<Response> {
        ask(&self.gateway, to, request)
    }

    /// Stops cleanly; a signal meanwhile ends the process at once.
    fn stop(self, signals: &Receiver<Asked>) {
        let (done, stopped) = bounded(1);
        let worker = blocking::spawn("stop", move || {
            self.maintenance.stop();
            self.ask(ShardId(0), || Request::Operate(Operation::Shutdown));
            for shard in 0..self.shared.load.len() {
                self.ask(ShardId(shard as u16), || Request::Operate(Operation::Exit));
            }
            for thread in self.threads {
                let _ = thread.join();
            }
            if !self.maintenance.join(MAINTENANCE_END_MAX) {
                tracing::warn!(
                    "a read of the maintenance thread does not come back; the process ends without it"
                );
            }
            let _ = done.send(());
        });
        if worker.is_err() {
            return;
        }
        loop {
            crossbeam::channel::select! {
                recv(stopped) -> _ => return,
                recv(signals) -> asked => if asked != Ok(Asked::Reload) {
                    tracing::warn!("stopped at once by a second signal; logs will be checked at the next start");
                    crash::close_log();
                    std::process::exit(130);
                }
            }
        }
    }
}

/// Sends until the inbox takes it, and waits for the answer. `None`: the shard has ended.
fn ask(gateway: &Messages, to: ShardId, request: impl Fn() -> Request) -> Option<Response> {
    loop {
        match gateway.send(to, request()) {
            Ok(reply) => return reply.wait(),
            Err(_) if gateway.has_ended(to) => return None,
            Err(_) => blocking::sleep(FULL_INBOX_RETRY),
        }
    }
}

/// Ports by listener name, as [`advertise`] wants them.
pub type BoundPorts = BTreeMap<String, u16>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r33_what_fails_while_nobody_listens_is_heard_after() {
        let config = Arc::new(BrokerConfig::default());
        let means = Means {
            shards: 1,
            memory_bytes: 64 << 20,
            open_files_max: 1024,
            planted: None,
            take_lock: None,
            unusable_dirs: BTreeMap::new(),
        };
        let (shared, told) = Shared::new(config, Vec::new(), &BoundPorts::new(), means);
        shared.tell(Ok(Ready { partitions: 0 }));
        shared.tell(Err("the last log directory failed".to_owned()));
        assert!(matches!(told.try_recv(), Ok(Ok(Ready { partitions: 0 }))));
        assert!(matches!(told.try_recv(), Ok(Err(_))));
    }
}
