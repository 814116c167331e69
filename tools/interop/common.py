"""What the Python helpers share: topics, the lines they exchange with the suites, and the odd records."""

import hashlib
import sys
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


def say(*words):
    print(*words, flush=True)


def pairs(**values):
    """One line of key=value words."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def create(bootstrap, name, partitions, config=None):
    """Creates a topic and waits until every partition has a leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})
    for future in admin.create_topics([topic], operation_timeout=30).values():
        future.result(60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = admin.list_topics(name, timeout=10).topics[name]
        leaders = [p for p in found.partitions.values() if p.error is None and p.leader >= 0]
        if found.error is None and len(leaders) == partitions:
            return
        time.sleep(0.05)
    sys.exit(f"topic {name}: not every partition has a leader after 30 s")


def consumer(bootstrap, **more):
    """A consumer that is used by assign only; it never joins a group."""
    conf = {
        "bootstrap.servers": bootstrap,
        "group.id": "unused",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": False,
        "check.crcs": True,
        "fetch.wait.max.ms": 100,
        "fetch.message.max.bytes": 8 << 20,
    }
    conf.update({key.replace("_", "."): value for key, value in more.items()})
    return Consumer(conf)


def end_offset(reader, topic, partition):
    """The high watermark, retried while a broker comes up."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=5)[1]
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def odd_records(writer):
    """Records at the edges of the format: (key, value, headers, timestamp)."""
    big = bytes((i * 31 + 7) & 255 for i in range(1 << 20))
    many = [(f"h{i:02}", bytes([i]) * (i % 5)) for i in range(64)]
    rows = [
        (None, None, []),
        (b"", b"", []),
        (b"tombstone", None, []),
        (None, b"value", []),
        (b"\x00\xff\n", b"\xc3\x28 not utf-8", [("one", b""), ("one", b"twice")]),
        (b"headers", b"64", many),
        (b"big", big, []),
    ]
    if writer == "kafka-python":
        del rows[0]  # that client refuses to send a record with neither key nor value
    return [(key, value, headers, 1_700_000_000_000 + i) for i, (key, value, headers) in enumerate(rows)]


def digest(offset, key, value, headers, timestamp):
    """One line that differs when any byte of a record differs."""
    h = hashlib.sha256()
    for part in [key, value, *[x for pair in headers for x in (pair[0].encode(), pair[1])]]:
        h.update(b"null;" if part is None else b"%d;" % len(part) + part)
    return f"{offset} {timestamp} {len(headers)} {h.hexdigest()}"
