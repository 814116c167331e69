"""Clients of the tail suite.

tail.py tail BOOTSTRAP TOPIC BYTES CONSUMERS   writes BYTES while CONSUMERS read the tail
tail.py read BOOTSTRAP TOPIC                   reads the topic once from offset 0
Both print one line: records= bytes= crc= per reader; the same crc means the same bytes in the same order.
"""

import sys
import threading
import time
import zlib

import common
from confluent_kafka import Producer, TopicPartition

PAYLOAD_BYTES = 16 << 10
AHEAD_MAX = 16 << 20  # the writer waits for the slowest reader, so that every read is a read of the tail


class Reader:
    def __init__(self, bootstrap, topic):
        self.records = self.bytes = self.crc = 0
        # A plain window of fetches: what is fetched is what is delivered, nothing is fetched twice.
        self.consumer = common.consumer(bootstrap, check_crcs=False, queued_max_messages_kbytes=65536)
        self.consumer.assign([TopicPartition(topic, 0, 0)])

    def step(self):
        for m in self.consumer.consume(200, 0.2):
            if m.error():
                raise SystemExit(f"read failed: {m.error()}")
            value = m.value()
            self.records += 1
            self.bytes += len(value)
            self.crc = zlib.crc32(value[:256], self.crc)
            self.crc = zlib.crc32(value[-256:], self.crc)

    def run(self, records, stop):
        while self.records < records and not stop.is_set():
            self.step()
        self.consumer.close()

    def line(self):
        return common.pairs(records=self.records, bytes=self.bytes, crc=f"{self.crc:08x}")


def payload(number):
    head = b"%016d" % number
    return head + bytes([number & 255]) * (PAYLOAD_BYTES - 32) + head


def tail(bootstrap, topic, size, consumers):
    records = int(size) // PAYLOAD_BYTES
    readers = [Reader(bootstrap, topic) for _ in range(int(consumers))]
    stop, failed = threading.Event(), []
    threads = [threading.Thread(target=r.run, args=(records, stop), daemon=True) for r in readers]
    for thread in threads:
        thread.start()
    producer = Producer({
        "bootstrap.servers": bootstrap, "acks": 1, "linger.ms": 5, "batch.size": 512 << 10, "max.in.flight": 4,
        "queue.buffering.max.kbytes": 32 << 10,
    })
    deadline = time.monotonic() + 300
    for number in range(records):
        while (number - min(r.records for r in readers)) * PAYLOAD_BYTES > AHEAD_MAX:
            producer.poll(0.002)
            if time.monotonic() > deadline:
                stop.set()
                sys.exit(f"readers got {[r.records for r in readers]} of {number} records")
        while True:
            try:
                producer.produce(topic, payload(number), partition=0,
                                 on_delivery=lambda error, _: error and failed.append(str(error)))
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    if producer.flush(60) or failed:
        sys.exit(f"not everything was acknowledged: {failed[:3]}")
    for thread in threads:
        thread.join(60)
    stop.set()
    for r in readers:
        common.say(r.line())


def read(bootstrap, topic):
    reader = Reader(bootstrap, topic)
    records = common.end_offset(reader.consumer, topic, 0)
    deadline = time.monotonic() + 240
    while reader.records < records:
        reader.step()
        if time.monotonic() > deadline:
            sys.exit(f"only {reader.records} of {records} records after 240 s")
    reader.consumer.close()
    common.say(reader.line())


{"tail": tail, "read": read}[sys.argv[1]](*sys.argv[2:])
