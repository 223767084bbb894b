// franz-go: list, produce, consume, group. Arguments: bootstrap address, topic, list of steps
// (kafka, password). The environment is explained in steps.py.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

const group = "with-franz-go"

var (
	bootstrap = os.Args[1]
	topic     = os.Args[2]
	middleMs  int64
)

func step(name string, action func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := action(ctx); err != nil {
		fmt.Printf("FAIL %s: %s\n", name, strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	fmt.Println("PASS", name)
}

func equal(got, due any) error {
	if reflect.DeepEqual(got, due) {
		return nil
	}
	return fmt.Errorf("got %v, due %v", got, due)
}

// A client with what the environment says, and `more`.
func client(password string, more ...kgo.Opt) (*kgo.Client, error) {
	options := append([]kgo.Opt{kgo.SeedBrokers(bootstrap)}, more...)
	if ca := os.Getenv("INTEROP_CA"); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(pem)
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: trusted}))
	}
	if user := os.Getenv("INTEROP_USER"); user != "" {
		options = append(options, kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()))
	}
	return kgo.NewClient(options...)
}

func with(action func(*kgo.Client) error, more ...kgo.Opt) error {
	cl, err := client(os.Getenv("INTEROP_PASSWORD"), more...)
	if err != nil {
		return err
	}
	defer cl.Close()
	return action(cl)
}

func metadata(ctx context.Context) error {
	return with(func(cl *kgo.Client) error {
		admin := kadm.NewClient(cl)
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			return err
		}
		told, err := admin.Metadata(ctx)
		if err != nil {
			return err
		}
		brokers := []string{}
		for _, b := range told.Brokers {
			brokers = append(brokers, fmt.Sprintf("%s:%d", b.Host, b.Port))
		}
		return errors.Join(
			equal(brokers, []string{bootstrap}),
			equal(len(told.Topics[topic].Partitions), 1),
		)
	})
}

// Idempotent, as by default.
func produce(ctx context.Context, low, high int) error {
	return with(func(cl *kgo.Client) error {
		var records []*kgo.Record
		for n := low; n < high; n++ {
			records = append(records, &kgo.Record{
				Topic:   topic,
				Key:     fmt.Appendf(nil, "k%d", n),
				Value:   fmt.Appendf(nil, "v%d", n),
				Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Appendf(nil, "%d", n)}},
			})
		}
		told := cl.ProduceSync(ctx, records...)
		if err := told.FirstErr(); err != nil {
			return err
		}
		return equal(told[0].Record.Offset, int64(low))
	})
}

func produceBothHalves(ctx context.Context) error {
	err := produce(ctx, 0, 5)
	time.Sleep(50 * time.Millisecond)
	middleMs = time.Now().UnixMilli()
	time.Sleep(50 * time.Millisecond)
	return errors.Join(err, produce(ctx, 5, 10))
}

func take(ctx context.Context, cl *kgo.Client, count int) ([]*kgo.Record, error) {
	var got []*kgo.Record
	for len(got) < count {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return got, fmt.Errorf("%d of %d records: %w", len(got), count, err)
		}
		if failed := fetches.Errors(); len(failed) > 0 {
			return got, failed[0].Err
		}
		got = append(got, fetches.Records()...)
	}
	return got[:count], nil
}

func from(offset kgo.Offset) kgo.Opt {
	return kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: offset}})
}

func texts(records []*kgo.Record, text func(*kgo.Record) []byte) []string {
	var all []string
	for _, r := range records {
		all = append(all, string(text(r)))
	}
	return all
}

func values(records []*kgo.Record) []string {
	return texts(records, func(r *kgo.Record) []byte { return r.Value })
}

func numbered(letter string, low, high int) []string {
	var all []string
	for n := low; n < high; n++ {
		all = append(all, fmt.Sprintf("%s%d", letter, n))
	}
	return all
}

