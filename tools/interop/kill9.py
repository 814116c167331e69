"""Load and checker of the kill9 suite: three librdkafka producers that outlive the broker.

kill9.py BOOTSTRAP PARTITIONS, then one command per line on stdin, one answer per command on stdout:
  load    start (again) to produce                         -> loading
  acked   records acknowledged since the last `load`       -> acked=N
  killed  the broker is dead: stop producing               -> in_flight_at_kill=N outstanding=N
  check   the broker is up again: flush, read what is new  -> checked acked= lost= duplicated= reordered= offset_moved= failed=
  final   read everything again from offset 0              -> the same line
  quit

Every payload starts with its number inside its partition. `one` (acks=1) and `all` (acks=all) never retry, so what
was not acknowledged may be there or not, but nothing may be there twice; `idem` is the idempotent producer: it
retries until every record is there, once and in order.
"""

import logging
import queue
import re
import sys
import threading
import time

import common
from confluent_kafka import KafkaError, Producer, TopicPartition

OUTSTANDING_MAX = 4000
PAYLOAD = b"." * 400
NUMBER_BYTES = 12


class InFlight(logging.Handler):
    """Counts the requests that were waiting for an answer when the connection to the broker broke.

    librdkafka says so itself (debug=queue): on a lost connection it purges two queues of requests, first the one of
    requests sent and not answered, then the one of requests not sent. Attempts to connect again purge both, too,
    so only the first loss after `arm` counts, and the connection to the bootstrap address never does.
    """

    def __init__(self):
        super().__init__()
        self.purges = {}
        self.requests = None

    def arm(self):
        self.requests = None

    def emit(self, record):
        found = re.search(r"\[thrd:([^\]]*)\].*Purging bufq with (\d+) buffers", record.getMessage())
        if not found or found[1].endswith("/bootstrap"):
            return
        purges = self.purges.get(found[1], 0)
        self.purges[found[1]] = purges + 1
        if purges % 2 == 0 and self.requests is None:
            self.requests = int(found[2])


class Stream:
    """One topic and its producer: what was sent, acknowledged and seen."""

    def __init__(self, name, bootstrap, partitions, conf):
        self.topic = name
        self.partitions = partitions
        self.next = [0] * partitions
        self.acked = [{} for _ in range(partitions)]  # number -> offset, not yet checked
        self.known = [{} for _ in range(partitions)]  # number -> offset, seen by a read
        self.acked_ever = [{} for _ in range(partitions)]
        self.outstanding = 0
        self.acked_count = 0
        self.failed = 0
        self.position = [0] * partitions
        self.last = [-1] * partitions
        self.in_flight = InFlight()
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(self.in_flight)
        base = {
            "bootstrap.servers": bootstrap,
            "linger.ms": 1,
            "batch.num.messages": 100,
            "max.in.flight": 5,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "message.timeout.ms": 120000,
            "socket.timeout.ms": 10000,
            "debug": "queue",
            "log_level": 7,
        }
        self.producer = Producer({**base, **conf}, logger=logger)

    def delivered(self, error, message):
        self.outstanding -= 1
        if error is not None:
            self.failed += 1
            return
        number = int(message.value()[:NUMBER_BYTES])
        self.acked[message.partition()][number] = message.offset()
        self.acked_count += 1

    def produce(self):
        """One record to every partition, unless enough are on their way."""
        self.producer.poll(0)
        if self.outstanding >= OUTSTANDING_MAX:
            return False
        for partition in range(self.partitions):
            number = self.next[partition]
            payload = b"%012d" % number + PAYLOAD
            try:
                self.producer.produce(self.topic, payload, partition=partition, on_delivery=self.delivered)
            except BufferError:
                return False
            self.next[partition] += 1
            self.outstanding += 1
        return True


class Totals:
    def __init__(self):
        self.lost = self.duplicated = self.reordered = self.offset_moved = 0

    def line(self, acked, failed):
        return common.pairs(
            acked=acked, lost=self.lost, duplicated=self.duplicated, reordered=self.reordered,
            offset_moved=self.offset_moved, failed=failed,
        )


