package openrpc_test

import (
	"context"
	"math/big"
	"strings"
	"testing"
	"time"

	"example.com/rpcx/openrpc"
	"example.com/rpcx/openrpc/internal/odd"
)

// oddService returns its argument.
type oddService struct{ odd.Unimplemented }

func (oddService) When(_ context.Context, at odd.When) (odd.When, error)          { return at, nil }
func (oddService) Perhaps(_ context.Context, at odd.Perhaps) (odd.Perhaps, error) { return at, nil }
func (oddService) Large(_ context.Context, n odd.Large) (odd.Large, error)        { return n, nil }
func (oddService) Pair(_ context.Context, p odd.Pair) (odd.Pair, error)           { return p, nil }
func (oddService) Twins(_ context.Context, p odd.Twins) (odd.Twins, error)        { return p, nil }
func (oddService) ABC(_ context.Context, p string) (string, error)                { return p, nil }
func (oddService) Unimplemented2(context.Context) (string, error)                 { return "done", nil }
func (oddService) Either(_ context.Context, x *odd.Either) (odd.Either, error)    { return *x, nil }

// Types that need care keep their values on the way to a handler and back: times and large
// numbers under components, arrays as the only params, and names with odd characters.
func TestGeneratedOddTypes(t *testing.T) {
	c, err := odd.NewClient(pipe(t, odd.NewHandler(oddService{})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, at, text := t.Context(), time.Unix(1e9, 0).UTC(), "text"
	if got, err := c.When(ctx, at); err != nil || !got.Equal(at) {
		t.Errorf("when: %v, %v", got, err)
	}
	if got, err := c.Perhaps(ctx, &at); err != nil || got == nil || !got.Equal(at) {
		t.Errorf("perhaps: %v, %v", got, err)
	}
	if got, err := c.Perhaps(ctx, nil); err != nil || got != nil {
		t.Errorf("perhaps null: %v, %v", got, err)
	}
	large := new(big.Int).Lsh(big.NewInt(1), 100)
	if got, err := c.Large(ctx, large); err != nil || large.Cmp(got) != 0 {
		t.Errorf("large: %v, %v", got, err)
	}
	if got, err := c.Pair(ctx, odd.Pair{"a", "b"}); err != nil || got != (odd.Pair{"a", "b"}) {
		t.Errorf("pair: %v, %v", got, err)
	}
	if got, err := c.Twins(ctx, odd.Twins{{}, {{}}}); err != nil || len(got) != 2 || len(got[1]) != 1 {
		t.Errorf("twins: %v, %v", got, err)
	}
	if got, err := c.Either(ctx, &odd.Either{A: &text}); err != nil || got.A == nil || *got.A != text {
		t.Errorf("either: %v, %v", got, err)
	}
	if got, err := c.ABC(ctx, text); err != nil || got != text {
		t.Errorf("a name with odd characters: %v, %v", got, err)
	}
	if got, err := c.Unimplemented2(ctx); err != nil || got != "done" {
		t.Errorf("the method unimplemented: %v, %v", got, err)
	}
}

// The comment of a file has no line that go/format moves above the package clause.
func TestGeneratedBuildLines(t *testing.T) {
	for _, text := range []string{"+build ignore", "a\n\t+build linux\n\nb", "\u00a0+build ignore"} {
		d := &openrpc.Document{Info: openrpc.Info{Title: text, Version: "1", Description: text}}
		code, err := d.Go("p")
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(code), "\n\n")
		if head != "// Code generated from an OpenRPC document. DO NOT EDIT." || strings.Contains(string(code), "//go:build") {
			t.Errorf("%q: the code begins with %s", text, head)
		}
	}
}

// Schemas that say two things, and schemas that contain each other in fixed lists, make
// code that compiles, however the params are passed.
func TestGeneratedOddSchemas(t *testing.T) {
	for name, schemas := range map[string]string{
		"a list of a text and itself":      `"a":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"string","$ref":"#/components/schemas/a"}}`,
		"a list of a struct of itself":     `"a":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"string","allOf":[{"properties":{"x":{"$ref":"#/components/schemas/a"}},"required":["x"]}]}}`,
		"a list of null or itself":         `"a":{"type":"array","minItems":2,"maxItems":2,"items":{"type":"string","oneOf":[{"$ref":"#/components/schemas/a"},{"type":"null"}]}}`,
		"itself and null":                  `"a":{"$ref":"#/components/schemas/a","type":["string","null"]}`,
		"another and null":                 `"a":{"$ref":"#/components/schemas/b","type":["string","null"]},"b":{"properties":{"x":{"type":"string"}}}`,
		"another and a choice":             `"a":{"$ref":"#/components/schemas/b","oneOf":[{"type":"string"},{"type":"null"}]},"b":{"properties":{"x":{"type":"string"}}}`,
		"another and a choice with itself": `"a":{"$ref":"#/components/schemas/b","oneOf":[{"$ref":"#/components/schemas/a"},{"type":"null"}]},"b":{"$ref":"#/components/schemas/a"}`,
		"null twice":                       `"a":{"oneOf":[{"type":["string","null"],"$ref":"#/components/schemas/b"},{"type":"null"}]},"b":{"type":"string"}`,
		"a time":                           `"a":{"type":"string","format":"date-time"}`,
		"an alias of a time or null":       `"a":{"oneOf":[{"$ref":"#/components/schemas/b"},{"type":"null"}]},"b":{"type":"string","format":"date-time"}`,
		"a choice of null":                 `"a":{"type":["string","null"],"enum":["a",null]}`,
		"two types":                        `"a":{"type":"object","type":"string","properties":{"x":{},"x":{}}}`,
		"null in itself":                   `"a":{"type":["object","null"],"allOf":[{"$ref":"#/components/schemas/a"}]}`,
		"numbers to itself":                `"a":{"type":"object","patternProperties":{"^[0-9]+$":{"$ref":"#/components/schemas/a"}}}`,
	} {
		for _, structure := range []string{`"paramStructure":"either",`, `"paramStructure":"by-position",`, `"paramStructure":"by-name",`, ``} {
			for _, required := range []string{"true", "false"} {
				t.Run(name+" "+structure+required, func(t *testing.T) {
					d, err := openrpc.Parse(document(`{"name":"m",`+structure+`"params":[{"name":"p","required":`+required+`,"schema":{"$ref":"#/components/schemas/a"}}],
						"result":{"name":"r","schema":{"$ref":"#/components/schemas/a"}}}`, `"schemas":{`+schemas+`}`))
					if err != nil {
						t.Fatal(err)
					}
					code, err := d.Go("odd")
					if err != nil {
						t.Fatal(err)
					}
					checkCode(t, code)
				})
			}
		}
	}
}

// Where the handler is made with names, a name that rpcx.Func reads otherwise is refused.
func TestGeneratedNamesOfFunc(t *testing.T) {
	for _, c := range []struct{ structure, name, schema, want string }{
		{"either", "a?", `{"type":"string"}`, "a meaning of its own"},
		{"either", "...", `{"type":"string"}`, "a meaning of its own"},
		{"by-position", "a?", `{"type":"array"}`, "a meaning of its own"},
		{"by-position", "...", `{"type":"object"}`, "a meaning of its own"},
		{"by-position", "a?", `{"type":"string"}`, ""},
		{"by-name", "a?", `{"type":"string"}`, ""},
	} {
		d, err := openrpc.Parse(document(`{"name":"m","paramStructure":"`+c.structure+`","params":[{"name":"`+c.name+`","required":true,"schema":`+c.schema+`}]}`, ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Go("p"); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %q of %s: %v", c.structure, c.name, c.schema, err)
		}
	}
}
