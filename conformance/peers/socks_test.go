//go:build unix

package peers

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

// Proxies that others have written. Each is started for the test, on loopback; no
// service of the system's is needed or touched.

func TestInteropMicrosocks(t *testing.T) {
	noLeak(t)
	program := needProxy(t, "microsocks", "microsocks")
	open := startProxy(t, program, "-i", "127.0.0.1", "-p")
	carries(t, rpcx.SOCKSProxy{Addr: open})
	detects(t, open, nil, rpcx.SOCKS5)

	closed := startProxy(t, program, "-i", "127.0.0.1", "-u", "user", "-P", "pass:word", "-p")
	auth := rpcx.SOCKSUserAuth{Username: "user", Password: "pass:word"}
	carries(t, rpcx.SOCKSProxy{Addr: closed, Auth: auth})
	detects(t, closed, auth, rpcx.SOCKS5)
	detects(t, closed, nil, rpcx.SOCKS5) // it refuses, as only a proxy does
	for _, wrong := range []rpcx.SOCKSAuth{nil, rpcx.SOCKSRandomAuth{}} {
		refuses(t, rpcx.SOCKSProxy{Addr: closed, Auth: wrong}, "127.0.0.1:80", 0)
	}
	refuses(t, rpcx.SOCKSProxy{Addr: open}, freePort(t), 5)
}

func TestInteropDante(t *testing.T) {
	noLeak(t)
	program := needProxy(t, "danted", "dante-server")
	config := func(port string) string {
		return fmt.Sprintf(`logoutput: stderr
internal: 127.0.0.1 port = %s
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks block { from: 0.0.0.0/0 to: 127.0.0.9/32 }
socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
`, port)
	}
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	file := writeFile(t, dir, "danted.conf", config(port))
	startProxyAt(t, addr, program, "-f", file, "-p", filepath.Join(dir, "pid"))
	carries(t, rpcx.SOCKSProxy{Addr: addr})
	carries(t, rpcx.SOCKSProxy{Addr: addr, Version: rpcx.SOCKS4})
	detects(t, addr, nil, rpcx.SOCKS5)
	refuses(t, rpcx.SOCKSProxy{Addr: addr}, "127.0.0.9:80", 2)
	refuses(t, rpcx.SOCKSProxy{Addr: addr, Version: rpcx.SOCKS4}, "127.0.0.9:80", 91)
}

func TestInteropOpenSSH(t *testing.T) {
	noLeak(t)
	server, client := needProxy(t, "sshd", "openssh-server"), needProxy(t, "ssh", "openssh-client")
	keygen := needProxy(t, "ssh-keygen", "openssh-client")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" { // whom sshd serves only if there is this folder
		if err := os.Mkdir("/run/sshd", 0o755); err == nil {
			t.Cleanup(func() { os.Remove("/run/sshd") })
		}
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	sshd := freePort(t)
	_, port, _ := net.SplitHostPort(sshd)
	config := writeFile(t, dir, "sshd_config", fmt.Sprintf(`Port %s
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
`, port, filepath.Join(dir, "host"), filepath.Join(dir, "user.pub")))
	startProxyAt(t, sshd, server, "-D", "-e", "-f", config)
	addr := freePort(t)
	startProxyAt(t, addr, client, "-N", "-D", addr, "-F", "none", "-p", port, "-i", filepath.Join(dir, "user"),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
		me.Username+"@127.0.0.1")
	for _, version := range []rpcx.SOCKSVersion{rpcx.SOCKS4, rpcx.SOCKS4a, rpcx.SOCKS5} {
		carries(t, rpcx.SOCKSProxy{Addr: addr, Version: version})
	}
	detects(t, addr, nil, rpcx.SOCKS5)
}

// Tor has no network here, so it can only refuse.
func TestInteropTor(t *testing.T) {
	noLeak(t)
	program := needProxy(t, "tor", "tor")
	addr := freePort(t)
	path := filepath.Join(privateDir(t), "socks")
	config := writeFile(t, t.TempDir(), "torrc", fmt.Sprintf(`SocksPort %s ExtendedErrors
SocksPort unix:%s ExtendedErrors
DataDirectory %s
UseBridges 1
Bridge 127.0.0.1:1
`, addr, path, t.TempDir()))
	startProxyAt(t, addr, program, "--defaults-torrc", "/dev/null", "-f", config)
	detects(t, addr, nil, rpcx.SOCKS5)
	detects(t, addr, rpcx.SOCKSRandomAuth{}, rpcx.SOCKS5)
	if p := rpcx.DetectSOCKS(t.Context(), "unix://"+path, nil); p == nil || p.Version != rpcx.SOCKS5 {
		t.Errorf("at a path found %v", p)
	}
	for _, auth := range []rpcx.SOCKSAuth{nil, rpcx.SOCKSRandomAuth{}, rpcx.SOCKSDestinationAuth{}, rpcx.SOCKSUserAuth{Username: "user"}} {
		refuses(t, rpcx.SOCKSProxy{Addr: "unix://" + path, Auth: auth}, "not-a-service.onion:80", 0xF6)
		refuses(t, rpcx.SOCKSProxy{Addr: addr, Auth: auth}, "not-a-service.onion:80", 0xF6)
		refuses(t, rpcx.SOCKSProxy{Addr: addr, Auth: auth}, "10.0.0.1:80", 1)
		refuses(t, rpcx.SOCKSProxy{Addr: addr, Version: rpcx.SOCKS4a, Auth: auth}, "not-a-service.onion:80", 91)
		refuses(t, rpcx.SOCKSProxy{Addr: addr, Version: rpcx.SOCKS4, Auth: auth}, "10.0.0.1:80", 91)
	}
}

