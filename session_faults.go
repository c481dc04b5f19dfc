package rpcx

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/jsonscan"
)

// countReceivedLocked counts newly received bytes and charges for them. Callers must hold
// s.mu and be the reader.
func (r *reader) countReceivedLocked() {
	s := r.s
	s.mu.AssertHeld()
	received := s.conn.receivedBytes()
	s.cost.addTrafficLocked(int(received - s.stats.BytesReceived))
	s.stats.BytesReceived = received
}

// countBadMessageLocked counts, charges and logs a bad message. Callers must hold s.mu.
func (r *reader) countBadMessageLocked(err error, more ...slog.Attr) {
	r.s.mu.AssertHeld()
	r.chargeErrorLocked(err)
	r.logBadMessageLocked(err, more...)
}

// chargeErrorLocked counts an error and charges for it. Callers must hold s.mu.
func (r *reader) chargeErrorLocked(err error) {
	s := r.s
	s.mu.AssertHeld()
	s.stats.Errors++
	cost := s.limits.CostError
	switch e := err.(type) {
	case *Error:
		cost += e.Cost
	case *FrameError:
		cost += e.Cost
	case *ProtocolError:
		if e.Code == CodeParseError {
			cost += 10 * s.limits.CostError
		}
	}
	s.cost.addCostLocked(cost)
}

// badMessage is the last bad message that arrived while calls were pending.
type badMessage struct {
	err          error
	queuedBefore uint64 // number of messages queued before the arrival
}

// hintedTimeoutError is the error of a call that timed out, with a hint: input since the
// request may have contained the reply.
type hintedTimeoutError struct {
	err   error  // the timeout
	hint  string // before fault
	fault error  // of a bad message; may be nil
}

func (e *hintedTimeoutError) Error() string {
	text := e.err.Error() + "; " + e.hint
	if e.fault != nil {
		text += e.fault.Error() // not earlier, because the method may be a user's (I5)
	}
	return text
}

func (e *hintedTimeoutError) Unwrap() error { return e.err }

// timeoutErrorLocked returns err, the timeout error of the calls of m. If the input meanwhile
// may have contained the reply, the result has a hint. Callers must hold s.mu.
func (pc *pendingCalls) timeoutErrorLocked(m *pendingMessage, err error) error {
	s := pc.s
	s.mu.AssertHeld()
	if like := s.reader.recognizeStalledInputLocked(); like != "" {
		return &hintedTimeoutError{err, stalledInputText + ": it looks like " + like, nil}
	}
	if bad := s.faults.last; bad != nil && m.messageSeq > 0 && m.messageSeq <= bad.queuedBefore {
		return &hintedTimeoutError{err, "a bad message came meanwhile: ", bad.err}
	}
	return err
}

// fixedTextError is an error whose text was asked for without s.mu.
type fixedTextError struct {
	text string
	err  error
}

func (e *fixedTextError) Error() string { return e.text }
func (e *fixedTextError) Unwrap() error { return e.err }

// withFixedText returns err, from a Protocol, for use under s.mu. The method Error of a
// foreign type runs now, and not again (I5).
func withFixedText(err error) error {
	switch err.(type) {
	case *ProtocolError, *Error:
		return err
	}
	return &fixedTextError{bounded.Text(err.Error()), err}
}

// countItemFaultLocked counts the nth fault of a message. A message is charged as a
// single error, however many faults are in it. Callers must hold s.mu.
func (r *reader) countItemFaultLocked(err error, nth int) {
	r.s.mu.AssertHeld()
	if nth == 1 {
		r.countBadMessageLocked(err)
	} else {
		r.logBadMessageLocked(err)
	}
}

