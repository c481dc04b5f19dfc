package rpcx_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

const (
	chunkSize = 64 << 10
	window    = 4
	maxFile   = 1 << 30 // a peer may not fill the disk
)

// chunk is a part of a file. Size and Modified show whether the file has changed.
type chunk struct {
	Data     []byte // in JSON, base64
	Size     int64
	Modified time.Time
}

// readMethod is the method "read": a part of a file in dir, from offset on.
func readMethod(dir *os.Root) rpcx.Handler {
	return rpcx.Func(func(name string, offset int64) (c chunk, err error) {
		info, err := dir.Stat(name)
		if err != nil || !info.Mode().IsRegular() || offset < 0 || offset > info.Size() {
			return c, rpcx.InvalidParams("no file with this name and offset")
		}
		f, err := dir.Open(name)
		if err != nil {
			return c, err
		}
		defer f.Close()
		c = chunk{make([]byte, min(chunkSize, info.Size()-offset)), info.Size(), info.ModTime()}
		n, err := f.ReadAt(c.Data, offset)
		if err == io.EOF { // the file has become shorter
			c.Data, err = c.Data[:n], nil
		}
		return c, err
	}, "name", "offset")
}

// copyFile copies a file of the peer to w. While w takes a chunk, window chunks are under way.
func copyFile(ctx context.Context, peer rpcx.Caller, w io.Writer, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // gives the calls up that are under way
	pending := []*rpcx.Future{peer.Go(ctx, "read", rpcx.Args{name, 0})}
	var first chunk
	for offset, ahead := int64(0), int64(chunkSize); len(pending) > 0; offset += chunkSize {
		var c chunk
		if err := pending[0].Wait(ctx, &c); err != nil {
			return err
		}
		if offset == 0 {
			first = c
		}
		switch {
		case c.Size > maxFile:
			return fmt.Errorf("%s has %d bytes, over %d bytes (maxFile)", name, c.Size, maxFile)
		case c.Size != first.Size, !c.Modified.Equal(first.Modified), int64(len(c.Data)) != min(chunkSize, c.Size-offset):
			return fmt.Errorf("%s was changed while it was read", name)
		}
		for pending = pending[1:]; len(pending) < window && ahead < c.Size; ahead += chunkSize {
			pending = append(pending, peer.Go(ctx, "read", rpcx.Args{name, ahead}))
		}
		if _, err := w.Write(c.Data); err != nil { // while w is slow, the peer is asked for nothing more
			return err
		}
	}
	return nil
}

// putMethod is the method "put" of a server: the server reads the named file from its client.
func putMethod(dir *os.Root) rpcx.Handler {
	return rpcx.Func(func(ctx context.Context, s *rpcx.Session, name string) error {
		part := ".part-" + rand.Text()
		f, err := dir.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		err = errors.Join(copyFile(ctx, s, f, name), f.Close())
		if err == nil {
			err = dir.Rename(part, name)
		}
		if err != nil {
			_ = dir.Remove(part)
		}
		return err
	}, "name")
}

// The client uploads a file, downloads it again, and gives up another upload.
func Example_files() {
	served, own := exampleRoot(), exampleRoot()
	defer removeRoot(served)
	defer removeRoot(own)
	content := bytes.Repeat([]byte("gopher"), 100_000)
	_ = own.WriteFile("gophers", content, 0o600)

	router := rpcx.NewRouter()
	router.Handle("read", readMethod(served))
	router.Handle("put", putMethod(served))
	methods := rpcx.NewRouter()
	methods.Handle("read", readMethod(own))
	client, server := rpcx.Pipe(
		&rpcx.Options{Handler: methods, Cancellation: rpcx.RPCCancellation},
		&rpcx.Options{Handler: router, Cancellation: rpcx.RPCCancellation,
			Limits: rpcx.Limits{ProcessingTimeout: time.Hour, CostPerByte: 1e-9}}) // a gigabyte costs 1
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()

	fmt.Println("put:", client.Call(ctx, "put", rpcx.Args{"gophers"}, nil))
	var back bytes.Buffer
	err := copyFile(ctx, client, &back, "gophers")
	fmt.Println("get:", err, bytes.Equal(back.Bytes(), content))

	_ = own.WriteFile("more", content, 0o600)
	upload := client.Go(ctx, "put", rpcx.Args{"more"})
	upload.Cancel()
	fmt.Println("put:", upload.Wait(ctx, nil))
	_ = client.Shutdown(ctx)
	<-server.Done()
	files, _ := fs.Glob(served.FS(), "*")
	fmt.Println(files)
	// Output:
	// put: <nil>
	// get: <nil> true
	// put: rpcx: call cancelled
	// [gophers]
}

