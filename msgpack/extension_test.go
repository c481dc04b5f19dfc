package msgpack_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"example.com/rpcx/msgpack"
)

// allocated returns how many bytes of memory f takes.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// memoryFor is how many bytes of memory may be taken to decode data.
func memoryFor(data []byte) uint64 { return 1<<20 + 1000*uint64(len(data)) }

// destinations returns one of each kind that a message is decoded into.
func destinations() []any {
	type nested struct {
		M map[string]map[string]any `json:"m"`
		T time.Time                 `json:"t"`
	}
	return []any{
		new(order), new(string), new([]int), new(map[string]any), new([][]byte), new(float32), new(any),
		new(map[string]string), new(map[any]any), new(map[int]int), new([]map[string]any), new([]map[string]string),
		new(nested), new([]nested), new(time.Time), new([]any), new(map[string]nested), new(map[string]any), new(*order),
	}
}

// What an extension holds is never taken for a map.
func TestExtensionsThatHoldMaps(t *testing.T) {
	limitMemory(t)
	const huge = "\xdf\x7f\xff\xff\xff"
	for name, data := range map[string]string{
		"as it was found":               "\xd7\x10\xdf/000=00",
		"in an array":                   "\x91\xd7\x10" + huge + "\x00\x00\x00",
		"in a map":                      "\x81\xa1m\xd7\x10" + huge + "\x00\x00\x00",
		"in a map in a map":             "\x81\xa1m\x81\xa1m\xd7\x10" + huge + "\x00\x00\x00",
		"of 16 bytes":                   "\xd8\x10" + huge + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"with a length":                 "\xc7\x05\x10" + huge,
		"with a longer length":          "\xc8\x00\x05\x10" + huge,
		"with the longest length":       "\xc9\x00\x00\x00\x05\x10" + huge,
		"behind a small map":            "\x92\xd8\x10\x81\xa1a\x01" + huge + "\x00\x00\x00\x00\x00\x00\x00" + "\xc0",
		"behind an empty map":           "\x92\xd7\x10\x80" + huge + "\x00\x00\xc0",
		"behind a null":                 "\x92\xd7\x10\xc0" + huge + "\x00\x00\xc0",
		"a map of 16 bits":              "\xd7\x10\xde\xff\xff\x00\x00\x00\x00\x00",
		"a map whose length is cut off": "\x91\xd4\x10\xdf",
		"a timestamp of no time":        "\xd7\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"a timestamp that is a map":     "\xd7\xff" + huge + "\x00\x00\x00",
		"a long timestamp that is one":  "\xc7\x0c\xff" + huge + "\x00\x00\x00\x00\x00\x00\x00",
		"one that is none, by its size": "\xc7\x05\xff" + huge,
		"a short timestamp that is one": "\xd6\xff\xdf\x00\x00\x7f",
	} {
		for _, dest := range destinations() {
			var err error
			took := allocated(func() { err = msgpack.Codec.Unmarshal([]byte(data), dest) })
			if took > memoryFor([]byte(data)) {
				t.Errorf("%s: into a %T it takes %d bytes", name, dest, took)
			}
			if m, ok := dest.(*map[string]any); ok && err == nil && data[0] > 0x9f {
				t.Errorf("%s: it is the map %v", name, *m)
			}
		}
	}
}

// A key that cannot be one is an error, and no panic.
func TestKeysThatCannotBeKeys(t *testing.T) {
	for name, data := range map[string]string{
		"a list":               "\x81\x91\x00\x00",
		"an empty list":        "\x81\x90\x00",
		"a map":                "\x81\x80\x00",
		"a list, in a list":    "\x91\x81\x90\x00",
		"bytes":                "\x81\xc4\x01k\x00",
		"a list, within a map": "\x81\xa1m\x81\x90\x00",
	} {
		for _, dest := range []any{new(any), new(map[any]any), new([]map[any]any), new(map[string]map[any]any)} {
			_ = msgpack.Codec.Unmarshal([]byte(data), dest) // must not panic
		}
		if err := msgpack.Codec.Unmarshal([]byte(data), new(map[any]any)); err == nil {
			t.Errorf("%s is a key", name)
		}
	}
}

// A null in the place of a struct is no panic either.
func TestNullsForStructs(t *testing.T) {
	for _, data := range []string{"\xc0", "\x91\xc0", "\x92\xc0\xc0", "\x81\xa1a\xc0", "\x92\x80\xc0"} {
		for _, dest := range destinations() {
			_ = msgpack.Codec.Unmarshal([]byte(data), dest) // must not panic
		}
	}
	var ids []order
	if err := msgpack.Codec.Unmarshal([]byte("\x91\x81\xa2id\x07"), &ids); err != nil || len(ids) != 1 || ids[0].ID != 7 {
		t.Errorf("after that, decoded is %+v, %v", ids, err)
	}
}

// Timestamps are what they were, however their bytes look.
func TestTimestamps(t *testing.T) {
	for _, want := range []time.Time{
		time.Unix(1, 0), time.Unix(1<<31, 0), time.Unix(0xdf000001, 0), time.Unix(0xc0000001, 0),
		time.Unix(1_700_000_000, 536_870_912), time.Unix(1_700_000_000, 600_000_000), time.Unix(1_700_000_000, 805_306_368),
		time.Unix(1_700_000_000, 931_135_488), time.Unix(1_700_000_000, 999_999_999), time.Unix(1<<35, 600_000_000), time.Unix(-5, 5),
	} {
		type stamped struct {
			Before string      `json:"before"`
			Times  []time.Time `json:"times"`
			Behind any         `json:"behind"`
		}
		data, err := msgpack.Codec.Append(nil, stamped{"b", []time.Time{want, want}, "e"})
		if err != nil {
			t.Fatal(err)
		}
		var got stamped
		if err := msgpack.Codec.Unmarshal(data, &got); err != nil || len(got.Times) != 2 || !got.Times[0].Equal(want) || !got.Times[1].Equal(want) || fmt.Sprint(got.Before, got.Behind) != "be" {
			t.Errorf("%v: got %+v, %v", want, got, err)
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	sent := order{ID: 1 << 40, Data: []byte("some data"), Any: []any{1, "two", 3.5}, Notes: map[string]any{"a": 1, "b": "two"}}
	data, err := msgpack.Codec.Append(nil, sent)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("struct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var o order
			_ = msgpack.Codec.Unmarshal(data, &o)
		}
	})
	b.Run("any", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v any
			_ = msgpack.Codec.Unmarshal(data, &v)
		}
	})
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var dst []byte
		for b.Loop() {
			dst, _ = msgpack.Codec.Append(dst[:0], sent)
		}
	})
}
