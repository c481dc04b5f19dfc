//go:build unix

package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

// Open vSwitch's database server and client speak JSON-RPC 1.0, and put nothing between
// messages. The protocol is that of RFC 7047.

// ovsdbSchema has a table of things, and two that tell the server where else to listen.
const ovsdbSchema = `{"name":"Inventory","version":"1.0.0","tables":{
	"Thing":{"isRoot":true,"indexes":[["name"]],"columns":{"name":{"type":"string"},"size":{"type":"integer"}}},
	"Config":{"isRoot":true,"columns":{
		"managers":{"type":{"key":{"type":"uuid","refTable":"Manager"},"min":0,"max":"unlimited"}}}},
	"Manager":{"columns":{
		"target":{"type":"string"},
		"inactivity_probe":{"type":{"key":"integer","min":0,"max":1}}}}}}`

// ovsdbRow is what a monitor tells of a row.
type ovsdbRow struct {
	Old, New *struct {
		Name string
		Size int
	}
}

// ovsdbUpdate is the params of a notification.
type ovsdbUpdate struct {
	Monitor string
	Tables  map[string]map[string]ovsdbRow
}

// ovsdbPeer is a session with the server, and what the server calls.
type ovsdbPeer struct {
	*rpcx.Session
	updates chan ovsdbUpdate
	echoes  chan struct{}
}

func dialOVSDB(t *testing.T, addr string) *ovsdbPeer {
	t.Helper()
	p := &ovsdbPeer{updates: make(chan ovsdbUpdate, 16), echoes: make(chan struct{}, 16)}
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(args ...json.RawMessage) []json.RawMessage {
		select {
		case p.echoes <- struct{}{}:
		default:
		}
		return append([]json.RawMessage{}, args...)
	}))
	router.Handle("update", rpcx.Func(func(monitor string, tables map[string]map[string]ovsdbRow) {
		p.updates <- ovsdbUpdate{monitor, tables}
	}))
	s := dialSoon(t, &rpcx.Dialer{}, addr, &rpcx.Options{Protocol: rpcx.JSONRPCv1, Framer: rpcx.JSONFramer{}, Handler: router})
	p.Session = s
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return p
}

// update returns the next update of the table of things.
func (p *ovsdbPeer) update(t *testing.T, ctx context.Context) []ovsdbRow {
	t.Helper()
	select {
	case u := <-p.updates:
		if u.Monitor != "things" {
			t.Errorf("an update of %q", u.Monitor)
		}
		var rows []ovsdbRow
		for _, row := range u.Tables["Thing"] {
			rows = append(rows, row)
		}
		return rows
	case <-p.Done():
		t.Fatal(p.Err())
	case <-ctx.Done():
		t.Fatal("no update came")
	}
	return nil
}

