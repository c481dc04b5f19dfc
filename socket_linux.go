package rpcx

import "syscall"

func init() {
	acceptErrors = append(acceptErrors,
		syscall.ENONET, syscall.ENOSR, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT)
}
