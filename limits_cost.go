package rpcx

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

// account is the cost budget of a session, or of the sessions of a group.
type account struct {
	mu    sync.Mutex // guards the budget
	epoch time.Time
	budget
	most     float64 // highest cost of a group; 0 for a session's own account
	sessions int     // live sessions of a group; guarded by the server's lock
}

// shared reports whether the account belongs to a group.
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

// currentCost applies the decay and returns the cost.
func (a *account) currentCost(perSecond float64) float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.applyDecay(time.Since(a.epoch), perSecond)
	return a.cost
}

// costState is the state of a session's cost accounting. If account is nil, the session
// counts no cost, but a handler can still end the session by ErrExcessiveCost.
type costState struct {
	s *Session

	account         *account // &ownAccount, or the group's; nil if cost is not counted
	ownAccount      account  // of the session
	group           *account // that counts the session; nil without a group
	joinedOverLimit bool     // the session joined a group over CostHard, and the group is still over CostHard
	throttle
	extra          float64    // last result of Options.ExtraCost
	extraAsked     uint64     // number of calls of ExtraCost
	extraStored    uint64     // number of the call that returned extra
	unchargedBytes int        // bytes not charged yet
	updating       bool       // a call of ExtraCost is scheduled or running
	limitExceeded  bool       // the session ends, or is about to end, because of the cost
	byHandler      bool       // a handler returned ErrExcessiveCost
	cancels        bool       // logged: the peer cancels in a dialect that was not agreed on
	closeError     *CostError // cause with which closeForCost ends the session
}

// cancellationShare is the number of cancellations in a foreign dialect that cost as much
// as an error.
const cancellationShare = 100

// payStep is the cost from which bytes are charged. Until then, the bytes wait for more
// bytes. By default, 10,000 bytes reach payStep.
const payStep = 0.1

// CostError is the cause of a session's end after the cost has reached Limits.CostHard, or
// after a handler has returned [ErrExcessiveCost]. A CostError matches
// [ErrExcessiveResourceUsage].
type CostError struct {
	// Cost is the cost of the session, or of the session's group.
	Cost float64 `json:"cost"`
	// Limit is Limits.CostHard, or 0 if a handler ended the session by ErrExcessiveCost.
	Limit float64 `json:"limit"`
	// RetryAfter is the number of seconds until the cost has decayed to Limits.CostSoft. A
	// new connection begins without cost, unless it belongs to the same group.
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

// costStep is the change of a cost after which the throttle is recalculated.
const costStep = 100

// budget is a cost that decays.
type budget struct {
	cost float64
	at   time.Duration // time of the last decay
}

// addCost adds delta, which may be negative. The cost never falls below 0.
func (b *budget) addCost(delta float64) { b.cost = max(0, b.cost+delta) }

// applyDecay subtracts the decay since the last decay.
func (b *budget) applyDecay(now time.Duration, perSecond float64) {
	b.addCost(-(now - b.at).Seconds() * perSecond)
	b.at = now
}

// throttle holds the consequences of a session's cost.
type throttle struct {
	last     float64 // cost at the last calculation
	fraction float64 // position between the limits: 0 up to CostSoft, 1 or more from CostHard on
	target   int     // number of handlers that may run at once; 0 at the hard limit
}

// isStale reports whether cost differs from the last calculation by more than costStep.
func (t *throttle) isStale(cost float64) bool { return math.Abs(cost-t.last) > costStep }

// recalculate calculates the throttle from a cost. extra is added to the cost, but does
// not decay.
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

// requestDelay returns the delay between the start of a request and the call of the
// handler.
func (t *throttle) requestDelay(l *Limits) time.Duration {
	return time.Duration(t.fraction * float64(l.CostDelay))
}

// recalibrate returns the next limit of concurrent calls, from the current limit and the
// average and target latency. The result is at most most.
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

// costIsVoid reports whether the cost of a session is counted without any effect.
func (l *Limits) costIsVoid() bool { return !l.CostOff && l.CostSoft >= 0 && l.CostHard <= l.CostSoft }

const voidCost = "cost limits nothing: its hard limit is not above its soft one (Limits.CostHard, Limits.CostSoft); set CostOff if that is meant"

// costAttr returns the log attribute for the limit in voidCost.
func (l *Limits) costAttr() slog.Attr {
	return limitAttr("Limits.CostHard", slog.Float64("cost", l.CostHard))
}

// goodCost returns the highest own cost at which a session of a group is not held to the
// group's cost.
func (l *Limits) goodCost() float64 {
	if l.CostSoft < 0 {
		return l.CostHard / 5
	}
	return l.CostSoft
}

// Cost returns the cost of the session, or of the session's group. If cost is not counted,
// Cost returns 0.
func (s *Session) Cost() float64 {
	s.lock()
	defer s.unlock()
	if s.cost.account == nil {
		return 0
	}
	s.cost.chargeTrafficLocked()
	return s.cost.account.currentCost(s.limits.CostDecay)
}

// BumpCost adds delta, which may be negative, to the session's cost, for requests that use
// more resources than usual. If cost is not counted, BumpCost does nothing.
func (s *Session) BumpCost(delta float64) {
	s.lock()
	defer s.unlock()
	s.cost.addCostLocked(delta)
}

// UpdateCost recalculates the consequences of the session's cost, including
// Options.ExtraCost. The session does so whenever the cost has changed by more than 100,
// and while requests are delayed. Call UpdateCost when the result of ExtraCost has
// changed. UpdateCost calls ExtraCost on the caller's goroutine.
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
	if s.cost.updating = false; asked > s.cost.extraStored { // otherwise a newer result is stored already
		s.cost.extraStored, s.cost.extra = asked, extra
	}
	s.cost.applyThrottleLocked()
	s.requests.startWorkerIfNeededLocked()
	s.unlock()
}

