package bounded

import (
	"math"
	"strconv"
)

// LimitOr resolves a limit: 0 means the default, and a negative number no limit.
func LimitOr(n, byDefault int) int {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return math.MaxInt
	}
	return n
}

// Over describes an exceeded limit, in the common form of all errors: "over 1,000 bytes
// (NewlineFramer.MaxSize)".
func Over(limit int, unit, field string) string {
	return "over " + Thousands(limit) + " " + unit + " (" + field + ")"
}

// Thousands formats n with commas between thousands.
func Thousands(n int) string {
	s := strconv.Itoa(n)
	first := 0
	if n < 0 {
		first = 1
	}
	for i := len(s) - 3; i > first; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
