"""Client of the partitions suite: few records in very many partitions.

partitions.py BOOTSTRAP TOPIC PARTITIONS, then one command per line on stdin, one answer per command on stdout:
  write ROUND    one record to every partition, acks=all     -> acked= failed=
  read ROUNDS    every partition from offset 0               -> read= missing= wrong=
  connect COUNT  connections that ask for versions and then keep still; given up at the next command -> connected=
  quit

A record says its round and its partition, so that a read knows each one and its offset.
"""

import socket
import struct
import sys
import time

import common
from confluent_kafka import KafkaError, Producer, TopicPartition

LIMIT_SECONDS = 240


def value(round_number, partition):
    return b"%d of %d" % (round_number, partition)


def exactly(s, count):
    found = b""
    while len(found) < count:
        piece = s.recv(count - len(found))
        if not piece:
            sys.exit("the broker closed a connection")
        found += piece
    return found


class Client:
    def __init__(self, bootstrap, topic, partitions):
        self.bootstrap, self.topic, self.partitions = bootstrap, topic, partitions
        self.sockets = []

    def write(self, round_number):
        errors = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20, "acks": "all",
                             "queue.buffering.max.messages": 1000000})
        delivered = lambda error, _: error and errors.append(str(error))
        for partition in range(self.partitions):
            producer.produce(self.topic, value(round_number, partition), partition=partition, on_delivery=delivered)
        left = producer.flush(LIMIT_SECONDS)
        for error in sorted(set(errors))[:5]:
            print(f"write: {error}", file=sys.stderr, flush=True)
        return common.pairs(acked=self.partitions - left - len(errors), failed=left + len(errors))

    def read(self, rounds):
        reader = common.consumer(self.bootstrap)
        reader.assign([TopicPartition(self.topic, p, 0) for p in range(self.partitions)])
        seen, wrong, expected = 0, 0, rounds * self.partitions
        next_offset = [0] * self.partitions
        deadline = time.monotonic() + LIMIT_SECONDS
        while seen < expected and time.monotonic() < deadline:
            for m in reader.consume(5000, 1):
                if m.error():
                    if m.error().code() == KafkaError._PARTITION_EOF:
                        continue
                    sys.exit(f"read failed: {m.error()}")
                partition = m.partition()
                right = m.offset() == next_offset[partition] and m.value() == value(m.offset(), partition)
                wrong += not right
                next_offset[partition] = m.offset() + 1
                seen += 1
        reader.close()
        return common.pairs(read=seen, missing=expected - seen, wrong=wrong)

    def connect(self, count):
        host, port = self.bootstrap.rsplit(":", 1)
        client = b"partitions"
        body = struct.pack(">hhih", 18, 0, 1, len(client)) + client
        for _ in range(count):
            s = socket.create_connection((host, int(port)), timeout=30)
            s.sendall(struct.pack(">i", len(body)) + body)
            (length,) = struct.unpack(">i", exactly(s, 4))
            exactly(s, length)
            self.sockets.append(s)
        return common.pairs(connected=len(self.sockets))

    def command(self, name, *args):
        for s in self.sockets:
            s.close()
        self.sockets = []
        return getattr(self, name)(*map(int, args))


def main():
    client = Client(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        print(client.command(*words), flush=True)


main()
