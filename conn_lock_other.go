//go:build solaris || aix

package rpcx

// lockFolder does nothing on systems without flock(2).
func lockFolder(string) (unlock func()) { return func() {} }
