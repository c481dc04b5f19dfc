package natsrpcx

import (
	"strconv"
	"strings"
	"time"
)

// replyMark is in the subject of the reply to each request of this package. Before it is
// the inbox of the sender. After it are three numbers to the base 36:
//
//	_INBOX.kL6e.rpcx.<number of the request>.<time of sending>.<time left>
//
// The time of sending is in milliseconds on a clock of the sender, which may begin at any
// time. The time left until the deadline is in milliseconds, or 0 without a deadline. In
// the subject, the times cost neither sender nor receiver a header.
const replyMark = ".rpcx."

// appendReplySubject appends the reply subject of request n.
func appendReplySubject(dst []byte, inbox string, n uint64, sent, left time.Duration) []byte {
	dst = append(append(dst, inbox...), replyMark...)
	dst = append(strconv.AppendUint(dst, n, 36), '.')
	dst = append(strconv.AppendInt(dst, sent.Milliseconds(), 36), '.')
	left = min(left, maxTime*time.Millisecond) // a deadline further away comes to the same
	return strconv.AppendInt(dst, int64((left+time.Millisecond-1)/time.Millisecond), 36)
}

// maxTime bounds the times in a reply subject, so that sums cannot overflow.
const maxTime = 1 << 40 // milliseconds, over 30 years

// replySubject is a parsed reply subject.
type replySubject struct {
	inbox      string // of the sender
	n          uint64
	sent, left time.Duration
}

// parseReplySubject parses a reply subject. If the subject is malformed, ok is false, as
// for a request of another program.
func parseReplySubject(subject string) (r replySubject, ok bool) {
	inbox, numbers, ok := strings.Cut(subject, replyMark)
	if !ok {
		return replySubject{}, false
	}
	number, times, _ := strings.Cut(numbers, ".")
	sentText, leftText, _ := strings.Cut(times, ".")
	n, err := strconv.ParseUint(number, 36, 64)
	sent, sentOK := parseTime(sentText)
	left, leftOK := parseTime(leftText)
	return replySubject{inbox, n, sent, left}, err == nil && sentOK && leftOK
}

func parseTime(text string) (time.Duration, bool) {
	ms, err := strconv.ParseUint(text, 36, 64)
	return time.Duration(ms) * time.Millisecond, err == nil && ms <= maxTime
}
