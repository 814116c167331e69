//! A broker process on a directory below cargo's directory for tests. It is killed when its handle is dropped.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corelog_runtime::blocking;

use super::Connection;

/// Longest wait of [`poll`]. Only a hang comes near it.
const POLL_MAX: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(2);

static MADE: AtomicUsize = AtomicUsize::new(0);

/// Asks until there is an answer; panics with `what` when none comes.
#[track_caller]
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = blocking::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < POLL_MAX, "{what}: waited in vain");
        blocking::sleep(POLL_PAUSE);
    }
}

/// A directory for one test; kept when the test fails.
pub struct DataDir {
    path: PathBuf,
    starts: AtomicUsize,
    /// Further arguments of every start.
    arguments: Mutex<Vec<String>>,
    /// What a shell does before it becomes the broker; empty: there is no shell.
    before: Mutex<String>,
}

impl DataDir {
    pub fn new(test: &str) -> DataDir {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{test}-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        blocking::create_dir_all(&path).unwrap();
        DataDir {
            path,
            starts: AtomicUsize::new(0),
            arguments: Mutex::default(),
            before: Mutex::default(),
        }
    }

    /// Has a shell do this before every later start, and then become the broker.
    pub fn shell_first(&self, command: &str) {
        *self.before.lock().unwrap() = command.to_owned();
    }

    /// Gives every later start a further argument.
    #[cfg(feature = "planted")]
    pub fn argument(&self, argument: &str) {
        self.arguments.lock().unwrap().push(argument.to_owned());
    }

    /// Lets later starts go without them.
    #[cfg(feature = "planted")]
    pub fn without_arguments(&self) {
        self.arguments.lock().unwrap().clear();
    }

    /// A file of the test's own beside the data.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        blocking::write_file(&path, text).unwrap();
        path
    }

    /// What the broker gets as `log.dirs`.
    pub fn logs(&self) -> PathBuf {
        self.path.join("data")
    }

    /// A second directory for logs.
    pub fn more_logs(&self) -> PathBuf {
        self.path.join("data2")
    }

    /// The override that has both.
    pub fn both_logs(&self) -> String {
        let (one, other) = (self.logs(), self.more_logs());
        format!("log.dirs={},{}", one.display(), other.display())
    }

    /// Starts a broker with so many shards.
    pub fn start(&self, shards: usize) -> Broker {
        self.start_with(shards, &[])
    }

    /// Starts a broker with further overrides.
    pub fn start_with(&self, shards: usize, overrides: &[&str]) -> Broker {
        self.start_file(None, shards, overrides)
    }

    /// Starts a broker with a configuration file.
    #[track_caller]
    pub fn start_file(&self, file: Option<&Path>, shards: usize, overrides: &[&str]) -> Broker {
        match self.try_start(file, shards, overrides) {
            Ok(broker) => broker,
            Err((status, log)) => panic!("the broker ended before it was ready: {status}\n{log}"),
        }
    }

    /// Starts a broker, or gives its exit status and what it said.
    pub fn try_start(
        &self,
        file: Option<&Path>,
        shards: usize,
        overrides: &[&str],
    ) -> Result<Broker, (ExitStatus, String)> {
        self.try_start_in(file, shards, overrides, &[])
    }

    /// As [`DataDir::try_start`], with further variables of its environment.
    pub fn try_start_in(
        &self,
        file: Option<&Path>,
        shards: usize,
        overrides: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Broker, (ExitStatus, String)> {
        let (mut broker, said) = self.spawn(file, shards, overrides, environment);
        let outcome = poll("the ready line", || {
            let text = blocking::read_to_string(&said).unwrap();
            if text.ends_with('\n') && text.starts_with("ready ") {
                return Some(Ok(text));
            }
            broker.child.try_wait().unwrap().map(Err)
        });
        let ready = outcome.map_err(|status| (status, broker.log()))?;
        let field = |name: &str| {
            let mut fields = ready.split_whitespace();
            fields
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
                .unwrap_or_else(|| panic!("{name} in {ready}"))
        };
        broker.kafka = field("kafka");
        broker.http = field("http");
        // Log lines are written by a thread of their own: with this one, all of the start are there.
        poll("the log of the start", || {
            broker.log().contains("ready kafka=").then_some(())
        });
        Ok(broker)
    }

    /// Begins to start a broker; nothing listens yet.
    pub fn begin_start(&self, shards: usize) -> Broker {
        self.spawn(None, shards, &[], &[]).0
    }

    /// A process, and where it says that it is ready.
    fn spawn(
        &self,
        file: Option<&Path>,
        shards: usize,
        overrides: &[&str],
        environment: &[(&str, &str)],
    ) -> (Broker, PathBuf) {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let said = self.path.join(format!("stdout.{start}"));
        let log = self.path.join(format!("stderr.{start}"));
        let mut command = self.command();
        command.args(file);
        command.args(&*self.arguments.lock().unwrap());
        let mut set = |pair: &str| {
            command.args(["--override", pair]);
        };
        set(&format!("log.dirs={}", self.logs().display()));
        set("listeners=PLAINTEXT://127.0.0.1:0");
        set("advertised.listeners=PLAINTEXT://127.0.0.1:0");
        set("corelog.http.listener=127.0.0.1:0");
        set("corelog.memory.bytes=67108864");
        // Many brokers share one disk here.
        set("corelog.disk.reserve.bytes=1048576");
        set(&format!("corelog.shards={shards}"));
        overrides.iter().for_each(|pair| set(pair));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&said))
            .stderr(create(&log))
            .env_remove("CORELOG_LOG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        let broker = Broker {
            child,
            kafka: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
        };
        (broker, said)
    }

    fn command(&self) -> Command {
        let broker = env!("CARGO_BIN_EXE_corelogd");
        let before = self.before.lock().unwrap();
        if before.is_empty() {
            return Command::new(broker);
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before} && exec \"$0\" \"$@\""), broker]);
        shell
    }

    /// Files of a partition whose names end so, in order.
    pub fn files(&self, topic: &str, partition: i32, suffix: &str) -> Vec<PathBuf> {
        let dir = self.logs().join(format!("{topic}-{partition}"));
        let entries = blocking::read_dir(dir).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().ends_with(suffix))
            .collect();
        files.sort();
        files
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = blocking::remove_dir_all(&self.path);
        }
    }
}

