// Prints golden bodies of the cold APIs as "api version request|response hex": every field of Kafka's own schema of
// that version filled, two elements in each array, known tagged fields left out in odd lines and set in even ones.
// Each is read and written back by Kafka's own class first.
//   java -cp kafka-clients-4.3.1.jar:slf4j-api.jar ColdGolden.java > kafka-4.3.1-cold.txt
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.protocol.types.*;

public class ColdGolden {
    static int count;

    static Object fill(Type type, boolean tags) {
        count++;
        if (type instanceof Schema) {
            Struct struct = new Struct((Schema) type);
            for (BoundField field : ((Schema) type).fields()) struct.set(field, fill(field.def.type, tags));
            return struct;
        }
        if (type instanceof TaggedFields) {
            var values = new TreeMap<Integer, Object>();
            if (tags) for (Map.Entry<Integer, Field> e : ((TaggedFields) type).fields().entrySet())
                values.put(e.getKey(), fill(e.getValue().type, tags));
            return values;
        }
        if (type.isArray()) {
            Type element = type.arrayElementType().get();
            return new Object[] {fill(element, tags), fill(element, tags)};
        }
        String name = type instanceof Type.DocumentedType ? ((Type.DocumentedType) type).typeName() : type.toString();
        switch (name) {
            case "BOOLEAN": return true;
            case "INT8": return (byte) (count % 100);
            case "INT16": return (short) (count % 100);
            case "UINT16": return 1000 + count;
            case "INT32": return 100000 + count;
            case "INT64": return 10000000000L + count;
            case "UUID": return new Uuid(77, count);
            case "STRING": case "COMPACT_STRING": case "NULLABLE_STRING": case "COMPACT_NULLABLE_STRING": return "s" + count;
            case "BYTES": case "COMPACT_BYTES": case "NULLABLE_BYTES": case "COMPACT_NULLABLE_BYTES":
                return ByteBuffer.wrap(new byte[] {0, 1, (byte) count});
            default: throw new IllegalStateException(name);
        }
    }

    static String encode(Schema schema, Message message, short version, boolean tags) throws Exception {
        count = 0;
        Struct struct = (Struct) fill(schema, tags);
        ByteBuffer buffer = ByteBuffer.allocate(schema.sizeOf(struct));
        schema.write(buffer, struct);
        buffer.flip();
        message.read(new ByteBufferAccessor(buffer.duplicate()), version);
        ByteBuffer again = MessageUtil.toByteBufferAccessor(message, version).buffer();
        if (!again.equals(buffer)) throw new IllegalStateException("Kafka writes it differently");
        return java.util.HexFormat.of().formatHex(buffer.array());
    }

    public static void main(String[] args) throws Exception {
        for (short key : new short[] {2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 32, 33, 35, 37, 42, 43, 44, 46, 47, 60, 61, 74, 75}) {
            ApiMessageType api = ApiMessageType.fromApiKey(key);
            for (short v = api.lowestSupportedVersion(); v <= api.highestSupportedVersion(false); v++)
                for (boolean tags : new boolean[] {false, true}) {
                    System.out.println(api.name + " " + v + " request " + encode(api.requestSchemas()[v], api.newRequest(), v, tags));
                    System.out.println(api.name + " " + v + " response " + encode(api.responseSchemas()[v], api.newResponse(), v, tags));
                }
        }
    }
}
