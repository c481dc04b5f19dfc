package rpcx

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

// account is the budget of a session, or of the sessions of a group.
type account struct {
	mu    sync.Mutex
	epoch time.Time
	budget
	most     float64 // of a group, the highest cost; 0 if it is a session's own
	sessions int     // of a group, how many are live; guarded by the server's lock
}

func newAccount() *account { return &account{epoch: time.Now()} }

// shared reports whether it is a group's.
func (a *account) shared() bool { return a.most > 0 }

// addCost adds delta and returns the cost.
func (a *account) addCost(delta float64) float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.budget.addCost(delta)
	if a.shared() {
		a.cost = min(a.cost, a.most)
	}
	return a.cost
}

// currentCost takes the decay off and returns the cost.
func (a *account) currentCost(perSecond float64) float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.applyDecay(time.Since(a.epoch), perSecond)
	return a.cost
}

// costState is a session's part in cost accounting. All of it but the bytes is
// nothing if there is no account.
type costState struct {
	s *Session

	account         *account // its own, or that of its group
	ownAccount      *account // its own if account is a group's, else nil
	joinedOverLimit bool     // it has begun when its group was over CostHard, and that still is
	throttle
	extra          float64    // what Options.ExtraCost returned last
	extraAsked     uint64     // how often that was called
	extraStored    uint64     // which of the calls extra is from
	unchargedBytes int        // not charged yet
	updating       bool       // ExtraCost is being asked
	limitExceeded  bool       // the session ends, or is about to, because of its cost
	byHandler      bool       // by a handler: ErrExcessiveCost
	cancels        bool       // the peer cancels in a dialect that was not agreed on; logged
	closeError     *CostError // what dismiss ends the session with
}

// cancellationShare is how many cancellations in a dialect that was not agreed on cost as
// much as an error.
const cancellationShare = 100

// payStep is what bytes have to cost to be charged, rather than with the next
// ones: by default, 10,000 of them.
const payStep = 0.1

// CostError is why a session ended that used more than Limits.CostHard. It
// matches [ErrExcessiveResourceUsage].
type CostError struct {
	// Cost is what the session, or its group, had used up.
	Cost float64 `json:"cost"`
	// Limit is Limits.CostHard, or 0 if it was not that but a handler that had
	// the session end, by ErrExcessiveCost.
	Limit float64 `json:"limit"`
	// RetryAfter is in how many seconds the cost will have decayed to
	// Limits.CostSoft. A new connection begins at no cost, unless it belongs to
	// the same group.
	RetryAfter float64 `json:"retry_after"`
}

func (e *CostError) Error() string {
	if e.Limit == 0 {
		return fmt.Sprintf("excessive resource usage: cost %.0f, by ErrExcessiveCost", e.Cost)
	}
	return fmt.Sprintf("excessive resource usage: cost %.0f, over %.0f (Limits.CostHard)", e.Cost, e.Limit)
}

// Is reports whether target is an *Error with [CodeExcessiveResourceUsage].
func (e *CostError) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == CodeExcessiveResourceUsage
}

// costStep is by how much a cost has to change before what follows from it is
// calculated anew.
const costStep = 100

// budget is a cost that decays.
type budget struct {
	cost float64
	at   time.Duration // until when it has decayed
}

// addCost adds what may be negative.
func (b *budget) addCost(delta float64) { b.cost = max(0, b.cost+delta) }

// applyDecay takes off what the time since the last decay is worth.
func (b *budget) applyDecay(now time.Duration, perSecond float64) {
	b.addCost(-(now - b.at).Seconds() * perSecond)
	b.at = now
}

// throttle is what follows from a session's cost.
type throttle struct {
	last     float64 // the cost that it was calculated from
	fraction float64 // of the way from the soft limit to the hard one: 0 below, 1 or more beyond
	target   int     // how many handlers may run at once; 0 means that it is over
}

// isStale reports whether a cost is far enough from the one that was calculated with.
func (t *throttle) isStale(cost float64) bool { return math.Abs(cost-t.last) > costStep }

// recalculate calculates what follows from a cost. extra counts as well, but is no
// cost that decays.
func (t *throttle) recalculate(l *Limits, cost, extra float64) {
	t.last = cost
	t.fraction = 0
	switch cost += extra; {
	case l.CostHard <= l.CostSoft:
	case l.CostSoft < 0 && cost >= l.CostHard:
		t.fraction = 1
	case l.CostSoft >= 0:
		t.fraction = max(0, (cost-l.CostSoft)/(l.CostHard-l.CostSoft))
	}
	switch {
	case t.fraction >= 1:
		t.target = 0
	case t.fraction > 0 && l.Concurrency < math.MaxInt32:
		t.target = int(math.Ceil((1 - t.fraction) * float64(l.Concurrency)))
	default:
		t.target = l.Concurrency
	}
}