class Checker:
    def __init__(self, bootstrap, streams):
        self.bootstrap = bootstrap
        self.streams = streams
        self.totals = Totals()
        self.told = set()

    def tell(self, what):
        """The first few of each kind of finding, for the person who has to look."""
        kind = what.split()[0]
        if sum(1 for t in self.told if t.startswith(kind)) < 5:
            self.told.add(what)
            print(what, file=sys.stderr, flush=True)

    def read(self, stream, starts):
        """Yields (partition, offset, number) from `starts` up to the high watermarks."""
        reader = common.consumer(self.bootstrap)
        ends = [common.end_offset(reader, stream.topic, p) for p in range(stream.partitions)]
        wanted = {p for p in range(stream.partitions) if starts[p] < ends[p]}
        reader.assign([TopicPartition(stream.topic, p, starts[p]) for p in wanted])
        deadline = time.monotonic() + 180
        while wanted:
            for m in reader.consume(2000, 0.5):
                if m.error():
                    if m.error().code() == KafkaError._PARTITION_EOF:
                        continue
                    sys.exit(f"read failed: {m.error()}")
                if m.partition() not in wanted:
                    continue
                yield m.partition(), m.offset(), int(m.value()[:NUMBER_BYTES])
                if m.offset() + 1 >= ends[m.partition()]:
                    wanted.discard(m.partition())
            if time.monotonic() > deadline:
                sys.exit(f"{stream.topic}: partitions {sorted(wanted)} could not be read to their ends {ends}")
        reader.close()

    def check(self, stream):
        """Reads what is new since the last check and compares it with the acknowledgements."""
        for p, offset, number in self.read(stream, list(stream.position)):
            if offset < stream.position[p]:
                continue
            if offset != stream.position[p]:
                self.tell(f"gap {stream.topic}-{p}: offset {offset} came after {stream.position[p] - 1}")
                self.totals.offset_moved += 1
            if number in stream.known[p]:
                self.tell(f"duplicate {stream.topic}-{p}: {number} at {stream.known[p][number]} and {offset}")
                self.totals.duplicated += 1
            elif number < stream.last[p]:
                self.tell(f"reorder {stream.topic}-{p}: {number} after {stream.last[p]}")
                self.totals.reordered += 1
            stream.known[p].setdefault(number, offset)
            stream.last[p] = max(stream.last[p], number)
            stream.position[p] = offset + 1
        for p, acked in enumerate(stream.acked):
            self.compare(stream, p, acked, stream.known[p])
            stream.acked_ever[p].update(acked)
            acked.clear()

    def compare(self, stream, p, acked, seen):
        for number, offset in acked.items():
            found = seen.get(number)
            if found is None:
                self.tell(f"lost {stream.topic}-{p}: {number} acknowledged at offset {offset}")
                self.totals.lost += 1
            elif offset >= 0 and found != offset:
                # A duplicate that a retry found may be acknowledged without an offset (-1).
                self.tell(f"moved {stream.topic}-{p}: {number} acknowledged at {offset}, found at {found}")
                self.totals.offset_moved += 1

    def final(self):
        """Every record ever acknowledged or read, once more from offset 0."""
        for stream in self.streams:
            seen = [{} for _ in range(stream.partitions)]
            last = [-1] * stream.partitions
            for p, offset, number in self.read(stream, [0] * stream.partitions):
                self.totals.duplicated += number in seen[p]
                self.totals.reordered += number < last[p] and number not in seen[p]
                seen[p][number] = offset
                last[p] = max(last[p], number)
            for p in range(stream.partitions):
                self.compare(stream, p, {**stream.known[p], **stream.acked_ever[p]}, seen[p])


class Suite:
    def __init__(self, bootstrap, partitions):
        for name in ["one", "all", "idem"]:
            common.create(bootstrap, name, partitions)
        make = lambda name, **conf: Stream(
            name, bootstrap, partitions, {key.replace("_", "."): value for key, value in conf.items()})
        self.streams = [
            make("one", acks=1, retries=0),
            make("all", acks="all", retries=0),
            make("idem", enable_idempotence=True),
        ]
        self.checker = Checker(bootstrap, self.streams)
        self.loading = False
        self.base = 0

    def acked(self):
        return sum(s.acked_count for s in self.streams)

    def failed(self):
        """Only the idempotent producer owes success."""
        return self.streams[2].failed

    def load(self):
        self.base = self.acked()
        for s in self.streams:
            s.producer.poll(0)
            s.in_flight.arm()
        self.loading = True
        return "loading"

    def killed(self):
        self.loading = False
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(s.in_flight.requests is None for s in self.streams):
            for s in self.streams:
                s.producer.poll(0.02)
        return common.pairs(
            in_flight_at_kill=sum(s.in_flight.requests or 0 for s in self.streams),
            outstanding=sum(s.outstanding for s in self.streams),
        )

    def check(self):
        self.loading = False
        for s in self.streams:
            left = s.producer.flush(100)
            if left:
                sys.exit(f"{s.topic}: {left} records got neither an acknowledgement nor an error in 100 s")
            self.checker.check(s)
        return "checked " + self.checker.totals.line(self.acked(), self.failed())

    def final(self):
        self.checker.final()
        return "checked " + self.checker.totals.line(self.acked(), self.failed())

    def answer(self, command):
        if command == "acked":
            return common.pairs(acked=self.acked() - self.base)
        return {"load": self.load, "killed": self.killed, "check": self.check, "final": self.final}[command]()


def main(bootstrap, partitions):
    suite = Suite(bootstrap, int(partitions))
    commands = queue.Queue()

    def listen():
        for line in sys.stdin:
            commands.put(line.strip())
        commands.put("quit")

    threading.Thread(target=listen, daemon=True).start()
    common.say("ready")
    while True:
        try:
            command = commands.get(block=not suite.loading)
        except queue.Empty:
            if not any([s.produce() for s in suite.streams]):
                time.sleep(0.001)
            continue
        if command == "quit":
            return
        common.say(suite.answer(command))


main(*sys.argv[1:])
