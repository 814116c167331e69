import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;

/**
 * Writes the batches in this directory with Kafka's own classes, one file per codec and two transaction markers:
 * java -cp 'kafka-clients-4.3.1.jar:snappy-java.jar:zstd-jni.jar:lz4-java.jar:slf4j-api.jar' GenerateBatches.java .
 * With --check it reads every *.batch file of a directory instead, and prints the records.
 */
public class GenerateBatches {
    static final int RECORDS = 200;

    public static void main(String[] args) throws Exception {
        if (args[0].equals("--check")) {
            check(Path.of(args[1]));
            return;
        }
        for (CompressionType type : CompressionType.values()) {
            ByteBuffer buffer = ByteBuffer.allocate(1 << 20);
            MemoryRecordsBuilder builder = new MemoryRecordsBuilder(buffer, RecordBatch.MAGIC_VALUE_V2,
                Compression.of(type).build(), TimestampType.CREATE_TIME, 0L, RecordBatch.NO_TIMESTAMP, 4242L, (short) 7, 1000,
                false, false, RecordBatch.NO_PARTITION_LEADER_EPOCH, buffer.capacity());
            for (int i = 0; i < RECORDS; i++) {
                byte[] key = i % 3 == 0 ? null : ("key-" + i).getBytes(StandardCharsets.UTF_8);
                byte[] value = i % 5 == 0 ? null : "value of the record ".repeat(i % 7).concat("" + i).getBytes(StandardCharsets.UTF_8);
                Header[] headers = i % 4 == 0
                    ? new Header[] {new RecordHeader("h" + i, new byte[] {(byte) i, 0}), new RecordHeader("null", null)}
                    : new Header[0];
                builder.append(1_700_000_000_000L + (i * 37) % 101 * 1000, key, value, headers);
            }
            ByteBuffer out = builder.build().buffer();
            byte[] bytes = new byte[out.remaining()];
            out.get(bytes);
            Files.write(Path.of(args[0], type.name + ".batch"), bytes);
        }
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.ABORT, ControlRecordType.COMMIT}) {
            ByteBuffer out = MemoryRecords.withEndTransactionMarker(77L, 1_700_000_000_000L, 4, 9L, (short) 2,
                new EndTransactionMarker(type, 31)).buffer();
            byte[] bytes = new byte[out.remaining()];
            out.get(bytes);
            Files.write(Path.of(args[0], type.name().toLowerCase() + "-marker.batch"), bytes);
        }
    }

    static void check(Path directory) throws Exception {
        try (var files = Files.newDirectoryStream(directory, "*.batch")) {
            for (Path file : files) {
                for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(file))).batches()) {
                    batch.ensureValid();
                    int n = 0;
                    long bytes = 0;
                    for (org.apache.kafka.common.record.internal.Record record : batch) {
                        n++;
                        bytes += record.sizeInBytes();
                    }
                    System.out.println(file.getFileName() + " " + batch + " records=" + n + " bytes=" + bytes);
                }
            }
        }
    }
}
