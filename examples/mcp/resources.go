package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"sync"

	"example.com/rpcx"
)

// resourceUpdates is how the notification of a changed resource belongs to a subscription:
// by the URI, which the client chooses.
var resourceUpdates = &rpcx.Correlation{
	Methods:     []string{"notifications/resources/updated"},
	ID:          []string{"uri"},
	Token:       []string{"uri"},
	Unsubscribe: "resources/unsubscribe",
}

// codeNoResource is the protocol's code for an unknown resource.
const codeNoResource = -32002

// maxNotes bounds the number of notes. The size of a message bounds each of them.
const maxNotes = 100

// notes holds the resources.
type notes struct {
	updates rpcx.Hub // the topics are URIs

	mu   sync.Mutex
	text map[string]string // by URI
}

func noteURI(name string) string { return "note:///" + url.PathEscape(name) }

// resource is the params of the methods for a single resource.
type resource struct {
	URI string `json:"uri"`
}

// listNotes answers in one page.
func (srv *server) listNotes() object {
	srv.notes.mu.Lock()
	defer srv.notes.mu.Unlock()
	list := []object{} // not null
	for uri := range srv.notes.text {
		list = append(list, object{"uri": uri, "name": path.Base(uri), "mimeType": "text/plain"})
	}
	slices.SortFunc(list, func(a, b object) int { return cmp.Compare(a["uri"].(string), b["uri"].(string)) })
	return object{"resources": list}
}

func (srv *server) readNote(p resource) (object, error) {
	srv.notes.mu.Lock()
	defer srv.notes.mu.Unlock()
	text, ok := srv.notes.text[p.URI]
	if !ok {
		return nil, noResource(p.URI)
	}
	return object{"contents": []object{{"uri": p.URI, "mimeType": "text/plain", "text": text}}}, nil
}

func noResource(uri string) error {
	return rpcx.Errorf(codeNoResource, "resource not found").WithData(object{"uri": uri})
}

// subscribe subscribes the client to a note. The Hub finds the URI in the params. A second
// subscription to the same note changes nothing.
func (srv *server) subscribe(ctx context.Context, p resource) (empty, error) {
	if !srv.notes.has(p.URI) {
		return empty{}, noResource(p.URI)
	}
	_, err := srv.notes.updates.Subscribe(ctx, p.URI, resourceUpdates, nil)
	return empty{}, err
}

// unsubscribe succeeds without a subscription, too.
func (srv *server) unsubscribe(ctx context.Context, _ resource) (empty, error) {
	_, err := srv.notes.updates.Unsubscribe(ctx, resourceUpdates, nil)
	return empty{}, err
}

func (n *notes) has(uri string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.text[uri]
	return ok
}

// write is the tool that changes a note.
func (srv *server) write(ctx context.Context, s *rpcx.Session, arguments json.RawMessage) (string, error) {
	var args struct{ Name, Text string }
	if err := json.Unmarshal(arguments, &args); err != nil || args.Name == "" {
		return "", errors.New(`write needs a name and a text: {"name": "shopping", "text": "bread"}`)
	}
	uri := noteURI(args.Name)
	srv.notes.mu.Lock()
	_, known := srv.notes.text[uri]
	full := !known && len(srv.notes.text) >= maxNotes
	if !full {
		srv.notes.text[uri] = args.Text
	}
	srv.notes.mu.Unlock()
	switch {
	case full:
		return "", fmt.Errorf("there are %d notes already: replace one of them", maxNotes)
	case known:
		return "changed " + uri, srv.notes.updates.Publish(ctx, uri, empty{}) // {"uri": …}
	case srv.stateless:
		return "created " + uri, nil
	}
	return "created " + uri, s.Notify(ctx, "notifications/resources/list_changed", nil)
}
