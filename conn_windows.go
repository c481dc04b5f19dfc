package rpcx

import "syscall"

// Errors of AcceptEx, and of setting up accepted connections. (No call returns the
// constants with Unix names, such as syscall.ENOBUFS.)
const (
	errNotEnoughMemory = syscall.Errno(8)
	wsaEBADF           = syscall.Errno(10009)
	wsaEINVAL          = syscall.Errno(10022)
	wsaEMFILE          = syscall.Errno(10024)
	wsaENOTSOCK        = syscall.Errno(10038)
	wsaENETDOWN        = syscall.Errno(10050)
	wsaENETUNREACH     = syscall.Errno(10051)
	wsaECONNABORTED    = syscall.Errno(10053)
	wsaECONNRESET      = syscall.Errno(10054)
	wsaENOBUFS         = syscall.Errno(10055)
	wsaEHOSTDOWN       = syscall.Errno(10064)
	wsaEHOSTUNREACH    = syscall.Errno(10065)
)

func init() {
	temporaryAcceptErrors = append(temporaryAcceptErrors,
		wsaECONNABORTED, wsaECONNRESET, wsaENETDOWN, wsaENETUNREACH, wsaEHOSTDOWN, wsaEHOSTUNREACH,
		wsaEMFILE, wsaENOBUFS, errNotEnoughMemory)
	hangUpErrors = append(hangUpErrors, wsaECONNABORTED, wsaECONNRESET)
	lostListenerErrors = append(lostListenerErrors, wsaEBADF, wsaEINVAL, wsaENOTSOCK)
}
