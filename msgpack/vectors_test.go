package msgpack_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"example.com/rpcx/internal/aiomastest"
	"example.com/rpcx/msgpack"
	mp "github.com/vmihailenco/msgpack/v5"
)

// TestVectorsAiomas runs the cases with MessagePack.
func TestVectorsAiomas(t *testing.T) {
	aiomastest.Run(t, filepath.Join("..", "testdata", "vectors"), aiomastest.Wire{
		Codec:    "msgpack",
		Protocol: msgpack.Aiomas,
		Decode: func(body []byte) (any, error) {
			r := bytes.NewReader(body)
			dec := mp.NewDecoder(r)
			dec.SetMapDecoder(func(dec *mp.Decoder) (any, error) { return dec.DecodeUntypedMap() })
			v, err := dec.DecodeInterface()
			if err == nil && r.Len() > 0 {
				err = fmt.Errorf("%d bytes behind the value", r.Len())
			}
			return v, err
		},
		Result: func(id int, content []byte) []byte { return append([]byte{0x93, 1, byte(id)}, content...) },
	})
}
