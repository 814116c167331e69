//! Child processes that do not outlive this one, and never run for longer than they may.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    manifest
        .ancestors()
        .nth(2)
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A command that the kernel kills when this process is gone, however it goes.
///
/// The signal is tied to the thread that spawns: spawn from the main thread only.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// Kills and reaps its child when dropped.
pub struct Guard(pub Child);

impl Guard {
    /// Waits for the end; `None` when the time is over and the child still runs.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal; a child that is gone already is no error.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been reaped (we hold it), so the id is still its own.
        unsafe { libc::kill(self.0.id().cast_signed(), signal) };
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command printed, and how it ended.
pub struct Output {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The last lines of both streams, for a message.
    pub fn tail(&self) -> String {
        let all = format!("{}\n{}", self.stdout.trim_end(), self.stderr.trim_end());
        let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(8)..].join("\n    ")
    }

    /// Standard output, or an error that shows what went wrong.
    pub fn ok(self, what: &str) -> Result<String> {
        if self.code != 0 {
            bail!(
                "{what} ended with exit code {}:\n    {}",
                self.code,
                self.tail()
            );
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end within `limit`; standard input is as set by the caller, output goes through files in `scratch`.
pub fn run(command: &mut Command, scratch: &Path, limit: Duration) -> Result<Output> {
    let name = format!("{:?}", command.get_program());
    let (out, err) = (scratch.join("stdout"), scratch.join("stderr"));
    command
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?);
    let mut child = Guard(
        command
            .spawn()
            .with_context(|| format!("cannot run {name}"))?,
    );
    let status = child.wait_for(limit)?;
    drop(child);
    let read =
        |path: &Path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (stdout, mut stderr) = (read(&out)?, read(&err)?);
    let code = match status {
        Some(status) => status.code().unwrap_or(-1),
        None => {
            stderr.push_str(&format!(
                "\n{name} did not end within {} s and was killed",
                limit.as_secs()
            ));
            -1
        }
    };
    Ok(Output {
        code,
        stdout,
        stderr,
    })
}

/// A child that is asked line by line.
pub struct Dialogue {
    name: String,
    // Declared before the child: its end of input comes first, then the kill.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    child: Guard,
}

impl Dialogue {
    /// Starts the child and waits for its first line, `ready`. Its standard error is this process's own.
    pub fn start(command: &mut Command, limit: Duration) -> Result<Dialogue> {
        let name = format!("{:?}", command.get_args().next().unwrap_or_default());
        let mut child = Guard(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let input = child.0.stdin.take();
        let output = child
            .0
            .stdout
            .take()
            .context("standard output was asked for")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut dialogue = Dialogue {
            name,
            input,
            lines,
            child,
        };
        let first = dialogue.answer(limit)?;
        if first != "ready" {
            bail!("{} began with `{first}`", dialogue.name);
        }
        Ok(dialogue)
    }

    /// Sends one command without waiting for its answer.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .context("the input is open until the end")?;
        writeln!(input, "{line}").with_context(|| format!("{} is gone", self.name))
    }

    /// The next line of the child.
    pub fn answer(&mut self, limit: Duration) -> Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} gave no answer in {} s", self.name, limit.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait_for(Duration::from_secs(5))?;
                bail!(
                    "{} ended early ({status:?}); its last words are above",
                    self.name
                )
            }
        }
    }

    /// Sends one command and waits for its answer.
    pub fn ask(&mut self, line: &str, limit: Duration) -> Result<String> {
        self.send(line)?;
        self.answer(limit)
            .with_context(|| format!("asked `{line}`"))
    }
}

/// The value of `key` in a line of `key=value` words.
pub fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The same, as a number.
pub fn number(line: &str, key: &str) -> Result<u64> {
    let value = word(line, key).with_context(|| format!("no `{key}=` in `{line}`"))?;
    value
        .parse()
        .with_context(|| format!("`{key}={value}` is not a number"))
}
