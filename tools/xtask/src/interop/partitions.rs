//! `partitions`: 10,000 partitions (1,000 with --quick) in one process that may open 16,384 files: created, written,
//! read, started again after a clean stop and after kill -9; then 1,000 partitions and 1,000 connections at rest.

use super::clients::CALL_LIMIT;
use super::subject::{Broker, Spec};
use super::{Setting, Suite};
use crate::process::{self, Dialogue, command, number};
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const OPEN_FILES: u64 = 16_384;
const TOPIC: &str = "many";
/// Bounds of the disk and of the memory in use, for any number of partitions up to 10,000.
const DISK_MIB_MAX: u64 = 1_024;
const RSS_MIB_MAX: u64 = 512;
/// The broker at rest.
const IDLE_PARTITIONS: u32 = 1_000;
const IDLE_CONNECTIONS: u32 = 1_000;
/// CPU time per second of rest: 0.6 s in 60 s.
const IDLE_SHARE_MAX: f64 = 0.01;
const SAMPLE: Duration = Duration::from_millis(200);
/// Descriptors of one connection more than the segment files may have.
const OTHER_FILES: u64 = 512;

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let partitions = if setting.quick { 1_000 } else { 10_000 };
    let data = setting.dir("data")?;
    many(setting, suite, &data, partitions)?;
    idle(setting, suite)
}

fn many(setting: &Setting, suite: &mut Suite, data: &Path, partitions: u32) -> Result<()> {
    let mut spec = Spec::new(data);
    spec.open_files = Some(OPEN_FILES);
    let mut broker = Broker::start(setting, &spec)?;
    spec.port = broker.port()?;
    let said = broker.lines().iter().any(|line| {
        line.contains(&format!("open files: limit {OPEN_FILES}")) && line.contains("segment files")
    });
    suite.check(
        said,
        "the limit of open files is printed with what it allows",
    );
    let mut steps = Steps::new(&broker, data)?;
    steps.time(suite, "create", || {
        let mut create = setting.clients.kafka("kafka-topics");
        create.args(["--bootstrap-server", &broker.kafka, "--create"]);
        create.args(["--topic", TOPIC, "--replication-factor", "1"]);
        create.args(["--partitions", &partitions.to_string()]);
        process::run(&mut create, &setting.scratch, CALL_LIMIT)?.ok("kafka-topics")
    })?;
    let mut client = client(setting, &broker, partitions)?;
    let mut ask =
        |steps: &mut Steps, suite: &mut Suite, step: &str, line: &str, key: &str, expected: u64| {
            let answer = steps.time(suite, step, || client.ask(line, CALL_LIMIT))?;
            let count = number(&answer, key)?;
            suite.check(count == expected, format!("{step}: {answer}"));
            anyhow::Ok(())
        };
    let all = u64::from(partitions);
    ask(&mut steps, suite, "write", "write 0", "acked", all)?;
    ask(&mut steps, suite, "read", "read 1", "read", all)?;
    let code = steps.time(suite, "stop", || broker.stop())?;
    suite.check(code == 0, format!("clean stop: exit code {code}"));
    steps.end();
    broker = steps.time(suite, "clean start", || Broker::start(setting, &spec))?;
    steps.watch(&broker)?;
    ask(
        &mut steps,
        suite,
        "read after the clean start",
        "read 1",
        "read",
        all,
    )?;
    ask(&mut steps, suite, "write again", "write 1", "acked", all)?;
    steps.end();
    broker.kill()?;
    broker = steps.time(suite, "start after kill -9", || {
        Broker::start(setting, &spec)
    })?;
    steps.watch(&broker)?;
    ask(
        &mut steps,
        suite,
        "read after kill -9",
        "read 2",
        "read",
        2 * all,
    )?;
    client.send("quit")?;
    let code = steps.time(suite, "stop again", || broker.stop())?;
    suite.check(code == 0, format!("clean stop: exit code {code}"));
    steps.end();
    steps.judge(suite, partitions);
    Ok(())
}

fn client(setting: &Setting, broker: &Broker, partitions: u32) -> Result<Dialogue> {
    let mut helper = setting.clients.python("partitions.py");
    helper.args([&broker.kafka, TOPIC, &partitions.to_string()]);
    Dialogue::start(&mut helper, CALL_LIMIT)
}

