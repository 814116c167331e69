//! `barrier`: a direct write outlives the broker that was killed, and the call that recovery makes before it reads waits
//! for it, on ext4 and on XFS (R32).
//!
//! The broker writes to a file system whose device is a file on a second one. That one is frozen, so the write stays in
//! flight for as long as the suite likes; what it held back lands when it thaws.

use super::clients::CALL_LIMIT;
use super::freeze::Frozen;
use super::loop_device::{FileSystem, LoopDevice};
use super::subject::{Broker, Spec, Subject};
use super::{Setting, Suite};
use crate::process::{self, Guard, command};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOPIC: &str = "barrier";
const OUTER_BYTES: u64 = 1 << 30;
const INNER_BYTES: u64 = 512 << 20;
/// For what must happen while the file system is frozen: less than the freeze lasts.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the call is watched not to return, and how long the file afterwards not to change.
const WATCHED: Duration = Duration::from_secs(1);
const FIRST: &str = "landed before the freeze";
const SECOND: &str = "in flight when the broker was killed";

/// Runs the suite.
pub fn run(setting: &Setting, suite: &mut Suite) -> Result<()> {
    ensure!(
        matches!(setting.subject, Subject::Corelog(_)),
        "this suite is about the broker's own direct writes; it needs a corelogd that it starts itself"
    );
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        on(setting, suite, kind).with_context(|| kind.name())?;
    }
    Ok(())
}

/// `fallocate(KEEP_SIZE, 0, 4096)` on `file`. Not fallocate(1): that calls fsync as well, which waits for other things.
pub fn call(file: &Path) -> Result<()> {
    let file = File::options().write(true).open(file)?;
    // SAFETY: the descriptor is open for as long as `file` lives; no memory is passed.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, 4096) };
    ensure!(done == 0, "fallocate: {}", std::io::Error::last_os_error());
    Ok(())
}

/// One file system with a broker on it.
struct Scene<'a> {
    kind: FileSystem,
    // Dropped in this order: the processes before what they write to, the inner device before the one it lies on.
    broker: Broker,
    inner: LoopDevice,
    outer: LoopDevice,
    dir: &'a Path,
    segment: PathBuf,
    /// A file that nobody writes to.
    other: PathBuf,
}

fn on(setting: &Setting, suite: &mut Suite, kind: FileSystem) -> Result<()> {
    let name = kind.name();
    let dir = setting.dir(name)?;
    let mut scene = Scene::new(setting, &dir, kind)?;

    // Frozen and thawed once, the file system has no journal or log of its own left to write while the other is frozen.
    Frozen::new(&scene.inner.mount, &dir)?.thaw()?;
    wait_for("the device is idle", || {
        Ok(scene.inner.writes_in_flight()? == 0)
    })?;
    let before = content(&scene.segment, &dir)?;
    suite.check(
        holds(&before, FIRST) && !holds(&before, SECOND),
        format!("{name}: the first record is in the file, the second is not yet"),
    );

    // Declared before the freeze, so that on every way out the thaw comes before the wait for them.
    let mut children = Vec::new();
    let frozen = Frozen::new(&scene.outer.mount, &dir)?;
    scene.while_frozen(suite, &mut children, before.len())?;
    frozen.thaw()?;

    for child in &mut children {
        ensure!(returned(child, LIMIT)?, "a call hangs after the thaw");
    }
    suite.check(true, format!("{name}: it returns once the write can land"));
    let after = content(&scene.segment, &dir)?;
    suite.check(
        holds(&after, FIRST) && holds(&after, SECOND),
        format!("{name}: the file then holds what a read before the barrier would have missed"),
    );
    std::thread::sleep(WATCHED);
    suite.check(
        content(&scene.segment, &dir)? == after,
        format!(
            "{name}: {} s later its {} bytes are the same",
            WATCHED.as_secs(),
            after.len()
        ),
    );
    Ok(())
}