fn create(path: &Path) -> std::fs::File {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    blocking::open_file_with(path, &options).unwrap()
}

/// A running broker.
pub struct Broker {
    child: Child,
    /// Where Kafka's protocol is spoken.
    pub kafka: SocketAddr,
    /// Where /metrics and /health are.
    pub http: SocketAddr,
    log: PathBuf,
}

impl Broker {
    /// A new connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.kafka)
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        blocking::read_to_string(&self.log).unwrap()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The most memory it ever had resident, in KiB.
    pub fn peak_rss_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = blocking::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.expect("the kernel tells").parse().unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: no memory is passed; the child was not waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for its end.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = poll("the end of the broker", || self.child.try_wait().unwrap());
        (status, self.log())
    }

    /// Stops it cleanly and gives what it logged.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        let (status, log) = self.ended();
        assert!(status.success(), "clean stop: {status}\n{log}");
        log
    }

    /// kill -9.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log()
    }

    /// GET of its HTTP listener: status line and body.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = blocking::tcp_connect(self.http).unwrap();
        stream.set_read_timeout(Some(POLL_MAX)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.lines().next().unwrap_or_default();
        (status.to_owned(), body.to_owned())
    }

    /// A metric's sum over all shards; only lines that have all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let (status, body) = self.get("/metrics");
        assert!(status.ends_with("200 OK"), "{status}");
        let mut found = false;
        let mut sum = 0;
        for line in body.lines() {
            let of_name = line
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('{'));
            if of_name && labels.iter().all(|label| line.contains(label)) {
                let value = line.rsplit(' ').next().unwrap_or_default();
                sum += value.parse::<u64>().unwrap();
                found = true;
            }
        }
        assert!(found || !labels.is_empty(), "no metric {name}");
        sum
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
