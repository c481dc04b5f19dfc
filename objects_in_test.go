package rpcx

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// plainObjects is the codec of a session with objects.
func plainObjects() *objects {
	return &objects{JSON, newObjectTypes(nil, nil, JSON), nil}
}

// mixture has what may have objects in it beside what has none, in the forms that
// encoding/json knows.
type mixture struct {
	Int     int64             `json:"int"`
	Any     any               `json:"any"`
	Omitted any               `json:"omitted,omitempty"`
	Zero    []any             `json:"zero,omitzero"`
	List    []any             `json:"list"`
	Map     map[string]any    `json:"map,omitempty"`
	Keys    map[int]any       `json:"keys"`
	Array   [2]any            `json:"array"`
	Pointer *mixture          `json:"pointer,omitempty"`
	Structs []struct{ X any } `json:"structs"`
	Skipped any               `json:"-"`
	Raw     json.RawMessage   `json:"raw,omitempty"`
	hidden  any
	mixedIn
	*MixedPointer
}

type mixedIn struct {
	Promoted any `json:"promoted"`
	Int      int // shadowed
}

// MixedPointer is embedded by pointer.
type MixedPointer struct {
	Far any `json:"far,omitempty"`
}

// Without objects in it a value is encoded and decoded as if there were none.
func checkPlain(t *testing.T, data []byte) {
	t.Helper()
	if bytes.Contains(data, []byte("__")) || bytes.Contains(data, []byte(`\u`)) || !json.Valid(data) {
		return // it may have an object in it
	}
	o := plainObjects()
	for _, dest := range []func() any{
		func() any { return new(any) }, func() any { return new(mixture) },
		func() any { return new([]any) }, func() any { return new(map[string][]any) },
	} {
		want, got := dest(), dest()
		wantErr, err := json.Unmarshal(data, want), o.Unmarshal(data, got)
		if (wantErr == nil) != (err == nil) {
			t.Errorf("%s into %T: error %v, want %v", data, want, err, wantErr)
			continue
		}
		if err != nil {
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", data, got, want)
		}
		wantOut, wantErr := JSON.Append(nil, want)
		out, err := o.Append(nil, want)
		if (wantErr == nil) != (err == nil) || !bytes.Equal(sortedJSON(t, out), sortedJSON(t, wantOut)) {
			t.Errorf("%+v: got %s, %v; want %s, %v", want, out, err, wantOut, wantErr)
		}
	}
}

// sortedJSON brings the members of objects into order.
func sortedJSON(t *testing.T, data []byte) []byte {
	t.Helper()
	if len(data) == 0 {
		return nil
	}
	sorted, err := json.Marshal(jsonValue(t, data))
	if err != nil {
		t.Fatal(err)
	}
	return sorted
}

var plainValues = []string{
	`null`, `1`, `"x"`, `[]`, `{}`, `[null,[1,"x"],{"a":[]}]`, `{"a":[1],"b":null}`,
	`{"int":4611686018427387905,"any":[1,{"x":null}],"list":null,"keys":{"1":[2]},"array":[1]}`,
	`{"promoted":{"x":1},"far":[2],"pointer":{"any":1,"pointer":null},"structs":[{"X":1},{"x":[]}]}`,
	`{"ANY":5,"map":{"m":{}},"zero":[],"omitted":0,"raw":[1, 2]}`,
	`{"array":[1,2,3],"structs":[null]}`, `{"int":"x"}`, `{"list":{}}`, `{"structs":[1]}`, `[1]`, `{"keys":{"x":1}}`,
}

