package rpcx

import (
	"bufio"
	"fmt"
)

// A Framer finds messages in a byte stream, and frames outgoing ones. It is
// immutable and may be shared by any number of sessions; what is particular to
// one connection (how far it has been read, whether it is out of step) lives
// in the splitter.
type Framer interface {
	// NewSplitter returns a function that splits the stream of one connection
	// into messages, with the contract of [bufio.SplitFunc] and these additions:
	// it is called with the bytes that were not yet consumed, so it starts with
	// the same bytes again if it asked for more; its work is linear in the bytes,
	// however they arrive; a nil token is no message, an empty one is; and it may
	// return an error together with what to advance by. If that is a recoverable
	// [*FrameError] the session counts it and goes on, any other error ends it.
	// The token may share data's memory: it is used up before the next call.
	NewSplitter() bufio.SplitFunc

	// AppendFrame appends msg with its framing to dst and returns the extended
	// slice. It fails if msg cannot be framed, with dst as it was.
	AppendFrame(dst, msg []byte) ([]byte, error)
}

// A SizeLimiter is a [Framer] or a [MessageConn] that takes messages up to a size.
// The session sends no message that is larger, and Limits.Response is that size by
// default. The framers of this package are all SizeLimiters.
//
// If it has a method MaxMessageField() string, errors name the limit as that returns
// it: "NewlineFramer.MaxSize".
type SizeLimiter interface {
	// MaxMessage returns the size of the largest message, in bytes without framing;
	// [math.MaxInt] if there is no limit. It is called when a session starts.
	MaxMessage() int
}

// maxMessage returns the size of the largest message that v, a Framer or a MessageConn,
// takes, 0 if v does not tell.
func maxMessage(v any) int {
	if l, ok := v.(SizeLimiter); ok {
		return max(0, l.MaxMessage())
	}
	return 0
}

// checkSize returns an error if msg is larger than limit, the maxMessage of v.
func checkSize(v any, limit int, msg []byte) error {
	if limit == 0 || len(msg) <= limit {
		return nil
	}
	if c, ok := v.(interface{ checkSize([]byte) error }); ok {
		return c.checkSize(msg) // in terms of its own
	}
	return &SizeError{Size: len(msg), Limit: limit, Field: maxMessageField(v)}
}

// maxMessageField returns the name of the field that sets the maxMessage of v.
func maxMessageField(v any) string {
	if l, ok := v.(interface{ MaxMessageField() string }); ok {
		return l.MaxMessageField()
	}
	return fmt.Sprintf("%T.MaxMessage", v)
}

// A MessageConn is a connection that keeps messages apart by itself, as a
// WebSocket does. See [NewMessageSession]. If it has a method NetConn, as
// [crypto/tls.Conn] has, that returns the connection under it, for
// [Session.NetConn] and [Session.RemoteAddr].
//
// One that drops messages, or takes memory for one before it has come in whole,
// should be a [PartReader], too; one that writes a message in parts, a [PartWriter]; one
// that can tell its peer why it is closed, a [CloserWithError].
type MessageConn interface {
	// ReadMessage returns the next message. The slice belongs to the
	// connection, and is valid until the next call. A recoverable [*FrameError]
	// reports a message that was dropped; any other error ends the session,
	// io.EOF if the peer closed the connection in order. If a message was dropped
	// that is too large, and it does not show who waits for an answer to it, the
	// session of a [CloserWithError] ends with that FrameError.
	ReadMessage() ([]byte, error)
	// WriteMessages writes the messages in order; it does not keep them.
	WriteMessages(msgs [][]byte) error
	// Close closes the connection, and unblocks the other two methods. It may
	// take leave of the peer before, if nothing is being written.
	Close() error
}

// A CloserWithError is a [MessageConn] that can tell its peer why the session ends, as a
// WebSocket does with a code.
type CloserWithError interface {
	// CloseWithError closes the connection as Close does, in place of which the session
	// calls it, once. err is why the session ends, as [Session.Err] has it, and is for
	// this side: what of it the peer is told is up to the connection.
	//
	//	ErrClosed         Close or Shutdown of the session, or ReplyAndDisconnect
	//	ErrServerClosed   Shutdown or Close of its server (Session.Err is ErrClosed)
	//	*CostError        the session cost too much
	//	ErrIdle           nothing was going on
	//	ErrSlowPeer       the peer does not read
	//	ErrFaultyPeer     the peer sends too much that is wrong
	//	*FrameError       what ReadMessage or a PartReader's part has returned
	//	*ProtocolError    a message that cannot be answered
	//	*Error            CodeServerBusy: the server had no room for the session, which
	//	                  was not started
	//	any other         of the connection itself
	//
	// If the session ends to make room on its server, err matches ErrServerFull as well.
	//
	// It may wait for the peer, but for no more than a moment: [Session.Close] does not
	// wait for it, and Done does.
	CloseWithError(err error) error
}

// A PartReader is a [MessageConn] that tells of messages before they have come in
// whole, for Limits.IdleTimeout and Server.MaxQueuedBytes, and has what it drops
// charged. Received is called on the goroutine that calls ReadMessage.
type PartReader interface {
	MessageConn
	// Received returns how many bytes have come in, with those of messages that were
	// dropped, and with whatever else the peer has sent.
	Received() uint64
	// OnPart is called once, before anything is read. While a message comes in, or is
	// dropped, ReadMessage calls part after each part of it, with the size of the
	// buffer that it is about to hold, 0 if that is not over 8 KiB; and with 0 when it
	// has given a larger one back. What the connection holds as long as it lives is added
	// to each size, and an optional method KeptBytes() int says how much that is. While anything else comes in, part is called at times, with the last
	// size again. If part fails ReadMessage returns its error.
	OnPart(part func(size int) error)
}

// A PartWriter is a [MessageConn] that writes a large message in parts and tells of
// each, so that Limits.SendTimeout is for a part and not for the whole message.
type PartWriter interface {
	MessageConn
	// OnWritten is called once, before anything is written. WriteMessages calls written
	// when it has written a part of a message, on its own goroutine.
	OnWritten(written func())
}
