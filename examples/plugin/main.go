// Plugin is a host and its plugin in one program: the host starts the plugin and
// they call each other over the plugin's standard input and output. The plugin
// counts the words of a text, and asks the host for the text, a part at a time.
//
//	go run ./examples/plugin
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"example.com/rpcx"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-plugin" {
		plugin()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := host(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
}

// host starts the plugin and makes use of it.
func host(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	text := []string{"one two three", "four five", "six"}
	router := rpcx.NewRouter()
	router.Handle("part", rpcx.Func(func(i int) (string, error) {
		if i < 0 || i >= len(text) {
			return "", rpcx.InvalidParams("there is no part %d", i)
		}
		return text[i], nil
	}))
	cmd := exec.Command(program, "-plugin")
	// What the plugin writes to its standard error is in the log.
	s, err := rpcx.Command(ctx, cmd, &rpcx.Options{Handler: router, Logger: slog.Default()})
	if err != nil {
		return err
	}
	words, err := rpcx.Call[int](ctx, s, "count", rpcx.Args{len(text)})
	fmt.Println("words:", words, err)
	_, err = rpcx.Call[int](ctx, s, "count", rpcx.Args{len(text) + 1})
	fmt.Println("one part too many:", err)

	err = s.Shutdown(ctx) // closes the plugin's input, which ends it, and waits for that
	fmt.Println("the plugin:", cmd.ProcessState)
	return err
}

// plugin is the other side. It must not print anything.
func plugin() {
	router := rpcx.NewRouter()
	router.Handle("count", rpcx.Func(func(ctx context.Context, host *rpcx.Session, parts int) (int, error) {
		fmt.Fprintln(os.Stderr, "counting", parts, "parts")
		words := 0
		for i := range parts {
			part, err := rpcx.Call[string](ctx, host, "part", rpcx.Args{i})
			if err != nil {
				return 0, err // the host's own error goes back to it
			}
			words += len(strings.Fields(part))
		}
		return words, nil
	}))
	s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{Handler: router})
	<-s.Done()
}
