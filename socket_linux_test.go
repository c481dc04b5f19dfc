package rpcx_test

import (
	"syscall"
	"testing"
)

func TestErrorsOfLinuxThatPass(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENONET, syscall.ENOSR, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveSurvives(t, err) })
		}
	}
}