// logBadMessageLocked logs a fault, counts it for Limits.PeerErrors, and keeps it for the
// timeouts of pending calls. Callers must hold s.mu.
func (r *reader) logBadMessageLocked(err error, more ...slog.Attr) {
	s := r.s
	s.mu.AssertHeld()
	s.cost.countPeerErrorLocked(wholeError)
	if s.calls.table.pending > 0 {
		s.faults.last = &badMessage{err, s.writer.queuedMessages}
	}
	if s.trace.BadMessage != nil {
		s.traceLaterLocked(traceEvent{kind: eventBadMessage, err: err})
	}
	s.logs.logPeerLaterLocked(slog.LevelWarn, "bad message", append(more, slog.Any("error", err))...)
}

// receiveInvalid answers msg, which is no valid request. If the first message is not JSON
// and is recognized as something different, the session ends.
func (r *reader) receiveInvalid(item *Item, msg []byte, first bool) {
	s := r.s
	var more []slog.Attr
	foreign := ""
	if item.isNoJSON() { // the error does not describe the input
		_, f := s.conn.unreadInput()
		like := recognizeInput(msg, f.contentFraming(), false)
		if first && like != "" && like != likeValues {
			foreign = like
			item.Err = protocolErrorf(CodeParseError, "%s; the input looks like %s", textNotJSON, like)
		}
		if more = append(more, slog.String("begin", excerpt(msg))); like != "" {
			more = append(more, slog.String("looks like", like))
		}
	}
	answer := r.invalidItemError(item)
	s.lock()
	if r.dropsBadMessagesLocked() {
		s.unlock()
		return
	}
	s.cost.checkCostLimitLocked()
	r.countBadMessageLocked(item.Err, more...)
	s.cost.countPeerErrorBytesLocked(wholeError, len(msg))
	s.effects.replyError(item.ID, answer, fromReader)
	if foreign != "" {
		s.effects.closeSession(&FrameError{Message: "the input looks like " + foreign}, closeGrace)
	}
	s.unlock()
	if foreign != "" {
		r.ignoresInput, r.ignoredFrom = true, s.conn.receivedBytes()
	}
}

// dropsBadMessagesLocked reports whether bad messages are dropped, because the session is
// about to end for its cost. A dropped message counts as an error. The reader may receive
// thousands of messages before the end. Callers must hold s.mu.
func (r *reader) dropsBadMessagesLocked() bool {
	s := r.s
	s.mu.AssertHeld()
	if s.cost.limitExceeded {
		s.stats.Errors++
	}
	return s.cost.limitExceeded
}

// invalidItemError returns the error response for an invalid item.
func (r *reader) invalidItemError(item *Item) *Error {
	if e := wireError(item.Err); e != nil {
		return e
	}
	return r.s.requests.opaqueErrorFor(item.Err)
}

// completeRefusedCallsLocked completes the calls to which an error without an id must
// belong. A peer that cannot read a message, or refuses a whole batch, has no id for the
// answer.
//
// The code of the error must be CodeParseError or CodeInvalidRequest. All pending calls
// must come from the only message sent since the last matched reply. Otherwise
// completeRefusedCallsLocked reports false. Callers must hold s.mu.
func (r *reader) completeRefusedCallsLocked(now time.Duration, err error) bool {
	s := r.s
	s.mu.AssertHeld()
	e, ok := err.(*Error)
	if !ok || e.Code != CodeParseError && e.Code != CodeInvalidRequest || s.writer.queuedMessages-s.calls.lastReplyMark != 1 {
		return false
	}
	calls := s.calls.table.pendingCalls()
	if len(calls) == 0 || slices.ContainsFunc(calls, func(c *pendingCall) bool { return c.message.messageSeq != s.writer.queuedMessages }) {
		return false
	}
	for _, c := range calls {
		s.calls.table.remove(c)
		s.calls.completeCallLocked(c, now, nil, err)
	}
	s.calls.lastReplyMark = s.writer.queuedMessages
	return true
}