func exampleRoot() *os.Root {
	name, err := os.MkdirTemp("", "rpcx")
	if err != nil {
		panic(err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		panic(err)
	}
	return root
}

func removeRoot(root *os.Root) {
	root.Close()
	os.RemoveAll(root.Name())
}

// newFiles returns a server with a folder, and a client that may read it.
func newFiles(t *testing.T, opts *rpcx.Options, handled func()) (client *rpcx.Session, dir *os.Root) {
	t.Helper()
	dir = exampleRoot()
	t.Cleanup(func() { removeRoot(dir) })
	read := readMethod(dir)
	router := rpcx.NewRouter()
	router.Handle("read", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		handled()
		return read.ServeRPC(ctx, req)
	}))
	client, server := rpcx.Pipe(opts, &rpcx.Options{Handler: router})
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-client.Done()
		<-server.Done()
	})
	return client, dir
}

// Files of any length arrive, byte for byte.
func TestCopyFileSizes(t *testing.T) {
	client, dir := newFiles(t, nil, func() {})
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 5 * chunkSize, 5*chunkSize + 7} {
		content := make([]byte, size)
		_, _ = rand.Read(content)
		if err := dir.WriteFile("file", content, 0o600); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := copyFile(t.Context(), client, &got, "file"); err != nil || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("of %d bytes, %d have arrived: %v", size, got.Len(), err)
		}
	}
}

// writerFunc is a Writer that is a function.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// While the writer waits, the peer is asked for no more than the window.
func TestCopyFileWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 20
		written := 0
		var asked atomic.Int32
		client, dir := newFiles(t, nil, func() { asked.Add(1) })
		if err := dir.WriteFile("file", make([]byte, chunks*chunkSize), 0o600); err != nil {
			t.Fatal(err)
		}
		slow := writerFunc(func(p []byte) (int, error) {
			time.Sleep(time.Minute)
			synctest.Wait()
			if ahead, want := int(asked.Load())-written-1, min(window, chunks-written-1); ahead != want {
				t.Errorf("%d chunks are under way while chunk %d is written, want %d", ahead, written, want)
			}
			written++
			return len(p), nil
		})
		if err := copyFile(t.Context(), client, slow, "file"); err != nil || written != chunks {
			t.Errorf("%d chunks were written, want %d: %v", written, chunks, err)
		}
	})
}

// A file that is changed, a writer that fails and a context that ends stop the copy.
func TestCopyFileStops(t *testing.T) {
	errFull := errors.New("disk full")
	for name, test := range map[string]struct {
		write func(dir *os.Root, cancel func()) error
		want  string
	}{
		"longer":    {func(dir *os.Root, _ func()) error { return appendFile(dir, "file") }, "file was changed while it was read"},
		"removed":   {func(dir *os.Root, _ func()) error { return dir.Remove("file") }, "no file with this name and offset (code -32602)"},
		"cancelled": {func(_ *os.Root, cancel func()) error { cancel(); return nil }, context.Canceled.Error()},
		"full":      {func(*os.Root, func()) error { return errFull }, errFull.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			client, dir := newFiles(t, nil, func() {})
			if err := dir.WriteFile("file", make([]byte, 10*chunkSize), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			act := sync.OnceValue(func() error { return test.write(dir, cancel) })
			w := writerFunc(func(p []byte) (int, error) { return len(p), act() })
			if err := copyFile(ctx, client, w, "file"); err == nil || err.Error() != test.want {
				t.Errorf("the error is %v, want %s", err, test.want)
			}
		})
	}
}

func appendFile(dir *os.Root, name string) error {
	f, err := dir.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("x"))
	return errors.Join(err, f.Close())
}

// An upload that is given up in the middle leaves nothing behind.
func TestPutIsCancelled(t *testing.T) {
	served, own := exampleRoot(), exampleRoot()
	defer removeRoot(served)
	defer removeRoot(own)
	if err := own.WriteFile("file", make([]byte, 100*chunkSize), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var reads atomic.Int32
	read := readMethod(own)
	methods := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if reads.Add(1) == 10 {
			cancel()
		}
		return read.ServeRPC(ctx, req)
	})
	router := rpcx.NewRouter()
	router.Handle("put", putMethod(served))
	client, server := rpcx.Pipe(&rpcx.Options{Handler: methods, Cancellation: rpcx.RPCCancellation},
		&rpcx.Options{Handler: router, Cancellation: rpcx.RPCCancellation})
	defer client.Close()
	if err := client.Call(ctx, "put", rpcx.Args{"file"}, nil); err != context.Canceled {
		t.Errorf("the upload ended with %v", err)
	}
	if err := server.Shutdown(t.Context()); err != nil { // waits for the handler
		t.Error(err)
	}
	if files, _ := fs.Glob(served.FS(), "*"); len(files) > 0 {
		t.Errorf("the server has %v", files)
	}
	if n := reads.Load(); n > 50 {
		t.Errorf("the server has read %d chunks of 100", n)
	}
}
