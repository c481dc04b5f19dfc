package rpcx

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// The sorting of notifications. The methods of Options.Correlations, and of each stream so
// far, are known. The reader gives a notification of a known method to the queues of its id,
// under the lock and in the order in which replies are matched:
//
//	receiveMessage → takeNews: the key of the id is found, the params are copied
//	handOverDecoded → sortNewsLocked: route.deliverLocked → streamQueue.push, or keepLocked
//
// The key is the id in canonical form, or the positional params without the last. A
// notification without an id is handled like any other.
//
// A route is where the notifications of a key go. Its life, by the form of the subscription:
//
//	the id is               entered                            removed
//	in the reply            with the reply                     when the unsubscribing call is answered
//	a token, with reply     before the call is sent            when the unsubscribing call is answered
//	the params              before the call is sent            when the unsubscribing call is answered
//	a token, or the call's  before the call is sent            with the reply
//	of the peer             by StreamOf                        by Close
//
// Without Unsubscribe, a route is removed with its last queue. From then on, notifications
// of the key are unknown.

const (
	maxKeptNews      = 64      // notifications with an unknown id
	maxKeptNewsBytes = 1 << 20 // their size
	keptNewsTime     = time.Second
	maxReplyID       = 4 << 10 // bytes of an id in a reply
)

// sessionStreams is the part of a session that sorts notifications. Sessions without
// Options.Correlations have none until the first stream.
type sessionStreams struct {
	s     *Session
	known atomic.Pointer[map[string]*newsMethod] // replaced under the session's lock; the map does not change

	// Guarded by the session's lock.
	routes    map[*route]struct{}
	kept      []keptNews    // in the order of arrival
	keptBytes int           // size of kept
	givenUp   []givenUpCall // the oldest first
	lastToken uint64
	full      []*streamQueue // of CallProgress
	listening int            // pending calls that Shutdown does not wait for
	ended     bool           // nothing is sorted any more
}

// newsMethod is a known method. Only routes changes, under the session's lock.
type newsMethod struct {
	name     string
	idPaths  [][]string
	byParams bool // a form has no id
	routes   map[string]*route
}

// receivedNews is a notification of a known method, before the hand-over.
type receivedNews struct {
	method           *newsMethod
	keyStart, keyEnd int    // of the key, in decodedInput.newsKeys
	params           []byte // in decodedInput.newsBytes
	replies          int    // number of replies that came before, since the last hand-over
	again            bool   // the notification before, with another key of another form
}

// keptNews is a notification with an unknown id.
type keptNews struct {
	method string
	key    string
	params []byte
	at     time.Duration // of the arrival
	missed uint64        // number of earlier ones with the same key that were dropped
}

func (k *keptNews) size() int { return len(k.key) + len(k.params) }

// route is where the notifications of a key go. The session's lock guards the fields.
type route struct {
	key        string
	tables     []map[string]*route // of its methods
	form       *Correlation
	params     any             // of the unsubscribing call
	queues     []*streamQueue  // nil or closed: notifications are dropped
	call       *pendingMessage // whose reply ends the subscription; nil if none
	pending    int             // subscribing calls without a reply
	subscribed bool            // the peer has confirmed, and no unsubscribing call was sent since
	unsent     bool            // the unsubscribing call has no reply
	waiters    []chan struct{} // wait for the reply to the unsubscribing call
}

// initStreams begins the sorting, if forms have methods.
func (s *Session) initStreams(forms []*Correlation) {
	s.correlations = forms
	if !slices.ContainsFunc(forms, func(c *Correlation) bool { return len(c.Methods) > 0 }) || s.exchange() != nil {
		return
	}
	ss := s.useStreams()
	s.lock()
	for _, form := range forms {
		ss.learnLocked(form, "")
	}
	s.unlock()
}

// useStreams returns the part that sorts notifications, and makes it on first use.
func (s *Session) useStreams() *sessionStreams {
	if ss := s.streams.Load(); ss != nil {
		return ss
	}
	ss := &sessionStreams{s: s, routes: make(map[*route]struct{})}
	ss.known.Store(new(map[string]*newsMethod))
	s.streams.CompareAndSwap(nil, ss)
	return s.streams.Load()
}

// hasStreamsLocked reports whether notifications of the peer are awaited. Callers must hold
// s.mu.
func (s *Session) hasStreamsLocked() bool {
	s.mu.AssertHeld()
	ss := s.streams.Load()
	return ss != nil && len(ss.routes) > 0
}

// keptNewsBytesLocked returns the size of the notifications with unknown ids. Callers must
// hold s.mu.
func (s *Session) keptNewsBytesLocked() int {
	s.mu.AssertHeld()
	ss := s.streams.Load()
	if ss == nil {
		return 0
	}
	return ss.keptBytes + requestOverhead*len(ss.kept)
}

