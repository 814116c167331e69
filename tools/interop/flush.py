"""Load of the flush suite: producers with one request in flight each, and the flush counter of the block device.

flush.py BOOTSTRAP TOPIC STAT_FILE, then one command per line on stdin, one answer per command on stdout:
  start PRODUCERS ACKS   begin to produce, one record per batch, one request in flight per producer
  measure N              the next N acknowledgements        -> acks= device_flushes= milliseconds=
  stop                   no more records                    -> stopped acks=
  idle MILLISECONDS      do nothing                         -> device_flushes=
  quit
"""

import select
import sys
import time

import common
from confluent_kafka import Producer

FLUSHES_FIELD = 15  # the 16th field of /sys/block/*/stat: flush requests completed


class Load:
    def __init__(self, bootstrap, topic, stat):
        self.bootstrap, self.topic, self.stat = bootstrap, topic, stat
        self.producers = []
        self.waiting = []
        self.acks = 0
        self.running = False

    def device_flushes(self):
        with open(self.stat) as file:
            return int(file.read().split()[FLUSHES_FIELD])

    def start(self, producers, acks):
        conf = {
            "bootstrap.servers": self.bootstrap, "acks": acks, "linger.ms": 0, "batch.num.messages": 1,
            "max.in.flight": 1, "retries": 0, "socket.nagle.disable": True, "topic.metadata.refresh.sparse": True,
        }
        self.producers = [Producer(conf) for _ in range(int(producers))]
        self.waiting = [False] * len(self.producers)
        for index in range(len(self.producers)):  # connect before anything is measured
            self.send(index)
        self.wait_all()
        self.running = True
        return "started"

    def send(self, index):
        def done(error, _):
            if error is not None:
                sys.exit(f"not acknowledged: {error}")
            self.acks += 1
            self.waiting[index] = False

        self.waiting[index] = True
        self.producers[index].produce(self.topic, b"x" * 100, partition=0, on_delivery=done)

    def step(self):
        """Every producer that has its answer sends the next record."""
        alone = len(self.producers) == 1
        for index, producer in enumerate(self.producers):
            if self.waiting[index]:
                producer.poll(0.1 if alone else 0)
            if not self.waiting[index]:
                self.send(index)
        if not alone:
            time.sleep(0)

    def measure(self, count):
        # The counter is read when an answer is there and the next record has not been sent.
        first, flushes, begin = self.acks, self.device_flushes(), time.monotonic()
        while self.acks < first + int(count):
            self.step()
            if time.monotonic() > begin + 240:
                sys.exit(f"only {self.acks - first} acknowledgements in 240 s")
        return common.pairs(
            acks=self.acks - first, device_flushes=self.device_flushes() - flushes,
            milliseconds=int((time.monotonic() - begin) * 1000),
        )

    def wait_all(self):
        deadline = time.monotonic() + 60
        while any(self.waiting):
            for producer in self.producers:
                producer.poll(0.001)
            if time.monotonic() > deadline:
                sys.exit("records without an answer after 60 s")

    def stop(self):
        self.running = False
        self.wait_all()
        self.producers, self.waiting = [], []
        return f"stopped acks={self.acks}"

    def idle(self, milliseconds):
        flushes = self.device_flushes()
        time.sleep(int(milliseconds) / 1000)
        return common.pairs(device_flushes=self.device_flushes() - flushes)

    def run(self):
        common.say("ready")
        while True:
            if self.running and not select.select([sys.stdin], [], [], 0)[0]:
                self.step()
                continue
            words = sys.stdin.readline().split()
            if not words or words[0] == "quit":
                return
            actions = {"start": self.start, "measure": self.measure, "stop": self.stop, "idle": self.idle}
            common.say(actions[words[0]](*words[1:]))


Load(*sys.argv[1:]).run()
