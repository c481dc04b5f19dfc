//go:build !unix || solaris || aix

package folderlock

import "time"

// Lock does nothing on systems without flock(2).
func Lock(string, time.Duration) (unlock func()) { return func() {} }
