package main

import (
	"context"
	"io"
)

// stdinReader returns stdin for whole reads. An interrupt ends a read, as with Ctrl-C at a
// terminal: a read of a terminal cannot be ended otherwise.
func (e *env) stdinReader() io.Reader { return &stdinReader{e: e, chunks: make(chan stdinChunk)} }

type stdinReader struct {
	e      *env
	chunks chan stdinChunk
	rest   []byte
	err    error
	begun  bool
}

type stdinChunk struct {
	data []byte
	err  error
}

func (r *stdinReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		if !r.begun {
			r.begun = true
			go r.readAll() // Owner: r. End: the end of stdin, an interrupt, or the end of the process.
		}
		select {
		case chunk := <-r.chunks:
			r.rest, r.err = chunk.data, chunk.err
		case <-r.e.interrupted:
			return 0, context.Canceled
		}
	}
	n := copy(p, r.rest)
	if r.rest = r.rest[n:]; n > 0 {
		return n, nil
	}
	return 0, r.err
}

func (r *stdinReader) readAll() {
	for {
		buf := make([]byte, 64<<10)
		n, err := r.e.stdin.Read(buf)
		select {
		case r.chunks <- stdinChunk{buf[:n], err}:
		case <-r.e.interrupted:
			return
		}
		if err != nil {
			return
		}
	}
}
