package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

// workDone is a value of a work done progress.
type workDone struct {
	Kind    string `json:"kind"`
	Title   string `json:"title,omitempty"`
	Message string `json:"message,omitempty"`
}

// lspProgress lists the two forms of progress of language servers.
var lspProgress = []*rpcx.Correlation{rpcx.LSPWorkDone, rpcx.LSPPartialResult}

// workTo returns the progress of a search for count results.
func workTo(count int) []workDone {
	list := []workDone{{Kind: "begin", Title: "search"}}
	for n := range count {
		list = append(list, workDone{Kind: "report", Message: fmt.Sprint("at ", n+1)})
	}
	return append(list, workDone{Kind: "end"})
}

// createdStreams has the handler of window/workDoneProgress/create, and the streams of the
// tokens that the peer has made.
type createdStreams chan *rpcx.Stream[workDone]

func (c createdStreams) create(s *rpcx.Session, p struct {
	Token json.RawMessage `json:"token"`
}) error {
	stream, err := rpcx.StreamOf[workDone](s, rpcx.LSPWorkDone, p.Token)
	if err == nil {
		c <- stream
	}
	return err
}

// next waits for the progress of the next token, and reads it to the end.
func (c createdStreams) next(t *testing.T, ctx context.Context) (list []workDone) {
	t.Helper()
	select {
	case stream := <-c:
		defer stream.Close()
		for {
			value, err := stream.Next(ctx)
			if err != nil {
				t.Errorf("after the progress %v: %v", list, err)
				return list
			}
			list = append(list, value)
			if value.Kind == "end" {
				return list
			}
		}
	case <-ctx.Done():
		t.Error("the peer makes no token")
		return nil
	}
}

