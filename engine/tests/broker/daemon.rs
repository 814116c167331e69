//! SIGHUP, and the service manager's notify socket: R60.

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corelog_net::error_code::ErrorCode;
use corelog_record::codec::Codec;
use corelog_runtime::blocking;

use crate::common::*;

const AGAIN: &str = "the configuration was read again";

/// Has the broker read its file again, and waits until it says how that went.
fn reload(broker: &Broker, says: &str) -> String {
    let before = broker.log().matches(says).count();
    broker.signal(libc::SIGHUP);
    poll("the file to be read again", || {
        let log = broker.log();
        (log.matches(says).count() > before).then_some(log)
    })
}

fn large_batch() -> bytes::Bytes {
    let row = Row {
        timestamp: now_ms(),
        value: Some(noise(1, 8000)),
        ..Row::default()
    };
    batch(Codec::None, &[row])
}

fn broker_config(client: &mut Connection, key: &str) -> String {
    let value = client.config(BROKER, "1", key).value;
    value.expect("set").to_string()
}

#[test]
fn r60_sighup_applies_what_may_change_on_all_shards_and_names_the_rest() {
    let dir = DataDir::new("r60-hup");
    let file = dir.file(
        "server.properties",
        "message.max.bytes=5000\nnum.partitions=3\n",
    );
    let broker = dir.start_file(Some(&file), 2, &[]);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    for partition in 0..2 {
        let code = client.produce_error("t", partition, large_batch());
        assert_eq!(code, ErrorCode::MessageTooLarge);
    }
    dir.file(
        "server.properties",
        "message.max.bytes=50000\nnum.partitions=7\n",
    );
    let log = reload(&broker, AGAIN);
    let named = log
        .lines()
        .find(|line| line.contains("key=\"num.partitions\""));
    let named = named.unwrap_or_else(|| panic!("num.partitions is named: {log}"));
    assert!(
        named.contains("WARN") && named.contains("restart"),
        "{named}"
    );
    for partition in 0..2 {
        client.produce("t", partition, large_batch());
    }
    assert_eq!(broker_config(&mut client, "message.max.bytes"), "50000");
    assert_eq!(broker_config(&mut client, "num.partitions"), "3");
    broker.stop();
    let broker = dir.start_file(Some(&file), 2, &[]);
    let mut client = broker.connect();
    assert_eq!(broker_config(&mut client, "num.partitions"), "7");
}

#[test]
fn r60_sighup_changes_the_limit_of_connections() {
    let dir = DataDir::new("r60-hup-connections");
    let file = dir.file("server.properties", "max.connections=1\n");
    let broker = dir.start_file(Some(&file), 2, &[]);
    let mut first = broker.connect();
    first.metadata(None, false);
    assert!(broker.connect().closes(), "one too many");
    dir.file("server.properties", "max.connections=2\n");
    reload(&broker, AGAIN);
    let mut second = broker.connect();
    second.metadata(None, false);
    assert!(broker.connect().closes(), "one too many");
    first.metadata(None, false);
}

#[test]
fn r60_dynamic_configs_of_the_metadata_still_win_after_sighup() {
    let dir = DataDir::new("r60-hup-wins");
    let file = dir.file("server.properties", "message.max.bytes=5000\n");
    let broker = dir.start_file(Some(&file), 2, &[]);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    client.set_config(BROKER, "", "message.max.bytes", "4000");
    dir.file("server.properties", "message.max.bytes=50000\n");
    reload(&broker, AGAIN);
    for partition in 0..2 {
        let code = client.produce_error("t", partition, large_batch());
        assert_eq!(code, ErrorCode::MessageTooLarge);
    }
    // With the dynamic config gone the file's new value is in force, not the one of the start.
    client.alter_config(BROKER, "", "message.max.bytes", None);
    for partition in 0..2 {
        client.produce("t", partition, large_batch());
    }
}

#[test]
fn r60_a_bad_file_at_sighup_changes_nothing_and_says_why() {
    let dir = DataDir::new("r60-hup-bad");
    let file = dir.file("server.properties", "message.max.bytes=5000\n");
    let broker = dir.start_file(Some(&file), 1, &[]);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    let failed = "nothing has changed";
    dir.file(
        "server.properties",
        "log.segment.bytes=2000000\nmessage.max.bytes=many\n",
    );
    let log = reload(&broker, failed);
    assert!(
        log.contains("message.max.bytes") && log.contains("many"),
        "{log}"
    );
    assert!(log.contains("server.properties:2"), "the line: {log}");
    assert_eq!(broker_config(&mut client, "message.max.bytes"), "5000");
    assert_eq!(
        broker_config(&mut client, "log.segment.bytes"),
        "1073741824"
    );
    blocking::remove_file(&file).unwrap();
    let log = reload(&broker, failed);
    assert!(log.contains("cannot read"), "{log}");
    let code = client.produce_error("t", 0, large_batch());
    assert_eq!(code, ErrorCode::MessageTooLarge);
    broker.stop();
}

