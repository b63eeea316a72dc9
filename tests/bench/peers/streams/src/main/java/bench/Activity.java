package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;

/** The five features with Kafka Streams: a processor with a cached store, pipelined writes. */
public final class Activity {
  private static final int ROWS = 10_000; // changed users of a task before they are written
  private static final AtomicLong SEEN = new AtomicLong();
  private static final AtomicLong WRITTEN = new AtomicLong();
  private static final AtomicLong BEGAN = new AtomicLong();
  private static final AtomicLong BEGAN_CPU = new AtomicLong();
  private static final CountDownLatch DONE = new CountDownLatch(1);
  private static volatile long ended;
  private static volatile long endedCpu;

  private Activity() {}

  public static void main(String[] arguments) throws Exception {
    Map<String, String> asked = new HashMap<>();
    for (String argument : arguments) {
      int equals = argument.indexOf('=');
      asked.put(argument.substring(2, equals), argument.substring(equals + 1));
    }
    long events = Long.parseLong(asked.get("events"));
    URI redis = URI.create(asked.get("redis"));
    Topology topology = new Topology();
    topology.addSource(
        "events",
        Serdes.ByteArray().deserializer(),
        Serdes.ByteArray().deserializer(),
        asked.get("topic"));
    topology.addProcessor("tiles", () -> new Update(redis, events), "events");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.inMemoryKeyValueStore("tiles"), Serdes.ByteArray(), Serdes.ByteArray())
            .withCachingEnabled(),
        "tiles");
    KafkaStreams streams = new KafkaStreams(topology, settings(asked));
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
          return null;
        });
    streams.start();
    DONE.await();
    System.out.printf(
        java.util.Locale.ROOT,
        "{\"events\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f}%n",
        SEEN.get(),
        (ended - BEGAN.get()) / 1e9,
        (endedCpu - BEGAN_CPU.get()) / 1e9);
    System.out.flush();
    Runtime.getRuntime().halt(0); // closing in order comes after the measurement
  }

  private static Properties settings(Map<String, String> asked) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, asked.get("group"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, asked.get("brokers"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, asked.get("directory"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 512L << 20);
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 50);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 1 << 18);
    return settings;
  }

  private static long cpu() {
    return ((com.sun.management.OperatingSystemMXBean)
            ManagementFactory.getOperatingSystemMXBean())
        .getProcessCpuTime();
  }

  /** Keeps the tiles of the users of one partition; writes the rows of those that changed. */
  private static final class Update implements Processor<byte[], byte[], Void, Void> {
    private final JsonFactory json = new JsonFactory();
    private final Map<String, Tiles> changed = new HashMap<>();
    private final URI redis;
    private final long events;
    private KeyValueStore<byte[], byte[]> store;
    private Jedis client;
    private long waiting;

    Update(URI redis, long events) {
      this.redis = redis;
      this.events = events;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      store = context.getStateStore("tiles");
      client = new Jedis(redis);
      context.schedule(Duration.ofMillis(50), PunctuationType.WALL_CLOCK_TIME, now -> write());
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      if (SEEN.getAndIncrement() == 0) {
        BEGAN_CPU.set(cpu());
        BEGAN.set(System.nanoTime());
      }
      waiting++;
      Tiles tiles =
          changed.computeIfAbsent(
              new String(record.key(), StandardCharsets.ISO_8859_1),
              user -> new Tiles(store.get(record.key())));
      try {
        read(record.value(), tiles);
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
      store.put(record.key(), tiles.encode());
      if (changed.size() >= ROWS || SEEN.get() == events) {
        write();
      }
    }

    private void read(byte[] value, Tiles tiles) throws IOException {
      long time = 0;
      double price = 0;
      double dwell = 0;
      try (JsonParser parser = json.createParser(value)) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          String name = parser.currentName();
          parser.nextToken();
          switch (name) {
            case "time" -> time = parser.getLongValue();
            case "price" -> price = parser.getDoubleValue();
            case "dwell" -> dwell = parser.getDoubleValue();
            default -> parser.skipChildren();
          }
        }
      }
      tiles.add(time, Math.round(price * 100), dwell);
    }

    private void write() {
      if (waiting == 0) {
        return;
      }
      try (Pipeline pipeline = client.pipelined()) {
        changed.forEach((user, tiles) -> pipeline.set("user:" + user, tiles.features()));
        pipeline.sync();
      }
      changed.clear();
      ended = System.nanoTime();
      endedCpu = cpu();
      if (WRITTEN.addAndGet(waiting) >= events) {
        DONE.countDown();
      }
      waiting = 0;
    }

    @Override
    public void close() {
      client.close();
    }
  }
}
