package rpcx

import "runtime"

// largeParams is the size in bytes from which params are decoded within a slot.
const largeParams = 64 << 10

// decoding has a slot for each processor but one, and one at least. Who decodes large
// params is in a slot, and takes no other one: if many goroutines needed a processor for
// some milliseconds each, all others would wait for theirs, those of small requests too.
var decoding = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

func takeDecodingSlot()    { decoding <- struct{}{} }
func releaseDecodingSlot() { <-decoding }

// unmarshalInTurn decodes data, within a slot if it is large.
func unmarshalInTurn(c Codec, data []byte, v any) error {
	if len(data) >= largeParams {
		takeDecodingSlot()
		defer releaseDecodingSlot()
	}
	return c.Unmarshal(data, v)
}
