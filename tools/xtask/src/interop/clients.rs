//! Where `tools/interop/setup` put the foreign clients, and commands that call them.

use crate::process::{command, root, run, target_dir};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Enough for any single call of a client in these suites.
pub const CALL_LIMIT: Duration = Duration::from_secs(300);

/// The installed clients.
#[derive(Clone)]
pub struct Clients {
    dir: PathBuf,
    helpers: PathBuf,
}

impl Clients {
    /// Checks that everything is installed; what is missing is named together with the command that installs it.
    pub fn find() -> Result<Clients> {
        let dir = std::env::var_os("CORELOG_INTEROP_DIR")
            .map_or_else(|| target_dir().join("interop"), |dir| root().join(dir));
        let clients = Clients {
            dir,
            helpers: root().join("tools/interop"),
        };
        let mut missing = Vec::new();
        for file in [
            "venv/bin/python",
            "node/node_modules/kafkajs/package.json",
            "kafka/bin/kafka-run-class.sh",
        ] {
            if !clients.dir.join(file).exists() {
                missing.push(clients.dir.join(file).display().to_string());
            }
        }
        for program in [
            "kcat",
            "strace",
            "losetup",
            "mkfs.ext4",
            "mkfs.xfs",
            "fsfreeze",
            "java",
            "javac",
            "node",
            "apt-cache",
        ] {
            if !on_path(program) {
                missing.push(program.to_owned());
            }
        }
        if !missing.is_empty() {
            bail!(
                "missing: {}. Run tools/interop/setup first",
                missing.join(", ")
            );
        }
        Ok(clients)
    }

    /// A Python helper of tools/interop.
    pub fn python(&self, helper: &str) -> Command {
        let mut command = command(self.dir.join("venv/bin/python"));
        command
            .arg(self.helpers.join(helper))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null());
        command
    }

    /// The kafkajs helper.
    pub fn node(&self, helper: &str) -> Command {
        let mut command = command("node");
        command
            .arg(self.helpers.join(helper))
            .env("INTEROP_NODE", self.dir.join("node"))
            .stdin(Stdio::null());
        command
    }

    /// One of Kafka's own tools by the name of its script, without `.sh`.
    pub fn kafka(&self, script: &str) -> Command {
        let mut command = command(self.dir.join("kafka/bin").join(format!("{script}.sh")));
        command.stdin(Stdio::null());
        command
    }

    /// Compiles a Java helper of tools/interop against Kafka's jars; the classes go to `classes`.
    pub fn compile_java(&self, helpers: &[&str], classes: &Path, scratch: &Path) -> Result<()> {
        let mut compile = command("javac");
        compile.args(["-nowarn", "-proc:none", "-d"]).arg(classes);
        compile.arg("-cp").arg(self.dir.join("kafka/libs/*"));
        compile.args(helpers.iter().map(|helper| self.helpers.join(helper)));
        compile.stdin(Stdio::null());
        run(&mut compile, scratch, CALL_LIMIT)?.ok("javac")?;
        Ok(())
    }

    /// A compiled Java helper.
    pub fn java(&self, classes: &Path, class: &str) -> Command {
        let mut command = self.kafka("kafka-run-class");
        let mut path = classes.as_os_str().to_owned();
        path.push(":");
        path.push(self.dir.join("kafka/libs/*"));
        // The last class path counts.
        command.arg("-cp").arg(path).arg(class);
        command.env("KAFKA_HEAP_OPTS", "-Xmx256m");
        command
    }

    /// Where a file of tools/interop is.
    pub fn helper(&self, name: &str) -> PathBuf {
        self.helpers.join(name)
    }

    /// Creates a topic through librdkafka and waits for its leaders.
    pub fn create_topic(
        &self,
        scratch: &Path,
        bootstrap: &str,
        topic: &str,
        partitions: u32,
        config: &[&str],
    ) -> Result<()> {
        let mut create = self.python("matrix.py");
        create
            .args(["create", bootstrap, topic, &partitions.to_string()])
            .args(config);
        run(&mut create, scratch, CALL_LIMIT)?.ok(&format!("creating topic {topic}"))?;
        Ok(())
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .any(|dir| dir.join(program).is_file())
}