// requestDelay is how long a request waits before it is handled.
func (t *throttle) requestDelay(l *Limits) time.Duration {
	return time.Duration(t.fraction * float64(l.CostDelay))
}

// recalibrate returns how many calls may wait for a reply from now on, if that
// is current and replies took average.
func recalibrate(current int, average, target time.Duration, most int) int {
	now := float64(current)
	highest := min(now+max(3, now*0.1), float64(most))
	lowest := max(1, min(now*0.8, now-1))
	next := highest
	if average > 0 {
		next = max(lowest, min(highest, now*float64(target)/float64(average)))
	}
	return int(0.5 + next)
}

// costIsVoid reports whether a session's cost is counted in vain.
func (l *Limits) costIsVoid() bool { return !l.CostOff && l.CostSoft >= 0 && l.CostHard <= l.CostSoft }

const voidCost = "cost limits nothing: its hard limit is not above its soft one (Limits.CostHard, Limits.CostSoft); set CostOff if that is meant"

// costAttr returns the limit that voidCost is about.
func (l *Limits) costAttr() slog.Attr {
	return limitAttr("Limits.CostHard", slog.Float64("cost", l.CostHard))
}

// goodCost returns what a session may have used itself without being held to what the
// others of its group have used.
func (l *Limits) goodCost() float64 {
	if l.CostSoft < 0 {
		return l.CostHard / 5
	}
	return l.CostSoft
}

// Cost returns what the session, or its group, has used up; 0 if that is not
// counted.
func (s *Session) Cost() float64 {
	s.lock()
	defer s.unlock()
	if s.cost.account == nil {
		return 0
	}
	s.cost.chargeTrafficLocked()
	return s.cost.account.currentCost(s.limits.CostDecay)
}

// BumpCost adds delta, which may be negative, to the session's cost: for
// requests that take more than others. It does nothing if cost is not counted.
func (s *Session) BumpCost(delta float64) {
	s.lock()
	defer s.unlock()
	s.cost.addCostLocked(delta)
}

// UpdateCost calculates anew what follows from the session's cost, Options.ExtraCost
// included. That is done whenever the cost has changed by more than 100, and
// while requests are being delayed; call it when ExtraCost has changed. Here it
// is the caller who calls ExtraCost.
func (s *Session) UpdateCost() {
	if s.cost.account == nil {
		return
	}
	s.lock()
	s.cost.extraAsked++
	asked := s.cost.extraAsked
	s.unlock()
	extra := 0.
	if s.extraCost != nil {
		extra = s.extraCost(s)
	}
	s.lock()
	if s.cost.updating = false; asked > s.cost.extraStored { // or what came meanwhile is newer
		s.cost.extraStored, s.cost.extra = asked, extra
	}
	s.cost.applyThrottleLocked()
	s.requests.startWorkerIfNeededLocked()
	s.unlock()
}

// addCostLocked adds to the session's cost. It is called under the lock, as are the
// next ones.
func (cs *costState) addCostLocked(delta float64) {
	cs.s.mu.AssertHeld()
	if cs.account == nil {
		return
	}
	cost := cs.account.addCost(delta)
	if cs.ownAccount != nil {
		cs.ownAccount.addCost(delta)
		cost = cs.judgedCostLocked()
	}
	if cs.throttle.isStale(cost) {
		cs.refreshThrottleLocked()
	}
}

// judgedCostLocked returns the cost that the session is held to. In a group that is the
// group's, unless the session has used little itself, and began before the group was
// over CostHard: one peer must not end the sessions of its neighbours. Callers must hold
// s.mu.
func (cs *costState) judgedCostLocked() float64 {
	s := cs.s
	s.mu.AssertHeld()
	e, l := &s.cost, s.limits
	cost := e.account.currentCost(l.CostDecay)
	if e.ownAccount == nil {
		return cost
	}
	own := e.ownAccount.currentCost(l.CostDecay)
	e.joinedOverLimit = e.joinedOverLimit && cost >= l.CostHard
	if !e.joinedOverLimit && own+e.extra <= l.goodCost() {
		return own
	}
	return max(own, cost)
}

// joinGroupLocked has the session share the budget of a group from now on. Callers must
// hold s.mu.
func (cs *costState) joinGroupLocked(group *account) {
	s := cs.s
	s.mu.AssertHeld()
	if cs.account == nil {
		return
	}
	cs.ownAccount, cs.account = cs.account, group
	cs.joinedOverLimit = group.currentCost(s.limits.CostDecay) >= s.limits.CostHard
	cs.applyThrottleLocked()
}

