package main

import (
	"cmp"
	"fmt"
	"io"
	"time"
)

// Default limits of attacks.
const (
	// attackHeap is the maximum of bytes in use on the heap.
	attackHeap = 128 << 20
	// heapAtLimit replaces attackHeap if the only defence is Server.MaxQueuedBytes, of
	// 256 MiB, or Server.MaxHandledBytes, of 16 MiB with up to 20 times as much decoded.
	heapAtLimit = 2 * 256 << 20
	// garbageFactor is the maximum ratio of the heap to the bytes in use. With GOGC=100
	// the collector begins at twice the bytes in use, and allocations during the
	// collection come on top.
	garbageFactor = 2
	// leftHeap is the maximum heap of a stopped server, for the pools.
	leftHeap = 8 << 20

	// attackCPU is the maximum ratio of the CPU time of an attack to the CPU time of an
	// equal load. The equal load is an echo of the same bytes, and as many connections
	// with a single request. Below idleCPU of a processor, an attack does no harm, and
	// the ratio is not judged.
	attackCPU = 10
	idleCPU   = 0.1
	// shortCPU multiplies the CPU bound in the short form, where times are short and the
	// machine may be busy. There the ratio is judged from shortIdleCPU of a processor on.
	shortCPU     = 5
	shortIdleCPU = 0.75

	// shortBytes is the number of bytes from which an attack in the short form has had
	// enough CPU time for a verdict.
	shortBytes = 100_000

	// Replies, valid and error replies: per received byte, and per session until the
	// session has cost too much.
	repliesPerByte    = 1
	repliesPerSession = 160_000

	// Log records: per byte, per session, and per server.
	logPerByte    = 2
	logPerSession = 32 << 10
	logPerServer  = 100 << 10 // before a session starts
	logPerSecond  = 10 << 10

	// fullSlowdown replaces slowdown if the attack keeps the processors fully busy. The
	// floor rises by the ratio of fullSlowdown to slowdown.
	fullSlowdown = 10
	// fullEchoes allows such an attack a multiple of the p99 beside echoes of the same
	// size. Echoes keep the processors fully busy, too.
	fullEchoes = 2
)

// receivedBytes returns the number of bytes that the attack has sent. For most attacks,
// the count comes from the sessions of the attack. Attacks with raw connections need not
// reach a session. For raw attacks, the bytes sent by the attackers count if higher, up
// to the larger of block and like for each connection: the system's buffers may hold
// later bytes.
func (t *trial) receivedBytes() uint64 {
	received := less(t.damage.Received, t.honest.sent+t.newcomer.sent)
	if !t.raw {
		return received
	}
	return max(received, uint64(min(t.attackers.Bytes, t.attackers.Connections*max(block, t.like))))
}

// repliedBytes returns the number of bytes sent to the attackers.
func (t *trial) repliedBytes() uint64 {
	return max(less(t.damage.Sent, t.honest.received+t.newcomer.received), uint64(t.attackers.Received))
}

func less(a, b uint64) uint64 { return a - min(a, b) }

// cost returns the CPU time of the attack, without the CPU time for the honest clients.
func (t *trial) cost() time.Duration { return max(0, t.CPU-t.calm.CPU) }

// perConnection returns the CPU time of a connection with a single request, in seconds.
func (t *trial) perConnection() float64 {
	return t.cost().Seconds() / float64(max(1, t.attackers.Connections))
}

// perByte returns the CPU time of a byte of an echo, in seconds.
func (t *trial) perByte() float64 {
	connects := t.connects.perConnection() * float64(t.attackers.Connections)
	return max(0, t.cost().Seconds()-connects) / float64(max(1, t.receivedBytes()))
}

// cpuRatio returns the ratio of the CPU time of the attack to the CPU time of an equal
// load of echoes.
func (t *trial) cpuRatio() float64 {
	echo := float64(t.receivedBytes())*t.echo.perByte() + float64(t.attackers.Connections)*t.connects.perConnection()
	if echo == 0 {
		return 0
	}
	return t.cost().Seconds() / echo
}

// latencyBound returns the maximum p99 of the honest client.
func (t *trial) latencyBound(short bool) time.Duration {
	if short {
		return shortLatency
	}
	if t.full {
		return max(fullSlowdown*t.calm.took.P99, fullSlowdown/slowdown*latencyFloor, fullEchoes*t.echo.took.P99)
	}
	return max(slowdown*t.calm.took.P99, latencyFloor)
}

// judge returns the problems of the trial.
func (t *trial) judge(short bool) []string {
	problems := t.judgeBounds(short)
	if late := t.late(short); late != "" {
		problems = append(problems, late)
	}
	return problems
}

// late returns a problem if the honest client's calls were late, or "".
func (t *trial) late(short bool) string {
	if bound := t.latencyBound(short); t.took.P99 > bound {
		return fmt.Sprintf("the honest client's p99 is %v, over %v", t.took.P99, bound)
	}
	return ""
}

