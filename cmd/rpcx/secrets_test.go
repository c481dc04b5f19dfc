package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

// A secret of the command line is in no output, also of --verbose, and of errors with what
// the server has answered.
func TestSecrets(t *testing.T) {
	const secret = "hunter2/+ä"
	var got http.Header
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintln(w, r.Header, r.URL.String())
	}))
	defer web.Close()
	host := strings.TrimPrefix(web.URL, "http://")
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("user:"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("X-Key: "+secret+"\nX-Other: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(proxy, []byte("socks5://user:hunter2%2F+%C3%A4@127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const basic = "Basic dXNlcjpodW50ZXIyLyvDpA==" // user:hunter2/+ä
	for _, c := range []struct {
		name, addr string
		args       []string
		header     string // what the server receives
	}{
		{"basic", web.URL, []string{"--auth", "user:" + secret}, "Authorization: " + basic},
		{"bearer", web.URL, []string{"--auth", "bearer:" + secret}, "Authorization: Bearer " + secret},
		{"a file", web.URL, []string{"--auth", "@" + file}, "Authorization: " + basic},
		{"a header", web.URL, []string{"--header", "X-Key: " + secret}, "X-Key: " + secret},
		{"a file of headers", web.URL, []string{"-H", "@" + headers}, "X-Key: " + secret},
		{"a WebSocket", "ws://" + host, []string{"--auth", "user:" + secret}, "Authorization: " + basic},
		{"a URL", "http://user:hunter2%2F+%C3%A4@" + host, nil, "Authorization: " + basic},
		{"a URL of a WebSocket", "ws://user:hunter2%2F+%C3%A4@" + host, nil, ""},
		{"a URL nobody answers", "http://user:hunter2%2F+%C3%A4@127.0.0.1:1/", nil, ""},
		{"a WebSocket nobody answers", "ws://user:hunter2%2F+%C3%A4@127.0.0.1:1/", nil, ""},
		{"a bad URL", "http://user:hunter2%2F+%C3%A4@127.0.0.1:x/", nil, ""},
		{"a proxy nobody answers", "127.0.0.1:1", []string{"--proxy", "socks5://user:hunter2%2F+%C3%A4@127.0.0.1:1"}, ""},
		{"a file of a proxy", "127.0.0.1:1", []string{"--proxy", "@" + proxy}, ""},
		{"a bad proxy", "127.0.0.1:1", []string{"--proxy", "http://user:hunter2%2F+%C3%A4@127.0.0.1:1"}, ""},
		{"a bad header", web.URL, []string{"--header", secret}, ""},
		{"a header with a newline", web.URL, []string{"--header", "X: " + secret + "\n" + secret}, ""},
		{"bad credentials", web.URL, []string{"--auth", secret}, ""},
		{"no file", web.URL, []string{"--auth", "@nothing"}, ""},
		{"credentials for TCP", "127.0.0.1:1", []string{"--auth", "user:" + secret}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got = nil
			r := rpcxRun(append([]string{"call", c.addr, "x", "--verbose"}, c.args...)...)
			if r.code == exitOK || r.stdout != "" {
				t.Errorf("exit code %d, stdout %s", r.code, r.stdout)
			}
			for _, hidden := range []string{"hunter2", "aHVudGVyMi", strings.TrimPrefix(basic, "Basic ")} {
				if strings.Contains(r.stderr, hidden) {
					t.Errorf("%q is in the output: %s", hidden, r.stderr)
				}
			}
			if name, value, _ := strings.Cut(c.header, ": "); got.Get(name) != value {
				t.Errorf("the server received %s: %q, want %q", name, got.Get(name), value)
			}
		})
	}
}

// A jq filter cannot read the environment.
func TestNoEnvironmentInFilter(t *testing.T) {
	p := newPeer(t)
	t.Setenv("RPCX_SECRET", "hunter2")
	checkResult(t, rpcxRun("call", p.tcp, "value", "--jq", "env, $ENV", "-o", "compact"), exitOK, "{}\n{}\n")
}

