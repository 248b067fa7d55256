// Command client is grpc-go's own xDS client, told what to call by lines of JSON; the bootstrap comes from
// GRPC_XDS_BOOTSTRAP_CONFIG. See ../grpc-core/prober.py, which speaks the same.
//
// It prints {"ready":{}} and then answers each line on standard input with one line on standard output:
//
//	{"probe":{"targets":[{"target":"name","probes":[{"path":"/service/Method","metadata":[["key","value"]],"warm":["backend"],"count":5}]}]}}
//	{"close":{}}
//
// Each target is a channel of its own, which stays open until `close`. A probe first calls until every backend in `warm` has
// answered, since a channel prefers those that it is connected to, and then counts the answers of `count` calls. Where nobody
// has to answer, the first failure is the last call. The answer is a list of tallies by target: {"answers":{backend:calls},"failures":{"CODE":calls}}.
//
// It ends when standard input does, so that it cannot outlive the test that started it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

const (
	// Targets that are probed at a time.
	workers = 16
	// How long one call may take.
	patience = 5 * time.Second
	// Calls after which a backend that is warmed up for is given up, and so it is after so many failures in a row.
	enough   = 2000
	failures = 100
)

type command struct {
	Probe *batch    `json:"probe"`
	Close *struct{} `json:"close"`
}

type batch struct {
	Targets []target `json:"targets"`
}

type target struct {
	Target string  `json:"target"`
	Probes []probe `json:"probes"`
}

type probe struct {
	Path     string      `json:"path"`
	Metadata [][2]string `json:"metadata"`
	Warm     []string    `json:"warm"`
	Count    int         `json:"count"`
}

type tally struct {
	Answers  map[string]int `json:"answers"`
	Failures map[string]int `json:"failures"`
}

type client struct {
	mutex    sync.Mutex
	channels []*grpc.ClientConn
}

// raw is the codec of messages that are their own encoding.
type raw struct{}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	client := &client{}
	say(map[string]any{"ready": struct{}{}})
	for lines.Scan() {
		answer, err := client.obey(lines.Bytes())
		if err != nil {
			say(map[string]string{"error": err.Error()})
			continue
		}
		say(map[string]any{"ok": answer})
	}
}

func say(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func (c *client) obey(line []byte) (any, error) {
	var command command
	if err := json.Unmarshal(line, &command); err != nil {
		return nil, err
	}
	switch {
	case command.Probe != nil:
		return c.probe(command.Probe.Targets)
	case command.Close != nil:
		c.close()
		return struct{}{}, nil
	}
	return nil, fmt.Errorf("not a command: %s", line)
}

func (c *client) probe(targets []target) (map[string][]tally, error) {
	var (
		group   sync.WaitGroup
		results = make(map[string][]tally)
		failed  error
		places  = make(chan struct{}, workers)
	)
	for _, target := range targets {
		group.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			tallies, err := c.probeTarget(target)
			c.mutex.Lock()
			defer c.mutex.Unlock()
			results[target.Target] = tallies
			if err != nil {
				failed = err
			}
		})
	}
	group.Wait()
	return results, failed
}

func (c *client) probeTarget(target target) ([]tally, error) {
	channel, err := grpc.NewClient("xds:///"+target.Target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		return nil, err
	}
	c.mutex.Lock()
	c.channels = append(c.channels, channel)
	c.mutex.Unlock()
	tallies := make([]tally, 0, len(target.Probes))
	for _, probe := range target.Probes {
		tallies = append(tallies, probe.run(channel))
	}
	return tallies, nil
}

func (c *client) close() {
	for _, channel := range c.channels {
		channel.Close()
	}
	c.channels = nil
}

func (p *probe) run(channel *grpc.ClientConn) tally {
	p.warmUp(channel)
	tally := tally{Answers: map[string]int{}, Failures: map[string]int{}}
	for range p.Count {
		backend, err := p.call(channel)
		if err != nil {
			tally.Failures[encode(err)]++
			if len(p.Warm) == 0 {
				break
			}
			continue
		}
		tally.Answers[backend]++
	}
	return tally
}

func (p *probe) warmUp(channel *grpc.ClientConn) {
	missing := make(map[string]bool)
	for _, backend := range p.Warm {
		missing[backend] = true
	}
	failed := 0
	for calls := 0; len(missing) > 0 && calls < enough && failed < failures; calls++ {
		backend, err := p.call(channel)
		if err != nil {
			failed++
			continue
		}
		failed = 0
		delete(missing, backend)
	}
}

// call says who answered: backends answer with their names.
func (p *probe) call(channel *grpc.ClientConn) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, pair := range p.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, pair[0], pair[1])
	}
	var answer []byte
	err := channel.Invoke(ctx, p.Path, []byte("ping"), &answer)
	return string(answer), err
}

// encode names a code as the protocol does, in capitals.
func encode(err error) string {
	names := []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
	if code := int(status.Code(err)); code < len(names) {
		return names[code]
	}
	return "UNKNOWN"
}

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*[]byte) = data.Materialize()
	return nil
}

func (raw) Name() string { return "raw" }

var _ encoding.CodecV2 = raw{}
