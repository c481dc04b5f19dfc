//go:build unix

package rpcx

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Who reads the output sees its end at Close, though a program goes on that was
// started meanwhile.
func TestStandardOutputEndsWithClose(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := standardOutput(w)
	if _, err := io.WriteString(out, "hello"); err != nil {
		t.Error(err)
	}
	cmd := exec.Command("cat")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Error(err)
	}
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	if got, err := io.ReadAll(r); string(got) != "hello" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	input.Close()
	_ = cmd.Wait()
	if _, err := out.Write([]byte("more")); err == nil {
		t.Error("a write after Close succeeds")
	}
}

func TestStandardOutputWithoutADuplicate(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	out := standardOutput(w)
	if _, err := out.Write([]byte("hello")); err == nil || !strings.HasPrefix(err.Error(), "duplicate standard output: ") {
		t.Errorf("a write returns %v", err)
	}
	if err := out.Close(); err == nil {
		t.Error("a file that is closed is closed again")
	}
}
