// Command control-plane is go-control-plane's own cache and ADS server, told what to serve by lines of JSON.
//
// It prints {"ready":{"port":N}} and then answers each line on standard input with one line on standard output:
//
//	{"snapshot":{"node":"id","version":"1","listeners":[..],"routes":[..],"clusters":[..],"endpoints":[..]}}
//	{"clear":{"node":"id"}}
//	{"report":{}}
//
// A resource is written as Envoy's documentation writes it in JSON, and is read strictly: an unknown field is an error,
// so that a test never steers by a field that was not there. It ends when standard input does, so that it cannot outlive
// the test that started it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	// What an Any inside a resource may hold: protojson resolves a type only when it is linked in.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

type command struct {
	Snapshot *snapshot `json:"snapshot"`
	Clear    *node     `json:"clear"`
	Report   *struct{} `json:"report"`
}

type node struct {
	Node string `json:"node"`
}

type snapshot struct {
	Node      string            `json:"node"`
	Version   string            `json:"version"`
	Listeners []json.RawMessage `json:"listeners"`
	Routes    []json.RawMessage `json:"routes"`
	Clusters  []json.RawMessage `json:"clusters"`
	Endpoints []json.RawMessage `json:"endpoints"`
}

// report is what the clients were seen to do. Versions and rejections are kept by type URL, the last one wins.
type report struct {
	// Streams that are open now.
	Streams int `json:"streams"`
	// Opened counts the streams since the start.
	Opened int `json:"opened"`
	// Acked is the version last accepted.
	Acked map[string]string `json:"acked"`
	// Rejected is the text of every rejection, in order.
	Rejected []rejection `json:"rejected"`
	// Node is the identity last announced.
	Node string `json:"node"`
	// Features are the client features last announced.
	Features []string `json:"features"`
}

type rejection struct {
	TypeURL string `json:"type_url"`
	Message string `json:"message"`
}

func main() {
	port := flag.Int("port", 0, "loopback port to listen on; 0 lets the system choose")
	ads := flag.Bool("ads", true, "hold an answer until the client has named every resource of that type in its snapshot")
	flag.Parse()
	if err := run(*port, *ads); err != nil {
		log.Fatal(err)
	}
}

func run(port int, ads bool) error {
	socket, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	seen := newObserver()
	// One snapshot a node: in ADS mode the cache answers a client only once it has named all that its snapshot holds,
	// so that two clients with different targets cannot share one.
	snapshots := cache.NewSnapshotCache(ads, cache.IDHash{}, nil)
	xds := server.NewServer(context.Background(), snapshots, seen.callbacks(), sotw.WithOrderedADS())
	rpc := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(rpc, xds)
	go func() {
		if err := rpc.Serve(socket); err != nil {
			log.Fatal(err)
		}
	}()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]any{"ready": map[string]int{"port": socket.Addr().(*net.TCPAddr).Port}}); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if err := out.Encode(answer(lines.Bytes(), snapshots, seen)); err != nil {
			return err
		}
	}
	rpc.Stop()
	return lines.Err()
}

func answer(line []byte, snapshots cache.SnapshotCache, seen *observer) any {
	result, err := obey(line, snapshots, seen)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]any{"ok": result}
}

func obey(line []byte, snapshots cache.SnapshotCache, seen *observer) (any, error) {
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		return nil, err
	}
	switch {
	case c.Snapshot != nil:
		return nil, serve(c.Snapshot, snapshots)
	case c.Clear != nil:
		snapshots.ClearSnapshot(c.Clear.Node)
		return nil, nil
	case c.Report != nil:
		return seen.report(), nil
	}
	return nil, errors.New("no command in line")
}

