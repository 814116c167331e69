// Prints golden bodies as "message version hex", encoded by Apache Kafka's own classes.
//   java -cp kafka-clients-4.3.1.jar:slf4j-api.jar Golden.java > kafka-4.3.1.txt
// What it encodes is what tests/golden.rs expects, field by field.
import java.nio.ByteBuffer;
import java.util.List;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.*;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.record.internal.MemoryRecords;

public class Golden {
    static final Uuid TOPIC = new Uuid(0x0102030405060708L, 0x090a0b0c0d0e0f10L);
    static final Uuid DIRECTORY = new Uuid(0x1112131415161718L, 0x191a1b1c1d1e1f20L);

    static MemoryRecords records(String hex) {
        return MemoryRecords.readableRecords(ByteBuffer.wrap(java.util.HexFormat.of().parseHex(hex)));
    }

    static void print(String name, int version, Message message) {
        ByteBuffer buffer = MessageUtil.toByteBufferAccessor(message, (short) version).buffer();
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        System.out.println(name + " " + version + " " + java.util.HexFormat.of().formatHex(bytes));
    }

    static ProduceRequestData produceRequest(int v) {
        var topic = new ProduceRequestData.TopicProduceData().setPartitionData(List.of(
            new ProduceRequestData.PartitionProduceData().setIndex(7).setRecords(records("00010203040506")),
            new ProduceRequestData.PartitionProduceData().setIndex(8).setRecords(null)));
        if (v >= 13) topic.setTopicId(TOPIC); else topic.setName("orders");
        var topics = new ProduceRequestData.TopicProduceDataCollection();
        topics.add(topic);
        return new ProduceRequestData().setTransactionalId("tx-1").setAcks((short) -1).setTimeoutMs(30000).setTopicData(topics);
    }

    static ProduceResponseData produceResponse(int v) {
        var ok = new ProduceResponseData.PartitionProduceResponse().setIndex(7).setErrorCode((short) 0)
            .setBaseOffset(1234567890123L).setLogAppendTimeMs(1700000000000L).setLogStartOffset(42);
        var bad = new ProduceResponseData.PartitionProduceResponse().setIndex(8).setErrorCode((short) 6)
            .setBaseOffset(-1).setLogAppendTimeMs(-1).setLogStartOffset(-1);
        if (v >= 8) bad.setErrorMessage("moved").setRecordErrors(List.of(
            new ProduceResponseData.BatchIndexAndErrorMessage().setBatchIndex(3).setBatchIndexErrorMessage("bad"),
            new ProduceResponseData.BatchIndexAndErrorMessage().setBatchIndex(4).setBatchIndexErrorMessage(null)));
        if (v >= 10) bad.setCurrentLeader(new ProduceResponseData.LeaderIdAndEpoch().setLeaderId(2).setLeaderEpoch(9));
        var topic = new ProduceResponseData.TopicProduceResponse().setPartitionResponses(List.of(ok, bad));
        if (v >= 13) topic.setTopicId(TOPIC); else topic.setName("orders");
        var topics = new ProduceResponseData.TopicProduceResponseCollection();
        topics.add(topic);
        var response = new ProduceResponseData().setResponses(topics).setThrottleTimeMs(11);
        if (v >= 10) {
            var nodes = new ProduceResponseData.NodeEndpointCollection();
            nodes.add(new ProduceResponseData.NodeEndpoint().setNodeId(2).setHost("b2").setPort(9092).setRack("r1"));
            response.setNodeEndpoints(nodes);
        }
        return response;
    }

    static FetchRequestData fetchRequest(int v) {
        var partition = new FetchRequestData.FetchPartition().setPartition(7).setFetchOffset(99).setPartitionMaxBytes(1048576);
        if (v >= 5) partition.setLogStartOffset(5);
        if (v >= 9) partition.setCurrentLeaderEpoch(4);
        if (v >= 12) partition.setLastFetchedEpoch(3);
        if (v >= 17) partition.setReplicaDirectoryId(DIRECTORY);
        if (v >= 18) partition.setHighWatermark(77);
        var topic = new FetchRequestData.FetchTopic().setPartitions(List.of(partition));
        if (v >= 13) topic.setTopicId(TOPIC); else topic.setTopic("orders");
        var request = new FetchRequestData().setMaxWaitMs(500).setMinBytes(1).setMaxBytes(52428800)
            .setIsolationLevel((byte) 1).setTopics(List.of(topic));
        if (v <= 14) request.setReplicaId(3);
        else request.setReplicaState(new FetchRequestData.ReplicaState().setReplicaId(3).setReplicaEpoch(17));
        if (v >= 7) {
            var forgotten = new FetchRequestData.ForgottenTopic().setPartitions(List.of(1, 2));
            if (v >= 13) forgotten.setTopicId(DIRECTORY); else forgotten.setTopic("gone");
            request.setSessionId(55).setSessionEpoch(6).setForgottenTopicsData(List.of(forgotten));
        }
        if (v >= 11) request.setRackId("r1");
        if (v >= 12) request.setClusterId("cluster-x");
        return request;
    }

