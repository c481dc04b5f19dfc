//go:build solaris || aix

package rpcx

// lockFolder is for systems without flock(2).
func lockFolder(string) (unlock func()) { return func() {} }
