//go:build unix

package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx/internal/interoptest"
)

// electrumServer is a running server of the example electrum.
type electrumServer struct {
	t      *testing.T
	listen []string // addresses
	args   []string // other arguments
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	log    bytes.Buffer // of all runs
}

// start starts the server. With port 0, the addresses become those of the listeners.
func (s *electrumServer) start() {
	s.t.Helper()
	args := append([]string{"server"}, s.args...)
	for _, addr := range s.listen {
		args = append(args, "-listen", addr)
	}
	s.cmd = command(s.t, "electrum", args...)
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	cmd := s.cmd
	s.t.Cleanup(func() {
		if s.cmd == cmd { // neither killed nor stopped
			s.stop()
		}
	})
	for i := range s.listen {
		line, err := s.out.ReadString('\n')
		addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
		if err != nil || !ok {
			s.t.Fatalf("the server printed %q (%v)", line, err)
		}
		s.listen[i] = addr
	}
}

// kill ends the server as a crash would.
func (s *electrumServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

// stop ends the server, and looks for complaints in its log.
func (s *electrumServer) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the server ended with %v", err)
	}
	s.cmd = nil
	log := s.log.String()
	if strings.Contains(log, " ERROR ") || strings.Contains(log, " WARN ") || s.t.Failed() {
		s.t.Errorf("the server logged\n%s", log)
	}
}

// do has the server carry out a command, and returns the part of its answer that want has
// in parentheses.
func (s *electrumServer) do(command, want string) string {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		s.t.Fatal(err)
	}
	line, err := s.out.ReadString('\n')
	found := regexp.MustCompile(want).FindStringSubmatch(line)
	if err != nil || found == nil {
		s.t.Fatalf("%s: %q (%v)", command, line, err)
	}
	return found[1]
}

// pay has the server pay satoshis to an address, and returns the transaction's id.
func (s *electrumServer) pay(address string, value int) string {
	s.t.Helper()
	return s.do(fmt.Sprintf("pay %s %d", address, value), `transaction ([0-9a-f]{64})`)
}

// mine adds blocks, and returns the height.
func (s *electrumServer) mine(n int) int { return s.height(fmt.Sprintf("mine %d", n)) }

// height has the server carry out a command, and returns its height.
func (s *electrumServer) height(command string) int {
	s.t.Helper()
	height, err := strconv.Atoi(s.do(command, `height (\d+)`))
	if err != nil {
		s.t.Fatal(err)
	}
	return height
}

// electrumWallet is a running Electrum wallet without a window.
type electrumWallet struct {
	t      *testing.T
	name   string
	client http.Client
	log    bytes.Buffer
}

// startElectrumWallet starts a wallet with a new seed that knows one server. addr is
// host:port:t for TCP, or host:port:s for TLS.
func startElectrumWallet(t *testing.T, program, name, addr string) *electrumWallet {
	t.Helper()
	dir, err := os.MkdirTemp("", "rpcx") // a short name, for the socket
	if err != nil {
		t.Fatal(err)
	}
	w := &electrumWallet{t: t, name: name}
	cmd := exec.Command(program, "daemon", "--regtest", "-D", dir, "-s", addr, "--oneserver",
		"--rpcuser", "user", "--rpcpassword", "password", "-v")
	cmd.Stdout, cmd.Stderr = &w.log, &w.log
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
		log := w.log.String()
		for _, complaint := range []string{
			"unexpected notification", "RequestCorrupted", "SynchronizerFailure", "VerificationFailure", "MerkleRootMismatch",
			"violated protocol", "taskgroup died",
		} {
			if strings.Contains(log, complaint) {
				t.Errorf("%s complains: %s", name, complaint)
			}
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, log[max(0, len(log)-20_000):])
		}
	})
	socket := filepath.Join(dir, "regtest", "daemon_rpc_socket")
	w.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return w
}

