import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.SaslAuthenticationException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * The Java client: list, produce, consume, group. Arguments: bootstrap address, topic, list of
 * steps (kafka, password). The environment is explained in steps.py.
 */
public final class Interop {
    interface Step {
        void run() throws Exception;
    }

    private final String bootstrap;
    private final String topic;
    private final TopicPartition partition;
    private long middleMs;
    private KafkaConsumer<String, String> joined;

    private Interop(String bootstrap, String topic) {
        this.bootstrap = bootstrap;
        this.topic = topic;
        this.partition = new TopicPartition(topic, 0);
    }

    private static void step(String name, Step step) {
        try {
            step.run();
            System.out.println("PASS " + name);
        } catch (Exception | AssertionError error) {
            error.printStackTrace();
            System.out.println("FAIL " + name + ": " + error.toString().replaceAll("\\s+", " "));
        }
    }

    private static void equal(Object got, Object due) {
        if (!got.equals(due)) {
            throw new AssertionError("got " + got + ", due " + due);
        }
    }

    private Properties base() {
        return base(System.getenv("INTEROP_PASSWORD"));
    }

    private Properties base(String password) {
        String ca = System.getenv("INTEROP_CA");
        String user = System.getenv("INTEROP_USER");
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        if (ca != null) {
            properties.put("security.protocol", user == null ? "SSL" : "SASL_SSL");
            properties.put("ssl.truststore.type", "PEM");
            properties.put("ssl.truststore.location", ca);
        }
        if (user != null) {
            properties.put("sasl.mechanism", "PLAIN");
            properties.put(
                    "sasl.jaas.config",
                    "org.apache.kafka.common.security.plain.PlainLoginModule required"
                            + " username=\"%s\" password=\"%s\";".formatted(user, password));
        }
        return properties;
    }

    private void metadata() throws Exception {
        try (Admin admin = Admin.create(base())) {
            NewTopic created = new NewTopic(topic, 1, (short) 1);
            admin.createTopics(List.of(created)).all().get(10, TimeUnit.SECONDS);
            equal(admin.listTopics().names().get(10, TimeUnit.SECONDS).contains(topic), true);
            var nodes = admin.describeCluster().nodes().get(10, TimeUnit.SECONDS);
            equal(nodes.stream().map(n -> n.host() + ":" + n.port()).toList(), List.of(bootstrap));
        }
    }

    private void produce(int low, int high) throws Exception {
        // Idempotent, as by default.
        try (var producer =
                new KafkaProducer<>(base(), new StringSerializer(), new StringSerializer())) {
            for (int n = low; n < high; n++) {
                var record = new ProducerRecord<>(topic, "k" + n, "v" + n);
                record.headers().add("n", Integer.toString(n).getBytes());
                equal(producer.send(record).get(10, TimeUnit.SECONDS).offset(), (long) n);
            }
        }
    }

    private void produceBothHalves() throws Exception {
        produce(0, 5);
        Thread.sleep(50);
        middleMs = System.currentTimeMillis();
        Thread.sleep(50);
        produce(5, 10);
    }

    private KafkaConsumer<String, String> consumer(Properties properties) {
        properties.put("enable.auto.commit", "false");
        return new KafkaConsumer<>(
                properties, new StringDeserializer(), new StringDeserializer());
    }

    private KafkaConsumer<String, String> reader() {
        var consumer = consumer(base());
        consumer.assign(List.of(partition));
        return consumer;
    }

    private static List<ConsumerRecord<String, String>> take(
            KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> got = new ArrayList<>();
        long deadline = System.nanoTime() + Duration.ofSeconds(20).toNanos();
        while (got.size() < count && System.nanoTime() < deadline) {
            consumer.poll(Duration.ofMillis(500)).forEach(got::add);
        }
        equal(got.size() >= count, true);
        return got.subList(0, count);
    }

    private static List<String> values(List<ConsumerRecord<String, String>> records) {
        return records.stream().map(ConsumerRecord::value).toList();
    }

    private static List<String> numbered(String letter, int low, int high) {
        return IntStream.range(low, high).mapToObj(n -> letter + n).toList();
    }

    private void fromBeginning() {
        try (var consumer = reader()) {
            consumer.seekToBeginning(List.of(partition));
            var got = take(consumer, 10);
            equal(values(got), numbered("v", 0, 10));
            equal(got.stream().map(ConsumerRecord::key).toList(), numbered("k", 0, 10));
            equal(new String(got.get(3).headers().lastHeader("n").value()), "3");
            equal(got.get(9).offset(), 9L);
        }
    }

    private void fromEnd() throws Exception {
        try (var consumer = reader()) {
            consumer.seekToEnd(List.of(partition));
            equal(consumer.position(partition), 10L);
            equal(consumer.endOffsets(List.of(partition)), Map.of(partition, 10L));
            produce(10, 11);
            equal(values(take(consumer, 1)), List.of("v10"));
        }
    }

    private void fromOffset() {
        try (var consumer = reader()) {
            consumer.seek(partition, 7);
            equal(values(take(consumer, 4)), numbered("v", 7, 11));
        }
    }

    private void fromTimestamp() {
        try (var consumer = reader()) {
            var found = consumer.offsetsForTimes(Map.of(partition, middleMs));
            equal(found.get(partition).offset(), 5L);
            consumer.seek(partition, 5);
            equal(values(take(consumer, 1)), List.of("v5"));
        }
    }

    private KafkaConsumer<String, String> member() {
        Properties properties = base();
        properties.put("group.id", "with-java");
        properties.put("auto.offset.reset", "earliest");
        var consumer = consumer(properties);
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    private void join() {
        joined = member();
        equal(values(take(joined, 4)), numbered("v", 0, 4));
    }

    private void commit() {
        joined.commitSync(Map.of(partition, new OffsetAndMetadata(4, "by hand")));
        joined.close();
    }

    private void resume() {
        try (var consumer = member()) {
            equal(values(take(consumer, 7)).get(0), "v4");
        }
    }

    private void rightPassword() throws Exception {
        metadata();
        produce(0, 1);
        try (var consumer = reader()) {
            consumer.seekToBeginning(List.of(partition));
            equal(values(take(consumer, 1)), List.of("v0"));
        }
    }

    private void wrongPassword() throws Exception {
        try (Admin admin = Admin.create(base("not the password"))) {
            var names = admin.listTopics().names().get(10, TimeUnit.SECONDS);
            throw new AssertionError("it was let in: " + names);
        } catch (ExecutionException refused) {
            equal(refused.getCause().getClass(), SaslAuthenticationException.class);
        }
    }

    public static void main(String[] arguments) {
        Interop interop = new Interop(arguments[0], arguments[1]);
        System.out.println("VERSION " + AppInfoParser.getVersion());
        if (arguments[2].equals("password")) {
            step("right password", interop::rightPassword);
            step("wrong password", interop::wrongPassword);
            System.exit(0);
        }
        step("metadata", interop::metadata);
        step("produce", interop::produceBothHalves);
        step("consume from the beginning", interop::fromBeginning);
        step("consume from the end", interop::fromEnd);
        step("consume from an offset", interop::fromOffset);
        step("consume from a timestamp", interop::fromTimestamp);
        step("group: join", interop::join);
        step("group: commit", interop::commit);
        step("group: resume", interop::resume);
        System.exit(0);
    }
}