// listeningCallsLocked returns the number of pending calls that last as long as a stream, and
// that Shutdown does not wait for. Callers must hold s.mu.
func (s *Session) listeningCallsLocked() int {
	s.mu.AssertHeld()
	ss := s.streams.Load()
	if ss == nil {
		return 0
	}
	return ss.listening
}

// learnLocked makes the methods of form known. method is that of the subscribing call. It
// returns the methods. Callers must hold s.mu.
func (ss *sessionStreams) learnLocked(form *Correlation, method string) []*newsMethod {
	ss.s.mu.AssertHeld()
	names := form.methodsOf(method)
	methods := make([]*newsMethod, 0, len(names))
	known := *ss.known.Load()
	for _, name := range names {
		m := known[name]
		if m == nil || !m.fits(form) {
			next := newsMethod{name: name, routes: make(map[string]*route)}
			if m != nil {
				next = *m
			}
			if form.isByParams() {
				next.byParams = true
			} else {
				next.idPaths = append(slices.Clip(next.idPaths), form.ID)
			}
			known = maps.Clone(known)
			if known == nil {
				known = make(map[string]*newsMethod)
			}
			m = &next
			known[name] = m
		}
		methods = append(methods, m)
	}
	ss.known.Store(&known)
	return methods
}

// fits reports whether the key of form is found in notifications of m.
func (m *newsMethod) fits(form *Correlation) bool {
	if form.isByParams() {
		return m.byParams
	}
	return slices.ContainsFunc(m.idPaths, func(path []string) bool { return slices.Equal(path, form.ID) })
}

// takeNews adds a notification to in, if its method is known and it has an id.
func (r *reader) takeNews(in *decodedInput, item *Item) bool {
	ss := r.s.streams.Load()
	if ss == nil {
		return false
	}
	m := (*ss.known.Load())[item.Method]
	if m == nil {
		return false
	}
	found := false
	for _, path := range m.idPaths { // more than one only if the forms of a method differ
		if id := findPath(item.Params.Named, path); isStreamID(id) {
			start := len(in.newsKeys)
			in.newsKeys = appendCanonical(in.newsKeys, id)
			in.addNews(m, start, item.Params.Named, found)
			found = true
		}
	}
	if m.byParams && !found && item.Params.Positional != nil {
		start := len(in.newsKeys)
		if in.newsKeys, found = appendParamsKey(in.newsKeys, item.Params.Positional, true); found {
			in.addNews(m, start, item.Params.Positional, false)
		}
	}
	return found
}

// addNews adds a notification whose key is in.newsKeys[keyStart:]. If again is set, the
// notification is the one before, with another key.
func (in *decodedInput) addNews(m *newsMethod, keyStart int, params []byte, again bool) {
	if again {
		params = in.news[len(in.news)-1].params
	} else {
		in.newsBytes.grow(len(params))
		params = in.newsBytes.appendCopy(params)
	}
	in.news = append(in.news, receivedNews{m, keyStart, len(in.newsKeys), params, len(in.replies), again})
}

// takeNewsOfBatch moves notifications for streams from m, a batch of requests, to in.
func (r *reader) takeNewsOfBatch(in *decodedInput, m *Message) {
	if r.s.streams.Load() == nil {
		return
	}
	kept := 0
	for i := range m.Items {
		if m.Items[i].Kind == KindNotification && r.takeNews(in, &m.Items[i]) {
			continue
		}
		m.Items[kept] = m.Items[i]
		if i < len(m.texts) {
			m.texts[kept] = m.texts[i]
		}
		kept++
	}
	clear(m.Items[kept:])
	m.Items, m.texts = m.Items[:kept], m.texts[:min(kept, len(m.texts))]
}

// recycleNews clears the news after the hand-over.
func (in *decodedInput) recycleNews() {
	clear(in.news)
	in.news, in.newsKeys, in.newsBytes = in.news[:0], in.newsKeys[:0], nil
	if cap(in.news) > 4*maxDecodedMessages {
		in.news = nil
	}
	if cap(in.newsKeys) > maxReplyID {
		in.newsKeys = nil
	}
}

// sortNewsLocked gives the news from index from on to their queues, as far as they came
// before the reply with the given index. It returns the index of the next. Callers must hold
// s.mu.
func (ss *sessionStreams) sortNewsLocked(in *decodedInput, from, reply int, now time.Duration) int {
	ss.s.mu.AssertHeld()
	for from < len(in.news) && in.news[from].replies <= reply && !ss.ended {
		first, delivered := from, false
		for ; from < len(in.news) && (from == first || in.news[from].again); from++ {
			n := &in.news[from]
			if r := n.method.routes[string(in.newsKeys[n.keyStart:n.keyEnd])]; r != nil && !delivered && !r.waitsForFirstLocked(ss.s) {
				ss.deliverLocked(r, n.params, now)
				delivered = true
			}
		}
		ss.s.stats.News++
		if n := &in.news[first]; !delivered {
			ss.keepLocked(n, in.newsKeys[n.keyStart:n.keyEnd], now)
		}
	}
	return from
}