#[test]
fn r60_sighup_without_a_file_is_survived() {
    let dir = DataDir::new("r60-hup-none");
    let broker = dir.start(1);
    let log = reload(&broker, "nothing has changed");
    assert!(log.contains("without a configuration file"), "{log}");
    broker.connect().create_topic("t", 1, &[]);
    broker.stop();
}

/// A service manager's end of the notify socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    unread: VecDeque<String>,
}

impl Manager {
    fn new() -> Manager {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // Not below target: addresses of such sockets are at most 107 bytes long.
        let name = format!("corelog-notify-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = blocking::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager {
            socket,
            path,
            unread: VecDeque::new(),
        }
    }

    fn start(&self, dir: &DataDir, file: Option<&std::path::Path>, watchdog_usec: u64) -> Broker {
        let usec = watchdog_usec.to_string();
        let mut environment = vec![("NOTIFY_SOCKET", self.path.to_str().unwrap())];
        if watchdog_usec > 0 {
            environment.push(("WATCHDOG_USEC", &usec));
        }
        let started = dir.try_start_in(file, 2, &[], &environment);
        started.unwrap_or_else(|(status, log)| panic!("{status}\n{log}"))
    }

    /// The next message, if one has come.
    fn next(&mut self) -> Option<String> {
        let mut bytes = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
            self.unread.push_back(text);
        }
        self.unread.pop_front()
    }

    /// Skips messages up to one that has this line.
    fn until(&mut self, line: &str) -> String {
        poll(line, || {
            let message = self.next()?;
            message.lines().any(|l| l == line).then_some(message)
        })
    }

    /// Messages with this line among those that have come.
    fn count(&mut self, line: &str) -> usize {
        std::iter::from_fn(|| self.next())
            .filter(|message| message.lines().any(|l| l == line))
            .count()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = blocking::remove_file(&self.path);
    }
}

#[test]
fn r60_the_service_manager_is_told_of_start_reload_and_stop() {
    let dir = DataDir::new("r60-notify");
    let file = dir.file("server.properties", "num.partitions=3\n");
    let mut manager = Manager::new();
    let broker = manager.start(&dir, Some(&file), 0);
    let opening = manager.until("STATUS=opening the logs");
    assert!(!opening.contains("READY"), "not before it serves");
    assert!(manager.until("READY=1").contains("STATUS=serving"));

    dir.file("server.properties", "num.partitions=4\n");
    broker.signal(libc::SIGHUP);
    let reloading = manager.until("RELOADING=1");
    let at = reloading
        .lines()
        .find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
    let at: u64 = at.expect("with the time").parse().unwrap();
    assert!(at > 0);
    let ready = manager.until("READY=1");
    assert!(
        ready.contains("STATUS=serving") && ready.contains("num.partitions"),
        "{ready}"
    );
    dir.file("server.properties", "num.partitions=none\n");
    broker.signal(libc::SIGHUP);
    manager.until("RELOADING=1");
    let ready = manager.until("READY=1");
    assert!(
        ready.contains("failed") && ready.contains("none"),
        "{ready}"
    );

    assert_eq!(manager.count("WATCHDOG=1"), 0, "nobody asked for it");
    broker.stop();
    manager.until("STOPPING=1");
}

/// One thread of another process, stopped by the debugger's call until it is dropped.
struct Frozen(libc::pid_t);

impl Frozen {
    fn thread(process: u32, name: &str) -> Frozen {
        let tasks = blocking::read_dir(format!("/proc/{process}/task")).unwrap();
        let mut ids = tasks.map(|task| task.unwrap().path());
        let found = ids.find(|task| {
            let comm = blocking::read_to_string(task.join("comm")).unwrap_or_default();
            comm.trim() == name
        });
        let found = found.unwrap_or_else(|| panic!("a thread {name}"));
        let id: libc::pid_t = found
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no memory is passed; the thread is one of a child of this process.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, id, none, none) };
        let error = std::io::Error::last_os_error();
        assert_eq!(
            seized, 0,
            "{error}: a child must be traceable: kernel.yama.ptrace_scope below 2"
        );
        // SAFETY: as above.
        let interrupted = unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, id, none, none) };
        assert_eq!(interrupted, 0);
        let frozen = Frozen(id);
        // SAFETY: no status is asked for.
        let waited = unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::__WALL) };
        assert_eq!(waited, id);
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no memory is passed.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

