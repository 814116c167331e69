//! The small text files beside the logs, and the names of partition directories.
//!
//! All are Kafka's, so that its tools read them. Parse errors name the file, the line, what stood
//! there and what was expected. Every reader takes bytes and trusts none of them.

use std::collections::BTreeMap;
use std::fmt;

/// Flushed end of every partition of a directory, with indexes: where recovery begins.
pub const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// High watermark of every partition of a directory.
pub const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// Log start offset of partitions where it is not the first segment's base offset.
pub const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// How far the cleaner came, per partition.
pub const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
/// Whose directory it is.
pub const META_PROPERTIES: &str = "meta.properties";
/// Topic id of a partition's directory.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Left by a clean stop.
pub const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
/// Suffix of a partition directory whose topic was deleted.
pub const DELETE_SUFFIX: &str = "-delete";
/// Longest topic name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// A line that is not what its file's format asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    /// Path of the file.
    pub file: String,
    /// Line, from 1; 0 = the file as a whole.
    pub line: usize,
    /// What stood there (shortened), or `end of file`.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} line {}: {}: expected {}",
            self.file, self.line, self.found, self.expected
        )
    }
}

impl std::error::Error for FormatError {}

/// Lines of a checkpoint: a version, a count, then that many lines of fields.
pub(crate) struct TextLines<'a> {
    file: &'a str,
    rest: std::str::Lines<'a>,
    line: usize,
    current: Option<&'a str>,
}

impl<'a> TextLines<'a> {
    pub(crate) fn new(file: &'a str, bytes: &'a [u8]) -> Result<TextLines<'a>, FormatError> {
        let text = utf8(file, bytes)?;
        Ok(TextLines {
            file,
            rest: text.lines(),
            line: 0,
            current: None,
        })
    }

    fn advance(&mut self) -> Option<&'a str> {
        self.line += 1;
        self.current = self.rest.next();
        self.current
    }

    /// The error that the line read last was not `expected`.
    pub(crate) fn error(&self, expected: &str) -> FormatError {
        let found = self
            .current
            .map_or_else(|| "end of file".to_owned(), quoted);
        FormatError {
            file: self.file.to_owned(),
            line: self.line,
            found,
            expected: expected.to_owned(),
        }
    }

    pub(crate) fn version_0(&mut self) -> Result<(), FormatError> {
        match self.advance().map(str::trim) {
            Some("0") => Ok(()),
            _ => Err(self.error("version 0")),
        }
    }

    pub(crate) fn count(&mut self) -> Result<usize, FormatError> {
        let count = self
            .advance()
            .and_then(|line| line.trim().parse::<u32>().ok());
        count
            .map(|n| n as usize)
            .ok_or_else(|| self.error("the number of entries"))
    }

    /// The next line, split at white space into exactly N fields.
    pub(crate) fn fields<const N: usize>(
        &mut self,
        expected: &str,
    ) -> Result<[&'a str; N], FormatError> {
        let mut fields = [""; N];
        let mut words = self
            .advance()
            .ok_or_else(|| self.error(expected))?
            .split_whitespace();
        for field in &mut fields {
            *field = words.next().ok_or_else(|| self.error(expected))?;
        }
        if words.next().is_some() {
            Err(self.error(expected))
        } else {
            Ok(fields)
        }
    }

    /// Nothing but blank lines may follow.
    pub(crate) fn end(&mut self) -> Result<(), FormatError> {
        while let Some(line) = self.advance() {
            if !line.trim().is_empty() {
                return Err(self.error("end of file"));
            }
        }
        Ok(())
    }
}

fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, FormatError> {
    std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        FormatError {
            file: file.to_owned(),
            line,
            found: "bytes that are not UTF-8".to_owned(),
            expected: "text".to_owned(),
        }
    })
}

fn quoted(line: &str) -> String {
    let short: String = line.chars().take(80).collect();
    format!("`{}`", short.escape_debug())
}

/// Offsets by topic and partition.
pub type OffsetMap = BTreeMap<(String, i32), i64>;

/// Bytes of an offset checkpoint: `0`, the count, then `topic partition offset` per line.
pub fn encode_offsets(offsets: &OffsetMap) -> Vec<u8> {
    let mut out = format!("0\n{}\n", offsets.len());
    for ((topic, partition), offset) in offsets {
        out.push_str(&format!("{topic} {partition} {offset}\n"));
    }
    out.into_bytes()
}

/// Reads an offset checkpoint; `file` is its path, for the error.
pub fn decode_offsets(file: &str, bytes: &[u8]) -> Result<OffsetMap, FormatError> {
    let mut lines = TextLines::new(file, bytes)?;
    lines.version_0()?;
    let count = lines.count()?;
    let expected = "a topic, a partition and an offset >= 0: `topic partition offset`";
    let mut offsets = OffsetMap::new();
    for _ in 0..count {
        let [topic, partition, offset] = lines.fields(expected)?;
        match (partition.parse::<i32>(), offset.parse::<i64>()) {
            (Ok(partition), Ok(offset)) if partition >= 0 && offset >= 0 && legal_topic(topic) => {
                if offsets
                    .insert((topic.to_owned(), partition), offset)
                    .is_some()
                {
                    return Err(lines.error("each partition once"));
                }
            }
            _ => return Err(lines.error(expected)),
        }
    }
    lines.end()?;
    Ok(offsets)
}