// vscode-jsonrpc sends and takes work done progress and partial results.
func TestInteropVSCodeProgress(t *testing.T) {
	noLeak(t)
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('vscode-jsonrpc/node')")
	created := make(createdStreams, 16)
	router := rpcx.NewRouter()
	router.Handle("window/workDoneProgress/create", rpcx.Func(created.create))
	router.Handle("find", rpcx.Func(find))
	router.Handle("endless", rpcx.Func(func(ctx context.Context) error {
		report := rpcx.Progress(ctx)
		for n := 1; ctx.Err() == nil; n++ {
			if err := report(n); err != nil {
				return err
			}
		}
		return ctx.Err()
	}))
	cmd := interoptest.Command(t, "node", "vscode_progress.js")
	s, err := rpcx.Command(t.Context(), cmd, &rpcx.Options{
		Handler:             router,
		Framer:              rpcx.HeaderFramer{},
		Cancellation:        rpcx.LSPCancellation,
		Correlations:        lspProgress,
		IgnoreUnknownParams: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := interopContext(t)
	t.Run("as a server", func(t *testing.T) { vscodeProgress(t, ctx, s, created) })
	type result struct{ Check, Detail string }
	results, err := rpcx.Call[[]result](ctx, s, "run", nil)
	if err != nil || len(results) == 0 {
		t.Errorf("%d checks were run: %v", len(results), err)
	}
	for _, r := range results {
		t.Run("as a client, "+r.Check, func(t *testing.T) {
			if r.Detail != "" {
				t.Error(r.Detail)
			}
		})
	}
	s.Close()
	<-s.Done()
	if !cmd.ProcessState.Success() {
		t.Errorf("the program: %v", cmd.ProcessState)
	}
}

// find answers with progress for both tokens.
func find(ctx context.Context, p struct {
	Count int `json:"count"`
}) (int, error) {
	work, part := rpcx.ProgressOf(ctx, rpcx.LSPWorkDone), rpcx.ProgressOf(ctx, rpcx.LSPPartialResult)
	err := work(workDone{Kind: "begin", Title: "search"})
	for n := 1; n <= p.Count && err == nil; n++ {
		err = errors.Join(work(workDone{Kind: "report", Message: fmt.Sprint("at ", n)}), part(n))
	}
	return p.Count, errors.Join(err, work(workDone{Kind: "end"}))
}

func vscodeProgress(t *testing.T, ctx context.Context, s *rpcx.Session, created createdStreams) {
	for _, count := range []int{0, 1, 3000} {
		var works []workDone
		got, err := rpcx.CallProgress[int](ctx, s, rpcx.LSPWorkDone, "find", object{"count": count}, func(w workDone) { works = append(works, w) })
		if err != nil || got != count || !slices.Equal(works, workTo(count)) {
			t.Errorf("work done of %d: %v, %v", count, works, err)
		}
		var parts []int
		got, err = rpcx.CallProgress[int](ctx, s, rpcx.LSPPartialResult, "find", object{"count": count}, func(n int) { parts = append(parts, n) })
		if err != nil || got != count || !slices.Equal(parts, numbers(count)) {
			t.Errorf("partial results of %d: %v, %v", count, parts, err)
		}
	}
	// Both in one call: the token of one is ours.
	for _, token := range []any{"made by the caller", 7} {
		const count = 100
		stream, err := rpcx.StreamOf[workDone](s, rpcx.LSPWorkDone, token)
		if err != nil {
			t.Fatal(err)
		}
		var parts []int
		_, err = rpcx.CallProgress[int](ctx, s, rpcx.LSPPartialResult, "find", object{"count": count, "workDoneToken": token},
			func(n int) { parts = append(parts, n) })
		if err != nil || !slices.Equal(parts, numbers(count)) {
			t.Errorf("partial results beside work done: %v, %v", parts, err)
		}
		created <- stream
		if works := created.next(t, ctx); !slices.Equal(works, workTo(count)) {
			t.Errorf("work done beside partial results: %v", works)
		}
	}
	// Tokens of the server's.
	for _, count := range []int{0, 200} {
		if err := s.Call(ctx, "work", rpcx.Args{count}, nil); err != nil {
			t.Error(err)
		}
		if works := created.next(t, ctx); !slices.Equal(works, workTo(count)) {
			t.Errorf("work of the server's: %v", works)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	seen := 0
	_, err := rpcx.CallProgress[any](ctx, s, rpcx.LSPWorkDone, "hang", object{}, func(int) { seen++; cancel() })
	if !errors.Is(err, context.Canceled) || seen == 0 || seen > 3 {
		t.Errorf("a call that was cancelled: %v after %d values", err, seen)
	}
	if got, err := rpcx.Call[int](t.Context(), s, "cancelled", nil); got != 1 || err != nil {
		t.Errorf("%d calls were cancelled, %v", got, err)
	}
}

// gopls makes tokens for work of its own, and takes ours for a command.
func TestInteropGoplsProgress(t *testing.T) {
	noLeak(t)
	path, err := exec.Command("go", "env", "GOPATH").Output() // where go install puts it
	if err != nil {
		t.Fatal(err)
	}
	gopls := interoptest.Program(t, "go -C tools/gopls install tool", "gopls", filepath.Join(strings.TrimSpace(string(path)), "bin"))
	const lines = 20
	dir := t.TempDir()
	source := new(strings.Builder)
	fmt.Fprintln(source, "package small")
	var want []string
	for n := range lines {
		fmt.Fprintf(source, "\n//go:generate echo line %d\n", n)
		want = append(want, fmt.Sprintf("echo line %d", n))
	}
	for name, text := range map[string]string{"small.go": source.String(), "go.mod": "module small\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	uri := (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String()

	created := make(createdStreams, 16)
	router := rpcx.NewRouter()
	router.Handle("window/workDoneProgress/create", rpcx.Func(created.create))
	agree := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })
	for _, method := range []string{"client/registerCapability", "window/logMessage", "window/showMessage", "textDocument/publishDiagnostics"} {
		router.Handle(method, agree)
	}
	router.Handle("workspace/configuration", rpcx.Func(func(p struct {
		Items []any `json:"items"`
	}) []any {
		return make([]any, len(p.Items)) // null for each
	}))
	cmd := exec.Command(gopls)
	s, err := rpcx.Command(t.Context(), cmd, &rpcx.Options{
		Handler:             router,
		Framer:              rpcx.HeaderFramer{MaxSize: 64 << 20},
		Correlations:        lspProgress,
		IgnoreUnknownParams: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := interopContext(t)
	err = s.Call(ctx, "initialize", object{
		"processId":        os.Getpid(),
		"rootUri":          uri,
		"workspaceFolders": []object{{"uri": uri, "name": "small"}},
		"capabilities":     object{"window": object{"workDoneProgress": true}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Notify(ctx, "initialized", object{}); err != nil {
		t.Fatal(err)
	}
	if work := created.next(t, ctx); len(work) < 2 || work[0].Kind != "begin" || work[0].Title != "Setting up workspace" {
		t.Errorf("the work of the beginning: %v", work)
	}

	// generated checks the progress of go generate, which shows each command.
	generated := func(list []workDone) {
		t.Helper()
		if len(list) < 3 || list[0].Kind != "begin" || !strings.HasPrefix(list[0].Title, "Running go generate") || list[len(list)-1].Kind != "end" {
			t.Errorf("the work of go generate: %v", list)
			return
		}
		var got []string
		for _, work := range list[1 : len(list)-1] {
			got = append(got, strings.Split(work.Message, "\n")...) // several lines may come at once
		}
		if !slices.Equal(got, want) {
			t.Errorf("the commands of go generate: %q, want %q", got, want)
		}
	}
	command := func() object {
		return object{"command": "gopls.generate", "arguments": []object{{"Dir": uri, "Recursive": false}}}
	}
	t.Run("a token of the client's", func(t *testing.T) {
		var list []workDone
		_, err := rpcx.CallProgress[any](ctx, s, rpcx.LSPWorkDone, "workspace/executeCommand", command(), func(w workDone) { list = append(list, w) })
		if err != nil {
			t.Error(err)
		}
		generated(list)
	})
	t.Run("a token of the server's", func(t *testing.T) {
		if err := s.Call(ctx, "workspace/executeCommand", command(), nil); err != nil {
			t.Error(err)
		}
		generated(created.next(t, ctx))
	})
	if err := s.Call(ctx, "shutdown", nil, nil); err != nil {
		t.Error(err)
	}
	if err := s.Notify(ctx, "exit", nil); err != nil {
		t.Error(err)
	}
	<-s.Done()
	if !cmd.ProcessState.Success() {
		t.Errorf("gopls: %v", cmd.ProcessState)
	}
}
