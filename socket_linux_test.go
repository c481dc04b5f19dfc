package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"example.com/rpcx"
)

func TestErrorsOfLinuxThatPass(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENONET, syscall.ENOSR, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveSurvives(t, err) })
		}
	}
}

// A name in the abstract namespace has no file, and is free when its owner is gone.
func TestUnixSocketWithoutAFile(t *testing.T) {
	noLeak(t)
	name := fmt.Sprintf("@rpcx/%d/%s", os.Getpid(), t.Name())
	t.Chdir(t.TempDir())
	for range 2 {
		srv := serveUnix(t, listenUnix(t, name))
		if !answersAt(t, name) {
			t.Error("nobody answers")
		}
		if _, err := rpcx.Listen(t.Context(), "unix://"+name, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second one: %v", err)
		}
		srv.Close()
		srv.Wait(context.Background())
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) > 0 {
		t.Errorf("there are files: %v, %v", entries, err)
	}
}
