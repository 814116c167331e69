// Kafka's kafka-consumer-groups, several times in one JVM: a JVM's start costs more than a command.
// A line of standard input is one command line, words separated by spaces; the answer is what the tool printed on
// either stream, then a line `exit CODE`.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import org.apache.kafka.common.utils.Exit;
import org.apache.kafka.tools.consumer.group.ConsumerGroupCommand;

public final class GroupTool {
    private static final class Ended extends RuntimeException {
        final int code;

        Ended(int code) {
            this.code = code;
        }
    }

    public static void main(String[] args) throws Exception {
        System.setErr(System.out);
        Exit.setExitProcedure((code, message) -> {
            throw new Ended(code);
        });
        Exit.setHaltProcedure((code, message) -> {
            throw new Ended(code);
        });
        System.out.println("ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            int code = 0;
            try {
                ConsumerGroupCommand.main(line.split(" "));
            } catch (Ended ended) {
                code = ended.code;
            }
            System.out.println();
            System.out.println("exit " + code);
            System.out.flush();
        }
    }
}
