//go:build !unix

package rpcx

import (
	"io"
	"os"
)

// standardOutput is for systems without SIGPIPE.
func standardOutput(stdout *os.File) io.WriteCloser { return stdout }
