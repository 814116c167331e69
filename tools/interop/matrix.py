"""Writers and readers of the matrix suite: confluent-kafka (librdkafka) and kafka-python.

matrix.py create BOOTSTRAP TOPIC PARTITIONS [key=value...]
matrix.py write  CLIENT BOOTSTRAP TOPIC FILE       one record per line, partition 0
matrix.py keyed  CLIENT BOOTSTRAP TOPIC FILE       lines `key:value`, the client's own partitioner
matrix.py odd    CLIENT BOOTSTRAP TOPIC            records at the edges of the format
matrix.py read   CLIENT BOOTSTRAP TOPIC            values of partition 0 to stdout, a line each
matrix.py check-keyed CLIENT BOOTSTRAP TOPIC FILE  per key the numbers rise, none missing, none twice
matrix.py check-odd   CLIENT BOOTSTRAP TOPIC WRITER  the odd records came back byte for byte
"""

import faulthandler
import sys
import time

import common
from confluent_kafka import Producer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as PyTopicPartition

LIMIT_S = 120
# Whoever has not ended by then says where it stands; the suite ends it later.
STUCK_S = 240


class Confluent:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.failed = []

    def send_all(self, topic, records):
        """records: (partition or None, key, value, headers, timestamp_ms or None)"""
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "acks": "all", "linger.ms": 5, "message.max.bytes": 4 << 20,
        })
        done = lambda error, _: error and self.failed.append(error)
        for partition, key, value, headers, timestamp in records:
            extra = {} if partition is None else {"partition": partition}
            if timestamp is not None:
                extra["timestamp"] = timestamp
            while True:
                try:
                    producer.produce(topic, value, key, headers=headers, on_delivery=done, **extra)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        left = producer.flush(LIMIT_S)
        if left or self.failed:
            sys.exit(f"{left} records never acknowledged, failed: {self.failed[:3]}")

    def read_all(self, topic, partitions):
        """Yields (partition, offset, key, value, headers, timestamp) up to the ends seen at the start."""
        reader = common.consumer(self.bootstrap)
        ends = {p: common.end_offset(reader, topic, p) for p in range(partitions)}
        reader.assign([TopicPartition(topic, p, 0) for p, end in ends.items() if end > 0])
        left, deadline = sum(ends.values()), time.monotonic() + LIMIT_S
        while left > 0 and time.monotonic() < deadline:
            for m in reader.consume(1000, 1.0):
                if m.error():
                    sys.exit(f"read failed: {m.error()}")
                left -= 1
                yield m.partition(), m.offset(), m.key(), m.value(), m.headers() or [], m.timestamp()[1]
        if left:
            sys.exit(f"{left} records never came")
        reader.close()


class KafkaPython:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def send_all(self, topic, records):
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", linger_ms=5, max_request_size=4 << 20,
        )
        sent = [
            producer.send(topic, value=value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp)
            for partition, key, value, headers, timestamp in records
        ]
        producer.flush(LIMIT_S)
        for future in sent:
            future.get(timeout=LIMIT_S)
        producer.close()

    def read_all(self, topic, partitions):
        reader = KafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=None, enable_auto_commit=False,
            max_partition_fetch_bytes=4 << 20, fetch_max_wait_ms=100,
        )
        all_of_them = [PyTopicPartition(topic, p) for p in range(partitions)]
        reader.assign(all_of_them)
        ends = reader.end_offsets(all_of_them)
        reader.seek_to_beginning(*all_of_them)
        left, deadline = sum(ends.values()), time.monotonic() + LIMIT_S
        while left > 0 and time.monotonic() < deadline:
            for batch in reader.poll(timeout_ms=1000).values():
                for m in batch:
                    left -= 1
                    yield m.partition, m.offset, m.key, m.value, list(m.headers), m.timestamp
        if left:
            sys.exit(f"{left} records never came")
        reader.close()


CLIENTS = {"confluent-kafka": Confluent, "kafka-python": KafkaPython}


def lines(path):
    with open(path, "rb") as file:
        return file.read().splitlines()


def check_keyed(client, topic, path):
    last, where, seen = {}, {}, set()
    for partition, _, key, value, _, _ in client.read_all(topic, 12):
        number = int(value)
        if last.get(key, -1) >= number:
            sys.exit(f"key {key}: {number} came after {last[key]}")
        if where.setdefault(key, partition) != partition:
            sys.exit(f"key {key} is in partitions {where[key]} and {partition}")
        if number in seen:
            sys.exit(f"{number} came twice")
        last[key] = number
        seen.add(number)
    expected = {int(line.split(b":")[1]) for line in lines(path)}
    if seen != expected:
        sys.exit(f"missing {len(expected - seen)}, unexpected {len(seen - expected)} records")
    if len(set(where.values())) != 12:
        sys.exit(f"only {len(set(where.values()))} of 12 partitions were used")


def check_odd(client, topic, writer):
    got = [common.digest(offset, key, value, headers, ts)
           for _, offset, key, value, headers, ts in client.read_all(topic, 1)]
    expected = [common.digest(i, *record) for i, record in enumerate(common.odd_records(writer))]
    for i, (a, b) in enumerate(zip(got, expected)):
        if a != b:
            sys.exit(f"record {i} differs: got {a}, expected {b}")
    if len(got) != len(expected):
        sys.exit(f"{len(got)} records came back, {len(expected)} were sent")


def main(args):
    faulthandler.dump_traceback_later(STUCK_S)
    action = args[0]
    if action == "create":
        bootstrap, topic, partitions = args[1:4]
        common.create(bootstrap, topic, int(partitions), dict(word.split("=", 1) for word in args[4:]))
        return
    client, topic = CLIENTS[args[1]](args[2]), args[3]
    if action == "write":
        client.send_all(topic, ((0, None, line, [], None) for line in lines(args[4])))
    elif action == "keyed":
        client.send_all(topic, ((None, *line.split(b":", 1), [], None) for line in lines(args[4])))
    elif action == "odd":
        client.send_all(topic, ((0, *record) for record in common.odd_records(args[1])))
    elif action == "read":
        out = sys.stdout.buffer
        for record in client.read_all(topic, 1):
            out.write(record[3] + b"\n")
    elif action == "check-keyed":
        check_keyed(client, topic, args[4])
    elif action == "check-odd":
        check_odd(client, topic, args[4])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
