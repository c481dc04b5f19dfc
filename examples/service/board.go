package main

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel"

	"example.com/rpcx"
)

// board has the notes, in memory. The id of a note is its place, from 1.
type board struct {
	hub   rpcx.Hub // has the subscribers
	mu    sync.Mutex
	notes []Note
}

// Note is a note on the board. Its schema in the document has the names of the tags.
type Note struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

const maxNotes, maxBytes = 1000, 200 // of the board and of a note: callers cannot fill the memory

// errNoRoom is an error that callers see. Other errors are logged, and callers see "internal error".
var errNoRoom = &rpcx.Error{Code: 1, Message: "the board has no room for this note"}

// news is the form of subscriptions: the notification "added" has the id and the note.
var news = &rpcx.Correlation{Methods: []string{"added"}, ID: []string{"subscription"}, Value: []string{"note"}, Unsubscribe: "unsubscribe"}

// methods returns the methods with their documentation. A test calls the examples.
func (b *board) methods() *rpcx.Router {
	router := rpcx.NewRouter()
	handle := func(name string, h rpcx.Handler, doc rpcx.Doc) {
		doc.Public = true // in rpc.discover and on the page, for everybody
		router.Handle(name, rpcx.Documented(h, doc))
	}
	handle("add", rpcx.Func(b.add, "text"), rpcx.Doc{Summary: "Adds a note", Errors: []rpcx.Error{*errNoRoom},
		Examples: []rpcx.Example{{Name: "milk", Params: rpcx.Args{"Buy milk"}, Result: Note{1, "Buy milk"}}}})
	handle("list", rpcx.Func(b.list), rpcx.Doc{Summary: "Returns the notes",
		Examples: []rpcx.Example{{Name: "empty board", Params: rpcx.Args{}, Result: []Note{}}}})
	handle("remind", rpcx.Func(b.remind, "text", "seconds"), rpcx.Doc{Summary: "Adds a note after a delay, unless the caller gives up",
		Examples: []rpcx.Example{{Name: "soon", Params: rpcx.Args{"Buy milk", 0.1}, Result: Note{1, "Buy milk"}}}})
	handle("subscribe", rpcx.Func(b.subscribe), rpcx.Doc{Summary: "Sends the new notes, over TCP and WebSockets", Result: "id of the subscription"})
	unsubscribe := func(ctx context.Context, id string) (bool, error) { return b.hub.Unsubscribe(ctx, news, id) }
	handle("unsubscribe", rpcx.Func(unsubscribe, "subscription"), rpcx.Doc{Summary: "Ends a subscription"})
	return router
}

func (b *board) add(ctx context.Context, text string) (Note, error) {
	ctx, span := otel.Tracer("notes").Start(ctx, "store") // below the span of the request
	defer span.End()
	b.mu.Lock()
	defer b.mu.Unlock() // after Publish, which does not wait, so that all see the notes in order
	if len(b.notes) == maxNotes || len(text) > maxBytes {
		return Note{}, errNoRoom.WithData(map[string]int{"bytes": len(text), "maxBytes": maxBytes, "notes": len(b.notes), "maxNotes": maxNotes})
	}
	note := Note{len(b.notes) + 1, text}
	b.notes = append(b.notes, note)
	return note, b.hub.Publish(ctx, "notes", note)
}

func (b *board) list() []Note {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Note{}, b.notes...) // [] in JSON, not null
}

// remind is slow. ctx ends when the caller gives up or goes away.
func (b *board) remind(ctx context.Context, text string, seconds float64) (Note, error) {
	select {
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return b.add(ctx, text)
	case <-ctx.Done():
		return Note{}, context.Cause(ctx)
	}
}

func (b *board) subscribe(ctx context.Context) (string, error) {
	s, err := b.hub.Subscribe(ctx, "notes", news, nil) // its notifications follow the reply
	if err != nil {
		return "", err
	}
	return s.ID().(string), nil // which the hub has made
}