impl Scene<'_> {
    /// A broker with one record in one partition.
    fn new<'a>(setting: &Setting, dir: &'a Path, kind: FileSystem) -> Result<Scene<'a>> {
        let outer = LoopDevice::new(dir, OUTER_BYTES)?;
        let inner = outer.nested(INNER_BYTES, kind)?;
        let other = inner.mount.join("other");
        std::fs::write(&other, [0; 4096])?;
        let data = inner.mount.join("data");
        std::fs::create_dir_all(&data)?;
        let spec = Spec {
            log: dir.join("broker.log"),
            ..Spec::new(&data)
        };
        // A checkpoint during the freeze is an fsync that the kill would wait for.
        let spec = spec
            .set("replica.high.watermark.checkpoint.interval.ms=3600000")
            .set("log.flush.offset.checkpoint.interval.ms=3600000");
        let broker = Broker::start(setting, &spec)?;
        setting
            .clients
            .create_topic(dir, &broker.kafka, TOPIC, 1, &[])?;
        produce(&broker.kafka, dir, FIRST, "all")?;
        Ok(Scene {
            kind,
            broker,
            inner,
            outer,
            dir,
            segment: data.join(format!("{TOPIC}-0/00000000000000000000.log")),
            other,
        })
    }

    /// A write in flight, the kill, and the barrier, which is left waiting as the last of `children`.
    fn while_frozen(
        &mut self,
        suite: &mut Suite,
        children: &mut Vec<Guard>,
        bytes: usize,
    ) -> Result<()> {
        let name = self.kind.name();
        produce(&self.broker.kafka, self.dir, SECOND, "0")?;
        wait_for("a write is in flight", || {
            Ok(self.inner.writes_in_flight()? > 0)
        })?;
        self.broker.kill()?;
        let in_flight = self.inner.writes_in_flight()?;
        suite.check(
            in_flight > 0,
            format!("{name}: the killed broker is gone, writes still in flight: {in_flight}"),
        );

        // Neither the freeze nor a journal holds the call itself: on a file without direct I/O it returns.
        let on_other = watch(children, &mut barrier(&self.other), LIMIT)?;
        suite.check(
            on_other.is_none(),
            format!("{name}: on another file the barrier returns meanwhile"),
        );
        // No promise of ours, but the reason for this call and no other. XFS would wait here, and the barrier behind it.
        if let FileSystem::Ext4 = self.kind {
            let waits = watch(children, &mut same_size(&self.segment, bytes), WATCHED)?;
            let verb = waits.map_or("returns meanwhile, it would be no barrier", |_| "waits too");
            println!("  {name}: ftruncate to the same size {verb}");
        }
        let on_segment = watch(children, &mut barrier(&self.segment), WATCHED)?;
        let seconds = WATCHED.as_secs();
        let what = match &on_segment {
            Some(place) => format!("waits, after {seconds} s in {place}"),
            None => "returned although the write had not landed".to_owned(),
        };
        suite.check(
            on_segment.is_some(),
            format!("{name}: on the written file it {what}"),
        );
        Ok(())
    }
}

/// Starts a call that may hang until the thaw; `None` when it returned within `limit`, or else where it waits.
fn watch(children: &mut Vec<Guard>, call: &mut Command, limit: Duration) -> Result<Option<String>> {
    let mut child = Guard(call.stdin(Stdio::null()).spawn()?);
    let ended = returned(&mut child, limit);
    let place = waits_in(&child);
    children.push(child);
    Ok(if ended? { None } else { Some(place) })
}

/// The barrier on `file`, in a process of its own.
fn barrier(file: &Path) -> Command {
    // By this name it is the program that runs, even when its file has been built anew meanwhile.
    let mut call = command("/proc/self/exe");
    call.arg("barrier").arg(file);
    call
}

/// ftruncate(2) to the length that the file has, in a process of its own.
fn same_size(file: &Path, bytes: usize) -> Command {
    let mut truncate = command("truncate");
    truncate.arg(format!("--size={bytes}")).arg(file);
    truncate
}

/// Whether the child ended well within `limit`; false while it still runs.
fn returned(child: &mut Guard, limit: Duration) -> Result<bool> {
    match child.wait_for(limit)? {
        Some(status) if !status.success() => bail!("a call failed: {status}"),
        ended => Ok(ended.is_some()),
    }
}

/// Where in the kernel a child sleeps; for the reader only, names change between kernels.
fn waits_in(child: &Guard) -> String {
    let stack = std::fs::read_to_string(format!("/proc/{}/stack", child.0.id()));
    let stack = stack.unwrap_or_default();
    let calls = stack.lines().filter_map(|line| {
        let call = line.split_whitespace().nth(1)?;
        call.split('+').next()
    });
    let calls: Vec<_> = calls.take(2).collect();
    if calls.is_empty() {
        "a place the kernel does not tell".to_owned()
    } else {
        calls.join(" < ")
    }
}

fn produce(bootstrap: &str, dir: &Path, record: &str, acks: &str) -> Result<()> {
    let input = dir.join("record");
    std::fs::write(&input, record)?;
    let mut kcat = command("kcat");
    kcat.args(["-P", "-b", bootstrap, "-t", TOPIC, "-p", "0"]);
    kcat.args(["-X", &format!("acks={acks}")]);
    kcat.stdin(File::open(&input)?);
    process::run(&mut kcat, dir, LIMIT)?.ok("kcat")?;
    Ok(())
}

/// The bytes on the device, past every cache. Never while it is frozen.
fn content(file: &Path, dir: &Path) -> Result<Vec<u8>> {
    let copy = dir.join("copy");
    let mut dd = command("dd");
    dd.args(["iflag=direct", "bs=1M", "status=none"]);
    dd.arg(format!("if={}", file.display()));
    dd.arg(format!("of={}", copy.display()));
    process::run(&mut dd, dir, CALL_LIMIT)?.ok("dd")?;
    Ok(std::fs::read(&copy)?)
}

fn holds(bytes: &[u8], record: &str) -> bool {
    bytes
        .windows(record.len())
        .any(|window| window == record.as_bytes())
}

fn wait_for(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !so()? {
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