// detects looks for a proxy on its port, and on others before.
func detects(t *testing.T, addr string, auth rpcx.SOCKSAuth, want rpcx.SOCKSVersion) {
	t.Helper()
	if p := rpcx.DetectSOCKS(t.Context(), addr, auth); p == nil || p.Addr != addr || p.Version != want || p.Auth != auth {
		t.Errorf("found %v, want %v at %s", p, want, addr)
	}
	at, err := rpcx.ParseNetAddress(addr)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := rpcx.ParseNetAddress(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	ports := []int{0, int(closed.Port()), int(at.Port())}
	if p := rpcx.DetectSOCKSHost(t.Context(), at.Host(), ports, auth); p == nil || p.Addr != addr {
		t.Errorf("among the ports %v found %v, want %s", ports, p, addr)
	}
	if p := rpcx.DetectSOCKSHost(t.Context(), at.Host(), ports[:2], auth); p != nil {
		t.Errorf("among the ports %v found %v", ports[:2], p)
	}
}

// refuses dials what the proxy is to refuse with a code; 0 is before it is asked.
func refuses(t *testing.T, proxy rpcx.SOCKSProxy, addr string, code int) {
	t.Helper()
	_, err := proxy.DialContext(interopContext(t), "tcp", addr)
	refusal, ok := errors.AsType[*rpcx.SOCKSError](err)
	if !ok || !errors.Is(err, rpcx.ErrSOCKSFailure) || refusal.Reply != code {
		t.Errorf("%v to %s: got %v, want it to refuse with %d", proxy, addr, err, code)
	}
}

// carries sends a session, one over TLS, and HTTP through a proxy; to a name, if
// its version can.
func carries(t *testing.T, proxy rpcx.SOCKSProxy) {
	t.Helper()
	t.Run(proxy.Version.String(), func(t *testing.T) {
		host := "localhost"
		if proxy.Version == rpcx.SOCKS4 {
			host = "127.0.0.1"
		}
		serverTLS, clientTLS := certificate(t)
		for scheme, config := range map[string]*tls.Config{"tcp": nil, "tls": serverTLS} {
			addr, _ := serveSessions(t, config)
			_, port, _ := net.SplitHostPort(addr)
			clientTLS.ServerName = "127.0.0.1" // as the certificate says
			d := rpcx.Dialer{TLS: clientTLS, SOCKS: &proxy}
			s, err := d.Dial(interopContext(t), scheme+"://"+net.JoinHostPort(host, port), nil)
			if err != nil {
				t.Fatal(err)
			}
			answers(t, s)
			if s.SOCKS() != &proxy || s.RemoteAddr().String() != net.JoinHostPort(host, port) {
				t.Errorf("it goes to %v, through %v", s.RemoteAddr(), s.SOCKS())
			}
			s.Close()
			<-s.Done()
		}

		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
		defer web.Close()
		transport := &http.Transport{DialContext: proxy.DialContext}
		defer transport.CloseIdleConnections()
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(web.URL, "http://"))
		resp, err := (&http.Client{Transport: transport}).Get("http://" + net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

// needProxy returns the path of a program, which may be where only root looks.
func needProxy(t *testing.T, program, debianPackage string) string {
	t.Helper()
	return interoptest.Program(t, "apt-get install "+debianPackage, program, "/usr/sbin", "/usr/local/sbin")
}

// startProxy starts a program whose last argument is its port.
func startProxy(t *testing.T, program string, args ...string) (addr string) {
	t.Helper()
	addr = freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	startProxyAt(t, addr, program, append(args, port)...)
	return addr
}

// startProxyAt starts a program, and waits until it listens at addr. It is stopped
// when the test ends.
func startProxyAt(t *testing.T, addr, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	output := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with its children
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	// Owner: the test. End: the program does.
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("%s:\n%s", program, output)
		}
	})
	ctx := interopContext(t)
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", program, err, output)
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen at %s", program, addr)
}

// privateDir returns a folder that only its owner may enter: Tor makes sockets in no
// other.
func privateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