// Files of certificates: of an authority, of a server for localhost, and of a client.
type certificates struct{ ca, server, client string }

func newCertificates(t *testing.T) certificates {
	t.Helper()
	dir := t.TempDir()
	var authority *x509.Certificate
	var authorityKey *ecdsa.PrivateKey
	issue := func(name string) string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			DNSNames: []string{name}, BasicConstraintsValid: true, IsCA: authority == nil,
			KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if authority == nil {
			authority, authorityKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, authority, &key.PublicKey, authorityKey)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
		file := filepath.Join(dir, name+".pem")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return certificates{issue("authority"), issue("localhost"), issue("client")}
}

// The server asks for a client certificate, over TLS, WebSockets and HTTP.
func TestTLS(t *testing.T) {
	certs := newCertificates(t)
	pair, err := tls.LoadX509KeyPair(certs.server, certs.server)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(certs.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	p := newPeer(t)
	tcp := listenTLS(t, p, config)
	web := httptest.NewUnstartedServer(p.web)
	web.TLS = config
	web.Config.ErrorLog = discardLog
	web.StartTLS()
	defer web.Close()
	host := strings.TrimPrefix(web.URL, "https://")

	trust := []string{"--tls-ca", certs.ca, "--sni", "localhost"}
	show := []string{"--cert", certs.client}
	for name, addr := range map[string]string{"TLS": "tls://" + tcp, "WebSocket": "wss://" + host + "/ws", "HTTP": "https://" + host + "/rpc"} {
		t.Run(name, func(t *testing.T) {
			call := func(args ...[]string) result {
				line := []string{"call", addr, "params", "1", "-o", "compact", "-v"}
				for _, a := range args {
					line = append(line, a...)
				}
				return rpcxRun(line...)
			}
			checkResult(t, call(trust, show), exitOK, "[1]\n")
			checkResult(t, call(trust, show, []string{"--key", certs.client}), exitOK, "[1]\n")
			r := call(show, []string{"--insecure"})
			checkResult(t, r, exitOK, "[1]\n", "warning: --insecure: anybody on the way can read and change what is sent\n")
			checkResult(t, call(trust), exitConnection, "", "--cert and --key show ")
			checkResult(t, call(show, trust[2:]), exitConnection, "", "--tls-ca FILE trusts another authority")
			checkResult(t, call(show, trust[:2]), exitConnection, "", "--sni NAME asks for another name")
			checkResult(t, call([]string{"--tls-ca", "main.go"}), exitUsage, "", "main.go has no certificate in PEM")
			checkResult(t, call([]string{"--tls-ca", "nothing"}), exitUsage, "", "no such file")
			checkResult(t, call([]string{"--cert", "main.go"}), exitUsage, "", "--cert, --key")
		})
	}
	t.Run("host:port with --tls", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(tcp)
		r := rpcxRun("call", "localhost:"+port, "params", "--tls", "--tls-ca", certs.ca, "--cert", certs.client, "-v")
		checkResult(t, r, exitOK, "null\n", "TLS 1.3, certificate of CN=localhost")
	})
	t.Run("a server without TLS", func(t *testing.T) {
		checkResult(t, rpcxRun("call", p.tcp, "params", "--tls", "--timeout", "5s"), exitConnection, "", "The peer does not use TLS")
	})
	t.Run("a client without TLS", func(t *testing.T) {
		checkResult(t, rpcxRun("call", tcp, "params"), exitConnection, "", "Does it expect TLS (--tls)?")
	})
}

// listenTLS lets p listen on TLS as well, and returns the address.
func listenTLS(t *testing.T, p *peer, config *tls.Config) string {
	t.Helper()
	l, err := rpcx.Listen(t.Context(), "tls://127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	p.running.Go(func() { p.srv.Serve(l) })
	return l.Addr().String()
}