// takeCallByStringLocked is callTable.matchReply for a JSON-RPC response whose id is a
// string with a number. If the protocol distinguishes the string from the number, the
// call fails: no other call can be meant, and no better reply will come. Callers must
// hold s.mu.
func (r *reader) takeCallByStringLocked(id ID, err error) (*pendingCall, matchKind, error) {
	s := r.s
	s.mu.AssertHeld()
	p, ok := s.Protocol().(interface{ loose() bool })
	if !ok {
		return nil, unexpected, err
	}
	number, ok := stringNumber(id)
	if !ok {
		return nil, unexpected, err
	}
	c, what := s.calls.table.matchReply(strconv.AppendUint(nil, number, 10))
	if what == matched && !p.loose() {
		err = stringIDError(id, number)
	}
	return c, what, err
}

// stringIDError returns the error for a response with the string id in place of a number.
func stringIDError(id ID, number uint64) error {
	return protocolErrorf(CodeInvalidRequest, "the id of the response is the string %s, not the number %d", excerpt(id), number)
}

// stringNumber returns the number in the id of a response, if the id is a string with a
// number.
func stringNumber(id ID) (uint64, bool) {
	if len(id) == 0 || id[0] != '"' {
		return 0, false
	}
	number := numberIn(id)
	if number == nil {
		return 0, false
	}
	return integralValue(number)
}

// replyFinder is a protocol that finds possible replies among invalid messages and
// members.
type replyFinder interface {
	findReplies(m *Message, msg []byte, maxBatch int) []foundReply
}

// foundReply is an invalid item as a reply, for a call with the same id.
type foundReply struct {
	itemIndex int // index of the invalid item
	Item
}

// takeInvalidReplies completes the calls to which invalid items of a message reply, and
// returns the other items. Otherwise these calls would wait in vain.
//
// An item without a method is a reply if a call of ours has the same id. Beside a valid
// item no item is a reply, because the message is then a batch of requests.
func (r *reader) takeInvalidReplies(in *decodedInput, p Protocol, m *Message, msg []byte) []Item {
	s := r.s
	finder, ok := p.(replyFinder)
	if !ok || slices.ContainsFunc(m.Items, func(item Item) bool { return item.Kind != KindInvalid }) {
		return m.Items
	}
	s.lock()
	none := s.calls.table.pending == 0 && len(s.calls.table.abandoned) == 0
	s.unlock()
	if none {
		return m.Items
	}
	r.handOverDecoded(in) // first the earlier replies
	found := finder.findReplies(m, msg, s.limits.Batch)
	s.lock()
	found = slices.DeleteFunc(found, func(r foundReply) bool { return !s.calls.table.awaitsReply(r.ID) })
	s.unlock()
	if len(found) == 0 {
		return m.Items
	}
	replies := make([]Item, 0, len(found))
	taken := make([]bool, len(m.Items))
	for _, r := range found {
		replies = append(replies, r.Item)
		taken[r.itemIndex] = true
	}
	r.receiveBatchResponse(replies, m.Batch || firstByte(msg) == '[')
	rest := make([]Item, 0, len(m.Items))
	for i, item := range m.All() {
		if !taken[i] {
			rest = append(rest, *item)
		}
	}
	return rest
}

// byteOrderMark is the byte order mark of UTF-8. Some programs send a byte order mark
// before the first message.
var byteOrderMark = []byte("\ufeff")

// maxBlank is the number of successive blank messages that a session skips.
const maxBlank = 100

// framing is the kind of separation between the messages of a stream.
type framing uint8

const (
	framedOtherwise framing = iota // by a framer of another package, or by a MessageConn
	framedByLines
	framedByValues
	framedByHeaders
	framedByLengths
)

// framingOf returns the framing of f.
func framingOf(f Framer) framing {
	switch f.(type) {
	case NewlineFramer, *NewlineFramer:
		return framedByLines
	case JSONFramer, *JSONFramer:
		return framedByValues
	case HeaderFramer, *HeaderFramer:
		return framedByHeaders
	case LengthFramer, *LengthFramer, BitcoinFramer, *BitcoinFramer:
		return framedByLengths
	}
	return framedOtherwise
}

