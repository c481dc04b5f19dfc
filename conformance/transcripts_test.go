package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// TestTranscripts plays the conversations in testdata/transcripts to a session:
// it says the lines behind "-->", and expects those behind "<--", in order and
// no others. Anything else is commentary.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			opts := handling(transcriptMethods)
			if strings.Contains(file, "services") {
				opts = transcriptServices()
			}
			synctest.Test(t, func(t *testing.T) { play(t, opts, string(text)) })
		})
	}
}

func play(t *testing.T, opts *rpcx.Options, transcript string) {
	_, w := newWire(t, opts)
	var unasked []string // heard and not expected yet
	said, answered := 0, 0
	for i, line := range strings.Split(transcript, "\n") {
		if out, ok := strings.CutPrefix(line, "--> "); ok {
			if unasked = append(unasked, w.heard()...); len(unasked) > 0 {
				t.Fatalf("line %d: before this, the session said more: %s", i+1, unasked)
			}
			w.say(out)
			said++
		}
		if want, ok := strings.CutPrefix(line, "<-- "); ok {
			if unasked = append(unasked, w.heard()...); len(unasked) == 0 {
				t.Fatalf("line %d: the session says nothing, want: %s", i+1, want)
			}
			if unasked[0] != want {
				t.Fatalf("line %d:\nthe session says %s\nwant             %s", i+1, unasked[0], want)
			}
			unasked = unasked[1:]
			answered++
		}
	}
	if unasked = append(unasked, w.heard()...); len(unasked) > 0 {
		t.Errorf("at the end the session said more: %s", unasked)
	}
	if said == 0 || answered == 0 {
		t.Errorf("%d lines said and %d answered: this is no transcript", said, answered)
	}
}

// transcriptMethods are what the session in the transcripts can do.
var transcriptMethods = methods{
	"echo": func(_ context.Context, req *rpcx.Request) (any, error) {
		if req.Params.Named != nil {
			return req.Params.Named, nil
		}
		return req.Params.Positional, nil
	},
	"add": func(_ context.Context, req *rpcx.Request) (any, error) {
		var terms []json.Number
		if err := req.Bind(&terms); err != nil {
			return nil, err
		}
		sum := int64(0)
		for _, term := range terms {
			n, err := term.Int64()
			if err != nil {
				return nil, rpcx.InvalidParams("%s is no integer", term)
			}
			sum += n
		}
		return sum, nil
	},
	"refuse": func(context.Context, *rpcx.Request) (any, error) {
		return nil, &rpcx.Error{Code: 7, Message: "no", Data: map[string]any{"because": "I said so"}, Cost: 50}
	},
	"fail":  func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("the password is 1234") },
	"panic": func(context.Context, *rpcx.Request) (any, error) { panic("the password is 1234") },
	"log":   func(context.Context, *rpcx.Request) (any, error) { return "nobody reads this", nil },
	// ask asks the caller for the answer to the question that it was asked.
	"ask": func(ctx context.Context, req *rpcx.Request) (any, error) {
		var answer json.RawMessage
		err := req.Session().Call(ctx, "answer", req.Params, &answer)
		return answer, err
	},
	// tell notifies the caller twice before it answers.
	"tell": func(ctx context.Context, req *rpcx.Request) (any, error) {
		for _, progress := range []string{"begun", "nearly done"} {
			if err := req.Session().Notify(ctx, "progress", rpcx.Args{progress}); err != nil {
				return nil, err
			}
		}
		return true, nil
	},
	// poll asks the caller two things at once.
	"poll": func(ctx context.Context, req *rpcx.Request) (any, error) {
		var b rpcx.Batch
		var name, age json.RawMessage
		b.Call("name", nil, &name)
		b.Call("age", nil, &age)
		b.Notify("thanks", nil)
		if err := req.Session().SendBatch(ctx, &b); err != nil {
			return nil, err
		}
		return rpcx.Args{name, age}, nil
	},
}

// transcriptServices is a session with services, for the transcript of those.
func transcriptServices() *rpcx.Options {
	room := rpcx.NewRouter()
	var members []*rpcx.Proxy
	room.Handle("join", rpcx.Func(func(ctx context.Context, member *rpcx.Proxy) (string, error) {
		var name string
		if err := member.Call(ctx, &name, "get_name"); err != nil {
			return "", err
		}
		members = append(members, member)
		return "welcome, " + name, nil
	}))
	room.Handle("say", rpcx.Func(func(ctx context.Context, text string) (int, error) {
		for _, member := range members {
			if err := member.At("screen").Call(ctx, nil, "show", text); err != nil {
				return 0, err
			}
		}
		return len(members), nil
	}))
	root := rpcx.ExposeMap(map[string]any{"rooms": map[string]any{"lounge": room}})
	root.Handle("open", rpcx.Func(func(name string) (*rpcx.Router, error) {
		h, err := root.Resolve("rooms/" + name)
		room, _ := h.(*rpcx.Router)
		return room, err
	}))
	root.Handle("secret", rpcx.Func(rpcx.NewRouter)) // which hangs nowhere
	return &rpcx.Options{Handler: root, Objects: true}
}

// TestTranscriptsByPOST plays the conversations without calls back to a rpchttp.Handler. Each
// line is a POST, and what is expected behind it is its answer.
func TestTranscriptsByPOST(t *testing.T) {
	for _, name := range []string{"bad_input", "batches", "calls"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata/transcripts", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			opts := handling(transcriptMethods)
			opts.Order = rpcx.Sequential // so that batches have one answer
			synctest.Test(t, func(t *testing.T) {
				post(t, &rpchttp.Handler{Server: &rpcx.Server{Options: *opts}}, string(text))
			})
		})
	}
}

// post plays a transcript to h.
func post(t *testing.T, h http.Handler, transcript string) {
	var asked, want string
	check := func(line int) {
		if asked == "" {
			return
		}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(asked))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		status := http.StatusOK
		if want == "" {
			status = http.StatusNoContent
		}
		if got := w.Body.String(); got != want || w.Code != status {
			t.Errorf("before line %d, %s is answered\n%d %s\nwant\n%d %s", line, asked, w.Code, got, status, want)
		}
		asked, want = "", ""
	}
	for i, line := range strings.Split(transcript, "\n") {
		if msg, ok := strings.CutPrefix(line, "--> "); ok {
			check(i + 1)
			asked = msg
		}
		if reply, ok := strings.CutPrefix(line, "<-- "); ok {
			want += reply
		}
	}
	check(0)
}