// waitsForFirstLocked reports whether the notifications before the first reply are to be kept.
// If the reply is a value, it is later than these, and replaces them. Callers must hold s.mu.
func (r *route) waitsForFirstLocked(s *Session) bool {
	s.mu.AssertHeld()
	return len(r.queues) == 0 && r.pending > 0 && !r.form.Current
}

// deliverLocked gives a notification to the queues of r. Callers must hold s.mu.
func (ss *sessionStreams) deliverLocked(r *route, params []byte, now time.Duration) {
	s := ss.s
	s.mu.AssertHeld()
	if m := r.call; m != nil && m.deadline.owner != nil {
		s.calls.timeouts.removeDeadline(&m.deadline) // progress begins the timeout anew
		s.calls.startCallTimeoutLocked(m, now)
	}
	if path := r.form.Error; len(path) > 0 {
		if reason := findPath(params, path); reason != nil && string(reason) != "null" {
			ss.endByPeerLocked(r, reason)
			return
		}
	}
	for _, q := range slices.Clone(r.queues) { // an ended queue leaves r.queues
		switch {
		case q.progress != nil:
			ss.deliverProgressLocked(q, params)
		case !q.push(queuedNews{data: params}):
			q.finish(ErrSlowReader, false) // before detachLocked, which may end a call with another reason
			ss.detachLocked(q)
		}
	}
}

// endByPeerLocked ends the streams of r, because the peer has ended the subscription.
// Callers must hold s.mu.
func (ss *sessionStreams) endByPeerLocked(r *route, reason []byte) {
	ss.s.mu.AssertHeld()
	r.subscribed = false
	for _, q := range slices.Clone(r.queues) {
		q.finish(&PeerEndError{bytes.Clone(reason)}, false)
		ss.detachLocked(q)
	}
}

// keepLocked keeps a notification with an unknown id for keptNewsTime. Callers must hold
// s.mu.
func (ss *sessionStreams) keepLocked(n *receivedNews, key []byte, now time.Duration) {
	s := ss.s
	s.mu.AssertHeld()
	size := len(key) + len(n.params)
	if size > maxKeptNewsBytes || s.load.isOverShare(s.memory.reported) {
		s.stats.Unclaimed++
		return
	}
	for len(ss.kept) >= maxKeptNews || size > maxKeptNewsBytes-ss.keptBytes {
		ss.dropKeptLocked()
	}
	ss.kept = append(ss.kept, keptNews{n.method.name, string(key), n.params, now, 0})
	ss.keptBytes += size
	s.timer.setTimerLocked(now + keptNewsTime)
}

// dropKeptLocked drops the oldest kept notification. The next one with the same key records
// the loss. Callers must hold s.mu.
func (ss *sessionStreams) dropKeptLocked() {
	ss.s.mu.AssertHeld()
	oldest := ss.kept[0]
	ss.kept = slices.Delete(ss.kept, 0, 1)
	ss.keptBytes -= oldest.size()
	ss.s.stats.Unclaimed++
	for i := range ss.kept {
		if next := &ss.kept[i]; next.key == oldest.key && next.method == oldest.method {
			next.missed += oldest.missed + 1
			break
		}
	}
}

// checkKeptLocked drops notifications that were kept for keptNewsTime. The session's timer
// calls checkKeptLocked. Callers must hold s.mu.
func (ss *sessionStreams) checkKeptLocked(now time.Duration) {
	ss.s.mu.AssertHeld()
	for len(ss.kept) > 0 && ss.kept[0].at+keptNewsTime <= now {
		ss.dropKeptLocked()
	}
	if len(ss.kept) > 0 {
		ss.s.timer.setTimerLocked(ss.kept[0].at + keptNewsTime)
	} else {
		ss.kept = nil
	}
}

// claimKeptLocked removes the kept notifications of r, and gives them to the queues of r.
// Callers must hold s.mu.
func (ss *sessionStreams) claimKeptLocked(r *route, methods []*newsMethod, now time.Duration) {
	ss.s.mu.AssertHeld()
	for _, k := range ss.takeKeptLocked(r, methods) {
		for _, q := range r.queues {
			q.addDropped(k.missed)
		}
		ss.deliverLocked(r, k.params, now)
	}
}

