package main

import (
	"encoding/hex"
	"testing"
)

// The addresses of BIP 173 and BIP 350.
func TestSegwitAddresses(t *testing.T) {
	for _, v := range []struct{ prefix, address, script string }{
		{"bc", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "0014751e76e8199196d454941c45d1b3a323f1433bd6"},
		{"tb", "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
			"00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262"},
		{"bc", "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y",
			"5128751e76e8199196d454941c45d1b3a323f1433bd6751e76e8199196d454941c45d1b3a323f1433bd6"},
		{"bc", "BC1SW50QGDZ25J", "6002751e"},
		{"bc", "bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs", "5210751e76e8199196d454941c45d1b3a323"},
		{"bc", "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
			"512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"},
	} {
		script, err := segwitScript(v.prefix, v.address)
		if got := hex.EncodeToString(script); got != v.script || err != nil {
			t.Errorf("%s: script %s, %v, want %s", v.address, got, err, v.script)
		}
	}
	for why, address := range map[string]string{
		"bech32 for version 1":         "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd",
		"bech32 for version 16":        "BC1S0XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ54WELL",
		"bech32m for version 0":        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kemeawh",
		"an o":                         "bc1p38j9r5y49hruaue7wxjce0updqjuyyx0kh56v8s25huc6995vvpql3jow4",
		"version 17":                   "BC130XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ7ZWS8R",
		"a program of a byte":          "bc1pw5dgrnzv",
		"a program of 41 bytes":        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav",
		"16 bytes for version 0":       "BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P",
		"both cases":                   "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5JJ0",
		"five bits of padding":         "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v07qwwzcrf",
		"no data":                      "bc1gmk9yu",
		"a wrong letter":               "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5",
		"another network":              "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
		"nothing":                      "",
		"nothing but a 1":              "1",
		"padding that is not zero (1)": "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vpggkg4j",
	} {
		if script, err := segwitScript("bc", address); err == nil {
			t.Errorf("%s: script %x, want an error", why, script)
		}
	}
}

func TestRegtestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn":           "76a914243f1394f44554f4ce3fd68649c19adc483ce92488ac",
		"2MzQwSSnBHWHqSAqtTVQ6v47XtaisrJa1Vc":          "a9144e9f39ca4688ff102128ea4ccda34105324305b087",
		"bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080": "0014751e76e8199196d454941c45d1b3a323f1433bd6",
		"BCRT1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KYGT080": "0014751e76e8199196d454941c45d1b3a323f1433bd6",
	} {
		script, err := scriptOf(address)
		if got := hex.EncodeToString(script); got != want || err != nil {
			t.Errorf("%s: script %s, %v, want %s", address, got, err, want)
		}
	}
	for _, address := range []string{
		"", "1", "0", "é", "bcrt1", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", // of Bitcoin itself
		"mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfm", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
	} {
		if script, err := scriptOf(address); err == nil {
			t.Errorf("%q: script %x, want an error", address, script)
		}
	}
}
