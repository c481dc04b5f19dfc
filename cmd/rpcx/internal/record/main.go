// Record runs a session of the command rpcx with a small server, and writes the session as
// a picture for the README:
//
//	go -C cmd/rpcx run ./internal/record -o ../../docs/rpcx.svg
//
// The output of the commands is real. Only the address of the server is replaced, since the
// port is another one each time.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/websocket"
)

func main() {
	out := flag.String("o", "", "write to this file; default: stdout")
	text := flag.Bool("text", false, "write the session as text")
	flag.Parse()
	if err := record(context.Background(), *out, *text); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// record writes the session to the file out.
func record(ctx context.Context, out string, asText bool) error {
	lines, err := session(ctx)
	if err != nil {
		return err
	}
	picture := svg(lines)
	if asText {
		picture = plain(lines)
	}
	if out == "" {
		_, err = os.Stdout.WriteString(picture)
		return err
	}
	return os.WriteFile(out, []byte(picture), 0o644)
}

// steps are the command lines of the session, as a shell takes them.
var steps = []string{
	"rpcx describe localhost:8888",
	"rpcx call localhost:8888 sum 1 2 3",
	"rpcx call localhost:8888 user.find name=A --output table",
	`rpcx call localhost:8888 user.find '{"name": "A", "limit": 1}' --jq '.[].mail'`,
	`rpcx call localhost:8888 user.find '{"name": "A",, "limit": 1}'`,
	"rpcx call localhost:8888 user.find age=3",
	`printf 'sum 1 2\nuser.find name=B\n' | rpcx batch localhost:8888 --output compact`,
	"rpcx listen ws://localhost:8080/ws --subscribe clock --count 2 --output compact",
	"rpcx call localhost:8888 sum 1 2 --timout 5s",
}

// session runs the steps, and returns their lines with the colours of a terminal.
func session(ctx context.Context) (lines []string, err error) {
	dir, err := os.MkdirTemp("", "record")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "rpcx"), "example.com/rpcx/cmd/rpcx")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	demo, err := startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer demo.close()
	for i, step := range steps {
		if i > 0 {
			lines = append(lines, "")
		}
		lines = append(lines, prompt+step)
		text, err := demo.run(ctx, dir, step)
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
	}
	return lines, nil
}

// prompt stands before a command line.
const prompt = "\x1b[32m$\x1b[0m "

// run runs a step in a shell, and returns what a terminal would show.
func (d *demoServer) run(ctx context.Context, dir, step string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	real := strings.NewReplacer("localhost:8888", d.tcp, "localhost:8080", d.web)
	// Output that goes to a pipe has no colours, unless asked for.
	line := "rpcx() { command rpcx \"$@\" --color always; }\n" + real.Replace(step)
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	shown := strings.NewReplacer(d.tcp, "localhost:8888", d.web, "localhost:8080")
	return shown.Replace(out.String()), nil
}

// demoServer is the server of the session.
type demoServer struct {
	srv      *rpcx.Server
	http     *http.Server
	tcp, web string // addresses
	ended    chan struct{}
}

type user struct {
	Name string `json:"name"`
	Mail string `json:"mail"`
	Age  int    `json:"age"`
}

func demoRouter() *rpcx.Router {
	users := []user{{"Ada", "ada@example.org", 36}, {"Alan", "alan@example.org", 41}, {"Barbara", "barbara@example.org", 78}}
	router := rpcx.NewRouter()
	router.Handle("sum", rpcx.Documented(rpcx.Func(func(values ...int) (sum int) {
		for _, v := range values {
			sum += v
		}
		return sum
	}), rpcx.Doc{Summary: "Adds numbers", Public: true}))
	router.Handle("user.find", rpcx.Documented(rpcx.Func(func(name string, limit *int) []user {
		found := []user{}
		for _, u := range users {
			if strings.HasPrefix(u.Name, name) && (limit == nil || len(found) < *limit) {
				found = append(found, u)
			}
		}
		return found
	}, "name", "limit?"), rpcx.Doc{Summary: "Finds users by their names", Public: true}))
	router.Handle("clock", rpcx.Documented(rpcx.Func(func(ctx context.Context, s *rpcx.Session) string {
		rpcx.AfterReply(ctx, func(error) {
			for n := range 3 {
				s.Notify(context.Background(), "tick", map[string]int{"n": n + 1})
			}
		})
		return "subscribed"
	}), rpcx.Doc{Summary: "Sends the notification tick", Public: true}))
	router.Handle("rpc.discover", openrpc.Discover(router, openrpc.Info{Title: "Example", Version: "1.0.0"}, nil))
	return router
}

func startServer(ctx context.Context) (*demoServer, error) {
	var config net.ListenConfig
	tcp, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	web, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		tcp.Close()
		return nil, err
	}
	d := &demoServer{
		srv: &rpcx.Server{Options: rpcx.Options{Handler: demoRouter()}},
		tcp: tcp.Addr().String(), web: web.Addr().String(), ended: make(chan struct{}, 2),
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", websocket.Handler(d.srv))
	d.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { // Owner: d. End: close.
		d.srv.Serve(tcp)
		d.ended <- struct{}{}
	}()
	go func() { // Owner: d. End: close.
		d.http.Serve(web)
		d.ended <- struct{}{}
	}()
	return d, nil
}

func (d *demoServer) close() {
	d.http.Close()
	d.srv.Close()
	<-d.ended
	<-d.ended
}