#[test]
fn r60_a_shard_that_hangs_stops_the_watchdogs_messages() {
    let dir = DataDir::new("r60-watchdog");
    let mut manager = Manager::new();
    let broker = manager.start(&dir, None, 300_000);
    manager.until("WATCHDOG=1");
    manager.until("WATCHDOG=1");

    let frozen = Frozen::thread(broker.id(), "corelog-shard-1");
    let silent = "a shard does not answer";
    let said = broker.log().matches(silent).count();
    poll("the broker to miss the shard", || {
        // A busy machine may have made a shard silent for a moment before: this one stays so.
        (broker.log().matches(silent).count() > said).then_some(())
    });
    manager.count("WATCHDOG=1");
    blocking::sleep(Duration::from_millis(700));
    assert_eq!(
        manager.count("WATCHDOG=1"),
        0,
        "no sign of life while a shard hangs"
    );

    drop(frozen);
    manager.until("WATCHDOG=1");
    // Log lines are written by a thread of their own.
    poll("the log to say so", || {
        let log = broker.log();
        log.contains("all shards answer again").then_some(())
    });
    broker.stop();
}

fn corelogd(args: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_corelogd"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn r52_the_metadata_log_is_dumped_beside_a_running_broker_and_damage_is_told() {
    let dir = DataDir::new("r52-dump");
    let broker = dir.start(1);
    let mut client = broker.connect();
    client.create_topic("orders", 3, &[("flush.messages", "7")]);
    let logs = dir.logs();
    let output = corelogd(&["--dump-metadata", logs.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for part in [
        "vote term=1",
        "entry index=1 term=1 blank",
        "orders",
        "flush.messages",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    client.produce("orders", 0, text_batch(&["undisturbed"]));
    broker.stop();

    let metadata = logs.join("corelog-metadata");
    let names = blocking::read_dir(&metadata).unwrap();
    let entries = names
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "entries"));
    let entries = entries.unwrap();
    let mut bytes = blocking::read_file(&entries).unwrap();
    bytes[40] ^= 1;
    blocking::write_file(&entries, &bytes).unwrap();
    let output = corelogd(&["--dump-metadata", metadata.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("DAMAGE") && said.contains("byte"), "{said}");
    let output = corelogd(&["--dump-metadata", "/no/such/directory"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn r60_a_configuration_is_checked_without_a_start() {
    let dir = DataDir::new("r60-check");
    let good = dir.file("good.properties", "num.partitions=5\nlog.dirs=/a\n");
    let output = corelogd(&[good.to_str().unwrap(), "--check-config"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for line in [
        "num.partitions=5",
        "log.dirs=/a",
        "max.connections=2147483647",
    ] {
        assert!(said.lines().any(|l| l == line), "{line} in {said}");
    }
    let bad = dir.file("bad.properties", "\nnum.partitions=five\n");
    let output = corelogd(&[bad.to_str().unwrap(), "--check-config"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("bad.properties:2") && said.contains("five"),
        "{said}"
    );
}

/// A file that whoever opens it waits for.
fn make_pipe(path: &std::path::Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

/// The other end of such a file, once somebody reads there.
fn write_end(path: &std::path::Path) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    poll("a reader", || blocking::open_file_with(path, &options).ok())
}

#[test]
fn r60_a_stop_is_heard_while_the_broker_starts() {
    let dir = DataDir::new("r60-stop-start");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 1, &[]);
    client.produce("t", 0, text_batch(&["kept"]));
    broker.kill();
    let identity = dir.logs().join("t-0/partition.metadata");
    let kept = blocking::read_file(&identity).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // A start that takes long.
        blocking::remove_file(&identity).unwrap();
        make_pipe(&identity);
        let broker = dir.begin_start(2);
        let held = write_end(&identity);
        broker.signal(signal);
        let (status, log) = broker.ended();
        assert_eq!(status.code(), Some(0), "as a requested stop ends: {log}");
        assert!(log.contains("before it was ready"), "{log}");
        drop(held);
    }
    blocking::remove_file(&identity).unwrap();
    blocking::write_file(&identity, kept).unwrap();
    let broker = dir.start(2);
    assert_eq!(texts(&broker.connect().read_all("t", 0)), ["kept"]);
}

#[test]
fn r60_a_stop_is_heard_while_a_reload_waits() {
    let dir = DataDir::new("r60-stop-reload");
    let file = dir.file("server.properties", "num.partitions=3\n");
    let mut manager = Manager::new();
    let broker = manager.start(&dir, Some(&file), 0);
    manager.until("READY=1");
    // A log that takes long to be made keeps its shard from taking the configuration up.
    let identity = dir.logs().join("slow-0/partition.metadata");
    blocking::create_dir_all(identity.parent().unwrap()).unwrap();
    make_pipe(&identity);
    let mut client = broker.connect();
    // It ends with its connection.
    let create = blocking::spawn("create", move || client.create_topic("slow", 1, &[]));
    let held = write_end(&identity);
    broker.signal(libc::SIGHUP);
    manager.until("RELOADING=1");
    broker.signal(libc::SIGTERM);
    manager.until("STOPPING=1");
    drop(held);
    let (status, log) = broker.ended();
    assert!(status.success(), "{log}");
    let _answered_or_not = create.unwrap().join();
}