func serve(s *snapshot, snapshots cache.SnapshotCache) error {
	resources := map[resource.Type][]types.Resource{}
	kinds := []struct {
		typeURL string
		raw     []json.RawMessage
		empty   proto.Message
	}{
		{resource.ListenerType, s.Listeners, &listener.Listener{}},
		{resource.RouteType, s.Routes, &route.RouteConfiguration{}},
		{resource.ClusterType, s.Clusters, &cluster.Cluster{}},
		{resource.EndpointType, s.Endpoints, &endpoint.ClusterLoadAssignment{}},
	}
	for _, kind := range kinds {
		decoded, err := decode(kind.raw, kind.empty.ProtoReflect().Type())
		if err != nil {
			return fmt.Errorf("%s: %w", kind.typeURL, err)
		}
		resources[kind.typeURL] = decoded
	}
	made, err := cache.NewSnapshot(s.Version, resources)
	if err != nil {
		return err
	}
	if err := consistent(resources); err != nil {
		return err
	}
	return snapshots.SetSnapshot(context.Background(), s.Node, made)
}

// consistent checks the clusters against their endpoints. It leaves out listeners and routes: the cache's own check looks
// for route names in filter chains alone, so that it calls every API listener inconsistent.
func consistent(resources map[resource.Type][]types.Resource) error {
	backends := map[resource.Type][]types.Resource{
		resource.ClusterType:  resources[resource.ClusterType],
		resource.EndpointType: resources[resource.EndpointType],
	}
	made, err := cache.NewSnapshot("", backends)
	if err != nil {
		return err
	}
	return made.Consistent()
}

func decode(raw []json.RawMessage, kind protoreflect.MessageType) ([]types.Resource, error) {
	var decoded []types.Resource
	for _, text := range raw {
		message := kind.New().Interface()
		if err := protojson.Unmarshal(text, message); err != nil {
			return nil, err
		}
		if checked, ok := message.(interface{ ValidateAll() error }); ok {
			if err := checked.ValidateAll(); err != nil {
				return nil, err
			}
		}
		decoded = append(decoded, message)
	}
	return decoded, nil
}

// observer keeps the report, filled in from the callbacks of every stream.
type observer struct {
	mu   sync.Mutex
	seen report
}

func newObserver() *observer {
	return &observer{seen: report{Acked: map[string]string{}, Rejected: []rejection{}, Features: []string{}}}
}

// report copies, because the encoder reads after the lock is gone.
func (o *observer) report() report {
	o.mu.Lock()
	defer o.mu.Unlock()
	copied := o.seen
	copied.Acked = map[string]string{}
	for typeURL, version := range o.seen.Acked {
		copied.Acked[typeURL] = version
	}
	copied.Rejected = append([]rejection{}, o.seen.Rejected...)
	return copied
}

func (o *observer) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamOpenFunc:   func(context.Context, int64, string) error { return o.opened() },
		StreamClosedFunc: func(int64, *core.Node) { o.closed() },
		StreamRequestFunc: func(_ int64, request *discovery.DiscoveryRequest) error {
			o.requested(request.GetNode(), request.GetTypeUrl(), request.GetErrorDetail().GetMessage(), request.GetVersionInfo())
			return nil
		},
		DeltaStreamOpenFunc:   func(context.Context, int64, string) error { return o.opened() },
		DeltaStreamClosedFunc: func(int64, *core.Node) { o.closed() },
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			o.requested(request.GetNode(), request.GetTypeUrl(), request.GetErrorDetail().GetMessage(), request.GetResponseNonce())
			return nil
		},
	}
}

func (o *observer) opened() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen.Streams++
	o.seen.Opened++
	return nil
}

func (o *observer) closed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen.Streams--
}

// requested reads a request as an acceptance, a rejection or a first subscription. Delta requests carry no version:
// the nonce of the accepted response stands in for it.
func (o *observer) requested(who *core.Node, typeURL, failure, accepted string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if who.GetId() != "" {
		o.seen.Node = who.GetId()
		o.seen.Features = append([]string{}, who.GetClientFeatures()...)
	}
	switch {
	case failure != "":
		o.seen.Rejected = append(o.seen.Rejected, rejection{TypeURL: typeURL, Message: failure})
	case accepted != "":
		o.seen.Acked[typeURL] = accepted
	}
}
