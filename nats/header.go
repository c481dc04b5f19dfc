package natsrpcx

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// Headers of this package.
const (
	// notStartedHeader marks a reply that says that the request was not started. The value
	// is the reason.
	notStartedHeader = "Rpcx-Not-Started"
	// ownHeaders is the beginning of the names of this package's headers.
	ownHeaders = "Rpcx-"

	statusHeader = "Status" // of NATS
	noResponders = "503"    // nobody has subscribed to the subject
)

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
