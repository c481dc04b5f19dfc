package main

import (
	"encoding/base64"
	"strings"
	"testing"
)

// No error about an address shows its password.
func TestAddressErrorsHaveNoPassword(t *testing.T) {
	for _, addr := range []string{
		"htps://user:sekret99@host/", "user:sekret99@host:80/path", "tcp://user:sekret99@host", "tcp://user:sekret99@host:x",
		"http://user:sekret99@host:99999/", "http://user:sekr@sekret99@host:99999/", "tls://user:sekret99@::1",
	} {
		for _, args := range [][]string{{"call", addr, "m"}, {"proxy", addr, "localhost:1"}} {
			r := rpcxRun(args...)
			checkResult(t, r, exitUsage, "")
			if strings.Contains(r.stderr, "sekret") {
				t.Errorf("%v: the password is in %s", args, r.stderr)
			}
		}
	}
}

func TestRedact(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte("user:pass-word"))
	c := &connFlags{headers: []string{
		"X-Short: token", "X-Long: token-and-more", "Authorization: Bearer 0123456789", "Cookie: id=abcdefgh; b=ijklmnop",
		"Proxy-Authorization: Basic " + basic, "Content-Type: application/json; charset=utf-8",
	}}
	if _, err := c.header(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"x token-and-more y":         "x … y",
		"bad token 0123456789":       "bad … …",
		"no session abcdefgh":        "no session …",
		"no session ijklmnop":        "no session …",
		"wrong password pass-word":   "wrong password …",
		"want application/json only": "want application/json only",
	} {
		if got := c.redact(text); got != want {
			t.Errorf("redact(%q) = %q, want %q", text, got, want)
		}
	}
	c = &connFlags{}
	c.keepURLSecret("http://localhost:8080/a@b")
	if got := c.redact("localhost:8080/a"); got != "localhost:8080/a" {
		t.Errorf("a path is no secret: %q", got)
	}
}
