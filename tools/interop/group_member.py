"""A member of a consumer group: confluent-kafka (librdkafka) or kafka-python.

group_member.py CLIENT BOOTSTRAP GROUP TOPIC STRATEGY NAME LOG SESSION_MS

It appends to LOG, a line at a time, each begun by the machine's monotonic clock in nanoseconds:
  T assigned P,P      these partitions came (with a cooperative strategy: beside those it has)
  T revoked P,P       these are given up: what was processed of them is committed before this line
  T lost P,P          these were taken away: the group went on without this member
  T got P OFFSET VALUE   a record was delivered
  T committed P NEXT  everything of P below NEXT is committed: written only after the broker said so
  T refused CODE      a commit was refused because the group is rebalancing: what it held may be delivered again
  T again CODE        a commit failed and is tried again
  T reset TEXT        the client wanted to reset an offset
  T left              it left the group as asked: by the end of its standard input
"""

import os
import sys
import threading
import time

BATCH = 500
BATCH_S = 0.1
leaving = threading.Event()


class Log:
    """One write per event, so that a kill cuts between lines."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words):
        self.lines([words])

    def lines(self, rows):
        now = time.monotonic_ns()
        text = "".join(f"{now} {' '.join(map(str, row))}\n" for row in rows)
        os.write(self.file, text.encode())

    def partitions(self, what, partitions):
        self.write(what, ",".join(str(p) for p in sorted(tp.partition for tp in partitions)))


class Confluent:
    def __init__(self, log, bootstrap, group, topic, strategy, name, session_ms):
        from confluent_kafka import Consumer

        self.log, self.topic = log, topic
        self.got = []
        self.consumer = Consumer({
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "client.id": name,
            "partition.assignment.strategy": strategy,
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": 500,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
            "topic.metadata.refresh.interval.ms": 5000,
            "reconnect.backoff.max.ms": 500,
            "fetch.wait.max.ms": 100,
        })
        self.consumer.subscribe(
            [topic],
            on_assign=lambda _, tps: log.partitions("assigned", tps),
            on_revoke=self.revoked,
            on_lost=self.lost,
        )

    def revoked(self, _, partitions):
        self.settle()
        self.log.partitions("revoked", partitions)

    def lost(self, _, partitions):
        self.log.lines(self.got)
        self.got.clear()
        self.log.partitions("lost", partitions)

    def settle(self):
        """Logs what was delivered, commits it, and logs that."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        if not self.got:
            return
        self.log.lines(self.got)
        ends = {p: offset + 1 for _, p, offset, _ in self.got}
        self.got.clear()
        while True:
            try:
                self.consumer.commit(
                    offsets=[TopicPartition(self.topic, p, end) for p, end in ends.items()], asynchronous=False)
                break
            except KafkaException as failure:
                error = failure.args[0]
                if error.code() in (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID,
                                    KafkaError.REBALANCE_IN_PROGRESS, KafkaError._ASSIGNMENT_LOST,
                                    KafkaError.FENCED_INSTANCE_ID):
                    return self.log.write("refused", error.name())
                self.log.write("again", error.name())
                time.sleep(0.1)
        self.log.lines([("committed", p, end) for p, end in ends.items()])

    def work(self):
        from confluent_kafka import KafkaError

        began = time.monotonic()
        while not leaving.is_set():
            message = self.consumer.poll(0.05)
            if message is not None and message.error():
                if message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                    return self.log.write("reset", message.error().str())
                continue
            if message is not None:
                self.got.append(("got", message.partition(), message.offset(), message.value().decode()))
            if message is None or len(self.got) >= BATCH or time.monotonic() - began > BATCH_S:
                self.settle()
                began = time.monotonic()
        self.settle()

    def close(self):
        self.consumer.close()


class KafkaPython:
    def __init__(self, log, bootstrap, group, topic, strategy, name, session_ms):
        from kafka import KafkaConsumer
        from kafka.consumer.subscription_state import ConsumerRebalanceListener
        from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
        from kafka.coordinator.assignors.range import RangePartitionAssignor
        from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
        from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

        class Listener(ConsumerRebalanceListener):
            def on_partitions_assigned(self, assigned):
                log.partitions("assigned", assigned)

            def on_partitions_revoked(self, revoked):
                log.partitions("revoked", revoked)

            def on_partitions_lost(self, lost):
                log.partitions("lost", lost)

        assignor = {
            "range": RangePartitionAssignor,
            "roundrobin": RoundRobinPartitionAssignor,
            "sticky": StickyPartitionAssignor,
            "cooperative-sticky": CooperativeStickyAssignor,
        }[strategy]
        self.log = log
        self.consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, group_id=group, client_id=name, partition_assignment_strategy=[assignor],
            session_timeout_ms=int(session_ms), heartbeat_interval_ms=500, enable_auto_commit=False,
            auto_offset_reset="none", metadata_max_age_ms=5000, reconnect_backoff_max_ms=500, fetch_max_wait_ms=100,
        )
        self.consumer.subscribe([topic], listener=Listener())

    def work(self):
        from kafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

        while not leaving.is_set():
            try:
                batches = self.consumer.poll(timeout_ms=100, max_records=BATCH)
            except (NoOffsetForPartitionError, OffsetOutOfRangeError) as reset:
                return self.log.write("reset", repr(reset).replace("\n", " "))
            rows = [("got", m.partition, m.offset, m.value.decode()) for batch in batches.values() for m in batch]
            if rows:
                self.log.lines(rows)
                self.commit(batches)

    def commit(self, batches):
        from kafka import OffsetAndMetadata
        from kafka.errors import (CommitFailedError, IllegalGenerationError, KafkaError, RebalanceInProgressError,
                                  UnknownMemberIdError)

        ends = {tp: batch[-1].offset + 1 for tp, batch in batches.items()}
        while True:
            try:
                self.consumer.commit({tp: OffsetAndMetadata(end, "", -1) for tp, end in ends.items()})
                break
            except (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError) as error:
                return self.log.write("refused", type(error).__name__)
            except KafkaError as error:
                self.log.write("again", type(error).__name__)
                time.sleep(0.1)
        self.log.lines([("committed", tp.partition, end) for tp, end in ends.items()])

    def close(self):
        self.consumer.close()


def main(client, bootstrap, group, topic, strategy, name, path, session_ms):
    def listen():
        while os.read(0, 4096):
            pass
        leaving.set()

    threading.Thread(target=listen, daemon=True).start()
    log = Log(path)
    member = {"confluent-kafka": Confluent, "kafka-python": KafkaPython}[client](
        log, bootstrap, group, topic, strategy, name, session_ms)
    member.work()
    member.close()
    log.write("left")


main(*sys.argv[1:])
