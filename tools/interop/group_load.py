"""Load and outside view of the groups suite, on librdkafka.

group_load.py BOOTSTRAP, then one command per line on stdin, one answer per command on stdout:
  topic NAME PARTITIONS [K=V...]   create it                             -> created
  stamped TOPIC PARTITIONS COUNT   COUNT records into each partition, a second of event time apart -> stamped
  load TOPIC PARTITIONS RATE       numbered records round robin, RATE a second, until told to stop  -> loading
  stop FILE                        flush; FILE gets a line `NUMBER PARTITION OFFSET` per record     -> produced=N failed=N
  commit GROUP TOPIC OFFSET,...    commit for partitions 0.. without being a member                 -> committed
  committed GROUP TOPIC PARTITIONS what is committed, -1 for nothing     -> offsets=N,N,...
  quit
"""

import queue
import sys
import threading
import time

import common
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

EVENT_TIME_MS = 1_700_000_000_000
LIMIT_S = 60
# A broker that is killed on purpose is no news.
QUIET = {"log_level": 0, "reconnect.backoff.max.ms": 500}


class Load:
    """The idempotent producer gives every record once, in order, also over kills of the broker."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1, "message.timeout.ms": 120000,
            **QUIET,
        })
        self.rate = 0
        self.groups = {}

    def topic(self, name, partitions, *config):
        common.create(self.bootstrap, name, int(partitions), dict(pair.split("=") for pair in config))
        return "created"

    def stamped(self, topic, partitions, count):
        failed = []
        for i in range(int(count)):
            for p in range(int(partitions)):
                self.producer.produce(
                    topic, f"{p}-{i}", partition=p, timestamp=EVENT_TIME_MS + i * 1000,
                    on_delivery=lambda error, _: error and failed.append(error))
        if self.producer.flush(LIMIT_S) or failed:
            sys.exit(f"not every record of {topic} was acknowledged: {failed[:3]}")
        return "stamped"

    def load(self, topic, partitions, rate):
        self.name, self.partitions, self.rate = topic, int(partitions), int(rate)
        self.acked, self.failed, self.sent = [], [], 0
        self.began = time.monotonic()
        return "loading"

    def delivered(self, error, message):
        if error is None:
            self.acked.append((message.partition(), message.offset(), message.value().decode()))
        else:
            self.failed.append(error)

    def step(self):
        due = int((time.monotonic() - self.began) * self.rate)
        while self.sent < due:
            try:
                self.producer.produce(
                    self.name, str(self.sent), partition=self.sent % self.partitions, on_delivery=self.delivered)
            except BufferError:
                break
            self.sent += 1
        self.producer.poll(0.005)

    def stop(self, path):
        self.rate = 0
        left = self.producer.flush(LIMIT_S * 2)
        with open(path, "w") as file:
            file.writelines(f"{number} {p} {offset}\n" for p, offset, number in self.acked)
        return common.pairs(produced=len(self.acked), failed=len(self.failed) + left)

    def group(self, name):
        if name not in self.groups:
            self.groups[name] = Consumer({"bootstrap.servers": self.bootstrap, "group.id": name, **QUIET})
        return self.groups[name]

    def retried(self, step):
        """A coordinator that comes up refuses for a while."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return step()
            except KafkaException as error:
                if time.monotonic() > deadline:
                    sys.exit(f"no answer of the coordinator in {LIMIT_S} s: {error}")
                time.sleep(0.2)

    def commit(self, group, topic, offsets):
        rows = [TopicPartition(topic, p, int(offset)) for p, offset in enumerate(offsets.split(","))]
        done = self.retried(lambda: self.group(group).commit(offsets=rows, asynchronous=False))
        errors = [row.error for row in done if row.error]
        if errors:
            sys.exit(f"the commit for {group} failed: {errors[:3]}")
        return "committed"

    def committed(self, group, topic, partitions):
        rows = [TopicPartition(topic, p) for p in range(int(partitions))]
        found = self.retried(lambda: self.group(group).committed(rows, timeout=10))
        errors = [row.error for row in found if row.error]
        if errors:
            sys.exit(f"the offsets of {group} cannot be read: {errors[:3]}")
        return common.pairs(offsets=",".join(str(max(row.offset, -1)) for row in found))


def main(bootstrap):
    load = Load(bootstrap)
    commands = queue.Queue()

    def listen():
        for line in sys.stdin:
            commands.put(line.split())
        commands.put(["quit"])

    threading.Thread(target=listen, daemon=True).start()
    common.say("ready")
    while True:
        try:
            name, *words = commands.get(block=load.rate == 0)
        except queue.Empty:
            load.step()
            continue
        if name == "quit":
            return
        common.say(getattr(load, name)(*words))


main(*sys.argv[1:])