// costOfErrorLocked returns what the error e costs the peer whose request it answers,
// without its own Cost: an error of the peer, or one of the handler. A peer that cancels
// in a dialect which this side does not speak means well. Callers must hold s.mu.
func (cs *costState) costOfErrorLocked(c *peerRequest, e *Error) float64 {
	s := cs.s
	s.mu.AssertHeld()
	if c.tooLarge {
		return s.limits.CostHandlerError
	}
	switch e.Code {
	case CodeMethodNotFound:
		if dialect := dialectOf(c.Method); dialect != "" && c.IsNotification() && (s.cancellation == nil || s.cancellation.Method != c.Method) {
			if !cs.cancels {
				cs.cancels = true
				s.logs.logPeerLaterLocked(slog.LevelWarn, "peer cancels requests; set Options.Cancellation to have that work",
					methodAttr(c.Method), slog.String("Options.Cancellation", dialect))
			}
			return s.limits.CostError / cancellationShare
		}
		return s.limits.CostError
	case CodeParseError, CodeInvalidRequest, CodeInvalidParams:
		return s.limits.CostError
	}
	return s.limits.CostHandlerError
}

// addTrafficLocked charges for bytes that were sent or received.
func (cs *costState) addTrafficLocked(bytes int) {
	cs.s.mu.AssertHeld()
	if cs.account == nil {
		return
	}
	// In a group, what the others have used is seen when this one pays.
	if cs.unchargedBytes += bytes; cs.account.shared() || float64(cs.unchargedBytes)*cs.s.limits.CostPerByte >= payStep {
		cs.chargeTrafficLocked()
	}
}

// chargeTrafficLocked charges for the bytes that have not been.
func (cs *costState) chargeTrafficLocked() {
	cs.s.mu.AssertHeld()
	n := cs.unchargedBytes
	cs.unchargedBytes = 0
	cs.addCostLocked(float64(n) * cs.s.limits.CostPerByte)
}

// refreshThrottleLocked calculates the throttle, after ExtraCost was asked if there is one:
// that is the user's code, so it runs on another goroutine.
func (cs *costState) refreshThrottleLocked() {
	s := cs.s
	s.mu.AssertHeld()
	if s.extraCost == nil {
		cs.applyThrottleLocked()
		return
	}
	cs.last = cs.judgedCostLocked()
	if cs.updating {
		return
	}
	cs.updating = true
	s.pool.runTask(s.UpdateCost)
}

func (cs *costState) applyThrottleLocked() {
	s := cs.s
	s.mu.AssertHeld()
	before := s.requests.limit
	cs.throttle.recalculate(s.limits, cs.judgedCostLocked(), cs.extra)
	s.requests.limit = cs.target
	if s.requests.order == Sequential {
		s.requests.limit = min(s.requests.limit, 1)
	}
	if math.Abs(float64(s.requests.limit-before)) > 1 {
		s.logs.logLaterLocked(slog.LevelInfo, "concurrency changed", slog.Int("handlers before", before), slog.Int("handlers", s.requests.limit),
			slog.Float64("cost", cs.throttle.last))
	}
	if s.trace.CostChanged != nil {
		cost, target := cs.throttle.last, s.requests.limit
		s.pool.runTask(func() { s.trace.CostChanged(s, cost, target) })
	}
}

// requestDelayLocked is how long the next request is delayed because of the cost, as it is now.
func (cs *costState) requestDelayLocked() time.Duration {
	cs.s.mu.AssertHeld()
	if cs.fraction == 0 {
		return 0
	}
	cs.refreshThrottleLocked()
	return cs.requestDelay(cs.s.limits)
}

// checkCostLimitLocked has the session dismissed if its cost is too high now. It is called when
// something comes from the peer, so that a peer who reaches the limit learns it from the
// answer to its next request, and is forgiven what has decayed before.
func (cs *costState) checkCostLimitLocked() {
	s := cs.s
	s.mu.AssertHeld()
	if cs.account == nil || cs.limitExceeded || cs.target > 0 || s.life.state >= stateClosing {
		return
	}
	cs.applyThrottleLocked()
	if cs.target == 0 {
		cs.limitExceeded = true
		s.effects.setFlag(&s.effects.costCloseDue)
	}
}

// checkStarvedQueueLocked sees to what waits while the cost leaves no worker to handle it.
func (cs *costState) checkStarvedQueueLocked() {
	s := cs.s
	s.mu.AssertHeld()
	switch {
	case cs.account == nil || cs.target > 0 || s.requests.count == 0:
	case s.life.state >= stateClosing:
		s.requests.discardQueueLocked(false) // or they would hold up the end
	default:
		cs.checkCostLimitLocked()
	}
}

