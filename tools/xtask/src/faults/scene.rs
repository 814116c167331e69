//! What the faults share: a broker under load, what the load saw, and things that go when they are dropped.

use crate::interop::Setting;
use crate::interop::subject::{Broker, Spec, Subject};
use crate::process::{Dialogue, command, number, run, word};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Partitions of each of the two topics.
pub const PARTITIONS: u32 = 4;
const ANSWER_LIMIT: Duration = Duration::from_secs(240);
/// For what the fault must bring about.
pub const FAULT_LIMIT: Duration = Duration::from_secs(60);

/// How a fault went.
pub struct Outcome {
    line: String,
    healed_ms: u64,
    restarts: u32,
    /// What shows that the fault was met, or `Err` with what was missing.
    hit: std::result::Result<String, String>,
}

impl Outcome {
    /// Prints it; false when something was lost or the fault was not met.
    pub fn tell(&self) -> bool {
        let value = |key| word(&self.line, key).unwrap_or("?");
        println!(
            "  FAULT acked={} read={} lost={} client_errors={} healed_ms={} restarts={}",
            value("acked"),
            value("read"),
            value("lost"),
            value("errors"),
            self.healed_ms,
            self.restarts
        );
        match &self.hit {
            Ok(what) => println!("  hit: {what}"),
            Err(why) => println!("  FAILED: the fault was never hit: {why}"),
        }
        let is_zero = |key| number(&self.line, key).is_ok_and(|count| count == 0);
        if !is_zero("lost") || is_zero("acked") || is_zero("read") {
            println!("  FAILED: {}", self.line);
            return false;
        }
        self.hit.is_ok()
    }
}

/// A broker and its load.
pub struct Scene<'a> {
    setting: &'a Setting,
    /// How it is started again.
    pub spec: Spec,
    /// It runs, or was killed.
    pub broker: Broker,
    load: Dialogue,
    restarts: u32,
}

impl<'a> Scene<'a> {
    /// Starts the broker, makes the topics and produces.
    pub fn new(setting: &'a Setting, spec: Spec, topic_config: &[&str]) -> Result<Scene<'a>> {
        let mut spec = spec;
        let broker = Broker::start(setting, &spec)?;
        spec.port = broker.port()?;
        let mut helper = setting.clients.python("fault_load.py");
        helper
            .args([&broker.kafka, &PARTITIONS.to_string()])
            .args(topic_config);
        let mut load = Dialogue::start(&mut helper, ANSWER_LIMIT)?;
        load.ask("load", ANSWER_LIMIT)?;
        let mut scene = Scene {
            setting,
            spec,
            broker,
            load,
            restarts: 0,
        };
        scene.wait_for("acknowledgements", |scene| Ok(scene.acked()? > 1_000))?;
        Ok(scene)
    }

    /// One command to the load.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.load.ask(line, ANSWER_LIMIT)
    }

    /// Records acknowledged so far.
    pub fn acked(&mut self) -> Result<u64> {
        number(&self.ask("acked")?, "acked")
    }

    /// Errors of this code that the clients saw so far.
    pub fn errors(&mut self, code: &str) -> Result<u64> {
        let answer = self.ask("acked")?;
        let errors = word(&answer, "errors").unwrap_or_default();
        let of_code = errors
            .split(',')
            .filter_map(|one| one.strip_prefix(code)?.strip_prefix(':'));
        Ok(of_code.filter_map(|count| count.parse::<u64>().ok()).sum())
    }

    /// Waits until it is so.
    pub fn wait_for(
        &mut self,
        what: &str,
        mut so: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + FAULT_LIMIT;
        while !so(self)? {
            ensure!(!super::cleanup::is_stopped(), "stopped by a signal");
            if Instant::now() > deadline {
                bail!(
                    "not within {} s: {what}; {}",
                    FAULT_LIMIT.as_secs(),
                    self.ask("acked")?
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.broker.kill()
    }

    /// Starts the broker that was killed or stopped.
    pub fn restart(&mut self) -> Result<()> {
        self.restarts += 1;
        self.broker = Broker::start(self.setting, &self.spec)?;
        Ok(())
    }

    /// Starts it and does not wait until it is ready.
    pub fn begin_restart(&mut self) -> Result<()> {
        self.restarts += 1;
        let Subject::Corelog(program) = &self.setting.subject else {
            bail!("faults are for the built corelogd");
        };
        self.broker = Broker::begin(program, &self.spec)?;
        Ok(())
    }

    /// The end of every fault: records are taken again by every partition, everything acknowledged is there, and the
    /// broker stops cleanly.
    pub fn end(mut self, hit: std::result::Result<String, String>) -> Result<Outcome> {
        self.ask("pause")?;
        let healed = self.ask("heal")?;
        let line = self.ask("check")?;
        self.load.send("quit")?;
        ensure!(self.broker.is_alive()?, "the broker is gone");
        let code = self.broker.stop()?;
        ensure!(
            code == 0,
            "the stop after the fault ended with exit code {code}"
        );
        Ok(Outcome {
            line,
            healed_ms: number(&healed, "healed_ms")?,
            restarts: self.restarts,
            hit,
        })
    }
}

/// A file system in memory; unmounted when dropped.
pub struct MemoryMount {
    /// Where it is.
    pub path: PathBuf,
    scratch: PathBuf,
}

impl MemoryMount {
    /// `kind` is tmpfs or ramfs. Needs root.
    pub fn new(scratch: &Path, kind: &str, options: &str) -> Result<MemoryMount> {
        let path = scratch.join(kind);
        std::fs::create_dir_all(&path)?;
        let mut mount = command("mount");
        mount.args(["-t", kind, "-o", options, kind]).arg(&path);
        run(&mut mount, scratch, FAULT_LIMIT)?.ok("mount (it needs root)")?;
        Ok(MemoryMount {
            path,
            scratch: scratch.to_path_buf(),
        })
    }
}

impl Drop for MemoryMount {
    fn drop(&mut self) {
        // Errors cannot be helped here.
        let _ = run(
            command("umount").arg("--lazy").arg(&self.path),
            &self.scratch,
            FAULT_LIMIT,
        );
    }
}

/// Free bytes of the file system that holds a path.
pub fn free_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain data for which zeros are valid.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends in zero, and a writable statvfs.
    let done = unsafe { libc::statvfs(path.as_ptr(), &mut found) };
    ensure!(done == 0, "statvfs: {}", std::io::Error::last_os_error());
    Ok(found.f_bavail * found.f_frsize)
}

/// Takes space with a file of its own.
pub fn fill(file: &Path, bytes: u64, scratch: &Path) -> Result<()> {
    let mut fallocate = command("fallocate");
    fallocate.args(["--length", &bytes.to_string()]).arg(file);
    run(&mut fallocate, scratch, FAULT_LIMIT)?.ok("fallocate")?;
    Ok(())
}

/// Names of the files below a directory for which `wanted` holds.
pub fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Files come and go meanwhile.
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find(&path, wanted));
        } else if entry.file_name().to_str().is_some_and(wanted) {
            found.push(path);
        }
    }
    found
}

/// A spec whose output goes beside the mounts, not into them.
pub fn spec_on(setting: &Setting, data: &Path) -> Result<Spec> {
    std::fs::create_dir_all(data).with_context(|| data.display().to_string())?;
    Ok(Spec {
        log: setting.scratch.join("broker.log"),
        ..Spec::new(data)
    })
}
