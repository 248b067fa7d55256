package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
)

// object is a Kubernetes object as JSON has it. One that is held is never changed, only replaced.
type object map[string]any

// key is where an object is. Objects of one group are the same whatever version they are asked for in.
type key struct {
	group, plural, namespace, name string
}

// event is one change of what is held.
type event struct {
	version int
	kind    string
	at      key
	object  object
}

// store holds all objects and the changes that led there.
type store struct {
	mu      sync.Mutex
	objects map[key]object
	events  []event
	version int
	// changed is closed at the next change.
	changed chan struct{}
}

func newStore() *store {
	return &store{objects: map[key]object{}, version: 1, changed: make(chan struct{})}
}

func (s *store) get(at key) (object, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.objects[at]
	return found, ok
}

// list gives what is wanted, and the version that it is of.
func (s *store) list(wanted func(key, object) bool) ([]object, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []object{}
	for at, held := range s.objects {
		if wanted(at, held) {
			found = append(found, held)
		}
	}
	return found, s.version
}

// since gives what has changed after a version, the version it leads to, and what is closed when there is more.
func (s *store) since(version int) ([]event, int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := len(s.events)
	for first > 0 && s.events[first-1].version > version {
		first--
	}
	return append([]event{}, s.events[first:]...), s.version, s.changed
}

func (s *store) put(at key, put object) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replace(at, put)
}

// update replaces an object by what change makes of it; nothing is written when that is nil.
func (s *store) update(at key, change func(before object) object) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.objects[at]
	after := change(before)
	if after == nil {
		return before
	}
	return s.replace(at, after)
}

func (s *store) remove(at key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held, ok := s.objects[at]
	if ok {
		delete(s.objects, at)
		s.note("DELETED", at, held)
	}
	return ok
}

// replace is called with the lock held.
func (s *store) replace(at key, put object) object {
	before, known := s.objects[at]
	metadata := object{}
	for field, value := range fields(put["metadata"]) {
		metadata[field] = value
	}
	next := s.version + 1
	metadata["name"], metadata["generation"], metadata["resourceVersion"] = at.name, 1, strconv.Itoa(next)
	if at.namespace != "" {
		metadata["namespace"] = at.namespace
	}
	metadata["uid"], metadata["creationTimestamp"] = fmt.Sprintf("00000000-0000-4000-8000-%012d", next), "2026-01-01T00:00:00Z"
	if known {
		was := fields(before["metadata"])
		metadata["uid"], metadata["generation"] = was["uid"], was["generation"]
		// A status tells which generation it is of: if writing it made another, istiod would write for ever.
		if !reflect.DeepEqual(before["spec"], put["spec"]) {
			metadata["generation"] = was["generation"].(int) + 1
		}
	}
	after := object{}
	for field, value := range put {
		after[field] = value
	}
	after["metadata"] = metadata
	s.objects[at] = after
	kind := "ADDED"
	if known {
		kind = "MODIFIED"
	}
	s.note(kind, at, after)
	return after
}

func (s *store) note(kind string, at key, of object) {
	s.version++
	s.events = append(s.events, event{s.version, kind, at, of})
	close(s.changed)
	s.changed = make(chan struct{})
}

// fields reads a value as an object; nil where it is none.
func fields(value any) object {
	switch value := value.(type) {
	case object:
		return value
	case map[string]any:
		return value
	}
	return nil
}

func text(value any) string {
	text, _ := value.(string)
	return text
}

// place tells where an object belongs by its kind.
func place(of object) (key, error) {
	group, kind := "", text(of["kind"])
	if before, _, found := strings.Cut(text(of["apiVersion"]), "/"); found {
		group = before
	}
	metadata := fields(of["metadata"])
	for _, schema := range collections.All.All() {
		if schema.Kind() != kind || schema.Group() != group {
			continue
		}
		at := key{group, schema.Plural(), text(metadata["namespace"]), text(metadata["name"])}
		if at.name == "" || schema.IsClusterScoped() != (at.namespace == "") {
			return key{}, fmt.Errorf("%s: name and namespace do not fit", kind)
		}
		return at, nil
	}
	return key{}, fmt.Errorf("istiod knows no kind %s of group %q", kind, group)
}

// kindOf is the kind of the objects called plural; those that istio does not list are what istiod writes for itself.
func kindOf(group, plural string) string {
	for _, schema := range collections.All.All() {
		if schema.Group() == group && schema.Plural() == plural {
			return schema.Kind()
		}
	}
	return strings.ToUpper(plural[:1]) + strings.TrimSuffix(plural[1:], "s")
}

// define holds the definition of every kind that a cluster has only once istio or the Gateway API is installed there:
// istiod watches those kinds that are defined.
func define(held *store) error {
	for _, schema := range collections.All.All() {
		if schema.IsBuiltin() || schema.IsSynthetic() {
			continue
		}
		definition := object{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": object{
				"name": schema.Plural() + "." + schema.Group(),
				// Which Gateway API this is; istiod leaves kinds of older ones alone.
				"annotations": object{"gateway.networking.k8s.io/bundle-version": "v1.4.1"},
			},
			"spec": object{
				"group":    schema.Group(),
				"names":    object{"kind": schema.Kind(), "plural": schema.Plural()},
				"scope":    scope(schema),
				"versions": []any{object{"name": schema.Version(), "served": true, "storage": true}},
			},
		}
		at, err := place(definition)
		if err != nil {
			return err
		}
		held.put(at, definition)
	}
	return nil
}

func scope(schema resource.Schema) string {
	if schema.IsClusterScoped() {
		return "Cluster"
	}
	return "Namespaced"
}