// dropOlderLocked drops the kept notifications of r, which came before the subscribing call.
// Callers must hold s.mu.
func (ss *sessionStreams) dropOlderLocked(r *route, methods []*newsMethod) {
	ss.s.mu.AssertHeld()
	ss.s.stats.Unclaimed += uint64(len(ss.takeKeptLocked(r, methods)))
}

// takeKeptLocked removes and returns the kept notifications of r. Callers must hold s.mu.
func (ss *sessionStreams) takeKeptLocked(r *route, methods []*newsMethod) (mine []keptNews) {
	ss.s.mu.AssertHeld()
	if len(ss.kept) == 0 {
		return nil
	}
	ss.kept = slices.DeleteFunc(ss.kept, func(k keptNews) bool {
		isMine := k.key == r.key && slices.ContainsFunc(methods, func(m *newsMethod) bool { return m.name == k.method })
		if isMine {
			mine = append(mine, k)
			ss.keptBytes -= k.size()
		}
		return isMine
	})
	return mine
}

// enterLocked returns the route of key, and makes it if there is none. isNew reports which.
// Callers must hold s.mu.
func (ss *sessionStreams) enterLocked(form *Correlation, methods []*newsMethod, key string) (r *route, isNew bool) {
	ss.s.mu.AssertHeld()
	for _, m := range methods {
		if r := m.routes[key]; r != nil {
			return r, false
		}
	}
	r = &route{key: key, form: form}
	for _, m := range methods {
		r.tables = append(r.tables, m.routes)
		m.routes[key] = r
	}
	ss.routes[r] = struct{}{}
	ss.s.reader.fillVacancyLocked() // from now on a goroutine waits for the peer
	return r, true
}

// attachLocked makes r deliver to q. Callers must hold s.mu.
func (ss *sessionStreams) attachLocked(r *route, q *streamQueue) {
	ss.s.mu.AssertHeld()
	q.route = r
	r.queues = append(r.queues, q)
}

// detachLocked ends the delivery to q, and unsubscribes if q was the last. Callers must hold
// s.mu.
func (ss *sessionStreams) detachLocked(q *streamQueue) {
	ss.s.mu.AssertHeld()
	r := q.route
	q.route = nil
	if r == nil {
		return
	}
	r.queues = slices.DeleteFunc(r.queues, func(other *streamQueue) bool { return other == q })
	ss.leaveFullLocked(q)
	if m := r.call; m != nil && len(r.queues) == 0 {
		ss.s.calls.abandonMessageLocked(m, ErrCancelled) // nothing if the reply has ended the call
	}
	ss.endUnusedLocked(r)
}

// endUnusedLocked unsubscribes, or removes r, if nobody needs r. Callers must hold s.mu.
func (ss *sessionStreams) endUnusedLocked(r *route) {
	s := ss.s
	s.mu.AssertHeld()
	if _, entered := ss.routes[r]; !entered || len(r.queues) > 0 || r.pending > 0 || r.unsent {
		return
	}
	if r.subscribed && r.form.Unsubscribe != "" && s.life.state < stateClosing {
		r.subscribed, r.unsent = false, true
		params := r.params
		s.pool.RunTask(func() { ss.unsubscribe(r, params) })
		return
	}
	for _, table := range r.tables {
		delete(table, r.key)
	}
	delete(ss.routes, r)
	r.wakeWaiters()
}

// wakeWaiters wakes the goroutines in awaitUnsubscribed.
func (r *route) wakeWaiters() {
	for _, waiter := range r.waiters {
		close(waiter)
	}
	r.waiters = nil
}

// unsubscribe makes the unsubscribing call of r.
func (ss *sessionStreams) unsubscribe(r *route, params any) {
	s := ss.s
	call := &streamCall{ss: ss, kind: callUnsubscribes, route: r}
	c := s.pool.takeCall(s, r.form.Unsubscribe) // not returned to the pool: nobody waits for the end
	c.message.stream = call
	if err := s.sendCall(context.Background(), &c.message, params, nil); err != nil {
		call.finishUnsent(err)
	}
}

// endLocked ends all streams with the session, for the given cause. Callers must hold s.mu.
func (ss *sessionStreams) endLocked(cause error) {
	ss.s.mu.AssertHeld()
	if ss.ended {
		return
	}
	ss.ended = true
	err := &ConnectionError{Written: true, Err: cause, isStream: true}
	for r := range ss.routes {
		for _, q := range r.queues {
			q.route = nil
			q.finish(err, false)
		}
		for _, table := range r.tables {
			delete(table, r.key)
		}
		r.queues, r.call, r.unsent, r.subscribed = nil, nil, false, false
		r.wakeWaiters()
	}
	clear(ss.routes)
	ss.s.stats.Unclaimed += uint64(len(ss.kept))
	ss.kept, ss.keptBytes, ss.givenUp, ss.full = nil, 0, nil, nil
}
