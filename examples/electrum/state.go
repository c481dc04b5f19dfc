package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// The file of the state has a line for each event, in their order: a kind and its data.
// To read the state is to let the same happen again.
const (
	txEvent    = "tx"    // a transaction has entered the mempool
	blockEvent = "block" // a block was added
	cutEvent   = "cut"   // the blocks above a height were removed
)

// eventLine returns the line of an event. data is a height, or what is sent between nodes.
func eventLine(event string, data []byte) string {
	if event == cutEvent {
		return event + " " + string(data) + "\n"
	}
	return event + " " + hex.EncodeToString(data) + "\n"
}

// apply lets the event of a line happen.
func (c *chain) apply(line string) error {
	event, data, _ := strings.Cut(line, " ")
	if event == cutEvent {
		height, err := strconv.Atoi(data)
		if err != nil {
			return err
		}
		return c.cut(height)
	}
	raw, err := hex.DecodeString(data)
	if err != nil {
		return err
	}
	switch event {
	case txEvent:
		tx, err := parseTransaction(raw)
		if err != nil {
			return err
		}
		return c.accept(tx)
	case blockEvent:
		b, err := parseBlock(raw)
		if err != nil {
			return err
		}
		return c.connect(b)
	}
	return fmt.Errorf("unknown event %.20q", event)
}

// openState opens the file of a chain's state, which may be new, and brings c to the
// state. Further events are to be appended to the file. A last line that is incomplete,
// because the program was killed, is removed.
func openState(path string, c *chain) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := c.readState(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func (c *chain) readState(f *os.File) error {
	r, size := bufio.NewReader(f), int64(0)
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = c.apply(strings.TrimSuffix(line, "\n"))
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		size += int64(len(line))
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	_, err := f.Seek(size, io.SeekStart)
	return err
}