// call calls a method of the wallet. result is a pointer, or nil.
func (w *electrumWallet) call(method string, params map[string]any, result any) error {
	if params == nil {
		params = map[string]any{} // null is refused
	}
	body, err := json.Marshal(map[string]any{"id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://wallet/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth("user", "password")
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var reply struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return fmt.Errorf("%s: %s", method, reply.Error.Message)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(reply.Result, result)
}

// must is call, where an error ends the test.
func (w *electrumWallet) must(method string, params map[string]any, result any) {
	w.t.Helper()
	if err := w.call(method, params, result); err != nil {
		w.t.Fatalf("%s: %v", w.name, err)
	}
}

// until waits until a method's result is as wanted.
func until[T any](w *electrumWallet, what, method string, params map[string]any, wanted func(T) bool) T {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		var result T
		err := w.call(method, params, &result)
		if err == nil && wanted(result) {
			return result
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s, %s: the last result of %s is %+v, %v", w.name, what, method, result, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// atHeight waits until the wallet has all headers up to a height, and knows of no others.
func (w *electrumWallet) atHeight(height int) {
	w.t.Helper()
	type info struct {
		Connected bool
		Local     int `json:"blockchain_height"`
		Server    int `json:"server_height"`
	}
	until(w, fmt.Sprintf("height %d", height), "getinfo", nil, func(i info) bool {
		return i.Connected && i.Local == height && i.Server == height
	})
	until(w, "synchronized", "is_synchronized", nil, func(yes bool) bool { return yes })
}

// hasBalance waits for a balance, in coins. "" is none.
func (w *electrumWallet) hasBalance(confirmed, unconfirmed string) {
	w.t.Helper()
	type balance struct{ Confirmed, Unconfirmed string }
	until(w, confirmed+" and "+unconfirmed, "getbalance", nil, func(b balance) bool {
		return b == balance{confirmed, unconfirmed}
	})
}

// address returns an address of the wallet that was never paid to.
func (w *electrumWallet) address() string {
	w.t.Helper()
	var address string
	w.must("getunusedaddress", nil, &address)
	return address
}

// confirmations waits until a transaction is so many blocks deep.
func (w *electrumWallet) confirmations(id string, n int) {
	w.t.Helper()
	type status struct{ Confirmations int }
	until(w, fmt.Sprintf("%d confirmations", n), "get_tx_status", map[string]any{"txid": id}, func(s status) bool {
		return s.Confirmations == n
	})
}

// pay has the wallet pay coins to an address, and returns the transaction's id.
func (w *electrumWallet) pay(address, amount, fee string, height int) string {
	w.t.Helper()
	var raw, id string
	w.must("payto", map[string]any{"destination": address, "amount": amount, "fee": fee}, &raw)
	var tx struct{ LockTime int }
	w.must("deserialize", map[string]any{"tx": raw}, &tx)
	if tx.LockTime < height-100 || tx.LockTime > height { // 0 if the wallet takes the tip for stale
		w.t.Errorf("%s: the lock time is %d at height %d", w.name, tx.LockTime, height)
	}
	w.must("broadcast", map[string]any{"tx": raw}, &id)
	return id
}

// Debian's Electrum wallets, one over TCP and one over TLS, are clients of the example.
func TestInteropElectrumWallet(t *testing.T) {
	program := interoptest.Program(t, "apt-get install electrum", "electrum")
	dir := t.TempDir()
	s := &electrumServer{t: t, listen: []string{"tcp://127.0.0.1:0", "tls://127.0.0.1:0"}, args: []string{
		"-state", filepath.Join(dir, "state"), "-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"),
	}}
	s.start()
	var wallets []*electrumWallet
	for i, kind := range []string{"t", "s"} {
		_, addr, _ := strings.Cut(s.listen[i], "://")
		wallets = append(wallets, startElectrumWallet(t, program, s.listen[i], addr+":"+kind))
	}
	each := func(f func(w *electrumWallet)) {
		t.Helper()
		for _, w := range wallets {
			f(w)
		}
	}
	begun := time.Now()
	step := func(what string) { t.Logf("%4.1f s  %s", time.Since(begun).Seconds(), what) }

	step("start")
	height := s.height("info")
	each(func(w *electrumWallet) {
		until(w, "started", "version", nil, func(version string) bool { return version != "" })
		w.must("create", nil, nil)
		w.must("load_wallet", nil, nil)
	})
	step("the first heights")
	each(func(w *electrumWallet) { w.atHeight(height) })

	step("a payment, unconfirmed and confirmed")
	each(func(w *electrumWallet) {
		id := s.pay(w.address(), 150_000_000)
		w.hasBalance("0", "1.5")
		height = s.mine(1)
		w.hasBalance("1.5", "")
		w.confirmations(id, 1)
	})

	step("60 blocks in a row")
	height = s.mine(60)
	each(func(w *electrumWallet) { w.atHeight(height) })

	step("the wallets pay each other")
	var ids []string
	for i, w := range wallets {
		other := wallets[1-i]
		id := w.pay(other.address(), "0.25", "0.0001", height)
		w.confirmations(id, 0)
		other.confirmations(id, 0)
		ids = append(ids, id)
	}
	confirmations := func(n int) {
		t.Helper()
		each(func(w *electrumWallet) {
			for _, id := range ids {
				w.confirmations(id, n)
			}
		})
	}
	height = s.mine(1)
	confirmations(1)
	each(func(w *electrumWallet) { w.hasBalance("1.4999", "") })

	step("a reorganisation")
	if reached := s.height("reorg 1"); reached != height+1 {
		t.Errorf("height %d, want %d", reached, height+1)
	}
	each(func(w *electrumWallet) { w.atHeight(height + 1) })
	confirmations(0)
	height = s.mine(1)
	confirmations(1)
	height = s.mine(2)
	confirmations(3)
	height = s.height("reorg 12") // more than the wallet asks for one by one
	each(func(w *electrumWallet) { w.atHeight(height) })
	confirmations(0)
	height = s.mine(1)
	confirmations(1)
	each(func(w *electrumWallet) { w.hasBalance("1.4999", "") })

	step("a restart of the server")
	each(func(w *electrumWallet) { ids = append(ids, s.pay(w.address(), 7_000_000)) })
	s.kill()
	s.start()
	if restarted := s.height("info"); restarted != height {
		t.Errorf("height %d after the restart, want %d", restarted, height)
	}
	each(func(w *electrumWallet) { w.atHeight(height) })
	each(func(w *electrumWallet) { w.hasBalance("1.4999", "0.07") })
	height = s.mine(1)
	each(func(w *electrumWallet) { w.atHeight(height) })
	each(func(w *electrumWallet) { w.hasBalance("1.5699", "") })
	step("end")
}