/// Written partitions after a restart, and connections that say nothing: what they cost per second.
fn idle(setting: &Setting, suite: &mut Suite) -> Result<()> {
    let data = setting.dir("idle")?;
    let mut spec = Spec::new(&data).set("corelog.memory.bytes=67108864");
    spec.open_files = Some(OPEN_FILES);
    let mut broker = Broker::start(setting, &spec)?;
    spec.port = broker.port()?;
    let (kafka, clients) = (&broker.kafka, &setting.clients);
    clients.create_topic(&setting.scratch, kafka, TOPIC, IDLE_PARTITIONS, &[])?;
    let mut client = client(setting, &broker, IDLE_PARTITIONS)?;
    client.ask("write 0", CALL_LIMIT)?;
    broker.stop()?;
    broker = Broker::start(setting, &spec)?;
    let answer = client.ask(&format!("connect {IDLE_CONNECTIONS}"), CALL_LIMIT)?;
    let connected = number(&answer, "connected")?;
    suite.check(connected == u64::from(IDLE_CONNECTIONS), answer);
    let pid = broker.pid()?;
    std::thread::sleep(Duration::from_secs(2));
    let rest = Duration::from_secs(if setting.quick { 20 } else { 60 });
    let before = cpu_seconds(pid)?;
    std::thread::sleep(rest);
    let used = cpu_seconds(pid)? - before;
    let (rss, files) = (rss_kib(pid)? >> 10, open_files(pid)?);
    suite.check(
        used < IDLE_SHARE_MAX * rest.as_secs_f64(),
        format!(
            "{IDLE_PARTITIONS} partitions and {connected} connections at rest for {} s: cpu_seconds={used:.2} \
             rss_mib={rss} open_files={files}",
            rest.as_secs()
        ),
    );
    client.send("quit")?;
    let code = broker.stop()?;
    suite.check(code == 0, format!("clean stop: exit code {code}"));
    Ok(())
}

/// What the steps cost, and the most that was in use at any time.
struct Steps<'a> {
    data: &'a Path,
    pid: u32,
    watcher: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    files_max: Arc<AtomicU64>,
    rss_kib_max: u64,
    disk_mib_max: u64,
}

impl<'a> Steps<'a> {
    fn new(broker: &Broker, data: &'a Path) -> Result<Steps<'a>> {
        let mut steps = Steps {
            data,
            pid: 0,
            watcher: None,
            files_max: Arc::default(),
            rss_kib_max: 0,
            disk_mib_max: 0,
        };
        steps.watch(broker)?;
        Ok(steps)
    }

    /// Counts this broker's open files from now on.
    fn watch(&mut self, broker: &Broker) -> Result<()> {
        self.end();
        self.pid = broker.pid()?;
        let (pid, most) = (self.pid, Arc::clone(&self.files_max));
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let watcher = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                most.fetch_max(open_files(pid).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        self.watcher = Some((stop, watcher));
        Ok(())
    }

    fn end(&mut self) {
        self.pid = 0;
        if let Some((stop, watcher)) = self.watcher.take() {
            stop.store(true, Ordering::Relaxed);
            let _ = watcher.join();
        }
    }

    /// Does a step, and prints what it took and what is in use after it.
    fn time<T>(
        &mut self,
        suite: &mut Suite,
        step: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        let cpu = cpu_seconds(self.pid).unwrap_or(0.0);
        let done = work().with_context(|| step.to_owned())?;
        let seconds = begin.elapsed().as_secs_f64();
        let disk = disk_mib(self.data)?;
        self.disk_mib_max = self.disk_mib_max.max(disk);
        // A broker that is gone has no memory, and says no more what it used.
        let cpu = cpu_seconds(self.pid).map_or(0.0, |now| now - cpu);
        let (now, peak) = (
            rss_kib(self.pid).unwrap_or(0),
            peak_rss_kib(self.pid).unwrap_or(0),
        );
        self.rss_kib_max = self.rss_kib_max.max(peak);
        suite.check(
            true,
            format!(
                "{step}: seconds={seconds:.2} broker_cpu_seconds={cpu:.2} rss_mib={} open_files_max={} du_mib={disk}",
                now >> 10,
                self.files_max.load(Ordering::Relaxed)
            ),
        );
        Ok(done)
    }

    fn judge(&self, suite: &mut Suite, partitions: u32) {
        let files = self.files_max.load(Ordering::Relaxed);
        let rss = self.rss_kib_max >> 10;
        suite.check(
            files > 0 && files <= OPEN_FILES / 2 + OTHER_FILES,
            format!("{partitions} partitions: at most {files} files open at once, of {OPEN_FILES}"),
        );
        suite.check(
            rss > 0 && rss < RSS_MIB_MAX,
            format!("{partitions} partitions: at most {rss} MiB of memory"),
        );
        suite.check(
            self.disk_mib_max < DISK_MIB_MAX,
            format!(
                "{partitions} partitions: at most {} MiB of disk",
                self.disk_mib_max
            ),
        );
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Descriptors of a process now.
fn open_files(pid: u32) -> Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with(key))
        .context("no such line")?;
    let value = line.split_whitespace().nth(1).context("a number of kB")?;
    Ok(value.parse()?)
}

fn rss_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

fn peak_rss_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |index: usize| -> Result<f64> {
        Ok(fields
            .get(index)
            .context("a short /proc/PID/stat")?
            .parse::<f64>()?)
    };
    // SAFETY: sysconf reads a constant.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok((ticks(11)? + ticks(12)?) / per_second)
}

fn disk_mib(dir: &Path) -> Result<u64> {
    let mut du = command("du");
    du.args(["-s", "-m"])
        .arg(dir)
        .stderr(std::process::Stdio::null());
    // Files come and go meanwhile, of which du complains.
    let output = du.output().context("du")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mib = text
        .split_whitespace()
        .next()
        .context("du printed nothing")?;
    Ok(mib.parse()?)
}