/// A file of `key=value` lines, later keys winning, as Java's Properties without escapes.
fn properties<'a>(
    file: &str,
    bytes: &'a [u8],
    separator: char,
) -> Result<Vec<(usize, &'a str, &'a str)>, FormatError> {
    let mut out = Vec::new();
    for (i, line) in utf8(file, bytes)?.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let Some((key, value)) = line.split_once(separator) else {
            let expected = format!("`key{separator}value`");
            return Err(FormatError {
                file: file.to_owned(),
                line: i + 1,
                found: quoted(line),
                expected,
            });
        };
        out.push((i + 1, key.trim(), value.trim()));
    }
    Ok(out)
}

/// The last value of a key among `properties`, parsed.
fn property<T>(
    file: &str,
    properties: &[(usize, &str, &str)],
    key: &str,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, FormatError> {
    let error = |line, found| FormatError {
        file: file.to_owned(),
        line,
        found,
        expected: format!("{key}: {expected}"),
    };
    match properties.iter().rfind(|p| p.1 == key) {
        Some(&(line, _, value)) => parse(value).ok_or_else(|| error(line, quoted(value))),
        None => Err(error(0, format!("no {key}"))),
    }
}

/// `meta.properties`: whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaProperties {
    /// `cluster.id`.
    pub cluster_id: String,
    /// `node.id`.
    pub node_id: i32,
    /// `directory.id`; `None` in a directory an old version made.
    pub directory_id: Option<[u8; 16]>,
}

impl MetaProperties {
    /// Bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("#\n#\ncluster.id={}\n", self.cluster_id);
        if let Some(id) = &self.directory_id {
            out.push_str(&format!("directory.id={}\n", encode_uuid(id)));
        }
        out.push_str(&format!("node.id={}\nversion=1\n", self.node_id));
        out.into_bytes()
    }

    /// Reads the file; `file` is its path, for the error.
    pub fn decode(file: &str, bytes: &[u8]) -> Result<MetaProperties, FormatError> {
        let all = properties(file, bytes, '=')?;
        property(file, &all, "version", "1", |v| (v == "1").then_some(()))?;
        let cluster_id = property(file, &all, "cluster.id", "a word", |v| {
            legal_cluster_id(v).then(|| v.to_owned())
        })?;
        let node_id = property(file, &all, "node.id", "a number >= 0", |v| {
            v.parse().ok().filter(|&n: &i32| n >= 0)
        })?;
        let directory_id = match all.iter().any(|p| p.1 == "directory.id") {
            true => Some(property(
                file,
                &all,
                "directory.id",
                "a base64 UUID of 22 characters",
                decode_uuid,
            )?),
            false => None,
        };
        Ok(MetaProperties {
            cluster_id,
            node_id,
            directory_id,
        })
    }
}

/// Whether a cluster id can stand in `meta.properties`: 1 to 255 visible ASCII characters that a
/// properties file does not escape.
pub fn legal_cluster_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 255
        && id
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"\\=:#!".contains(&b))
}

/// Bytes of `partition.metadata`.
pub fn encode_partition_metadata(topic_id: &[u8; 16]) -> Vec<u8> {
    format!("version: 0\ntopic_id: {}", encode_uuid(topic_id)).into_bytes()
}

/// Reads `partition.metadata`: the topic's id.
pub fn decode_partition_metadata(file: &str, bytes: &[u8]) -> Result<[u8; 16], FormatError> {
    let all = properties(file, bytes, ':')?;
    property(file, &all, "version", "0", |v| (v == "0").then_some(()))?;
    property(
        file,
        &all,
        "topic_id",
        "a base64 UUID of 22 characters, not zero",
        |v| decode_uuid(v).filter(|id| *id != [0; 16]),
    )
}

/// `.kafka_cleanshutdown`: left by a clean stop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CleanMarker {
    /// Broker epoch of the incarnation that stopped; -1 = none.
    pub broker_epoch: i64,
    /// Boot id of the kernel it ran under; `None` when Kafka wrote the marker.
    pub boot_id: Option<String>,
}

