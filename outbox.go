package rpcx

// closedError is ErrClosed, with the reason for the end if it is another.
func (s *Session) closedError() error {
	switch cause := s.cause.(type) {
	case nil:
		return ErrClosed
	case *closedError, *contextClosed: // ErrClosed, and what wraps it
		return cause
	}
	return &endedError{s.cause}
}

// endedError is the error of what is asked of a session that has ended.
type endedError struct{ cause error }

func (e *endedError) Error() string   { return ErrClosed.Error() + ": " + trimPrefix(e.cause) }
func (e *endedError) Unwrap() []error { return []error{ErrClosed, ErrConnectionLost, e.cause} }