    static FetchResponseData fetchResponse(int v) {
        var full = new FetchResponseData.PartitionData().setPartitionIndex(7).setErrorCode((short) 0).setHighWatermark(100)
            .setLastStableOffset(90).setRecords(records("0001020304050607"))
            .setAbortedTransactions(List.of(new FetchResponseData.AbortedTransaction().setProducerId(1001).setFirstOffset(80)));
        var moved = new FetchResponseData.PartitionData().setPartitionIndex(8).setErrorCode((short) 6).setHighWatermark(-1)
            .setLastStableOffset(-1).setAbortedTransactions(null).setRecords(MemoryRecords.EMPTY);
        if (v >= 5) full.setLogStartOffset(5);
        if (v >= 11) full.setPreferredReadReplica(2);
        if (v >= 12) {
            moved.setDivergingEpoch(new FetchResponseData.EpochEndOffset().setEpoch(3).setEndOffset(60));
            moved.setCurrentLeader(new FetchResponseData.LeaderIdAndEpoch().setLeaderId(2).setLeaderEpoch(9));
            moved.setSnapshotId(new FetchResponseData.SnapshotId().setEndOffset(50).setEpoch(1));
        }
        var topic = new FetchResponseData.FetchableTopicResponse().setPartitions(List.of(full, moved));
        if (v >= 13) topic.setTopicId(TOPIC); else topic.setTopic("orders");
        var response = new FetchResponseData().setThrottleTimeMs(11).setResponses(List.of(topic));
        if (v >= 7) response.setErrorCode((short) 0).setSessionId(55);
        if (v >= 16) {
            var nodes = new FetchResponseData.NodeEndpointCollection();
            nodes.add(new FetchResponseData.NodeEndpoint().setNodeId(2).setHost("b2").setPort(9092).setRack(null));
            response.setNodeEndpoints(nodes);
        }
        return response;
    }

    static ApiVersionsResponseData apiVersions(int v) {
        var keys = new ApiVersionsResponseData.ApiVersionCollection();
        keys.add(new ApiVersionsResponseData.ApiVersion().setApiKey((short) 0).setMinVersion((short) 0).setMaxVersion((short) 13));
        keys.add(new ApiVersionsResponseData.ApiVersion().setApiKey((short) 18).setMinVersion((short) 0).setMaxVersion((short) 4));
        var response = new ApiVersionsResponseData().setApiKeys(keys);
        if (v >= 1) response.setThrottleTimeMs(11);
        if (v >= 3) {
            var supported = new ApiVersionsResponseData.SupportedFeatureKeyCollection();
            supported.add(new ApiVersionsResponseData.SupportedFeatureKey().setName("metadata.version").setMinVersion((short) 7).setMaxVersion((short) 30));
            var finalized = new ApiVersionsResponseData.FinalizedFeatureKeyCollection();
            finalized.add(new ApiVersionsResponseData.FinalizedFeatureKey().setName("metadata.version").setMinVersionLevel((short) 30).setMaxVersionLevel((short) 30));
            response.setSupportedFeatures(supported).setFinalizedFeatures(finalized).setFinalizedFeaturesEpoch(8);
        }
        return response;
    }

    public static void main(String[] args) {
        for (int v = 3; v <= 13; v++) print("produce_request", v, produceRequest(v));
        for (int v = 3; v <= 13; v++) print("produce_response", v, produceResponse(v));
        for (int v = 4; v <= 18; v++) print("fetch_request", v, fetchRequest(v));
        for (int v = 4; v <= 18; v++) print("fetch_response", v, fetchResponse(v));
        for (int v = 0; v <= 4; v++) print("api_versions_response", v, apiVersions(v));
        for (int v = 1; v <= 2; v++) print("request_header", v, new RequestHeaderData().setRequestApiKey((short) 3)
            .setRequestApiVersion((short) (v == 1 ? 8 : 9)).setCorrelationId(77).setClientId("app"));
    }
}