// inGroup reports whether the session also has a cost beside its group's. The cost of an
// exchange is its group's alone.
func (cs *costState) inGroup() bool {
	return cs.account != &cs.ownAccount && cs.s.exchange() == nil
}

// addCostLocked adds delta to the session's cost. Callers must hold s.mu.
func (cs *costState) addCostLocked(delta float64) {
	cs.s.mu.AssertHeld()
	if cs.account == nil {
		return
	}
	cost := cs.account.addCost(delta)
	if cs.inGroup() {
		cs.ownAccount.addCost(delta)
		cost = cs.judgedCostLocked()
	}
	if cs.throttle.isStale(cost) {
		cs.refreshThrottleLocked()
	}
}

// judgedCostLocked returns the cost that the session is held to. In a group, the higher
// cost of group and session counts. Only the session's own cost counts if the session has
// used little, and began before the group was over CostHard. So a peer cannot end the
// sessions of its neighbours. Callers must hold s.mu.
func (cs *costState) judgedCostLocked() float64 {
	s := cs.s
	s.mu.AssertHeld()
	l := s.limits
	cost := cs.account.currentCost(l.CostDecay)
	if !cs.inGroup() {
		return cost
	}
	own := cs.ownAccount.currentCost(l.CostDecay)
	cs.joinedOverLimit = cs.joinedOverLimit && cost >= l.CostHard
	if !cs.joinedOverLimit && own+cs.extra <= l.goodCost() {
		return own
	}
	return max(own, cost)
}

// joinGroupLocked makes the session share the budget of a group from now on. Callers must
// hold s.mu.
func (cs *costState) joinGroupLocked(group *account) {
	s := cs.s
	s.mu.AssertHeld()
	cs.group = group
	if cs.account == nil {
		return
	}
	cs.account = group
	if s.exchange() != nil { // the group's cost is that of the earlier exchanges
		cs.throttle.recalculate(s.limits, group.currentCost(s.limits.CostDecay), 0)
		s.requests.setLimitLocked(cs.target)
		return
	}
	cs.joinedOverLimit = group.currentCost(s.limits.CostDecay) >= s.limits.CostHard
	cs.applyThrottleLocked()
}

// costOfErrorLocked returns the cost of the error e in the reply to c, without e.Cost. An
// error of the peer costs Limits.CostError, an error of the handler
// Limits.CostHandlerError. A cancellation in a dialect that this side does not speak costs
// little, because the peer means well. Callers must hold s.mu.
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

// addTrafficLocked charges for sent or received bytes. Callers must hold s.mu.
func (cs *costState) addTrafficLocked(bytes int) {
	cs.s.mu.AssertHeld()
	if cs.account == nil {
		return
	}
	// In a group, charging also reveals the cost of the neighbours.
	if cs.unchargedBytes += bytes; cs.account.shared() || float64(cs.unchargedBytes)*cs.s.limits.CostPerByte >= payStep {
		cs.chargeTrafficLocked()
	}
}

// chargeTrafficLocked charges for the uncharged bytes. Callers must hold s.mu.
func (cs *costState) chargeTrafficLocked() {
	cs.s.mu.AssertHeld()
	n := cs.unchargedBytes
	cs.unchargedBytes = 0
	cs.addCostLocked(float64(n) * cs.s.limits.CostPerByte)
}

// refreshThrottleLocked recalculates the throttle. If Options.ExtraCost is set, another
// goroutine calls ExtraCost first, because ExtraCost is user code (I5). Callers must hold
// s.mu.
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
	s.pool.RunTask(s.UpdateCost)
}

