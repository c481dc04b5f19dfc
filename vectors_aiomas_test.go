package rpcx_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/aiomastest"
)

// TestVectorsAiomas runs the cases with JSON, and those without a codec.
func TestVectorsAiomas(t *testing.T) {
	aiomastest.Run(t, filepath.Join("testdata", "vectors"), aiomastest.Wire{
		Codec:    "json",
		Protocol: rpcx.Aiomas,
		Decode: func(body []byte) (v any, err error) {
			dec := json.NewDecoder(bytes.NewReader(body))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				return nil, err
			}
			if _, err := dec.Token(); err != io.EOF {
				return nil, fmt.Errorf("more than one value: %v", err)
			}
			return v, nil
		},
		Result: func(id int, content []byte) []byte { return fmt.Appendf(nil, "[1,%d,%s]", id, content) },
	})
}
