// client.go PORT [store|read]: gomemcache against the server on 127.0.0.1:PORT; exits 1 at the first wrong answer.
package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

func check(what string, ok bool) {
	if !ok {
		fmt.Fprintln(os.Stderr, "gomemcache: "+what)
		os.Exit(1)
	}
}

func noise(r *rand.Rand, size int) []byte {
	value := make([]byte, size)
	r.Read(value)
	return value
}

func is(m *memcache.Client, key, wanted string) bool {
	item, err := m.Get(key)
	return err == nil && string(item.Value) == wanted
}

func gone(m *memcache.Client, key string) bool {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := m.Get(key); err == memcache.ErrCacheMiss {
			return true
		}
	}
	return false
}

func flash(m *memcache.Client, phase string) {
	r := rand.New(rand.NewSource(2))
	for i := 0; i < 500; i++ {
		key, value := fmt.Sprintf("flash-%d", i), noise(r, 300+r.Intn(4700))
		if phase == "store" {
			check("store "+key, m.Set(&memcache.Item{Key: key, Value: value, Flags: uint32(i)}) == nil)
			continue
		}
		item, err := m.Get(key)
		check("read "+key, err == nil && bytes.Equal(item.Value, value) && item.Flags == uint32(i))
	}
}

func main() {
	m := memcache.New("127.0.0.1:" + os.Args[1])
	m.Timeout = 2 * time.Minute
	if len(os.Args) > 2 {
		flash(m, os.Args[2])
		return
	}
	text := func(key, value string) *memcache.Item { return &memcache.Item{Key: key, Value: []byte(value)} }
	check("set", m.Set(text("a", "one")) == nil && is(m, "a", "one"))
	_, err := m.Get("missing")
	check("get missing", err == memcache.ErrCacheMiss)
	check("add over", m.Add(text("a", "x")) == memcache.ErrNotStored)
	check("add", m.Add(text("b", "two")) == nil && is(m, "b", "two"))
	check("delete", m.Delete("b") == nil)
	check("delete again", m.Delete("b") == memcache.ErrCacheMiss)

	check("number", m.Set(text("n", "10")) == nil)
	n, err := m.Increment("n", 5)
	check("incr", err == nil && n == 15)
	n, err = m.Decrement("n", 20)
	check("decr", err == nil && n == 0)
	_, err = m.Increment("missing", 1)
	check("incr missing", err == memcache.ErrCacheMiss)

	item, err := m.Get("a")
	check("gets", err == nil)
	item.Value = []byte("two")
	check("cas", m.CompareAndSwap(item) == nil && is(m, "a", "two"))
	check("cas again", m.CompareAndSwap(item) == memcache.ErrCASConflict)

	check("brief", m.Set(&memcache.Item{Key: "brief", Value: []byte("x"), Expiration: 1}) == nil && gone(m, "brief"))

	r, many := rand.New(rand.NewSource(1)), map[string][]byte{}
	var keys []string
	for i := 0; i < 1000; i++ {
		key := fmt.Sprintf("many-%d", i)
		many[key] = noise(r, 1+r.Intn(3000))
		keys = append(keys, key, fmt.Sprintf("never-%d", i))
		check("set "+key, m.Set(&memcache.Item{Key: key, Value: many[key]}) == nil)
	}
	got, err := m.GetMulti(keys)
	check("multi-get", err == nil && len(got) == len(many))
	for key, value := range many {
		check("many "+key, bytes.Equal(got[key].Value, value))
	}
	for _, size := range []int{500000, 1 << 20, 3000000} {
		value := noise(r, size)
		check("set big", m.Set(&memcache.Item{Key: "big", Value: value}) == nil)
		item, err := m.Get("big")
		check("get big", err == nil && bytes.Equal(item.Value, value))
	}
	fmt.Println("gomemcache: all answers as from memcached")
}
