package natsrpcx

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Headers of this package.
const (
	// timeHeader has the time of sending, in milliseconds on a clock of the sender, and then,
	// if the call has a deadline, a blank and the milliseconds until then.
	timeHeader = "Rpcx-Time"
	// notStartedHeader marks a reply that says that the request was not started. The value
	// is the reason.
	notStartedHeader = "Rpcx-Not-Started"
	// ownHeaders is the beginning of the names of this package's headers.
	ownHeaders = "Rpcx-"

	statusHeader = "Status" // of NATS
	noResponders = "503"    // nobody has subscribed to the subject
)

// setTime sets timeHeader. left is the time until the deadline, if limited is set.
func setTime(h nats.Header, sent, left time.Duration, limited bool) {
	b := strconv.AppendInt(make([]byte, 0, 32), sent.Milliseconds(), 10)
	if limited {
		b = append(b, ' ')
		b = strconv.AppendInt(b, int64((left+time.Millisecond-1)/time.Millisecond), 10)
	}
	h[timeHeader] = []string{string(b)}
}

// maxLeft bounds the times in timeHeader, so that sums cannot overflow.
const maxLeft = 1 << 40 // milliseconds, over 30 years

// timeOf returns the times in timeHeader. If the header is missing or malformed, known is
// false, as for a message of another program.
func timeOf(h nats.Header) (sent, left time.Duration, limited, known bool) {
	values := h[timeHeader]
	if len(values) != 1 {
		return 0, 0, false, false
	}
	first, second, limited := strings.Cut(values[0], " ")
	parse := func(text string) time.Duration {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms < 0 || ms > maxLeft {
			known = false
			return 0
		}
		return time.Duration(ms) * time.Millisecond
	}
	known = true
	sent = parse(first)
	if limited {
		left = parse(second)
	}
	return sent, left, limited, known
}

// addHeaders adds values, the result of the function in the named field of Config.
func addHeaders(h nats.Header, values map[string]string, field string) error {
	for name, value := range values {
		if !isHeaderName(name) {
			return fmt.Errorf("natsrpcx: Config.%s has returned a header with the name %q: a name has letters, digits and %q, and begins with neither %q nor \"Nats-\"", field, name, "-", ownHeaders)
		}
		h[name] = []string{printable(value)}
	}
	return nil
}

// isHeaderName reports whether name can be the name of a user's header.
func isHeaderName(name string) bool {
	for _, own := range []string{ownHeaders, "Nats-"} {
		if len(name) >= len(own) && strings.EqualFold(name[:len(own)], own) {
			return false
		}
	}
	return isPlain(name) && !strings.EqualFold(name, statusHeader)
}

// printable returns value with blanks in place of control characters, which could end the
// header.
func printable(value string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, value)
}
