package websocket

import (
	"context"
	"math"
	"time"
)

// controlFrames counts the control frames that the peer sends. Each takes a system call
// to be answered, however few its bytes are. All of it is for who reads the connection.
type controlFrames struct {
	rate     int // how many there may be a second; math.MaxInt is no limit
	level    float64
	at       time.Time // when level was calculated
	exceeded bool
}

// controlSeconds is over how many seconds the rate is an average.
const controlSeconds = 10

func (c Config) controlFrames() *controlFrames {
	f := &controlFrames{rate: c.ControlFrames, at: time.Now()}
	switch interval := c.pingInterval(); {
	case f.rate == 0:
		f.rate = 100
		if interval > 0 { // our own pings are answered
			f.rate = max(f.rate, int(2*time.Second/interval))
		}
	case f.rate < 0:
		f.rate = math.MaxInt
	}
	return f
}

// received counts a control frame, and reports whether it is to be answered.
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

// pong counts an answer to a ping of ours, or what looks like one.
func (f *controlFrames) pong(ctx context.Context, payload []byte) { f.received(ctx, payload) }
