"""Load and checker of the fault scripts: two librdkafka producers that live through whatever happens to the broker.

fault_load.py BOOTSTRAP PARTITIONS [TOPIC_CONFIG=VALUE...], then one command per line on stdin, one answer per command:
  load     start (again) to produce                                -> loading
  acked    so far                                                  -> acked=N errors=CODES back_ms=N
  peek     the first records of every partition can be read        -> peeked=N
  heal     try until every partition acknowledges a new record     -> healed_ms=N
  pause    stop to produce                                         -> paused
  check    stop, wait for answers, read everything                 -> acked= read= lost= expired= errors=
  quit

`one` (acks=1) never retries, so that every error is seen; `all` (acks=all) retries as librdkafka does by default. A
record is lost when it was acknowledged and its number is not in its partition, unless its offset is below the log's
start (expired: retention). back_ms: the most that the broker's timestamps went back.
"""

import queue
import sys
import threading
import time
from collections import Counter

import common
from confluent_kafka import KafkaError, Producer, TopicPartition

OUTSTANDING_MAX = 600
PAYLOAD = b"." * 1000
NUMBER_BYTES = 12
HEAL_SECONDS = 120
READ_SECONDS = 180


class Stream:
    def __init__(self, topic, bootstrap, partitions, conf):
        self.topic, self.partitions = topic, partitions
        self.next = [0] * partitions
        self.acked = [{} for _ in range(partitions)]
        self.errors = Counter()
        self.outstanding = self.acked_count = 0
        self.newest_ms, self.back_ms = 0, 0
        base = {
            "bootstrap.servers": bootstrap, "linger.ms": 1, "batch.num.messages": 50, "message.timeout.ms": 20000,
            "socket.timeout.ms": 10000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "log_level": 0,
        }
        self.producer = Producer({**base, **conf})

    def delivered(self, error, message):
        self.outstanding -= 1
        if error is not None:
            self.errors[error.name()] += 1
            return
        self.acked_count += 1
        self.acked[message.partition()][int(message.value()[:NUMBER_BYTES])] = message.offset()
        at_ms = message.timestamp()[1]
        self.back_ms = max(self.back_ms, self.newest_ms - at_ms)
        self.newest_ms = max(self.newest_ms, at_ms)

    def send(self, partition, told=None):
        number = self.next[partition]

        def delivered(error, message):
            self.delivered(error, message)
            if told:
                told(error)

        self.producer.produce(self.topic, b"%012d" % number + PAYLOAD, partition=partition, on_delivery=delivered)
        self.next[partition] += 1
        self.outstanding += 1

    def produce(self):
        self.producer.poll(0)
        if self.outstanding >= OUTSTANDING_MAX:
            return False
        try:
            for partition in range(self.partitions):
                self.send(partition)
        except BufferError:
            return False
        return True


class Load:
    def __init__(self, bootstrap, partitions, config):
        self.bootstrap, self.loading = bootstrap, False
        for topic in ["one", "all"]:
            common.create(bootstrap, topic, partitions, config)
        self.streams = [
            Stream("one", bootstrap, partitions, {"acks": 1, "retries": 0}),
            Stream("all", bootstrap, partitions, {"acks": "all"}),
        ]

    def codes(self):
        errors = sum((s.errors for s in self.streams), Counter())
        return ",".join(f"{name}:{count}" for name, count in sorted(errors.items())) or "none"

    def load(self):
        self.loading = True
        return "loading"

    def pause(self):
        self.loading = False
        return "paused"

    def answered(self):
        return common.pairs(acked=sum(s.acked_count for s in self.streams), errors=self.codes(),
                            back_ms=max(s.back_ms for s in self.streams))

    def heal(self):
        begin = time.monotonic()
        stream = self.streams[0]
        missing = set(range(stream.partitions))
        while missing:
            if time.monotonic() - begin > HEAL_SECONDS:
                sys.exit(f"partitions {sorted(missing)} of {stream.topic} take no records for {HEAL_SECONDS} s: "
                         + self.codes())
            waits = set(missing)
            for partition in list(missing):
                def told(error, partition=partition):
                    waits.discard(partition)
                    if error is None:
                        missing.discard(partition)
                stream.send(partition, told)
            while waits:
                stream.producer.poll(0.02)
        return common.pairs(healed_ms=int((time.monotonic() - begin) * 1000))

    def reader(self):
        return common.consumer(self.bootstrap)

    def ranges(self, reader, stream):
        found = {}
        for partition in range(stream.partitions):
            common.end_offset(reader, stream.topic, partition)  # waits for a broker that comes up
            found[partition] = reader.get_watermark_offsets(TopicPartition(stream.topic, partition), timeout=10)
        return found

    def read(self, stream, records_max=None):
        """Yields (partition, offset, number) from the log's starts to the high watermarks."""
        reader = self.reader()
        ranges = self.ranges(reader, stream)
        ends = {p: end if records_max is None else min(end, start + records_max) for p, (start, end) in ranges.items()}
        wanted = {p for p in ends if ranges[p][0] < ends[p]}
        reader.assign([TopicPartition(stream.topic, p, ranges[p][0]) for p in wanted])
        deadline = time.monotonic() + READ_SECONDS
        while wanted:
            for m in reader.consume(2000, 0.5):
                if m.error():
                    if m.error().code() == KafkaError._PARTITION_EOF:
                        continue
                    sys.exit(f"read failed: {m.error()}")
                if m.partition() in wanted:
                    yield m.partition(), m.offset(), int(m.value()[:NUMBER_BYTES])
                    if m.offset() + 1 >= ends[m.partition()]:
                        wanted.discard(m.partition())
            if time.monotonic() > deadline:
                sys.exit(f"{stream.topic}: partitions {sorted(wanted)} could not be read to their ends {ends}")
        reader.close()

    def peek(self):
        return common.pairs(peeked=sum(1 for s in self.streams for _ in self.read(s, 20)))

    def check(self):
        self.loading = False
        read = lost = expired = acked = 0
        for stream in self.streams:
            left = stream.producer.flush(60)
            if left:
                sys.exit(f"{stream.topic}: {left} records got neither an acknowledgement nor an error in 60 s")
            seen = [set() for _ in range(stream.partitions)]
            starts = {p: start for p, (start, _) in self.ranges(self.reader(), stream).items()}
            for partition, _, number in self.read(stream):
                seen[partition].add(number)
                read += 1
            for partition, records in enumerate(stream.acked):
                acked += len(records)
                for number, offset in records.items():
                    if number in seen[partition]:
                        continue
                    if 0 <= offset < starts[partition]:
                        expired += 1
                        continue
                    lost += 1
                    if lost <= 5:
                        print(f"lost {stream.topic}-{partition}: {number} acknowledged at {offset}", file=sys.stderr)
        return common.pairs(acked=acked, read=read, lost=lost, expired=expired, errors=self.codes())


def main(bootstrap, partitions, *config):
    load = Load(bootstrap, int(partitions), dict(pair.split("=", 1) for pair in config))
    commands = queue.Queue()

    def listen():
        for line in sys.stdin:
            commands.put(line.strip())
        commands.put("quit")

    threading.Thread(target=listen, daemon=True).start()
    common.say("ready")
    answers = {"load": load.load, "acked": load.answered, "peek": load.peek, "heal": load.heal,
               "pause": load.pause, "check": load.check}
    while True:
        try:
            command = commands.get(block=not load.loading)
        except queue.Empty:
            if not any([s.produce() for s in load.streams]):
                time.sleep(0.001)
            continue
        if command == "quit":
            return
        common.say(answers[command]())


main(*sys.argv[1:])
