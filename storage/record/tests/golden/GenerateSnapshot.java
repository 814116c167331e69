import java.io.File;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.OptionalLong;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.storage.internals.log.ProducerStateEntry;
import org.apache.kafka.storage.internals.log.ProducerStateManager;

/**
 * Writes producers.snapshot with Kafka's own classes, or with --check FILE reads a snapshot and prints its entries:
 * java -cp 'kafka-storage-4.3.1.jar:kafka-server-common-4.3.1.jar:kafka-clients-4.3.1.jar:slf4j-api.jar' GenerateSnapshot.java .
 */
public class GenerateSnapshot {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("--check")) {
            ProducerStateManager.readSnapshot(new File(args[1])).forEach(System.out::println);
            return;
        }
        var addBatch = ProducerStateEntry.class.getDeclaredMethod("addBatch", short.class, int.class, long.class, int.class, long.class);
        addBatch.setAccessible(true);
        Map<Long, ProducerStateEntry> entries = new LinkedHashMap<>();
        ProducerStateEntry idempotent = new ProducerStateEntry(1000L, (short) 3, -1, RecordBatch.NO_TIMESTAMP, OptionalLong.empty());
        addBatch.invoke(idempotent, (short) 3, 41, 1234L, 9, 1_700_000_000_123L);
        entries.put(1000L, idempotent);
        ProducerStateEntry transactional = new ProducerStateEntry(1001L, (short) 0, 17, RecordBatch.NO_TIMESTAMP, OptionalLong.of(1200L));
        addBatch.invoke(transactional, (short) 0, Integer.MAX_VALUE, 1300L, 0, 1_700_000_000_456L);
        entries.put(1001L, transactional);
        // A producer of which only a transaction marker is known.
        entries.put(1002L, new ProducerStateEntry(1002L, (short) 5, 18, 1_700_000_000_789L, OptionalLong.empty()));
        ProducerStateManager.writeSnapshot(new File(args[0], "producers.snapshot"), entries, true);
    }
}
