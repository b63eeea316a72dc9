package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple4;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.types.CopyableValue;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;

/** The five features with Flink: a keyed process function, state on the heap, checkpoints. */
public final class FlinkActivity {
  private static final int ROWS = 10_000; // changed users of a task before they are written
  private static final AtomicLong SEEN = new AtomicLong();
  private static final AtomicLong BEGAN = new AtomicLong();
  private static final AtomicLong BEGAN_CPU = new AtomicLong();
  private static volatile long ended;
  private static volatile long endedCpu;

  private FlinkActivity() {}

  public static void main(String[] arguments) throws Exception {
    Map<String, String> asked = new HashMap<>();
    for (String argument : arguments) {
      int equals = argument.indexOf('=');
      asked.put(argument.substring(2, equals), argument.substring(equals + 1));
    }
    Configuration settings = new Configuration();
    settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
    settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "file://" + asked.get("directory"));
    StreamExecutionEnvironment flink =
        StreamExecutionEnvironment.createLocalEnvironment(2, settings);
    flink.enableCheckpointing(5_000); // exactly once for the state; rows are written over
    flink.getConfig().enableObjectReuse();
    KafkaSource<Tuple4<Long, Long, Long, Double>> source =
        KafkaSource.<Tuple4<Long, Long, Long, Double>>builder()
            .setBootstrapServers(asked.get("brokers"))
            .setTopics(asked.get("topic"))
            .setGroupId(asked.get("group"))
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setBounded(OffsetsInitializer.latest())
            .setProperty("max.poll.records", "10000")
            .setDeserializer(new Parse())
            .build();
    flink
        .fromSource(source, WatermarkStrategy.noWatermarks(), "events")
        .keyBy(event -> event.f0)
        .process(new Update())
        .sinkTo(new Rows(asked.get("redis")));
    flink.execute("activity");
    System.out.printf(
        java.util.Locale.ROOT,
        "{\"events\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f}%n",
        SEEN.get(),
        (ended - BEGAN.get()) / 1e9,
        (endedCpu - BEGAN_CPU.get()) / 1e9);
    System.out.flush();
    Runtime.getRuntime().halt(0);
  }

  private static long cpu() {
    return ((com.sun.management.OperatingSystemMXBean)
            ManagementFactory.getOperatingSystemMXBean())
        .getProcessCpuTime();
  }

  /** Of an event: user, time, cents and dwell. */
  private static final class Parse
      implements KafkaRecordDeserializationSchema<Tuple4<Long, Long, Long, Double>> {
    private transient JsonFactory json;

    @Override
    public void deserialize(
        ConsumerRecord<byte[], byte[]> record, Collector<Tuple4<Long, Long, Long, Double>> out)
        throws IOException {
      if (SEEN.getAndIncrement() == 0) {
        BEGAN_CPU.set(cpu());
        BEGAN.set(System.nanoTime());
      }
      if (json == null) {
        json = new JsonFactory();
      }
      Tuple4<Long, Long, Long, Double> event = new Tuple4<>();
      try (JsonParser parser = json.createParser(record.value())) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          String name = parser.currentName();
          parser.nextToken();
          switch (name) {
            case "user" -> event.f0 = parser.getLongValue();
            case "time" -> event.f1 = parser.getLongValue();
            case "price" -> event.f2 = Math.round(parser.getDoubleValue() * 100);
            case "dwell" -> event.f3 = parser.getDoubleValue();
            default -> parser.skipChildren();
          }
        }
      }
      out.collect(event);
    }

    @Override
    public TypeInformation<Tuple4<Long, Long, Long, Double>> getProducedType() {
      return Types.TUPLE(Types.LONG, Types.LONG, Types.LONG, Types.DOUBLE);
    }
  }

  /** A user's tiles, as Flink keeps them: by reference on the heap, as bytes in checkpoints. */
  public static final class Activity implements CopyableValue<Activity> {
    private long user;
    private Tiles tiles = new Tiles(null);

    @Override
    public void write(DataOutputView out) throws IOException {
      byte[] bytes = tiles.encode();
      out.writeLong(user);
      out.writeInt(bytes.length);
      out.write(bytes);
    }

    @Override
    public void read(DataInputView in) throws IOException {
      user = in.readLong();
      byte[] bytes = new byte[in.readInt()];
      in.readFully(bytes);
      tiles = new Tiles(bytes);
    }

    @Override
    public int getBinaryLength() {
      return -1;
    }

    @Override
    public void copyTo(Activity target) {
      target.user = user;
      target.tiles = new Tiles(tiles.encode());
    }

    @Override
    public Activity copy() {
      Activity copied = new Activity();
      copyTo(copied);
      return copied;
    }

    @Override
    public void copy(DataInputView from, DataOutputView to) throws IOException {
      Activity moved = new Activity();
      moved.read(from);
      moved.write(to);
    }
  }

  private static final class Update
      extends KeyedProcessFunction<Long, Tuple4<Long, Long, Long, Double>, Activity> {
    private transient ValueState<Activity> state;

    @Override
    public void open(OpenContext context) {
      state = getRuntimeContext().getState(new ValueStateDescriptor<>("tiles", Activity.class));
    }

    @Override
    public void processElement(
        Tuple4<Long, Long, Long, Double> event, Context context, Collector<Activity> out)
        throws IOException {
      Activity activity = state.value();
      if (activity == null) {
        activity = new Activity();
        activity.user = event.f0;
      }
      activity.tiles.add(event.f1, event.f2, event.f3);
      state.update(activity);
      out.collect(activity);
    }
  }

  /** The newest rows of users that changed, pipelined; also at every checkpoint and at the end. */
  private record Rows(String redis) implements Sink<Activity> {
    @Override
    public SinkWriter<Activity> createWriter(WriterInitContext context) {
      return new Writer(new Jedis(URI.create(redis)));
    }
  }

  private static final class Writer implements SinkWriter<Activity> {
    private final Map<Long, Activity> changed = new HashMap<>();
    private final Jedis client;

    Writer(Jedis client) {
      this.client = client;
    }

    @Override
    public void write(Activity activity, Context context) {
      changed.put(activity.user, activity);
      if (changed.size() >= ROWS) {
        flush(false);
      }
    }

    @Override
    public void flush(boolean end) {
      if (changed.isEmpty()) {
        return;
      }
      try (Pipeline pipeline = client.pipelined()) {
        changed.forEach(
            (user, activity) ->
                pipeline.set(
                    ("user:" + user).getBytes(StandardCharsets.ISO_8859_1),
                    activity.tiles.features().getBytes(StandardCharsets.ISO_8859_1)));
        pipeline.sync();
      }
      changed.clear();
      ended = System.nanoTime();
      endedCpu = cpu();
    }

    @Override
    public void close() {
      client.close();
    }
  }
}