// applyThrottleLocked adapts the limits on delays and handlers to the cost. Callers must
// hold s.mu.
func (cs *costState) applyThrottleLocked() {
	s := cs.s
	s.mu.AssertHeld()
	before := s.requests.limit
	cs.throttle.recalculate(s.limits, cs.judgedCostLocked(), cs.extra)
	s.requests.setLimitLocked(cs.target)
	if math.Abs(float64(s.requests.limit-before)) > 1 {
		s.logs.logLaterLocked(slog.LevelInfo, "concurrency changed", slog.Int("handlers before", before), slog.Int("handlers", s.requests.limit),
			slog.Float64("cost", cs.throttle.last))
	}
	if s.trace.CostChanged != nil {
		cost, target := cs.throttle.last, s.requests.limit
		s.pool.RunTask(func() { s.trace.CostChanged(s, cost, target) })
	}
}

// requestDelayLocked returns the delay of the next request at the current cost. Callers
// must hold s.mu.
func (cs *costState) requestDelayLocked() time.Duration {
	cs.s.mu.AssertHeld()
	if cs.fraction == 0 {
		return 0
	}
	cs.refreshThrottleLocked()
	return cs.requestDelay(cs.s.limits)
}

// checkCostLimitLocked schedules closeForCost if the cost is too high now. The check waits
// for a message of the peer. So the reply to the next request tells the peer about the
// limit, and cost that has decayed before does not count. Callers must hold s.mu.
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

// checkStarvedQueueLocked handles a queue that no worker can empty because of the cost.
// Callers must hold s.mu.
func (cs *costState) checkStarvedQueueLocked() {
	s := cs.s
	s.mu.AssertHeld()
	switch {
	case cs.account == nil || cs.target > 0 || s.requests.count == 0:
	case s.life.state >= stateClosing:
		s.requests.discardQueueLocked(false) // queued entries would delay the end
	default:
		cs.checkCostLimitLocked()
	}
}

// costErrorLocked returns a CostError for the current cost. Callers must hold s.mu.
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

// excessiveErrorLocked returns the error that answers requests when the cost is too high.
// Callers must hold s.mu.
func (cs *costState) excessiveErrorLocked() *Error {
	cs.s.mu.AssertHeld()
	e := ExcessiveResourceUsage()
	if cost := cs.costErrorLocked(); cost.RetryAfter > 0 && !cs.s.limits.HideCost {
		e.Data = cost
	}
	return e
}

// requestsToAnswerLocked returns the requests outside the queue that closeForCost has to
// answer: delayed requests, and running members of batches. Without replies to running
// members, the replies of the whole batch would never leave. Callers must hold s.mu.
func (cs *costState) requestsToAnswerLocked() []*peerRequest {
	cs.s.mu.AssertHeld()
	return slices.DeleteFunc(cs.s.requests.runningRequestsLocked(), func(c *peerRequest) bool { return !c.delayed && c.parentBatch() == nil || c.IsNotification() })
}

// closeForCost answers the open requests with an error, and ends the session because of
// the cost.
func (cs *costState) closeForCost() {
	s := cs.s
	s.lock()
	why := cs.costErrorLocked()
	level, by := slog.LevelInfo, slog.String("by", "ErrExcessiveCost")
	if why.Limit > 0 {
		by = limitAttr("Limits.CostHard", slog.Float64("cost", why.Limit))
		if s.load == &noServer || s.load.warned.CompareAndSwap(false, true) {
			level = slog.LevelWarn // once per server: a busy server may end many sessions
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
	s.effects.setFlag(&s.effects.hasErrors) // even without replies: finishSendingErrors ends the session
	s.unlock()
}

// peerErrors is the state of a session for Limits.PeerErrors.
type peerErrors struct {
	budget
	last     *badMessage // nil if no bad message came while a call was pending
	exceeded bool
}

// Weights of the peer's errors for Limits.PeerErrors.
const (
	wholeError = 10
	tenthError = 1 // a request whose method or params are wrong

	// errorBytes is the number of bytes of a bad message that count as one more error,
	// because this side had to read the bytes.
	errorBytes = 10_000
)

// countPeerErrorBytesLocked counts the bytes of a bad message as further errors of the
// given weight. Callers must hold s.mu.
func (cs *costState) countPeerErrorBytesLocked(weight float64, bytes int) {
	cs.s.mu.AssertHeld()
	if bytes >= errorBytes {
		cs.countPeerErrorLocked(weight * float64(bytes/errorBytes))
	}
}

// countPeerErrorLocked counts an error of the peer. If the errors are too frequent, the
// session ends. Callers must hold s.mu.
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
