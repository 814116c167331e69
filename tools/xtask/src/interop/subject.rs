//! The broker under test: start, ready line, stop, kill, and what it says about itself.

use super::Setting;
use crate::process::{Guard, command, word};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the suites run against.
#[derive(Clone)]
pub enum Subject {
    /// The built `corelogd`.
    Corelog(PathBuf),
    /// Apache Kafka from the jars, to validate the suites.
    Kafka,
    /// A broker that somebody else started.
    Running(String),
}

/// How to start one broker.
#[derive(Clone)]
pub struct Spec {
    /// Log directory.
    pub data: PathBuf,
    /// `key=value`, Kafka's names.
    pub overrides: Vec<String>,
    /// 0: any free port.
    pub port: u16,
    /// More arguments of the command line.
    pub args: Vec<String>,
    /// Of its environment.
    pub env: Vec<(String, String)>,
    /// Limit of its open files, if it shall have one of its own.
    pub open_files: Option<u64>,
    /// Where what it prints is kept, beside the log directory if nothing else is said.
    pub log: PathBuf,
}

impl Spec {
    /// A broker on `data` and any free port.
    pub fn new(data: &Path) -> Spec {
        Spec {
            data: data.to_path_buf(),
            overrides: Vec::new(),
            port: 0,
            args: Vec::new(),
            env: Vec::new(),
            open_files: None,
            log: data.with_extension("log"),
        }
    }

    /// With one more override.
    pub fn set(mut self, key_value: &str) -> Spec {
        self.overrides.push(key_value.to_owned());
        self
    }
}

/// A running broker; dropped, it is killed.
pub struct Broker {
    child: Option<Guard>,
    /// `host:port` of the Kafka listener.
    pub kafka: String,
    /// `host:port` of `/metrics`; empty when it has none.
    pub http: String,
    lines: Arc<Mutex<Vec<String>>>,
}

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

impl Broker {
    /// Starts a broker as `spec` says and waits until it is ready.
    pub fn start(setting: &Setting, spec: &Spec) -> Result<Broker> {
        match &setting.subject {
            Subject::Corelog(program) => Broker::corelog(program, spec),
            Subject::Kafka => Broker::kafka(setting, spec),
            Subject::Running(address) => Ok(Broker {
                child: None,
                kafka: address.clone(),
                http: String::new(),
                lines: Arc::default(),
            }),
        }
    }

    /// The command line of a `corelogd` on `spec`.
    pub fn corelog_command(program: &Path, spec: &Spec) -> Command {
        let mut start = command(program);
        start.args(&spec.args);
        start
            .arg("--override")
            .arg(format!("log.dirs={}", spec.data.display()));
        start
            .arg("--override")
            .arg(format!("listeners=PLAINTEXT://127.0.0.1:{}", spec.port));
        start.args(["--override", "corelog.http.listener=127.0.0.1:0"]);
        for key_value in &spec.overrides {
            start.arg("--override").arg(key_value);
        }
        start.envs(spec.env.iter().map(|(key, value)| (key, value)));
        if let Some(files) = spec.open_files {
            limit_open_files(&mut start, files);
        }
        start.stdin(Stdio::null());
        start
    }

    /// Starts this binary.
    pub fn corelog(program: &Path, spec: &Spec) -> Result<Broker> {
        let mut start = Broker::corelog_command(program, spec);
        let mut broker = Broker::spawn(&mut start, &spec.log)?;
        let ready = broker.wait_for_line("ready ")?;
        broker.kafka = word(&ready, "kafka")
            .with_context(|| format!("no kafka= in `{ready}`"))?
            .to_owned();
        broker.http = word(&ready, "http").unwrap_or_default().to_owned();
        Ok(broker)
    }

    fn kafka(setting: &Setting, spec: &Spec) -> Result<Broker> {
        let port = if spec.port == 0 {
            free_port()?
        } else {
            spec.port
        };
        let properties = spec.data.with_extension("properties");
        let name = spec
            .data
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string();
        let metadata = setting.scratch.join(format!("kafka-metadata-{name}"));
        std::fs::write(&properties, kafka_properties(spec, port, &metadata)?)?;
        if !spec.data.join("meta.properties").exists() {
            let mut format = setting.clients.kafka("kafka-storage");
            format
                .args(["format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c"])
                .arg(&properties);
            crate::process::run(&mut format, &setting.scratch, READY_LIMIT)?
                .ok("formatting Kafka's log directory")?;
        }
        let mut start = setting.clients.kafka("kafka-server-start");
        start
            .arg(&properties)
            .env("KAFKA_OPTS", "-Dinterop.log=INFO")
            .env("KAFKA_HEAP_OPTS", "-Xmx1g");
        let mut broker = Broker::spawn(&mut start, &spec.log)?;
        broker.wait_for_line("Kafka Server started")?;
        broker.kafka = format!("127.0.0.1:{port}");
        Ok(broker)
    }