func TestObjectsLeaveTheRestAlone(t *testing.T) {
	for _, data := range plainValues {
		checkPlain(t, []byte(data))
	}
	m := mixture{Any: 1, Skipped: 2, hidden: 3, MixedPointer: &MixedPointer{Far: []any{4}}}
	m.Promoted = 5
	got, err := plainObjects().Append(nil, m)
	want, _ := json.Marshal(m)
	if err != nil || !bytes.Equal(sortedJSON(t, got), sortedJSON(t, want)) {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if m.hidden == nil {
		t.Error("a field that no codec sees has changed")
	}
}

// What is promoted from an embedded pointer is there only if the pointer is set.
func TestObjectsInEmbeddedPointers(t *testing.T) {
	type Near struct {
		Plain  int    `json:"plain"`
		Quoted int64  `json:"quoted,string"`
		Empty  string `json:"empty,omitempty"`
		Any    any    `json:"any"`
		//lint:ignore SA5008 the name - is what is tested
		Dash any `json:"-,"`
	}
	type Far struct{ *Near }
	type outer struct {
		*Far
		//lint:ignore SA5008 the name - is what is tested
		Dash int `json:"-,"`
		Own  any `json:"own"`
	}
	for _, v := range []outer{
		{}, {Own: 1, Dash: 2}, {Far: &Far{}}, {Far: &Far{&Near{}}},
		{Far: &Far{&Near{Plain: 1, Quoted: 2, Empty: "x", Any: []any{3.0}}}},
	} {
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := plainObjects().Append(nil, v)
		if err != nil || string(got) != string(want) {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		var back, wantBack outer
		if err := plainObjects().Unmarshal(got, &back); err != nil {
			t.Errorf("%s: %v", got, err)
		}
		if err := json.Unmarshal(want, &wantBack); err != nil || !reflect.DeepEqual(back, wantBack) {
			t.Errorf("%s: got %+v, want %+v, %v", got, back, wantBack, err)
		}
	}
	kept := outer{Far: &Far{&Near{Plain: 1, Any: 2}}}
	if err := plainObjects().Unmarshal([]byte(`{"any":3}`), &kept); err != nil || kept.Plain != 1 || kept.Any != 3.0 {
		t.Errorf("decoded over it: %+v, %v", kept.Near, err)
	}
}

// What there was already is decoded into as by encoding/json.
func TestObjectsDecodeOver(t *testing.T) {
	for _, data := range []string{`null`, `{}`, `{"any":1}`, `{"any":{"any":[2]}}`, `{"list":[3],"map":{"b":[]}}`, `{"map":null,"any":null}`} {
		for name, dest := range map[string]func() any{
			"a map":                    func() any { return &map[string]any{"any": "old"} },
			"a pointer in any":         func() any { var v any = &mixture{Any: "old", List: []any{1}}; return &v },
			"a pointer in a field":     func() any { return &mixture{Any: &mixture{Any: "old"}, Map: map[string]any{"a": 1}} },
			"another value in any":     func() any { var v any = mixture{}; return &v },
			"a pointer that is nil":    func() any { var v any = (*mixture)(nil); return &v },
			"a map in an embedded one": func() any { return &mixture{MixedPointer: &MixedPointer{Far: map[string]any{"x": 1}}} },
		} {
			want, got := dest(), dest()
			wantErr, err := json.Unmarshal([]byte(data), want), plainObjects().Unmarshal([]byte(data), got)
			if (wantErr == nil) != (err == nil) || !reflect.DeepEqual(got, want) {
				t.Errorf("%s into %s: got %+v, %v; want %+v, %v", data, name, got, err, want, wantErr)
			}
		}
	}
}

// A list of any values is not decoded one by one: a peer says how many there are.
func TestObjectsInLongLists(t *testing.T) {
	data := []byte("[" + strings.Repeat("1,", 9999) + "1]")
	for _, c := range []Codec{JSON, Aiomas.Codec()} {
		o := &objects{c, newObjectTypes(nil, nil, c), nil}
		allocs := testing.AllocsPerRun(10, func() {
			var list []any
			if err := o.Unmarshal(data, &list); err != nil || len(list) != 10000 {
				t.Errorf("%d elements, error %v", len(list), err)
			}
		})
		if perElement := allocs / 10000; perElement > 3 {
			t.Errorf("%T: %v allocations for each element", c, perElement)
		}
	}
}

func FuzzObjects(f *testing.F) {
	for _, data := range plainValues {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !repeatsKeys(data) {
			checkPlain(t, data)
		}
	})
}

var keyPattern = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"\s*:`)

// repeatsKeys reports whether a key comes twice, in any case. If both are of one
// object encoding/json decodes the second over the first, and here it alone counts.
func repeatsKeys(data []byte) bool {
	seen := make(map[string]bool)
	for _, match := range keyPattern.FindAllSubmatch(data, -1) {
		key := strings.ToLower(strings.ToUpper(string(match[1])))
		if seen[key] {
			return true
		}
		seen[key] = true
	}
	return false
}

// Types that have no objects in them cost nothing.
func TestObjectsCostNothingWhereThereAreNone(t *testing.T) {
	o := plainObjects()
	type flat struct {
		A int
		B []string
		C map[string]*flat
	}
	for _, v := range []any{1, "x", []string{"y"}, flat{}, &flat{}, []flat{}, Args{1, "two", []any{3.5}}} {
		if low, changed, err := o.lower(v, 0); changed || err != nil {
			t.Errorf("%T: changed to %v, %v", v, low, err)
		}
		if allocs := testing.AllocsPerRun(100, func() { _, _, _ = o.lower(v, 0) }); allocs > 0 {
			t.Errorf("%T: %v allocations", v, allocs)
		}
	}
	if p := o.plan(reflect.TypeFor[*flat]()); p.kind != planNone {
		t.Error("there is a plan for a type without objects")
	}
	if p := o.plan(reflect.TypeFor[struct{ F []map[int]*any }]()); p.kind != planStruct || strings.Contains(p.twin.String(), "interface") {
		t.Error("there is no plan for a type with objects")
	}
}
