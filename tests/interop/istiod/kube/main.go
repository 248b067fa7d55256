// Command kube is a Kubernetes API server of the size that an unmodified istiod needs: lists, watches, status writes and
// token reviews over objects in memory. It is told what to hold by lines of JSON.
//
// It prints {"ready":{"port":N}}, writes a kubeconfig to the path it is given, and then answers each line on standard
// input with one line on standard output:
//
//	{"apply":{"apiVersion":"v1","kind":"Service","metadata":{..},..}}
//	{"delete":{"apiVersion":"v1","kind":"Service","metadata":{..}}}
//	{"get":{"apiVersion":"v1","kind":"Service","metadata":{..}}}
//
// Which kinds there are is istio's own table. It ends when standard input does, so that it cannot outlive the test that
// started it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

type command struct {
	Apply  object `json:"apply"`
	Delete object `json:"delete"`
	Get    object `json:"get"`
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "where to write how to reach this server")
	flag.Parse()
	if err := run(*kubeconfig); err != nil {
		log.Fatal(err)
	}
}

func run(kubeconfig string) error {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := socket.Addr().(*net.TCPAddr).Port
	if err := writeKubeconfig(kubeconfig, port); err != nil {
		return err
	}
	held := newStore()
	if err := define(held); err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(socket, &api{held})) }()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]any{"ready": map[string]int{"port": port}}); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if err := out.Encode(answer(lines.Bytes(), held)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func answer(line []byte, held *store) any {
	result, err := obey(line, held)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]any{"ok": result}
}

func obey(line []byte, held *store) (any, error) {
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		return nil, err
	}
	switch {
	case c.Apply != nil:
		at, err := place(c.Apply)
		if err != nil {
			return nil, err
		}
		held.put(at, c.Apply)
		return map[string]any{}, nil
	case c.Delete != nil:
		at, err := place(c.Delete)
		if err != nil {
			return nil, err
		}
		if !held.remove(at) {
			return nil, fmt.Errorf("there is no %s %s", at.plural, at.name)
		}
		return map[string]any{}, nil
	case c.Get != nil:
		at, err := place(c.Get)
		if err != nil {
			return nil, err
		}
		found, _ := held.get(at)
		return found, nil
	}
	return nil, errors.New("no command in line")
}

func writeKubeconfig(path string, port int) error {
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "here",
		"clusters": []any{map[string]any{"name": "here", "cluster": object{"server": fmt.Sprintf("http://127.0.0.1:%d", port)}}},
		"users":    []any{map[string]any{"name": "anybody", "user": object{}}},
		"contexts": []any{map[string]any{"name": "here", "context": object{"cluster": "here", "user": "anybody"}}},
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
