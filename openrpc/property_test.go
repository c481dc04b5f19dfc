package openrpc_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
)

// leafTypes are types without type parameters of their own.
var leafTypes = []reflect.Type{
	reflect.TypeFor[bool](), reflect.TypeFor[int8](), reflect.TypeFor[uint32](), reflect.TypeFor[uint64](), reflect.TypeFor[float32](),
	reflect.TypeFor[string](), reflect.TypeFor[[]byte](), reflect.TypeFor[any](), reflect.TypeFor[json.RawMessage](), reflect.TypeFor[json.Number](),
	reflect.TypeFor[time.Time](), reflect.TypeFor[time.Duration](), reflect.TypeFor[big.Int](), reflect.TypeFor[netip.Prefix](),
	reflect.TypeFor[item](), reflect.TypeFor[page[item]](), reflect.TypeFor[page[page[string]]](), reflect.TypeFor[grid](), reflect.TypeFor[state](),
	reflect.TypeFor[raw](), reflect.TypeFor[color](), reflect.TypeFor[struct{}](), reflect.TypeFor[map[string]any](),
}

// randomType returns a type of at most depth levels.
func randomType(r *rand.Rand, depth int) reflect.Type {
	if depth == 0 {
		return leafTypes[r.IntN(len(leafTypes))]
	}
	elem := randomType(r, depth-1-r.IntN(depth))
	switch r.IntN(6) {
	case 0:
		return reflect.SliceOf(elem)
	case 1:
		return reflect.ArrayOf(r.IntN(5), elem)
	case 2:
		return reflect.PointerTo(elem)
	case 3:
		return reflect.MapOf(reflect.TypeFor[string](), elem)
	case 4:
		return reflect.MapOf(reflect.TypeFor[int](), elem)
	}
	var fields []reflect.StructField
	for i := range r.IntN(4) {
		tags := []string{"", ",omitempty", ",omitzero"}
		fields = append(fields, reflect.StructField{
			Name: fmt.Sprintf("F%d", i), Type: randomType(r, depth-1),
			Tag: reflect.StructTag(fmt.Sprintf(`json:"f %d%s"`, i, tags[r.IntN(len(tags))])),
		})
	}
	return reflect.StructOf(fields)
}

// randomHandler returns the handler of a function with random params and result.
func randomHandler(r *rand.Rand) rpcx.Handler {
	var in, out []reflect.Type
	var names []string
	for i := range r.IntN(4) {
		in = append(in, randomType(r, r.IntN(4)))
		names = append(names, fmt.Sprintf("p%d", i))
	}
	variadic := len(in) > 0 && r.IntN(4) == 0
	if variadic {
		in[len(in)-1] = reflect.SliceOf(in[len(in)-1])
		names = names[:len(in)-1]
	}
	if n := len(names); n > 0 && r.IntN(2) == 0 {
		names[n-1] += "?"
	}
	if r.IntN(3) == 0 {
		names = nil
	}
	if r.IntN(4) > 0 {
		out = append(out, randomType(r, r.IntN(4)))
	}
	fn := reflect.MakeFunc(reflect.FuncOf(in, out, variadic), func([]reflect.Value) []reflect.Value { return nil })
	return rpcx.Func(fn.Interface(), names...)
}

// Whatever the signatures, the document fits the meta-schema, Parse reads it, and the
// generated code compiles.
func TestRandomSignatures(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		router := rpcx.NewRouter()
		for i := range 20 {
			func() {
				defer func() { _ = recover() }() // rpcx.Func takes some signatures not at all
				router.Handle(fmt.Sprintf("m%d", i), randomHandler(r))
			}()
		}
		if n := len(slices.Collect(router.Methods())); n < 10 {
			t.Fatalf("seed %d: rpcx.Func takes only %d of 20 signatures", seed, n)
		}
		data := checkDocument(t, describe(t, router, &openrpc.Options{All: true}))
		d, err := openrpc.Parse(data)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, data)
		}
		code, err := d.Go("random")
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, data)
		}
		checkCode(t, code)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