// contentFraming returns the framing for recognizing a message without its frame.
func (f framing) contentFraming() framing {
	if f == framedByHeaders || f == framedByLengths {
		return framedOtherwise
	}
	return f
}

const (
	// maxRecognized is the maximum number of examined bytes.
	maxRecognized = 64 << 10

	likeValues = "JSON without newlines, as JSONFramer reads"
)

// recognizeInput describes input that is no message under the framing f. If the input is
// not recognized, recognizeInput returns "". ended says that no more input comes.
func recognizeInput(input []byte, f framing, ended bool) string {
	input = input[:min(len(input), maxRecognized)]
	line, _, _ := bytes.Cut(input, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case isHTTP(line):
		return fmt.Sprintf("HTTP (%.60q)", line)
	case hasPrefix(line, "SSH-"):
		return fmt.Sprintf("SSH (%.60q)", line)
	case isGreeting(line):
		return fmt.Sprintf("a server of mail or files (%.60q)", line)
	case isTLSHandshake(input):
		return "a TLS handshake; its sender expects TLS"
	case isTLSAlert(input):
		return "a TLS alert; its sender expects TLS"
	case isUTF16(input, f):
		return "UTF-16; JSON is sent in UTF-8"
	case f != framedByHeaders && (hasPrefix(line, "Content-Length:") || hasPrefix(line, "Content-Type:")):
		return "messages with headers before them, as HeaderFramer reads"
	case f != framedByLengths && f != framedOtherwise && isLength(input):
		return "messages with their lengths before them, as LengthFramer reads"
	case (f == framedByLengths || f == framedByHeaders) && beginsJSON(input):
		return "JSON with nothing before it, as NewlineFramer and JSONFramer read"
	case f == framedByLines && beginsValues(input, ended):
		return likeValues
	}
	return ""
}

// hasPrefix reports whether line begins with prefix, ignoring case.
func hasPrefix(line []byte, prefix string) bool {
	return len(line) >= len(prefix) && bytes.EqualFold(line[:len(prefix)], []byte(prefix))
}

// isHTTP reports whether line is, or begins like, the first line of an HTTP request or
// response.
func isHTTP(line []byte) bool {
	const version = "HTTP/"
	if bytes.HasPrefix(line, []byte(version)) {
		return len(line) > len(version) && line[len(version)]-'0' <= 9
	}
	method, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(method) < 3 || len(method) > 16 {
		return false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	_, last, ok := bytes.Cut(rest, []byte(" "))
	return ok && bytes.HasPrefix(last, []byte(version)) && bytes.IndexByte(last, ' ') < 0
}

// isGreeting reports whether line is the first line of a server of SMTP, FTP, POP3 or IMAP.
func isGreeting(line []byte) bool {
	for _, prefix := range []string{"220 ", "220-", "+OK ", "* OK "} {
		if text, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
			return len(text) > 0 && (isLetter(text[0]) || text[0] == '[')
		}
	}
	return false
}

// isTLSHandshake reports whether input begins with a TLS handshake record, up to TLS 1.3,
// that contains a client hello or server hello.
func isTLSHandshake(input []byte) bool {
	return isTLSRecord(input, 0x16) && input[3] <= 0x40 && (input[5] == 1 || input[5] == 2)
}

// isTLSAlert reports whether input begins with a TLS record of a warning or fatal alert.
func isTLSAlert(input []byte) bool {
	return isTLSRecord(input, 0x15) && input[3] == 0 && input[4] == 2 && (input[5] == 1 || input[5] == 2)
}

func isTLSRecord(input []byte, kind byte) bool {
	return len(input) >= 6 && input[0] == kind && input[1] == 3 && input[2] <= 4
}

