//! A file system of a suite's own, frozen: what is written to it waits. It is thawed whatever becomes of the suite.

use crate::process::{Guard, command, run};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long it stays frozen at most.
const HOLD_SECONDS_MAX: u32 = 30;
const LIMIT: Duration = Duration::from_secs(60);

/// Thaws at the end of its input, which comes however the suite ends, and by itself when it takes too long.
const HOLDER: &str = r#"
trap '' INT TERM HUP
fsfreeze --freeze "$1" || exit 2
: >"$3"
read -r -t "$2" _
ended=$?
fsfreeze --unfreeze "$1" || exit 3
[ "$ended" -le 1 ] || exit 4
"#;

/// A frozen file system. While it lives, this process must touch nothing on it, nor on what is nested in it, and a
/// child that does may hang: what kills and reaps such a child must be declared before this, so that it is dropped after.
pub struct Frozen {
    holder: Guard,
    mount: PathBuf,
    scratch: PathBuf,
    thawed: bool,
}

impl Frozen {
    /// Freezes what is mounted at `mount`; `scratch` is elsewhere. Needs root.
    pub fn new(mount: &Path, scratch: &Path) -> Result<Frozen> {
        let flag = scratch.join("frozen");
        let _ = std::fs::remove_file(&flag);
        // Not a child that dies with this process: it has to thaw.
        let mut holder = Command::new("bash");
        holder.args(["-c", HOLDER, "holder"]).arg(mount);
        holder.arg(HOLD_SECONDS_MAX.to_string()).arg(&flag);
        let holder = Guard(holder.stdin(Stdio::piped()).spawn().context("bash")?);
        let mut frozen = Frozen {
            holder,
            mount: mount.to_path_buf(),
            scratch: scratch.to_path_buf(),
            thawed: false,
        };
        let deadline = Instant::now() + LIMIT;
        while !flag.exists() {
            let ended = frozen.holder.wait_for(Duration::from_millis(5))?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("fsfreeze {} did not freeze: {ended:?}", mount.display());
            }
        }
        Ok(frozen)
    }

    /// Thaws it; an error when it had thawed before, so that nothing seen until now says anything.
    pub fn thaw(mut self) -> Result<()> {
        let status = self.end()?;
        ensure!(
            status != Some(4),
            "frozen for over {HOLD_SECONDS_MAX} s, so it was thawed early"
        );
        ensure!(
            status == Some(0),
            "fsfreeze --unfreeze {} failed",
            self.mount.display()
        );
        Ok(())
    }

    fn end(&mut self) -> Result<Option<i32>> {
        drop(self.holder.0.stdin.take());
        let status = self.holder.wait_for(LIMIT)?;
        self.thawed = status.is_some();
        Ok(status.and_then(|status| status.code()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.thawed || matches!(self.end(), Ok(Some(_))) {
            return;
        }
        // The holder is stuck or was killed: a last attempt of our own, whose error cannot be helped.
        let mut thaw = command("fsfreeze");
        thaw.arg("--unfreeze").arg(&self.mount);
        let _ = run(&mut thaw, &self.scratch, LIMIT);
    }
}
