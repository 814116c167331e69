// A member of a consumer group, on Kafka's own consumer. The words it writes are those of group_member.py.
//   java -cp CLASSES:LIBS GroupMember BOOTSTRAP GROUP TOPIC STRATEGY NAME LOG SESSION_MS

import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.InvalidOffsetException;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;

public final class GroupMember implements ConsumerRebalanceListener {
    private static final Map<String, String> STRATEGIES = Map.of(
        "range", "RangeAssignor", "roundrobin", "RoundRobinAssignor",
        "sticky", "StickyAssignor", "cooperative-sticky", "CooperativeStickyAssignor");

    private final FileOutputStream log;
    private volatile boolean leaving;

    private GroupMember(String path) throws IOException {
        log = new FileOutputStream(path, true);
    }

    public static void main(String[] args) throws Exception {
        Properties conf = new Properties();
        conf.put("bootstrap.servers", args[0]);
        conf.put("group.id", args[1]);
        conf.put("partition.assignment.strategy",
            "org.apache.kafka.clients.consumer." + STRATEGIES.get(args[3]));
        conf.put("client.id", args[4]);
        conf.put("session.timeout.ms", args[6]);
        conf.put("heartbeat.interval.ms", "500");
        conf.put("enable.auto.commit", "false");
        conf.put("auto.offset.reset", "none");
        conf.put("metadata.max.age.ms", "5000");
        conf.put("reconnect.backoff.max.ms", "500");
        conf.put("fetch.max.wait.ms", "100");
        GroupMember member = new GroupMember(args[5]);
        try (KafkaConsumer<String, String> consumer =
                new KafkaConsumer<>(conf, new StringDeserializer(), new StringDeserializer())) {
            Thread asked = new Thread(() -> member.listen(consumer));
            asked.setDaemon(true);
            asked.start();
            consumer.subscribe(List.of(args[2]), member);
            member.work(consumer);
        }
        member.write("left");
    }

    /// The end of standard input asks to leave.
    private void listen(KafkaConsumer<?, ?> consumer) {
        try {
            while (System.in.read() >= 0) { }
        } catch (IOException ended) {
            // The same as the end.
        }
        leaving = true;
        consumer.wakeup();
    }

    private void work(KafkaConsumer<String, String> consumer) throws IOException {
        while (!leaving) {
            try {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) continue;
                StringBuilder lines = new StringBuilder();
                long now = System.nanoTime();
                for (ConsumerRecord<String, String> record : records) {
                    lines.append(now).append(" got ").append(record.partition()).append(' ')
                        .append(record.offset()).append(' ').append(record.value()).append('\n');
                }
                log.write(lines.toString().getBytes(StandardCharsets.UTF_8));
                commit(consumer, records);
            } catch (WakeupException asked) {
                // `leaving` says the rest.
            } catch (InvalidOffsetException reset) {
                write("reset " + reset.getMessage());
                return;
            }
        }
    }

    private void commit(KafkaConsumer<String, String> consumer, ConsumerRecords<String, String> records)
            throws IOException {
        Map<TopicPartition, OffsetAndMetadata> offsets = records.nextOffsets();
        while (true) {
            try {
                consumer.commitSync(offsets);
                break;
            } catch (WakeupException asked) {
                // The commit was interrupted, not refused: once more, then leave.
            } catch (CommitFailedException | RebalanceInProgressException refused) {
                write("refused " + refused.getClass().getSimpleName());
                return;
            } catch (RetriableException again) {
                write("again " + again.getClass().getSimpleName());
            }
        }
        StringBuilder lines = new StringBuilder();
        long now = System.nanoTime();
        offsets.forEach((tp, offset) -> lines.append(now).append(" committed ")
            .append(tp.partition()).append(' ').append(offset.offset()).append('\n'));
        log.write(lines.toString().getBytes(StandardCharsets.UTF_8));
    }

    private void write(String words) {
        try {
            log.write((System.nanoTime() + " " + words + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            System.err.println(error);
            Runtime.getRuntime().halt(1);
        }
    }

    private static String list(Collection<TopicPartition> partitions) {
        return new TreeSet<>(partitions.stream().map(TopicPartition::partition).toList())
            .stream().map(String::valueOf).collect(Collectors.joining(","));
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        write("assigned " + list(partitions));
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        write("revoked " + list(partitions));
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        write("lost " + list(partitions));
    }
}
