package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	progressInterval = 200 * time.Millisecond
	progressBarWidth = 24
	// eraseLine erases a line of a terminal, with the cursor at its beginning.
	eraseLine = "\r\x1b[K"
)

// progress is the line on a terminal that tells how far a load is.
type progress struct {
	l     *load
	w     io.Writer
	width func() int // columns of the terminal

	at   time.Duration // of the line before
	done int64         // calls then
}

// showProgress shows the progress of a load on stderr, if this is a terminal, until the
// caller calls hide.
func showProgress(e *env, l *load, off bool) (hide func()) {
	if off || !e.stderrTTY || e.getenv("TERM") == "dumb" {
		return func() {}
	}
	p := &progress{l: l, w: e.stderr, width: func() int { return terminalWidth(e.stderr) }}
	stop, stopped := make(chan struct{}), make(chan struct{})
	// Owner: showProgress. End: hide.
	go func() {
		defer close(stopped)
		p.run(stop)
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// terminalWidth returns the number of columns of a terminal.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 80
}

// run writes the line again and again until stop is closed, and erases the line.
func (p *progress) run(stop <-chan struct{}) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			io.WriteString(p.w, eraseLine)
			return
		case <-tick.C:
			line := []rune(p.line())
			// A full line could move the cursor to the next line.
			if most := p.width() - 1; len(line) > most {
				line = line[:max(0, most)]
			}
			io.WriteString(p.w, eraseLine+string(line))
		}
	}
}

// line returns the text of the line.
func (p *progress) line() string {
	l := p.l
	now := l.now()
	succeeded, failed := l.counts()
	done := succeeded + failed
	rate := float64(done-p.done) / max(now-p.at, time.Millisecond).Seconds()
	p.at, p.done = now, done
	parts := []string{fmt.Sprintf("%s/s", grouped(int64(rate)))}
	if failed > 0 {
		parts = append(parts, grouped(failed)+" failed")
	}
	if late := l.lateNow(now); late >= 100*time.Millisecond {
		parts = append(parts, shortDuration(late)+" late")
	}
	select {
	case <-l.stopped:
		return "waiting for the last replies   " + strings.Join(parts, "   ")
	default:
	}
	if now < l.warmUp {
		return fmt.Sprintf("warming up: %s of %s", now.Truncate(100*time.Millisecond), l.warmUp)
	}
	fraction := l.fraction(now, done)
	filled := int(fraction * progressBarWidth)
	return fmt.Sprintf("[%s%s] %3d %%   %s", strings.Repeat("=", filled), strings.Repeat(" ", progressBarWidth-filled),
		int(100*fraction), strings.Join(parts, "   "))
}

// fraction returns how much of the measurement is over, from 0 to 1.
func (l *load) fraction(now time.Duration, done int64) (f float64) {
	if l.duration > 0 {
		f = float64(now-l.warmUp) / float64(l.duration)
	}
	if l.messages > 0 {
		f = max(f, float64(done)/float64(l.messages*int64(l.perMessage)))
	}
	return min(f, 1)
}

// lateNow returns how late the next message of the open model is.
func (l *load) lateNow(now time.Duration) time.Duration {
	if l.rate == 0 {
		return 0
	}
	return now - l.dueAt(l.given.Load())
}