// isUTF16 reports whether input begins with a UTF-16 byte order mark, or with JSON in
// UTF-16. Where such JSON could be a length, only the mark counts.
func isUTF16(input []byte, f framing) bool {
	if bytes.HasPrefix(input, []byte("\xff\xfe")) || bytes.HasPrefix(input, []byte("\xfe\xff")) {
		return true
	}
	if len(input) < 4 || f == framedByLengths {
		return false
	}
	a, b, c, d := input[0], input[1], input[2], input[3]
	return (a == '{' || a == '[') && b == 0 && c != 0 && d == 0 ||
		a == 0 && (b == '{' || b == '[') && c == 0 && d != 0
}

// isLength reports whether input begins with a length below 16 MiB, followed by JSON.
func isLength(input []byte) bool {
	return len(input) > lengthSize && input[0] == 0 && (input[lengthSize] == '{' || input[lengthSize] == '[')
}

// beginsJSON reports whether input begins like a JSON message: with an object, an array
// of objects, or an array as Aiomas sends.
func beginsJSON(input []byte) bool {
	input = input[spaces(input):]
	if len(input) < 2 || input[0] != '{' && input[0] != '[' {
		return false
	}
	next := input[1+spaces(input[1:]):]
	switch {
	case len(next) == 0:
		return false
	case input[0] == '{':
		return next[0] == '"' || next[0] == '}'
	}
	return next[0] == '{' || next[0] == ']' || next[0]-'0' <= 9
}

// beginsValues reports whether the first line of input begins with two objects or arrays
// in succession. If the input has ended, a single object or array is enough.
func beginsValues(input []byte, ended bool) bool {
	s := jsonscan.Scanner{Data: input}
	if c := s.Peek(); c != '{' && c != '[' || !s.ScanValue() {
		return false
	}
	end := s.Pos
	switch next := s.Peek(); {
	case bytes.IndexByte(input[end:s.Pos], '\n') >= 0:
		return false
	case s.Pos == len(input):
		return ended
	default:
		return next == '{' || next == '['
	}
}

// explainInput returns err, the error of a failed read. If the input is recognized, the
// error also describes the input. An error in the first recognized input ends the
// session. A message cut off by the end of input is logged.
func (r *reader) explainInput(err error) error {
	s := r.s
	input, f := s.conn.unreadInput()
	frame, bad := errors.AsType[*FrameError](err)
	like := recognizeInput(input, f, !bad)
	switch {
	case bad && like == "", errors.Is(err, ErrServerFull):
		return err
	case bad:
		first := s.stats.MessagesReceived == 0
		return &FrameError{
			Message:     frame.textWithLimit() + "; the input looks like " + like,
			Recoverable: frame.Recoverable && !first,
			Cost:        frame.Cost,
		}
	case like != "":
		err = fmt.Errorf("%w; the input looks like %s", err, like)
	}
	if len(input) == 0 || s.log.Handler() == slog.DiscardHandler {
		return err
	}
	const msg = "the input ended within a message"
	attrs := []slog.Attr{slog.Int("bytes", len(input)), slog.String("begin", excerpt(input)), errorAttr(err)}
	size := recordSize(msg, attrs)
	s.lock()
	defer s.unlock()
	if like != "" || s.life.state < stateClosing {
		s.noteOfSizeLocked(size, slog.LevelWarn, msg, attrs)
	}
	return err
}

// isNoJSON reports whether the item is a message that is not JSON.
func (item *Item) isNoJSON() bool {
	e, ok := item.Err.(*ProtocolError)
	return item.Kind == KindInvalid && ok && e.Code == CodeParseError
}

// passOverBlank reports whether msg is blank and skipped. After maxBlank blank messages
// in succession, the next blank message is a bad message.
func (r *reader) passOverBlank(msg []byte) bool {
	if spaces(msg) < len(msg) || r.blankMessages == maxBlank {
		return false
	}
	r.blankMessages++
	return true
}