impl CleanMarker {
    /// Bytes of the file: one JSON object, Kafka's members first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("{{\"version\":0,\"brokerEpoch\":{}", self.broker_epoch);
        if let Some(id) = self.boot_id.as_deref().filter(|id| legal_boot_id(id)) {
            out.push_str(&format!(",\"corelogBootId\":\"{id}\""));
        }
        out.push('}');
        out.into_bytes()
    }

    /// Reads the file. Members it does not know are passed over.
    pub fn decode(file: &str, bytes: &[u8]) -> Result<CleanMarker, FormatError> {
        let error = |expected: &str| FormatError {
            file: file.to_owned(),
            line: 1,
            found: quoted(&String::from_utf8_lossy(bytes)),
            expected: expected.to_owned(),
        };
        let members = flat_json(utf8(file, bytes)?).ok_or_else(|| error("one flat JSON object"))?;
        let value = |key: &str| members.iter().rfind(|m| m.0 == key).map(|m| m.1);
        if value("version") != Some("0") {
            return Err(error("version 0"));
        }
        let broker_epoch = match value("brokerEpoch") {
            None | Some("null") => -1,
            Some(n) => n.parse().map_err(|_| error("brokerEpoch: a number"))?,
        };
        let boot_id = value("corelogBootId").map(|v| v.trim_matches('"'));
        if boot_id.is_some_and(|id| !legal_boot_id(id)) {
            return Err(error("corelogBootId: a boot id of the kernel"));
        }
        Ok(CleanMarker {
            broker_epoch,
            boot_id: boot_id.map(str::to_owned),
        })
    }
}

/// Whether text looks like a boot id: hexadecimal digits and dashes, at most 64.
pub fn legal_boot_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Members of a JSON object whose values are numbers, words or strings, none with a comma, brace,
/// colon or escape inside: all that a clean marker holds. Strings keep their quotes.
fn flat_json(text: &str) -> Option<Vec<(&str, &str)>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.contains(['{', '}', '[', ']', '\\']) {
        return None;
    }
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    let member = |m: &'_ str| -> Option<(usize, usize, usize)> {
        let colon = m.find(':')?;
        (m.matches(':').count() == 1).then_some((0, colon, m.len()))
    };
    let mut out = Vec::new();
    for m in inner.split(',') {
        let (_, colon, _) = member(m)?;
        let key = m[..colon].trim().strip_prefix('"')?.strip_suffix('"')?;
        let value = m[colon + 1..].trim();
        let is_string = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        if value.is_empty() || (value.contains('"') && !is_string) {
            return None;
        }
        out.push((key, value));
    }
    Some(out)
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A UUID as Kafka prints it: base64url, 22 characters, no padding.
pub fn encode_uuid(id: &[u8; 16]) -> String {
    let n = u128::from_be_bytes(*id);
    // 21 digits of six bits, then the last two bits.
    let mut out: String = (0..21)
        .map(|i| char::from(BASE64_URL[(n >> (122 - 6 * i)) as usize & 63]))
        .collect();
    out.push(char::from(BASE64_URL[(n as usize & 3) << 4]));
    out
}

/// Reads what [`encode_uuid`] wrote; `None` for anything else.
pub fn decode_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes: &[u8; 22] = text.as_bytes().try_into().ok()?;
    let mut n = 0u128;
    for (i, b) in bytes.iter().enumerate() {
        let digit = BASE64_URL.iter().position(|c| c == b)? as u128;
        if i < 21 {
            n = n << 6 | digit;
        } else if digit & 15 == 0 {
            n = n << 2 | digit >> 4;
        } else {
            return None;
        }
    }
    Some(n.to_be_bytes())
}

/// Whether a name may be a topic's: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
pub fn legal_topic(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= TOPIC_NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What the name of a directory below a log directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirName {
    /// `topic-partition`: a partition that lives.
    Partition {
        /// Topic.
        topic: String,
        /// Partition, >= 0.
        partition: i32,
    },
    /// `topic-partition.<32 hex>-delete`: to be removed.
    Deleted,
    /// Of another make: left alone.
    Other,
}

/// Name of a partition's directory.
pub fn partition_dir_name(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// Name of the directory of a partition whose topic was deleted. It keeps within 255 bytes by
/// shortening the topic; `unique` keeps two of them apart.
pub fn deleted_dir_name(topic: &str, partition: i32, unique: &[u8; 16]) -> String {
    let suffix = format!(
        "-{partition}.{:032x}{DELETE_SUFFIX}",
        u128::from_be_bytes(*unique)
    );
    // Topic names are ASCII, so any byte is a boundary.
    let topic = topic
        .get(..topic.len().min(255 - suffix.len()))
        .unwrap_or("");
    format!("{topic}{suffix}")
}

/// Reads the name of a directory.
pub fn parse_dir_name(name: &str) -> DirName {
    if let Some((stem, unique)) = name
        .strip_suffix(DELETE_SUFFIX)
        .and_then(|n| n.rsplit_once('.'))
        && unique.len() == 32
        && unique.bytes().all(|b| b.is_ascii_hexdigit())
        && partition_of(stem).is_some()
    {
        return DirName::Deleted;
    }
    match partition_of(name) {
        Some((topic, partition)) => DirName::Partition {
            topic: topic.to_owned(),
            partition,
        },
        None => DirName::Other,
    }
}

fn partition_of(name: &str) -> Option<(&str, i32)> {
    let (topic, digits) = name.rsplit_once('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let partition = digits
        .parse()
        .ok()
        .filter(|&p: &i32| plain && p.to_string() == digits)?;
    legal_topic(topic).then_some((topic, partition))
}
