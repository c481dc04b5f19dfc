//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/rpcx/internal/interoptest"
)

// configure reads a configuration, replaces texts of it, given in pairs, and returns the
// path of the result.
func configure(t *testing.T, name string, changes ...string) (path string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(string(text), changes[i]) {
			t.Fatalf("%s has no %q", name, changes[i])
		}
	}
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(changes...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startNginx starts nginx with nginx.conf in front of a server. Its listeners exist before
// it starts, as they do when nginx is replaced by a new version of itself. So nobody has to
// wait, and the ports are free.
func startNginx(t *testing.T, tcpServer, webServer string) (tcp, web string) {
	t.Helper()
	program := interoptest.Program(t, "apt-get install nginx libnginx-mod-stream", "nginx", "/usr/sbin")
	if _, err := os.Stat("/usr/lib/nginx/modules/ngx_stream_module.so"); err != nil {
		interoptest.Missing(t, err, "apt-get install libnginx-mod-stream")
	}
	dir := t.TempDir()
	listeners := []*net.TCPListener{listenTCP(t), listenTCP(t)}
	var files []*os.File
	for _, l := range listeners {
		file, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		defer file.Close()
		files = append(files, file)
	}
	tcp, web = listeners[0].Addr().String(), listeners[1].Addr().String()
	var folders strings.Builder
	folders.WriteString("http {\n access_log off;\n")
	for _, use := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&folders, " %s_temp_path %s;\n", use, filepath.Join(dir, use))
	}
	path := configure(t, "nginx.conf", "127.0.0.1:8888", tcp, "127.0.0.1:8080", web,
		"127.0.0.1:8881", tcpServer, "127.0.0.1:8882", webServer,
		"modules/ngx", "/usr/lib/nginx/modules/ngx", "http {\n", folders.String())
	directives := "daemon off; error_log stderr; pid " + filepath.Join(dir, "pid") + ";"
	if os.Geteuid() == 0 {
		directives += " user root;" // the folders are the test's
	}
	cmd := exec.Command(program, "-c", path, "-p", dir, "-e", "stderr", "-g", directives)
	cmd.Env = append(os.Environ(), "NGINX=3;4;")
	cmd.ExtraFiles = files
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("nginx: %v\n%s", err, &output)
		}
	})
	return tcp, web
}

// Behind nginx, sessions over TCP and WebSockets, and HTTP requests, are those of the
// client's address.
func TestInteropNginx(t *testing.T) {
	tcp, web := startServer(t)
	tcp, web = startNginx(t, tcp, web)
	checkProxied(t, "127.0.0.2", tcp, web)
}

// Tor finds nothing wrong with torrc.
func TestInteropTorConfiguration(t *testing.T) {
	program := interoptest.Program(t, "apt-get install tor", "tor", "/usr/sbin")
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := configure(t, "torrc", "/var/lib/tor/rpc/", filepath.Join(dir, "rpc"))
	cmd := exec.CommandContext(t.Context(), program, "--verify-config", "-f", path, "--defaults-torrc", "/dev/null", "--DataDirectory", dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Configuration was valid") {
		t.Errorf("tor: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "[warn]") && !strings.Contains(line, "as root") {
			t.Error(line)
		}
	}
}
