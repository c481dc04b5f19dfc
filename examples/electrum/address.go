package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// What regtest's addresses begin with, in their three forms.
const (
	segwitPrefix  = "bcrt"
	keyVersion    = 111 // base58, the hash of a key
	scriptVersion = 196 // base58, the hash of a script
)

// scriptOf returns the script that an address of regtest stands for.
func scriptOf(address string) ([]byte, error) {
	if prefix, _, ok := cutLast(strings.ToLower(address), "1"); ok && prefix == segwitPrefix {
		return segwitScript(segwitPrefix, address)
	}
	payload, err := decodeBase58(address)
	if err != nil {
		return nil, err
	}
	if len(payload) != 21 {
		return nil, fmt.Errorf("an address has 21 bytes, this one has %d", len(payload))
	}
	const (
		opDup, opEqual, opEqualVerify, opHash160, opCheckSig = 0x76, 0x87, 0x88, 0xa9, 0xac
	)
	switch version, h := payload[0], payload[1:]; version {
	case keyVersion:
		return append(appendBytes([]byte{opDup, opHash160}, h), opEqualVerify, opCheckSig), nil
	case scriptVersion:
		return append(appendBytes([]byte{opHash160}, h), opEqual), nil
	}
	return nil, errors.New("not an address of regtest")
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// decodeBase58 decodes base58, and checks the four bytes of the checksum at the end.
func decodeBase58(text string) ([]byte, error) {
	const (
		digits  = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
		longest = 100 // of an address, and more: the time grows with the square
	)
	if len(text) > longest {
		return nil, errors.New("the address is too long")
	}
	number, base := new(big.Int), big.NewInt(int64(len(digits)))
	for _, r := range text {
		digit := strings.IndexRune(digits, r)
		if digit < 0 {
			return nil, fmt.Errorf("%q is not in base58", r)
		}
		number.Add(number.Mul(number, base), big.NewInt(int64(digit)))
	}
	zeros := len(text) - len(strings.TrimLeft(text, digits[:1]))
	b := append(make([]byte, zeros), number.Bytes()...)
	if len(b) < 4 {
		return nil, errors.New("the address is too short")
	}
	payload, sum := b[:len(b)-4], b[len(b)-4:]
	if want := sha256d(payload); !bytes.Equal(sum, want[:4]) {
		return nil, errors.New("wrong checksum in base58")
	}
	return payload, nil
}

// segwitScript returns the script of an address with a witness program, in bech32 (BIP 173)
// for version 0 and bech32m (BIP 350) for later versions.
func segwitScript(prefix, address string) ([]byte, error) {
	const bech32, bech32m = 1, 0x2bc830a3
	hrp, values, sum, err := decodeBech32(address)
	switch {
	case err != nil:
		return nil, err
	case hrp != prefix:
		return nil, fmt.Errorf("the address begins with %q, not %q", hrp, prefix)
	case len(values) == 0 || values[0] > 16:
		return nil, errors.New("no version of a witness program")
	case values[0] == 0 && sum != bech32, values[0] > 0 && sum != bech32m:
		return nil, errors.New("wrong checksum in bech32")
	}
	version := values[0]
	program, err := regroup(values[1:])
	switch {
	case err != nil:
		return nil, err
	case len(program) < 2 || len(program) > 40, version == 0 && len(program) != 20 && len(program) != 32:
		return nil, fmt.Errorf("a witness program of version %d cannot have %d bytes", version, len(program))
	}
	if version > 0 {
		version += 0x50
	}
	return appendBytes([]byte{version}, program), nil
}

// decodeBech32 returns the parts of a text in bech32 or bech32m. The checksum says which.
func decodeBech32(text string) (hrp string, values []byte, sum uint32, err error) {
	const digits = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	lower := strings.ToLower(text)
	if len(text) > 90 || lower != text && strings.ToUpper(text) != text {
		return "", nil, 0, errors.New("bech32 has at most 90 characters, of one case")
	}
	hrp, data, ok := cutLast(lower, "1")
	if !ok || hrp == "" || len(data) < 6 {
		return "", nil, 0, errors.New("bech32 has a prefix, a 1 and a checksum")
	}
	for _, r := range data {
		digit := strings.IndexRune(digits, r)
		if digit < 0 {
			return "", nil, 0, fmt.Errorf("%q is not in bech32", r)
		}
		values = append(values, byte(digit))
	}
	var expanded, low []byte
	for _, b := range []byte(hrp) {
		if b < 33 || b > 126 {
			return "", nil, 0, errors.New("wrong characters in the prefix of bech32")
		}
		expanded, low = append(expanded, b>>5), append(low, b&31)
	}
	expanded = append(append(expanded, 0), low...)
	return hrp, values[:len(values)-6], polymod(append(expanded, values...)), nil
}

// polymod returns the remainder of BIP 173's polynomial.
func polymod(values []byte) uint32 {
	sum := uint32(1)
	for _, v := range values {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	return sum
}

// regroup makes bytes of groups of five bits.
func regroup(values []byte) (b []byte, err error) {
	pending, bits := uint32(0), 0
	for _, v := range values {
		pending, bits = pending<<5|uint32(v), bits+5
		if bits >= 8 {
			bits -= 8
			b = append(b, byte(pending>>bits))
			pending &= 1<<bits - 1
		}
	}
	if bits >= 5 || pending != 0 {
		return nil, errors.New("wrong padding in bech32")
	}
	return b, nil
}
