package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// A quantity is a number in JSON, as Ethereum writes numbers: "0x10".
type quantity uint64

func (q quantity) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%#x", uint64(q)), nil }

func (q *quantity) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), "0x")
	n, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil {
		return fmt.Errorf("%.32q is no hexadecimal number", text)
	}
	*q = quantity(n)
	return nil
}

// data is bytes in JSON, as Ethereum writes bytes: "0x00ff".
type data []byte

func (d data) MarshalText() ([]byte, error) { return encodeBytes(d), nil }

func (d *data) UnmarshalText(text []byte) (err error) {
	*d, err = decodeBytes(text)
	return err
}

// An address is that of an account or a contract.
type address [20]byte

func (a address) MarshalText() ([]byte, error)     { return encodeBytes(a[:]), nil }
func (a *address) UnmarshalText(text []byte) error { return decodeFixed(a[:], text) }

// A hash is that of a block or a transaction, or a topic of a log.
type hash [32]byte

func (h hash) MarshalText() ([]byte, error)     { return encodeBytes(h[:]), nil }
func (h *hash) UnmarshalText(text []byte) error { return decodeFixed(h[:], text) }

func encodeBytes(b []byte) []byte { return hex.AppendEncode([]byte("0x"), b) }

func decodeBytes(text []byte) ([]byte, error) {
	digits, ok := strings.CutPrefix(string(text), "0x")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return nil, fmt.Errorf("%.32q is no hexadecimal data", text)
	}
	return b, nil
}

// decodeFixed decodes text into all of dst.
func decodeFixed(dst, text []byte) error {
	b, err := decodeBytes(text)
	if err == nil && len(b) != len(dst) {
		err = fmt.Errorf("%.72q has %d bytes, want %d", text, len(b), len(dst))
	}
	copy(dst, b)
	return err
}