// costErrorLocked describes the session's cost. It is called under the lock.
func (cs *costState) costErrorLocked() *CostError {
	s := cs.s
	s.mu.AssertHeld()
	e := &CostError{Limit: s.limits.CostHard}
	if cs.byHandler {
		e.Limit = 0
	}
	if cs.account != nil {
		e.Cost = cs.account.currentCost(s.limits.CostDecay) + cs.extra
		if s.limits.CostDecay > 0 {
			e.RetryAfter = math.Ceil(max(0, e.Cost-max(0, s.limits.CostSoft)) / s.limits.CostDecay)
		}
	}
	return e
}

// excessiveErrorLocked returns the error that requests are answered when the cost is too
// high. It is called under the lock.
func (cs *costState) excessiveErrorLocked() *Error {
	cs.s.mu.AssertHeld()
	e := ExcessiveResourceUsage()
	if cs.s.limits.CostData {
		e.Data = cs.costErrorLocked()
	}
	return e
}

// requestsToAnswerLocked returns the requests that dismiss has to answer beside those that wait:
// those whose handlers are to be called after a delay, and those that run in batches,
// or else what is answered of these would wait for them and never leave. It is called
// under the lock.
func (cs *costState) requestsToAnswerLocked() []*peerRequest {
	cs.s.mu.AssertHeld()
	var calls []*peerRequest
	for d := cs.s.requests.open.first; d != nil; d = d.next {
		calls = d.owner.(queueEntry).appendRunning(calls)
	}
	return slices.DeleteFunc(calls, func(c *peerRequest) bool { return !c.delayed && c.parentBatch() == nil || c.IsNotification() })
}

// closeForCost ends the session because of its cost.
func (cs *costState) closeForCost() {
	s := cs.s
	s.lock()
	why := cs.costErrorLocked()
	level, by := slog.LevelInfo, slog.String("by", "ErrExcessiveCost")
	if why.Limit > 0 {
		by = limitAttr("Limits.CostHard", slog.Float64("cost", why.Limit))
		if s.load == &noServer || s.load.warned.CompareAndSwap(false, true) {
			level = slog.LevelWarn // once: on a busy server there may be many
		}
	}
	s.logs.logLaterLocked(level, "session ended because of its cost", slog.Float64("cost", why.Cost), by,
		slog.Duration("retry after", time.Duration(why.RetryAfter*float64(time.Second))))
	s.unlock()
	if s.onExcessiveCost != nil {
		s.onExcessiveCost(s)
	}
	s.lock()
	cs.closeError = why
	e := cs.excessiveErrorLocked()
	for _, entry := range s.requests.waitingEntries() {
		s.requests.recordRefusalLocked(entry, e)
		entry.refuseRemaining(s, e, fromReader)
	}
	for _, c := range cs.requestsToAnswerLocked() {
		s.requests.recordRefusalLocked(c, e)
		c.entry.abortRequest(s, c, e)
		s.effects.endContext(c, why)
	}
	s.effects.setFlag(&s.effects.hasErrors) // though there be none: refused ends the session
	s.unlock()
}

// peerErrors is the part of a session in Limits.PeerErrors.
type peerErrors struct {
	budget
	last     *badMessage // nil if none came that a call may have waited for
	exceeded bool
}

// What an error of the peer's counts for Limits.PeerErrors.
const (
	wholeError = 10
	tenthError = 1 // of a request that is wrong by itself alone

	// errorBytes is for how many bytes of a message that is wrong there is one error more:
	// they had to be read to find that.
	errorBytes = 10_000
)

// countPeerErrorBytesLocked counts the bytes of a message that is wrong, in which an
// error weighs so much. Callers must hold s.mu.
func (cs *costState) countPeerErrorBytesLocked(weight float64, bytes int) {
	cs.s.mu.AssertHeld()
	if bytes >= errorBytes {
		cs.countPeerErrorLocked(weight * float64(bytes/errorBytes))
	}
}

// countPeerErrorLocked counts an error of the peer's, and has the session end if there
// are too many. Callers must hold s.mu.
func (cs *costState) countPeerErrorLocked(weight float64) {
	s := cs.s
	s.mu.AssertHeld()
	if s.limits.PeerErrors == math.MaxInt || s.faults.exceeded || s.life.state >= stateClosing {
		return
	}
	rate := wholeError * float64(s.limits.PeerErrors)
	s.faults.applyDecay(s.now(), rate)
	if s.faults.addCost(weight); s.faults.cost <= errorSeconds*rate {
		return
	}
	s.faults.exceeded = true
	s.logs.logLaterLocked(slog.LevelWarn, "peer sends too much that is wrong", limitAttr("Limits.PeerErrors", slog.Int("errors a second", s.limits.PeerErrors)))
	s.effects.closeSession(ErrFaultyPeer, s.violationGrace())
}