// Reads from there on and compares the values with v<low> to v<high - 1>.
func read(ctx context.Context, start kgo.Offset, low, high int) error {
	return with(func(cl *kgo.Client) error {
		got, err := take(ctx, cl, high-low)
		return errors.Join(err, equal(values(got), numbered("v", low, high)))
	}, from(start))
}

func fromBeginning(ctx context.Context) error {
	return with(func(cl *kgo.Client) error {
		got, err := take(ctx, cl, 10)
		if err != nil {
			return err
		}
		return errors.Join(
			equal(values(got), numbered("v", 0, 10)),
			equal(texts(got, func(r *kgo.Record) []byte { return r.Key }), numbered("k", 0, 10)),
			equal(string(got[3].Headers[0].Value), "3"),
			equal(got[9].Offset, int64(9)),
		)
	}, from(kgo.NewOffset().AtStart()))
}

func fromEnd(ctx context.Context) error {
	return with(func(cl *kgo.Client) error {
		ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
		if err != nil {
			return err
		}
		end, _ := ends.Lookup(topic, 0)
		if err := equal(end.Offset, int64(10)); err != nil {
			return err
		}
		// The end is looked up by the first poll, which must be before there is more.
		soon, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		defer cancel()
		if early := cl.PollFetches(soon).NumRecords(); early != 0 {
			return fmt.Errorf("%d records from behind the end", early)
		}
		if err := produce(ctx, 10, 11); err != nil {
			return err
		}
		got, err := take(ctx, cl, 1)
		return errors.Join(err, equal(values(got), numbered("v", 10, 11)))
	}, from(kgo.NewOffset().AtEnd()))
}

func fromOffset(ctx context.Context) error {
	return read(ctx, kgo.NewOffset().At(7), 7, 11)
}

func fromTimestamp(ctx context.Context) error {
	return read(ctx, kgo.NewOffset().AfterMilli(middleMs), 5, 11)
}

func member(action func(*kgo.Client) error) error {
	return with(action,
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
}

func join(ctx context.Context) error {
	return member(func(cl *kgo.Client) error {
		got, err := take(ctx, cl, 4)
		if err != nil {
			return err
		}
		step("group: commit", func(ctx context.Context) error { return commit(ctx, cl, got) })
		return equal(values(got), numbered("v", 0, 4))
	})
}

func commit(ctx context.Context, cl *kgo.Client, got []*kgo.Record) error {
	if err := cl.CommitRecords(ctx, got...); err != nil {
		return err
	}
	told, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	committed, _ := told.Lookup(topic, 0)
	return equal(committed.At, int64(4))
}

func resume(ctx context.Context) error {
	return member(func(cl *kgo.Client) error {
		got, err := take(ctx, cl, 7)
		return errors.Join(err, equal(values(got), numbered("v", 4, 11)))
	})
}

func rightPassword(ctx context.Context) error {
	return errors.Join(
		metadata(ctx),
		produce(ctx, 0, 1),
		read(ctx, kgo.NewOffset().AtStart(), 0, 1),
	)
}

func wrongPassword(ctx context.Context) error {
	cl, err := client("not the password", kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.Ping(ctx); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		return fmt.Errorf("got %v, due %v", err, kerr.SaslAuthenticationFailed)
	}
	return nil
}

func version() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if module.Path == "github.com/twmb/franz-go" {
				return strings.TrimPrefix(module.Version, "v")
			}
		}
	}
	return "unknown"
}

func main() {
	fmt.Println("VERSION", version())
	if os.Args[3] == "password" {
		step("right password", rightPassword)
		step("wrong password", wrongPassword)
		return
	}
	step("metadata", metadata)
	step("produce", produceBothHalves)
	step("consume from the beginning", fromBeginning)
	step("consume from the end", fromEnd)
	step("consume from an offset", fromOffset)
	step("consume from a timestamp", fromTimestamp)
	// The commit is made by the member that has joined.
	step("group: join", join)
	step("group: resume", resume)
}
