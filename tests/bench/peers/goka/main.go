// The five features with Goka: a processor with a group table in memory, pipelined writes to Redis.
package main

import (
	"context"
	"fmt"
	"hash"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/buger/jsonparser"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/lovoo/goka/storage"
	"github.com/redis/go-redis/v9"
)

const (
	rows   = 10_000 // changed users of a partition before they are written
	within = 50 * time.Millisecond
)

func main() {
	asked := map[string]string{}
	for _, argument := range os.Args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(argument, "--"), "=")
		asked[name] = value
	}
	config := goka.DefaultConfig()
	config.Version = sarama.V2_8_0_0 // the oldest that a broker of today takes is 2.1
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Fetch.Default = 4 << 20
	config.ChannelBufferSize = 4_096
	config.Producer.Flush.Bytes = 1 << 20
	goka.ReplaceGlobalConfig(config)
	topics := goka.NewTopicManagerConfig()
	topics.Table.Replication = 1
	options, err := redis.ParseURL(asked["redis"])
	check(err)
	events, err := strconv.Atoi(asked["events"])
	check(err)
	work := &activity{client: redis.NewClient(options), events: events}
	for partition := range work.parts {
		work.parts[partition].changed = map[string]*tiles{}
	}
	ready(asked["brokers"], goka.Group(asked["group"]), config, topics, len(work.parts))
	processor, err := goka.NewProcessor(
		[]string{asked["brokers"]},
		goka.DefineGroup(
			goka.Group(asked["group"]),
			goka.Input(goka.Stream(asked["topic"]), new(codec.Bytes), work.update),
			goka.Persist(tilesCodec{}),
		),
		goka.WithStorageBuilder(storage.MemoryBuilder()),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithTopicManagerConfig(topics)),
		goka.WithHasher(func() hash.Hash32 { return new(murmur2) }),
		goka.WithPartitionChannelSize(10_000),
		goka.WithLogger(log.New(os.Stderr, "", 0)),
	)
	check(err)
	go func() {
		for range time.Tick(within) {
			for partition := range work.parts {
				work.parts[partition].Lock()
				work.write(&work.parts[partition])
				work.parts[partition].Unlock()
			}
		}
	}()
	check(processor.Run(context.Background()))
}

// ready waits until every partition of a new group table has a leader: a processor that is earlier
// ends.
func ready(
	brokers string, group goka.Group, config *sarama.Config, topics *goka.TopicManagerConfig, parts int,
) {
	manager, err := goka.NewTopicManager([]string{brokers}, config, topics)
	check(err)
	defer manager.Close()
	table := string(goka.GroupTable(group))
	check(manager.EnsureTableExists(table, parts))
	deadline := time.Now().Add(30 * time.Second)
	for partition := range parts {
		for {
			_, err := manager.GetOffset(table, int32(partition), sarama.OffsetOldest)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				check(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// activity is what all partitions share.
type activity struct {
	client *redis.Client
	events int
	parts  [12]part

	sync.Mutex
	written  int
	began    time.Time
	beganCPU float64
}

// part is what one partition changed since its rows were written.
type part struct {
	sync.Mutex
	changed map[string]*tiles
	waiting int
}

func (a *activity) update(ctx goka.Context, message any) {
	part := &a.parts[ctx.Partition()]
	part.Lock()
	defer part.Unlock()
	if part.waiting == 0 {
		a.start()
	}
	user := ctx.Key()
	state := part.changed[user]
	if state == nil {
		if stored := ctx.Value(); stored != nil {
			state = stored.(*tiles)
		} else {
			state = new(tiles)
		}
		part.changed[user] = state
	}
	value := message.([]byte)
	at, err := jsonparser.GetInt(value, "time")
	check(err)
	price, err := jsonparser.GetFloat(value, "price")
	check(err)
	dwell, err := jsonparser.GetFloat(value, "dwell")
	check(err)
	state.add(at, int64(price*100+0.5), dwell)
	ctx.SetValue(state)
	part.waiting++
	if len(part.changed) >= rows {
		a.write(part)
	}
}

func (a *activity) start() {
	a.Lock()
	defer a.Unlock()
	if a.began.IsZero() {
		a.began, a.beganCPU = time.Now(), cpu()
	}
}

// write sends the rows of a partition, which is locked.
func (a *activity) write(part *part) {
	if part.waiting == 0 {
		return
	}
	ctx := context.Background()
	pipe := a.client.Pipeline()
	for user, state := range part.changed {
		pipe.Set(ctx, "user:"+user, state.features(), 0)
	}
	_, err := pipe.Exec(ctx)
	check(err)
	a.Lock()
	defer a.Unlock()
	a.written += part.waiting
	clear(part.changed)
	part.waiting = 0
	if a.written >= a.events {
		fmt.Printf(
			"{\"events\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n",
			a.written, time.Since(a.began).Seconds(), cpu()-a.beganCPU,
		)
		os.Exit(0) // stopping in order comes after the measurement
	}
}

func cpu() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