// judgeBounds returns the problems, except late calls.
func (t *trial) judgeBounds(short bool) (problems []string) {
	fail := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if t.attackers.Connections == 0 {
		fail("the attack did not take place")
	}
	t.judgeHonest(fail)

	bound := cmp.Or(t.heap, attackHeap)
	if t.Peak.Live > bound {
		fail("%s in use, over %s", mega(t.Peak.Live), mega(bound))
	}
	if t.Peak.Heap > garbageFactor*bound {
		fail("the heap is %s, over %s", mega(t.Peak.Heap), mega(garbageFactor*bound))
	}
	cpu, idle := cmp.Or(t.cpu, attackCPU), idleCPU
	if short {
		cpu, idle = cpu*shortCPU, shortIdleCPU
	}
	if ratio := t.cpuRatio(); ratio > cpu && t.cost() > time.Duration(idle*float64(t.lasted)) {
		fail("the time of processors is %.1f times that of an echo, over %.0f", ratio, cpu)
	}
	received, sessions := float64(t.receivedBytes()), float64(t.attackers.Connections)
	if bound := cmp.Or(t.replies, repliesPerByte)*received + repliesPerSession*sessions; t.replies >= 0 && float64(t.repliedBytes()) > bound {
		fail("%d bytes of replies, over %.0f", t.repliedBytes(), bound)
	}
	if bound := t.logBound(); float64(t.Records.Bytes) > bound {
		fail("%d bytes of log, over %.0f", t.Records.Bytes, bound)
	}
	if t.Records.Broken > 0 {
		fail("%d records of the log have control characters", t.Records.Broken)
	}
	for _, fault := range t.Faults {
		fail("%s", fault)
	}
	if t.ends > 0 && t.lasted >= t.ends && (!short || t.receivedBytes() >= shortBytes) && !t.hasEnded() {
		fail("no session of the attack was ended")
	}
	if t.spares && t.attackers.Cut+t.attackers.Refused > 0 {
		fail("%d connections cut off, and %d requests refused, of clients that are only slow", t.attackers.Cut, t.attackers.Refused)
	}
	if t.Left.Sessions > 0 && !t.throttled && !(t.lingers && short) || t.Left.Goroutines > 0 {
		fail("%d sessions and %d goroutines are left", t.Left.Sessions, t.Left.Goroutines)
	}
	if t.Left.Heap > leftHeap {
		fail("a heap of %s is left, over %s", mega(t.Left.Heap), mega(leftHeap))
	}
	return problems
}

// judgeHonest checks that honest clients were answered.
func (t *trial) judgeHonest(fail func(string, ...any)) {
	if t.calls == 0 || t.newcomer.calls == 0 && t.locksOut >= 0 {
		fail("%d calls of the honest client were answered, and %d of newcomers", t.calls, t.newcomer.calls)
	}
	if len(t.failures) > 0 {
		fail("%d calls of the honest client failed, the first: %v", len(t.failures), t.failures[0].err)
	}
	for _, call := range t.newcomer.failures {
		if t.locksOut >= 0 && call.at >= t.locksOut {
			fail("a newcomer after %v was refused: %v", call.at.Round(time.Millisecond), call.err)
			break
		}
	}
}

// hasEnded reports whether the program under attack has ended a session.
func (t *trial) hasEnded() bool {
	for why := range t.Ended {
		if why != peerLeft && why != ownEnd {
			return true
		}
	}
	return false
}

// logBound returns the maximum number of log bytes.
func (t *trial) logBound() float64 {
	return logPerByte*float64(t.receivedBytes()) + logPerSession*float64(t.attackers.Connections) +
		logPerServer + logPerSecond*t.Took.Seconds()
}

const lineFormat = "%-28s %-11s %6v %7s %5s %6s %8s %8s %8s %9s %9s %10s %10s %10s %10s  %s\n"

// printHead writes the head of the table of attacks.
func printHead(w io.Writer) {
	fmt.Fprintf(w, lineFormat, "attack", "over", "conns", "MB", "CPU", "echo", "in use", "heap", "RSS", "replies", "log", "p50", "p99", "max", "newcomer", "verdict")
}

// print writes the results of a trial as a line, and the problems.
func (t *trial) print(w io.Writer, problems []string) {
	verdict := "ok"
	if len(problems) > 0 {
		verdict = "FAILED"
	}
	t.printLine(w, fmt.Sprintf("%.1f", t.cpuRatio()), verdict)
	for _, problem := range problems {
		fmt.Fprintln(w, "    FAILED:", problem)
	}
	if len(problems) > 0 {
		fmt.Fprintf(w, "    What should hold: %s.\n", t.shows)
	}
}

// printLine writes the measurements as a line.
func (t *trial) printLine(w io.Writer, ratio, verdict string) {
	over := t.over.String()
	if t.serves {
		over = "client"
	}
	each := func(n uint64) string {
		if t.receivedBytes() < 100_000 { // too few bytes for a ratio
			return fmt.Sprintf("%.1fkB", float64(n)/1e3)
		}
		return fmt.Sprintf("x %.3f", float64(n)/float64(t.receivedBytes()))
	}
	fmt.Fprintf(w, lineFormat, t.name, over, t.attackers.Connections, fmt.Sprintf("%.1f", float64(t.receivedBytes())/1e6),
		fmt.Sprintf("%.0f%%", 100*t.cost().Seconds()/t.lasted.Seconds()), ratio, wholeMega(t.Peak.Live), wholeMega(t.Peak.Heap), wholeMega(t.Peak.RSS),
		each(t.repliedBytes()), each(t.Records.Bytes), milli(t.took.P50), milli(t.took.P99), milli(t.took.Max), milli(t.newcomer.took.Max), verdict)
}

func wholeMega(bytes uint64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }
