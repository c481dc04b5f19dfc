package rpcx_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

func TestCopyOfABatchIsRefused(t *testing.T) {
	for name, use := range map[string]func(s *rpcx.Session, b *rpcx.Batch){
		"by Call":      func(_ *rpcx.Session, b *rpcx.Batch) { b.Call("reply", rpcx.Args{2}, nil) },
		"by Notify":    func(_ *rpcx.Session, b *rpcx.Batch) { b.Notify("reply", nil) },
		"by SendBatch": func(s *rpcx.Session, b *rpcx.Batch) { _ = s.SendBatch(t.Context(), b) },
		"by GoBatch":   func(s *rpcx.Session, b *rpcx.Batch) { s.GoBatch(t.Context(), b) },
		"by Append": func(_ *rpcx.Session, b *rpcx.Batch) {
			_, _ = b.Append(nil, rpcx.JSONRPCv2, nil, func() rpcx.ID { return rpcx.ID("1") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newPipe(t, nil, handling(methods{"reply": reply}))
				var n int
				var b rpcx.Batch
				b.Call("reply", rpcx.Args{1}, &n)
				copied := copyOf(&b)
				func() {
					defer func() {
						if text := fmt.Sprint(recover()); !strings.Contains(text, "a Batch was copied after its first use") {
							t.Errorf("the panic is %q", text)
						}
					}()
					use(s, copied)
				}()
				if err := s.SendBatch(t.Context(), &b); err != nil || n != 1 {
					t.Errorf("the original returns %v, result %d", err, n)
				}
			})
		})
	}
}

// copyOf copies a batch where go vet does not see it.
func copyOf[T any](v *T) *T {
	w := *v
	return &w
}

func TestCopyOfABatchThatWasNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newPipe(t, nil, handling(methods{"reply": reply}))
		b := copyOf(new(rpcx.Batch))
		f := b.Call("reply", rpcx.Args{1}, nil)
		if err := s.SendBatch(t.Context(), b); err != nil || f.Err() != nil {
			t.Error(err, f.Err())
		}
	})
}

func TestVetFindsCopiesOfBatches(t *testing.T) {
	out, err := exec.Command("go", "vet", "./testdata/vet").CombinedOutput()
	if err == nil {
		t.Fatal("go vet finds nothing")
	}
	for _, want := range []string{
		"byParameter passes lock by value",
		"assignment copies lock value to again",
		"return copies lock value",
		"range var b copies lock",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("go vet does not say %q:\n%s", want, out)
		}
	}
}
