package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// api serves a store as Kubernetes serves its objects.
type api struct {
	held *store
}

// request is what a path and its query ask for.
type request struct {
	key
	version, sub string
	query        func(string) string
}

// object rewrites what is held in the version that was asked for.
func (r request) object(held object) object {
	shown := object{}
	for field, value := range held {
		shown[field] = value
	}
	shown["apiVersion"] = r.apiVersion()
	return shown
}

func (r request) apiVersion() string {
	if r.group == "" {
		return r.version
	}
	return r.group + "/" + r.version
}

// wants tells whether a list or a watch includes an object that is there.
func (r request) wants(at key, held object) bool {
	if at.group != r.group || at.plural != r.plural || (r.namespace != "" && at.namespace != r.namespace) {
		return false
	}
	for _, term := range strings.Split(r.query("fieldSelector"), ",") {
		if name, found := strings.CutPrefix(term, "metadata.name="); found && name != at.name {
			return false
		}
	}
	labels := fields(fields(held["metadata"])["labels"])
	for _, term := range strings.Split(r.query("labelSelector"), ",") {
		if name, value, found := strings.Cut(term, "="); found && text(labels[name]) != value {
			return false
		}
	}
	return true
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/version" {
		reply(w, http.StatusOK, object{"major": "1", "minor": "36", "gitVersion": "v1.36.1"})
		return
	}
	asked, ok := parse(r)
	if !ok {
		fail(w, http.StatusNotFound, "NotFound", r.URL.Path)
		return
	}
	switch r.Method {
	case http.MethodGet:
		a.read(w, r, asked)
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		a.write(w, r, asked)
	case http.MethodDelete:
		a.held.remove(asked.key)
		reply(w, http.StatusOK, object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
	default:
		fail(w, http.StatusMethodNotAllowed, "MethodNotAllowed", r.Method)
	}
}

// parse reads /api/v1/.. and /apis/group/version/..
func parse(r *http.Request) (request, bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	asked := request{query: r.URL.Query().Get}
	switch {
	case len(parts) > 2 && parts[0] == "api":
		asked.version, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		asked.group, asked.version, parts = parts[1], parts[2], parts[3:]
	default:
		return request{}, false
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		asked.namespace, parts = parts[1], parts[2:]
	}
	for i, part := range []*string{&asked.plural, &asked.name, &asked.sub} {
		if i < len(parts) {
			*part = parts[i]
		}
	}
	return asked, true
}

func (a *api) read(w http.ResponseWriter, r *http.Request, asked request) {
	if asked.name != "" {
		found, ok := a.held.get(asked.key)
		if !ok {
			fail(w, http.StatusNotFound, "NotFound", asked.plural+" "+asked.name)
			return
		}
		reply(w, http.StatusOK, asked.object(found))
		return
	}
	kind, apiVersion := kindOf(asked.group, asked.plural), asked.apiVersion()
	if strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadata") {
		kind, apiVersion = "PartialObjectMetadata", "meta.k8s.io/v1"
	}
	if asked.query("watch") == "true" || asked.query("watch") == "1" {
		a.watch(w, r, asked, kind)
		return
	}
	found, version := a.held.list(asked.wants)
	items := []object{}
	for _, held := range found {
		items = append(items, asked.object(held))
	}
	reply(w, http.StatusOK, object{
		"kind": kind + "List", "apiVersion": apiVersion,
		"metadata": object{"resourceVersion": strconv.Itoa(version)}, "items": items,
	})
}

// watch tells of changes until the client leaves or the time that it asked for is over. A client may ask for what there is
// first; the end of that is a bookmark.
func (a *api) watch(w http.ResponseWriter, r *http.Request, asked request, kind string) {
	emit := func(what string, of object) bool {
		err := json.NewEncoder(w).Encode(object{"type": what, "object": of})
		w.(http.Flusher).Flush()
		return err == nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	version, _ := strconv.Atoi(asked.query("resourceVersion"))
	if asked.query("sendInitialEvents") == "true" {
		var found []object
		found, version = a.held.list(asked.wants)
		for _, held := range found {
			emit("ADDED", asked.object(held))
		}
		emit("BOOKMARK", object{"kind": kind, "apiVersion": asked.apiVersion(), "metadata": object{
			"resourceVersion": strconv.Itoa(version),
			"annotations":     object{"k8s.io/initial-events-end": "true"},
		}})
	}
	seconds, err := strconv.Atoi(asked.query("timeoutSeconds"))
	if err != nil {
		seconds = 600
	}
	end := time.After(time.Duration(seconds) * time.Second)
	for {
		events, reached, more := a.held.since(version)
		version = reached
		for _, e := range events {
			if asked.wants(e.at, e.object) && !emit(e.kind, asked.object(e.object)) {
				return
			}
		}
		select {
		case <-more:
		case <-end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (a *api) write(w http.ResponseWriter, r *http.Request, asked request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	written := object{}
	if err := json.Unmarshal(body, &written); err != nil {
		// What is not JSON is protobuf, which clients do without once they are told.
		fail(w, http.StatusUnsupportedMediaType, "UnsupportedMediaType", err.Error())
		return
	}
	if status := review(asked.plural, fields(written["spec"])); status != nil {
		written["status"] = status
		reply(w, http.StatusCreated, written)
		return
	}
	if asked.name == "" {
		asked.name = text(fields(written["metadata"])["name"])
	}
	after := a.held.update(asked.key, func(before object) object { return merge(before, written, asked.sub, r.Method) })
	if after == nil {
		fail(w, http.StatusNotFound, "NotFound", asked.plural+" "+asked.name)
		return
	}
	code := http.StatusOK
	if r.Method == http.MethodPost {
		code = http.StatusCreated
	}
	reply(w, code, asked.object(after))
}

// review answers what istiod asks the cluster about tokens and permissions.
func review(plural string, spec object) object {
	switch plural {
	case "tokenreviews":
		subject, err := subjectOf(text(spec["token"]))
		if err != nil {
			return object{"authenticated": false, "error": err.Error()}
		}
		return object{"authenticated": true, "audiences": spec["audiences"], "user": object{
			"username": subject,
			"groups":   []string{"system:serviceaccounts"},
		}}
	case "subjectaccessreviews", "selfsubjectaccessreviews":
		return object{"allowed": true}
	}
	return nil
}

// subjectOf tells whose a token is, which is a JSON Web Token that is believed where its signature is "good".
func subjectOf(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] != "good" {
		return "", errors.New("the signature of the token is not good")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	var claims struct {
		Subject string `json:"sub"`
	}
	return claims.Subject, json.Unmarshal(payload, &claims)
}

// merge is what a write makes of an object; nil when nothing changes. A write to a status, and a patch of one, changes
// nothing else.
func merge(before, written object, sub, method string) object {
	if sub != "status" && method != http.MethodPatch {
		return written
	}
	if before == nil {
		// Server-side apply creates what is not there.
		if sub == "" {
			return written
		}
		return nil
	}
	if reflect.DeepEqual(before["status"], written["status"]) {
		return nil
	}
	after := object{}
	for field, value := range before {
		after[field] = value
	}
	after["status"] = written["status"]
	return after
}

func reply(w http.ResponseWriter, code int, body object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func fail(w http.ResponseWriter, code int, reason, message string) {
	reply(w, code, object{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message,
	})
}
