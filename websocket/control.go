package websocket

import (
	"context"
	"math"
	"time"
)

// controlFrames counts the peer's control frames. Answering a control frame takes a system
// call, however short the frame. Only the reading goroutine uses controlFrames.
type controlFrames struct {
	rate     int // allowed frames a second; math.MaxInt means no limit
	level    float64
	at       time.Time // time of the last change of level
	exceeded bool
}

// controlSeconds is the period over which the rate is averaged, in seconds.
const controlSeconds = 10

func (c Config) controlFrames() *controlFrames {
	f := &controlFrames{rate: c.ControlFrames, at: time.Now()}
	switch interval := c.pingInterval(); {
	case f.rate == 0:
		f.rate = 100
		if interval > 0 { // the peer answers our own pings
			f.rate = max(f.rate, int(2*time.Second/interval))
		}
	case f.rate < 0:
		f.rate = math.MaxInt
	}
	return f
}

// received counts a control frame, and reports whether to answer the frame.
func (f *controlFrames) received(context.Context, []byte) bool {
	if f.rate == math.MaxInt {
		return true
	}
	now := time.Now()
	f.level = max(0, f.level-now.Sub(f.at).Seconds()*float64(f.rate)) + 1
	f.at = now
	if f.level > controlSeconds*float64(f.rate) {
		f.exceeded = true
	}
	return !f.exceeded
}

// pong counts a pong frame, whether or not we sent a ping.
func (f *controlFrames) pong(ctx context.Context, payload []byte) { f.received(ctx, payload) }