func TestInteropOVSDBServer(t *testing.T) {
	noLeak(t)
	server, tool := needProxy(t, "ovsdb-server", "openvswitch-common"), needProxy(t, "ovsdb-tool", "openvswitch-common")
	socket := interopSocket(t)
	dir := filepath.Dir(socket)
	database := filepath.Join(dir, "inventory.db")
	schema := writeFile(t, dir, "inventory.ovsschema", ovsdbSchema)
	if out, err := exec.Command(tool, "create", database, schema).CombinedOutput(); err != nil {
		t.Fatalf("ovsdb-tool: %v\n%s", err, out)
	}
	addr := freePort(t)
	listen := func(addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return "ptcp:" + port + ":" + host
	}
	startProxyAt(t, addr, server, "--remote="+listen(addr), "--remote=punix:"+socket, "--remote=db:Inventory,Config,managers",
		"--unixctl="+filepath.Join(dir, "control"), "--log-file=/dev/null", database)

	for _, addr := range []string{"tcp://" + addr, "unix://" + socket} {
		network, _, _ := strings.Cut(addr, ":")
		t.Run(network, func(t *testing.T) { ovsdbChecks(t, addr) })
	}
	t.Run("an idle session answers its probes", func(t *testing.T) {
		ctx := interopContext(t)
		addr := freePort(t)
		manager := object{"target": listen(addr), "inactivity_probe": 1000} // milliseconds, the least that it takes
		err := dialOVSDB(t, "unix://"+socket).Call(ctx, "transact", rpcx.Args{"Inventory",
			object{"op": "insert", "table": "Manager", "row": manager, "uuid-name": "manager"},
			object{"op": "insert", "table": "Config", "row": object{"managers": []string{"named-uuid", "manager"}}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := dialOVSDB(t, "tcp://"+addr)
		for range 2 { // after the first one it would have hung up
			select {
			case <-p.echoes:
			case <-p.Done():
				t.Fatal(p.Err())
			case <-ctx.Done():
				t.Fatal("the server does not ask")
			}
		}
		if _, err := rpcx.Call[[]string](ctx, p.Session, "list_dbs", nil); err != nil {
			t.Error(err)
		}
	})
}

func ovsdbChecks(t *testing.T, addr string) {
	ctx := interopContext(t)
	p := dialOVSDB(t, addr)
	insert := func(name string, size int) object {
		return object{"op": "insert", "table": "Thing", "row": object{"name": name, "size": size}}
	}
	t.Run("list_dbs", func(t *testing.T) {
		got, err := rpcx.Call[[]string](ctx, p.Session, "list_dbs", nil)
		if err != nil || strings.Join(got, " ") != "Inventory _Server" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("many calls at once", func(t *testing.T) {
		var calls []*rpcx.Future
		texts := []string{"", "}{][", `\"`, "☃ 𝄞 \u2028", "a\nb", strings.Repeat("{\"", 5_000)}
		for i := range 200 {
			calls = append(calls, p.Go(ctx, "echo", rpcx.Args{texts[i%len(texts)], i}))
		}
		for i, call := range calls {
			var text string
			var number int
			if err := call.Wait(ctx, &[]any{&text, &number}); err != nil || text != texts[i%len(texts)] || number != i {
				t.Errorf("echo %d: %.20q, %d, %v", i, text, number, err)
			}
		}
	})
	t.Run("monitor and transact", func(t *testing.T) {
		other := dialOVSDB(t, addr)
		var initial object
		if err := p.Call(ctx, "monitor", rpcx.Args{"Inventory", "things", object{"Thing": object{"columns": []string{"name", "size"}}}}, &initial); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*ovsdbPeer{p, other} { // of its own changes it is told before the reply, in one go
			name := fmt.Sprintf("bolt %p", s)
			var results []struct {
				UUID  []string
				Count int
				Rows  []object
			}
			err := s.Call(ctx, "transact", rpcx.Args{"Inventory", insert(name, 8), object{
				"op": "select", "table": "Thing", "where": [][]any{{"name", "==", name}}, "columns": []string{"size"},
			}}, &results)
			if err != nil || len(results) != 2 || len(results[0].UUID) != 2 || len(results[1].Rows) != 1 || results[1].Rows[0]["size"] != 8.0 {
				t.Fatalf("insert: %v, %v", results, err)
			}
			if rows := p.update(t, ctx); len(rows) != 1 || rows[0].Old != nil || rows[0].New == nil || rows[0].New.Name != name {
				t.Errorf("of an insert it is told %v", rows)
			}
			where := [][]any{{"name", "==", name}}
			err = s.Call(ctx, "transact", rpcx.Args{"Inventory", object{"op": "update", "table": "Thing", "where": where, "row": object{"size": 10}}}, &results)
			if err != nil || len(results) != 1 || results[0].Count != 1 {
				t.Fatalf("update: %v, %v", results, err)
			}
			if rows := p.update(t, ctx); len(rows) != 1 || rows[0].Old == nil || rows[0].Old.Size != 8 || rows[0].New.Size != 10 {
				t.Errorf("of a change it is told %v", rows)
			}
			err = s.Call(ctx, "transact", rpcx.Args{"Inventory", object{"op": "delete", "table": "Thing", "where": where}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if rows := p.update(t, ctx); len(rows) != 1 || rows[0].New != nil {
				t.Errorf("of a deletion it is told %v", rows)
			}
		}
		if err := p.Call(ctx, "monitor_cancel", rpcx.Args{"things"}, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, c := range []struct {
			method string
			params rpcx.Args
			want   string // in the error
		}{
			{"nothing", rpcx.Args{}, `"unknown method"`},
			{"monitor_cancel", rpcx.Args{"nothing"}, `"unknown monitor"`},
			{"get_schema", rpcx.Args{"Nothing"}, "unknown database"},
			{"transact", rpcx.Args{"Nothing"}, "transact request specifies unknown database Nothing"},
		} {
			err := p.Call(ctx, c.method, c.params, nil)
			e, ok := errors.AsType[*rpcx.Error](err)
			if !ok {
				t.Errorf("%s: got %v, want an error of the peer", c.method, err)
				continue
			}
			if data := fmt.Sprintf("%s", e.Data); !strings.Contains(data, c.want) {
				t.Errorf("%s: the data of %v is %s, want %s in it", c.method, e, data, c.want)
			}
		}
	})
	if stats := p.Stats(); stats.Errors != 0 {
		t.Errorf("%d errors are counted", stats.Errors)
	}
}

func TestInteropOVSDBClient(t *testing.T) {
	noLeak(t)
	client := needProxy(t, "ovsdb-client", "openvswitch-common")
	router := rpcx.NewRouter()
	router.Handle("list_dbs", rpcx.Func(func() []string { return []string{"Inventory", "_Server"} }))
	router.Handle("get_schema", rpcx.Func(func(string) json.RawMessage { return json.RawMessage(ovsdbSchema) }))
	router.Handle("set_db_change_aware", rpcx.Func(func(bool) object { return object{} }))
	router.Handle("transact", rpcx.Func(func(database string, operations ...object) ([]object, error) {
		if database == "Nothing" {
			return nil, rpcx.InvalidParams("there is no %s", database)
		}
		results := []object{}
		for _, operation := range operations {
			switch operation["op"] {
			case "wait":
				results = append(results, object{})
			case "comment":
				results = append(results, object{"comment": operation["comment"]})
			default:
				return nil, rpcx.Errorf(1, "there is no %v in %s", operation["op"], database)
			}
		}
		return results, nil
	}))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router, Protocol: rpcx.JSONRPCv1, Framer: rpcx.JSONFramer{}}}
	for network, form := range map[string]string{"tcp": "tcp:", "unix": "unix:"} {
		addr := interopServe(t, srv, network, nil)
		_, addr, _ = strings.Cut(addr, "://")
		t.Run(network, func(t *testing.T) {
			for _, c := range []struct {
				name   string
				args   []string
				output string // in it
				fails  bool
			}{
				{"list-dbs", nil, "Inventory\n_Server\n", false},
				{"get-schema", []string{"Inventory"}, `"inactivity_probe"`, false},
				{"transact", []string{`["Nothing"]`}, "there is no Nothing", true},
				{"transact", []string{`["Inventory",{"op":"comment","comment":"}{"}]`}, `[{"comment":"}{"}]`, false},
				{"transact", []string{`["Inventory",{"op":"nothing"}]`}, "there is no nothing in Inventory", true},
				{"wait", []string{"Inventory", "connected"}, "", false}, // two calls, with nothing between them
			} {
				args := append([]string{"--timeout=20", c.name, form + addr}, c.args...)
				cmd := interoptest.Command(t, client, args...)
				var output bytes.Buffer
				cmd.Stdout, cmd.Stderr = &output, &output
				err := cmd.Run()
				if !strings.Contains(output.String(), c.output) || c.fails != (err != nil) {
					t.Errorf("%s %q: %v, %s", c.name, c.args, err, &output)
				}
			}
		})
	}
}