    fn spawn(start: &mut Command, log: &Path) -> Result<Broker> {
        let program = start.get_program().to_os_string();
        let mut child = start
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let log = File::options().create(true).append(true).open(log)?;
        collect(child.stdout.take(), &lines, log.try_clone()?);
        collect(child.stderr.take(), &lines, log);
        Ok(Broker {
            child: Some(Guard(child)),
            kafka: String::new(),
            http: String::new(),
            lines,
        })
    }

    fn wait_for_line(&mut self, what: &str) -> Result<String> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(what)) {
                return Ok(line);
            }
            let child = self
                .child
                .as_mut()
                .context("this broker was not started here")?;
            let ended = child.wait_for(Duration::ZERO)?;
            if ended.is_some() || Instant::now() > deadline {
                std::thread::sleep(Duration::from_millis(100));
                let lines = self.lines();
                let last = lines[lines.len().saturating_sub(8)..].join("\n    ");
                bail!(
                    "no line `{what}`; the broker {}:\n    {last}",
                    ended.map_or("hangs", |_| "ended")
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything it has printed so far, both streams.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .child
            .as_ref()
            .context("this suite needs a broker that it starts itself")?
            .0
            .id())
    }

    /// The port of its Kafka listener.
    pub fn port(&self) -> Result<u16> {
        Ok(self
            .kafka
            .parse::<SocketAddr>()
            .with_context(|| self.kafka.clone())?
            .port())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let child = self.child.as_ref();
        child
            .context("this suite needs a broker that it starts itself")?
            .signal(signal);
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> Result<bool> {
        let child = self.child.as_mut();
        let child = child.context("this suite needs a broker that it starts itself")?;
        Ok(child.wait_for(Duration::ZERO)?.is_none())
    }

    /// Starts this binary and waits for nothing.
    pub fn begin(program: &Path, spec: &Spec) -> Result<Broker> {
        Broker::spawn(&mut Broker::corelog_command(program, spec), &spec.log)
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        let child = self
            .child
            .as_mut()
            .context("this suite needs a broker that it starts itself")?;
        child.signal(libc::SIGKILL);
        ensure!(
            child.wait_for(STOP_LIMIT)?.is_some(),
            "the broker survived kill -9"
        );
        Ok(())
    }

    /// SIGTERM, and the exit code of the clean stop (143 for Kafka's JVM).
    pub fn stop(&mut self) -> Result<i32> {
        let child = self
            .child
            .as_mut()
            .context("this suite needs a broker that it starts itself")?;
        child.signal(libc::SIGTERM);
        let status = child.wait_for(STOP_LIMIT)?;
        let status = status.with_context(|| {
            format!("the broker did not stop within {} s", STOP_LIMIT.as_secs())
        })?;
        Ok(status.code().unwrap_or(-1))
    }

    /// Sum over the samples of `name` whose labels hold `label` (empty: all).
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let text = http_get(&self.http, "/metrics")?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "/metrics has no {name} {label}");
        Ok(values.iter().sum())
    }
}

fn collect(
    stream: Option<impl Read + Send + 'static>,
    lines: &Arc<Mutex<Vec<String>>>,
    mut log: File,
) {
    let Some(stream) = stream else { return };
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            // A log that cannot be written is no reason to stop listening.
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text);
            line.clear();
        }
    });
}

fn kafka_properties(spec: &Spec, port: u16, metadata: &Path) -> Result<String> {
    let controller = free_port()?;
    let own = spec
        .overrides
        .iter()
        .filter(|line| !line.starts_with("corelog."))
        .cloned();
    let mut lines = vec![
        "process.roles=broker,controller".to_owned(),
        "node.id=1".to_owned(),
        format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
        format!("listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
        format!("log.dirs={}", spec.data.display()),
        // Its own log is flushed all the time; the suites look at the flushes of records.
        format!("metadata.log.dir={}", metadata.display()),
        "offsets.topic.replication.factor=1".to_owned(),
        // Without it Kafka ignores flush.ms.
        "log.flush.scheduler.interval.ms=10".to_owned(),
    ];
    lines.extend(own);
    Ok(lines.join("\n") + "\n")
}

fn limit_open_files(start: &mut Command, files: u64) {
    let limit = libc::rlimit {
        rlim_cur: files,
        rlim_max: files,
    };
    // SAFETY: setrlimit is async-signal-safe, and `limit` is a copy of the child's own.
    unsafe {
        start.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A minimal HTTP GET.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    ensure!(!address.is_empty(), "this broker has no HTTP listener");
    let mut socket =
        TcpStream::connect(address).with_context(|| format!("cannot reach http://{address}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "http://{address}{path}: {}",
        answer.lines().next().unwrap_or("")
    );
    Ok(answer)
}
